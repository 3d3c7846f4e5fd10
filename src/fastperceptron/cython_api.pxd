# fastperceptron for Cython: `from fastperceptron cimport cython_api`. include/fastperceptron.h tells what each function
# computes, docs/embedding.md how to build. Call cython_api.import_fastperceptron() once in the module, first.
from libc.stdint cimport int64_t


cdef extern from "fastperceptron.h":
    int import_fastperceptron() except -1

    ctypedef struct fastperceptron_predictor:
        pass

    # Lives as long as the object; TypeError for what is not a compiled predictor.
    const fastperceptron_predictor* predictor_of "fastperceptron_predictor_of"(object predictor) except NULL


cdef extern from "fastperceptron.h" nogil:
    # What the functions return.
    enum:
        OK "FASTPERCEPTRON_OK"
        NOT_IMPORTED "FASTPERCEPTRON_NOT_IMPORTED"
        BAD_ARGUMENT "FASTPERCEPTRON_BAD_ARGUMENT"
        WRONG_TYPE "FASTPERCEPTRON_WRONG_TYPE"
        NO_MEMORY "FASTPERCEPTRON_NO_MEMORY"
        FAILED "FASTPERCEPTRON_FAILED"

    # Activations.
    enum:
        LINEAR "FASTPERCEPTRON_LINEAR"
        RELU "FASTPERCEPTRON_RELU"
        LEAKY_RELU "FASTPERCEPTRON_LEAKY_RELU"
        ELU "FASTPERCEPTRON_ELU"
        SELU "FASTPERCEPTRON_SELU"
        GELU "FASTPERCEPTRON_GELU"
        GELU_TANH "FASTPERCEPTRON_GELU_TANH"
        SILU "FASTPERCEPTRON_SILU"
        MISH "FASTPERCEPTRON_MISH"
        SOFTPLUS "FASTPERCEPTRON_SOFTPLUS"
        SOFTSIGN "FASTPERCEPTRON_SOFTSIGN"
        SIGMOID "FASTPERCEPTRON_SIGMOID"
        TANH "FASTPERCEPTRON_TANH"
        STEP "FASTPERCEPTRON_STEP"
        SOFTMAX "FASTPERCEPTRON_SOFTMAX"

    int64_t predictor_inputs "fastperceptron_predictor_inputs"(const fastperceptron_predictor* predictor)
    int64_t predictor_outputs "fastperceptron_predictor_outputs"(const fastperceptron_predictor* predictor)
    int predictor_is_f64 "fastperceptron_predictor_is_f64"(const fastperceptron_predictor* predictor)

    int dense_forward_f32 "fastperceptron_dense_forward_f32"(
        int64_t n, int64_t inputs, int64_t outputs, const float* x, int64_t x_row, const float* w,
        int64_t w_row, const float* b, int activation, float alpha, float* y, int64_t y_row)
    int dense_backward_input_f32 "fastperceptron_dense_backward_input_f32"(
        int64_t n, int64_t inputs, int64_t outputs, const float* dz, int64_t dz_row, const float* w,
        int64_t w_row, float* dx, int64_t dx_row)
    int dense_backward_weights_f32 "fastperceptron_dense_backward_weights_f32"(
        int64_t n, int64_t inputs, int64_t outputs, const float* x, int64_t x_row, const float* dz,
        int64_t dz_row, float* dw, int64_t dw_row)
    int dense_backward_bias_f32 "fastperceptron_dense_backward_bias_f32"(
        int64_t n, int64_t outputs, const float* dz, int64_t dz_row, float* db)
    int activation_forward_f32 "fastperceptron_activation_forward_f32"(
        int activation, float alpha, int64_t n, int64_t width, const float* z, int64_t z_row, float* y,
        int64_t y_row)
    int activation_backward_f32 "fastperceptron_activation_backward_f32"(
        int activation, float alpha, int64_t n, int64_t width, const float* dy, int64_t dy_row,
        const float* saved, int64_t saved_row, float* dz, int64_t dz_row)
    int predictor_run_f32 "fastperceptron_predictor_run_f32"(
        const fastperceptron_predictor* predictor, const float* x, int64_t rows, float* y)
    int dense_forward_f64 "fastperceptron_dense_forward_f64"(
        int64_t n, int64_t inputs, int64_t outputs, const double* x, int64_t x_row, const double* w,
        int64_t w_row, const double* b, int activation, double alpha, double* y, int64_t y_row)
    int dense_backward_input_f64 "fastperceptron_dense_backward_input_f64"(
        int64_t n, int64_t inputs, int64_t outputs, const double* dz, int64_t dz_row, const double* w,
        int64_t w_row, double* dx, int64_t dx_row)
    int dense_backward_weights_f64 "fastperceptron_dense_backward_weights_f64"(
        int64_t n, int64_t inputs, int64_t outputs, const double* x, int64_t x_row, const double* dz,
        int64_t dz_row, double* dw, int64_t dw_row)
    int dense_backward_bias_f64 "fastperceptron_dense_backward_bias_f64"(
        int64_t n, int64_t outputs, const double* dz, int64_t dz_row, double* db)
    int activation_forward_f64 "fastperceptron_activation_forward_f64"(
        int activation, double alpha, int64_t n, int64_t width, const double* z, int64_t z_row, double* y,
        int64_t y_row)
    int activation_backward_f64 "fastperceptron_activation_backward_f64"(
        int activation, double alpha, int64_t n, int64_t width, const double* dy, int64_t dy_row,
        const double* saved, int64_t saved_row, double* dz, int64_t dz_row)
    int predictor_run_f64 "fastperceptron_predictor_run_f64"(
        const fastperceptron_predictor* predictor, const double* x, int64_t rows, double* y)

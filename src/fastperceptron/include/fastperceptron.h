/* fastperceptron's kernels and predictors for C and C++ extensions of Python. Their Cython face is cython_api.pxd; the
 * guide is docs/embedding.md.
 *
 * Compile with -I from fastperceptron.get_include(). Nothing is linked: each source that uses these functions calls
 * import_fastperceptron() once, with the GIL held, before anything else; it returns 0, or -1 with a Python error set.
 * Every other function but fastperceptron_predictor_of works without the GIL and from any number of threads.
 *
 * Every function that computes returns a status; anything but FASTPERCEPTRON_OK means that nothing was written.
 * Row strides ("_row") count elements; columns are contiguous. Suffixes: _f32 for float, _f64 for double. */
#ifndef FASTPERCEPTRON_H
#define FASTPERCEPTRON_H

#ifndef PY_SSIZE_T_CLEAN
#define PY_SSIZE_T_CLEAN
#endif
#include <Python.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when compiled extensions have to be compiled anew. */
#define FASTPERCEPTRON_ABI_VERSION 1

enum {
  FASTPERCEPTRON_OK = 0,
  FASTPERCEPTRON_NOT_IMPORTED = 1, /* import_fastperceptron has not succeeded in this source */
  FASTPERCEPTRON_BAD_ARGUMENT = 2, /* NULL where there are elements, a negative size, a stride shorter than its row, an
                                      unknown activation, a negative alpha of one that has an alpha, more than 2^40
                                      elements, a misaligned pointer, an output that overlaps an input */
  FASTPERCEPTRON_WRONG_TYPE = 3,   /* the predictor's numbers are of the other type */
  FASTPERCEPTRON_NO_MEMORY = 4,
  FASTPERCEPTRON_FAILED = 5        /* no instruction set can be had: FASTPERCEPTRON_ISA names a wrong one */
};

/* alpha is the parameter of leaky_relu and elu, not negative; others ignore it. */
enum {
  FASTPERCEPTRON_LINEAR = 0,
  FASTPERCEPTRON_RELU = 1,
  FASTPERCEPTRON_LEAKY_RELU = 2,
  FASTPERCEPTRON_ELU = 3,
  FASTPERCEPTRON_SELU = 4,
  FASTPERCEPTRON_GELU = 5,
  FASTPERCEPTRON_GELU_TANH = 6,
  FASTPERCEPTRON_SILU = 7,
  FASTPERCEPTRON_MISH = 8,
  FASTPERCEPTRON_SOFTPLUS = 9,
  FASTPERCEPTRON_SOFTSIGN = 10,
  FASTPERCEPTRON_SIGMOID = 11,
  FASTPERCEPTRON_TANH = 12,
  FASTPERCEPTRON_STEP = 13,
  FASTPERCEPTRON_SOFTMAX = 14
};

/* A compiled predictor. It lives as long as the Python object that it was had from. */
typedef struct fastperceptron_predictor fastperceptron_predictor;

/* The table that import_fastperceptron fetches. Entries are only ever added at its end.
 *
 * dense_forward           y = act(x w + b); activation is not softmax, and b may be NULL
 * dense_backward_input    dx = dz w^T
 * dense_backward_weights  dw = x^T dz
 * dense_backward_bias     db = sum of the rows of dz
 *     x, dx (n, in); w, dw (in, out); b, db (out,); y, dz (n, out)
 * activation_forward      y = act(z), softmax over each row; y may be z
 * activation_backward     dz = dy act'(z); saved is z for gelu, gelu_tanh, silu, mish and softplus, else y; dz may be
 *                         dy and, but for softmax, saved
 *     all (n, width)
 * predictor_run           y = the model's outputs for these rows; x (rows, inputs), y (rows, outputs), without gaps. A
 *                         row has all inputs side by side in their order, and so all outputs
 *
 * Outputs share no memory with inputs unless it says so. The work is shared among fastperceptron's threads where it is
 * large enough: see fastperceptron.set_num_threads. */
#define FASTPERCEPTRON_TABLE(T, S)                                                                                     \
  int (*dense_forward_##S)(int64_t n, int64_t in, int64_t out, const T* x, int64_t x_row, const T* w, int64_t w_row,   \
                           const T* b, int activation, T alpha, T* y, int64_t y_row);                                  \
  int (*dense_backward_input_##S)(int64_t n, int64_t in, int64_t out, const T* dz, int64_t dz_row, const T* w,         \
                                  int64_t w_row, T* dx, int64_t dx_row);                                               \
  int (*dense_backward_weights_##S)(int64_t n, int64_t in, int64_t out, const T* x, int64_t x_row, const T* dz,        \
                                    int64_t dz_row, T* dw, int64_t dw_row);                                            \
  int (*dense_backward_bias_##S)(int64_t n, int64_t out, const T* dz, int64_t dz_row, T* db);                          \
  int (*activation_forward_##S)(int activation, T alpha, int64_t n, int64_t width, const T* z, int64_t z_row, T* y,    \
                                int64_t y_row);                                                                        \
  int (*activation_backward_##S)(int activation, T alpha, int64_t n, int64_t width, const T* dy, int64_t dy_row,       \
                                 const T* saved, int64_t saved_row, T* dz, int64_t dz_row);                            \
  int (*predictor_run_##S)(const fastperceptron_predictor* predictor, const T* x, int64_t rows, T* y);

typedef struct {
  int32_t abi_version;
  int32_t size; /* of this struct, in bytes */
  /* The predictor within a Python object; NULL, with TypeError set, when it is something else. Needs the GIL. */
  const fastperceptron_predictor* (*predictor_of)(PyObject* object);
  int64_t (*predictor_inputs)(const fastperceptron_predictor* predictor);
  int64_t (*predictor_outputs)(const fastperceptron_predictor* predictor);
  int (*predictor_is_f64)(const fastperceptron_predictor* predictor);
  FASTPERCEPTRON_TABLE(float, f32)
  FASTPERCEPTRON_TABLE(double, f64)
} fastperceptron_api;

#ifndef FASTPERCEPTRON_NO_CALLS

static const fastperceptron_api* fastperceptron_table = NULL;

static inline int import_fastperceptron(void) {
  PyObject* core = PyImport_ImportModule("fastperceptron._core");
  PyObject* capsule = core ? PyObject_GetAttrString(core, "_c_api") : NULL;
  const fastperceptron_api* table =
      capsule ? (const fastperceptron_api*)PyCapsule_GetPointer(capsule, "fastperceptron._core._c_api") : NULL;
  Py_XDECREF(capsule);
  Py_XDECREF(core); /* stays loaded: sys.modules refers to it, and extension modules are never unloaded */
  if (!table) return -1;
  if (table->abi_version != FASTPERCEPTRON_ABI_VERSION || table->size < (int32_t)sizeof(fastperceptron_api)) {
    PyErr_Format(PyExc_ImportError,
                 "fastperceptron: this module was compiled for version %d of its C interface, %d bytes; installed is "
                 "version %d, %d bytes: compile the module anew, or install a newer fastperceptron",
                 FASTPERCEPTRON_ABI_VERSION, (int)sizeof(fastperceptron_api), (int)table->abi_version,
                 (int)table->size);
    return -1;
  }
  fastperceptron_table = table;
  return 0;
}

/* See the table. NULL, with an error set, before import_fastperceptron as well. */
static inline const fastperceptron_predictor* fastperceptron_predictor_of(PyObject* object) {
  if (fastperceptron_table) return fastperceptron_table->predictor_of(object);
  PyErr_SetString(PyExc_RuntimeError, "fastperceptron: import_fastperceptron() must be called first");
  return NULL;
}
/* Numbers in a row of x; -1 for NULL and before import_fastperceptron. */
static inline int64_t fastperceptron_predictor_inputs(const fastperceptron_predictor* predictor) {
  return fastperceptron_table ? fastperceptron_table->predictor_inputs(predictor) : -1;
}
/* Numbers in a row of y; -1 likewise. */
static inline int64_t fastperceptron_predictor_outputs(const fastperceptron_predictor* predictor) {
  return fastperceptron_table ? fastperceptron_table->predictor_outputs(predictor) : -1;
}
/* 1: predictor_run_f64 runs it, 0: predictor_run_f32; -1 likewise. */
static inline int fastperceptron_predictor_is_f64(const fastperceptron_predictor* predictor) {
  return fastperceptron_table ? fastperceptron_table->predictor_is_f64(predictor) : -1;
}

#define FASTPERCEPTRON_CALLS(T, S)                                                                                     \
  static inline int fastperceptron_dense_forward_##S(int64_t n, int64_t in, int64_t out, const T* x, int64_t x_row,    \
                                                     const T* w, int64_t w_row, const T* b, int activation, T alpha,   \
                                                     T* y, int64_t y_row) {                                            \
    return fastperceptron_table ? fastperceptron_table->dense_forward_##S(n, in, out, x, x_row, w, w_row, b,           \
                                                                          activation, alpha, y, y_row)                 \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_dense_backward_input_##S(int64_t n, int64_t in, int64_t out, const T* dz,           \
                                                            int64_t dz_row, const T* w, int64_t w_row, T* dx,          \
                                                            int64_t dx_row) {                                          \
    return fastperceptron_table ? fastperceptron_table->dense_backward_input_##S(n, in, out, dz, dz_row, w, w_row, dx, \
                                                                                 dx_row)                               \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_dense_backward_weights_##S(int64_t n, int64_t in, int64_t out, const T* x,          \
                                                              int64_t x_row, const T* dz, int64_t dz_row, T* dw,       \
                                                              int64_t dw_row) {                                        \
    return fastperceptron_table ? fastperceptron_table->dense_backward_weights_##S(n, in, out, x, x_row, dz, dz_row,   \
                                                                                   dw, dw_row)                         \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_dense_backward_bias_##S(int64_t n, int64_t out, const T* dz, int64_t dz_row,        \
                                                           T* db) {                                                    \
    return fastperceptron_table ? fastperceptron_table->dense_backward_bias_##S(n, out, dz, dz_row, db)                \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_activation_forward_##S(int activation, T alpha, int64_t n, int64_t width,           \
                                                          const T* z, int64_t z_row, T* y, int64_t y_row) {            \
    return fastperceptron_table ? fastperceptron_table->activation_forward_##S(activation, alpha, n, width, z, z_row,  \
                                                                               y, y_row)                               \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_activation_backward_##S(int activation, T alpha, int64_t n, int64_t width,          \
                                                           const T* dy, int64_t dy_row, const T* saved,                \
                                                           int64_t saved_row, T* dz, int64_t dz_row) {                 \
    return fastperceptron_table ? fastperceptron_table->activation_backward_##S(activation, alpha, n, width, dy,       \
                                                                                dy_row, saved, saved_row, dz, dz_row)  \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }                                                                                                                    \
  static inline int fastperceptron_predictor_run_##S(const fastperceptron_predictor* predictor, const T* x,            \
                                                     int64_t rows, T* y) {                                             \
    return fastperceptron_table ? fastperceptron_table->predictor_run_##S(predictor, x, rows, y)                       \
                                : FASTPERCEPTRON_NOT_IMPORTED;                                                         \
  }
FASTPERCEPTRON_CALLS(float, f32)
FASTPERCEPTRON_CALLS(double, f64)

#endif /* FASTPERCEPTRON_NO_CALLS */

#ifdef __cplusplus
}
#endif

#endif /* FASTPERCEPTRON_H */

// The stateless operations over whole arrays: what the functions of fastperceptron.kernels do, shared among
// threads when an array is large enough. Each call sets the floating-point state of the threads it uses.
// They allocate scratch and may throw std::bad_alloc, before any thread starts. Defined for float and double.
#pragma once

#include "kernels/table.hpp"
#include "ops/dense.hpp"

namespace fp::whole {

using ops::Matrix;

// y = act(x w + b). x (n, in), w (in, out), b (out,) or nullptr, y (n, out); y overlaps none of them. Not softmax.
template <class T>
void dense_forward(Matrix<const T> x, Matrix<const T> w, const T* b, Activation activation, T alpha, Matrix<T> y);

// c = a b over operands rounded to bfloat16, on the path in use. a (m, k) or with transpose_a (k, m), b (k, n) or (n,
// k), c (m, n), which overlaps neither.
void bfloat16_product(Matrix<const float> a, bool transpose_a, Matrix<const float> b, bool transpose_b,
                      Matrix<float> c);

// Whether a product of a (m, k) or with transpose_a (k, m) and so many columns, as a whole, leaves out multiplications
// by zeros of a.
template <class T>
bool leaves_out_zeros(Matrix<const T> a, bool transpose_a, int64_t columns);

// dx = dz w^T. dz (n, out), w (in, out), dx (n, in); dx overlaps neither.
template <class T>
void dense_backward_input(Matrix<const T> dz, Matrix<const T> w, Matrix<T> dx);

// dw = x^T dz. x (n, in), dz (n, out), dw (in, out); dw overlaps neither.
template <class T>
void dense_backward_weights(Matrix<const T> x, Matrix<const T> dz, Matrix<T> dw);

// db = sum of the rows of dz. dz (n, out), db (out,); db does not overlap dz.
template <class T>
void dense_backward_bias(Matrix<const T> dz, T* db);

// y = act(z), softmax over each row. All of one shape; y is z or apart from it.
template <class T>
void activation_forward(Activation activation, T alpha, Matrix<const T> z, Matrix<T> y);

// dz = dy act'(saved), saved being z or y as derivative_needs_z says (y for softmax). All of one shape; dz is dy or
// apart from it, and apart from saved for softmax; else dz may be saved.
template <class T>
void activation_backward(Activation activation, T alpha, Matrix<const T> dy, Matrix<const T> saved, Matrix<T> dz);

// Every row of LossArgs.
template <class T>
void loss(const LossArgs<T>& args);

// Every row of DropoutArgs.
template <class T>
void dropout(const DropoutArgs<T>& args);

// One step of stochastic gradient descent over w, g and v, all of one shape and apart; v.data may be nullptr.
template <class T>
void sgd_update(Matrix<T> w, Matrix<const T> g, Matrix<T> v, T learning_rate, T momentum, bool nesterov);

}  // namespace fp::whole

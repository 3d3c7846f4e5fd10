// The dense layer's products over whole arrays or a part of them: each function fills one rectangle of its
// output, so that callers (the stateless functions, the network) decide how a team shares the work. The bits of an
// output do not depend on the rectangles. scratch: dense_scratch(...) elements private to the thread.
#pragma once

#include <algorithm>

#include "kernels/table.hpp"
#include "runtime/parallel.hpp"

namespace fp::ops {

template <class T>
struct Matrix {
  T* data;
  int64_t rows, cols;
  int64_t row;          // stride of a row, in elements
  bool padded = false;  // rows go on, see GemmArgs
};

// A matrix, or rows that lie anywhere: row i at each[i] + first, and where as many others lie that will be read next,
// if that is known.
template <class T>
struct Rows : Matrix<const T> {
  const T* const* each = nullptr;
  const T* const* next = nullptr;
  int64_t first = 0;
  Rows(Matrix<const T> matrix) : Matrix<const T>(matrix) {}
  Rows(const T* const* each_, const T* const* next_, int64_t first_, int64_t rows_, int64_t cols_)
      : Matrix<const T>{nullptr, rows_, cols_, 0}, each(each_), next(next_), first(first_) {}
};

// Scratch that any product over parts of these sizes needs.
template <class T>
int64_t dense_scratch(const Kernels<T>& k, int64_t n, int64_t in, int64_t out) {
  return std::max({k.gemm_scratch(n, out, in), k.gemm_scratch(n, in, out), k.gemm_scratch(in, out, n)});
}

// Makes columns of w, or of a part of it, the right operand. The part behind it, if there is one, follows in memory.
template <class T>
void multiply_by(GemmArgs<T>& g, Matrix<const T> w, Range cols) {
  g.b = w.data + cols.begin;
  g.b_row = w.row;
  g.b_padded = w.padded;
  if (w.row < w.cols && cols.end < w.cols) g.b_next = g.b + w.rows * w.row;
}

// The epilogues of parts that begin at (row, col): of the forward product, and of the input gradient, whose saved may
// be nullptr.
template <class T>
Epilogue<T> forward_epilogue(const T* b, Activation act, T alpha, T* z, int64_t z_row, int64_t row, int64_t col) {
  Epilogue<T> e{};
  e.kind = EpilogueKind::forward;
  e.activation = act;
  e.alpha = alpha;
  e.bias = b ? b + col : nullptr;
  e.pre = z ? z + row * z_row + col : nullptr;
  e.pre_row = z_row;
  return e;
}
template <class T>
Epilogue<T> backward_epilogue(const T* saved, int64_t saved_row, Activation act, T alpha, int64_t row, int64_t col) {
  Epilogue<T> e{};
  if (act == Activation::linear) return e;
  e.kind = EpilogueKind::backward;
  e.activation = act;
  e.alpha = alpha;
  e.saved = saved ? saved + row * saved_row + col : nullptr;
  e.saved_row = saved_row;
  return e;
}

// y = act(x w + b) over rows x cols of y; z, when given, receives x w + b.
// x (n, in), w (in, out), b (out,) or nullptr, z and y (n, out).
template <class T>
void dense_forward(const Kernels<T>& kernels, Rows<T> x, Matrix<const T> w, const T* b, Activation act, T alpha, T* z,
                   int64_t z_row, Matrix<T> y, Range rows, Range cols, T* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  GemmArgs<T> g{};
  g.m = rows.size();
  g.n = cols.size();
  g.k = x.cols;
  g.a_col = 1;
  if (x.each) {
    g.a_rows = x.each + rows.begin;
    g.a_first = x.first;
  } else {
    g.a = x.data + rows.begin * x.row;
    g.a_row = x.row;
  }
  multiply_by(g, w, cols);
  g.c = y.data + rows.begin * y.row + cols.begin;
  g.c_row = y.row;
  g.c_padded = y.padded && cols.end == y.cols;
  g.epilogue = forward_epilogue(b, act, alpha, z, z_row, rows.begin, cols.begin);
  g.scratch = scratch;
  kernels.gemm(g);
}

// dx = dz w^T over rows x cols of dx (cols: inputs). wt (out, in) is w transposed. When saved is given, the result is
// multiplied by the derivative of the activation that produced x, saved (n, in) being its z or y. With
// accumulate (and no saved) the product is added to dx.
template <class T>
void dense_backward_input(const Kernels<T>& kernels, Matrix<const T> dz, Matrix<const T> wt, const T* saved,
                          int64_t saved_row, Activation act, T alpha, bool accumulate, Matrix<T> dx, Range rows,
                          Range cols, T* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  GemmArgs<T> g{};
  g.m = rows.size();
  g.n = cols.size();
  g.k = dz.cols;
  g.a = dz.data + rows.begin * dz.row;
  g.a_row = dz.row;
  g.a_col = 1;
  multiply_by(g, wt, cols);
  g.c = dx.data + rows.begin * dx.row + cols.begin;
  g.c_row = dx.row;
  g.c_padded = dx.padded && cols.end == dx.cols;
  g.accumulate = accumulate;
  g.epilogue = backward_epilogue(saved, saved_row, act, alpha, rows.begin, cols.begin);
  g.scratch = scratch;
  kernels.gemm(g);
}

// dw = x^T dz over inputs x outputs of dw (in, out). With accumulate, dw already holds a sum, to which the
// block sums are added. The epilogue's pointers are those of the whole of dw. part: columns of the parts that dw is
// stored in, dw.row then being its columns with pads; dw.row: whole. db, when given: of these outputs' bias gradients,
// the first, where they are stored, or added with accumulate.
template <class T>
void dense_backward_weights(const Kernels<T>& kernels, Rows<T> x, Matrix<const T> dz, Matrix<T> dw, bool accumulate,
                            const Epilogue<T>& epilogue, Range inputs, Range outputs, T* scratch, int64_t part,
                            T* db = nullptr) {
  if (inputs.size() <= 0 || outputs.size() <= 0) return;
  GemmArgs<T> g{};
  g.m = inputs.size();
  g.n = outputs.size();
  g.k = x.rows;
  g.block = kRowBlock;
  g.a_row = 1;
  if (x.each) {
    g.a_rows = x.each;
    g.a_next = x.next;
    g.a_first = x.first + inputs.begin;
  } else {
    g.a = x.data + inputs.begin;
    g.a_col = x.row;
  }
  g.b = dz.data + outputs.begin;
  g.b_row = dz.row;
  g.b_padded = dz.padded;
  g.column_sums = db;
  g.c = dw.data;
  g.c_row = dw.row;
  g.c_padded = dw.padded && outputs.end == dw.cols;
  g.accumulate = accumulate;
  g.epilogue = epilogue;
  if (part < dw.row) {
    g.parted = {dw.rows, dw.row, part};
    g.first_i = inputs.begin;
    g.first_j = outputs.begin;
  } else {
    const int64_t origin = inputs.begin * dw.row + outputs.begin;
    g.c += origin;
    if (g.epilogue.velocity) g.epilogue.velocity += origin;
  }
  g.scratch = scratch;
  kernels.gemm(g);
}

}  // namespace fp::ops

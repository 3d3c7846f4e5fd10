// The dense layer's products with bfloat16 operands: as ops/dense.hpp, over operands packed before. The bits of an
// output do not depend on the rectangles. Columns of an output begin at multiples of 16, and so do the inputs of a
// weight gradient.
#pragma once

#include <algorithm>

#include "kernels/bf16.hpp"
#include "ops/dense.hpp"

namespace fp::ops {

// Rows of x or dz that are packed at once, for a product that follows while they are in cache.
inline constexpr int64_t kSlab16 = 256;

// In floats, as dense_scratch.
inline int64_t dense_scratch16(const Products16& p, int64_t n, int64_t in, int64_t out) {
  return std::max(
      {p.scratch(std::min(n, kSlab16), out, in), p.scratch(std::min(n, kSlab16), in, out), p.scratch(in, out, n)});
}

// Calls product(left, slab) for slabs of the rows of x, packed in `room`: left_bytes(min(rows, kSlab16), x.cols).
template <class F>
void in_slabs16(const Products16& p, Matrix<const float> x, Range rows, void* room, F&& product) {
  for (int64_t at = rows.begin; at < rows.end; at += kSlab16) {
    const Range slab{at, std::min(at + kSlab16, rows.end)};
    p.pack_left({x.data + at * x.row, x.row, slab.size(), x.cols, 0, slab.size(), 0, x.cols, room});
    product(room, slab);
  }
}

// y = act(x w + b) over rows x cols of y; z, when given, receives x w + b. right: w, packed; room for a slab of x.
inline void dense_forward16(const Products16& p, Matrix<const float> x, const void* right, const float* b,
                            Activation act, float alpha, float* z, int64_t z_row, Matrix<float> y, Range rows,
                            Range cols, void* room, float* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  in_slabs16(p, x, rows, room, [&](const void* left, Range slab) {
    Product16 g{};
    g.m = slab.size();
    g.n = cols.size();
    g.k = x.cols;
    g.left = left;
    g.left_rows = slab.size();
    g.right = right;
    g.right_cols = y.cols;
    g.j0 = cols.begin;
    g.c = y.data + slab.begin * y.row + cols.begin;
    g.c_row = y.row;
    g.epilogue = forward_epilogue(b, act, alpha, z, z_row, slab.begin, cols.begin);
    g.scratch = scratch;
    p.product(g);
  });
}

// dx = dz w^T over rows x cols of dx, and the derivative of the activation that produced x, as dense_backward_input.
// right: w transposed, packed; room for a slab of dz.
inline void dense_backward_input16(const Products16& p, Matrix<const float> dz, const void* right, const float* saved,
                                   int64_t saved_row, Activation act, float alpha, bool accumulate, Matrix<float> dx,
                                   Range rows, Range cols, void* room, float* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  in_slabs16(p, dz, rows, room, [&](const void* left, Range slab) {
    Product16 g{};
    g.m = slab.size();
    g.n = cols.size();
    g.k = dz.cols;
    g.left = left;
    g.left_rows = slab.size();
    g.right = right;
    g.right_cols = dx.cols;
    g.j0 = cols.begin;
    g.c = dx.data + slab.begin * dx.row + cols.begin;
    g.c_row = dx.row;
    g.accumulate = accumulate;
    g.epilogue = backward_epilogue(saved, saved_row, act, alpha, slab.begin, cols.begin);
    g.scratch = scratch;
    p.product(g);
  });
}

// dw = x^T dz over inputs x outputs of dw (in, out), n rows of x and dz. left: x, packed by pack_left_transposed,
// right: dz, packed. The epilogue's pointers are those of the whole of dw.
inline void dense_backward_weights16(const Products16& p, int64_t n, const void* left, const void* right,
                                     Matrix<float> dw, bool accumulate, const Epilogue<float>& epilogue, Range inputs,
                                     Range outputs, float* scratch) {
  if (inputs.size() <= 0 || outputs.size() <= 0) return;
  Product16 g{};
  g.m = inputs.size();
  g.n = outputs.size();
  g.k = n;
  g.left = left;
  g.left_rows = dw.rows;
  g.i0 = inputs.begin;
  g.transposed = true;
  g.right = right;
  g.right_cols = dw.cols;
  g.j0 = outputs.begin;
  g.c = dw.data + inputs.begin * dw.row + outputs.begin;
  g.c_row = dw.row;
  g.accumulate = accumulate;
  g.epilogue = epilogue;
  if (g.epilogue.velocity) g.epilogue.velocity += inputs.begin * dw.row + outputs.begin;
  g.scratch = scratch;
  p.product(g);
}

}  // namespace fp::ops

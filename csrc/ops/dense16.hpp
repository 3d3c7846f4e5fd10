// The dense layer's products with bfloat16 operands: as ops/dense.hpp, over operands packed before. The bits of an
// output do not depend on the rectangles. Columns of an output begin at multiples of 16, and so do the inputs of a
// weight gradient.
#pragma once

#include <algorithm>

#include "kernels/bf16.hpp"
#include "ops/dense.hpp"

namespace fp::ops {

// In floats, as dense_scratch.
inline int64_t dense_scratch16(const Products16& p, int64_t n, int64_t in, int64_t out) {
  const int64_t slab = std::min(n, p.slab_rows);
  return std::max({p.scratch(slab, out, in), p.scratch(slab, in, out), p.scratch(in, out, n)});
}

// Packs rows of x as a left operand of their own: a slab, in `room`, left_bytes(rows.size(), x.cols).
inline void pack_slab16(const Products16& p, Matrix<const float> x, Range rows, void* room) {
  p.pack_left({x.data + rows.begin * x.row, x.row, rows.size(), x.cols, 0, rows.size(), 0, x.cols, room});
}

// A packed left operand: some rows of a batch, or all.
struct Left16 {
  const void* data;
  Range rows;
};

// What a product makes of a batch's rows: a float32 matrix, or (c.data == nullptr) what is kept packed.
struct Result16 {
  Matrix<float> c;
  Kept16 kept{};
};

// What a product is, but for its epilogue: rows x cols of the result, sums over k.
inline Product16 rows_product16(Left16 left, int64_t k, const void* right, const Result16& y, Range rows, Range cols,
                                float* scratch) {
  Product16 g{};
  g.m = rows.size();
  g.n = cols.size();
  g.k = k;
  g.left = left.data;
  g.left_rows = left.rows.size();
  g.i0 = rows.begin - left.rows.begin;
  g.right = right;
  g.right_cols = y.c.cols;
  g.j0 = cols.begin;
  g.c = y.c.data ? y.c.data + rows.begin * y.c.row + cols.begin : nullptr;
  g.c_row = y.c.row;
  g.kept = y.kept;
  g.kept.i = rows.begin;
  g.scratch = scratch;
  return g;
}

// y = act(x w + b) over rows x cols of y; z, when given, receives x w + b. left: x; right: w, packed.
inline void dense_forward16(const Products16& p, Left16 left, int64_t in, const void* right, const float* b,
                            Activation act, float alpha, float* z, int64_t z_row, const Result16& y, Range rows,
                            Range cols, float* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  Product16 g = rows_product16(left, in, right, y, rows, cols, scratch);
  g.epilogue = forward_epilogue(b, act, alpha, z, z_row, rows.begin, cols.begin);
  p.product(g);
}

// dx = dz w^T over rows x cols of dx, and the derivative of the activation that produced x, as dense_backward_input.
// left: dz; right: w transposed, packed. The derivative is that of saved, or of dx.kept.saved.
inline void dense_backward_input16(const Products16& p, Left16 left, int64_t out, const void* right, const float* saved,
                                   int64_t saved_row, Activation act, float alpha, bool accumulate, const Result16& dx,
                                   Range rows, Range cols, float* scratch) {
  if (rows.size() <= 0 || cols.size() <= 0) return;
  Product16 g = rows_product16(left, out, right, dx, rows, cols, scratch);
  g.accumulate = accumulate;
  g.epilogue = backward_epilogue(saved, saved_row, act, alpha, rows.begin, cols.begin);
  p.product(g);
}

// dw = x^T dz over inputs x outputs of dw (in, out), n rows of x and dz. left: x, packed by pack_left_transposed,
// right: dz, packed. The epilogue's pointers are those of the whole of dw. kept: copies of the weights, which are
// renewed with them.
inline void dense_backward_weights16(const Products16& p, int64_t n, const void* left, const void* right,
                                     Matrix<float> dw, const Kept16& kept, bool accumulate,
                                     const Epilogue<float>& epilogue, Range inputs, Range outputs, float* scratch) {
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
  g.kept = kept;
  g.kept.i = inputs.begin;
  g.accumulate = accumulate;
  g.epilogue = epilogue;
  if (g.epilogue.velocity) g.epilogue.velocity += inputs.begin * dw.row + outputs.begin;
  g.scratch = scratch;
  p.product(g);
}

// Calls f(inputs, outputs) for parts of a weight gradient: groups of inputs, whose part of the left operand stays in
// the second-level cache, by columns of the right one. Where the weights are packed after their update, that is from
// cache: such parts have few rows, since those of weights that are not large may lie a power of two apart and compete
// for the same few cache sets.
template <class F>
void in_parts16(const Products16& p, Range inputs, Range outputs, F&& f) {
  constexpr int64_t wide = 192;
  const bool narrow = outputs.size() <= wide;  // nothing to share, and rows close together
  const int64_t most = narrow ? inputs.size() : p.slab_rows, tall = p.keeps ? most : narrow ? 384 : 128;
  for (int64_t group = inputs.begin; group < inputs.end; group += most) {
    const int64_t end = std::min(group + most, inputs.end), parts = (end - group + tall - 1) / tall;
    const int64_t step = ((end - group + parts - 1) / parts + 31) / 32 * 32;
    for (int64_t c = outputs.begin; c < outputs.end; c += wide)
      for (int64_t r = group; r < end; r += step)
        f(Range{r, std::min(r + step, end)}, Range{c, std::min(c + wide, outputs.end)});
  }
}

}  // namespace fp::ops

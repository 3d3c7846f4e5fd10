// Products of bfloat16 operands for instruction sets that do not know the format: rounded numbers are kept widened to
// float32, and the product is gemm's. left is (m, k), or (k, m) when transposed, right (k, n), rows padded to whole
// cache lines.
#pragma once

#include "kernels/bf16.hpp"
#include "kernels/bf16_round.hpp"
#include "kernels/gemm.hpp"
#include "kernels/peak.hpp"
#include "kernels/sums.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Never a multiple of 1 KiB, where rows that are read together would fall into the same few cache sets.
FP_INLINE int64_t widened_row(int64_t cols) {
  const int64_t row = (cols + 15) / 16 * 16;
  return row % 256 ? row : row + 16;
}
inline int64_t widened_bytes(int64_t rows, int64_t cols) {
  return rows * widened_row(cols) * static_cast<int64_t>(sizeof(float));
}
inline int64_t widened_left_transposed_bytes(int64_t m, int64_t k) { return widened_bytes(k, m); }

inline void widened_pack(const Pack16& p) {
  constexpr int lanes = Vec<float>::lanes;
  const int64_t row = widened_row(p.cols);
  for (int64_t r = p.r0; r < p.r1; ++r) {
    const float* from = p.x + r * p.x_row;
    float* to = static_cast<float*>(p.out) + r * row;
    int64_t c = p.c0;
    for (; c + lanes <= p.c1; c += lanes) store(to + c, round_bf16(load(from + c)));
    if (c < p.c1) store_part(to + c, p.c1 - c, round_bf16(load_part(from + c, p.c1 - c)));
  }
}

inline void widened_pack_transposed(const Pack16& p) {
  constexpr int64_t side = 16;
  constexpr int lanes = Vec<float>::lanes;
  const int64_t row = widened_row(p.rows);
  alignas(64) float square[side * side];
  for (int64_t r = p.r0; r < p.r1; r += side) {
    const int64_t rows = p.r1 - r < side ? p.r1 - r : side;
    for (int64_t c = p.c0; c < p.c1; c += side) {
      const int64_t cols = p.c1 - c < side ? p.c1 - c : side;
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; j += lanes) {
          const int64_t part = cols - j < lanes ? cols - j : lanes;
          store(square + i * side + j, round_bf16(load_part(p.x + (r + i) * p.x_row + c + j, part)));
        }
      transpose<float>(rows, cols, square, side, static_cast<float*>(p.out) + c * row + r, row);
    }
  }
}

inline int64_t widened_scratch(int64_t m, int64_t n, int64_t k) { return gemm_scratch<float>(m, n, k); }

inline void widened_product(const Product16& p) {
  GemmArgs<float> g{};
  g.m = p.m;
  g.n = p.n;
  g.k = p.k;
  const auto* left = static_cast<const float*>(p.left);
  const int64_t row = widened_row(p.transposed ? p.left_rows : p.k);
  g.a = left + p.i0 * (p.transposed ? 1 : row);
  g.a_row = p.transposed ? 1 : row;
  g.a_col = p.transposed ? row : 1;
  g.b = static_cast<const float*>(p.right) + p.j0;
  g.b_row = widened_row(p.right_cols);
  g.c = p.c;
  g.c_row = p.c_row;
  g.accumulate = p.accumulate;
  g.epilogue = p.epilogue;
  g.scratch = p.scratch;
  gemm(g);
}

constexpr Products16 widened_products(const char* name) {
  Products16 p{};
  p.name = name;
  p.row_grain = kTileRows;
  p.slab_rows = 256;
  p.speed = 1;
  p.left_bytes = widened_bytes;
  p.left_transposed_bytes = widened_left_transposed_bytes;
  p.right_bytes = widened_bytes;
  p.pack_left = widened_pack;
  p.pack_left_transposed = widened_pack;
  p.pack_right = widened_pack;
  p.pack_right_transposed = widened_pack_transposed;
  p.scratch = widened_scratch;
  p.product = widened_product;
  p.peak = peak<float>;
  return p;
}

}  // namespace fp::FP_ISA_NAMESPACE

// The last column of a weight gradient's product, where it would be alone in its register: summed apart, as a row of
// the transposed product, whose sums fill registers of rows. The panels before it have whole registers then, which
// tiles update without a detour. Which sums are taken, and in which order, stays the same. (Forward products and
// values' gradients would have to transpose a for it.)
#pragma once

#include "kernels/gemm_tiles.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Measured on AVX2: it pays beside a whole panel and more. Tiles on AVX-512 are high enough for their thin form.
#if defined(FP_ISA_AVX2)
inline constexpr bool kColumnsApart = true;
#else
inline constexpr bool kColumnsApart = false;
#endif
// Rows of c at a time.
inline constexpr int64_t kColumnRows = 64;

template <class T>
void gemm(const GemmArgs<T>& given);

// Of the columns of a part of c.
template <class T>
bool gemm_column_apart(const GemmArgs<T>& g, int64_t columns) {
  const bool fits = g.epilogue.kind == EpilogueKind::store || g.epilogue.kind == EpilogueKind::sgd;
  return kColumnsApart && columns > kTileVectors * Vec<T>::lanes && columns % Vec<T>::lanes == 1 && g.a_row == 1 &&
         !g.a_rows && g.m > 1 && !g.accumulate && fits;
}

// Rows [begin, end) of column t.j.
template <class T>
__attribute__((noinline)) void gemm_column(Tiles<T>& t, int64_t begin, int64_t end) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const GemmArgs<T>& g = *t.g;
  alignas(64) T sums[kColumnRows], totals[kColumnRows * lanes];
  GemmArgs<T> row{};
  row.m = 1;
  row.k = g.k;
  row.a = g.b + t.j;
  row.a_col = g.b_row;
  row.b_row = g.a_col;
  row.c = sums;
  row.c_row = kColumnRows;
  row.block = g.block;
  Tiles<T> column = t;
  column.total = totals;
  column.cols = 1;
  column.width = lanes;
  for (column.i = begin; column.i < end; column.i += kColumnRows) {
    row.n = column.rows = end - column.i < kColumnRows ? end - column.i : kColumnRows;
    row.b = g.a + column.i;
    gemm(row);
    for (int64_t i = 0; i < row.n; ++i) totals[i * lanes] = sums[i];
    tile_finish_total(column);
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

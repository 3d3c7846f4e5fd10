// The last column of a product, where it would be alone in its register, summed apart: of a weight gradient as a row of
// the transposed product, whose sums fill registers of rows; of other products from rows of a that are transposed in
// registers. The panels before it have whole registers then, which tiles finish without a detour. Which sums are taken,
// and in which order, stays the same.
#pragma once

#include "kernels/gemm_thin.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Measured on AVX2: it pays beside a whole panel and more, from rows where it saves one of two or three panels. Tiles
// on AVX-512 are high enough for their thin form.
#if defined(FP_ISA_AVX2)
inline constexpr bool kColumnsApart = true;
template <class T>
inline constexpr bool kTurned = sizeof(T) == 4;
#else
inline constexpr bool kColumnsApart = false;
template <class T>
inline constexpr bool kTurned = false;
#endif
// Rows of c at a time: as a row of the transposed product, and from rows that are transposed.
inline constexpr int64_t kColumnRows = 64, kTurnedRows = 16;

template <class T>
void gemm(const GemmArgs<T>& given);

// Of the columns of a part of c.
template <class T>
bool gemm_column_apart(const GemmArgs<T>& g, int64_t columns) {
  constexpr int64_t lanes = Vec<T>::lanes, panel = kTileVectors * lanes;
  if (!kColumnsApart || columns <= panel || columns % lanes != 1 || g.a_rows || g.accumulate) return false;
  const bool updates = g.epilogue.kind == EpilogueKind::sgd, stores = g.epilogue.kind == EpilogueKind::store;
  if (g.a_row == 1) return g.m > 1 && (stores || updates);
  return kTurned<T> && columns % panel == 1 && columns <= 2 * panel + 1 && g.m >= kTurnedRows && !updates;
}

// Rows [begin, end) of column t.j, from rows of a, which are transposed, some indices of the sum at a time: a row of c
// in each lane.
template <class T>
__attribute__((noinline)) void gemm_turned_column(Tiles<T>& t, int64_t begin, int64_t end) {
  constexpr int lanes = Vec<T>::lanes, turns = kTurnedRows / lanes;
  const GemmArgs<T>& g = *t.g;
  const Epilogue<T>& e = g.epilogue;
  const int64_t k = g.k, block = g.block, a_row = g.a_row, b_row = g.b_row;
  alignas(64) T totals[kTurnedRows * lanes] = {};
  Tiles<T> column = t;
  column.total = totals;
  column.cols = 1;
  column.width = lanes;
  for (int64_t i = begin; i < end; i += kTurnedRows) {
    const int64_t rows = end - i < kTurnedRows ? end - i : kTurnedRows;
    const T* a = g.a + i * a_row;
    const T* b = g.b + t.j;
    Vec<T> total[turns];
    FP_UNROLL for (int s = 0; s < turns; ++s) total[s] = zero<T>();
    for (int64_t p = 0; p < k;) {
      const int64_t stop = p + block < k ? p + block : k, first = p;
      Vec<T> sum[turns];
      FP_UNROLL for (int s = 0; s < turns; ++s) sum[s] = zero<T>();
      if (rows == kTurnedRows) {
        for (; p + kTurn <= stop; p += kTurn, b += kTurn * b_row) {
          FP_UNROLL for (int s = 0; s < turns; ++s) {
            Vec<T> x[kTurn];
            turn(a + s * lanes * a_row + p, a_row, x);
            FP_UNROLL for (int q = 0; q < kTurn; ++q) sum[s] = fma(x[q], broadcast(b[q * b_row]), sum[s]);
          }
        }
      }
      for (; p < stop; ++p, b += b_row) {
        FP_UNROLL for (int s = 0; s < turns; ++s) {
          Vec<T> x = zero<T>();
          for (int r = 0; r < lanes && s * lanes + r < rows; ++r) x.v[r] = a[(s * lanes + r) * a_row + p];
          sum[s] = fma(x, broadcast(*b), sum[s]);
        }
      }
      FP_UNROLL for (int s = 0; s < turns; ++s) total[s] = first == 0 ? sum[s] : add(total[s], sum[s]);
    }
    column.i = i;
    column.rows = rows;
    if (is_frequent(e) && rows == kTurnedRows) {
      FP_UNROLL for (int s = 0; s < turns; ++s, column.i += lanes) tile_finish_column<T, lanes>(total[s], column, 0);
      continue;
    }
    FP_UNROLL for (int s = 0; s < turns; ++s) for (int r = 0; r < lanes; ++r) totals[(s * lanes + r) * lanes] =
        total[s].v[r];
    tile_finish_total(column);
  }
}

// Rows [begin, end) of column t.j.
template <class T>
__attribute__((noinline)) void gemm_column(Tiles<T>& t, int64_t begin, int64_t end) {
  constexpr int64_t lanes = Vec<T>::lanes;
  const GemmArgs<T>& g = *t.g;
  if constexpr (kTurned<T>) {
    if (g.a_row != 1) return gemm_turned_column(t, begin, end);
  }
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

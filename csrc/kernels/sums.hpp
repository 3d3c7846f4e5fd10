// Sums over rows, transposition and addition.
#pragma once

#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Columns of `vectors` registers, the last of them holding `last` columns.
template <class T, int vectors>
void column_sums_panel(int64_t n, const T* a, int64_t a_row, int64_t last, T* out, bool accumulate, int64_t block) {
  constexpr int lanes = Vec<T>::lanes;
  Vec<T> total[vectors], sum[vectors];
  FP_UNROLL for (int v = 0; v < vectors; ++v) total[v] = zero<T>();
  for (int64_t i = 0; i < n || i == 0; i += block) {
    const int64_t end = n - i < block ? n : i + block;
    FP_UNROLL for (int v = 0; v < vectors; ++v) sum[v] = zero<T>();
    for (int64_t r = i; r < end; ++r) {
      const T* row = a + r * a_row;
      FP_UNROLL for (int v = 0; v < vectors - 1; ++v) sum[v] = add(load(row + v * lanes), sum[v]);
      const T* p = row + (vectors - 1) * lanes;
      sum[vectors - 1] = add(last == lanes ? load(p) : load_part(p, last), sum[vectors - 1]);
    }
    FP_UNROLL for (int v = 0; v < vectors; ++v) {
      if (i > 0)
        total[v] = add(total[v], sum[v]);
      else if (accumulate)
        total[v] = add(v < vectors - 1 ? load(out + v * lanes) : load_part(out + v * lanes, last), sum[v]);
      else
        total[v] = sum[v];
    }
  }
  FP_UNROLL for (int v = 0; v < vectors - 1; ++v) store(out + v * lanes, total[v]);
  store_part(out + (vectors - 1) * lanes, last, total[vectors - 1]);
}

template <class T>
void column_sums(int64_t n, int64_t width, const T* a, int64_t a_row, T* out, bool accumulate, int64_t block) {
  constexpr int lanes = Vec<T>::lanes, most = 4;
  constexpr decltype(&column_sums_panel<T, most>) panels[most] = {column_sums_panel<T, 1>, column_sums_panel<T, 2>,
                                                                  column_sums_panel<T, 3>, column_sums_panel<T, most>};
  if (n <= 0 && accumulate) return;
  for (int64_t j = 0; j < width; j += most * lanes) {
    const int64_t left = width - j, vectors = left < most * lanes ? (left + lanes - 1) / lanes : most;
    const int64_t last = left - (vectors - 1) * lanes;
    panels[vectors - 1](n, a + j, a_row, last < lanes ? last : lanes, out + j, accumulate, block);
  }
}

// Squares of 16 bytes by 16 bytes, by pairwise interleaving.
#if defined(__clang__)
#define FP_SHUFFLE(a, b, index_type, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define FP_SHUFFLE(a, b, index_type, ...) __builtin_shuffle(a, b, index_type{__VA_ARGS__})
#endif

FP_INLINE void transpose_square(const float* a, int64_t a_row, float* out, int64_t out_row) {
  typedef float F __attribute__((vector_size(16)));
  typedef int32_t I __attribute__((vector_size(16), unused));
  F r[4];
  FP_UNROLL for (int i = 0; i < 4; ++i) __builtin_memcpy(&r[i], a + i * a_row, sizeof(F));
  const F low02 = FP_SHUFFLE(r[0], r[2], I, 0, 4, 1, 5), high02 = FP_SHUFFLE(r[0], r[2], I, 2, 6, 3, 7);
  const F low13 = FP_SHUFFLE(r[1], r[3], I, 0, 4, 1, 5), high13 = FP_SHUFFLE(r[1], r[3], I, 2, 6, 3, 7);
  r[0] = FP_SHUFFLE(low02, low13, I, 0, 4, 1, 5);
  r[1] = FP_SHUFFLE(low02, low13, I, 2, 6, 3, 7);
  r[2] = FP_SHUFFLE(high02, high13, I, 0, 4, 1, 5);
  r[3] = FP_SHUFFLE(high02, high13, I, 2, 6, 3, 7);
  FP_UNROLL for (int i = 0; i < 4; ++i) __builtin_memcpy(out + i * out_row, &r[i], sizeof(F));
}
FP_INLINE void transpose_square(const double* a, int64_t a_row, double* out, int64_t out_row) {
  const double upper = a[1], lower = a[a_row];
  out[0] = a[0];
  out[1] = lower;
  out[out_row] = upper;
  out[out_row + 1] = a[a_row + 1];
}

template <class T>
void transpose(int64_t rows, int64_t cols, const T* a, int64_t a_row, T* out, int64_t out_row) {
  constexpr int64_t side = 16 / sizeof(T), block = 64 / sizeof(T);  // a block: whole cache lines on both sides
  for (int64_t i0 = 0; i0 < rows; i0 += block) {
    const int64_t i1 = rows - i0 < block ? rows : i0 + block;
    int64_t j = 0;
    for (; j + side <= cols; j += side) {
      int64_t i = i0;
      for (; i + side <= i1; i += side) transpose_square(a + i * a_row + j, a_row, out + j * out_row + i, out_row);
      for (; i < i1; ++i)
        for (int64_t q = j; q < j + side; ++q) out[q * out_row + i] = a[i * a_row + q];
    }
    for (; j < cols; ++j)
      for (int64_t i = i0; i < i1; ++i) out[j * out_row + i] = a[i * a_row + j];
  }
}

template <class T>
void add_range(int64_t count, const T* x, T* y) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(y + i, add(load(y + i), load(x + i)));
  if (i < count) store_part(y + i, count - i, add(load_part(y + i, count - i), load_part(x + i, count - i)));
}

template <class T>
void multiply_range(int64_t count, const T* x, T* y) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(y + i, mul(load(y + i), load(x + i)));
  if (i < count) store_part(y + i, count - i, mul(load_part(y + i, count - i), load_part(x + i, count - i)));
}

}  // namespace fp::FP_ISA_NAMESPACE

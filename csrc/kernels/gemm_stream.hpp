// Products of few rows with a large b, which is read once and in memory order: the sums of a strip of columns lie in
// the first-level cache, and each visit adds a few rows of b to them. (Panels of a few registers would touch another
// page for every row of b, out of reach of hardware prefetchers.)
#pragma once

#include "kernels/epilogue.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Streaming pays for up to kStreamRows rows where b leaves the inner caches, for twice as many where they make more
// than one tile, and for up to kStreamFarRows where b leaves all caches. From kFetchBytes on b is fetched ahead by
// instructions; nearer than that they cost more than they bring.
inline constexpr int kStreamRows = 4, kStreamFarRows = 4 * kStreamRows;
inline constexpr int64_t kStreamBytes = 512 * 1024, kStreamFarBytes = 8 * 1024 * 1024, kFetchBytes = 4 * 1024 * 1024;
inline constexpr int64_t kStripBytes = 8192;  // of the sums

template <class T>
struct Strip {
  const T* a;
  int64_t a_row, a_col;
  const T* b;
  int64_t b_row;
  int64_t cols, width;  // width: cols in whole registers
  bool begin;
  T* sums;  // rows of `width`
};

// sums[i, j] = (begin ? 0 : sums[i, j]) + a[i, 0] b[0, j] + ... + a[i, deep - 1] b[deep - 1, j], in this order.
// With fetch, what the next visit but one will read is fetched into the second-level cache meanwhile.
template <class T, int rows, int deep, bool fetch = false>
void stream_step(const Strip<T>& s) {
  constexpr int lanes = Vec<T>::lanes;
  const T* b = s.b;
  T* sums = s.sums;
  const int64_t b_row = s.b_row, cols = s.cols, width = s.width;
  [[maybe_unused]] const int64_t ahead = 2 * deep * b_row;
  Vec<T> x[rows][deep];
  FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int r = 0; r < deep; ++r) x[i][r] =
      broadcast(s.a[i * s.a_row + r * s.a_col]);
  auto column = [&]<bool begin>(int64_t j, auto&& read) __attribute__((always_inline)) {
    Vec<T> bv[deep];
    FP_UNROLL for (int r = 0; r < deep; ++r) bv[r] = read(b + r * b_row + j);
    if constexpr (fetch) {
      FP_UNROLL for (int r = 0; r < deep; ++r) __builtin_prefetch(b + ahead + r * b_row + j, 0, 2);
    }
    FP_UNROLL for (int i = 0; i < rows; ++i) {
      Vec<T> sum = begin ? zero<T>() : load(sums + i * width + j);
      FP_UNROLL for (int r = 0; r < deep; ++r) sum = fma(x[i][r], bv[r], sum);
      store(sums + i * width + j, sum);
    }
  };
  auto row = [&]<bool begin>() __attribute__((always_inline)) {
    int64_t j = 0;
    for (; j + lanes <= cols; j += lanes)
      column.template operator()<begin>(j, [](const T* p) __attribute__((always_inline)) { return load(p); });
    if (j < cols)
      column.template operator()<begin>(
          j, [&](const T* p) __attribute__((always_inline)) { return load_part(p, cols - j); });
  };
  s.begin ? row.template operator()<true>() : row.template operator()<false>();
}

template <class T>
using StreamFunction = void (*)(const Strip<T>&);

// One row of b at a time; several; several and fetching. A single row has registers left for more of them.
template <class T>
inline constexpr StreamFunction<T> kStreamSteps[3][kStreamRows] = {
    {stream_step<T, 1, 1>, stream_step<T, 2, 1>, stream_step<T, 3, 1>, stream_step<T, 4, 1>},
    {stream_step<T, 1, 8>, stream_step<T, 2, 4>, stream_step<T, 3, 4>, stream_step<T, 4, 4>},
    {stream_step<T, 1, 4, true>, stream_step<T, 2, 4, true>, stream_step<T, 3, 4, true>, stream_step<T, 4, 4, true>}};

template <class T>
bool gemm_streams(const GemmArgs<T>& g) {
  if (g.m > kStreamFarRows || g.n < 64 || g.k < 16) return false;
  const bool near = g.m <= kStreamRows || (g.m > kTileRows && g.m <= 2 * kStreamRows);
  return g.n >= (near ? kStreamBytes : kStreamFarBytes) / int64_t(sizeof(T)) / g.k;
}

template <class T>
__attribute__((noinline)) void gemm_stream(const GemmArgs<T>& g) {
  constexpr int lanes = Vec<T>::lanes;
  constexpr int64_t line = 64 / sizeof(T), most = kStripBytes / int64_t(sizeof(T));
  alignas(64) T sums[most], totals[most];  // g.m rows of up to `widest`, which is whole lines
  const int64_t widest = most / g.m / line * line, strips = (g.n + widest - 1) / widest;
  const int64_t step = ((g.n + strips - 1) / strips + line - 1) / line * line;
  // The groups of rows share what they read.
  const int64_t groups = (g.m + kStreamRows - 1) / kStreamRows, upper = (g.m + groups - 1) / groups;
  const bool fetch = g.n >= kFetchBytes / int64_t(sizeof(T)) / g.k;
  const int64_t deep = g.m == 1 && !fetch ? 8 : 4;
  Tiles<T> t{};
  t.g = &g;
  t.rows = g.m;
  t.total = totals;
  for (t.j = 0; t.j < g.n; t.j += step) {
    t.cols = g.n - t.j < step ? g.n - t.j : step;
    t.width = (t.cols + lanes - 1) / lanes * lanes;
    bool resume = g.accumulate;
    if (resume) tile_load(t);
    for (int64_t p = 0; p < g.k;) {
      const int64_t start = p, end = g.k - p < g.block ? g.k : p + g.block;
      while (p < end) {
        const int64_t taken = end - p >= deep ? deep : 1;
        const StreamFunction<T>* steps = kStreamSteps<T>[taken == 1 ? 0 : fetch ? 2 : 1];
        for (int64_t i = 0; i < g.m; i += upper) {
          const int64_t rows = g.m - i < upper ? g.m - i : upper;
          steps[rows - 1]({g.a + i * g.a_row + p * g.a_col, g.a_row, g.a_col, g.b + p * g.b_row + t.j, g.b_row, t.cols,
                           t.width, p == start, sums + i * t.width});
        }
        p += taken;
      }
      for (int64_t j = 0; j < g.m * t.width; j += lanes)
        store(totals + j, resume ? add(load(totals + j), load(sums + j)) : load(sums + j));
      resume = true;
    }
    tile_finish_total(t);
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

// Products of bfloat16 operands by vdpbf16ps, which adds the products of 16 pairs to 16 float32 sums. left is packed by
// rows, or as pairs when transposed, right as pairs. As in gemm.hpp, c is cut into panels of three registers of columns
// and tiles of up to eight rows; a tile's sums stay in registers for a block of kBlock16.
#pragma once

#include "kernels/bf16_pack.hpp"
#include "kernels/epilogue.hpp"

namespace fp::FP_ISA_NAMESPACE {

// A single row has only its columns to keep the multipliers busy.
inline constexpr int kDotRowVectors = 8;
// What the epilogue touches is fetched for sums of at least so many pairs; shorter ones cannot hide the instructions.
inline constexpr int64_t kDotPrefetch = 96;
// Sums longer than this go through the panel chunk by chunk, with the totals of up to kDotGroup rows in scratch, so
// that the panel's part stays in the second-level cache.
inline constexpr int64_t kDotChunk = 4 * kBlock16, kDotGroup = 480;

FP_INLINE Vec<float> dot(Vec<float> sum, Pairs a, Pairs b) {
  return {(Vec<float>::F)_mm512_dpbf16_ps((__m512)sum.v, (__m512bh)a.v, (__m512bh)b.v)};
}

// Consecutive tiles of a panel: those of epilogue.hpp with operands of pairs. k counts pairs.
struct Dots {
  Tiles<float> t;
  const char* left;
  int64_t left_row, left_pair, left_next;  // bytes from row to row, pair to pair, tile to tile
  const char* right;
  int64_t right_panel;  // bytes from register to register
};

template <int rows, int vectors>
void dot_tiles(Dots& d) {
  constexpr int lanes = 16, width = vectors * lanes;
  Tiles<float>& t = d.t;
  const int64_t left_row = d.left_row, left_pair = d.left_pair, right_panel = d.right_panel;
  for (; t.count > 0; --t.count, t.i += rows, d.left += d.left_next, t.total += t.total_next) {
    if (t.from_c) tile_load(t);
    const char* a = d.left;
    bool resume = t.resume;
    int64_t p = 0;
    for (;;) {
      Vec<float> acc[rows][vectors];
      FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = zero<float>();
      const int64_t end = p + kBlock16 / 2 < t.k ? p + kBlock16 / 2 : t.k;
      if (t.finish && end == t.k && t.k >= kDotPrefetch) tile_prefetch(t);
      for (const char* b = d.right + p * 64; p < end; ++p, a += left_pair, b += 64) {
        Pairs bv[vectors];
        FP_UNROLL for (int v = 0; v < vectors; ++v) bv[v] = load_pairs(b + v * right_panel);
        FP_UNROLL for (int i = 0; i < rows; ++i) {
          int32_t pair;
          __builtin_memcpy(&pair, a + i * left_row, 4);
          const Pairs x = {_mm512_set1_epi32(pair)};
          FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = dot(acc[i][v], x, bv[v]);
        }
      }
      if (resume) {
        FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
            add(load(t.total + i * width + v * lanes), acc[i][v]);
      }
      const bool done = p >= t.k;
      if constexpr (rows == kTileRows || rows == 1) {
        constexpr unsigned kinds = rows == 1 ? kForwardKinds : ~0u;
        if (done && t.finish && tile_finish<kCheapParts, kinds>(acc, t)) break;
      }
      tile_store(acc, t.total);
      resume = true;
      if (done) {
        if (t.finish) tile_finish_total(t);
        break;
      }
    }
  }
}

using DotFunction = void (*)(Dots&);

template <int tile_rows>  // a template, so that the functions are defined where the table is made
struct DotTable {
  DotFunction tile[tile_rows][kTileVectors] = {};  // [rows - 1][vectors - 1]
  DotFunction row[kDotRowVectors] = {};            // one row, [vectors - 1]
  constexpr DotTable() {
    fill_tiles<tile_rows, kTileVectors>();
    fill_row<kDotRowVectors>();
  }
  template <int rows, int vectors>
  constexpr void fill_tiles() {
    tile[rows - 1][vectors - 1] = dot_tiles<rows, vectors>;
    if constexpr (vectors > 1) fill_tiles<rows, vectors - 1>();
    if constexpr (vectors == 1 && rows > 1) fill_tiles<rows - 1, kTileVectors>();
  }
  template <int vectors>
  constexpr void fill_row() {
    row[vectors - 1] = dot_tiles<1, vectors>;
    if constexpr (vectors > 1) fill_row<vectors - 1>();
  }
};
inline constexpr DotTable<kTileRows> kDots;

inline int64_t dot_scratch(int64_t m, int64_t, int64_t k) {
  if (k <= kDotChunk) return 0;
  const int64_t tiles = (m < kDotGroup ? m : kDotGroup) * kTileVectors * 16;
  return tiles > kDotRowVectors * 16 ? tiles : kDotRowVectors * 16;
}

// Rows [i0, i1) of the panel, from pair p0 on.
__attribute__((noinline)) inline void dot_rows(Dots& d, const Product16& g, int64_t vectors, int64_t i0, int64_t i1,
                                               int64_t p0, float* totals) {
  Tiles<float>& t = d.t;
  t.from_c = g.accumulate && p0 == 0;
  t.resume = g.accumulate || p0 > 0;
  t.i = i0;
  if (totals) t.total = totals;
  const auto* left = static_cast<const char*>(g.left);
  while (t.i < i1) {
    // Tiles of even heights; panels of 16 rows must not be left within a tile.
    const int64_t left_over = i1 - t.i, tiles = (left_over + kTileRows - 1) / kTileRows;
    t.rows = g.transposed ? (left_over < kTileRows ? left_over : kTileRows) : (left_over + tiles - 1) / tiles;
    const int64_t at = g.i0 + t.i;
    if (g.transposed) {
      d.left_row = 4;
      d.left_pair = 64;
      d.left = left + at / 16 * pairs_stride(g.k) + at % 16 * 4;
      d.left_next = 0;
      t.count = 1;
    } else {
      d.left_row = rows_stride(g.k);
      d.left_pair = 4;
      d.left = left + at * d.left_row;
      d.left_next = t.rows * d.left_row;
      t.count = t.rows * tiles == left_over ? tiles : left_over - (t.rows - 1) * tiles;
    }
    d.left += p0 * d.left_pair;
    t.total_next = totals ? t.rows * t.width : 0;
    (g.m == 1 ? kDots.row[vectors - 1] : kDots.tile[t.rows - 1][vectors - 1])(d);
  }
}

inline void dot_product(const Product16& g) {
  if (g.m <= 0 || g.n <= 0 || (g.k <= 0 && g.accumulate)) return;
  const GemmArgs<float> e = epilogue_arguments(g);
  alignas(64) float total[kTileRows * kTileVectors * 16];
  Dots d{};
  Tiles<float>& t = d.t;
  t.g = &e;
  t.total = total;
  d.right_panel = pairs_stride(g.k);
  const int64_t pairs = (g.k + 1) / 2, chunk = kDotChunk / 2;
  float* totals = pairs > chunk ? g.scratch : nullptr;
  const int64_t group = totals ? kDotGroup : g.m;
  const int64_t registers = (g.n + 15) / 16, most = g.m == 1 ? kDotRowVectors : kTileVectors;
  const int64_t panels = (registers + most - 1) / most;
  for (int64_t i = 0; i < g.m; i += group) {
    const int64_t end = g.m - i < group ? g.m : i + group;
    t.j = 0;
    for (int64_t q = 0; q < panels; ++q, t.j += t.width) {
      const int64_t vectors = registers / panels + (q < registers % panels);
      t.width = vectors * 16;
      t.cols = g.n - t.j < t.width ? g.n - t.j : t.width;
      int64_t p = 0;
      do {
        t.k = totals && pairs - p > chunk ? chunk : pairs - p;
        d.right = static_cast<const char*>(g.right) + (g.j0 + t.j) / 16 * d.right_panel + p * 64;
        t.finish = p + t.k == pairs;
        dot_rows(d, g, vectors, i, end, p, totals);
        p += t.k;
      } while (p < pairs);
    }
  }
}

inline int64_t dot_peak(int64_t iterations, float* values) {
  Vec<float> acc[kTileRows][kTileVectors];
  for (auto& row : acc)
    for (auto& v : row) v = zero<float>();
  const Pairs a = convert(broadcast(values[0]), broadcast(values[0])), b = convert(zero<float>(), zero<float>());
  for (int64_t r = 0; r < iterations; ++r) {
    FP_UNROLL for (int i = 0; i < kTileRows; ++i) FP_UNROLL for (int v = 0; v < kTileVectors; ++v) acc[i][v] =
        dot(acc[i][v], a, b);
  }
  Vec<float> sum = zero<float>();
  for (auto& row : acc)
    for (auto& v : row) sum = add(sum, v);
  store_part(values + 2, 1, sum);
  return iterations * kTileRows * kTileVectors * 16 * 4;
}

}  // namespace fp::FP_ISA_NAMESPACE

// Products of bfloat16 operands by tiles: c is computed in squares of 32 by 32, four tiles of sums fed by two tiles of
// left (rows, or squares when transposed) and two of right (pairs). Sums run through a panel of 32 columns block by
// block of kBlock16, so that the panel's part stays in the first-level cache; the totals of a group of rows wait in
// scratch.
#pragma once

#include "kernels/bf16_tile_ops.hpp"
#include "kernels/epilogue.hpp"

namespace fp::FP_ISA_NAMESPACE {

inline constexpr int64_t kTileGroup = 512;
inline constexpr int kSide = 32;  // of the square

inline int64_t tile_scratch(int64_t m, int64_t, int64_t k) {
  if (k <= kBlock16) return 0;
  return ((m < kTileGroup ? m : kTileGroup) + kSide - 1) / kSide * kSide * kSide;
}

// Sums: tiles 0 to 3 (upper left, upper right, lower left, lower right); left: 4, 5; right: 6, 7. The upper tiles have
// `upper` rows, the lower ones `lower`.
inline TileShape tile_shape(int64_t upper, int64_t lower) {
  TileShape s;
  for (int i = 0; i < 8; ++i) {
    s.bytes[i] = 64;
    s.rows[i] = static_cast<uint8_t>(i == 6 || i == 7 ? 16 : i == 2 || i == 3 || i == 5 ? lower : upper);
    if (s.rows[i] == 0) s.rows[i] = 1;  // not used; zero would make the tile invalid
  }
  return s;
}

// Where the tiles of the operands lie, and how far it is to the next along the sum.
struct TileOperands {
  const char *upper, *lower;
  int64_t row, left_next;
  const char *first, *second;
};

// sums (32, 32) = the products of `count` tiles along the sum. high, wide: whether there are lower and right tiles.
template <bool high, bool wide>
void tile_block(TileUnit& u, TileOperands o, int64_t count, float* sums) {
  tile_clear<0>(u);
  if constexpr (wide) tile_clear<1>(u);
  if constexpr (high) tile_clear<2>(u);
  if constexpr (high && wide) tile_clear<3>(u);
  for (; count > 0; --count) {
    tile_read<4>(u, o.upper, o.row);
    tile_read<6>(u, o.first, 64);
    tile_multiply<0, 4, 6>(u);
    if constexpr (wide) {
      tile_read<7>(u, o.second, 64);
      tile_multiply<1, 4, 7>(u);
    }
    if constexpr (high) {
      tile_read<5>(u, o.lower, o.row);
      tile_multiply<2, 5, 6>(u);
    }
    if constexpr (high && wide) tile_multiply<3, 5, 7>(u);
    o.upper += o.left_next;
    o.lower += o.left_next;
    o.first += 1024;
    o.second += 1024;
  }
  constexpr int64_t stride = kSide * sizeof(float);
  tile_write<0>(u, sums, stride);
  if constexpr (wide) tile_write<1>(u, sums + 16, stride);
  if constexpr (high) tile_write<2>(u, sums + 16 * kSide, stride);
  if constexpr (high && wide) tile_write<3>(u, sums + 16 * kSide + 16, stride);
}

// The epilogue of a finished square of t.rows rows in t.total, rows of 32; eight rows at a time go through registers.
template <int vectors>
void tile_square_finish(Tiles<float>& t) {
  const int64_t rows = t.rows, i = t.i, row = t.width;
  float* total = t.total;
  alignas(64) float closed[kTileRows * vectors * 16];
  t.width = vectors * 16;
  for (int64_t r = 0; r < rows; r += kTileRows) {
    t.i = i + r;
    t.rows = rows - r < kTileRows ? rows - r : kTileRows;
    t.total = closed;
    Vec<float> acc[kTileRows][vectors];
    FP_UNROLL for (int s = 0; s < kTileRows; ++s) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[s][v] =
        load(total + (r + s) * row + v * 16);
    if (t.rows == kTileRows && tile_finish(acc, t)) continue;
    tile_store(acc, closed);
    tile_finish_total(t);
  }
  t.i = i;
  t.rows = rows;
  t.total = total;
  t.width = row;
}

inline void tile_product(const Product16& g) {
  if (g.m <= 0 || g.n <= 0 || (g.k <= 0 && g.accumulate)) return;
  const GemmArgs<float> e = epilogue_arguments(g);

  constexpr int64_t square = kSide * kSide, block_tiles = kBlock16 / 32;
  alignas(64) float sums[square] = {};
  TileUnit unit;
  int64_t shaped = 0;  // rows that the tiles are configured for
  Tiles<float> t{};
  t.g = &e;
  t.width = kSide;
  const int64_t tiles = padded_sum(g.k) / 32, right_panel = pairs_stride(g.k);
  const int64_t left_panel = g.transposed ? squares_stride(g.k) : 16 * rows_stride(g.k);
  const int64_t group = tiles > block_tiles ? kTileGroup : g.m;
  TileOperands o{};
  o.row = g.transposed ? 64 : rows_stride(g.k);
  o.left_next = g.transposed ? 1024 : 64;
  for (int64_t i0 = 0; i0 < g.m; i0 += group) {
    const int64_t i1 = g.m - i0 < group ? g.m : i0 + group;
    for (t.j = 0; t.j < g.n; t.j += kSide) {
      t.cols = g.n - t.j < kSide ? g.n - t.j : kSide;
      const char* right = static_cast<const char*>(g.right) + (g.j0 + t.j) / 16 * right_panel;
      int64_t p = 0;
      do {
        const int64_t count = tiles - p < block_tiles ? tiles - p : block_tiles;
        float* totals = g.scratch;
        for (t.i = i0; t.i < i1; t.i += kSide, totals += square) {
          t.rows = i1 - t.i < kSide ? i1 - t.i : kSide;
          if (t.rows != shaped) {
            shaped = t.rows;
            tile_configure(unit, tile_shape(shaped < 16 ? shaped : 16, shaped > 16 ? shaped - 16 : 0));
          }
          const int64_t at = g.i0 + t.i;
          o.upper = static_cast<const char*>(g.left) + p * o.left_next;
          o.upper += g.transposed ? at / 16 * left_panel : at * o.row;
          o.lower = o.upper + left_panel;
          o.first = right + p * 1024;
          o.second = o.first + right_panel;
          const bool wide = t.cols > 16;
          if (t.rows > 16)
            (wide ? tile_block<true, true> : tile_block<true, false>)(unit, o, count, sums);
          else
            (wide ? tile_block<false, true> : tile_block<false, false>)(unit, o, count, sums);
          const int64_t used = t.rows * kSide;
          const bool first = p == 0, last = p + count == tiles;
          if (first && g.accumulate) {
            alignas(64) float earlier[square] = {};  // tile_load leaves out what lies beyond the last column
            t.total = earlier;
            tile_load(t);
            for (int64_t s = 0; s < used; s += 16) store(sums + s, add(load(earlier + s), load(sums + s)));
          } else if (!first) {
            for (int64_t s = 0; s < used; s += 16) store(sums + s, add(load(totals + s), load(sums + s)));
          }
          t.total = sums;
          if (!last) {
            for (int64_t s = 0; s < used; s += 16) store(totals + s, load(sums + s));
          } else if (wide) {
            tile_square_finish<2>(t);
          } else {
            tile_square_finish<1>(t);
          }
        }
        p += count;
      } while (p < tiles);
    }
  }
  tile_release(unit);
}

inline int64_t tile_peak(int64_t iterations, float* values) {
  TileUnit unit;
  alignas(64) float square[16 * 16] = {};
  square[0] = values[0];
  tile_configure(unit, tile_shape(16, 16));
  tile_read<4>(unit, square, 64);
  tile_read<5>(unit, square, 64);
  tile_clear<6>(unit);
  tile_clear<7>(unit);
  tile_clear<0>(unit);
  tile_clear<1>(unit);
  tile_clear<2>(unit);
  tile_clear<3>(unit);
  for (int64_t r = 0; r < iterations; ++r) {
    tile_multiply<0, 4, 6>(unit);
    tile_multiply<1, 4, 7>(unit);
    tile_multiply<2, 5, 6>(unit);
    tile_multiply<3, 5, 7>(unit);
  }
  tile_write<0>(unit, square, 64);
  values[2] = square[0];
  tile_release(unit);
  return iterations * 4 * 16 * 16 * 32 * 2;
}

}  // namespace fp::FP_ISA_NAMESPACE

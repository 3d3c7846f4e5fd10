// Products of bfloat16 operands by tiles: c is computed in squares of 32 by 32, four tiles of sums fed by two tiles of
// left (squares) and two of right (pairs). The squares of a group of rows, whose part of left stays in the second-level
// cache, pass by a panel of 32 columns. Longer sums are cut into blocks, between which they wait in scratch.
#pragma once

#include "kernels/bf16_tile_ops.hpp"
#include "kernels/epilogue.hpp"

namespace fp::FP_ISA_NAMESPACE {

inline constexpr int kSide = 32;  // of the square
// Of one block, in tiles: 64 KiB of right. (Shorter blocks, whose right operand stays in the first-level cache, lose
// more at their ends than they gain.)
inline constexpr int64_t kTileBlock = 32;
// Rows of a group: at most, and at least; between them as many as make up this many numbers of left (1 MiB).
inline constexpr int64_t kTileGroup = 512, kTileGroupLeast = 128, kTileGroupNumbers = int64_t(1) << 19;
// From so many tiles along a sum on, what the epilogue touches is fetched; shorter sums cannot hide the instructions.
inline constexpr int64_t kTileFetch = 4;

// A single square leaves nothing in cache for others.
inline int64_t tile_blocks(int64_t m, int64_t k) {
  const int64_t tiles = padded_sum(k) / 32;
  return m <= kSide || tiles <= kTileBlock ? 1 : (tiles + kTileBlock - 1) / kTileBlock;
}

inline int64_t tile_group(int64_t m, int64_t k) {
  if (tile_blocks(m, k) == 1) return m;
  const int64_t fit = kTileGroupNumbers / padded_sum(k) / kSide * kSide;
  const int64_t rows = fit > kTileGroup ? kTileGroup : fit < kTileGroupLeast ? kTileGroupLeast : fit;
  return m < rows ? m : rows;
}

// Never less for a larger product, whose groups may have fewer rows.
inline int64_t tile_scratch(int64_t m, int64_t, int64_t k) {
  const int64_t rows = m < kTileGroup ? m : kTileGroup;
  return tile_blocks(m, k) == 1 ? 0 : (rows + kSide - 1) / kSide * kSide * kSide;
}

// Sums: tiles 0 to 3 (upper left, upper right, lower left, lower right); left: 4, 5; right: 6, 7. The rows of right are
// pairs along the sum, those of the others rows of c.
inline TileShape tile_shape(int64_t rows) {
  TileShape s;
  for (int i = 0; i < 8; ++i) {
    s.bytes[i] = 64;
    s.rows[i] = static_cast<uint8_t>(i >= 6 ? 16 : rows);
  }
  return s;
}

// Where the tiles of the operands lie; the next along the sum follows at once.
struct TileOperands {
  const char *upper, *lower;   // of left
  const char *first, *second;  // of right
};

// What the epilogue of a square of two lines a row will touch besides c.
enum class TileOther { nothing, read, written };

// Fetched with every step along the sum: a row, in all steps of a square or in none, since a branch would cost as much.
// (More rows at a time would keep the lines of the tiles waiting.)
struct TileFetch {
  const char *c, *other;
  int64_t c_row, other_row;
};

FP_INLINE void fetch_to_write(const char* p) { asm volatile("prefetchw %0" : : "m"(*p)); }

template <TileOther other>
FP_INLINE void tile_fetch(TileFetch& f) {
  fetch_to_write(f.c);
  fetch_to_write(f.c + 64);
  f.c += f.c_row;
  if constexpr (other == TileOther::written) {
    fetch_to_write(f.other);
    fetch_to_write(f.other + 64);
  } else if constexpr (other == TileOther::read) {
    __builtin_prefetch(f.other);
    __builtin_prefetch(f.other + 64);
  }
  f.other += f.other_row;
}

// to (32, 32) = from, or zero without, + the products of `count` tiles along the sum; strides in bytes. high, wide:
// whether there are lower and right tiles.
template <bool high, bool wide, bool fetch = false, TileOther other = TileOther::nothing>
void tile_block(TileUnit& u, TileOperands o, int64_t count, const float* from, int64_t from_row, float* to,
                int64_t to_row, TileFetch f) {
  if (from) {
    const char* lower = reinterpret_cast<const char*>(from) + 16 * from_row;
    tile_read<0>(u, from, from_row);
    if constexpr (wide) tile_read<1>(u, from + 16, from_row);
    if constexpr (high) tile_read<2>(u, lower, from_row);
    if constexpr (high && wide) tile_read<3>(u, lower + 64, from_row);
  } else {
    tile_clear<0>(u);
    if constexpr (wide) tile_clear<1>(u);
    if constexpr (high) tile_clear<2>(u);
    if constexpr (high && wide) tile_clear<3>(u);
  }
  for (; count > 0; --count) {
    tile_read<4>(u, o.upper, 64);
    tile_read<6>(u, o.first, 64);
    tile_multiply<0, 4, 6>(u);
    if constexpr (wide) {
      tile_read<7>(u, o.second, 64);
      tile_multiply<1, 4, 7>(u);
    }
    if constexpr (high) {
      tile_read<5>(u, o.lower, 64);
      tile_multiply<2, 5, 6>(u);
    }
    if constexpr (high && wide) tile_multiply<3, 5, 7>(u);
    o.upper += 1024;
    o.lower += 1024;
    o.first += 1024;
    o.second += 1024;
    if constexpr (fetch) tile_fetch<other>(f);
  }
  char* lower = reinterpret_cast<char*>(to) + 16 * to_row;
  tile_write<0>(u, to, to_row);
  if constexpr (wide) tile_write<1>(u, to + 16, to_row);
  if constexpr (high) tile_write<2>(u, lower, to_row);
  if constexpr (high && wide) tile_write<3>(u, lower + 64, to_row);
}

using TileBlock = void (*)(TileUnit&, TileOperands, int64_t, const float*, int64_t, float*, int64_t, TileFetch);
FP_INLINE TileBlock tile_block_for(bool high, bool wide, bool fetch, TileOther other) {
  if (!high) return wide ? tile_block<false, true> : tile_block<false, false>;
  if (!wide) return tile_block<true, false>;
  if (!fetch) return tile_block<true, true>;
  return other == TileOther::nothing ? tile_block<true, true, true>
         : other == TileOther::read  ? tile_block<true, true, true, TileOther::read>
                                     : tile_block<true, true, true, TileOther::written>;
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
  const Epilogue<float>& ends = e.epilogue;

  constexpr int64_t square = kSide * kSide, square_row = kSide * sizeof(float);
  alignas(64) float sums[square] = {};
  TileUnit unit;
  tile_configure(unit, tile_shape(g.m < 16 ? g.m : 16));
  Tiles<float> t{};
  t.g = &e;
  t.width = kSide;
  const int64_t c_row = g.c_row * static_cast<int64_t>(sizeof(float));
  const int64_t tiles = padded_sum(g.k) / 32, right_panel = pairs_stride(g.k);
  const int64_t left_panel = squares_stride(g.k);
  const int64_t group = tile_group(g.m, g.k), blocks = tile_blocks(g.m, g.k);
  TileOperands o{};
  const float* other = ends.saved ? ends.saved : ends.pre ? ends.pre : ends.velocity;
  const TileOther touched = ends.saved ? TileOther::read : other ? TileOther::written : TileOther::nothing;
  TileFetch f{};
  f.c_row = c_row;
  f.other_row = (ends.saved ? ends.saved_row : ends.pre ? ends.pre_row : g.c_row) * static_cast<int64_t>(sizeof(float));
  for (int64_t i0 = 0; i0 < g.m; i0 += group) {
    const int64_t i1 = g.m - i0 < group ? g.m : i0 + group;
    for (t.j = 0; t.j < g.n; t.j += kSide) {
      t.cols = g.n - t.j < kSide ? g.n - t.j : kSide;
      const bool wide = t.cols > 16;
      const char* right = static_cast<const char*>(g.right) + (g.j0 + t.j) / 16 * right_panel;
      for (int64_t block = 0; block < blocks; ++block) {
        const bool last = block == blocks - 1;
        const int64_t p = tiles * block / blocks, end = tiles * (block + 1) / blocks, steps = end - p;
        float* totals = g.scratch;
        for (t.i = i0; t.i < i1; t.i += kSide, totals += square) {
          t.rows = i1 - t.i < kSide ? i1 - t.i : kSide;
          o.upper = static_cast<const char*>(g.left) + (g.i0 + t.i) / 16 * left_panel + p * 1024;
          o.lower = o.upper + left_panel;
          o.first = right + p * 1024;
          o.second = o.first + right_panel;

          // Rows of c, from the first step on until all are on their way.
          const bool fetch = tiles >= kTileFetch && p < t.rows;
          if (fetch) {
            f.c = reinterpret_cast<const char*>(g.c + (t.i + p) * g.c_row + t.j);
            f.other = other ? reinterpret_cast<const char*>(other + t.j) + (t.i + p) * f.other_row : f.c;
          }

          float* c = g.c + t.i * g.c_row + t.j;
          const bool whole = t.rows % 16 == 0 && t.cols % 16 == 0;  // c has room for the tiles
          const float* from = nullptr;
          int64_t from_row = square_row, to_row = square_row;
          if (block > 0) {
            from = totals;
          } else if (g.accumulate && whole) {
            from = c;
            from_row = c_row;
          } else if (g.accumulate) {
            t.total = sums;
            tile_load(t);
            from = sums;
          }
          const bool direct = last && whole && ends.kind == EpilogueKind::store;
          float* to = direct ? c : last ? sums : totals;
          if (direct) to_row = c_row;
          tile_block_for(t.rows > 16, wide, fetch, touched)(unit, o, steps, from, from_row, to, to_row, f);
          if (!last || direct) continue;
          t.total = sums;
          (wide ? tile_square_finish<2> : tile_square_finish<1>)(t);
        }
      }
    }
  }
  tile_release(unit);
}

inline int64_t tile_peak(int64_t iterations, float* values) {
  TileUnit unit;
  alignas(64) float square[16 * 16] = {};
  square[0] = values[0];
  tile_configure(unit, tile_shape(16));
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

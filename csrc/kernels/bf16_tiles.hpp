// Products of bfloat16 operands by tiles: c is computed in squares of 32 by 32, four tiles of sums fed by two tiles of
// left (squares) and two of right (pairs). The squares of a group of rows, whose part of left stays in the second-level
// cache, pass by a panel of 32 columns. Longer sums are cut into blocks, between which they wait in scratch.
#pragma once

#include "kernels/bf16_tile_ends.hpp"
#include "kernels/bf16_tile_ops.hpp"

namespace fp::FP_ISA_NAMESPACE {

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

// What the epilogue of a square will touch is fetched along the sum, two lines of each matrix with every step, in all
// steps of a square or in none, since a branch would cost as much. (More at a time would keep the lines of the tiles
// waiting.)
struct TileLines {
  const char* at;
  int64_t second;  // from the first of the two to the second
  int64_t next;    // from step to step
};
struct TileFetch {
  TileLines written, also_written, read;
  const char* ahead;  // of right's next panel, for the second-level cache: 16 squares fetch all of it
};
// What there is besides `written`.
enum class TileOthers { none, written, read, both };

FP_INLINE void fetch_to_write(const char* p) { asm volatile("prefetchw %0" : : "m"(*p)); }

template <TileOthers others>
FP_INLINE void tile_fetch(TileFetch& f) {
  __builtin_prefetch(f.ahead, 0, 2);
  __builtin_prefetch(f.ahead + 64, 0, 2);
  f.ahead += 128;
  fetch_to_write(f.written.at);
  fetch_to_write(f.written.at + f.written.second);
  f.written.at += f.written.next;
  if constexpr (others == TileOthers::written || others == TileOthers::both) {
    fetch_to_write(f.also_written.at);
    fetch_to_write(f.also_written.at + f.also_written.second);
    f.also_written.at += f.also_written.next;
  }
  if constexpr (others == TileOthers::read || others == TileOthers::both) {
    __builtin_prefetch(f.read.at);
    __builtin_prefetch(f.read.at + f.read.second);
    f.read.at += f.read.next;
  }
}

// to (32, 32) = from, or zero without, + the products of `count` tiles along the sum; strides in bytes. high, wide:
// whether there are lower and right tiles.
template <bool high, bool wide, bool fetch = false, TileOthers others = TileOthers::none>
void tile_block(TileUnit& u, TileOperands o, int64_t count, const float* from, int64_t from_row, float* to,
                int64_t to_row, TileFetch f, TileEnd& before) {
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
  constexpr int64_t parts = kSide / kTileRows;
  for (int64_t step = (count + parts - 1) / parts, left = step; count > 0; --count) {
    tile_read_once<4>(u, o.upper, 64);
    tile_read<6>(u, o.first, 64);
    tile_multiply<0, 4, 6>(u);
    if constexpr (wide) {
      tile_read<7>(u, o.second, 64);
      tile_multiply<1, 4, 7>(u);
    }
    if constexpr (high) {
      tile_read_once<5>(u, o.lower, 64);
      tile_multiply<2, 5, 6>(u);
    }
    if constexpr (high && wide) tile_multiply<3, 5, 7>(u);
    o.upper += 1024;
    o.lower += 1024;
    o.first += 1024;
    o.second += 1024;
    if constexpr (fetch) tile_fetch<others>(f);
    if (--left == 0 || count == 1) {
      before.some();
      left = step;
    }
  }
  char* lower = reinterpret_cast<char*>(to) + 16 * to_row;
  tile_write<0>(u, to, to_row);
  if constexpr (wide) tile_write<1>(u, to + 16, to_row);
  if constexpr (high) tile_write<2>(u, lower, to_row);
  if constexpr (high && wide) tile_write<3>(u, lower + 64, to_row);
}

using TileBlock = void (*)(TileUnit&, TileOperands, int64_t, const float*, int64_t, float*, int64_t, TileFetch,
                           TileEnd&);
FP_INLINE TileBlock tile_block_for(bool high, bool wide, bool fetch, TileOthers others) {
  if (!high) return wide ? tile_block<false, true> : tile_block<false, false>;
  if (!wide) return tile_block<true, false>;
  if (!fetch) return tile_block<true, true>;
  switch (others) {
    case TileOthers::none:
      return tile_block<true, true, true>;
    case TileOthers::written:
      return tile_block<true, true, true, TileOthers::written>;
    case TileOthers::read:
      return tile_block<true, true, true, TileOthers::read>;
    case TileOthers::both:
      return tile_block<true, true, true, TileOthers::both>;
  }
  return nullptr;
}

// A matrix that the epilogues of squares touch: rows of float32 numbers, or an operand that keeps results.
struct TileMatrix {
  enum Layout { rows, squares, pairs } layout = rows;
  const void* data = nullptr;
  int64_t size = 0;        // numbers from row to row; or columns of squares, or rows of pairs
  int64_t i0 = 0, j0 = 0;  // where the product begins in it

  // The lines of the square at (i, j), from step `step` of `steps` on.
  TileLines lines(int64_t i, int64_t j, int64_t step, int64_t steps) const {
    const char* at = static_cast<const char*>(data);
    if (!data) return {nullptr, 0, 0};
    if (layout == rows) {
      const int64_t row = size * static_cast<int64_t>(sizeof(float));
      return {at + (i + step) * row + j * static_cast<int64_t>(sizeof(float)), 64, row};
    }
    // 16 lines of either panel follow each other; where there is time for it, each is asked for twice.
    const int64_t next = steps < kSide ? 64 : 32;
    i += i0;
    j += j0;
    return layout == squares ? TileLines{at + in_squares(i, j, size) + step * next, squares_stride(size), next}
                             : TileLines{at + in_pairs(i, j, size) + step * next, pairs_stride(size), next};
  }
};

// All of them.
struct TileTouched {
  TileMatrix written, also_written, read;
  TileOthers others;

  explicit TileTouched(const Product16& g, const Epilogue<float>& e) {
    const Kept16& k = g.kept;
    const TileMatrix left{TileMatrix::squares, k.left, k.cols, k.i, g.j0},
        right{TileMatrix::pairs, k.right, k.rows, k.i, g.j0};
    written = g.c ? TileMatrix{TileMatrix::rows, g.c, g.c_row} : k.left ? left : right;
    also_written = e.velocity       ? TileMatrix{TileMatrix::rows, e.velocity, g.c_row}
                   : e.pre          ? TileMatrix{TileMatrix::rows, e.pre, e.pre_row}
                   : k.left && !g.c ? right
                                    : TileMatrix{};
    read = k.saved ? TileMatrix{TileMatrix::squares, k.saved, k.cols, k.i, g.j0}
                   : TileMatrix{TileMatrix::rows, e.saved, e.saved_row};
    others = also_written.data ? (read.data ? TileOthers::both : TileOthers::written)
             : read.data       ? TileOthers::read
                               : TileOthers::none;
  }
  TileFetch at(int64_t i, int64_t j, int64_t step, int64_t steps, const char* ahead) const {
    return {written.lines(i, j, step, steps), also_written.lines(i, j, step, steps), read.lines(i, j, step, steps),
            ahead};
  }
};

inline void tile_product(const Product16& g) {
  if (g.m <= 0 || g.n <= 0 || (g.k <= 0 && g.accumulate)) return;
  const GemmArgs<float> e = epilogue_arguments(g);
  const Epilogue<float>& ends = e.epilogue;

  constexpr int64_t square = kSide * kSide, square_row = kSide * sizeof(float);
  alignas(64) float sums[2][square], room[kTileRows * kSide];  // of this square and of the one before
  alignas(64) char half[kTileRows * 64];
  if (g.m < 16) __builtin_memset(sums, 0, sizeof sums);  // tiles have fewer rows than are read
  int turn = 0;
  TileUnit unit;
  tile_configure(unit, tile_shape(g.m < 16 ? g.m : 16));
  Tiles<float> t{};
  t.g = &e;
  t.width = kSide;
  TileEnd before{g, t, half, nullptr, 0, nullptr};
  before.t.total = room;
  const int64_t c_row = g.c_row * static_cast<int64_t>(sizeof(float));
  const int64_t tiles = padded_sum(g.k) / 32, right_panel = pairs_stride(g.k);
  const int64_t left_panel = squares_stride(g.k);
  const int64_t group = tile_group(g.m, g.k), blocks = tile_blocks(g.m, g.k);
  TileOperands o{};
  const TileTouched touched(g, ends);
  TileFetch f{};
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

          // From the first step on until all rows are on their way.
          const bool fetch = tiles >= kTileFetch && p < t.rows && touched.written.data;
          if (fetch) f = touched.at(t.i, t.j, p, tiles, right + 2 * right_panel + (t.i - i0) / kSide * steps * 128);

          float* c = g.c ? g.c + t.i * g.c_row + t.j : nullptr;
          const bool whole = c && t.rows % 16 == 0 && t.cols % 16 == 0;  // c has room for the tiles
          const float* from = nullptr;
          int64_t from_row = square_row, to_row = square_row;
          if (block > 0) {
            from = totals;
          } else if (g.accumulate && whole) {
            from = c;
            from_row = c_row;
          } else if (g.accumulate) {
            t.total = sums[turn];
            tile_load(t);
            from = t.total;
          }
          const bool direct = last && whole && ends.kind == EpilogueKind::store;
          float* to = direct ? c : last ? sums[turn] : totals;
          if (direct) to_row = c_row;
          tile_block_for(t.rows > 16, wide, fetch, touched.others)(unit, o, steps, from, from_row, to, to_row, f,
                                                                   before);
          before.all();
          if (!last || direct) continue;
          before.eight = c ? (wide ? tile_end_in_c<2> : tile_end_in_c<1>) : wide ? tile_end_kept<2> : tile_end_kept<1>;
          before.t.i = t.i;
          before.t.j = t.j;
          before.t.cols = t.cols;
          before.t.width = wide ? 32 : 16;
          before.at = to;
          before.rows = t.rows;
          turn ^= 1;
        }
      }
    }
  }
  before.all();
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

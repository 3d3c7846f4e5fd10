// The dense product in ordered sums (see table.hpp; b_row >= n where k > 1). c is cut into panels of a few registers of
// columns, a panel into tiles of a few rows; a tile's sums stay in registers for a block, and its total in a
// buffer of its size.
#pragma once

#include "kernels/gemm_column.hpp"
#include "kernels/gemm_sparse.hpp"
#include "kernels/gemm_stream.hpp"
#include "kernels/gemm_thin.hpp"
#include "kernels/gemm_tiles.hpp"
#include "kernels/sums.hpp"

namespace fp::FP_ISA_NAMESPACE {

// A single row has only its columns to keep the multipliers busy.
inline constexpr int kRowVectors = 8;

// Packing of b: the first tile of a panel copies the part of b it reads, kChunk rows at most, to where it lies together
// for the others. It pays from kPackRows rows of c on, where b has kPackBytes and, times the rows that share it,
// kPackShared: for a b that does not fit the inner caches. On AVX2 it pays sooner: panels are one line and a half wide,
// of two that they touch, and multiplications take little longer than lines of the second-level cache. Sums longer than
// kChunk keep the totals of up to kGroupRows rows in scratch meanwhile.
#if defined(FP_ISA_AVX2)
inline constexpr int64_t kPackRows = 32, kPackBytes = 32 * 1024, kPackShared = 8 * 1024 * 1024;
#else
inline constexpr int64_t kPackRows = 64, kPackBytes = 512 * 1024, kPackShared = kPackRows * kPackBytes;
#endif
inline constexpr int64_t kChunk = 4 * kBlock, kGroupRows = 480;
// Rows of c from which on tiles fetch the next panel of b, and, by registers as kTallRows, may have more rows.
inline constexpr int64_t kFetchRows = 4 * kTileRows, kTallFrom[] = {16, 64, 64};

// Packing of a transposed a: as many rows of c as fit into kPackedBytes, tile by tile. Each tile would otherwise touch
// one line, often one page, for every index of the sum, in every panel; up to kPackDepth of them stay in the cache.
inline constexpr int64_t kPackLeftRows = 64, kPackLeftBytes = 512 * 1024, kPackColumns = 256,
                         kPackDepth = 64 * kTileRows, kPackedBytes = 1024 * 1024;

template <class T>
inline constexpr int64_t kPanel = kTileVectors * Vec<T>::lanes;

template <class T>
using TileFunction = void (*)(Tiles<T>&);

template <class T>
struct TileTable {
  TileFunction<T> tile[kTileRows][kTileVectors] = {};         // [rows - 1][vectors - 1]
  TileFunction<T> tall[kTallRows[0] + 1][kTileVectors] = {};  // more than kTileRows rows, [rows][vectors - 1]
  TileFunction<T> halved[kTileRows][kTileVectors] = {};       // the same with half of the last register
  TileFunction<T> ragged[kTileVectors] = {};                  // kTileRows rows, c ends within the last register
  TileFunction<T> pack[kTileVectors] = {};                    // kTileRows rows and a copy of b, [vectors - 1]
  TileFunction<T> row[kRowVectors] = {};                      // one row, [vectors - 1]
  TileFunction<T> thin[kTileRows][kTileVectors] = {};         // a single column in the last register, a_row == 1
  TileFunction<T> turned[kTileVectors] = {};                  // the same of kTileRows rows, a_col == 1
  TileFunction<T> scattered[kTileRows][kTileVectors] = {};    // rows of a that lie anywhere
  TileFunction<T> scattered_pack[kTileVectors] = {};
  TileFunction<T> fetching[2] = {};  // kTileRows rows, kTileVectors wide, what is read next fetched; [scattered]
  TileFunction<T> sparse[2][kSparseVectors] = {};  // [a_row == 1]: a whole panel, where a is mostly zeros
  constexpr TileTable() {
    fill_tiles<kTileRows, kTileVectors>();
    fill_row<kRowVectors>();
    if constexpr (kSparse) fill_sparse<kSparseVectors>();
  }
  template <int rows, int vectors>
  constexpr void fill_tiles() {
    tile[rows - 1][vectors - 1] = gemm_tiles<T, rows, vectors>;
    if constexpr (rows == kTileRows) fill_tall<kTallRows[vectors - 1], vectors>();
    if constexpr (kLoops && rows == kTileRows && vectors > 1) ragged[vectors - 1] = ragged_tiles<T, vectors>;
    if constexpr (kHalves) halved[rows - 1][vectors - 1] = gemm_tiles<T, rows, vectors, Reading::halved>;
    if constexpr (rows == kTileRows) pack[vectors - 1] = gemm_tiles<T, rows, vectors, Reading::packing>;
    if constexpr (kThin<T> && rows >= kThinRows) thin[rows - 1][vectors - 1] = thin_tiles<T, rows, vectors>;
    if constexpr (kThin<T> && rows == kTileRows) turned[vectors - 1] = thin_tiles<T, rows, vectors, true>;
    if constexpr (kFetching && rows == kTileRows && vectors == kTileVectors) {
      fetching[0] = gemm_tiles<T, rows, vectors, Reading::fetching>;
      if constexpr (kScattered) fetching[1] = gemm_tiles<T, rows, vectors, Reading::fetching, true>;
    }
    if constexpr (kScattered) {
      scattered[rows - 1][vectors - 1] = gemm_tiles<T, rows, vectors, Reading::plain, true>;
      if constexpr (rows == kTileRows)
        scattered_pack[vectors - 1] = gemm_tiles<T, rows, vectors, Reading::packing, true>;
    }
    if constexpr (vectors > 1) fill_tiles<rows, vectors - 1>();
    if constexpr (vectors == 1 && rows > 1) fill_tiles<rows - 1, kTileVectors>();
  }
  template <int rows, int vectors>
  constexpr void fill_tall() {
    if constexpr (rows > kTileRows) {
      tall[rows][vectors - 1] = gemm_tiles<T, rows, vectors>;
      fill_tall<rows - 1, vectors>();
    }
  }
  template <int vectors>
  constexpr void fill_row() {
    row[vectors - 1] = gemm_tiles<T, 1, vectors>;
    if constexpr (vectors > 1) fill_row<vectors - 1>();
  }
  template <int vectors>
  constexpr void fill_sparse() {
    sparse[0][vectors - 1] = sparse_panel<T, vectors, false>;
    sparse[1][vectors - 1] = sparse_panel<T, vectors, true>;
    if constexpr (vectors > 1) fill_sparse<vectors - 1>();
  }
};
template <class T>
inline constexpr TileTable<T> kTiles;

// What sums these tiles, t.rows high and `vectors` wide; packing: copying b.
template <class T>
TileFunction<T> tiles_for(const Tiles<T>& t, int64_t vectors, bool packing = false) {
  const TileTable<T>& table = kTiles<T>;
  const bool scattered = kScattered && t.a_rows && t.a_col == 1;
  if (packing) return (scattered ? table.scattered_pack : table.pack)[vectors - 1];
  if (kFetching && t.next && t.rows == kTileRows && vectors == kTileVectors && t.cols == t.width)
    return table.fetching[scattered];
  if (kTallRows[0] > kTileRows && t.rows > kTileRows) return table.tall[t.rows][vectors - 1];
  if (scattered) return table.scattered[t.rows - 1][vectors - 1];
  if (t.g->m == 1) return table.row[vectors - 1];
  if (kThin<T> && t.cols == t.width - Vec<T>::lanes + 1) {
    if (t.a_row == 1 && t.rows >= kThinRows) return table.thin[t.rows - 1][vectors - 1];
    if (t.a_col == 1 && t.rows == kTileRows) return table.turned[vectors - 1];
  }
  if (kLoops && t.cols < t.width && vectors > 1 && t.rows == kTileRows && !t.g->c_padded)
    return table.ragged[vectors - 1];
  const bool half = kHalves && t.cols <= t.width - Vec<T>::lanes / 2;
  return (half ? table.halved : table.tile)[t.rows - 1][vectors - 1];
}

// Rows cut into tiles of at most so many: first `longer` tiles of height size + 1, then others of height size. Even
// heights keep more multiplications in flight than a short last tile.
struct Heights {
  int64_t tiles, size, longer;
  explicit Heights(int64_t rows, int64_t most = kTileRows)
      : tiles((rows + most - 1) / most), size(rows / tiles), longer(rows % tiles) {}
  int64_t first() const { return size + (longer > 0); }
};

// How high the tiles of so many rows may be. Packed rows of a lie in tiles of kTileRows, and tiles with a single column
// or part of a register apart have that height, too.
template <class T>
int64_t most_rows(const Tiles<T>& t, int64_t vectors, int64_t rows, const T* packed_a) {
  const GemmArgs<T>& g = *t.g;
  if (g.m == 1 || packed_a || g.a_rows || rows < kTallFrom[vectors - 1]) return kTileRows;
  const bool some = t.cols > t.width - Vec<T>::lanes + 1 && (g.c_padded || vectors == 1);
  return some || t.cols == t.width ? kTallRows[vectors - 1] : kTileRows;
}

// Copies rows [i, i + rows) of a transposed a tile by tile: tile, index, row.
template <class T>
__attribute__((noinline)) void gemm_pack_transposed(const GemmArgs<T>& g, int64_t i, int64_t rows, T* out) {
  constexpr int64_t line = 64 / sizeof(T), together = line > kTileRows ? line / kTileRows : 1;
  const Heights h(rows);
  int64_t height[together];
  for (int64_t q = 0; q < h.tiles; q += together) {
    const int64_t end = h.tiles - q < together ? h.tiles - q : together;
    for (int64_t s = 0; s < end; ++s) height[s] = h.size + (q + s < h.longer);
    int64_t sum = 0;
    for (int64_t p = 0; p < g.k; ++p) {
      const T* from = g.a_rows ? g.a_rows[p] + g.a_first + i : g.a + i + p * g.a_col;
      __builtin_prefetch(from + kAhead * g.a_col);
      T* to = out;
      sum = 0;
      for (int64_t s = 0; s < end; ++s) {
        if (height[s] == kTileRows)
          __builtin_memcpy(to + p * kTileRows, from + sum, kTileRows * sizeof(T));
        else
          for (int64_t r = 0; r < height[s]; ++r) to[p * height[s] + r] = from[sum + r];
        to += height[s] * g.k;
        sum += height[s];
      }
    }
    out += sum * g.k;
    i += sum;
  }
}

// Where tiles of t.rows rows, from t.i on, find a from index p0 on. packed_a: rows of a from i0 on, packed, or nullptr.
template <class T>
void gemm_left(Tiles<T>& t, int64_t p0, const T* packed_a, int64_t i0) {
  const GemmArgs<T>& g = *t.g;
  t.a = nullptr;
  t.a_rows = nullptr;
  t.a_row = g.a_row;
  t.a_col = g.a_col;
  t.a_next = t.rows * g.a_row;
  if (packed_a) {
    t.a_row = 1;
    t.a_col = t.rows;
    t.a_next = t.rows * g.k;
    t.a = packed_a + (t.i - i0) * g.k + p0 * t.a_col;
  } else if (!g.a_rows) {
    t.a = g.a + t.i * g.a_row + p0 * g.a_col;
  } else if (g.a_col == 1) {
    t.a_rows = g.a_rows;
    t.a_first = g.a_first + p0;
  } else {
    t.a_rows = g.a_rows + p0;
    t.a_first = g.a_first;
    t.a_next = 0;
  }
}

// Rows [i0, i1) of one panel of `vectors` registers, indices from p0 on. packed_a: these rows of a, or nullptr.
// totals: a place for each tile's total, or nullptr.
template <class T>
__attribute__((noinline)) void gemm_rows(Tiles<T>& t, int64_t vectors, int64_t i0, int64_t i1, int64_t p0,
                                         const T* packed_a, T* totals) {
  const GemmArgs<T>& g = *t.g;
  t.i = i0;
  if (totals) t.total = totals;
  t.from_c = g.accumulate && p0 == 0;
  t.resume = g.accumulate || p0 > 0;
  const auto run = [&](int64_t rows, int64_t count, bool packing) {
    t.rows = rows;
    t.count = count;
    t.total_next = totals ? rows * t.width : 0;
    gemm_left(t, p0, packed_a, i0);
    tiles_for(t, vectors, packing)(t);
  };
  if (t.packed && Heights(i1 - i0).first() == kTileRows) {
    run(kTileRows, 1, true);
    t.b = t.packed;
    t.b_row = t.width;
    t.safe = t.k;
    if (t.i == i1) return;
  }
  const Heights h(i1 - t.i, most_rows(t, vectors, i1 - i0, packed_a));
  for (int64_t rows = h.size + 1; rows >= h.size; --rows) {
    const int64_t count = rows > h.size ? h.longer : h.tiles - h.longer;
    if (count > 0) run(rows, count, false);
  }
}

// Rows [i0, i1) of one panel. packed: where the first tile copies b to, `chunk` indices at a time, or nullptr; tail:
// room for the rows of b that are not read where they lie; behind: the panel after this one, if it is known.
template <class T>
FP_INLINE void gemm_panel(Tiles<T>& t, int64_t vectors, int64_t i0, int64_t i1, int64_t chunk, T* packed,
                          const T* packed_a, T* totals, T* tail, const T* behind) {
  const GemmArgs<T>& g = *t.g;
  // Whole registers are read past the end of a row where that stays within b; the last rows are copied.
  const int64_t over = g.b_padded ? 0 : t.width - t.cols, unsafe = g.b_row > 0 ? (over + g.b_row - 1) / g.b_row : 1;
  const int64_t safe = g.k > unsafe ? g.k - unsafe : 0;
  if (g.k > safe) gemm_copy(g.b + safe * g.b_row + t.j, g.b_row, g.k - safe, t.cols, t.width, tail);
  t.tail = tail;
  // Where tiles have a to fetch, or would have to fetch in bursts, or are soon over, they do not.
  const bool fetches = kFetching && (g.a_col == 1 || packed_a) && i1 - i0 >= kFetchRows && g.k >= kPrefetch;
  int64_t p = 0;
  do {
    t.k = g.k - p < chunk ? g.k - p : chunk;
    t.b = g.b + p * g.b_row + t.j;
    t.b_row = g.b_row;
    t.safe = safe - p < t.k ? safe - p : t.k;
    t.packed = packed;
    t.finish = p + t.k == g.k;
    t.next = !fetches ? nullptr : t.finish ? behind : t.b + t.k * t.b_row;
    t.next_row = g.b_row;
    gemm_rows(t, vectors, i0, i1, p, packed_a, totals);
    p += t.k;
  } while (p < g.k);
}

// Whether k x n elements take so many bytes.
template <class T>
bool has_bytes(int64_t k, int64_t n, int64_t bytes) {
  return n > 0 && k >= (bytes / int64_t(sizeof(T)) + n - 1) / n;
}

// Both conditions hold for a larger product when they hold for a smaller one, so that scratch for the whole suffices
// for any part.
template <class T>
bool gemm_packs_b(int64_t m, int64_t n, int64_t k) {
  return m >= kPackRows && has_bytes<T>(k, n, kPackShared / m > kPackBytes ? kPackShared / m : kPackBytes);
}
template <class T>
bool gemm_packs_a(int64_t m, int64_t n, int64_t k) {
  return n >= kPackColumns && k >= kPackDepth && m >= kPackLeftRows && has_bytes<T>(k, m, kPackLeftBytes);
}

template <class T>
int64_t gemm_scratch(int64_t m, int64_t n, int64_t k) {
  int64_t elements = gemm_packs_a<T>(m, n, k) ? kPackedBytes / int64_t(sizeof(T)) : 0;
  if (gemm_packs_b<T>(m, n, k)) {
    elements += (k < kChunk ? k : kChunk) * kPanel<T>;
    if (k > kChunk) elements += (m < kGroupRows ? m : kGroupRows) * kPanel<T>;
  }
  return elements;
}

// The end of the columns of c that lie in the same part as column j. g.c and velocity, from now on, point to where
// those of the whole matrix would begin had all of it the part's row stride.
template <class T>
__attribute__((noinline)) int64_t gemm_part(GemmArgs<T>& g, T* matrix, T* velocity, int64_t j) {
  const int64_t begin = g.parted.begin(g.first_j + j);
  g.c_row = g.parted.stride(begin);
  const int64_t origin = g.parted.origin(begin) + g.first_i * g.c_row + g.first_j;
  g.c = matrix + origin;
  if (velocity) g.epilogue.velocity = velocity + origin;
  const int64_t end = begin + g.c_row - g.first_j;
  return end < g.n ? end : g.n;
}

// Cuts the columns of c, part by part, into panels of at most `most` registers, and calls f(registers) for each, and
// f(0) for a column apart, if that may be.
template <class T, class F>
FP_INLINE void gemm_panels(GemmArgs<T>& g, const GemmArgs<T>& given, int64_t most, bool may_be_apart, Tiles<T>& t,
                           F&& f) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t begin = 0, stop = g.n; begin < g.n; begin = stop) {
    if (g.parted.part > 0) stop = gemm_part(g, given.c, given.epilogue.velocity, begin);
    const bool apart = may_be_apart && gemm_column_apart(g, stop - begin);
    const int64_t end = apart ? stop - 1 : stop;
    const int64_t registers = (end - begin + lanes - 1) / lanes, panels = (registers + most - 1) / most;
    // The wider ones come first or, where the last one has less than whole registers, last.
    const int64_t wider = (end - begin) % lanes == 0 ? 0 : panels - registers % panels;
    t.j = begin;
    for (int64_t q = 0; q < panels; ++q, t.j += t.width) {
      const int64_t vectors = registers / panels + (q >= wider && q < wider + registers % panels);
      t.width = vectors * lanes;
      t.cols = end - t.j < t.width ? end - t.j : t.width;
      f(vectors);
    }
    if constexpr (kColumnsApart) {
      if (apart) f(0);
    }
  }
}

template <class T>
bool gemm_leaves_out_zeros(const GemmArgs<T>& g) {
  if constexpr (kSparse) return gemm_is_sparse(g);
  return false;
}

// The sums of these columns of b, if they are wanted.
template <class T>
__attribute__((noinline)) void gemm_column_sums(const GemmArgs<T>& g, int64_t j, int64_t cols) {
  if (g.column_sums) column_sums(g.k, cols, g.b + j, g.b_row, g.column_sums + j, g.accumulate, g.block);
}

template <class T>
void gemm(const GemmArgs<T>& given) {
  constexpr int lanes = Vec<T>::lanes;
  GemmArgs<T> g = given;
  if (g.m <= 0 || g.n <= 0 || (g.k <= 0 && g.accumulate)) return;
  g.epilogue = plain(g.epilogue);
  alignas(64) T total[kTileRows * kPanel<T>];
  alignas(64) T tail[(lanes > kRowVectors ? lanes : kRowVectors) * lanes];
  const bool parted = g.parted.part > 0;
  if (g.a_rows && g.a_col == 1 && g.m == 1) {
    g.a = g.a_rows[0] + g.a_first;
    g.a_rows = nullptr;
  }
  if (!parted && !g.a_rows && g.n == 1 && g.m > 1 && g.a_row == 1 && g.c_row == 1 &&
      (g.epilogue.kind == EpilogueKind::store || g.epilogue.kind == EpilogueKind::sgd)) {
    // A column of c from a transposed a: as a row of c it fills the registers.
    gemm_column_sums(given, 0, 1);
    g.n = g.c_row = given.m;
    g.m = 1;
    g.a = given.b;
    g.a_row = 0;
    g.a_col = given.b_row;
    g.b = given.a;
    g.b_row = given.a_col;
    g.b_padded = g.c_padded = false;
    g.column_sums = nullptr;
  }
  if (!parted && !g.a_rows && gemm_streams(g)) {
    gemm_column_sums(g, 0, g.n);
    return gemm_stream(g);
  }
  Tiles<T> t;
  t.g = &g;
  if constexpr (kSparse) {
    // Tiles may be unable to read rows of a that lie anywhere.
    const bool scattered = !kScattered && g.a_rows && g.k > 0;
    const bool sparse = scattered || gemm_is_sparse(g);
    t.every = sparse && !is_finite(g.k, g.n, g.b, g.b_row);
    if (scattered || (sparse && !t.every)) {
      const auto& panels = kTiles<T>.sparse[g.a_row == 1];
      return gemm_panels(g, given, kSparseVectors, false, t, [&](int64_t vectors) {
        gemm_column_sums(g, t.j, t.cols);
        panels[vectors - 1](t);
      });
    }
  }
  const bool pack = g.scratch && gemm_packs_b<T>(g.m, g.n, g.k);
  T* scratch = g.scratch;
  T* packed_a = nullptr;
  int64_t group = pack && g.k > kChunk ? kGroupRows : g.m;
  if (g.scratch && g.a_row == 1 && (g.a_rows || g.a_col > kTileRows) && gemm_packs_a<T>(g.m, g.n, g.k)) {
    const int64_t fit = kPackedBytes / int64_t(sizeof(T)) / g.k / kTileRows * kTileRows;
    if (fit >= kPackLeftRows) {
      packed_a = scratch;
      // Groups of even sizes: each packs b anew.
      const int64_t most = fit < group ? fit : group, groups = (g.m + most - 1) / most;
      group = ((g.m + groups - 1) / groups + kTileRows - 1) / kTileRows * kTileRows;
    }
    scratch += kPackedBytes / int64_t(sizeof(T));
  }
  T* totals = pack && g.k > kChunk ? scratch + kChunk * kPanel<T> : nullptr;
  const int64_t chunk = pack ? kChunk : g.k;
  t.a_first = 0;
  t.total = total;
  for (int64_t i = 0; i < g.m; i += group) {
    const int64_t end = g.m - i < group ? g.m : i + group;
    if (packed_a) gemm_pack_transposed(g, i, end - i, packed_a);
    gemm_panels(g, given, g.m == 1 ? kRowVectors : kTileVectors, true, t, [&](int64_t vectors) {
      // Right before the tiles read this part of b, which then is near.
      if (i == 0) gemm_column_sums(g, t.j, vectors == 0 ? 1 : t.cols);
      if (kColumnsApart && vectors == 0) return gemm_column(t, i, end);
      const T* behind = t.j + t.width < g.n ? g.b + t.j + t.width : end < g.m ? g.b : g.b_next;
      gemm_panel(t, vectors, i, end, chunk, pack ? scratch : nullptr, packed_a, totals, tail, behind);
    });
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

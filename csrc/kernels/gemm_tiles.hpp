// Tiles of a dense product: sums of a few rows of a times a few registers of columns of b (see gemm.hpp).
#pragma once

#include "kernels/epilogue.hpp"
#include "kernels/gemm_loop.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// A strided a is fetched kAhead indices ahead: its lines lie far apart, out of reach of hardware prefetchers. What the
// epilogue touches is fetched for sums of kPrefetch and more; shorter ones cannot hide the extra instructions.
inline constexpr int64_t kAhead = 16, kPrefetch = 192;

// Copies rows x cols of b, filling up with zeros to rows of `width`.
template <class T>
__attribute__((noinline)) void gemm_copy(const T* b, int64_t b_row, int64_t rows, int64_t cols, int64_t width, T* out) {
  constexpr int lanes = Vec<T>::lanes;
  for (int64_t p = 0; p < rows; ++p, b += b_row, out += width) {
    int64_t j = 0;
    for (; j + lanes <= cols; j += lanes) store(out + j, load(b + j));
    for (; j < width; j += lanes) store(out + j, j < cols ? load_part(b + j, cols - j) : zero<T>());
  }
}

// How tiles read b: as it lies, fetching what is read as b next meanwhile, copying it for the tiles to come, or only
// half of the panel's last register.
enum class Reading { plain, fetching, packing, halved };

// What is read as b next, for the second-level cache: while `count` tiles take k steps each, one of its k rows every
// `count` steps.
template <class T, int width>
struct Fetch {
  const T* at;
  int64_t row, count, left;
  explicit Fetch(const Tiles<T>& t) : at(t.next), row(t.next_row), count(t.count), left(t.count) {}
  FP_INLINE_MEMBER void step() {
    if (--left > 0) return;
    left = count;
    FP_UNROLL for (int v = 0; v < width; v += 64 / int(sizeof(T))) __builtin_prefetch(at + v, 0, 2);
    at += row;
  }
};

// One index of a sum: the elements of a tile's rows, as many apart or anywhere.
template <class T>
struct Column {
  const T* a;
  int64_t a_row;
  FP_INLINE_MEMBER T operator[](int i) const { return a[i * a_row]; }
};
template <class T>
struct ScatteredColumn {
  const T* const* rows;
  int64_t p;
  FP_INLINE_MEMBER T operator[](int i) const { return rows[i][p]; }
};

// acc[i][v] += a[i] b[v], one index of the sum; where the last register is halved, half[i] takes its place. b is copied
// to packed when packing.
template <Reading reading, class T, int rows, int vectors, class A>
FP_INLINE void gemm_step(Vec<T> (&acc)[rows][vectors], [[maybe_unused]] Half<T> (&half)[rows], A a, const T* b,
                         [[maybe_unused]] T* packed) {
  constexpr int lanes = Vec<T>::lanes, whole = vectors - (reading == Reading::halved);
  Vec<T> bv[vectors];
  [[maybe_unused]] Half<T> last;
  FP_UNROLL for (int v = 0; v < whole; ++v) bv[v] = load(b + v * lanes);
  if constexpr (reading == Reading::halved) __builtin_memcpy(&last.v, b + whole * lanes, sizeof last.v);
  if constexpr (reading == Reading::packing) {
    FP_UNROLL for (int v = 0; v < vectors; ++v) store(packed + v * lanes, bv[v]);
  }
  FP_UNROLL for (int i = 0; i < rows; ++i) {
    Vec<T> x = broadcast(a[i]);
    FP_UNROLL for (int v = 0; v < whole; ++v) acc[i][v] = fma(x, bv[v], acc[i][v]);
    // Beside one whole register each multiplication reads its own broadcast element: cheaper than one in a register.
    if constexpr (reading == Reading::halved)
      half[i] = fma(whole == 1 ? half_broadcast(a[i]) : lower(x), last, half[i]);
  }
}

// Index p of the rows of a transposed a that lie anywhere.
template <class T>
FP_INLINE const T* scattered_row(const Tiles<T>& t, int64_t p) {
  const int64_t later = p + kAhead < t.k ? p + kAhead : p;
  __builtin_prefetch(t.a_rows[later] + t.a_first + t.i);
  return t.a_rows[p] + t.a_first + t.i;
}

// Whether these are tiles for short_tiles.
template <class T>
FP_INLINE bool are_short(const Tiles<T>& t) {
  return (t.a_row == 1 || t.a_col == 1) && t.finish && !t.resume && !t.from_c && t.k <= t.g->block;
}
// Tiles whose sums are a single block, with little more than their loop. parts: see tile_finish.
template <class T, int rows, int vectors, bool parts = kCheapParts>
void short_tiles(Tiles<T>& t) {
  constexpr int width = vectors * Vec<T>::lanes;
  const int64_t safe = t.safe < t.k ? t.safe : t.k, turns = safe / kLoopStep;
  const TileLoop<T, rows> loop(t.a_row, t.a_col, t.b_row, width, turns);
  for (; t.count > 0; --t.count, t.i += rows, t.a += t.a_next) {
    if (t.k >= kPrefetch) tile_prefetch(t);
    Vec<T> acc[rows][vectors];
    [[maybe_unused]] Half<T> none[rows];
    FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = zero<T>();
    const T *a = t.a, *b = t.b;
    loop(acc, a, b);
    for (int64_t p = turns * kLoopStep; p < t.k; ++p, a += t.a_col, b += t.b_row) {
      const T* row = p < safe ? b : t.tail + (p - safe) * width;
      gemm_step<Reading::plain>(acc, none, Column<T>{a, t.a_row}, row, static_cast<T*>(nullptr));
    }
    if (tile_finish<parts>(acc, t)) continue;
    tile_store(acc, t.total);
    tile_finish_total(t);
  }
}

// scattered: the rows of a lie anywhere.
template <class T, int rows, int vectors, Reading reading = Reading::plain, bool scattered = false>
void gemm_tiles(Tiles<T>& t) {
  constexpr bool pack = reading == Reading::packing;
  constexpr int lanes = Vec<T>::lanes, width = vectors * lanes;
  const int64_t a_row = t.a_row, a_col = t.a_col, block = t.g->block, ahead = a_row == 1 ? kAhead * a_col : 0;
  constexpr bool has_loop = kLoops && reading == Reading::plain && rows >= kLoopRows && vectors > 1;
  const bool by_loop = has_loop && (a_row == 1 || a_col == 1);
  [[maybe_unused]] Fetch<T, width> fetch(t);
  if constexpr (has_loop) {
    if (are_short(t)) return short_tiles<T, rows, vectors>(t);
  }
  for (; t.count > 0; --t.count, t.i += rows, t.a += t.a_next, t.total += t.total_next) {
    if (t.from_c) tile_load(t);
    const T* a = t.a;
    bool resume = t.resume;
    int64_t p = 0;
    for (;;) {
      Vec<T> acc[rows][vectors];
      Half<T> half[rows];
      FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = zero<T>();
      FP_UNROLL for (int i = 0; i < rows; ++i) half[i].v = typename Half<T>::F{};
      const int64_t block_end = p + block < t.k ? p + block : t.k;
      if (t.finish && block_end == t.k && t.k >= kPrefetch) tile_prefetch(t);
      while (p < block_end) {
        const bool in_b = p < t.safe;
        const T* b = in_b ? t.b + p * t.b_row : t.tail + (p - t.safe) * width;
        const int64_t b_row = in_b ? t.b_row : width;
        const int64_t stop = in_b && t.safe < block_end ? t.safe : block_end;
        if constexpr (has_loop) {
          const int64_t turns = by_loop ? (stop - p) / kLoopStep : 0;
          TileLoop<T, rows>(a_row, a_col, b_row, width, turns)(acc, a, b);
          p += turns * kLoopStep;
        }
        for (; p < stop; ++p) {
          if (reading == Reading::fetching)
            fetch.step();
          else if (kScattered && !scattered && t.a_rows)
            a = scattered_row(t, p);
          else if (!scattered)
            __builtin_prefetch(a + ahead);
          if (pack) {
            FP_UNROLL for (int v = 0; v < width * int(sizeof(T)); v += 64)
                __builtin_prefetch(reinterpret_cast<const char*>(b + kAhead * b_row) + v);
          }
          T* const packed = pack ? t.packed + p * width : nullptr;
          if constexpr (scattered) {
            gemm_step<reading>(acc, half, ScatteredColumn<T>{t.a_rows + t.i, t.a_first + p}, b, packed);
          } else {
            gemm_step<reading>(acc, half, Column<T>{a, a_row}, b, packed);
            a += a_col;
          }
          b += b_row;
        }
      }
      if constexpr (reading == Reading::halved) {
        FP_UNROLL for (int i = 0; i < rows; ++i) acc[i][vectors - 1] = widened(half[i]);
      }
      if (resume) {
        FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
            add(load(t.total + i * width + v * lanes), acc[i][v]);
      }
      const bool done = p >= t.k;
      // What else there is is too rare to be worth the code.
      if constexpr ((rows == kTileRows && !pack) || rows == 1 || (reading == Reading::plain && !scattered)) {
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

// Full tiles where c ends within the last register. One function for both kinds of tiles would slow down the others.
template <class T, int vectors>
void ragged_tiles(Tiles<T>& t) {
  are_short(t) ? short_tiles<T, kTileRows, vectors, true>(t) : gemm_tiles<T, kTileRows, vectors>(t);
}

}  // namespace fp::FP_ISA_NAMESPACE

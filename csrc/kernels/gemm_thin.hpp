// Tiles of panels whose last register would hold a single column of c, at the cost of a whole register or half of one.
// That column's sums lie in one register of their own, a row of c in each lane, so that one multiplication serves all
// rows of the tile. For this, elements of a that belong to one index of the sum must lie in one register: in a
// transposed a they lie side by side; rows are transposed, kTurn indices at a time. Which sums are taken, and in which
// order, stays the same.
#pragma once

#include "kernels/gemm_tiles.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Only where a column in lanes is half a register: kTileRows floats.
#if defined(FP_ISA_AVX512) || defined(FP_ISA_AVX2)
template <class T>
inline constexpr bool kThin = sizeof(T) == 4;
#else
template <class T>
inline constexpr bool kThin = false;
#endif

// Indices transposed together; rows of the lowest tile (lower ones are rare: rows are cut into even heights).
inline constexpr int kTurn = 4, kThinRows = kTileRows / 2;

// One index of the sum: acc[i][v] += a[i] b[v], and sum += column b[whole], column being the a[i] of all rows.
template <int whole, class T, int rows, int room>
FP_INLINE void thin_step(Vec<T> (&acc)[rows][room], Half<T>& sum, const T* a, int64_t a_row, Half<T> column,
                         const T* b) {
  [[maybe_unused]] Half<T> none[rows];
  if constexpr (whole > 0) gemm_step<Reading::plain>(acc, none, Column<T>{a, a_row}, b, static_cast<T*>(nullptr));
  sum = fma(column, half_broadcast(b[whole * Vec<T>::lanes]), sum);
}

// Finishes the frequent kinds from registers, sgd where c is padded; false when this is not one of them.
template <int whole, class T, int rows, int room>
FP_INLINE bool thin_finish(Vec<T> (&acc)[rows][room], Half<T> sum, const Tiles<T>& t) {
  const Epilogue<T>& e = t.g->epilogue;
  if (!is_frequent(e)) return false;
  if (e.kind == EpilogueKind::sgd) {
    if (!t.g->c_padded) return false;
    Vec<T> all[rows][whole + 1];
    FP_UNROLL for (int i = 0; i < rows; ++i) {
      FP_UNROLL for (int v = 0; v < whole; ++v) all[i][v] = acc[i][v];
      all[i][whole] = broadcast(sum.v[i]);
    }
    return tile_finish(all, t);
  }
  if constexpr (whole > 0) tile_finish(acc, t, Vec<T>::lanes);
  tile_finish_column<T, rows>(widened(sum), t, whole * Vec<T>::lanes);
  return true;
}

// a_row == 1, or turned: a_col == 1.
template <class T, int rows, int vectors, bool turned = false>
void thin_tiles(Tiles<T>& t) {
  constexpr int lanes = Vec<T>::lanes, whole = vectors - 1, width = vectors * lanes;
  const int64_t a_row = t.a_row, a_col = t.a_col, b_row = t.b_row, block = t.g->block;
  for (; t.count > 0; --t.count, t.i += rows, t.a += t.a_next, t.total += t.total_next) {
    if (t.from_c) tile_load(t);
    const T* a = t.a;
    const T* b = t.b;
    bool resume = t.resume;
    int64_t p = 0;
    for (;;) {
      Vec<T> acc[rows][whole > 0 ? whole : 1];
      Half<T> sum{};
      FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < whole; ++v) acc[i][v] = zero<T>();
      const int64_t block_end = p + block < t.k ? p + block : t.k;
      if constexpr (turned) {
        Half<T> column[kTurn];
        for (; p + kTurn <= block_end; p += kTurn) {
          turn(a, a_row, column);
          FP_UNROLL for (int q = 0; q < kTurn; ++q, ++a, b += b_row) thin_step<whole>(acc, sum, a, a_row, column[q], b);
        }
        for (; p < block_end; ++p, ++a, b += b_row)
          thin_step<whole>(acc, sum, a, a_row, gather_half<rows>(a, a_row), b);
      } else {
        for (; p < block_end; ++p, a += a_col, b += b_row) {
          if (kScattered && t.a_rows)
            a = scattered_row(t, p);
          else
            __builtin_prefetch(a + kAhead * a_col);
          thin_step<whole>(acc, sum, a, a_row, load_half<rows>(a), b);
        }
      }
      const bool done = p >= t.k;
      // Where a full tile has eight rows, others are too rare to be worth the code.
      if constexpr (kTileRows <= 4 || rows == kTileRows) {
        if (done && t.finish && !resume && thin_finish<whole>(acc, sum, t)) break;
      }
      FP_UNROLL for (int i = 0; i < rows; ++i) {
        T* total = t.total + i * width;
        FP_UNROLL for (int v = 0; v < vectors; ++v) {
          const Vec<T> x = v < whole ? acc[i][v] : broadcast(sum.v[i]);
          store(total + v * lanes, resume ? add(load(total + v * lanes), x) : x);
        }
      }
      resume = true;
      if (done) {
        if (t.finish) tile_finish_total(t);
        break;
      }
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

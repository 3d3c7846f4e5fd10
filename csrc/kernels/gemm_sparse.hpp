// Products whose left operand is mostly zeros, like images on a black ground, counts of words or one-hot columns,
// without most of the multiplications by zero. Ordered sums come out the same to the bit: b is finite, so that such a
// multiplication adds a zero, which changes no sum but -0; where a block's sum ends as -0, all its terms are added.
#pragma once

#include "kernels/epilogue.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// A tile: two rows of c, which leave out what is zero in both rows of a, by up to kSparseVectors registers. Two rows
// use each b that they read twice, and have sums enough to keep the multipliers busy.
inline constexpr int kSparseTile = 2, kSparseVectors = FP_VECTOR_BYTES / 8;
// What a product must have to be looked at: multiplications, runs of elements of a side by side, elements of a run, and
// bytes in a row of c. kSparseLooks runs, spread evenly, then tell what part of the terms a tile would keep: the most
// of all, and the most of those seen so far, beyond which nobody looks on.
inline constexpr int64_t kSparseWork = 256 * 1024, kSparseRuns = FP_VECTOR_BYTES == 64 ? 16 : 32, kSparseRun = 64;
inline constexpr int64_t kSparseBytes = 192, kSparseLooks = 4;
inline constexpr double kMostKept = 0.45, kMostSeen = 0.7;
static_assert(kSparseTile == 2, "bits are those of pairs");

// Elements of a that lie side by side: run q is row q of a where a_col == 1, of its transpose where a_row == 1.
template <class T>
struct Runs {
  const T* const* each;
  const T* a;
  int64_t step, first;
  FP_INLINE_MEMBER explicit Runs(const GemmArgs<T>& g)
      : each(g.a_rows), a(g.a), step(g.a_col == 1 ? g.a_row : g.a_col), first(g.a_first) {}
  FP_INLINE_MEMBER const T* operator[](int64_t q) const { return each ? each[q] + first : a + q * step; }
};

// A bit for each of the first 64 elements of two runs, or of all `count` if they are fewer; the same elements of two
// others are fetched.
template <class T>
FP_INLINE uint64_t sparse_word(const T* const (&a)[kSparseTile], const T* const (&later)[kSparseTile], int64_t count) {
  constexpr int lanes = Vec<T>::lanes;
  uint64_t word = 0;
  if (count >= 64) {
    FP_UNROLL for (int p = 0; p < 64; p += lanes) {
      __builtin_prefetch(later[0] + p);
      __builtin_prefetch(later[1] + p);
      word |= uint64_t(nonzeros(bit_or(load(a[0] + p), load(a[1] + p)))) << p;
    }
  } else {
    for (int64_t p = 0; p < count; p += lanes) {
      const int64_t n = count - p < lanes ? count - p : lanes;
      word |= uint64_t(nonzeros(bit_or(load_part(a[0] + p, n), load_part(a[1] + p, n)))) << p;
    }
  }
  return word;
}

template <class T>
bool is_finite(int64_t rows, int64_t cols, const T* p, int64_t row) {
  constexpr int lanes = Vec<T>::lanes, together = 4;
  Vec<T> sum[together];  // 0 x is NaN where x is not finite
  FP_UNROLL for (int v = 0; v < together; ++v) sum[v] = zero<T>();
  for (int64_t i = 0; i < rows; ++i, p += row) {
    int64_t j = 0;
    for (; j + together * lanes <= cols; j += together * lanes) {
      FP_UNROLL for (int v = 0; v < together; ++v) sum[v] = fma(load(p + j + v * lanes), zero<T>(), sum[v]);
    }
    for (; j < cols; j += lanes) sum[0] = fma(load_part(p + j, cols - j < lanes ? cols - j : lanes), zero<T>(), sum[0]);
  }
  return nonzeros(add(add(sum[0], sum[1]), add(sum[2], sum[3]))) == 0;
}

// Whether a has so many zeros, and c so many elements, that multiplications by zero are worth to be left out.
template <class T>
__attribute__((noinline)) bool gemm_is_sparse(const GemmArgs<T>& g) {
  const bool by_rows = g.a_col == 1;
  const int64_t count = by_rows ? g.m : g.k, length = by_rows ? g.k : g.m;
  if (g.accumulate || count < kSparseRuns || length < kSparseRun || g.n < kSparseBytes / int64_t(sizeof(T)) ||
      g.n < kSparseWork / g.m / g.k)
    return false;
  const Runs<T> runs(g);
  int64_t seen = 0, kept = 0;
  for (int64_t look = 0; look < kSparseLooks; ++look) {
    const int64_t q = look * (count - 2) / (kSparseLooks - 1);
    const T* const a[] = {runs[q], by_rows ? runs[q + 1] : runs[q]};
    for (int64_t p = 0; p < length; p += 64) {
      const uint64_t word = sparse_word<T>({a[0] + p, a[1] + p}, {a[0] + p, a[1] + p}, length - p);
      constexpr uint64_t first_of_two = 0x5555555555555555;
      kept += by_rows ? __builtin_popcountll(word) : 2 * __builtin_popcountll((word | word >> 1) & first_of_two);
    }
    seen += length;
    if (static_cast<double>(kept) > kMostSeen * static_cast<double>(seen)) return false;
  }
  return static_cast<double>(kept) <= kMostKept * static_cast<double>(seen);
}

// The sums of a block over those indices p < k whose bits are set, or all where one of the sums ends as -0:
// acc[i][v] = a(i, p) b[p][v] + ..., the last register holding `last` columns.
template <class T, int vectors, class A>
FP_INLINE void sparse_sum(Vec<T> (&acc)[kSparseTile][vectors], A a, const uint64_t* bits, int64_t k, const T* b,
                          int64_t b_row, int64_t last) {
  for (bool all = false;; all = true) {
    FP_UNROLL for (int i = 0; i < kSparseTile; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = zero<T>();
    for (int64_t w = 0; w * 64 < k; ++w) {
      const int64_t count = k - w * 64 < 64 ? k - w * 64 : 64;
      for (uint64_t left = all ? ~uint64_t(0) >> (64 - count) : bits[w]; left != 0; left &= left - 1) {
        const int64_t p = w * 64 + __builtin_ctzll(left);
        const T* from = b + p * b_row;
        Vec<T> bv[vectors];
        FP_UNROLL for (int v = 0; v < vectors; ++v) bv[v] =
            v == vectors - 1 ? load_part(from + v * Vec<T>::lanes, last) : load(from + v * Vec<T>::lanes);
        FP_UNROLL for (int i = 0; i < kSparseTile; ++i) {
          const Vec<T> x = broadcast(a(i, p));
          FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] = fma(x, bv[v], acc[i][v]);
        }
      }
    }
    bool again = false;
    FP_UNROLL for (int i = 0; i < kSparseTile; ++i) again |= any_negative_zero(acc[i]);
    if (all || !again) return;
  }
}

// The sums of a block join those of the blocks before, in t.total; after the last one comes the epilogue.
template <class T, int vectors>
FP_INLINE void sparse_end(Vec<T> (&acc)[kSparseTile][vectors], Tiles<T>& t, bool first, bool finish) {
  if (!first) {
    FP_UNROLL for (int i = 0; i < kSparseTile; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) acc[i][v] =
        add(load(t.total + (i * vectors + v) * Vec<T>::lanes), acc[i][v]);
  }
  if (finish && t.rows == kSparseTile && tile_finish(acc, t)) return;
  tile_store(acc, t.total);
  if (finish) tile_finish_total(t);
}

// All rows of a panel from rows of a.
template <class T, int vectors>
void sparse_rows(Tiles<T>& t) {
  const GemmArgs<T>& g = *t.g;
  const Runs<T> runs(g);
  const int64_t last = t.cols - (vectors - 1) * Vec<T>::lanes;
  alignas(64) T total[kSparseTile * vectors * Vec<T>::lanes];
  t.total = total;
  for (t.i = 0; t.i < g.m; t.i += kSparseTile) {
    t.rows = g.m - t.i < kSparseTile ? g.m - t.i : kSparseTile;
    const int64_t second = t.i + t.rows - 1, next = g.m - second > kSparseTile ? kSparseTile : 0;
    const T* const a[] = {runs[t.i], runs[second]};
    const T* const later[] = {runs[t.i + next], runs[second + next]};
    for (int64_t begin = 0; begin < g.k; begin += g.block) {
      const int64_t k = g.k - begin < g.block ? g.k - begin : g.block;
      uint64_t bits[kBlock / 64];
      for (int64_t w = 0; w * 64 < k; ++w) {
        const int64_t at = begin + w * 64;
        bits[w] = sparse_word<T>({a[0] + at, a[1] + at}, {later[0] + at, later[1] + at}, k - w * 64);
      }
      Vec<T> acc[kSparseTile][vectors];
      const auto element = [=](int i, int64_t p) __attribute__((always_inline)) { return a[i][begin + p]; };
      sparse_sum(acc, element, bits, k, g.b + begin * g.b_row + t.j, g.b_row, last);
      sparse_end(acc, t, begin == 0, begin + k == g.k);
    }
  }
}

// All rows of a panel from columns of a, as many at a time as a register has lanes.
template <class T, int vectors>
void sparse_columns(Tiles<T>& t) {
  constexpr int lanes = Vec<T>::lanes, width = vectors * lanes;
  const GemmArgs<T>& g = *t.g;
  const Runs<T> runs(g);
  const int64_t last = t.cols - (vectors - 1) * lanes;
  alignas(64) T totals[lanes * width];
  for (int64_t i = 0; i < g.m; i += lanes) {
    const int64_t columns = g.m - i < lanes ? g.m - i : lanes;
    for (int64_t begin = 0; begin < g.k; begin += g.block) {
      const int64_t k = g.k - begin < g.block ? g.k - begin : g.block;
      uint64_t words[kBlock / 64][lanes];
      for (int64_t w = 0; w * 64 < k; ++w) {
        LaneBits masks[64] = {};
        for (int64_t p = w * 64; p < k && p < w * 64 + 64; ++p) {
          // To the second-level cache, while multiplications keep few other lines on their way.
          if (g.a_next) __builtin_prefetch(g.a_next[begin + p] + g.a_first + i, 0, 2);
          masks[p - w * 64] = static_cast<LaneBits>(nonzeros(load_part(runs[begin + p] + i, columns)));
        }
        turn_masks(masks, words[w]);
      }
      for (int64_t r = 0; r < columns; r += kSparseTile) {
        t.i = i + r;
        t.rows = columns - r < kSparseTile ? columns - r : kSparseTile;
        t.total = totals + r * width;
        const int64_t at = t.i, second = t.rows - 1;
        uint64_t bits[kBlock / 64];
        for (int64_t w = 0; w * 64 < k; ++w) bits[w] = words[w][r] | words[w][r + second];
        Vec<T> acc[kSparseTile][vectors];
        const auto element = [=](int q, int64_t p)
                                 __attribute__((always_inline)) { return runs[begin + p][at + (q == 0 ? 0 : second)]; };
        sparse_sum(acc, element, bits, k, g.b + begin * g.b_row + t.j, g.b_row, last);
        sparse_end(acc, t, begin == 0, begin + k == g.k);
      }
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

// Products whose left operand is mostly zeros, like images on a black ground, counts of words or one-hot columns,
// without most of the multiplications by zero. Ordered sums come out the same to the bit: b is finite, so that such a
// multiplication adds a zero, which changes no sum but -0; where a block's sum ends as -0, all its terms are added.
#pragma once

#include "kernels/gemm_tiles.hpp"
#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// A panel is 256 bytes wide at most, and a tile one row of it, which leaves out its own zeros, or, where that would
// have too few sums to keep the multipliers busy, two rows, which share each b that they read and leave out what is
// zero in both.
inline constexpr int kSparseVectors = 256 / FP_VECTOR_BYTES, kFewVectors = 4;
constexpr int sparse_tile_rows(int64_t vectors) { return vectors <= kFewVectors ? 2 : 1; }
// Rows of c are taken kSparseGroup at a time, for kSparseRun indices, so that as many rows of b stay in the first-level
// cache for all of the group; where b's rows lie so far apart that they would drive each other out, they are copied.
inline constexpr int64_t kSparseGroup = 64, kSparseRun = 64, kSparseFar = 512;
static_assert(kSparseGroup == 64 && kSparseRun == 64, "a bit each of a word, and words that are turned");
// What a product must have to be looked at: multiplications, runs of elements of a side by side, elements of a run, and
// bytes in a row of c. kSparseLooks runs, spread evenly, then tell what part of their elements is not zero: the most of
// all, for tiles of one row and of two, and how much more of those seen so far ends the search.
inline constexpr int64_t kSparseWork = 256 * 1024, kSparseRuns = FP_VECTOR_BYTES == 64 ? 16 : 32;
inline constexpr int64_t kSparseBytes = FP_VECTOR_BYTES == 64 ? 192 : 128, kSparseLooks = 4;
inline constexpr double kMostKept[] = {0.4, 0.27}, kKeptBeyond = 0.25;

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

// A bit for each of the first 64 elements of a run that is not zero, or of all `count` if they are fewer.
template <class T>
FP_INLINE uint64_t sparse_word(const T* a, int64_t count) {
  if (count >= 64) return nonzeros_of_64(a);
  constexpr int lanes = Vec<T>::lanes;
  uint64_t word = 0;
  for (int64_t p = 0; p < count; p += lanes)
    word |= uint64_t(nonzeros(load_part(a + p, count - p < lanes ? count - p : lanes))) << p;
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
  const int64_t vectors = (g.n + Vec<T>::lanes - 1) / Vec<T>::lanes;
  const double most = kMostKept[sparse_tile_rows(vectors < kSparseVectors ? vectors : kSparseVectors) - 1];
  int64_t seen = 0, kept = 0;
  for (int64_t look = 0; look < kSparseLooks; ++look) {
    const T* a = runs[look * (count - 1) / (kSparseLooks - 1)];
    for (int64_t p = 0; p < length; p += 64) kept += __builtin_popcountll(sparse_word(a + p, length - p));
    seen += length;
    if (static_cast<double>(kept) > (most + kKeptBeyond) * static_cast<double>(seen)) return false;
  }
  return static_cast<double>(kept) <= most * static_cast<double>(seen);
}

FP_INLINE uint64_t first_bits(int64_t count) { return count >= 64 ? ~uint64_t(0) : (uint64_t(1) << count) - 1; }

// Bit q of word p becomes bit p of word q: halves of ever smaller squares change places.
template <int half = 32>
FP_INLINE void turn_words(uint64_t (&words)[64]) {
  constexpr uint64_t low = ~uint64_t(0) / ((uint64_t(1) << half) + 1);
  for (int p = 0; p < 64; p += 2 * half) {
    for (int q = p; q < p + half; ++q) {
      const uint64_t changed = (words[q] >> half ^ words[q + half]) & low;
      words[q] ^= changed << half;
      words[q + half] ^= changed;
    }
  }
  if constexpr (half > 1) turn_words<half / 2>(words);
}

// sum[i] += a(i, p) b[p] for those p < 64 whose bits are set, the last register holding `last` columns.
template <class T, int rows, int vectors, class A>
FP_INLINE void sparse_sum(Vec<T> (&sum)[rows][vectors], A a, uint64_t bits, const T* b, int64_t b_row, int64_t last) {
  constexpr int lanes = Vec<T>::lanes;
  for (; bits != 0; bits &= bits - 1) {
    const int64_t p = __builtin_ctzll(bits);
    const T* from = b + p * b_row;
    Vec<T> y[vectors];
    FP_UNROLL for (int v = 0; v < vectors; ++v) y[v] =
        v == vectors - 1 ? load_part(from + v * lanes, last) : load(from + v * lanes);
    FP_UNROLL for (int i = 0; i < rows; ++i) {
      const Vec<T> x = broadcast(a(i, p));
      FP_UNROLL for (int v = 0; v < vectors; ++v) sum[i][v] = fma(x, y[v], sum[i][v]);
    }
  }
}

// The sums of all terms of a block, indices [begin, begin + k), of row i of c: where leaving zeros out might show.
template <class T, int vectors>
__attribute__((noinline)) void sparse_all(const Tiles<T>& t, int64_t i, int64_t begin, int64_t k, T* sums) {
  constexpr int lanes = Vec<T>::lanes;
  const GemmArgs<T>& g = *t.g;
  const Runs<T> runs(g);
  const bool by_rows = g.a_col == 1;
  Vec<T> sum[1][vectors];
  FP_UNROLL for (int v = 0; v < vectors; ++v) sum[0][v] = zero<T>();
  for (int64_t p = begin; p < begin + k; p += 64) {
    const auto element = [=](int, int64_t q)
                             __attribute__((always_inline)) { return by_rows ? runs[i][p + q] : runs[p + q][i]; };
    sparse_sum(sum, element, first_bits(begin + k - p), g.b + p * g.b_row + t.j, g.b_row,
               t.cols - (vectors - 1) * lanes);
  }
  tile_store(sum, sums);
}

// The sums of a block, indices [begin, begin + k), join those of the blocks before, in t.total; after the last one
// comes the epilogue.
template <unsigned kinds, class T, int rows, int vectors>
FP_INLINE void sparse_end(Vec<T> (&sum)[rows][vectors], Tiles<T>& t, int64_t begin, int64_t k) {
  constexpr int lanes = Vec<T>::lanes;
  FP_UNROLL for (int i = 0; i < rows; ++i) {
    if (__builtin_expect(any_negative_zero(sum[i]) && i < t.rows, false)) {
      alignas(64) T all[vectors * lanes];
      sparse_all<T, vectors>(t, t.i + i, begin, k, all);
      FP_UNROLL for (int v = 0; v < vectors; ++v) sum[i][v] = load(all + v * lanes);
    }
  }
  if (begin == 0 && t.g->accumulate) tile_load(t);
  if (begin > 0 || t.g->accumulate) {
    FP_UNROLL for (int i = 0; i < rows; ++i) FP_UNROLL for (int v = 0; v < vectors; ++v) sum[i][v] =
        add(load(t.total + (i * vectors + v) * lanes), sum[i][v]);
  }
  const bool finish = begin + k == t.g->k;
  if (finish && t.rows == rows && tile_finish<kCheapParts, kinds>(sum, t)) return;
  tile_store(sum, t.total);
  if (finish) tile_finish_total(t);
}

// Which elements of a block, indices [begin, begin + k), are not zero in `rows` rows of c from row `first` on: a bit
// for each, words[p / 64][i]. from: where the block's rows of a transposed a begin, in column `first`.
template <class T, bool columns>
__attribute__((noinline)) void sparse_words(const Tiles<T>& t, int64_t first, int64_t rows, int64_t begin, int64_t k,
                                            uint64_t (&words)[kBlock / kSparseRun][kSparseGroup],
                                            const T* (&from)[kBlock]) {
  const GemmArgs<T>& g = *t.g;
  const Runs<T> runs(g);
  if constexpr (columns) {
    for (int64_t p = 0; p < k; ++p) {
      from[p] = runs[begin + p] + first;
      words[p / 64][p % 64] = t.every ? first_bits(rows) : sparse_word(from[p], rows);
      // To the second-level cache, while multiplications keep few other lines on their way.
      for (int64_t i = 0; g.a_next && i < rows; i += 64 / int64_t(sizeof(T)))
        __builtin_prefetch(g.a_next[begin + p] + g.a_first + first + i, 0, 2);
    }
    for (int64_t p = k; p % 64 != 0; ++p) words[p / 64][p % 64] = 0;
    for (int64_t w = 0; w * 64 < k; ++w) turn_words(words[w]);
  } else {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t p = 0; p < k; p += 64)
        words[p / 64][i] = t.every ? first_bits(k - p) : sparse_word(runs[first + i] + begin + p, k - p);
    }
  }
}

// All rows of a panel. columns: of a transposed a.
template <class T, int vectors, bool columns>
void sparse_panel(Tiles<T>& panel) {
  constexpr int lanes = Vec<T>::lanes, width = vectors * lanes, rows = sparse_tile_rows(vectors);
  Tiles<T> t = panel;  // its totals lie here
  const GemmArgs<T>& g = *t.g;
  const Runs<T> runs(g);
  alignas(64) T sums[kSparseGroup * width], totals[kSparseGroup * width], copy[kSparseRun * width];
  uint64_t words[kBlock / kSparseRun][kSparseGroup];
  const T* from[kBlock];
  const bool copies = g.b_row * int64_t(sizeof(T)) % kSparseFar == 0;
  const int64_t last = copies ? lanes : t.cols - (vectors - 1) * lanes, b_row = copies ? width : g.b_row;
  int64_t copied = -1;  // where the copied rows of b begin
  for (int64_t first = 0; first < g.m; first += kSparseGroup) {
    const int64_t group = g.m - first < kSparseGroup ? g.m - first : kSparseGroup;
    for (int64_t begin = 0; begin < g.k; begin += g.block) {
      const int64_t k = g.k - begin < g.block ? g.k - begin : g.block;
      sparse_words<T, columns>(t, first, group, begin, k, words, from);
      for (int64_t p = 0; p < k; p += kSparseRun) {
        const T* b = g.b + (begin + p) * g.b_row + t.j;
        if (copies && copied != begin + p) {
          copied = begin + p;
          gemm_copy(b, g.b_row, k - p < kSparseRun ? k - p : kSparseRun, t.cols, width, copy);
        }
        for (int64_t i = 0; i < group; i += rows) {
          t.i = first + i;
          t.rows = group - i < rows ? group - i : rows;
          t.total = totals + i * width;
          const int64_t second = rows == 1 ? i : i + t.rows - 1;  // or the only one again
          const auto& word = words[p / kSparseRun];
          const uint64_t bits = word[i] | word[second];
          const bool ends = k - p <= kSparseRun;
          if (bits == 0 && p > 0 && !ends) continue;
          T* kept = sums + i * width;
          Vec<T> sum[rows][vectors];
          FP_UNROLL for (int r = 0; r < rows; ++r) FP_UNROLL for (int v = 0; v < vectors; ++v) sum[r][v] =
              p > 0 ? load(kept + (r * vectors + v) * lanes) : zero<T>();
          if constexpr (columns) {
            const T* const* a = from + p;
            const auto element = [=](int r, int64_t q)
                                     __attribute__((always_inline)) { return a[q][r == 0 ? i : second]; };
            sparse_sum(sum, element, bits, copies ? copy : b, b_row, last);
          } else {
            const T* const a[] = {runs[t.i] + begin + p, runs[first + second] + begin + p};
            const auto element = [=](int r, int64_t q) __attribute__((always_inline)) { return a[r][q]; };
            sparse_sum(sum, element, bits, copies ? copy : b, b_row, last);
          }
          if (ends)
            sparse_end<columns ? kWeightKinds : kValueKinds>(sum, t, begin, k);
          else
            tile_store(sum, kept);
        }
      }
    }
  }
}

}  // namespace fp::FP_ISA_NAMESPACE

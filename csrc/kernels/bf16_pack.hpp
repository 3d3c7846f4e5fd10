// Packing for instructions that multiply pairs of bfloat16 numbers, neighbours along the sum.
//
//   rows     (m, k): rows of k numbers, filled up with zeros to a multiple of 32.
//   pairs    (k, n): panels of 16 columns; a panel holds, for every pair of indices of the sum, 16 columns of two
//            numbers, 64 bytes; filled up with zero pairs to a multiple of 16 pairs, and with zero columns.
//   squares  (m, k): panels of 16 rows; a panel holds, for every 32 indices of the sum, 16 rows of 32 numbers, 1 KiB,
//            filled up with zeros along the sum. Tiles are loaded from there at once.
//
// Strides are never a multiple of 1 KiB (2 KiB for squares), where all would fall into the same few cache sets.
#pragma once

#include "kernels/bf16.hpp"
#include "kernels/simd.hpp"

namespace fp::FP_ISA_NAMESPACE {

// 16 words of 32 bits, a pair of bfloat16 numbers each.
struct Pairs {
  __m512i v;
};
FP_INLINE Pairs no_pairs() { return {_mm512_setzero_si512()}; }
FP_INLINE Pairs load_pairs(const void* p) {
  Pairs r;
  __builtin_memcpy(&r.v, p, 64);
  return r;
}
FP_INLINE void store_pairs(void* p, Pairs a) { __builtin_memcpy(p, &a.v, 64); }
FP_INLINE void store_pairs_part(void* p, int64_t begin, int64_t end, Pairs a) {
  const uint32_t below_end = end >= 16 ? 0xffffu : (1u << end) - 1u, below_begin = (1u << begin) - 1u;
  _mm512_mask_storeu_epi32(p, static_cast<__mmask16>(below_end & ~below_begin), a.v);
}

// The 32 numbers of two registers, rounded: low's, then high's.
FP_INLINE Pairs convert(Vec<float> low, Vec<float> high) {
  return {(__m512i)_mm512_cvtne2ps_pbh((__m512)high.v, (__m512)low.v)};
}
// Pairs of one number of each.
FP_INLINE Pairs interleave(Vec<float> first, Vec<float> second) {
  alignas(64) static constexpr uint16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                     8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  return {_mm512_maskz_permutexvar_epi16(0xffffffffu, load_pairs(order).v, convert(first, second).v)};
}
// The same for 16 numbers of each that are rounded already.
FP_INLINE Pairs interleave(const void* first, const void* second) {
  const auto wide = [](const void* p) {
    __m256i numbers;
    __builtin_memcpy(&numbers, p, 32);
    return _mm512_maskz_cvtepu16_epi32(0xffffu, numbers);
  };
  return {_mm512_maskz_or_epi32(0xffffu, wide(first), _mm512_maskz_slli_epi32(0xffffu, wide(second), 16))};
}
// 16 numbers, widened; and rounded.
FP_INLINE Vec<float> load_rounded(const void* p) {
  __m256i numbers;
  __builtin_memcpy(&numbers, p, 32);
  return {(__m512)_mm512_maskz_slli_epi32(0xffffu, _mm512_maskz_cvtepu16_epi32(0xffffu, numbers), 16)};
}
FP_INLINE void store_rounded(void* p, Vec<float> a) {
  const __m256bh numbers = _mm512_maskz_cvtneps_pbh(0xffffu, (__m512)a.v);
  __builtin_memcpy(p, &numbers, 32);
}
FP_INLINE Vec<float> first_of(Vec<float> a, int64_t n) { return {_mm512_maskz_mov_ps(first_float(n), a.v)}; }
FP_INLINE Vec<float> load_up_to(const float* p, int64_t n) {
  return n >= 16 ? load(p) : n > 0 ? load_part(p, n) : zero<float>();
}

// The transpose of 16 by 16 words, by exchanging squares of side 1, 2, 4 and 8.
template <int half>
FP_INLINE void exchange_squares(Pairs (&r)[16]) {
  typedef int32_t Words __attribute__((vector_size(64)));
  Words low, high;
  FP_UNROLL for (int j = 0; j < 16; ++j) {
    low[j] = j & half ? 16 + j - half : j;
    high[j] = j & half ? 16 + j : j + half;
  }
  FP_UNROLL for (int i = 0; i < 16; ++i) {
    if (i & half) continue;
    const __m512i a = r[i].v, b = r[i + half].v;
    r[i].v = _mm512_permutex2var_epi32(a, (__m512i)low, b);
    r[i + half].v = _mm512_permutex2var_epi32(a, (__m512i)high, b);
  }
}
FP_INLINE void transpose_pairs(Pairs (&r)[16]) {
  exchange_squares<1>(r);
  exchange_squares<2>(r);
  exchange_squares<4>(r);
  exchange_squares<8>(r);
}

// All strides in bytes.
FP_INLINE int64_t padded_sum(int64_t k) { return (k + 31) / 32 * 32; }
FP_INLINE int64_t rows_stride(int64_t k) {
  const int64_t bytes = padded_sum(k) * 2;
  return bytes % 1024 ? bytes : bytes + 64;
}
FP_INLINE int64_t pairs_stride(int64_t k) { return padded_sum(k) / 32 * 1024 + 64; }  // of a panel
FP_INLINE int64_t squares_stride(int64_t k) { return (padded_sum(k) / 32 | 1) * 1024; }
inline int64_t rows_bytes(int64_t m, int64_t k) { return m * rows_stride(k); }
inline int64_t pairs_bytes(int64_t k, int64_t n) { return (n + 15) / 16 * pairs_stride(k); }
inline int64_t pairs_transposed_bytes(int64_t m, int64_t k) { return pairs_bytes(k, m); }
inline int64_t squares_bytes(int64_t m, int64_t k) { return (m + 15) / 16 * squares_stride(k); }
// Where number (i, j) lies in squares, and the pair that begins with it in pairs; i of pairs is even.
FP_INLINE int64_t in_squares(int64_t i, int64_t j, int64_t k) {
  return i / 16 * squares_stride(k) + j / 32 * 1024 + i % 16 * 64 + j % 32 * 2;
}
FP_INLINE int64_t in_pairs(int64_t i, int64_t j, int64_t k) { return j / 16 * pairs_stride(k) + i * 32 + j % 16 * 4; }

// Source (m, k) to rows.
inline void pack_rows(const Pack16& p) {
  const int64_t stride = rows_stride(p.cols);
  for (int64_t r = p.r0; r < p.r1; ++r) {
    const float* from = p.x + r * p.x_row;
    char* to = static_cast<char*>(p.out) + r * stride;
    int64_t c = 0;
    for (; c + 32 <= p.cols; c += 32) store_pairs(to + c * 2, convert(load(from + c), load(from + c + 16)));
    if (c < p.cols)
      store_pairs(to + c * 2, convert(load_up_to(from + c, p.cols - c), load_up_to(from + c + 16, p.cols - c - 16)));
  }
}

// Source (m, k) to squares.
inline void pack_squares(const Pack16& p) {
  const int64_t stride = squares_stride(p.cols);
  for (int64_t r = p.r0; r < p.r1;) {
    const int64_t end = r / 16 * 16 + 16 < p.r1 ? r / 16 * 16 + 16 : p.r1;
    char* to = static_cast<char*>(p.out) + r / 16 * stride + r % 16 * 64;
    const float* from = p.x + r * p.x_row;
    for (int64_t c = 0; c < p.cols; c += 32, to += 1024, from += 32) {
      const int64_t n = p.cols - c;
      for (int64_t i = 0; i < end - r; ++i) {
        const float* x = from + i * p.x_row;
        store_pairs(to + i * 64,
                    n >= 32 ? convert(load(x), load(x + 16)) : convert(load_up_to(x, n), load_up_to(x + 16, n - 16)));
      }
    }
    r = end;
  }
}

// Source (k, n) to pairs.
inline void pack_pairs(const Pack16& p) {
  const int64_t stride = pairs_stride(p.rows);
  char* out = static_cast<char*>(p.out) + p.c0 / 16 * stride;
  // Several rows at a time, so that each panel gets some neighbouring lines.
  constexpr int64_t together = 16;
  for (int64_t block = p.r0; block < p.r1; block += together) {
    const int64_t end = p.r1 - block < together ? p.r1 : block + together;
    char* panel = out + block * 32;
    for (int64_t c = p.c0; c < p.c1; c += 16, panel += stride) {
      const int64_t n = p.c1 - c;
      const float* from = p.x + block * p.x_row + c;
      char* to = panel;
      int64_t r = block;
      for (; r + 2 <= end; r += 2, from += 2 * p.x_row, to += 64)
        store_pairs(to, interleave(load_up_to(from, n), load_up_to(from + p.x_row, n)));
      if (r < end) store_pairs(to, interleave(load_up_to(from, n), zero<float>()));
    }
  }
  if (p.r1 < p.rows) return;
  for (int64_t r = (p.rows + 1) / 2 * 2; r < padded_sum(p.rows); r += 2) {
    char* to = out + r * 32;
    for (int64_t c = p.c0; c < p.c1; c += 16, to += stride) store_pairs(to, no_pairs());
  }
}

// Source (n, k) to pairs.
inline void pack_pairs_transposed(const Pack16& p) {
  const int64_t stride = pairs_stride(p.cols);
  const int64_t end = p.c1 < p.cols ? p.c1 : padded_sum(p.cols);
  for (int64_t r = p.r0; r < p.r1; r += 16) {
    char* to = static_cast<char*>(p.out) + r / 16 * stride;
    for (int64_t c = p.c0; c < end; c += 32) {
      const int64_t n = p.c1 - c;
      Pairs square[16];
      FP_UNROLL for (int i = 0; i < 16; ++i) {
        const float* from = p.x + (r + i) * p.x_row + c;
        square[i] = r + i < p.r1 ? convert(load_up_to(from, n), load_up_to(from + 16, n - 16)) : no_pairs();
      }
      transpose_pairs(square);
      const int64_t count = end - c < 32 ? (end - c + 1) / 2 : 16;
      FP_UNROLL for (int i = 0; i < 16; ++i) {
        if (i < count) store_pairs(to + (c / 2 + i) * 64, square[i]);
      }
    }
  }
}

// Source (k, m) to squares; pairs(r, c, n): n columns from c on of rows r and r + 1, zeros for what lies outside.
template <class F>
FP_INLINE void transpose_into_squares(const Pack16& p, F&& pairs) {
  const int64_t stride = squares_stride(p.rows);
  const int64_t end = p.r1 < p.rows ? p.r1 : padded_sum(p.rows);
  for (int64_t block = p.r0 / 32 * 32; block < end; block += 32) {
    char* to = static_cast<char*>(p.out) + p.c0 / 16 * stride + block * 32;
    const int64_t from = p.r0 > block ? (p.r0 - block) / 2 : 0;
    const int64_t until = end - block < 32 ? (end - block + 1) / 2 : 16;
    for (int64_t c = p.c0; c < p.c1; c += 16, to += stride) {
      const int64_t n = p.c1 - c;
      Pairs square[16];
      FP_UNROLL for (int i = 0; i < 16; ++i) {
        const int64_t r = block + 2 * i;
        square[i] = i >= from && r < p.r1 ? pairs(r, c, n) : no_pairs();
      }
      transpose_pairs(square);
      FP_UNROLL for (int i = 0; i < 16; ++i) store_pairs_part(to + i * 64, from, until, square[i]);
    }
  }
}

inline void pack_squares_transposed(const Pack16& p) {
  transpose_into_squares(p, [&](int64_t r, int64_t c, int64_t n) __attribute__((always_inline)) {
    const float* x = p.x + r * p.x_row + c;
    return interleave(load_up_to(x, n), r + 1 < p.r1 ? load_up_to(x + p.x_row, n) : zero<float>());
  });
}

// 16 numbers each of 32 rows, which lie in lines of two panels, into 16 lines of 16 pairs. In every lane of 128 bits
// are eight numbers of a row, so that transposing words within lanes is enough.
FP_INLINE void transpose_panels(const char* upper, const char* lower, char* to) {
  const auto line = [](const char* p) __attribute__((always_inline)) {
    __m128i numbers;
    __builtin_memcpy(&numbers, p, 16);
    return numbers;
  };
  FP_UNROLL for (int half = 0; half < 2; ++half) {
    __m512i low[4], high[4];  // pair 4 L + q in lane L: numbers 0 to 3, and 4 to 7
    FP_UNROLL for (int q = 0; q < 4; ++q) {
      __m512i rows[2];
      FP_UNROLL for (int h = 0; h < 2; ++h) {
        const int64_t at = (2 * q + h) * 64 + half * 16;
        __m512i r = _mm512_castsi128_si512(line(upper + at));
        r = _mm512_maskz_inserti32x4(0xffffu, r, line(upper + at + 8 * 64), 1);
        r = _mm512_maskz_inserti32x4(0xffffu, r, line(lower + at), 2);
        rows[h] = _mm512_maskz_inserti32x4(0xffffu, r, line(lower + at + 8 * 64), 3);
      }
      low[q] = _mm512_maskz_unpacklo_epi16(0xffffffffu, rows[0], rows[1]);
      high[q] = _mm512_maskz_unpackhi_epi16(0xffffffffu, rows[0], rows[1]);
    }
    FP_UNROLL for (int f = 0; f < 8; f += 4) {
      const auto& pairs = f == 0 ? low : high;
      const __m512i a = _mm512_maskz_unpacklo_epi32(0xffffu, pairs[0], pairs[1]),
                    b = _mm512_maskz_unpackhi_epi32(0xffffu, pairs[0], pairs[1]),
                    c = _mm512_maskz_unpacklo_epi32(0xffffu, pairs[2], pairs[3]),
                    d = _mm512_maskz_unpackhi_epi32(0xffffu, pairs[2], pairs[3]);
      char* lines = to + (half * 8 + f) * 64;
      store_pairs(lines, {_mm512_maskz_unpacklo_epi64(0xffu, a, c)});
      store_pairs(lines + 64, {_mm512_maskz_unpackhi_epi64(0xffu, a, c)});
      store_pairs(lines + 128, {_mm512_maskz_unpacklo_epi64(0xffu, b, d)});
      store_pairs(lines + 192, {_mm512_maskz_unpackhi_epi64(0xffu, b, d)});
    }
  }
}

// The source lies in squares itself.
inline void pack_squares_transposed_kept(const Pack16& p, const void* squares) {
  alignas(64) static constexpr char zeros[32] = {};
  const int64_t stride = squares_stride(p.cols);
  const auto number = [&](int64_t r, int64_t c) __attribute__((always_inline)) {
    return static_cast<const char*>(squares) + r / 16 * stride + r % 16 * 64 + c / 32 * 1024 + c % 32 * 2;
  };
  const auto rest = [&](int64_t r0, int64_t r1) {
    if (r0 >= r1) return;
    Pack16 rows = p;
    rows.r0 = r0;
    rows.r1 = r1;
    transpose_into_squares(rows, [&](int64_t r, int64_t c, int64_t) __attribute__((always_inline)) {
      const char* x = number(r, c);  // two rows of a pair lie in one panel
      return interleave(static_cast<const void*>(x), r + 1 < r1 ? x + 64 : zeros);
    });
  };
  const int64_t begin = (p.r0 + 31) / 32 * 32, end = p.r1 / 32 * 32;  // of whole squares
  if (begin >= end) return rest(p.r0, p.r1);
  rest(p.r0, begin);
  for (int64_t r = begin; r < end; r += 32)
    for (int64_t c = p.c0; c < p.c1; c += 16) {
      const char* upper = number(r, c);
      transpose_panels(upper, upper + stride, static_cast<char*>(p.out) + in_squares(c, r, p.rows));
    }
  rest(end, p.r1);
}

}  // namespace fp::FP_ISA_NAMESPACE

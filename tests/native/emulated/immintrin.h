// For processors without AVX-512: its instructions, as far as csrc/kernels/simd_avx512.hpp uses them, by SIMDe, and
// here those that SIMDe lacks. Other instruction sets stay the compiler's. See `make avx512-emulated`.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include_next <immintrin.h>
#include <simde/x86/avx512.h>

#include <cstring>

namespace emulated {

// Of n elements those whose bits are set are made by f, the others are zero.
template <class V, class T, int n, class F>
inline V each(unsigned mask, F f) {
  T result[n] = {};
  for (int i = 0; i < n; ++i)
    if (mask >> i & 1) result[i] = f(i);
  V v;
  std::memcpy(&v, result, sizeof v);
  return v;
}

template <class V, class T, int n>
inline V load(unsigned mask, const void* p) {
  return each<V, T, n>(mask, [&](int i) { return static_cast<const T*>(p)[i]; });
}

template <class V, class T, int n>
inline void store(void* p, unsigned mask, V v) {
  T from[n];
  std::memcpy(from, &v, sizeof v);
  for (int i = 0; i < n; ++i)
    if (mask >> i & 1) static_cast<T*>(p)[i] = from[i];
}

// Within groups of four elements, by two bits of `order` each.
template <class V, class T>
inline V permute_fours(unsigned mask, V v, int order) {
  T from[16];
  std::memcpy(from, &v, sizeof v);
  return each<V, T, 16>(mask, [&](int i) { return from[i / 4 * 4 + (order >> (2 * (i % 4)) & 3)]; });
}

// Within pairs of elements, by a bit each.
inline __m512d permute_pairs(unsigned mask, __m512d v, int order) {
  double from[8];
  std::memcpy(from, &v, sizeof v);
  return each<__m512d, double, 8>(mask, [&](int i) { return from[i / 2 * 2 + (order >> i & 1)]; });
}

// Quarters: two of a, then two of b, by two bits each.
template <class V, class T, int n>
inline V shuffle_quarters(unsigned mask, V a, V b, int order) {
  T from[2][n];
  std::memcpy(from[0], &a, sizeof a);
  std::memcpy(from[1], &b, sizeof b);
  constexpr int quarter = n / 4;
  return each<V, T, n>(mask, [&](int i) {
    const int q = i / quarter;
    return from[q / 2][(order >> (2 * q) & 3) * quarter + i % quarter];
  });
}

}  // namespace emulated

#define _mm256_maskz_loadu_ps(mask, p) emulated::load<__m256, float, 8>(mask, p)
#define _mm512_maskz_loadu_ps(mask, p) emulated::load<__m512, float, 16>(mask, p)
#define _mm512_maskz_loadu_pd(mask, p) emulated::load<__m512d, double, 8>(mask, p)
#define _mm512_mask_storeu_ps(p, mask, v) emulated::store<__m512, float, 16>(p, mask, v)
#define _mm512_mask_storeu_pd(p, mask, v) emulated::store<__m512d, double, 8>(p, mask, v)
#define _mm512_maskz_permute_ps(mask, v, order) emulated::permute_fours<__m512, float>(mask, v, order)
#define _mm512_maskz_shuffle_epi32(mask, v, order) emulated::permute_fours<__m512i, int>(mask, v, order)
#define _mm512_maskz_permute_pd(mask, v, order) emulated::permute_pairs(mask, v, order)
#define _mm512_maskz_shuffle_f32x4(mask, a, b, order) emulated::shuffle_quarters<__m512, float, 16>(mask, a, b, order)
#define _mm512_maskz_shuffle_f64x2(mask, a, b, order) emulated::shuffle_quarters<__m512d, double, 8>(mask, a, b, order)

// The parts of simd.hpp that need AVX2 and FMA. Included by simd.hpp.
#pragma once

#include <immintrin.h>

#include "kernels/simd_mask.hpp"
#include "kernels/simd_turn.hpp"

namespace fp::FP_ISA_NAMESPACE {

FP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> fms(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm256_max_ps(a.v, b.v)}; }
FP_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm256_min_ps(a.v, b.v)}; }
FP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) {
  return {_mm256_blendv_ps(b.v, a.v, (__m256)m.m)};
}
FP_INLINE Vec<float> load_part(const float* p, int64_t n) {
  return {_mm256_maskload_ps(p, (__m256i)mask_first<float>(n).m)};
}

FP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> fms(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fmsub_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm256_fnmadd_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm256_max_pd(a.v, b.v)}; }
FP_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm256_min_pd(a.v, b.v)}; }
FP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {_mm256_blendv_pd(b.v, a.v, (__m256d)m.m)};
}
FP_INLINE Vec<double> load_part(const double* p, int64_t n) {
  return {_mm256_maskload_pd(p, (__m256i)mask_first<double>(n).m)};
}

FP_INLINE Half<float> fma(Half<float> a, Half<float> b, Half<float> c) { return {_mm_fmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> widened(Half<float> a) { return {_mm256_insertf128_ps(_mm256_setzero_ps(), a.v, 0)}; }
template <int n>
FP_INLINE Half<float> load_half(const float* p) {
  if constexpr (n == 4) return {_mm_loadu_ps(p)};
  return {_mm_maskload_ps(p, _mm_setr_epi32(-(n > 0), -(n > 1), -(n > 2), -(n > 3)))};
}
FP_INLINE void turn(const float* a, int64_t a_row, Half<float> (&t)[4]) {
  __m128 r[4];
  FP_UNROLL for (int i = 0; i < 4; ++i) r[i] = _mm_loadu_ps(a + i * a_row);
  const __m128 low01 = _mm_unpacklo_ps(r[0], r[1]), high01 = _mm_unpackhi_ps(r[0], r[1]);
  const __m128 low23 = _mm_unpacklo_ps(r[2], r[3]), high23 = _mm_unpackhi_ps(r[2], r[3]);
  t[0].v = _mm_movelh_ps(low01, low23);
  t[1].v = _mm_movehl_ps(low23, low01);
  t[2].v = _mm_movelh_ps(high01, high23);
  t[3].v = _mm_movehl_ps(high23, high01);
}
FP_INLINE void turn(const float* a, int64_t a_row, Vec<float> (&t)[4]) { turn_eight(a, a_row, t); }

// Masked stores are microcoded on AMD before Zen 5; pieces are quick everywhere.
FP_INLINE void store_part(float* p, int64_t n, Vec<float> a) {
  if (n >= 8) return store(p, a);
  __m128 part = _mm256_castps256_ps128(a.v);
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(a.v, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_castps_si128(part));
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
}
FP_INLINE void store_part(double* p, int64_t n, Vec<double> a) {
  if (n >= 4) return store(p, a);
  __m128d part = _mm256_castpd256_pd128(a.v);
  if (n & 2) {
    _mm_storeu_pd(p, part);
    part = _mm256_extractf128_pd(a.v, 1);
    p += 2;
  }
  if (n & 1) _mm_store_sd(p, part);
}

}  // namespace fp::FP_ISA_NAMESPACE

// Random numbers: unsigned 32-bit words, in groups of four.
namespace fp::FP_ISA_NAMESPACE {

// The 64-bit products of words 0, 2, ... of each.
FP_INLINE Vec<float>::U multiply_even(Vec<float>::U a, Vec<float>::U b) {
  return (Vec<float>::U)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
// Words 3, 2, 1, 0 of each group.
FP_INLINE Vec<float>::U reverse_quads(Vec<float>::U a) { return (Vec<float>::U)_mm256_shuffle_epi32((__m256i)a, 0x1b); }

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes j and j ^ half exchanged, half being a power of two below the number of lanes.
namespace fp::FP_ISA_NAMESPACE {

template <int half>
FP_INLINE Vec<float> exchange(Vec<float> a) {
  if constexpr (half == 4) return {_mm256_permute2f128_ps(a.v, a.v, 1)};
  if constexpr (half < 4) return {_mm256_permute_ps(a.v, half == 2 ? 0x4e : 0xb1)};
}
template <int half>
FP_INLINE Vec<double> exchange(Vec<double> a) {
  if constexpr (half == 2) return {_mm256_permute2f128_pd(a.v, a.v, 1)};
  if constexpr (half < 2) return {_mm256_permute_pd(a.v, 5)};
}

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes that are not zero, for kernels/gemm_sparse.hpp.
namespace fp::FP_ISA_NAMESPACE {

// A bit for each lane that is not zero; NaN is not.
FP_INLINE unsigned nonzeros(Vec<float> a) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, _mm256_setzero_ps(), _CMP_NEQ_UQ)));
}
FP_INLINE unsigned nonzeros(Vec<double> a) {
  return static_cast<unsigned>(_mm256_movemask_pd(_mm256_cmp_pd(a.v, _mm256_setzero_pd(), _CMP_NEQ_UQ)));
}

// 64 lanes of truth values, narrowed to bytes: what packing leaves in the wrong half changes places.
FP_INLINE uint64_t nonzeros_of_64(const float* p) {
  uint64_t word = 0;
  FP_UNROLL for (int half = 0; half < 64; half += 32) {
    __m256i m[4];
    FP_UNROLL for (int q = 0; q < 4; ++q) m[q] =
        _mm256_castps_si256(_mm256_cmp_ps(_mm256_loadu_ps(p + half + q * 8), _mm256_setzero_ps(), _CMP_NEQ_UQ));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(m[0], m[1]), _mm256_packs_epi32(m[2], m[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    word |= uint64_t(uint32_t(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(bytes, order)))) << half;
  }
  return word;
}
FP_INLINE uint64_t nonzeros_of_64(const double* p) {
  uint64_t word = 0;
  FP_UNROLL for (int q = 0; q < 64; q += 4) word |= uint64_t(nonzeros(load(p + q))) << q;
  return word;
}

template <class T, int n>
FP_INLINE bool any_negative_zero(const Vec<T> (&a)[n]) {
  typename Vec<T>::I found{};
  FP_UNROLL for (int v = 0; v < n; ++v) found |= (typename Vec<T>::I)(bits(a[v]) == bits(sign_bit<T>()));
  return _mm256_movemask_epi8((__m256i)found) != 0;
}

}  // namespace fp::FP_ISA_NAMESPACE

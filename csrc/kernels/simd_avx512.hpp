// The parts of simd.hpp that need AVX-512 F, BW and DQ. Included by simd.hpp. Masked forms stand for
// plain ones about which GCC 12 warns in its own headers; a full mask costs nothing.
#pragma once

#include <immintrin.h>

#include "kernels/simd_turn.hpp"

namespace fp::FP_ISA_NAMESPACE {

template <class T>
struct Mask;
template <>
struct Mask<float> {
  __mmask16 m;
};
template <>
struct Mask<double> {
  __mmask8 m;
};

FP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> fms(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Vec<float> max(Vec<float> a, Vec<float> b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
FP_INLINE Vec<float> min(Vec<float> a, Vec<float> b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
FP_INLINE Mask<float> lt(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
FP_INLINE Mask<float> le(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
FP_INLINE Mask<float> gt(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
FP_INLINE Mask<float> ge(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
FP_INLINE Mask<float> eq(Vec<float> a, Vec<float> b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FP_INLINE Mask<float> is_nan(Vec<float> a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
FP_INLINE Mask<float> mask_or(Mask<float> a, Mask<float> b) { return {static_cast<__mmask16>(a.m | b.m)}; }
FP_INLINE __mmask16 first_float(int64_t n) { return static_cast<__mmask16>((1u << n) - 1u); }
FP_INLINE Vec<float> load_part(const float* p, int64_t n) { return {_mm512_maskz_loadu_ps(first_float(n), p)}; }
FP_INLINE void store_part(float* p, int64_t n, Vec<float> a) { _mm512_mask_storeu_ps(p, first_float(n), a.v); }

FP_INLINE Half<float> fma(Half<float> a, Half<float> b, Half<float> c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
FP_INLINE Half<double> fma(Half<double> a, Half<double> b, Half<double> c) { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
template <int n>
FP_INLINE Half<float> load_half(const float* p) {
  return {_mm256_maskz_loadu_ps(__mmask8((1u << n) - 1u), p)};
}
FP_INLINE void turn(const float* a, int64_t a_row, Half<float> (&t)[4]) { turn_eight(a, a_row, t); }
// The other half is zero.
FP_INLINE Vec<float> widened(Half<float> a) { return {_mm512_maskz_broadcast_f32x8(0x00ff, a.v)}; }
FP_INLINE Vec<double> widened(Half<double> a) { return {_mm512_maskz_broadcast_f64x4(0x0f, a.v)}; }

FP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> fms(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fmsub_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) { return {_mm512_fnmadd_pd(a.v, b.v, c.v)}; }
FP_INLINE Vec<double> max(Vec<double> a, Vec<double> b) { return {_mm512_maskz_max_pd(0xff, a.v, b.v)}; }
FP_INLINE Vec<double> min(Vec<double> a, Vec<double> b) { return {_mm512_maskz_min_pd(0xff, a.v, b.v)}; }
FP_INLINE Mask<double> lt(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ)}; }
FP_INLINE Mask<double> le(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ)}; }
FP_INLINE Mask<double> gt(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GT_OQ)}; }
FP_INLINE Mask<double> ge(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_GE_OQ)}; }
FP_INLINE Mask<double> eq(Vec<double> a, Vec<double> b) { return {_mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ)}; }
FP_INLINE Mask<double> is_nan(Vec<double> a) { return {_mm512_cmp_pd_mask(a.v, a.v, _CMP_UNORD_Q)}; }
FP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {_mm512_mask_blend_pd(m.m, b.v, a.v)};
}
FP_INLINE Mask<double> mask_or(Mask<double> a, Mask<double> b) { return {static_cast<__mmask8>(a.m | b.m)}; }
FP_INLINE __mmask8 first_double(int64_t n) { return static_cast<__mmask8>((1u << n) - 1u); }
FP_INLINE Vec<double> load_part(const double* p, int64_t n) { return {_mm512_maskz_loadu_pd(first_double(n), p)}; }
FP_INLINE void store_part(double* p, int64_t n, Vec<double> a) { _mm512_mask_storeu_pd(p, first_double(n), a.v); }

template <class T>
FP_INLINE Mask<T> mask_first(int64_t n);
template <>
FP_INLINE_MEMBER Mask<float> mask_first<float>(int64_t n) {
  return {first_float(n)};
}
template <>
FP_INLINE_MEMBER Mask<double> mask_first<double>(int64_t n) {
  return {first_double(n)};
}

}  // namespace fp::FP_ISA_NAMESPACE

// Random numbers: unsigned 32-bit words, in groups of four.
namespace fp::FP_ISA_NAMESPACE {

// The 64-bit products of words 0, 2, ... of each.
FP_INLINE Vec<float>::U multiply_even(Vec<float>::U a, Vec<float>::U b) {
  return (Vec<float>::U)_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b);
}
// Words 3, 2, 1, 0 of each group.
FP_INLINE Vec<float>::U reverse_quads(Vec<float>::U a) {
  return (Vec<float>::U)_mm512_maskz_shuffle_epi32(0xffff, (__m512i)a, _MM_PERM_ABCD);
}

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes j and j ^ half exchanged, half being a power of two below the number of lanes.
namespace fp::FP_ISA_NAMESPACE {

template <int half>
FP_INLINE Vec<float> exchange(Vec<float> a) {
  if constexpr (half >= 4) return {_mm512_maskz_shuffle_f32x4(0xffff, a.v, a.v, half == 8 ? 0x4e : 0xb1)};
  if constexpr (half < 4) return {_mm512_maskz_permute_ps(0xffff, a.v, half == 2 ? 0x4e : 0xb1)};
}
template <int half>
FP_INLINE Vec<double> exchange(Vec<double> a) {
  if constexpr (half >= 2) return {_mm512_maskz_shuffle_f64x2(0xff, a.v, a.v, half == 4 ? 0x4e : 0xb1)};
  if constexpr (half < 2) return {_mm512_maskz_permute_pd(0xff, a.v, 0x55)};
}

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes that are not zero, for kernels/gemm_sparse.hpp.
namespace fp::FP_ISA_NAMESPACE {

// A bit for each lane that is not zero; NaN is not.
FP_INLINE unsigned nonzeros(Vec<float> a) { return _mm512_cmp_ps_mask(a.v, _mm512_setzero_ps(), _CMP_NEQ_UQ); }
FP_INLINE unsigned nonzeros(Vec<double> a) { return _mm512_cmp_pd_mask(a.v, _mm512_setzero_pd(), _CMP_NEQ_UQ); }

template <class T>
FP_INLINE uint64_t nonzeros_of_64(const T* p) {
  uint64_t word = 0;
  FP_UNROLL for (int q = 0; q < 64; q += Vec<T>::lanes) word |= uint64_t(nonzeros(load(p + q))) << q;
  return word;
}

// -0 is the smallest of all representations taken as signed integers.
template <int n>
FP_INLINE bool any_negative_zero(const Vec<float> (&a)[n]) {
  __m512i least = (__m512i)a[0].v;
  FP_UNROLL for (int v = 1; v < n; ++v) least = _mm512_maskz_min_epi32(0xffff, least, (__m512i)a[v].v);
  return _mm512_cmpeq_epi32_mask(least, _mm512_set1_epi32(INT32_MIN)) != 0;
}
template <int n>
FP_INLINE bool any_negative_zero(const Vec<double> (&a)[n]) {
  __m512i least = (__m512i)a[0].v;
  FP_UNROLL for (int v = 1; v < n; ++v) least = _mm512_maskz_min_epi64(0xff, least, (__m512i)a[v].v);
  return _mm512_cmpeq_epi64_mask(least, _mm512_set1_epi64(INT64_MIN)) != 0;
}

}  // namespace fp::FP_ISA_NAMESPACE

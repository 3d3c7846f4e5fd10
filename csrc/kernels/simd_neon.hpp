// The parts of simd.hpp that need AArch64's vector unit. Included by simd.hpp.
#pragma once

#include <arm_neon.h>

#include "kernels/simd_mask.hpp"
#include "kernels/simd_part16.hpp"

namespace fp::FP_ISA_NAMESPACE {

FP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {(Vec<float>::F)vfmaq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)};
}
FP_INLINE Vec<float> fnma(Vec<float> a, Vec<float> b, Vec<float> c) {
  return {(Vec<float>::F)vfmsq_f32((float32x4_t)c.v, (float32x4_t)a.v, (float32x4_t)b.v)};
}
FP_INLINE Vec<float> fms(Vec<float> a, Vec<float> b, Vec<float> c) { return fma(a, b, neg(c)); }
FP_INLINE Vec<float> select(Mask<float> m, Vec<float> a, Vec<float> b) {
  return {(Vec<float>::F)vbslq_f32((uint32x4_t)m.m, (float32x4_t)a.v, (float32x4_t)b.v)};
}

FP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {(Vec<double>::F)vfmaq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v)};
}
FP_INLINE Vec<double> fnma(Vec<double> a, Vec<double> b, Vec<double> c) {
  return {(Vec<double>::F)vfmsq_f64((float64x2_t)c.v, (float64x2_t)a.v, (float64x2_t)b.v)};
}
FP_INLINE Vec<double> fms(Vec<double> a, Vec<double> b, Vec<double> c) { return fma(a, b, neg(c)); }
FP_INLINE Vec<double> select(Mask<double> m, Vec<double> a, Vec<double> b) {
  return {(Vec<double>::F)vbslq_f64((uint64x2_t)m.m, (float64x2_t)a.v, (float64x2_t)b.v)};
}

}  // namespace fp::FP_ISA_NAMESPACE

// Random numbers: unsigned 32-bit words, in groups of four.
namespace fp::FP_ISA_NAMESPACE {

// The 64-bit products of words 0, 2, ... of each.
FP_INLINE Vec<float>::U multiply_even(Vec<float>::U a, Vec<float>::U b) {
  return (Vec<float>::U)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}
// Words 3, 2, 1, 0 of each group.
FP_INLINE Vec<float>::U reverse_quads(Vec<float>::U a) {
  uint32x4_t pairs = vrev64q_u32((uint32x4_t)a);
  return (Vec<float>::U)vextq_u32(pairs, pairs, 2);
}

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes j and j ^ half exchanged, half being a power of two below the number of lanes.
namespace fp::FP_ISA_NAMESPACE {

template <int half>
FP_INLINE Vec<float> exchange(Vec<float> a) {
  float32x4_t v = (float32x4_t)a.v;
  return {(Vec<float>::F)(half == 2 ? vextq_f32(v, v, 2) : vrev64q_f32(v))};
}
template <int half>
FP_INLINE Vec<double> exchange(Vec<double> a) {
  return {(Vec<double>::F)vextq_f64((float64x2_t)a.v, (float64x2_t)a.v, 1)};
}

}  // namespace fp::FP_ISA_NAMESPACE

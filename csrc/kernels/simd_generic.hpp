// The parts of simd.hpp for any processor: multiplies, then adds. Included by simd.hpp.
#pragma once

#include "kernels/simd_mask.hpp"
#include "kernels/simd_part16.hpp"

namespace fp::FP_ISA_NAMESPACE {

template <class T>
FP_INLINE Vec<T> fma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {a.v * b.v + c.v};
}
template <class T>
FP_INLINE Vec<T> fms(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {a.v * b.v - c.v};
}
template <class T>
FP_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) {
  return {c.v - a.v * b.v};
}
template <class T>
FP_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) {
  using I = typename Vec<T>::I;
  return {(typename Vec<T>::F)((m.m & (I)a.v) | (~m.m & (I)b.v))};
}

}  // namespace fp::FP_ISA_NAMESPACE

// Random numbers: unsigned 32-bit words, in groups of four.
namespace fp::FP_ISA_NAMESPACE {

// The 64-bit products of words 0, 2, ... of each.
FP_INLINE Vec<float>::U multiply_even(Vec<float>::U a, Vec<float>::U b) {
  const Vec<double>::U low = Vec<double>::U{} + 0xffffffffu;
  return (Vec<float>::U)(((Vec<double>::U)a & low) * ((Vec<double>::U)b & low));
}
// Words 3, 2, 1, 0 of each group.
FP_INLINE Vec<float>::U reverse_quads(Vec<float>::U a) { return Vec<float>::U{a[3], a[2], a[1], a[0]}; }

}  // namespace fp::FP_ISA_NAMESPACE

// Lanes j and j ^ half exchanged, half being a power of two below the number of lanes.
namespace fp::FP_ISA_NAMESPACE {

template <int half>
FP_INLINE Vec<float> exchange(Vec<float> a) {
  return {Vec<float>::F{a.v[half], a.v[half ^ 1], a.v[half ^ 2], a.v[half ^ 3]}};
}
template <int half>
FP_INLINE Vec<double> exchange(Vec<double> a) {
  return {Vec<double>::F{a.v[1], a.v[0]}};
}

}  // namespace fp::FP_ISA_NAMESPACE

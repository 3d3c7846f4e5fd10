// Masks as registers whose lanes are all ones or all zeros: AVX2, NEON and generic. Included by simd_<isa>.hpp.
#pragma once

namespace fp::FP_ISA_NAMESPACE {

template <class T>
struct Mask {
  typename Vec<T>::I m;
};

template <class T>
FP_INLINE Mask<T> lt(Vec<T> a, Vec<T> b) {
  return {(typename Vec<T>::I)(a.v < b.v)};
}
template <class T>
FP_INLINE Mask<T> le(Vec<T> a, Vec<T> b) {
  return {(typename Vec<T>::I)(a.v <= b.v)};
}
template <class T>
FP_INLINE Mask<T> gt(Vec<T> a, Vec<T> b) {
  return {(typename Vec<T>::I)(a.v > b.v)};
}
template <class T>
FP_INLINE Mask<T> ge(Vec<T> a, Vec<T> b) {
  return {(typename Vec<T>::I)(a.v >= b.v)};
}
template <class T>
FP_INLINE Mask<T> eq(Vec<T> a, Vec<T> b) {
  return {(typename Vec<T>::I)(a.v == b.v)};
}
template <class T>
FP_INLINE Mask<T> is_nan(Vec<T> a) {
  return {(typename Vec<T>::I)(a.v != a.v)};
}
template <class T>
FP_INLINE Mask<T> mask_or(Mask<T> a, Mask<T> b) {
  return {a.m | b.m};
}
template <class T>
struct MaskTable;
template <>
struct MaskTable<float> {
  alignas(32) static constexpr int32_t words[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
};
template <>
struct MaskTable<double> {
  alignas(32) static constexpr int64_t words[8] = {-1, -1, -1, -1};
};
template <class T>
FP_INLINE Mask<T> mask_first(int64_t n) {
  constexpr int ones = 32 / sizeof(T);
  Mask<T> m;
  __builtin_memcpy(&m.m, MaskTable<T>::words + (ones - n), sizeof m.m);
  return m;
}

}  // namespace fp::FP_ISA_NAMESPACE

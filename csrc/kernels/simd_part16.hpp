// Parts of 16-byte registers, for instruction sets without masked access. Included by simd_neon.hpp and
// simd_generic.hpp.
#pragma once

namespace fp::FP_ISA_NAMESPACE {

FP_INLINE Vec<float> load_part(const float* p, int64_t n) {
  if (n >= 4) return load(p);
  Vec<float>::F r{};
  if (n > 0) r[0] = p[0];
  if (n > 1) r[1] = p[1];
  if (n > 2) r[2] = p[2];
  return {r};
}
FP_INLINE void store_part(float* p, int64_t n, Vec<float> a) {
  if (n >= 4) return store(p, a);
  if (n > 0) p[0] = a.v[0];
  if (n > 1) p[1] = a.v[1];
  if (n > 2) p[2] = a.v[2];
}
FP_INLINE Vec<double> load_part(const double* p, int64_t n) {
  if (n >= 2) return load(p);
  Vec<double>::F r{};
  if (n > 0) r[0] = p[0];
  return {r};
}
FP_INLINE void store_part(double* p, int64_t n, Vec<double> a) {
  if (n >= 2) return store(p, a);
  if (n > 0) p[0] = a.v[0];
}

}  // namespace fp::FP_ISA_NAMESPACE

// Four elements of each of eight rows, transposed: AVX2, where they are registers, and AVX-512, where they are halves.
// Included by simd_<isa>.hpp.
#pragma once

#include <immintrin.h>

namespace fp::FP_ISA_NAMESPACE {

template <class Eight>
FP_INLINE void turn_eight(const float* a, int64_t a_row, Eight (&t)[4]) {
  __m256 r[4];
  FP_UNROLL for (int i = 0; i < 4; ++i) r[i] =
      _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(a + i * a_row)), _mm_loadu_ps(a + (i + 4) * a_row), 1);
  const __m256 low01 = _mm256_unpacklo_ps(r[0], r[1]), high01 = _mm256_unpackhi_ps(r[0], r[1]);
  const __m256 low23 = _mm256_unpacklo_ps(r[2], r[3]), high23 = _mm256_unpackhi_ps(r[2], r[3]);
  t[0].v = _mm256_shuffle_ps(low01, low23, 0x44);
  t[1].v = _mm256_shuffle_ps(low01, low23, 0xee);
  t[2].v = _mm256_shuffle_ps(high01, high23, 0x44);
  t[3].v = _mm256_shuffle_ps(high01, high23, 0xee);
}

}  // namespace fp::FP_ISA_NAMESPACE

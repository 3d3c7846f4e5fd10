// The fastest arithmetic that this instruction set offers: what all other kernels are measured against.
#pragma once

#include "kernels/simd.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Independent chains x = x * factor + addend, all in registers: at least the latency of a multiply-add times those
// begun per cycle (4 cycles by 2, or by 4 on some NEON), with registers left for the operands; AVX2 and SSE2 have 16 in
// all.
#if defined(FP_ISA_AVX512) || defined(FP_ISA_NEON)
inline constexpr int kPeakChains = 16;
#else
inline constexpr int kPeakChains = 12;
#endif

template <class T>
int64_t peak(int64_t iterations, T* values) {
  constexpr int unrolled = 4;
  const Vec<T> factor = broadcast(values[0]), addend = broadcast(values[1]);
  Vec<T> x[kPeakChains];
  FP_UNROLL for (int i = 0; i < kPeakChains; ++i) x[i] = broadcast(T(i));
  for (int64_t n = 0; n < iterations; ++n) {
    FP_UNROLL for (int u = 0; u < unrolled; ++u) {
      FP_UNROLL for (int i = 0; i < kPeakChains; ++i) x[i] = fma(x[i], factor, addend);
    }
  }
  Vec<T> sum = x[0];
  FP_UNROLL for (int i = 1; i < kPeakChains; ++i) sum = add(sum, x[i]);
  T lanes[Vec<T>::lanes];
  store(lanes, sum);
  values[2] = lanes[0];
  return iterations * unrolled * kPeakChains * Vec<T>::lanes * 2;
}

}  // namespace fp::FP_ISA_NAMESPACE

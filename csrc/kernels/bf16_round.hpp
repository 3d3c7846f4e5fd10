// Rounding to bfloat16 in float32 registers.
#pragma once

#include "kernels/simd.hpp"

namespace fp::FP_ISA_NAMESPACE {

// To the nearest bfloat16, ties to even; NaN stays NaN; subnormal numbers become zeros of their sign.
FP_INLINE Vec<float> round_bf16(Vec<float> x) {
  using U = Vec<float>::U;
  const U u = bits(x);
  const U rounded = (u + 0x7fffu + ((u >> 16) & 1u)) & 0xffff0000u;
  const Vec<float> normal = from_bits<float>(rounded);
  const Vec<float> sign = bit_and(x, sign_bit<float>());
  const Vec<float> flushed = select(lt(abs(x), broadcast(1.17549435e-38f)), sign, normal);
  return select(is_nan(x), from_bits<float>((u & 0xffff0000u) | 0x00400000u), flushed);
}

}  // namespace fp::FP_ISA_NAMESPACE

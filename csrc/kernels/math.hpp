// Elementary functions on Vec<T>, the same bits on every instruction set with a fused multiply-add.
//
// Largest errors measured over some 10^7 arguments each, in units in the last place:
//
//                float  double
//   expm1        1.5    1.6
//   log          0.9    1.0
//   log1p        1.0    1.1
//   tanh         1.5    2.7
//   sigmoid      1.9    1.9
//   softplus     1.7    1.6
//   normal_cdf   6.5    8.8    over the whole range, the negative tail included
//
// Without a fused multiply-add (generic) the same but for normal_cdf: 67 and 512 at the far end of the tail.
//
// All return NaN for NaN and their limits at +-infinity. Results below the smallest normal number are 0, as are
// arguments below it (log(subnormal) = -infinity).
#pragma once

#include "kernels/simd.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Coefficients are minimax for the relative error of the function built on them; ln2 is split so that
// exponent * ln2_high is exact.
template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float log2_e = 0x1.715476p+0f, ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
  static constexpr float exp_lowest = -87.33654f, exp_highest = 88.72283f;
  static constexpr float expm1_lowest = -20.0f;  // e^x - 1 rounds to -1 below
  static constexpr float tanh_highest = 9.1f;    // tanh rounds to 1 above
  static constexpr float saturation = 256.0f;    // sigmoid is 0 at minus this, Phi as well
  static constexpr float smallest = 0x1p-126f;
  // (e^r - 1 - r) / r^2, |r| <= ln2 / 2
  static constexpr float exp_terms[] = {0x1.fffffcp-2f, 0x1.55549p-3f, 0x1.5558f4p-5f, 0x1.123a6ap-7f, 0x1.6a2384p-10f};
  // (2 atanh(s) - 2 s) / s^3 in s^2, |s| <= 0.2
  static constexpr float log_terms[] = {0x1.5555b4p-1f, 0x1.992a7ap-2f, 0x1.36f09cp-2f};
  // (tanh(x) - x) / x^3 in x^2, |x| <= 0.3
  static constexpr float tanh_terms[] = {-0x1.55549ep-2f, 0x1.10b012p-3f, -0x1.9c999p-5f};
  // (a + k) Phi(-a) e^(a^2 / 2) in (a - k) / (a + k)
  static constexpr float tail_k = 4.0f;
  static constexpr float tail_terms[] = {0x1.82b4bcp-1f, -0x1.373e3ap-1f, 0x1.8c6d9cp-2f, -0x1.7dffbp-3f,
                                         0x1.eed57p-5f,  -0x1.ed6dcp-8f,  -0x1.cd2cbp-9f, 0x1.9cff02p-10f,
                                         0x1.95188p-13f, -0x1.07945cp-13f};
};

template <>
struct MathConstants<double> {
  static constexpr double log2_e = 0x1.71547652b82fep+0, ln2_high = 0x1.62e42fefa2p-1, ln2_low = 0x1.9ef35793c7673p-41;
  static constexpr double exp_lowest = -708.396418532264, exp_highest = 709.782712893384;
  static constexpr double expm1_lowest = -40.0;
  static constexpr double tanh_highest = 19.1;
  static constexpr double saturation = 2048.0;
  static constexpr double smallest = 0x1p-1022;
  static constexpr double exp_terms[] = {0x1.000000000000ap-1,  0x1.55555555554f8p-3,  0x1.5555555550807p-5,
                                         0x1.111111112817bp-7,  0x1.6c16c18447f3dp-10, 0x1.a01a0128cc3c3p-13,
                                         0x1.a01999b2cb7f3p-16, 0x1.71df27f88b9ddp-19, 0x1.28adcbcba8de0p-22,
                                         0x1.ad7c7d0fb29f3p-26};
  static constexpr double log_terms[] = {0x1.555555555577ep-1, 0x1.99999998ee720p-2, 0x1.249249b3c790cp-2,
                                         0x1.c71c005389cc1p-3, 0x1.74750effd79f6p-3, 0x1.384f562a7a1c3p-3,
                                         0x1.3ad9b0ad8b21fp-3};
  static constexpr double tail_k = 5.5;
  static constexpr double tail_terms[] = {
      0x1.8c2b8893b5c8dp-1,   -0x1.5ed05c7e41a2ep-1,  0x1.1239b3f8c06dap-1,   -0x1.77dbb5cdda96cp-2,
      0x1.be33e6ee995efp-3,   -0x1.c15806fa4913ep-4,  0x1.71707b5751f99p-5,   -0x1.c83edf43363aep-7,
      0x1.4034e561cd734p-9,   0x1.1ab345dd43177p-12,  -0x1.544962c0f693fp-12, 0x1.2b891ccfbc2a2p-14,
      0x1.11cdc72d7dea0p-16,  -0x1.96a48e75ed638p-17, 0x1.df447092ddb07p-22,  0x1.8e528510d4af2p-20,
      -0x1.1f856ad72bc64p-22, -0x1.7d626ba3bb3a7p-23, 0x1.afa5d3bbce6f2p-25,  0x1.8a1aa6946ce68p-26,
      -0x1.846f1dd6927a6p-28, -0x1.629384a2fb596p-29};
};

// c[first] + c[first + step] x + c[first + 2 step] x^2 + ...: Horner's rule, or for long ones the even and the odd
// terms apart, which halves the chain of dependent operations.
template <int first = 0, int step = 1, class T, size_t n>
FP_INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[n]) {
  constexpr int terms = (int(n) - first + step - 1) / step;
  if constexpr (terms == 1) {
    return broadcast(c[first]);
  } else if constexpr (terms <= 7) {
    return fma(polynomial<first + step, step>(x, c), x, broadcast(c[first]));
  } else {
    Vec<T> square = mul(x, x);
    return fma(polynomial<first + step, 2 * step>(square, c), x, polynomial<first, 2 * step>(square, c));
  }
}

template <class T>
FP_INLINE Vec<T> infinity() {
  return broadcast(T(__builtin_inf()));
}

// e^x = (1 + growth) 2^k with k the integer nearest to x / ln2. power: 2^(k + offset).
template <class T>
struct ReducedExp {
  Vec<T> growth, power;
};
// Of x + low, low being tiny. Adding 1.5 2^mantissa_bits rounds to an integer and leaves it in the low bits.
template <class T, class... Low>
FP_INLINE ReducedExp<T> reduce_exp(Vec<T> x, int offset, Low... low) {
  using C = MathConstants<T>;
  const Vec<T> magic = broadcast(T(1.5) * Vec<T>::two_mantissa + T(Vec<T>::bias + offset));
  Vec<T> shifted = fma(x, broadcast(C::log2_e), magic);
  Vec<T> k = sub(shifted, magic), power = shift_left<Vec<T>::mantissa_bits>(shifted);
  Vec<T> high = fnma(k, broadcast(C::ln2_high), x);  // exact
  if constexpr (sizeof(T) == 4) {
    Vec<T> r = fnma(k, broadcast(C::ln2_low), high);
    ((r = add(r, low)), ...);
    return {fma(mul(r, r), polynomial(r, C::exp_terms), r), power};
  } else {
    // What rounding r would lose is kept apart; float keeps its bounds without.
    Vec<T> rest = mul(k, broadcast(C::ln2_low));
    ((rest = sub(rest, low)), ...);
    Vec<T> r = sub(high, rest);
    return {add(high, fms(mul(r, r), polynomial(r, C::exp_terms), rest)), power};
  }
}

// e^x, or e^(x + low) with |low| tiny, for x <= 0: the exp of softmax, sigmoid and all that is built on them.
template <class T, class... Low>
FP_INLINE Vec<T> exp_nonpositive(Vec<T> x, Low... low) {
  ReducedExp<T> e = reduce_exp(x, 0, low...);
  Vec<T> y = fma(e.growth, e.power, e.power);
  return select(lt(x, broadcast(MathConstants<T>::exp_lowest)), zero<T>(), y);
}

template <class T>
FP_INLINE Vec<T> expm1(Vec<T> x) {
  using C = MathConstants<T>;
  // Half of the result, so that e^x may reach the largest number.
  ReducedExp<T> e = reduce_exp(max(broadcast(C::expm1_lowest), x), -1);
  Vec<T> half = fma(e.growth, e.power, sub(e.power, broadcast(T(0.5))));
  Vec<T> y = select(gt(x, broadcast(C::exp_highest)), infinity<T>(), add(half, half));
  return copysign(y, x);
}

// log(1 + f), -0.25 <= f <= 0.5, as 2 atanh(s) with s = f / (2 + f), arranged so that f itself is never rounded.
// Returns f^2 / 2 - s (f^2 / 2 + R), which the caller subtracts from f.
template <class T>
FP_INLINE Vec<T> log_correction(Vec<T> f) {
  Vec<T> s = div(f, add(broadcast(T(2)), f));
  Vec<T> w = mul(s, s);
  Vec<T> square = mul(mul(f, f), broadcast(T(0.5)));
  return fnma(s, fma(w, polynomial(w, MathConstants<T>::log_terms), square), square);
}

// log(2^k (1 + f))
template <class T>
FP_INLINE Vec<T> log_assemble(Vec<T> k, Vec<T> f) {
  using C = MathConstants<T>;
  Vec<T> small = fnma(k, broadcast(C::ln2_low), log_correction(f));
  return fma(k, broadcast(C::ln2_high), sub(f, small));
}

template <class T>
FP_INLINE Vec<T> log(Vec<T> x) {
  Vec<T> k = exponent(x), m = mantissa(x);
  Mask<T> upper = ge(m, broadcast(T(1.5)));
  k = select(upper, add(k, broadcast(T(1))), k);
  m = select(upper, mul(m, broadcast(T(0.5))), m);
  Vec<T> y = log_assemble(k, sub(m, broadcast(T(1))));
  y = select(lt(x, infinity<T>()), y, x);
  y = select(lt(x, broadcast(MathConstants<T>::smallest)), neg(infinity<T>()), y);
  return select(lt(x, zero<T>()), broadcast(T(__builtin_nan(""))), y);
}

template <class T>
FP_INLINE Vec<T> log1p(Vec<T> x) {
  const Vec<T> one = broadcast(T(1));
  Vec<T> u = add(one, x), back = sub(u, one);
  Vec<T> lost = add(sub(x, back), sub(one, sub(u, back)));  // 1 + x = u + lost exactly
  Vec<T> k = exponent(u), m = mantissa(u);
  Mask<T> upper = ge(m, broadcast(T(1.5)));
  k = select(upper, add(k, one), k);
  m = select(upper, mul(m, broadcast(T(0.5))), m);
  // 2^-k lost matters only while k is small; the limit keeps 2^-k a normal number.
  Vec<T> f = fma(lost, exp2_int(max(neg(k), broadcast(T(-64)))), sub(m, one));
  Vec<T> y = copysign(log_assemble(k, f), x);
  y = select(lt(u, infinity<T>()), y, u);
  y = select(lt(u, broadcast(MathConstants<T>::smallest)), neg(infinity<T>()), y);
  return select(lt(u, zero<T>()), broadcast(T(__builtin_nan(""))), y);
}

// log(1 + x) for 0 <= x <= 1, as after an exp_nonpositive. Above 0.5, x - 1 is exact.
template <class T>
FP_INLINE Vec<T> log1p_unit(Vec<T> x) {
  const Vec<T> half = broadcast(T(0.5));
  Mask<T> upper = gt(x, half);
  Vec<T> f = select(upper, mul(sub(x, broadcast(T(1))), half), x);
  return log_assemble(select(upper, broadcast(T(1)), zero<T>()), f);
}

// (e - 1) / (e + 1) with e = e^|2x|.
template <class T>
FP_INLINE Vec<T> tanh(Vec<T> x) {
  using C = MathConstants<T>;
  Vec<T> a = min(broadcast(C::tanh_highest), abs(x));
  ReducedExp<T> e = reduce_exp(add(a, a), 0);
  Vec<T> em1 = fma(e.growth, e.power, sub(e.power, broadcast(T(1))));
  Vec<T> y = div(em1, add(em1, broadcast(T(2))));
  if constexpr (sizeof(T) == 4) {
    // Three roundings would reach 2.4 units for small arguments; double is left at its 2.6.
    Vec<T> w = mul(a, a);
    y = select(lt(a, broadcast(0.3f)), fma(mul(a, w), polynomial(w, C::tanh_terms), a), y);
  }
  return copysign(y, x);
}

// What sigmoid and its relatives share: e = e^-|x|, so that nothing overflows.
template <class T>
FP_INLINE Vec<T> exp_minus_abs(Vec<T> x) {
  return exp_nonpositive(neg(abs(x)));
}

// 1 / (1 + e) or, for x < 0, e / (1 + e) as e - e^2 / (1 + e): dividing would add the rounding of 1 + e to that of e.
template <class T>
FP_INLINE Vec<T> sigmoid_from(Vec<T> x, Vec<T> e) {
  const Vec<T> one = broadcast(T(1));
  Vec<T> inverse = div(one, add(one, e));
  return select(lt(x, zero<T>()), fnma(e, mul(e, inverse), e), inverse);
}

template <class T>
FP_INLINE Vec<T> sigmoid(Vec<T> x) {
  return sigmoid_from(x, exp_minus_abs(x));
}

// log(1 + e^x)
template <class T>
FP_INLINE Vec<T> softplus(Vec<T> x) {
  return add(select(lt(x, zero<T>()), zero<T>(), x), log1p_unit(exp_minus_abs(x)));
}

// Phi(-a) for a >= 0, to full relative accuracy, given a^2 / 2 = high + low; density = e^(-a^2 / 2).
template <class T>
FP_INLINE Vec<T> normal_tail(Vec<T> a, Vec<T> high, Vec<T> low, Vec<T>* density) {
  constexpr T k = MathConstants<T>::tail_k;
  Vec<T> u = div(broadcast(T(1)), add(a, broadcast(k)));
  Vec<T> scaled = polynomial(fnma(broadcast(2 * k), u, broadcast(T(1))), MathConstants<T>::tail_terms);
  *density = exp_nonpositive(neg(high), neg(low));
  return mul(mul(*density, u), scaled);
}

// Phi(x) of the normal distribution, and e^(-x^2 / 2).
template <class T>
FP_INLINE Vec<T> normal_cdf(Vec<T> x, Vec<T>* density) {
  Vec<T> a = abs(x), half = mul(a, broadcast(T(0.5)));
  Vec<T> high = mul(half, a);
  Vec<T> tail = normal_tail(a, high, fms(half, a, high), density);
  return select(gt(x, zero<T>()), sub(broadcast(T(1)), tail), tail);
}

}  // namespace fp::FP_ISA_NAMESPACE

// Activations and their derivatives over contiguous ranges, and on single vectors for epilogues in registers.
//
// NaN in, NaN out, derivatives included. Errors of a few units in the last place (math.hpp), gelu and gelu_tanh
// relative to the exponential in their negative tails too; the limits at +-infinity are exact. elu and
// leaky_relu need alpha >= 0: their derivatives are computed from y.
#pragma once

#include "kernels/math.hpp"
#include "kernels/table.hpp"

namespace fp::FP_ISA_NAMESPACE {

// Klambauer et al. 2017: selu(z) = scale z for z > 0, else scale alpha (e^z - 1).
inline constexpr double kSeluScale = 1.0507009873554805;
inline constexpr double kSeluScaleAlpha = 1.0507009873554805 * 1.6732632423543772;
// gelu_tanh(z) = z sigmoid(2 u), u = sqrt(2 / pi) (z + 0.044715 z^3)
inline constexpr double kGeluLinear = 1.5957691216057308;  // 2 sqrt(2 / pi)
inline constexpr double kGeluCubic = kGeluLinear * 0.044715;
inline constexpr double kInverseSqrtTwoPi = 0.3989422804014327;

// Where a gate (sigmoid, Phi) has reached 0, z itself no longer matters; without the bound, -infinity * 0 is NaN.
template <class T>
FP_INLINE Vec<T> bound_below(Vec<T> z) {
  return max(broadcast(-MathConstants<T>::saturation), z);
}
template <class T>
FP_INLINE Vec<T> bound(Vec<T> z) {
  return min(broadcast(MathConstants<T>::saturation), bound_below(z));
}

template <class T>
FP_INLINE Vec<T> gelu_tanh_argument(Vec<T> z) {
  return mul(z, fma(mul(z, z), broadcast(T(kGeluCubic)), broadcast(T(kGeluLinear))));
}

template <Activation activation, class T>
FP_INLINE Vec<T> activation_forward_vector(Vec<T> z, [[maybe_unused]] T alpha) {
  const Vec<T> one = broadcast(T(1));
  [[maybe_unused]] const Mask<T> negative = lt(z, zero<T>());
  if constexpr (activation == Activation::relu) {
    return max(zero<T>(), z);  // NaN and -0 stay
  } else if constexpr (activation == Activation::leaky_relu) {
    return select(negative, mul(z, broadcast(alpha)), z);
  } else if constexpr (activation == Activation::elu) {
    return select(negative, mul(expm1(z), broadcast(alpha)), z);
  } else if constexpr (activation == Activation::selu) {
    return select(negative, mul(expm1(z), broadcast(T(kSeluScaleAlpha))), mul(z, broadcast(T(kSeluScale))));
  } else if constexpr (activation == Activation::gelu) {
    Vec<T> density;
    z = bound_below(z);
    return mul(z, normal_cdf(z, &density));
  } else if constexpr (activation == Activation::gelu_tanh) {
    z = bound_below(z);
    return mul(z, sigmoid(gelu_tanh_argument(z)));
  } else if constexpr (activation == Activation::silu) {
    z = bound_below(z);
    return mul(z, sigmoid(z));
  } else if constexpr (activation == Activation::mish) {
    // tanh(log(1 + e^z)) = (p^2 - 1) / (p^2 + 1), p = 1 + e^z, numerator and denominator divided by the larger power.
    z = bound_below(z);
    Vec<T> e = exp_minus_abs(z), two_e = add(e, e);
    Vec<T> numerator = select(negative, fma(e, e, two_e), add(one, two_e));
    Vec<T> rest = select(negative, broadcast(T(2)), mul(two_e, e));
    return div(mul(z, numerator), add(numerator, rest));
  } else if constexpr (activation == Activation::softplus) {
    return softplus(z);
  } else if constexpr (activation == Activation::softsign) {
    constexpr T far = 4 * Vec<T>::two_mantissa;
    z = min(broadcast(far), max(broadcast(-far), z));
    return div(z, add(one, abs(z)));
  } else if constexpr (activation == Activation::sigmoid) {
    return sigmoid(z);
  } else if constexpr (activation == Activation::tanh) {
    return tanh(z);
  } else if constexpr (activation == Activation::step) {
    return select(ge(z, zero<T>()), one, select(negative, zero<T>(), z));
  } else {
    return z;
  }
}

// The derivative at `saved`, which is z or y as derivative_needs_z says.
template <Activation activation, class T>
FP_INLINE Vec<T> activation_derivative(Vec<T> saved, [[maybe_unused]] T alpha) {
  const Vec<T> one = broadcast(T(1));
  [[maybe_unused]] const Mask<T> positive = gt(saved, zero<T>());
  if constexpr (activation == Activation::leaky_relu) {
    return select(positive, one, select(is_nan(saved), saved, broadcast(alpha)));
  } else if constexpr (activation == Activation::elu) {
    return select(positive, one, add(saved, broadcast(alpha)));
  } else if constexpr (activation == Activation::selu) {
    return select(positive, broadcast(T(kSeluScale)), add(saved, broadcast(T(kSeluScaleAlpha))));
  } else if constexpr (activation == Activation::gelu) {
    Vec<T> density, z = bound(saved);
    Vec<T> cdf = normal_cdf(z, &density);
    return fma(mul(z, broadcast(T(kInverseSqrtTwoPi))), density, cdf);
  } else if constexpr (activation == Activation::gelu_tanh || activation == Activation::silu) {
    // With v the gate's argument and s = sigmoid(v): s (1 + z v' (1 - s)); 1 - s = sigmoid(-v) without cancellation.
    Vec<T> z = bound(saved), v = z, slope = one;
    if constexpr (activation == Activation::gelu_tanh) {
      v = gelu_tanh_argument(z);
      slope = fma(mul(z, z), broadcast(T(3 * kGeluCubic)), broadcast(T(kGeluLinear)));
    }
    Vec<T> e = exp_minus_abs(v), inverse = div(one, add(one, e)), other = mul(e, inverse);
    Mask<T> negative = lt(v, zero<T>());
    Vec<T> gate = select(negative, other, inverse), rest = select(negative, inverse, other);
    return mul(gate, fma(mul(z, slope), rest, one));
  } else if constexpr (activation == Activation::mish) {
    // y = z n / d (above); y' = (n + 4 z g (1 + e) / d) / d with g = e for z < 0, else e^2.
    Vec<T> z = bound(saved), e = exp_minus_abs(z), two_e = add(e, e), square = mul(e, e);
    Mask<T> negative = lt(z, zero<T>());
    Vec<T> numerator = select(negative, add(square, two_e), add(one, two_e));
    Vec<T> rest = select(negative, broadcast(T(2)), add(square, square));
    Vec<T> inverse = div(one, add(numerator, rest));
    Vec<T> g = mul(select(negative, e, square), mul(broadcast(T(4)), add(one, e)));
    return mul(inverse, fma(mul(z, g), inverse, numerator));
  } else if constexpr (activation == Activation::softplus) {
    return sigmoid(saved);
  } else if constexpr (activation == Activation::softsign) {
    Vec<T> rest = sub(one, abs(saved));
    return mul(rest, rest);
  } else if constexpr (activation == Activation::sigmoid) {
    return mul(saved, sub(one, saved));
  } else if constexpr (activation == Activation::tanh) {
    return fnma(saved, saved, one);
  } else {
    return one;
  }
}

template <Activation activation, class T>
FP_INLINE Vec<T> activation_backward_vector(Vec<T> dy, Vec<T> saved, T alpha) {
  if constexpr (activation == Activation::linear) {
    return dy;
  } else if constexpr (activation == Activation::relu) {
    // Not a product: 0 also where dy is infinite. At the kink 0; a NaN output passes on.
    return select(gt(saved, zero<T>()), dy, select(is_nan(saved), saved, zero<T>()));
  } else if constexpr (activation == Activation::step) {
    return zero<T>();
  } else {
    return mul(dy, activation_derivative<activation>(saved, alpha));
  }
}

template <Activation activation, class T>
FP_INLINE void activation_forward_loop(T alpha, int64_t count, const T* z, T* y) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(y + i, activation_forward_vector<activation>(load(z + i), alpha));
  if (i < count)
    store_part(y + i, count - i, activation_forward_vector<activation>(load_part(z + i, count - i), alpha));
}

template <Activation activation, class T>
FP_INLINE void activation_backward_loop(T alpha, int64_t count, const T* dy, const T* saved, T* dz) {
  constexpr int lanes = Vec<T>::lanes;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes)
    store(dz + i, activation_backward_vector<activation>(load(dy + i), load(saved + i), alpha));
  if (int64_t n = count - i; n > 0)
    store_part(dz + i, n, activation_backward_vector<activation>(load_part(dy + i, n), load_part(saved + i, n), alpha));
}

// Calls body with the activation as a template argument; softmax is not elementwise and does nothing here.
template <class Body>
FP_INLINE void with_activation(Activation activation, Body body) {
  switch (activation) {
    case Activation::linear:
      return body.template operator()<Activation::linear>();
    case Activation::relu:
      return body.template operator()<Activation::relu>();
    case Activation::leaky_relu:
      return body.template operator()<Activation::leaky_relu>();
    case Activation::elu:
      return body.template operator()<Activation::elu>();
    case Activation::selu:
      return body.template operator()<Activation::selu>();
    case Activation::gelu:
      return body.template operator()<Activation::gelu>();
    case Activation::gelu_tanh:
      return body.template operator()<Activation::gelu_tanh>();
    case Activation::silu:
      return body.template operator()<Activation::silu>();
    case Activation::mish:
      return body.template operator()<Activation::mish>();
    case Activation::softplus:
      return body.template operator()<Activation::softplus>();
    case Activation::softsign:
      return body.template operator()<Activation::softsign>();
    case Activation::sigmoid:
      return body.template operator()<Activation::sigmoid>();
    case Activation::tanh:
      return body.template operator()<Activation::tanh>();
    case Activation::step:
      return body.template operator()<Activation::step>();
    case Activation::softmax:
      return;
  }
}

// y = act(z) over (count,).
template <class T>
static void activation_forward_range(Activation activation, T alpha, int64_t count, const T* z, T* y) {
  with_activation(activation, [&]<Activation a>()
                                  __attribute__((always_inline)) { activation_forward_loop<a>(alpha, count, z, y); });
}

// dz = dy act'(saved) over (count,).
template <class T>
static void activation_backward_range(Activation activation, T alpha, int64_t count, const T* dy, const T* saved,
                                      T* dz) {
  with_activation(activation, [&]<Activation a>() __attribute__((always_inline)) {
    activation_backward_loop<a>(alpha, count, dy, saved, dz);
  });
}

}  // namespace fp::FP_ISA_NAMESPACE

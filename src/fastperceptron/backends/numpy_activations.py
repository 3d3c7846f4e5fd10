"""Activations and their derivatives in NumPy. ``out`` may be the input array; NaN passes through all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..program import NEEDS_Z

__all__ = ["BACKWARD", "FORWARD", "activation_backward", "activation_forward", "normal_cdf"]

Array = NDArray[Any]

_SELU_SCALE = 1.0507009873554805  # Klambauer et al., "Self-normalizing neural networks", 2017
_SELU_ALPHA = 1.6732632423543772
_SQRT_2_OVER_PI = 0.7978845608028654
_INV_SQRT_2_PI = 0.3989422804014327

# (5 + a) exp(a^2 / 2) Q(a) as a polynomial in t = (a - 5) / (a + 5), a >= 0, Q being the upper tail of the normal
# distribution: the Chebyshev series over t in [-1, 1], rewritten in powers of t. Truncation error 2e-17.
_TAIL = (
    0.769193049750063,
    -0.665382502890057,
    0.4953056159699805,
    -0.3135331566712814,
    0.16502036617019517,
    -0.06911863870707162,
    0.02079506680323404,
    -0.002993376758978478,
    -0.0007978694277475297,
    0.0005448989683735629,
    -5.937558833377767e-05,
    -4.9762327924579515e-05,
    1.6680852719925394e-05,
    3.979361513829216e-06,
    -2.7688787836720915e-06,
    -3.335427141231054e-07,
    4.3347664285137567e-07,
    3.8571448567257587e-08,
    -6.741689051823604e-08,
    -6.940847374044867e-09,
    9.275082241537343e-09,
    1.2713759260278231e-09,
    -7.854458583247658e-10,
    -1.331210743010702e-10,
)


def normal_cdf(z: Array) -> Array:
    """Phi(z), the distribution function of the standard normal; computed and returned in float64.

    Relative error below 1e-15 down to z = -37, where the value reaches 1e-299. That needs the tail itself (not 1 - erf)
    and z^2 / 2 to more than 53 bits: z is split in a part whose square is exact and a rest.
    """
    a = np.minimum(np.abs(np.asarray(z, np.float64)), 1e3)
    high = a.astype(np.float32).astype(np.float64)
    rest = (a - high) * (a + high)
    t = (a - 5.0) / (a + 5.0)
    tail = np.full_like(a, _TAIL[-1])
    for coefficient in _TAIL[-2::-1]:
        tail *= t
        tail += coefficient
    tail *= np.exp(-0.5 * high * high)
    tail *= np.exp(-0.5 * rest)
    tail /= a + 5.0
    return np.where(z > 0, 1.0 - tail, tail)


def _sigmoid(z: Array) -> Any:
    e = np.exp(-np.abs(z))  # never overflows
    return np.where(z >= 0, z.dtype.type(1), e) / (1 + e)


def _clip(z: Array, bound: float) -> Any:
    """z within +-bound, where a product of z with a vanished factor is 0 instead of inf * 0."""
    return np.clip(z, -bound, bound)


def _tanh_softplus(z: Array) -> tuple[Any, Any]:
    """w = tanh(log(1 + exp(z))) and 1 - w, as quotients of polynomials in exp(-|z|), without cancellation."""
    e = np.exp(-np.abs(z))
    w = np.where(z >= 0, 1 + 2 * e, e * (e + 2))
    rest = np.where(z >= 0, 2 * e * e, z.dtype.type(2))
    return w / (w + rest), rest / (w + rest)


def _gelu_tanh_argument(z: Array) -> Any:
    """v with (1 + tanh(v / 2)) / 2 = sigmoid(v) as the gate: 2 sqrt(2 / pi) (z + 0.044715 z^3)."""
    return 2 * _SQRT_2_OVER_PI * (z + 0.044715 * z * z * z)


# -- forward: (z, alpha, out) ------------------------------------------------------------------------------


def _linear(z: Array, alpha: float, out: Array) -> None:
    if out is not z:
        np.copyto(out, z)


def _relu(z: Array, alpha: float, out: Array) -> None:
    np.maximum(z, 0, out=out)


def _leaky_relu(z: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(z < 0, alpha * z, z))


def _elu(z: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(z < 0, alpha * np.expm1(np.minimum(z, 0)), z))


def _selu(z: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(z < 0, _SELU_SCALE * _SELU_ALPHA * np.expm1(np.minimum(z, 0)), _SELU_SCALE * z))


def _gelu(z: Array, alpha: float, out: Array) -> None:
    np.multiply(np.maximum(z, -50), normal_cdf(z), out=out, casting="same_kind")


def _gelu_tanh(z: Array, alpha: float, out: Array) -> None:
    np.multiply(np.maximum(z, -50), _sigmoid(_gelu_tanh_argument(_clip(z, 50))), out=out)


def _silu(z: Array, alpha: float, out: Array) -> None:
    np.multiply(np.maximum(z, -1000), _sigmoid(z), out=out)


def _mish(z: Array, alpha: float, out: Array) -> None:
    np.multiply(np.maximum(z, -1000), _tanh_softplus(z)[0], out=out)


def _softplus(z: Array, alpha: float, out: Array) -> None:
    np.add(np.log1p(np.exp(-np.abs(z))), np.maximum(z, 0), out=out)


def _softsign(z: Array, alpha: float, out: Array) -> None:
    finite = _clip(z, float(np.finfo(z.dtype).max))
    np.divide(finite, 1 + np.abs(finite), out=out)


def _sigmoid_forward(z: Array, alpha: float, out: Array) -> None:
    np.copyto(out, _sigmoid(z))


def _tanh(z: Array, alpha: float, out: Array) -> None:
    np.tanh(z, out=out)


def _step(z: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(np.isnan(z), z, (z >= 0).astype(z.dtype)))


def _softmax(z: Array, alpha: float, out: Array) -> None:
    np.subtract(z, z.max(axis=-1, keepdims=True, initial=-np.inf), out=out)
    np.exp(out, out=out)
    np.divide(out, out.sum(axis=-1, keepdims=True), out=out)


# -- derivative times dy: (dy, saved, alpha, out) ------------------------------------------------------------


def _d_linear(dy: Array, y: Array, alpha: float, out: Array) -> None:
    if out is not dy:
        np.copyto(out, dy)


def _d_relu(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(y > 0, dy, np.maximum(y, 0)))  # 0, or the NaN of y


def _d_leaky_relu(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(y > 0, dy, np.where(np.isnan(y), y, alpha * dy)))


def _d_elu(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.copyto(out, np.where(y > 0, dy, dy * (y + alpha)))


def _d_selu(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.copyto(out, dy * np.where(y > 0, y.dtype.type(_SELU_SCALE), y + _SELU_SCALE * _SELU_ALPHA))


def _d_gelu(dy: Array, z: Array, alpha: float, out: Array) -> None:
    c = _clip(z, 50)
    np.multiply(dy, normal_cdf(z) + c * (_INV_SQRT_2_PI * np.exp(-0.5 * c * c)), out=out, casting="same_kind")


def _d_gelu_tanh(dy: Array, z: Array, alpha: float, out: Array) -> None:
    c = _clip(z, 50)
    v = _gelu_tanh_argument(c)
    slope = 2 * _SQRT_2_OVER_PI * (1 + 3 * 0.044715 * c * c)
    np.multiply(dy, _sigmoid(v) * (1 + c * slope * _sigmoid(-v)), out=out)


def _d_silu(dy: Array, z: Array, alpha: float, out: Array) -> None:
    np.multiply(dy, _sigmoid(z) * (1 + _clip(z, 1000) * _sigmoid(-z)), out=out)


def _d_mish(dy: Array, z: Array, alpha: float, out: Array) -> None:
    w, rest = _tanh_softplus(z)
    np.multiply(dy, w + _clip(z, 1000) * (rest * (1 + w) * _sigmoid(z)), out=out)


def _d_softplus(dy: Array, z: Array, alpha: float, out: Array) -> None:
    np.multiply(dy, _sigmoid(z), out=out)


def _d_softsign(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.multiply(dy, np.square(1 - np.abs(y)), out=out)


def _d_sigmoid(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.multiply(dy, y * (1 - y), out=out)


def _d_tanh(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.multiply(dy, 1 - y * y, out=out)


def _d_step(dy: Array, y: Array, alpha: float, out: Array) -> None:
    out.fill(0)


def _d_softmax(dy: Array, y: Array, alpha: float, out: Array) -> None:
    np.multiply(y, dy - (dy * y).sum(axis=-1, keepdims=True), out=out)


#: act(z) by name: (z, alpha, out). Callers silence NumPy's floating-point warnings.
FORWARD: dict[str, Callable[[Array, float, Array], None]] = {
    "linear": _linear,
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "mish": _mish,
    "softplus": _softplus,
    "softsign": _softsign,
    "sigmoid": _sigmoid_forward,
    "tanh": _tanh,
    "step": _step,
    "softmax": _softmax,
}

#: dy act'(saved) by name: (dy, saved, alpha, out).
BACKWARD: dict[str, Callable[[Array, Array, float, Array], None]] = {
    "linear": _d_linear,
    "relu": _d_relu,
    "leaky_relu": _d_leaky_relu,
    "elu": _d_elu,
    "selu": _d_selu,
    "gelu": _d_gelu,
    "gelu_tanh": _d_gelu_tanh,
    "silu": _d_silu,
    "mish": _d_mish,
    "softplus": _d_softplus,
    "softsign": _d_softsign,
    "sigmoid": _d_sigmoid,
    "tanh": _d_tanh,
    "step": _d_step,
    "softmax": _d_softmax,
}

assert set(FORWARD) == set(BACKWARD) >= NEEDS_Z


def activation_forward(activation: str, alpha: float, z: Array, out: Array | None = None) -> Array:
    """y = act(z), elementwise; softmax over the last axis."""
    y = np.empty(z.shape, z.dtype) if out is None else out
    with np.errstate(all="ignore"):  # infinities and NaN follow IEEE 754, silently
        FORWARD[activation](z, alpha, y)
    return y


def activation_backward(activation: str, alpha: float, dy: Array, saved: Array, out: Array | None = None) -> Array:
    """dz = dy act'(saved); saved is z for the activations of NEEDS_Z, else y. ``out`` may be ``dy``."""
    dz = np.empty(dy.shape, dy.dtype) if out is None else out
    with np.errstate(all="ignore"):
        BACKWARD[activation](dy, saved, alpha, dz)
    return dz

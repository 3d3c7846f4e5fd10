"""Random numbers as pure functions of (key, stream, step, element).

Philox4x32-10 gives the words; uniform, normal and permutation are made of exactly rounded operations alone, so the
same bits come out on every machine and in both backends, and nothing has to be stored to continue a run.
"""

from __future__ import annotations

import importlib
import math
import operator
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_counter, as_sizes, is_integer

if TYPE_CHECKING:
    from numpy.random import Generator

__all__ = [
    "STREAM_DROPOUT",
    "STREAM_INIT",
    "STREAM_SHUFFLE",
    "STREAM_SPLIT",
    "make_key",
    "normal",
    "permutation",
    "truncated_normal",
    "uniform",
]

#: Order of the rows in an epoch; step = epoch.
STREAM_SHUFFLE = 0
#: The rows that validation_split holds out.
STREAM_SPLIT = 1
#: Initial parameters; step = number of the parameter.
STREAM_INIT = 2
#: Dropout masks; + number of the dropout layer; step = finished updates.
STREAM_DROPOUT = 16

_STREAM_KEY = 0xFFFF
_CHUNK = 8192  # numbers that stay in the second-level cache on their way

Shape = int | tuple[int, ...]
Float64 = NDArray[np.float64]


def make_key(seed: int | Generator | None) -> int:
    """A 64-bit key from a seed.

    Parameters
    ----------
    seed
        An integer in [0, 2^64), mixed so that neighbouring seeds share nothing; a ``numpy.random.Generator``, drawn
        from once; or None, for a key from the operating system.

    Raises
    ------
    TypeError, ValueError
        If the seed is of another type or out of range.

    Examples
    --------
    >>> make_key(0) == make_key(0), make_key(0) == make_key(1)
    (True, False)
    """
    if seed is None:
        return int.from_bytes(os.urandom(8), "little")
    numpy_random = sys.modules.get("numpy.random")  # a Generator exists only where this was imported
    if numpy_random is not None and isinstance(seed, numpy_random.Generator):
        return int(seed.integers(0, 2**64, dtype=np.uint64))
    try:
        number = operator.index(seed)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"seed: expected an integer, a numpy.random.Generator or None; received {type(seed).__name__}"
        ) from None
    if not 0 <= number < 2**64:
        raise ValueError(f"seed: expected a number in [0, 2**64); received {number}")
    return int(_words64(number, _STREAM_KEY, 0, 1)[0])


def uniform(key: int, stream: int, step: int, shape: Shape) -> Float64:
    """Uniform over [0, 1), in multiples of 2^-53.

    Examples
    --------
    >>> u = uniform(make_key(0), STREAM_INIT, 0, (2, 3))
    >>> u.shape, bool((u >= 0).all() and (u < 1).all())
    ((2, 3), True)
    """
    return (_highest_bits(53, key, stream, step, shape) * 2.0**-53).reshape(shape)


def normal(key: int, stream: int, step: int, shape: Shape) -> Float64:
    """Standard normal, by the inverse of the distribution function.

    Source: Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37, 1988
    (PPND16; relative error below 1e-15).
    """
    return _normal_quantile(_open_uniform(key, stream, step, shape))


def truncated_normal(key: int, stream: int, step: int, shape: Shape) -> Float64:
    """Standard normal restricted to [-2, 2]. Its standard deviation is 0.87962566103423978."""
    below = 0.022750131948179207  # Phi(-2)
    inside = below + _open_uniform(key, stream, step, shape) * (1 - 2 * below)
    return np.clip(_normal_quantile(inside), -2.0, 2.0)


def permutation(key: int, stream: int, step: int, n: int) -> NDArray[np.int64]:
    """A random order of 0..n-1: the indices sorted by random 64-bit words.

    The low ceil(log2 n) bits of each word give way to the index, so that equal words cannot occur and one plain sort is
    enough.

    Examples
    --------
    >>> sorted(permutation(make_key(0), STREAM_SHUFFLE, 0, 5).tolist())
    [0, 1, 2, 3, 4]
    """
    if not is_integer(n) or n < 0:
        raise ValueError(f"permutation: n must be an integer of at least 0; received {n!r}")
    order: NDArray[np.int64] = _source().permutation(*as_counter("permutation", key, stream, step), n)
    return order


def _words64(key: int, stream: int, step: int, count: int) -> NDArray[np.uint64]:
    words: NDArray[np.uint32] = _source().philox(*as_counter("random", key, stream, step), 2 * count)
    return words.astype("<u4", copy=False).view("<u8")  # of two words the first is the low one


def _highest_bits(bits: int, key: int, stream: int, step: int, shape: Shape) -> Float64:
    """So many of each word, as a number."""
    words = _words64(key, stream, step, math.prod(as_sizes("random", shape))) >> np.uint64(64 - bits)
    return words.view("<i8").astype(np.float64)  # what is signed converts faster


def _source() -> Any:
    """The fastest backend that can be had; all give the same bits."""
    global _fastest
    if _fastest is None:
        try:
            native = importlib.import_module(".backends.native", __package__)
            native.check_usable()
            _fastest = native
        except ImportError:
            _fastest = importlib.import_module(".backends.numpy", __package__)
    return _fastest


_fastest: Any = None


def _open_uniform(key: int, stream: int, step: int, shape: Shape) -> Float64:
    """Uniform over (0, 1), symmetric: odd multiples of 2^-53, of which float64 holds every one and its complement."""
    return ((_highest_bits(52, key, stream, step, shape) * 2.0 + 1.0) * 2.0**-53).reshape(shape)


def _log(x: Float64) -> Float64:
    """Natural logarithm of normal x > 0, relative error below 3e-16. The last bit of np.log depends on the machine."""
    m, e = np.frexp(x)  # m in [0.5, 1)
    small = m < 0.7071067811865476
    m = np.where(small, m + m, m)
    e = np.where(small, e - 1, e).astype(np.float64)
    s = (m - 1.0) / (m + 1.0)  # log m = 2 atanh s, |s| < 0.1716
    q = s * s
    series = np.full_like(q, 1.0 / 25.0)
    for k in range(23, 1, -2):
        series = series * q + 1.0 / k
    # ln 2 in two parts, of which e times the first is exact.
    return e * 0.693147180369123816490 + (e * 1.90821492927058770002e-10 + 2.0 * (s + s * q * series))


def _horner(coefficients: tuple[float, ...], r: Float64) -> Float64:
    value = np.full_like(r, coefficients[-1])
    for c in coefficients[-2::-1]:
        value *= r
        value += c
    return value


def _normal_quantile(p: Float64) -> Float64:
    z = np.empty_like(p)
    for begin in range(0, p.size, _CHUNK):
        z.reshape(-1)[begin : begin + _CHUNK] = _quantiles(p.reshape(-1)[begin : begin + _CHUNK])
    return z


def _quantiles(p: Float64) -> Float64:
    q = p - 0.5
    center = 0.180625 - q * q
    z = q * _horner(_A, center) / _horner(_B, center)
    outside = np.flatnonzero(np.abs(q) > 0.425)
    p, q = p[outside], q[outside]
    r = np.sqrt(-_log(np.where(q < 0, p, 1.0 - p)))
    near = _horner(_C, r - 1.6) / _horner(_D, r - 1.6)
    far = _horner(_E, r - 5.0) / _horner(_F, r - 5.0)
    tail = np.where(r <= 5.0, near, far)
    z[outside] = np.where(q < 0, -tail, tail)
    return z


# The rational approximations of AS 241: |p - 1/2| <= 0.425; sqrt(-log tail) <= 5; beyond.
_A = (
    3.3871328727963666080e0,
    1.3314166789178437745e2,
    1.9715909503065514427e3,
    1.3731693765509461125e4,
    4.5921953931549871457e4,
    6.7265770927008700853e4,
    3.3430575583588128105e4,
    2.5090809287301226727e3,
)
_B = (
    1.0,
    4.2313330701600911252e1,
    6.8718700749205790830e2,
    5.3941960214247511077e3,
    2.1213794301586595867e4,
    3.9307895800092710610e4,
    2.8729085735721942674e4,
    5.2264952788528545610e3,
)
_C = (
    1.42343711074968357734e0,
    4.63033784615654529590e0,
    5.76949722146069140550e0,
    3.64784832476320460504e0,
    1.27045825245236838258e0,
    2.41780725177450611770e-1,
    2.27238449892691845833e-2,
    7.74545014278341407640e-4,
)
_D = (
    1.0,
    2.05319162663775882187e0,
    1.67638483018380384940e0,
    6.89767334985100004550e-1,
    1.48103976427480074590e-1,
    1.51986665636164571966e-2,
    5.47593808499534494600e-4,
    1.05075007164441684324e-9,
)
_E = (
    6.65790464350110377720e0,
    5.46378491116411436990e0,
    1.78482653991729133580e0,
    2.96560571828504891230e-1,
    2.65321895265761230930e-2,
    1.24266094738807843860e-3,
    2.71155556874348757815e-5,
    2.01033439929228813265e-7,
)
_F = (
    1.0,
    5.99832206555887937690e-1,
    1.36929880922735805310e-1,
    1.48753612908506148525e-2,
    7.86869131145613259100e-4,
    1.84631831751005468180e-5,
    1.42151175831644588870e-7,
    2.04426310338993978564e-15,
)

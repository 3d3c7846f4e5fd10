"""Rounding to bfloat16, in NumPy: float32 numbers with an 8-bit significand."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numpy_matmul import matmul

__all__ = ["bfloat16_product", "round_bfloat16"]

Array = NDArray[Any]

_SMALLEST_NORMAL = np.float32(2.0**-126)


def round_bfloat16(x: Array) -> Array:
    """x, rounded to the nearest bfloat16, ties to even, as float32.

    NaN stays NaN, what is too large becomes infinite, subnormal numbers become zeros: as processors do it.
    """
    x = np.ascontiguousarray(x, np.float32)
    bits = x.view(np.uint32)
    rounded = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    rounded &= np.uint32(0xFFFF0000)
    small = np.abs(x) < _SMALLEST_NORMAL
    rounded[small] = bits[small] & np.uint32(0x80000000)
    nan = np.isnan(x)
    rounded[nan] = (bits[nan] & np.uint32(0xFFFF0000)) | np.uint32(0x00400000)
    return rounded.view(np.float32)


def bfloat16_product(a: Array, b: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """a b over operands rounded to bfloat16, summed in float32. a (m, k) and b (k, n), or their transposes."""
    a, b = round_bfloat16(a), round_bfloat16(b)
    with np.errstate(all="ignore"):
        return matmul(a.T if transpose_a else a, b.T if transpose_b else b)

"""Philox4x32-10 in NumPy: the same words as csrc/kernels/philox.hpp.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["permutation", "philox", "philox_blocks"]

_LOW = 0xFFFFFFFF
_CHUNK = 8192  # blocks whose ten rounds stay in the second-level cache


def philox_blocks(
    c0: NDArray[np.uint64], c1: NDArray[np.uint64], key: int, stream: int, step: int
) -> NDArray[np.uint32]:
    """The four words of every block: counters (c0, c1, step, stream), broadcast; shape (..., 4).

    c0 and c1 hold 32-bit numbers in 64-bit integers, which makes the 32 x 32 -> 64 bit products exact.
    """
    key0, key1 = key & _LOW, key >> 32 & _LOW
    c2: Any = np.uint64(step & _LOW)
    c3: Any = np.uint64((stream & 0xFFFF) << 16 | (step >> 32 & 0xFFFF))
    low, half = np.uint64(_LOW), np.uint64(32)
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            p1 >> half ^ c1 ^ np.uint64(key0),
            p1 & low,
            p0 >> half ^ c3 ^ np.uint64(key1),
            p0 & low,
        )
        key0, key1 = key0 + 0x9E3779B9 & _LOW, key1 + 0xBB67AE85 & _LOW
    out = np.empty((*np.broadcast_shapes(c0.shape, c1.shape), 4), np.uint32)
    for word, value in enumerate((c0, c1, c2, c3)):
        out[..., word] = value
    return out


def philox(key: int, stream: int, step: int, count: int) -> NDArray[np.uint32]:
    """``count`` words of the stream: word w of block i stands at 4 i + w."""
    blocks = -(-count // 4)
    out = np.empty((blocks, 4), np.uint32)
    for begin in range(0, blocks, _CHUNK):
        i = np.arange(begin, min(begin + _CHUNK, blocks), dtype=np.uint64)
        out[begin : begin + _CHUNK] = philox_blocks(i & np.uint64(_LOW), i >> np.uint64(32), key, stream, step)
    return out.reshape(-1)[:count]


def permutation(key: int, stream: int, step: int, n: int) -> NDArray[np.int64]:
    """0..n-1 sorted by random words whose low bits are the numbers themselves."""
    low = np.uint64((1 << max(n - 1, 0).bit_length()) - 1)
    drawn = philox(key, stream, step, 2 * n).astype(np.uint64)
    words = drawn[0::2] | drawn[1::2] << np.uint64(32)
    words &= ~low
    words |= np.arange(n, dtype=np.uint64)
    words.sort()
    words &= low
    return words.astype(np.int64)

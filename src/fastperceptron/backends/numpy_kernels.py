"""The dense layer's products, the update of SGD and dropout, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .numpy_activations import activation_forward
from .numpy_matmul import matmul
from .numpy_philox import philox_blocks

__all__ = [
    "dense_backward_bias",
    "dense_backward_input",
    "dense_backward_weights",
    "dense_forward",
    "dropout_forward",
    "sgd_update",
]

Array = NDArray[Any]


#: Products are cut into pieces of about this much arithmetic, some tens of milliseconds: NumPy ignores Ctrl-C.
_FLOP_PER_PIECE = 2e9
_LEAST_ROWS = 16


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """a b, in pieces of rows between which Python can be interrupted."""
    flop = 2.0 * a.shape[0] * a.shape[1] * b.shape[1]
    if flop <= _FLOP_PER_PIECE:
        return matmul(a, b, out)
    y = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b)) if out is None else out
    rows = max(_LEAST_ROWS, int(a.shape[0] * _FLOP_PER_PIECE / flop))
    for begin in range(0, a.shape[0], rows):
        matmul(a[begin : begin + rows], b, y[begin : begin + rows])
    return y


def dense_forward(
    x: Array, w: Array, b: Array | None, activation: str = "linear", alpha: float = 0.0, out: Array | None = None
) -> Array:
    """y = act(x w + b). x (n, in), w (in, out), b (out,) or None."""
    with np.errstate(all="ignore"):
        y = product(x, w, out)
        if b is not None:
            y += b
    return activation_forward(activation, alpha, y, y)


def dense_backward_input(dz: Array, w: Array, out: Array | None = None) -> Array:
    """dx = dz w^T. dz (n, out), w (in, out)."""
    with np.errstate(all="ignore"):
        return product(dz, w.T, out)


def dense_backward_weights(x: Array, dz: Array, out: Array | None = None) -> Array:
    """dw = x^T dz. x (n, in), dz (n, out)."""
    with np.errstate(all="ignore"):
        return product(x.T, dz, out)


def dense_backward_bias(dz: Array, out: Array | None = None) -> Array:
    """db: the sums of the columns of dz."""
    with np.errstate(all="ignore"):
        db: Array = np.add.reduce(dz, axis=0, out=out)
    return db


def sgd_update(w: Array, g: Array, v: Array | None, learning_rate: float, momentum: float, nesterov: bool) -> None:
    """v = momentum v - learning_rate g; w += v, or with nesterov w += momentum v - learning_rate g. In place."""
    with np.errstate(all="ignore"):
        step = learning_rate * g
        if v is None:
            w -= step
            return
        v *= momentum
        v -= step
        w += momentum * v - step if nesterov else v


def dropout_forward(x: Array, rate: float, key: int, stream: int, step: int, out: Array | None = None) -> Array:
    """y = x mask / (1 - rate). The backward pass is the same function on dy; ``out`` may be ``x``.

    Element (i, j) is kept when word j % 4 of the Philox block with counter (j / 4, i) is at least rate * 2^32.
    """
    n, width = x.shape
    column = np.arange(-(-width // 4), dtype=np.uint64)
    row = np.arange(n, dtype=np.uint64)[:, None]
    words = philox_blocks(column, row, key, stream, step).reshape(n, 4 * len(column))[:, :width]
    keep = words >= np.uint32(int(rate * 2**32))
    with np.errstate(all="ignore"):
        y = np.multiply(x, 1 / (1 - rate), out=out)
    np.copyto(y, 0, where=~keep)
    return y

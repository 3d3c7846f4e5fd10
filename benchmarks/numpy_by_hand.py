"""A training step as a careful NumPy programmer writes it: the contestant that the native engine must beat.

What was tried, and kept because it was at least as fast as the alternatives on every workload:

- float32 throughout, scalars too, and nothing allocated in a step: every result goes to an array made beforehand.
- ``np.dot``, which costs less per call than ``np.matmul`` and reaches the same BLAS, transposed operands included.
- Parameters, velocities and gradients are one vector each, so that the update is three calls on small networks;
  on large ones it runs in pieces that stay in the cache.
- learning_rate / n scales the output gradient (n rows of few columns) instead of every weight's gradient.
- The bias gradient is a product with ones, faster than a sum over rows.
- ReLU's mask becomes float32 before it multiplies: mixing bool and float32 sends NumPy through a conversion buffer.
  Masked copies and ``putmask`` are slower still.

Biases as a further row of the weights, against a column of ones in the activations, came out even, so the plainer form
stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["HandWrittenNetwork"]

Array = NDArray[Any]

#: Elements of one piece of an update: three float32 pieces fit the second-level cache.
_PIECE = 1 << 15


def _views(flat: Array, like: Sequence[Array]) -> list[Array]:
    views, at = [], 0
    for array in like:
        views.append(flat[at : at + array.size].reshape(array.shape))
        at += array.size
    return views


class HandWrittenNetwork:
    """Dense layers with ReLU between, softmax cross-entropy, SGD with momentum; a fixed batch size.

    ``weights`` is [w, b, w, b, ...], w (in, out), b (out,).
    """

    def __init__(self, weights: Sequence[Array], batch: int, learning_rate: float, momentum: float) -> None:
        self._initial = [np.array(array, np.float32) for array in weights]
        size = sum(array.size for array in self._initial)
        self._flat, self._velocity, gradient = (np.zeros(size, np.float32) for _ in range(3))
        self.parameters = _views(self._flat, self._initial)
        gradients = _views(gradient, self._initial)
        self._w, self._b = self.parameters[0::2], self.parameters[1::2]
        self._w_transposed = [w.T for w in self._w]
        self._dw, self._db = gradients[0::2], gradients[1::2]
        self._pieces = [
            (self._flat[i : i + _PIECE], self._velocity[i : i + _PIECE], gradient[i : i + _PIECE])
            for i in range(0, size, _PIECE)
        ]

        outs = [b.size for b in self._b]
        self._y = [np.empty((batch, n_out), np.float32) for n_out in outs]
        self._y_transposed = [y.T for y in self._y]
        self._dy = [np.empty((batch, n_out), np.float32) for n_out in outs[:-1]]
        self._positive = [np.empty((batch, n_out), np.bool_) for n_out in outs[:-1]]
        self._mask = [np.empty((batch, n_out), np.float32) for n_out in outs[:-1]]
        self._row = np.empty((batch, 1), np.float32)
        self._ones = np.ones(batch, np.float32)
        self._logits = self._y[-1].reshape(-1)
        self._row_start = np.arange(batch, dtype=np.int64) * outs[-1]
        self._target = np.empty(batch, np.int64)
        self._target_logit = np.empty(batch, np.float32)

        self._zero = np.float32(0)
        self._one = np.float32(1)
        self._momentum = np.float32(momentum)
        self._rate = np.float32(learning_rate / batch)
        self._inverse_batch = 1.0 / batch
        self.reset()

    def reset(self) -> None:
        """Back to the first weights, at rest."""
        for array, initial in zip(self.parameters, self._initial, strict=True):
            array[...] = initial
        self._velocity[...] = 0

    def predict(self, x: Array) -> Array:
        """Logits (batch, out) for x (batch, in): a view, valid until the next call."""
        h, zero = x, self._zero
        for w, b, y in zip(self._w[:-1], self._b[:-1], self._y[:-1], strict=True):
            np.dot(h, w, out=y)
            np.add(y, b, out=y)
            np.maximum(y, zero, out=y)
            h = y
        z = self._y[-1]
        np.dot(h, self._w[-1], out=z)
        np.add(z, self._b[-1], out=z)
        return z

    def step(self, x: Array, labels: Array) -> float:
        """One step on x (batch, in) and labels (batch,); returns the cost before the update, in nats."""
        z = self.predict(x)
        row, logits, target = self._row, self._logits, self._target

        # cost = mean of log(sum(exp(z - max))) - (z_target - max); afterwards z holds exp(z - max).
        np.maximum.reduce(z, axis=1, keepdims=True, out=row)
        np.subtract(z, row, out=z)
        np.add(self._row_start, labels, out=target)
        logits.take(target, out=self._target_logit, mode="clip")  # clip: the other modes go through a buffer
        np.exp(z, out=z)
        np.add.reduce(z, axis=1, keepdims=True, out=row)
        np.divide(z, row, out=z)
        np.log(row, out=row)
        cost = (float(np.add.reduce(row, axis=None)) - float(np.add.reduce(self._target_logit))) * self._inverse_batch

        logits[target] -= self._one
        np.multiply(z, self._rate, out=z)
        dy = z
        for k in range(len(self._w) - 1, 0, -1):
            np.dot(self._y_transposed[k - 1], dy, out=self._dw[k])
            np.dot(self._ones, dy, out=self._db[k])
            dx, mask = self._dy[k - 1], self._mask[k - 1]
            np.dot(dy, self._w_transposed[k], out=dx)
            np.greater(self._y[k - 1], self._zero, out=self._positive[k - 1])
            np.copyto(mask, self._positive[k - 1])
            np.multiply(dx, mask, out=dx)
            dy = dx
        np.dot(x.T, dy, out=self._dw[0])
        np.dot(self._ones, dy, out=self._db[0])

        for w, v, g in self._pieces:
            np.multiply(v, self._momentum, out=v)
            np.subtract(v, g, out=v)
            np.add(w, v, out=w)
        return cost

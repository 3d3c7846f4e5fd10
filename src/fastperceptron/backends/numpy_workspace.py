"""The arrays that one batch needs on its way through a program, and the passes over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..program import NEEDS_Z, Operation, Program
from .numpy_activations import BACKWARD, FORWARD
from .numpy_bfloat16 import round_bfloat16
from .numpy_kernels import dropout_forward, product
from .numpy_losses import takes_labels
from .protocol import Arrays, OptionalArrays

__all__ = ["Gradients", "Targets", "Workspace", "entries_of", "gather", "parts_of"]

Array = NDArray[Any]


def parts_of(x: Arrays, width: int) -> list[Array]:
    """The matrices that stand side by side in x."""
    parts: list[Array] = [x] if isinstance(x, np.ndarray) else list(x)
    if sum(part.shape[1] for part in parts) != width or any(len(part) != len(parts[0]) for part in parts):
        shapes = ", ".join(str(part.shape) for part in parts)
        raise ShapeError(f"x: expected {width} columns in all and as many rows in each part; received {shapes}")
    return parts


def entries_of(given: OptionalArrays, count: int, what: str) -> list[Array | None]:
    """One array or None per head."""
    found: list[Array | None] = [None] * count
    if given is not None:
        found = [given] if isinstance(given, np.ndarray) else list(given)
    if len(found) != count:
        raise ShapeError(f"{what}: expected {count} arrays, one per loss head; received {len(found)}")
    return found


def gather(parts: Sequence[Array], index: Any, to: Array) -> None:
    """Rows of the matrices, side by side."""
    begin = 0
    for part in parts:
        end = begin + part.shape[1]
        np.copyto(to[:, begin:end], part[index], casting="unsafe")
        begin = end


class Targets(NamedTuple):
    """What one head judges a batch by."""

    labels: Array | None = None  # integers
    matrix: Array | None = None
    weights: Array | None = None

    def of(self, kind: str) -> Array:
        """What such a loss or metric compares with."""
        targets = self.labels if takes_labels(kind) else self.matrix
        assert targets is not None
        return targets


class Gradients:
    """Parameter gradients of one backward pass: the first use of a parameter writes, further uses add."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        self.written = [False] * len(arrays)
        self.trainable = [True] * len(arrays)

    def clear(self) -> None:
        """Begin a pass."""
        self.written = [False] * len(self.arrays)

    def settle(self) -> None:
        """Zero what no operation has written in this pass."""
        for array, written in zip(self.arrays, self.written, strict=True):
            if not written:
                array.fill(0)
        self.written = [True] * len(self.arrays)


class Workspace:
    """Values of n rows and, for training, what the backward pass needs: pre-activations and value gradients.

    Callers silence NumPy's floating-point warnings around ``load``, ``forward`` and ``backward``.
    """

    def __init__(self, program: Program, n: int, keep: bool = True) -> None:
        self.program = program
        self.n = n
        self.training = False
        self.heads: list[Targets] = []
        self.rows: NDArray[np.int64] | None = None  # the caller's row numbers, for messages
        dtype = np.dtype(program.array_dtype)
        self.values: list[Array] = [np.empty((n, width), dtype) for width in program.widths]
        for op in program.operations:
            if op.kind == "columns":
                self.values[op.output] = self.values[0][:, op.begin : op.begin + program.widths[op.output]]
        self._keep = keep
        self._z: dict[int, Array] = {}
        self._gradients: dict[int, Array] = {}
        self._has_gradient = [False] * len(program.widths)

    def load(
        self,
        parts: Sequence[Array],
        targets: Sequence[Array | None],
        weights: Sequence[Array | None],
        rows: NDArray[np.int64] | None,
        begin: int,
        end: int,
    ) -> None:
        """Take rows begin..end-1 of the data, or of those that `rows` names; targets and weights, one per head."""
        index: Any = slice(begin, end) if rows is None else rows[begin:end]
        dtype = self.values[0].dtype
        gather(parts, index, self.values[0])
        self.heads = [
            Targets(
                np.array(t[index]) if t is not None and t.ndim == 1 else None,
                np.array(t[index], dtype) if t is not None and t.ndim > 1 else None,
                None if w is None else np.array(w[index], dtype),
            )
            for t, w in zip(targets, weights, strict=True)
        ]
        self.rows = np.arange(begin, end) if rows is None else index

    # -- forward -----------------------------------------------------------------------------------------------

    def forward(self, parameters: Sequence[Array], first: int, last: int, training: bool, key: int, step: int) -> None:
        """Run operations first..last-1 over the values."""
        self.training = training
        for i in range(first, last):
            op = self.program.operations[i]
            x, y = self.values[op.inputs[0]], self.values[op.output]
            if op.kind == "dense":
                z = self._pre_activation(i, op, y)
                self._product(x, parameters[op.parameters[0]], z)
                if len(op.parameters) > 1:
                    z += parameters[op.parameters[1]]
                if op.activation != "linear":
                    FORWARD[op.activation](z, op.alpha, y)
            elif op.kind == "activation":
                FORWARD[op.activation](x, op.alpha, y)
            elif op.kind == "dropout":
                if training:
                    dropout_forward(x, op.rate, key, op.stream, step, y)
                else:
                    np.copyto(y, x)
            elif op.kind == "concatenate":
                np.concatenate([self.values[v] for v in op.inputs], axis=1, out=y)
            elif op.kind in ("add", "multiply"):
                combine = np.add if op.kind == "add" else np.multiply
                np.copyto(y, x)
                for v in op.inputs[1:]:
                    combine(y, self.values[v], out=y)
            elif op.kind != "columns":  # a view
                raise ValueError(f"forward: operation {i} ({op.name!r}) must be built in; received kind {op.kind!r}")

    def _product(self, a: Array, b: Array, out: Array) -> Array:
        if self.program.is_mixed:
            a, b = round_bfloat16(a), round_bfloat16(b)
        return product(a, b, out)

    def _pre_activation(self, i: int, op: Operation, y: Array) -> Array:
        if not self._keep or op.activation not in NEEDS_Z:
            return y
        if i not in self._z:
            self._z[i] = np.empty_like(y)
        return self._z[i]

    # -- backward ----------------------------------------------------------------------------------------------

    def clear_gradients(self) -> None:
        """Begin a backward pass."""
        self._has_gradient = [False] * len(self.program.widths)

    def has_gradient(self, value: int) -> bool:
        """Whether one has arrived in this pass."""
        return self._has_gradient[value]

    def value_gradient(self, value: int) -> Array:
        """The gradient so far; zeros where none has arrived."""
        gradient = self._gradient_buffer(value)
        if not self._has_gradient[value]:
            gradient.fill(0)
        return gradient

    def begin_value_gradient(self, value: int) -> Array:
        """The array that the caller fills with the first gradient of ``value`` in this pass."""
        self._has_gradient[value] = True
        return self._gradient_buffer(value)

    def add_value_gradient(self, value: int, array: Array) -> None:
        """Replace the gradient when it is the first of this pass, else add to it."""
        gradient = self._gradient_buffer(value)
        if self._has_gradient[value]:
            gradient += array
        else:
            np.copyto(gradient, array)
            self._has_gradient[value] = True

    def _gradient_buffer(self, value: int) -> Array:
        if value not in self._gradients:
            self._gradients[value] = np.empty_like(self.values[value])
        return self._gradients[value]

    def backward(
        self,
        parameters: Sequence[Array],
        gradients: Gradients,
        needed: Sequence[bool],
        first: int,
        last: int,
        key: int,
        step: int,
    ) -> None:
        """Run operations last-1 down to first backwards; ``needed`` says which values' gradients anything reads."""
        for i in range(last - 1, first - 1, -1):
            op = self.program.operations[i]
            if op.kind == "python":
                raise ValueError(f"backward: operation {i} ({op.name!r}) must be built in; received kind 'python'")
            if not (needed[op.output] and self._has_gradient[op.output]):
                continue
            source = op.inputs[0]
            dy = self._gradients[op.output]
            if op.kind in ("add", "multiply", "concatenate"):
                self._join_backward(op, dy, needed)
            elif op.kind == "dense":
                saved = self._z[i] if op.activation in NEEDS_Z else self.values[op.output]
                dz = dy if op.activation == "linear" else self._derivative(op, dy, saved)
                self._dense_parameters(op, dz, gradients)
                if needed[source]:
                    w = parameters[op.parameters[0]]
                    if self._has_gradient[source]:
                        self._gradients[source] += self._product(dz, w.T, np.empty_like(self.values[source]))
                    else:
                        self._product(dz, w.T, self.begin_value_gradient(source))
            elif needed[source]:
                self.add_value_gradient(source, self._elementwise_backward(op, dy, key, step))

    def _join_backward(self, op: Operation, dy: Array, needed: Sequence[bool]) -> None:
        begin = 0
        for place, v in enumerate(op.inputs):
            end = begin + self.program.widths[v]
            if needed[v] and op.kind == "concatenate":
                self.add_value_gradient(v, dy[:, begin:end])
            elif needed[v]:
                dx = dy
                for other, factor in enumerate(op.inputs):  # times all the other factors
                    if op.kind == "multiply" and other != place:
                        dx = dx * self.values[factor]
                self.add_value_gradient(v, dx)
            begin = end

    def _dense_parameters(self, op: Operation, dz: Array, gradients: Gradients) -> None:
        x = self.values[op.inputs[0]]
        for place, p in enumerate(op.parameters):
            if not gradients.trainable[p]:
                continue
            if gradients.written[p]:
                more = dz.sum(axis=0) if place else self._product(x.T, dz, np.empty_like(gradients.arrays[p]))
                gradients.arrays[p][...] += more
            elif place:
                np.add.reduce(dz, axis=0, out=gradients.arrays[p])
            else:
                self._product(x.T, dz, gradients.arrays[p])
            gradients.written[p] = True

    def _elementwise_backward(self, op: Operation, dy: Array, key: int, step: int) -> Array:
        if op.kind == "dropout":
            return dropout_forward(dy, op.rate, key, op.stream, step) if self.training else dy
        saved = self.values[op.inputs[0] if op.activation in NEEDS_Z else op.output]
        return self._derivative(op, dy, saved)

    @staticmethod
    def _derivative(op: Operation, dy: Array, saved: Array) -> Array:
        dz = np.empty_like(dy)
        BACKWARD[op.activation](dy, saved, op.alpha, dz)
        return dz

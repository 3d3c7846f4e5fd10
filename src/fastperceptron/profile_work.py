"""What the parts of a training step have to do: their arithmetic, the bytes they move, and what does the work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from .profile_table import ProfileRow
from .program import NEEDS_Z, Operation, Program

if TYPE_CHECKING:
    from .fitting import Rows

__all__ = ["LEFT_OUT", "described", "instruction_set"]

# At the end of a product's path: its time says nothing of multiplications.
LEFT_OUT = ", zeros left out"


def described(
    network: Any, n: int, rows: Rows, trainable: list[bool], loss_in_python: bool, optimizer: Any
) -> Iterable[tuple[int, ProfileRow]]:
    """The rows of the table without times, in the order of a step, with the number of their operation."""
    program: Program = network.program
    item = np.dtype(program.array_dtype).itemsize
    engine = f"native {instruction_set()}" if network.backend == "native" else "numpy"
    sparse = _sparse_products(network, trainable)
    paths = {
        (index, part): _path(op, engine, network.product_path()) + (LEFT_OUT if (index, part) in sparse else "")
        for index, op in enumerate(program.operations)
        for part in ("forward", "backward")
    }
    work = _Work(network, n, trainable)
    given = sum(array.nbytes for arrays in rows for array in arrays if array is not None)
    yield -1, ProfileRow("batch", "gather", 0.0, 0.0, given + n * program.widths[0] * item, engine)
    for index, op in enumerate(program.operations):
        if op.kind != "columns":  # a view
            yield index, ProfileRow(op.name, "forward", 0.0, *work.forward(op), paths[index, "forward"])
    # Outputs and targets are read, the outputs' gradients are written.
    judged = 2 * n * sum(program.widths[v] for v in program.outputs) + sum(y.size for y in rows.y if y is not None)
    yield -1, ProfileRow("loss", "loss", 0.0, 0.0, judged * item, "Python" if loss_in_python else engine)
    for index in range(len(program.operations) - 1, -1, -1):
        op = program.operations[index]
        if op.kind != "columns":
            yield index, ProfileRow(op.name, "backward", 0.0, *work.backward(op), paths[index, "backward"])
    slots = len(network.slot_names() if optimizer is None else optimizer.slot_names)
    update = engine if optimizer is None else "Python"
    yield -1, ProfileRow("optimizer", "update", 0.0, 0.0, work.update(slots), update)


class _Work:
    """Flop of the products and bytes, as Profile counts them, of the operations of a network over n rows."""

    def __init__(self, network: Any, n: int, trainable: list[bool]) -> None:
        program: Program = network.program
        self._widths, self._operations, self._n = program.widths, program.operations, n
        self._sizes = [int(np.prod(parameter.shape)) for parameter in program.parameters]
        self._trainable = trainable
        self._native = network.backend == "native"
        self._packed = self._native and program.is_mixed
        self._item = np.dtype(program.array_dtype).itemsize
        self._weight_item = 2 if self._packed else self._item
        self._learns = [False] * len(program.widths)  # what is trained is below the value
        for op in self._operations:
            self._learns[op.output] = self._is_needed(op) or any(trainable[p] for p in op.parameters)
        # A value's only reader, if dense, applies the derivative of the activation that made it.
        readers = Counter(v for op in self._operations for v in op.inputs) + Counter(program.outputs)
        bent = {op.output: op.activation for op in self._dense() if op.activation != "linear"}
        only = {op.inputs[0] for op in self._dense() if readers[op.inputs[0]] == 1}
        self._bent_below = {v: activation for v, activation in bent.items() if v in only}

    def forward(self, op: Operation) -> tuple[float, float]:
        numbers = self._numbers(*op.inputs, op.output)
        if op.kind != "dense":
            return 0.0, numbers * self._item
        if op.activation in NEEDS_Z:
            numbers += self._numbers(op.output)
        weights, *bias = (self._sizes[p] for p in op.parameters)
        return 2.0 * self._n * weights, (numbers + sum(bias)) * self._item + weights * self._weight_item

    def backward(self, op: Operation) -> tuple[float, float]:
        if not self._learns[op.output]:  # nobody asks for it
            return 0.0, 0.0
        below, above, needed = self._numbers(*op.inputs), self._numbers(op.output), self._is_needed(op)
        if op.kind != "dense":
            saved = {"activation": above, "multiply": below}.get(op.kind, 0)
            return 0.0, (above + saved + below * needed) * self._item
        # dw = x^T dz reads x and dz; dx = dz w^T reads dz, w and what the derivative below needs.
        weights, learns = self._sizes[op.parameters[0]], self._trainable[op.parameters[0]]
        activation = self._bent_below.get(op.inputs[0], "linear") if needed else "linear"
        reads_z = activation in NEEDS_Z
        reads_x = learns or (activation != "linear" and not reads_z)
        # Its own derivative, where nobody above applies it, reads y or z and writes dz.
        own = op.activation != "linear" and op.output not in self._bent_below
        numbers = above * (1 + 2 * own) + below * (reads_x + reads_z + needed)
        numbers += sum(self._sizes[p] for p in op.parameters if self._trainable[p])
        flop = 2.0 * self._n * weights * (learns + needed)
        return flop, numbers * self._item + weights * needed * self._weight_item

    def update(self, slots: int) -> float:
        """Gradients are read, parameters and slots are read and written, copies of weights written."""
        trained = sum(size for size, trainable in zip(self._sizes, self._trainable, strict=True) if trainable)
        # Packed ones for the products forward, and transposed ones, packed or not, for those of gradients.
        copies = {op.parameters[0]: 0 for op in self._dense() if self._native and self._trainable[op.parameters[0]]}
        for op in self._dense():
            p = op.parameters[0]
            if p in copies:
                copies[p] = max(copies[p], self._packed + self._is_needed(op))
        copied = sum(self._sizes[p] * count for p, count in copies.items())
        return trained * (3 + 2 * slots) * self._item + copied * self._weight_item

    def _dense(self) -> Iterable[Operation]:
        return (op for op in self._operations if op.kind == "dense")

    def _numbers(self, *values: int) -> int:
        return self._n * sum(self._widths[v] for v in values)

    def _is_needed(self, op: Operation) -> bool:
        """Whether the gradient of an input is."""
        return any(self._learns[v] for v in op.inputs)


def _sparse_products(network: Any, trainable: list[bool]) -> set[tuple[int, str]]:
    """Operations and their parts whose products leave out multiplications by zeros of the batch that is loaded."""
    core = config._core()
    program: Program = network.program
    # Bfloat16's own instructions do not.
    if core is None or network.backend != "native" or network.product_path().split()[-1] != core.instruction_set():
        return set()
    found = set()
    for index, op in enumerate(program.operations):
        if op.kind == "dense":
            x, columns = network.get_value(op.inputs[0]), program.widths[op.output]
            found |= {
                (index, part)
                for part, happens, transposed in (
                    ("forward", True, False),
                    ("backward", trainable[op.parameters[0]], True),
                )
                if happens and core.leaves_out_zeros(x, columns, transposed)
            }
    return found


def _path(op: Operation, engine: str, product: str) -> str:
    if op.kind == "python":
        return "Python"
    return f"{engine}, product {product}" if op.kind == "dense" else engine


def instruction_set() -> str:
    """Of the native kernels."""
    core = config._core()
    return str(core.instruction_set()) if core is not None else ""

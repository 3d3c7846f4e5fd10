"""Steps with parts written in Python: a layer, the loss, the optimizer or a metric.

:class:`Segments` offers the whole runs of a network (``train_steps``, ``evaluate_steps``, ``predict`` and the
accumulated logs) and puts each of them together from the network's pieces. Only what is written in Python runs in
Python: the operations between two such layers are one call each, forward and backward.

Until the update nothing of the model has changed, so an exception or Ctrl-C in a user's code leaves it as before the
step.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends.protocol import Arrays, Network, OptionalArrays
from .judging import Judge
from .layer import Shape, Shapes
from .optimizers import Optimizer
from .ownership import Ownership
from .program import Operation
from .usercode import checked, input_gradients, layer_backward, layer_forward, parameter_gradient, value_and_grad

__all__ = ["Segments"]

Array = NDArray[Any]
Rows = NDArray[np.int64]

_PREDICT_ROWS = 1024


class _Segment(NamedTuple):
    """Operations first..last-1: native ones, or a single one in Python."""

    first: int
    last: int
    python: bool


class Segments:
    """Runs a network whose program, loss, optimizer or metrics are partly Python.

    shapes: of the rows that each Python operation takes and gives, by its output value.
    judges: of each output; what of them is native is the network's already. optimizer: None where the network's own is
    in force.
    """

    def __init__(
        self,
        network: Network,
        shapes: Mapping[int, tuple[Shapes, Shape]],
        judges: Sequence[Judge],
        optimizer: Optimizer | None,
    ) -> None:
        self.network = network
        self._shapes = shapes
        self._operations = network.program.operations
        self._outputs = network.program.outputs
        self._judges = judges
        self._optimizer = optimizer
        self._python_losses = [
            judge.loss if judge.loss is not None and judge.loss.native() is None else None for judge in judges
        ]
        self._python_metrics = [[m for m in judge.metrics if m.native() is None] for judge in judges]
        self._segments = _cut(self._operations)
        self._rates = [1.0] * len(network.program.parameters)
        self.set_trainable([True] * len(network.program.parameters))
        self.memory_began = network.step  # when the optimizer remembered nothing
        self.is_exchanging = False  # old parameters and slots for new ones: some are new
        self._locks: dict[int, threading.RLock] = {}  # by process
        self.slots: dict[str, list[Array]] = {}
        self.set_slot_names()
        self.reset_metrics()

    @property
    def has_optimizer(self) -> bool:
        return self._optimizer is not None

    # -- configuration -------------------------------------------------------------------------------------------

    def set_slot_names(self) -> None:
        """Slots of the Python optimizer: kept under the same name, else zero."""
        names = self._optimizer.slot_names if self._optimizer is not None else ()
        parameters, dtype = self.network.program.parameters, self.network.program.array_dtype
        self.slots = {
            name: self.slots.get(name) or [np.zeros(parameter.shape, dtype) for parameter in parameters]
            for name in names
        }

    def set_trainable(self, flags: Sequence[bool]) -> None:
        self._trainable = list(flags)
        # A gradient is worth computing where it comes from a loss and leads to something that learns.
        values = range(len(self.network.program.widths))
        wanted, reached = [False for _ in values], [False for _ in values]
        for op in self._operations:
            wanted[op.output] = any(wanted[v] for v in op.inputs) or any(flags[p] for p in op.parameters)
        for judge, output in zip(self._judges, self._outputs, strict=False):  # none before compile
            reached[output] |= judge.loss is not None
        for op in reversed(self._operations):
            for v in op.inputs:
                reached[v] |= reached[op.output]
        self._wanted = [a and b for a, b in zip(wanted, reached, strict=True)]

    def set_rates(self, rates: Sequence[float]) -> None:
        self._rates = list(rates)

    # -- logs ----------------------------------------------------------------------------------------------------

    def reset_metrics(self) -> None:
        self.network.reset_metrics()
        self._sums = [np.zeros(2) for _ in self._judges]
        for metrics in self._python_metrics:
            for metric in metrics:
                metric.reset_state()

    def get_metrics(self) -> list[NDArray[np.float64]]:
        sums = self.network.get_metrics()
        for place, loss in enumerate(self._python_losses):
            if loss is not None:
                sums[place] = self._sums[place].copy()
        return sums

    # -- whole runs ----------------------------------------------------------------------------------------------

    def train_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: Rows | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + batch_size, end)
            with self._one_batch("train"):
                self._train(x, y, sample_weight, rows, begin, stop)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    def evaluate_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: Rows | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + batch_size, end)
            with self._one_batch("evaluate"):
                self.network.load_batch(x, y, sample_weight, rows, begin, stop)
                self._forward(False)
                self.network.loss(False)
                self._judge(_parts(y, rows, begin, stop), _parts(sample_weight, rows, begin, stop), False)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    def predict(self, x: Arrays, out: Arrays, begin: int, end: int, budget: float) -> int:
        outputs: list[Array] = [out] if isinstance(out, np.ndarray) else list(out)
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + _PREDICT_ROWS, end)
            with self._one_batch("predict"):
                self.network.load_batch(x, None, None, None, begin, stop)
                self._forward(False)
                for array, value in zip(outputs, self._outputs, strict=True):
                    array[begin:stop] = self.network.get_value(value)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    def _one_batch(self, operation: str) -> AbstractContextManager[Any]:
        """The network has one batch, for which threads wait. Nobody can wait for what goes on around him. (A child that
        was forked while another thread had the batch waits for nobody.)"""
        process = os.getpid()
        lock = self._locks.get(process) or self._locks.setdefault(process, threading.RLock())
        if lock._is_owned():  # type: ignore[attr-defined]
            raise Ownership.busy(operation, "the step around this call")
        return lock

    # -- one step ------------------------------------------------------------------------------------------------

    def _train(
        self, x: Arrays, y: OptionalArrays, weights: OptionalArrays, rows: Rows | None, begin: int, end: int
    ) -> None:
        network = self.network
        network.load_batch(x, y, weights, rows, begin, end)
        saved = self._forward(True)
        network.loss(True)
        self._judge(_parts(y, rows, begin, end), _parts(weights, rows, begin, end), True)
        self._backward(saved)
        if self._optimizer is None:
            network.update()
        else:
            self._update(self._optimizer)

    def _forward(self, training: bool) -> dict[int, Any]:
        """Runs all segments; returns what each Python layer saved, by operation."""
        network, saved = self.network, {}
        for first, last, python in self._segments:
            if not python:
                network.forward(first, last, training)
                continue
            op = self._operations[first]
            xs = [network.get_value(v) for v in op.inputs]
            y, saved[first] = layer_forward(op, self._shapes[op.output], xs, training)
            network.set_value(op.output, y)
        return saved

    def _judge(self, ys: list[Any], weights: list[Any], training: bool) -> None:
        """Python metrics and losses of the batch; when training, the gradients of their outputs."""
        for place, judge in enumerate(self._judges):
            loss, metrics = self._python_losses[place], self._python_metrics[place]
            if loss is None and not metrics:
                continue
            output = self._outputs[place]
            values = self.network.get_value(output)
            y, weight = ys[place], weights[place]
            dtype = values.dtype
            if loss is not None:
                given = np.ones(len(y), dtype) if weight is None else np.asarray(weight, dtype)
                # Copies, as for each metric: user's code may work in place.
                losses, dy = value_and_grad(loss, _copied(y, dtype), values.copy(), given.copy(), training)
                self._sums[place] += [float(losses @ given.astype(np.float64)), float(len(y))]
                if dy is not None:
                    gradient = dy if judge.weight == 1 else dy * dtype.type(judge.weight)
                    self.network.set_value_gradient(output, gradient)
            for metric in metrics:
                metric.update_state(_copied(y, dtype), values.copy(), None if weight is None else weight.copy())

    def _backward(self, saved: dict[int, Any]) -> None:
        network = self.network
        total: dict[int, Array] = {}
        for first, last, python in reversed(self._segments):
            if not any(self._wanted[op.output] for op in self._operations[first:last]):
                continue
            if not python:
                network.backward(first, last)
                continue
            op = self._operations[first]
            shapes, dy = self._shapes[op.output], network.get_value_gradient(op.output)
            dx, gradients = layer_backward(op, shapes, dy, saved[first])
            for index, weight, gradient in gradients:
                if self._trainable[index]:
                    gradient = parameter_gradient(op, weight, gradient, dy.dtype)
                    total[index] = total[index] + gradient if index in total else gradient
            if any(self._wanted[v] for v in op.inputs):
                for v, gradient in input_gradients(op, shapes, dx, dy, self._wanted):
                    network.set_value_gradient(v, gradient)
        for index, gradient in total.items():
            network.set_gradient(index, gradient)

    def _update(self, optimizer: Optimizer) -> None:
        """All new values first, then one uninterrupted exchange."""
        network = self.network
        optimizer.iterations = network.step - self.memory_began
        changed: list[tuple[int, Array, dict[str, Array]]] = []
        for index, trainable in enumerate(self._trainable):
            if not trainable:
                continue
            slots = {name: arrays[index].copy() for name, arrays in self.slots.items()}
            param = network.get_parameter(index)
            with _at_rate(optimizer, self._rates[index]):
                new = optimizer.update(param, network.get_gradient(index), slots)
            param = param if new is None else checked(new, param.shape, param.dtype, "update", "the new param")
            if slots.keys() != self.slots.keys():
                expected = ", ".join(self.slots) or "none"
                raise ValueError(
                    f"{type(optimizer).__name__}.update: slots must be those of slot_names ({expected});"
                    f" received {', '.join(slots)}"
                )
            for name, value in slots.items():
                slots[name] = checked(value, param.shape, param.dtype, "update", f"slot {name}")
            changed.append((index, param, slots))
        with _uninterrupted():
            self.is_exchanging = True
            try:
                for index, param, slots in changed:
                    network.set_parameter(index, param)
                    for name, value in slots.items():
                        self.slots[name][index] = value
                network.advance()
            finally:
                self.is_exchanging = False


def _cut(operations: Sequence[Operation]) -> list[_Segment]:
    segments: list[_Segment] = []
    for index, op in enumerate(operations):
        if op.kind == "python":
            segments.append(_Segment(index, index + 1, True))
        elif segments and not segments[-1].python:
            segments[-1] = segments[-1]._replace(last=index + 1)
        else:
            segments.append(_Segment(index, index + 1, False))
    return segments


def _parts(arrays: OptionalArrays, rows: Rows | None, begin: int, end: int) -> list[Any]:
    """A batch of the array of each output."""
    each = [arrays] if arrays is None or isinstance(arrays, np.ndarray) else arrays
    index: Any = slice(begin, end) if rows is None else rows[begin:end]
    return [None if array is None else array[index] for array in each]


@contextmanager
def _at_rate(optimizer: Optimizer, rate: float) -> Iterator[None]:
    """The optimizer with its learning rate multiplied, for one parameter."""
    if rate == 1:
        yield
        return
    learning_rate, scaled = optimizer._learning_rate, optimizer._learning_rate * rate
    optimizer._learning_rate = scaled
    try:
        yield
    finally:
        if optimizer._learning_rate == scaled:  # else the optimizer has changed it
            optimizer._learning_rate = learning_rate


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    received: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received:
            signal.raise_signal(signal.SIGINT)  # SIG_DFL cannot be called


def _copied(y: Array, dtype: np.dtype[Any]) -> Array:
    """Labels, or targets in the network's dtype."""
    return y.copy() if y.ndim == 1 else np.array(y, dtype)

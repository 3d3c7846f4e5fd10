"""Steps with parts written in Python: a layer, the loss, the optimizer or a metric.

:class:`Segments` offers the whole runs of a network (``train_steps``, ``evaluate_steps``, ``predict`` and the
accumulated logs) and puts each of them together from the network's pieces. Only what is written in Python runs in
Python: the operations between two such layers are one call each, forward and backward.

Until the update nothing of the model has changed, so an exception or Ctrl-C in a user's code leaves it as before the
step.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends.protocol import Network
from .checks import check_pair
from .errors import ShapeError
from .layers import Layer, Shape
from .losses import Loss
from .metrics import Metric
from .optimizers import Optimizer
from .program import Operation

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
    loss, optimizer: None where the network's own is in force. metrics: those written in Python.
    """

    def __init__(
        self,
        network: Network,
        shapes: Mapping[int, tuple[Shape, Shape]],
        loss: Loss | None,
        optimizer: Optimizer | None,
        metrics: Sequence[Metric],
    ) -> None:
        self.network = network
        self._shapes = shapes
        self._operations = network.program.operations
        self._output = network.program.output
        self._loss = loss
        self._optimizer = optimizer
        self._metrics = metrics
        self._segments = _cut(self._operations)
        self._trainable = [True] * len(network.program.parameters)
        self._lock = threading.Lock()  # predictions share the network's one batch
        self.slots: dict[str, list[Array]] = {}
        self.set_slot_names()
        self.reset_metrics()

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

    # -- logs ----------------------------------------------------------------------------------------------------

    def reset_metrics(self) -> None:
        self.network.reset_metrics()
        self._sums = np.zeros(2)
        for metric in self._metrics:
            metric.reset_state()

    def get_metrics(self) -> list[NDArray[np.float64]]:
        sums = self.network.get_metrics()
        if self._loss is not None:
            sums[0] = self._sums.copy()
        return sums

    # -- whole runs ----------------------------------------------------------------------------------------------

    def train_steps(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: Rows | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + batch_size, end)
            self._train(x, y, sample_weight, rows, begin, stop)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    def evaluate_steps(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: Rows | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + batch_size, end)
            with self._lock:
                self.network.load_batch(x, y, sample_weight, rows, begin, stop)
                self._forward(False)
                self.network.loss(False)
                self._judge(_part(y, rows, begin, stop), _part(sample_weight, rows, begin, stop), False)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    def predict(self, x: Array, out: Array, begin: int, end: int, budget: float) -> int:
        deadline = perf_counter() + budget
        while begin < end:
            stop = min(begin + _PREDICT_ROWS, end)
            with self._lock:
                self.network.load_batch(x, None, None, None, begin, stop)
                self._forward(False)
                out[begin:stop] = self.network.get_value(self._output)
            begin = stop
            if perf_counter() >= deadline:
                break
        return begin

    # -- one step ------------------------------------------------------------------------------------------------

    def _train(self, x: Array, y: Array, weights: Array | None, rows: Rows | None, begin: int, end: int) -> None:
        network = self.network
        network.load_batch(x, y, weights, rows, begin, end)
        saved = self._forward(True)
        network.loss(True)
        gradient = self._judge(_part(y, rows, begin, end), _part(weights, rows, begin, end), True)
        if gradient is not None:
            network.set_value_gradient(self._output, gradient)
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
            shape, output_shape = self._shapes[op.output]
            x = network.get_value(op.inputs[0])
            n = len(x)
            result = op.layer.forward(x.reshape(n, *shape), training)
            y, saved[first] = check_pair(f"{op.name}.forward", result, "(y, saved)")
            y = _checked(y, (n, *output_shape), x.dtype, f"{op.name}.forward", "y")
            network.set_value(op.output, y.reshape(n, network.program.widths[op.output]))
        return saved

    def _judge(self, y: Array, weights: Array | None, training: bool) -> Array | None:
        """Python metrics and the Python loss of the batch; the gradient of the output when training."""
        if self._loss is None and not self._metrics:
            return None
        prediction = self.network.get_value(self._output)
        gradient = None
        target = y if y.ndim == 1 else np.asarray(y, prediction.dtype)
        if self._loss is not None:
            given = np.ones(len(y), prediction.dtype) if weights is None else np.asarray(weights, prediction.dtype)
            name = f"{self._loss.name}.value_and_grad"
            result = self._loss.value_and_grad(target, prediction, given)
            losses, dy = check_pair(name, result, "(losses, dy)")
            losses = _checked(losses, (len(y),), np.dtype(np.float64), name, "losses")
            if training:
                gradient = _checked(dy, prediction.shape, prediction.dtype, name, "dy")
            self._sums += [float(losses @ given.astype(np.float64)), float(len(y))]
        for metric in self._metrics:
            metric.update_state(target, prediction, weights)
        return gradient

    def _backward(self, saved: dict[int, Any]) -> None:
        network = self.network
        lowest = self._lowest_trainable()
        total: dict[int, Array] = {}
        for first, last, python in reversed(self._segments):
            if last <= lowest:
                break
            if not python:
                network.backward(first, last)
                continue
            op = self._operations[first]
            shape, output_shape = self._shapes[op.output]
            dy = network.get_value_gradient(op.output)
            n = len(dy)
            result = op.layer.backward(dy.reshape(n, *output_shape), saved[first])
            dx, grads = check_pair(f"{op.name}.backward", result, "(dx, grads)")
            for index, gradient in self._parameter_gradients(op, grads):
                total[index] = total[index] + gradient if index in total else gradient
            if first > lowest:
                dx = _checked(dx, (n, *shape), dy.dtype, f"{op.name}.backward", "dx")
                network.set_value_gradient(op.inputs[0], dx.reshape(n, network.program.widths[op.inputs[0]]))
        for index, gradient in total.items():
            network.set_gradient(index, gradient)

    def _lowest_trainable(self) -> int:
        """The first operation that has something to learn; below it no gradient is wanted."""
        for index, op in enumerate(self._operations):
            if any(self._trainable[parameter] for parameter in op.parameters):
                return index
        return len(self._operations)

    def _parameter_gradients(self, op: Operation, grads: Any) -> Iterator[tuple[int, Array]]:
        layer: Layer = op.layer
        name = f"{op.name}.backward"
        if isinstance(grads, Mapping):
            unknown = set(grads) - {weight.name for weight in layer.weights}
            if unknown:
                raise ValueError(f"{name}: grads must name weights of the layer; received {', '.join(sorted(unknown))}")
            grads = [grads.get(weight.name) for weight in layer.weights]
        elif grads is None:
            grads = []
        trainable = [i for i, weight in enumerate(layer.weights) if weight.trainable]
        if len(grads) == len(trainable) < len(layer.weights):
            grads = [grads[trainable.index(i)] if i in trainable else None for i in range(len(layer.weights))]
        if len(grads) != len(layer.weights):
            raise ValueError(f"{name}: expected {len(layer.weights)} gradients, one per weight; received {len(grads)}")
        numbers = iter(op.parameters)
        for weight, gradient in zip(layer.weights, grads, strict=True):
            if weight.is_state:
                continue
            index = next(numbers)
            if not self._trainable[index]:
                continue
            if gradient is None:
                raise ValueError(f"{name}: expected a gradient for {weight.name}; received none")
            dtype = np.dtype(self.network.program.array_dtype)
            yield index, _checked(gradient, weight.shape, dtype, name, f"the gradient of {weight.name}")

    def _update(self, optimizer: Optimizer) -> None:
        """All new values first, then one uninterrupted exchange."""
        network = self.network
        optimizer.iterations = network.step
        changed: list[tuple[int, Array, dict[str, Array]]] = []
        for index, trainable in enumerate(self._trainable):
            if not trainable:
                continue
            slots = {name: arrays[index].copy() for name, arrays in self.slots.items()}
            param = network.get_parameter(index)
            new = optimizer.update(param, network.get_gradient(index), slots)
            param = param if new is None else _checked(new, param.shape, param.dtype, "update", "the new param")
            if slots.keys() != self.slots.keys():
                expected = ", ".join(self.slots) or "none"
                raise ValueError(
                    f"{type(optimizer).__name__}.update: slots must be those of slot_names ({expected});"
                    f" received {', '.join(slots)}"
                )
            for name, value in slots.items():
                slots[name] = _checked(value, param.shape, param.dtype, "update", f"slot {name}")
            changed.append((index, param, slots))
        with _uninterrupted():
            for index, param, slots in changed:
                network.set_parameter(index, param)
                for name, value in slots.items():
                    self.slots[name][index] = value
            network.advance()


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


def _part(array: Any, rows: Rows | None, begin: int, end: int) -> Any:
    if array is None:
        return None
    return array[begin:end] if rows is None else array[rows[begin:end]]


def _checked(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], operation: str, name: str) -> Array:
    """What a user's code returned, checked."""
    array = np.asarray(value)
    if array.shape != shape:
        raise ShapeError(f"{operation}: {name} must have shape {shape}; received {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{operation}: {name} must hold real numbers; received dtype {array.dtype}")
    return np.ascontiguousarray(array, dtype).reshape(shape)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    received: list[tuple[int, Any]] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if received and callable(previous):
            previous(*received[0])

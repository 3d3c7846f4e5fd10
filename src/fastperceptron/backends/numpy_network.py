"""A whole network in NumPy: the :class:`~fastperceptron.backends.protocol.Network` of the fallback."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..program import LOSSES, Program
from .numpy_losses import check_labels, gradient_of, losses_of, takes_labels
from .numpy_metrics import METRICS, metric_add, metric_zeros
from .numpy_workspace import Gradients, Workspace

__all__ = ["Network"]

Array = NDArray[Any]
Rows = NDArray[np.int64] | None

_SGD_HYPER = {"learning_rate": 0.01, "momentum": 0.0, "nesterov": 0.0}
_PREDICT_ELEMENTS = 1 << 18  # of the widest value, per piece of a prediction: stays in the cache
_KEPT_WORKSPACES = 3  # the batch size of training, its last batch, and evaluation


class _State:
    """Parameters, momentum and step. Each kind is one vector; the arrays are views into it."""

    def __init__(self, program: Program) -> None:
        self.step = 0
        self.flat = _vector(program)
        self.parameters = _views(program, self.flat)
        self.flat_momentum: Array | None = None
        self.momentum: list[Array] = []

    def set_momentum(self, program: Program, flat: Array | None) -> None:
        self.flat_momentum = flat
        self.momentum = [] if flat is None else _views(program, flat)


def _vector(program: Program) -> Array:
    return np.zeros(sum(_size(p.shape) for p in program.parameters), program.dtype)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for extent in shape:
        size *= extent
    return size


def _views(program: Program, flat: Array) -> list[Array]:
    views, at = [], 0
    for p in program.parameters:
        size = _size(p.shape)
        views.append(flat[at : at + size].reshape(p.shape))
        at += size
    return views


def _spans(program: Program, trainable: Sequence[bool]) -> list[tuple[slice, bool]]:
    """The longest runs of parameters that are all trainable, or all frozen, as slices of a vector."""
    spans: list[tuple[slice, bool]] = []
    at = 0
    for p, flag in zip(program.parameters, trainable, strict=True):
        begin, at = at, at + _size(p.shape)
        if spans and spans[-1][1] == flag:
            spans[-1] = (slice(spans[-1][0].start, at), flag)
        else:
            spans.append((slice(begin, at), flag))
    return spans


def _assign(operation: str, target: Array, value: Array) -> None:
    if np.shape(value) != target.shape:
        raise ShapeError(f"{operation}: expected shape {target.shape}; received {np.shape(value)}")
    with np.errstate(all="ignore"):
        np.copyto(target, value, casting="unsafe")


class Network:
    """A program with its whole state; see :mod:`fastperceptron.backends.protocol` for every method.

    An update fills a second copy of parameters and momentum, and one assignment makes it the current one:
    an interrupt leaves the network at a whole step.
    """

    backend = "numpy"

    def __init__(self, program: Program) -> None:
        self.program = program
        self.key = 0
        self._pair = (_State(program), _State(program))  # current, spare
        self._flat_gradients = _vector(program)
        self._gradients = Gradients(_views(program, self._flat_gradients))
        self._needed: list[bool] = []
        self._optimizer: str | None = None
        self._hyper = dict(_SGD_HYPER)
        self._loss: str | None = None
        self._loss_parameter = 0.0
        self._metrics: tuple[tuple[str, float], ...] = ()
        self._workspaces: dict[int, Workspace] = {}
        self._batch: Workspace | None = None
        self.set_trainable([True] * len(program.parameters))
        self.reset_metrics()

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        return self._pair[0].step

    @step.setter
    def step(self, value: int) -> None:
        self._pair[0].step = int(value)

    def get_parameter(self, index: int) -> Array:
        return self._pair[0].parameters[index].copy()

    def set_parameter(self, index: int, value: Array) -> None:
        _assign(f"set_parameter({index})", self._pair[0].parameters[index], value)

    def get_gradient(self, index: int) -> Array:
        gradient = self._gradients.arrays[index]
        return gradient.copy() if self._gradients.written[index] else np.zeros_like(gradient)

    def set_gradient(self, index: int, value: Array) -> None:
        _assign(f"set_gradient({index})", self._gradients.arrays[index], value)
        self._gradients.written[index] = True

    def slot_names(self) -> tuple[str, ...]:
        return ("momentum",) if self._pair[0].flat_momentum is not None else ()

    def get_slot(self, name: str, index: int) -> Array:
        self._check_slot("get_slot", name)
        return self._pair[0].momentum[index].copy()

    def set_slot(self, name: str, index: int, value: Array) -> None:
        self._check_slot("set_slot", name)
        _assign(f"set_slot({name!r}, {index})", self._pair[0].momentum[index], value)

    def _check_slot(self, operation: str, name: str) -> None:
        if name not in self.slot_names():
            raise ValueError(f"{operation}: expected one of the slots {self.slot_names()}; received {name!r}")

    # -- configuration -----------------------------------------------------------------------------------------

    def set_threads(self, threads: int) -> None:
        """NumPy's own threads are not ours to set."""

    def set_trainable(self, flags: Sequence[bool]) -> None:
        if len(flags) != len(self.program.parameters):
            raise ValueError(f"set_trainable: expected {len(self.program.parameters)} flags; received {len(flags)}")
        trainable = self._gradients.trainable = [bool(flag) for flag in flags]
        self._spans = _spans(self.program, trainable)
        needed = self._needed = [False] * len(self.program.widths)
        for op in self.program.operations:
            needed[op.output] = any(needed[v] for v in op.inputs) or any(trainable[p] for p in op.parameters)

    def set_optimizer(self, name: str | None, hyper: dict[str, float]) -> None:
        if name not in (None, "sgd"):
            raise ValueError(f"set_optimizer: expected 'sgd' or None; received {name!r}")
        unknown = set(hyper) - set(_SGD_HYPER)
        if unknown:
            raise ValueError(f"set_optimizer: expected hyperparameters {set(_SGD_HYPER)}; received {unknown}")
        settings = {**_SGD_HYPER, **hyper}
        current, spare = self._pair
        wanted = name == "sgd" and settings["momentum"] != 0
        if not wanted or name != self._optimizer or current.flat_momentum is None:
            for state in (current, spare):
                state.set_momentum(self.program, _vector(self.program) if wanted else None)
        self._optimizer, self._hyper = name, settings

    def set_hyper(self, name: str, value: float) -> None:
        self.set_optimizer(self._optimizer, {**self._hyper, name: value})

    def set_loss(self, kind: str | None, parameter: float) -> None:
        if kind is not None and kind not in LOSSES:
            raise ValueError(f"set_loss: expected one of {LOSSES} or None; received {kind!r}")
        self._loss, self._loss_parameter = kind, parameter

    def set_metrics(self, metrics: Sequence[tuple[str, float]]) -> None:
        for kind, _ in metrics:
            if kind not in METRICS:
                raise ValueError(f"set_metrics: expected one of {METRICS}; received {kind!r}")
        self._metrics = tuple(metrics)
        self.reset_metrics()

    # -- accumulated logs ----------------------------------------------------------------------------------------

    def reset_metrics(self) -> None:
        width = self.program.widths[self.program.output]
        self._sums = [np.zeros(2), *(metric_zeros(kind, width) for kind, _ in self._metrics)]

    def get_metrics(self) -> list[NDArray[np.float64]]:
        return [sums.copy() for sums in self._sums]

    # -- whole runs ----------------------------------------------------------------------------------------------

    def train_steps(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        operations = len(self.program.operations)
        return self._run(True, operations, x, y, sample_weight, rows, batch_size, begin, end, budget)

    def evaluate_steps(
        self,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        operations = len(self.program.operations)
        return self._run(False, operations, x, y, sample_weight, rows, batch_size, begin, end, budget)

    def _run(
        self,
        training: bool,
        operations: int,
        x: Array,
        y: Array,
        sample_weight: Array | None,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        if batch_size < 1:
            raise ValueError(f"train_steps: expected a batch size of at least 1; received {batch_size}")
        deadline = monotonic() + budget
        while begin < end:
            stop = min(begin + batch_size, end)
            self.load_batch(x, y, sample_weight, rows, begin, stop)
            self.forward(0, operations, training)
            self.loss(training)
            if training:
                self.backward(0, operations)
                self.update()
            begin = stop
            if monotonic() >= deadline:
                break
        return begin

    def predict(self, x: Array, out: Array, begin: int, end: int, budget: float) -> int:
        deadline = monotonic() + budget
        current = self._pair[0]
        piece = max(1, _PREDICT_ELEMENTS // max(self.program.widths))
        workspace: Workspace | None = None
        while begin < end:
            stop = min(begin + piece, end)
            # A workspace of its own: several threads may predict at once.
            if workspace is None or workspace.n != stop - begin:
                workspace = Workspace(self.program, stop - begin, keep=False)
            with np.errstate(all="ignore"):
                np.copyto(workspace.values[0], x[begin:stop], casting="unsafe")
                workspace.forward(current.parameters, 0, len(self.program.operations), False, self.key, current.step)
            out[begin:stop] = workspace.values[self.program.output]
            begin = stop
            if monotonic() >= deadline:
                break
        return begin

    # -- the pieces of one step ----------------------------------------------------------------------------------

    def load_batch(
        self, x: Array, y: Array | None, sample_weight: Array | None, rows: Rows, begin: int, end: int
    ) -> None:
        batch = self._workspaces.get(end - begin)
        if batch is None:
            if len(self._workspaces) == _KEPT_WORKSPACES:
                self._workspaces.clear()
            batch = self._workspaces[end - begin] = Workspace(self.program, end - begin)
        index: Any = slice(begin, end) if rows is None else rows[begin:end]
        dtype = batch.values[0].dtype
        with np.errstate(all="ignore"):
            np.copyto(batch.values[0], x[index], casting="unsafe")
            batch.targets = batch.labels = None
            if y is not None and y.ndim == 1:
                batch.labels = np.array(y[index])
            elif y is not None:
                batch.targets = np.array(y[index], dtype)
            batch.weights = None if sample_weight is None else np.array(sample_weight[index], dtype)
        batch.rows = np.arange(begin, end) if rows is None else rows[begin:end]
        self._batch = batch

    def _loaded(self, operation: str) -> Workspace:
        if self._batch is None:
            raise ValueError(f"{operation}: expected load_batch first; no batch has been loaded")
        return self._batch

    def forward(self, first: int, last: int, training: bool) -> None:
        current = self._pair[0]
        with np.errstate(all="ignore"):
            self._loaded("forward").forward(current.parameters, first, last, training, self.key, current.step)

    def get_value(self, value: int) -> Array:
        return self._loaded("get_value").values[value].copy()

    def set_value(self, value: int, array: Array) -> None:
        _assign(f"set_value({value})", self._loaded("set_value").values[value], array)

    def loss(self, training: bool) -> float:
        batch = self._loaded("loss")
        output = batch.values[self.program.output]
        self._check_targets(batch, output)
        cost = float("nan")
        with np.errstate(all="ignore"):
            if self._loss is not None:
                targets = self._targets(batch, self._loss)
                losses = losses_of(self._loss, self._loss_parameter, targets, output)
                total = float(losses.sum() if batch.weights is None else batch.weights.astype(np.float64) @ losses)
                cost = total / max(batch.n, 1)
                self._sums[0][0] += total
            self._sums[0][1] += batch.n
            for sums, (kind, parameter) in zip(self._sums[1:], self._metrics, strict=True):
                metric_add(sums, kind, parameter, self._targets(batch, kind), output, batch.weights)
            if training:
                batch.clear_gradients()
                self._gradients.clear()
                if self._loss is not None:
                    gradient = batch.begin_value_gradient(self.program.output)
                    scale = 1 / max(batch.n, 1)
                    gradient_of(self._loss, self._loss_parameter, targets, output, batch.weights, scale, gradient)
        return cost

    def _check_targets(self, batch: Workspace, output: Array) -> None:
        """All that can be wrong with a batch's targets, before anything is accumulated."""
        for kind in (self._loss, *(kind for kind, _ in self._metrics)):
            if kind is None:
                continue
            if takes_labels(kind):
                if batch.labels is None:
                    raise ShapeError(f"{kind}: expected a vector of integer labels; received none")
                check_labels(kind, batch.labels, output.shape[1], batch.rows)
            elif batch.targets is None or batch.targets.shape != output.shape:
                received = "none" if batch.targets is None else f"shape {batch.targets.shape}"
                raise ShapeError(f"{kind}: expected targets of shape {output.shape}; received {received}")

    @staticmethod
    def _targets(batch: Workspace, kind: str) -> Array:
        targets = batch.labels if takes_labels(kind) else batch.targets
        assert targets is not None
        return targets

    def get_value_gradient(self, value: int) -> Array:
        return self._loaded("get_value_gradient").value_gradient(value).copy()

    def set_value_gradient(self, value: int, array: Array) -> None:
        batch = self._loaded("set_value_gradient")
        if np.shape(array) != batch.values[value].shape:
            raise ShapeError(
                f"set_value_gradient({value}): expected shape {batch.values[value].shape}; received {np.shape(array)}"
            )
        with np.errstate(all="ignore"):
            batch.add_value_gradient(value, np.asarray(array, batch.values[value].dtype))

    def backward(self, first: int, last: int) -> None:
        current = self._pair[0]
        with np.errstate(all="ignore"):
            self._loaded("backward").backward(
                current.parameters, self._gradients, self._needed, first, last, self.key, current.step
            )

    def update(self) -> None:
        if self._optimizer is None:
            raise ValueError("update: expected set_optimizer first; no optimizer is in force")
        current, spare = self._pair
        self._gradients.settle()
        rate, momentum, nesterov = (self._hyper[name] for name in _SGD_HYPER)
        with np.errstate(all="ignore"):
            for span, trainable in self._spans:
                w, new = current.flat[span], spare.flat[span]
                if not trainable:
                    np.copyto(new, w)
                    if current.flat_momentum is not None and spare.flat_momentum is not None:
                        np.copyto(spare.flat_momentum[span], current.flat_momentum[span])
                    continue
                step = rate * self._flat_gradients[span]
                if current.flat_momentum is None or spare.flat_momentum is None:
                    np.subtract(w, step, out=new)
                    continue
                v = np.multiply(current.flat_momentum[span], momentum, out=spare.flat_momentum[span])
                v -= step
                np.add(w, momentum * v - step if nesterov else v, out=new)
        spare.step = current.step + 1
        self._pair = (spare, current)

    def advance(self) -> None:
        self.step += 1

"""A whole network in NumPy: the :class:`~fastperceptron.backends.protocol.Network` of the fallback."""

from __future__ import annotations

from collections.abc import Sequence
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..program import LOSSES, Head, Program, Signature
from .numpy_losses import check_labels, gradient_of, losses_of, takes_labels
from .numpy_metrics import METRICS, metric_add, metric_zeros
from .numpy_state import State, spans_of, vector, views
from .numpy_workspace import Gradients, Workspace, entries_of, gather, parts_of
from .protocol import Arrays, OptionalArrays

__all__ = ["Network"]

Array = NDArray[Any]
Rows = NDArray[np.int64] | None

_SGD_HYPER = {"learning_rate": 0.01, "momentum": 0.0, "nesterov": 0.0}
_PREDICT_ELEMENTS = 1 << 18  # of the widest value, per piece of a prediction: stays in the cache
_KEPT_WORKSPACES = 3  # the batch size of training, its last batch, and evaluation


def _check(program: Program) -> None:
    """An error, naming the operation, when operations that join values do not fit; layers check all the rest."""
    for number, op in enumerate(program.operations):
        widths, out = [program.widths[v] for v in op.inputs], program.widths[op.output]
        what = ""
        if op.kind in ("add", "multiply") and any(width != out for width in widths):
            what = f"expected inputs of width {out}, as its output"
        elif op.kind == "concatenate" and sum(widths) != out:
            what = f"expected an output of width {sum(widths)}, the sum of its inputs'; received {out}"
        elif op.kind == "columns" and (op.inputs != (0,) or not 0 <= op.begin <= widths[0] - out):
            what = (
                f"expected columns within the {program.widths[0]} of value 0; received {op.begin} to {op.begin + out}"
            )
        elif not widths or (len(widths) > 1 and op.kind not in ("add", "multiply", "concatenate", "python")):
            what = f"expected one input; received {len(widths)}"
        if what:
            raise ValueError(f"program: operation {number} ({op.kind} {op.name!r}): {what}; inputs of widths {widths}")
    if not program.outputs:
        raise ValueError("program: expected at least one output; received none")


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
        _check(program)
        self.program = program
        self.key = 0
        self._pair = (State(program), State(program))  # current, spare
        self._flat_gradients = vector(program)
        self._gradients = Gradients(views(program, self._flat_gradients))
        self._needed: list[bool] = []
        self._states = [np.zeros(p.shape, program.array_dtype) for p in program.states]
        self._rates = [1.0] * len(program.parameters)
        self._optimizer: str | None = None
        self._hyper = dict(_SGD_HYPER)
        self._heads: tuple[Head, ...] = (Head(),)
        self._metrics: tuple[tuple[str, float, int], ...] = ()
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

    def get_state(self, index: int) -> Array:
        return self._states[index].copy()

    def set_state(self, index: int, value: Array) -> None:
        _assign(f"set_state({index})", self._states[index], value)

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
        self._spans = spans_of(self.program, trainable, self._rates)
        needed = self._needed = [False] * len(self.program.widths)
        for op in self.program.operations:
            needed[op.output] = any(needed[v] for v in op.inputs) or any(trainable[p] for p in op.parameters)

    def set_rates(self, rates: Sequence[float]) -> None:
        if len(rates) != len(self.program.parameters):
            raise ValueError(f"set_rates: expected {len(self.program.parameters)} rates; received {len(rates)}")
        self._rates = [float(rate) for rate in rates]
        self._spans = spans_of(self.program, self._gradients.trainable, self._rates)

    def set_optimizer(self, name: str | None, hyper: dict[str, float]) -> None:
        if name not in (None, "sgd"):
            raise ValueError(f"set_optimizer: expected 'sgd' or None; received {name!r}")
        unknown = set(hyper) - set(_SGD_HYPER)
        if unknown:
            raise ValueError(f"set_optimizer: expected hyperparameters {set(_SGD_HYPER)}; received {unknown}")
        settings = {**_SGD_HYPER, **hyper}
        current, spare = self._pair
        wanted = name == "sgd" and settings["momentum"] != 0
        if not wanted or current.flat_momentum is None:
            for state in (current, spare):
                state.set_momentum(self.program, vector(self.program) if wanted else None)
        self._optimizer, self._hyper = name, settings

    def set_heads(self, heads: Sequence[Head]) -> None:
        for head in heads:
            if head.kind is not None and head.kind not in LOSSES:
                raise ValueError(f"set_heads: expected one of {LOSSES} or None; received {head.kind!r}")
            if not 0 <= head.output < len(self.program.outputs):
                last = len(self.program.outputs) - 1
                raise ValueError(f"set_heads: expected outputs from 0 to {last}; received {head.output}")
            if head.normaliser not in ("rows", "weights"):
                raise ValueError(f"set_heads: expected the normaliser rows or weights; received {head.normaliser!r}")
        if not heads:
            raise ValueError("set_heads: expected at least one head; received none")
        if [head.output for head in heads] != [head.output for head in self._heads]:
            self._batch = None  # its targets are others'
        self._heads = tuple(heads)
        self._metrics = tuple(metric for metric in self._metrics if metric[2] < len(heads))
        self.reset_metrics()

    def set_loss(self, kind: str | None, parameter: float) -> None:
        self.set_heads((Head(0, kind, parameter),))

    def set_metrics(self, metrics: Sequence[tuple[str, float] | tuple[str, float, int]]) -> None:
        found = tuple((metric[0], metric[1], metric[2] if len(metric) == 3 else 0) for metric in metrics)
        for kind, _, head in found:
            if kind not in METRICS:
                raise ValueError(f"set_metrics: expected one of {METRICS}; received {kind!r}")
            if not 0 <= head < len(self._heads):
                raise ValueError(f"set_metrics: expected heads from 0 to {len(self._heads) - 1}; received {head}")
        self._metrics = found
        self.reset_metrics()

    # -- accumulated logs ----------------------------------------------------------------------------------------

    def reset_metrics(self) -> None:
        widths = [self.program.widths[self.program.outputs[head.output]] for head in self._heads]
        self._sums = [np.zeros(2) for _ in self._heads]
        self._sums += [metric_zeros(kind, widths[head]) for kind, _, head in self._metrics]

    def get_metrics(self) -> list[NDArray[np.float64]]:
        return [sums.copy() for sums in self._sums]

    # -- whole runs ----------------------------------------------------------------------------------------------

    def train_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        return self._run(True, x, y, sample_weight, rows, batch_size, begin, end, budget)

    def evaluate_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        return self._run(False, x, y, sample_weight, rows, batch_size, begin, end, budget)

    def _run(
        self,
        training: bool,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: Rows,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        if batch_size < 1:
            operation = "train_steps" if training else "evaluate_steps"
            raise ValueError(f"{operation}: expected a batch size of at least 1; received {batch_size}")
        operations, deadline = len(self.program.operations), monotonic() + budget
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

    def predict(self, x: Arrays, out: Arrays, begin: int, end: int, budget: float) -> int:
        deadline = monotonic() + budget
        current = self._pair[0]
        parts = parts_of(x, self.program.widths[0])
        outputs: list[Array] = [out] if isinstance(out, np.ndarray) else list(out)
        if len(outputs) != len(self.program.outputs):
            raise ShapeError(f"predict: expected {len(self.program.outputs)} outputs; received {len(outputs)}")
        piece = max(1, _PREDICT_ELEMENTS // max(self.program.widths))
        workspace: Workspace | None = None
        while begin < end:
            stop = min(begin + piece, end)
            # A workspace of its own: several threads may predict at once.
            if workspace is None or workspace.n != stop - begin:
                workspace = Workspace(self.program, stop - begin, keep=False)
            with np.errstate(all="ignore"):
                gather(parts, slice(begin, stop), workspace.values[0])
                workspace.forward(current.parameters, 0, len(self.program.operations), False, self.key, current.step)
            for array, value in zip(outputs, self.program.outputs, strict=True):
                array[begin:stop] = workspace.values[value]
            begin = stop
            if monotonic() >= deadline:
                break
        return begin

    def predictor(self, signature: Signature) -> Any:
        """NumPy has none that would be quicker than ``predict``."""

    # -- the pieces of one step ----------------------------------------------------------------------------------

    def load_batch(
        self, x: Arrays, y: OptionalArrays, sample_weight: OptionalArrays, rows: Rows, begin: int, end: int
    ) -> None:
        parts = parts_of(x, self.program.widths[0])
        targets = entries_of(y, len(self._heads), "y")
        weights = entries_of(sample_weight, len(self._heads), "sample_weight")
        batch = self._workspaces.get(end - begin)
        if batch is None:
            if len(self._workspaces) == _KEPT_WORKSPACES:
                self._workspaces.clear()
            batch = self._workspaces[end - begin] = Workspace(self.program, end - begin)
        with np.errstate(all="ignore"):
            batch.load(parts, targets, weights, rows, begin, end)
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
        self._check_targets(batch)
        cost = 0.0
        with np.errstate(all="ignore"):
            if training:
                batch.clear_gradients()
                self._gradients.clear()
            for head, given, sums in zip(self._heads, batch.heads, self._sums, strict=False):
                divisor = float(batch.n)
                if head.normaliser == "weights" and given.weights is not None:
                    divisor = float(given.weights.sum(dtype=np.float64))
                sums[1] += divisor
                if head.kind is None:
                    continue
                value = self.program.outputs[head.output]
                output, targets = batch.values[value], given.of(head.kind)
                losses = losses_of(head.kind, head.parameter, targets, output)
                total = float(losses.sum() if given.weights is None else given.weights.astype(np.float64) @ losses)
                sums[0] += total
                cost += head.weight * total / divisor if divisor else 0.0
                if training:
                    scale = head.weight / divisor if divisor else 0.0
                    begun = batch.has_gradient(value)  # by an earlier head
                    gradient = np.empty_like(output) if begun else batch.begin_value_gradient(value)
                    gradient_of(head.kind, head.parameter, targets, output, given.weights, scale, gradient)
                    if begun:
                        batch.add_value_gradient(value, gradient)
            for sums, (kind, parameter, number) in zip(self._sums[len(self._heads) :], self._metrics, strict=True):
                given = batch.heads[number]
                output = batch.values[self.program.outputs[self._heads[number].output]]
                metric_add(sums, kind, parameter, given.of(kind), output, given.weights)
        return cost if any(head.kind is not None for head in self._heads) else float("nan")

    def _check_targets(self, batch: Workspace) -> None:
        """All that can be wrong with a batch's targets, before anything is accumulated."""
        judged = [(head.kind, number) for number, head in enumerate(self._heads)]
        for kind, number in [*judged, *((kind, number) for kind, _, number in self._metrics)]:
            if kind is None:
                continue
            given = batch.heads[number]
            shape = batch.values[self.program.outputs[self._heads[number].output]].shape
            if takes_labels(kind):
                if given.labels is None:
                    raise ShapeError(f"{kind}: expected a vector of integer labels; received none")
                check_labels(kind, given.labels, shape[1], batch.rows)
            elif given.matrix is None or given.matrix.shape != shape:
                received = "none" if given.matrix is None else f"shape {given.matrix.shape}"
                raise ShapeError(f"{kind}: expected targets of shape {shape}; received {received}")

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
        with np.errstate(all="ignore"):
            spare.follow(current, self._flat_gradients, self._spans, self._hyper)
        self._pair = (spare, current)

    def is_finite(self) -> bool:
        return all(bool(np.isfinite(self.get_parameter(i)).all()) for i in range(len(self.program.parameters)))

    def product_path(self) -> str:
        return f"{'bfloat16' if self.program.is_mixed else self.program.dtype} numpy"

    def advance(self) -> None:
        self.step += 1

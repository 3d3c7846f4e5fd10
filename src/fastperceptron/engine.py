"""What a model needs to run: the network told about loss, optimizer and metrics, the logs, and checked data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import data, losses, optimizers
from .backends.numpy_metrics import metric_joined
from .backends.protocol import Network
from .callbacks import History
from .checks import as_finite, check_finite
from .errors import NotBuiltError
from .fitting import Rows
from .graph import Graph
from .judging import Compiled, Judge, compiled_for, heads_of, judges_of, log_names, spread
from .ownership import Ownership
from .program import PRECISIONS
from .segments import Segments
from .undo import as_before_on_failure, wholly
from .usercode import metric_result

__all__ = ["Engine"]

Array = NDArray[Any]


class Engine:
    """The part of a model between its layers and its training."""

    name: str
    stop_training: bool
    history: History | None
    _dtype: str
    _backend: ModuleType
    _ownership: Ownership
    _graph: Graph | None
    _network: Network | None
    _compiled: Compiled | None
    _epoch: int

    def _clear_runtime(self) -> None:
        self._memory_began = 0  # the network's step when its optimizer remembered nothing
        self._judges: list[Judge] = []
        self._runner: Network | Segments | None = None
        self._segments: Segments | None = None
        self._pushed: Any = None
        self._live: Any = None  # the native predictor that predict_one uses
        self._base: list[Array] | None = None

    @property
    def dtype(self) -> str:
        """What the model computes in, as it was made."""
        return self._dtype

    # -- provided by Model ---------------------------------------------------------------------------------------

    @property
    def _network_key(self) -> int:
        raise NotImplementedError

    def _structured(self, shape: tuple[int, ...]) -> AbstractContextManager[Graph]:
        raise NotImplementedError

    # -- who may use it ------------------------------------------------------------------------------------------

    def _refuse_inside(self, operation: str, around: str | None) -> None:
        """In a callback or a signal's handler."""
        if around is not None:
            raise self._ownership.busy(operation, f"the {around} around this call")

    # -- configuration -------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "sgd",
        loss: Any = None,
        metrics: Any = None,
        loss_weights: Any = None,
    ) -> None:
        """Chooses how the model learns. The optimizer's memory begins anew.

        Parameters
        ----------
        optimizer : "sgd" or an Optimizer
        loss : a name ("mse", "binary_crossentropy", ...) or a Loss; of a model with several outputs one for all, or a
            list or dict (by output name) of them, with None for outputs that are not trained
        metrics : names ("accuracy", "mse", "mae", "r2", ...) or Metric objects; with several outputs one name for all,
            a list with an entry (one or a list) per output, or a dict by output name
        loss_weights : numbers, as a list or dict by output name; the cost is the weighted sum of the losses

        >>> import fastperceptron as fp
        >>> x = fp.Input((4,))
        >>> h = fp.Dense(8, activation="relu")(x)
        >>> model = fp.Model(x, [fp.Dense(1, name="price")(h), fp.Dense(3, name="kind")(h)])
        >>> crossentropy = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
        >>> model.compile("sgd", ["mse", crossentropy], metrics={"kind": "accuracy"}, loss_weights=[1, 0.5])
        >>> model.metrics_names
        ['loss', 'price_loss', 'kind_loss', 'kind_accuracy']
        """
        names = ("output",) if self._graph is None else self._graph.output_names
        compiled = compiled_for(names, optimizer, loss, metrics, loss_weights)
        with self._ownership.writing("compile") as around:
            self._refuse_inside("compile", around)
            # What may fail, before anything has changed: a metric may be the user's.
            for judge in judges_of(compiled, self._graph):
                for metric in judge.metrics:
                    metric.reset_state()
            try:
                with as_before_on_failure(self):
                    self._compiled = compiled
                    if self._network is not None:
                        self._configure()
            except BaseException:
                if self._network is not None:
                    self._tell_network()
                raise
            if self._network is not None:
                wholly(self._forget)

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """As given to ``compile``."""
        return None if self._compiled is None else self._compiled.optimizer

    @property
    def loss(self) -> Any:
        """As given to ``compile``: a Loss, or a list or dict of them."""
        return None if self._compiled is None else self._compiled.loss

    @property
    def metrics_names(self) -> list[str]:
        """Names in the order in which ``evaluate`` returns values."""
        if self._graph is None and self._compiled is not None:
            return log_names(judges_of(self._compiled, None))
        return log_names(self._judges)

    def _configure(self) -> None:
        """Tells the network about optimizer, loss and metrics, and finds out what must run in Python."""
        network, graph = self._network, self._graph
        assert network is not None
        assert graph is not None
        optimizer = None
        self._judges = []
        if self._compiled is not None:
            self._judges = judges_of(self._compiled, graph)
            optimizer = self._compiled.optimizer if self._compiled.optimizer.native() is None else None
        in_python = any(
            (judge.loss is not None and judge.loss.native() is None) or any(m.native() is None for m in judge.metrics)
            for judge in self._judges
        )
        self._segments = self._live = None
        if not graph.program.is_native or in_python or optimizer is not None:
            self._segments = Segments(network, graph.shapes, self._judges, optimizer)
        self._runner = self._segments or network
        self._tell_network()

    def _tell_network(self) -> None:
        """Of what is compiled: heads, metrics, optimizer, and what is trained at which rate."""
        assert self._network is not None
        if self._compiled is not None:
            heads, known = heads_of(self._judges)
            self._network.set_heads(heads)
            self._network.set_metrics(known)
        self._pushed = None
        self._push()

    def _forget(self) -> None:
        """The memory of the network's optimizer begins anew; that of one in Python has done so in `_configure`."""
        assert self._network is not None
        self._network.set_optimizer(None, {})  # clears the slots
        self._memory_began = self._network.step
        self._pushed = None
        self._push()

    def _push(self) -> None:
        """Brings the network up to date with hyperparameters, trainable flags and rates that may have changed."""
        network, graph = self._network, self._graph
        assert network is not None
        assert graph is not None
        self._count_updates()
        optimizer = self.optimizer
        native, slots = (None, ()) if optimizer is None else (optimizer.native(), optimizer.slot_names)
        settings = [
            (weight.trainable and layer.trainable, layer._learning_rate_multiplier) for weight, layer in graph.owners
        ]
        if self._pushed == (native, slots, settings):
            return
        if self._compiled is not None:
            self._check_numbers(self._compiled, graph)
        flags, rates = [flag for flag, _ in settings], [rate for _, rate in settings]
        network.set_trainable(flags)
        network.set_rates(rates)
        if native is not None:
            network.set_optimizer(*native)
        if self._segments is not None:
            self._segments.set_trainable(flags)
            self._segments.set_rates(rates)
            self._segments.set_slot_names()
        self._pushed = (native, slots, settings)

    def _check_numbers(self, compiled: Compiled, graph: Graph) -> None:
        """What the network computes with, in the dtype in which it does."""
        dtype = PRECISIONS[self.dtype]
        for weight, loss in zip(compiled.weights, compiled.losses, strict=True):
            as_finite("compile", "loss_weights", weight, dtype)
            if isinstance(loss, losses.Huber) and not np.dtype(dtype).type(loss.delta) > 0:
                raise ValueError(f"Huber: delta must be positive in {dtype}; received {loss.delta!r}")
        native = compiled.optimizer.native()
        if native is None:
            return
        layer = max(graph.layers, key=lambda layer: layer.learning_rate_multiplier)
        rate = native[1]["learning_rate"] * layer.learning_rate_multiplier
        as_finite(layer.name, "learning_rate times learning_rate_multiplier", rate, dtype)

    @property
    def _iterations(self) -> int:
        """Updates since the optimizer remembered nothing."""
        assert self._network is not None
        if self._segments is not None and self._segments.has_optimizer:
            return self._network.step - self._segments.memory_began
        return self._network.step - self._memory_began

    @_iterations.setter
    def _iterations(self, value: int) -> None:
        assert self._network is not None
        self._memory_began = self._network.step - value
        if self._segments is not None:
            self._segments.memory_began = self._memory_began
        self._count_updates()

    def _count_updates(self) -> None:
        """Tells the optimizer how many updates it has made."""
        if self._compiled is not None and self._network is not None:
            self._compiled.optimizer.iterations = self._iterations

    def _ready(self, operation: str) -> tuple[Network, Compiled]:
        if self._compiled is None:
            raise RuntimeError(f"{operation}: expected a compiled model; call compile(optimizer, loss) first")
        if self._network is None:
            raise NotBuiltError(f"{operation}: expected a model with weights; call fit or build first")
        return self._network, self._compiled

    # -- logs ----------------------------------------------------------------------------------------------------

    def _reset_logs(self) -> None:
        assert self._runner is not None
        self._runner.reset_metrics()
        self._base = None

    def _totals(self) -> list[Array]:
        """Sums since the last reset."""
        assert self._runner is not None
        totals = self._runner.get_metrics()
        if self._base is not None:
            totals = [metric_joined(base, total) for base, total in zip(self._base, totals, strict=True)]
        return totals

    def _logs(self) -> dict[str, float]:
        """Means since the last reset."""
        several = len(self._judges) > 1
        rest = iter(self._totals())
        logs = {"loss": 0.0}
        for judge in self._judges:
            total, divisor = next(rest).tolist()
            if judge.loss is not None:
                mean = total / divisor if divisor else math.nan
                logs["loss"] += judge.weight * mean
                if several:
                    logs[f"{judge.name}_loss"] = mean
        for judge in self._judges:
            for metric in judge.metrics:
                value = metric.from_sums(next(rest)) if metric.native() is not None else metric_result(metric)
                logs[f"{judge.name}_{metric.name}" if several else metric.name] = value
        return logs

    @contextmanager
    def _logs_kept(self) -> Iterator[None]:
        """An evaluation inside a callback leaves the logs of the training around it alone."""
        totals = self._totals()
        python = [metric for judge in self._judges for metric in judge.metrics if metric.native() is None]
        states = [dict(vars(metric)) for metric in python]
        try:
            for metric in python:  # what it changes are copies
                vars(metric).update(copy.deepcopy(vars(metric)))
            yield
        finally:
            self._reset_logs()
            self._base = totals
            for metric, state in zip(python, states, strict=True):
                vars(metric).update(state)

    # -- data ----------------------------------------------------------------------------------------------------

    def _check_inputs(self, graph: Graph, operation: str, x: Any, label: str = "") -> tuple[Array, ...]:
        """A matrix for each input, all of as many rows."""
        names = graph.input_names
        if len(names) == 1 and (isinstance(x, np.ndarray) or not isinstance(x, Mapping)):
            return (data.flatten(data.as_rows(x, graph.input_shapes[0], operation, label + "x")),)
        given = spread(x, names, operation, label + "x")
        found: list[Array] = []
        for name, shape, value in zip(names, graph.input_shapes, given, strict=True):
            what = label + ("x" if len(names) == 1 else f"x[{name!r}]")
            if value is None:
                raise ValueError(f"{operation}: {what} must be given; received None")
            found.append(data.flatten(data.as_rows(value, shape, operation, what)))
            data.same_rows(found[0].shape[0], found[-1], operation, what)
        return tuple(found)

    def _check_data(
        self,
        graph: Graph,
        operation: str,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        label: str = "",
    ) -> Rows:
        assert self._compiled is not None
        judges = self._judges if graph is self._graph else judges_of(self._compiled, graph)
        inputs = self._check_inputs(graph, operation, x, label)
        n = inputs[0].shape[0]
        if n == 0:
            raise ValueError(f"{operation}: expected at least one row; received {label}x of shape {inputs[0].shape}")
        if y is None:
            raise ValueError(f"{operation}: {label}y must be given; received None")
        each = _each(judges, y, operation, label + "y")
        targets = tuple([_check_target(judge, operation, value, n, name) for judge, value, name in each])
        weights: tuple[Array | None, ...] = (None,) * len(judges)
        if sample_weight is not None or class_weight is not None:
            weights = self._check_weights(judges, operation, targets, sample_weight, class_weight, n, label)
        return Rows(inputs, targets, weights)

    def _check_weights(
        self,
        judges: list[Judge],
        operation: str,
        targets: tuple[Array | None, ...],
        sample_weight: Any,
        class_weight: Mapping[int, float] | None,
        n: int,
        label: str,
    ) -> tuple[Array | None, ...]:
        """The weights of each output's rows; None where all are 1."""
        if class_weight is not None and len(judges) > 1:
            raise ValueError(f"{operation}: class_weight needs a model of one output; received one of {len(judges)}")
        if len(judges) > 1 and not isinstance(sample_weight, (list, tuple, Mapping)):
            sample_weight = [sample_weight] * len(judges)
        found: list[Array | None] = []
        each = _each(judges, sample_weight, operation, label + "sample_weight")
        for (judge, weight, name), target in zip(each, targets, strict=True):
            checked = None if weight is None else data.as_weights(weight, n, operation, name)
            if class_weight is not None and target is not None:
                by_class = data.class_weights(class_weight, target, judge.width, operation)
                name = "class_weight" if checked is None else f"{name} times class_weight"
                with np.errstate(over="ignore"):
                    checked = by_class if checked is None else checked * by_class
            if checked is not None:
                check_finite(checked, PRECISIONS[self.dtype], operation, name)
            found.append(checked)
        return tuple(found)

    def _check_validation(self, graph: Graph, validation_data: Any) -> Rows:
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            count = f" of length {len(validation_data)}" if hasattr(validation_data, "__len__") else ""
            raise ValueError(
                "fit: validation_data must be (x, y) or (x, y, sample_weight);"
                f" received {type(validation_data).__name__}{count}"
            )
        x, y, weight = validation_data if len(validation_data) == 3 else (*validation_data, None)
        return self._check_data(graph, "fit", x, y, weight, label="validation ")


def _check_target(judge: Judge, operation: str, y: Any, n: int, name: str) -> Array | None:
    """What one output is compared with; None where nothing is."""
    if not judge.needs_targets:
        return None
    if y is None:
        raise ValueError(f"{operation}: {name} must be given; received None")
    if judge.takes_labels:
        return data.as_labels(y, n, judge.width, operation, name)
    target = data.as_targets(y, n, judge.shape, operation, name)
    if judge.target_range is not None:
        data.check_range(target, *judge.target_range, operation, name)
    return target


def _each(judges: list[Judge], given: Any, operation: str, name: str) -> list[tuple[Judge, Any, str]]:
    """Of each output what was given for it, and what to call that."""
    if len(judges) == 1:
        value = spread(given, [judges[0].name], operation, name)[0] if isinstance(given, Mapping) else given
        return [(judges[0], value, name)]
    values = spread(given, [judge.name for judge in judges], operation, name)
    return [(judge, value, f"{name}[{judge.name!r}]") for judge, value in zip(judges, values, strict=True)]

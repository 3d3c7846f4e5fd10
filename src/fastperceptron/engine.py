"""What a model needs to run: the network told about loss, optimizer and metrics, the logs, and checked data."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import data, losses, metrics, optimizers
from .backends.protocol import Network
from .callbacks import History
from .errors import NotBuiltError
from .fitting import Rows
from .graph import Graph
from .ownership import Ownership
from .segments import Segments

__all__ = ["Compiled", "Engine"]

Array = NDArray[Any]


class Compiled(NamedTuple):
    optimizer: optimizers.Optimizer
    loss: losses.Loss
    metrics: list[str | metrics.Metric]


class Engine:
    """The part of a model between its layers and its training."""

    name: str
    dtype: str
    stop_training: bool
    history: History | None
    _backend: ModuleType
    _ownership: Ownership
    _graph: Graph | None
    _network: Network | None
    _compiled: Compiled | None
    _epoch: int

    def _clear_runtime(self) -> None:
        self._metrics: list[metrics.Metric] = []
        self._runner: Network | Segments | None = None
        self._segments: Segments | None = None
        self._pushed: Any = None
        self._live: Any = None  # the native predictor that predict_one uses
        self._base: list[Array] | None = None
        self._fitting = False

    # -- provided by Model ---------------------------------------------------------------------------------------

    @property
    def _network_key(self) -> int:
        raise NotImplementedError

    def _structured(self, shape: tuple[int, ...]) -> AbstractContextManager[Graph]:
        raise NotImplementedError

    # -- configuration -------------------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: str | optimizers.Optimizer = "sgd",
        loss: str | losses.Loss | None = None,
        metrics: str | metrics.Metric | Sequence[str | metrics.Metric] | None = None,
    ) -> None:
        """Chooses how the model learns. The optimizer's memory begins anew.

        Parameters
        ----------
        optimizer : "sgd" or an Optimizer
        loss : a name ("mse", "binary_crossentropy", ...) or a Loss
        metrics : names ("accuracy", "mse", "mae", "r2", ...) or Metric objects
        """
        if loss is None:
            raise ValueError("compile: loss must be a name or a Loss; received None")
        chosen = [metrics] if isinstance(metrics, (str, _Metric)) else list(metrics or [])
        compiled = Compiled(optimizers.get(optimizer), losses.get(loss), chosen)
        with self._ownership.writing("compile"):
            width = 1 if self._graph is None else math.prod(self._graph.output_shape)
            _resolve(compiled, width)
            self._compiled = compiled
            if self._network is not None:
                self._network.set_optimizer(None, {})  # clears the slots
                self._configure()

    @property
    def optimizer(self) -> optimizers.Optimizer | None:
        """As given to ``compile``."""
        return None if self._compiled is None else self._compiled.optimizer

    @property
    def loss(self) -> losses.Loss | None:
        """As given to ``compile``."""
        return None if self._compiled is None else self._compiled.loss

    @property
    def metrics_names(self) -> list[str]:
        """Names in the order in which ``evaluate`` returns values."""
        return ["loss", *(metric.name for metric in self._metrics)]

    def _configure(self) -> None:
        """Tells the network about optimizer, loss and metrics, and finds out what must run in Python."""
        network, graph = self._network, self._graph
        assert network is not None
        assert graph is not None
        loss = optimizer = None
        self._metrics = []
        if self._compiled is not None:
            self._metrics = _resolve(self._compiled, math.prod(graph.output_shape))
            native_loss = self._compiled.loss.native()
            network.set_loss(*(native_loss or (None, 0.0)))
            network.set_metrics([known for metric in self._metrics if (known := metric.native()) is not None])
            loss = self._compiled.loss if native_loss is None else None
            optimizer = self._compiled.optimizer if self._compiled.optimizer.native() is None else None
        python_metrics = [metric for metric in self._metrics if metric.native() is None]
        self._segments = self._live = None
        if not graph.program.is_native or loss is not None or optimizer is not None or python_metrics:
            self._segments = Segments(network, graph.shapes, loss, optimizer, python_metrics)
        self._runner = self._segments or network
        self._pushed = None
        self._push()

    def _push(self) -> None:
        """Brings the network up to date with hyperparameters and trainable flags that may have changed."""
        network, graph = self._network, self._graph
        assert network is not None
        assert graph is not None
        self._count_updates()
        native = self._compiled.optimizer.native() if self._compiled is not None else None
        flags = [weight.trainable and layer.trainable for weight, layer in graph.owners]
        if self._pushed == (native, flags):
            return
        network.set_trainable(flags)
        network.set_optimizer(*(native or (None, {})))
        if self._segments is not None:
            self._segments.set_trainable(flags)
            self._segments.set_slot_names()
        self._pushed = (native, flags)

    def _count_updates(self) -> None:
        """Tells the optimizer how many updates the network has had."""
        if self._compiled is not None and self._network is not None:
            self._compiled.optimizer.iterations = self._network.step

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

    def _logs(self, prefix: str = "") -> dict[str, float]:
        """Means since the last reset."""
        assert self._runner is not None
        totals = self._runner.get_metrics()
        if self._base is not None:
            totals = [base + total for base, total in zip(self._base, totals, strict=True)]
        sums = iter(totals)
        loss = next(sums)
        logs = {prefix + "loss": float(loss[0] / loss[1]) if loss[1] else float("nan")}
        for metric in self._metrics:
            value = metric.from_sums(next(sums)) if metric.native() is not None else float(metric.result())
            logs[prefix + metric.name] = value
        return logs

    @contextmanager
    def _logs_kept(self) -> Iterator[None]:
        """An evaluation inside a callback leaves the logs of the training around it alone."""
        assert self._runner is not None
        totals = self._runner.get_metrics()
        if self._base is not None:
            totals = [base + total for base, total in zip(self._base, totals, strict=True)]
        python = [metric for metric in self._metrics if metric.native() is None]
        states = [copy.deepcopy(metric.__dict__) for metric in python]
        try:
            yield
        finally:
            self._reset_logs()
            self._base = totals
            for metric, state in zip(python, states, strict=True):
                metric.__dict__.update(state)

    # -- data ----------------------------------------------------------------------------------------------------

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
        loss, width = self._compiled.loss, math.prod(graph.output_shape)
        matrix = data.flatten(data.as_rows(x, graph.input_shape, operation, label + "x"))
        n = matrix.shape[0]
        if y is None:
            raise ValueError(f"{operation}: {label}y must be given; received None")
        if loss.takes_labels:
            y = data.as_labels(y, n, width, operation, label + "y")
        else:
            y = data.as_targets(y, n, graph.output_shape, operation, label + "y")
        if n == 0:
            raise ValueError(f"{operation}: expected at least one row; received {label}x of shape {np.shape(matrix)}")
        if isinstance(loss, losses.BinaryCrossentropy):
            data.check_range(y, 0, 1, operation, label + "y")
        elif isinstance(loss, losses.CategoricalCrossentropy):
            data.check_range(y, 0, math.inf, operation, label + "y")
        weights = None
        if sample_weight is not None:
            weights = data.as_weights(sample_weight, n, operation, label + "sample_weight")
        if class_weight is not None:
            by_class = data.class_weights(class_weight, y, width, operation)
            weights = by_class if weights is None else weights * by_class
        return Rows(matrix, y, weights)

    def _check_validation(self, graph: Graph, validation_data: Any) -> Rows:
        if not isinstance(validation_data, (tuple, list)) or len(validation_data) not in (2, 3):
            count = f" of length {len(validation_data)}" if hasattr(validation_data, "__len__") else ""
            raise ValueError(
                "fit: validation_data must be (x, y) or (x, y, sample_weight);"
                f" received {type(validation_data).__name__}{count}"
            )
        x, y, weight = validation_data if len(validation_data) == 3 else (*validation_data, None)
        return self._check_data(graph, "fit", x, y, weight, label="validation ")


_Metric = metrics.Metric


def _resolve(compiled: Compiled, width: int) -> list[metrics.Metric]:
    """The metrics of an output of this width; an error when one cannot read the loss's targets."""
    found = [metrics.get(identifier, compiled.loss, width) for identifier in compiled.metrics]
    metrics.check_names(found)
    for metric in found:
        if metric.takes_labels is not None and metric.takes_labels != compiled.loss.takes_labels:
            wanted = "class labels" if metric.takes_labels else "targets as wide as the output"
            raise ValueError(
                f"compile: metric {metric.name} needs {wanted};"
                f" received the loss {compiled.loss.name}, which takes others"
            )
    return found

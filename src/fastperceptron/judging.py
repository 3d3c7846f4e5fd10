"""What each output of a model is judged by: loss, weight and metrics, from the ways in which ``compile`` takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from . import losses, metrics, optimizers
from .checks import is_number, kind_of
from .graph import Graph
from .layer import Shape
from .program import Head

__all__ = ["Compiled", "Judge", "compiled_for", "fit_log_names", "heads_of", "judges_of", "log_names", "spread"]

Identifiers = list[str | metrics.Metric]


class Compiled(NamedTuple):
    """What ``compile`` was given; of each output its loss, weight and metrics."""

    optimizer: optimizers.Optimizer
    loss: Any  # as given, names replaced by objects
    losses: tuple[losses.Loss | None, ...]
    weights: tuple[float, ...]
    metrics: tuple[Identifiers, ...]


class Judge:
    """One output of a built model."""

    def __init__(
        self, name: str, shape: Shape, loss: losses.Loss | None, weight: float, metrics: list[metrics.Metric]
    ) -> None:
        self.name = name
        self.shape = shape
        self.loss = loss
        self.weight = weight
        self.metrics = metrics
        self.width = math.prod(shape)
        self.needs_targets = loss is not None or bool(metrics)
        #: Whether the targets are class numbers.
        self.takes_labels = loss.takes_labels if loss is not None else any(metric.takes_labels for metric in metrics)
        #: What the targets must lie in.
        self.target_range = None if loss is None else loss._target_range


def spread(given: Any, names: Sequence[str], operation: str, what: str) -> list[Any]:
    """One entry per name from a list in their order, or a dict by name in which some may be missing (None)."""
    if isinstance(given, Mapping):
        unknown = [key for key in given if key not in names]
        if unknown:
            raise ValueError(f"{operation}: {what} must be for {', '.join(names)}; received {unknown[0]!r}")
        return [given.get(name) for name in names]
    if not isinstance(given, (list, tuple)):
        raise TypeError(
            f"{operation}: {what} must be a list of {len(names)} or a dict, for {', '.join(names)};"
            f" received {type(given).__name__}"
        )
    if len(given) != len(names):
        raise ValueError(f"{operation}: {what} must be {len(names)}, for {', '.join(names)}; received {len(given)}")
    return list(given)


def compiled_for(names: Sequence[str], optimizer: Any, loss: Any, metrics_: Any, loss_weights: Any) -> Compiled:
    """Everything by output, for a model with outputs of these names."""
    if loss is None:
        raise ValueError("compile: loss must be a name or a Loss; received None")
    if isinstance(loss, Mapping):
        loss = {name: None if one is None else losses.get(one) for name, one in loss.items()}
    elif isinstance(loss, (list, tuple)):
        loss = [None if one is None else losses.get(one) for one in loss]
    else:
        loss = losses.get(loss)
    single = isinstance(loss, losses.Loss)
    each = [loss] * len(names) if single else spread(loss, names, "compile", "losses")
    if all(one is None for one in each):
        raise ValueError("compile: loss must be there for one output at least; received None for all")
    weights = [1.0] * len(names)
    if loss_weights is not None:
        weights = [_weight(one) for one in spread(loss_weights, names, "compile", "loss_weights")]
    return Compiled(optimizers.get(optimizer), loss, tuple(each), tuple(weights), _metrics_for(names, metrics_))


def _weight(value: Any) -> float:
    if value is None:
        return 1.0
    if not is_number(value) or not math.isfinite(value):
        raise ValueError(f"compile: loss_weights must be finite numbers; received {value!r}")
    return float(value)


def _metrics_for(names: Sequence[str], given: Any) -> tuple[Identifiers, ...]:
    if len(names) == 1 and not isinstance(given, Mapping):
        return (_identifiers(given),)
    if given is None or isinstance(given, str):  # the same name for every output
        return tuple(_identifiers(given) for _ in names)
    return tuple(_identifiers(one) for one in spread(given, names, "compile", "metrics"))


def _identifiers(given: Any) -> Identifiers:
    if given is None:
        return []
    if isinstance(given, (str, metrics.Metric)):
        return [given]
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"compile: metrics must be names or Metrics; received {kind_of(given)}")
    return list(given)


def judges_of(compiled: Compiled, graph: Graph | None) -> list[Judge]:
    """Of each output of the model; an error when a metric cannot read its targets."""
    names: Sequence[str] = ("output",) if graph is None else graph.output_names
    shapes: Sequence[Shape] = ((1,),) if graph is None else graph.output_shapes
    judges = []
    for place, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        loss, weight = compiled.losses[place], compiled.weights[place]
        found = [metrics.get(identifier, loss, math.prod(shape)) for identifier in compiled.metrics[place]]
        judge = Judge(name, shape, loss, weight, found)
        for metric in found:
            if metric.takes_labels is not None and metric.takes_labels != judge.takes_labels:
                wanted = "class labels" if metric.takes_labels else "targets as wide as the output"
                other = "another metric" if loss is None else f"the loss {loss.name}"
                raise ValueError(f"compile: metric {metric.name} needs {wanted}; received {other}, which takes others")
        judges.append(judge)
    metrics.check_names(log_names(judges))
    objects = [metric for judge in judges for metric in judge.metrics]
    if len(set(map(id, objects))) != len(objects):
        raise ValueError("compile: each output needs a Metric of its own; received one object for two")
    return judges


def fit_log_names(judges: Sequence[Judge], validates: bool) -> list[str]:
    """Names of the logs of ``fit``: with validation each a second time, beginning with "val_"."""
    names = log_names(judges)
    if validates:
        names += [f"val_{name}" for name in names]
        metrics.check_names(names, "fit: with validation, names of logs")
    return names


def log_names(judges: Sequence[Judge]) -> list[str]:
    """Names of all logs: the cost, with several outputs each loss, then the metrics."""
    several = len(judges) > 1
    names = ["loss"]
    if several:
        names += [f"{judge.name}_loss" for judge in judges if judge.loss is not None]
    prefixes = [f"{judge.name}_" if several else "" for judge in judges]
    return names + [p + metric.name for p, judge in zip(prefixes, judges, strict=True) for metric in judge.metrics]


def heads_of(judges: Sequence[Judge]) -> tuple[list[Head], list[tuple[str, float, int]]]:
    """What the network is told: a head for each output, and the metrics that it accumulates."""
    heads, known = [], []
    for place, judge in enumerate(judges):
        kind, parameter = (judge.loss.native() if judge.loss is not None else None) or (None, 0.0)
        heads.append(Head(place, kind, parameter, judge.weight))
        for metric in judge.metrics:
            native = metric.native()
            if native is not None:
                metric._in_use = True
                known.append((*native, place))
    return heads, known

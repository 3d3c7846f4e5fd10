"""Metrics: numbers reported beside the cost, accumulated over batches.

Built-in metrics accumulate inside the backend. One's own defines ``update_state``, ``result`` and ``reset_state``::

    class WorstError(fp.Metric):
        def reset_state(self):
            self.worst = 0.0

        def update_state(self, y_true, y_pred, sample_weight=None):
            self.worst = max(self.worst, float(abs(y_true - y_pred).max()))

        def result(self):
            return self.worst
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .backends.numpy_metrics import metric_add, metric_zeros
from .checks import as_finite, by_name, kind_of
from .errors import ShapeError
from .losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Hinge,
    Loss,
    Perceptron,
)
from .serialization import Configurable, snake_case

__all__ = [
    "BinaryAccuracy",
    "CategoricalAccuracy",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Metric",
    "R2Score",
    "SparseCategoricalAccuracy",
    "get",
]

Array = NDArray[Any]


class Metric(Configurable):
    """Base class; a subclass defines the three methods below."""

    takes_labels: bool | None = None  # None: whatever the loss takes
    _in_use = False  # a backend was told what ``native`` says
    _name: str | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self._name = None
        return self

    def __init__(self, name: Any = None) -> None:
        if name is not None and (not isinstance(name, str) or not name):
            raise ValueError(f"{type(self).__name__}: name must be text; received {name!r}")
        self._name = name

    @property
    def name(self) -> str:
        """The key in logs and History."""
        return self._name if self._name is not None else snake_case(type(self).__name__)

    def reset_state(self) -> None:
        """Forgets what has been accumulated."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_state()")

    def update_state(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> None:
        """Takes a batch in. y_true (n, out), or labels (n,); y_pred (n, out); sample_weight (n,) or None: copies, which
        may be written to."""
        raise NotImplementedError(f"{type(self).__name__} must define update_state(y_true, y_pred, sample_weight)")

    def result(self) -> float:
        """The value over all batches since the last reset; nan before the first."""
        raise NotImplementedError(f"{type(self).__name__} must define result()")

    def native(self) -> tuple[str, float] | None:
        """Kind and parameter when a backend accumulates this metric, else None."""
        return None

    def from_sums(self, sums: NDArray[np.float64]) -> float:
        """The value from what a backend has accumulated."""
        raise NotImplementedError


class _Mean(Metric):
    """The weighted mean of one number per row."""

    kind: str
    takes_labels = False

    def __init__(self, name: str | None = None) -> None:
        super().__init__(name)
        self.reset_state()

    def reset_state(self) -> None:
        self._sums = metric_zeros(self.kind, 0)  # r2: the first batch tells the width

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        from .data import as_compared, as_weights

        y_true, y_pred = as_compared(y_true, y_pred, bool(self.takes_labels), self.name)
        weights = None if sample_weight is None else as_weights(sample_weight, len(y_pred), self.name)
        sums = self._sums if self._sums.size else metric_zeros(self.kind, y_pred.shape[1])
        if sums.ndim == 2 and sums.shape[1] != y_pred.shape[1]:
            raise ShapeError(f"{self.name}: y_pred must have shape (n, {sums.shape[1]}) again; received {y_pred.shape}")
        metric_add(sums, self.kind, self._parameter, y_true, y_pred, weights)
        self._sums = sums

    @property
    def _parameter(self) -> float:
        return float(getattr(self, "threshold", 0.0))

    def result(self) -> float:
        return self.from_sums(self._sums)

    def native(self) -> tuple[str, float] | None:
        known = type(self).__module__ == __name__
        return (self.kind, self._parameter) if known else None

    def from_sums(self, sums: NDArray[np.float64]) -> float:
        total, divisor = sums.tolist()
        return float(total / divisor) if divisor else float("nan")


class BinaryAccuracy(_Mean):
    """Share of outputs on the right side: (prediction > threshold) == (target > 0.5)."""

    kind = "binary_accuracy"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "threshold" and self._in_use:
            raise AttributeError("BinaryAccuracy: threshold cannot change once a model has it; make it anew")
        super().__setattr__(name, value)

    def __init__(self, threshold: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.threshold = as_finite("BinaryAccuracy", "threshold", threshold, np.float64)


class CategoricalAccuracy(_Mean):
    """Share of rows whose largest prediction is at the largest target."""

    kind = "categorical_accuracy"


class SparseCategoricalAccuracy(_Mean):
    """Share of rows whose largest prediction is at the label."""

    kind = "sparse_categorical_accuracy"
    takes_labels = True


class MeanSquaredError(_Mean):
    """Mean of (t - y)^2 over rows and outputs."""

    kind = "mean_squared_error"


class MeanAbsoluteError(_Mean):
    """Mean of |t - y| over rows and outputs."""

    kind = "mean_absolute_error"


class R2Score(_Mean):
    """1 - sum (t - y)^2 / sum (t - mean t)^2, averaged over outputs.

    An output whose targets are all equal counts as 1 when predicted exactly, else as 0: in float32 so may times of a
    day in seconds since 1970, which it rounds to two minutes.
    """

    kind = "r2"

    def from_sums(self, sums: NDArray[np.float64]) -> float:
        if not sums.size or not sums[0].any():
            return float("nan")
        weight, first, second, residual, _ = sums  # first and second: of the targets less the first of them
        spread = second - first * first / weight
        # Below the rounding of the two terms, the targets are constant.
        constant = spread <= 1e-13 * second
        score = 1.0 - residual / np.where(constant, 1.0, spread)
        return float(np.where(constant, (residual == 0).astype(np.float64), score).mean())


_BY_NAME: dict[str, type[Metric]] = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "r2": R2Score,
    "r2_score": R2Score,
}


def get(identifier: Any, loss: Loss | None, width: int) -> Metric:
    """A metric from its name or itself. "accuracy" is the one that fits `loss` and the `width` of the output."""
    if isinstance(identifier, Metric):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(f"metric: expected a name or a Metric; received {kind_of(identifier)}")
    if identifier.lower() in ("accuracy", "acc"):
        return _accuracy(identifier.lower(), loss, width)
    metric: Metric = by_name("metric", identifier, _BY_NAME, "accuracy")(name=snake_case(identifier))
    return metric


def _accuracy(name: str, loss: Loss | None, width: int) -> Metric:
    if loss is not None and loss.takes_labels:
        return SparseCategoricalAccuracy(name)
    if isinstance(loss, (BinaryCrossentropy, Hinge, Perceptron)) or (
        width == 1 and not isinstance(loss, CategoricalCrossentropy)
    ):
        return BinaryAccuracy(0.5 if loss is None else loss.threshold, name)
    return CategoricalAccuracy(name)


def check_names(names: Sequence[str], what: str = "compile: metric names") -> None:
    """Two logs under one name would overwrite each other."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{what} must differ; received {', '.join(twice)} more than once")

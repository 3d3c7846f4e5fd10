"""The built-in metrics, accumulated over batches as sums in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["METRICS", "metric_add", "metric_joined", "metric_zeros"]

Array = NDArray[Any]

METRICS = (
    "binary_accuracy",
    "categorical_accuracy",
    "sparse_categorical_accuracy",
    "mean_squared_error",
    "mean_absolute_error",
    "r2",
)


def metric_zeros(kind: str, width: int) -> NDArray[np.float64]:
    """The sums of no rows: (5, width) for r2, else (2,)."""
    return np.zeros((5, width) if kind == "r2" else 2)


def metric_add(
    sums: NDArray[np.float64], kind: str, parameter: float, y_true: Array, y_pred: Array, weights: Array | None
) -> None:
    """Add a batch to ``sums``, in place."""
    w = np.ones(len(y_pred)) if weights is None else weights.astype(np.float64)
    if kind == "r2":
        t = y_true.astype(np.float64)
        origin = np.where(sums[0] == 0, t[0], sums[4]) if len(t) else sums[4]
        d, total = t - origin, np.full(t.shape[1], w.sum())
        added = sums[:4] + np.stack([total, w @ d, w @ (d * d), w @ np.square(t - y_pred)])
        sums[:] = np.vstack([added, origin])  # all or nothing
        return
    sums += w @ _row_values(kind, parameter, y_true, y_pred), w.sum()


def metric_joined(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of the rows of both, of any kind, and of losses too."""
    if a.ndim == 1:
        return a + b
    if not (a[0].any() and b[0].any()):
        return b if b[0].any() else a
    weight, first, second, residual, origin = b
    apart = origin - a[4]  # of the targets that the two have taken from their own
    moved = np.stack([weight, first + apart * weight, second + apart * (2 * first + apart * weight), residual])
    return np.vstack([a[:4] + moved, a[4]])


def _row_values(kind: str, parameter: float, t: Array, p: Array) -> Any:
    if kind == "sparse_categorical_accuracy":
        hits: Array = p.argmax(axis=1) == t
        return hits.astype(np.float64)
    if kind == "categorical_accuracy":
        hits = p.argmax(axis=1) == t.argmax(axis=1)
        return hits.astype(np.float64)
    # The targets of a binary classification are 0/1 or -1/+1: 0.5 parts both.
    if kind == "binary_accuracy":
        each: Array = (p.astype(np.float64) > parameter) == (t > 0.5)
    elif kind == "mean_squared_error":
        each = np.square(t.astype(np.float64) - p)
    else:
        each = np.abs(t.astype(np.float64) - p)
    return each.sum(axis=1, dtype=np.float64) / max(p.shape[1], 1)

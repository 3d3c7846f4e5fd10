"""Losses in NumPy: per-sample values (in nats, float64) and the gradient of their weighted sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["check_labels", "gradient_of", "loss_backward", "loss_forward", "losses_of", "takes_labels"]

Array = NDArray[Any]

_EPSILON = 1e-7  # probabilities are clipped to [epsilon, 1 - epsilon] before a logarithm


def takes_labels(kind: str | None) -> bool:
    """Whether the loss reads integer labels instead of a matrix of targets."""
    return kind is not None and kind.startswith("sparse_")


def check_labels(operation: str, labels: Array, width: int, rows: NDArray[np.int64] | None = None) -> None:
    """Raise unless every label lies in [0, width). ``rows`` gives the caller's row numbers for the message."""
    if labels.size and (labels.min() < 0 or labels.max() >= width):
        first = int(np.flatnonzero((labels < 0) | (labels >= width))[0])
        row = first if rows is None else int(rows[first])
        raise ValueError(f"{operation}: labels must lie in [0, {width}); received {labels[first]} in row {row}")


def _row_mean(values: Array) -> Any:
    return values.sum(axis=1, dtype=np.float64) / max(values.shape[1], 1)


def _clip(p: Array) -> Any:
    return np.clip(p, _EPSILON, 1 - _EPSILON)


def _outside(p: Array) -> Any:
    """Where clipping makes the loss constant."""
    return (p < p.dtype.type(_EPSILON)) | (p > p.dtype.type(1 - _EPSILON))


def _sign_targets(t: Array) -> Any:
    return np.where(t > 0, t.dtype.type(1), t.dtype.type(-1))


def _log_softmax(z: Array) -> Any:
    """z - logsumexp(z): the maximum goes first, since adding log(sum) to a large logit would round it away."""
    shifted = z - z.max(axis=1, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _pick(p: Array, labels: Array) -> Any:
    return p[np.arange(len(p)), labels]


# -- forward: (t, p, parameter) -> (n,) ------------------------------------------------------------------------


def _mean_squared_error(t: Array, p: Array, delta: float) -> Any:
    return _row_mean(np.square(p - t))


def _mean_absolute_error(t: Array, p: Array, delta: float) -> Any:
    return _row_mean(np.abs(p - t))


def _huber(t: Array, p: Array, delta: float) -> Any:
    a = np.abs(p - t)
    return _row_mean(np.where(a <= delta, 0.5 * a * a, delta * (a - 0.5 * delta)))


def _binary_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    q = _clip(p)
    return _row_mean(-(t * np.log(q) + (1 - t) * np.log(1 - q)))


def _binary_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    return _row_mean(np.maximum(z, 0) - z * t + np.log1p(np.exp(-np.abs(z))))


def _categorical_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    return -(t * np.log(_clip(p))).sum(axis=1, dtype=np.float64)


def _categorical_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    return -(t * _log_softmax(z)).sum(axis=1, dtype=np.float64)


def _sparse_categorical_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    return -np.log(_clip(_pick(p, t))).astype(np.float64)


def _sparse_categorical_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    return -_pick(_log_softmax(z), t).astype(np.float64)


def _hinge(t: Array, p: Array, delta: float) -> Any:
    return _row_mean(np.maximum(1 - _sign_targets(t) * p, 0))


def _perceptron(t: Array, p: Array, delta: float) -> Any:
    return _row_mean(np.maximum(-_sign_targets(t) * p, 0))


# -- backward: (t, p, parameter) -> d losses[i] / d p[i, j]; the mean over columns is divided out by the caller ------


def _d_mean_squared_error(t: Array, p: Array, delta: float) -> Any:
    return 2 * (p - t)


def _d_mean_absolute_error(t: Array, p: Array, delta: float) -> Any:
    return np.sign(p - t)


def _d_huber(t: Array, p: Array, delta: float) -> Any:
    return np.clip(p - t, -delta, delta)


def _d_binary_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    q = _clip(p)
    return np.where(_outside(p), p.dtype.type(0), (q - t) / (q * (1 - q)))


def _d_binary_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, z.dtype.type(1), e) / (1 + e) - t


def _d_categorical_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    return np.where(_outside(p), p.dtype.type(0), -t / _clip(p))


def _d_categorical_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    return np.exp(_log_softmax(z)) * t.sum(axis=1, keepdims=True) - t


def _d_sparse_categorical_cross_entropy(t: Array, p: Array, delta: float) -> Any:
    picked = _pick(p, t)
    dp = np.zeros(p.shape, p.dtype)
    dp[np.arange(len(p)), t] = np.where(_outside(picked), p.dtype.type(0), -1 / _clip(picked))
    return dp


def _d_sparse_categorical_cross_entropy_logits(t: Array, z: Array, delta: float) -> Any:
    dz = np.exp(_log_softmax(z))
    dz[np.arange(len(z)), t] -= 1
    return dz


def _d_hinge(t: Array, p: Array, delta: float) -> Any:
    s = _sign_targets(t)
    return np.where(s * p < 1, -s, p.dtype.type(0))


def _d_perceptron(t: Array, p: Array, delta: float) -> Any:
    s = _sign_targets(t)  # a prediction of exactly 0 is a mistake, so that training can start from zero weights
    return np.where(s * p <= 0, -s, p.dtype.type(0))


_Rule = Callable[[Array, Array, float], Any]

#: kind: (losses, derivative, whether the loss is a mean over the columns)
_LOSSES: dict[str, tuple[_Rule, _Rule, bool]] = {
    "mean_squared_error": (_mean_squared_error, _d_mean_squared_error, True),
    "mean_absolute_error": (_mean_absolute_error, _d_mean_absolute_error, True),
    "huber": (_huber, _d_huber, True),
    "binary_cross_entropy": (_binary_cross_entropy, _d_binary_cross_entropy, True),
    "binary_cross_entropy_logits": (_binary_cross_entropy_logits, _d_binary_cross_entropy_logits, True),
    "categorical_cross_entropy": (_categorical_cross_entropy, _d_categorical_cross_entropy, False),
    "categorical_cross_entropy_logits": (
        _categorical_cross_entropy_logits,
        _d_categorical_cross_entropy_logits,
        False,
    ),
    "sparse_categorical_cross_entropy": (
        _sparse_categorical_cross_entropy,
        _d_sparse_categorical_cross_entropy,
        False,
    ),
    "sparse_categorical_cross_entropy_logits": (
        _sparse_categorical_cross_entropy_logits,
        _d_sparse_categorical_cross_entropy_logits,
        False,
    ),
    "hinge": (_hinge, _d_hinge, True),
    "perceptron": (_perceptron, _d_perceptron, True),
}


def losses_of(kind: str, parameter: float, y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    """loss_forward without checks; callers silence NumPy's floating-point warnings."""
    losses: NDArray[np.float64] = _LOSSES[kind][0](y_true, y_pred, parameter)
    return losses


def gradient_of(
    kind: str, parameter: float, y_true: Array, y_pred: Array, weights: Array | None, scale: float, out: Array
) -> None:
    """loss_backward without checks."""
    _, derivative, is_mean = _LOSSES[kind]
    if is_mean:
        scale /= max(y_pred.shape[1], 1)
    np.multiply(derivative(y_true, y_pred, parameter), scale, out=out)
    if weights is not None:
        out *= weights[:, None]


def loss_forward(kind: str, parameter: float, y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    """The unweighted loss of every row."""
    if takes_labels(kind):
        check_labels("loss_forward", y_true, y_pred.shape[1])
    with np.errstate(all="ignore"):
        return losses_of(kind, parameter, y_true, y_pred)


def loss_backward(
    kind: str,
    parameter: float,
    y_true: Array,
    y_pred: Array,
    weights: Array | None,
    scale: float,
    out: Array | None = None,
) -> Array:
    """dy[i] = scale * weights[i] * d losses[i] / d y_pred[i]."""
    if takes_labels(kind):
        check_labels("loss_backward", y_true, y_pred.shape[1])
    dy = np.empty(y_pred.shape, y_pred.dtype) if out is None else out
    with np.errstate(all="ignore"):
        gradient_of(kind, parameter, y_true, y_pred, weights, scale, dy)
    return dy

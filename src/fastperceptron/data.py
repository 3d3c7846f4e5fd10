"""What people pass in, as the arrays a backend takes.

Matrices keep their memory: strided, read-only and misaligned arrays of every real dtype go through as they are.
Copied are only byte-swapped and long double arrays, object arrays of numbers, class labels (their range is checked on
a private copy) and weights. Everything is checked here, before anything changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_array, check_finite, is_integer, is_number, kind_of, refuse_masked
from .errors import DTypeError, ShapeError

__all__ = [
    "as_compared",
    "as_labels",
    "as_real",
    "as_rows",
    "as_targets",
    "as_weights",
    "check_range",
    "class_weights",
    "describe",
]

Array = NDArray[Any]

_INT64, _UINT64 = np.dtype(np.int64), np.dtype(np.uint64)
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


def as_real(value: Any, operation: str, name: str) -> Array:
    """`value` as an array of a real dtype in native byte order; a view wherever that is possible."""
    if type(value) is np.ndarray:  # nearly always one of numbers that needs nothing
        dtype = value.dtype
        if dtype.kind in "fiu" and dtype.itemsize <= 8 and dtype.isnative:
            return value
    if not isinstance(value, np.ndarray):
        value = _to_numpy(value, operation, name)
    if value.dtype.kind == "O" and value.size and all(isinstance(item, _NUMBERS) for item in value.flat):
        try:
            value = value.astype(np.float64)  # a table with columns of several dtypes
        except OverflowError as error:
            raise ValueError(f"{operation}: {name} must hold numbers within float64's range; {error}") from error
    kind = value.dtype.kind
    if kind not in "biuf":
        hint = "; convert numbers with astype(float)" if kind in "OSU" else ""
        if hint and name.startswith("y"):
            hint += ", number class names with np.unique(y, return_inverse=True)"
        raise DTypeError(f"{operation}: {name} must hold real numbers; received {describe(value)}{hint}")
    refuse_masked(operation, name, value)
    array = np.asarray(value)
    if kind == "b":
        return array.view(np.uint8)
    if kind == "f" and array.dtype.itemsize > 8:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array


def _to_numpy(value: Any, operation: str, name: str) -> Array:
    if not hasattr(value, "__array__") and hasattr(value, "__dlpack__"):
        return np.from_dlpack(value)
    array = as_array(operation, name, value)
    if array.ndim == 0 and array.dtype.kind == "O" and not isinstance(value, int):
        raise DTypeError(f"{operation}: {name} must hold real numbers; received {kind_of(value)}")
    return array


def describe(value: Any) -> str:
    """Shape and dtype, for messages."""
    return f"shape {value.shape}, dtype {value.dtype}"


def as_rows(value: Any, shape: tuple[int, ...] | None, operation: str, name: str = "x") -> Array:
    """`value` as an array (n, ...) whose rows have `shape` (None: any); a vector is a column when that fits."""
    array = as_real(value, operation, name)
    if array.ndim == 1 and (shape is None or shape == (1,)):
        array = array[:, None]
    if array.ndim < 2 or (shape is not None and array.shape[1:] != shape):
        wanted = "n, ..." if shape is None else ", ".join(["n", *map(str, shape)])
        hint = "; one sample is x[None]" if array.shape == shape else ""
        raise ShapeError(f"{operation}: {name} must have shape ({wanted}); received {array.shape}{hint}")
    return array


def flatten(array: Array) -> Array:
    """(n, ...) as (n, width)."""
    if array.ndim == 2:
        return array
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))


def same_rows(n: int, array: Array, operation: str, name: str) -> None:
    if array.shape[0] != n:
        raise ShapeError(
            f"{operation}: {name} must have as many rows as there are samples, {n}; received {array.shape[0]}"
        )


def as_labels(value: Any, n: int | None, classes: int, operation: str, name: str = "y") -> NDArray[np.int64]:
    """Class numbers 0..classes-1 as a private int64 vector. Floats with integral values are taken."""
    array = as_real(value, operation, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeError(f"{operation}: {name} must hold class labels, shape (n,); received {array.shape}")
    if n is not None:
        same_rows(n, array, operation, name)
    if array.dtype.kind != "f":
        labels = array.astype(_INT64)
        # As unsigned numbers negative ones, and those that fit no int64, are the largest.
        unsigned = labels.view(_UINT64)
        if labels.size == 0 or unsigned.item(unsigned.argmax()) < classes:
            return labels
    private = array.copy()
    bad = (private < 0) | (private >= classes)
    if private.dtype.kind == "f":
        bad |= private != np.floor(private)
    if bad.any():
        row = int(np.argmax(bad))
        hint = "; use binary_crossentropy or more units" if classes == 1 else ""
        raise ValueError(
            f"{operation}: {name} must hold labels from 0 to {classes - 1}, one class per output;"
            f" received {private[row]} in row {row}{hint}"
        )
    return private.astype(np.int64, copy=False)


def as_targets(value: Any, n: int | None, shape: tuple[int, ...], operation: str, name: str = "y") -> Array:
    """Targets as a matrix (n, width of the output); (n,) stands for any output of one number."""
    array = as_real(value, operation, name)
    if array.ndim == 1 and math.prod(shape) == 1:
        array = array.reshape(len(array), *shape)
    if array.ndim > 0 and n is not None:
        same_rows(n, array, operation, name)
    if array.ndim != 1 + len(shape) or array.shape[1:] != shape:
        wanted = ", ".join(["n", *map(str, shape)])
        raise ShapeError(
            f"{operation}: {name} must have shape ({wanted}) to match the output; received {array.shape}"
            + ("; class labels need a sparse loss" if array.ndim == 1 else "")
        )
    return flatten(array)


def as_compared(y_true: Any, y_pred: Any, labels: bool, operation: str) -> tuple[Array, Array]:
    """What a loss or a metric is of: labels (n,), or targets as wide as the predictions (n, out) and of their dtype."""
    y_pred = as_real(y_pred, operation, "y_pred")
    y_pred = y_pred[:, None] if y_pred.ndim == 1 else y_pred
    if y_pred.ndim != 2:
        raise ShapeError(f"{operation}: y_pred must have shape (n, out); received {y_pred.shape}")
    dtype = np.float32 if y_pred.dtype in (np.float32, np.float16) else np.float64
    y_pred = np.ascontiguousarray(y_pred, dtype)
    if labels:
        return as_labels(y_true, len(y_pred), y_pred.shape[1], operation, "y_true"), y_pred
    y_true = as_targets(y_true, len(y_pred), y_pred.shape[1:], operation, "y_true")
    return np.ascontiguousarray(y_true, dtype), y_pred


def check_range(array: Array, low: float, high: float, operation: str, name: str) -> None:
    """An error when an element of the matrix lies outside [low, high]; NaN passes, as it does elsewhere."""
    if not (np.fmin.reduce(array, axis=None) < low or np.fmax.reduce(array, axis=None) > high):
        return
    wanted = f"lie in [{low}, {high}]" if high < math.inf else f"be at least {low}"
    bad = (array < low) | (array > high)
    row, column = np.unravel_index(np.argmax(bad), bad.shape)
    raise ValueError(f"{operation}: {name} must {wanted}; received {array[row, column]} in row {row}")


def as_weights(value: Any, n: int, operation: str, name: str = "sample_weight") -> NDArray[np.float64]:
    """One finite weight per row, a private copy."""
    array = as_real(value, operation, name)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ShapeError(f"{operation}: {name} must have shape ({n},); received {array.shape}")
    same_rows(n, array, operation, name)
    private = np.array(array, np.float64)
    check_finite(private, np.float64, operation, name)
    return private


def class_weights(weights: Mapping[int, float], y: Array, classes: int, operation: str) -> NDArray[np.float64]:
    """The weight of each row's class (1 for classes not named).

    y: labels (n,), one column of 0/1, or one-hot rows; -1 may stand for 0.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(f"{operation}: class_weight must map classes to weights; received {type(weights).__name__}")
    table = np.ones(max(classes, 2))
    label: Any
    for label, weight in weights.items():
        if not is_integer(label) or not 0 <= label < table.size:
            raise ValueError(f"{operation}: class_weight must have classes 0 to {table.size - 1}; received {label!r}")
        if not is_number(weight):
            raise TypeError(
                f"{operation}: class_weight must have numbers; received {type(weight).__name__} for class {label}"
            )
        if not np.isfinite(weight):
            raise ValueError(f"{operation}: class_weight must be finite; received {weight!r} for class {label}")
        table[label] = weight
    if y.ndim == 1:
        labels = y
    else:
        ones = y == 1
        bad = ~(ones | (y == 0) | (y == -1)).all(axis=1)
        if y.shape[1] > 1:
            bad |= ones.sum(axis=1) != 1
        if bad.any():
            row = int(np.argmax(bad))
            raise ValueError(
                f"{operation}: class_weight needs y of class labels, 0 and 1, or one-hot rows;"
                f" received {y[row].tolist()} in row {row}"
            )
        labels = ones[:, 0].astype(np.int64) if y.shape[1] == 1 else np.argmax(ones, axis=1)
    return np.asarray(table[labels])

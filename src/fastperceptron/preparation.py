"""What has to be done to raw numbers before a model sees them and to its outputs after: scaling and names.

The command line program keeps this in the model's metadata, so that a saved model can be given raw data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import ModelFormatError

__all__ = ["Preparation", "confusion_matrix", "fit_scaling", "held_out_rows", "softmax"]

Float64 = NDArray[np.float64]


class Preparation(NamedTuple):
    """The model sees ``(x - input_offset) / input_scale``; a regression's output y means
    ``y * target_scale + target_offset``."""

    task: str  # "classification" or "regression"
    target: str
    features: tuple[str, ...]
    classes: tuple[str, ...]  # names of the outputs; empty for regression
    input_offset: Float64
    input_scale: Float64
    target_offset: float
    target_scale: float

    def scale(self, x: NDArray[Any], dtype: str) -> NDArray[Any]:
        """Finite numbers as the model sees them; refused where they are infinite in its dtype."""
        with np.errstate(over="ignore"):
            scaled = ((x - self.input_offset) / self.input_scale).astype(dtype)
        lost = ~np.isfinite(scaled)
        if lost.any():
            row, column = np.unravel_index(np.argmax(lost), lost.shape)
            raise ValueError(
                f"scaling: column {self.features[column]!r} must be finite in {dtype} when scaled;"
                f" received {x[row, column]:.3g} in row {row + 1}"
            )
        return scaled

    def to_metadata(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "task": self.task,
            "target": self.target,
            "features": list(self.features),
            "classes": list(self.classes),
            "input_offset": self.input_offset.tolist(),
            "input_scale": self.input_scale.tolist(),
            "target_offset": self.target_offset,
            "target_scale": self.target_scale,
        }

    @classmethod
    def from_metadata(cls, data: Any, inputs: int, outputs: int) -> Preparation:
        """The inverse of ``to_metadata``, for a model of so many inputs and outputs. `data` comes from a file: nothing
        about it is trusted."""

        def fail(what: str, expected: str) -> ModelFormatError:
            return ModelFormatError(f"the model's metadata: {what} must be {expected}; received {data!r:.200}")

        if not isinstance(data, dict) or set(data) != set(cls._fields):
            raise fail("preparation", f"a mapping of {', '.join(cls._fields)}")
        task = data["task"]
        if task not in ("classification", "regression") or not isinstance(data["target"], str):
            raise fail("task and target", "classification or regression, and a name")
        if outputs != (len(data["classes"]) if task == "classification" and isinstance(data["classes"], list) else 1):
            raise fail("classes", f"a list with a name for each of the {outputs} outputs")
        for key, length in (("features", inputs), ("classes", None)):
            names = data[key]
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise fail(key, "a list of names")
            if length is not None and len(names) != length:
                raise fail(key, f"{length} names, one per input")
        for key in ("input_offset", "input_scale"):
            if not isinstance(data[key], list) or len(data[key]) != inputs or not all(map(_is_finite, data[key])):
                raise fail(key, f"{inputs} finite numbers, one per input")
        if not all(_is_finite(data[key]) for key in ("target_offset", "target_scale")):
            raise fail("target_offset and target_scale", "finite numbers")
        scale = np.array(data["input_scale"], np.float64)
        if not (scale > 0).all() or not data["target_scale"] > 0:
            raise fail("scales", "greater than 0")
        return cls(
            task,
            data["target"],
            tuple(data["features"]),
            tuple(data["classes"]),
            np.array(data["input_offset"], np.float64),
            scale,
            float(data["target_offset"]),
            float(data["target_scale"]),
        )


_SMALLEST_STD = 1e-150


def fit_scaling(x: NDArray[Any], names: Sequence[str]) -> tuple[Float64, Float64]:
    """Mean and standard deviation of each column; 1 instead of 0, so that constant columns become 0."""
    with np.errstate(over="ignore", invalid="ignore"):
        offset = np.asarray(np.mean(x, axis=0, dtype=np.float64))
        scale = np.asarray(np.std(x, axis=0, dtype=np.float64))
        for j in np.flatnonzero(scale < _SMALLEST_STD).tolist():  # squares of tiny numbers may be 0
            apart = x[:, j] - offset[j]
            largest = float(np.abs(apart).max())
            scale[j] = largest * np.std(apart / largest) if largest else 0.0
    for j, name in enumerate(names):
        if not (_is_finite(float(offset[j])) and _is_finite(float(scale[j]))):
            largest = float(np.abs(x[:, j]).max())
            raise ValueError(
                f"scaling: column {name!r} must have a finite mean and deviation; received values up to {largest:.3g}"
            )
    # Rounding gives constant columns a deviation of about 1e-16 of their value.
    return offset, np.where(scale > 1e-12 * np.abs(offset), scale, 1.0)


def held_out_rows(order: NDArray[np.int64], labels: NDArray[np.int64] | None, fraction: float) -> NDArray[np.bool_]:
    """Which rows to hold out: this fraction of them in the random `order`, and of each class when there are labels.
    At least one row (of each class) is left."""
    held_out = np.zeros(len(order), np.bool_)
    groups = [order] if labels is None else [order[labels[order] == label] for label in np.unique(labels)]
    for group in groups:
        held_out[group[: min(math.floor(len(group) * fraction + 0.5), len(group) - 1)]] = True
    return held_out


def confusion_matrix(actual: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts, (classes, classes): row = actual, column = predicted."""
    counts = np.bincount(actual * classes + predicted, minlength=classes * classes)
    return counts.reshape(classes, classes).astype(np.int64)


def softmax(z: NDArray[Any]) -> Float64:
    """Probabilities from logits, over each row."""
    e = np.exp(z.astype(np.float64) - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True), np.float64)


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300

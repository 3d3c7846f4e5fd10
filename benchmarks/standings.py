"""Who is who in the result of a comparison, and how they stand: ranks, ratios of times, cliffs, and the peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

__all__ = ["ALONG", "LABELS", "OURS", "Result", "best_other", "cliffs", "fewer_threads", "peak_of", "ranked", "ratio"]

Result = dict[str, Any]

#: What the model's methods add to the steps of "native" is measured along with it.
ALONG = ("fit", "batch")
OURS = ("native", "native-bf16", *ALONG)
LABELS = {
    "native": "**fastperceptron**",
    "native-bf16": "**fastperceptron, mixed_bfloat16**",
    "fit": "**fastperceptron, `fit`**",
    "batch": "**fastperceptron, `train_on_batch`**",
    "numpy": "NumPy by hand",
    "sklearn": "scikit-learn",
    "torch": "PyTorch",
    "torch-compile": "PyTorch, compile",
    "torch-bf16": "PyTorch, bfloat16",
    "torch-bf16-compile": "PyTorch, bfloat16, compile",
    "jax": "JAX",
    "keras": "Keras",
    "onnxruntime": "ONNX Runtime",
    "mlpfile": "mlpfile",
}


def ratio(entry: dict[str, Any], base: dict[str, Any]) -> float:
    """How many times longer a contestant takes: the median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(entry["rounds"], base["rounds"], strict=True))


def ranked(contestants: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those who were timed and compute what they should."""
    for name, entry in contestants.items():
        if entry["reason"] is None and "rounds" in entry:
            yield name, entry


def best_other(contestants: dict[str, Any], bfloat16: bool | None) -> str | None:
    """Of the others that compute the same, the one with the fastest median; of one precision, or (None) of any."""
    others = [
        (median(entry["rounds"]), name)
        for name, entry in ranked(contestants)
        if name not in OURS and bfloat16 in (None, entry["bfloat16"])
    ]
    return min(others)[1] if others else None


def cliffs(points: Sequence[dict[str, Any]], name: str = "native") -> list[float]:
    """Between neighbouring sizes: by how much the time grows beyond the growth of the arithmetic (below 1: less).

    Of the fastest rounds: a slow moment of the machine at one size is no cliff.
    """
    cost = [min(point["rounds"][name]) / point["flop"] for point in points]
    return [b / a for a, b in pairwise(cost)]


def peak_of(result: Result, entry: dict[str, Any]) -> float | None:
    """The peak of as many threads as the contestant's step runs on, or of all where it does not say."""
    limits = result["limits"].get(str(entry.get("threads", result["threads"])))
    return limits["bfloat16" if entry["bfloat16"] else "float32"] or None if limits else None


def fewer_threads(result: Result, entry: dict[str, Any]) -> str:
    """Whether the step runs on fewer threads than it may."""
    used = entry.get("threads", result["threads"])
    return "" if used == result["threads"] else f"{used} thread{'s' * (used != 1)} used"

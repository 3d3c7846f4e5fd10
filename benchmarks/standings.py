"""Who is who in the result of a comparison, and how they stand: ranks, ratios of times, cliffs, and the peak."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

__all__ = [
    "ALONG",
    "BY_MEDIANS",
    "LABELS",
    "OURS",
    "Ratio",
    "Result",
    "best_other",
    "cliffs",
    "fewer_threads",
    "peak_of",
    "ranked",
    "ratio",
    "ratio_to_result",
]

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


#: What the second statistic is called where it is said beside the first.
BY_MEDIANS = "by the medians of the times"


class Ratio(NamedTuple):
    """How many times longer one takes than another, by two statistics, which a machine's slow minutes tear apart."""

    within: float  # the median over the rounds of the ratio within a round
    medians: float  # the quotient of the median times

    def apart(self, limit: float = 1.0, by: float = 0.10) -> bool:
        """Whether the second differs by more than this share of the first, or lies on the other side of the limit."""
        return abs(self.medians / self.within - 1) > by or (self.within < limit) is not (self.medians < limit)

    def text(self, digits: int = 2) -> str:
        """The first, and the second beside it where they are apart."""
        within, medians = (f"{value:.{digits}f}" for value in self)
        return f"{within}, medians {medians}" if self.apart() and medians != within else within


def ratio(entry: dict[str, Any], base: dict[str, Any]) -> Ratio:
    """How many times longer a contestant takes."""
    times, ours = entry["rounds"], base["rounds"]
    return Ratio(median(a / b for a, b in zip(times, ours, strict=True)), median(times) / median(ours))


def ratio_to_result(found: dict[str, Any]) -> Ratio:
    """How many times longer scikit-learn takes to a result, a round being a seed."""
    return Ratio(found["ratio"], found["seconds"]["sklearn"] / found["seconds"]["native"])


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


def cliffs(points: Sequence[dict[str, Any]]) -> list[float]:
    """Between neighbouring sizes: by how much our time grows beyond the growth of the arithmetic (below 1: less).

    The median of what it is within a round where both sizes were timed by turns, else that of the fastest rounds.
    """
    found = []
    for before, point in pairwise(points):
        if turns := point.get("by_turns"):
            grown = median(b / a for a, b in zip(*turns, strict=True))
        else:
            a, b = (min(p["rounds"]["native"]) for p in (before, point))
            grown = b / a
        found.append(grown * before["flop"] / point["flop"])
    return found


def peak_of(result: Result, entry: dict[str, Any]) -> float | None:
    """The peak of as many threads as the contestant's step runs on, or of all where it does not say."""
    limits = result["limits"].get(str(entry.get("threads", result["threads"])))
    return limits["bfloat16" if entry["bfloat16"] else "float32"] or None if limits else None


def fewer_threads(result: Result, entry: dict[str, Any]) -> str:
    """Whether the step runs on fewer threads than it may."""
    used = entry.get("threads", result["threads"])
    return "" if used == result["threads"] else f"{used} thread{'s' * (used != 1)} used"

"""The networks that the benchmarks train, their data, and how much arithmetic one step is.

Every workload is a chain of dense layers with ReLU between them and softmax cross-entropy on integer labels. A step is
forward + loss + backward + SGD with momentum. Everybody who computes it starts from the same weights and data.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LEARNING_RATE",
    "MOMENTUM",
    "WORKLOADS",
    "Workload",
    "exact_outputs",
    "growth",
    "initial_weights",
    "random_data",
]

Array = NDArray[Any]

#: Small, so that minutes of training on random labels stay in the range of ordinary numbers.
LEARNING_RATE = 1e-3
MOMENTUM = 0.9


class Workload(NamedTuple):
    """Layer widths, input first; rows per step; rows of the data set (a multiple of ``batch``)."""

    name: str
    widths: tuple[int, ...]
    batch: int
    rows: int

    @property
    def steps_per_epoch(self) -> int:
        return self.rows // self.batch

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return sum((n_in + 1) * n_out for n_in, n_out in self.layers)

    @property
    def layers(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of each dense layer."""
        return tuple(zip(self.widths[:-1], self.widths[1:], strict=True))

    @property
    def flop_forward(self) -> int:
        """Of the products for one batch, an addition and a multiplication counting as two."""
        return 2 * self.batch * sum(n_in * n_out for n_in, n_out in self.layers)

    @property
    def flop_step(self) -> int:
        """Forward, weight gradients, and input gradients of all layers but the first."""
        first_in, first_out = self.layers[0]
        return 3 * self.flop_forward - 2 * self.batch * first_in * first_out

    @property
    def bytes_step(self) -> int:
        """Least traffic of a step in float32, were nothing kept in a cache: weights are read twice (forward, backward)
        and updated with their velocities (two reads, two writes); every value and its gradient is written once and
        read twice."""
        return 4 * (6 * self.parameters + 6 * self.batch * sum(self.widths))

    def describe(self) -> str:
        return f"{self.name}: {'-'.join(map(str, self.widths))}, batch {self.batch}"


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("A", (32, 64, 64, 10), 32, 32_768),
        Workload("A2", (32, 64, 64, 10), 256, 32_768),
        Workload("B", (784, 128, 10), 64, 16_384),
        Workload("C", (784, 512, 512, 10), 256, 8_192),
        Workload("D", (1024, 1024, 1024, 1024, 1024, 1000), 1024, 4_096),
    )
}


#: Steps of at most a half, and the neighbours of sizes at which kernels change their ways.
_SIZES: dict[str, tuple[int, ...]] = {
    "width": (
        *(8, 12, 15, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65),
        *(96, 128, 129, 192, 256, 257, 384, 512, 513, 768, 1024),
    ),
    "batch": (1, 2, 3, 4, 6, 8, 9, 12, 16, 17, 24, 32, 33, 48, 64, 65, 96, 128, 192, 256, 257, 384, 512, 768, 1024),
    "depth": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32),
}


def growth(what: str) -> list[tuple[int, Workload]]:
    """Networks that differ in one size: "width" of all layers, "batch", or "depth" (layers)."""
    chains = []
    for size in _SIZES[what]:
        width, batch, depth = {"width": (size, 128, 3), "batch": (256, size, 3), "depth": (128, 128, size)}[what]
        rows = batch * max(1, 4096 // batch)
        chains.append((size, Workload(f"{what} {size}", (width,) * (depth + 1), batch, rows)))
    return chains


def initial_weights(workload: Workload, seed: int = 0) -> list[Array]:
    """[w, b, w, b, ...] in float32: He's normal kernels (in, out), zero biases."""
    random = np.random.default_rng(seed)
    weights: list[Array] = []
    for n_in, n_out in workload.layers:
        weights.append(random.normal(0.0, (2.0 / n_in) ** 0.5, (n_in, n_out)).astype(np.float32))
        weights.append(np.zeros(n_out, np.float32))
    return weights


def random_data(workload: Workload, seed: int = 1, rows: int | None = None) -> tuple[Array, Array]:
    """Standard normal inputs (rows, in) in float32 and random int64 labels (rows,)."""
    random = np.random.default_rng(seed)
    count = workload.rows if rows is None else rows
    x = random.standard_normal((count, workload.widths[0]), np.float32)
    return x, random.integers(0, workload.widths[-1], count)


def exact_outputs(weights: list[Array], x: Array) -> Array:
    """Logits (n, out) in float64 for x (n, in) and weights [w, b, w, b, ...]."""
    h = x.astype(np.float64)
    for k in range(0, len(weights), 2):
        h = h @ weights[k].astype(np.float64) + weights[k + 1]
        h = np.maximum(h, 0) if k + 2 < len(weights) else h
    return h

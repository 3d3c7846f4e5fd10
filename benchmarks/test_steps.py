"""One training step: the native network, ``train_on_batch``, and NumPy by hand; first, that they agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from comparison import STEPS_COMPARED, TOLERANCES, is_bfloat16
from contestants import CONTESTANTS, Contestant, TrainSteps, first_steps, model_for
from interleave import disagreement
from numpy_by_hand import HandWrittenNetwork
from workloads import LEARNING_RATE, MOMENTUM, WORKLOADS, Workload, initial_weights, random_data


def _short(workload: Workload) -> Workload:
    """The workload with the data of a few batches."""
    return workload._replace(rows=4 * workload.batch)


def _contestants() -> dict[str, Callable[[Workload], Contestant]]:
    return {
        **CONTESTANTS,
        "native-float64": lambda workload: TrainSteps(workload, dtype="float64"),
        "numpy backend": lambda workload: TrainSteps(workload, "numpy"),
    }


@pytest.mark.parametrize("contestant", [name for name in _contestants() if name != "numpy"])
@pytest.mark.parametrize("name", ["A", "A2", "B", "C"])
def test_same_step(name: str, contestant: str) -> None:
    """As a comparison asks it of everybody, in the precision that the contestant has."""
    workload = _short(WORKLOADS[name])
    expected = first_steps(CONTESTANTS["numpy"](workload), workload, STEPS_COMPARED)
    received = first_steps(_contestants()[contestant](workload), workload, STEPS_COMPARED)
    assert disagreement(expected, received, *TOLERANCES[is_bfloat16(contestant)]) is None
    assert expected["costs"][0] != expected["costs"][4]  # the same batch: its cost moves as the weights do


def test_hand_written_gradient() -> None:
    """The first update against a central difference of the float64 cost along it."""
    workload = _short(WORKLOADS["A"])
    x, y = (array[: workload.batch] for array in random_data(workload))
    network = HandWrittenNetwork(initial_weights(workload), workload.batch, LEARNING_RATE, 0.0)
    network.step(x, y)
    weights = [w.astype(np.float64) for w in initial_weights(workload)]
    update = [after - before for after, before in zip(network.parameters, weights, strict=True)]
    slope = -sum(float((u**2).sum()) for u in update) / LEARNING_RATE

    def cost(t: float) -> float:
        h = x.astype(np.float64)
        for k in range(0, len(weights), 2):
            h = h @ (weights[k] + t * update[k]) + weights[k + 1] + t * update[k + 1]
            h = np.maximum(h, 0) if k + 2 < len(weights) else h
        return float((np.log(np.exp(h).sum(axis=1)) - h[np.arange(len(h)), y]).mean())

    # The update is a difference of float32 weights about 1e4 times as large: a relative error of 1e-4 at most.
    assert (cost(1e-3) - cost(-1e-3)) / 2e-3 == pytest.approx(slope, rel=3e-4)


@pytest.mark.parametrize("contestant", ["numpy", "native", "native-float64", "native-bf16"])
@pytest.mark.parametrize("name", list(WORKLOADS))
def test_step(benchmark: Any, name: str, contestant: str) -> None:
    """A run of several steps, so that the native side pays for a call as often as ``fit`` does."""
    workload = WORKLOADS[name]
    steps = {"A": 128, "A2": 32, "B": 32}.get(name, 1)
    benchmark.group = f"{steps} training step(s), {workload.describe()}"
    benchmark.extra_info["flop"] = steps * workload.flop_step
    runner = _contestants()[contestant](workload._replace(rows=min(workload.rows, 64 * workload.batch)))
    benchmark(runner.run, steps)


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_train_on_batch(benchmark: Any, name: str) -> None:
    workload = _short(WORKLOADS[name])
    benchmark.group = f"train_on_batch, {workload.describe()}"
    benchmark.extra_info["flop"] = workload.flop_step
    model = model_for(workload)
    x, y = (array[: workload.batch] for array in random_data(workload))
    benchmark(model.train_on_batch, x, y)


def test_momentum_is_used() -> None:
    """Two steps on one batch with momentum go further than two without it."""
    workload = _short(WORKLOADS["A"])
    x, y = (array[: workload.batch] for array in random_data(workload))
    moved = []
    for momentum in (0.0, MOMENTUM):
        network = HandWrittenNetwork(initial_weights(workload), workload.batch, LEARNING_RATE, momentum)
        network.step(x, y)
        network.step(x, y)
        moved.append(float(np.abs(network.parameters[0] - initial_weights(workload)[0]).sum()))
    assert moved[1] > 1.3 * moved[0]  # (1 + 1.9) / 2 = 1.45 for a constant gradient

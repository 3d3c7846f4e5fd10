"""What ``fit`` adds to the time of its steps, and what training adds to the memory of the process."""

from __future__ import annotations

from typing import Any

import pytest
from contestants import CONTESTANTS
from footprint import can_measure_memory, memory_while_training
from workloads import WORKLOADS


@pytest.mark.parametrize("contestant", ["native", "fit"])
@pytest.mark.parametrize("name", ["A", "B"])
def test_epoch(benchmark: Any, name: str, contestant: str) -> None:
    """An epoch of bare steps, and one of ``fit`` with shuffling, accuracy, history and a progress bar."""
    workload = WORKLOADS[name]
    benchmark.group = f"one epoch of {workload.steps_per_epoch} steps, {workload.describe()}"
    runner = CONTESTANTS[contestant](workload)
    runner.prepare()
    steps = benchmark(runner.run, workload.steps_per_epoch)
    assert steps == workload.steps_per_epoch


@pytest.mark.skipif(not can_measure_memory(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["C", "D"])
def test_memory_while_training(name: str, record_property: Any) -> None:
    memory = memory_while_training(name)
    record_property("grown_mb", round(memory.grown / 2**20, 1))
    record_property("allowed_mb", round(memory.allowed / 2**20, 1))
    assert memory.grown <= memory.allowed, f"{name}: {memory}"

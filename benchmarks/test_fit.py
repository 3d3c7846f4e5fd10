"""What ``fit`` adds to the time of its steps, and what training adds to the memory of the process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contestants import CONTESTANTS
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


#: Peak memory is reset after the data and a first, tiny training have been made (libraries and threads are up by then).
_MEMORY_PROGRAM = """
import json, re, sys
import fastperceptron as fp
from workloads import WORKLOADS, random_data

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) * 1024

def train(workload, rows):
    hidden = [fp.Dense(width, activation="relu") for width in workload.widths[1:-1]]
    model = fp.Sequential([*hidden, fp.Dense(workload.widths[-1])], seed=0, backend="native")
    model.compile(fp.SGD(1e-3, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:rows], y[:rows], batch_size=workload.batch, epochs=3, verbose=0)
    return model

small, workload = WORKLOADS["A"], WORKLOADS[sys.argv[1]]
x, y = random_data(small, rows=256)
train(small, 256)
x, y = random_data(workload)
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = status("VmRSS")
model = train(workload, workload.rows)
print(json.dumps([status("VmHWM") - before, model.count_params()]))
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("name", ["C", "D"])
def test_memory_while_training(name: str, record_property: Any) -> None:
    """At most parameters x (3 + optimizer slots), activations, and 16 MB; the data is not copied."""
    workload = WORKLOADS[name]
    run = subprocess.run(
        [sys.executable, "-c", _MEMORY_PROGRAM, name],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=True,
    )
    grown, parameters = json.loads(run.stdout)
    assert parameters == workload.parameters
    slots, float32 = 1, 4
    activations = workload.batch * sum(workload.widths) * float32
    allowed = parameters * (3 + slots) * float32 + activations + 16 * 2**20
    record_property("grown_mb", round(grown / 2**20, 1))
    record_property("allowed_mb", round(allowed / 2**20, 1))
    assert grown <= allowed, f"{name}: grew by {grown / 2**20:.1f} MB; allowed: {allowed / 2**20:.1f} MB"

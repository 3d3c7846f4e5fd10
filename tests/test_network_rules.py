"""What decides how threads share a step: on how many small ones run, when threads wait for each other, and who may use
a network at once. Programs of their own try the rules on simulated machines, against every element and with threads
that meet; and what the network says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pure import native_only
from test_embedding import compiler

import fastperceptron as fp

pytestmark = native_only

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.skipif(os.name == "nt", reason="needs a Unix compiler")
@pytest.mark.parametrize("name", ["pace_test", "hazards_test", "occupancy_test", "row_source_test", "claims_test"])
def test_a_rule_by_itself(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    source = REPOSITORY / "tests" / "native" / f"{name}.cpp"
    command = [
        *compiler("CXX"),
        "-std=c++20",
        "-O1",
        "-pthread",
        f"-I{REPOSITORY / 'csrc'}",
        f"-I{source.parent}",
        str(source),
    ]
    built = subprocess.run([*command, "-o", str(program)], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    result = subprocess.run([str(program)], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "0 failures\n"), result.stdout


def test_the_network_says_on_how_many_threads_its_steps_ran() -> None:
    model = fp.Sequential([fp.Dense(64, activation="relu"), fp.Dense(10)], seed=0)
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.build(32)
    network = model._network
    network.set_threads(2)
    random = np.random.default_rng(0)
    x, y = random.standard_normal((4096, 32), np.float32), random.integers(0, 10, 4096)
    assert network.step_threads(512) == network.useful_threads(512, True) == 2  # not measured yet
    model.fit(x, y, batch_size=512, epochs=3, verbose=0)
    assert network.step_threads(512) in (1, 2)
    network.set_threads(1)
    model.fit(x, y, batch_size=256, epochs=3, verbose=0)
    assert network.step_threads(256) == 1

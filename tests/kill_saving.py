"""Kills a process that saves its model again and again: what is found is a whole model, never older than promised.

    python tests/kill_saving.py --seconds 60 [--seed 1]

The child trains, saves over one file after every epoch, and says which epoch is safe after each save. Killed with
SIGKILL at a random moment, it must leave a file that loads, holds at least the epoch it had called safe, and continues
to the same bits as a run that was never interrupted. (What the system has written survives SIGKILL; power cuts need
fault injection.)
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from promises import digest

import fastperceptron as fp

EPOCHS = 40


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((256, 32), dtype=np.float32), rng.integers(0, 5, 256)


def new_model() -> fp.Sequential:
    model = fp.Sequential([fp.Dense(200, activation="relu"), fp.Dropout(0.2), fp.Dense(5)], seed=7)
    model.compile(fp.SGD(0.05, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def child(path: str) -> None:
    x, y = data()
    model = fp.load_model(path) if os.path.exists(path) else new_model()
    done = int(model.get_state()["counters/epoch"]) if model.built else 0
    for epoch in range(done, EPOCHS):
        model.fit(x, y, verbose=0)
        model.save(path)
        print(epoch + 1, flush=True)


def kill_once(path: str, wait: float) -> int:
    """Starts a child and kills it after so many seconds from its first line; returns the last epoch it called safe."""
    process = subprocess.Popen([sys.executable, __file__, "--child", path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(wait)
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read().splitlines()
    process.wait()
    safe = [int(line) for line in [first, *rest] if line.strip().isdigit()]
    if process.returncode not in (-signal.SIGKILL, 0):
        raise AssertionError(f"the child failed: {process.returncode}")
    return max(safe, default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return 0
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    x, y = data()
    model, expected = new_model(), [""]
    for _ in range(EPOCHS):
        model.fit(x, y, verbose=0)
        expected.append(digest(model))
    kills = runs = 0
    end = time.monotonic() + arguments.seconds
    print(f"seed {seed}", flush=True)
    while kills == 0 or time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model")
            found = 0
            while found < EPOCHS and (kills == 0 or time.monotonic() < end):
                safe = kill_once(path, rng.uniform(0, 0.05))
                kills += 1
                saved = fp.load_model(path)
                found = int(saved.get_state()["counters/epoch"])
                assert found >= safe, f"epoch {safe} was called safe, the file has epoch {found}"
                assert digest(saved) == expected[found], f"epoch {found} is not that of the uninterrupted run"
                left = sorted(set(os.listdir(folder)) - {"model"})
                assert all(name.startswith(".fastperceptron-") for name in left), left
            runs += found == EPOCHS
    print(f"{kills} kills, {runs} runs brought to their end: every file was whole and every epoch the same bits")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Memory stays flat over many steps, predictions, models, saved files and errors (Linux).

    python tests/soak_memory.py [--scale 1.0]

Each activity runs in ten equal parts. After two of them for warm-up, the resident memory may grow by at most 2 MB over
the other eight; exit status 1 when one grows more.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
from collections.abc import Callable

import numpy as np

import fastperceptron as fp

LIMIT = 2 << 20


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def network(units: int = 16) -> fp.Sequential:
    model = fp.Sequential([fp.Dense(units, activation="relu"), fp.Dropout(0.1), fp.Dense(3)], seed=0)
    model.compile(fp.SGD(0.01, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="more or fewer repetitions")
    scale = parser.parse_args().scale
    rng = np.random.default_rng(0)
    x = rng.normal(size=(320, 8)).astype(np.float32)
    y = rng.integers(0, 3, 320)
    model = network()
    model.fit(x, y, verbose=0)
    failed = 0

    def soak(name: str, count: int, once: Callable[[], object]) -> None:
        nonlocal failed
        part = max(1, round(count * scale / 10))
        sizes = []
        for _ in range(10):
            for _ in range(part):
                once()
            gc.collect()
            sizes.append(resident())
        growth = max(sizes[2:]) - sizes[1]
        failed += growth > LIMIT
        print(
            f"{'FAILED' if growth > LIMIT else 'flat':8}{name}, {10 * part} times: {growth / 1024:+.0f} KB", flush=True
        )

    def error() -> None:
        for wrong in (x[:, :3], x.astype(complex), "text"):
            try:
                model.predict(wrong, verbose=0)
            except (ValueError, TypeError):
                continue
            raise AssertionError("a wrong input was accepted")

    def new_model() -> None:
        network().fit(x[:32], y[:32], verbose=0)

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "m")

        def file() -> None:
            model.save(path)
            fp.load_model(path)

        soak("epochs of 10 steps", 10_000, lambda: model.fit(x, y, verbose=0))
        soak("predictions", 100_000, lambda: model.predict(x[:1], verbose=0))
        soak("models", 10_000, new_model)
        soak("errors", 10_000, error)
        soak("saved and loaded files", 1_000, file)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""One contestant in a process of its own: reads a command per line and answers each with a line of JSON.

:mod:`interleave` starts it, with the environment of its thread count already set:

    worker.py CONTESTANT THREADS

    open {"name": ..., "widths": ..., "batch": ..., "rows": ...}   takes up a workload
    costs STEPS          the costs of the first steps, and how far each weight matrix has moved since
    run STEPS            {"wall": seconds, "cpu": seconds, "steps": how many}
    predict ROWS CALLS   the same for calls that each predict so many rows
    outputs ROWS         the largest difference of four predicted rows, first and last among them, from a float64
                         product, relative to the largest output
    description          what did the arithmetic
    threads              on how many threads a step runs, of those allowed; null when the contestant does not say
    path                 precision and instruction set of its products, such as "bfloat16 amx"; null likewise
    peak DTYPE           flop per second that this package measures with this thread count
    bandwidth            bytes per second, likewise
    round_trip           seconds that a line takes from one thread to another and back
    fit DATA SEED        see :mod:`time_to_result`

An error is answered as {"error": what}.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

__all__ = ["main"]


class _Service:
    def __init__(self, contestant: str, threads: int) -> None:
        self._name, self._threads = contestant, threads
        self._workload: Any = None
        self._contestant: Any = None
        self._predictors: dict[int, Callable[[], Any]] = {}

    def open(self, argument: str) -> None:
        from contestants import CONTESTANTS
        from others import OTHERS
        from workloads import Workload

        fields = json.loads(argument)
        workload = Workload(fields["name"], tuple(fields["widths"]), fields["batch"], fields["rows"])
        self._contestant, self._workload, self._predictors = None, workload, {}  # the memory of the last one goes first
        if self._name in CONTESTANTS:
            self._contestant = CONTESTANTS[self._name](workload)
        else:
            self._contestant = OTHERS[self._name].make(workload, self._threads)

    def costs(self, argument: str) -> dict[str, list[float]]:
        from contestants import first_steps

        return first_steps(self._contestant, self._workload, int(argument))

    def run(self, argument: str) -> dict[str, float]:
        self._contestant.prepare()
        self._contestant.run(1)  # wakes the threads and fills the caches
        wall, cpu = perf_counter(), process_time()
        steps = self._contestant.run(int(argument))
        return {"wall": perf_counter() - wall, "cpu": process_time() - cpu, "steps": steps}

    def _predictor(self, rows: int) -> Callable[[], Any]:
        if rows not in self._predictors:
            self._predictors[rows] = self._contestant.predictor(rows)
        return self._predictors[rows]

    def predict(self, argument: str) -> dict[str, float]:
        rows, calls = map(int, argument.split())
        predict = self._predictor(rows)
        predict()
        wall, cpu = perf_counter(), process_time()
        for _ in range(calls):
            predict()
        return {"wall": perf_counter() - wall, "cpu": process_time() - cpu, "steps": calls}

    def outputs(self, argument: str) -> float:
        import numpy as np
        from workloads import exact_outputs, random_data

        rows = int(argument)
        some = np.linspace(0, rows - 1, 4).astype(int)
        received = np.asarray(self._predictor(rows)(), np.float64).reshape(rows, -1)[some]
        expected = exact_outputs(self._contestant.weights(), random_data(self._workload, rows=rows)[0][some])
        if getattr(self._contestant, "probabilities", False):
            expected = np.exp(expected - expected.max(axis=1, keepdims=True))
            expected /= expected.sum(axis=1, keepdims=True)
        return float(np.abs(received - expected).max() / np.abs(expected).max())

    def description(self, argument: str) -> str:
        return str(self._contestant.description())

    def threads(self, argument: str) -> int | None:
        return self._contestant.threads() if hasattr(self._contestant, "threads") else None

    def path(self, argument: str) -> str | None:
        return self._contestant.path() if hasattr(self._contestant, "path") else None

    def peak(self, argument: str) -> float:
        from fastperceptron.peak import peak_flops

        return peak_flops(argument, self._threads)

    def bandwidth(self, argument: str) -> dict[str, float]:
        from fastperceptron.peak import memory_bandwidth

        return memory_bandwidth(self._threads)

    def round_trip(self, argument: str) -> float | None:
        from fastperceptron import peak

        seconds = peak.cache_round_trip() if hasattr(peak, "cache_round_trip") else math.nan
        return seconds if math.isfinite(seconds) else None

    def fit(self, argument: str) -> dict[str, float]:
        from time_to_result import FITTERS, load

        data, seed = argument.split()
        return FITTERS[self._name](load(data), int(seed))


def main(contestant: str, threads: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes standard input
    # Whatever a library prints goes to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    service = _Service(contestant, int(threads))
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        answer: Any
        try:
            if command.startswith("_") or not hasattr(service, command):
                raise ValueError(f"worker: unknown command {command!r}")
            answer = getattr(service, command)(argument)
        except Exception as error:  # the parent decides what a failed contestant means
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    from machine import keep_to_cpus

    keep_to_cpus(int(sys.argv[2]))  # before anything counts the CPUs to make its threads
    main(*sys.argv[1:])

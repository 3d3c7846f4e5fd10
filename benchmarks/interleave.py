"""Times contestants side by side: a process each, one slice of work after the other, so that a slow moment of a shared
machine hits all of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self

from machine import set_environment

__all__ = ["ContestantError", "Timing", "Worker", "compare_costs", "time_side_by_side"]

_PROGRAM = Path(__file__).with_name("contestants.py")
_LONGEST_WARM_UP = 1 << 20  # steps
# Threads of NumPy's BLAS and of OpenMP spin for some tens of milliseconds after their last work, on the next one's CPU.
_PAUSE = 0.1  # seconds


class ContestantError(RuntimeError):
    """A contestant's process failed; its own message is on standard error."""


class Timing(NamedTuple):
    """Seconds per step in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def best(self) -> float:
        return min(self.rounds)


class Worker:
    """One contestant on one workload, in a fresh process with the given thread count.

    clock: "wall", or "cpu" for the process's time on a CPU, which a busy machine disturbs less; only for one thread,
    since threads that wait for each other use the CPU too.
    """

    def __init__(self, contestant: str, workload: str, threads: int, clock: str = "wall") -> None:
        self.contestant, self.workload, self._clock = contestant, workload, clock
        environment = dict(os.environ)
        set_environment(threads, environment)
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), contestant, workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise ContestantError(f"contestant {self.contestant} on {self.workload}: its process ended")
        return json.loads(answer)

    def seconds_per_step(self, steps: int) -> float:
        answer = self.ask(f"run {steps}")
        return float(answer[self._clock]) / int(answer["steps"])

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what could not be sent to a process that ended
                self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def compare_costs(workers: Sequence[Worker], steps: int = 10, tolerance: float = 1e-4) -> None:
    """Raises when the contestants' costs over the first steps differ: then they do not compute the same step.

    Relative rounding errors of a float32 cost are about 1e-6; another gradient or update shows from the second step on.
    """
    first, *others = [(worker.contestant, worker.ask(f"costs {steps}")) for worker in workers]
    for name, costs in others:
        for step, (expected, received) in enumerate(zip(first[1], costs, strict=True)):
            if not math.isclose(expected, received, rel_tol=tolerance):
                raise ContestantError(
                    f"{workers[0].workload}: {name} does not compute the same step as {first[0]}: cost of step {step}: "
                    f"expected {expected:.7g}; received {received:.7g}"
                )


def time_side_by_side(workers: Sequence[Worker], seconds: float, rounds: int) -> list[Timing]:
    """A timing per worker, from ``rounds`` slices of about ``seconds / rounds`` each, in turns."""
    slice_seconds = seconds / rounds
    steps = [_steps_for(worker, slice_seconds) for worker in workers]
    times: list[list[float]] = [[] for _ in workers]
    for turn in range(rounds):
        order = range(len(workers)) if turn % 2 == 0 else reversed(range(len(workers)))
        for i in order:
            time.sleep(_PAUSE)
            times[i].append(workers[i].seconds_per_step(steps[i]))
    return [Timing(tuple(rounds)) for rounds in times]


def _steps_for(worker: Worker, seconds: float) -> int:
    steps = 1
    while True:
        per_step = worker.seconds_per_step(steps)
        if per_step * steps >= seconds / 4 or steps >= _LONGEST_WARM_UP:
            return max(1, round(seconds / per_step))
        steps *= 4

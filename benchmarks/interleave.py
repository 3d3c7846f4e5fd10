"""Times contestants side by side: a process each, one slice of work after the other, so that a slow moment of a shared
machine hits all of them."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self

from machine import set_environment
from workloads import Workload

__all__ = ["ContestantError", "Timing", "Worker", "compare_costs", "disagreement", "time_side_by_side"]

_PROGRAM = Path(__file__).with_name("worker.py")
_LONGEST_WARM_UP = 1 << 20  # steps
# Threads of NumPy's BLAS and of OpenMP spin for some tens of milliseconds after their last work, on the next one's CPU.
_PAUSE = 0.1  # seconds
_LAST_WORDS = 500  # characters of standard error that a failure is told with


class ContestantError(RuntimeError):
    """A contestant failed, or does not compute what the others do."""


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
    """One contestant in a fresh process with the given thread count; see worker.py for its commands.

    environment: more variables for it. clock: "wall", or "cpu" for the process's time on a CPU, which a busy machine
    disturbs less; only for one thread, since threads that wait for each other use the CPU too.
    """

    def __init__(
        self, contestant: str, threads: int, clock: str = "wall", environment: Mapping[str, str] | None = None
    ) -> None:
        self.contestant, self.threads, self.workload, self._clock = contestant, threads, "", clock
        variables = dict(os.environ)
        set_environment(threads, variables)
        variables |= environment or {}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), contestant, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=variables,
            text=True,
        )

    def ask(self, command: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.wait()  # its standard output ended, so it is ending
        answer = json.loads(line) if line else {"error": "its process ended"}
        if isinstance(answer, dict) and "error" in answer:
            raise ContestantError(f"{self.contestant} on {self.workload}: {answer['error']}{self._last_words()}")
        return answer

    def open(self, workload: Workload) -> None:
        """Takes up a workload, in place of the one before."""
        self.workload = workload.name
        self.ask("open " + json.dumps(workload._asdict()))

    def seconds_per_step(self, steps: int, command: str = "run") -> float:
        answer = self.ask(f"{command} {steps}")
        return float(answer[self._clock]) / int(answer["steps"])

    def _last_words(self) -> str:
        if self._process.poll() is None:
            return ""
        self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, self._errors.tell() - _LAST_WORDS))
        return "\n" + self._errors.read().decode(errors="replace").strip()

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # what could not be sent to a process that ended
                self._process.stdin.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def disagreement(
    expected: Mapping[str, Sequence[float]], received: Mapping[str, Sequence[float]], tolerance: float, moved: float
) -> str | None:
    """Why two answers to ``costs`` do not come from the same steps, or None.

    tolerance: of a cost, relative. A rounding error of a float32 cost is about 1e-6; another gradient or update shows
    from the second step on. moved: of the distance that each weight matrix has come, relative; it tells another
    learning rate or momentum even where costs are rounded to bfloat16.
    """
    for what, limit in (("costs", tolerance), ("moved", moved)):
        for i, (a, b) in enumerate(zip(expected[what], received[what], strict=True)):
            if not math.isclose(a, b, rel_tol=limit):
                name = f"cost of step {i}" if what == "costs" else f"distance that weight matrix {i} moved"
                return f"{name}: expected {a:.7g}; received {b:.7g}"
    return None


def compare_costs(workers: Sequence[Worker], steps: int = 10, tolerance: float = 1e-4, moved: float = 1e-3) -> None:
    """Raises when the contestants' first steps differ: then they do not compute the same step."""
    first, *others = [(worker.contestant, worker.ask(f"costs {steps}")) for worker in workers]
    for name, answer in others:
        reason = disagreement(first[1], answer, tolerance, moved)
        if reason:
            raise ContestantError(
                f"{workers[0].workload}: {name} does not compute the same step as {first[0]}: {reason}"
            )


def time_side_by_side(workers: Sequence[Worker], seconds: float, rounds: int, command: str = "run") -> list[Timing]:
    """A timing per worker, from ``rounds`` slices of about ``seconds / rounds`` each, in turns."""
    slice_seconds = seconds / rounds
    steps = [_steps_for(worker, slice_seconds, command) for worker in workers]
    times: list[list[float]] = [[] for _ in workers]
    for turn in range(rounds):
        order = range(len(workers)) if turn % 2 == 0 else reversed(range(len(workers)))
        for i in order:
            time.sleep(_PAUSE)
            times[i].append(workers[i].seconds_per_step(steps[i], command))
            # What came out far too long, on a machine that others use too, becomes shorter for the next rounds.
            steps[i] = min(steps[i], max(1, round(2 * slice_seconds / times[i][-1])))
    return [Timing(tuple(rounds)) for rounds in times]


def _steps_for(worker: Worker, seconds: float, command: str) -> int:
    steps = 1
    while True:
        per_step = worker.seconds_per_step(steps, command)
        if per_step * steps >= seconds / 4 or steps >= _LONGEST_WARM_UP:
            return max(1, round(seconds / per_step))
        steps *= 4

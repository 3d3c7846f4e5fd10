"""The run of a comparison: a process for each contestant, the tasks one after the other, and the result that grows."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import time_to_result
from footprint import can_measure_memory, import_seconds, memory_while_training, wheel_bytes
from interleave import ContestantError, Worker, disagreement, time_side_by_side
from machine import Others, commit, describe_machine, disturbance, usable_cpus, versions
from others import OTHERS
from standings import ALONG, cliffs
from workloads import WORKLOADS, Workload, growth

__all__ = ["STEPS_COMPARED", "TOLERANCES", "Comparison", "is_bfloat16", "say"]

#: Relative tolerances of costs and of the distance that weights move, by whether bfloat16 is used.
TOLERANCES = {False: (1e-4, 1e-3), True: (5e-3, 2e-2)}
#: Of predictions, relative to the largest output.
_OUTPUT_TOLERANCE = {False: 1e-4, True: 5e-2}
STEPS_COMPARED = 10
_SEEDS = 10
#: What goes along with native is measured where it is said how much fit may add.
_ALONG_ON = ("A", "B")
#: Others whose steps would take more seconds than this sit a workload out, going by one of at least a hundredth of the
#: arithmetic: bfloat16 on a CPU that has no such arithmetic may take forty times as long as float32.
_LONGEST_STEP, _SIMILAR = 3.0, 100
#: Where our time seems to grow by more than this beyond the arithmetic, both sizes are timed by turns, so many rounds
#: in each of two processes.
_STEEP, _TURNS = 1.1, 6


class Task(NamedTuple):
    """A part of the run, with a guess of the seconds it takes."""

    name: str
    seconds: float
    run: Callable[[], None]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Comparison:
    """The run: its workers, and the result that grows task by task."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.result: dict[str, Any] = {
            "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
            "quick": options.quick,
            "threads": options.threads,
            "clock": options.clock,
            "machine": describe_machine(),
            "commit": commit(),
            "versions": versions(),
            "absent": options.absent,
            "descriptions": {},
            "failed": {},
            "limits": {},
            "training": {},
            "prediction": {},
        }
        self._others = Others()
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}
        self._last_steps: dict[str, tuple[int, float]] = {}  # of the workload before: flop and seconds of a step

    # -- workers -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        say(f"version: {self.result['commit'] or 'unknown to git'}")
        if warning := disturbance(self.result["machine"]):
            say(warning)
        for name in self.options.contestants:
            self._workers[name] = self._stack.enter_context(Worker(name, self.options.threads, self.options.clock))
        if any(name in _ALONG_ON for name in self.options.workloads):
            for name in ALONG:
                self._workers[name] = self._stack.enter_context(Worker(name, self.options.threads, self.options.clock))

    def close(self) -> None:
        """Ends the workers; then it is known what others used."""
        self._stack.close()
        machine = self.result["machine"]
        machine["others"] = self._others.share()
        if warning := disturbance(machine):
            say(warning)

    def _failed(self, name: str, error: ContestantError) -> None:
        self.result["failed"][f"{name}, {self._workers[name].workload}"] = str(error)
        say(f"  left out: {str(error).splitlines()[0][:160]}")

    def _refuse_slow(self, name: str, workload: Workload) -> None:
        """Raises when this one's steps are expected to take too long to wait for."""
        flop, seconds = self._last_steps.get(name, (0, 0.0))
        expected = seconds * workload.flop_step / flop if _SIMILAR * flop >= workload.flop_step else 0.0
        if name in OTHERS and expected > _LONGEST_STEP:
            raise ContestantError(f"a step would take about {expected:.0f} s, going by the workload before")

    def _open(self, workload: Workload) -> Iterator[tuple[str, Worker]]:
        """Those that could take up the workload."""
        for name, worker in self._workers.items():
            if name in ALONG and workload.name not in _ALONG_ON:
                continue
            try:
                worker.open(workload)
                self._refuse_slow(name, workload)
                self.result["descriptions"].setdefault(name, worker.ask("description"))
            except ContestantError as error:
                self._failed(name, error)
                continue
            yield name, worker

    # -- tasks ---------------------------------------------------------------------------------------------------

    def limits(self) -> None:
        """What arithmetic and memory can do at most, on one thread, on all, and on as many as a workload has turned out
        to use. Measured at the beginning and at the end of a run: the larger number counts, since whatever else the
        machine does makes it smaller."""
        used = {
            entry["threads"]
            for found in self.result["training"].values()
            for entry in found["contestants"].values()
            if "threads" in entry
        }
        for threads in sorted({1, self.options.threads} | used):
            with Worker("native", threads) as worker:
                found = {f"memory {way}": value for way, value in worker.ask("bandwidth").items()}
                for dtype in ("float32", "float64", "bfloat16"):
                    try:
                        found[dtype] = worker.ask(f"peak {dtype}")
                    except ContestantError:
                        found[dtype] = 0.0  # this version or this machine has no such arithmetic
            before = self.result["limits"].get(str(threads), found)
            self.result["limits"][str(threads)] = {key: max(value, before[key]) for key, value in found.items()}
        self.result["limits"] = dict(sorted(self.result["limits"].items(), key=lambda item: int(item[0])))

    def _note_distance(self) -> None:
        """How far apart the threads' CPUs are at this moment."""
        if self.options.threads > 1 and "native" in self._workers:
            found = self._workers["native"].ask("round_trip")
            if found is not None:
                self.result.setdefault("round_trips", []).append(found)

    def workload(self, workload: Workload) -> None:
        """Training steps, after a look whether all compute the same ones; then predictions."""
        options = self.options
        trained: dict[str, Any] = {}
        workers: dict[str, Worker] = {}
        expected: dict[str, Any] | None = None
        opened = dict(self._open(workload))
        for name, worker in opened.items():
            other = OTHERS.get(name)
            if other is not None and not other.trains:
                continue
            try:
                received = worker.ask(f"costs {STEPS_COMPARED}")
            except ContestantError as error:
                self._failed(name, error)
                continue
            expected = expected or received
            low = is_bfloat16(name)
            reason = disagreement(expected, received, *TOLERANCES[low])
            trained[name] = {"bfloat16": low, "reason": reason, **received}
            workers[name] = worker
            if reason:
                say(f"  {name} does not compute the same step: {reason}")
        self._note_distance()
        timings = time_side_by_side(list(workers.values()), options.seconds, options.rounds)
        self._note_distance()
        for name, timing in zip(workers, timings, strict=True):
            trained[name]["rounds"] = timing.rounds
            self._last_steps[name] = (workload.flop_step, timing.median)
            for what in ("threads", "path"):
                if (said := workers[name].ask(what)) is not None:
                    trained[name][what] = said
        self.result["training"][workload.name] = {**describe(workload), "contestants": trained}
        predicting = {name: worker for name, worker in opened.items() if name not in ALONG}
        predicted = self.result["prediction"][workload.name] = {}
        for rows in options.rows:
            predicted[str(rows)] = self._predictions(rows, predicting)

    def _predictions(self, rows: int, opened: dict[str, Worker]) -> dict[str, Any]:
        predicted: dict[str, Any] = {}
        for name, worker in opened.items():
            try:
                deviation = worker.ask(f"outputs {rows}")
            except ContestantError as error:
                if "one row at a time" not in str(error):
                    self._failed(name, error)
                continue
            low = is_bfloat16(name)
            reason = None if deviation <= _OUTPUT_TOLERANCE[low] else f"outputs differ by {deviation:.1g}"
            predicted[name] = {"bfloat16": low, "reason": reason, "deviation": deviation}
        workers = [opened[name] for name in predicted]
        seconds, rounds = self.options.seconds / 2, self.options.rounds
        for name, timing in zip(predicted, time_side_by_side(workers, seconds, rounds, f"predict {rows}"), strict=True):
            predicted[name]["rounds"] = timing.rounds
        return predicted

    def avx2(self) -> None:
        """The share of the peak on D that a machine without AVX-512 would see."""
        workload = WORKLOADS["D"]
        options = self.options
        with Worker("native", options.threads, options.clock, {"FASTPERCEPTRON_ISA": "avx2"}) as worker:
            peak = worker.ask("peak float32")
            worker.open(workload)
            if (path := worker.ask("path")) != "float32 avx2":
                raise ContestantError(f"expected products by float32 avx2; received {path}")
            timing = time_side_by_side([worker], options.seconds, options.rounds)[0]
            peak = max(peak, worker.ask("peak float32"))
        self.result["avx2"] = {**describe(workload), "peak": peak, "path": path, "rounds": timing.rounds}

    def scaling(self) -> None:
        """This package's steps with 1, 2, 4, ... threads, up to the number of CPUs."""
        cpus = usable_cpus()
        counts = sorted({1, cpus} | {2**i for i in range(cpus.bit_length()) if 2**i <= cpus})
        self.result["scaling"] = {"threads": counts, "workloads": {}}
        with ExitStack() as stack:
            workers = [stack.enter_context(Worker("native", count)) for count in counts]
            for name in self.options.workloads:
                for worker in workers:
                    worker.open(WORKLOADS[name])
                timings = time_side_by_side(workers, self.options.seconds / 2, self.options.rounds)
                self.result["scaling"]["workloads"][name] = {
                    **describe(WORKLOADS[name]),
                    "rounds": [timing.rounds for timing in timings],
                }

    def sweep(self, what: str) -> None:
        """Time per step against one size; ours, and in the full form those of the fastest others."""
        others = () if self.options.quick else ("numpy", "torch", "jax")
        names = [name for name in ("native", *others) if name in self._workers]
        points = []
        for size, workload in growth(what):
            workers = [self._workers[name] for name in names]
            for worker in workers:
                worker.open(workload)
            timings = time_side_by_side(workers, 0.15, 3)
            rounds = {name: timing.rounds for name, timing in zip(names, timings, strict=True)}
            points.append({"size": size, **describe(workload), "rounds": rounds})
        if "native" in self._workers:
            self._look_at_cliffs(points, dict(growth(what)))
        self.result.setdefault("sweep", {})[what] = points

    def _look_at_cliffs(self, points: list[dict[str, Any]], workloads: dict[int, Workload]) -> None:
        """A slow second of the machine at one size must not make a cliff between neighbours, nor hide one."""
        ours = self._workers["native"]
        for point in reversed(points):
            ours.open(workloads[point["size"]])
            point["rounds"]["native"] += time_side_by_side([ours], 0.15, 3)[0].rounds
        with Worker("native", self.options.threads, self.options.clock) as beside:
            pair = [ours, beside]
            for both, cliff in zip(pairwise(points), cliffs(points), strict=True):
                if cliff > _STEEP:
                    both[1]["by_turns"] = taken = [[], []]
                    # Nor a slow CPU: half-way each size goes to the other process.
                    for order in (pair, pair[::-1]):
                        for worker, point in zip(order, both, strict=True):
                            worker.open(workloads[point["size"]])
                        timings = time_side_by_side(order, 0.05 * _TURNS, _TURNS)
                        for rounds, timing in zip(taken, timings, strict=True):
                            rounds += timing.rounds

    def footprint(self) -> None:
        found: dict[str, Any] = {"import_seconds": import_seconds()}
        if (size := wheel_bytes()) is not None:
            found["wheel_bytes"] = size
        if can_measure_memory():
            found["memory_d"] = memory_while_training("D", self.options.threads)._asdict()
        self.result["footprint"] = found

    def time_to_result(self, data: str) -> None:
        measured = time_to_result.measure(data, self.options.threads, _SEEDS, self.options.clock)
        self.result.setdefault("time_to_result", {})[data] = measured

    # -- all of it -----------------------------------------------------------------------------------------------

    def tasks(self) -> list[Task]:
        options = self.options
        slow = sum(name in OTHERS and OTHERS[name].compiles for name in self._workers)
        each = options.seconds + options.rounds * 0.15 + 0.5
        tasks = [Task("peak of arithmetic and memory", 5, self.limits)]
        for name in options.workloads:
            workload = WORKLOADS[name]
            seconds = len(self._workers) * each * (1 + len(options.rows) / 2) * (2 if name == "D" else 1) + 15 * slow
            tasks.append(Task(f"workload {workload.describe()}", seconds, lambda w=workload: self.workload(w)))
        if options.extras:
            tasks += self._extras(each)
        for what in ("width", "batch", "depth") if options.sweep else ():
            tasks.append(Task(f"growth with {what}", 20 if options.quick else 60, lambda what=what: self.sweep(what)))
        return [*tasks, Task("peak once more", 5, self.limits)]

    def _extras(self, each: float) -> list[Task]:
        options, tasks = self.options, []
        if can_force_avx2() and "D" in options.workloads:
            tasks.append(Task("D with AVX2", 2 * each, self.avx2))
        if options.clock == "wall":  # threads that wait for each other use the CPU too
            tasks.append(Task("threads", 2 * len(options.workloads) * each, self.scaling))
        tasks.append(Task("import, wheel, memory", 15, self.footprint))
        for data in time_to_result.available():
            tasks.append(Task(f"time to a result: {data}", 25, self._result_of(data)))
        return tasks

    def _result_of(self, data: str) -> Callable[[], None]:
        return lambda: self.time_to_result(data)

    def run(self) -> None:
        begin, tasks = time.monotonic(), self.tasks()
        done = 0.0
        for i, task in enumerate(tasks):
            elapsed, left = time.monotonic() - begin, sum(later.seconds for later in tasks[i:])
            left *= elapsed / done if done > 0 else 1.0  # as far off as it has been so far
            say(f"[{i + 1}/{len(tasks)}] {task.name} ({elapsed:.0f} s gone, about {left:.0f} s left)")
            try:
                task.run()
            except ContestantError as error:
                self.result["failed"][task.name] = str(error)
                say(f"  left out: {error}")
            done += task.seconds
            self.write()
        self.result["seconds"] = round(time.monotonic() - begin)

    def write(self) -> None:
        folder = self.options.output
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.result, indent=1) + "\n"
        (folder / "compare.json").write_text(text, encoding="utf-8")


def is_bfloat16(name: str) -> bool:
    return name == "native-bf16" or (name in OTHERS and OTHERS[name].bfloat16)


def describe(workload: Workload) -> dict[str, Any]:
    """What the report needs to know of it."""
    return {
        "widths": workload.widths,
        "batch": workload.batch,
        "flop": workload.flop_step,
        "bytes": workload.bytes_step,
        "flop_forward_row": workload.flop_forward // workload.batch,
    }


def can_force_avx2() -> bool:
    from fastperceptron.config import get_config

    usable = get_config()["instruction_sets_usable"]
    return isinstance(usable, tuple) and "avx2" in usable

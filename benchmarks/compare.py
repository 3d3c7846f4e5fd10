"""This package against everybody else: training steps, prediction, and how both grow, side by side in one run.

    python benchmarks/compare.py --quick                            # two to three minutes
    python benchmarks/compare.py                                    # everything, below half an hour on two CPUs
    python benchmarks/compare.py --threads 1 --workloads A B --contestants numpy torch jax --no-extras
    python benchmarks/compare.py --cpus 4 5                         # where CPUs 0 and 1 are busy
    python benchmarks/compare.py --from .benchmarks/compare/compare.json --write docs/performance.md

Whoever is installed takes part: NumPy by hand, scikit-learn, PyTorch (eager, compile, both in bfloat16 too), JAX,
Keras, ONNX Runtime and mlpfile; `pip install fastperceptron[compare]` brings them. Each runs in a process of its own,
all with the same thread count, in turns. A contestant that does not compute the same step is shown and not ranked.

Raw numbers (JSON), tables (Markdown) and plots (SVG, with matplotlib) go to the folder of --output. Ctrl-C ends a run
early: what was measured until then is written. The exit status is 0 after a whole run, 130 after Ctrl-C, 2 when
nothing could be compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import time_to_result
from contestants import CONTESTANTS
from footprint import can_measure_memory, import_seconds, memory_while_training, wheel_bytes
from interleave import ContestantError, Worker, disagreement, time_side_by_side
from machine import PREFERRED_CPUS, allowed_cpus, describe_machine, usable_cpus, versions
from others import OTHERS
from report import pictures, tables, write_between_markers
from workloads import WORKLOADS, Workload, growth

__all__ = ["main"]

#: Everybody is compared with this one's costs.
_REFERENCE = "numpy"
_OURS = ("native", "native-bf16")
#: Relative tolerances of costs and of the distance that weights move, by whether bfloat16 is used.
_TOLERANCES = {False: (1e-4, 1e-3), True: (5e-3, 2e-2)}
#: Of predictions, relative to the largest output.
_OUTPUT_TOLERANCE = {False: 1e-4, True: 5e-2}
_STEPS_COMPARED = 10
_SEEDS = 10
#: fit is measured where it is said how much it may add.
_FIT = ("A", "B")


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
            "versions": versions(),
            "descriptions": {},
            "failed": {},
            "limits": {},
            "training": {},
            "prediction": {},
        }
        self._stack = ExitStack()
        self._workers: dict[str, Worker] = {}

    # -- workers -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for name in self.options.contestants:
            self._workers[name] = self._stack.enter_context(Worker(name, self.options.threads, self.options.clock))
        if any(name in _FIT for name in self.options.workloads):
            self._workers["fit"] = self._stack.enter_context(Worker("fit", self.options.threads, self.options.clock))

    def close(self) -> None:
        self._stack.close()

    def _failed(self, name: str, error: ContestantError) -> None:
        self.result["failed"][f"{name}, {self._workers[name].workload}"] = str(error)
        say(f"  left out: {str(error).splitlines()[0][:160]}")

    def _open(self, workload: Workload) -> Iterator[tuple[str, Worker]]:
        """Those that could take up the workload."""
        for name, worker in self._workers.items():
            if name == "fit" and workload.name not in _FIT:
                continue
            try:
                worker.open(workload)
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
                received = worker.ask(f"costs {_STEPS_COMPARED}")
            except ContestantError as error:
                self._failed(name, error)
                continue
            expected = expected or received
            low = is_bfloat16(name)
            reason = disagreement(expected, received, *_TOLERANCES[low])
            trained[name] = {"bfloat16": low, "reason": reason, **received}
            if (threads := worker.ask("threads")) is not None:
                trained[name]["threads"] = threads
            workers[name] = worker
            if reason:
                say(f"  {name} does not compute the same step: {reason}")
        timings = time_side_by_side(list(workers.values()), options.seconds, options.rounds)
        for name, timing in zip(workers, timings, strict=True):
            trained[name]["rounds"] = timing.rounds
        self.result["training"][workload.name] = {**describe(workload), "contestants": trained}
        opened.pop("fit", None)
        predicted = self.result["prediction"][workload.name] = {}
        for rows in options.rows:
            predicted[str(rows)] = self._predictions(rows, opened)

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
            timing = time_side_by_side([worker], options.seconds, options.rounds)[0]
        self.result["avx2"] = {**describe(workload), "peak": peak, "rounds": timing.rounds}

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
        """Time per step against one size; ours, and those of the fastest others."""
        names = [name for name in ("native", "numpy", "torch", "jax") if name in self._workers]
        points = []
        for size, workload in growth(what):
            workers = [self._workers[name] for name in names]
            for worker in workers:
                worker.open(workload)
            timings = time_side_by_side(workers, 0.15, 3)
            rounds = {name: timing.rounds for name, timing in zip(names, timings, strict=True)}
            points.append({"size": size, **describe(workload), "rounds": rounds})
        self.result.setdefault("sweep", {})[what] = points

    def footprint(self) -> None:
        found: dict[str, Any] = {"import_seconds": import_seconds(), "wheel_bytes": wheel_bytes()}
        if can_measure_memory():
            found["memory_d"] = memory_while_training("D")._asdict()
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
        for what in ("width", "batch", "depth") if options.sweep else ():
            tasks.append(Task(f"growth with {what}", 60, lambda what=what: self.sweep(what)))
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
    return isinstance(usable, tuple) and usable[:1] != ("avx2",) and "avx2" in usable


def installed() -> list[str]:
    """Contestants that can run here, the reference first."""
    names = [name for name in CONTESTANTS if name != "fit"]
    if not _takes_bfloat16():
        names.remove("native-bf16")
    for name, other in OTHERS.items():
        if all(importlib.util.find_spec(package) for package in other.needs):
            names.append(name)
    return names


def _takes_bfloat16() -> bool:
    """Whether this version of the package can build such a model."""
    import fastperceptron as fp

    try:
        fp.Sequential([fp.Dense(2)], dtype="mixed_bfloat16").build(2)
    except Exception:  # whatever it says, it cannot
        return False
    return True


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    cpus = usable_cpus()
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a short form: fewer rounds, nobody who compiles for long")
    parser.add_argument("--threads", type=int, default=min(2, cpus), help="of every contestant (default: 2)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the process's time on a CPU, for one thread on a busy machine (default: wall)",
    )
    parser.add_argument(
        "--cpus",
        type=int,
        nargs="+",
        metavar="CPU",
        help="on which contestants run first, the quiet ones of a busy machine (default: one of each core)",
    )
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="NAME")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=[*(name for name in CONTESTANTS if name != "fit"), *OTHERS],
        metavar="NAME",
        help="default: all that are installed; NumPy by hand and this package always take part",
    )
    parser.add_argument("--seconds", type=float, help="for each contestant and workload (default: 2; quick: 0.5)")
    parser.add_argument("--rounds", type=int, help="slices that the seconds are cut into (default: 7; quick: 4)")
    parser.add_argument("--rows", type=int, nargs="+", help="of predictions (default: 1 1024 4096; quick: 1 1024)")
    parser.add_argument("--sweep", action=argparse.BooleanOptionalAction, help="growth with width, batch and depth")
    parser.add_argument(
        "--extras",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="threads, AVX2, import, memory, time to a result, sweep",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(".benchmarks/compare"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="replace the generated part of a Markdown page")
    parser.add_argument("--from", dest="source", type=Path, metavar="JSON", help="report on an earlier run")
    options = parser.parse_args(given)
    if options.clock == "cpu" and options.threads != 1:
        parser.error(f"--clock cpu: expected --threads 1; received {options.threads}")
    if not 1 <= options.threads <= cpus:
        parser.error(f"--threads: expected 1 to {cpus}, the CPUs of this machine; received {options.threads}")
    if options.cpus:
        strange = [cpu for cpu in options.cpus if cpu not in allowed_cpus()]
        if strange:
            parser.error(f"--cpus: expected CPUs that this process may use; received {strange[0]}")
    options.seconds = options.seconds if options.seconds is not None else 0.5 if options.quick else 2.0
    options.rounds = options.rounds if options.rounds is not None else 4 if options.quick else 7
    options.rows = options.rows or ([1, 1024] if options.quick else [1, 1024, 4096])
    options.sweep = not options.quick if options.sweep is None else options.sweep
    if options.seconds <= 0 or options.rounds < 1 or min(options.rows) < 1:
        parser.error("--seconds, --rounds and --rows: expected positive numbers")
    return options


def _choose(options: argparse.Namespace) -> None:
    """Fills in the contestants, the reference and this package among them, and where they run."""
    if options.cpus:
        os.environ[PREFERRED_CPUS] = " ".join(map(str, options.cpus))
    here = installed()
    if options.contestants is None:
        skip = {name for name, other in OTHERS.items() if other.compiles} if options.quick else set()
        options.contestants = [name for name in here if name not in skip]
    missing = [name for name in options.contestants if name not in here]
    if missing:
        raise ContestantError(f"not installed, or not in this version: {', '.join(missing)}")
    always = (_REFERENCE, _OURS[0])
    options.contestants = [name for name in here if name in options.contestants or name in always]


@contextmanager
def _measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result, of an earlier run or of one now; what Ctrl-C leaves of it too."""
    if options.source is not None:
        yield json.loads(options.source.read_text(encoding="utf-8"))
        return
    _choose(options)
    comparison = Comparison(options)
    say(f"contestants: {', '.join(options.contestants)}; {options.threads} thread(s) each")
    try:
        comparison.start()
        comparison.run()
    except KeyboardInterrupt:
        comparison.result["interrupted"] = True
        say("interrupted: what was measured so far is written")
    finally:
        comparison.close()
        comparison.write()
    yield json.loads(json.dumps(comparison.result))


def _draw(result: dict[str, Any], folder: Path) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        say("no plots: matplotlib is not installed")
        return []
    from plots import draw

    return draw(result, folder)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        with _measured(options) as result:
            options.output.mkdir(parents=True, exist_ok=True)
            text = tables(result)
            (options.output / "compare.md").write_text(text, encoding="utf-8")
            _draw(result, options.output)
            if options.write is not None:
                # The page's pictures lie in a folder of its name.
                folder = options.write.with_suffix("")
                drawn = _draw(result, folder)
                write_between_markers(options.write, text + pictures(drawn, options.write.parent))
            print(text)
            say(f"written to {options.output}/")
    except ContestantError as error:
        say(f"compare: {error}")
        return 2
    return 130 if result.get("interrupted") else 0


if __name__ == "__main__":
    sys.exit(main())

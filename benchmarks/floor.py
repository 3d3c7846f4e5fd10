"""The speed floor: a native training step against the best NumPy program, and what ``fit`` adds to it.

    python benchmarks/floor.py --threads 1 2 --seconds 3

The native step must be faster than NumPy on every workload, and at least three times faster on A. The exit status is 0
when it is, 1 when it is not, 2 when the comparison could not be made.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interleave import ContestantError, Timing, Worker, compare_costs, time_side_by_side
from machine import Others, describe_machine, disturbance, usable_cpus
from workloads import WORKLOADS, Workload

__all__ = ["main"]

_NAMES = ("numpy", "native", "fit")
#: How many times faster than NumPy the native step has to be.
FLOOR = {name: 3.0 if name == "A" else 1.0 for name in WORKLOADS}

_HEAD = (
    "| threads | workload | NumPy µs | native µs | fit µs | NumPy / native | best rounds | floor "
    "| NumPy / fit | fit adds | native GFLOP/s |\n"
    "|--:|:--|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
)


def _result(workload: Workload, threads: int, timings: Sequence[Timing], used: dict[str, str]) -> dict[str, Any]:
    seconds = dict(zip(_NAMES, (timing.median for timing in timings), strict=True))
    best = dict(zip(_NAMES, (timing.best for timing in timings), strict=True))
    ratio = seconds["numpy"] / seconds["native"]
    floor = FLOOR[workload.name]
    return {
        "workload": workload.name,
        "widths": workload.widths,
        "batch": workload.batch,
        "flop": workload.flop_step,
        "threads": threads,
        "median_seconds": seconds,
        "rounds_seconds": {name: timing.rounds for name, timing in zip(_NAMES, timings, strict=True)},
        "numpy_over_native": ratio,
        "numpy_over_native_best_rounds": best["numpy"] / best["native"],
        "numpy_over_fit": seconds["numpy"] / seconds["fit"],
        "fit_adds": seconds["fit"] / seconds["native"] - 1,
        "gflops": {name: workload.flop_step / value / 1e9 for name, value in seconds.items()},
        "floor": floor,
        "passed": ratio > 1.0 and ratio >= floor,
        "used": used,
    }


def _row(result: dict[str, Any]) -> str:
    micro = {name: f"{value * 1e6:,.1f}" for name, value in result["median_seconds"].items()}
    verdict = "" if result["passed"] else " **missed**"
    return (
        f"| {result['threads']} | {result['workload']} | {micro['numpy']} | {micro['native']} | {micro['fit']} "
        f"| {result['numpy_over_native']:.2f} | {result['numpy_over_native_best_rounds']:.2f} "
        f"| {result['floor']:.0f}{verdict} | {result['numpy_over_fit']:.2f} | {result['fit_adds']:+.0%} "
        f"| {result['gflops']['native']:.1f} |"
    )


def _measure(workload: Workload, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    workers: list[Worker] = []
    try:
        for name in _NAMES:
            workers.append(Worker(name, threads, options.clock))
            workers[-1].open(workload)
        compare_costs(workers)
        used = {worker.contestant: worker.ask("description") for worker in workers}
        timings = time_side_by_side(workers, options.seconds, options.rounds)
    finally:
        for worker in workers:
            worker.close()
    return _result(workload, threads, timings, used)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    cpus = usable_cpus()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2][:cpus], help="default: 1 and 2")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each contestant and workload (default: 3)")
    parser.add_argument("--rounds", type=int, default=9, help="slices that the seconds are cut into (default: 9)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the process's time on a CPU, for one thread on a busy machine (default: wall)",
    )
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument("--json", type=Path, default=Path(".benchmarks/floor.json"), help="where the numbers go")
    options = parser.parse_args(arguments)
    if not all(1 <= threads <= cpus for threads in options.threads):
        parser.error(f"--threads: expected 1 to {cpus}, the CPUs of this machine; received {options.threads}")
    if options.clock == "cpu" and options.threads != [1]:
        parser.error(f"--clock cpu: expected --threads 1; received {options.threads}")
    if options.seconds <= 0 or options.rounds < 1:
        parser.error("--seconds and --rounds: expected positive numbers")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = _arguments(arguments)
    machine, others = describe_machine(), Others()
    print(
        f"{machine['processor']}, {machine['cpus']} CPUs, load {machine['load']}, Python {machine['python']}",
        flush=True,
    )
    if warning := disturbance(machine):
        print(warning)
    results: list[dict[str, Any]] = []
    try:
        for threads in options.threads:
            for name in options.workloads:
                results.append(_measure(WORKLOADS[name], threads, options))
                if name == options.workloads[0]:
                    print("\n" + "\n".join(f"{who}: {what}" for who, what in results[-1]["used"].items()) + "\n")
                    print(_HEAD)
                print(_row(results[-1]), flush=True)
    except ContestantError as error:
        print(f"floor: {error}", file=sys.stderr)
        return 2
    machine["others"] = others.share()
    if warning := disturbance(machine):
        print("\n" + warning)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "clock": options.clock, "seconds": options.seconds, "results": results}
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    missed = [f"{result['workload']} at {result['threads']} threads" for result in results if not result["passed"]]
    print(f"\nnumbers: {options.json}\n" + (f"floor missed: {', '.join(missed)}" if missed else "floor held"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

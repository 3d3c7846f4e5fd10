"""What a benchmark says of the machine: who else uses it, and which version runs."""

from __future__ import annotations

import os
import subprocess
from types import SimpleNamespace

import pytest
from comparing import NEEDS, module

pytestmark = NEEDS


@pytest.mark.parametrize(
    ("load", "others", "said"),
    [
        (None, None, ""),  # not every system tells
        (1.0, 0.1, ""),
        (1.1, 0.1, "load 1.1 at the start"),
        (1.0, 0.11, "others used 11% of the CPUs during the run"),
        (4.0, 0.5, "load 4.0 at the start, others used 50% of the CPUs during the run"),
    ],
)
def test_a_busy_machine_is_told(load: float | None, others: float | None, said: str) -> None:
    machine = {"cpus": 2, "load": load}
    if others is not None:
        machine["others"] = others
    warning = module("machine").disturbance(machine)
    assert warning.startswith(f"The machine was busy ({said}): ") if said else warning == ""


@pytest.mark.parametrize("threads", [1, 3])
def test_the_environment_is_the_same_for_all(threads: int) -> None:
    """Whatever the caller's says, everybody has the same number of threads, and nobody is held back or replaced."""
    held_back = ["OPENBLAS_CORETYPE", "MKL_ENABLE_INSTRUCTIONS", "FASTPERCEPTRON_ISA", "FASTPERCEPTRON_BACKEND"]
    environment = {**dict.fromkeys(held_back, "old"), "OMP_NUM_THREADS": "7", "XLA_FLAGS": "--other", "HOME": "/"}
    module("machine").set_environment(threads, environment)
    assert not set(held_back) & set(environment)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    assert [environment[name] for name in names] == [str(threads)] * 3
    one_thread = " --xla_cpu_multi_thread_eigen=false" * (threads == 1)
    assert (environment["HOME"], environment["XLA_FLAGS"]) == ("/", f"--other{one_thread}")


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="ticks are those of POSIX")
def test_what_others_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """In ten seconds CPU 0 works for seven, CPU 3 for four, we and our children for three: eight of twenty."""
    machine, ticks = module("machine"), os.sysconf("SC_CLK_TCK")
    now = SimpleNamespace(seconds=100.0, first=0, fourth=0, own=(1.0, 1.0, 0.0, 0.0, 50.0))

    def stat(path: str) -> str:
        busy = f"cpu 99 99 99 99 99 99 99 99 0 0\ncpu0 {now.first} 0 0 55 66 0 0 0 0 0\ncpu1 77 7 7 7 7 7 7 7 7 7\n"
        return busy + f"cpu3 0 0 {now.fourth} 55 66 0 0 {now.fourth} 0 0\nintr 1\n" if path == "/proc/stat" else ""

    monkeypatch.setattr(machine, "_read", stat)
    monkeypatch.setattr(machine, "allowed_cpus", lambda: [0, 3])
    monkeypatch.setattr(machine.time, "monotonic", lambda: now.seconds)
    monkeypatch.setattr(machine.os, "times", lambda: now.own)
    others = machine.Others()
    now.seconds, now.first, now.fourth, now.own = 110.0, 7 * ticks, 2 * ticks, (2.0, 1.0, 1.5, 0.5, 60.0)
    assert others.share() == pytest.approx(8 / 20)
    monkeypatch.setattr(machine, "_read", lambda path: "")
    assert machine.Others().share() is None


def test_the_version_is_that_of_git(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = module("machine")

    def no_repository(command: list[str], **_: object) -> None:
        assert command[-3:] == ["describe", "--always", "--dirty"]
        raise subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout="v1-2-gabc-dirty\n"))
    assert machine.commit() == "v1-2-gabc-dirty"
    monkeypatch.setattr(machine.subprocess, "run", no_repository)
    assert machine.commit() is None

"""show_config, thread counts, and where they come from."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import PATHS, forced, instruction_sets
from pure import PURE, native_only

import fastperceptron as fp
from fastperceptron import config

KEYS = [
    "version",
    "backend",
    "backend_reason",
    "instruction_sets_built",
    "instruction_sets_usable",
    "instruction_set",
    "instruction_set_reason",
    "bfloat16_paths_built",
    "bfloat16_paths_usable",
    "bfloat16_path",
    "bfloat16_path_reason",
    "threads",
    "threads_reason",
    "openmp",
    "compiler",
    "compiler_flags",
    "build_type",
    "sanitizers",
    "numpy",
    "python",
    "platform",
]


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    yield
    fp.set_num_threads(0)


def test_keys_are_pinned() -> None:
    found = config.get_config()
    assert list(found) == KEYS
    assert found["version"] == fp.__version__
    assert found["numpy"] == np.__version__
    assert found["backend"] in ("native", "numpy")
    if PURE:
        assert found["instruction_sets_built"] == ()
        assert found["compiler"] is None
    else:
        assert found["instruction_set"] in found["instruction_sets_usable"]
        assert found["bfloat16_path"] in found["bfloat16_paths_usable"]
        assert set(found["bfloat16_paths_usable"]) <= set(found["bfloat16_paths_built"])
        assert set(found["instruction_sets_usable"]) <= set(found["bfloat16_paths_usable"])
        assert set(found["instruction_sets_usable"]) <= set(found["instruction_sets_built"])
        assert "generic" in found["instruction_sets_built"]


def test_show_config_prints_every_answer(capsys: pytest.CaptureFixture[str]) -> None:
    assert fp.show_config() is None
    text = capsys.readouterr().out
    for word in (
        "fastperceptron",
        "backend",
        "instruction sets built",
        "instruction sets usable",
        "bfloat16 path",
        "NumPy",
    ):
        assert any(line.startswith(word) for line in text.splitlines()), word
    assert str(config.get_config()["backend_reason"]) in text
    assert ("OpenMP runtime" in text) == (not PURE)


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_show_config_names_the_paths_in_force(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with forced(path):
        found = config.get_config()
        fp.show_config()
    printed = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert found["bfloat16_path"] == path
    assert printed["bfloat16 path in use"].strip() == f"{path} (set_instruction_set)"
    assert found["instruction_set"] == path or path not in instruction_sets()
    assert printed["instruction set in use"].strip() == f"{found['instruction_set']} (set_instruction_set)"


@native_only
def test_show_config_says_that_numpy_takes_no_native_path(capsys: pytest.CaptureFixture[str]) -> None:
    before = fp.get_backend()
    try:
        fp.set_backend("numpy")
        found = config.get_config()
        fp.show_config()
    finally:
        fp.set_backend(before)
    reason = "by the native backend only, not by numpy"
    assert str(found["instruction_set_reason"]).endswith(reason)
    assert str(found["bfloat16_path_reason"]).endswith(reason)
    assert capsys.readouterr().out.count(reason) == 2


def test_set_and_get_num_threads() -> None:
    fp.set_num_threads(3)
    assert fp.get_num_threads() == 3
    if not PURE:
        assert config.get_config()["threads_reason"] == "set_num_threads"
    fp.set_num_threads(np.int64(2))
    assert fp.get_num_threads() == 2
    fp.set_num_threads(0)
    assert fp.get_num_threads() >= 1
    assert config.get_config()["threads_reason"] != "set_num_threads"


@pytest.mark.parametrize("wrong", [-1, 1025, 2**40])
def test_thread_counts_out_of_range(wrong: int) -> None:
    fp.set_num_threads(2)
    with pytest.raises(ValueError, match=rf"set_num_threads: threads must lie in \[0, 1024\]; received {wrong}"):
        fp.set_num_threads(wrong)
    assert fp.get_num_threads() == 2


def test_thread_counts_are_whole_numbers() -> None:
    with pytest.raises(TypeError):
        fp.set_num_threads(2.0)  # type: ignore[arg-type]


def test_threads_block_restores() -> None:
    before = fp.get_num_threads()
    with config.threads(5):
        assert fp.get_num_threads() == 5
        with config.threads(2):
            assert fp.get_num_threads() == 2
        assert fp.get_num_threads() == 5
    assert fp.get_num_threads() == before
    fp.set_num_threads(4)
    with pytest.raises(ZeroDivisionError), config.threads(1):
        raise ZeroDivisionError
    assert fp.get_num_threads() == 4


def default_threads(**environment: str) -> tuple[int, str]:
    code = "from fastperceptron import config; c = config.get_config(); print(c['threads'], c['threads_reason'])"
    kept = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env={**kept, **environment}
    )
    assert result.returncode == 0, result.stderr
    number, _, reason = result.stdout.strip().partition(" ")
    return int(number), reason


@native_only
@pytest.mark.parametrize(("text", "expected"), [("3", 3), ("5,2", 5), (" 7 ", 7), ("100000", 1024)])
def test_omp_num_threads(text: str, expected: int) -> None:
    assert default_threads(OMP_NUM_THREADS=text) == (expected, "OMP_NUM_THREADS")


@native_only
@pytest.mark.parametrize("text", ["0", "-2", "many", "3x", "99999999999999999999"])
def test_a_bad_omp_num_threads_is_ignored_with_a_reason(text: str) -> None:
    number, reason = default_threads(OMP_NUM_THREADS=text)
    assert (number, reason.partition(" (")[0]) == default_threads()
    assert reason.endswith("(OMP_NUM_THREADS is not a positive number)")


@native_only
def test_default_respects_affinity() -> None:
    core = importlib.import_module("fastperceptron._core")
    quota = core.cgroup_cpus()
    number, reason = default_threads()
    assert reason in ("CPU affinity", "cgroup quota")
    assert number == min(core.affinity_cpus(), quota or 10**6)
    if hasattr(os, "sched_getaffinity"):
        assert core.affinity_cpus() == len(os.sched_getaffinity(0))


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def cgroup_cpus(root: Path) -> int:
    return int(importlib.import_module("fastperceptron._core").cgroup_cpus(str(root)))


V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@native_only
@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ({"a/b": "max 100000"}, 0),
        ({"a/b": "250000 100000"}, 3),  # 2.5 CPUs
        ({"a/b": "max 100000", "a": "100000 100000"}, 1),  # an ancestor's limit counts
        ({"a/b": "800000 100000", "a": "400000 100000", "": "600000 100000"}, 4),
        ({"a/b": "5000 100000"}, 1),
        ({"a/b": "gibberish"}, 0),
        ({}, 0),
    ],
)
def test_cgroup_v2(tmp_path: Path, levels: dict[str, str], expected: int) -> None:
    write(tmp_path / "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path / "proc/self/mountinfo", "22 1 0:21 / /proc rw - proc proc rw\n" + V2_MOUNT)
    for level, text in levels.items():
        write(tmp_path / "sys/fs/cgroup" / level / "cpu.max", text + "\n")
    assert cgroup_cpus(tmp_path) == expected


@native_only
def test_cgroup_v2_seen_from_a_container(tmp_path: Path) -> None:
    """The mount shows the group itself; the name is the host's."""
    write(tmp_path / "proc/self/cgroup", "0::/docker/1234\n")
    write(tmp_path / "proc/self/mountinfo", V2_MOUNT.replace(" / /sys", " /docker/1234 /sys"))
    write(tmp_path / "sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert cgroup_cpus(tmp_path) == 2


@native_only
def test_cgroup_v1(tmp_path: Path) -> None:
    write(tmp_path / "proc/self/cgroup", "5:memory:/x\n4:cpu,cpuacct:/slice/job\n0::/elsewhere\n")
    mount = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    write(tmp_path / "proc/self/mountinfo", mount)
    folder = tmp_path / "sys/fs/cgroup/cpu,cpuacct/slice"
    for level, quota in (("job", "-1"), (".", "150000")):
        write(folder / level / "cpu.cfs_quota_us", quota + "\n")
        write(folder / level / "cpu.cfs_period_us", "100000\n")
    assert cgroup_cpus(tmp_path) == 2


@native_only
def test_no_cgroup_files_at_all(tmp_path: Path) -> None:
    assert cgroup_cpus(tmp_path / "nothing") == 0


@pytest.mark.parametrize("value", [2.5, "a", None, True])
def test_threads_must_be_an_integer(value: Any) -> None:
    with pytest.raises(TypeError, match="set_num_threads: threads must be an integer; received"):
        fp.set_num_threads(value)

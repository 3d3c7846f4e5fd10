"""The machine a benchmark ran on, and the environment that makes contestants equal. Imports nothing heavy."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

__all__ = [
    "PREFERRED_CPUS",
    "Others",
    "allowed_cpus",
    "blas_in_use",
    "commit",
    "describe_machine",
    "disturbance",
    "keep_to_cpus",
    "set_environment",
    "usable_cpus",
    "versions",
]

#: The environment variable with the CPUs that contestants run on rather than others, for machines where some are busy.
PREFERRED_CPUS = "FASTPERCEPTRON_BENCHMARK_CPUS"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: Some systems pin OpenBLAS to kernels older than the processor; NumPy must run at its best.
_HANDICAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE", "MKL_ENABLE_INSTRUCTIONS")
_PACKAGES = (
    "fastperceptron",
    "numpy",
    "scikit-learn",
    "torch",
    "jax",
    "jaxlib",
    "keras",
    "onnxruntime",
    "onnx",
    "mlpfile",
    "mlxtend",
)
#: Would make this package slower or another one.
_OVERRIDES = ("FASTPERCEPTRON_ISA", "FASTPERCEPTRON_BACKEND")
#: Load per CPU, and share of the CPUs' time, from which on threads wait for one another's turn.
_BUSY_LOAD, _BUSY_SHARE = 0.5, 0.1


def set_environment(threads: int, environment: MutableMapping[str, str]) -> None:
    """Same thread count for all, no handicaps. Takes effect on what is imported afterwards."""
    for name in _HANDICAPS + _OVERRIDES:
        environment.pop(name, None)
    for name in _THREAD_VARIABLES:
        environment[name] = str(threads)
    environment["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()


def keep_to_cpus(threads: int) -> None:
    """Leaves this process as many CPUs as it shall have threads: those that PREFERRED_CPUS names, in its order, then
    others, on cores of their own where there are enough.

    Some libraries count the CPUs and take no other number. Does nothing where the system has no affinity.
    """
    cpus = allowed_cpus()
    if threads >= len(cpus):
        return
    first_of_core = [cpu for cpu in cpus if cpu == min(_siblings(cpu))]
    preferred = [int(cpu) for cpu in os.environ.get(PREFERRED_CPUS, "").split()]
    others = first_of_core + [cpu for cpu in cpus if cpu not in first_of_core]
    chosen = [*preferred, *(cpu for cpu in others if cpu not in preferred)]
    os.sched_setaffinity(0, chosen[:threads])


def _siblings(cpu: int) -> list[int]:
    """The CPUs that share this one's core, itself included."""
    numbers: list[int] = []
    for part in _read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1)
    return numbers or [cpu]


def allowed_cpus() -> list[int]:
    """The CPUs in the affinity mask; none where the system has no affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def usable_cpus() -> int:
    """How many they are; all of the machine where the system has no affinity."""
    return len(allowed_cpus()) or os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, system and how busy it is."""
    return {
        "processor": _processor("model name"),
        "flags": _vector_flags(),
        "caches": _caches(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


class Others:
    """What others use of this process's CPUs from now on, a hypervisor included."""

    def __init__(self) -> None:
        self._begin = time.monotonic(), _seconds_of_others()

    def share(self) -> float | None:
        """Of the CPUs' time; call it when no child is left. None where the system does not tell."""
        (begin, before), now = self._begin, _seconds_of_others()
        if before is None or now is None:
            return None
        return max(0.0, (now - before) / ((time.monotonic() - begin) * usable_cpus()))


def _seconds_of_others() -> float | None:
    """CPU time of all on this process's CPUs, less its own and that of its children that have ended."""
    cpus = {f"cpu{cpu}" for cpu in allowed_cpus()}
    lines = [fields for line in _read("/proc/stat").splitlines() if (fields := line.split()) and fields[0] in cpus]
    if not lines:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user
    ticks = sum(int(fields[i]) for fields in lines for i in (1, 2, 3, 6, 7, 8))
    return ticks / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def disturbance(machine: Mapping[str, Any]) -> str:
    """A warning when the machine of :func:`describe_machine` was busy at the start, or others used it during the run
    ("others" is their share of its CPUs); empty when it was quiet."""
    found = []
    if machine["load"] is not None and machine["load"] > _BUSY_LOAD * machine["cpus"]:
        found.append(f"load {machine['load']} at the start")
    if (share := machine.get("others")) is not None and share > _BUSY_SHARE:
        found.append(f"others used {share:.0%} of the CPUs during the run")
    if not found:
        return ""
    return (
        f"The machine was busy ({', '.join(found)}): wall times, and ratios with more than one thread, say little "
        "(see --clock cpu)."
    )


def commit() -> str | None:
    """What git calls this version, with "-dirty" where files differ from it; None without git or a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _processor(key: str) -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return (platform.processor() or "unknown") if key == "model name" else ""


def _vector_flags() -> list[str]:
    """The instruction sets that matter here, as Linux names them."""
    flags = (_processor("flags") or _processor("Features")).split()
    return [flag for flag in flags if flag.startswith(("avx", "fma", "amx", "asimd", "sve", "bf16"))]


def _caches() -> dict[str, str]:
    """Level and type to size, of the first CPU."""
    caches = {}
    for index in range(8):
        folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
        if size := _read(f"{folder}/size"):
            kind = {"Data": "d", "Instruction": "i"}.get(_read(f"{folder}/type"), "")
            caches[f"L{_read(f'{folder}/level')}{kind}"] = size
    return caches


def versions() -> dict[str, str]:
    """Of everything that a comparison may use and that is installed; nothing is imported."""
    from importlib import metadata

    found = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def blas_in_use() -> str:
    """NumPy's BLAS with its kernel and thread count, as far as it can be told; call it after importing NumPy."""
    try:
        from threadpoolctl import threadpool_info  # type: ignore[import-untyped]
    except ImportError:
        import numpy as np

        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas.get('name')} {blas.get('version')} (its kernel is unknown without threadpoolctl)"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return "; ".join(
        f"{pool['internal_api']} {pool['version']}, {pool.get('architecture', 'unknown')} kernels, "
        f"{pool['num_threads']} thread{'s' * (pool['num_threads'] != 1)}"
        for pool in pools
    )

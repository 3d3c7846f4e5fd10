"""The machine a benchmark ran on, and the environment that makes contestants equal. Imports nothing heavy."""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from typing import Any

__all__ = ["blas_in_use", "describe_machine", "set_environment", "usable_cpus"]

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
#: Some systems pin OpenBLAS to kernels older than the processor; NumPy must run at its best.
_HANDICAPS = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE", "MKL_ENABLE_INSTRUCTIONS")
#: Would make this package slower or another one.
_OVERRIDES = ("FASTPERCEPTRON_ISA", "FASTPERCEPTRON_BACKEND")


def set_environment(threads: int, environment: MutableMapping[str, str]) -> None:
    """Same thread count for all, no handicaps. Takes effect on what is imported afterwards."""
    for name in _HANDICAPS + _OVERRIDES:
        environment.pop(name, None)
    for name in _THREAD_VARIABLES:
        environment[name] = str(threads)


def usable_cpus() -> int:
    """CPUs in the affinity mask, where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe_machine() -> dict[str, Any]:
    """Processor, system and how busy it is."""
    return {
        "processor": _processor(),
        "cpus": usable_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


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

"""What this installation can do and does: backend, instruction sets, threads, and why."""

from __future__ import annotations

import operator
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np

from . import backends
from .errors import BackendUnavailableError

__all__ = ["get_config", "get_num_threads", "set_num_threads", "show_config", "threads"]

_MOST_THREADS = 1024
_chosen_threads = 0  # by set_num_threads; 0: the default


def _core() -> ModuleType | None:
    """The extension, whichever backend is in use; None where it cannot be imported."""
    if backends.native_failure() is not None:
        return None
    from . import _core as core

    return core


def get_config() -> dict[str, object]:
    """The facts that :func:`show_config` prints.

    Returns
    -------
    dict
        The keys are those below; they are the same in every installation. Without the native extension the
        ones about it are empty or None.

        ========================== ============================================================
        version                    of this package
        backend, backend_reason    in use, and why; backend is None when it cannot be had
        instruction_sets_built     in the extension, best first
        instruction_sets_usable    on this CPU and operating system, best first
        instruction_set, ..._reason in use, and why
        bfloat16_paths_built       ways to compute products of mixed_bfloat16 models, best first
        bfloat16_paths_usable      on this CPU and operating system, best first
        bfloat16_path, ..._reason  in use, and why (to tell, the system is asked for AMX's registers)
        threads, threads_reason    how many a large enough call uses, and why
        openmp                     the runtime that gives the threads, or "none"
        compiler, compiler_flags, build_type, sanitizers  of the extension
        numpy, python, platform    versions and machine
        ========================== ============================================================

    Examples
    --------
    >>> import fastperceptron as fp
    >>> fp.config.get_config()["numpy"] == np.__version__
    True
    """
    from . import __version__

    config: dict[str, object] = {"version": __version__}
    try:
        config["backend"] = backends.get_backend()
        config["backend_reason"] = backends.why()
    except (BackendUnavailableError, ValueError) as error:
        config["backend"] = None
        config["backend_reason"] = str(error)
    core = _core()
    for name in ("instruction_set", "bfloat16_path"):
        config |= _choice(core, name, config["backend"])
    config["threads"] = get_num_threads()
    config["threads_reason"] = "NumPy's BLAS has its own" if core is None else core.thread_count_reason()
    config["openmp"] = None if core is None else core.openmp_runtime()
    for key in ("compiler", "compiler_flags", "build_type", "sanitizers"):
        config[key] = None if core is None else getattr(core, key)
    config["numpy"] = np.__version__
    config["python"] = platform.python_version()
    config["platform"] = f"{platform.system()} {platform.machine()}"
    return config


def _choice(core: ModuleType | None, name: str, backend: object) -> dict[str, object]:
    """What there is of it in the extension, what can be used here, what is in use, and why."""
    if core is None:
        return {f"{name}s_built": (), f"{name}s_usable": (), name: None, f"{name}_reason": "no native extension"}
    found: dict[str, object] = {key: tuple(getattr(core, key)()) for key in (f"{name}s_built", f"{name}s_usable")}
    try:
        chosen, reason = getattr(core, name)(), str(getattr(core, f"{name}_reason")())
    except BackendUnavailableError as error:
        return found | {name: None, f"{name}_reason": str(error)}
    if backend == "numpy":
        reason += "; by the native backend only, not by numpy"
    return found | {name: chosen, f"{name}_reason": reason}


def show_config() -> None:
    """Print which backend, instruction sets and threads are built, usable and in use, and why.

    See :func:`get_config` for the same as a dictionary.
    """
    config = get_config()

    def because(value: object, reason: object) -> str:
        return f"{'none' if value is None else value} ({reason})"

    def names(key: str) -> str:
        value = config[key]
        return (", ".join(value) or "none") if isinstance(value, tuple) else str(value)

    lines = {
        "fastperceptron": config["version"],
        "backend": because(config["backend"], config["backend_reason"]),
        "instruction sets built": names("instruction_sets_built"),
        "instruction sets usable": names("instruction_sets_usable"),
        "instruction set in use": because(config["instruction_set"], config["instruction_set_reason"]),
        "bfloat16 paths built": names("bfloat16_paths_built"),
        "bfloat16 paths usable": names("bfloat16_paths_usable"),
        "bfloat16 path in use": because(config["bfloat16_path"], config["bfloat16_path_reason"]),
        "threads": because(config["threads"], config["threads_reason"]),
    }
    if config["compiler"] is not None:
        lines["OpenMP runtime"] = config["openmp"]
        lines["compiler"] = f"{config['compiler']}, {config['build_type']}, {config['compiler_flags']}"
        if config["sanitizers"]:
            lines["sanitizers"] = config["sanitizers"]
    lines["NumPy"] = config["numpy"]
    lines["Python"] = f"{config['python']} on {config['platform']}"
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        print(f"{name + ':':{width}}{text}")


def set_num_threads(threads: int) -> None:
    """Set how many threads a native call may use, for the whole process.

    Results do not depend on it. Small calls use one thread anyway.

    Parameters
    ----------
    threads : int
        1 to 1024; 0 goes back to the default: ``OMP_NUM_THREADS``, else the smaller of CPU affinity and the
        control group's CPU quota.

    Raises
    ------
    ValueError
        The number is out of range.
    TypeError
        It is no integer.

    Examples
    --------
    >>> import fastperceptron as fp
    >>> fp.set_num_threads(2)
    >>> fp.get_num_threads()
    2
    >>> fp.set_num_threads(0)
    """
    global _chosen_threads
    try:
        number = None if isinstance(threads, bool) else operator.index(threads)
    except TypeError:  # an array of one number has an __index__ too
        number = None
    if number is None:
        raise TypeError(f"set_num_threads: threads must be an integer; received {threads!r}")
    if not 0 <= number <= _MOST_THREADS:
        raise ValueError(f"set_num_threads: threads must lie in [0, {_MOST_THREADS}]; received {number}")
    core = _core()
    if core is not None:
        core.set_thread_count(number)
    _chosen_threads = number


def get_num_threads() -> int:
    """How many threads a native call may use. In a pure installation NumPy's BLAS decides for itself and this is
    what was set, or 1."""
    core = _core()
    return max(_chosen_threads, 1) if core is None else int(core.thread_count())


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within the ``with`` block, :func:`set_num_threads` says ``number``; afterwards what it said before.

    It is one setting for the whole process: blocks in several threads at once disturb each other.

    Examples
    --------
    >>> import fastperceptron as fp
    >>> with fp.config.threads(1):
    ...     fp.get_num_threads()
    1
    """
    before = _chosen_threads
    set_num_threads(number)
    try:
        yield
    finally:
        set_num_threads(before)

"""What this machine's arithmetic and memory can do at most, measured: the yardstick of every other speed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from . import config
from .checks import is_integer
from .errors import BackendUnavailableError, DTypeError

__all__ = ["cache_round_trip", "memory_bandwidth", "peak_flops"]

#: Number formats that the kernels have a measure for.
_DTYPES = ("float32", "float64", "bfloat16")
# Shorter than the time slices of a busy system (3 ms), so that some repeats are not interrupted on any thread.
_REPEATS = 100
_SECONDS = 0.001
_TRIPS = 5
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_LEAST_BYTES, _MOST_BYTES = 128 * 2**20, 2**30


def peak_flops(dtype: str = "float32", threads: int | None = None) -> float:
    """Flop per second of independent multiply-adds in registers: no kernel can be faster.

    Measured on first use, in about 0.1 s, with the instruction set in use, and kept for the life of the process. The
    best of several short runs, since whatever disturbs one makes it slower. ``model.profile`` measures again where it
    finds that a busy machine has disturbed them all; the best remains.

    Parameters
    ----------
    dtype : "float32", "float64", or "bfloat16"
        "bfloat16": products of such operands with sums in float32, as ``mixed_bfloat16`` models compute them.
    threads : int, optional
        That compute at the same time; :func:`~fastperceptron.get_num_threads` unless given.

    Returns
    -------
    float
        Flop per second of all threads together; a multiply-add is two flop.

    Raises
    ------
    DTypeError
        There is no measure for this dtype.
    ValueError
        threads is not in [1, 1024].
    BackendUnavailableError
        The native extension is missing.

    Examples
    --------
    >>> from fastperceptron.peak import peak_flops
    >>> peak_flops("float32", threads=1) > 1e9
    True
    """
    core = config._core()
    if core is None:
        raise BackendUnavailableError("peak_flops: expected the native extension; this installation has none")
    try:
        name = dtype if dtype == "bfloat16" else np.dtype(dtype).name
    except TypeError:
        name = str(dtype)
    if name not in _DTYPES:
        raise DTypeError(f"peak_flops: dtype must be one of {', '.join(_DTYPES)}; received {dtype}")
    return best_peak(name, _count("peak_flops", threads))


def memory_bandwidth(threads: int | None = None) -> dict[str, float]:
    """Bytes per second between the processor and memory that no cache can hold, all threads together.

    Measured on first use, in about half a second, over four times the largest cache, and kept for the life of the
    process. Ctrl-C waits for it.

    Parameters
    ----------
    threads : int, optional
        As in :func:`peak_flops`.

    Returns
    -------
    dict
        ``"read"``: summing what is read; ``"update"``: y += x, two reads and a write for each number.

    Raises
    ------
    ValueError
        threads is not in [1, 1024].
    BackendUnavailableError
        The native extension is missing.
    """
    core = config._core()
    if core is None:
        raise BackendUnavailableError("memory_bandwidth: expected the native extension; this installation has none")
    return dict(_bandwidth(_count("memory_bandwidth", threads), str(core.instruction_set())))


def cache_round_trip() -> float:
    """Seconds that a cache line takes from one thread to another and back, while both wait for each other.

    About 5e-8 to 1e-7 where the CPUs of both share a cache, several times as much where they do not: then threads that
    read what others have written, as in every training step, cost more. Measured anew at each call, in 15 ms, since
    the system and, on virtual machines, the machine below it may move threads about.

    Returns
    -------
    float
        Seconds; NaN where no second thread can be had.

    Raises
    ------
    BackendUnavailableError
        The native extension is missing.

    Examples
    --------
    >>> from fastperceptron.peak import cache_round_trip
    >>> cache_round_trip() > 1  # or NaN, without a second thread
    False
    """
    core = config._core()
    if core is None:
        raise BackendUnavailableError("cache_round_trip: expected the native extension; this installation has none")
    if core.affinity_cpus() < 2:
        return float("nan")  # two threads that wait for each other on one CPU measure the system's time slices
    # The least of several: sometimes both threads begin on one CPU.
    return min(float(core.measure_round_trip(0.003)) for _ in range(_TRIPS)) or float("nan")


def _count(operation: str, threads: int | None) -> int:
    if threads is None:
        return config.get_num_threads()
    if not is_integer(threads):
        raise TypeError(f"{operation}: threads must be an integer; received {threads!r}")
    if not 1 <= threads <= config._MOST_THREADS:
        raise ValueError(f"{operation}: threads must lie in [1, {config._MOST_THREADS}]; received {threads}")
    return int(threads)


_peaks: dict[tuple[str, int, str], float] = {}


def best_peak(dtype: str, threads: int, again: bool = False) -> float:
    """The best that was measured so far, or is measured now: at the first time, and when asked again."""
    from . import _core

    key = dtype, threads, _core.bfloat16_path() if dtype == "bfloat16" else _core.instruction_set()
    if again or key not in _peaks:
        measured = max(_core.measure_peak(dtype, threads, _SECONDS) for _ in range(_REPEATS))
        _peaks[key] = max(measured, _peaks.get(key, 0.0))
    return _peaks[key]


@cache
def _bandwidth(threads: int, instruction_set: str) -> tuple[tuple[str, float], ...]:
    from . import _core

    size = float(min(max(4 * _largest_cache(), _LEAST_BYTES), _MOST_BYTES))
    return tuple(_core.measure_bandwidth(threads, size, 0.2).items())


def _largest_cache() -> int:
    """In bytes; 0 where the system does not tell."""
    sizes = [0]
    for path in _CACHES.glob("index*/size"):
        text = path.read_text(encoding="ascii").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes)

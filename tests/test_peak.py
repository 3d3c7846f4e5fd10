"""The measured limits of the machine. No times are asserted: only that they are numbers that can be true."""

from __future__ import annotations

import math
import threading

import pytest
from pure import PURE, native_only

import fastperceptron as fp
from fastperceptron import peak


@native_only
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_peak(dtype: str) -> None:
    value = peak.peak_flops(dtype, threads=1)
    assert math.isfinite(value)
    assert value > 1e8
    assert peak.peak_flops(dtype, threads=1) == value  # measured once


@native_only
def test_default_threads() -> None:
    with fp.threads(1):
        assert peak.peak_flops() == peak.peak_flops("float32", 1)


@native_only
def test_every_instruction_set() -> None:
    from fastperceptron import _core

    names = _core.bfloat16_paths_usable()
    try:
        for name in names:
            _core.set_instruction_set(name)
            for dtype in ("float32", "float64", "bfloat16"):
                assert 1e8 < _core.measure_peak(dtype, 2, 0.001) < 1e15, (name, dtype)
    finally:
        _core.set_instruction_set("auto")


@native_only
def test_other_threads_run_meanwhile() -> None:
    """The GIL is released: a Python thread ends before a long measurement does."""
    from fastperceptron import _core

    ended = threading.Event()
    thread = threading.Thread(target=ended.set)
    before = []

    def measure() -> None:
        _core.measure_peak("float32", 1, 0.5)
        before.append(ended.is_set())

    measuring = threading.Thread(target=measure)
    measuring.start()
    thread.start()
    measuring.join()
    thread.join()
    assert before == [True]


@native_only
def test_bandwidth() -> None:
    measured = peak.memory_bandwidth(threads=1)
    assert set(measured) == {"read", "update"}
    for value in measured.values():
        assert math.isfinite(value)
        assert value > 1e8


@native_only
def test_round_trip() -> None:
    seconds = peak.cache_round_trip()
    assert math.isnan(seconds) or 1e-9 < seconds < 1
    from fastperceptron import _core

    with pytest.raises(ValueError, match="measure_round_trip: seconds"):
        _core.measure_round_trip(float("nan"))


@native_only
@pytest.mark.parametrize("dtype", ["float16", "int32", "no such type"])
def test_bad_dtype(dtype: str) -> None:
    with pytest.raises(fp.DTypeError, match="must be one of float32, float64, bfloat16"):
        peak.peak_flops(dtype)


@native_only
@pytest.mark.parametrize("threads", [0, -1, 1025])
def test_bad_threads(threads: int) -> None:
    with pytest.raises(ValueError, match=rf"must lie in \[1, 1024\]; received {threads}"):
        peak.peak_flops(threads=threads)
    with pytest.raises(ValueError, match=rf"must lie in \[1, 1024\]; received {threads}"):
        peak.memory_bandwidth(threads)


@native_only
@pytest.mark.parametrize("threads", [True, 1.0, "2"])
def test_threads_of_another_type(threads: object) -> None:
    with pytest.raises(TypeError, match="threads must be an integer"):
        peak.peak_flops(threads=threads)  # type: ignore[arg-type]


@native_only
def test_core_checks_too() -> None:
    from fastperceptron import _core

    with pytest.raises(fp.DTypeError, match="float32, float64 or bfloat16; received half"):
        _core.measure_peak("half", 1, 0.001)
    with pytest.raises(ValueError, match="threads"):
        _core.measure_peak("float32", 0, 0.001)
    with pytest.raises(ValueError, match="seconds"):
        _core.measure_peak("float32", 1, float("nan"))
    with pytest.raises(ValueError, match="bytes"):
        _core.measure_bandwidth(1, 0.0, 0.001)


@pytest.mark.skipif(not PURE, reason="only the pure wheel lacks the extension")
def test_pure() -> None:
    with pytest.raises(fp.BackendUnavailableError, match="native extension"):
        peak.peak_flops()
    with pytest.raises(fp.BackendUnavailableError, match="native extension"):
        peak.memory_bandwidth()
    with pytest.raises(fp.BackendUnavailableError, match="native extension"):
        peak.cache_round_trip()

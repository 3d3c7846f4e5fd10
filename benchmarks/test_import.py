"""What importing the package adds to importing NumPy, each in a fresh process."""

from __future__ import annotations

from typing import Any

import pytest
from footprint import import_seconds, run_python

ALLOWED_SECONDS = 0.030


@pytest.mark.parametrize("package", ["numpy", "fastperceptron"])
def test_process_that_imports(benchmark: Any, package: str) -> None:
    """Start to end of a process, interpreter included."""
    benchmark.group = "a process that imports"
    benchmark.pedantic(run_python, args=(f"import {package}",), rounds=10, warmup_rounds=1)


@pytest.mark.timed
def test_import_adds_little(record_property: Any) -> None:
    seconds = import_seconds()
    record_property("seconds", seconds)
    assert seconds <= ALLOWED_SECONDS, f"import fastperceptron: {seconds * 1e3:.1f} ms more than importing numpy"

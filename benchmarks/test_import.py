"""What importing the package adds to importing NumPy, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

ALLOWED_SECONDS = 0.030


def _run(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("package", ["numpy", "fastperceptron"])
def test_process_that_imports(benchmark: Any, package: str) -> None:
    """Start to end of a process, interpreter included."""
    benchmark.group = "a process that imports"
    benchmark.pedantic(_run, args=(f"import {package}",), rounds=10, warmup_rounds=1)


def test_import_adds_little(record_property: Any) -> None:
    """CPU time, with all files cached: the fastest of ten, since whatever disturbs an import makes it longer."""
    program = "import time, numpy; t = time.process_time(); import fastperceptron; print(time.process_time() - t)"
    seconds = min(float(_run(program)) for _ in range(10))
    record_property("seconds", seconds)
    assert seconds <= ALLOWED_SECONDS, f"import fastperceptron: {seconds * 1e3:.1f} ms more than importing numpy"

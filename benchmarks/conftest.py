"""Settings of the pytest-benchmark suites.

The thread count holds for NumPy's BLAS as well as for the native engine, so it is set before anything imports NumPy.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

sys.path.insert(0, os.path.dirname(__file__))

from machine import describe_machine, set_environment

#: Columns of the tables, where the command line names none.
_COLUMNS = ["min", "median", "iqr", "rounds", "iterations"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads of NumPy's BLAS and of the native engine")


def pytest_configure(config: pytest.Config) -> None:
    if "numpy" in sys.modules:
        raise pytest.UsageError("benchmarks: NumPy was imported before its thread count could be set (by a plugin?)")
    set_environment(config.getoption("--threads"), os.environ)
    if not any(argument.startswith("--benchmark-columns") for argument in config.invocation_params.args):
        config.option.benchmark_columns = _COLUMNS


def pytest_report_header(config: pytest.Config) -> str:
    machine = describe_machine()
    return (
        f"benchmarks: {machine['processor']}, {machine['cpus']} CPUs, load {machine['load']}, "
        f"{config.getoption('--threads')} thread(s)"
    )


@pytest.fixture(scope="session")
def native() -> Any:
    """The native backend; a benchmark without it would measure something else."""
    from fastperceptron.backends import resolve

    return resolve("native")

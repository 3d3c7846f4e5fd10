"""The examples in docstrings run, and everything public is documented and reachable."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest
from pure import PURE

import fastperceptron as fp

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fp.__path__, "fastperceptron.")
    if not module.name.endswith(("__main__", "_core", "backends.native"))
)


#: Their examples show what only the extension can do.
NATIVE_ONLY = ("fastperceptron.embedding", "fastperceptron.peak")


@pytest.mark.parametrize("name", ["fastperceptron", *MODULES])
def test_examples(name: str) -> None:
    if name in NATIVE_ONLY and PURE:
        pytest.skip("the pure wheel has no extension")
    module = importlib.import_module(name)
    assert doctest.testmod(module, extraglobs={"fp": fp}).failed == 0


def test_there_are_examples_to_run() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = [test for name in MODULES for test in finder.find(importlib.import_module(name)) if test.examples]
    assert len(examples) > 10


@pytest.mark.parametrize("name", fp.__all__)
def test_public_names(name: str) -> None:
    item = getattr(fp, name)
    assert name in dir(fp)
    assert inspect.getdoc(item)
    if inspect.isclass(item):
        for method, function in vars(item).items():
            if not method.startswith("_") and callable(function):
                assert inspect.getdoc(getattr(item, method)), f"{name}.{method}"


@pytest.mark.parametrize("name", fp.__all__)
def test_constructors_are_described_by_their_classes_alone(name: str) -> None:
    item = getattr(fp, name)
    if inspect.isclass(item) and "__init__" in vars(item) and item.__init__.__doc__ is None:
        assert inspect.getdoc(item.__init__) == inspect.getdoc(object.__init__)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Adam7'"):
        fp.Adam7  # noqa: B018


def test_import_loads_little() -> None:
    """Only what NumPy has not loaded already: import time is a promise, and this is what it is made of."""
    code = (
        "import numpy, sys; before = set(sys.modules); import fastperceptron;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before} - {'fastperceptron'}));"
        "print('numpy.random' in sys.modules or 'numpy.ma' in set(sys.modules) - before)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded, heavy = run.stdout.splitlines()
    assert set(loaded.split()) <= {"__future__", "copy", "numpy", "signal", "threading", "weakref", "_weakrefset"}
    assert heavy == "False"


@pytest.mark.parametrize("name", ["config", "datasets", "kernels", "peak"])
def test_modules_are_loaded_when_first_named(name: str) -> None:
    code = (
        "import sys, fastperceptron as fp;"
        f"print('fastperceptron.{name}' in sys.modules, fp.{name}.__name__, 'fastperceptron.{name}' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", f"fastperceptron.{name}", "True"]

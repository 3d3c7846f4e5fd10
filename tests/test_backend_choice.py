"""Which backend is taken, and why."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pure import PURE, native_only

import fastperceptron
from fastperceptron import backends
from fastperceptron.errors import BackendUnavailableError


@pytest.fixture(autouse=True)
def _fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTPERCEPTRON_BACKEND", raising=False)
    for name in ("_chosen", "_failure", "_loaded"):
        monkeypatch.setattr(backends, name, {} if name == "_loaded" else None)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "FASTPERCEPTRON_BACKEND": "", **environment},
    )


@native_only
def test_auto_takes_the_native_backend() -> None:
    assert backends.get_backend() == "native"
    assert backends.resolve() is backends.resolve("native")
    assert backends.why() == "auto: the native extension is available"


def test_set_backend_by_name() -> None:
    backends.set_backend("numpy")
    assert backends.get_backend() == "numpy"
    assert backends.resolve().__name__ == "fastperceptron.backends.numpy"
    assert backends.why() == "set_backend"
    backends.set_backend("auto")
    assert backends.get_backend() == ("numpy" if PURE else "native")


def test_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTPERCEPTRON_BACKEND", "numpy")
    assert backends.get_backend() == "numpy"
    assert backends.why() == "FASTPERCEPTRON_BACKEND"
    backends.set_backend("auto")  # the call outranks the variable
    assert backends.get_backend() == ("numpy" if PURE else "native")


def test_unknown_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="set_backend: expected 'auto', 'native' or 'numpy'; received 'cuda'"):
        backends.set_backend("cuda")
    with pytest.raises(ValueError, match=r"backend: .* received ''"):
        backends.resolve("")
    monkeypatch.setenv("FASTPERCEPTRON_BACKEND", "Native")
    with pytest.raises(ValueError, match=r"FASTPERCEPTRON_BACKEND: .* received 'Native'"):
        backends.resolve()
    assert backends.resolve("numpy").__name__.endswith("numpy")  # an argument outranks the variable


def break_extension(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> object:
        if name == "fastperceptron._core":
            raise failure
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)


def test_auto_falls_back_without_the_extension_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = ModuleNotFoundError("No module named 'fastperceptron._core'", name="fastperceptron._core")
    break_extension(monkeypatch, missing)
    assert backends.get_backend() == "numpy"
    assert backends.why() == "auto: this installation has no native extension (a pure wheel)"
    with pytest.raises(
        BackendUnavailableError, match="'native' was asked for; this installation has no native"
    ) as info:
        backends.set_backend("native")
    assert info.value.__cause__ is missing
    assert backends.get_backend() == "numpy"


def test_a_broken_extension_is_reported_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    break_extension(monkeypatch, ImportError("undefined symbol: spam"))
    with pytest.warns(RuntimeWarning, match="undefined symbol: spam"):
        assert backends.get_backend() == "numpy"
    assert "ImportError: undefined symbol: spam" in backends.why()
    with pytest.raises(BackendUnavailableError, match="undefined symbol: spam"):
        backends.resolve("native")


@pytest.mark.skipif(not PURE, reason="only the pure wheel has none")
def test_the_pure_wheel_has_no_extension() -> None:
    assert not list(Path(fastperceptron.__file__).parent.glob("_core*.so"))
    with pytest.raises(BackendUnavailableError, match="pure wheel"):
        backends.resolve("native")


@native_only
def test_an_impossible_instruction_set_is_an_error_not_a_fallback() -> None:
    code = "import fastperceptron as fp; fp.show_config(); fp.backends.resolve()"
    result = run(code, FASTPERCEPTRON_ISA="sse9")
    assert result.returncode == 1
    assert "BackendUnavailableError: FASTPERCEPTRON_ISA: expected 'auto', or an instruction set or a path" in (
        result.stderr
    )
    assert "received 'sse9'" in result.stdout  # show_config explains instead of failing


@native_only
def test_every_usable_instruction_set_can_be_forced() -> None:
    core = importlib.import_module("fastperceptron._core")
    assert core.instruction_sets_usable()[-1] == "generic"
    for name in core.instruction_sets_usable():
        code = (
            "from fastperceptron import config; c = config.get_config();"
            "print(c['instruction_set'], c['instruction_set_reason'])"
        )
        result = run(code, FASTPERCEPTRON_ISA=name)
        assert result.stdout.split() == [name, "FASTPERCEPTRON_ISA"], result.stderr


@native_only
def test_set_instruction_set() -> None:
    core = importlib.import_module("fastperceptron._core")
    core.set_instruction_set("generic")
    assert (core.instruction_set(), core.instruction_set_reason()) == ("generic", "set_instruction_set")
    with pytest.raises(BackendUnavailableError, match="received 'mmx'"):
        core.set_instruction_set("mmx")
    assert core.instruction_set() == "generic"
    core.set_instruction_set("auto")
    assert core.instruction_set() == core.instruction_sets_usable()[0]

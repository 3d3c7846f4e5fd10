"""Which arithmetic runs: ``native`` (the C++ core) or ``numpy`` (NumPy alone), two modules with the same names.

A backend is chosen per model (``backend=``), for the process (:func:`set_backend`), or by the environment variable
``FASTPERCEPTRON_BACKEND``, in that order. "auto" takes the native backend when it can be had and else NumPy, and
:func:`why` says which and why; a backend asked for by name is that backend or an error. Both can be used side by side.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

from ..errors import BackendUnavailableError

__all__ = ["get_backend", "native_failure", "resolve", "set_backend", "why"]

_CHOICES = ("auto", "native", "numpy")
_VARIABLE = "FASTPERCEPTRON_BACKEND"
_chosen: str | None = None  # by set_backend
_failure: Exception | None = None  # why the extension could not be imported
_loaded: dict[str, ModuleType] = {}  # backends found to work


def _check(operation: str, name: str) -> str:
    if name not in _CHOICES:
        raise ValueError(f"{operation}: expected 'auto', 'native' or 'numpy'; received {name!r}")
    return name


def _is_absent(failure: Exception) -> bool:
    return isinstance(failure, ModuleNotFoundError) and failure.name == "fastperceptron._core"


def _explain(failure: Exception) -> str:
    if _is_absent(failure):
        return "this installation has no native extension (a pure wheel)"
    return f"the native extension cannot be loaded ({type(failure).__name__}: {failure})"


def native_failure() -> str | None:
    """Why the native extension cannot be imported; None when it can."""
    global _failure
    if _failure is None and "native" not in _loaded:
        try:
            importlib.import_module("fastperceptron._core")
            importlib.import_module("fastperceptron.backends.native")
        except Exception as failure:  # whatever a broken shared library raises
            _failure = failure
            if not _is_absent(failure):
                warnings.warn(f"fastperceptron: {_explain(failure)}", RuntimeWarning, stacklevel=2)
    return None if _failure is None else _explain(_failure)


def _load(name: str) -> ModuleType:
    if name in _loaded:
        return _loaded[name]
    if name == "native":
        explanation = native_failure()
        if explanation is not None:
            raise BackendUnavailableError(
                f"backend: 'native' was asked for; {explanation}", name="fastperceptron._core"
            ) from _failure
    module = importlib.import_module(f"fastperceptron.backends.{name}")
    if name == "native":
        module.check_usable()
    _loaded[name] = module
    return module


def _setting() -> tuple[str, str]:
    """The choice in force and who made it."""
    if _chosen is not None:
        return _chosen, "set_backend"
    name = os.environ.get(_VARIABLE, "")
    if name and name != "auto":
        return _check(_VARIABLE, name), _VARIABLE
    return "auto", "auto"


def _concrete(name: str) -> str:
    if name == "auto":
        return "native" if native_failure() is None else "numpy"
    return name


def resolve(name: str | None = None) -> ModuleType:
    """The module of a backend; None asks for the choice in force.

    Raises
    ------
    ValueError
        The name is not "auto", "native" or "numpy".
    BackendUnavailableError
        It was asked for by name and cannot be had, or ``FASTPERCEPTRON_ISA`` names an instruction set that
        cannot be had.
    """
    return _load(_concrete(_setting()[0] if name is None else _check("backend", name)))


def set_backend(name: str) -> None:
    """Choose the backend of models and functions from now on: "auto", "native" or "numpy".

    Models that exist keep theirs.

    Raises
    ------
    ValueError
        The name is unknown.
    BackendUnavailableError
        The native backend cannot be had here. The choice stays as it was.
    """
    global _chosen
    _load(_concrete(_check("set_backend", name)))
    _chosen = None if name == "auto" and not os.environ.get(_VARIABLE) else name


def get_backend() -> str:
    """The name of the backend in use, "native" or "numpy"."""
    name = _concrete(_setting()[0])
    _load(name)
    return name


def why() -> str:
    """Why :func:`get_backend` says what it says."""
    name, reason = _setting()
    if name != "auto":
        return reason
    failure = native_failure()
    return f"{reason}: " + ("the native extension is available" if failure is None else failure)

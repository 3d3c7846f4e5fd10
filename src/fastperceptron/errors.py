"""The errors this package raises on its own account. Each message names the operation, what was
expected and what came."""

from __future__ import annotations

__all__ = [
    "BackendUnavailableError",
    "DTypeError",
    "DivergenceWarning",
    "ModelBusyError",
    "ModelFormatError",
    "NotBuiltError",
    "ShapeError",
]


class ShapeError(ValueError):
    """An array's shape does not fit the operation."""


class DTypeError(TypeError):
    """An array's element type cannot be used by the operation."""


class ModelFormatError(ValueError):
    """A file is not a model file, or is a damaged one. Nothing of it was used."""


class NotBuiltError(RuntimeError):
    """The model has no weights yet: it must see data, or ``build``, first."""


class ModelBusyError(RuntimeError):
    """The model is in use: by another thread that changes it or reads what this call would change, or by the call
    around this one (a callback of ``fit`` that calls ``fit``)."""


class BackendUnavailableError(ImportError):
    """A backend was asked for by name and cannot be had."""


class DivergenceWarning(RuntimeWarning):
    """The loss or weights became infinite or NaN in training."""

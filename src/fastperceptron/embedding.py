"""Building extensions in C, C++ or Cython on top of this package: see docs/embedding.md."""

from __future__ import annotations

from pathlib import Path

from . import backends
from .errors import BackendUnavailableError

__all__ = ["get_include"]


def get_include() -> str:
    """The folder of ``fastperceptron.h``, for a compiler's ``-I``.

    ``from fastperceptron cimport cython_api`` needs it as well.

    Raises
    ------
    BackendUnavailableError
        This installation has no native extension, so that there is nothing to call.

    >>> import fastperceptron as fp
    >>> fp.get_include()  # doctest: +ELLIPSIS
    '...include'
    """
    failure = backends.native_failure()
    if failure is not None:
        raise BackendUnavailableError(
            f"get_include: expected the native extension, whose functions fastperceptron.h declares; {failure}"
        )
    return str(Path(__file__).parent / "include")

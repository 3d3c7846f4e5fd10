"""Which wheel the tests meet: FASTPERCEPTRON_PURE=1 says that it is the one without the extension."""

from __future__ import annotations

import os

import pytest

#: The pure wheel has one backend; anywhere else a missing extension is a failure, never a skip.
PURE = os.environ.get("FASTPERCEPTRON_PURE") == "1"
BACKENDS = ("numpy",) if PURE else ("numpy", "native")

native_only = pytest.mark.skipif(PURE, reason="the pure wheel has no extension")

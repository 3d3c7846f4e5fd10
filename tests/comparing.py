"""What the tests of benchmarks/compare.py share."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pure import PURE

FOLDER = Path(__file__).parent.parent / "benchmarks"

NEEDS = [
    pytest.mark.skipif(PURE, reason="it measures the native engine"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no benchmarks beside the tests"),
]


def module(name: str) -> ModuleType:
    """A module of the benchmarks, which find one another on the path."""
    if str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    return importlib.import_module(name)


def entry(*rounds: float, bfloat16: bool = False, reason: str | None = None) -> dict[str, Any]:
    return {"rounds": list(rounds), "bfloat16": bfloat16, "reason": reason}

"""Fixtures that the tests of the API share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest
from pure import BACKENDS

import fastperceptron as fp

# A shell's background jobs ignore Ctrl-C, and so would the programs that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each backend in turn, in force for the test. Asking for one that is missing raises."""
    fp.set_backend(request.param)
    yield request.param
    fp.set_backend("auto")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)

"""NumPy's matrix product, as one that forks wait for.

BLAS libraries have locks and threads of their own. A child that is forked while another thread is inside OpenBLAS finds
a lock that nobody will release, and the parent's product waits for threads that the fork has ended.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["matmul"]

Array = NDArray[Any]

#: A fork waits no longer than this: products are cut into pieces of some tens of milliseconds.
_LONGEST_WAIT = 5.0
_PAUSE = 0.0002

# Threads by number, since each enters and leaves by one step that nothing interrupts: those with a product under way,
# and those that are about to fork.
_multiplying: set[int] = set()
_forking: set[int] = set()


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a b. No other thread forks meanwhile."""
    me = threading.get_ident()
    try:
        _multiplying.add(me)
        while _forking - {me}:
            _multiplying.discard(me)
            time.sleep(_PAUSE)
            _multiplying.add(me)
        return np.matmul(a, b, out=out)
    finally:
        _multiplying.discard(me)


def _before_fork() -> None:
    me = threading.get_ident()
    _forking.add(me)
    end = time.monotonic() + _LONGEST_WAIT
    while _multiplying - {me} and time.monotonic() < end:
        time.sleep(_PAUSE)


def _after_fork_in_parent() -> None:
    _forking.discard(threading.get_ident())


def _after_fork_in_child() -> None:
    _forking.clear()
    _multiplying.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)

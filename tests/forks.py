"""Marks of tests that fork: where they cannot, and what sanitizers' runtimes do not survive."""

from __future__ import annotations

import os

import pytest

_PRELOADED = os.environ.get("LD_PRELOAD", "")

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
# A thread that is in AddressSanitizer's malloc at a fork leaves it locked for the child (GCC 12; once in 30 times).
no_asan = pytest.mark.skipif("libasan" in _PRELOADED, reason="the sanitizer's malloc may be locked")
# Where threads of OpenMP live at a fork, the child's own get their ids, and ThreadSanitizer ends it: "dup thread with
# used id" (GCC 12; it ends a program of thirty lines without this package as well).
no_tsan = pytest.mark.skipif("libtsan" in _PRELOADED, reason="the sanitizer ends such a child")

"""Who may use a model at this moment: one thread that changes it, or any number that only read.

Nothing waits: a conflict is a mistake in the caller's program and raises ModelBusyError. The thread that changes a
model may also read it (callbacks call ``predict``). A child made by ``os.fork`` starts with nobody inside.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import ModelBusyError

__all__ = ["Ownership"]


class Ownership:
    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._process = os.getpid()
        self._writer: int | None = None
        self._doing = ""
        self._readers: dict[int, int] = {}

    def __reduce__(self) -> tuple[type[Ownership], tuple[()]]:
        return Ownership, ()

    @contextmanager
    def writing(self, operation: str) -> Iterator[bool]:
        """Held while the model's state changes; the holder may enter again. Gives whether this is the outermost time."""
        if self._process != os.getpid():
            self._reset()
        me = threading.get_ident()
        process = self._process
        with self._mutex:
            if self._writer not in (None, me):
                raise self.busy(operation, f"another thread, in {self._doing}")
            if any(thread != me for thread in self._readers):
                raise self.busy(operation, "a thread that reads it")
            outermost = self._writer is None
            if outermost:
                self._writer, self._doing = me, operation
        try:
            yield outermost
        finally:
            if outermost and self._process == process == os.getpid():
                with self._mutex:
                    self._writer, self._doing = None, ""

    @contextmanager
    def reading(self, operation: str) -> Iterator[None]:
        """Held while the model's state is read."""
        if self._process != os.getpid():
            self._reset()
        me = threading.get_ident()
        process = self._process
        with self._mutex:
            if self._writer not in (None, me):
                raise self.busy(operation, f"another thread, in {self._doing}")
            self._readers[me] = self._readers.get(me, 0) + 1
        try:
            yield
        finally:
            if self._process == process == os.getpid():
                with self._mutex:
                    self._readers[me] -= 1
                    if not self._readers[me]:
                        del self._readers[me]

    @staticmethod
    def busy(operation: str, doing: str) -> ModelBusyError:
        """The error for an operation that meets another in progress."""
        return ModelBusyError(
            f"{operation}: expected a model that is not in use; received one that is in use by {doing}"
        )

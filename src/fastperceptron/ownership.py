"""Who may use a model at this moment: one thread that changes it, or any number that only read.

Nothing waits: a conflict is a mistake in the caller's program and raises ModelBusyError. The thread that changes a
model may also read it (callbacks call ``predict``). A child made by ``os.fork`` starts with nobody inside.
"""

from __future__ import annotations

import os
from threading import Lock, get_ident

from .errors import ModelBusyError

__all__ = ["Ownership"]


class Ownership:
    """Of one model: ``with ownership.writing("fit"):`` and ``with ownership.reading("predict"):``."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Nobody is inside."""
        self.mutex = Lock()
        self.process = os.getpid()
        self.writer: int | None = None
        self.doing = ""
        self.readers: dict[int, int] = {}

    def writing(self, operation: str) -> _Writing:
        """Held while the model's state changes; the holder may enter again. Gives whether this is the outermost."""
        return _Writing(self, operation)

    def reading(self, operation: str) -> _Reading:
        """Held while the model's state is read."""
        return _Reading(self, operation)

    @staticmethod
    def busy(operation: str, doing: str) -> ModelBusyError:
        """The error for an operation that meets another in progress."""
        return ModelBusyError(
            f"{operation}: expected a model that is not in use; received one that is in use by {doing}"
        )


# Classes, not generators: every prediction passes here, and these take a fifth of the time.
class _Writing:
    __slots__ = ("_operation", "_outermost", "_owner", "_process")

    def __init__(self, owner: Ownership, operation: str) -> None:
        self._owner = owner
        self._operation = operation

    def __enter__(self) -> bool:
        owner, me = self._owner, get_ident()
        self._process = os.getpid()
        if owner.process != self._process:
            owner.reset()
        with owner.mutex:
            if owner.writer not in (None, me):
                raise owner.busy(self._operation, f"another thread, in {owner.doing}")
            if any(thread != me for thread in owner.readers):
                raise owner.busy(self._operation, "a thread that reads it")
            self._outermost = owner.writer is None
            if self._outermost:
                owner.writer, owner.doing = me, self._operation
        return self._outermost

    def __exit__(self, *exception: object) -> None:
        owner = self._owner
        # A child forked inside the block has not entered it.
        if self._outermost and owner.process == self._process == os.getpid():
            with owner.mutex:
                owner.writer, owner.doing = None, ""


class _Reading:
    __slots__ = ("_operation", "_owner", "_process")

    def __init__(self, owner: Ownership, operation: str) -> None:
        self._owner = owner
        self._operation = operation

    def __enter__(self) -> None:
        owner, me = self._owner, get_ident()
        self._process = os.getpid()
        if owner.process != self._process:
            owner.reset()
        with owner.mutex:
            if owner.writer is not None and owner.writer != me:
                raise owner.busy(self._operation, f"another thread, in {owner.doing}")
            owner.readers[me] = owner.readers.get(me, 0) + 1

    def __exit__(self, *exception: object) -> None:
        owner, me = self._owner, get_ident()
        if owner.process == self._process == os.getpid():
            with owner.mutex:
                owner.readers[me] -= 1
                if not owner.readers[me]:
                    del owner.readers[me]

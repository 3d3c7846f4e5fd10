"""Who may use a model at this moment: one thread that changes it, or any number that only read.

Nothing waits: a conflict is a mistake in the caller's program and raises ModelBusyError. The thread that changes a
model may also read it (callbacks call ``predict``). A child made by ``os.fork`` starts with nobody inside.
"""

from __future__ import annotations

import os
import sys
from threading import RLock, get_ident

from .errors import ModelBusyError

__all__ = ["Ownership"]


class Ownership:
    """Of one model: ``with ownership.writing("fit"):`` and ``with ownership.reading("predict"):``, in a function and
    not in a generator, which may stand still."""

    def __init__(self) -> None:
        self.writing_now = False
        self._inside: dict[int, _Inside] = {}  # by process

    def inside(self, process: int) -> _Inside:
        """Who is inside in this process. The first threads of a child get the same answer (setdefault is atomic)."""
        return self._inside.get(process) or self._inside.setdefault(process, _Inside())

    def writing(self, operation: str) -> _Use:
        """Held while the model's state changes; the holder may enter again. Gives the operation of its thread around
        this one, or None."""
        return _Use(self, operation, True)

    def reading(self, operation: str) -> _Use:
        """Held while the model's state is read."""
        return _Use(self, operation, False)

    @staticmethod
    def busy(operation: str, doing: str) -> ModelBusyError:
        """The error for an operation that meets another in progress."""
        return ModelBusyError(
            f"{operation}: expected a model that is not in use; received one that is in use by {doing}"
        )


class _Inside:
    """A signal's handler may come in between any two steps of those who hold the mutex, and uses the model in their
    thread: it finds the mutex open, and leaves ``uses``, where each step is a whole one, as it was."""

    __slots__ = ("mutex", "uses")

    def __init__(self) -> None:
        self.mutex = RLock()
        self.uses: dict[_Use, None] = {}


# A class, not a generator: every prediction passes here, and this takes a fifth of the time.
class _Use:
    __slots__ = ("_frame", "_inside", "_operation", "_owner", "_process", "_thread", "_writes")

    def __init__(self, owner: Ownership, operation: str, writes: bool) -> None:
        self._owner = owner
        self._operation = operation
        self._writes = writes

    def __enter__(self) -> str | None:
        owner, me = self._owner, get_ident()
        self._thread, self._process, self._frame = me, os.getpid(), sys._getframe(1)
        inside = self._inside = owner.inside(self._process)
        with inside.mutex:
            around, writing = None, self._writes
            for use in tuple(inside.uses) if inside.uses else ():
                if not use._in_progress():
                    inside.uses.pop(use, None)
                elif use._thread == me:
                    around, writing = use._operation, writing or use._writes
                elif use._writes:
                    raise owner.busy(self._operation, f"another thread, in {use._operation}")
                elif self._writes:
                    raise owner.busy(self._operation, "a thread that reads it")
            inside.uses[self] = None
            owner.writing_now = writing
        return around

    def __exit__(self, *exception: object) -> None:
        if self._process != os.getpid():
            return  # a child forked inside the block has not entered it
        inside = self._inside
        with inside.mutex:
            inside.uses.pop(self, None)
            self._owner.writing_now = bool(inside.uses) and any(use._writes for use in tuple(inside.uses))

    def _in_progress(self) -> bool:
        """Whether the function with the block still runs. A signal that arrives while the block is entered or left may
        raise an exception (Ctrl-C) where nobody can say any more that it has ended.

        Of the frame of a function that runs nothing can be cleared; that of one that has ended loses its variables. (To
        look for it among the frames of a thread that runs on is no answer, and can crash the interpreter.)"""
        try:
            self._frame.clear()
        except RuntimeError:
            return True
        return False

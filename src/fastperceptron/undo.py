"""Changes of several steps, one of which may fail or meet Ctrl-C: whole, or as if they had not begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["as_before_on_failure", "wholly"]


@contextmanager
def as_before_on_failure(*objects: Any) -> Iterator[None]:
    """The attributes of these objects, and what stood in their lists, are again as before when the block raises."""
    before = [(thing, dict(vars(thing))) for thing in objects]
    lists = [
        (value, list(value)) for _, attributes in before for value in attributes.values() if isinstance(value, list)
    ]
    try:
        yield
    except BaseException:
        for value, items in lists:
            value[:] = items
        for thing, attributes in before:
            vars(thing).update(attributes)  # first: other threads may be reading them
            for name in vars(thing).keys() - attributes.keys():
                del vars(thing)[name]
        raise


def wholly(write: Callable[[], None]) -> None:
    """Calls `write`, which may be called again: what stopped it half-way is raised when it is done."""
    try:
        write()
    except BaseException:
        write()
        raise

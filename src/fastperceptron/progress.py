"""What ``fit``, ``evaluate`` and ``predict`` show: a bar in a terminal or notebook, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any, TextIO

from .checks import is_integer

__all__ = ["SILENT", "Bar", "Lines", "Notebook", "Silent", "progress_for"]

_REDRAW_SECONDS = 0.1
_BAR_WIDTH = 20


class Silent:
    """verbose=0."""

    def begin(self, label: str, steps: int) -> None:
        """An epoch, or other work of so many steps, begins."""

    def is_due(self) -> bool:
        """Whether ``update`` would draw now; computing logs for it is worth the time only then."""
        return False

    def update(self, step: int, logs: Mapping[str, float]) -> None:
        """So many steps are done."""

    def end(self, logs: Mapping[str, float]) -> None:
        """It is over."""

    def close(self) -> None:
        """Nothing more will come, perhaps in the middle of an epoch."""


#: It keeps nothing, so one is enough.
SILENT = Silent()


class Lines(Silent):
    """One line per epoch, without control characters: for log files and verbose=2."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def begin(self, label: str, steps: int) -> None:
        self._label = label
        self._steps = steps
        self._began = monotonic()

    def end(self, logs: Mapping[str, float]) -> None:
        self._write(self._final(logs) + "\n")

    def _final(self, logs: Mapping[str, float]) -> str:
        return f"{self._label}  {_duration(monotonic() - self._began)}{_numbers(logs)}"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Bar(Lines):
    """A line that is drawn anew, at most ten times a second."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._drawn = 0
        self._open = False

    def begin(self, label: str, steps: int) -> None:
        super().begin(label, steps)
        self._next = self._began + _REDRAW_SECONDS

    def is_due(self) -> bool:
        return monotonic() >= self._next

    def update(self, step: int, logs: Mapping[str, float]) -> None:
        now = monotonic()
        self._next = now + _REDRAW_SECONDS
        left = (now - self._began) / max(step, 1) * (self._steps - step)
        full = _BAR_WIDTH * step // max(self._steps, 1)
        bar = "=" * full + (">" if full < _BAR_WIDTH else "") + "." * (_BAR_WIDTH - full - 1)
        count = f"{step:>{len(str(self._steps))}}/{self._steps}"
        self._draw(f"{self._label}  [{bar}] {count}  ETA {_duration(left)}{_numbers(logs)}")

    def end(self, logs: Mapping[str, float]) -> None:
        # This line stays: it is written whole, and may wrap. What is left of the bar is overwritten with spaces.
        self._write("\r" + self._final(logs).ljust(self._drawn) + "\n")
        self._open, self._drawn = False, 0

    def close(self) -> None:
        if self._open:
            self._write("\n")
            self._open, self._drawn = False, 0

    def _draw(self, line: str) -> None:
        import shutil

        # A line as wide as the terminal would wrap, and a carriage return could not take it back.
        line = line[: max(shutil.get_terminal_size().columns - 1, 20)]
        self._write("\r" + line + " " * (self._drawn - len(line)))
        self._drawn, self._open = len(line), True


class Notebook(Bar):
    """The same in a notebook's output cell: the last epochs and the bar, replaced as a whole."""

    _KEPT = 12

    def __init__(self, display: Any) -> None:
        super().__init__(sys.stdout)
        self._display = display
        self._handle: Any = None
        self._lines: list[str] = []

    def end(self, logs: Mapping[str, float]) -> None:
        self._lines.append(self._final(logs))
        self._show(self._lines)

    def close(self) -> None:
        """The output stands as it is."""

    def _draw(self, line: str) -> None:
        self._show([*self._lines, line])

    def _show(self, lines: list[str]) -> None:
        bundle = {"text/plain": "\n".join(lines[-self._KEPT :])}
        if self._handle is None:
            self._handle = self._display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def progress_for(verbose: Any, operation: str, stream: TextIO | None = None) -> Silent:
    """The display for `verbose`: 0 nothing, 1 or "auto" what suits the output, 2 a line per epoch."""
    if not (is_integer(verbose) or isinstance(verbose, (bool, str))) or verbose not in (0, 1, 2, "auto"):
        raise ValueError(f"{operation}: verbose must be 0, 1, 2 or 'auto'; received {verbose!r}")
    if verbose == 0:
        return SILENT
    stream = sys.stdout if stream is None else stream
    if stream is None:  # pythonw has no output
        return SILENT
    if verbose == 2:
        return Lines(stream)
    display = _notebook_display() if stream is sys.stdout else None
    if display is not None:
        return Notebook(display)
    isatty = getattr(stream, "isatty", None)
    return Bar(stream) if isatty is not None and isatty() else Lines(stream)


def _notebook_display() -> Any:
    """IPython's display function when this is a notebook's kernel. IPython is never imported for it."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    module = sys.modules.get("IPython.display") or sys.modules.get("IPython.core.display_functions")
    return getattr(module, "display", None)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _numbers(logs: Mapping[str, float]) -> str:
    return "".join(f"  {name} {_number(value)}" for name, value in logs.items())


def _number(value: float) -> str:
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3e}"

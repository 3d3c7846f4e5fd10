"""What a profile says: a row for each part of a training step, and the table of them."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Profile", "ProfileRow"]


class ProfileRow(NamedTuple):
    """One line of a profile; Profile says what the times and bytes are."""

    layer: str
    part: str  # "gather", "forward", "loss", "backward" or "update"
    seconds: float
    flop: float  # of the dense products, a multiply-add being two; other arithmetic is not counted
    bytes: float
    path: str  # what did the work

    @property
    def flop_per_second(self) -> float:
        return self.flop / self.seconds if self.seconds else 0.0


class Profile:
    """What ``model.profile`` returns; ``str(profile)`` is the table.

    ``rows`` are the parts of a step, each run and timed on its own; ``step_seconds`` is a whole step as ``fit`` runs
    it, its parts fused, which takes less than their sum; by AMX it also keeps what is between two dense layers packed
    in bfloat16, where the parts, run apart, hand on float32. ``call_seconds`` is the price of a call of the backend
    that does nothing: every row contains it, but for those that run in Python.

    Each of these times is the least of all samples, five or more. What else the machine does makes a sample longer,
    never shorter: they are the times of steps left in peace, which ``fit`` on a busy machine exceeds. ``is_disturbed``:
    the machine is so busy that even of the least samples the calling thread had a CPU for less than 0.8 of the time, or
    the whole step took a quarter longer than its parts (other threads lacked one), although they were taken for three
    times as long as wanted. Then all times are too long.

    ``bytes`` of a row are what its part, run apart, has to move: what it reads and what it writes, each once, however
    often caches fetch it. Numbers have 4 bytes (in float64 8). The native backend's products also read copies of the
    weights, which the update writes: transposed ones for the gradients of values, and in mixed precision, for all
    products, ones that are packed in bfloat16 and have 2 bytes a number. What else a product packs, it makes from
    float32 values and throws away; that does not count.

    ``peak`` is the flop per second that the step's threads reach in registers, or None on the NumPy backend.
    ``peak_is_low``: it was measured too low, several times, since the machine was busy: a row is faster, or several
    threads reach less than 0.8 times their number times what one does (or they share a core and never do). Shares of
    such a peak are too high.

    ``flop`` are those of whole products. Products of mostly zero inputs leave out most multiplications by zero (AVX-512
    and AVX2); their ``path`` says so, and they may seem faster than the peak.
    """

    def __init__(
        self,
        title: str,
        rows: list[ProfileRow],
        step_seconds: float,
        call_seconds: float,
        is_disturbed: bool,
        peak: float | None,
        peak_is_low: bool,
    ) -> None:
        self.title = title
        self.rows = rows
        self.step_seconds = step_seconds
        self.call_seconds = call_seconds
        self.is_disturbed = is_disturbed
        self.peak = peak
        self.peak_is_low = peak_is_low

    @property
    def flop(self) -> float:
        """Of the dense products of one step."""
        return sum(row.flop for row in self.rows)

    def __str__(self) -> str:
        header = ("layer", "part", "time", "of step", "GFLOP/s", "of peak", "bytes", "path")
        apart = sum(row.seconds for row in self.rows)
        lines = [header, *(self._cells(row, apart) for row in self.rows)]
        total = ProfileRow("total", "apart", apart, self.flop, sum(row.bytes for row in self.rows), "")
        fused = total._replace(layer="whole step", part="fused", seconds=self.step_seconds, bytes=0.0)
        lines += [self._cells(total, apart), self._cells(fused, 0.0)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
        text = [_aligned(line, widths) for line in lines]
        rule = "-" * max(map(len, text))
        notes = [
            "Times are the least of all samples, so as to be those of steps that nothing else disturbs.",
            f"Every part that does not run in Python contains a call, about {_time(self.call_seconds)}.",
        ]
        if self.is_disturbed:
            notes.append("The machine is too busy for that: these times are too long.")
        if self.peak is not None:
            notes.append(f"Peak of multiply-adds in registers: {self.peak / 1e9:.0f} GFLOP/s.")
        if self.peak_is_low:
            notes.append("The machine is busy (or its threads share a core): shares of peak are too high.")
        return "\n".join([self.title, rule, text[0], rule, *text[1:-2], rule, *text[-2:], rule, *notes])

    def _cells(self, row: ProfileRow, whole: float) -> tuple[str, ...]:
        speed = row.flop_per_second
        return (
            row.layer,
            row.part,
            _time(row.seconds),
            f"{100 * row.seconds / whole:.0f} %" if whole else "",
            f"{speed / 1e9:.1f}" if speed else "",
            f"{100 * speed / self.peak:.0f} %" if speed and self.peak else "",
            _size(row.bytes) if row.bytes else "",
            row.path,
        )


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _size(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    left = (0, 1, 7)
    return "  ".join(
        cell.ljust(width) if column in left else cell.rjust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()

"""Where the time of a training step goes: per layer and pass, beside what the machine could do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import config
from .layers import Layer
from .program import NEEDS_Z, PRECISIONS, Operation, Program
from .segments import Segments

if TYPE_CHECKING:
    from .fitting import Rows
    from .models import Model

__all__ = ["Profile", "ProfileRow", "profile"]

_MOST_SECONDS = 86_400


class ProfileRow(NamedTuple):
    """One line of a profile; times are medians."""

    layer: str
    part: str  # "gather", "forward", "loss", "backward" or "update"
    seconds: float
    flop: float  # of the dense products, a multiply-add being two; other arithmetic is not counted
    bytes: float  # that must be read or written at least once
    path: str  # what did the work

    @property
    def flop_per_second(self) -> float:
        return self.flop / self.seconds if self.seconds else 0.0


class Profile:
    """What ``model.profile`` returns; ``str(profile)`` is the table.

    ``rows`` are the parts of a step, each run and timed on its own; ``step_seconds`` is a whole step as ``fit`` runs
    it, its parts fused, which takes less than their sum; by AMX it also keeps what is between two dense layers packed
    in bfloat16, where the parts, run apart, hand on float32. ``call_seconds`` is the price of a call that does nothing:
    every row contains it. ``peak`` is the flop per second that the step's threads reach in registers, or None on the
    NumPy backend.
    """

    def __init__(
        self, title: str, rows: list[ProfileRow], step_seconds: float, call_seconds: float, peak: float | None
    ) -> None:
        self.title = title
        self.rows = rows
        self.step_seconds = step_seconds
        self.call_seconds = call_seconds
        self.peak = peak

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
        note = f"Every row but the last contains its own call, about {_time(self.call_seconds)}."
        if self.peak is not None:
            note = f"Peak of multiply-adds in registers: {self.peak / 1e9:.0f} GFLOP/s. " + note
        return "\n".join([self.title, rule, text[0], rule, *text[1:-2], rule, *text[-2:], rule, note])

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


def profile(model: Model, x: Any, y: Any, sample_weight: Any, seconds: Any) -> Profile:
    """Times the parts of one step of a copy of `model` on these rows, again and again for about `seconds`."""
    number = isinstance(seconds, (int, float, np.integer, np.floating)) and not isinstance(seconds, bool)
    if not number or not 0 < seconds <= _MOST_SECONDS:
        raise ValueError(
            f"profile: seconds must be a positive number, {_MOST_SECONDS} at most; received {seconds!r:.100}"
        )
    model._ready("profile")
    with model._ownership.reading("profile"):
        twin = model.copy()
    network, graph, compiled = twin._network, twin._graph, twin._compiled
    assert network is not None
    assert graph is not None
    assert compiled is not None
    compiled.optimizer.learning_rate = 0.0  # the same batch over and over would lead it anywhere
    twin._push()
    rows = twin._check_data(graph, "profile", x, y, sample_weight)
    weights = rows.cast_weights(PRECISIONS[twin.dtype])
    n = rows.n

    def whole_step() -> None:
        assert twin._runner is not None
        twin._runner.train_steps(rows.x, rows.y, weights, None, n, 0, n, 0.0)

    step_seconds = median(_times(whole_step, seconds / 3))
    network.load_batch(rows.x, None, None, None, 0, n)
    call_seconds = median(_times(lambda: network.forward(0, 0, True), min(seconds / 30, 0.01)))
    clock = _Clock()
    judges = [judge._replace(metrics=[]) for judge in twin._judges]
    optimizer = compiled.optimizer if compiled.optimizer.native() is None else None
    steps = _Steps(clock, _Watched(network, clock), graph.shapes, judges, optimizer)
    steps.set_trainable([weight.trainable and layer.trainable for weight, layer in graph.owners])

    def parted_step() -> None:
        steps.train_steps(rows.x, rows.y, weights, None, n, 0, n, 0.0)

    _times(parted_step, seconds * 2 / 3, clock.next)
    in_python = any(judge.loss is not None and judge.loss.native() is None for judge in judges)
    described = _described(network, n, rows, in_python, optimizer)
    listed = [row._replace(seconds=clock.median(row.part, index)) for index, row in described]
    step = f"one training step of {n} rows, {twin.dtype}, {_machine(network, n)}"
    title = f"{type(model).__name__} {model.name!r}: {step}"
    return Profile(title, listed, step_seconds, call_seconds, _peak(twin.dtype, network, n))


# -- timing ------------------------------------------------------------------------------------------------------


class _Clock:
    """Seconds per (part, operation) of the present step, and the steps before it."""

    def __init__(self) -> None:
        self._steps: list[dict[tuple[str, int], float]] = []
        self.next()

    def next(self) -> None:
        self._steps.append(defaultdict(float))

    def time(self, part: str, index: int, call: Callable[[], Any]) -> Any:
        start = perf_counter()
        result = call()
        self._steps[-1][part, index] += perf_counter() - start
        return result

    def median(self, part: str, index: int) -> float:
        # The first step made the workspace, the last entry was begun and never used.
        steps = self._steps[1:-1] or self._steps[:1]
        return median(step[part, index] for step in steps)


class _Watched:
    """A network whose pieces are timed; all else is the network's."""

    def __init__(self, network: Any, clock: _Clock) -> None:
        self._network, self._clock = network, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def load_batch(self, *arguments: Any) -> Any:
        return self._clock.time("gather", -1, lambda: self._network.load_batch(*arguments))

    def forward(self, first: int, last: int, training: bool) -> Any:
        return self._clock.time("forward", first, lambda: self._network.forward(first, last, training))

    def loss(self, training: bool) -> Any:
        return self._clock.time("loss", -1, lambda: self._network.loss(training))

    def backward(self, first: int, last: int) -> Any:
        return self._clock.time("backward", first, lambda: self._network.backward(first, last))

    def update(self) -> Any:
        return self._clock.time("update", -1, self._network.update)


class _TimedLayer:
    """A layer written in Python whose passes are timed."""

    def __init__(self, layer: Layer, index: int, clock: _Clock) -> None:
        self._layer, self._index, self._clock = layer, index, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def forward(self, x: Any, training: bool) -> Any:
        return self._clock.time("forward", self._index, lambda: self._layer.forward(x, training))

    def backward(self, dy: Any, saved: Any) -> Any:
        return self._clock.time("backward", self._index, lambda: self._layer.backward(dy, saved))


class _Steps(Segments):
    """Steps in which every operation is a segment of its own."""

    def __init__(self, clock: _Clock, network: Any, *arguments: Any) -> None:
        super().__init__(network, *arguments)
        self._clock = clock
        self._operations = tuple(
            op._replace(layer=_TimedLayer(op.layer, index, clock)) if op.kind == "python" else op
            for index, op in enumerate(self._operations)
        )
        self._segments = [
            segment._replace(first=index, last=index + 1)
            for segment in self._segments
            for index in range(segment.first, segment.last)
        ]

    def _judge(self, *arguments: Any) -> Any:
        return self._clock.time("loss", -1, lambda: super(_Steps, self)._judge(*arguments))

    def _update(self, optimizer: Any) -> None:
        self._clock.time("update", -1, lambda: super(_Steps, self)._update(optimizer))


def _times(call: Callable[[], Any], seconds: float, after: Callable[[], Any] = lambda: None) -> list[float]:
    """How long each of many calls took; three at least."""
    times: list[float] = []
    end = perf_counter() + seconds
    while len(times) < 3 or (perf_counter() < end and len(times) < 10_000):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
        after()
    return times


# -- what each part has to do ------------------------------------------------------------------------------------


def _described(
    network: Any, n: int, rows: Rows, loss_in_python: bool, optimizer: Any
) -> Iterable[tuple[int, ProfileRow]]:
    """The rows of the table without times, in the order of a step, with the number of their operation."""
    program: Program = network.program
    item = np.dtype(program.array_dtype).itemsize
    engine = f"native {_instruction_set()}" if network.backend == "native" else "numpy"
    paths = {index: _path(op, engine, network.product_path()) for index, op in enumerate(program.operations)}
    given = sum(array.nbytes for arrays in rows for array in arrays if array is not None)
    learns = [False] * len(program.widths)  # parameters are below the value
    for op in program.operations:
        learns[op.output] = bool(op.parameters) or any(learns[v] for v in op.inputs)
    yield -1, ProfileRow("batch", "gather", 0.0, 0.0, given + n * program.widths[0] * item, engine)
    for index, op in enumerate(program.operations):
        if op.kind == "columns":  # a view
            continue
        flop, elements = _forward(program, op, n)
        yield index, ProfileRow(op.name, "forward", 0.0, flop, elements * item, paths[index])
    out = n * sum(program.widths[v] for v in program.outputs)
    yield -1, ProfileRow("loss", "loss", 0.0, 0.0, 3 * out * item, "Python" if loss_in_python else engine)
    for index in range(len(program.operations) - 1, -1, -1):
        op = program.operations[index]
        if op.kind == "columns":
            continue
        flop, elements = _backward(program, op, n, any(learns[v] for v in op.inputs))
        yield index, ProfileRow(op.name, "backward", 0.0, flop, elements * item, paths[index])
    sizes = sum(int(np.prod(parameter.shape)) for parameter in program.parameters)
    update = "Python" if optimizer is not None else engine
    yield -1, ProfileRow("optimizer", "update", 0.0, 0.0, 3 * sizes * item, update)


def _forward(program: Program, op: Operation, n: int) -> tuple[float, float]:
    """Flop of the products, and elements that are read or written."""
    read, written = n * sum(program.widths[v] for v in op.inputs), n * program.widths[op.output]
    elements = read + written * (2 if op.kind == "dense" and op.activation in NEEDS_Z else 1)
    if op.kind != "dense":
        return 0.0, elements
    weights = sum(int(np.prod(program.parameters[p].shape)) for p in op.parameters)
    return 2.0 * n * np.prod(program.parameters[op.parameters[0]].shape), elements + weights


def _backward(program: Program, op: Operation, n: int, needed: bool) -> tuple[float, float]:
    read, written = n * program.widths[op.output], n * sum(program.widths[v] for v in op.inputs) * needed
    if op.kind != "dense":
        return 0.0, 2 * read + written
    size = float(np.prod(program.parameters[op.parameters[0]].shape))
    # dw = x^T dz reads x and dz and writes dw; dx = dz w^T reads dz, w and what the derivative needs, and writes dx.
    elements = read + n * sum(program.widths[v] for v in op.inputs) + size + (read + size + 2 * written) * needed
    return 2.0 * n * size * (2 if needed else 1), elements


def _path(op: Operation, engine: str, product: str) -> str:
    if op.kind == "python":
        return "Python"
    return f"{engine}, product {product}" if op.kind == "dense" else engine


def _instruction_set() -> str:
    core = config._core()
    return str(core.instruction_set()) if core is not None else ""


def _machine(network: Any, n: int) -> str:
    if network.backend != "native":
        return "numpy backend"
    threads = network.useful_threads(n, True)
    return f"native backend, {_instruction_set()}, {threads} thread{'s' if threads > 1 else ''}"


def _peak(dtype: str, network: Any, n: int) -> float | None:
    from .peak import peak_flops

    if network.backend != "native":
        return None
    return peak_flops("bfloat16" if dtype == "mixed_bfloat16" else dtype, network.useful_threads(n, True))


# -- text --------------------------------------------------------------------------------------------------------


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

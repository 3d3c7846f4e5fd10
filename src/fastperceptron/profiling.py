"""Where the time of a training step goes: per layer and pass, beside what the machine could do."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import config
from .checks import is_number
from .layers import Layer
from .program import NEEDS_Z, PRECISIONS, Operation, Program
from .segments import Segments

if TYPE_CHECKING:
    from .fitting import Rows
    from .models import Model

__all__ = ["Profile", "ProfileRow", "profile"]

_MOST_SECONDS = 86_400


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


def profile(model: Model, x: Any, y: Any, sample_weight: Any, seconds: Any) -> Profile:
    """Times the parts of one step of a copy of `model` on these rows, again and again for about `seconds`."""
    if not is_number(seconds) or not 0 < seconds <= _MOST_SECONDS:
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

    metrics_in_python = any(metric.native() is None for judge in twin._judges for metric in judge.metrics)
    clock, runner = _Clock(not metrics_in_python), twin._runner
    assert runner is not None

    def whole_step() -> None:
        clock.time("step", -1, lambda: runner.train_steps(rows.x, rows.y, weights, None, n, 0, n, 0.0))
        clock.next()

    judges = [judge._replace(metrics=[]) for judge in twin._judges]
    optimizer = compiled.optimizer if compiled.optimizer.native() is None else None
    steps = _Steps(clock, _Watched(network, clock), graph.shapes, judges, optimizer)
    trainable = [weight.trainable and layer.trainable for weight, layer in graph.owners]
    steps.set_trainable(trainable)

    def parted_step() -> None:
        steps.train_steps(rows.x, rows.y, weights, None, n, 0, n, 0.0)
        clock.time("call", -1, lambda: network.forward(0, 0, True))
        clock.next()

    for turn in range(_MOST_TURNS):
        _repeat(whole_step, seconds / 3 / _TURNS)
        _repeat(parted_step, seconds * 2 / 3 / _TURNS)
        if turn + 1 >= _TURNS and not clock.is_disturbed():
            break
    in_python = any(judge.loss is not None and judge.loss.native() is None for judge in judges)
    described = _described(network, n, rows, trainable, in_python, optimizer)
    listed = [row._replace(seconds=clock.least(row.part, index)) for index, row in described]
    step = f"one training step of {n} rows, {twin.dtype}, {_machine(network, n)}"
    title = f"{type(model).__name__} {model.name!r}: {step}"
    whole = (row for row in listed if not row.path.endswith(_LEFT_OUT))
    peak, peak_is_low = _peak(twin.dtype, network, n, max(row.flop_per_second for row in whole))
    step_seconds, call_seconds = clock.least("step", -1), clock.least("call", -1)
    return Profile(title, listed, step_seconds, call_seconds, clock.is_disturbed(), peak, peak_is_low)


# -- timing ------------------------------------------------------------------------------------------------------

# Whole steps and steps in parts take turns, so that a busy moment meets both.
_TURNS = 5
_MOST_TURNS = 15  # while even the least samples are disturbed
_LEAST_CPU = 0.8
# A whole step makes fewer calls than its parts, and fewer passes over its arrays.
_MOST_WHOLE, _SHORT = 1.25, 1e-4


class _Clock:
    """Samples per (part, operation): seconds, and those of them in which the calling thread had a CPU.

    has_all_parts: the whole step does no more than the parts together.
    """

    def __init__(self, has_all_parts: bool) -> None:
        self._has_all_parts = has_all_parts
        self._samples: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
        self._present: dict[tuple[str, int], tuple[float, float]] = {}

    def next(self) -> None:
        for key, sample in self._present.items():
            self._samples[key].append(sample)
        self._present.clear()

    def time(self, part: str, index: int, call: Callable[[], Any]) -> Any:
        seconds, cpu = self._present.get((part, index), (0.0, 0.0))
        cpu_start, start = thread_time(), perf_counter()
        result = call()
        seconds += perf_counter() - start
        self._present[part, index] = (seconds, cpu + thread_time() - cpu_start)
        return result

    def least(self, part: str, index: int) -> float:
        """Nothing for what never ran."""
        return min(self._samples.get((part, index), [(0.0, 0.0)]))[0]

    def is_disturbed(self) -> bool:
        least = {key: min(samples) for key, samples in self._samples.items()}
        if sum(cpu for _, cpu in least.values()) < _LEAST_CPU * sum(seconds for seconds, _ in least.values()):
            return True
        apart = sum(seconds for (part, _), (seconds, _) in least.items() if part not in ("step", "call"))
        return self._has_all_parts and self.least("step", -1) > max(_MOST_WHOLE * apart, apart + _SHORT)


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


def _repeat(call: Callable[[], Any], seconds: float) -> None:
    """Once at least."""
    end, count = perf_counter() + seconds, 0
    while count == 0 or (perf_counter() < end and count < 10_000 / _TURNS):
        call()
        count += 1


# -- what each part has to do ------------------------------------------------------------------------------------


def _described(
    network: Any, n: int, rows: Rows, trainable: list[bool], loss_in_python: bool, optimizer: Any
) -> Iterable[tuple[int, ProfileRow]]:
    """The rows of the table without times, in the order of a step, with the number of their operation."""
    program: Program = network.program
    item = np.dtype(program.array_dtype).itemsize
    engine = f"native {_instruction_set()}" if network.backend == "native" else "numpy"
    sparse = _sparse_products(network, trainable)
    paths = {
        (index, part): _path(op, engine, network.product_path()) + (_LEFT_OUT if (index, part) in sparse else "")
        for index, op in enumerate(program.operations)
        for part in ("forward", "backward")
    }
    work = _Work(network, n, trainable)
    given = sum(array.nbytes for arrays in rows for array in arrays if array is not None)
    yield -1, ProfileRow("batch", "gather", 0.0, 0.0, given + n * program.widths[0] * item, engine)
    for index, op in enumerate(program.operations):
        if op.kind != "columns":  # a view
            yield index, ProfileRow(op.name, "forward", 0.0, *work.forward(op), paths[index, "forward"])
    # Outputs and targets are read, the outputs' gradients are written.
    judged = 2 * n * sum(program.widths[v] for v in program.outputs) + sum(y.size for y in rows.y if y is not None)
    yield -1, ProfileRow("loss", "loss", 0.0, 0.0, judged * item, "Python" if loss_in_python else engine)
    for index in range(len(program.operations) - 1, -1, -1):
        op = program.operations[index]
        if op.kind != "columns":
            yield index, ProfileRow(op.name, "backward", 0.0, *work.backward(op), paths[index, "backward"])
    slots = len(network.slot_names() if optimizer is None else optimizer.slot_names)
    update = engine if optimizer is None else "Python"
    yield -1, ProfileRow("optimizer", "update", 0.0, 0.0, work.update(slots), update)


class _Work:
    """Flop of the products and bytes, as Profile counts them, of the operations of a network over n rows."""

    def __init__(self, network: Any, n: int, trainable: list[bool]) -> None:
        program: Program = network.program
        self._widths, self._operations, self._n = program.widths, program.operations, n
        self._sizes = [int(np.prod(parameter.shape)) for parameter in program.parameters]
        self._trainable = trainable
        self._native = network.backend == "native"
        self._packed = self._native and program.is_mixed
        self._item = np.dtype(program.array_dtype).itemsize
        self._weight_item = 2 if self._packed else self._item
        self._learns = [False] * len(program.widths)  # what is trained is below the value
        for op in self._operations:
            self._learns[op.output] = self._is_needed(op) or any(trainable[p] for p in op.parameters)
        # A value's only reader, if dense, applies the derivative of the activation that made it.
        readers = Counter(v for op in self._operations for v in op.inputs) + Counter(program.outputs)
        bent = {op.output: op.activation for op in self._dense() if op.activation != "linear"}
        only = {op.inputs[0] for op in self._dense() if readers[op.inputs[0]] == 1}
        self._bent_below = {v: activation for v, activation in bent.items() if v in only}

    def forward(self, op: Operation) -> tuple[float, float]:
        numbers = self._numbers(*op.inputs, op.output)
        if op.kind != "dense":
            return 0.0, numbers * self._item
        if op.activation in NEEDS_Z:
            numbers += self._numbers(op.output)
        weights, *bias = (self._sizes[p] for p in op.parameters)
        return 2.0 * self._n * weights, (numbers + sum(bias)) * self._item + weights * self._weight_item

    def backward(self, op: Operation) -> tuple[float, float]:
        if not self._learns[op.output]:  # nobody asks for it
            return 0.0, 0.0
        below, above, needed = self._numbers(*op.inputs), self._numbers(op.output), self._is_needed(op)
        if op.kind != "dense":
            saved = {"activation": above, "multiply": below}.get(op.kind, 0)
            return 0.0, (above + saved + below * needed) * self._item
        # dw = x^T dz reads x and dz; dx = dz w^T reads dz, w and what the derivative below needs.
        weights, learns = self._sizes[op.parameters[0]], self._trainable[op.parameters[0]]
        activation = self._bent_below.get(op.inputs[0], "linear") if needed else "linear"
        reads_z = activation in NEEDS_Z
        reads_x = learns or (activation != "linear" and not reads_z)
        # Its own derivative, where nobody above applies it, reads y or z and writes dz.
        own = op.activation != "linear" and op.output not in self._bent_below
        numbers = above * (1 + 2 * own) + below * (reads_x + reads_z + needed)
        numbers += sum(self._sizes[p] for p in op.parameters if self._trainable[p])
        flop = 2.0 * self._n * weights * (learns + needed)
        return flop, numbers * self._item + weights * needed * self._weight_item

    def update(self, slots: int) -> float:
        """Gradients are read, parameters and slots are read and written, copies of weights written."""
        trained = sum(size for size, trainable in zip(self._sizes, self._trainable, strict=True) if trainable)
        # Packed ones for the products forward, and transposed ones, packed or not, for those of gradients.
        copies = {op.parameters[0]: 0 for op in self._dense() if self._native and self._trainable[op.parameters[0]]}
        for op in self._dense():
            p = op.parameters[0]
            if p in copies:
                copies[p] = max(copies[p], self._packed + self._is_needed(op))
        copied = sum(self._sizes[p] * count for p, count in copies.items())
        return trained * (3 + 2 * slots) * self._item + copied * self._weight_item

    def _dense(self) -> Iterable[Operation]:
        return (op for op in self._operations if op.kind == "dense")

    def _numbers(self, *values: int) -> int:
        return self._n * sum(self._widths[v] for v in values)

    def _is_needed(self, op: Operation) -> bool:
        """Whether the gradient of an input is."""
        return any(self._learns[v] for v in op.inputs)


# At the end of a product's path: its time says nothing of multiplications.
_LEFT_OUT = ", zeros left out"


def _sparse_products(network: Any, trainable: list[bool]) -> set[tuple[int, str]]:
    """Operations and their parts whose products leave out multiplications by zeros of the batch that is loaded."""
    core = config._core()
    program: Program = network.program
    # Bfloat16's own instructions do not.
    if core is None or network.backend != "native" or network.product_path().split()[-1] != core.instruction_set():
        return set()
    found = set()
    for index, op in enumerate(program.operations):
        if op.kind == "dense":
            x, columns = network.get_value(op.inputs[0]), program.widths[op.output]
            found |= {
                (index, part)
                for part, happens, transposed in (
                    ("forward", True, False),
                    ("backward", trainable[op.parameters[0]], True),
                )
                if happens and core.leaves_out_zeros(x, columns, transposed)
            }
    return found


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


# Several threads reach at least this share of their number times one thread's peak, or do not run all the time.
_LEAST_SCALING = 0.8
_PEAK_ATTEMPTS = 3


def _peak(dtype: str, network: Any, n: int, fastest: float) -> tuple[float | None, bool]:
    """The peak of the step's threads, measured again while it must be too low, and whether it still must."""
    from .peak import best_peak

    if network.backend != "native":
        return None, False
    name = "bfloat16" if dtype == "mixed_bfloat16" else dtype
    threads = network.useful_threads(n, True)
    peak = best_peak(name, threads)
    least = max(fastest, _LEAST_SCALING * threads * best_peak(name, 1))
    for _ in range(_PEAK_ATTEMPTS):
        if peak < least:
            peak = best_peak(name, threads, again=True)
    return peak, peak < least


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

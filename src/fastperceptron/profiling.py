"""Where the time of a training step goes: per layer and pass, beside what the machine could do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Any

from .checks import is_number
from .judging import Judge
from .layer import Layer
from .profile_table import Profile, ProfileRow
from .profile_work import LEFT_OUT, described, instruction_set
from .program import PRECISIONS
from .segments import Segments

if TYPE_CHECKING:
    from .models import Model

__all__ = ["Profile", "ProfileRow", "profile"]

_MOST_SECONDS = 86_400


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

    judges = [Judge(judge.name, judge.shape, judge.loss, judge.weight, []) for judge in twin._judges]
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
    parts = described(network, n, rows, trainable, in_python, optimizer)
    listed = [row._replace(seconds=clock.least(row.part, index)) for index, row in parts]
    step = f"one training step of {n} rows, {twin.dtype}, {_machine(network, n)}"
    title = f"{type(model).__name__} {model.name!r}: {step}"
    whole = (row for row in listed if not row.path.endswith(LEFT_OUT))
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


def _machine(network: Any, n: int) -> str:
    if network.backend != "native":
        return "numpy backend"
    threads = network.useful_threads(n, True)
    return f"native backend, {instruction_set()}, {threads} thread{'s' if threads > 1 else ''}"


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

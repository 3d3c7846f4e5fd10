"""A comparison's run with contestants that only pretend: in which order they are asked, and what is done with what they
answer. Nothing is timed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from comparing import NEEDS, module

import fastperceptron as fp

pytestmark = NEEDS

SAME = {"costs": [2.0] * 10, "moved": [1.0, 1.0]}


class Pretender:
    """Answers as a contestant's process does; ``asked`` has what all of them were asked, in order."""

    asked: list[tuple[str, str]]
    made: list[tuple[str, dict[str, str]]]
    answers: dict[tuple[str, str], Any]  # by contestant and command; others get the answers below
    workload = ""

    def __init__(
        self, contestant: str, threads: int, clock: str = "wall", environment: dict[str, str] | None = None
    ) -> None:
        self.contestant = contestant
        self.made.append((contestant, environment or {}))

    def __enter__(self) -> Pretender:
        return self

    def __exit__(self, *_: object) -> None: ...

    def open(self, workload: Any) -> None:
        self.workload = workload.name

    def ask(self, command: str) -> Any:
        self.asked.append((self.contestant, command))
        word = command.partition(" ")[0]
        usual = {"costs": SAME, "outputs": 0.0, "description": "pretends", "peak": 1e12}
        return self.answers.get((self.contestant, word), usual.get(word))

    def seconds_per_step(self, steps: int, command: str = "run") -> float:
        self.asked.append((self.contestant, command))
        return 1.0


@pytest.fixture
def pretender(monkeypatch: pytest.MonkeyPatch) -> type[Pretender]:
    class Fresh(Pretender):
        asked, made, answers = [], [], {}

    monkeypatch.setattr(module("comparison"), "Worker", Fresh)
    monkeypatch.setattr(module("interleave"), "_PAUSE", 0.0)
    return Fresh


def compare(*contestants: str, rows: int = 1024) -> Any:
    options = module("compare").arguments(["--workloads", "A", "--threads", "1", "--rounds", "3", "--rows", str(rows)])
    options.contestants, options.absent = list(contestants), {}
    return module("comparison").Comparison(options)


def test_rounds_are_interleaved(pretender: type[Pretender]) -> None:
    """After a warm-up each, both take a slice in each round, in alternating order."""
    a, b = pretender("a", 1), pretender("b", 1)
    timings = module("interleave").time_side_by_side([a, b], 3.0, 3, "predict 7")
    assert {command for _, command in pretender.asked} == {"predict 7"}
    assert [who for who, _ in pretender.asked] == ["a", "b", *("a", "b"), *("b", "a"), *("a", "b")]
    assert [timing.rounds for timing in timings] == [(1.0, 1.0, 1.0)] * 2


def test_a_slice_begins_with_a_step_that_is_not_timed() -> None:
    calls: list[Any] = []
    service = module("worker")._Service("numpy", 1)
    service._contestant = SimpleNamespace(
        prepare=lambda: calls.append("prepare"), run=lambda steps: calls.append(steps) or 64
    )
    assert service.run("50")["steps"] == 64  # whole epochs, say
    assert calls == ["prepare", 1, 50]


@pytest.mark.parametrize(("clock", "seconds"), [("wall", 0.5), ("cpu", 0.25)])
def test_seconds_are_those_of_the_steps_made(clock: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    worker_type = module("interleave").Worker
    worker = worker_type.__new__(worker_type)
    worker._clock = clock
    monkeypatch.setattr(worker_type, "ask", lambda self, command: {"wall": 32.0, "cpu": 16.0, "steps": 64})
    assert worker.seconds_per_step(50) == seconds


def test_all_steps_and_predictions_are_timed_side_by_side(pretender: type[Pretender]) -> None:
    """Everybody of a workload in one call: names follow each other as in the rounds above."""
    comparison = compare("numpy", "native", "torch")
    comparison.start()
    comparison.workload(module("workloads").WORKLOADS["A"])
    for command, everybody in (
        ("run", ["numpy", "native", "torch", "fit", "batch"]),
        ("predict 1024", ["numpy", "native", "torch"]),
    ):
        order = [who for who, asked in pretender.asked if asked == command]
        assert order == everybody + everybody + everybody[::-1] + everybody


@pytest.mark.parametrize(
    ("contestant", "answer", "same"),
    [
        ("torch", {"costs": [2.0] * 9 + [2.00016], "moved": [1.0, 1.0]}, True),  # 0.8e-4
        ("torch", {"costs": [2.0] * 9 + [2.00024], "moved": [1.0, 1.0]}, False),  # 1.2e-4
        ("torch", {"costs": [2.0] * 10, "moved": [1.0, 1.0008]}, True),
        ("torch", {"costs": [2.0] * 10, "moved": [1.0, 1.0012]}, False),
        ("native", {"costs": [2.0] * 9 + [2.00024], "moved": [1.0, 1.0]}, False),
        ("native-bf16", {"costs": [2.0] * 9 + [2.008], "moved": [1.0, 1.016]}, True),
        ("native-bf16", {"costs": [2.0] * 9 + [2.012], "moved": [1.0, 1.0]}, False),
        ("native-bf16", {"costs": [2.0] * 10, "moved": [1.0, 1.024]}, False),
        ("torch-bf16", {"costs": [2.0] * 10, "moved": [1.0, 1.024]}, False),
    ],
)
def test_who_does_not_compute_the_same_ten_steps_is_found(
    pretender: type[Pretender], contestant: str, answer: dict[str, list[float]], same: bool
) -> None:
    pretender.answers[contestant, "costs"] = answer
    comparison = compare("numpy", "native", contestant)
    comparison.start()
    comparison.workload(module("workloads").WORKLOADS["A"])
    found = comparison.result["training"]["A"]["contestants"]
    assert (found[contestant]["reason"] is None) is same
    assert found["fit"]["reason"] is None
    assert {command for _, command in pretender.asked if command.startswith("costs")} == {"costs 10"}


def test_who_would_take_too_long_sits_out(pretender: type[Pretender]) -> None:
    """A second a step on C means half a minute on D; what it took on A says nothing of C. Ours is never left out."""
    workloads = module("workloads").WORKLOADS
    comparison = compare("numpy", "native", "torch-bf16")
    comparison.start()
    for name in ("A", "C", "D"):
        comparison.workload(workloads[name])
    took_part = {name: set(found["contestants"]) for name, found in comparison.result["training"].items()}
    assert took_part == {
        "A": {"numpy", "native", "torch-bf16", "fit", "batch"},
        "C": {"numpy", "native", "torch-bf16"},
        "D": {"numpy", "native"},
    }
    assert set(comparison.result["prediction"]["D"]["1024"]) == {"numpy", "native"}
    why = "a step would take about 36 s, going by the workload before"
    assert comparison.result["failed"] == {"torch-bf16, D": why}


@pytest.mark.parametrize(
    ("contestant", "deviation", "same"),
    [("torch", 0.8e-4, True), ("torch", 1.2e-4, False), ("native", 1.2e-4, False)]
    + [(who, deviation, deviation < 0.05) for who in ("native-bf16", "torch-bf16") for deviation in (0.04, 0.06)],
)
def test_who_does_not_predict_the_same_is_found(
    pretender: type[Pretender], contestant: str, deviation: float, same: bool
) -> None:
    pretender.answers[contestant, "outputs"] = deviation
    comparison = compare("numpy", "native", contestant)
    comparison.start()
    comparison.workload(module("workloads").WORKLOADS["A"])
    found = comparison.result["prediction"]["A"]["1024"]
    assert (found[contestant]["reason"] is None) is same
    assert found["numpy"]["reason"] is None
    assert {command for _, command in pretender.asked if command.startswith("outputs")} == {"outputs 1024"}


@pytest.mark.parametrize("wrong", [0, 8])
def test_a_wrong_row_is_found(wrong: int, monkeypatch: pytest.MonkeyPatch) -> None:
    contestants, workload = module("contestants"), module("workloads").Workload("tiny", (3, 2), 4, 8)

    class Wrong(contestants.NumpyByHand):  # type: ignore[misc, name-defined]
        def predictor(self, rows: int) -> Any:
            y = super().predictor(rows)().copy()
            y[wrong] += 1.0
            return lambda: y

    for contestant, least, most in ((contestants.NumpyByHand, 0.0, 1e-5), (Wrong, 0.1, np.inf)):
        monkeypatch.setitem(contestants.CONTESTANTS, "numpy", contestant)
        service = module("worker")._Service("numpy", 1)
        service.open(json.dumps(workload._asdict()))
        assert least <= service.outputs("9") <= most


@pytest.mark.parametrize(("form", "names"), [([], ["native", "numpy"]), (["--quick"], ["native"])])
def test_growth_in_both_forms(pretender: type[Pretender], form: list[str], names: list[str]) -> None:
    options = module("compare").arguments(["--workloads", "A", *form])
    options.contestants, options.absent = ["numpy", "native", "keras"], {}
    comparison = module("comparison").Comparison(options)
    comparison.start()
    comparison.sweep("depth")
    points = comparison.result["sweep"]["depth"]
    assert [point["size"] for point in points] == [size for size, _ in module("workloads").growth("depth")]
    assert all(list(point["rounds"]) == names for point in points)
    assert all(len(point["rounds"]["native"]) == 6 for point in points)  # up and down again


def grown_with_depth(worker: type[Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The points of native's growth with depth, timed by such workers."""
    comparison = compare("native")
    monkeypatch.setattr(module("comparison"), "Worker", worker)
    comparison.start()
    comparison.sweep("depth")
    points: list[dict[str, Any]] = comparison.result["sweep"]["depth"]
    return points


def test_what_looks_like_a_cliff_is_timed_by_turns(pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch) -> None:
    """From 6 to 8 layers there is one. From 2 to 3 there is none, but 3 is slow until both are timed by turns."""

    class Growing(pretender):  # type: ignore[misc, valid-type]
        def open(self, workload: Any) -> None:
            super().open(workload)
            depth = len(workload.layers)
            self.seconds = workload.flop_step * 1e-8 * (1.25 if depth >= 8 else 1.0)
            self.opened.append(depth)
            if depth == 3 and self.opened.count(3) <= 2:
                self.seconds *= 1.15

        opened: ClassVar[list[int]] = []

        def seconds_per_step(self, steps: int, command: str = "run") -> float:
            return float(self.seconds)

    points = grown_with_depth(Growing, monkeypatch)
    by_turns = {point["size"]: point["by_turns"] for point in points if "by_turns" in point}
    assert list(by_turns) == [3, 8]
    assert [len(rounds) for rounds in by_turns[8]] == [12, 12]
    found = dict(zip([point["size"] for point in points[1:]], module("standings").cliffs(points), strict=True))
    assert found[8] == pytest.approx(1.25)
    assert found[3] == pytest.approx(1.0)


def test_a_slow_cpu_of_one_process_makes_no_cliff(pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch) -> None:
    class Uneven(pretender):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.slowness = 1.5 if self.others else 1.0
            self.others.append(self)

        others: ClassVar[list[Any]] = []

        def open(self, workload: Any) -> None:
            super().open(workload)
            grown = 1.12 if len(workload.layers) >= 8 else 1.0
            self.seconds = workload.flop_step * 1e-8 * grown * self.slowness

        def seconds_per_step(self, steps: int, command: str = "run") -> float:
            return float(self.seconds)

    points = grown_with_depth(Uneven, monkeypatch)
    assert [point["size"] for point in points if "by_turns" in point] == [8]
    assert max(module("standings").cliffs(points)) < 1.3  # 1.12, and not 1.68


def test_growth_without_extras() -> None:
    options = module("compare").arguments(["--workloads", "A", "--sweep", "--no-extras"])
    options.contestants, options.absent = [], {}
    names = [task.name for task in module("comparison").Comparison(options).tasks()]
    assert names[2:-1] == ["growth with width", "growth with batch", "growth with depth"]


def test_first_steps_are_costs_and_distances() -> None:
    """Two steps of a network of one layer, against the weights that it starts from and has afterwards."""
    contestants, workloads = module("contestants"), module("workloads")
    workload = workloads.Workload("tiny", (3, 2), 4, 8)
    contestant = contestants.NumpyByHand(workload)
    found = contestants.first_steps(contestant, workload, 2)
    moved = np.linalg.norm(contestant.weights()[0] - workloads.initial_weights(workload)[0])
    assert found["moved"] == [pytest.approx(moved)]
    assert moved > 1e-4  # learning rate 1e-3, a gradient of about 1
    assert len(set(found["costs"])) == 2


def test_the_floor_compares_ten_steps(pretender: type[Pretender]) -> None:
    interleave = module("interleave")
    workers = [pretender("numpy", 1), pretender("native", 1)]
    interleave.compare_costs(workers)
    assert [command for _, command in pretender.asked] == ["costs 10"] * 2
    pretender.answers["native", "costs"] = {"costs": [2.0] * 9 + [2.00024], "moved": [1.0, 1.0]}
    with pytest.raises(interleave.ContestantError, match="native does not compute the same step as numpy"):
        interleave.compare_costs(workers)


def test_what_computed_is_noted(pretender: type[Pretender]) -> None:
    pretender.answers |= {("native-bf16", "path"): "bfloat16 amx", ("native-bf16", "threads"): 1}
    comparison = compare("numpy", "native", "native-bf16")
    comparison.start()
    comparison.workload(module("workloads").WORKLOADS["A"])
    found = comparison.result["training"]["A"]["contestants"]
    assert (found["native-bf16"]["path"], found["native-bf16"]["threads"]) == ("bfloat16 amx", 1)
    assert "path" not in found["numpy"]


@pytest.mark.parametrize(
    ("name", "precision"), [("native", "float32"), ("native-bf16", "bfloat16"), ("fit", "float32")]
)
def test_descriptions_name_what_computes(name: str, precision: str) -> None:
    """The real contestants of this package: precision and instruction set of their products."""
    contestant = module("contestants").CONTESTANTS[name](module("workloads").WORKLOADS["A"])
    path = contestant.path()
    assert path.split()[0] == precision
    assert f", {path}, " in contestant.description()


def test_avx2_is_forced_and_checked(pretender: type[Pretender]) -> None:
    comparison = compare()
    pretender.answers["native", "path"] = "float32 avx2"
    comparison.avx2()
    assert pretender.made == [("native", {"FASTPERCEPTRON_ISA": "avx2"})]
    assert comparison.result.pop("avx2")["path"] == "float32 avx2"
    pretender.answers["native", "path"] = "float32 avx512"
    with pytest.raises(module("interleave").ContestantError, match="expected products by float32 avx2; received"):
        comparison.avx2()
    assert "avx2" not in comparison.result


def test_limits_are_the_largest_that_were_measured(pretender: type[Pretender]) -> None:
    """At the beginning and at the end of a run."""
    comparison = compare()
    for bandwidth in (3e10, 2e10):
        pretender.answers["native", "bandwidth"] = {"read": bandwidth, "update": 5e10 - bandwidth}
        comparison.limits()
    found = comparison.result["limits"]["1"]
    assert found == {"memory read": 3e10, "memory update": 3e10, "float32": 1e12, "float64": 1e12, "bfloat16": 1e12}


@pytest.mark.parametrize(("clock", "ratio", "native", "sklearn"), [("wall", 3.0, 2.0, 7.0), ("cpu", 5.0, 1.0, 5.0)])
def test_a_result_is_compared_seed_by_seed(
    clock: str, ratio: float, native: float, sklearn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_to_result = module("time_to_result")
    asked = []
    wall = {"native": [1.0, 2.0, 4.0], "sklearn": [3.0, 7.0, 8.0]}
    cpu = {"native": [1.0, 1.0, 1.0], "sklearn": [5.0, 5.0, 9.0]}

    class Fitter(Pretender):
        made: ClassVar = []

        def ask(self, command: str) -> Any:
            asked.append((self.contestant, command))
            seed = int(command.split()[-1])
            times = {name: found[self.contestant][seed % 3] for name, found in (("wall", wall), ("cpu", cpu))}
            return {**times, "accuracy": 0.9 + 0.01 * seed}

    monkeypatch.setattr(time_to_result, "Worker", Fitter)
    found = time_to_result.measure("digits", 1, 3, clock)
    assert (found["ratio"], found["seconds"]) == (ratio, {"native": native, "sklearn": sklearn})
    assert [who for who, _ in asked] == ["native", "sklearn"] * 4  # the first time to load libraries and data
    assert [command for _, command in asked[2:]] == [f"fit digits {seed}" for seed in (0, 0, 1, 1, 2, 2)]
    assert found["accuracy"]["native"] == pytest.approx([0.91, 0.01])


@pytest.mark.parametrize("side", ["native", "sklearn"])
def test_both_sides_train_all_epochs(side: str) -> None:
    if side == "sklearn":
        pytest.importorskip("sklearn")
    time_to_result = module("time_to_result")
    x, y = np.ones((8, 3), np.float32), np.arange(8) % 2
    data = time_to_result.Data(x, y, x, y, (4,), 4, 5, 0.05)
    assert time_to_result.FITTERS[side](data, 0)["epochs"] == 5


def test_fewer_epochs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fit, ones = fp.Sequential.fit, np.ones((8, 3), np.float32)
    monkeypatch.setattr(fp.Sequential, "fit", lambda model, *data, **how: fit(model, *data, **{**how, "epochs": 1}))
    data = module("time_to_result").Data(ones, np.arange(8) % 2, ones, np.arange(8) % 2, (4,), 4, 5, 0.05)
    with pytest.raises(RuntimeError, match="expected 5 epochs of training; there were 1"):
        module("time_to_result").FITTERS["native"](data, 0)


def test_the_wheel_is_that_of_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said of an editable installation, or of another version than the one that runs."""
    footprint = module("footprint")
    source = tmp_path / "fastperceptron" / "__init__.py"
    source.parent.mkdir()
    source.write_bytes(os.urandom(10_000))
    info = tmp_path / "fastperceptron-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: fastperceptron\n", encoding="utf-8")
    monkeypatch.setattr(fp, "__file__", str(source))
    monkeypatch.syspath_prepend(tmp_path)
    for record, least, most in (("fastperceptron/__init__.py,,\n", 10_000, 11_000), ("_editable.pth,,\n", None, None)):
        (info / "RECORD").write_text(record, encoding="utf-8")
        size = footprint.wheel_bytes()
        assert size is None if least is None else least < size < most
    monkeypatch.setattr(sys, "path", [])  # as where it is not installed
    assert footprint.wheel_bytes() is None


def test_a_process_that_fails_is_left_out_with_its_last_words(
    pretender: type[Pretender], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    comparison, footprint = compare(), module("footprint")
    comparison.options.output = tmp_path
    monkeypatch.setattr(module("comparison"), "import_seconds", lambda: footprint.run_python("import nothing_like_it"))
    task = module("comparison").Task("import, wheel, memory", 1.0, comparison.footprint)
    monkeypatch.setattr(comparison, "tasks", lambda: [task])
    comparison.run()
    assert "No module named 'nothing_like_it'" in comparison.result["failed"]["import, wheel, memory"]


def test_memory_that_training_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four float32 arrays as large as the parameters, the activations of a batch, and 16 MB."""
    footprint, parameters = module("footprint"), 4 * 1025 * 1024 + 1025 * 1000
    monkeypatch.setattr(footprint, "run_python", lambda *_, **__: json.dumps([123, parameters]))
    memory = footprint.memory_while_training("D")
    assert memory == (123, 16 * parameters + 4 * 1024 * (5 * 1024 + 1000) + 16 * 2**20)

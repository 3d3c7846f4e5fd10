"""model.profile: the right parts, the right counts, and a model that is as before. How fast things are is not asked."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from api_examples import MyMSE, classification, classifier
from parity import PATHS, forced, instruction_sets
from pure import native_only

import fastperceptron as fp
from fastperceptron import peak, profiling

each_backend = pytest.mark.usefixtures("backend")


class Scaled(fp.Layer):
    def forward(self, x: Any, training: bool) -> Any:
        return 2 * x, None

    def backward(self, dy: Any, saved: Any) -> Any:
        return 2 * dy, []


def test_parts_and_counts(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    model = fp.Sequential([fp.Dense(20, activation="relu"), fp.Dropout(0.5), fp.Dense(3)], seed=0)
    model.compile(fp.SGD(0.1, momentum=0.9), "mse")
    model.build(8)
    before = model.get_state()
    profile = model.profile(np.ones((16, 8)), np.ones((16, 3)), seconds=0.03)
    assert [(row.layer, row.part) for row in profile.rows] == [
        ("batch", "gather"),
        ("dense", "forward"),
        ("dropout", "forward"),
        ("dense_1", "forward"),
        ("loss", "loss"),
        ("dense_1", "backward"),
        ("dropout", "backward"),
        ("dense", "backward"),
        ("optimizer", "update"),
    ]
    flop = {(row.layer, row.part): row.flop for row in profile.rows}
    assert flop["dense", "forward"] == flop["dense", "backward"] == 2 * 16 * 8 * 20  # nobody wants the input's gradient
    assert flop["dense_1", "backward"] == 2 * flop["dense_1", "forward"] == 2 * 2 * 16 * 20 * 3
    assert profile.flop == sum(flop.values())
    assert all(row.seconds > 0 for row in profile.rows)
    assert profile.step_seconds > 0
    assert profile.call_seconds > 0
    assert (profile.peak is not None) == (backend == "native")
    assert backend == "native" or not profile.peak_is_low
    assert all(row.path.startswith(backend) for row in profile.rows)
    printed = capsys.readouterr().out
    assert printed == str(profile) + "\n"
    assert "whole step" in printed
    after = model.get_state()
    assert all(np.array_equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(("dtype", "item"), [("float32", 4), ("float64", 8), ("mixed_bfloat16", 4)])
def test_bytes_that_have_to_be_moved(dtype: str, item: int, backend: str) -> None:
    packed = backend == "native" and dtype == "mixed_bfloat16"
    weight = 2 if packed else item  # as products read them
    x, h, y = 16 * 8, 16 * 20, 16 * 3

    def moved(*layers: fp.Layer) -> dict[tuple[str, str], float]:
        model = fp.Sequential([*layers, fp.Dense(3)], dtype=dtype)
        model.compile(fp.SGD(0.1, momentum=0.9), "mse")
        model.build(8)
        profile = model.profile(np.ones((16, 8)), np.ones((16, 3)), seconds=0.001, print_fn=lambda table: None)
        return {(row.layer, row.part): row.bytes for row in profile.rows}

    relu, gelu = moved(fp.Dense(20, activation="relu")), moved(fp.Dense(20, activation="gelu"))
    assert relu["dense", "forward"] == item * (x + 20 + h) + weight * 160
    assert gelu["dense", "forward"] == item * (x + 20 + 2 * h) + weight * 160  # z as well
    assert relu["dense_1", "forward"] == gelu["dense_1", "forward"] == item * (h + 3 + y) + weight * 60
    assert relu["loss", "loss"] == item * 3 * y
    # dz, x and dx; dw and db; w. The derivative of relu is had from x, that of gelu from z.
    assert relu["dense_1", "backward"] == item * (y + 2 * h + 63) + weight * 60
    assert gelu["dense_1", "backward"] == item * (y + 3 * h + 63) + weight * 60
    assert relu["dense", "backward"] == gelu["dense", "backward"] == item * (h + x + 180)  # no gradient of the input
    # Gradients, weights and momentum; copies for the products.
    copies = 2 * (160 + 2 * 60) if packed else item * 60 if backend == "native" else 0
    assert relu["optimizer", "update"] == item * 243 * 5 + copies
    # An operation between them: the layer below applies its derivative by itself.
    apart = moved(fp.Dense(20, activation="relu"), fp.Dropout(0.5))
    assert apart["dropout", "forward"] == apart["dropout", "backward"] == item * 2 * h
    assert apart["dense_1", "backward"] == relu["dense_1", "backward"]
    assert apart["dense", "backward"] == relu["dense", "backward"] + item * 2 * h
    bent = moved(fp.Dense(20), fp.Activation("tanh"))
    assert bent["activation", "forward"] == item * 2 * h
    assert bent["activation", "backward"] == item * 3 * h  # with what the derivative needs


def test_what_is_frozen_costs_nothing(backend: str) -> None:
    def counted(*trainable: bool) -> dict[tuple[str, str], tuple[float, float]]:
        model = fp.Sequential([fp.Dense(20), fp.Dense(3)])
        for layer, flag in zip(model.layers, trainable, strict=True):
            layer.trainable = flag
        model.compile(fp.SGD(0.1), "mse")
        model.build(8)
        profile = model.profile(np.ones((16, 8)), np.ones((16, 3)), seconds=0.001, print_fn=lambda table: None)
        return {(row.layer, row.part): (row.flop, row.bytes) for row in profile.rows}

    top, bottom = counted(False, True), counted(True, False)
    assert top["dense", "backward"] == (0, 0)
    assert top["dense_1", "backward"] == (2 * 16 * 60, 4 * (16 * 3 + 16 * 20 + 63))
    assert top["optimizer", "update"] == (0, 4 * 3 * 63)
    assert bottom["dense", "backward"] == (2 * 16 * 160, 4 * (16 * 20 + 16 * 8 + 180))
    assert bottom["dense_1", "backward"] == (2 * 16 * 60, 4 * (16 * 3 + 16 * 20 + 60))
    assert bottom["optimizer", "update"] == (0, 4 * 3 * 180)


# -- a busy machine -------------------------------------------------------------------------------------------------


def test_a_busy_machine_does_not_lengthen_the_times(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which something takes a microsecond, but most of the time another program has its turn."""
    now, rng = 0.0, np.random.default_rng(0)

    def busy_clock() -> float:
        nonlocal now
        now += 1e-6 + 0.036 * (rng.random() < 0.8)
        return now

    model = classifier()
    model.build(6)
    monkeypatch.setattr(profiling, "perf_counter", busy_clock)
    profile = model.profile(*classification(), seconds=60, print_fn=lambda table: None)
    assert profile.step_seconds == pytest.approx(1e-6, rel=1e-3)
    assert profile.call_seconds == pytest.approx(1e-6, rel=1e-3)
    assert max(row.seconds for row in profile.rows) < 1e-5


@each_backend
@pytest.mark.parametrize("disturbed", [False, True])
def test_samples_are_several_and_more_while_all_are_disturbed(disturbed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    now, ends = 0.0, 0
    end = profiling._Clock.next

    def clock() -> float:
        nonlocal now
        now += 0.036 if disturbed else 1e-9
        return now

    def counted(self: Any) -> None:
        nonlocal ends
        ends += 1
        end(self)

    model = classifier()
    model.build(6)
    monkeypatch.setattr(profiling, "perf_counter", clock)
    monkeypatch.setattr(profiling._Clock, "next", counted)
    profile = model.profile(*classification(), seconds=1e-12, print_fn=lambda table: None)
    assert ends == 2 * (15 if disturbed else 5)  # whole steps and steps in parts
    assert profile.is_disturbed == disturbed
    assert ("these times are too long" in str(profile)) == disturbed


@pytest.mark.parametrize(
    ("whole", "apart", "has_all_parts", "disturbed"),
    [
        (2e-3, 1e-3, True, True),
        (1.2e-3, 1e-3, True, False),
        (2e-3, 1e-3, False, False),  # metrics written in Python belong to the whole step alone
        (5e-5, 1e-5, True, False),
    ],
)
def test_a_whole_step_that_outlasts_its_parts_was_disturbed(
    whole: float, apart: float, has_all_parts: bool, disturbed: bool
) -> None:
    """Its thread had a CPU all the time, but waited for others that had none."""
    clock = profiling._Clock(has_all_parts)
    clock._samples |= {("step", -1): [(whole, whole)], ("call", -1): [(1e-6, 1e-6)]}
    clock._samples |= {(part, 0): [(apart / 2, apart / 2)] for part in ("forward", "backward")}
    assert clock.is_disturbed() == disturbed


def on_two_threads() -> profiling.Profile:
    model = fp.Sequential([fp.Dense(256), fp.Dense(256)], backend="native")
    model.compile("sgd", "mse")
    model.build(256)
    with fp.threads(2):
        profile = model.profile(np.ones((64, 256)), np.ones((64, 256)), seconds=0.001, print_fn=lambda table: None)
    assert "2 threads" in profile.title
    return profile


@native_only
@pytest.mark.parametrize(
    ("one", "two", "low"),
    [
        (1e15, [2e15], False),
        (1e15, [1.61e15], False),
        (1e15, [1.59e15], True),
        (1e15, [0.9e15, 1.9e15], False),  # measured again when the machine is free
        (1e15, [0.9e15, 0.8e15, 0.8e15, 0.8e15, 2e15], True),  # too late
        (1e3, [2e3], True),  # rows are faster
    ],
)
def test_a_peak_that_must_be_too_low(one: float, two: list[float], low: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    core = importlib.import_module("fastperceptron._core")
    calls = 0

    def measure(dtype: str, threads: int, seconds: float) -> float:
        nonlocal calls
        calls += threads == 2
        return one if threads == 1 else two[min((calls - 1) // peak._REPEATS, len(two) - 1)]

    monkeypatch.setattr(core, "measure_peak", measure)
    monkeypatch.setattr(peak, "_peaks", {})
    profile = on_two_threads()
    assert profile.peak_is_low == low
    assert ("shares of peak are too high" in str(profile)) == low
    assert profile.peak == peak.peak_flops("float32", 2) == (1.9e15 if two[-1] == 1.9e15 else two[0])


def dense_paths(dtype: str, backend: str) -> tuple[set[str], str]:
    """What the dense rows of a profile name, and what the network does."""
    model = fp.Sequential([fp.Dense(20, activation="relu"), fp.Dropout(0.5), fp.Dense(3)], dtype=dtype, backend=backend)
    model.compile("sgd", "mse")
    model.build(8)
    profile = model.profile(np.ones((16, 8)), np.ones((16, 3)), seconds=0.01, print_fn=lambda table: None)
    dense = [row for row in profile.rows if row.layer.startswith("dense")]
    assert len(dense) == 4
    assert not any("product" in row.path for row in profile.rows if row not in dense)
    assert model._network is not None
    return {row.path for row in dense}, model._network.product_path()


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_dense_rows_name_the_path_in_force(path: str) -> None:
    with forced(path):
        instruction_set = importlib.import_module("fastperceptron._core").instruction_set()
        assert instruction_set == path or path not in instruction_sets()
        for dtype, product in (
            ("mixed_bfloat16", f"bfloat16 {path}"),
            ("float32", f"float32 {instruction_set}"),
            ("float64", f"float64 {instruction_set}"),
        ):
            assert dense_paths(dtype, "native") == ({f"native {instruction_set}, product {product}"}, product)


@native_only
@pytest.mark.parametrize("dtype", ["float32", "float64", "mixed_bfloat16"])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kept", [0.1, 1.0])
def test_products_that_leave_zeros_out_say_so(kept: float, path: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 200)) * (rng.random((64, 200)) < kept)
    model = fp.Sequential([fp.Dense(96), fp.Dense(64)], seed=0, dtype=dtype, backend="native")
    model.compile("sgd", "mse")
    model.build(200)
    with forced(path):
        rows = model.profile(x, np.ones((64, 64)), seconds=0.02).rows
        core = importlib.import_module("fastperceptron._core")
        product = core.bfloat16_path() if dtype == "mixed_bfloat16" else core.instruction_set()
    left_out = {(row.layer, row.part) for row in rows if "zeros left out" in row.path}
    where = {("dense", "forward"), ("dense", "backward")}
    assert left_out == (where if kept < 1 and product in ("avx512", "avx2") else set())


def test_dense_rows_name_numpy() -> None:
    for dtype, product in (("mixed_bfloat16", "bfloat16 numpy"), ("float32", "float32 numpy")):
        assert dense_paths(dtype, "numpy") == ({f"numpy, product {product}"}, product)


@each_backend
def test_what_runs_in_python_is_named() -> None:
    model = fp.Sequential([fp.Dense(4), Scaled(name="scaled"), fp.Dense(1)], seed=0)
    model.compile(fp.SGD(0.1), MyMSE())
    model.build(3)
    profile = model.profile(np.ones((5, 3)), np.ones((5, 1)), seconds=0.03, print_fn=lambda table: None)
    paths = {(row.layer, row.part): row.path for row in profile.rows}
    assert paths["scaled", "forward"] == paths["scaled", "backward"] == paths["loss", "loss"] == "Python"
    assert paths["dense", "forward"] != "Python"
    assert all(row.seconds > 0 for row in profile.rows)


@each_backend
def test_bad_arguments_name_what_was_expected() -> None:
    x, y = classification()
    model = classifier()
    with pytest.raises(fp.NotBuiltError, match="profile: expected a model with weights"):
        model.profile(x, y)
    model.fit(x, y, verbose=0)
    for seconds in (0, -1.0, float("nan"), True, "1", 10**400):
        with pytest.raises(ValueError, match="profile: seconds must be a positive number"):
            model.profile(x, y, seconds=seconds)
    with pytest.raises(fp.ShapeError, match="profile"):
        model.profile(x[:, :1], y)
    for call in (lambda: model.profile(x, y, print_fn=3), lambda: model.summary(print_fn=3)):  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="print_fn must take a text; received int"):
            call()
    assert model.profile(x, y, seconds=np.float32(0.01), print_fn=lambda table: None).rows


@each_backend
def test_a_graph_with_several_losses() -> None:
    a, b = fp.Input((3,)), fp.Input((2,))
    h = fp.Dense(4, activation="tanh")(fp.Concatenate()([a, b]))
    model = fp.Model([a, b], [fp.Add()([h, fp.Dense(4)(h)]), fp.Dense(1, name="y")(h)], seed=0)
    model.compile("sgd", [MyMSE(), "mse"])
    data = [np.ones((5, 3)), np.ones((5, 2))], [np.ones((5, 4)), np.ones(5)]
    profile = model.profile(*data, seconds=0.03, print_fn=lambda table: None)
    parts = [(row.layer, row.part) for row in profile.rows]
    assert parts[:3] == [("batch", "gather"), ("concatenate", "forward"), ("dense", "forward")]
    moved = {(row.layer, row.part): row.bytes for row in profile.rows}
    assert moved["add", "forward"] == moved["add", "backward"] == 4 * 3 * 5 * 4
    flop = {(row.layer, row.part): row.flop for row in profile.rows}
    assert flop["dense", "backward"] == flop["dense", "forward"] == 2 * 5 * 5 * 4  # below are inputs only
    assert flop["y", "backward"] == 2 * flop["y", "forward"]

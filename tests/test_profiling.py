"""model.profile: the right parts, the right counts, and a model that is as before. How fast things are is not asked."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from api_examples import MyMSE, classification, classifier
from parity import PURE, forced, instruction_sets

import fastperceptron as fp

native_only = pytest.mark.skipif(PURE, reason="the pure wheel has no extension")
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
    assert profile.rows[1].bytes == 4 * (16 * 8 + 8 * 20 + 20 + 16 * 20)
    assert all(row.seconds > 0 for row in profile.rows)
    assert profile.step_seconds > 0
    assert profile.call_seconds > 0
    assert (profile.peak is not None) == (backend == "native")
    assert all(row.path.startswith(backend) for row in profile.rows)
    printed = capsys.readouterr().out
    assert printed == str(profile) + "\n"
    assert "whole step" in printed
    after = model.get_state()
    assert all(np.array_equal(after[name], value) for name, value in before.items())


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
@pytest.mark.parametrize("path", instruction_sets("bfloat16_paths_usable"))
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
    assert ("add", "backward") in parts
    flop = {(row.layer, row.part): row.flop for row in profile.rows}
    assert flop["dense", "backward"] == flop["dense", "forward"] == 2 * 5 * 5 * 4  # below are inputs only
    assert flop["y", "backward"] == 2 * flop["y", "forward"]

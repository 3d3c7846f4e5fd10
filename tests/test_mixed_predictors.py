"""Compiled predictors of mixed_bfloat16 models: the bits of predict on every path of this machine, which they keep."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from parity import PATHS, forced
from predictor_models import GRAPH_OUTPUTS, assert_graph_predicts, assert_threads_predict, chain, rows, same
from pure import native_only

import fastperceptron as fp

pytestmark = native_only

COUNTS = (1, 2, 17, 130, 700)  # rows; those of a stack, of a tile, of more than one packed part


def mixed(widths: tuple[int, ...], kind: str = "relu", last: str = "linear", bias: bool = True) -> fp.Sequential:
    return chain(widths, kind, "mixed_bfloat16", last, bias, backend="native")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("widths", "kind"),
    [
        ((1, 1), "relu"),
        ((3, 1, 2), "tanh"),
        ((32, 64, 64, 10), "relu"),
        ((257, 300, 9), "gelu"),
        ((600, 15), "relu"),
        ((1030, 16, 130), "leaky_relu"),
        ((2100, 530, 17), "sigmoid"),
    ],
    ids=str,
)
def test_rows_have_the_bits_of_predict(path: str, widths: tuple[int, ...], kind: str) -> None:
    with forced(path):
        model = mixed(widths, kind, "softmax" if kind == "tanh" else "linear", bias=kind != "sigmoid")
        p = model.predictor()
        assert p.product_path == f"bfloat16 {path}"
        assert repr(p) == f"<Predictor from ({widths[0]},) to ({widths[-1]},), bfloat16 {path}>"
        x = rows(max(COUNTS), widths[0])
        expected = model.predict(x)
        assert expected.dtype == np.float32
        for n in COUNTS:
            same(p(x[:n]), expected[:n])
            out = np.full((n, widths[-1]), np.nan, np.float32)
            assert p(x[:n], out=out) is out
            same(out, expected[:n])
        for i in range(3):
            same(p(x[i]), expected[i])
            same(model.predict_one(x[i]), expected[i])
            one = np.full(widths[-1], np.nan, np.float32)
            assert p(x[i], out=one) is one
            same(one, expected[i])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("outputs", GRAPH_OUTPUTS, ids=str)
def test_graphs_have_the_bits_of_predict(path: str, outputs: tuple[int, ...], inputs: int) -> None:
    with forced(path) as native:
        assert_graph_predicts(native, "mixed_bfloat16", outputs, inputs)


@pytest.mark.parametrize("path", PATHS)
def test_numbers_that_are_none(path: str) -> None:
    special = [np.inf, -np.inf, np.nan, 3.4e38, -3.4e38, 1e-39, -1e-40, 2.0**-126, 0.0, -0.0]
    x = np.array([np.roll(special, i) for i in range(10)], np.float32)
    x[5:] = np.where(np.isfinite(x[5:]), x[5:], 1)
    with forced(path):
        model = mixed((10, 20, 3), "elu")
        p, expected = model.predictor(), model.predict(x)
        np.testing.assert_array_equal(p(x), expected)
        for i in range(10):
            np.testing.assert_array_equal(p(x[i]), expected[i])


@pytest.mark.parametrize("path", PATHS)
def test_threads_do_not_change_the_bits(path: str) -> None:
    with forced(path):
        model = mixed((900, 1300, 1100, 10))
        x = rows(700, 900)
        p, expected = model.predictor(), model.predict(x)
        for threads in (1, 2, 3):
            with fp.threads(threads):
                for n in (1, 40, 700):
                    same(p(x[:n]), expected[:n])


def test_a_predictor_keeps_its_path() -> None:
    model, x = mixed((520, 64, 10), "tanh"), rows(20, 520)
    made: dict[str, tuple[Any, Any]] = {}
    for path in PATHS:
        with forced(path):
            made[path] = model.predictor(), model.predict(x)
            same(model.predict_one(x[3]), made[path][1][3])  # which follows
            same(model.predictor()(x), made[path][1])
    for path in (*PATHS, "auto"):
        with forced(path):
            for name, (p, expected) in made.items():
                assert p.product_path == f"bfloat16 {name}"
                same(p(x), expected)
                same(p(x[7]), expected[7])
                fresh: Any = model.predictor()
                assert fresh.current
                assert not p.current or p.product_path == fresh.product_path
    small: Any = mixed((4, 3)).predictor()
    assert small.current
    for path in PATHS:
        with forced(path):
            assert small.current == (f"bfloat16 {path}" == small.product_path)
    if "avx512_bf16" in made:  # else all are widened and give the same bits
        assert made["avx512_bf16"][1].tobytes() != made["generic"][1].tobytes()


@pytest.mark.parametrize("path", PATHS)
def test_pickle(path: str) -> None:
    model, x = mixed((32, 64, 10)), rows(20, 32)
    with forced(path):
        p = model.predictor()
        again = pickle.loads(pickle.dumps(p))
        assert repr(again) == repr(p)
        same(again(x), model.predict(x))
        same(again(x[0]), p(x[0]))


def test_a_snapshot_keeps_its_weights() -> None:
    model, x, y = mixed((32, 64, 10)), rows(20, 32), rows(20, 10, seed=1)
    model.compile(fp.SGD(0.1), "mse")
    p, before = model.predictor(), model.predict(x)
    for write in (
        lambda: model.fit(x, y, verbose=0),
        lambda: model.set_weights([w * 2 for w in model.get_weights()]),
    ):
        old = model.predict_one(x[0])
        write()
        same(model.predict_one(x[0]), model.predict(x)[0])
        assert not np.array_equal(model.predict_one(x[0]), old)
        same(p(x), before)
        same(model.predictor()(x), model.predict(x))


@pytest.mark.parametrize("widths", [(32, 64, 10), (300, 900, 10)])
def test_many_threads_at_once(widths: tuple[int, ...]) -> None:
    model, x = mixed(widths, "tanh"), rows(64, widths[0])
    expected = model.predict(x)
    assert_threads_predict(model, model.predictor(), x, expected, [expected[i:] for i in range(64)])


def test_the_numpy_backend_names_its_path_too() -> None:
    for dtype, path in (("mixed_bfloat16", "bfloat16 numpy"), ("float64", "float64 numpy")):
        model = fp.Sequential([fp.Input((4,)), fp.Dense(3)], dtype=dtype, backend="numpy")
        assert repr(model.predictor()) == f"<Predictor from (4,) to (3,), {path}>"

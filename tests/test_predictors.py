"""Compiled predictors and predict_one: the bits of predict, snapshots, threads, and all that can be passed in."""

from __future__ import annotations

import contextlib
import gc
import pickle
import re
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from parity import BACKENDS
from predictor_models import GRAPH_VALUES, assert_graph_predicts, chain, rows
from promises import activation

import fastperceptron as fp
from fastperceptron.errors import DTypeError, NotBuiltError, ShapeError
from fastperceptron.program import ACTIVATIONS, PRECISIONS

NATIVE = "native" in BACKENDS
native_only = pytest.mark.skipif(not NATIVE, reason="the pure wheel has no extension")
DTYPES = ("float32", "float64")


def predicted(model: fp.Model, x: Any) -> Any:
    """Of one sample. (NumPy's products give a row other bits in another batch.)"""
    return model.predict(np.asarray(x)[None])[0]


def assert_predicts(model: fp.Model, n: int) -> None:
    """One row, rows, and a buffer: the bits of predict."""
    x = rows(n, model.input_shape[0], model.dtype)
    expected = model.predict(x)
    p = model.predictor()
    np.testing.assert_array_equal(p(x), expected)
    out = np.full_like(expected, np.nan)
    assert p(x, out=out) is out
    np.testing.assert_array_equal(out, expected)
    for i in range(min(n, 3)):
        one = p(x[i])
        assert one.shape == model.output_shape
        assert one.dtype == model.dtype
        np.testing.assert_array_equal(one, predicted(model, x[i]))
        np.testing.assert_array_equal(model.predict_one(x[i]), one)
        if model.backend == "native":
            np.testing.assert_array_equal(one, expected[i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_every_activation_has_the_bits_of_predict(backend: str, kind: str, dtype: str) -> None:
    assert_predicts(chain((5, 17, 33, 10), kind, dtype, last="softmax"), 4)
    layers = [fp.Input((6,)), fp.Activation(activation(kind)), fp.Dense(7), fp.Activation(activation(kind))]
    assert_predicts(fp.Sequential(layers, seed=0, dtype=dtype), 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "widths",
    [(1, 1), (3, 1, 2), (32, 64, 64, 10), (257, 300, 9), (600, 15), (520, 16, 130), (700, 530, 10), (2000, 1100, 3)],
    ids=str,
)
def test_every_size_has_the_bits_of_predict(backend: str, widths: tuple[int, ...], dtype: str) -> None:
    for n in (1, 2, 5, 9, 130):
        assert_predicts(chain(widths, dtype=dtype, bias=n != 2), n)


@native_only
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("widths", [(900, 1300, 1100, 10), (900, 700, 15)], ids=str)
def test_threads_do_not_change_the_bits(widths: tuple[int, ...], threads: int) -> None:
    model = chain(widths)
    x = rows(700, 900)
    p = model.predictor()
    expected = p(x[:1]), p(x[:40]), p(x)
    with fp.threads(threads):
        for n, y in zip((1, 40, 700), expected, strict=True):
            for _ in range(3):  # calls that follow each other at once may share what one alone does by itself
                np.testing.assert_array_equal(p(x[:n]), y)
    np.testing.assert_array_equal(expected[0][0], expected[2][0])
    np.testing.assert_array_equal(expected[1], expected[2][:40])


@native_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("widths", [(600, 70, 10), (600, 530, 10)], ids=str)
def test_instruction_sets_agree(widths: tuple[int, ...], dtype: str) -> None:
    core = pytest.importorskip("fastperceptron._core")
    usable = [name for name in core.instruction_sets_usable() if name != "generic"]
    model, x = chain(widths, "tanh", dtype), rows(3, 600, dtype)
    p = model.predictor()
    results = []
    try:
        for name in usable:
            core.set_instruction_set(name)
            results.append(p(x[0]))
            np.testing.assert_array_equal(p(x)[0], results[0])
    finally:
        core.set_instruction_set("auto")
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_is_a_predictor(backend: str) -> None:
    p = chain((4, 3)).predictor()
    assert isinstance(p, fp.Predictor)
    assert (p.input_shape, p.output_shape, p.dtype, p.backend) == ((4,), (3,), np.dtype("float32"), backend)


def test_shapes_of_samples(backend: str) -> None:
    model = fp.Sequential([fp.Input((3, 4)), fp.Flatten(), fp.Dense(5)], seed=0)
    p = model.predictor()
    x = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(p(x), model.predict(x))
    np.testing.assert_array_equal(p(x[0]), predicted(model, x[0]))
    np.testing.assert_array_equal(model.predict_one(x[1]), predicted(model, x[1]))
    with pytest.raises(ShapeError, match=r"\(3, 4\) or \(n, 3, 4\); received \(12,\)"):
        p(x[0].ravel())


def test_shared_layers_and_dropout_alone(backend: str) -> None:
    inputs = fp.Input((4,))
    shared = fp.Dense(4, activation="tanh")
    assert_predicts(fp.Model(inputs, shared(shared(shared(inputs)))), 3)
    assert_predicts(fp.Sequential([fp.Input((4,)), fp.Dropout(0.5)]), 3)
    assert_predicts(fp.Sequential([fp.Input((4,)), fp.Dense(3), fp.Dropout(0.5)]), 3)
    assert_predicts(fp.Sequential([fp.Input((4,)), fp.Activation("softmax")]), 3)


@native_only
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", GRAPH_VALUES)
def test_operations_with_several_inputs(dtype: str, output: int) -> None:
    assert_graph_predicts(fp.backends.resolve("native"), dtype, output)


def skipping(output: Any = lambda y, h: y) -> fp.Model:
    inputs = fp.Input((6,))
    h = fp.Dense(9, activation="tanh")(inputs)
    y = fp.Dense(4)(fp.Concatenate()([fp.Add()([h, fp.Dense(9)(h)]), inputs, h]))
    return fp.Model(inputs, output(y, h), seed=0)


def test_graphs(backend: str) -> None:
    assert_predicts(skipping(), 5)
    model, x = skipping(lambda y, h: {"only": y}), rows(3, 6)
    p, expected = model.predictor(), model.predict(x)["only"]
    np.testing.assert_array_equal(p(x), expected)
    np.testing.assert_array_equal(model.predict_one(x[0]), p(x[0]))


def two_by_two(as_dict: bool) -> fp.Model:
    """Inputs of 6 and (2, 3), outputs of 4 and 9."""
    inputs = [fp.Input((6,), name="a"), fp.Input((2, 3), name="b")]
    h = fp.Dense(9, activation="tanh")(fp.Concatenate()([inputs[0], fp.Flatten()(inputs[1])]))
    y = fp.Dense(4, name="y")(h)
    return fp.Model(inputs, {"first": y, "second": h} if as_dict else [y, h], seed=0)


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(backend: str, as_dict: bool) -> None:
    model = two_by_two(as_dict)
    a, b = rows(5, 6), rows(5, 6, seed=1).reshape(5, 2, 3)
    p, expected = model.predictor(), model.predict([a, b])
    assert isinstance(p, fp.Predictor)
    assert (p.input_shape, p.output_shape) == ([(6,), (2, 3)], [(4,), (9,)])
    ones = model.predict([a[1:2], b[1:2]])
    model.set_weights([w + 1 for w in model.get_weights()])
    now = model.predict([a[1:2], b[1:2]])
    names = ("first", "second") if as_dict else (0, 1)
    for x in ([a, b], {"b": b.astype(np.float64), "a": a}, (a.tolist(), b)):
        found = p(x)
        assert type(found) is type(expected)
        assert list(found) == list(expected) if as_dict else len(found) == 2
        for name in names:
            np.testing.assert_array_equal(found[name], expected[name])
    buffers: Any = {"second": np.empty(9, np.float32), "first": np.empty(4, np.float32)}
    if not as_dict:
        buffers = [buffers["first"], buffers["second"]]
    for call, wanted in ((p, ones), (model.predict_one, now)):
        found = call([a[1], b[1]])
        assert call({"a": a[1], "b": b[1]}, out=buffers) is buffers
        for name in names:
            np.testing.assert_array_equal(found[name], wanted[name][0])
            np.testing.assert_array_equal(buffers[name], wanted[name][0])
    again = pickle.loads(pickle.dumps(p))([a, b])
    for name in names:
        np.testing.assert_array_equal(again[name], expected[name])


def test_one_input_and_several_outputs_or_the_reverse(backend: str) -> None:
    model, x = skipping(lambda y, h: [y, h]), rows(3, 6)
    for found, expected in zip(model.predictor()(x), model.predict(x), strict=True):
        np.testing.assert_array_equal(found, expected)
    for found, expected in zip(model.predict_one(x[0]), model.predict(x[:1]), strict=True):
        np.testing.assert_array_equal(found, expected[0])
    inputs = [fp.Input((6,)), fp.Input((6,))]
    model = fp.Model(inputs, fp.Add()(inputs))
    out = np.empty((3, 6), np.float32)
    assert model.predictor()([x, x], out=out) is out
    np.testing.assert_array_equal(out, x + x)
    np.testing.assert_array_equal(model.predict_one([x[0], x[1]]), x[0] + x[1])


def test_several_inputs_and_outputs_are_checked(backend: str) -> None:
    p: Any = two_by_two(False).predictor()
    a, b = rows(5, 6), rows(5, 6).reshape(5, 2, 3)
    y, h = np.zeros((5, 4), np.float32), np.zeros((5, 9), np.float32)
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (a, None, TypeError, "x must be a list of 2 or a dict, for a, b; received ndarray"),
        ([a], None, ValueError, "x must be 2, for a, b; received 1"),
        ({"a": a}, None, ValueError, r"x\['b'\] must be given; received None"),
        ({"a": a, "b": b, "c": b}, None, ValueError, "x must be for a, b; received 'c'"),
        ([a, b[:4]], None, ShapeError, r"x\['b'\] must be 5 rows, as x\['a'\]; received \(4, 2, 3\)"),
        ([a[0], b], None, ShapeError, r"x\['b'\] must be one sample, as x\['a'\]"),
        ([a, a], None, ShapeError, r"x\['b'\] must have shape \(2, 3\) or \(n, 2, 3\); received \(5, 6\)"),
        ([a, b], y, TypeError, "out must be a list of 2"),
        ([a, b], [y], ValueError, "out must be 2"),
        ([a, b], [y, None], DTypeError, "numpy.ndarray"),
        ([a, b], [h, y], ShapeError, r"must have shape \(5, 4\)"),
        ([a, b], [y, h.astype(np.float64)], DTypeError, "float32"),
        ([a, b], [y, np.zeros((5, 18), np.float32)[:, ::2]], ValueError, "adjacent|C-contiguous"),
    ]
    for x, out, error, message in cases:
        with pytest.raises(error, match=f"predictor: .*{message}"):
            p(x, out=out)
    assert not y.any()
    assert not h.any()
    memory = np.zeros(60, np.float32)
    with pytest.raises(ValueError, match="share no memory"):
        p([a, b], out=[memory[:20].reshape(5, 4), memory[10:55].reshape(5, 9)])
    square = fp.Input((4,), name="square")
    twice = fp.Model(square, [fp.Dense(4)(square), fp.Dense(4)(square)], seed=0).predictor()
    with pytest.raises(ValueError, match="received one for two"):
        twice(np.ones((5, 4), np.float32), out=[y, y])
    with pytest.raises(ShapeError, match=r"x\['a'\] must have shape \(6,\); received"):
        two_by_two(False).predict_one([a, b])


# -- what comes in -------------------------------------------------------------------------------------------------


def test_every_kind_of_array(backend: str) -> None:
    model = chain((6, 5, 3))
    p = model.predictor()
    x = np.arange(24, dtype=np.float32).reshape(4, 6) / 7
    kinds: list[Any] = [
        x.tolist(),
        np.repeat(x, 2, axis=1)[:, ::2],
        x[::-1][::-1],
        np.asfortranarray(x),
        x.astype(x.dtype.newbyteorder()),
        x.astype(np.float64),
        np.frombuffer(b"\0" + x.tobytes(), np.float32, offset=1).reshape(4, 6),
        pickle.loads(pickle.dumps(x)),
        np.broadcast_to(x[:1], (4, 6)),
        x.view(np.memmap),
    ]
    for kind in kinds:
        before = pickle.dumps(kind)
        np.testing.assert_array_equal(p(kind), model.predict(kind))
        np.testing.assert_array_equal(p(kind[2]), predicted(model, kind[2]))
        assert pickle.dumps(kind) == before
    np.testing.assert_array_equal(p(np.ones(6, bool)), p(np.ones(6, np.int8)))
    assert p(np.empty((0, 6), np.float32)).shape == (0, 3)
    assert np.isnan(p(np.full(6, np.nan, np.float32))).all()
    assert np.isfinite(p(np.full(6, 1e-40))).all()
    assert not np.isfinite(p(np.full(6, 1e300))).any()  # infinity in float32, without a warning


@pytest.mark.parametrize("x", [np.ones(5), np.ones((2, 5)), np.ones((1, 1, 6)), np.ones(()), 3, np.ones((6, 1))])
def test_wrong_shapes(backend: str, x: Any) -> None:
    model = chain((6, 3))
    with pytest.raises(ShapeError, match=r"predictor: x must have shape \(6,\) or \(n, 6\); received"):
        model.predictor()(x)
    with pytest.raises(ShapeError, match=r"predictor: x must have shape \(6,\); received"):
        model.predict_one(x)


def test_predict_one_takes_one(backend: str) -> None:
    model = chain((6, 3))
    for _ in range(2):
        with pytest.raises(ShapeError, match=r"must have shape \(6,\); received \(1, 6\)"):
            model.predict_one(np.ones((1, 6), np.float32))
        assert model.predict_one(np.ones(6, np.float32)).shape == (3,)


@pytest.mark.parametrize("x", [["a"] * 6, np.ones(6, complex), np.array([None] * 6), {}, None])
def test_wrong_types(backend: str, x: Any) -> None:
    with pytest.raises(DTypeError):
        chain((6, 3)).predictor()(x)


def test_wrong_numbers_say_what_came(backend: str) -> None:
    p = chain((6, 3)).predictor()
    for x, came in ((None, "NoneType"), ({"input": [1] * 6}, "dict"), (object(), "object")):
        with pytest.raises(DTypeError, match=f"predictor: x must hold real numbers; received {came}"):
            p(x)
    with pytest.raises(ValueError, match="predictor: x must hold numbers within float64's range"):
        p([10**400] * 6)


@native_only
def test_pickles_that_were_changed() -> None:
    make, (program, parameters, given, result) = chain((6, 3)).predictor().__reduce__()  # type: ignore[misc]
    assert make(program, parameters, given, result)(np.ones(6)).shape == (3,)
    wrong: list[tuple[Any, ...]] = [
        (program, [], given, result),
        (program, parameters[:1], given, result),
        (program, parameters, (-2, -3), result),
        (program, parameters, ("a",), result),
        (program, parameters, given, (4,)),
    ]
    for parts in wrong:
        with pytest.raises(ValueError, match="predictor: "):
            make(*parts)


def test_layers_in_python_are_named_as_what_computes() -> None:
    class Own(fp.Dense):
        def forward(self, x: Any, training: bool) -> Any:
            return super().forward(x, training)

    own = fp.Sequential([fp.Input((4,)), Own(3)], dtype="mixed_bfloat16")
    assert own.predictor().product_path == "Python"
    both = fp.Sequential([fp.Input((4,)), fp.Dense(3), Own(3)], dtype="mixed_bfloat16")
    assert re.fullmatch(r"bfloat16 \w+ and Python", both.predictor().product_path)
    none = fp.Sequential([fp.Input((4,)), fp.Activation("relu")], backend="numpy")
    assert none.predictor().product_path == "none"


def test_wrong_outputs(backend: str) -> None:
    model = chain((6, 6))
    p, x = model.predictor(), np.ones((2, 6), np.float32)
    frozen = np.zeros((2, 6), np.float32)
    frozen.flags.writeable = False
    memory = np.ones(20, np.float32)
    cases: list[tuple[Any, Any, type[Exception], str]] = [
        (x, [0], DTypeError, "numpy.ndarray"),
        (x, np.zeros((2, 6)), DTypeError, "float32"),
        (x, np.zeros((2, 6), x.dtype.newbyteorder()), DTypeError, "float32"),
        (x, np.zeros(6, np.float32), ShapeError, r"\(2, 6\)"),
        (x[0], np.zeros((1, 6), np.float32), ShapeError, r"\(6,\)"),
        (x, np.zeros((3, 6), np.float32), ShapeError, r"\(2, 6\)"),
        (x, frozen, ValueError, "read-only"),
        (x, np.zeros((2, 9), np.float32)[:, :6], ValueError, "C-contiguous"),
        (x, np.zeros((6, 2), np.float32).T, ValueError, "rows in order"),
        (x, x, ValueError, "share no memory"),
        (memory[:6], memory[3:9], ValueError, "share no memory"),
        (memory[4:10], memory[0:6], ValueError, "share no memory"),
        # What x is converted to is apart; x itself is not.
        (memory[0:12:2], memory[1:7], ValueError, "share no memory"),
        (memory[:12].view(np.float64), memory[2:8], ValueError, "share no memory"),
        (memory[:6].view(memory.dtype.newbyteorder()), memory[:6], ValueError, "share no memory"),
        (memoryview(memory[0:12:2]), memory[1:7], ValueError, "share no memory"),
        (x[0], np.ma.masked_all(6, np.float32), DTypeError, "plain array; received a MaskedArray"),
    ]
    for given, out, error, message in cases:
        before = pickle.dumps(out)
        with pytest.raises(error, match=message):
            p(given, out=out)
        assert pickle.dumps(out) == before
    np.testing.assert_array_equal(p(memory[:6], out=memory[6:12]), p(np.ones(6)))
    mapped = np.zeros((2, 6), np.float32).view(np.memmap)
    assert p(x, mapped) is mapped
    np.testing.assert_array_equal(mapped, p(x))
    buffer = np.zeros(6, np.float32)
    assert model.predict_one(x[0], out=buffer) is buffer
    np.testing.assert_array_equal(buffer, p(x[0]))
    with pytest.raises(ShapeError):
        model.predict_one(x[0], out=np.zeros(5, np.float32))


@native_only
def test_calls() -> None:
    p, x = chain((6, 3), dtype="float64").predictor(), np.ones(6)
    call: Any = p
    expected = p(x)
    for y in (call(x=x), call(x, None), call(x, out=None), call(out=np.empty(3), x=x), call(*[x], out=None)):
        np.testing.assert_array_equal(y, expected)
    wrong: list[tuple[Any, Any]] = [((), {}), ((x, None, 1), {}), ((x,), {"output": None}), ((x,), {"x": x})]
    for arguments, names in [*wrong, ((), {"out": x})]:
        with pytest.raises(TypeError, match=r"predictor: expected \(x, out=None\)"):
            call(*arguments, **names)
    with pytest.raises(TypeError):
        type(call)()


# -- life ------------------------------------------------------------------------------------------------------------


def test_mixed_bfloat16(backend: str) -> None:
    model = chain((40, 33, 10), dtype="mixed_bfloat16")
    x, p = rows(5, 40), model.predictor()
    before = model.predict(x)
    np.testing.assert_array_equal(p(x), before)
    assert p(x[0]).dtype == p.dtype == np.float32
    np.testing.assert_array_equal(p(x[0]), predicted(model, x[0]))
    np.testing.assert_array_equal(model.predict_one(x[0]), p(x[0]))
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))


def test_a_snapshot_keeps_its_weights(backend: str) -> None:
    model = chain((4, 8, 2))
    model.compile(fp.SGD(0.1), "mse")
    x, y = rows(20, 4), rows(20, 2, seed=1)
    p, before = model.predictor(), model.predict(x)
    np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))
    writes = [
        lambda: model.fit(x, y, epochs=1, verbose=0),
        lambda: model.train_on_batch(x, y),
        lambda: model.set_weights([w * 2 for w in model.get_weights()]),
        lambda: setattr(model.layers[0], "kernel", np.ones((4, 8))),
        lambda: model.set_state({**model.get_state(), "params/dense/bias": np.ones(8, np.float32)}),
        lambda: model.to_backend("numpy"),
        lambda: model.add(fp.Dense(2)),
    ]
    for write in writes:
        old = model.predict_one(x[0])
        write()
        new = model.predict_one(x[0])
        np.testing.assert_array_equal(new, predicted(model, x[0]))
        assert write is writes[5] or not np.array_equal(new, old)
    np.testing.assert_array_equal(p(x), before)


def test_a_snapshot_outlives_its_model(backend: str) -> None:
    p, x = chain((4, 8, 2)).predictor(), rows(20, 4)
    gc.collect()
    np.testing.assert_array_equal(p(x), chain((4, 8, 2)).predict(x))


def test_predict_one_inside_and_beside_training(backend: str) -> None:
    model = chain((4, 8, 2))
    model.compile(fp.SGD(0.1), "mse")
    x, y = rows(20, 4), rows(20, 2, seed=1)
    seen: list[Any] = []
    errors: list[str] = []

    def beside() -> None:
        try:
            model.predict_one(x[0])
        except fp.ModelBusyError as error:
            errors.append(str(error))

    def look(*_: Any) -> None:
        np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))
        seen.append(model.predict_one(x[0]))
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()

    model.predict_one(x[0])
    model.fit(x, y, epochs=3, verbose=0, callbacks=fp.LambdaCallback(on_epoch_end=look))
    assert len({a.tobytes() for a in seen}) == 3
    assert len(errors) == 3
    assert "predict_one" in errors[0]


def test_not_built() -> None:
    model = fp.Sequential([fp.Dense(2)])
    with pytest.raises(NotBuiltError, match="predictor"):
        model.predictor()
    with pytest.raises(NotBuiltError, match="predict_one"):
        model.predict_one([1.0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_pickle(backend: str, dtype: str) -> None:
    model = chain((9, 20, 5, 3), dtype=dtype)
    x = rows(4, 9, dtype)
    p = pickle.loads(pickle.dumps(model.predictor()))
    assert isinstance(p, fp.Predictor)
    np.testing.assert_array_equal(p(x), model.predict(x))


class Doubled(fp.Layer):
    def forward(self, x: Any, training: bool) -> Any:
        return 2 * x, None

    def backward(self, dy: Any, saved: Any) -> Any:
        return 2 * dy, ()


def test_layers_written_in_python(backend: str) -> None:
    model = fp.Sequential([fp.Input((4,)), fp.Dense(3), Doubled()], seed=0)
    x, p = rows(5, 4), model.predictor()
    before = model.predict(x)
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(p(x[1]), predicted(model, x[1]))
    np.testing.assert_array_equal(model.predict_one(x[1]), p(x[1]))
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(model.predict_one(x[1]), predicted(model, x[1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(p))(x), before)


@pytest.mark.parametrize("widths", [(32, 64, 10), (300, 900, 10)])
def test_many_threads_at_once(backend: str, widths: tuple[int, ...]) -> None:
    model = chain(widths, "tanh")
    p, x = model.predictor(), rows(64, widths[0])
    expected, singly = [p(x[i:]) for i in range(64)], [p(row) for row in x]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(40):
            i = (seed * 7 + k) % 64
            if not np.array_equal(p(x[i]), singly[i]) or not np.array_equal(model.predict_one(x[i]), singly[i]):
                wrong.append(i)
            if not np.array_equal(p(x[i:]), expected[i]):
                wrong.append(-i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@contextlib.contextmanager
def waiting_thread() -> Iterator[threading.Event]:
    """A Python thread that awaits the interpreter, which nobody is made to give up; the event says it has had it."""
    go, ran = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: go.wait() and ran.set())
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        go.set()
        yield ran
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@native_only
@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this interpreter is not locked")
@pytest.mark.parametrize("dtype", [*DTYPES, "mixed_bfloat16"])
@pytest.mark.parametrize(("n", "lets"), [(1, False), (20_000, True)])
def test_large_work_lets_other_threads_run(n: int, lets: bool, dtype: str) -> None:
    """Small work does not: to give the interpreter up and get it back would take longer."""
    model = chain((32, 256, 10), dtype=dtype)
    p, x = model.predictor(), rows(n, 32, PRECISIONS[dtype])
    out = np.empty((n, 10), x.dtype)
    with waiting_thread() as ran:
        for _ in range(500):  # for one call the thread may not get a CPU
            p(x, out=out)
            if ran.is_set():
                break
        assert ran.is_set() == lets


@native_only
def test_nothing_leaks() -> None:
    model = chain((8, 4))
    p, x, out = model.predictor(), np.ones(8, np.float32), np.empty(4, np.float32)
    call: Any = p
    objects = (p, x, out, p.dtype, np.dtype(np.float32), p.input_shape)

    def many(n: int) -> None:
        for _ in range(n):
            p(x)
            p(x, out=out)
            model.predict_one(x)
        for _ in range(n // 100):
            p([1.0] * 8)
            pickle.loads(pickle.dumps(p))
            for arguments in ((), (x, x), (x[:3],), ("a",)):
                with contextlib.suppress(TypeError, ValueError):
                    call(*arguments)

    many(10_000)
    gc.collect()
    before, blocks = [sys.getrefcount(o) for o in objects], sys.getallocatedblocks()
    many(100_000)
    gc.collect()
    assert [sys.getrefcount(o) for o in objects] == before
    assert sys.getallocatedblocks() - blocks < 900

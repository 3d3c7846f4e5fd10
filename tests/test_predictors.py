"""Compiled predictors and predict_one: the bits of predict, and all that can be passed in."""

from __future__ import annotations

import pickle
import re
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from predictor_models import GRAPH_OUTPUTS, assert_graph_predicts, chain, predicted, rows, same, two_by_two, two_rows
from promises import activation
from pure import native_only

import fastperceptron as fp
from fastperceptron.errors import DTypeError, ShapeError
from fastperceptron.predictors import ModelPredictor
from fastperceptron.program import ACTIVATIONS, PRECISIONS

DTYPES = ("float32", "float64")


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


def test_one_input_may_be_given_by_name(backend: str) -> None:
    for model in (chain((4, 3)), fp.Sequential([fp.Input((2, 2)), fp.Flatten(), fp.Dense(3)])):
        p, x = model.predictor(), np.ones((5, *model.input_shape))
        expected, out = model.predict(x), np.empty((5, 3), np.float32)
        for given in ({"input": x}, MappingProxyType({"input": x})):
            np.testing.assert_array_equal(model.predict(given), expected)
            np.testing.assert_array_equal(p(given), expected)
            assert p(given, out=out) is out
            np.testing.assert_array_equal(out, expected)
        for one in (p, model.predict_one):
            np.testing.assert_array_equal(one({"input": x[0]}), predicted(model, x[0]))
        for bad, message in (({}, "x must be given; received None"), ({"y": x}, "x must be for input; received 'y'")):
            for call in (model.predict, p):
                with pytest.raises(ValueError, match=message):
                    call(bad)
        with pytest.raises(fp.DTypeError, match="x must hold real numbers; received NoneType"):
            p(None)


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
@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("outputs", GRAPH_OUTPUTS, ids=str)
def test_operations_with_several_inputs(dtype: str, outputs: tuple[int, ...], inputs: int) -> None:
    assert_graph_predicts(fp.backends.resolve("native"), dtype, outputs, inputs)


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


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_and_outputs(backend: str, as_dict: bool, dtype: str) -> None:
    model, of = two_by_two(as_dict, dtype), PRECISIONS[dtype]
    a, b = two_rows(5, of)
    p, expected = model.predictor(), model.predict([a, b])
    assert isinstance(p, fp.Predictor)
    assert isinstance(p, ModelPredictor) == (backend == "numpy")
    assert repr(p).startswith("<Predictor from [(6,), (2, 3)] to [(4,), (9,)], ")
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
    buffers: Any = {"second": np.empty(9, of), "first": np.empty(4, of)}
    if not as_dict:
        buffers = [buffers["first"], buffers["second"]]
    for call, wanted in ((p, ones), (model.predict_one, now)):
        found = call([a[1], b[1]])
        assert call({"a": a[1], "b": b[1]}, out=buffers) is buffers
        for name in names:
            np.testing.assert_array_equal(found[name], wanted[name][0])
            np.testing.assert_array_equal(buffers[name], wanted[name][0])
    for n in (0, 5):  # rows into arrays given in another way
        out: Any = [np.empty((n, 4), of), np.empty((n, 9), of).view(np.memmap)]
        given = {"second": out[1], "first": out[0]} if as_dict else tuple(out)
        assert p((a[:n], b[:n]), out=given) is given
        for name, found in zip(names, out, strict=True):
            np.testing.assert_array_equal(found, expected[name][:n])
        assert [found.shape for found in p([a[:n], b[:n]].copy(), out=out)] == [(n, 4), (n, 9)]
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
        ([a, ["b"] * 5], None, DTypeError, r"x\['b'\] must hold real numbers"),
        ({"a": a, 3: b}, None, ValueError, "x must be for a, b; received 3"),
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
    for n in (5, 0):
        with pytest.raises(ValueError, match="received one for two"):
            twice(np.ones((n, 4), np.float32), out=[y[:n]] * 2)
    with pytest.raises(ValueError, match="share no memory"):
        twice(memory[:20].reshape(5, 4), out=[y, memory[16:36].reshape(5, 4)])
    with pytest.raises(ShapeError, match=r"x\['a'\] must have shape \(6,\); received"):
        two_by_two(False).predict_one([a, b])


@native_only
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize(("width", "units"), [(7, 11), (700, 600)])
def test_many_inputs_and_outputs(dtype: str, width: int, units: int) -> None:
    """More than lie within the arrays of a call, one of them twice, one dropped out alone; large ones shared among
    threads."""
    inputs = [fp.Input((width,)) for _ in range(5)]
    total = fp.Add()(inputs)
    outputs = [fp.Dense(units, activation="relu")(value) for value in (*inputs, total)]
    outputs += [total, outputs[0], fp.Dropout(0.5)(inputs[3])]
    model = fp.Model(inputs, [*outputs, fp.Dense(3)(outputs[1])], seed=0, dtype=dtype)
    x = [rows(600, width, PRECISIONS[dtype], seed) for seed in range(5)]
    p, expected = model.predictor(), model.predict(x)
    assert not isinstance(p, ModelPredictor)
    for threads in (1, 3):
        with fp.threads(threads):
            for part in (0, 7, slice(0, 1), slice(3, 40), slice(600)):
                given = [a[part] for a in x]
                for found, wanted in zip(p(given), expected, strict=True):
                    same(found, wanted[part])
                out = [np.full_like(wanted[part], np.nan) for wanted in expected]
                p(given, out=out)
                for found, wanted in zip(out, expected, strict=True):
                    same(found, wanted[part])
            for found, wanted in zip(model.predict_one([a[5] for a in x]), expected, strict=True):
                same(found, wanted[5])


# -- what comes in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "given"), [("float64", np.float32), ("float32", np.float64)])
def test_subnormal_numbers_of_another_type_are_converted_alike(backend: str, dtype: str, given: Any) -> None:
    """1e-40 is subnormal in float32 and not in float64. No arithmetic follows, which would make it zero."""
    model = fp.Sequential([fp.Input((3,)), fp.Activation("linear")], dtype=dtype, backend=backend)
    x = np.full((2, 3), 1e-40, given)
    assert model.predict(x).tolist() == x.astype(dtype).tolist()
    assert model.predictor()(x).tolist() == x.astype(dtype).tolist()
    assert model.predict_one(x[0]).tolist() == x[0].astype(dtype).tolist()


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


@pytest.mark.parametrize("x", [["a"] * 6, np.ones(6, complex), np.array([None] * 6), {"input": "a"}, None])
def test_wrong_types(backend: str, x: Any) -> None:
    with pytest.raises(DTypeError):
        chain((6, 3)).predictor()(x)


def test_wrong_numbers_say_what_came(backend: str) -> None:
    p = chain((6, 3)).predictor()
    for x, came in ((None, "NoneType"), ({1}, "set"), (object(), "object")):
        with pytest.raises(DTypeError, match=f"predictor: x must hold real numbers; received {came}"):
            p(x)
    with pytest.raises(ValueError, match="predictor: x must hold numbers within float64's range"):
        p([10**400] * 6)


@native_only
def test_pickles_that_were_changed() -> None:
    make, (program, parameters, signature) = chain((6, 3)).predictor().__reduce__()  # type: ignore[misc]
    assert make(program, parameters, signature)(np.ones(6)).shape == (3,)
    wrong: list[tuple[Any, ...]] = [
        (program, [], signature),
        (program, parameters[:1], signature),
        (program, parameters, signature._replace(input_shapes=((-2, -3),))),
        (program, parameters, signature._replace(input_shapes=(("a",),))),
        (program, parameters, signature._replace(output_shapes=((4,),))),
        (program, parameters, signature._replace(output_shapes=((3,), (3,)))),
        (program, parameters, signature._replace(input_names=())),
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

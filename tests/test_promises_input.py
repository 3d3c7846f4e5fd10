"""No input crashes: whatever arrays come, a call works or raises a typed error, and leaves the arrays (and on an error
the model) as they were."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from parity import Builder, load_backend, make_network, random_parameters
from promises import digest
from pure import BACKENDS, PURE

import fastperceptron as fp
from fastperceptron import kernels
from fastperceptron.program import ACTIVATIONS, LOSSES

#: What a caller may see. ShapeError and DTypeError are ValueError and TypeError.
TYPED = (ValueError, TypeError, fp.NotBuiltError, MemoryError)
WIDTH, CLASSES = 6, 4
EXAMPLES = settings(
    max_examples=int(os.environ.get("FASTPERCEPTRON_EXAMPLES", "120")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NaN, overflow and divergence are meant to happen here
]
each_backend = pytest.mark.parametrize("backend", BACKENDS)

# -- arrays of every kind --------------------------------------------------------------------------------------------

DTYPES = st.one_of(
    st.sampled_from(("f4", "f8")),
    st.sampled_from(
        ("f2", "g", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", ">f4", ">f8", ">i4", ">u8", ">f2")
    ),
    st.sampled_from(("c8", "O", "U3", "S2", "M8[s]", "m8[s]", "V4")),
)
VALUES = st.sampled_from(("small", "classes", "huge", "nan", "inf", "subnormal", "negative", "mixed"))
LAYOUTS = st.sampled_from(
    ("plain", "fortran", "reversed", "sliced", "misaligned", "zero", "read-only", "broadcast", "transposed", "matrix")
)


def numbers(kind: str, size: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = {
        "small": rng.standard_normal(size),
        "classes": rng.integers(0, CLASSES, size).astype(np.float64),
        "huge": rng.standard_normal(size) * 10.0 ** rng.integers(30, 300, size),
        "nan": np.full(size, np.nan),
        "inf": np.where(rng.random(size) < 0.5, np.inf, -np.inf),
        "subnormal": rng.standard_normal(size) * 1e-310,
        "negative": -rng.integers(0, 2**62, size).astype(np.float64),
    }
    if kind != "mixed":
        return values[kind]
    return np.choose(rng.integers(0, len(values), size), list(values.values())) if size else np.zeros(0)


def typed(values: np.ndarray, dtype: str) -> np.ndarray:
    target = np.dtype(dtype)
    with np.errstate(all="ignore"):
        if target.kind in "iu":
            values = np.nan_to_num(values, nan=0, posinf=2.0**31, neginf=-(2.0**31))
            return values.clip(-(2.0**63), 2.0**62).astype(target)
        if target.kind in "mM":
            return np.nan_to_num(values, nan=0, posinf=0, neginf=0).clip(-1e9, 1e9).astype(np.int64).astype(target)
        if target.kind == "V":
            return np.zeros(values.shape, target)
        return values.astype(target)


def laid_out(a: np.ndarray, layout: str) -> np.ndarray:
    match layout:
        case "fortran":
            return np.asfortranarray(a)
        case "reversed" if a.ndim:
            return np.ascontiguousarray(a[::-1])[::-1]
        case "sliced" if a.ndim:
            wide = np.zeros(tuple(2 * extent for extent in a.shape), a.dtype)
            view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
            view[...] = a
            return view
        case "misaligned" if a.dtype != object:
            raw = np.zeros(a.nbytes + 1, np.uint8)
            view = raw[1:].view(a.dtype).reshape(a.shape) if a.nbytes else a
            view[...] = a
            return view
        case "zero" if a.ndim and a.shape[0]:
            return np.lib.stride_tricks.as_strided(a, a.shape, (0, *a.strides[1:]))
        case "broadcast" if a.ndim and a.shape[0]:
            return np.broadcast_to(a[:1], a.shape)
        case "read-only":
            a = a.copy()
            a.flags.writeable = False
            return a
        case "transposed" if a.ndim == 2:
            return np.ascontiguousarray(a.T).T
        case "matrix" if a.ndim == 2 and a.dtype.kind in "biuf":
            return np.ma.array(a)
    return a


@st.composite
def arrays(draw: st.DrawFn, shapes: list[tuple[int, ...]]) -> np.ndarray:
    """Usually of one of these shapes."""
    shape = draw(st.one_of(st.sampled_from(shapes), st.lists(st.integers(0, 9), max_size=4).map(tuple)))
    values = numbers(draw(VALUES), math.prod(shape), draw(st.integers(0, 99))).reshape(shape)
    return laid_out(np.asarray(typed(values, draw(DTYPES))), draw(LAYOUTS))


def image(value: Any) -> Any:
    """What must not change. Objects count as themselves."""
    if not isinstance(value, np.ndarray):
        return repr(value)
    if value.dtype == object:
        return value.shape, value.strides, [repr(v) for v in value.ravel()]
    return value.shape, value.strides, value.dtype, value.flags.writeable, value.tobytes()


LISTS: list[Any] = [[], [[]], [[1, 2], [3]], [[1.0] * WIDTH] * 3, [None] * 3, [["a"] * WIDTH]]
ODD = st.sampled_from([*LISTS, None, "text", 3, 2.5, b"x", {}, object(), ...])
ROWS = st.one_of(arrays([(5, WIDTH), (5, WIDTH), (5, WIDTH), (1, WIDTH), (0, WIDTH), (WIDTH,), (5, WIDTH, 1)]), ODD)
LABELS = st.one_of(arrays([(5,), (5,), (5,), (5, 1), (1,), (0,), (5, CLASSES)]), ODD)
TARGETS = st.one_of(arrays([(5, CLASSES), (5, CLASSES), (5, CLASSES), (5,), (0, CLASSES)]), ODD)
WEIGHTS = st.one_of(st.none(), st.none(), arrays([(5,), (5,), (5, 1), (1,)]), ODD)


def model_for(backend: str, sparse: bool, dtype: str = "float32", built: bool = True) -> fp.Sequential:
    layers: list[Any] = [fp.Dense(8, activation="tanh"), fp.Dropout(0.2), fp.Dense(CLASSES)]
    model = fp.Sequential(layers, seed=1, backend=backend, dtype=dtype)
    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True) if sparse else fp.losses.MeanSquaredError()
    model.compile(fp.SGD(0.01, momentum=0.9), loss, ["accuracy" if sparse else "mae"])
    if built:
        model.build((WIDTH,))
    return model


def call(model: fp.Model, name: str, *given: Any, **named: Any) -> Any:
    """The method's result, or None after a typed error; checks what has to stay as it was."""
    images = [image(value) for value in (*given, *named.values())]
    before = digest(model) if model.built else None
    result = failure = None
    try:
        result = getattr(model, name)(*given, **named)
    except TYPED as error:
        failure = error
    if failure is not None:
        assert str(failure), "an error without a message"
        assert (digest(model) if model.built else None) == before, "an error changed the model"
    assert [image(value) for value in (*given, *named.values())] == images, "an input changed"
    if name in ("predict", "evaluate"):
        assert digest(model) == before
    return result


@each_backend
@EXAMPLES
@given(x=ROWS, dtype=st.sampled_from(["float32", "float64"]))
def test_predict(backend: str, x: Any, dtype: str) -> None:
    model = model_for(backend, True, dtype)
    out = call(model, "predict", x)
    if out is not None:
        rows = np.asarray(x)
        assert out.shape == (rows.shape[0], CLASSES)
        assert out.dtype == dtype
        plain = np.ascontiguousarray(rows, rows.dtype.newbyteorder("=")).astype(dtype)
        np.testing.assert_array_equal(out, model.predict(plain.reshape(rows.shape[0], WIDTH)))


@each_backend
@EXAMPLES
@given(x=ROWS, y=LABELS, weights=WEIGHTS, built=st.booleans(), batch=st.sampled_from([1, 2, 5, 32, None]))
@example(x=np.zeros((5, WIDTH)), y=np.array([0, 1, 2, 3, 4]), weights=None, built=True, batch=2)
@example(x=np.zeros((5, WIDTH)), y=np.array([0, -1, 2, 3, 0]), weights=None, built=True, batch=2)
@example(x=np.zeros((5, WIDTH)), y=np.array([0, 2**63, 2, 3, 0], np.uint64), weights=None, built=True, batch=2)
@example(x=np.zeros((5, WIDTH)), y=np.array([0, 1e300, 2, 3, 0]), weights=None, built=True, batch=2)
def test_fit_on_labels(backend: str, x: Any, y: Any, weights: Any, built: bool, batch: Any) -> None:
    model = model_for(backend, True, built=built)
    call(model, "fit", x, y, batch_size=batch, verbose=0, sample_weight=weights)
    if model.built and model.input_shape == (WIDTH,):
        assert model.predict(np.zeros((2, WIDTH))).shape == (2, CLASSES)


@each_backend
@EXAMPLES
@given(x=ROWS, y=TARGETS, weights=WEIGHTS, split=st.sampled_from([0.0, 0.4, 1.0, -1, None]))
def test_fit_on_targets(backend: str, x: Any, y: Any, weights: Any, split: Any) -> None:
    call(model_for(backend, False), "fit", x, y, verbose=0, sample_weight=weights, validation_split=split)


@each_backend
@EXAMPLES
@given(x=ROWS, labels=LABELS, targets=TARGETS, weights=WEIGHTS)
def test_evaluate_train_on_batch_and_trace(backend: str, x: Any, labels: Any, targets: Any, weights: Any) -> None:
    for sparse, y in ((True, labels), (False, targets)):
        model = model_for(backend, sparse)
        call(model, "evaluate", x, y, sample_weight=weights)
        before = digest(model)
        call(model, "trace", x, y)
        assert digest(model) == before
        call(model, "train_on_batch", x, y, sample_weight=weights)


@each_backend
@EXAMPLES
@given(x=ROWS, y=LABELS)
def test_validation_data(backend: str, x: Any, y: Any) -> None:
    good = np.zeros((7, WIDTH)), np.zeros(7, np.int64)
    call(model_for(backend, True), "fit", *good, verbose=0, validation_data=(x, y))


@each_backend
@EXAMPLES
@given(value=st.one_of(arrays([(WIDTH, 8), (8,), (8, CLASSES), (CLASSES,)]), ODD), index=st.integers(0, 3))
def test_set_weights(backend: str, value: Any, index: int) -> None:
    model = model_for(backend, True)
    weights: list[Any] = model.get_weights()
    weights[index] = value
    before = digest(model)
    call(model, "set_weights", weights)
    if digest(model) == before:
        return
    written = model.get_weights()[index]
    np.testing.assert_array_equal(written, np.asarray(value).astype(np.float32))


# -- the stateless functions -----------------------------------------------------------------------------------------

REAL = ("f4", "f8")


def stateless(backend: str, function: Any, *given: Any, **named: Any) -> Any:
    images = [image(value) for value in given]
    fp.set_backend(backend)
    result, failure = None, ""
    try:
        result = function(*given, **named)
    except TYPED as error:
        failure = str(error) or "no message"
    finally:
        fp.set_backend("auto")
    assert failure != "no message"
    assert [image(value) for value in given] == images, "an input changed"
    return result


@each_backend
@EXAMPLES
@given(
    x=arrays([(5, WIDTH), (5, WIDTH), (0, WIDTH), (5, 0)]),
    w=arrays([(WIDTH, CLASSES), (WIDTH, CLASSES), (WIDTH, 0), (0, CLASSES)]),
    b=st.one_of(st.none(), arrays([(CLASSES,), (0,)])),
    dz=arrays([(5, CLASSES), (5, CLASSES), (0, CLASSES)]),
    kind=st.sampled_from((*ACTIVATIONS, "wrong")),
)
def test_dense_functions(backend: str, x: Any, w: Any, b: Any, dz: Any, kind: str) -> None:
    y = stateless(backend, kernels.dense_forward, x, w, b, activation=kind)
    if y is not None:
        assert y.shape == (len(x), w.shape[1])
    stateless(backend, kernels.dense_backward, x, w, dz)
    stateless(backend, kernels.dense_backward_input, dz, w)
    stateless(backend, kernels.dense_backward_weights, x, dz)
    stateless(backend, kernels.dense_backward_bias, dz)


@each_backend
@EXAMPLES
@given(
    z=arrays([(5, WIDTH), (3, 2, 4), (0, 3), (3, 0)]),
    dy=arrays([(5, WIDTH), (3, 2, 4)]),
    kind=st.sampled_from((*ACTIVATIONS, "", None)),
    loss=st.sampled_from((*LOSSES, "wrong")),
    labels=arrays([(5,), (3,)]),
)
def test_activations_and_losses(backend: str, z: Any, dy: Any, kind: Any, loss: str, labels: Any) -> None:
    y = stateless(backend, kernels.activation_forward, kind, z)
    assert y is None or y.shape == z.shape
    stateless(backend, kernels.activation_backward, kind, dy, z)
    for target in (dy, labels):
        losses = stateless(backend, kernels.loss_forward, loss, target, z)
        assert losses is None or losses.shape == (len(z),)
        stateless(backend, kernels.loss_backward, loss, target, z)
    stateless(backend, kernels.dropout_forward, z, rate=0.5, key=1)


@each_backend
@EXAMPLES
@given(
    out=arrays([(5, CLASSES), (5, CLASSES), (CLASSES, 5)]),
    overlap=st.sampled_from(["none", "x", "w", "part of x"]),
    dtype=st.sampled_from(REAL),
)
def test_out_is_written_whole_or_refused(backend: str, out: np.ndarray, overlap: str, dtype: str) -> None:
    rng = np.random.default_rng(0)
    memory = rng.standard_normal((40, WIDTH)).astype(dtype)
    x, w = memory[:5], rng.standard_normal((WIDTH, CLASSES)).astype(dtype)
    if overlap == "x":
        out = x[:, :CLASSES]
    elif overlap == "w":
        out = np.lib.stride_tricks.as_strided(w, (5, CLASSES), w.strides)
    elif overlap == "part of x":
        out = memory[4:9, :CLASSES]
    before = image(out)
    expected = stateless(backend, kernels.dense_forward, x, w)
    got = stateless(backend, kernels.dense_forward, x, w, None, out=out)
    if got is None:
        assert image(out) == before, "a refused output changed"
        return
    assert overlap == "none"
    assert got is out or np.shares_memory(got, out)
    np.testing.assert_array_equal(out, expected)


# -- sizes past 2^31 -------------------------------------------------------------------------------------------------

HUGE = 2**31 + 77


def huge(shape: tuple[int, ...], value: float = 0.5, dtype: str = "f4") -> np.ndarray:
    """Takes no memory."""
    return np.broadcast_to(np.array(value, dtype), shape)


@each_backend
def test_huge_shapes_that_do_not_fit_are_refused_at_once(backend: str) -> None:
    model = model_for(backend, True)
    for x, y in (
        (huge((HUGE, WIDTH + 1)), huge((HUGE,), 0, "i8")),
        (huge((5, HUGE)), huge((5,), 0, "i8")),
        (huge((HUGE, WIDTH)), huge((HUGE - 1,), 0, "i8")),
        (huge((2**40, 2**18)), huge((2**40,), 0, "i8")),
        (huge((HUGE, WIDTH)), huge((HUGE, CLASSES))),
    ):
        before = digest(model)
        for name in ("fit", "evaluate"):
            with pytest.raises(fp.ShapeError):
                getattr(model, name)(x, y)
        assert digest(model) == before
    for x in (huge((HUGE, WIDTH + 1)), huge((5, HUGE)), huge((2**60,))):
        with pytest.raises(fp.ShapeError):
            model.predict(x)


@each_backend
def test_huge_empty_products(backend: str) -> None:
    fp.set_backend(backend)
    try:
        assert kernels.dense_forward(huge((HUGE, 0)), np.zeros((0, 0), "f4")).shape == (HUGE, 0)
        assert kernels.dense_backward_weights(huge((0, HUGE)), np.zeros((0, 0), "f4")).shape == (HUGE, 0)
        with pytest.raises(fp.ShapeError):
            kernels.dense_forward(huge((2, HUGE)), np.zeros((3, 2), "f4"))
        with pytest.raises(fp.ShapeError):
            kernels.loss_forward("mean_squared_error", huge((HUGE, 3)), huge((2, 3)))
    finally:
        fp.set_backend("auto")


@pytest.mark.skipif(PURE, reason="the native network's own arithmetic of positions")
def test_rows_past_two_billion(tmp_path: Path) -> None:
    """In arrays without memory of their own, and in a sparse file of two and a half gigabytes."""
    builder = Builder(1, "float32")
    program = builder.program(builder.dense(0, 2))
    network = make_network(load_backend("native"), program, random_parameters(program, np.random.default_rng(0)))
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.01, "momentum": 0.0, "nesterov": 0.0})
    twin = make_network(load_backend("native"), program, [network.get_parameter(i) for i in range(2)])
    twin.set_loss("mean_squared_error", 0.0)
    twin.set_optimizer("sgd", {"learning_rate": 0.01, "momentum": 0.0, "nesterov": 0.0})
    x, y = huge((HUGE, 1)), huge((HUGE, 2), 0.25)
    assert network.train_steps(x, y, None, None, 32, HUGE - 70, HUGE, 60.0) == HUGE
    assert twin.train_steps(x[:70], y[:70], None, None, 32, 0, 70, 60.0) == 70
    rows = np.arange(HUGE - 70, HUGE)
    assert network.train_steps(x, y, None, rows, 32, 0, 70, 60.0) == 70
    assert twin.train_steps(x[:70], y[:70], None, None, 32, 0, 70, 60.0) == 70
    np.testing.assert_array_equal(network.get_parameter(0), twin.get_parameter(0))
    with pytest.raises((ValueError, IndexError)):
        network.train_steps(x, y, None, rows + 70, 32, 0, 70, 60.0)

    path = tmp_path / "rows"
    with open(path, "wb") as file:
        file.truncate(HUGE + 2**28)
    stored = np.memmap(path, np.uint8, "r+", shape=(HUGE + 2**28, 1))
    stored[-70:, 0] = np.arange(70)
    far = np.arange(len(stored) - 70, len(stored))
    y = huge((len(stored), 2), 0.25)
    assert network.train_steps(stored, y, None, far, 32, 0, 70, 60.0) == 70
    assert twin.train_steps(np.arange(70.0)[:, None], y[:70], None, None, 32, 0, 70, 60.0) == 70
    np.testing.assert_array_equal(network.get_parameter(0), twin.get_parameter(0))
    del stored


# -- arguments that are no arrays ------------------------------------------------------------------------------------


@each_backend
@EXAMPLES
@given(
    name=st.sampled_from(
        ["batch_size", "epochs", "initial_epoch", "verbose", "validation_split", "class_weight", "callbacks"]
    ),
    value=st.one_of(ODD, st.floats(), st.integers(-(2**70), 0), st.sampled_from([True, np.nan, {0: np.inf, 9: 1}])),
)
def test_other_arguments_of_fit(backend: str, name: str, value: Any) -> None:
    model = model_for(backend, True)
    if name == "epochs" and value == 3:
        return
    x, y = np.zeros((5, WIDTH)), np.zeros(5, np.int64)
    call(model, "fit", x, y, **{"verbose": 0, name: value})


@each_backend
def test_sizes_beyond_any_data(backend: str) -> None:
    x, y = np.zeros((5, WIDTH)), np.zeros(5, np.int64)
    fit, alike = model_for(backend, True), model_for(backend, True)
    fit.fit(x, y, batch_size=2**63, validation_batch_size=2**70, validation_data=(x, y), verbose=0)
    alike.fit(x, y, batch_size=5, verbose=0)
    assert all((a == b).all() for a, b in zip(fit.get_weights(), alike.get_weights(), strict=True))
    assert fit.evaluate(x, y, batch_size=2**70, verbose=0) == alike.evaluate(x, y, verbose=0)
    assert (fit.predict(x, batch_size=2**70) == alike.predict(x)).all()
    for make in (lambda: fp.Input((2**70,)), lambda: fp.Input((2**20, 2**20)), lambda: fp.Input(2**40)):
        with pytest.raises(ValueError, match="Input: shape must have fewer than 2\\*\\*40 elements"):
            make()
    wide = [fp.Input(2**39), fp.Input(2**39)]
    with pytest.raises(ValueError, match=r"compute_output_shape: shape must have fewer than 2\*\*40 elements"):
        fp.Model(wide, fp.Concatenate()(wide), backend=backend)


NUMBERS: dict[str, tuple[Callable[[Any], object], float]] = {
    "learning_rate": (lambda value: fp.SGD(value).learning_rate, 1),
    "momentum": (lambda value: fp.SGD(momentum=value).momentum, 0),
    "delta": (lambda value: fp.losses.Huber(value).delta, 1),
    "rate": (lambda value: fp.Dropout(value).rate, 0),
    "multiplier": (lambda value: fp.Dense(1, learning_rate_multiplier=value).learning_rate_multiplier, 1),
    "constant": (lambda value: fp.initializers.get(value)((1,), "float64", seed=0)[0], 1),
    "min_delta": (lambda value: fp.callbacks.EarlyStopping(min_delta=value).min_delta, 1),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_python_and_numpy_are_taken_alike(name: str) -> None:
    """And truth values, which Python counts among the integers, are not."""
    make, good = NUMBERS[name]
    for kind in (int, float, np.int8, np.uint64, np.float16, np.float32, np.float64):
        assert make(kind(good)) == good, kind
    for wrong in (True, np.True_, "1", None, 1j, 10**400, np.nan):
        with pytest.raises((TypeError, ValueError), match=r"received"):
            make(wrong)

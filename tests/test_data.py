"""Arrays of every kind that NumPy can make: a result or a clear error, and the caller's arrays as they were."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import fastperceptron as fp
from fastperceptron import data

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ANY_DTYPE = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.unsigned_integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(),
    hnp.datetime64_dtypes(),
    hnp.unicode_string_dtypes(),
    st.just(np.dtype(object)),
)


@st.composite
def strange_arrays(draw: Any) -> Any:
    """Any dtype, up to four axes, empty ones included; perhaps strided, reversed, or a view of one row."""
    dtype = draw(ANY_DTYPE)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    array = np.full(shape, None) if dtype.kind == "O" else draw(hnp.arrays(dtype, shape))
    for axis in range(array.ndim):
        step = draw(st.sampled_from([1, 1, 2, -1]))
        array = array[(slice(None),) * axis + (slice(None, None, step),)]
    if array.ndim and array.shape[0] and draw(st.booleans()):
        array = np.broadcast_to(array[:1], array.shape)
    return array


def model() -> fp.Sequential:
    made = fp.Sequential([fp.Input((3,)), fp.Dense(2, "relu")], seed=0)
    made.compile("sgd", "mse")
    return made


@QUICK
@given(x=strange_arrays())
def test_predict_takes_or_refuses(backend: str, x: Any) -> None:
    before = x.copy()
    good = x.ndim == 2 and x.shape[1] == 3 and x.dtype.kind in "biuf"
    if good:
        y = model().predict(x)
        assert y.shape == (x.shape[0], 2)
        assert y.tobytes() == model().predict(np.ascontiguousarray(x)).tobytes()
    else:
        with pytest.raises((fp.ShapeError, fp.DTypeError)):
            model().predict(x)
    assert x.tobytes() == before.tobytes()


@QUICK
@given(y=strange_arrays(), labels=st.booleans())
@pytest.mark.filterwarnings("ignore::fastperceptron.DivergenceWarning")
def test_fit_takes_or_refuses_targets(backend: str, y: Any, labels: bool) -> None:
    before = y.copy()
    made = model()
    if labels:
        made.compile("sgd", fp.losses.SparseCategoricalCrossentropy(True))
    x = np.ones((4, 3))
    kept = made.get_state()
    numbers = np.asarray(y, np.float64) if y.dtype.kind in "biuf" else None
    if labels:
        good = y.shape in [(4,), (4, 1)] and numbers is not None and bool(np.isin(numbers, [0, 1]).all())
    else:
        good = y.shape == (4, 2) and numbers is not None
    if good:
        made.fit(x, y, verbose=0)
        assert int(made.get_state()["counters/step"]) == 1
    else:
        with pytest.raises((ValueError, TypeError), match=r"^fit: y must"):
            made.fit(x, y, verbose=0)
        after = made.get_state()
        assert all(kept[key].tobytes() == after[key].tobytes() for key in kept)
    assert y.tobytes() == before.tobytes()


@QUICK
@given(value=strange_arrays())
def test_as_real_keeps_the_values(value: Any) -> None:
    if value.dtype.kind not in "biuf":
        with pytest.raises(fp.DTypeError, match="test: v must hold real numbers"):
            data.as_real(value, "test", "v")
        return
    array = data.as_real(value, "test", "v")
    assert array.dtype.isnative
    assert array.dtype.itemsize <= 8
    np.testing.assert_array_equal(array, value.astype(array.dtype))
    if value.dtype.isnative and value.dtype.itemsize <= 8 and value.size:
        assert np.shares_memory(array, value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_float16_keeps_its_value(backend: str, dtype: str) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    model = fp.Sequential([fp.Dense(1, use_bias=False)], dtype=dtype)
    model.build((1,))
    model.set_weights([np.ones((1, 1))])
    np.testing.assert_array_equal(model.predict(every[:, None])[:, 0], every.astype(dtype))


def test_nothing_is_copied_on_the_way() -> None:
    x = np.ones((10, 4, 2), np.float32)
    assert np.shares_memory(data.flatten(data.as_rows(x, (4, 2), "test")), x)
    labels = np.zeros(10, np.int64)
    assert not np.shares_memory(data.as_labels(labels, 10, 2, "test"), labels)
    weights = np.zeros(10)
    assert not np.shares_memory(data.as_weights(weights, 10, "test"), weights)


def test_vectors_are_columns() -> None:
    for shape in ((1,), (1, 1), ()):
        assert data.as_targets([3, 4], 2, shape, "test").tolist() == [[3], [4]]
    model = fp.Sequential([fp.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.arange(4.0), np.arange(4.0), verbose=0)
    assert model.input_shape == (1,)


def test_class_weights_need_classes() -> None:
    for y in ([[0.5], [1.0]], [[1, 1], [0, 1]], [[0, 0], [0, 1]]):
        with pytest.raises(ValueError, match=r"fit: class_weight needs y of class labels.* in row 0"):
            data.class_weights({0: 2.0}, np.array(y), 2, "fit")
    np.testing.assert_array_equal(data.class_weights({0: 2.0}, np.array([[-1], [1]]), 1, "fit"), [2, 1])
    with pytest.raises(TypeError, match="class_weight must have numbers; received str for class 0"):
        data.class_weights({0: "a"}, np.array([0]), 2, "fit")  # type: ignore[dict-item]
    for label in ("0", 0.5, -1, 2):
        with pytest.raises(ValueError, match=f"class_weight must have classes 0 to 1; received {label!r}"):
            data.class_weights({label: 2.0}, np.array([0]), 2, "fit")  # type: ignore[dict-item]


def test_objects_that_are_numbers() -> None:
    mixed = np.array([[1, 2.5], [True, np.float32(3)]], object)
    assert data.as_real(mixed, "test", "v").tolist() == [[1, 2.5], [1, 3]]
    with pytest.raises(fp.DTypeError, match=r"dtype object; convert numbers with astype\(float\)$"):
        data.as_real(np.array([1, None]), "test", "v")
    with pytest.raises(fp.DTypeError, match=r"y must hold .* number class names with np.unique"):
        data.as_real(np.array(["a", "b"]), "test", "y")


def test_labels_for_one_output() -> None:
    with pytest.raises(ValueError, match=r"labels from 0 to 0.*; use binary_crossentropy or more units"):
        data.as_labels([0, 1], 2, 1, "fit")


@pytest.mark.parametrize("dtype", ["?", *np.typecodes["AllInteger"], "e", "f", "d", "g"])
def test_labels_of_every_type_are_checked(dtype: str) -> None:
    good = np.array([0, 1, 0], dtype)
    labels = data.as_labels(good, 3, 2, "fit")
    assert (labels.tolist(), labels.dtype) == ([0, 1, 0], np.int64)
    assert data.as_labels(good[:0], 0, 2, "fit").tolist() == []
    wrong: dict[str, list[Any]] = {"b": [], "f": [2, -1, 0.5, np.nan, np.inf]}
    if good.dtype.kind in "iu":
        limits = np.iinfo(dtype)
        wrong[good.dtype.kind] = [2, limits.max, *([-1, limits.min] if limits.min else [])]
    for value in wrong[good.dtype.kind]:
        bad = good.copy()
        bad[1] = value
        with pytest.raises(ValueError, match=r"fit: y must hold labels from 0 to 1.* in row 1"):
            data.as_labels(bad, 3, 2, "fit")

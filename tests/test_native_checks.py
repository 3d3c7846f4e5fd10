"""The native functions check for themselves: called without the public layer they still refuse what would read or
write out of bounds."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastperceptron as fp
from fastperceptron import backends
from fastperceptron.errors import DTypeError, ShapeError

pytestmark = pytest.mark.skipif(os.environ.get("FASTPERCEPTRON_PURE") == "1", reason="the pure wheel has no extension")

ONES = np.ones((2, 3))


def native() -> ModuleType:
    return backends.resolve("native")


def frozen(shape: tuple[int, ...]) -> np.ndarray:
    a = np.zeros(shape)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda n: n.dense_forward(ONES, ONES, None), ShapeError),
        (lambda n: n.dense_forward(ONES, ONES.T, np.ones(2, "f")), DTypeError),
        (lambda n: n.dense_forward(ONES, ONES.T.astype(">f8"), None), DTypeError),
        (lambda n: n.dense_forward([[1.0]], ONES.T, None), DTypeError),
        (lambda n: n.dense_forward(ONES, ONES.T, None, "softmax"), ValueError),
        (lambda n: n.dense_forward(ONES, ONES.T, None, "nothing"), ValueError),
        (lambda n: n.dense_forward(ONES, ONES.T, None, out=np.zeros((2, 3))), ShapeError),
        (lambda n: n.dense_forward(ONES, ONES.T, None, out=frozen((2, 2))), ValueError),
        (lambda n: n.dense_backward_input(ONES, ONES.T), ShapeError),
        (lambda n: n.dense_backward_weights(ONES, ONES.T), ShapeError),
        (lambda n: n.dense_backward_bias(np.ones(3)), ShapeError),
        (lambda n: n.activation_backward("relu", 0.0, ONES, ONES.T), ShapeError),
        (lambda n: n.activation_forward("softmax", 0.0, np.array(1.0)), ShapeError),
        (lambda n: n.loss_forward("huber", 1.0, ONES.T, ONES), ShapeError),
        (lambda n: n.loss_forward("sparse_categorical_cross_entropy", 0.0, np.array([0, 3]), ONES), ValueError),
        (lambda n: n.loss_forward("sparse_categorical_cross_entropy", 0.0, np.array([0.0, 1]), ONES), DTypeError),
        (lambda n: n.loss_backward("huber", 1.0, ONES, ONES, np.ones(1), 1.0), ShapeError),
        (lambda n: n.sgd_update(ONES, ONES.T, None, 1.0, 0.0, False), ShapeError),
        (lambda n: n.sgd_update(frozen((2, 3)), ONES, None, 1.0, 0.0, False), ValueError),
        (lambda n: n.sgd_update(np.broadcast_to(1.0, (2, 3)), ONES, None, 1.0, 0.0, False), ValueError),
        (lambda n: n.dropout_forward(ONES, 1.5, 0, 0, 0), ValueError),
        (lambda n: n.dropout_forward(ONES, 0.5, -1, 0, 0), TypeError),
        (lambda n: n.philox(0, 0, 0, -1), ValueError),
    ],
)
def test_refuses(call: Callable[[ModuleType], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        call(native())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_overlap_is_exact(data: st.DataObject) -> None:
    """Random windows of one buffer: refused just when they share an element without being the same."""
    buffer = np.zeros(120)

    def window(label: str) -> np.ndarray:
        cols = data.draw(st.integers(1, 5), label + " cols")
        step = data.draw(st.integers(cols, 9), label + " step")
        offset = data.draw(st.integers(0, 60), label + " offset")
        return np.lib.stride_tricks.as_strided(buffer[offset:], (6, cols), (8 * step, 8))

    z, out = window("z"), window("out")
    if z.shape != out.shape:
        return
    same = z.ctypes.data == out.ctypes.data and z.strides == out.strides
    if np.shares_memory(z, out) and not same:
        with pytest.raises(ValueError, match="overlaps it in part"):
            native().activation_forward("relu", 0.0, z, out)
    else:
        native().activation_forward("relu", 0.0, z, out)


def test_a_network_refuses_what_is_no_array() -> None:
    model = fp.Sequential([fp.Dense(2)], backend="native")
    model.compile("sgd", "mse")
    model.build(3)
    network, out = model._network, np.empty((2, 2), np.float32)
    x, y, w = np.ones((2, 3)), np.ones((2, 2)), np.ones(2)
    for data in (x.tolist(), [x.tolist()], (None,)):
        with pytest.raises(DTypeError, match="x: expected an array, received <class"):
            network.predict(data, [out], 0, 2, 1.0)
    with pytest.raises(DTypeError, match="y: expected an array, received <class 'list'>"):
        network.load_batch(x, [y.tolist()], None, None, 0, 2)
    with pytest.raises(DTypeError, match="sample_weight: expected an array"):
        network.load_batch(x, y, [w.tolist()], None, 0, 2)
    network.load_batch(x, y, w, None, 0, 2)

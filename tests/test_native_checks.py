"""The native functions check for themselves: called without the public layer they still refuse what would read or
write out of bounds."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import forced
from pure import native_only

import fastperceptron as fp
from fastperceptron import backends, config
from fastperceptron.errors import DTypeError, ShapeError
from fastperceptron.program import Head

pytestmark = native_only

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


def labelled_by(classes: int, other: int) -> tuple[fp.Model, Any]:
    """A model with two outputs of so many classes, and its network."""
    x = fp.Input((4,))
    outputs = [fp.Dense(n, activation="softmax")(x) for n in (classes, other)]
    model = fp.Model(x, outputs, seed=0, backend="native")
    model.compile("sgd", ["sparse_categorical_crossentropy"] * 2)
    return model, model._network


LOSS = "sparse_categorical_cross_entropy"
ROWS = np.ones((4, 4), np.float32)


def test_labels_of_a_step_given_up_are_no_larger_than_the_loss_allows() -> None:
    """A bad row number leaves a step's labels as they were; those of a wider output would be indices out of bounds."""
    model, network = labelled_by(50_000, 2)
    network.set_trainable([True] * 4)
    network.set_heads((Head(0, LOSS, 0.0),))
    network.set_metrics(())
    network.train_steps(ROWS, np.full(4, 49_999), None, None, 4, 0, 4, 1.0)
    network.set_heads((Head(1, LOSS, 0.0),))
    before = model.get_weights()
    for _ in range(2):
        with pytest.raises(IndexError, match="rows: expected 0 <= row < 4, received 99"):
            network.train_steps(ROWS, np.zeros(4, np.int64), None, np.array([99, 0, 1, 2]), 4, 0, 4, 1.0)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("width", [4, 128])  # gathered, and read where they lie
@pytest.mark.parametrize("bad", [-1, 9, 2**40, -(2**63)])
@pytest.mark.parametrize("at", [0, 5, 17])  # in any batch, of either thread
def test_row_numbers_out_of_range_leave_the_network_as_it_was(width: int, bad: int, at: int) -> None:
    model = fp.Sequential([fp.Input((width,)), fp.Dense(16), fp.Dense(3)], seed=0, backend="native")
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    network = model._network
    network.set_threads(2)
    rng = np.random.default_rng(0)
    x, y = rng.random((9, width), np.float32), rng.integers(0, 3, 9)
    rows = rng.integers(0, 9, 18)
    good = at // 6 * 6
    network.train_steps(x, y, None, rows, 6, 0, good, 1e9)
    before = model.get_weights()
    rows[at] = bad
    with pytest.raises(IndexError, match=f"rows: expected 0 <= row < 9, received {bad}"):
        network.evaluate_steps(x, y, None, rows, 6, 0, 18, 1e9)
    with pytest.raises(IndexError, match=f"rows: expected 0 <= row < 9, received {bad}"):
        network.train_steps(x, y, None, rows, 6, good, 18, 1e9)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_there_are_no_row_numbers_of_an_array_without_rows() -> None:
    model = fp.Sequential([fp.Input((128,)), fp.Dense(16), fp.Dense(3)], seed=0, backend="native")
    model.compile("sgd", "mse")
    x, y = np.empty((0, 128), np.float32), np.empty((0, 3), np.float32)
    for run in (model._network.train_steps, model._network.evaluate_steps):
        with pytest.raises(IndexError, match="rows: expected 0 <= row < 0, received 0"):
            run(x, y, None, np.arange(8), 8, 0, 8, 1.0)


def test_misaligned_row_numbers_are_refused() -> None:
    _, network = labelled_by(3, 2)
    numbers = np.frombuffer(bytearray(33), np.uint8)[1:].view(np.int64)
    assert not numbers.flags.aligned
    with pytest.raises(DTypeError, match="rows: expected a contiguous, aligned array of int64"):
        network.evaluate_steps(ROWS, (np.zeros(4, np.int64),) * 2, None, numbers, 4, 0, 4, 1.0)


def test_arrays_in_a_list_outlive_it() -> None:
    model = fp.Sequential([fp.Input((256,)), fp.Dense(256), fp.Dense(10)], seed=0, backend="native")
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    n = 200_000
    xs, y = [np.ones((n, 256), np.float32)], np.zeros(n, np.int64)  # of a size that is unmapped when it is freed
    alive = weakref.ref(xs[0])
    found: list[bool] = []

    def clear() -> None:
        xs.clear()
        found.append(alive() is not None)

    timer = threading.Timer(0.1, clear)
    timer.start()
    model._network.train_steps(xs, y, None, None, 64, 0, n, 0.3)
    timer.join()
    assert found == [True]


def test_pieces_go_on_with_the_instruction_set_that_they_began_with() -> None:
    """Its scratch has the sizes of that one."""
    model = fp.Sequential([fp.Dense(600), fp.Dense(600), fp.Dense(10)], seed=0, backend="native")
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.build(600)
    network = model._network
    count = len(network.program.operations)
    x, y = np.random.default_rng(0).standard_normal((600, 600), np.float32), np.zeros(600, np.int64)
    usable = config.get_config()["instruction_sets_usable"]
    for first in usable:
        for second in usable:
            with forced(first):
                network.load_batch(x, y, None, None, 0, 600)
                with forced(second):
                    network.forward(0, count, True)
                    network.loss(True)
                    network.backward(0, count)
    assert np.isfinite(network.get_gradient(0)).all()


def test_what_changes_no_parameter_leaves_a_predictor_current() -> None:
    model = fp.Sequential([fp.Input((4,)), fp.Dense(3, activation="softmax")], seed=0, backend="native")
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    made = model.predictor()
    y = np.zeros(4, np.int64)
    model.evaluate(ROWS, y, verbose=0)
    model.predict(ROWS)
    model.trace(ROWS, y)
    model._network.load_batch(ROWS, y, None, None, 0, 4)
    model._network.forward(0, 1, False)
    assert made.current
    for write in (lambda: model.train_on_batch(ROWS, y), lambda: model.set_weights(model.get_weights())):
        made = model.predictor()
        assert made.current
        write()
        assert not made.current


def test_values_read_while_batches_change() -> None:
    """get_value asks for the rows first and reads them later."""
    model, network = labelled_by(3, 2)
    n = 300
    x, y = np.ones((n, 4), np.float32), (np.zeros(n, np.int64),) * 2
    network.load_batch(x, y, None, None, 0, n)
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            for rows in (n, 1):
                with contextlib.suppress(fp.ModelBusyError):
                    network.load_batch(x, y, None, None, 0, rows)

    thread = threading.Thread(target=load)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        end, kept = time.monotonic() + 2, []
        while time.monotonic() < end:
            with contextlib.suppress(fp.ModelBusyError):
                kept.append(network.get_value(0))  # what lies behind it must stay whole
                assert kept[-1].shape in ((1, 4), (n, 4))
            if len(kept) > 200:
                kept.clear()
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(before)
    assert model.built

"""model.trace against the training step it shows, and against central differences."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from api_examples import MyDense, MyTanh, classification, regression

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("activation", ["relu", "gelu", "softmax", "softplus", "elu"])
def test_the_traced_gradients_are_those_of_the_step(activation: str) -> None:
    x, y = classification(20)
    layers = [fp.Dense(5, activation), fp.Dropout(0.4), fp.Activation("tanh"), fp.Dense(3, "softmax")]
    model = fp.Sequential(layers, seed=1, dtype="float64")
    model.compile(fp.SGD(1.0), "sparse_categorical_crossentropy")
    weights = np.random.default_rng(2).random(20)
    model.fit(x, y, batch_size=5, verbose=0)
    before, state = model.get_weights(), model.get_state()
    trace = model.trace(x, y, sample_weight=weights)
    assert all(state[key].tobytes() == value.tobytes() for key, value in model.get_state().items())
    assert model.train_on_batch(x, y, sample_weight=weights) == pytest.approx(trace.cost, rel=1e-12)
    for name, old, new in zip(trace.gradients, reversed(before), reversed(model.get_weights()), strict=True):
        assert name in {"dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"}
        assert old.shape == new.shape
    for layer in ("dense", "dense_1"):
        index = 0 if layer == "dense" else 2
        np.testing.assert_allclose(before[index] - model.get_weights()[index], trace[layer]["dw"], atol=1e-12)
        np.testing.assert_allclose(before[index + 1] - model.get_weights()[index + 1], trace[layer]["db"], atol=1e-12)


def test_every_intermediate_fits_its_neighbours() -> None:
    x, y = classification(7)
    model = fp.Sequential([fp.Dense(4, "sigmoid"), fp.Dense(3)], seed=1, dtype="float64")
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(True))
    model.fit(x, y, verbose=0)
    trace = model.trace(x, y)
    first, last = trace["dense"], trace["dense_1"]
    assert list(first) == ["x", "w", "b", "z", "y", "dy", "dz", "dw", "db", "dx"]
    np.testing.assert_allclose(first["z"], x @ first["w"] + first["b"], rtol=1e-12)
    np.testing.assert_allclose(first["y"], 1 / (1 + np.exp(-first["z"])), rtol=1e-12)
    np.testing.assert_array_equal(first["y"], last["x"])
    np.testing.assert_array_equal(last["dx"], first["dy"])
    np.testing.assert_allclose(first["dz"], first["dy"] * first["y"] * (1 - first["y"]), rtol=1e-12)
    np.testing.assert_allclose(first["dw"], x.T @ first["dz"], rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(first["db"], first["dz"].sum(axis=0), rtol=1e-9, atol=1e-15)
    assert trace.losses is not None
    assert trace.cost == pytest.approx(trace.losses.mean(), rel=1e-12)
    assert trace["dense", "dw"] is first["dw"]
    assert list(trace) == ["dense", "dense_1"]
    assert len(trace) == 2


def test_dx_is_the_derivative_of_the_cost() -> None:
    x, y = regression(6)
    model = fp.Sequential([fp.Dense(4, "mish"), MyDense(3), MyTanh(), fp.Dense(1)], seed=1, dtype="float64")
    model.compile("sgd", fp.losses.Huber(0.3))
    model.fit(x, y, verbose=0)
    dx = model.trace(x, y)["dense"]["dx"]
    for row, column in ((0, 0), (3, 4)):
        moved = [x.copy(), x.copy()]
        moved[0][row, column] += 1e-6
        moved[1][row, column] -= 1e-6
        costs = [model.trace(copy, y).cost for copy in moved]
        assert costs[0] is not None
        assert costs[1] is not None
        assert dx[row, column] == pytest.approx((costs[0] - costs[1]) / 2e-6, rel=1e-6)
    names = list(model.trace(x, y)["my_dense"])
    assert names == ["x", "kernel", "bias", "y", "dy", "dkernel", "dbias", "dx"]


class Counted(fp.Layer):
    """a x + b; gives the gradients of what is trained alone, and writes over what it is given."""

    def build(self, input_shape: Any) -> None:
        self.add_weight("count", (), "zeros", trainable=False)
        self.a, self.b = self.add_weight("a", input_shape, "ones"), self.add_weight("b", input_shape, "zeros")

    def forward(self, x: Any, training: bool) -> Any:
        saved = x.copy()
        x *= self.a
        x += self.b
        return x, saved

    def backward(self, dy: Any, x: Any) -> Any:
        grads = [(dy * x).sum(axis=0), dy.sum(axis=0)]
        dy *= self.a
        return dy, grads


def test_a_layer_in_python_is_traced_as_it_is_trained() -> None:
    x, y = regression(6)
    model = fp.Sequential([fp.Dense(4, "tanh"), Counted(), fp.Dense(1)], seed=1, dtype="float64")
    model.compile(fp.SGD(1.0), "mse")
    model.fit(x, y, verbose=0)
    trace, before = model.trace(x, y), model.get_weights()
    counted = trace["counted"]
    assert list(counted) == ["x", "count", "a", "b", "y", "dy", "da", "db", "dx"]
    np.testing.assert_array_equal(counted["x"], trace["dense", "y"])
    np.testing.assert_array_equal(counted["dy"], trace["dense_1", "dx"])
    np.testing.assert_allclose(counted["dy"], trace["dense_1", "dz"] @ trace["dense_1", "w"].T, rtol=1e-12)
    model.train_on_batch(x, y)
    for weight, was, now in zip(model.weights, before, model.get_weights(), strict=True):
        if weight.trainable:
            np.testing.assert_allclose(trace.gradients[f"{weight.layer}/{weight.name}"], was - now, rtol=0, atol=1e-12)


def test_states_that_a_layer_assigns_to_are_as_before() -> None:
    class Centred(fp.Layer):
        def build(self, input_shape: Any) -> None:
            self.mean = self.add_weight("mean", input_shape, "zeros", trainable=False)

        def forward(self, x: Any, training: bool) -> Any:
            if training:
                self.mean.assign(0.5 * self.mean + 0.5 * x.mean(axis=0))
            return x - self.mean, None

        def backward(self, dy: Any, saved: Any) -> Any:
            return dy, []

    x, y = regression(6)
    model = fp.Sequential([Centred(), fp.Dense(1)], seed=1)
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    before = model.get_state()
    trace = model.trace(x, y)
    assert np.abs(trace["centred", "y"] - model.trace(x, training=False)["centred", "y"]).max() > 0
    np.testing.assert_equal(model.get_state(), before)
    with pytest.raises(fp.ShapeError):
        model.trace(x, np.ones((6, 2)))
    np.testing.assert_equal(model.get_state(), before)


def test_nobody_reads_states_that_a_trace_will_take_back() -> None:
    refused: list[str] = []

    class Watched(fp.Layer):
        watching = False

        def build(self, input_shape: Any) -> None:
            self.add_weight("count", (), "zeros", trainable=False)

        def forward(self, x: Any, training: bool) -> Any:
            if self.watching:
                self.watching = False
                thread = threading.Thread(target=read)
                thread.start()
                thread.join()
            return x, None

        def backward(self, dy: Any, saved: Any) -> Any:
            return dy, []

    def read() -> None:
        try:
            model.predict(x)
        except fp.ModelBusyError as error:
            refused.append(str(error))

    x = np.ones((2, 3))
    watched = Watched()
    model = fp.Sequential([fp.Input((3,)), watched, fp.Dense(1)], seed=0)
    for training in (False, True):
        watched.watching = True
        model.trace(x, training=training)
        assert len(refused) == training
    assert "in use by another thread, in trace" in refused[0]


def test_of_a_frozen_layer_in_python_is_shown_what_it_gives() -> None:
    class Frozen(MyDense):
        def backward(self, dy: Any, x: Any) -> Any:
            return dy @ self.w.T, {"kernel": x.T @ dy}

    x, y = regression(6)
    model = fp.Sequential([fp.Dense(3), Frozen(1, name="last")], seed=1)
    model.compile("sgd", "mse")
    model.build(x.shape[1])
    with pytest.raises(ValueError, match=r"last\.backward: expected a gradient for bias; received none"):
        model.trace(x, y)
    model.layers[1].trainable = False
    assert list(model.trace(x, y)["last"]) == ["x", "kernel", "bias", "y", "dy", "dkernel", "dx"]
    model.fit(x, y, verbose=0)  # asks for no gradients of it


def test_a_loss_in_python_that_writes_over_what_it_is_given() -> None:
    class Rough(fp.Loss):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            y_pred -= y_true
            y_true[:] = 1e9
            weights /= y_pred.size
            return (y_pred**2).mean(axis=1), 2 * y_pred * weights[:, None]

    x, y = regression(6)
    y = np.ascontiguousarray(y, np.float64)
    before = y.copy()
    model = fp.Sequential([fp.Input((x.shape[1],)), fp.Dense(1)], seed=1, dtype="float64")
    model.compile("sgd", "mse", loss_weights=[2.5])
    plain = model.trace(x, y)
    model.compile("sgd", Rough(), loss_weights=[2.5])
    rough = model.trace(x, y)
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(rough["dense", "y"], plain["dense", "y"])
    assert rough.cost == pytest.approx(plain.cost, rel=1e-12)
    np.testing.assert_allclose(rough["dense", "dw"], plain["dense", "dw"], rtol=1e-12)


def test_what_no_loss_depends_on_has_no_gradients() -> None:
    x, y = regression(6)
    start = fp.Input((x.shape[1],))
    h = fp.Dense(3, name="shared")(start)
    model = fp.Model(start, [fp.Dense(1, name="judged")(h), fp.Dense(1, name="watched")(h)], seed=0)
    model.compile("sgd", ["mse", None], metrics=[None, ["mae"]])
    trace: Any = model.trace(x, [y, y])
    assert list(trace["watched"]) == ["x", "w", "b", "z", "y"]
    np.testing.assert_array_equal(trace["shared", "dy"], trace["judged", "dx"])
    assert list(trace.losses) == ["judged"]
    assert trace.cost == pytest.approx(trace.losses["judged"].mean())


def test_an_activation_behind_a_dense_layer_is_a_layer_of_its_own() -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2, name="dense"), fp.Activation("softmax", name="f")], seed=0)
    trace = model.trace(np.ones((2, 3)))
    assert list(trace) == ["dense", "f"]
    np.testing.assert_array_equal(trace["dense", "y"], trace["dense", "z"])
    np.testing.assert_array_equal(trace["f", "x"], trace["dense", "y"])


def test_forward_only_and_inference() -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2), fp.Dropout(0.5)], seed=0)
    x = np.ones((4, 3))
    trace = model.trace(x, training=False)
    assert trace.cost is None
    assert list(trace["dense"]) == ["x", "w", "b", "z", "y"]
    np.testing.assert_array_equal(trace["dropout"]["y"], model.predict(x))
    model.compile("sgd", "mse")
    trace = model.trace(x, np.ones((4, 2)), training=False)
    np.testing.assert_array_equal(trace["dropout", "dx"], trace["dropout", "dy"])
    with pytest.raises(fp.ShapeError, match=r"trace: x must have shape \(n, 3\)"):
        model.trace(np.ones((4, 2)))


def test_no_use_of_a_layer_hides_a_layer_of_its_name() -> None:
    again, x = fp.Dense(3, name="a"), fp.Input((3,))
    h = fp.Dense(3, name="a:2")(again(x))
    model = fp.Model(x, fp.Add()([again(again(h)), h]), seed=0)
    trace = model.trace(np.ones((1, 3)))
    assert list(trace) == ["a", "a:2", "a:3", "a:4", "add"]
    np.testing.assert_array_equal(trace["a:2", "w"], model.get_layer("a:2").get_weights()[0])
    np.testing.assert_array_equal(trace["a:3", "x"], trace["a:2", "y"])
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert [line.split()[0] for line in lines[0].splitlines() if "(Dense)" in line] == ["a", "a:2", "a:3", "a:4"]


def test_table() -> None:
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1, kernel_initializer=np.array([[2.0]]))])
    model.compile("sgd", "mse")
    trace: Any = model.trace([[3.0]], [[5.0]])
    lines = str(trace).splitlines()
    assert lines[0] == "dense"
    assert lines[1].split() == ["x", "(1,", "1)", "3"]
    names = ["x", "w", "b", "z", "y", "dy", "dz", "dw", "db", "dx", "losses", "cost"]
    assert [line.split()[0] for line in lines[1:]] == names
    assert len({line.index("(") for line in lines[1:-1]}) == 1  # shapes stand below each other
    assert lines[-1].split() == ["cost", "1"]
    assert repr(trace) == "<Trace of dense, cost 1>"


def test_the_table_is_aligned_and_shows_rows() -> None:
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1, kernel_initializer=np.array([[2.0], [-0.5]]))])
    trace: Any = model.trace([[1.0, 2.0], [-0.0, 10.0]])
    lines = str(trace).splitlines()
    assert lines[1].endswith("  [   1     2]  [   0    10]")
    assert lines[2].endswith("  [   2]  [-0.5]")
    assert lines[4].endswith("  [   1]  [  -5]")
    with pytest.raises(KeyError, match="trace: layer must be one of dense; received 'foo'"):
        trace["foo"]
    with pytest.raises(KeyError, match="trace: name in 'dense' must be one of x, w, b, z, y; received 'foo'"):
        trace["dense", "foo"]


def test_the_table_shows_whole_rows_of_what_is_long() -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(8, use_bias=False, kernel_initializer="zeros")])
    lines = str(model.trace(np.arange(9.0).reshape(3, 3))).splitlines()
    assert lines[1].endswith("  [0  1  2]  [3  4  5]  ...")
    assert lines[2].endswith("  [0  0  0  0  0  0  0  0]  ...")

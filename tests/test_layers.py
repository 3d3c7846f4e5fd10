"""Layers by themselves: construction, standalone use, weights, configuration."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_examples import MyDense, MyTanh

import fastperceptron as fp


def test_dense_by_hand(backend: str) -> None:
    layer = fp.Dense(2, "relu", kernel_initializer=np.array([[1.0, -1.0], [2.0, 1.0]]), bias_initializer="ones")
    y = layer([[1.0, 2.0]])
    np.testing.assert_array_equal(y, [[6.0, 2.0]])
    assert layer.count_params() == 6
    np.testing.assert_array_equal(layer.bias, [1.0, 1.0])


@pytest.mark.parametrize("activation", fp.program.ACTIVATIONS)
def test_passes_of_built_in_layers_match_central_differences(backend: str, activation: str) -> None:
    rng = np.random.default_rng(11)
    model = fp.Sequential([fp.Input((4,)), fp.Dense(3, activation)], seed=2, dtype="float64")
    layer: Any = model.layers[0]
    x, direction = rng.normal(size=(5, 4)), rng.normal(size=(5, 3))
    y, saved = layer.forward(x, True)
    np.testing.assert_allclose(y, model.predict(x), rtol=1e-12)
    dx, grads = layer.backward(direction, saved)
    step = 1e-6
    for row, column in ((0, 0), (2, 3)):
        moved = [x.copy(), x.copy()]
        for one, sign in zip(moved, (1, -1), strict=True):
            one[row, column] += sign * step
        numeric = sum(
            sign * (layer.forward(c, True)[0] * direction).sum() for c, sign in zip(moved, (1, -1), strict=True)
        )
        np.testing.assert_allclose(dx[row, column], numeric / (2 * step), rtol=1e-6, atol=1e-9)
    assert [g.shape for g in grads] == [(4, 3), (3,)]


@pytest.mark.parametrize("name", fp.program.ACTIVATIONS)
def test_activation_functions_and_derivatives(backend: str, name: str) -> None:
    f = fp.activations.get(name)
    z = np.linspace(-3, 3, 13) + 0.01
    assert f(z).shape == z.shape
    assert f(z.astype(np.float32)).dtype == np.float32
    if name == "softmax":
        assert f(z).sum() == pytest.approx(1)
        with pytest.raises(ValueError, match="elementwise"):
            f.derivative(z)
        return
    numeric = (f(z + 1e-6) - f(z - 1e-6)) / 2e-6
    np.testing.assert_allclose(f.derivative(z), numeric, rtol=1e-6, atol=1e-9)
    assert f(0.5) == f([0.5])[0]


def test_flatten_and_shapes(backend: str) -> None:
    model = fp.Sequential([fp.Input((2, 3)), fp.Activation("relu"), fp.Flatten(), fp.Dense(4)], seed=0)
    x = np.arange(12.0).reshape(2, 2, 3) - 5
    assert model.input_shape == (2, 3)
    assert model.output_shape == (4,)
    expected = np.maximum(x, 0).reshape(2, 6) @ model.layers[2].kernel
    np.testing.assert_allclose(model.predict(x), expected, rtol=1e-5)
    assert fp.Sequential([fp.Input((2, 3)), fp.Flatten()]).predict(x).tolist() == x.reshape(2, 6).tolist()
    keeps = fp.Sequential([fp.Input((2, 3)), fp.Activation("relu")])
    assert keeps.predict(x).shape == (2, 2, 3)
    with pytest.raises(fp.ShapeError, match=r"dense: Dense takes rows of one axis.*\('n', 2, 3\).*Flatten"):
        fp.Sequential([fp.Input((2, 3)), fp.Dense(4)])
    assert fp.Flatten()(np.ones((0, 3, 4))).shape == (0, 12)


def test_dropout_only_while_training(backend: str) -> None:
    model = fp.Sequential([fp.Input((1000,)), fp.Dropout(0.25)], seed=1)
    x = np.ones((3, 1000), np.float32)
    assert (model.predict(x) == 1).all()
    y = model.trace(x)["dropout"]["y"]
    assert set(np.unique(y)) == {0.0, np.float32(4 / 3)}
    assert 0.2 < (y == 0).mean() < 0.3
    assert list(fp.Sequential([fp.Input((4,)), fp.Dropout(0.0), fp.Dense(1)]).trace(np.ones((1, 4)))) == ["dense"]


def test_softmax_in_dense_is_an_operation_of_its_own(backend: str) -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(4, "softmax")], seed=0)
    assert model.predict(np.eye(3)).sum(axis=1) == pytest.approx(np.ones(3), rel=1e-6)


def test_weights_of_a_layer() -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2), fp.Dense(2, use_bias=False)], seed=0)
    first, second = model.layers
    copy = first.kernel
    copy += 1
    assert not (first.kernel == copy).any()
    first.kernel = copy
    np.testing.assert_array_equal(first.get_weights()[0], copy)
    np.testing.assert_array_equal(model.get_weights()[0], copy)
    assert second.bias is None
    with pytest.raises(AttributeError, match="no bias"):
        second.bias = [1.0, 2.0]
    with pytest.raises(fp.ShapeError, match=r"dense/bias must have shape \(2,\); received \(3,\)"):
        first.set_weights([copy * 0, [1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(first.kernel, copy)
    with pytest.raises(ValueError, match="expected 2 arrays; received 1"):
        first.set_weights([copy])


def test_what_an_operation_was_made_from_is_fixed_once_it_was_made(backend: str) -> None:
    dense, dropout, step = fp.Dense(2, "relu"), fp.Dropout(0.5), fp.Activation("step")
    dense.units, dropout.rate = 3, 0.25
    model = fp.Sequential([fp.Input((4,)), dense, dropout, step])
    assert model.output_shape == (3,)
    for layer, name, value in ((dense, "activation", "tanh"), (dropout, "rate", 0.0), (step, "activation", "tanh")):
        before = getattr(layer, name)
        with pytest.raises(AttributeError, match=f"{name} cannot change after the layer was built"):
            setattr(layer, name, value)
        assert getattr(layer, name) is before
    for activation in (fp.activations.leaky_relu, fp.Dense(2, "leaky_relu").activation):
        with pytest.raises(AttributeError, match="activation leaky_relu: alpha cannot change; with_alpha gives"):
            activation.alpha = 0.9
        assert pickle.loads(pickle.dumps(activation)) == activation


def test_weights_of_a_layer_are_written_together(backend: str) -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2)], seed=0)
    layer, before, errors = model.layers[0], model.get_weights(), []

    class Writer(fp.Callback):
        def on_predict_batch_begin(self, batch: int, logs: Any = None) -> None:
            def write() -> None:
                try:
                    layer.set_weights([np.ones((3, 2)), np.ones(2)])
                except fp.ModelBusyError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=write)
            thread.start()
            thread.join()

    model.predict(np.ones((4, 3)), callbacks=Writer())
    assert len(errors) == 1
    assert "dense.set_weights" in errors[0]
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_weights_of_a_layer_are_read_together(backend: str) -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2)], seed=0)
    model.compile("sgd", "mse")
    layer, before, errors = model.layers[0], model.get_weights(), []

    def train() -> None:
        try:
            model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
        except fp.ModelBusyError as error:
            errors.append(str(error))

    class Slow(list[Any]):
        """Whoever goes through it is passed by another thread, which trains the model."""

        def __iter__(self) -> Any:
            for weight in super().__iter__():
                yield weight
                thread = threading.Thread(target=train)
                thread.start()
                thread.join()

    layer.weights = Slow(layer.weights)
    for now, then in zip(layer.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert len(errors) == 2


def test_errors_of_writing_name_the_operation_that_was_called() -> None:
    layer = fp.Dense(2)
    fp.Sequential([fp.Input((3,)), layer]).build((3,))
    for write in (layer.weights[0].assign, lambda value: setattr(layer, "kernel", value)):
        with pytest.raises(fp.ShapeError, match=r"^assign: dense/kernel must have shape \(3, 2\); received \(2,\)"):
            write(np.ones(2))
        with pytest.raises(fp.DTypeError, match=r"^assign: dense/kernel must hold real numbers"):
            write("a")
    with pytest.raises(fp.ShapeError, match=r"^set_weights: dense/kernel must have shape"):
        layer.set_weights([np.ones(2), np.ones(2)])


def test_names() -> None:
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1), fp.Dense(1, name="dense_1"), fp.Dense(1), fp.Dense(1)])
    assert [layer.name for layer in model.layers] == ["dense", "dense_1", "dense_2", "dense_3"]
    with pytest.raises(ValueError, match="unique; received a"):
        fp.Sequential([fp.Input((2,)), fp.Dense(1, name="a"), fp.Dense(1, name="a")])
    with pytest.raises(ValueError, match="without '/'"):
        fp.Dense(1, name="a/b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fp.Dense(0), "units must be a positive integer; received 0"),
        (lambda: fp.Dense(True), "units must be a positive integer; received True"),
        (lambda: fp.Dense(2, "rleu"), "expected one of elu, .*relu.*received 'rleu'"),
        (lambda: fp.Dense(2, kernel_initializer="he"), "received 'he'"),
        (lambda: fp.Dropout(1.0), "at least 0 and below 1; received 1.0"),
        (lambda: fp.Input(()), "at least one axis"),
        (lambda: fp.Input((3, 0)), "positive integers"),
        (lambda: fp.Input(3, name=5), "name must be text without '/'; received 5"),
        (lambda: fp.Concatenate(axis=True), "axis must be -1 or 1; received True"),
    ],
)
def test_bad_arguments(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_flags_are_true_or_false() -> None:
    for make in (
        lambda: fp.Dense(1, use_bias="False"),
        lambda: fp.Dense(1, trainable="no"),
        lambda: setattr(fp.Dense(1), "trainable", None),
        lambda: setattr(fp.Sequential([fp.Input((2,)), fp.Dense(1)]).weights[0], "trainable", "no"),
    ):
        with pytest.raises(TypeError, match="must be True or False; received"):
            make()


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle"])
@pytest.mark.parametrize("owned", [False, True])
def test_copies_have_weights_of_their_own(how: str, owned: bool) -> None:
    layer = fp.Dense(3, activation="relu", name="first")
    x = np.ones((2, 4), np.float32)
    y = layer(x)
    model = fp.Sequential([fp.Input((4,)), layer], seed=0) if owned else None
    again = pickle.loads(pickle.dumps(layer)) if how == "pickle" else getattr(copy, how)(layer)
    np.testing.assert_array_equal(again(x), y)
    assert repr(again.get_config()) == repr(layer.get_config())
    again.set_weights([np.zeros((4, 3)), np.zeros(3)])
    np.testing.assert_array_equal(layer(x), y)
    second = fp.Sequential([fp.Input((4,)), again], seed=1)
    np.testing.assert_array_equal(second.predict(x), np.zeros((2, 3)))
    if model is not None:
        np.testing.assert_array_equal(model.predict(x), y)


@pytest.mark.parametrize("name", ["Input", "Layer", "Value", "Dense", "Activation", "Dropout", "Flatten", "Add"])
def test_pickles_know_layers_by_their_public_module(name: str) -> None:
    from fastperceptron import layer

    found = pickle.loads(f"cfastperceptron.layers\n{name}\n.".encode())
    assert found is (getattr(layer, name) if name == "Value" else getattr(fp, name))


def test_inputs_and_built_in_layers_survive_pickles(backend: str) -> None:
    x = fp.Input((3,), name="rows")
    again = pickle.loads(pickle.dumps(x))
    assert (type(again), again.shape, again.name) == (fp.Input, (3,), "rows")
    for layer in (fp.Dense(2), fp.Activation("relu"), fp.Dropout(0.5), fp.Flatten(), fp.Add(), fp.Concatenate()):
        twin = pickle.loads(pickle.dumps(layer))
        assert (type(twin), twin.is_python) == (type(layer), False)


class Slotted(fp.Dense):
    """With what cannot be copied deeply, and a copy that its own __deepcopy__ begins with."""

    __slots__ = ("extra",)

    def __init__(self, units: int) -> None:
        super().__init__(units)
        self.trainable, self.extra, self.lock = False, 5, threading.Lock()

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.copy(self)


def test_copies_of_layers_that_are_made_otherwise() -> None:
    layer = Slotted(2)
    layer(np.ones((1, 3)))
    for again in (copy.copy(layer), copy.deepcopy(layer)):
        assert (again.extra, again.lock, again.trainable) == (5, layer.lock, False)
        assert again.weights[0] is not layer.weights[0]
        np.testing.assert_array_equal(again.get_weights()[0], layer.get_weights()[0])


def test_a_layer_that_fails_when_it_is_first_called_is_not_built() -> None:
    class Picky(fp.Layer):
        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            if x.shape[1] == 3:
                raise OSError("three")
            return x, None

    layer = Picky()
    with pytest.raises(OSError, match="three"):
        layer(np.ones((2, 3), np.float32))
    assert not layer.built
    assert layer(np.ones((2, 4), np.float32)).shape == (2, 4)


def test_layers_of_ones_own() -> None:
    layer = MyDense(2)
    assert layer([[1.0, 2.0, 3.0]]).shape == (1, 2)
    assert layer.get_config() == {"units": 2}
    x = np.ones((1, 3), np.float32)
    np.testing.assert_allclose(layer(x), x @ layer.get_weights()[0], rtol=1e-6)
    assert MyTanh()([[0.5]])[0, 0] == pytest.approx(np.tanh(0.5))
    assert MyTanh().name == "my_tanh"


@pytest.mark.parametrize("shape", [4, [4], (None, 4), (np.int64(4),), np.array([4])])
def test_an_output_shape_of_ones_own_is_what_an_inputs_may_be(shape: Any, tmp_path: Path) -> None:
    class Same(MyTanh):
        def compute_output_shape(self, input_shape: Any) -> Any:
            return shape

    model = fp.Sequential([fp.Input((4,)), Same()])
    assert model.output_shape == (4,)
    model.save(tmp_path / "m")
    again = fp.load_model(tmp_path / "m", custom_objects={"Same": Same})
    assert again.output_shape == (4,)


@pytest.mark.parametrize("shape", [None, (4.0,), (0,), "4"])
def test_an_output_shape_of_ones_own_that_is_none_is_refused(shape: Any) -> None:
    class Same(MyTanh):
        def compute_output_shape(self, input_shape: Any) -> Any:
            return shape

    with pytest.raises(ValueError, match=r"same.compute_output_shape: shape must be positive integers, one per axis"):
        fp.Sequential([fp.Input((4,)), Same()])


def test_weight_in_expressions() -> None:
    layer = MyDense(2)
    layer(np.ones((1, 3)))
    w = layer.w.value
    np.testing.assert_array_equal(2 * layer.w + 1, 2 * w + 1)
    np.testing.assert_array_equal(np.ones((1, 3), np.float32) @ layer.w, np.ones((1, 3), np.float32) @ w)
    np.testing.assert_array_equal(np.asarray(layer.w), w)
    with pytest.raises(TypeError, match="use assign"):
        layer.w += 1


def test_a_subclass_of_dense_with_its_own_forward_runs_in_python(backend: str) -> None:
    class Doubled(fp.Dense):
        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            y, saved = super().forward(x, training)
            return 2 * y, saved

        def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
            return super().backward(2 * dy, saved)

    class Plain(fp.Dense):
        pass

    model = fp.Sequential([fp.Input((3,)), Doubled(2), Plain(2)], seed=0)
    assert [layer.is_python for layer in model.layers] == [True, False]
    x = np.ones((2, 3))
    hidden = 2 * (x @ model.layers[0].kernel)
    np.testing.assert_allclose(model.predict(x), hidden @ model.layers[1].kernel, rtol=1e-5)


@pytest.mark.parametrize("name", sorted({"glorot", "he", "lecun"}))
@pytest.mark.parametrize("shape", ["uniform", "normal"])
def test_initializers_have_the_stated_variance(name: str, shape: str) -> None:
    fan_in, fan_out = 300, 100
    variance = {"glorot": 2 / (fan_in + fan_out), "he": 2 / fan_in, "lecun": 1 / fan_in}[name]
    array = fp.initializers.get(f"{name}_{shape}")((fan_in, fan_out), "float64", seed=5)
    # 30,000 draws: the sample variance is within 3 % of the true one with overwhelming probability.
    assert array.var() == pytest.approx(variance, rel=0.03)
    assert abs(array.mean()) < 4 * np.sqrt(variance / array.size)
    limit = np.sqrt(3 * variance) if shape == "uniform" else 2 * np.sqrt(variance) / 0.8796
    assert np.abs(array).max() <= limit


def test_weights_that_the_dtype_makes_infinite_are_refused(backend: str) -> None:
    refused = r"must be finite in float32; received 1e\+300"
    for begin in (1e300, np.full((3, 2), 1e300)):
        layer = fp.Dense(2, kernel_initializer=begin)
        with pytest.raises(ValueError, match=f"^initializer (Constant|Given): dense/kernel {refused}"):
            fp.Sequential([fp.Input((3,)), layer])
        with pytest.raises(ValueError, match=refused):
            layer(np.ones((1, 3)))
        assert not layer.built
        assert fp.Sequential([fp.Input((3,)), layer], dtype="float64").get_weights()[0].max() == 1e300
    with pytest.raises(ValueError, match=f"^initializer Constant: values {refused}"):
        fp.initializers.Constant(1e300)((2,))
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2)], seed=0)
    before, layer = model.get_weights(), model.layers[0]
    values = [before[0], np.array([1.0, 1e300])]
    for write in (model.set_weights, layer.set_weights, lambda values: setattr(layer, "bias", values[1])):
        with pytest.raises(ValueError, match=rf"^(dense\.)?(set_weights|assign): dense/bias {refused}"):
            write(values)
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    model.set_weights([before[0], [np.inf, -np.inf]])
    np.testing.assert_array_equal(layer.bias, [np.inf, -np.inf])


def test_weights_of_a_layer_that_a_model_makes_infinite_are_refused(backend: str) -> None:
    first, last = fp.Dense(3), fp.Dense(2)
    model: Any = fp.Sequential([fp.Input((3,)), first, last], seed=0, dtype="float64")
    last.bias = [1.0, 1e300]
    before = model.get_weights()
    del model
    gc.collect()
    x = fp.Input((3,))
    for make in (lambda: fp.Sequential([fp.Input((3,)), first, last]), lambda: fp.Model(x, last(first(x)))):
        with pytest.raises(ValueError, match=r"dense_1: bias must be finite in float32; received 1e\+300"):
            make()
        for now, then in zip([*first.get_weights(), *last.get_weights()], before, strict=True):
            assert now.dtype == np.float64
            np.testing.assert_array_equal(now, then)


def test_a_parameter_that_the_dtype_makes_infinite_is_refused(backend: str) -> None:
    steep = fp.activations.elu.with_alpha(1e300)
    refused = r"alpha of elu must be finite in float32; received 1e\+300"
    row = np.full((1, 3), -1.0, np.float32)
    for make in (lambda: fp.Dense(3, steep), lambda: fp.Activation(steep)):
        for dtype in ("float32", "mixed_bfloat16"):
            with pytest.raises(ValueError, match=f"(dense|activation): {refused}"):
                fp.Sequential([fp.Input((3,)), make()], dtype=dtype)
        with pytest.raises(ValueError, match=f"(dense|activation): {refused}"):
            make()(row)
        model = fp.Sequential([fp.Input((3,)), fp.Dense(3)], seed=0)
        before = model.predict(row)
        with pytest.raises(ValueError, match=refused):
            model.add(make())
        np.testing.assert_array_equal(model.predict(row), before)
        assert fp.Sequential([fp.Input((3,)), make()], dtype="float64").predict(row).shape == (1, 3)
    for function in (steep, steep.derivative):
        with pytest.raises(ValueError, match=refused):
            function(row)
        assert np.isfinite(function(row.astype(np.float64))).all()


@pytest.mark.parametrize("name", ["leaky_relu", "elu"])
def test_a_negative_alpha_is_refused(name: str) -> None:
    """The derivative below zero is computed from y, which would be positive there: it was 1 instead of alpha."""
    f = fp.activations.get(name)
    refused = f"alpha of {name} must not be negative; received -0.5"
    for make in (lambda: f.with_alpha(-0.5), lambda: fp.activations.ActivationFunction(name, -0.5)):
        with pytest.raises(ValueError, match=refused):
            make()
    flat = f.with_alpha(0)
    assert flat.derivative([-1.0, 1.0]).tolist() == [0, 1]


def test_given_arrays_and_constants() -> None:
    w = np.arange(6.0).reshape(3, 2)
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2, kernel_initializer=w, bias_initializer=0.5)])
    np.testing.assert_array_equal(model.layers[0].kernel, w)
    np.testing.assert_array_equal(model.layers[0].bias, [0.5, 0.5])
    with pytest.raises(fp.ShapeError, match=r"Given: expected an array of shape \(2, 2\); received \(3, 2\)"):
        fp.Sequential([fp.Input((2,)), fp.Dense(2, kernel_initializer=w)])


def test_activations_say_which_gradients_they_take() -> None:
    with pytest.raises(fp.DTypeError, match=r"activation: dy must be float32 or float64; received float16"):
        fp.Activation("relu").backward(np.ones((1, 2), np.float16), np.ones((1, 2), np.float16))

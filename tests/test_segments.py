"""Layers, losses, optimizers and metrics written in Python, against the built-in ones they copy."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from api_examples import MyDense, MyMSE, MySGD, MyTanh, WorstError, regression

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


def pair(part: str) -> tuple[fp.Sequential, fp.Sequential]:
    """The same model twice: all built-in, and with a part (or everything) written in Python."""
    models = []
    for mine in (False, True):
        layer = mine and part in ("layer", "all")
        middle: list[fp.Layer] = (
            [MyDense(4, name="middle"), MyTanh()] if layer else [fp.Dense(4, "tanh", name="middle")]
        )
        model = fp.Sequential(
            [fp.Dense(6, "gelu", name="first"), *middle, fp.Dropout(0.2), fp.Dense(2, name="last")],
            seed=3,
            dtype="float64",
        )
        loss: Any = MyMSE() if mine and part in ("loss", "all") else "mse"
        optimizer = MySGD(0.05) if mine and part in ("optimizer", "all") else fp.SGD(0.05, momentum=0.9)
        metrics: list[Any] = ["mae"] + ([WorstError()] if mine and part in ("metric", "all") else [])
        model.compile(optimizer, loss, metrics)
        models.append(model)
    return models[0], models[1]


@pytest.mark.parametrize("part", ["layer", "loss", "optimizer", "metric", "all"])
def test_python_parts_train_like_built_in_ones(part: str) -> None:
    x, y = regression(50)
    y = np.hstack([y, -y])
    weights = np.random.default_rng(1).random(50)
    native, mine = pair(part)
    options: dict[str, Any] = {"batch_size": 16, "epochs": 3, "verbose": 0, "sample_weight": weights}
    first = native.fit(x, y, validation_split=0.2, **options).history
    second = mine.fit(x, y, validation_split=0.2, **options).history
    # Only the order of sums inside NumPy's and the backend's products differs.
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-9)
    for a, b in zip(native.get_weights(), mine.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(native.predict(x), mine.predict(x), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(native.evaluate(x, y)[:2], mine.evaluate(x, y)[:2], rtol=1e-9)
    if part == "metric":
        assert mine.evaluate(x, y, return_dict=True)["worst_error"] == np.abs(mine.predict(x) - y).max()


class Counter:
    """Stands before a network and counts the calls."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.network, name)
        if not callable(attribute):
            return attribute

        def counted(*arguments: Any) -> Any:
            details = arguments[:2] if name in ("forward", "backward") else ()
            self.calls.append(name + "".join(f" {a}" for a in details))
            return attribute(*arguments)

        return counted


def test_everything_else_stays_native() -> None:
    x, y = regression(32)
    model = fp.Sequential([fp.Dense(6, "relu"), fp.Dense(5), MyTanh(), fp.Dense(3), fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    model.fit(x, y, verbose=0)
    segments: Any = model._segments
    segments.network = counter = Counter(model._network)
    model.fit(x, y, batch_size=16, verbose=0)
    step = [
        "load_batch",
        "forward 0 2",
        "get_value",
        "set_value",
        "forward 3 5",
        "loss",
        "backward 3 5",
        "get_value_gradient",
        "set_value_gradient",
        "backward 0 2",
        "update",
    ]
    assert counter.calls == ["reset_metrics", *step, *step, "get_metrics"]


def test_built_in_models_never_enter_python() -> None:
    x, y = regression(32)
    model = fp.Sequential([fp.Dense(6, "softmax"), fp.Dropout(0.5), fp.Dense(1)], seed=0)
    model.compile(fp.SGD(0.1, 0.9, True), fp.losses.Huber(), metrics=["mae", "r2"])
    model.fit(x, y, verbose=0)
    assert model._segments is None
    runner: Any = Counter(model._network)
    model._runner = runner
    model.fit(x, y, batch_size=1, epochs=1, verbose=0)
    assert runner.calls.count("train_steps") < 32  # whole stretches of steps, not one call each
    assert set(runner.calls) == {"reset_metrics", "train_steps", "get_metrics"}


def test_callbacks_see_every_batch_of_a_model_with_python_parts() -> None:
    seen: list[str] = []

    class Batches(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(f"train {batch}")

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(f"test {batch}")

    x, y = regression(8)
    model = fp.Sequential([fp.Dense(3), MyTanh(), fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    model.fit(x, y, batch_size=3, verbose=0, callbacks=Batches())
    model.evaluate(x, y, batch_size=3, callbacks=Batches())
    assert seen == ["train 0", "train 1", "train 2", "test 0", "test 1", "test 2"]


def test_below_the_lowest_trainable_layer_nothing_runs_backwards() -> None:
    x, y = regression(8)

    class NoWayBack(MyTanh):
        def backward(self, dy: Any, saved: Any) -> Any:
            raise AssertionError("not needed")

    model = fp.Sequential([fp.Dense(3), NoWayBack(), fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    model.build(5)
    model.layers[0].trainable = False
    kept = model.get_weights()
    model.fit(x, y, verbose=0)
    assert (model.get_weights()[0] == kept[0]).all()
    assert not (model.get_weights()[2] == kept[2]).all()


def test_where_no_loss_leads_nothing_runs_backwards() -> None:
    class NoWayBack(MyTanh):
        def backward(self, dy: Any, saved: Any) -> Any:
            raise AssertionError("not needed")

    x, y = regression(8)
    start = fp.Input((5,))
    h = fp.Dense(3)(start)
    model = fp.Model(start, [NoWayBack()(h), fp.Dense(1)(h)], seed=0)
    model.compile("sgd", [None, "mse"], metrics=["mae", None])
    before = model.get_weights()
    model.fit(x, [np.ones((8, 3)), y], verbose=0)
    assert not any((old == new).all() for old, new in zip(before, model.get_weights(), strict=True))


def test_slots_of_ones_own_optimizer_are_kept_while_a_layer_is_frozen() -> None:
    x, y = regression(20)
    found = []
    for optimizer in (fp.SGD(0.05, momentum=0.9), MySGD(0.05)):
        model = fp.Sequential([fp.Dense(4, "tanh"), fp.Dense(1)], seed=3, dtype="float64")
        model.compile(optimizer, "mse")
        for trainable in (True, False, True):
            if model.built:
                model.layers[0].trainable = trainable
            model.fit(x, y, epochs=2, verbose=0)
        found.append(model.get_weights())
    for native, mine in zip(*found, strict=True):
        np.testing.assert_allclose(mine, native, rtol=1e-9, atol=1e-12)


def test_weights_that_are_not_trainable_are_state() -> None:
    class Average(fp.Layer):
        def build(self, input_shape: Any) -> None:
            self.gain = self.add_weight("gain", input_shape, "ones")
            self.mean = self.add_weight("mean", input_shape, "zeros", trainable=False)

        def forward(self, x: Any, training: bool) -> Any:
            if training:
                self.mean.assign(0.5 * self.mean + 0.5 * x.mean(axis=0))
            return (x - self.mean) * self.gain, x

        def backward(self, dy: Any, x: Any) -> Any:
            return dy * self.gain, [(dy * (x - self.mean)).sum(axis=0)]

    x, y = regression(16)
    model = fp.Sequential([Average(), fp.Dense(1)], seed=0, dtype="float64")
    model.compile(fp.SGD(0.1, momentum=0.5), "mse")
    model.fit(x, y, batch_size=16, verbose=0)
    state = model.get_state()
    np.testing.assert_allclose(state["state/average/mean"], 0.5 * x.mean(axis=0), rtol=1e-12)
    assert "slots/momentum/average/gain" in state
    assert "slots/momentum/average/mean" not in state
    assert model.count_params() == 16


@pytest.mark.parametrize("by_name", [False, True])
def test_one_weight_of_a_layer_with_states_is_frozen(by_name: bool) -> None:
    class Scale(fp.Layer):
        def build(self, input_shape: Any) -> None:
            self.add_weight("gain", input_shape, "ones")
            self.add_weight("mean", input_shape, "zeros", trainable=False)
            self.add_weight("offset", input_shape, "zeros")

        def forward(self, x: Any, training: bool) -> Any:
            gain, mean, offset = self.get_weights()
            return (x - mean) * gain + offset, x - mean

        def backward(self, dy: Any, x: Any) -> Any:
            grads = {"gain": (dy * x).sum(axis=0), "offset": dy.sum(axis=0)}
            return dy * self.weights[0], grads if by_name else list(grads.values())

    x, y = regression(16)
    model = fp.Sequential([fp.Input((5,)), Scale(), fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    gain, mean, offset = model.layers[0].weights
    for frozen in ([], [gain], [offset], [gain, offset]):
        for weight in (gain, offset):
            weight.trainable = all(weight is not one for one in frozen)
        mean.trainable = not frozen  # which changes nothing: it is a state
        before = model.layers[0].get_weights()
        assert {"dgain", "doffset"} <= set(model.trace(x, y)["scale"])
        model.fit(x, y, verbose=0)
        kept = [bool((a == b).all()) for a, b in zip(before, model.layers[0].get_weights(), strict=True)]
        assert kept == [not gain.trainable, True, not offset.trainable]


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (lambda x: x[:, :-1], None, r"bad.forward: y must have shape \(8, 5\); received \(8, 4\)"),
        (lambda x: x.T, None, r"bad.forward: y must have shape \(8, 5\); received \(5, 8\)"),
        (lambda x: x.astype(object), None, "y must hold real numbers"),
        (lambda x: [[1.0], [1.0, 2.0]], None, "bad.forward: y must be a rectangular array"),
        (None, lambda dy: (dy[:1], []), r"bad.backward: dx must have shape \(8, 5\); received \(1, 5\)"),
        (None, lambda dy: (dy, [dy]), "bad.backward: expected 0 gradients, one per weight; received 1"),
        (
            None,
            lambda dy: (dy, iter([])),
            "bad.backward: grads must be a list or a dict of gradients; received list_iter",
        ),
        (None, lambda dy: (dy, {"v": dy}), "grads must name weights of the layer; received v"),
    ],
)
def test_wrong_answers_from_python_change_nothing(forward: Any, backward: Any, message: str) -> None:
    class Bad(fp.Layer):
        armed = False

        def forward(self, x: Any, training: bool) -> Any:
            return (forward(x) if self.armed and forward else x), None

        def backward(self, dy: Any, saved: Any) -> Any:
            return backward(dy) if backward else (dy, [])

    x, y = regression(8)
    bad = Bad(name="bad")
    model = fp.Sequential([fp.Dense(5), bad, fp.Dense(1)], seed=0)
    model.compile(fp.SGD(0.1, 0.9), "mse")
    model.build(5)
    bad.armed = True
    before = model.get_state()
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(x, y, verbose=0)
    with pytest.raises((ValueError, TypeError), match=message):
        model.trace(x, y)
    after = model.get_state()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)


def test_an_optimizer_that_fails_midway_changes_nothing() -> None:
    class Fragile(MySGD):
        seen = 0

        def update(self, param: Any, grad: Any, slots: Any) -> None:
            super().update(param, grad, slots)
            self.seen += 1
            if self.seen == 3:
                raise ArithmeticError("third parameter")

    x, y = regression(8)
    model = fp.Sequential([fp.Dense(5), fp.Dense(1)], seed=0)
    model.compile(Fragile(0.1), "mse")
    model.build(5)
    before = model.get_state()
    with pytest.raises(ArithmeticError):
        model.fit(x, y, verbose=0)
    assert all(before[key].tobytes() == value.tobytes() for key, value in model.get_state().items())


def test_a_loss_on_labels_and_an_optimizer_that_counts() -> None:
    class Margin(fp.Loss):
        takes_labels = True

        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            n = len(y_true)
            losses = -y_pred[np.arange(n), y_true]
            dy = np.zeros_like(y_pred)
            dy[np.arange(n), y_true] = -weights / n
            return losses, dy

    class Decaying(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> None:
            steps.append(self.iterations)
            param -= self.learning_rate / (1 + self.iterations) * grad

    steps: list[int] = []
    x = np.random.default_rng(0).normal(size=(10, 4))
    y = np.arange(10) % 3
    model = fp.Sequential([fp.Dense(3, use_bias=False)], seed=0)
    model.compile(Decaying(0.1), Margin(), metrics=["accuracy"])
    history = model.fit(x, y, batch_size=5, epochs=2, verbose=0).history
    assert steps == [0, 1, 2, 3]
    assert history["loss"][1] < history["loss"][0]
    with pytest.raises(ValueError, match="labels from 0 to 2"):
        model.fit(x, y + 1, verbose=0)
    model.compile(Decaying(0.1), Margin())
    model.fit(x, y, batch_size=5, verbose=0)
    assert steps == [0, 1, 2, 3, 0, 1]


def test_a_rate_that_an_optimizer_gives_itself_stays() -> None:
    class Slowing(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> None:
            self.learning_rate = 0.125

    x, y = regression(8)
    model = fp.Sequential([fp.Dense(1, use_bias=False)], seed=0)
    model.layers[0].learning_rate_multiplier = 3.0
    model.compile(Slowing(0.5), "mse")
    model.fit(x, y, verbose=0)
    assert model.optimizer is not None
    assert model.optimizer.learning_rate == 0.125


def test_half_of_what_a_users_code_must_return() -> None:
    class Forward(MyTanh):
        def forward(self, x: Any, training: bool) -> Any:
            return x if training else (x, x)

    class Backward(MyTanh):
        def backward(self, dy: Any, y: Any) -> Any:
            return dy

    class Losses(fp.Loss):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            return (y_pred - y_true)[:, 0]

    x, y = regression(2)
    for layer, loss, message in (
        (Forward(), "mse", r"forward.forward: expected \(y, saved\); received ndarray"),
        (Backward(), "mse", r"backward.backward: expected \(dx, grads\); received ndarray"),
        (MyTanh(), Losses(), r"losses.value_and_grad: expected \(losses, dy\); received ndarray"),
    ):
        model = fp.Sequential([fp.Dense(1), layer], seed=0)
        model.compile("sgd", loss)
        with pytest.raises(TypeError, match=message):
            model.fit(x, y, verbose=0)
        with pytest.raises(TypeError, match=message):
            model.trace(x, y)


def test_an_optimizer_with_a_slot_it_did_not_declare_changes_nothing() -> None:
    class Undeclared(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: dict[str, Any]) -> None:
            slots["m"] = np.zeros_like(param)
            param -= grad

    x, y = regression(20)
    model = fp.Sequential([fp.Dense(3), fp.Dense(1)], seed=0)
    model.build(x.shape[1])
    model.compile(Undeclared(0.1), "mse")
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"Undeclared.update: slots must be those of slot_names \(none\); received m"):
        model.fit(x, y, verbose=0)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_a_python_layer_that_is_used_twice_trains_like_a_built_in_one() -> None:
    x, y = regression(20, width=4)
    found = []
    for layer in (fp.Dense(4, name="twice"), MyDense(4, name="twice")):
        start = fp.Input((4,))
        model = fp.Model(start, fp.Dense(1, name="last")(layer(layer(start))), seed=2, dtype="float64")
        model.compile("sgd", "mse")
        model.fit(x, y, epochs=2, verbose=0)
        found.append(model.get_weights())
    for native, mine in zip(*found, strict=True):
        np.testing.assert_allclose(mine, native, rtol=1e-9, atol=1e-12)


class Scratch:
    """Gives an array again and again, as code does that spares memory."""

    def __init__(self) -> None:
        self._arrays: dict[Any, Any] = {}

    def __call__(self, values: Any) -> Any:
        array = self._arrays.setdefault((values.shape, values.dtype), np.empty_like(values))
        array[...] = values
        return array


def test_code_of_ones_own_may_return_the_same_array_each_time() -> None:
    scratch, another = Scratch(), Scratch()

    class Dense(MyDense):
        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            y, saved = super().forward(x, training)
            return scratch(y), saved

        def backward(self, dy: Any, x: Any) -> tuple[Any, Any]:
            dx, grads = super().backward(dy, x)
            return scratch(dx), {name: scratch(gradient) for name, gradient in grads.items()}

    class MSE(MyMSE):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
            losses, dy = super().value_and_grad(y_true, y_pred, weights)
            return scratch(losses), scratch(dy)

    class SGD(MySGD):
        def update(self, param: Any, grad: Any, slots: Any) -> Any:
            super().update(param, grad, slots)
            slots["velocity"] = scratch(slots["velocity"])
            return another(param)

    x, y = regression(40, width=4)
    found = []
    for dense, loss, optimizer in ((MyDense, MyMSE, MySGD), (Dense, MSE, SGD)):
        start, shared, again = fp.Input((4,)), dense(4), dense(4)
        h = shared(shared(start))
        model = fp.Model(start, [dense(1)(fp.Add()([h, again(h)])), dense(1)(h)], seed=2, dtype="float64")
        model.compile(optimizer(0.02), loss())
        trace = model.trace(x, [y, -y])
        traced = [array for name in trace.layers for array in trace[name].values()]
        model.fit(x, [y, -y], epochs=2, verbose=0)
        found.append([*model.get_weights(), *traced])
    for theirs, mine in zip(*found, strict=True):
        np.testing.assert_array_equal(theirs, mine)


@pytest.mark.parametrize("weighted", [False, True])
def test_code_of_ones_own_may_write_over_what_it_is_given(weighted: bool) -> None:
    class Rough(MyMSE):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
            found = super().value_and_grad(y_true, y_pred, weights)
            y_true[...] = y_pred[...] = weights[...] = 9
            return found

    class RoughError(WorstError):
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            super().update_state(y_true, y_pred, sample_weight)
            y_true[...] = y_pred[...] = 9
            if sample_weight is not None:
                sample_weight[...] = 9

    x, y = regression(12)
    given = y.copy()
    weights = np.random.default_rng(1).random(12) if weighted else None
    found = []
    for loss, error in ((MyMSE, WorstError), (Rough, RoughError)):
        model = fp.Sequential([fp.Dense(1)], seed=0, dtype="float64")
        model.compile("sgd", loss(), [error(name="first"), error(name="second")])
        history = model.fit(x, y, 4, 2, shuffle=False, sample_weight=weights, verbose=0).history
        found.append([*history.values(), *model.get_weights()])
    np.testing.assert_array_equal(y, given)
    for theirs, mine in zip(*found, strict=True):
        np.testing.assert_array_equal(theirs, mine)


def test_labels_that_a_metric_writes_over_stay_the_callers() -> None:
    class Forgetful(fp.Metric):
        takes_labels = True

        def reset_state(self) -> None:
            self.seen: list[int] = []

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
            self.seen += y_true.tolist()
            y_true[...] = 0

        def result(self) -> float:
            return float(sum(self.seen))

    x, y = np.ones((6, 2)), np.arange(6) % 3
    model = fp.Sequential([fp.Dense(3, "softmax")], seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy", [Forgetful()])
    history = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    assert history["forgetful"] == [6.0, 6.0]
    assert y.tolist() == [0, 1, 2, 0, 1, 2]


HELD_BACK = """
import signal, sys
from fastperceptron.segments import _uninterrupted

signal.signal(signal.SIGINT, getattr(signal, sys.argv[1]))
with _uninterrupted():
    signal.raise_signal(signal.SIGINT)
    print("whole", flush=True)
print("ignored", flush=True)
"""


@pytest.mark.parametrize("disposition", ["default_int_handler", "SIG_DFL", "SIG_IGN"])
def test_an_interrupt_that_was_held_back_is_delivered(disposition: str) -> None:
    command = [sys.executable, "-c", HELD_BACK, disposition]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (result.returncode == 0) == (disposition == "SIG_IGN"), result.stderr
    assert ("KeyboardInterrupt" in result.stderr) == (disposition == "default_int_handler"), result.stderr
    assert result.stdout.split() == (["whole", "ignored"] if disposition == "SIG_IGN" else ["whole"])


def test_an_interrupt_between_two_new_parameters_waits_for_the_last() -> None:
    x, y = regression(8)
    whole, stopped = (fp.Sequential([fp.Input((5,)), fp.Dense(3), fp.Dense(1)], seed=0) for _ in range(2))
    for model in (whole, stopped):
        model.compile(MySGD(0.1), "mse")
    whole.fit(x, y, verbose=0)
    segments: Any = stopped._segments
    network = segments.network

    class Interrupted(Counter):
        def set_parameter(self, index: int, value: Any) -> None:
            self.network.set_parameter(index, value)
            signal.raise_signal(signal.SIGINT)

    segments.network = Interrupted(network)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(x, y, verbose=0)
    segments.network = network
    expected = whole.get_state() | {"counters/epoch": np.array(0)}
    np.testing.assert_equal(stopped.get_state(), expected)

"""Optimizers on plain arrays, and settings changed while a model trains."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from api_examples import MySGD, classification, classifier

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_by_hand(dtype: Any, momentum: float, nesterov: bool) -> None:
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    param = w.astype(dtype)
    optimizer = fp.SGD(0.1, momentum, nesterov)
    for g in ([0.5, 1.0], [-1.0, 0.25], [2.0, 0.0]):
        gradient = np.array(g)
        v = momentum * v - 0.1 * gradient
        w = w + (momentum * v - 0.1 * gradient if nesterov else v)
        optimizer.apply([param], [gradient])
    np.testing.assert_allclose(param, w, rtol=1e-6 if dtype is np.float32 else 1e-14)
    assert optimizer.iterations == 3


def test_strided_parameters_are_updated_in_place() -> None:
    whole = np.ones((4, 6))
    fp.SGD(0.5).apply([whole[::2, ::3]], [np.ones((2, 2))])
    assert (whole[::2, ::3] == 0.5).all()
    assert whole.sum() == 24 - 4 * 0.5


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["F", "transposed", "strided", "scalar"])
def test_momentum_of_parameters_of_any_layout(dtype: Any, layout: str) -> None:
    values = np.arange(24, dtype=dtype).reshape(4, 6)
    param = {
        "F": np.asfortranarray(values),
        "transposed": values.T,
        "strided": values[::2, ::-3],
        "scalar": np.array(3, dtype),
    }[layout]
    expected, grad = param.copy(order="C"), np.ones_like(param)
    optimizer, plain = fp.SGD(0.1, 0.9), fp.SGD(0.1, 0.9)
    for _ in range(3):
        optimizer.apply([param], [grad])
        plain.apply([expected.reshape(-1)], [np.ones(expected.size)])
    assert (param == expected).all()


def test_momentum_may_come_and_go_between_calls() -> None:
    """v: none; -1 * 0.1; -0.09 - 0.1 kept; dropped; -0.1 from zero."""
    param, optimizer, seen = np.array([1.0]), fp.SGD(0.1), []
    for momentum in (0.0, 0.9, 0.9, 0.0, 0.9):
        optimizer.momentum = momentum
        optimizer.apply([param], [np.ones(1)])
        seen.append(param[0])
    np.testing.assert_allclose(seen, [0.9, 0.8, 0.61, 0.51, 0.41], rtol=1e-14)


def test_without_slots_parameters_may_differ_from_call_to_call() -> None:
    a, b, optimizer = np.ones(2), np.ones((2, 2)), fp.SGD(0.5)
    optimizer.apply([a], [np.ones(2)])
    optimizer.apply([a, b], [np.ones(2), np.ones((2, 2))])
    assert (a == 0).all()
    assert (b == 0.5).all()


def test_slots_without_a_name_are_refused() -> None:
    class Hidden(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> None:
            slots["m"] = grad

    with pytest.raises(ValueError, match=r"slots must be those of slot_names \(none\); received m"):
        Hidden().apply([np.ones(1)], [np.ones(1)])


def test_a_name_is_no_tuple_of_slot_names() -> None:
    class NoComma(fp.Optimizer):
        slot_names = "velocity"  # type: ignore[assignment]

    model = fp.Sequential([fp.Dense(1)])
    message = "NoComma: slot_names must be a tuple of names; received 'velocity'"
    with pytest.raises(TypeError, match=message):
        model.compile(NoComma(), "mse")
    assert model.optimizer is None
    with pytest.raises(TypeError, match=message):
        NoComma().apply([np.ones(1)], [np.ones(1)])


def test_apply_checks_before_it_changes() -> None:
    param = np.ones(3)
    optimizer = fp.SGD(0.1, 0.9)
    with pytest.raises(fp.ShapeError, match=r"gradient 1 must have shape \(2,\); received \(3,\)"):
        optimizer.apply([param, np.ones(2)], [np.ones(3), np.ones(3)])
    assert (param == 1).all()
    with pytest.raises(fp.DTypeError, match="parameter 0 must be a float32 or float64 array in native"):
        optimizer.apply([np.ones(3, np.int64)], [np.ones(3)])
    with pytest.raises(TypeError, match="apply: expected a list of gradients; received NoneType"):
        fp.SGD().apply([np.ones(1)], None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="as many gradients as parameters, 1; received 0"):
        optimizer.apply([param], [])
    frozen = np.ones(3)
    frozen.setflags(write=False)
    with pytest.raises(ValueError, match="writeable"):
        optimizer.apply([frozen], [np.ones(3)])
    optimizer.apply([param], [np.ones(3)])
    with pytest.raises(fp.ShapeError, match="keep their shapes"):
        optimizer.apply([np.ones(4)], [np.ones(4)])
    with pytest.raises(fp.DTypeError, match="keep their dtypes"):
        optimizer.apply([np.ones(3, np.float32)], [np.ones(3)])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_rate_that_fits_one_parameter_alone_changes_none(momentum: float) -> None:
    optimizer = fp.SGD(1e300, momentum=momentum)
    params = [np.ones(2), np.ones(2, np.float32)]
    with pytest.raises(ValueError, match=r"SGD: learning_rate must be finite in float32; received 1e\+300"):
        optimizer.apply(params, [np.ones(2), np.ones(2)])
    for param in params:
        np.testing.assert_array_equal(param, 1.0)
    assert optimizer.iterations == 0
    optimizer.apply(params[:1], [np.ones(2)])
    assert optimizer.iterations == 1


def test_gradients_of_any_kind() -> None:
    a, p = np.array([1.0, 2.0]), np.array([4.0])
    fp.SGD(0.5).apply([a, p], [a, p])  # the gradient of half the square
    np.testing.assert_array_equal(np.concatenate([a, p]), [0.5, 1.0, 2.0])
    whole = np.array([1.0, 2.0, 3.0])
    fp.SGD(1.0).apply([whole[:2]], [whole[1:]])
    np.testing.assert_array_equal(whole, [-1.0, -1.0, 3.0])
    first, second = np.array([1.0]), np.array([2.0])
    fp.SGD(1.0).apply([first, second], [second, first])
    assert (first, second) == (-1.0, 1.0)
    for bad, error in (
        (np.array([1j, 0]), fp.DTypeError),
        (["1", "2"], fp.DTypeError),
        (np.ma.masked_equal([1.0, 2.0], 2.0), ValueError),
    ):
        with pytest.raises(error, match="apply: gradient 0 must"):
            fp.SGD(0.5).apply([a], [bad])
    with pytest.raises(ValueError, match="apply: parameter 0 must have no masked"):
        fp.SGD(0.5).apply([np.ma.masked_equal([1.0, 2.0], 2.0)], [np.ones(2)])
    np.testing.assert_array_equal(a, [0.5, 1.0])


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "fast", True])
def test_bad_learning_rates(value: Any) -> None:
    with pytest.raises(ValueError, match="learning_rate must be finite and not negative"):
        fp.SGD(value)
    with pytest.raises(ValueError, match="momentum must be at least 0 and below 1; received 1"):
        fp.SGD(0.1, momentum=1)
    with pytest.raises(TypeError, match="SGD: nesterov must be True or False; received 'no'"):
        fp.SGD(0.1, nesterov="no")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "float64"])
def test_rates_must_be_finite_in_the_models_dtype(dtype: str) -> None:
    x, y = classification()
    model = classifier(dtype=dtype)
    model.fit(x, y, epochs=1, verbose=0)
    before, optimizer = model.get_state(), model.optimizer
    most = np.finfo(np.float64 if dtype == "float64" else np.float32).max
    model.layers[0].learning_rate_multiplier = 4.0
    optimizer.learning_rate = float(most) / 2
    with pytest.raises(ValueError, match=r"learning_rate times learning_rate_multiplier must be finite in float"):
        model.fit(x, y, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="must be finite in float"):
        model.compile(fp.SGD(optimizer.learning_rate), "mse")
    assert model.optimizer is optimizer
    after = model.get_state()
    assert all(after[name].tobytes() == value.tobytes() for name, value in before.items())
    model.layers[0].learning_rate_multiplier = optimizer.learning_rate = 0.5
    model.fit(x, y, epochs=1, verbose=0)
    with pytest.raises(ValueError, match="SGD: learning_rate must be finite in float32"):
        fp.SGD(1e39).apply([np.ones(1, np.float32)], [np.ones(1)])


def test_learning_rate_can_change_in_flight() -> None:
    x, y = classification()
    model = classifier()
    model.fit(x, y, epochs=1, verbose=0)
    before = model.get_weights()

    def stop_learning(epoch: int, logs: Any) -> None:
        model.optimizer.learning_rate = 0.0
        model.optimizer.momentum = 0.0

    model.fit(x, y, epochs=3, verbose=0, callbacks=fp.LambdaCallback(on_epoch_begin=stop_learning))
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))


def test_momentum_that_a_subclass_gets_later() -> None:
    class Wrapped(fp.SGD):
        def update(self, param: Any, grad: Any, slots: Any) -> Any:
            return super().update(param, grad, slots)

    x, y = classification(64)
    models = []
    for optimizer in (fp.SGD, Wrapped):
        model = classifier(dtype="float64")
        model.compile(optimizer(0.1), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
        for momentum in (0.0, 0.9):
            model.optimizer.momentum = momentum
            model.fit(x, y, epochs=2, verbose=0)
        models.append(model)
    for mine, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)
    state = models[1].get_state()
    assert any(name.startswith("slots/momentum/") for name in state)
    models[1].set_state(state)


def test_an_optimizer_of_ones_own_on_arrays() -> None:
    mine, theirs = np.array([3.0, -4.0]), np.array([3.0, -4.0])
    a, b = MySGD(0.1, 0.5), fp.SGD(0.1, 0.5)
    for _ in range(5):
        a.apply([mine], [2 * mine])
        b.apply([theirs], [2 * theirs])
    np.testing.assert_allclose(mine, theirs, rtol=1e-14)


def test_update_may_return_the_new_value() -> None:
    class Halve(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> Any:
            return param / 2

    point = np.array([8.0])
    Halve().apply([point], [point])
    assert point[0] == 4.0


def test_slots_are_no_array_that_update_uses_again() -> None:
    class Shared(fp.Optimizer):
        slot_names = ("last",)
        buffer = np.zeros(1)

        def update(self, param: Any, grad: Any, slots: Any) -> None:
            param += slots["last"]
            self.buffer[...] = grad
            slots["last"] = self.buffer

    points, optimizer = [np.zeros(1), np.zeros(1)], Shared()
    for _ in range(2):
        optimizer.apply(points, [np.array([1.0]), np.array([2.0])])
    assert [point.tolist() for point in points] == [[1.0], [2.0]]


def test_an_update_that_raises_half_way_changes_nothing() -> None:
    class Picky(fp.Optimizer):
        slot_names = ("sum",)

        def update(self, param: Any, grad: Any, slots: Any) -> None:
            slots["sum"] += grad
            param -= slots["sum"]
            if (grad < 0).any():
                raise ArithmeticError("no")

    points, optimizer = [np.zeros(2), np.zeros(1)], Picky()
    optimizer.apply(points, [np.ones(2), np.ones(1)])
    for bad in ([np.ones(2), -np.ones(1)], [-np.ones(2), np.ones(1)]):
        with pytest.raises(ArithmeticError):
            optimizer.apply(points, bad)
        assert [point.tolist() for point in points] == [[-1.0, -1.0], [-1.0]]
        assert optimizer.iterations == 1
    optimizer.apply(points, [np.ones(2), np.ones(1)])
    assert [point.tolist() for point in points] == [[-3.0, -3.0], [-3.0]]


def test_a_copy_begins_without_slots_and_iterations() -> None:
    optimizer = fp.SGD(0.5, momentum=0.5)
    optimizer.apply([np.zeros(1)], [np.ones(1)])
    for twin in (copy.copy(optimizer), copy.deepcopy(optimizer)):
        point = np.zeros(2)  # of another shape, which its slots would not fit
        twin.apply([point], [np.ones(2)])
        assert twin.iterations == 1
        assert point.tolist() == [-0.5, -0.5]


def test_update_may_write_over_the_gradient_and_keep_it() -> None:
    class Mine(fp.Optimizer):
        slot_names = ("velocity",)

        def update(self, param: Any, grad: Any, slots: Any) -> None:
            grad += 0.5 * slots["velocity"]
            slots["velocity"] = grad
            param -= self.learning_rate * grad

    point, theirs, gradient = np.array([3.0, -4.0]), np.array([3.0, -4.0]), np.empty(2)
    a, b = Mine(0.1), fp.SGD(0.1, 0.5)
    for _ in range(5):
        gradient[...] = 2 * point
        before = gradient.copy()
        a.apply([point], [gradient])
        b.apply([theirs], [2 * theirs])
        np.testing.assert_array_equal(gradient, before)
        gradient[...] = np.nan  # the caller's again
    np.testing.assert_allclose(point, theirs, rtol=1e-14)


def test_names() -> None:
    assert isinstance(fp.optimizers.get("sgd"), fp.SGD)
    with pytest.raises(ValueError, match="received 'adamm'"):
        fp.optimizers.get("adamm")
    with pytest.raises(NotImplementedError, match=r"must define update"):
        fp.Optimizer().apply([np.ones(1)], [np.ones(1)])


@pytest.mark.parametrize("optimizer", [fp.SGD, MySGD])
def test_iterations_are_the_updates_since_the_slots_were_zero(optimizer: Any) -> None:
    x, y = classification(64)
    model, seen = classifier(), []
    model.compile(optimizer(0.01), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    count = fp.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(model.optimizer.iterations))
    model.fit(x, y, batch_size=16, verbose=0, callbacks=count)
    assert seen == [1, 2, 3, 4]
    model.fit(x, y, batch_size=16, verbose=0)
    model.train_on_batch(x, y)
    assert model.optimizer is not None
    assert model.optimizer.iterations == 9
    model.add(fp.Dropout(0.5))
    assert model.optimizer.iterations == 0
    model.train_on_batch(x, y)
    assert model.pop().name == "dropout_1"
    assert model.optimizer.iterations == 0
    model.fit(x, y, batch_size=16, verbose=0, callbacks=count)
    assert seen == [1, 2, 3, 4] * 2
    model.compile(optimizer(0.01), model.loss)
    assert model.optimizer.iterations == 0
    model.train_on_batch(x, y)
    assert model.optimizer.iterations == 1
    assert int(model.get_state()["counters/step"]) == 15


@pytest.mark.parametrize("optimizer", [fp.SGD, MySGD])
def test_copies_states_and_backends_keep_the_iterations(optimizer: Any) -> None:
    x, y = classification(64)
    model = classifier()
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=16, verbose=0)
    model.compile(optimizer(0.01), model.loss)
    model.fit(x, y, batch_size=32, verbose=0)
    twin, other, moved = copy.deepcopy(model), classifier(), copy.copy(model).to_backend("numpy")
    other.build(x.shape[1])
    other.compile(optimizer(0.01), model.loss)
    other.set_state(model.get_state())
    for again in (twin, other, moved):
        assert again.optimizer is not None
        assert again.optimizer.iterations == 2
        again.train_on_batch(x, y)
        assert again.optimizer.iterations == 3


def test_iterations_are_as_before_when_adding_a_layer_fails() -> None:
    x, y = classification(64)
    model, optimizer = classifier(), fp.SGD(0.01)
    model.compile(optimizer, fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, batch_size=16, verbose=0)
    optimizer.learning_rate = 1e38
    with pytest.raises(ValueError, match="learning_rate times learning_rate_multiplier must be finite in float32"):
        model.add(fp.Dense(3, learning_rate_multiplier=100))
    assert optimizer.iterations == int(model.get_state()["counters/iterations"]) == 4
    assert optimizer.learning_rate == 1e38


def test_a_class_is_not_an_optimizer() -> None:
    with pytest.raises(TypeError, match=r"received the class SGD; write SGD\(\)"):
        fp.Sequential([fp.Dense(1)]).compile(fp.SGD, "mse")  # type: ignore[arg-type]

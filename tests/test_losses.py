"""Losses and metrics as objects: values by hand, weights, errors, agreement with the accumulated ones."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from api_examples import MyMSE

import fastperceptron as fp

L = fp.losses
pytestmark = pytest.mark.usefixtures("backend")


def softplus(v: float) -> float:
    return max(v, 0) + math.log1p(math.exp(-abs(v)))


@pytest.mark.parametrize(
    ("loss", "target", "prediction", "expected"),
    [
        (L.MeanSquaredError(), [[1.0, 2.0]], [[2.0, 4.0]], 2.5),
        (L.MeanAbsoluteError(), [[1.0, 2.0]], [[2.0, 4.0]], 1.5),
        (L.Huber(1.0), [[0.0, 0.0]], [[0.5, 3.0]], (0.125 + 2.5) / 2),
        (L.BinaryCrossentropy(), [[1.0, 0.0]], [[0.8, 0.4]], -(math.log(0.8) + math.log(0.6)) / 2),
        (L.BinaryCrossentropy(True), [[1.0, 0.0]], [[2.0, -700.0]], (softplus(-2.0) + softplus(-700.0)) / 2),
        (L.CategoricalCrossentropy(), [[0.0, 1.0]], [[0.3, 0.7]], -math.log(0.7)),
        (L.CategoricalCrossentropy(True), [[0.5, 0.5]], [[0.0, math.log(3)]], -(math.log(0.25) + math.log(0.75)) / 2),
        (L.SparseCategoricalCrossentropy(), [1], [[0.3, 0.7]], -math.log(0.7)),
        (L.SparseCategoricalCrossentropy(True), [0], [[1000.0, 1001.0]], math.log1p(math.e)),
        (L.Hinge(), [[1.0, -1.0]], [[0.25, 2.0]], (0.75 + 3) / 2),
        (L.Perceptron(), [[1.0, 0.0]], [[-0.25, 2.0]], (0.25 + 2) / 2),
    ],
    ids=lambda value: value.name if isinstance(value, fp.Loss) else "",
)
def test_by_hand(loss: Any, target: Any, prediction: Any, expected: float) -> None:
    assert loss(target, prediction) == pytest.approx(expected, rel=1e-12)
    losses, dy = loss.value_and_grad(
        np.asarray(target) if loss.takes_labels else np.array(target, float), np.array(prediction), np.array([2.0])
    )
    assert losses == pytest.approx([expected], rel=1e-12)
    numeric = []
    for j in range(2):
        moved = [np.array(prediction), np.array(prediction)]
        moved[0][0, j] += 1e-5
        moved[1][0, j] -= 1e-5
        numeric.append(2.0 * (loss(target, moved[0]) - loss(target, moved[1])) / 2e-5)
    np.testing.assert_allclose(dy[0], numeric, rtol=1e-6, atol=1e-8)


def test_weighted_cost_divides_by_rows() -> None:
    assert L.MeanSquaredError()([1.0, 2.0], [2.0, 4.0], sample_weight=[1.0, 3.0]) == (1 * 1 + 3 * 4) / 2


def test_names() -> None:
    for name in ("mse", "mae", "huber", "binary_crossentropy", "categorical_crossentropy", "hinge", "perceptron"):
        assert isinstance(L.get(name), fp.Loss)
    assert L.get("mse").native() == ("mean_squared_error", 0.0)
    with pytest.raises(ValueError, match="received 'msee'"):
        L.get("msee")
    with pytest.raises(TypeError, match="received int"):
        L.get(3)


def test_errors() -> None:
    with pytest.raises(fp.ShapeError, match=r"y_true must have as many rows as there are samples, 2; received 3"):
        L.MeanSquaredError()([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(ValueError, match=r"labels from 0 to 1.*received 2 in row 1"):
        L.SparseCategoricalCrossentropy()([0, 2], [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match=r"binary_crossentropy: y_true must lie in \[0, 1\]; received 2.0 in row 1"):
        L.BinaryCrossentropy()([0, 2], [0.5, 0.5])
    for wrong in (-1.0, 2.0):
        with pytest.raises(ValueError, match=rf"must lie in \[0, 1\]; received {wrong} in row 1"):
            L.BinaryCrossentropy()([math.nan, wrong], [0.5, 0.5])
    with pytest.raises(
        ValueError, match=r"categorical_crossentropy: y_true must be at least 0; received -1.0 in row 0"
    ):
        L.CategoricalCrossentropy().per_sample([[-1, 1]], [[0.5, 0.5]])
    with pytest.raises(fp.DTypeError, match="real numbers"):
        L.MeanSquaredError()(["a"], [1.0])
    with pytest.raises(ValueError, match="at least one sample"):
        L.MeanSquaredError()(np.zeros((0, 1)), np.zeros((0, 1)))
    assert L.BinaryCrossentropy().per_sample(np.zeros((0, 1)), np.zeros((0, 1))).shape == (0,)
    with pytest.raises(ValueError, match="delta must be a positive number; received 0"):
        L.Huber(0)


@pytest.mark.parametrize(("from_logits", "accuracy"), [(False, 0.25), (True, 0.75)])
def test_from_logits_yes_is_above_zero(backend: str, from_logits: bool, accuracy: float) -> None:
    model = fp.Sequential([fp.Input((1,)), fp.Activation("linear")], backend=backend)
    model.compile("sgd", L.BinaryCrossentropy(from_logits=from_logits), metrics=["accuracy"])
    assert model.evaluate([[0.25], [0.375], [0.125], [0.25]], [1, 1, 0, 1], verbose=0)[1] == accuracy


def test_a_loss_of_ones_own() -> None:
    assert MyMSE()([1.0, 2.0], [2.0, 4.0]) == 2.5
    assert MyMSE().per_sample([[1.0], [2.0]], [[2.0], [4.0]]).tolist() == [1.0, 4.0]

    class Columns(MyMSE):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            return (y_pred - y_true) ** 2, y_pred

    class Kept(MyMSE):
        losses = np.zeros(2)

        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            self.losses[...] = super().value_and_grad(y_true, y_pred, weights)[0]
            return self.losses, y_pred

    with pytest.raises(fp.ShapeError, match=r"value_and_grad: losses must have shape \(2,\); received \(2, 1\)"):
        Columns()([1.0, 2.0], [2.0, 4.0])
    first, second = (Kept().per_sample([1.0, 2.0], y).tolist for y in ([2.0, 4.0], [1.0, 2.0]))
    assert (first(), second()) == ([1.0, 4.0], [0.0, 0.0])


@pytest.mark.parametrize(
    ("metric", "loss", "width"),
    [
        ("accuracy", "binary_crossentropy", 1),
        ("accuracy", "hinge", 2),
        ("accuracy", "categorical_crossentropy", 3),
        ("accuracy", "sparse_categorical_crossentropy", 3),
        ("mse", "mse", 2),
        ("mae", "mse", 2),
        ("r2", "mse", 2),
        (fp.metrics.BinaryAccuracy(0.3), "mse", 2),
    ],
    ids=str,
)
def test_metrics_accumulated_natively_equal_those_in_python(metric: Any, loss: str, width: int) -> None:
    rng = np.random.default_rng(8)
    x, weights = rng.normal(size=(37, 4)), rng.random(37)
    model = fp.Sequential([fp.Input((4,)), fp.Dense(width, "sigmoid")], seed=1, dtype="float64")
    model.compile("sgd", loss, metrics=[metric])
    y: Any = rng.random((37, width)) > 0.5
    if loss == "sparse_categorical_crossentropy":
        y = rng.integers(0, width, 37)
    chosen = fp.metrics.get(metric, L.get(loss), width)
    got = model.evaluate(x, y, batch_size=8, sample_weight=weights, return_dict=True)
    chosen.reset_state()
    chosen.update_state(y, model.predict(x), weights)
    assert got[chosen.name] == pytest.approx(chosen.result(), rel=1e-12)


@pytest.mark.parametrize(
    ("metric", "target", "expected"),
    [
        (fp.metrics.BinaryAccuracy(0.1), 1.0, 1.0),  # float32's 0.1 is above 0.1
        (fp.metrics.BinaryAccuracy(), 0.5 + 1e-9, 1.0),  # and this target is 0.5
        (fp.metrics.MeanSquaredError(), 0.1, 0.0),
        (fp.metrics.MeanAbsoluteError(), 0.1, 0.0),
        (fp.metrics.R2Score(), 0.1, 1.0),
    ],
    ids=str,
)
def test_metrics_in_python_round_as_a_float32_model_does(metric: Any, target: float, expected: float) -> None:
    kernel = np.array([[1.0]])
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1, use_bias=False, kernel_initializer=kernel)])
    model.compile("sgd", "mse", metrics=[metric])
    x, y = np.full((2, 1), 0.1), np.full((2, 1), target)
    assert model.evaluate(x, y)[1] == expected
    metric.reset_state()
    metric.update_state(y, model.predict(x))
    assert metric.result() == expected


def test_no_rows_add_nothing_to_a_metric() -> None:
    none = np.ones((0, 1))
    for metric in (fp.metrics.R2Score(), fp.metrics.MeanAbsoluteError()):
        metric.update_state(none, none)
        assert math.isnan(metric.result())
        metric.update_state([[1.0], [2.0]], [[1.0], [2.5]])
        before = metric.result()
        metric.update_state(none, none)
        assert metric.result() == before


def test_a_batch_that_does_not_fit_adds_nothing() -> None:
    r2 = fp.metrics.R2Score()
    r2.update_state([1.0, 2.0], [1.0, 2.5])
    before = r2.result()
    with pytest.raises(
        fp.ShapeError, match="r2_score: sample_weight must have as many rows as there are samples, 2; received 1"
    ):
        r2.update_state([9.0, 9.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="r2_score: sample_weight must be finite; received nan in row 1"):
        r2.update_state([9.0, 9.0], [1.0, 2.0], [1.0, math.nan])
    with pytest.raises(fp.DTypeError, match="r2_score: sample_weight must hold real numbers"):
        r2.update_state([9.0, 9.0], [1.0, 2.0], ["a", "b"])
    with pytest.raises(fp.ShapeError, match=r"r2_score: y_pred must have shape \(n, 1\) again; received \(1, 2\)"):
        r2.update_state([[9.0, 9.0]], [[1.0, 2.0]])
    with pytest.raises(fp.ShapeError, match=r"r2_score: y_pred must have shape \(n, out\); received \(1, 2, 2\)"):
        r2.update_state(np.ones((1, 2, 2)), np.ones((1, 2, 2)))
    assert r2.result() == before


def test_r2_by_hand() -> None:
    r2 = fp.metrics.R2Score()
    assert math.isnan(r2.result())
    r2.update_state([1.0, 2.0], [1.0, 2.5])
    r2.update_state([3.0], [3.0])
    assert r2.result() == pytest.approx(1 - 0.25 / 2)
    r2.reset_state()
    r2.update_state([2.0, 2.0], [2.0, 2.0])
    assert r2.result() == 1.0


def test_r2_of_targets_far_from_zero() -> None:
    """Squares of 1e12 lose what differs by 1."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    y = 1e12 + np.array([0.0, 1.0, 2.0, 4.0])
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1)], dtype="float64")
    model.set_weights([np.ones((1, 1)), np.array([1e12])])
    model.compile("sgd", "mse", metrics=["r2"])
    wanted = 1 - 1 / np.sum((y - y.mean()) ** 2)
    assert model.evaluate(x, y, batch_size=2)[1] == pytest.approx(wanted, rel=1e-9)
    r2 = fp.metrics.R2Score()
    for at in (0, 2):
        r2.update_state(y[at : at + 2], model.predict(x)[at : at + 2])
    assert r2.result() == pytest.approx(wanted, rel=1e-9)
    # The first rows count for nothing, and those that do are equal.
    assert model.evaluate(x[:2], y[:2], sample_weight=[0.0, 1.0], batch_size=1)[1] == 1


@pytest.mark.parametrize(
    ("loss", "threshold"),
    [(L.BinaryCrossentropy(), 0.5), (L.BinaryCrossentropy(True), 0.0), (L.Hinge(), 0.0), (L.Perceptron(), 0.0)],
)
def test_accuracy_knows_logits_from_probabilities(loss: Any, threshold: float) -> None:
    metric = fp.metrics.get("accuracy", loss, 1)
    assert metric.native() == ("binary_accuracy", threshold)
    assert metric.name == "accuracy"


def test_metric_errors() -> None:
    model = fp.Sequential([fp.Input((2,)), fp.Dense(2)])
    with pytest.raises(ValueError, match="mse needs targets as wide as the output"):
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["mse"])
    with pytest.raises(ValueError, match="names must differ; received mae"):
        model.compile("sgd", "mse", metrics=["mae", "mae"])
    with pytest.raises(ValueError, match="received 'f1'"):
        model.compile("sgd", "mse", metrics="f1")
    for name in (3, ""):
        with pytest.raises(ValueError, match="BinaryAccuracy: name must be text; received"):
            fp.metrics.BinaryAccuracy(name=name)  # type: ignore[arg-type]
    assert model.loss is None


def test_unknown_arguments_are_refused_and_repr_shows_the_known() -> None:
    for make in (
        lambda: fp.losses.MeanSquaredError(reduction="sum"),  # type: ignore[call-arg]
        lambda: fp.initializers.Zeros(foo=1),  # type: ignore[call-arg]
        lambda: fp.losses.Hinge(1),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError, match="argument"):
            make()
    huber, crossentropy = fp.losses.Huber(delta=2.0), fp.losses.BinaryCrossentropy(from_logits=True)
    for loss, name, value in ((huber, "delta", 3.0), (crossentropy, "from_logits", False)):
        with pytest.raises(AttributeError, match=f"{name} cannot change"):
            setattr(loss, name, value)
    assert repr(huber) == "Huber(delta=2.0)"
    assert repr(fp.SGD(0.1)) == "SGD(learning_rate=0.1, momentum=0.0, nesterov=False)"
    assert list(inspect.signature(fp.SGD).parameters) == ["learning_rate", "momentum", "nesterov"]
    assert list(inspect.signature(fp.losses.MeanSquaredError()).parameters) == ["y_true", "y_pred", "sample_weight"]


def test_names_are_found_however_they_are_written() -> None:
    for name in ("MSE", "MeanSquaredError", "mean-squared-error", "mean_squared_error"):
        assert isinstance(fp.losses.get(name), fp.losses.MeanSquaredError)
    assert isinstance(fp.initializers.get("GlorotUniform"), fp.initializers.GlorotUniform)
    assert isinstance(fp.initializers.get("constant"), fp.initializers.Constant)
    assert fp.activations.get("LeakyReLU") == fp.activations.leaky_relu
    with pytest.raises(ValueError, match=r"loss: expected one of .*; received 'mean'"):
        fp.losses.get("mean")


def test_arguments_nobody_knows_and_flags_that_are_none() -> None:
    with pytest.raises(TypeError, match="MeanSquaredError: expected no arguments; received 3, reduction='sum'"):
        fp.losses.MeanSquaredError(3, reduction="sum")
    with pytest.raises(TypeError, match="BinaryCrossentropy: from_logits must be True or False; received 'no'"):
        fp.losses.BinaryCrossentropy(from_logits="no")


def test_the_threshold_of_an_accuracy() -> None:
    metric = fp.metrics.BinaryAccuracy(np.float32(0.5))
    metric.threshold = 0.25  # as long as no model has it
    metric.update_state([1.0, 1.0], [0.3, 0.2])
    assert metric.result() == 0.5
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1)])
    model.compile("sgd", "mse", metrics=[metric])
    with pytest.raises(AttributeError, match="BinaryAccuracy: threshold cannot change once a model has it"):
        metric.threshold = 0.5
    for value in (np.nan, np.float32(np.inf), "0.5"):
        with pytest.raises((TypeError, ValueError), match="BinaryAccuracy: threshold must be"):
            fp.metrics.BinaryAccuracy(value)  # type: ignore[arg-type]


class InPlace(fp.Metric):
    """Writes to what it is given."""

    def reset_state(self) -> None:
        self.total = 0.0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        y_true -= y_pred
        y_pred[...] = 7
        sample_weight *= 2
        self.total += float((y_true**2).sum())

    def result(self) -> float:
        return self.total


class MSEInPlace(MyMSE):
    def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        found = super().value_and_grad(y_true.copy(), y_pred.copy(), weights.copy())
        y_true[...] = y_pred[...] = 5
        weights[...] = 0
        return found


@pytest.mark.parametrize("loss", ["mse", "python"])
def test_what_losses_and_metrics_are_given_is_theirs(backend: str, loss: str) -> None:
    x, y, weights = np.ones((4, 2), np.float32), np.full((4, 1), 2.0, np.float32), np.ones(4)
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1)], seed=0, backend=backend)
    model.compile(
        "sgd", MSEInPlace() if loss == "python" else "mse", metrics=[InPlace("first"), InPlace("second"), "mse"]
    )
    found = model.evaluate(x, y, sample_weight=weights)
    assert found[1] == found[2] == pytest.approx(4 * found[3])
    assert found[0] == pytest.approx(found[3])
    assert model.evaluate(x, y, sample_weight=weights) == found
    assert model.trace(x, y, sample_weight=weights).cost == pytest.approx(found[0])
    outputs = model.predict(x)
    assert MSEInPlace()(y, outputs) == pytest.approx(found[0])
    assert outputs.tobytes() == model.predict(x).tobytes()
    alike = fp.Sequential([fp.Input((2,)), fp.Dense(1)], seed=0, backend=backend)
    alike.compile("sgd", MyMSE())
    for one in (model, alike):
        one.fit(x, y, sample_weight=weights, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), alike.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert (y == 2).all()
    assert (weights == 1).all()


def test_numbers_must_be_finite_in_the_models_dtype(backend: str) -> None:
    x, y = np.ones((4, 2), np.float32), np.array([0, 1, 0, 1])
    model = fp.Sequential([fp.Input((2,)), fp.Dense(2)], seed=0, backend=backend)
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, tall = model.get_state(), [1.0, 1e30, 1.0, 1.0]
    weighted: tuple[dict[str, Any], ...] = (
        {"sample_weight": [1.0, 1e39, 1.0, 1.0]},
        {"class_weight": {1: 1e300}},
        {"sample_weight": tall, "class_weight": {1: 1e30}},
    )
    for weights in weighted:
        with pytest.raises(ValueError, match=r"_weight must be finite in float32; received 1.*e[+].* in row 1"):
            model.fit(x, y, verbose=0, **weights)
    with pytest.raises(ValueError, match="loss_weights must be finite in float32"):
        model.compile("sgd", model.loss, loss_weights=[1e300])
    with pytest.raises(ValueError, match="Huber: delta must be positive in float32; received 1e-60"):
        model.compile("sgd", fp.losses.Huber(1e-60))
    assert all(before[name].tobytes() == value.tobytes() for name, value in model.get_state().items())


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ("high", TypeError, "constant.result: the value must hold real numbers; received dtype <U4"),
        (None, TypeError, "constant.result: the value must hold real numbers; received dtype object"),
        ([1.0, 2.0], fp.ShapeError, r"constant.result: the value must have shape \(\); received \(2,\)"),
    ],
)
def test_what_a_metric_comes_to_is_a_number(value: Any, error: type[Exception], message: str) -> None:
    class Constant(fp.Metric):
        def reset_state(self) -> None: ...

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None: ...

        def result(self) -> Any:
            return value

    model = fp.Sequential([fp.Input((1,)), fp.Dense(1)])
    model.compile("sgd", "mse", metrics=[Constant()])
    with pytest.raises(error, match=message):
        model.evaluate(np.ones((2, 1)), np.ones(2))

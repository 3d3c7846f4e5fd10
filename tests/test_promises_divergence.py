"""Training that diverges says so: a warning that names the epoch, and TerminateOnNaN."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from pure import BACKENDS, native_only

import fastperceptron as fp

losses = fp.losses
#: Each loss, with what its output layer does.
CASES: dict[str, tuple[Any, str]] = {
    "mse": (losses.MeanSquaredError(), "linear"),
    "mae": (losses.MeanAbsoluteError(), "linear"),
    "huber": (losses.Huber(), "linear"),
    "binary": (losses.BinaryCrossentropy(), "sigmoid"),
    "binary logits": (losses.BinaryCrossentropy(from_logits=True), "linear"),
    "categorical": (losses.CategoricalCrossentropy(), "softmax"),
    "categorical logits": (losses.CategoricalCrossentropy(from_logits=True), "linear"),
    "sparse": (losses.SparseCategoricalCrossentropy(), "softmax"),
    "sparse logits": (losses.SparseCategoricalCrossentropy(from_logits=True), "linear"),
    "hinge": (losses.Hinge(), "linear"),
    "perceptron": (losses.Perceptron(), "linear"),
}
each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_case = pytest.mark.parametrize("case", CASES)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def case_of(case: str, dtype: str, backend: str, rate: float, momentum: float = 0.0) -> tuple[fp.Sequential, Any, Any]:
    loss, last = CASES[case]
    rng = np.random.default_rng(4)
    x = rng.standard_normal((96, 6))
    labels = rng.integers(0, 3, 96)
    y = labels if loss.takes_labels else np.eye(3)[labels]
    layers = [fp.Dense(16, activation="relu"), fp.Dense(3, activation=last)]
    model = fp.Sequential(layers, seed=2, dtype=dtype, backend=backend)
    model.compile(fp.SGD(rate, momentum=momentum), loss)
    return model, x, y


def fit(model: fp.Sequential, x: Any, y: Any, **given: Any) -> tuple[dict[str, list[float]], list[str]]:
    """The history, and the divergence warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = model.fit(x, y, batch_size=16, shuffle=False, verbose=0, **given).history
    assert all(issubclass(w.category, fp.DivergenceWarning) for w in caught), [str(w.message) for w in caught]
    return history, [str(w.message) for w in caught]


@each_backend
@each_dtype
@each_case
def test_absurd_learning_rates(case: str, dtype: str, backend: str) -> None:
    """Whatever happens to the numbers, either all stay finite or it is said, once, with the first epoch that is not."""
    diverged = 0
    for rate in (1e4, 1e20, 1e37, 1e150, 1e300):
        if rate > 1e38 and dtype == "float32":
            continue
        model, x, y = case_of(case, dtype, backend, rate)
        history, messages = fit(model, x, y, epochs=6)
        finite = np.isfinite(history["loss"])
        weights_finite = all(np.isfinite(weight).all() for weight in model.get_weights())
        if finite.all() and weights_finite:
            assert messages == []
            continue
        diverged += 1
        assert len(messages) == 1
        first = 6 if finite.all() else int(np.argmin(finite)) + 1
        assert f"epoch {first}" in messages[0]
        assert "diverged" in messages[0]
    if CASES[case][1] == "linear":  # bounded outputs may saturate instead
        assert diverged > 0


@each_backend
def test_the_epoch_is_the_first(backend: str) -> None:
    """A rate a little too large makes a linear neuron's error grow by a factor per step: overflow takes some epochs."""
    _, x, y = case_of("mse", "float32", backend, 0.1)
    model = fp.Sequential([fp.Dense(3)], seed=2, backend=backend)
    model.compile(fp.SGD(4.0), "mse")
    history, messages = fit(model, x, y, epochs=40)
    finite = np.isfinite(history["loss"])
    first = int(np.argmin(finite)) + 1
    assert 1 < first < 40
    assert not finite[first - 1 :].any()
    assert len(messages) == 1
    assert f"epoch {first};" in messages[0]


@each_backend
@each_dtype
def test_terminate_on_nan_stops(dtype: str, backend: str) -> None:
    rate = 1e20 if dtype == "float32" else 1e150
    model, x, y = case_of("mse", dtype, backend, rate)
    batches: list[float] = []
    watch = fp.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(logs["loss"]))
    history, messages = fit(model, x, y, epochs=50, callbacks=[watch, fp.TerminateOnNaN()])
    assert len(history["loss"]) == 1
    assert len(messages) == 1
    assert "epoch 1" in messages[0]
    assert not np.isfinite(batches[-1])
    assert all(np.isfinite(loss) for loss in batches[:-1]), "the first cost that is not finite ends it"
    assert 1 < len(batches) < 6


@each_backend
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(
    "case", ["mse", "binary", "categorical", "sparse logits", "hinge", "perceptron", "mae", "huber"]
)
def test_rows_that_are_not_finite_are_not_trained_on_in_silence(case: str, bad: float, backend: str) -> None:
    model, x, y = case_of(case, "float32", backend, 0.1)
    x[50, 2] = bad
    _, messages = fit(model, x, y, epochs=2)
    assert len(messages) == 1
    assert "epoch 1" in messages[0]


@each_backend
def test_validation_that_is_not_finite_is_seen(backend: str) -> None:
    """The weights may be fine until an input of the validation data overflows; its loss is in the history."""
    model, x, y = case_of("mse", "float32", backend, 0.01)
    history, messages = fit(model, x, y, epochs=2, validation_data=(x * 1e38, y))
    assert not np.isfinite(history["val_loss"]).any()
    assert np.isfinite(history["loss"]).all()
    assert messages == []


@each_backend
def test_sound_training_says_nothing(backend: str) -> None:
    for case in CASES:
        model, x, y = case_of(case, "float32", backend, 0.05, momentum=0.9)
        history, messages = fit(model, x, y, epochs=10)
        assert messages == [], case
        assert np.isfinite(history["loss"]).all()


@each_backend
def test_the_warning_points_at_the_callers_line(backend: str) -> None:
    model, x, y = case_of("mse", "float32", backend, 1e20)
    with pytest.warns(fp.DivergenceWarning) as caught:
        model.fit(x, y, verbose=0)
    assert caught[0].filename == __file__


@each_backend
def test_a_single_step_warns_too(backend: str) -> None:
    model, x, y = case_of("mse", "float32", backend, 1e20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        costs = [model.train_on_batch(x, y) for _ in range(6)]
    assert len(caught) == int((~np.isfinite(np.array(costs)[:, 0] if np.ndim(costs) > 1 else costs)).sum()) > 0
    assert "train_on_batch: training diverged" in str(caught[0].message)


@native_only
def test_nothing_remains_of_what_was_not_finite() -> None:
    """Weights are padded with zeros, elsewhere after batches of another size. Sums of blocks, NaN among them, may have
    been there."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 4096, 100)).astype(np.float32)
    spoilt = x.copy()
    spoilt[0, 0] = np.nan
    model = fp.Sequential([fp.Dense(100) for _ in range(4)], seed=0)
    model.build((100,))
    model.compile(fp.SGD(1e-3), "mse")
    weights = model.get_weights()
    fp.set_num_threads(2)
    try:
        with pytest.warns(fp.DivergenceWarning):
            model.fit(spoilt, y, batch_size=4096, epochs=3, verbose=0)
        model.set_weights(weights)
        for batch in (32, 64, 96, 128):
            model.fit(x[:1024], y[:1024], batch_size=batch, epochs=10, verbose=0)
            model.fit(x, y, batch_size=4096, epochs=2, verbose=0)
            assert all(np.isfinite(w).all() for w in model.get_weights())
            assert model._network.is_finite()  # pads included
    finally:
        fp.set_num_threads(0)

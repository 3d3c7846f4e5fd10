"""The examples of the lecture notes that this library grew from, worked by hand beside it."""

from __future__ import annotations

import numpy as np
import pytest

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


@pytest.mark.parametrize(
    ("widths", "count"), [((4, 3, 2, 1), 26), ((3, 3, 2, 1), 23), ((2, 2, 1), 9), ((4, 1), 5)], ids=str
)
def test_parameter_counts(widths: tuple[int, ...], count: int) -> None:
    model = fp.Sequential([fp.Input((widths[0],)), *(fp.Dense(units) for units in widths[1:])])
    assert model.count_params() == count


def test_forward_pass_element_by_element() -> None:
    # 4-3-2-1, as in the notes: each neuron is the sum of its weighted inputs plus a bias, then the activation.
    rng = np.random.default_rng(1)
    model = fp.Sequential(
        [fp.Input((4,)), *(fp.Dense(units, activation="sigmoid") for units in (3, 2, 1))], dtype="float64"
    )
    model.set_weights([rng.normal(size=weight.shape) for weight in model.weights])
    x = [8.1, 1.1, 0.7, 0.9]
    values = x
    for layer in model.layers:
        w, b = layer.get_weights()
        outputs = []
        for j in range(w.shape[1]):
            z = b[j]
            for i in range(w.shape[0]):
                z += values[i] * w[i, j]
            outputs.append(1 / (1 + np.exp(-z)))
        values = outputs
    np.testing.assert_allclose(model.predict([x])[0], values, rtol=1e-13)


def test_loss_is_of_one_sample_and_cost_of_all() -> None:
    # Heights and weights with BMI 22, 23, 24 predicted as 21, 22, 22: losses are per row, the cost is their mean.
    loss = fp.losses.MeanAbsoluteError()
    np.testing.assert_array_equal(loss.per_sample([22.0, 23, 24], [21.0, 22, 22]), [1, 1, 2])
    assert loss([22.0, 23, 24], [21.0, 22, 22]) == pytest.approx(4 / 3, rel=1e-15)
    squared = fp.losses.MeanSquaredError()
    assert squared.per_sample([21.0], [24.0]).tolist() == [9.0]  # the notes' (21 - 24)^2


def test_one_step_by_hand() -> None:
    # y = w x + b with w = 2, b = 1, x = 3: y = 7; L = (5 - 7)^2, dL/dw = 2 * 2 * 3 = 12, dL/db = 4; eta = 0.01.
    model = fp.Sequential(
        [fp.Input((1,)), fp.Dense(1, kernel_initializer=np.array([[2.0]]), bias_initializer=np.array([1.0]))],
        dtype="float64",
    )
    model.compile(fp.SGD(0.01), "mse")
    assert model.train_on_batch([[3.0]], [[5.0]]) == 4.0
    w, b = model.get_weights()
    np.testing.assert_allclose(w, [[2.0 - 0.01 * 12]], rtol=1e-15)
    np.testing.assert_allclose(b, [1.0 - 0.01 * 4], rtol=1e-15)


def test_gradient_through_two_paths_is_the_sum_of_both() -> None:
    # 1-1-2-1: the first neuron's output o reaches the result through h1 and h2.
    model = fp.Sequential(
        [fp.Input((1,)), *(fp.Dense(units, "sigmoid") for units in (1, 2)), fp.Dense(1)], dtype="float64", seed=5
    )
    model.compile("sgd", "mse")
    trace = model.trace([[0.7]], [[0.3]])
    o, h = trace["dense"]["y"][0, 0], trace["dense_1"]["y"][0]
    w_h, w_y = trace["dense_1"]["w"][0], trace["dense_2"]["w"][:, 0]
    error = 2 * (trace["dense_2"]["y"][0, 0] - 0.3)
    paths = [error * w_y[k] * h[k] * (1 - h[k]) * w_h[k] for k in range(2)]
    assert abs(paths[0]) > 1e-9
    assert abs(paths[1]) > 1e-9
    np.testing.assert_allclose(trace["dense"]["dy"][0, 0], sum(paths), rtol=1e-12)
    np.testing.assert_allclose(trace["dense", "dw"][0, 0], sum(paths) * o * (1 - o) * 0.7, rtol=1e-12)


def test_linear_neuron_reaches_least_squares() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 4))
    y = x @ [1.0, -2.0, 0.5, 3.0] + 0.7 + rng.normal(size=60)
    model = fp.Sequential([fp.Input((4,)), fp.Dense(1)], seed=0, dtype="float64")
    model.compile(fp.SGD(0.2), "mse")
    model.fit(x, y, batch_size=60, epochs=500, verbose=0)
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(60)]), y, rcond=None)[0]
    w, b = model.get_weights()
    np.testing.assert_allclose(np.append(w[:, 0], b), exact, rtol=1e-9)


def test_sigmoid_neuron_reaches_logistic_regression() -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(200, 2))
    y = (rng.random(200) < 1 / (1 + np.exp(-(x @ [1.5, -1.0] + 0.3)))).astype(float)
    # Newton's method on the same likelihood is the oracle.
    design, beta = np.column_stack([x, np.ones(200)]), np.zeros(3)
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ beta))
        beta -= np.linalg.solve((design.T * (p * (1 - p))) @ design, design.T @ (p - y))
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1, activation="sigmoid")], seed=0, dtype="float64")
    model.compile(fp.SGD(1.0, momentum=0.9), "binary_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=200, epochs=600, verbose=0)
    w, b = model.get_weights()
    np.testing.assert_allclose(np.append(w[:, 0], b), beta, rtol=1e-9)


def test_perceptron_loss_is_rosenblatts_rule() -> None:
    # One row at a time: a row on the wrong side (or on the line) adds eta t x to w and eta t to b.
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50, 3))
    t = np.where(x @ [1.0, -1.0, 2.0] > 0, 1.0, -1.0)
    model = fp.Sequential([fp.Input((3,)), fp.Dense(1, kernel_initializer="zeros")], dtype="float64")
    model.compile(fp.SGD(1.0), "perceptron", metrics=["accuracy"])
    model.fit(x, t, batch_size=1, epochs=20, shuffle=False, verbose=0)
    w, b = np.zeros(3), 0.0
    for _ in range(20):
        for row, sign in zip(x, t, strict=True):
            if sign * (row @ w + b) <= 0:
                w, b = w + sign * row, b + sign
    np.testing.assert_allclose(model.get_weights()[0][:, 0], w, rtol=1e-12)
    np.testing.assert_allclose(model.get_weights()[1], [b], rtol=1e-12)
    assert model.evaluate(x, t)[1] == 1.0


def test_gradient_descent_on_a_paraboloid() -> None:
    point = np.array([3.0, -4.0])
    optimizer = fp.SGD(learning_rate=0.1)
    for _ in range(300):
        x, y = point
        optimizer.apply([point], [np.array([2 * x, 2 * y])])
    assert np.abs(point).max() < 1e-20


def test_bmi_table_trains_on_two_two_one() -> None:
    x, y = fp.datasets.load_bmi()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model = fp.Sequential([fp.Input((2,)), fp.Dense(2, activation="tanh"), fp.Dense(1)], seed=2)
    model.compile(fp.SGD(0.02, momentum=0.9), "mse")
    history = model.fit(x, y, batch_size=4, epochs=1000, verbose=0).history["loss"]
    assert history[0] > 100
    # The targets' variance is 2.2: the network explains most of it.
    assert history[-1] < 0.6

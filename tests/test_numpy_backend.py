"""The NumPy backend against the oracles of reference.py and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import parity
import pytest
import reference

from fastperceptron.backends import numpy as backend
from fastperceptron.backends.numpy_metrics import metric_add, metric_joined, metric_zeros
from fastperceptron.errors import ShapeError
from fastperceptron.program import ACTIVATIONS, LOSSES, NEEDS_Z, Parameter

DTYPES = (np.float32, np.float64)

# A sum of k products loses about sqrt(k) units in the last place; an elementwise function a few.
TOLERANCE = {np.float32: 4e-6, np.float64: 1e-14}


def small_sizes() -> list[tuple[int, int, int]]:
    """(n, in, out) with every awkward size in every place; the oracle is slow, so only one of the three is large."""
    sizes = {(n, 3, 2) for n in parity.SIZES} | {(2, k, 3) for k in parity.SIZES} | {(3, 2, m) for m in parity.SIZES}
    return sorted(sizes | {(8, 9, 7), (15, 17, 16), (33, 31, 9)})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", small_sizes(), ids=str)
def test_dense(size: tuple[int, int, int], dtype: type) -> None:
    n, inputs, outputs = size
    rng = np.random.default_rng(inputs)
    x, w = rng.normal(size=(n, inputs)).astype(dtype), rng.normal(size=(inputs, outputs)).astype(dtype)
    b, dz = rng.normal(size=outputs).astype(dtype), rng.normal(size=(n, outputs)).astype(dtype)
    cases = [
        (backend.dense_forward(x, w, b), reference.dense(x, w, b)),
        (backend.dense_forward(x, w, None), reference.dense(x, w, None)),
        (backend.dense_forward(x, w, b, "tanh"), reference.activate("tanh", 0, reference.dense(x, w, b))),
        (backend.dense_backward_input(dz, w), reference.product(dz, w.T)),
        (backend.dense_backward_weights(x, dz), reference.product(x.T, dz)),
        (backend.dense_backward_bias(dz), reference.column_sums(dz)),
    ]
    for result, expected in cases:
        assert result.dtype == dtype
        assert parity.difference(result, expected) < TOLERANCE[dtype]


def test_products_write_into_out() -> None:
    rng = np.random.default_rng(0)
    x, w, dz = rng.normal(size=(5, 3)), rng.normal(size=(3, 4)), rng.normal(size=(5, 4))
    y, dx, dw, db = np.empty((5, 4)), np.empty((5, 3)), np.empty((3, 4)), np.empty(4)
    assert backend.dense_forward(x, w, None, "relu", 0.0, y) is y
    assert backend.dense_backward_input(dz, w, dx) is dx
    assert backend.dense_backward_weights(x, dz, dw) is dw
    assert backend.dense_backward_bias(dz, db) is db
    np.testing.assert_allclose(y, np.maximum(x @ w, 0), rtol=1e-15)
    np.testing.assert_allclose(db, dz.sum(axis=0), rtol=1e-14)


# Ordinary values, both tails, and small ones of either sign.
POINTS = np.concatenate(
    [np.linspace(-6, 6, 97), [-37.0, -30.0, -20.0, -12.0, 12.0, 20.0, 30.0], [1e-3, -1e-3, 1e-8, -1e-8]]
)


@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_activation(name: str) -> None:
    alpha = parity.ALPHA.get(name, 0.0)
    z = POINTS[:, None]
    expected = reference.activate(name, alpha, z)
    y = backend.activation_forward(name, alpha, z)
    # Relative to each element: the tails count too. 1e-14 leaves room for the oracle's own rounding (z / sqrt 2 in
    # erfc costs z^2 / 2 units, hence the far tail of gelu is looser).
    np.testing.assert_allclose(y, expected, rtol=3e-13 if name == "gelu" else 1e-14, atol=1e-300)
    y32 = backend.activation_forward(name, alpha, z.astype(np.float32))
    assert y32.dtype == np.float32
    # float32 rounds the exponent's argument: z = -37 loses 37 units; below 1.2e-38 numbers are subnormal.
    expected32 = reference.activate(name, alpha, z.astype(np.float32))
    np.testing.assert_allclose(y32, expected32, rtol=2e-5, atol=1e-37)


@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_derivative(name: str) -> None:
    alpha = parity.ALPHA.get(name, 0.0)
    z = POINTS[:, None]
    dy = np.linspace(0.5, 2, len(z))[:, None]
    saved = z if name in NEEDS_Z else backend.activation_forward(name, alpha, z)
    expected = reference.activate_backward(name, alpha, dy, z)
    # Derivatives taken from the output y cancel near saturation (1 - y^2, y + alpha): an absolute error of a few units.
    np.testing.assert_allclose(backend.activation_backward(name, alpha, dy, saved), expected, rtol=1e-12, atol=5e-15)
    z32, dy32 = z.astype(np.float32), dy.astype(np.float32)
    saved32 = z32 if name in NEEDS_Z else backend.activation_forward(name, alpha, z32)
    result = backend.activation_backward(name, alpha, dy32, saved32)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=3e-6)


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu", "mish", "softplus", "sigmoid"])
def test_derivative_keeps_the_negative_tail(name: str) -> None:
    z = np.linspace(-10 if name == "gelu_tanh" else -25, -5, 41)[:, None]  # gelu_tanh reaches 0 near -20
    saved = z if name in NEEDS_Z else backend.activation_forward(name, 0.0, z)
    expected = reference.activate_backward(name, 0.0, np.ones_like(z), z)
    np.testing.assert_allclose(backend.activation_backward(name, 0.0, np.ones_like(z), saved), expected, rtol=2e-12)


def test_normal_cdf_in_the_tail() -> None:
    """P. Gordon's continued fraction for the tail, evaluated far beyond convergence, as an independent oracle."""
    from fastperceptron.backends.numpy_activations import normal_cdf

    for a in (3.0, 5.0, 8.0, 13.0, 21.0, 36.0):  # squares are exact
        fraction = a
        for k in range(600, 0, -1):
            fraction = a + k / fraction
        expected = math.exp(-a * a / 2) / math.sqrt(2 * math.pi) / fraction
        assert float(normal_cdf(np.array([-a]))[0]) == pytest.approx(expected, rel=1e-14, abs=0)
        assert float(normal_cdf(np.array([a]))[0]) == pytest.approx(1 - expected, rel=1e-15, abs=0)
    assert normal_cdf(np.array([0.0, np.inf, -np.inf])).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_special_values(name: str, dtype: type) -> None:
    """NaN passes through, infinities reach the limit, huge arguments do not overflow, and nothing warns."""
    huge = float(np.finfo(dtype).max)
    if name == "softmax":
        z = np.array([[huge, -huge, 0.0], [np.nan, 0.0, 1.0]], dtype)
        y = backend.activation_forward(name, 0.0, z)
        assert y[0].tolist() == [1.0, 0.0, 0.0]
        assert np.isnan(y[1]).all()
        return
    alpha = parity.ALPHA.get(name, 0.0)
    z = np.array([np.nan, np.inf, -np.inf, huge, -huge], dtype)
    y = backend.activation_forward(name, alpha, z)
    assert np.isnan(y[0])
    assert not np.isnan(y[1:]).any()
    saturating = {"softsign", "sigmoid", "tanh", "step"}
    assert y[1] == (1.0 if name in saturating else np.inf)
    lower = {"linear": -np.inf, "leaky_relu": -np.inf, "elu": -alpha, "softsign": -1.0, "tanh": -1.0}
    lower["selu"] = -reference.SELU_SCALE * reference.SELU_ALPHA
    assert y[2] == pytest.approx(lower.get(name, 0.0))
    saved = z if name in NEEDS_Z else y
    dz = backend.activation_backward(name, alpha, np.ones(5, dtype), saved)
    assert not np.isnan(dz[1:]).any()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_in_place(name: str) -> None:
    rng = np.random.default_rng(0)
    z, dy = rng.normal(size=(9, 7)), rng.normal(size=(9, 7))
    alpha = parity.ALPHA.get(name, 0.0)
    y = backend.activation_forward(name, alpha, z)
    same = z.copy()
    assert backend.activation_forward(name, alpha, same, same) is same
    np.testing.assert_array_equal(same, y)
    saved = z if name in NEEDS_Z else y
    dz = backend.activation_backward(name, alpha, dy, saved)
    same = dy.copy()
    assert backend.activation_backward(name, alpha, same, saved, same) is same
    np.testing.assert_array_equal(same, dz)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 4), (4, 0)])
def test_activation_takes_any_shape(shape: tuple[int, ...]) -> None:
    z = np.ones(shape, np.float32)
    for name in ACTIVATIONS:
        if name == "softmax" and not shape:
            continue
        y = backend.activation_forward(name, 0.5, z)
        assert y.shape == shape
        assert y.dtype == np.float32
        assert backend.activation_backward(name, 0.5, z, z).shape == shape


@pytest.mark.parametrize("width", [1, 2, 10, 33])
def test_softmax(width: int) -> None:
    rng = np.random.default_rng(width)
    z, dy = 3 * rng.normal(size=(5, width)), rng.normal(size=(5, width))
    y = backend.activation_forward("softmax", 0.0, z)
    np.testing.assert_allclose(y, reference.activate("softmax", 0, z), rtol=1e-14)
    expected = reference.activate_backward("softmax", 0, dy, z)
    np.testing.assert_allclose(backend.activation_backward("softmax", 0.0, dy, y), expected, rtol=1e-12, atol=1e-15)


def test_softmax_of_large_logits() -> None:
    y = backend.activation_forward("softmax", 0.0, np.array([[1e4, 1e4 + 1]]))
    np.testing.assert_allclose(y, [[1 / (1 + math.e), math.e / (1 + math.e)]], rtol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LOSSES)
def test_loss(kind: str, dtype: type, weighted: bool) -> None:
    for n, width in ((0, 3), (1, 1), (7, 2), (9, 17), (33, 10)):
        rng = np.random.default_rng(n)
        t, p = parity.targets_for(kind, rng, n, width, dtype), parity.predictions_for(kind, rng, n, width, dtype)
        weights = rng.random(n).astype(dtype) if weighted else None
        losses = backend.loss_forward(kind, 0.7, t, p)
        dy = backend.loss_backward(kind, 0.7, t, p, weights, 0.25)
        assert losses.dtype == np.float64
        assert dy.dtype == dtype
        assert losses.shape == (n,)
        expected = np.array([reference.loss(kind, 0.7, t[i], p[i]) for i in range(n)])
        factors = [0.25 * (1.0 if weights is None else float(weights[i])) for i in range(n)]
        gradient = [
            [f * g for g in reference.loss_gradient(kind, 0.7, t[i], p[i])]
            for i, f in zip(range(n), factors, strict=True)
        ]
        assert parity.difference(losses, expected) < TOLERANCE[dtype]
        assert parity.difference(dy, np.array(gradient).reshape(n, width)) < TOLERANCE[dtype]


def test_losses_by_hand() -> None:
    p = np.array([[0.5, 2.0]])
    assert backend.loss_forward("mean_squared_error", 0, np.array([[1.0, 0.0]]), p)[0] == pytest.approx(2.125)
    assert backend.loss_forward("mean_absolute_error", 0, np.array([[1.0, 0.0]]), p)[0] == pytest.approx(1.25)
    assert backend.loss_forward("huber", 1.0, np.array([[1.0, 0.0]]), p)[0] == pytest.approx((0.125 + 1.5) / 2)
    assert backend.loss_forward("hinge", 0, np.array([[1.0, -1.0]]), p)[0] == pytest.approx((0.5 + 3.0) / 2)
    assert backend.loss_forward("perceptron", 0, np.array([[1.0, -1.0]]), p)[0] == pytest.approx(1.0)
    q = np.array([[0.25, 0.75]])
    assert backend.loss_forward("binary_cross_entropy", 0, np.array([[0.0, 1.0]]), q)[0] == pytest.approx(
        -math.log(0.75)
    )
    assert backend.loss_forward("sparse_categorical_cross_entropy", 0, np.array([0]), q)[0] == pytest.approx(
        math.log(4)
    )
    z = np.array([[0.0, math.log(3.0)]])
    kind = "sparse_categorical_cross_entropy_logits"
    assert backend.loss_forward(kind, 0, np.array([0]), z)[0] == pytest.approx(math.log(4))
    np.testing.assert_allclose(backend.loss_backward(kind, 0, np.array([0]), z, None, 1.0), [[-0.75, 0.75]])


def test_loss_kinks() -> None:
    zero = np.zeros((1, 1))
    assert backend.loss_backward("mean_absolute_error", 0, zero, zero, None, 1.0)[0, 0] == 0
    # Rosenblatt's rule learns from a prediction of exactly zero.
    assert backend.loss_backward("perceptron", 0, np.ones((1, 1)), zero, None, 1.0)[0, 0] == -1
    assert backend.loss_backward("perceptron", 0, -np.ones((1, 1)), zero, None, 1.0)[0, 0] == 1
    # Targets: above zero is +1, anything else -1.
    assert backend.loss_forward("hinge", 0, zero, zero + 2)[0] == 3
    # Nothing flows where a probability is clipped.
    for kind in ("binary_cross_entropy", "categorical_cross_entropy"):
        dy = backend.loss_backward(kind, 0, np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), None, 1.0)
        assert dy.tolist() == [[0.0, 0.0]]
        assert backend.loss_forward(kind, 0, np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))[0] == pytest.approx(
            -math.log(1e-7), rel=1e-6
        )


def test_cross_entropy_of_extreme_logits() -> None:
    z = np.array([[1e4, 0.0], [3.0e38, -3.0e38]], np.float32)
    kind = "sparse_categorical_cross_entropy_logits"
    assert backend.loss_forward(kind, 0, np.array([1, 0]), z).tolist() == [1e4, 0.0]
    assert backend.loss_backward(kind, 0, np.array([1, 0]), z, None, 1.0).tolist() == [[1.0, -1.0], [0.0, 0.0]]
    # The gap to the largest logit survives: 1e8 + log(2) would round it away in float32.
    assert backend.loss_forward(kind, 0, np.array([0]), np.array([[1e8, 1e8]], np.float32))[0] == pytest.approx(
        math.log(2)
    )
    bce = backend.loss_forward(
        "binary_cross_entropy_logits", 0, np.array([[1.0], [0.0]]), np.array([[800.0], [-800.0]])
    )
    assert bce.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [-1, 3])
@pytest.mark.parametrize("kind", [k for k in LOSSES if k.startswith("sparse_")])
def test_labels_out_of_range(kind: str, bad: int) -> None:
    p, labels = np.full((4, 3), 1 / 3), np.array([0, 2, bad, 1])
    with pytest.raises(ValueError, match=rf"loss_forward: labels must lie in \[0, 3\); received {bad} in row 2"):
        backend.loss_forward(kind, 0, labels, p)
    with pytest.raises(ValueError, match=rf"loss_backward: labels must lie in \[0, 3\); received {bad} in row 2"):
        backend.loss_backward(kind, 0, labels, p, None, 1.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum: float, nesterov: bool, dtype: type) -> None:
    rng = np.random.default_rng(0)
    w, g, v = (rng.normal(size=(5, 7)).astype(dtype) for _ in range(3))
    if not momentum:
        v[...] = 0
    expected_w, expected_v = reference.sgd(w, g, v, 0.1, momentum, nesterov)
    backend.sgd_update(w, g, v if momentum else None, 0.1, momentum, nesterov)
    np.testing.assert_allclose(w, expected_w, rtol=0, atol=TOLERANCE[dtype])
    if momentum:
        np.testing.assert_allclose(v, expected_v, rtol=0, atol=TOLERANCE[dtype])


def test_sgd_by_hand() -> None:
    w, v = np.array([1.0]), np.array([0.5])
    backend.sgd_update(w, np.array([2.0]), None, 0.25, 0.0, False)
    assert w[0] == 0.5
    backend.sgd_update(w, np.array([2.0]), v, 0.25, 0.5, False)  # v = 0.25 - 0.5
    assert (w[0], v[0]) == (0.25, -0.25)
    backend.sgd_update(w, np.array([2.0]), v, 0.25, 0.5, True)  # v = -0.125 - 0.5; w += -0.3125 - 0.5
    assert (w[0], v[0]) == (-0.5625, -0.625)


@pytest.mark.parametrize("width", [0, 1, 3, 4, 5, 17])
def test_dropout(width: int) -> None:
    x = np.arange(1.0, 6 * width + 1).reshape(6, width)
    key, step = 0xFEDCBA9876543210, 2**40 + 5
    y = backend.dropout_forward(x, 0.3, key, 17, step)
    np.testing.assert_allclose(y, reference.dropout(x, 0.3, key, 17, step), rtol=1e-15)


def test_a_word_at_the_threshold_is_kept() -> None:
    word = reference.philox_words(7, 16, 0, 1)[0]
    one = np.ones((1, 1))
    assert backend.dropout_forward(one, word / 2**32, 7, 16, 0)[0, 0] == pytest.approx(1 / (1 - word / 2**32))
    assert backend.dropout_forward(one, (word + 1) / 2**32, 7, 16, 0)[0, 0] == 0


def test_dropout_keeps_its_share_and_the_mean() -> None:
    x = np.ones((1000, 64), np.float32)
    y = backend.dropout_forward(x, 0.25, 1, 16, 0)
    assert y.dtype == np.float32
    assert abs(float((y == 0).mean()) - 0.25) < 0.006  # 3.5 standard deviations
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(backend.dropout_forward(x, 0.0, 1, 16, 0), x)
    # A dropped value is zero even when it was not a number.
    assert np.isfinite(backend.dropout_forward(np.full((100, 8), np.nan), 0.9, 1, 16, 0)).any()


def graph(dtype: str = "float64") -> parity.Builder:
    """Everything at once: a shared kernel, a value used twice, dropout, softmax, saved z and saved y."""
    b = parity.Builder(5, dtype)
    shared = b.weights(6, 6)
    h = b.dense(0, 6, "gelu")
    a = b.dense(h, 6, "tanh", parameters=shared)
    d = b.dropout(a, 0.4, 17)
    e = b.dense(d, 6, "mish", parameters=shared)
    f = b.activation(e, "softplus")
    b.output = b.dense(f, 3)  # type: ignore[attr-defined]
    return b


@pytest.mark.parametrize("nesterov", [False, True])
def test_training_steps_against_the_oracle(nesterov: bool) -> None:
    b = graph()
    program = b.program(len(b.widths) - 1)
    rng = np.random.default_rng(3)
    parameters = parity.random_parameters(program, rng)
    x, y, w = rng.normal(size=(20, 5)), rng.integers(0, 3, 20), rng.random(20)
    rows = rng.permutation(20).astype(np.int64)
    kind = "sparse_categorical_cross_entropy_logits"
    trainable = [p != 1 for p in range(len(parameters))]
    network = parity.make_network(backend, program, parameters, key=99)
    network.set_trainable(trainable)
    network.set_loss(kind, 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.3, "momentum": 0.8, "nesterov": float(nesterov)})
    assert network.train_steps(x, y, w, rows, 8, 0, 20, 1e9) == 20
    assert network.step == 3

    velocities = [np.zeros(p.shape) for p in parameters]
    total = 0.0
    for step, begin in enumerate((0, 8, 16)):
        at = rows[begin : begin + 8]
        result = reference.train_step(
            program,
            parameters,
            velocities,
            x[at],
            y[at],
            w[at],
            kind=kind,
            learning_rate=0.3,
            momentum=0.8,
            nesterov=nesterov,
            trainable=trainable,
            key=99,
            step=step,
        )
        parameters, velocities = result.parameters, result.velocities
        total += result.cost * len(at)
    for i, (p, v) in enumerate(zip(parameters, velocities, strict=True)):
        np.testing.assert_allclose(network.get_parameter(i), p, rtol=0, atol=1e-13)
        np.testing.assert_allclose(network.get_slot("momentum", i), v, rtol=0, atol=1e-13)
    np.testing.assert_allclose(network.get_metrics()[0], [total, 20], rtol=1e-13)


def simple(dtype: str = "float32") -> tuple[object, list[np.ndarray]]:
    b = parity.Builder(4, dtype)
    program = b.program(b.dense(b.dense(0, 5, "relu"), 3))
    return program, parity.random_parameters(program, np.random.default_rng(0))


@pytest.mark.parametrize("layout", parity.LAYOUTS)
@pytest.mark.parametrize("x_dtype", [np.uint8, np.int64, np.bool_, np.float16, np.float32, np.float64])
def test_rows_of_any_kind(layout: str, x_dtype: type) -> None:
    program, parameters = simple()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (9, 4)).astype(x_dtype)
    y = parity.strided(rng.normal(size=(9, 3)), layout)
    given = parity.strided(x, layout)
    before = given.copy()
    network = parity.make_network(backend, program, parameters)
    out = np.zeros((9, 3), np.float32)
    assert network.predict(given, out, 0, 9, 1e9) == 9
    w, b, w2, b2 = parameters
    expected = np.maximum(x.astype(np.float64) @ w + b, 0) @ w2 + b2
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    network.set_loss("mean_squared_error", 0.0)
    rows = np.array([8, 0, 3], np.int64)
    network.evaluate_steps(given, y, None, rows, 2, 0, 3, 1e9)
    assert network.get_metrics()[0][0] == pytest.approx(np.square(expected - y)[rows].mean(axis=1).sum(), rel=1e-5)
    np.testing.assert_array_equal(given, before)


def test_predict_stops_at_the_budget_and_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastperceptron.backends import numpy_network

    monkeypatch.setattr(numpy_network, "_PREDICT_ELEMENTS", 20)  # four rows of width 5
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    x = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)
    out = np.full((10, 3), np.nan, np.float32)
    assert network.predict(x, out, 0, 10, 0.0) == 4
    assert np.isnan(out[4:]).all()
    assert network.predict(x, out, 4, 10, 1e9) == 10
    whole = np.empty_like(out)
    monkeypatch.undo()
    network.predict(x, whole, 0, 10, 1e9)
    np.testing.assert_allclose(out, whole, rtol=1e-6)


def test_budget_of_zero_is_one_step() -> None:
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1})
    x, y = np.ones((10, 4), np.float32), np.ones((10, 3), np.float32)
    assert network.train_steps(x, y, None, None, 4, 0, 10, 0.0) == 4
    assert network.train_steps(x, y, None, None, 4, 4, 10, 1e9) == 10
    assert network.step == 3
    assert network.train_steps(x, y, None, None, 4, 10, 10, 0.0) == 10
    assert network.step == 3


def test_arrays_of_few_batch_sizes_are_kept() -> None:
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    for n in range(1, 9):
        network.load_batch(np.ones((n, 4)), None, None, None, 0, n)
        assert 1 <= len(network._workspaces) <= 3


def test_bad_labels_change_nothing() -> None:
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_metrics([("sparse_categorical_accuracy", 0.0)])
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    x, y = np.ones((6, 4), np.float32), np.array([0, 1, 2, 7, 0, 0])
    rows = np.array([5, 3, 1], np.int64)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\); received 7 in row 3"):
        network.train_steps(x, y, None, rows, 3, 0, 3, 1e9)
    for i, p in enumerate(parameters):
        np.testing.assert_array_equal(network.get_parameter(i), p)
        assert not network.get_slot("momentum", i).any()
    assert network.step == 0
    assert not any(sums.any() for sums in network.get_metrics())


def test_an_interrupted_update_leaves_a_whole_step() -> None:
    program, parameters = simple("float64")
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})

    class Interrupted:
        """Gradients whose last part cannot be read."""

        def __init__(self, gradients: np.ndarray) -> None:
            self.gradients = gradients

        def __getitem__(self, span: slice) -> np.ndarray:
            if span.stop == len(self.gradients):
                raise KeyboardInterrupt
            return self.gradients[span]

    x, y = np.ones((4, 4)), np.ones((4, 3))
    network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
    before = [network.get_parameter(i) for i in range(4)] + [network.get_slot("momentum", i) for i in range(4)]
    network.set_trainable([True, False, True, True])  # three spans: the last one is interrupted
    gradients = network._flat_gradients
    network._flat_gradients = Interrupted(gradients)
    with pytest.raises(KeyboardInterrupt):
        network.update()
    network._flat_gradients = gradients
    after = [network.get_parameter(i) for i in range(4)] + [network.get_slot("momentum", i) for i in range(4)]
    for a, b in zip(after, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert network.step == 1
    network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
    assert network.step == 2


def test_no_work_below_the_lowest_trainable_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastperceptron.backends.numpy_workspace import Workspace

    calls = []
    real = Workspace.begin_value_gradient
    monkeypatch.setattr(Workspace, "begin_value_gradient", lambda self, value: calls.append(value) or real(self, value))
    b = parity.Builder(4)
    program = b.program(b.dense(b.dense(b.dense(0, 5, "tanh"), 6, "tanh"), 3))
    network = parity.make_network(backend, program, parity.random_parameters(program, np.random.default_rng(0)))
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1})
    x, y = np.ones((4, 4)), np.ones((4, 3))
    for flags, values in (
        ([True] * 6, [3, 2, 1]),
        ([False] * 3 + [True] * 3, [3, 2]),
        ([False] * 4 + [True] * 2, [3]),
        ([False] * 6, [3]),
    ):
        calls.clear()
        network.set_trainable(flags)
        network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
        assert calls == values, flags


def test_frozen_parameters_and_their_momentum_stay() -> None:
    program, parameters = simple("float64")
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    x, y = np.ones((4, 4)), np.ones((4, 3))
    network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
    network.set_trainable([False, False, True, True])
    kept, slot = network.get_parameter(0), network.get_slot("momentum", 0)
    for _ in range(3):
        network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
    np.testing.assert_array_equal(network.get_parameter(0), kept)
    np.testing.assert_array_equal(network.get_slot("momentum", 0), slot)
    assert not network.get_gradient(0).any()
    assert network.get_gradient(2).any()
    network.set_trainable([True, True, False, True])
    network.train_steps(x, y, None, None, 4, 0, 4, 1e9)
    assert [network.get_gradient(i).any() for i in range(4)] == [True, True, False, True]


def test_slots_follow_the_optimizer() -> None:
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    assert network.slot_names() == ()
    with pytest.raises(ValueError, match="update: expected set_optimizer first"):
        network.update()
    network.set_optimizer("sgd", {"learning_rate": 0.1})
    assert network.slot_names() == ()
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    assert network.slot_names() == ("momentum",)
    value = np.full((4, 5), 2.0, np.float32)
    network.set_slot("momentum", 0, value)
    network.set_optimizer("sgd", {"learning_rate": 0.5, "momentum": 0.9})
    network.set_optimizer("sgd", {"learning_rate": 0.2, "momentum": 0.5, "nesterov": 1.0})
    np.testing.assert_array_equal(network.get_slot("momentum", 0), value)
    network.set_optimizer("sgd", {"learning_rate": 0.2})
    assert network.slot_names() == ()
    network.set_optimizer("sgd", {"learning_rate": 0.2, "momentum": 0.9})
    assert not network.get_slot("momentum", 0).any()
    with pytest.raises(ValueError, match="get_slot: expected one of"):
        network.get_slot("velocity", 0)
    with pytest.raises(ValueError, match="set_optimizer: expected hyperparameters"):
        network.set_optimizer("sgd", {"beta": 0.9})
    with pytest.raises(ValueError, match="set_optimizer: expected 'sgd' or None"):
        network.set_optimizer("adam", {})


def test_metrics_by_hand() -> None:
    b = parity.Builder(2)
    program = b.program(b.activation(0, "linear"))
    p = np.array([[0.9, 0.2], [0.4, 0.6], [0.5, 0.5]])
    t = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    w = np.array([1.0, 2.0, 3.0])
    network = backend.Network(program)
    network.set_metrics(
        [
            ("binary_accuracy", 0.5),
            ("categorical_accuracy", 0.0),
            ("mean_squared_error", 0.0),
            ("mean_absolute_error", 0.0),
            ("r2", 0.0),
        ]
    )
    for begin, end in ((0, 2), (2, 3)):
        network.load_batch(p, t, w, None, begin, end)
        network.forward(0, 1, False)
        assert math.isnan(network.loss(False))
    binary, categorical, squared, absolute, r2 = network.get_metrics()[1:]
    assert binary.tolist() == [1 + 0 + 3 * 0.5, 6]
    assert categorical.tolist() == [1, 6]  # a tie is the first column
    np.testing.assert_allclose(squared, [0.025 + 2 * 0.36 + 3 * 0.25, 6])
    np.testing.assert_allclose(absolute, [0.15 + 2 * 0.6 + 3 * 0.5, 6])
    np.testing.assert_allclose(r2, [[6, 6], [-3, 3], [3, 3], [0.01 + 0.72 + 0.75, 0.04 + 0.72 + 0.75], [1, 0]])
    network.set_metrics([("binary_accuracy", 0.5)])
    network.load_batch(np.array([[0.5, 0.4]]), np.array([[0.5, 0.5]]), None, None, 0, 1)
    network.forward(0, 1, False)
    network.loss(False)
    assert network.get_metrics()[1].tolist() == [1, 1]  # one half is not above one half, on either side
    network.set_metrics([("sparse_categorical_accuracy", 0.0)])
    network.load_batch(p, np.array([0, 1, 1]), None, None, 0, 3)
    network.forward(0, 1, False)
    network.loss(False)
    assert network.get_metrics()[1].tolist() == [2, 3]


def test_sums_of_no_rows_join_unchanged() -> None:
    """Those of r2 keep the origin that they were taken from: far from it they would lose their digits."""
    none, some = metric_zeros("r2", 1), metric_zeros("r2", 1)
    metric_add(some, "r2", 0.0, np.array([[1e9], [1e9 + 1]]), np.array([[1e9], [1e9]]), None)
    np.testing.assert_array_equal(metric_joined(some, none), some)
    np.testing.assert_array_equal(metric_joined(none, some), some)


def test_pieces_make_the_same_step() -> None:
    b = graph()
    program = b.program(len(b.widths) - 1)
    rng = np.random.default_rng(5)
    parameters = parity.random_parameters(program, rng)
    x, y = rng.normal(size=(8, 5)), rng.normal(size=(8, 3))
    networks = [parity.make_network(backend, program, parameters, key=7) for _ in range(2)]
    for network in networks:
        network.set_loss("mean_squared_error", 0.0)
        network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    whole, pieces = networks
    whole.train_steps(x, y, None, None, 8, 0, 8, 0.0)
    operations = len(program.operations)
    pieces.load_batch(x, y, None, None, 0, 8)
    pieces.forward(0, 2, True)
    pieces.set_value(2, pieces.get_value(2))
    pieces.forward(2, operations, True)
    cost = pieces.loss(True)
    pieces.backward(3, operations)
    pieces.backward(0, 3)
    pieces.update()
    for i in range(len(parameters)):
        np.testing.assert_array_equal(whole.get_parameter(i), pieces.get_parameter(i))
    assert cost == pytest.approx(whole.get_metrics()[0][0] / 8)
    assert pieces.step == 1
    pieces.advance()
    assert pieces.step == 2


def test_backward_after_inference_is_that_of_inference() -> None:
    b = graph()
    program = b.program(len(b.widths) - 1)
    rng = np.random.default_rng(6)
    parameters = parity.random_parameters(program, rng)
    x, y = rng.normal(size=(8, 5)), rng.normal(size=(8, 3))
    network = parity.make_network(backend, program, parameters, key=7)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(x, y, None, None, 0, 8)
    network.forward(0, len(program.operations), False)
    network.loss(True)
    network.backward(0, len(program.operations))
    kind = "mean_squared_error"
    expected = reference.train_step(program, parameters, parameters, x, y, None, kind=kind, training=False)
    for i, gradient in enumerate(expected.gradients):
        np.testing.assert_allclose(network.get_gradient(i), gradient, rtol=0, atol=1e-13)


def test_value_gradients_replace_then_add() -> None:
    program, parameters = simple("float64")
    network = parity.make_network(backend, program, parameters)
    network.load_batch(np.ones((2, 4)), None, None, None, 0, 2)
    network.forward(0, 2, True)
    assert math.isnan(network.loss(True))
    ones = np.ones((2, 3))
    network.set_value_gradient(2, ones)
    network.set_value_gradient(2, 2 * ones)
    np.testing.assert_array_equal(network.get_value_gradient(2), 3 * ones)
    network.backward(0, 2)
    np.testing.assert_allclose(network.get_gradient(3), [6, 6, 6])
    network.loss(True)
    assert not network.get_value_gradient(2).any()
    network.set_value_gradient(2, ones)
    np.testing.assert_array_equal(network.get_value_gradient(2), ones)


def test_shapes_are_checked() -> None:
    program, parameters = simple()
    network = parity.make_network(backend, program, parameters)
    with pytest.raises(ShapeError, match=r"set_parameter\(0\): expected shape \(4, 5\); received \(5, 4\)"):
        network.set_parameter(0, np.ones((5, 4)))
    with pytest.raises(ValueError, match="forward: expected load_batch first"):
        network.forward(0, 2, True)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(np.ones((2, 4)), None, None, None, 0, 2)
    network.forward(0, 2, True)
    with pytest.raises(ShapeError, match=r"mean_squared_error: expected targets of shape \(2, 3\); received none"):
        network.loss(True)
    with pytest.raises(ShapeError, match=r"set_value_gradient\(2\): expected shape \(2, 3\); received \(1, 3\)"):
        network.set_value_gradient(2, np.ones((1, 3)))
    network.load_batch(np.ones((2, 4)), np.ones((2, 1)), None, None, 0, 2)
    with pytest.raises(ShapeError, match=r"expected targets of shape \(2, 3\); received shape \(2, 1\)"):
        network.loss(True)


def test_returned_arrays_are_copies() -> None:
    program, parameters = simple()
    program = program._replace(states=(Parameter("norm/mean", (3,)),))
    network = parity.make_network(backend, program, parameters)
    assert network.get_parameter(0).dtype == np.float32
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    network.train_steps(np.ones((2, 4)), np.ones((2, 3)), None, None, 2, 0, 2, 0.0)
    for read in (
        lambda: network.get_parameter(0),
        lambda: network.get_gradient(0),
        lambda: network.get_slot("momentum", 0),
        lambda: network.get_state(0),
        lambda: network.get_value(2),
        lambda: network.get_value_gradient(2),
        lambda: network.get_metrics()[0],
    ):
        before = read().copy()
        read()[...] = 7
        np.testing.assert_array_equal(read(), before)

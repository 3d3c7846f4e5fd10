"""The public stateless functions: values by hand, errors, memory layouts and out=, on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from pure import PURE

from fastperceptron import backends, kernels
from fastperceptron.errors import DTypeError, ShapeError
from fastperceptron.program import ACTIVATIONS, LOSSES, NEEDS_Z

BACKENDS = ["numpy"] if PURE else ["native", "numpy"]
DTYPES = [np.float32, np.float64]
TOLERANCE = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 2e-15}  # a dozen roundings of the largest term


@pytest.fixture(autouse=True, params=BACKENDS)
def _backend(request: pytest.FixtureRequest) -> Iterator[None]:
    before = backends.get_backend()
    backends.set_backend(request.param)
    yield
    backends.set_backend(before)


def random(*shape: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def close(actual: np.ndarray, expected: np.ndarray, terms: int = 1) -> None:
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[actual.dtype] * scale * max(1, terms) ** 0.5)


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_by_hand(dtype: type) -> None:
    x = np.array([[1, 2], [3, 4]], dtype)
    w = np.array([[1, 0, -1], [2, 1, 0]], dtype)
    b = np.array([0, 10, 0], dtype)
    y = kernels.dense_forward(x, w, b, activation="relu")
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, [[5, 12, 0], [11, 14, 0]])
    dz = np.array([[1, 0, 2], [0, 1, 0]], dtype)
    dx, dw, db = kernels.dense_backward(x, w, dz)
    np.testing.assert_array_equal(dx, [[-1, 2], [0, 1]])
    np.testing.assert_array_equal(dw, [[1, 3, 2], [2, 4, 4]])
    np.testing.assert_array_equal(db, [1, 1, 2])
    np.testing.assert_array_equal(kernels.dense_backward_input(dz, w), dx)
    np.testing.assert_array_equal(kernels.dense_backward_weights(x, dz), dw)
    np.testing.assert_array_equal(kernels.dense_backward_bias(dz), db)


def test_softmax_as_a_layers_activation() -> None:
    y = kernels.dense_forward(np.zeros((2, 3)), np.ones((3, 4)), activation="softmax")
    np.testing.assert_allclose(y, 0.25, rtol=1e-15)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1, 1, 1), (33, 300, 17), (64, 1, 64), (200, 257, 129)])
def test_products_against_numpy(shape: tuple[int, int, int], dtype: type) -> None:
    n, inputs, outputs = shape
    x, w, b = random(n, inputs, dtype=dtype), random(inputs, outputs, dtype=dtype, seed=1), random(outputs, dtype=dtype)
    dz = random(n, outputs, dtype=dtype, seed=2)
    x64, w64, dz64 = x.astype(np.float64), w.astype(np.float64), dz.astype(np.float64)
    close(kernels.dense_forward(x, w, b), (x64 @ w64 + b).astype(dtype), inputs)
    dx, dw, db = kernels.dense_backward(x, w, dz)
    close(dx, (dz64 @ w64.T).astype(dtype), outputs)
    close(dw, (x64.T @ dz64).astype(dtype), n)
    close(db, dz64.sum(axis=0).astype(dtype), n)


def test_activation_backward_is_the_derivative() -> None:
    z = np.array([-2.0, -0.7, 0.3, 1.9])
    h = 1e-6
    for activation in ACTIVATIONS:
        if activation == "softmax":
            continue
        y = kernels.activation_forward(activation, z)
        dz = kernels.activation_backward(activation, np.ones(4), z if activation in NEEDS_Z else y)
        up, down = kernels.activation_forward(activation, z + h), kernels.activation_forward(activation, z - h)
        # rounding of the difference: eps / h; truncation: h^2
        np.testing.assert_allclose(dz, (up - down) / (2 * h), rtol=1e-8, atol=1e-9, err_msg=activation)


def test_losses_by_hand() -> None:
    one = np.array([[1.0, -1.0]])
    values = {
        "mean_squared_error": (np.array([[3.0, -1.0]]), one, 2.0),
        "mean_absolute_error": (np.array([[3.0, -1.0]]), one, 1.0),
        "huber": (np.array([[3.0, -1.0]]), one, 0.75),
        "binary_cross_entropy": (np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]), np.log(2)),
        "binary_cross_entropy_logits": (np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.log(2)),
        "categorical_cross_entropy": (np.array([[0.0, 1.0]]), np.array([[0.75, 0.25]]), np.log(4)),
        "categorical_cross_entropy_logits": (np.array([[0.0, 1.0]]), np.zeros((1, 2)), np.log(2)),
        "sparse_categorical_cross_entropy": (np.array([1]), np.array([[0.75, 0.25]]), np.log(4)),
        "sparse_categorical_cross_entropy_logits": (np.array([1]), np.zeros((1, 2)), np.log(2)),
        "hinge": (np.array([[1.0, -1.0]]), np.array([[0.5, 1.0]]), 1.25),
        "perceptron": (np.array([[1.0, -1.0]]), np.array([[0.5, 1.0]]), 0.5),
    }
    assert set(values) == set(LOSSES)
    for kind, (y_true, y_pred, expected) in values.items():
        losses = kernels.loss_forward(kind, y_true, y_pred)
        assert losses.dtype == np.float64
        np.testing.assert_allclose(losses, [expected], rtol=1e-14, err_msg=kind)


def test_loss_backward_scales_and_weights() -> None:
    y_true, y_pred = random(4, 3), random(4, 3, seed=1)
    plain = kernels.loss_backward("mean_squared_error", y_true, y_pred)
    np.testing.assert_allclose(plain, 2 * (y_pred - y_true) / 3, rtol=1e-14)
    weights = np.array([0.0, 1.0, 2.0, -1.0])
    weighted = kernels.loss_backward("mean_squared_error", y_true, y_pred, weights=weights, scale=0.25)
    np.testing.assert_allclose(weighted, plain * weights[:, None] / 4, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64, ">i4"])
def test_labels_of_any_integer_type(dtype: Any) -> None:
    labels = np.array([2, 0], dtype)
    losses = kernels.loss_forward("sparse_categorical_cross_entropy_logits", labels, np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(losses, np.log(3), rtol=1e-6)


def test_sgd_by_hand() -> None:
    w, g, v = np.array([1.0, 2.0]), np.array([1.0, -1.0]), np.array([0.5, 0.0])
    kernels.sgd_update(w, g, v, learning_rate=0.5, momentum=0.5)
    np.testing.assert_array_equal(v, [-0.25, 0.5])
    np.testing.assert_array_equal(w, [0.75, 2.5])
    kernels.sgd_update(w, g, v, learning_rate=0.5, momentum=0.5, nesterov=True)
    np.testing.assert_array_equal(v, [-0.625, 0.75])
    np.testing.assert_array_equal(w, [0.75 - 0.3125 - 0.5, 2.5 + 0.375 + 0.5])
    kernels.sgd_update(w, g, learning_rate=1.0)
    np.testing.assert_array_equal(w, [-1.0625, 4.375])
    np.testing.assert_array_equal(g, [1.0, -1.0])


def test_dropout_masks() -> None:
    x = np.ones((50, 37))
    y = kernels.dropout_forward(x, rate=0.5, key=1, stream=2, step=3)
    assert set(np.unique(y)) == {0.0, 2.0}
    np.testing.assert_array_equal(y, kernels.dropout_forward(x, rate=0.5, key=1, stream=2, step=3))
    for other in ({"key": 2}, {"stream": 3}, {"step": 4}, {"step": 2**40}):
        assert (kernels.dropout_forward(x, **({"rate": 0.5, "key": 1, "stream": 2, "step": 3} | other)) != y).any()
    np.testing.assert_array_equal(kernels.dropout_forward(x, rate=0, key=1), x)


# -- empty, NaN, scalars ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty_dimensions(dtype: type) -> None:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    assert kernels.dense_forward(zeros(0, 3), zeros(3, 2)).shape == (0, 2)
    assert kernels.dense_forward(zeros(4, 3), zeros(3, 0)).shape == (4, 0)
    b = np.array([1, -2], dtype)
    np.testing.assert_array_equal(kernels.dense_forward(zeros(3, 0), zeros(0, 2), b, activation="relu"), [[1, 0]] * 3)
    dx, dw, db = kernels.dense_backward(zeros(0, 3), zeros(3, 2), zeros(0, 2))
    assert dx.shape == (0, 3)
    assert not dw.any()
    assert dw.shape == (3, 2)
    np.testing.assert_array_equal(db, [0, 0])
    np.testing.assert_array_equal(kernels.dense_backward_input(zeros(2, 0), zeros(3, 0)), zeros(2, 3))
    for activation in ACTIVATIONS:
        for shape in ((0,), (0, 3), (3, 0)):
            assert kernels.activation_forward(activation, zeros(*shape)).shape == shape
            assert kernels.activation_backward(activation, zeros(*shape), zeros(*shape)).shape == shape
    assert kernels.loss_forward("huber", zeros(0, 3), zeros(0, 3)).shape == (0,)
    assert kernels.loss_backward("hinge", zeros(0, 3), zeros(0, 3)).shape == (0, 3)
    assert kernels.loss_forward("sparse_categorical_cross_entropy", np.zeros(0, int), zeros(0, 3)).shape == (0,)
    assert kernels.dropout_forward(zeros(0, 5), rate=0.5, key=0).shape == (0, 5)
    kernels.sgd_update(zeros(0, 2), zeros(0, 2), learning_rate=1.0)


def test_scalars_have_elementwise_activations_only() -> None:
    y = kernels.activation_forward("relu", np.float64(3))
    assert y.shape == ()
    assert y == 3
    with pytest.raises(ShapeError, match=r"activation_forward: z must have at least one dimension.*received \(\)"):
        kernels.activation_forward("softmax", np.float64(3))


def test_nan_passes_through() -> None:
    nan = np.array([np.nan, 1.0])
    for activation in ACTIVATIONS:
        if activation != "step":  # a comparison has no NaN to give
            assert np.isnan(kernels.activation_forward(activation, nan)[0]), activation
    assert np.isnan(kernels.dense_forward(nan[None], np.ones((2, 3)), activation="relu")).all()


# -- memory layouts --------------------------------------------------------------------------------------------------


def fortran(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def gaps(a: np.ndarray) -> np.ndarray:
    wide = np.full(tuple(2 * n + 1 for n in a.shape), 99, a.dtype)
    view = wide[tuple(slice(0, 2 * n, 2) for n in a.shape)]
    view[...] = a
    return view


def wide_rows(a: np.ndarray) -> np.ndarray:
    wide = np.full((*a.shape[:-1], a.shape[-1] + 3), 99, a.dtype)
    wide[..., : a.shape[-1]] = a
    return wide[..., : a.shape[-1]]


def reversed_rows(a: np.ndarray) -> np.ndarray:
    return a[::-1].copy()[::-1]


def reversed_columns(a: np.ndarray) -> np.ndarray:
    return a[..., ::-1].copy()[..., ::-1]


def misaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder(">" if np.little_endian else "<"))


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = [fortran, gaps, wide_rows, reversed_rows, reversed_columns, misaligned, swapped, read_only]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_every_layout_gives_the_same_and_is_left_alone(
    layout: Callable[[np.ndarray], np.ndarray], dtype: type, request: pytest.FixtureRequest
) -> None:
    x, w, b = random(9, 6, dtype=dtype), random(6, 5, dtype=dtype, seed=1), random(5, dtype=dtype, seed=2)
    dz = random(9, 5, dtype=dtype, seed=3)
    labels = np.arange(9) % 5
    weights = random(9, dtype=dtype, seed=4)

    def everything(f: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        arguments = [f(a) for a in (x, w, b, dz, weights)]
        fx, fw, fb, fdz, fweights = arguments
        flabels = labels if f is misaligned else f(labels)
        results = [
            kernels.dense_forward(fx, fw, fb, activation="tanh"),
            *kernels.dense_backward(fx, fw, fdz),
            kernels.activation_forward("softmax", fdz),
            kernels.activation_forward("gelu", fdz),
            kernels.activation_backward("elu", fdz, f(dz)),
            kernels.activation_backward("softmax", fdz, f(dz)),
            kernels.loss_forward("sparse_categorical_cross_entropy_logits", flabels, fdz),
            kernels.loss_backward("huber", fdz, f(dz + 1), weights=fweights),
            kernels.dropout_forward(fx, rate=0.5, key=3),
        ]
        for argument, original in zip(arguments, (x, w, b, dz, weights), strict=True):
            np.testing.assert_array_equal(argument, original)
        return results

    for actual, expected in zip(everything(layout), everything(np.copy), strict=True):
        if "native" in request.node.name:
            np.testing.assert_array_equal(actual, expected)
        else:  # NumPy's products choose another order of sums for another layout
            close(actual, expected, 9)


def test_broadcast_inputs() -> None:
    x = np.broadcast_to(np.arange(3.0), (4, 3))
    np.testing.assert_array_equal(kernels.dense_forward(x, np.eye(3)), x)
    np.testing.assert_array_equal(kernels.dense_backward_bias(np.broadcast_to(2.0, (4, 3))), [8, 8, 8])


def test_lists_and_many_dimensions() -> None:
    assert kernels.dense_forward([[1.0, 2.0]], [[1.0], [1.0]]).tolist() == [[3.0]]
    z = random(3, 4, 5)[:, 1:3]
    np.testing.assert_array_equal(kernels.activation_forward("relu", z), np.maximum(z, 0))
    np.testing.assert_allclose(kernels.activation_forward("softmax", z).sum(axis=-1), 1, rtol=1e-14)


# -- out= ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_filled_and_returned(dtype: type) -> None:
    x, w, dz = random(7, 6, dtype=dtype), random(6, 5, dtype=dtype), random(7, 5, dtype=dtype)
    calls: list[tuple[tuple[int, ...], Callable[[np.ndarray | None], np.ndarray]]] = [
        ((7, 5), lambda out: kernels.dense_forward(x, w, out=out)),
        ((7, 5), lambda out: kernels.dense_forward(x, w, activation="softmax", out=out)),
        ((7, 6), lambda out: kernels.dense_backward_input(dz, w, out=out)),
        ((6, 5), lambda out: kernels.dense_backward_weights(x, dz, out=out)),
        ((5,), lambda out: kernels.dense_backward_bias(dz, out=out)),
        ((7, 5), lambda out: kernels.activation_forward("tanh", dz, out=out)),
        ((7, 5), lambda out: kernels.activation_forward("softmax", dz, out=out)),
        ((7, 5), lambda out: kernels.activation_backward("tanh", dz, dz + 1, out=out)),
        ((7, 5), lambda out: kernels.loss_backward("huber", dz, dz + 1, out=out)),
        ((7, 6), lambda out: kernels.dropout_forward(x, rate=0.5, key=1, out=out)),
    ]
    for shape, call in calls:
        expected = call(None)
        out = np.full(shape, np.nan, dtype)
        assert call(out) is out
        np.testing.assert_array_equal(out, expected)
        if len(shape) == 2:  # rows of a wider array; what lies beside them is not touched
            wide = np.full((shape[0], shape[1] + 3), np.nan, dtype)
            result = call(wide[:, : shape[1]])
            close(result, expected, 7)
            np.testing.assert_array_equal(wide[:, : shape[1]], result)
            assert np.isnan(wide[:, shape[1] :]).all()


def test_elementwise_in_place() -> None:
    z = random(6, 5)
    for activation in ACTIVATIONS:
        expected = kernels.activation_forward(activation, z)
        y = z.copy()
        assert kernels.activation_forward(activation, y, out=y) is y
        np.testing.assert_array_equal(y, expected, err_msg=activation)
        expected = kernels.activation_backward(activation, z, z + 1)
        dy = z.copy()
        kernels.activation_backward(activation, dy, z + 1, out=dy)
        np.testing.assert_array_equal(dy, expected, err_msg=activation)
    x = z.copy()
    kernels.dropout_forward(x, rate=0.5, key=1, out=x)
    np.testing.assert_array_equal(x, kernels.dropout_forward(z, rate=0.5, key=1))


def test_column_slices_of_one_array_are_apart() -> None:
    both = np.zeros((4, 6))
    both[:, :3] = random(4, 3)
    kernels.activation_forward("tanh", both[:, :3], out=both[:, 3:])
    np.testing.assert_allclose(both[:, 3:], np.tanh(both[:, :3]), rtol=1e-14)
    kernels.dense_forward(both[:, :3], np.eye(3), out=both[:, 3:])
    np.testing.assert_array_equal(both[:, 3:], both[:, :3])


def frozen(shape: tuple[int, ...]) -> np.ndarray:
    a = np.zeros(shape)
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (np.zeros((2, 3), np.float32), DTypeError, "out must be float64; received float32"),
        (np.zeros((2, 3), ">f8"), DTypeError, "out must be float64; received >f8"),
        ([[0.0] * 3] * 2, DTypeError, "out must be a numpy.ndarray; received list"),
        (np.zeros((3, 2)), ShapeError, r"out must have shape \(2, 3\); received \(3, 2\)"),
        (np.zeros(6), ShapeError, r"out must have shape \(2, 3\); received \(6,\)"),
        (frozen((2, 3)), ValueError, "out must be writeable"),
        (np.zeros((3, 2)).T, ValueError, "out must be aligned, with adjacent elements"),
        (np.zeros((2, 6))[:, ::2], ValueError, "out must be aligned, with adjacent elements"),
        (np.zeros((2, 3))[::-1], ValueError, "out must be aligned, with adjacent elements"),
        (misaligned(np.zeros((2, 3))), ValueError, "out must be aligned, with adjacent elements"),
    ],
)
def test_out_that_does_not_fit(out: Any, error: type[Exception], message: str) -> None:
    z = np.ones((2, 3))
    for name, call in {
        "dense_forward": lambda: kernels.dense_forward(np.ones((2, 4)), np.ones((4, 3)), out=out),
        "dense_backward_input": lambda: kernels.dense_backward_input(np.ones((2, 4)), np.ones((3, 4)), out=out),
        "dense_backward_weights": lambda: kernels.dense_backward_weights(np.ones((4, 2)), np.ones((4, 3)), out=out),
        "activation_forward": lambda: kernels.activation_forward("relu", z, out=out),
        "activation_backward": lambda: kernels.activation_backward("relu", z, z, out=out),
        "loss_backward": lambda: kernels.loss_backward("huber", z, z, out=out),
        "dropout_forward": lambda: kernels.dropout_forward(z, rate=0.5, key=0, out=out),
    }.items():
        with pytest.raises(error, match=f"^{name}: {message}"):
            call()
        assert not np.any(out)


def test_out_that_overlaps() -> None:
    a = np.zeros((5, 4))
    square = np.eye(4)
    with pytest.raises(ValueError, match="dense_forward: out must share no memory"):
        kernels.dense_forward(a[:4], square, out=a[:4])
    with pytest.raises(ValueError, match="dense_forward: out must share no memory"):
        kernels.dense_forward(a[:4], square, out=a[1:])
    with pytest.raises(ValueError, match="dense_backward_weights: out must share no memory"):
        kernels.dense_backward_weights(np.ones((4, 4)), square, out=square)
    with pytest.raises(ValueError, match="activation_forward: out must be the input itself or share no memory"):
        kernels.activation_forward("relu", a[:4], out=a[1:])
    with pytest.raises(ValueError, match="activation_backward: out must be the input itself"):
        kernels.activation_backward("relu", a[:4], a[1:], out=a[:4])
    with pytest.raises(ValueError, match="activation_backward: out must share no memory"):
        kernels.activation_backward("softmax", np.ones((4, 4)), square, out=square)
    with pytest.raises(ValueError, match="loss_backward: out must share no memory"):
        kernels.loss_backward("huber", np.ones((4, 4)), square, out=square)
    with pytest.raises(ValueError, match="sgd_update: w must share no memory"):
        kernels.sgd_update(a, a, learning_rate=1.0)
    with pytest.raises(ValueError, match="sgd_update: v must share no memory"):
        kernels.sgd_update(np.ones((5, 4)), a, a, learning_rate=1.0)


# -- wrong arguments -------------------------------------------------------------------------------------------------


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: kernels.dense_forward([[1.0], [1.0, 2.0]], np.ones((3, 4))),
            ShapeError,
            "dense_forward: x must be a rectangular array",
        ),
        (
            lambda: kernels.dense_forward(np.ones((8, 5)), np.ones((3, 4))),
            ShapeError,
            r"dense_forward: x must have shape \(n, 3\) to match w \(3, 4\); received \(8, 5\)",
        ),
        (
            lambda: kernels.dense_forward(np.ones(3), np.ones((3, 4))),
            ShapeError,
            r"x must have shape \(n, 3\) to match w \(3, 4\); received \(3,\)",
        ),
        (
            lambda: kernels.dense_forward(ONES, np.ones(3)),
            ShapeError,
            r"w must have shape \(in, out\); received \(3,\)",
        ),
        (
            lambda: kernels.dense_forward(ONES, np.ones((3, 4)), np.ones(3)),
            ShapeError,
            r"b must have shape \(4,\) to match w \(3, 4\); received \(3,\)",
        ),
        (
            lambda: kernels.dense_backward_input(ONES, ONES.T),
            ShapeError,
            r"dense_backward_input: dz must have shape \(n, 2\) to match w \(3, 2\); received \(2, 3\)",
        ),
        (
            lambda: kernels.dense_backward_weights(ONES, np.ones((3, 1))),
            ShapeError,
            r"dense_backward_weights: dz must have shape \(2, out\) to match x \(2, 3\); received \(3, 1\)",
        ),
        (
            lambda: kernels.dense_backward_bias(np.ones(3)),
            ShapeError,
            r"dz must have shape \(n, out\); received \(3,\)",
        ),
        (
            lambda: kernels.dense_backward(ONES, np.ones((3, 4)), ONES),
            ShapeError,
            r"dz must have shape \(2, 4\) to match x \(2, 3\) and w \(3, 4\); received \(2, 3\)",
        ),
        (
            lambda: kernels.activation_backward("relu", ONES, ONES.T),
            ShapeError,
            r"saved must have shape \(2, 3\) to match dy; received \(3, 2\)",
        ),
        (
            lambda: kernels.loss_forward("huber", ONES.T, ONES),
            ShapeError,
            r"loss_forward: y_true must have shape \(2, 3\) to match y_pred; received \(3, 2\)",
        ),
        (
            lambda: kernels.loss_forward("sparse_categorical_cross_entropy", np.zeros(3, int), ONES),
            ShapeError,
            r"y_true must have shape \(2,\) to match y_pred \(2, 3\); received \(3,\)",
        ),
        (
            lambda: kernels.loss_backward("huber", ONES, ONES, weights=np.ones(3)),
            ShapeError,
            r"weights must have shape \(2,\)",
        ),
        (lambda: kernels.sgd_update(ONES, ONES.T, learning_rate=1.0), ShapeError, r"w must have shape \(3, 2\)"),
        (lambda: kernels.dropout_forward(np.ones(3), rate=0.5, key=0), ShapeError, r"x must have shape \(n, width\)"),
        (
            lambda: kernels.dense_forward(ONES.astype("f"), np.ones((3, 4))),
            DTypeError,
            "x and w must have one dtype; received float32 and float64",
        ),
        (lambda: kernels.dense_forward(ONES.astype(int), np.ones((3, 4))), DTypeError, "x must be float32 or float64"),
        (lambda: kernels.activation_forward("relu", ONES.astype(complex)), DTypeError, "received complex128"),
        (lambda: kernels.activation_forward("relu", ONES.astype(object)), DTypeError, "received object"),
        (lambda: kernels.activation_forward("relu", ["a"]), DTypeError, "received <U1"),
        (lambda: kernels.activation_forward("relu", ONES.astype(np.float16)), DTypeError, "received float16"),
        (
            lambda: kernels.loss_forward("sparse_categorical_cross_entropy", np.zeros(2), ONES),
            DTypeError,
            "y_true must be integer labels; received float64",
        ),
        (lambda: kernels.sgd_update([1.0], np.ones(1), learning_rate=1.0), DTypeError, "w must be a numpy.ndarray"),
        (
            lambda: kernels.loss_backward("huber", ONES, ONES, weights=np.ones(2, "f")),
            DTypeError,
            "y_pred and weights must have one dtype",
        ),
        (lambda: kernels.activation_forward("relux", ONES), ValueError, "activation must be one of linear, .*'relux'"),
        (lambda: kernels.activation_forward("relu", ONES, alpha=0.1), ValueError, "relu takes no alpha; received 0.1"),
        (lambda: kernels.activation_forward("elu", ONES, alpha=np.nan), ValueError, "alpha of elu must be finite"),
        (lambda: kernels.activation_forward("elu", ONES, alpha="1"), TypeError, "alpha of elu must be a number"),
        (lambda: kernels.activation_forward("elu", ONES, alpha=-1), ValueError, "alpha of elu must not be negative"),
        (
            lambda: kernels.dense_backward_bias(np.ma.masked_equal(ONES, 1)),
            ValueError,
            "dz must have no masked",
        ),
        (lambda: kernels.loss_forward("mse", ONES, ONES), ValueError, "kind must be one of mean_squared_error.*'mse'"),
        (lambda: kernels.loss_forward("huber", ONES, ONES, parameter=0), ValueError, "huber must be positive"),
        (
            lambda: kernels.loss_forward("sparse_categorical_cross_entropy", np.array([0, 3]), ONES),
            ValueError,
            r"y_true must lie in \[0, 3\) to match y_pred \(2, 3\); received 3 at row 1",
        ),
        (
            lambda: kernels.loss_backward("sparse_categorical_cross_entropy", np.array([-1, 0]), ONES),
            ValueError,
            "received -1 at row 0",
        ),
        (
            lambda: kernels.loss_backward("sparse_categorical_cross_entropy", np.array([0, 2**64 - 1], "u8"), ONES),
            ValueError,
            "received 18446744073709551615 at row 1",
        ),
        (lambda: kernels.sgd_update(ONES, ONES + 1, learning_rate=1.0, momentum=0.9), ValueError, "momentum needs v"),
        (
            lambda: kernels.loss_forward("sparse_categorical_cross_entropy", np.ma.masked_equal([0, 1], 1), ONES),
            ValueError,
            "y_true must have no masked",
        ),
        (lambda: kernels.loss_forward("hinge", ONES[:, :0], ONES[:, :0]), ShapeError, "at least one column"),
        (
            lambda: kernels.loss_forward("huber", ONES.astype("f"), ONES.astype("f"), parameter=1e-60),
            ValueError,
            "huber must be positive in float32; received 1e-60",
        ),
        (
            lambda: kernels.dense_backward(ONES, ONES.T, ONES @ ONES.T, out=[None, None]),
            TypeError,
            "out must be .dx, dw",
        ),
        (lambda: kernels.dropout_forward(ONES, rate=0.5, key=1.5), TypeError, "key must be an integer; received 1.5"),
        (lambda: kernels.dropout_forward(ONES, rate=0.5, key=0, step="1"), TypeError, "step must be an integer"),
        (
            lambda: kernels.sgd_update(*np.ones((3, 1)), learning_rate=1.0, momentum=0.5, nesterov="no"),  # type: ignore[arg-type]
            TypeError,
            "sgd_update: nesterov must be True or False; received 'no'",
        ),
        *(
            (call, ValueError, "alpha of elu must be finite in float32; received 1e[+]300")
            for call in (
                lambda: kernels.dense_forward(*np.ones((2, 1, 1), "f"), activation="elu", alpha=1e300),
                lambda: kernels.activation_forward("elu", np.ones(1, "f"), alpha=1e300),
                lambda: kernels.activation_backward("elu", *np.ones((2, 1), "f"), alpha=1e300),
            )
        ),
        (lambda: kernels.dropout_forward(ONES, rate="0.1", key=0), ValueError, "rate must lie in"),
        (
            lambda: kernels.sgd_update(np.ones(1), np.ones(1), learning_rate=np.nan),
            ValueError,
            "learning_rate must be finite in float64; received nan",
        ),
        (
            lambda: kernels.sgd_update(*np.ones((3, 1), "f"), learning_rate=1, momentum=1e39),
            ValueError,
            "momentum must be finite in float32; received 1e[+]39",
        ),
        (
            lambda: kernels.loss_backward("hinge", np.ones((1, 1), "f"), np.ones((1, 1), "f"), scale=1e39),
            ValueError,
            "scale must be finite in float32",
        ),
        (
            lambda: kernels.dropout_forward(ONES, rate=1.0, key=0),
            ValueError,
            r"rate must lie in \[0, 1\); received 1.0",
        ),
        (lambda: kernels.dropout_forward(ONES, rate=np.nan, key=0), ValueError, r"rate must lie in \[0, 1\)"),
        (lambda: kernels.dropout_forward(ONES, rate=0.5, key=-1), ValueError, r"key must lie in \[0, 2\*\*64\)"),
        (lambda: kernels.dropout_forward(ONES, rate=0.5, key=0, stream=2**16), ValueError, "stream must lie in"),
        (lambda: kernels.dropout_forward(ONES, rate=0.5, key=0, step=2**48), ValueError, "step must lie in"),
    ],
)
def test_wrong_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    before = ONES.copy()
    with pytest.raises(error, match=message):
        call()
    np.testing.assert_array_equal(ONES, before)


def test_dense_backward_and_losses_write_where_told(backend: str) -> None:
    x, w, dz = np.ones((2, 3)), np.full((3, 4), 2.0), np.ones((2, 4))
    dx, dw, db = np.empty((2, 3)), np.empty((3, 4)), np.empty(4)
    got = kernels.dense_backward(x, w, dz, out=(dx, dw, db))
    assert all(a is b for a, b in zip(got, (dx, dw, db), strict=True))
    for written, expected in zip((dx, dw, db), kernels.dense_backward(x, w, dz), strict=True):
        np.testing.assert_array_equal(written, expected)
    before = dx.copy()
    with pytest.raises(ShapeError, match="db"):
        kernels.dense_backward(x, np.zeros((3, 4)), dz, out=(dx, dw, np.empty(3)))
    np.testing.assert_array_equal(dx, before)
    losses = np.empty(2)
    assert kernels.loss_forward("hinge", np.ones((2, 1)), np.zeros((2, 1)), out=losses) is losses
    np.testing.assert_array_equal(losses, [1.0, 1.0])


def test_masked_outputs_are_refused() -> None:
    out = np.ma.masked_array(np.zeros((9, 5), np.float32))
    with pytest.raises(DTypeError, match="out must be a plain array; received a MaskedArray"):
        kernels.dense_forward(random(9, 6), random(6, 5, seed=1), out=out)
    assert not out.data.any()

"""Native against NumPy: every function and whole training runs, on every instruction set this machine has.

Tolerances. eps is 2^-24 or 2^-53, the relative error of one rounding.
* A sum of k products errs by at most (k + 2) eps times the sum of the magnitudes, in any order; both sides are compared
  with a sum in float64 (k times more exact for float32), and for float64 both err, hence twice that.
* Elementwise functions of both sides are good to a few eps relative to their own result; where a function cancels
  (1 - y^2, z + log) it is a few eps of its largest term, which is of order 1 here.
* The native side flushes subnormal numbers to zero, also inside a function that then multiplies by up to 20.
Everything random, and everything the comparison says is "equal", must agree bit for bit.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import parity
import pytest
from pure import PURE

from fastperceptron.backends import numpy as fallback
from fastperceptron.program import ACTIVATIONS, LOSSES, NEEDS_Z, Program

DTYPES = (np.float32, np.float64)
EPS = {np.float32: 2.0**-24, np.float64: 2.0**-53}
TINY = {np.float32: 4e-37, np.float64: 1e-306}
WIDTHS = tuple(s for s in parity.SIZES if s)

pytestmark = pytest.mark.skipif(PURE, reason="the pure wheel has no native backend to compare")


@pytest.fixture(params=parity.instruction_sets() or ("none",))
def native(request: pytest.FixtureRequest) -> Iterator[Any]:
    with parity.forced(request.param) as module:
        yield module


def triples() -> list[tuple[int, int, int]]:
    """A Latin square: every pair of sizes meets in every pair of dimensions."""
    count = len(parity.SIZES)
    return [
        (a, b, parity.SIZES[(i + j) % count]) for i, a in enumerate(parity.SIZES) for j, b in enumerate(parity.SIZES)
    ]


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return rng.normal(size=shape).astype(dtype)


def product(a: np.ndarray, b: np.ndarray, extra: np.ndarray | float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """a b + extra in float64, and how far a sum of rounded products may lie from it."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    bound = 2 * (a.shape[1] + 2) * EPS[a.dtype.type] * (np.abs(a64) @ np.abs(b64) + np.abs(extra)) + TINY[a.dtype.type]
    return a64 @ b64 + extra, bound


class Products(NamedTuple):
    """Arguments of the dense products, and (value, bound) of each."""

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    dz: np.ndarray
    forward: tuple[np.ndarray, np.ndarray]
    backward_input: tuple[np.ndarray, np.ndarray]
    backward_weights: tuple[np.ndarray, np.ndarray]
    backward_bias: tuple[np.ndarray, np.ndarray]


@functools.cache
def products(dtype: type) -> list[Products]:
    """Worked out once for all instruction sets."""
    rng = np.random.default_rng(0)
    cases = []
    for n, inputs, outputs in triples():
        x, w = normal(rng, (n, inputs), dtype), normal(rng, (inputs, outputs), dtype)
        dz, b = normal(rng, (n, outputs), dtype), normal(rng, (outputs,), dtype)
        value, bound = product(np.ones((1, n), dtype), dz)
        cases.append(
            Products(
                *(x, w, b, dz),
                *(product(x, w, b.astype(np.float64)), product(dz, w.T), product(x.T, dz), (value[0], bound[0])),
            )
        )
    return cases


def assert_within(result: np.ndarray, expected: tuple[np.ndarray, np.ndarray]) -> None:
    assert result.shape == expected[0].shape
    assert bool((np.abs(result - expected[0]) <= expected[1]).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_products(native: Any, dtype: type) -> None:
    for place, case in enumerate(products(dtype)):
        how = parity.LAYOUTS[place % len(parity.LAYOUTS)]
        other = parity.LAYOUTS[place // len(parity.LAYOUTS) % len(parity.LAYOUTS)]
        x, w, dz = parity.strided(case.x, how), parity.strided(case.w, other), parity.strided(case.dz, how)
        z = native.dense_forward(x, w, case.b, "linear", 0.0, None)
        assert z.dtype == dtype
        assert_within(z, case.forward)
        # The bias is one rounded addition after the sum.
        np.testing.assert_array_equal(native.dense_forward(x, w, None, "linear", 0.0, None) + case.b, z)
        assert_within(native.dense_backward_input(dz, w, None), case.backward_input)
        assert_within(native.dense_backward_weights(x, dz, None), case.backward_weights)
        assert_within(native.dense_backward_bias(dz, None), case.backward_bias)


@pytest.mark.parametrize("how", parity.LAYOUTS)
def test_layout_does_not_change_a_bit(native: Any, how: str) -> None:
    rng = np.random.default_rng(1)
    for dtype in DTYPES:
        for n, inputs, outputs in ((33, 17, 9), (8, 257, 65), (1, 31, 64)):
            arrays = [normal(rng, shape, dtype) for shape in ((n, inputs), (inputs, outputs), (n, outputs))]
            x, w, dz = (parity.strided(a, how) for a in arrays)
            before = [a.copy() for a in (x, w, dz)]
            for name, given, plain in (
                ("dense_forward", (x, w, None, "gelu", 0.0, None), (arrays[0], arrays[1], None, "gelu", 0.0, None)),
                ("dense_backward_input", (dz, w, None), (arrays[2], arrays[1], None)),
                ("dense_backward_weights", (x, dz, None), (arrays[0], arrays[2], None)),
                ("dense_backward_bias", (dz, None), (arrays[2], None)),
                ("activation_forward", ("softmax", 0.0, x, None), ("softmax", 0.0, arrays[0], None)),
                ("activation_backward", ("mish", 0.0, x, x, None), ("mish", 0.0, arrays[0], arrays[0], None)),
                ("dropout_forward", (x, 0.5, 1, 16, 2, None), (arrays[0], 0.5, 1, 16, 2, None)),
            ):
                function = getattr(native, name)
                np.testing.assert_array_equal(function(*given), function(*plain), err_msg=name)
            for a, b in zip((x, w, dz), before, strict=True):
                np.testing.assert_array_equal(a, b)  # never written to


def test_strides_of_zero(native: Any) -> None:
    """Repeated rows and columns are read where they are."""
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        row, column = normal(rng, (1, 65), dtype), normal(rng, (33, 1), dtype)
        w, dz = normal(rng, (65, 17), dtype), normal(rng, (33, 17), dtype)
        for x in (
            np.broadcast_to(row, (33, 65)),
            np.broadcast_to(column, (33, 65)),
            np.broadcast_to(row[:, :1], (33, 65)),
        ):
            assert 0 in x.strides
            full = np.ascontiguousarray(x)
            for name, given, plain in (
                ("dense_forward", (x, w, None, "tanh", 0.0, None), (full, w, None, "tanh", 0.0, None)),
                ("dense_backward_weights", (x, dz, None), (full, dz, None)),
                ("activation_forward", ("gelu", 0.0, x, None), ("gelu", 0.0, full, None)),
                ("activation_forward", ("softmax", 0.0, x, None), ("softmax", 0.0, full, None)),
            ):
                np.testing.assert_array_equal(
                    getattr(native, name)(*given), getattr(native, name)(*plain), err_msg=name
                )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_activation_in_the_epilogue(native: Any, name: str, dtype: type) -> None:
    """Fused or apart, an activation gives the same bits."""
    rng = np.random.default_rng(2)
    alpha = parity.ALPHA.get(name, 0.0)
    for n, inputs, outputs in ((1, 7, 1), (7, 16, 33), (17, 31, 10), (65, 9, 64)):
        x, w, b = normal(rng, (n, inputs), dtype), normal(rng, (inputs, outputs), dtype), normal(rng, (outputs,), dtype)
        z = native.dense_forward(x, w, b, "linear", 0.0, None)
        fused = native.dense_forward(x, w, b, name, alpha, None)
        np.testing.assert_array_equal(fused, native.activation_forward(name, alpha, z, None))


# Relative accuracy asked of an elementwise function, in eps. float32 GELU is compared with a float64 evaluation;
# the arguments reach 20, where exp multiplies the rounding of z^2 / 2 by up to 200.
def elementwise_bound(name: str, dtype: type, z: np.ndarray, expected: np.ndarray) -> np.ndarray:
    relative = {"gelu": 16 + z * z, "gelu_tanh": 16 + 4 * np.abs(z) ** 3, "mish": 16, "silu": 16}.get(name, 12)
    return relative * EPS[dtype] * np.abs(expected) + TINY[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_activation(native: Any, name: str, dtype: type) -> None:
    rng = np.random.default_rng(3)
    alpha = parity.ALPHA.get(name, 0.0)
    for size in parity.SIZES:
        z = np.clip(4 * rng.normal(size=size), -20, 20).astype(dtype)
        expected = fallback.activation_forward(name, alpha, z)
        result = native.activation_forward(name, alpha, z, None)
        assert result.dtype == dtype
        z64 = z.astype(np.float64)
        bound = elementwise_bound(name, dtype, z64, expected.astype(np.float64))
        worst = np.abs(result.astype(np.float64) - expected) / bound
        assert worst.max(initial=0) <= 1, (size, z[worst.argmax()], worst.max())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_derivative(native: Any, name: str, dtype: type) -> None:
    rng = np.random.default_rng(4)
    alpha = parity.ALPHA.get(name, 0.0)
    for size in parity.SIZES:
        z = np.clip(3 * rng.normal(size=size), -12, 12).astype(dtype)
        dy = normal(rng, (size,), dtype)
        saved = z if name in NEEDS_Z else fallback.activation_forward(name, alpha, z)
        expected = fallback.activation_backward(name, alpha, dy, saved)
        result = native.activation_backward(name, alpha, dy, saved, None)
        # Terms of order 1 cancel in derivatives; gelu_tanh adds the cube's error in the gate's argument.
        bound = (40 if name in NEEDS_Z else 8) * EPS[dtype] * np.abs(dy.astype(np.float64)) + TINY[dtype]
        assert bool((np.abs(result.astype(np.float64) - expected) <= bound).all()), size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_special_values(native: Any, name: str, dtype: type) -> None:
    """NaN, infinities, the largest and the smallest numbers, signed zeros."""
    info = np.finfo(dtype)
    z = np.array([np.nan, np.inf, -np.inf, info.max, -info.max, info.tiny, -info.tiny, 0.0, -0.0, 50, -50], dtype)
    alpha = parity.ALPHA.get(name, 0.0)
    if name == "softmax":
        z = np.array([[0, np.nan, 1], [info.max, -info.max, 0], [0, -np.inf, 0]], dtype)
    expected = fallback.activation_forward(name, alpha, z)
    result = native.activation_forward(name, alpha, z, None)
    np.testing.assert_allclose(result, expected, rtol=64 * EPS[dtype], atol=2 * float(info.tiny))
    saved = z if name in NEEDS_Z else expected
    dy = np.ones_like(z)
    np.testing.assert_allclose(
        native.activation_backward(name, alpha, dy, saved, None),
        fallback.activation_backward(name, alpha, dy, saved),
        rtol=64 * EPS[dtype],
        atol=64 * EPS[dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(native: Any, dtype: type) -> None:
    rng = np.random.default_rng(5)
    for place, width in enumerate(parity.SIZES):
        n = parity.SIZES[(3 * place + 1) % len(parity.SIZES)]
        z, dy = (5 * rng.normal(size=(n, width))).astype(dtype), normal(rng, (n, width), dtype)
        y = fallback.activation_forward("softmax", 0.0, z)
        # The exponent's argument, up to 40, is rounded; then a sum of positive terms and a division.
        np.testing.assert_allclose(
            native.activation_forward("softmax", 0.0, z, None), y, rtol=(80 + width) * EPS[dtype], atol=TINY[dtype]
        )
        expected = fallback.activation_backward("softmax", 0.0, dy, y)
        result = native.activation_backward("softmax", 0.0, dy, y, None)
        scale = np.abs(dy).max(initial=0)
        np.testing.assert_allclose(result, expected, rtol=0, atol=2 * (width + 4) * EPS[dtype] * scale + TINY[dtype])


@pytest.mark.parametrize("weighted", [False, True], ids=("plain", "weighted"))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", LOSSES)
def test_loss(native: Any, kind: str, dtype: type, weighted: bool) -> None:
    rng = np.random.default_rng(6)
    for place, width in enumerate(WIDTHS):
        n = parity.SIZES[(5 * place + 2) % len(parity.SIZES)]
        how = parity.LAYOUTS[place % len(parity.LAYOUTS)]
        t, p = parity.targets_for(kind, rng, n, width, dtype), parity.predictions_for(kind, rng, n, width, dtype)
        weights = rng.random(n).astype(dtype) if weighted else None
        t, p = parity.strided(t, how), parity.strided(p, how)
        expected = fallback.loss_forward(kind, 0.9, t, p)
        losses = native.loss_forward(kind, 0.9, t, p)
        assert losses.dtype == np.float64
        # A mean or sum of `width` terms, none larger than about 20; the NumPy side sums in float64, the native in T.
        np.testing.assert_allclose(losses, expected, rtol=(width + 40) * EPS[dtype], atol=(width + 40) * EPS[dtype])
        expected = fallback.loss_backward(kind, 0.9, t, p, weights, 0.125)
        gradient = native.loss_backward(kind, 0.9, t, p, weights, 0.125, None)
        assert gradient.dtype == dtype
        # Relative for the elementwise ones; the softmax of (width) terms minus the target cancels at order 1.
        np.testing.assert_allclose(
            gradient,
            expected,
            rtol=16 * EPS[dtype],
            atol=0.125 * (width + 60) * EPS[dtype] / (1 if "cat" in kind else width),
        )


@pytest.mark.parametrize("kind", LOSSES)
def test_loss_kinks(native: Any, kind: str) -> None:
    """Both sides take the same branch exactly at every kink and clip."""
    t = np.array([[0.0, 1.0, 1.0, 0.0, 0.0, -1.0, 1.0, 0.0]])
    p = np.array([[0.0, 1.0, 0.0, 1.0, 0.9, 1.0, 1e-7, 1 - 1e-7]])
    if kind.endswith("categorical_cross_entropy"):
        p[0, :2] = 0.0, 1.0
    target = np.array([4]) if kind.startswith("sparse_") else t
    for dtype in DTYPES:
        given = target if kind.startswith("sparse_") else t.astype(dtype)
        expected = fallback.loss_backward(kind, 0.9, given, p.astype(dtype), None, 1.0)
        result = native.loss_backward(kind, 0.9, given, p.astype(dtype), None, 1.0, None)
        np.testing.assert_allclose(result, expected, rtol=16 * EPS[dtype], atol=8 * EPS[dtype])
        np.testing.assert_allclose(
            native.loss_forward(kind, 0.9, given, p.astype(dtype)),
            fallback.loss_forward(kind, 0.9, given, p.astype(dtype)),
            rtol=16 * EPS[dtype],
            atol=8 * EPS[dtype],
        )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sgd(native: Any, dtype: type, nesterov: bool) -> None:
    rng = np.random.default_rng(7)
    for size in parity.SIZES:
        for momentum in (0.0, 0.9):
            w, g, v = (normal(rng, (size,), dtype) for _ in range(3))
            ours, theirs = [w.copy(), v.copy()], [w.copy(), v.copy()]
            native.sgd_update(ours[0], g, ours[1] if momentum else None, 0.1, momentum, nesterov)
            fallback.sgd_update(theirs[0], g, theirs[1] if momentum else None, 0.1, momentum, nesterov)
            for a, b in zip(ours, theirs, strict=True):
                # Fused multiply-adds on one side: a rounding or two of terms of order 1 to 5.
                np.testing.assert_allclose(a, b, rtol=0, atol=16 * EPS[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_is_equal(native: Any, dtype: type) -> None:
    rng = np.random.default_rng(8)
    for place, width in enumerate(parity.SIZES):
        n = parity.SIZES[(7 * place + 3) % len(parity.SIZES)]
        x = normal(rng, (n, width), dtype)
        for rate, key, stream, step in ((0.0, 0, 16, 0), (0.3, 2**64 - 3, 17, 2**47 + 1), (0.999, 5, 0xFFFF, 2**32)):
            expected = fallback.dropout_forward(x, rate, key, stream, step)
            np.testing.assert_array_equal(native.dropout_forward(x, rate, key, stream, step, None), expected)


def test_dropout_at_the_threshold_is_equal(native: Any) -> None:
    x = np.ones((1, 33), np.float32)
    for word in fallback.philox(7, 16, 0, 4).tolist():
        for rate in (word / 2**32, (word + 1) / 2**32):
            expected = fallback.dropout_forward(x, rate, 7, 16, 0)
            np.testing.assert_array_equal(native.dropout_forward(x, rate, 7, 16, 0, None), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_metrics(native: Any, dtype: str) -> None:
    """Hits are whole numbers and must be equal, ties, NaN and halves included; means are sums in float64."""
    rng = np.random.default_rng(10)
    kinds = ("binary_accuracy", "categorical_accuracy", "mean_squared_error", "mean_absolute_error", "r2")
    for width in (1, 2, 10, 17, 33):
        b = parity.Builder(width, dtype)
        program = b.program(b.activation(0, "linear"))
        p = (rng.integers(0, 5, (65, width)) / 4).astype(dtype)
        t = (rng.integers(0, 5, (65, width)) / 4).astype(dtype)
        weights = rng.random(65).astype(dtype)
        odd = p.copy()
        odd[3, width // 2] = np.nan
        labels = rng.integers(0, width, 65)
        results = []
        for backend in (native, fallback):
            network = backend.Network(program)
            network.set_metrics([(kind, 0.5) for kind in kinds])
            for w in (None, weights):
                network.load_batch(p, t, w, None, 0, 65)
                network.forward(0, 1, False)
                network.loss(False)
            sums = network.get_metrics()[1:]
            for metric, y in (("categorical_accuracy", t), ("sparse_categorical_accuracy", labels)):
                network.set_metrics([(metric, 0.0)])
                network.load_batch(odd, y, None, None, 0, 65)
                network.forward(0, 1, False)
                network.loss(False)
                sums.append(network.get_metrics()[1])
            results.append(sums)
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def test_philox_is_equal(native: Any) -> None:
    for count in (*parity.SIZES, 100_003):
        for key, stream, step in ((0, 0, 0), (2**64 - 1, 0xFFFF, 2**48 - 1), (12345, 3, 2**33)):
            np.testing.assert_array_equal(
                native.philox(key, stream, step, count), fallback.philox(key, stream, step, count)
            )


@pytest.mark.parametrize("bad", [-1, 10])
def test_bad_labels_raise_alike(native: Any, bad: int) -> None:
    p, labels = np.zeros((4, 10)), np.array([0, 9, bad, 3])
    for backend in (native, fallback):
        with pytest.raises(ValueError, match=rf"\[0, 10\).*received {bad} (in|at) row 2"):
            backend.loss_forward("sparse_categorical_cross_entropy_logits", 0.0, labels, p)


# -- whole training runs ---------------------------------------------------------------------------------------------


def training_program(widths: list[int], smooth: bool, dtype: str, dropout: bool, kind: str) -> Program:
    """Dense layers with every kind of saved value, dropout between them, a shared kernel where widths agree."""
    names = ("gelu", "tanh", "silu", "sigmoid") if smooth else ("relu", "leaky_relu", "elu", "mish")
    b = parity.Builder(widths[0], dtype)
    x = 0
    for place, width in enumerate(widths[1:-1]):
        x = b.dense(x, width, names[place % 4], bias=place % 3 != 2)
        if dropout:
            x = b.dropout(x, 0.25, 16 + place)
        if place == 1 and width <= 33:
            shared = b.weights(width, width)
            x = b.dense(x, width, "tanh", parameters=shared)
            x = b.dense(x, width, "softsign", parameters=shared)
    x = b.dense(x, widths[-1])
    if kind == "binary_cross_entropy":
        x = b.activation(x, "sigmoid")
    return b.program(b.activation(x, "softmax") if kind.endswith("categorical_cross_entropy") else x)


def train(
    backend: Any, program: Program, kind: str, batch: int, weighted: bool, layout: str = "contiguous", steps: int = 6
) -> Any:
    rng = np.random.default_rng(9)
    width = program.widths[program.outputs[0]]
    rows = 5 * batch // 2 + 1
    x = parity.strided(rng.normal(size=(rows, program.widths[0])).astype(program.dtype), layout)
    y = parity.targets_for(kind, rng, rows, width, program.dtype)
    weights = rng.random(rows).astype(program.dtype) if weighted else None
    network = parity.make_network(backend, program, parity.random_parameters(program, rng), key=2**63 + 11)
    network.set_loss(kind, 1.0)
    network.set_optimizer("sgd", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": 1.0})
    sparse = kind.startswith("sparse_")
    network.set_metrics(
        [("sparse_categorical_accuracy", 0.0)] if sparse else [("mean_squared_error", 0.0), ("r2", 0.0)]
    )
    epoch = 0
    while network.step < steps:
        order = np.random.default_rng(epoch).permutation(rows).astype(np.int64)
        begin = 0
        while begin < rows:
            begin = network.train_steps(x, y, weights, order, batch, begin, rows, 0.001)
        epoch += 1
    network.evaluate_steps(x, y, weights, None, batch, 0, rows, 1e9)
    out = np.empty((rows, width), program.dtype)
    begin = 0
    while begin < rows:
        begin = network.predict(x, out, begin, rows, 0.0)
    return network, out


def assert_same_run(native: Any, program: Program, kind: str, batch: int, weighted: bool, tolerance: float) -> None:
    ours, out = train(native, program, kind, batch, weighted)
    theirs, expected = train(fallback, program, kind, batch, weighted)
    assert ours.step == theirs.step
    for i in range(len(program.parameters)):
        assert parity.difference(ours.get_parameter(i), theirs.get_parameter(i)) < tolerance
        assert parity.difference(ours.get_slot("momentum", i), theirs.get_slot("momentum", i)) < 30 * tolerance
    assert parity.difference(out, expected) < 10 * tolerance
    for a, b in zip(ours.get_metrics(), theirs.get_metrics(), strict=True):
        np.testing.assert_allclose(a, b, rtol=30 * tolerance, atol=30 * tolerance * max(1.0, float(np.abs(b).max())))


def runs() -> list[tuple[list[int], int]]:
    """(widths, batch): sizes rotate through the places."""
    sizes = WIDTHS
    count = len(sizes)
    return [
        ([sizes[i], sizes[(i * 4 + 3) % count], sizes[(i * 7 + 5) % count], sizes[(i * 2 + 1) % count]], sizes[-1 - i])
        for i in range(count)
    ]


@pytest.mark.parametrize("place", range(len(runs())))
def test_training_in_float64(native: Any, place: int) -> None:
    """Roundings of 1e-16 grow through steps of large gradients, up to a millionfold; a wrong term shows at 1e-3."""
    widths, batch = runs()[place]
    kind = LOSSES[place % len(LOSSES)]
    if widths[-1] == 1 and "categorical" in kind:
        kind = "mean_squared_error"
    smooth = kind not in ("mean_absolute_error", "hinge", "perceptron")
    program = training_program(widths, place % 2 == 0, "float64", True, kind)
    assert_same_run(native, program, kind, batch, place % 3 == 0, 1e-10 if smooth else 1e-9)


@pytest.mark.parametrize("place", range(len(runs())))
def test_training_in_float32(native: Any, place: int) -> None:
    """Smooth activations and losses only: near a kink one rounding would choose another branch."""
    widths, batch = runs()[place]
    kinds = (
        "mean_squared_error",
        "huber",
        "binary_cross_entropy_logits",
        "categorical_cross_entropy_logits",
        "sparse_categorical_cross_entropy_logits",
    )
    kind = kinds[place % len(kinds)] if widths[-1] > 1 else "mean_squared_error"
    program = training_program(widths, True, "float32", True, kind)
    assert_same_run(native, program, kind, batch, place % 3 == 0, 2e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 2e-5)])
@pytest.mark.parametrize("batch", [3, 70, 1100])
def test_training_of_large_kernels(native: Any, batch: int, dtype: str, tolerance: float) -> None:
    """These are stored in parts of a few columns. Sums over many rows are cut, and their operands packed."""
    program = training_program([40, 333, 517, 270, 7], True, dtype, False, "mean_squared_error")
    assert_same_run(native, program, "mean_squared_error", batch, False, tolerance)


@pytest.mark.parametrize("layout", parity.LAYOUTS)
def test_training_from_any_layout_is_equal(native: Any, layout: str) -> None:
    program = training_program([17, 33, 16, 10], False, "float32", True, "sparse_categorical_cross_entropy_logits")
    kind = "sparse_categorical_cross_entropy_logits"
    plain, plain_out = train(native, program, kind, 32, True)
    other, other_out = train(native, program, kind, 32, True, layout)
    np.testing.assert_array_equal(plain_out, other_out)
    for i in range(len(program.parameters)):
        np.testing.assert_array_equal(plain.get_parameter(i), other.get_parameter(i))


def test_dropout_masks_follow_the_step(native: Any) -> None:
    b = parity.Builder(257, "float32")
    program = b.program(b.dropout(0, 0.5, 16))
    x = np.ones((65, 257), np.float32)
    values = []
    for backend in (native, fallback):
        network = backend.Network(program)
        network.key = 2**64 - 5
        for step in (0, 1, 2**40):
            network.step = step
            network.load_batch(x, None, None, None, 0, 65)
            network.forward(0, 1, True)
            values.append(network.get_value(1))
        network.forward(0, 1, False)
        np.testing.assert_array_equal(network.get_value(1), x)
    for a, b_ in zip(values[:3], values[3:], strict=True):
        np.testing.assert_array_equal(a, b_)
    assert not np.array_equal(values[0], values[1])


def test_fused_instruction_sets_give_the_same_bits() -> None:
    """All but the generic one, which multiplies and adds apart."""
    sets = [name for name in parity.instruction_sets() if name != "generic"]
    assert sets
    digests = set()
    for name in sets:
        digest = hashlib.sha256()
        with parity.forced(name) as native:
            for dtype in ("float32", "float64"):
                program = training_program([65, 257, 33, 10], False, dtype, True, "mean_squared_error")
                network, out = train(native, program, "mean_squared_error", 64, True)
                digest.update(out.tobytes())
                for i in range(len(program.parameters)):
                    digest.update(network.get_parameter(i).tobytes())
        digests.add(digest.hexdigest())
    assert len(digests) == 1


def test_a_state_moves_between_backends(native: Any) -> None:
    """Parameters, momentum, step and key are the whole state: half a run here and half there is the whole run."""
    program = training_program([9, 16, 17, 8], True, "float64", True, "mean_squared_error")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 9)), rng.normal(size=(64, 8))
    parameters = parity.random_parameters(program, rng)

    def fresh(backend: Any) -> Any:
        network = parity.make_network(backend, program, parameters, key=3)
        network.set_loss("mean_squared_error", 0.0)
        network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
        return network

    whole = fresh(fallback)
    whole.train_steps(x, y, None, None, 8, 0, 64, 1e9)
    for first, second in ((native, fallback), (fallback, native)):
        a, b = fresh(first), fresh(second)
        a.train_steps(x, y, None, None, 8, 0, 32, 1e9)
        b.key, b.step = a.key, a.step
        for i in range(len(parameters)):
            b.set_parameter(i, a.get_parameter(i))
            b.set_slot("momentum", i, a.get_slot("momentum", i))
        b.train_steps(x, y, None, None, 8, 32, 64, 1e9)
        assert b.step == whole.step == 8
        for i in range(len(parameters)):
            assert parity.difference(b.get_parameter(i), whole.get_parameter(i)) < 1e-13

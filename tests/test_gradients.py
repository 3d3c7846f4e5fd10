"""Gradients of whole networks against central differences, in float64, on every backend.

The difference quotient (f(w + h) - f(w - h)) / 2h with h = 1e-5 errs by h^2 f''' / 6, about 1e-10, and by rounding,
eps f / h, about 1e-11; so 1e-6 of the largest gradient of an array, plus 1e-9, is a bound with room that no wrong
formula meets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import parity
import pytest
import reference
from pure import BACKENDS

from fastperceptron.program import LOSSES, Program

H = 1e-5
N = 5
DELTA = 0.8

#: Distance from the nearest kink that every argument must keep: 100 times what a step of H can move it.
ROOM = 1e-3
KINKED = {"relu", "leaky_relu", "elu", "selu", "step"}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return parity.load_backend(request.param)


def finish(b: parity.Builder, x: int, kind: str, width: int) -> Program:
    """An output in the domain of the loss."""
    if kind == "binary_cross_entropy":
        return b.program(b.dense(x, width, "sigmoid"))
    y = b.dense(x, width)
    return b.program(b.activation(y, "softmax") if kind.endswith("categorical_cross_entropy") else y)


def random_program(seed: int, kind: str) -> Program:
    """Dense layers, activations, softmax, dropout and shared kernels in random order."""
    rng = np.random.default_rng(seed)
    b = parity.Builder(int(rng.integers(2, 6)))
    names = [*parity.ELEMENTWISE]
    x, stream = 0, 16
    zeros = False  # whether the value holds exact zeros, on which no kinked activation may stand
    for _ in range(int(rng.integers(2, 6))):
        name = names[int(rng.integers(len(names)))]
        choice = int(rng.integers(6))
        if choice == 2 and zeros and name in KINKED:
            name = "mish"
        zeros = choice == 4 or (choice != 3 and name in ("relu", "step")) or (choice == 2 and zeros)
        match choice:
            case 0 | 1:
                x = b.dense(x, int(rng.integers(2, 7)), name, bias=bool(rng.integers(2)))
            case 2:
                x = b.activation(x, name)
            case 3:
                x = b.activation(x, "softmax")
            case 4:
                x, stream = b.dropout(x, 0.3, stream), stream + 1
            case 5:  # one square kernel, used twice
                shared = b.weights(b.widths[x], b.widths[x])
                x = b.dense(x, b.widths[x], name, parameters=shared)
                x = b.dense(x, b.widths[x], "tanh", parameters=shared)
    return finish(b, x, kind, int(rng.integers(2, 5)))


def away_from_kinks(program: Program, kind: str, y: np.ndarray, step: reference.Step) -> bool:
    for i, z in step.z.items():
        if program.operations[i].activation in KINKED and np.abs(z).min() < ROOM:
            return False
    p = step.values[program.outputs[0]]
    match kind:
        case "mean_absolute_error":
            return bool(np.abs(p - y).min() > ROOM)
        case "huber":
            return bool(np.abs(np.abs(p - y) - DELTA).min() > ROOM)
        case "hinge":
            return bool(np.abs(1 - y * p).min() > ROOM)
        case "perceptron":
            return bool(np.abs(p).min() > ROOM)
    return True


def draw(
    program: Program, kind: str, seed: int, weighted: bool
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray | None]:
    """Parameters and a batch with room around every kink."""
    for attempt in range(200):
        rng = np.random.default_rng([seed, attempt])
        parameters = parity.random_parameters(program, rng)
        x = rng.normal(size=(N, program.widths[0]))
        y = parity.targets_for(kind, rng, N, program.widths[program.outputs[0]])
        weights = rng.uniform(0.2, 2, N) if weighted else None
        step = reference.train_step(program, parameters, parameters, x, y, weights, kind=kind, delta=DELTA, key=5)
        if away_from_kinks(program, kind, y, step):
            return parameters, x, y, weights
    raise AssertionError("no batch away from kinks in 200 draws")


def backward(network: Any, program: Program) -> float:
    operations = len(program.operations)
    network.forward(0, operations, True)
    cost = float(network.loss(True))
    network.backward(0, operations)
    return cost


def central_differences(network: Any, program: Program, parameters: list[np.ndarray], cost: Any) -> list[np.ndarray]:
    quotients = []
    for i, p in enumerate(parameters):
        q = np.zeros(p.shape)
        for at in np.ndindex(*p.shape):
            moved = p.copy()
            values = []
            for h in (H, -H):
                moved[at] = p[at] + h
                network.set_parameter(i, moved)
                network.forward(0, len(program.operations), True)
                values.append(cost())
            q[at] = (values[0] - values[1]) / (2 * H)
        network.set_parameter(i, p)
        quotients.append(q)
    return quotients


def assert_close(gradient: np.ndarray, quotient: np.ndarray) -> None:
    np.testing.assert_allclose(gradient, quotient, rtol=1e-6, atol=1e-9 + 1e-6 * np.abs(quotient).max(initial=0))


def check(backend: Any, program: Program, kind: str, seed: int, weighted: bool) -> None:
    parameters, x, y, weights = draw(program, kind, seed, weighted)
    network = parity.make_network(backend, program, parameters, key=5)
    network.set_loss(kind, DELTA)
    network.load_batch(x, y, weights, None, 0, N)
    cost = backward(network, program)
    gradients = [network.get_gradient(i) for i in range(len(parameters))]
    expected = reference.train_step(program, parameters, parameters, x, y, weights, kind=kind, delta=DELTA, key=5)
    assert cost == pytest.approx(expected.cost, rel=1e-12)
    quotients = central_differences(network, program, parameters, lambda: network.loss(False))
    for gradient, quotient, oracle in zip(gradients, quotients, expected.gradients, strict=True):
        assert_close(gradient, quotient)
        # The chain rule in exact sums is a sharper judge than differences.
        np.testing.assert_allclose(gradient, oracle, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True], ids=("plain", "weighted"))
@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_in_random_networks(backend: Any, kind: str, weighted: bool) -> None:
    for seed in range(3):
        program = random_program(100 * LOSSES.index(kind) + 10 * seed + weighted, kind)
        check(backend, program, kind, seed, weighted)


@pytest.mark.parametrize("name", parity.ELEMENTWISE)
def test_every_activation(backend: Any, name: str) -> None:
    """Fused into a dense layer below another one, as the output, and as an operation of its own."""
    b = parity.Builder(3)
    h = b.dense(b.dense(0, 4, "tanh"), 5, name)
    program = b.program(b.dense(b.activation(b.dense(h, 4), name), 3, name))
    check(backend, program, "mean_squared_error", 1, True)


@pytest.mark.parametrize("seed", range(8))
def test_random_networks(backend: Any, seed: int) -> None:
    check(backend, random_program(7000 + seed, "mean_squared_error"), "mean_squared_error", seed, False)


def test_a_shared_kernel_gets_the_sum_of_both_paths(backend: Any) -> None:
    """cost = (w^2 x - t)^2: by hand, d/dw = 2 (w^2 x - t) 2 w x."""
    b = parity.Builder(1)
    shared = b.weights(1, 1, bias=False)
    h = b.dense(0, 1, parameters=shared)
    program = b.program(b.dense(h, 1, parameters=shared))
    network = parity.make_network(backend, program, [np.array([[1.5]])])
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(np.array([[2.0]]), np.array([[1.0]]), None, None, 0, 1)
    assert backward(network, program) == pytest.approx((4.5 - 1) ** 2)
    assert network.get_gradient(0)[0, 0] == pytest.approx(2 * (4.5 - 1) * 2 * 1.5 * 2)


@pytest.mark.parametrize("follower", ["dense", "activation", "dropout"])
@pytest.mark.parametrize("name", ["gelu", "tanh", "relu"])
def test_a_value_with_two_paths_gets_the_sum_of_both(backend: Any, name: str, follower: str) -> None:
    """The loss sees h through the rest of the network; a gradient written from outside pulls at h itself."""
    b = parity.Builder(3)
    h = b.dense(0, 5, name)
    match follower:
        case "dense":
            x_next = b.dense(h, 6, "tanh")
        case "activation":
            x_next = b.activation(h, "silu")
        case _:
            x_next = b.dropout(h, 0.3, 16)
    program = b.program(b.dense(x_next, 4))
    parameters, x, y, _ = draw(program, "mean_squared_error", 3, False)
    pull = np.random.default_rng(0).normal(size=(N, 5))
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(x, y, None, None, 0, N)
    operations = len(program.operations)
    network.forward(0, operations, True)
    network.loss(True)
    network.set_value_gradient(h, pull)
    network.backward(0, operations)
    gradients = [network.get_gradient(i) for i in range(len(parameters))]
    quotients = central_differences(
        network, program, parameters, lambda: network.loss(False) + float((pull * network.get_value(h)).sum())
    )
    for gradient, quotient in zip(gradients, quotients, strict=True):
        assert_close(gradient, quotient)


def test_backward_in_pieces_adds_up(backend: Any) -> None:
    """Segments, as around a layer written in Python, give the gradients of the whole."""
    program = random_program(12345, "mean_squared_error")
    parameters, x, y, _ = draw(program, "mean_squared_error", 4, False)
    network = parity.make_network(backend, program, parameters, key=5)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(x, y, None, None, 0, N)
    backward(network, program)
    whole = [network.get_gradient(i) for i in range(len(parameters))]
    operations = len(program.operations)
    for i in range(operations):
        network.forward(i, i + 1, True)
    network.loss(True)
    for i in reversed(range(operations)):
        network.backward(i, i + 1)
    for i, gradient in enumerate(whole):
        np.testing.assert_allclose(network.get_gradient(i), gradient, rtol=1e-13, atol=1e-15)


def test_frozen_parameters_leave_the_other_gradients_as_they_are(backend: Any) -> None:
    b = parity.Builder(3)
    program = b.program(b.dense(b.dense(b.dense(0, 4, "gelu"), 4, "tanh"), 2))
    parameters, x, y, _ = draw(program, "mean_squared_error", 5, False)
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(x, y, None, None, 0, N)
    backward(network, program)
    free = [network.get_gradient(i) for i in range(6)]
    network.set_trainable([False, True, False, False, True, False])
    network.load_batch(x, y, None, None, 0, N)
    backward(network, program)
    for i in (1, 4):
        np.testing.assert_array_equal(network.get_gradient(i), free[i])


def test_the_step_activation_stops_every_gradient(backend: Any) -> None:
    """Its derivative is 0 by definition."""
    b = parity.Builder(3)
    program = b.program(b.dense(b.dense(0, 4, "step"), 2))
    parameters, x, y, _ = draw(program, "mean_squared_error", 6, False)
    network = parity.make_network(backend, program, parameters)
    network.set_loss("mean_squared_error", 0.0)
    network.load_batch(x, y, None, None, 0, N)
    backward(network, program)
    assert not network.get_gradient(0).any()
    assert network.get_gradient(2).any()


@pytest.mark.parametrize("kind", LOSSES)
def test_float32_follows_float64(backend: Any, kind: str) -> None:
    """The same network in both precisions: a gradient is a sum of at most 100 rounded terms, 100 * 2^-24 = 6e-6."""
    for seed in range(5):
        program = random_program(900 + seed, kind)
        parameters, x, y, _ = draw(program, kind, seed, False)
        single = [p.astype(np.float32) for p in parameters]
        gradients = []
        for dtype, values in (("float64", [p.astype(np.float64) for p in single]), ("float32", single)):
            network = parity.make_network(backend, program._replace(dtype=dtype), values, key=5)
            network.set_loss(kind, DELTA)
            network.load_batch(
                x.astype(np.float32), y if y.dtype == np.int64 else y.astype(np.float32), None, None, 0, N
            )
            backward(network, program)
            gradients.append([network.get_gradient(i) for i in range(len(parameters))])
        for double, half in zip(*gradients, strict=True):
            assert half.dtype == np.float32
            # Relative to the whole gradient: single entries may cancel.
            np.testing.assert_allclose(half, double, rtol=0, atol=6e-6 * max(1.0, np.abs(double).max(initial=0)))

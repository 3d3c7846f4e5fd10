"""What is between two dense products of mixed precision exists packed, in bfloat16, alone, where the path can do that;
the pieces of a step keep all of it in float32. Both must give the same bits, as rounding later is rounding earlier."""

from __future__ import annotations

import numpy as np
import pytest
from parity import PATHS, Builder, forced, load_backend, make_network, random_parameters
from pure import native_only

import fastperceptron as fp
from fastperceptron.program import Program

pytestmark = native_only


# Widths that fill squares of 32 and that do not; activations whose derivative reads y, z, or neither.
CHAINS = {
    "relu": ((37, 50, 33, 9), ("relu", "relu", "linear")),
    "one square": ((5, 3, 2), ("relu", "linear")),
    "halves of squares": ((20, 16, 48, 17, 5), ("relu", "gelu", "linear", "linear")),
    "kept and not": ((64, 100, 200, 40, 10), ("tanh", "leaky_relu", "sigmoid", "linear")),
    "derivatives of z": ((40, 130, 70, 64, 10), ("silu", "mish", "softplus", "linear")),
    "wide input": ((784, 128, 10), ("relu", "linear")),
    "long sums": ((33, 1100, 40, 3), ("relu", "relu", "linear")),
    "weights in parts": ((70, 517, 333, 9), ("relu", "relu", "linear")),
}


def chain(name: str) -> Program:
    widths, activations = CHAINS[name]
    builder = Builder(widths[0], "mixed_bfloat16")
    value = 0
    for width, activation in zip(widths[1:], activations, strict=True):
        value = builder.dense(value, width, activation)
    return builder.program(value)


def train(program: Program, n: int, *, whole: bool, frozen: tuple[int, ...] = (), steps: int = 3) -> list[bytes]:
    """The weights after several batches of n rows and a shorter one, twice over. What was in memory before, left by
    a larger batch that was only looked at, is not a number."""
    rng = np.random.default_rng(3)
    network = make_network(load_backend("native"), program, random_parameters(program, rng))
    network.set_trainable([i not in frozen for i in range(len(program.parameters))])
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.9})
    classes = program.widths[program.outputs[0]]
    rows = steps * n + n // 2 + 1
    x, y = rng.standard_normal((rows, program.widths[0]), np.float32), rng.integers(0, classes, rows)
    nothing = np.full((n + 40, program.widths[0]), np.nan, np.float32)
    network.evaluate_steps(nothing, np.zeros(n + 40, np.int64), None, None, n + 40, 0, n + 40, 1e9)
    for _ in range(2):
        if whole:
            network.train_steps(x, y, None, None, n, 0, rows, 1e9)
            continue
        for begin in range(0, rows, n):
            network.load_batch(x, y, None, None, begin, min(begin + n, rows))
            network.forward(0, len(program.operations), True)
            network.loss(True)
            network.backward(0, len(program.operations))
            network.update()
    return [network.get_parameter(i).tobytes() for i in range(len(program.parameters))]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CHAINS)
def test_whole_steps_have_the_bits_of_their_pieces(name: str, path: str) -> None:
    program = chain(name)
    with forced(path):
        for n in (1, 16, 31, 70, 131):
            results = {tuple(train(program, n, whole=False))}
            for threads in (1, 2, 3, 4):
                with fp.threads(threads):
                    results.add(tuple(train(program, n, whole=True)))
            assert len(results) == 1, n


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_gradients_that_share_memory_have_the_same_bits(activation: str, path: str) -> None:
    """In a large chain two memories serve all gradients in turn."""
    builder = Builder(40, "mixed_bfloat16")
    value = builder.dense(builder.dense(builder.dense(0, 300, activation), 180, "relu"), 330, activation)
    program = builder.program(builder.dense(value, 10))
    with forced(path):
        results = {tuple(train(program, 2989, whole=False, steps=1))}
        for threads in (1, 2, 4):
            with fp.threads(threads):
                results.add(tuple(train(program, 2989, whole=True, steps=1)))
        assert len(results) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("frozen", [(0, 1), (2, 3), (1, 3), (2,), (0,), (0, 2, 3)], ids=str)
def test_frozen_layers_have_the_same_bits(frozen: tuple[int, ...], path: str) -> None:
    """What nobody wants of a gradient is not made."""
    program = chain("relu")
    with forced(path):
        results = {tuple(train(program, 70, whole=False, frozen=frozen))}
        for threads in (1, 2):
            with fp.threads(threads):
                results.add(tuple(train(program, 70, whole=True, frozen=frozen)))
        assert len(results) == 1


@pytest.mark.parametrize("path", PATHS)
def test_values_that_others_read_too_have_the_same_bits(path: str) -> None:
    """A hidden layer with two readers, a sum, and dropout between products."""
    builder = Builder(50, "mixed_bfloat16")
    hidden = builder.dense(0, 70, "relu")
    left, right = builder.dense(hidden, 40, "relu"), builder.dense(hidden, 40, "tanh")
    joined = builder.dropout(builder.dense(builder.join("add", left, right), 33, "relu"), 0.3, 1)
    program = builder.program(builder.dense(builder.dense(joined, 20, "relu"), 6))
    with forced(path):
        results = {tuple(train(program, 70, whole=False))}
        for threads in (1, 2, 3):
            with fp.threads(threads):
                results.add(tuple(train(program, 70, whole=True)))
        assert len(results) == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CHAINS)
def test_predictions_have_the_bits_of_the_pieces(name: str, path: str) -> None:
    program = chain(name)
    rng = np.random.default_rng(4)
    x = rng.standard_normal((333, program.widths[0]), np.float32)
    with forced(path):
        network = make_network(load_backend("native"), program, random_parameters(program, rng))
        network.load_batch(x, None, None, None, 0, len(x))
        network.forward(0, len(program.operations), False)
        expected = network.get_value(program.outputs[0])
        for threads in (1, 2, 3):
            with fp.threads(threads):
                y = np.empty_like(expected)
                network.predict(x, y, 0, len(x), 1e9)
                assert y.tobytes() == expected.tobytes()

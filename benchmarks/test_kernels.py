"""Stateless kernels of both backends over whole arrays: dense products, activations, loss and update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastperceptron.backends import resolve
from fastperceptron.program import ACTIVATIONS, NEEDS_Z

#: Small, tall, wide and square products: (n, in, out).
PRODUCTS = [(32, 64, 64), (64, 784, 128), (1024, 64, 64), (64, 1024, 1024), (512, 512, 512)]
#: Elements and shape for what goes through memory once.
ROWS, WIDTH = 256, 512


@pytest.fixture(params=["native", "numpy"])
def backend(request: pytest.FixtureRequest) -> Any:
    return resolve(request.param)


def _normal(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


@pytest.mark.parametrize(("n", "n_in", "n_out"), PRODUCTS)
def test_dense_forward(benchmark: Any, backend: Any, n: int, n_in: int, n_out: int) -> None:
    benchmark.group = f"dense_forward, relu: ({n}, {n_in}) @ ({n_in}, {n_out})"
    benchmark.extra_info["flop"] = 2 * n * n_in * n_out
    x, w, b, y = _normal(n, n_in), _normal(n_in, n_out), _normal(n_out), np.empty((n, n_out), np.float32)
    benchmark(backend.dense_forward, x, w, b, "relu", 0.0, y)
    np.testing.assert_allclose(y, np.maximum(x @ w + b, 0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n", "n_in", "n_out"), PRODUCTS)
def test_dense_backward_input(benchmark: Any, backend: Any, n: int, n_in: int, n_out: int) -> None:
    benchmark.group = f"dense_backward_input: ({n}, {n_out}) @ ({n_in}, {n_out})^T"
    benchmark.extra_info["flop"] = 2 * n * n_in * n_out
    dz, w, dx = _normal(n, n_out), _normal(n_in, n_out), np.empty((n, n_in), np.float32)
    benchmark(backend.dense_backward_input, dz, w, dx)
    np.testing.assert_allclose(dx, dz @ w.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n", "n_in", "n_out"), PRODUCTS)
def test_dense_backward_weights(benchmark: Any, backend: Any, n: int, n_in: int, n_out: int) -> None:
    benchmark.group = f"dense_backward_weights: ({n}, {n_in})^T @ ({n}, {n_out})"
    benchmark.extra_info["flop"] = 2 * n * n_in * n_out
    x, dz, dw = _normal(n, n_in), _normal(n, n_out), np.empty((n_in, n_out), np.float32)
    benchmark(backend.dense_backward_weights, x, dz, dw)
    np.testing.assert_allclose(dw, x.T @ dz, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_forward(benchmark: Any, backend: Any, activation: str) -> None:
    benchmark.group = f"activation_forward: {activation}"
    z, y = _normal(ROWS, WIDTH), np.empty((ROWS, WIDTH), np.float32)
    benchmark(backend.activation_forward, activation, 0.1, z, y)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation_backward(benchmark: Any, backend: Any, activation: str) -> None:
    benchmark.group = f"activation_backward: {activation}"
    z, dz = _normal(ROWS, WIDTH), np.empty((ROWS, WIDTH), np.float32)
    saved = z if activation in NEEDS_Z else backend.activation_forward(activation, 0.1, z, None)
    benchmark(backend.activation_backward, activation, 0.1, _normal(ROWS, WIDTH), saved, dz)
    assert np.isfinite(dz).all()


def test_softmax_cross_entropy_backward(benchmark: Any, backend: Any) -> None:
    benchmark.group = "loss_backward: sparse_categorical_cross_entropy_logits"
    logits, gradient = _normal(ROWS, 10), np.empty((ROWS, 10), np.float32)
    labels = np.random.default_rng(1).integers(0, 10, ROWS)
    kind = "sparse_categorical_cross_entropy_logits"
    benchmark(backend.loss_backward, kind, 0.0, labels, logits, None, 1 / ROWS, gradient)
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-6)


def test_sgd_update(benchmark: Any, backend: Any) -> None:
    benchmark.group = "sgd_update: momentum 0.9"
    w, g, v = _normal(ROWS, WIDTH), np.zeros((ROWS, WIDTH), np.float32), np.zeros((ROWS, WIDTH), np.float32)
    before = w.copy()
    benchmark(backend.sgd_update, w, g, v, 0.01, 0.9, False)
    np.testing.assert_array_equal(w, before)

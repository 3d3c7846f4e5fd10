"""Layers, losses, optimizers and metrics as a user would write them, and small models to put them in."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastperceptron as fp


class MyDense(fp.Layer):
    """x w + b, all in Python."""

    def __init__(self, units: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.units = units

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.w = self.add_weight("kernel", (input_shape[0], self.units))
        self.b = self.add_weight("bias", (self.units,), "zeros")

    def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        return x @ self.w + self.b, x

    def backward(self, dy: Any, x: Any) -> tuple[Any, Any]:
        return dy @ self.w.T, {"kernel": x.T @ dy, "bias": dy.sum(axis=0)}


class MyTanh(fp.Layer):
    """No constructor, no build: the least that a layer can be."""

    def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        y = np.tanh(x)
        return y, y

    def backward(self, dy: Any, y: Any) -> tuple[Any, Any]:
        return dy * (1 - y * y), []


class MyMSE(fp.Loss):
    def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        error = y_pred - y_true
        return (error**2).mean(axis=1), 2 * error * weights[:, None] / error.size


class MySGD(fp.Optimizer):
    slot_names = ("velocity",)

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum

    def update(self, param: Any, grad: Any, slots: Any) -> None:
        slots["velocity"] *= self.momentum
        slots["velocity"] -= self.learning_rate * grad
        param += slots["velocity"]


class WorstError(fp.Metric):
    def reset_state(self) -> None:
        self.worst = 0.0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.worst = max(self.worst, float(np.abs(y_true - y_pred).max()))

    def result(self) -> float:
        return self.worst


CUSTOM: dict[str, type[Any]] = {cls.__name__: cls for cls in (MyDense, MyTanh, MyMSE, MySGD, WorstError)}


def regression(n: int = 100, width: int = 5, seed: int = 3) -> tuple[Any, Any]:
    """A noiseless nonlinear function of `width` inputs."""
    x = np.random.default_rng(seed).normal(size=(n, width))
    return x, np.sin(x.sum(axis=1, keepdims=True)) + x[:, :1]


def classification(n: int = 120, width: int = 6, classes: int = 3, seed: int = 4) -> tuple[Any, Any]:
    """Labels that a linear model can learn."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)).astype(np.float32)
    return x, (x @ rng.normal(size=(width, classes))).argmax(axis=1)


def classifier(seed: int = 0, dropout: float = 0.3, **options: Any) -> fp.Sequential:
    """A compiled model with dropout and momentum for ``classification()``."""
    layers = [fp.Dense(16, activation="relu"), fp.Dropout(dropout), fp.Dense(3)]
    model = fp.Sequential(layers, seed=seed, **options)
    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(fp.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    return model


def same_state(a: fp.Model, b: fp.Model) -> bool:
    """Whether every array of the two states has the same bits."""
    first, second = a.get_state(), b.get_state()
    return list(first) == list(second) and all(first[k].tobytes() == second[k].tobytes() for k in first)


def trained(epochs: int = 2) -> fp.Sequential:
    x, y = classification()
    model = classifier()
    model.fit(x, y, epochs=epochs, verbose=0, validation_split=0.25)
    return model


def custom_model(seed: int = 5) -> fp.Sequential:
    model = fp.Sequential([fp.Dense(6, "relu"), MyDense(4), MyTanh(), fp.Dense(1)], seed=seed)
    model.compile(MySGD(0.05), MyMSE(), metrics=[WorstError(), "mae"])
    x, y = regression()
    model.fit(x, y, epochs=2, verbose=0)
    return model

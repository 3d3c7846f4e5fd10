"""Calls of layers, losses and metrics in Python: rows in the shapes that these know, checks of all they return."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_array, check_pair, kind_of
from .errors import ShapeError
from .layer import Layer, Shape, Shapes
from .losses import Loss
from .metrics import Metric
from .program import Operation
from .weights import Weight

__all__ = [
    "checked",
    "input_gradients",
    "layer_backward",
    "layer_forward",
    "metric_result",
    "parameter_gradient",
    "value_and_grad",
]

Array = NDArray[Any]


def layer_forward(
    op: Operation, shapes: tuple[Shapes, Shape], xs: Sequence[Array], training: bool
) -> tuple[Array, Any]:
    """(y, saved) from xs, one (n, width) per value that the operation reads; y (n, width) too."""
    shape, output_shape = shapes
    n, dtype, name = len(xs[0]), xs[0].dtype, f"{op.name}.forward"
    given = [x.reshape(n, *own) for x, own in zip(xs, _each(op, shape), strict=True)]
    result = op.layer.forward(given if op.layer.takes_list else given[0], training)
    y, saved = check_pair(name, result, "(y, saved)")
    y = checked(y, (n, *output_shape), dtype, name, "y")
    return y.reshape(n, math.prod(output_shape)), saved


def layer_backward(
    op: Operation, shapes: tuple[Shapes, Shape], dy: Array, saved: Any
) -> tuple[Any, Iterator[tuple[int, Weight, Any]]]:
    """dx, and of each parameter its number, its weight and its gradient or None.

    What comes back goes through ``input_gradients`` and ``parameter_gradient`` where it is needed.
    """
    _, output_shape = shapes
    result = op.layer.backward(dy.reshape(len(dy), *output_shape), saved)
    dx, grads = check_pair(f"{op.name}.backward", result, "(dx, grads)")
    return dx, _by_parameter(op, grads)


def input_gradients(
    op: Operation, shapes: tuple[Shapes, Shape], dx: Any, dy: Array, wanted: Sequence[bool]
) -> Iterator[tuple[int, Array]]:
    """The number of each wanted value that the operation reads, and its gradient (n, width)."""
    shape, _ = shapes
    n, name = len(dy), f"{op.name}.backward"
    dxs = dx if op.layer.takes_list else (dx,)
    if not isinstance(dxs, (list, tuple)) or len(dxs) != len(op.inputs):
        raise ShapeError(f"{name}: dx must be a list of {len(op.inputs)} gradients, one per value")
    for v, own, gradient in zip(op.inputs, _each(op, shape), dxs, strict=True):
        if wanted[v]:
            yield v, checked(gradient, (n, *own), dy.dtype, name, "dx").reshape(n, math.prod(own))


def parameter_gradient(op: Operation, weight: Weight, gradient: Any, dtype: np.dtype[Any]) -> Array:
    name = f"{op.name}.backward"
    if gradient is None:
        raise ValueError(f"{name}: expected a gradient for {weight.name}; received none")
    return checked(gradient, weight.shape, dtype, name, f"the gradient of {weight.name}")


def value_and_grad(
    loss: Loss, target: Array, prediction: Array, weights: Array, training: bool
) -> tuple[Array, Array | None]:
    """(losses, dy) of a loss written in Python; dy only when training."""
    name = f"{loss.name}.value_and_grad"
    losses, dy = check_pair(name, loss.value_and_grad(target, prediction, weights), "(losses, dy)")
    losses = checked(losses, (len(target),), np.dtype(np.float64), name, "losses")
    return losses, checked(dy, prediction.shape, prediction.dtype, name, "dy") if training else None


def metric_result(metric: Metric) -> float:
    """The value of a metric written in Python."""
    return float(checked(metric.result(), (), np.dtype(np.float64), f"{metric.name}.result", "the value"))


def checked(value: Any, shape: tuple[int, ...], dtype: np.dtype[Any], operation: str, name: str) -> Array:
    """What a user's code returned, as an array of this shape and dtype, and a copy: that code may use its own again."""
    array = as_array(operation, name, value)
    if array.shape != shape:
        raise ShapeError(f"{operation}: {name} must have shape {shape}; received {array.shape}")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{operation}: {name} must hold real numbers; received dtype {array.dtype}")
    return np.array(array, dtype, order="C", subok=False)


def _each(op: Operation, shape: Shapes) -> Sequence[Shape]:
    """The shape of a row of each value that the operation reads."""
    each: Sequence[Shape] = shape if op.layer.takes_list else (shape,)
    return each


def _by_parameter(op: Operation, grads: Any) -> Iterator[tuple[int, Weight, Any]]:
    """From a dict by name, or a list for all weights, for those that are no states, or for those that are trained."""
    layer: Layer = op.layer
    name = f"{op.name}.backward"
    if isinstance(grads, Mapping):
        unknown = set(grads) - {weight.name for weight in layer.weights}
        if unknown:
            raise ValueError(f"{name}: grads must name weights of the layer; received {', '.join(sorted(unknown))}")
        grads = [grads.get(weight.name) for weight in layer.weights]
    elif grads is None:
        grads = []
    elif not hasattr(grads, "__len__"):
        raise TypeError(f"{name}: grads must be a list or a dict of gradients; received {kind_of(grads)}")
    parameters = [i for i, weight in enumerate(layer.weights) if not weight.is_state]
    trainable = [i for i, weight in enumerate(layer.weights) if weight.trainable]
    for chosen in (parameters, trainable):
        if len(grads) == len(chosen) < len(layer.weights):
            grads = [grads[chosen.index(i)] if i in chosen else None for i in range(len(layer.weights))]
    if len(grads) != len(layer.weights):
        raise ValueError(f"{name}: expected {len(layer.weights)} gradients, one per weight; received {len(grads)}")
    numbers = iter(op.parameters)
    for weight, gradient in zip(layer.weights, grads, strict=True):
        if not weight.is_state:
            yield next(numbers), weight, gradient

"""The native backend: the C++ core. See :mod:`fastperceptron.backends.protocol`.

Importing this module raises ImportError where the extension was not built or cannot be loaded.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .. import _core
from .._core import (
    Network,
    bfloat16_product,
    dense_backward_bias,
    dense_backward_input,
    dense_backward_weights,
    dropout_forward,
    permutation,
    philox,
    sgd_update,
)
from ..program import ACTIVATIONS, LOSSES

__all__ = [
    "Network",
    "activation_backward",
    "activation_forward",
    "bfloat16_product",
    "check_usable",
    "dense_backward_bias",
    "dense_backward_input",
    "dense_backward_weights",
    "dense_forward",
    "dropout_forward",
    "loss_backward",
    "loss_forward",
    "permutation",
    "philox",
    "sgd_update",
]

Array = NDArray[Any]

_ACTIVATION = {name: number for number, name in enumerate(ACTIVATIONS)}
_LOSS = {name: number for number, name in enumerate(LOSSES)}


def _number(operation: str, what: str, numbers: dict[str, int], name: str) -> int:
    try:
        return numbers[name]
    except KeyError:
        raise ValueError(f"{operation}: {what} must be one of {', '.join(numbers)}; received {name!r}") from None


def check_usable() -> None:
    """Raise BackendUnavailableError when FASTPERCEPTRON_ISA names an instruction set that cannot be had."""
    _core.instruction_set()


def dense_forward(
    x: Array, w: Array, b: Array | None, activation: str = "linear", alpha: float = 0.0, out: Array | None = None
) -> Array:
    """y = act(x w + b). x (n, in), w (in, out), b (out,) or None."""
    number = _number("dense_forward", "activation", _ACTIVATION, activation)
    return _core.dense_forward(x, w, b, number, alpha, out)


def activation_forward(activation: str, alpha: float, z: Array, out: Array | None = None) -> Array:
    """y = act(z), softmax over the last axis. ``out`` may be ``z``."""
    number = _number("activation_forward", "activation", _ACTIVATION, activation)
    return _core.activation_forward(number, alpha, z, out)


def activation_backward(activation: str, alpha: float, dy: Array, saved: Array, out: Array | None = None) -> Array:
    """dz = dy act'(saved). saved is z for ``NEEDS_Z``, else y."""
    number = _number("activation_backward", "activation", _ACTIVATION, activation)
    return _core.activation_backward(number, alpha, dy, saved, out)


def loss_forward(kind: str, parameter: float, y_true: Array, y_pred: Array) -> Array:
    """Unweighted loss of each row, (n,) float64."""
    return _core.loss_forward(_number("loss_forward", "kind", _LOSS, kind), parameter, y_true, y_pred)


def loss_backward(
    kind: str,
    parameter: float,
    y_true: Array,
    y_pred: Array,
    weights: Array | None = None,
    scale: float = 1.0,
    out: Array | None = None,
) -> Array:
    """scale * weights[i] * d losses[i] / d y_pred, (n, out)."""
    number = _number("loss_backward", "kind", _LOSS, kind)
    return _core.loss_backward(number, parameter, y_true, y_pred, weights, scale, out)

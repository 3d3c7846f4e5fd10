"""Activation functions: names for layers, and callables over arrays.

A layer takes a name (``Dense(8, activation="relu")``) or one of these objects. The arithmetic is the backend's.

>>> import fastperceptron as fp
>>> fp.activations.relu([-1.0, 2.0])
array([0., 2.])
>>> fp.activations.leaky_relu.with_alpha(0.5)([-1.0, 2.0])
array([-0.5,  2. ])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_finite, by_name, kind_of
from .program import ACTIVATIONS, DEFAULT_ALPHA, NEEDS_Z
from .serialization import Configurable

__all__ = [
    "ActivationFunction",
    "elu",
    "gelu",
    "gelu_tanh",
    "get",
    "leaky_relu",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "silu",
    "softmax",
    "softplus",
    "softsign",
    "step",
    "tanh",
]

_NAMES = {
    **{name: name for name in ACTIVATIONS},
    "swish": "silu",
    "heaviside": "step",
    "identity": "linear",
    "logistic": "sigmoid",
}


class ActivationFunction(Configurable):
    """y = f(z), element by element; ``softmax`` over the last axis.

    Parameters
    ----------
    name : one of ``fastperceptron.program.ACTIVATIONS``
    alpha : the slope of ``leaky_relu`` below zero, or minus the limit of ``elu`` at minus infinity; not negative
    """

    def __init__(self, name: str, alpha: float | None = None) -> None:
        self.alpha = alpha_of("ActivationFunction", name, alpha)
        self.name = name

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self):  # of models that have it only the configurations would change
            raise AttributeError(f"activation {self.name}: {name} cannot change; with_alpha gives another")
        super().__setattr__(name, value)

    def with_alpha(self, alpha: float) -> ActivationFunction:
        """The same function with another parameter."""
        return ActivationFunction(self.name, alpha)

    def alpha_in(self, dtype: Any, operation: str) -> float:
        """alpha; an error where it is infinite in the dtype in which it is used."""
        return _checked_alpha(operation, self.name, self.alpha, dtype)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "alpha": self.alpha if self.name in DEFAULT_ALPHA else None}

    def __call__(self, z: Any) -> NDArray[Any]:
        """f(z), any shape; float32 for float32 (and narrower), else float64."""
        from . import backends

        z = _floating(z)
        if z.ndim == 0:
            return np.asarray(self(z[None])[0])
        alpha = self.alpha_in(z.dtype, "activation")
        return np.asarray(backends.resolve(None).activation_forward(self.name, alpha, z, None))

    def derivative(self, z: Any) -> NDArray[Any]:
        """f'(z), same shape as z; not for softmax, whose derivative is a matrix per row."""
        from . import backends

        if self.name == "softmax":
            raise ValueError("derivative: expected an elementwise activation; received softmax")
        z = _floating(z)
        if z.ndim == 0:
            return np.asarray(self.derivative(z[None])[0])
        alpha = self.alpha_in(z.dtype, "derivative")
        saved = z if self.name in NEEDS_Z else self(z)
        return np.asarray(backends.resolve(None).activation_backward(self.name, alpha, np.ones_like(z), saved, None))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ActivationFunction):
            return NotImplemented
        return (self.name, self.alpha) == (other.name, other.alpha)

    def __hash__(self) -> int:
        return hash((self.name, self.alpha))

    def __repr__(self) -> str:
        return f"<activation {self.name}{f' alpha={self.alpha:g}' if self.name in DEFAULT_ALPHA else ''}>"


def alpha_of(operation: str, activation: str, alpha: float | None, dtype: Any = np.float64) -> float:
    """The parameter of an activation that has one, as given or its default; 0 for the others."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{operation}: activation must be one of {', '.join(ACTIVATIONS)}; received {activation!r}")
    if activation not in DEFAULT_ALPHA:
        if alpha is not None:
            raise ValueError(f"{operation}: {activation} takes no alpha; received {alpha!r}")
        return 0.0
    return _checked_alpha(operation, activation, DEFAULT_ALPHA[activation] if alpha is None else alpha, dtype)


def _checked_alpha(operation: str, activation: str, alpha: Any, dtype: Any) -> float:
    """Finite in the dtype, and not negative: the derivative is computed from y, whose sign must be that of z."""
    number = as_finite(operation, f"alpha of {activation}", alpha, dtype)
    if number < 0:
        raise ValueError(f"{operation}: alpha of {activation} must not be negative; received {alpha!r}")
    return number


def _floating(z: Any) -> NDArray[Any]:
    from .data import as_real

    z = as_real(z, "activation", "z")
    return np.ascontiguousarray(z, np.float32 if z.dtype in (np.float32, np.float16) else np.float64).reshape(z.shape)


linear = ActivationFunction("linear")
relu = ActivationFunction("relu")
leaky_relu = ActivationFunction("leaky_relu")
elu = ActivationFunction("elu")
selu = ActivationFunction("selu")
gelu = ActivationFunction("gelu")
gelu_tanh = ActivationFunction("gelu_tanh")
silu = ActivationFunction("silu")
mish = ActivationFunction("mish")
softplus = ActivationFunction("softplus")
softsign = ActivationFunction("softsign")
sigmoid = ActivationFunction("sigmoid")
tanh = ActivationFunction("tanh")
step = ActivationFunction("step")
softmax = ActivationFunction("softmax")


def get(identifier: str | ActivationFunction | None) -> ActivationFunction:
    """The activation of that name; None is ``linear``."""
    if identifier is None:
        return linear
    if isinstance(identifier, ActivationFunction):
        return identifier
    if not isinstance(identifier, str):
        raise TypeError(f"activation: expected a name or an activation; received {kind_of(identifier)}")
    name: str = by_name("activation", identifier, _NAMES)
    return ActivationFunction(name)

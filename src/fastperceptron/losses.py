"""Losses: how wrong a prediction is.

A *loss* belongs to one sample; the *cost* is the mean over samples. ``loss.per_sample(y_true, y_pred)`` gives the
former, ``loss(y_true, y_pred)`` the latter. Cross-entropies are in nats. Probabilities are clipped to [1e-7, 1 -
1e-7] before a logarithm; losses from logits need no clipping and are exact for large logits.

>>> import fastperceptron as fp
>>> loss = fp.losses.MeanSquaredError()
>>> loss.per_sample([21.0, 22.0], [24.0, 22.0])
array([9., 0.])
>>> loss([21.0, 22.0], [24.0, 22.0])
4.5

A loss of one's own defines ``value_and_grad``::

    class LogCosh(fp.Loss):
        def value_and_grad(self, y_true, y_pred, weights):
            error = y_pred - y_true
            losses = np.log(np.cosh(error)).mean(axis=1)
            return losses, np.tanh(error) * weights[:, None] / error.size
"""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .checks import as_flag, by_name, is_number, kind_of
from .serialization import Configurable, snake_case

__all__ = [
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "Hinge",
    "Huber",
    "Loss",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "Perceptron",
    "SparseCategoricalCrossentropy",
    "get",
]

Array = NDArray[Any]


class Loss(Configurable):
    """Base class; a subclass defines ``value_and_grad``.

    Set ``takes_labels = True`` for a loss whose ``y_true`` is a vector of class numbers instead of a matrix (n, out).
    """

    takes_labels: bool = False
    _target_range: tuple[float, float] | None = None  # that all of y_true has to lie in
    #: The prediction above which an output means yes, for metrics=["accuracy"].
    threshold: float = 0.5

    def value_and_grad(self, y_true: Array, y_pred: Array, weights: Array) -> tuple[Array, Array]:
        """(losses, dy): the loss of each sample (n,), and the gradient (n, out) of sum_i weights_i losses_i / n.

        y_true (n, out), or labels (n,); y_pred (n, out); weights (n,), all 1 when none were given: copies, which may
        be written to.
        """
        raise NotImplementedError(f"{type(self).__name__} must define value_and_grad(y_true, y_pred, weights)")

    def per_sample(self, y_true: Any, y_pred: Any) -> Array:
        """The loss of each sample, (n,). Vectors stand for one column."""
        from .usercode import value_and_grad

        y_true, y_pred = self._arrays(y_true, y_pred)
        # Copies: user's code may work in place.
        weights = np.ones(len(y_pred), y_pred.dtype)
        return value_and_grad(self, y_true.copy(), y_pred.copy(), weights, training=False)[0]

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        """The cost: sum_i weight_i loss_i / n."""
        from .data import as_weights

        losses = self.per_sample(y_true, y_pred)
        if not losses.size:
            raise ValueError(f"{self.name}: expected at least one sample; received 0")
        if sample_weight is None:
            return float(losses.mean())
        return float(losses @ as_weights(sample_weight, losses.size, self.name) / losses.size)

    @property
    def name(self) -> str:
        return snake_case(type(self).__name__)

    def native(self) -> tuple[str, float] | None:
        """Kind and parameter when a backend can compute this loss, else None."""
        return None

    def _arrays(self, y_true: Any, y_pred: Any) -> tuple[Array, Array]:
        from .data import as_compared, check_range

        y_true, y_pred = as_compared(y_true, y_pred, self.takes_labels, self.name)
        if self._target_range is not None and y_true.size:
            check_range(y_true, *self._target_range, self.name, "y_true")
        return y_true, y_pred


class _Native(Loss):
    """A loss that backends compute."""

    kind: str
    parameter: float
    #: What backends were told: changing them would change nothing but the configuration.
    _fixed: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and name in vars(self):
            raise AttributeError(f"{type(self).__name__}: {name} cannot change; make the loss anew")
        super().__setattr__(name, value)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self.parameter = 0.0
        return self

    def native(self) -> tuple[str, float] | None:
        return (self.kind, self.parameter) if type(self).value_and_grad is _Native.value_and_grad else None

    def value_and_grad(self, y_true: Array, y_pred: Array, weights: Array) -> tuple[Array, Array]:
        from . import backends

        backend, n = backends.resolve(None), max(len(y_pred), 1)
        losses = backend.loss_forward(self.kind, self.parameter, y_true, y_pred)
        weights = np.ascontiguousarray(weights, y_pred.dtype)
        return losses, backend.loss_backward(self.kind, self.parameter, y_true, y_pred, weights, 1.0 / n, None)

    def per_sample(self, y_true: Any, y_pred: Any) -> Array:
        if self.native() is None:
            return super().per_sample(y_true, y_pred)
        from . import backends

        y_true, y_pred = self._arrays(y_true, y_pred)
        return np.asarray(backends.resolve(None).loss_forward(self.kind, self.parameter, y_true, y_pred))


class _Crossentropy(_Native):
    """Common to the cross-entropies: from probabilities, or from logits."""

    _base: str
    _fixed = ("from_logits",)

    def __init__(self, from_logits: bool = False) -> None:
        self.from_logits = as_flag(type(self).__name__, "from_logits", from_logits)
        self.kind = self._base + ("_logits" if self.from_logits else "")
        self.threshold = 0.0 if self.from_logits else 0.5


class MeanSquaredError(_Native):
    """loss = mean over outputs of (t - y)^2."""

    kind = "mean_squared_error"


class MeanAbsoluteError(_Native):
    """loss = mean over outputs of |t - y|; the derivative at 0 is 0."""

    kind = "mean_absolute_error"


class Huber(_Native):
    """loss = mean over outputs of e^2 / 2 where |e| <= delta, else delta (|e| - delta / 2); e = t - y.

    Huber, "Robust estimation of a location parameter" (1964).
    """

    kind = "huber"
    _fixed = ("delta",)

    def __init__(self, delta: Any = 1.0) -> None:
        if not is_number(delta) or not 0 < delta < float("inf"):
            raise ValueError(f"Huber: delta must be a positive number; received {delta!r}")
        self.delta = self.parameter = float(delta)


class BinaryCrossentropy(_Crossentropy):
    """loss = mean over outputs of -t log p - (1 - t) log(1 - p); p = sigmoid(y) with ``from_logits``. t in [0, 1]."""

    _base = "binary_cross_entropy"
    _target_range = (0, 1)


class CategoricalCrossentropy(_Crossentropy):
    """loss = -sum over classes of t_k log p_k; p = softmax(y) with ``from_logits``. Targets are rows of probabilities.

    Probabilities given are taken as they are, not rescaled to sum to 1.
    """

    _base = "categorical_cross_entropy"
    _target_range = (0, math.inf)


class SparseCategoricalCrossentropy(_Crossentropy):
    """loss = -log p_t; p = softmax(y) with ``from_logits``. Targets are class numbers, shape (n,)."""

    _base = "sparse_categorical_cross_entropy"
    takes_labels = True


class Hinge(_Native):
    """loss = mean over outputs of max(0, 1 - t y), t being +1 for targets above 0 and -1 for others."""

    kind = "hinge"
    threshold = 0.0


class Perceptron(_Native):
    """loss = mean over outputs of max(0, -t y), t as in Hinge; y = 0 is a mistake.

    With batches of one row and SGD this is the rule of Rosenblatt, "The perceptron" (1958).
    """

    kind = "perceptron"
    threshold = 0.0


_BY_NAME: dict[str, type[Loss]] = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "huber": Huber,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "hinge": Hinge,
    "perceptron": Perceptron,
}


def get(identifier: Any) -> Loss:
    """A loss from its name (Keras's names) or itself."""
    if isinstance(identifier, Loss):
        return identifier
    if isinstance(identifier, str):
        loss: Loss = by_name("loss", identifier, _BY_NAME)()
        return loss
    raise TypeError(f"loss: expected a name or a Loss; received {kind_of(identifier)}")

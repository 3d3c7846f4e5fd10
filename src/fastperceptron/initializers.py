"""How weights begin.

Each initializer maps (shape, key, step) to an array by the counter-based random numbers of
:mod:`fastperceptron.random`, so that a model's weights depend on its seed and on each parameter's number, and on
nothing else. ``in`` and ``out`` below are the two dimensions of a kernel (in, out). Normal distributions are cut at
two standard deviations of the parent and rescaled to the stated variance, as in Keras.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_dtype, as_finite, as_sizes, by_name, is_number, kind_of
from .errors import ShapeError
from .serialization import Configurable

__all__ = [
    "Constant",
    "Given",
    "GlorotNormal",
    "GlorotUniform",
    "HeNormal",
    "HeUniform",
    "Initializer",
    "LecunNormal",
    "LecunUniform",
    "Ones",
    "Zeros",
    "get",
]

#: Standard deviation of a unit normal cut at -2 and 2.
_CUT_DEVIATION = 0.87962566103423978


class Initializer(Configurable):
    """Base class; a subclass defines ``sample``."""

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        """An array of `shape`; `step` is the parameter's number in its model."""
        raise NotImplementedError(f"{type(self).__name__} must define sample(shape, key, step)")

    def __call__(
        self, shape: tuple[int, ...], dtype: str = "float32", *, seed: int | None = None, step: int = 0
    ) -> NDArray[Any]:
        """An array of `shape` and `dtype`.

        >>> import fastperceptron as fp
        >>> fp.initializers.GlorotUniform()((3, 2), seed=0).shape
        (3, 2)
        """
        from .random import make_key

        return self.checked(as_sizes(f"initializer {type(self).__name__}", shape), make_key(seed), step, dtype)

    def checked(self, shape: tuple[int, ...], key: int, step: int, dtype: Any, name: str = "values") -> NDArray[Any]:
        """``sample`` in this dtype, refused when its shape is another or the dtype makes a finite number infinite."""
        operation = f"initializer {type(self).__name__}"
        array = np.asarray(self.sample(tuple(shape), key, step), np.float64)
        if array.shape != tuple(shape):
            raise ShapeError(f"{operation}: expected an array of shape {tuple(shape)}; received {array.shape}")
        return as_dtype(operation, name, array, dtype)


class Zeros(Initializer):
    """Every element 0."""

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        return np.zeros(shape)


class Ones(Initializer):
    """Every element 1."""

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        return np.ones(shape)


class Constant(Initializer):
    """Every element `value`."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = as_finite("Constant", "value", value, np.float64)

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        return np.full(shape, self.value)


class Given(Initializer):
    """These numbers. A NumPy array in an initializer's place means this.

    >>> import numpy as np, fastperceptron as fp
    >>> layer = fp.Dense(1, kernel_initializer=np.array([[2.0], [3.0]]))
    >>> layer(np.array([[1.0, 1.0]]))
    array([[5.]], dtype=float32)
    """

    def __init__(self, values: Any) -> None:
        from .data import as_real

        # None stands for values that come from elsewhere: a model file holds the weights themselves.
        self.values = None if values is None else np.array(as_real(values, "initializer Given", "values"), np.float64)

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        if self.values is None:
            raise ValueError(
                "initializer Given: expected values; received none (they belong to a saved model's weights)"
            )
        return self.values


class _Scaled(Initializer):
    """variance = scale / fan, fan being in, out or their mean."""

    _scale = 1.0
    _fan = "in"
    _normal = False

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> NDArray[Any]:
        from . import random

        fan_in, fan_out = _fans(shape)
        fan = {"in": fan_in, "mean": (fan_in + fan_out) / 2}[self._fan]
        deviation = float(np.sqrt(self._scale / max(1.0, fan)))
        if self._normal:
            return random.truncated_normal(key, random.STREAM_INIT, step, shape) * (deviation / _CUT_DEVIATION)
        limit = float(np.sqrt(3.0)) * deviation
        return (random.uniform(key, random.STREAM_INIT, step, shape) * 2.0 - 1.0) * limit


class GlorotUniform(_Scaled):
    """U(-l, l), l = sqrt(6 / (in + out)).

    Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010), equation 16.
    """

    _fan = "mean"


class GlorotNormal(_Scaled):
    """Cut normal of variance 2 / (in + out). Glorot and Bengio (2010), equation 12."""

    _fan, _normal = "mean", True


class HeUniform(_Scaled):
    """U(-l, l), l = sqrt(6 / in).

    He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015), equation 10.
    """

    _scale = 2.0


class HeNormal(_Scaled):
    """Cut normal of variance 2 / in. He, Zhang, Ren and Sun (2015), equation 10."""

    _scale, _normal = 2.0, True


class LecunUniform(_Scaled):
    """U(-l, l), l = sqrt(3 / in). LeCun, Bottou, Orr and Müller, "Efficient backprop" (1998), section 4.6."""


class LecunNormal(_Scaled):
    """Cut normal of variance 1 / in. LeCun, Bottou, Orr and Müller (1998), equation 16."""

    _normal = True


def _fans(shape: tuple[int, ...]) -> tuple[float, float]:
    if len(shape) < 2:
        size = float(shape[0]) if shape else 1.0
        return size, size
    receptive = float(np.prod(shape[:-2], dtype=np.float64))
    return shape[-2] * receptive, shape[-1] * receptive


_BY_NAME: dict[str, type[Initializer]] = {
    "constant": Constant,
    "zeros": Zeros,
    "zero": Zeros,
    "ones": Ones,
    "one": Ones,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LecunUniform,
    "lecun_normal": LecunNormal,
}


def get(identifier: Any) -> Initializer:
    """An initializer from its name, an array or number of given values, or itself."""
    if isinstance(identifier, Initializer):
        return identifier
    if isinstance(identifier, str):
        initializer: Initializer = by_name("initializer", identifier, _BY_NAME)()
        return initializer
    if is_number(identifier):
        return Constant(identifier)
    if isinstance(identifier, (np.ndarray, list)):
        return Given(identifier)
    raise TypeError(f"initializer: expected a name, an array or an Initializer; received {kind_of(identifier)}")

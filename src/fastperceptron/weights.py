"""A layer's arrays: their own before the layer joins a model, the network's afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from .checks import as_dtype, as_flag, as_list
from .errors import NotBuiltError, ShapeError
from .initializers import Initializer
from .undo import wholly

if TYPE_CHECKING:
    from .backends.protocol import Network
    from .ownership import Ownership

__all__ = ["TOO_MANY", "Weight", "assign_all", "values_of"]

TOO_MANY = 1 << 40  # elements: beyond any machine's memory; sizes and offsets below it fit in 64 bits


class Weight(NDArrayOperatorsMixin):
    """A named array of a layer. It takes part in NumPy expressions by value: ``x @ weight``.

    Reading gives a copy; ``assign`` is the way to write.
    """

    def __init__(
        self, layer: str, name: str, shape: tuple[int, ...], initializer: Initializer, trainable: bool
    ) -> None:
        if math.prod(shape) >= TOO_MANY:
            raise ValueError(f"{layer}: {name} must have fewer than 2**40 elements; received the shape {shape}")
        self.layer = layer
        self.name = name
        self.shape = shape
        self.initializer = initializer
        self.trainable = trainable
        #: Made with ``trainable=False``: state beside the parameters, which no optimizer ever sees.
        self.is_state = not trainable
        self.dtype: np.dtype[Any] = np.dtype(np.float32)
        self._array: NDArray[Any] | None = None
        self._network: Network | None = None
        self._ownership: Ownership | None = None
        self._index = -1

    @property
    def trainable(self) -> bool:
        """Whether training changes it, where it changes the layer; may be set at any time between calls."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = as_flag(f"{self.layer}/{self.name}", "trainable", value)

    def initialize(self, key: int, step: int) -> None:
        """Draws the starting values, unless the weight has values already."""
        if not self.has_values:
            self._array = self.initializer.checked(self.shape, key, step, self.dtype, f"{self.layer}/{self.name}")

    def bind(self, network: Network, index: int, ownership: Ownership, dtype: str) -> None:
        """From now on the values live in `network`, as parameter or state of this number. The weight's own array, if
        any, is handed over."""
        self.dtype = np.dtype(dtype)
        values = self._array
        self._network, self._index, self._ownership, self._array = network, index, ownership, None
        if values is not None:
            self._write(as_dtype(self.layer, self.name, values, self.dtype, copy=False))

    def release(self) -> None:
        """Takes the values back from the network."""
        if self._network is not None:
            self._array = self._read()
            self._network, self._ownership, self._index = None, None, -1

    def _read(self) -> NDArray[Any]:
        assert self._network is not None
        return self._network.get_state(self._index) if self.is_state else self._network.get_parameter(self._index)

    def _write(self, array: NDArray[Any]) -> None:
        assert self._network is not None
        if self.is_state:
            self._network.set_state(self._index, array)
        else:
            self._network.set_parameter(self._index, array)

    @property
    def has_values(self) -> bool:
        """Whether there are any, of its own or in a network."""
        return self._array is not None or self._network is not None

    @property
    def value(self) -> NDArray[Any]:
        """A copy of the values."""
        if self._network is not None and self._ownership is not None:
            with self._ownership.reading(f"{self.layer}.{self.name}"):
                return self._read()
        if self._array is None:
            raise NotBuiltError(f"{self.layer}.{self.name}: no values yet; build the model or let it see data first")
        return self._array.copy()

    def check(self, value: Any, operation: str = "set_weights") -> NDArray[Any]:
        """`value` as an array of this shape and dtype, or an error."""
        from .data import as_real

        array = as_real(value, operation, f"{self.layer}/{self.name}")
        if array.shape != self.shape:
            raise ShapeError(
                f"{operation}: {self.layer}/{self.name} must have shape {self.shape}; received {array.shape}"
            )
        return as_dtype(operation, f"{self.layer}/{self.name}", array, self.dtype)

    def assign(self, value: Any) -> None:
        """Replaces the values by `value` (same shape)."""
        array = self.check(value, "assign")
        if self._network is None or self._ownership is None:
            self._array = array
            return
        with self._ownership.writing(f"{self.layer}.{self.name}"):
            self._write(array)

    def __getstate__(self) -> dict[str, Any]:
        """A copy has values of its own, wherever these live."""
        state = vars(self) | {"_network": None, "_ownership": None, "_index": -1}
        if self._network is not None:
            state["_array"] = self.value
        return state

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def T(self) -> NDArray[Any]:  # noqa: N802 - NumPy's name
        return self.value.T

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self.value, dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if any(isinstance(out, Weight) for out in kwargs.get("out", ())):
            raise TypeError(f"{self.layer}.{self.name}: cannot be written in place; use assign")
        return getattr(ufunc, method)(*(i.value if isinstance(i, Weight) else i for i in inputs), **kwargs)

    def __repr__(self) -> str:
        kind = "" if self.trainable else ", not trainable"
        return f"<weight {self.layer}/{self.name} {self.shape}{kind}>"


def assign_all(operation: str, weights: Sequence[Weight], values: Any) -> None:
    """Replaces the values of a model's or a layer's weights; of none when one does not fit."""
    values = as_list(operation, "arrays", values)
    if len(values) != len(weights):
        raise ValueError(f"{operation}: expected {len(weights)} arrays; received {len(values)}")
    checked = [weight.check(value) for weight, value in zip(weights, values, strict=True)]

    def write() -> None:
        for weight, array in zip(weights, checked, strict=True):
            weight.assign(array)

    ownership = _ownership_of(weights)
    with nullcontext() if ownership is None else ownership.writing(operation):
        wholly(write)


def values_of(operation: str, weights: Sequence[Weight]) -> list[NDArray[Any]]:
    """Copies of the values of a model's or a layer's weights, all of one moment."""
    ownership = _ownership_of(weights)
    with nullcontext() if ownership is None else ownership.reading(operation):
        return [weight.value if weight._network is None else weight._read() for weight in weights]


def _ownership_of(weights: Sequence[Weight]) -> Ownership | None:
    """Of the model that these weights are in, if any."""
    return weights[0]._ownership if weights else None

"""Optimizers: how gradients change weights.

An optimizer works on arrays and needs no model. Here gradient descent finds the minimum of z = x^2 + y^2:

>>> import numpy as np, fastperceptron as fp
>>> point = np.array([3.0, -4.0])
>>> optimizer = fp.SGD(learning_rate=0.1)
>>> for _ in range(200):
...     optimizer.apply([point], [2 * point])
>>> bool(np.abs(point).max() < 1e-12)
True

An optimizer of one's own names its slots (arrays kept per parameter, zero at first) and defines ``update``::

    class Adagrad(fp.Optimizer):
        slot_names = ("accumulator",)

        def update(self, param, grad, slots):
            slots["accumulator"] += grad**2
            param -= self.learning_rate * grad / (np.sqrt(slots["accumulator"]) + 1e-7)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .checks import as_finite, as_flag, as_list, is_number, kind_of, refuse_masked
from .errors import DTypeError, ShapeError
from .serialization import Configurable

__all__ = ["SGD", "Optimizer", "get"]

Array = NDArray[Any]


class Optimizer(Configurable):
    """Base class; a subclass defines ``update`` and, where it needs memory, ``slot_names``.

    Parameters
    ----------
    learning_rate : finite and not negative; may be changed at any time, also by callbacks while a model trains
    """

    slot_names: tuple[str, ...] = ()
    #: Finished updates since its slots were zero, before the one in progress: 0 in the first.
    iterations: int = 0

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls, *args, **kwargs)
        self._learning_rate = 0.01
        self._layout = []
        self._slots = []
        return self

    def __init__(self, learning_rate: float = 0.01) -> None:
        self.learning_rate = learning_rate

    _learning_rate: float
    _layout: list[tuple[tuple[int, ...], np.dtype[Any]]]  # of the parameters the slots belong to
    _slots: list[dict[str, Array]]

    @property
    def learning_rate(self) -> float:
        return self._learning_rate

    @learning_rate.setter
    def learning_rate(self, value: float) -> None:
        if not is_number(value) or not 0 <= value < float("inf"):
            raise ValueError(
                f"{type(self).__name__}: learning_rate must be finite and not negative; received {value!r}"
            )
        self._learning_rate = float(value)

    def update(self, param: Array, grad: Array, slots: Mapping[str, Array]) -> Array | None:
        """One step on one parameter, changing `param` and `slots` in place (or returning the new `param`).

        `grad` may be written to."""
        raise NotImplementedError(f"{type(self).__name__} must define update(param, grad, slots)")

    def apply(self, params: Sequence[Any], grads: Sequence[Any]) -> None:
        """One step on a list of float32 or float64 arrays, in place; none where ``update`` raises. Slots belong to
        positions in the list."""
        from .data import as_real

        params, grads = as_list("apply", "parameters", params), as_list("apply", "gradients", grads)
        if len(params) != len(grads):
            raise ValueError(f"apply: expected as many gradients as parameters, {len(params)}; received {len(grads)}")
        checked, roots, native = [], {_root_of(param) for param in params}, self.native()
        for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
            if not isinstance(param, np.ndarray) or param.dtype not in (np.float32, np.float64):
                kind = param.dtype if isinstance(param, np.ndarray) else type(param).__name__
                raise DTypeError(
                    f"apply: parameter {i} must be a float32 or float64 array in native byte order; received {kind}"
                )
            refuse_masked("apply", f"parameter {i}", param)
            if not param.flags.writeable:
                raise ValueError(f"apply: parameter {i} must be writeable; received a read-only array")
            # One of the user's own may write over it.
            gradient = as_real(grad, "apply", f"gradient {i}").astype(param.dtype, copy=native is None)
            if _root_of(gradient) in roots:  # it is read after some of that has changed
                gradient = gradient.copy()
            if gradient.shape != param.shape:
                raise ShapeError(f"apply: gradient {i} must have shape {param.shape}; received {gradient.shape}")
            checked.append(gradient)
        if native is not None:
            for dtype in {param.dtype for param in params}:
                as_finite(type(self).__name__, "learning_rate", native[1]["learning_rate"], dtype)
        self._fit_slots(params)
        if native is not None:
            self._update_all(params, checked)
        else:  # which may raise half-way
            values = [param.copy() for param in params]
            slots_before = [{name: slot.copy() for name, slot in slots.items()} for slots in self._slots]
            try:
                self._update_all(params, checked)
            except BaseException:
                for param, value in zip(params, values, strict=True):
                    param[...] = value
                self._slots = slots_before
                raise
        self.iterations += 1

    def _update_all(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        for param, gradient, slots in zip(params, grads, self._slots, strict=True):
            before = dict(slots)
            new = self.update(param, gradient, slots)
            if slots.keys() != before.keys():
                expected, received = ", ".join(sorted(before)) or "none", ", ".join(slots)
                raise ValueError(f"apply: slots must be those of slot_names ({expected}); received {received}")
            for name, value in slots.items():
                if value is not before[name]:  # an array that the caller, or update itself, may use again
                    slots[name] = np.array(value)
            if new is not None and new is not param:
                param[...] = new

    def _fit_slots(self, params: Sequence[Array]) -> None:
        """Slots of these parameters: kept under the same name, else zero."""
        names, layout = _slot_names_of(self), [(param.shape, param.dtype) for param in params]
        if layout != self._layout:
            if names and any(self._slots):
                same = [shape for shape, _ in layout] == [shape for shape, _ in self._layout]
                error, what = (DTypeError, "dtypes") if same else (ShapeError, "shapes")
                raise error(
                    f"apply: parameters must keep their {what} from call to call; use a new optimizer for others"
                )
            self._layout, self._slots = layout, [{} for _ in params]
        self._slots = [
            {name: slots[name] if name in slots else np.zeros(shape, dtype) for name in names}
            for (shape, dtype), slots in zip(layout, self._slots, strict=True)
        ]

    def native(self) -> tuple[str, dict[str, float]] | None:
        """Name and hyperparameters when a backend can run this optimizer, else None."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_layout", "_slots", "iterations")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _layout=[], _slots=[])


class SGD(Optimizer):
    """Stochastic gradient descent: v <- momentum v - learning_rate g;  w <- w + v.

    With ``nesterov``, w <- w + momentum v - learning_rate g with the new v; without momentum, w <- w - learning_rate g.
    Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep learning" (2013).

    Parameters
    ----------
    learning_rate : step size
    momentum : share of the last step that goes into the next, at least 0 and below 1
    nesterov : look ahead by the momentum
    """

    def __init__(self, learning_rate: float = 0.01, momentum: float = 0.0, nesterov: bool = False) -> None:
        super().__init__(learning_rate)
        self.momentum = momentum
        self.nesterov = as_flag("SGD", "nesterov", nesterov)

    @property
    def momentum(self) -> float:
        return self._momentum

    @momentum.setter
    def momentum(self, value: float) -> None:
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(f"SGD: momentum must be at least 0 and below 1; received {value!r}")
        self._momentum = float(value)

    @property
    def slot_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum",) if self._momentum else ()

    def native(self) -> tuple[str, dict[str, float]] | None:
        if type(self).update is not SGD.update:
            return None
        hyper = {"learning_rate": self._learning_rate, "momentum": self._momentum, "nesterov": float(self.nesterov)}
        return "sgd", hyper

    def update(self, param: Array, grad: Array, slots: Mapping[str, Array]) -> Array | None:
        from . import backends

        velocity = slots.get("momentum")
        direct = param.flags.c_contiguous and param.flags.aligned
        w = param if direct else np.ascontiguousarray(param)
        g = np.asarray(grad, param.dtype, order="C")
        rate = as_finite("SGD", "learning_rate", self._learning_rate, w.dtype)
        backends.resolve(None).sgd_update(w, g, velocity, rate, self._momentum, self.nesterov)
        return None if direct else w


def _root_of(array: Any) -> int:
    """The object whose memory an array is a view of, by its identity."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return id(array)


def _slot_names_of(optimizer: Optimizer) -> Sequence[str]:
    """Refuses ("velocity"), whose comma was forgotten: a slot for each letter."""
    names: Any = optimizer.slot_names
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{type(optimizer).__name__}: slot_names must be a tuple of names; received {names!r}")
    return names


def get(identifier: Any) -> Optimizer:
    """An optimizer from its name ("sgd") or itself."""
    if isinstance(identifier, Optimizer):
        _slot_names_of(identifier)
        return identifier
    if isinstance(identifier, str) and identifier.lower() == "sgd":
        return SGD()
    if isinstance(identifier, str):
        raise ValueError(f"optimizer: expected 'sgd' or an Optimizer; received {identifier!r}")
    raise TypeError(f"optimizer: expected a name or an Optimizer; received {kind_of(identifier)}")

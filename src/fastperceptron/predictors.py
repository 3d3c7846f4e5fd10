"""Compiled predictors: what :meth:`fastperceptron.Model.predictor` gives, for answering one row at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .checks import check_written
from .data import as_real
from .errors import ShapeError

if TYPE_CHECKING:
    from .models import Model
    from .program import Program

__all__ = ["ModelPredictor", "Predictor"]

Array = NDArray[Any]
Shape = tuple[int, ...]


class Predictor(ABC):
    """A snapshot of a model that only predicts: ``p(x)``. Made by ``model.predictor()``.

    Its weights are those of the moment when it was made; the model may be trained on, or go away. Any number of threads
    may call one predictor at once. It can be pickled. Its outputs are those of ``model.predict``, bit for bit.

    On the native backend a call costs little beside its arithmetic when x is a C-contiguous array of ``dtype``;
    anything else is converted first. The interpreter is given to other threads where the work takes more than some tens
    of microseconds. On the NumPy backend, and for a model with layers written in Python, the predictor is a copy of the
    model that answers through ``predict``. In mixed_bfloat16 the native one keeps the path of products that was in use
    when it was made, whatever instruction set is chosen later; ``repr`` names it.

    >>> import numpy as np
    >>> import fastperceptron as fp
    >>> model = fp.Sequential([fp.Input((4,)), fp.Dense(8, activation="relu"), fp.Dense(3)], seed=0)
    >>> p = model.predictor()
    >>> p(np.ones(4, np.float32)).shape
    (3,)
    >>> buffer = np.empty((5, 3), np.float32)
    >>> p(np.ones((5, 4), np.float32), out=buffer) is buffer
    True
    """

    __slots__ = ()

    @abstractmethod
    def __call__(self, x: Any, out: Array | None = None) -> Array:
        """The outputs of one sample, or of rows of samples.

        Parameters
        ----------
        x : (in,) or (n, in), or more generally of shape ``input_shape`` or (n, *input_shape); any real dtype
        out : where to write the result: C-contiguous, of ``dtype`` and the result's shape, apart from x

        Returns
        -------
        (out,) or (n, out): `out` when given, else a fresh array.

        Raises
        ------
        ShapeError, DTypeError, ValueError
            Before anything is written.
        """

    @property
    @abstractmethod
    def input_shape(self) -> Shape:
        """Shape of one sample."""

    @property
    @abstractmethod
    def output_shape(self) -> Shape:
        """Shape of one output."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Of inputs that need no conversion, and of outputs."""

    @property
    @abstractmethod
    def backend(self) -> str:
        """ "native" or "numpy"."""

    @property
    @abstractmethod
    def product_path(self) -> str:
        """What computes the dense products: type of the operands and path, as in "bfloat16 avx512_bf16"."""

    def __repr__(self) -> str:
        return f"<Predictor from {self.input_shape} to {self.output_shape}, {self.product_path}>"


class ModelPredictor(Predictor):
    """A predictor that is a copy of its model. See :class:`Predictor`."""

    __slots__ = ("_model",)

    def __init__(self, model: Model) -> None:
        self._model = model.copy()

    def __call__(self, x: Any, out: Array | None = None) -> Array:
        return predict_through(self._model, x, out)

    @property
    def input_shape(self) -> Shape:
        return sample_shapes(self._model)[0]

    @property
    def output_shape(self) -> Shape:
        return sample_shapes(self._model)[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return _dtype(self._model)

    @property
    def backend(self) -> str:
        return self._model.backend

    @property
    def product_path(self) -> str:
        assert self._model._network is not None
        return str(self._model._network.product_path())


def sample_shapes(model: Model) -> tuple[Shape, Shape]:
    """Of one sample and its output; an error for a model with several of either."""
    graph = model._built_graph("predictor")
    if len(graph.input_shapes) != 1 or len(graph.output_shapes) != 1:
        raise ValueError(
            "predictor: expected a model with one input and one output;"
            f" received {len(graph.input_shapes)} and {len(graph.output_shapes)}; use predict"
        )
    return graph.input_shapes[0], graph.output_shapes[0]


def native_predictor(model: Model) -> Any:
    """The native predictor of a model with weights; None where it has none."""
    shapes, network = sample_shapes(model), model._network
    if network is None:
        return None
    made = network.predictor(*shapes)
    if made is not None:
        Predictor.register(type(made))
    return made


def restored(program: Program, parameters: list[Array], input_shape: Shape, output_shape: Shape) -> Any:
    """A native predictor from its pickled parts."""
    network = backends.resolve("native").Network(program)
    for index, value in enumerate(parameters):
        network.set_parameter(index, value)
    made = network.predictor(input_shape, output_shape)
    Predictor.register(type(made))
    return made


def predict_through(model: Model, x: Any, out: Array | None, one: bool = False) -> Array:
    """What a predictor of this model returns, by its ``predict``."""
    input_shape, output_shape = sample_shapes(model)
    rows = _checked(x, out, input_shape, output_shape, _dtype(model), one)
    single = rows.shape == input_shape
    y = model.predict(rows[None] if single else rows)
    if isinstance(y, dict):  # of one output
        (y,) = y.values()
    result: Array = y[0] if single else y
    if out is None:
        return result
    np.copyto(out, result)
    return out


def checked_arguments(predictor: Predictor, x: Any, out: Any, one: bool) -> Array:
    """x as a C-contiguous array of the predictor's dtype, `out` checked against it."""
    return _checked(x, out, predictor.input_shape, predictor.output_shape, predictor.dtype, one)


def _dtype(model: Model) -> np.dtype[Any]:
    return np.dtype(np.float64 if model.dtype == "float64" else np.float32)


def _checked(x: Any, out: Any, input_shape: Shape, output_shape: Shape, dtype: np.dtype[Any], one: bool) -> Array:
    array = as_real(x, "predictor", "x")
    rows = () if array.shape == input_shape else array.shape[:1]
    if array.shape != (*rows, *input_shape) or (one and rows):
        single = ", ".join(map(str, input_shape)) + ("," if len(input_shape) == 1 else "")
        several = "" if one else f" or ({', '.join(['n', *map(str, input_shape)])})"
        raise ShapeError(f"predictor: x must have shape ({single}){several}; received {array.shape}")
    with np.errstate(all="ignore"):
        array = np.require(array, dtype, ["C", "A"])
    if out is not None:
        check_written("predictor", "out", out, (*rows, *output_shape), dtype, apart=(array,))
        if not out.flags.c_contiguous:
            raise ValueError(f"predictor: out must be C-contiguous; received strides {out.strides}")
    return array

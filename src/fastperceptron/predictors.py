"""Compiled predictors: what :meth:`fastperceptron.Model.predictor` gives, for answering one row at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import backends
from .checks import check_written
from .data import as_real
from .errors import ShapeError
from .judging import spread
from .layer import checked_shape
from .program import PRECISIONS

if TYPE_CHECKING:
    from .models import Model
    from .program import Program, Signature

__all__ = ["ModelPredictor", "Predictor"]

Array = NDArray[Any]
Shape = tuple[int, ...]


class Predictor(ABC):
    """A snapshot of a model that only predicts: ``p(x)``. Made by ``model.predictor()``.

    Its weights are those of the moment when it was made; the model may be trained on, or go away. Any number of threads
    may call one predictor at once. It can be pickled. Its outputs are those of ``model.predict``, bit for bit.

    On the native backend a call costs little beside its arithmetic when x is a C-contiguous array of ``dtype``, or a
    list, tuple or dict of them; anything else is converted first. The interpreter is given to other threads where the
    work takes more than some tens of microseconds. On the NumPy backend, and for a model with layers written in Python,
    the predictor is a copy of the model that answers through ``predict``. In mixed_bfloat16 the native one keeps the
    path of products that was in use when it was made, whatever instruction set is chosen later; ``repr`` names it.

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
    def __call__(self, x: Any, out: Any = None) -> Any:
        """The outputs of one sample, or of rows of samples.

        Parameters
        ----------
        x : (in,) or (n, in), or more generally of shape ``input_shape`` or (n, *input_shape); any real dtype. For
            several inputs a list of such arrays in their order: all one sample, or all as many rows. Or a dict by name
        out : where to write the result: C-contiguous, of ``dtype`` and the result's shape, apart from x. For several
            outputs a list of such arrays, or a dict by name, apart from each other

        Returns
        -------
        (out,) or (n, out): `out` when given, else a fresh array. For several outputs a list of them, or a dict for a
        model whose outputs are one.

        Raises
        ------
        ShapeError, DTypeError, ValueError
            Before anything is written.
        """

    @property
    @abstractmethod
    def input_shape(self) -> Any:
        """Shape of one sample; a list of them with several inputs."""

    @property
    @abstractmethod
    def output_shape(self) -> Any:
        """Shape of one output; a list of them with several outputs."""

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
        """What computes the dense products: type of the operands and path, as in "bfloat16 avx512_bf16"; "Python" for
        layers that are written in it."""

    def __repr__(self) -> str:
        return f"<Predictor from {self.input_shape} to {self.output_shape}, {self.product_path}>"


class ModelPredictor(Predictor):
    """A predictor that is a copy of its model. See :class:`Predictor`."""

    __slots__ = ("_model",)

    def __init__(self, model: Model) -> None:
        self._model = model.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelPredictor, (self._model,)

    def __call__(self, x: Any, out: Any = None) -> Any:
        return predict_through(self._model, x, out)

    @property
    def input_shape(self) -> Any:
        return self._model.input_shape

    @property
    def output_shape(self) -> Any:
        return self._model.output_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return _dtype(self._model)

    @property
    def backend(self) -> str:
        return self._model.backend

    @property
    def product_path(self) -> str:
        network = self._model._network
        assert network is not None
        kinds = {op.kind for op in network.program.operations}
        paths = [str(network.product_path())] if "dense" in kinds else []
        return " and ".join([*paths, "Python"] if "python" in kinds else paths) or "none"


def native_predictor(model: Model) -> Any:
    """The native predictor of a model with weights; None where it has none."""
    graph, network = model._built_graph("predictor"), model._network
    made = None if network is None else network.predictor(graph.signature)
    if made is not None:
        Predictor.register(type(made))
    return made


def restored(program: Program, parameters: list[Array], signature: Signature) -> Any:
    """A native predictor from its pickled parts."""
    network = backends.resolve("native").Network(program)
    if len(parameters) != len(program.parameters):
        raise ValueError(f"predictor: expected {len(program.parameters)} parameters; received {len(parameters)}")
    inputs, outputs = (
        tuple(checked_shape(shape, "predictor") for shape in shapes)
        for shapes in (signature.input_shapes, signature.output_shapes)
    )
    for index, value in enumerate(parameters):
        network.set_parameter(index, value)
    made = network.predictor(signature._replace(input_shapes=inputs, output_shapes=outputs))
    Predictor.register(type(made))
    return made


def predict_through(model: Model, x: Any, out: Any, one: bool = False) -> Any:
    """What a predictor of this model returns, by its ``predict``."""
    signature = model._built_graph("predictor").signature
    inputs, buffers = checked_arguments(signature, _dtype(model), x, out, one)
    is_row = inputs[0].shape == signature.input_shapes[0]
    batch = [a[None] if is_row else a for a in inputs]
    y = model.predict(batch if len(batch) > 1 else batch[0])
    found: list[Array] = list(y.values()) if isinstance(y, dict) else y if isinstance(y, list) else [y]
    found = [a[0] if is_row else a for a in found]
    for buffer, result in zip(buffers, found, strict=False):  # none of them, or one for each
        np.copyto(buffer, result)
    if out is not None:
        return out
    if len(found) == 1:
        return found[0]
    return dict(zip(signature.output_names, found, strict=True)) if signature.output_is_dict else found


def checked_arguments(
    signature: Signature, dtype: np.dtype[Any], x: Any, out: Any, one: bool
) -> tuple[list[Array], list[Array]]:
    """x as a C-contiguous array of `dtype` for each input, and the arrays in `out`, checked against it."""
    inputs = _inputs(signature, x, dtype, one)
    if out is None:
        return inputs, []
    rows = () if inputs[0].shape == signature.input_shapes[0] else inputs[0].shape[:1]
    names = signature.output_names
    several = len(names) > 1
    given = [_memory_of(part) for part in _parts(signature, x)]
    buffers = spread(out, names, "predictor", "out") if several else [out]
    for name, shape, buffer in zip(names, signature.output_shapes, buffers, strict=True):
        apart = (*given, *(other for other in buffers if other is not buffer and isinstance(other, np.ndarray)))
        _check_out(f"out[{name!r}]" if several else "out", buffer, (*rows, *shape), dtype, apart)
    if len(set(map(id, buffers))) != len(buffers):
        raise ValueError("predictor: out must have an array for each output; received one for two")
    return inputs, buffers


def _inputs(signature: Signature, x: Any, dtype: np.dtype[Any], one: bool) -> list[Array]:
    """A checked array of each input: all one sample, or all as many rows."""
    names, shapes = signature.input_names, signature.input_shapes
    given = _parts(signature, x)
    found: list[Array] = []
    for name, shape, value in zip(names, shapes, given, strict=True):
        what = f"x[{name!r}]" if len(names) > 1 else "x"
        if value is None and x is not None:
            raise ValueError(f"predictor: {what} must be given; received None")
        found.append(_checked_input(what, value, shape, dtype, one))
        rows, first = (a.shape[: a.ndim - len(s)] for a, s in ((found[-1], shape), (found[0], shapes[0])))
        if rows != first:
            expected = f"{first[0]} rows" if first else "one sample"
            raise ShapeError(f"predictor: {what} must be {expected}, as x[{names[0]!r}]; received {found[-1].shape}")
    return found


def _parts(signature: Signature, x: Any) -> list[Any]:
    """What was given for each input; of a single one by itself, or by name too."""
    names = signature.input_names
    return spread(x, names, "predictor", "x") if len(names) > 1 or isinstance(x, Mapping) else [x]


def _dtype(model: Model) -> np.dtype[Any]:
    return np.dtype(PRECISIONS[model.dtype])


def _checked_input(name: str, x: Any, shape: Shape, dtype: np.dtype[Any], one: bool) -> Array:
    array = as_real(x, "predictor", name)
    rows = () if array.shape == shape else array.shape[:1]
    if array.shape != (*rows, *shape) or (one and rows):
        single = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
        several = "" if one else f" or ({', '.join(['n', *map(str, shape)])})"
        raise ShapeError(f"predictor: {name} must have shape ({single}){several}; received {array.shape}")
    with np.errstate(all="ignore"):
        return np.require(array, dtype, ["C", "A"])


def _memory_of(x: Any) -> Array:
    """An array over what the caller gave, not over what it was converted to."""
    return x if isinstance(x, np.ndarray) else as_real(x, "predictor", "x")


def _check_out(name: str, out: Any, shape: Shape, dtype: np.dtype[Any], apart: tuple[Array, ...]) -> None:
    check_written("predictor", name, out, shape, dtype, apart=apart)
    if not out.flags.c_contiguous:
        raise ValueError(f"predictor: {name} must be C-contiguous; received strides {out.strides}")

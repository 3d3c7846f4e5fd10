"""What a layer is: the base class, the values that flow between layers, and their beginning.

The built-in layers are in :mod:`fastperceptron.layers`, which also gives Input, Layer and Value.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from . import initializers
from .checks import as_flag, check_pair, is_integer, is_number
from .errors import NotBuiltError, ShapeError
from .serialization import Configurable, snake_case
from .undo import as_before_on_failure
from .weights import TOO_MANY, Weight, assign_all, values_of

if TYPE_CHECKING:
    from .graph import ProgramBuilder

__all__ = ["Input", "Layer", "Shape", "Shapes", "Value", "checked_shape"]

Array = NDArray[Any]
Shape = tuple[int, ...]
#: What a layer is built for: a shape, or for a layer that takes a list of values a tuple of them.
Shapes = Any


class Value:
    """What flows between layers while a model is put together: a shape per row and where it comes from."""

    def __init__(self, shape: Shape, layer: Layer | None = None, sources: tuple[Value, ...] = ()) -> None:
        self.shape = shape
        self.layer = layer
        self.sources = sources

    def __repr__(self) -> str:
        return f"<value of shape {('n', *self.shape)} from {self.layer.name if self.layer else 'the input'}>"


class Input(Value):
    """The beginning of a model: rows of this shape.

    Parameters
    ----------
    shape : shape of one sample, without the batch axis
    name : by which a dict of inputs names it; "input", "input_1", ... when None

    >>> import fastperceptron as fp
    >>> x = fp.Input((64,))
    >>> model = fp.Model(x, fp.Dense(10)(fp.Dense(32, activation="relu")(x)))
    >>> model.count_params()
    2410
    """

    def __init__(self, shape: int | Sequence[int], name: Any = None) -> None:
        super().__init__(checked_shape(shape, "Input"))
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ValueError(f"Input: name must be text without '/'; received {name!r}")
        self.name = name


def checked_shape(shape: Any, operation: str) -> Shape:
    """A per-sample shape: an int, or a sequence of ints of which a leading None (the batch) is dropped."""
    sizes: list[Any] = list(shape) if isinstance(shape, Iterable) else [shape]
    if len(sizes) > 1 and sizes[0] is None:
        sizes = sizes[1:]
    for size in sizes:
        if not is_integer(size) or size < 1:
            raise ValueError(
                f"{operation}: shape must be positive integers, one per axis of a sample; received {shape!r}"
            )
    if not sizes:
        raise ValueError(f"{operation}: shape must have at least one axis; received {shape!r}")
    if math.prod(map(int, sizes)) >= TOO_MANY:
        raise ValueError(f"{operation}: shape must have fewer than 2**40 elements; received {shape!r}")
    return tuple(int(size) for size in sizes)


class Layer(Configurable):
    """Base class of all layers.

    Parameters
    ----------
    name : unique within a model; chosen by the model when None
    trainable : whether training changes the layer's weights; may be set at any time between calls
    learning_rate_multiplier : times the optimizer's learning rate, for this layer's weights; may be set at any time too
    """

    #: Whether the layer is called on a list of values: ``build`` gets a tuple of shapes, ``forward`` a list of arrays,
    #: and ``backward`` returns a list of gradients for dx.
    takes_list: bool = False
    _name: str | None
    trainable: bool
    _learning_rate_multiplier: float
    built: bool
    input_shape: Shapes
    weights: list[Weight]
    _model: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Set here, so that a subclass works without calling super().__init__().
        self = super().__new__(cls, *args, **kwargs)
        self._name, self._name_is_given, self.trainable, self.built = None, False, True, False
        self._learning_rate_multiplier = 1.0
        self.input_shape, self.weights, self._model = None, [], None
        return self

    def __init__(self, *, name: Any = None, trainable: bool = True, learning_rate_multiplier: float = 1.0) -> None:
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise ValueError(f"{type(self).__name__}: name must be text without '/'; received {name!r}")
        self._name, self._name_is_given = name, name is not None
        self.trainable = trainable
        self.learning_rate_multiplier = learning_rate_multiplier

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "trainable":
            value = as_flag(type(self).__name__, name, value)
        super().__setattr__(name, value)

    @property
    def learning_rate_multiplier(self) -> float:
        return self._learning_rate_multiplier

    @learning_rate_multiplier.setter
    def learning_rate_multiplier(self, value: float) -> None:
        if not is_number(value):
            raise TypeError(f"{self.name}: learning_rate_multiplier must be a number; received {value!r}")
        if not 0 <= value < math.inf:
            raise ValueError(f"{self.name}: learning_rate_multiplier must be at least 0 and finite; received {value!r}")
        self._learning_rate_multiplier = float(value)

    def __getstate__(self) -> Any:
        """A copy belongs to no model."""
        state = super().__getstate__()
        attributes, *slots = state if isinstance(state, tuple) else (state,)
        attributes = attributes | {"_model": None}
        return (attributes, *slots) if slots else attributes

    def __copy__(self) -> Self:
        """A shallow copy, but with weights of its own."""
        twin = type(self).__new__(type(self))
        own = {id(weight): copy.copy(weight) for weight in self.weights}
        state = self.__getstate__()
        for attributes in state if isinstance(state, tuple) else (state,):
            for name, value in (attributes or {}).items():
                object.__setattr__(twin, name, own.get(id(value), value))
        twin.weights = list(own.values())
        return twin

    # -- for subclasses ------------------------------------------------------------------------------------------

    def build(self, input_shape: Shapes) -> None:
        """Makes the weights by ``add_weight``; called once, with the shape of one row. When it fails, the layer's
        attributes and lists are as before."""

    def add_weight(
        self,
        name: str,
        shape: int | Sequence[int],
        initializer: Any = "glorot_uniform",
        trainable: bool = True,
    ) -> Weight:
        """A new weight of this layer. Those that are not trainable change only by ``assign``."""
        if not name or "/" in name or any(name == weight.name for weight in self.weights):
            raise ValueError(f"{self.name}.add_weight: name must be new and without '/'; received {name!r}")
        # A scalar weight has shape ().
        shape = (
            () if isinstance(shape, Sequence) and not len(shape) else checked_shape(shape, f"{self.name}.add_weight")
        )
        weight = Weight(self.name, name, shape, initializers.get(initializer), trainable)
        self.weights.append(weight)
        return weight

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        """The shape of one row of the output; by default found by a forward pass over one row of zeros."""
        idle = [weight for weight in self.weights if not weight.has_values]
        for weight in idle:
            weight._array = np.zeros(weight.shape, weight.dtype)
        try:
            shapes = input_shape if self.takes_list else [input_shape]
            zeros = [np.zeros((1, *shape), np.float32) for shape in shapes]
            with np.errstate(all="ignore"):
                y = self._output_of(zeros if self.takes_list else zeros[0])
        finally:
            for weight in idle:
                weight._array = None
        return tuple(int(size) for size in np.shape(y)[1:])

    def forward(self, x: Any, training: bool) -> tuple[Array, Any]:
        """(y, saved): the output, and whatever ``backward`` needs. x (n, ...), or a list of such; y (n, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(x, training) -> (y, saved)")

    def _output_of(self, x: Any) -> Any:
        return check_pair(f"{self.name}.forward", self.forward(x, False), "(y, saved)")[0]

    def backward(self, dy: Array, saved: Any) -> tuple[Any, Sequence[Array | None] | Mapping[str, Array]]:
        """(dx, grads): the gradient of the input, and of the weights: a list in their order, or a dict by name.

        Weights made with ``trainable=False`` have none and may be left out."""
        raise NotImplementedError(f"{type(self).__name__} must define backward(dy, saved) -> (dx, grads)")

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        """Adds this layer to a program, reading these values; returns the value that holds its output."""
        return builder.python(self, sources, input_shape, output_shape)

    # -- for users -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name if self._name is not None else snake_case(type(self).__name__)

    @property
    def is_python(self) -> bool:
        """Whether a model runs this layer in Python (always so for layers that a user wrote)."""
        return True

    def __call__(self, x: Any) -> Any:
        """Connects to a value of a model under construction (a list of values for layers that take one), or computes
        the output for arrays."""
        values = (x,) if isinstance(x, Value) else tuple(x) if isinstance(x, (list, tuple)) else ()
        if values and all(isinstance(value, Value) for value in values):
            return self._connected_to(x, values)
        return self._computed_for(x)

    def _connected_to(self, x: Any, values: tuple[Value, ...]) -> Value:
        """The value that this layer makes of others; `x` is what the layer was called on."""
        if self.takes_list == isinstance(x, Value):
            wanted = "a list of values" if self.takes_list else "one value (Add, Multiply and Concatenate join several)"
            raise TypeError(f"{self.name}: expected {wanted}; received {x!r:.100}")
        shapes = tuple(value.shape for value in values)
        return Value(self.prepare(shapes if self.takes_list else shapes[0]), self, values)

    def _computed_for(self, x: Any) -> Any:
        """The output for arrays. The first of them build the layer, wholly or not at all."""
        from .data import as_rows, same_rows
        from .random import make_key

        if self.takes_list and not isinstance(x, (list, tuple)):
            raise TypeError(f"{self.name}: expected a list of arrays; received {type(x).__name__}")
        given = list(x) if self.takes_list else [x]
        known = self.input_shape if self.takes_list and self.built else [self.input_shape] * len(given)
        if not given or len(known) != len(given):
            raise ShapeError(f"{self.name}: expected a list of {len(known) or 'some'} arrays; received {len(given)}")
        arrays = [as_rows(a, shape, self.name) for a, shape in zip(given, known, strict=True)]
        for a in arrays:
            same_rows(len(arrays[0]), a, self.name, "x")
        if not self.built:
            found = tuple(a.shape[1:] for a in arrays)
            with as_before_on_failure(self, *self.weights):
                self.prepare(found if self.takes_list else found[0])
                # Starting values outside a model, different every time.
                key = make_key(None)
                for step, weight in enumerate(self.weights):
                    weight.initialize(key, step)
        dtype = self.weights[0].dtype if self.weights else np.result_type(*arrays, np.float32)
        arrays = [np.array(a, dtype, order="C") for a in arrays]  # a user's forward may work in place
        return self._output_of(arrays if self.takes_list else arrays[0])

    def prepare(self, input_shape: Shapes, output_shape: Shape | None = None) -> Shape:
        """Builds once, checks that later uses have the same shape; returns the output's, found out when not given."""
        if self.built and self.input_shape != input_shape:
            raise ShapeError(f"{self.name}: built for rows of shape {self.input_shape}; received {input_shape}")
        with nullcontext() if self.built else as_before_on_failure(self, *self.weights):
            if not self.built:
                self.build(input_shape)
                self.input_shape, self.built = input_shape, True
            return self._output_shape_for(input_shape) if output_shape is None else output_shape

    def _output_shape_for(self, input_shape: Shapes) -> Shape:
        """What ``compute_output_shape`` says, which may be a user's; without axes for a number per row."""
        shape: Any = self.compute_output_shape(input_shape)
        has_none = isinstance(shape, (tuple, list)) and not shape
        return () if has_none else checked_shape(shape, f"{self.name}.compute_output_shape")

    def get_weights(self) -> list[Array]:
        """Copies of the layer's weights, in order."""
        return values_of(f"{self.name}.get_weights", self.weights)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replaces all weights; none is changed when one does not fit."""
        if not self.built:
            raise NotBuiltError(f"{self.name}.set_weights: expected a built layer; build the model first")
        assign_all(f"{self.name}.set_weights", self.weights, weights)

    def count_params(self) -> int:
        """Numbers in the layer's weights."""
        if not self.built:
            raise NotBuiltError(f"{self.name}.count_params: expected a built layer; build the model first")
        return sum(weight.size for weight in self.weights)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("name", None)  # names and the trainable flag belong to the model's list of layers
        config.pop("trainable", None)
        config.pop("learning_rate_multiplier", None)
        return config

    def __repr__(self) -> str:
        shape = f" {self.input_shape}" if self.built else ""
        return f"<{type(self).__name__} {self.name}{shape}>"

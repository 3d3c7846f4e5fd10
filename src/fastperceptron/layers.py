"""Layers: the parts a model is made of.

Built-in layers become operations of the network and run in the backend. A layer of one's own defines ``build``,
``forward`` and ``backward`` and runs in Python between them::

    class Scale(fp.Layer):
        def build(self, input_shape):
            self.gain = self.add_weight("gain", input_shape, "ones")

        def forward(self, x, training):
            return x * self.gain, x

        def backward(self, dy, x):
            return dy * self.gain, [(dy * x).sum(axis=0)]
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import activations, initializers
from .checks import as_flag, as_float_array, is_integer, is_number
from .errors import NotBuiltError, ShapeError
from .layer import Input, Layer, Shape, Shapes, Value
from .program import NEEDS_Z
from .weights import Weight

if TYPE_CHECKING:
    from .graph import ProgramBuilder

__all__ = ["Activation", "Add", "Concatenate", "Dense", "Dropout", "Flatten", "Input", "Layer", "Multiply", "Value"]

Array = NDArray[Any]


class _BuiltIn(Layer):
    """A layer with an operation of its own, unless a subclass replaces its passes."""

    #: What the operation was made from: once there is one, changing them would change nothing but the configuration.
    _fixed: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._fixed and self.built and not self.is_python:
            raise AttributeError(f"{self.name}: {name} cannot change after the layer was built; make the layer anew")
        super().__setattr__(name, value)

    @property
    def is_python(self) -> bool:
        home: Any = next(cls for cls in type(self).__mro__ if cls.__module__ == __name__)
        return type(self).forward is not home.forward or type(self).backward is not home.backward

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        return super().compute_output_shape(input_shape) if self.is_python else input_shape


class Dense(_BuiltIn):
    """y = f(x w + b): every output sees every input.

    Parameters
    ----------
    units : width of the output
    activation : a name or activation; None is linear
    use_bias : whether b is there
    kernel_initializer, bias_initializer : how w (in, units) and b (units,) begin: a name, an Initializer or an array
    learning_rate_multiplier : times the optimizer's learning rate, for this layer

    >>> import numpy as np, fastperceptron as fp
    >>> layer = fp.Dense(1, kernel_initializer=np.array([[1.0], [2.0]]), bias_initializer=np.array([0.5]))
    >>> layer([[3.0, 4.0]])
    array([[11.5]], dtype=float32)
    """

    _fixed = ("units", "activation", "use_bias")

    def __init__(
        self,
        units: Any,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        name: str | None = None,
        trainable: bool = True,
        learning_rate_multiplier: float = 1.0,
    ) -> None:
        super().__init__(name=name, trainable=trainable, learning_rate_multiplier=learning_rate_multiplier)
        if not is_integer(units) or units < 1:
            raise ValueError(f"Dense: units must be a positive integer; received {units!r}")
        self.units = int(units)
        self.activation = activations.get(activation)
        self.use_bias = as_flag("Dense", "use_bias", use_bias)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.bias_initializer = initializers.get(bias_initializer)

    def build(self, input_shape: Shapes) -> None:
        if len(input_shape) != 1:
            raise ShapeError(
                f"{self.name}: Dense takes rows of one axis, (n, in);"
                f" received {('n', *input_shape)}; put Flatten before it"
            )
        self.add_weight("kernel", (input_shape[0], self.units), self.kernel_initializer)
        if self.use_bias:
            self.add_weight("bias", (self.units,), self.bias_initializer)

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        return super().compute_output_shape(input_shape) if self.is_python else (self.units,)

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        if self.is_python:
            return super().emit(builder, sources, input_shape, output_shape)
        f = self.activation
        inner = activations.linear if f.name == "softmax" else f
        alpha, parameters = inner.alpha_in(builder.dtype, self.name), builder.parameters_of(self)
        z = builder.operation("dense", self, sources, output_shape, parameters, activation=inner.name, alpha=alpha)
        return z if inner is f else builder.operation("activation", self, (z,), output_shape, activation=f.name)

    def forward(self, x: Array, training: bool) -> tuple[Array, Any]:
        from . import backends

        backend = backends.resolve(None)
        w, b = self.kernel, self.bias
        x = np.ascontiguousarray(x, w.dtype)
        z = backend.dense_forward(x, w, b, "linear", 0.0, None)
        f = self.activation
        y = backend.activation_forward(f.name, f.alpha_in(w.dtype, self.name), z, None)
        return y, (x, w, z if f.name in NEEDS_Z else y)

    def backward(self, dy: Array, saved: Any) -> tuple[Array, list[Array | None]]:
        from . import backends

        backend = backends.resolve(None)
        x, w, z_or_y = saved
        f = self.activation
        alpha = f.alpha_in(w.dtype, self.name)
        dz = backend.activation_backward(f.name, alpha, np.ascontiguousarray(dy, w.dtype), z_or_y, None)
        grads: list[Array | None] = [backend.dense_backward_weights(x, dz, None)]
        if self.use_bias:
            grads.append(backend.dense_backward_bias(dz, None))
        return backend.dense_backward_input(dz, w, None), grads

    @property
    def kernel(self) -> Array:
        """w (in, units), a copy; assigning replaces it."""
        return self._weight("kernel").value

    @kernel.setter
    def kernel(self, value: Any) -> None:
        self._weight("kernel").assign(value)

    @property
    def bias(self) -> Array | None:
        """b (units,), a copy; None without bias. Assigning replaces it."""
        return self._weight("bias").value if self.use_bias else None

    @bias.setter
    def bias(self, value: Any) -> None:
        self._weight("bias").assign(value)

    def _weight(self, name: str) -> Weight:
        for weight in self.weights:
            if weight.name == name:
                return weight
        if self.built:
            raise AttributeError(f"{self.name}: the layer has no {name} (use_bias=False)")
        raise NotBuiltError(f"{self.name}.{name}: no values yet; build the model or let it see data first")


class Activation(_BuiltIn):
    """y = f(x), element by element; softmax over each row.

    >>> import fastperceptron as fp
    >>> fp.Activation("relu")([[-1.0, 2.0]])
    array([[0., 2.]])
    """

    _fixed = ("activation",)

    def __init__(self, activation: Any, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)
        self.activation = activations.get(activation)

    def build(self, input_shape: Shapes) -> None:
        if self.activation.name == "softmax" and len(input_shape) != 1:
            raise ShapeError(f"{self.name}: softmax takes rows of one axis, (n, in); received {('n', *input_shape)}")

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        if self.is_python:
            return super().emit(builder, sources, input_shape, output_shape)
        f = self.activation
        alpha = f.alpha_in(builder.dtype, self.name)
        return builder.operation("activation", self, sources, output_shape, activation=f.name, alpha=alpha)

    def forward(self, x: Array, training: bool) -> tuple[Array, Any]:
        y = self.activation(x)
        return y, x if self.activation.name in NEEDS_Z else y

    def backward(self, dy: Array, saved: Any) -> tuple[Array, list[Array | None]]:
        from . import backends

        f = self.activation
        dy = as_float_array(self.name, "dy", np.ascontiguousarray(dy))
        saved = np.ascontiguousarray(saved, dy.dtype)
        alpha = f.alpha_in(dy.dtype, self.name)
        return backends.resolve(None).activation_backward(f.name, alpha, dy, saved, None), []


class Dropout(_BuiltIn):
    """While training, each element is 0 with probability `rate`, else x / (1 - rate); otherwise y = x.

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout: a simple way to prevent neural networks from
    overfitting" (2014).
    """

    _fixed = ("rate",)

    def __init__(self, rate: Any, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)
        if not is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f"Dropout: rate must be at least 0 and below 1; received {rate!r}")
        self.rate = float(rate)

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        if self.is_python:
            return super().emit(builder, sources, input_shape, output_shape)
        stream = builder.dropout_stream()
        if self.rate == 0:
            return sources[0]
        return builder.operation("dropout", self, sources, output_shape, rate=self.rate, stream=stream)

    def forward(self, x: Array, training: bool) -> tuple[Array, Any]:
        """Outside a model nothing is dropped: the mask belongs to a model's key and step."""
        if training and self.rate:
            raise ValueError(f"{self.name}: expected to run inside a model, whose key and step give the mask")
        return x, None

    def backward(self, dy: Array, saved: Any) -> tuple[Array, list[Array | None]]:
        return dy, []


class Flatten(_BuiltIn):
    """Rows of any shape as rows of one axis, in C order.

    >>> import numpy as np, fastperceptron as fp
    >>> fp.Flatten()(np.zeros((5, 8, 8))).shape
    (5, 64)
    """

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        return (math.prod(input_shape),)

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        return super().emit(builder, sources, input_shape, output_shape) if self.is_python else sources[0]

    def forward(self, x: Array, training: bool) -> tuple[Array, Any]:
        return x.reshape(x.shape[0], math.prod(x.shape[1:])), x.shape

    def backward(self, dy: Array, saved: Any) -> tuple[Array, list[Array | None]]:
        return dy.reshape(saved), []


class _Join(_BuiltIn):
    """A layer that makes one value of several."""

    takes_list = True
    kind: str

    def __init__(self, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)

    def build(self, input_shape: Shapes) -> None:
        if any(shape != input_shape[0] for shape in input_shape):
            raise ShapeError(f"{self.name}: expected values of one shape; received {_shapes_text(input_shape)}")

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        return super().compute_output_shape(input_shape) if self.is_python else input_shape[0]

    def emit(self, builder: ProgramBuilder, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        if self.is_python:
            return super().emit(builder, sources, input_shape, output_shape)
        return builder.operation(self.kind, self, sources, output_shape)


class Add(_Join):
    """y = x1 + x2 + ..., called on a list of values of one shape; a skip connection, for one.

    >>> import fastperceptron as fp
    >>> fp.Add()([[[1.0, 2.0]], [[3.0, 4.0]]])
    array([[4., 6.]])
    >>> x = fp.Input((8,))
    >>> model = fp.Model(x, fp.Add()([x, fp.Dense(8, activation="relu")(x)]))
    """

    kind = "add"

    def forward(self, x: Any, training: bool) -> tuple[Array, Any]:
        y = x[0].copy()
        for more in x[1:]:
            y += more
        return y, len(x)

    def backward(self, dy: Array, saved: Any) -> tuple[Any, list[Array | None]]:
        return [dy] * saved, []


class Multiply(_Join):
    """y = x1 x2 ..., element by element, called on a list of values of one shape; a gate, for one.

    >>> import fastperceptron as fp
    >>> fp.Multiply()([[[1.0, 2.0]], [[3.0, 4.0]]])
    array([[3., 8.]])
    """

    kind = "multiply"

    def forward(self, x: Any, training: bool) -> tuple[Array, Any]:
        y = x[0].copy()
        for more in x[1:]:
            y *= more
        return y, x

    def backward(self, dy: Array, saved: Any) -> tuple[Any, list[Array | None]]:
        gradients = []
        for place in range(len(saved)):
            dx = dy
            for other, factor in enumerate(saved):
                if other != place:
                    dx = dx * factor
            gradients.append(dx)
        return gradients, []


class Concatenate(_Join):
    """The columns of x1, x2, ... side by side, called on a list of values with rows of one axis.

    Parameters
    ----------
    axis : -1 or 1, the only axis that rows of one axis leave

    >>> import fastperceptron as fp
    >>> fp.Concatenate()([[[1.0, 2.0]], [[3.0]]])
    array([[1., 2., 3.]])
    """

    kind = "concatenate"

    def __init__(self, axis: int = -1, *, name: str | None = None, trainable: bool = True) -> None:
        super().__init__(name=name, trainable=trainable)
        if not is_integer(axis) or axis not in (-1, 1):
            raise ValueError(f"Concatenate: axis must be -1 or 1; received {axis!r}")
        self.axis = axis

    def build(self, input_shape: Shapes) -> None:
        if any(len(shape) != 1 for shape in input_shape):
            raise ShapeError(
                f"{self.name}: Concatenate takes rows of one axis, (n, in);"
                f" received {_shapes_text(input_shape)}; put Flatten before it"
            )

    def compute_output_shape(self, input_shape: Shapes) -> Shape:
        if self.is_python:
            return super().compute_output_shape(input_shape)
        return (sum(shape[0] for shape in input_shape),)

    def forward(self, x: Any, training: bool) -> tuple[Array, Any]:
        return np.concatenate(x, axis=1), [part.shape[1] for part in x]

    def backward(self, dy: Array, saved: Any) -> tuple[Any, list[Array | None]]:
        return np.split(dy, np.cumsum(saved)[:-1], axis=1), []


def _shapes_text(shapes: Shapes) -> str:
    return ", ".join(str(("n", *shape)) for shape in shapes)

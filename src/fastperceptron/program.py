"""A network as plain data: what the models hand to a backend.

A :class:`Program` lists *values* (matrices of one row per sample and a fixed width), *parameters* and
*operations* in topological order. It is immutable and knows neither weights, batch sizes, threads nor
losses. Value 0 is the input: all inputs side by side. Both backends build a network from the same program.
A :class:`Head` says what one of a program's outputs is judged by.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = [
    "ACTIVATIONS",
    "DEFAULT_ALPHA",
    "LOSSES",
    "NEEDS_Z",
    "PRECISIONS",
    "Head",
    "Operation",
    "Parameter",
    "Program",
    "Signature",
]

#: Elementwise activations and softmax, in the order of ``fp::Activation`` in csrc/kernels/table.hpp.
ACTIVATIONS: tuple[str, ...] = (
    "linear",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "sigmoid",
    "tanh",
    "step",
    "softmax",
)

#: The parameter of those that have one, as Keras sets it.
DEFAULT_ALPHA = {"leaky_relu": 0.2, "elu": 1.0}

#: Activations whose derivative is computed from the pre-activation z; the others use the output y.
NEEDS_Z: frozenset[str] = frozenset({"gelu", "gelu_tanh", "silu", "mish", "softplus"})

#: What a model's dtype may be, and the dtype of the arrays that it keeps and gives. In "mixed_bfloat16" the operands of
#: dense products are rounded to bfloat16, as they are used; all else is float32.
PRECISIONS: dict[str, str] = {"float32": "float32", "float64": "float64", "mixed_bfloat16": "float32"}

#: Loss kinds, in the order of ``fp::Loss``.
LOSSES: tuple[str, ...] = (
    "mean_squared_error",
    "mean_absolute_error",
    "huber",
    "binary_cross_entropy",
    "binary_cross_entropy_logits",
    "categorical_cross_entropy",
    "categorical_cross_entropy_logits",
    "sparse_categorical_cross_entropy",
    "sparse_categorical_cross_entropy_logits",
    "hinge",
    "perceptron",
)


class Parameter(NamedTuple):
    """An array, trained or not: a kernel (in, out), a bias (out,), or any shape for a layer written in Python."""

    name: str  # "<layer>/<weight>", unique in the program
    shape: tuple[int, ...]


class Operation(NamedTuple):
    """One step of the forward pass: ``output = kind(inputs; parameters)``.

    =========== ======================================= ==========================================
    kind        computes                                uses
    =========== ======================================= ==========================================
    dense       act(x w + b)                            parameters (w,) or (w, b), activation, alpha
    activation  act(x), softmax over the row            activation, alpha
    dropout     x mask / (1 - rate) while training      rate, stream
    add         x1 + x2 + ...                           any number of inputs of one width
    multiply    x1 x2 ..., element by element           any number of inputs of one width
    concatenate the columns of x1, x2, ...              any number of inputs
    columns     columns [begin, begin + width) of x     begin; x is value 0, and nothing is copied
    python      layer.forward(x, training)              any number of inputs; layer, parameters
    =========== ======================================= ==========================================

    ``dense`` takes any activation but softmax. A value may feed several operations, or one several times (its gradient
    is the sum), and a parameter may be used by several.
    """

    kind: str
    inputs: tuple[int, ...]
    output: int
    name: str  # the layer's name
    parameters: tuple[int, ...] = ()
    activation: str = "linear"
    alpha: float = 0.0
    rate: float = 0.0
    stream: int = 0
    layer: Any = None
    begin: int = 0


class Program(NamedTuple):
    """Values, parameters and operations of one network."""

    dtype: str  # of PRECISIONS
    widths: tuple[int, ...]  # width of each value; value 0 is the input
    parameters: tuple[Parameter, ...]
    operations: tuple[Operation, ...]  # topological order; each value but 0 is the output of exactly one
    outputs: tuple[int, ...]  # the values that predictions and losses read; one may appear again
    states: tuple[Parameter, ...] = ()  # arrays that go with the parameters but are not trained

    @property
    def array_dtype(self) -> str:
        """Of values, parameters, gradients and slots."""
        return PRECISIONS[self.dtype]

    @property
    def is_mixed(self) -> bool:
        """Whether the operands of dense products are rounded to bfloat16."""
        return self.dtype == "mixed_bfloat16"

    @property
    def is_native(self) -> bool:
        """Whether no operation is a layer written in Python."""
        return all(op.kind != "python" for op in self.operations)


class Head(NamedTuple):
    """What an output is judged by. Targets, sample weights and metrics go with a head.

    cost = sum over heads of weight * sum_i(sample_weight_i loss_i) / normaliser, the normaliser being the batch's rows
    ("rows") or the sum of its sample weights ("weights").
    """

    output: int = 0  # place in Program.outputs
    kind: str | None = None  # one of LOSSES; None: the loss comes from Python, or there is none
    parameter: float = 0.0
    weight: float = 1.0
    normaliser: str = "rows"


class Signature(NamedTuple):
    """What a predictor takes and returns: arrays of these names and, for one sample, shapes."""

    input_names: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_names: tuple[str, ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_is_dict: bool = False  # where there are several

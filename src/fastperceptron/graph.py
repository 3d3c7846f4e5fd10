"""From layers to a program: which layer is called on what, as plain operations over numbered values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from .layers import Layer, Shape, Value
from .program import Operation, Parameter, Program
from .random import STREAM_DROPOUT
from .serialization import snake_case
from .weights import Weight

__all__ = ["Call", "Graph", "ProgramBuilder", "build_graph", "calls_between"]


class Call(NamedTuple):
    """One use of a layer, on the output of the call before it."""

    layer: Layer
    shape: Shape
    output_shape: Shape


class Graph(NamedTuple):
    """A model's structure: its calls in order, the program made of them, and the weight behind each parameter."""

    input_shape: Shape
    output_shape: Shape
    calls: tuple[Call, ...]
    program: Program
    owners: tuple[tuple[Weight, Layer], ...]  # the weight behind each parameter, and its layer
    state_owners: tuple[tuple[Weight, Layer], ...]  # the same for each state
    shapes: dict[int, tuple[Shape, Shape]]  # rows in and out of each Python operation, by its output value

    @property
    def weights(self) -> list[Weight]:
        """Each weight once, in order of first use."""
        return [weight for layer in self.layers for weight in layer.weights]

    @property
    def layers(self) -> list[Layer]:
        """Each layer once, in order of first use."""
        return list(dict.fromkeys(call.layer for call in self.calls))


def calls_between(inputs: Value, outputs: Value) -> tuple[Call, ...]:
    """The calls that lead from `inputs` to `outputs`. Whatever else was connected on the way does not matter."""
    calls: list[Call] = []
    value = outputs
    while value is not inputs:
        if value.layer is None or value.source is None:
            raise ValueError("Model: outputs must be computed from inputs; received values that are not connected")
        calls.append(Call(value.layer, value.source.shape, value.shape))
        value = value.source
    return tuple(reversed(calls))


class ProgramBuilder:
    """Numbers values and parameters while layers add their operations."""

    def __init__(self, width: int) -> None:
        self.widths = [width]
        self.operations: list[Operation] = []
        self.owners: list[tuple[Weight, Layer]] = []
        self.state_owners: list[tuple[Weight, Layer]] = []
        self.shapes: dict[int, tuple[Shape, Shape]] = {}
        self._numbers: dict[int, int] = {}
        self._dropouts = 0

    def parameters_of(self, layer: Layer) -> tuple[int, ...]:
        """The numbers of the layer's parameters; a layer used again has the same ones. Its states get numbers too."""
        for weight in layer.weights:
            if id(weight) not in self._numbers:
                owners = self.state_owners if weight.is_state else self.owners
                self._numbers[id(weight)] = len(owners)
                owners.append((weight, layer))
        return tuple(self._numbers[id(weight)] for weight in layer.weights if not weight.is_state)

    def dropout_stream(self) -> int:
        """A stream of random numbers of its own for each use of a dropout layer."""
        self._dropouts += 1
        return STREAM_DROPOUT + self._dropouts - 1

    def operation(
        self, kind: str, owner: Layer, source: int, shape: Shape, parameters: tuple[int, ...] = (), **fields: Any
    ) -> int:
        """Adds one operation and the value it computes; returns that value."""
        self.widths.append(math.prod(shape))
        output = len(self.widths) - 1
        self.operations.append(Operation(kind, (source,), output, owner.name, parameters, **fields))
        return output

    def python(self, layer: Layer, source: int, shape: Shape, output_shape: Shape) -> int:
        """Adds a layer that runs in Python."""
        output = self.operation("python", layer, source, output_shape, self.parameters_of(layer), layer=layer)
        self.shapes[output] = (shape, output_shape)
        return output


def build_graph(input_shape: Shape, calls: Sequence[Call], dtype: str) -> Graph:
    """The program of these calls. Layers have been built, and named, before."""
    builder = ProgramBuilder(math.prod(input_shape))
    value = 0
    shape = input_shape
    for layer, given, output_shape in calls:
        if given != shape:
            raise ValueError(f"Model: {layer.name} was connected to rows of shape {given}; received {shape}")
        value = layer.emit(builder, value, shape, output_shape)
        shape = output_shape
    if value == 0:  # only layers that change nothing, and a network needs an operation
        value = builder.operation("activation", calls[-1].layer, 0, shape)
    parameters, states = (
        tuple(Parameter(f"{weight.layer}/{weight.name}", weight.shape) for weight, _ in owners)
        for owners in (builder.owners, builder.state_owners)
    )
    program = Program(dtype, tuple(builder.widths), parameters, tuple(builder.operations), (value,), states)
    owners = tuple(builder.owners), tuple(builder.state_owners)
    return Graph(input_shape, shape, tuple(calls), program, *owners, builder.shapes)


def name_layers(layers: Sequence[Layer]) -> None:
    """Gives every layer without a name one that is unique among `layers`: dense, dense_1, ..."""
    taken = {layer.name for layer in layers if layer._name_is_given}
    if len(taken) != sum(layer._name_is_given for layer in layers):
        names = [layer.name for layer in layers if layer._name_is_given]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"Model: layer names must be unique; received {', '.join(twice)} more than once")
    for layer in layers:
        if layer._name_is_given:
            continue
        base = name = snake_case(type(layer).__name__).lstrip("_") or "layer"
        number = 0
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        layer._name = name
    for layer in layers:
        for weight in layer.weights:
            weight.layer = layer.name

"""From layers to a program: which layer is called on what, as plain operations over numbered values.

In a model's structure the inputs are the nodes 0, 1, ..., and the calls of layers, in order, the nodes after them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .layer import Input, Layer, Shape, Shapes, Value
from .program import PRECISIONS, Operation, Parameter, Program, Signature
from .random import STREAM_DROPOUT
from .serialization import snake_case
from .weights import Weight

__all__ = [
    "Call",
    "Graph",
    "ProgramBuilder",
    "Structure",
    "build_graph",
    "chain",
    "name_layers",
    "structure_of",
]


class Call(NamedTuple):
    """One use of a layer: on these nodes, of this shape (shapes for a layer that takes a list)."""

    layer: Layer
    inputs: tuple[int, ...]
    input_shape: Shapes
    output_shape: Shape


class Structure(NamedTuple):
    """What is connected with what."""

    input_names: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    calls: tuple[Call, ...]
    outputs: tuple[int, ...]  # nodes
    output_keys: tuple[str, ...] | None = None  # of a model whose outputs are a dict

    @property
    def layers(self) -> list[Layer]:
        """Each layer once, in order of first use."""
        return list(dict.fromkeys(call.layer for call in self.calls))

    @property
    def is_chain(self) -> bool:
        """One input, and each call on the node before it; none takes a list, be it of one value."""
        return (
            len(self.input_shapes) == 1
            and all(call.inputs == (number,) and not call.layer.takes_list for number, call in enumerate(self.calls))
            and self.outputs == (len(self.calls),)
            and self.output_keys is None
        )

    def shape(self, node: int) -> Shape:
        """Of one row of a node."""
        count = len(self.input_shapes)
        return self.input_shapes[node] if node < count else self.calls[node - count].output_shape

    def owner_name(self, node: int) -> str:
        """The name of the input, or of the layer."""
        count = len(self.input_names)
        return self.input_names[node] if node < count else self.calls[node - count].layer.name

    def node_names(self) -> list[str]:
        """Of all nodes: the inputs, and the uses of layers."""
        return [*self.input_names, *self.use_names([call.layer.name for call in self.calls])]

    def use_names(self, layers: Sequence[str]) -> list[str]:
        """A name for each use of a layer, in this order: the layer's, then "<layer>:2", ..., but none that an input or
        another layer has."""
        found: list[str] = []
        numbers: dict[str, int] = {}
        taken = {*self.input_names, *(call.layer.name for call in self.calls)}
        for layer in layers:
            name, numbers[layer] = layer, numbers.get(layer, 0) + 1
            while numbers[layer] > 1 and (name := f"{layer}:{numbers[layer]}") in taken:
                numbers[layer] += 1
            found.append(name)
        return found


class Graph(NamedTuple):
    """A model's structure, the program made of it, and the weight behind each parameter."""

    structure: Structure
    program: Program
    owners: tuple[tuple[Weight, Layer], ...]  # the weight behind each parameter, and its layer
    state_owners: tuple[tuple[Weight, Layer], ...]  # the same for each state
    shapes: dict[int, tuple[Shapes, Shape]]  # rows in and out of each Python operation, by its output value

    output_names: tuple[str, ...]
    output_shapes: tuple[Shape, ...]  # of one row of each output
    is_simple: bool  # one input, and one output whose rows have one axis

    @property
    def calls(self) -> tuple[Call, ...]:
        return self.structure.calls

    @property
    def weights(self) -> list[Weight]:
        """Each weight once, in order of first use."""
        return [weight for layer in self.layers for weight in layer.weights]

    @property
    def layers(self) -> list[Layer]:
        """Each layer once, in order of first use."""
        return self.structure.layers

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.structure.input_names

    @property
    def input_shapes(self) -> tuple[Shape, ...]:
        """Of one row of each input."""
        return self.structure.input_shapes

    @property
    def signature(self) -> Signature:
        is_dict = self.structure.output_keys is not None
        return Signature(self.input_names, self.input_shapes, self.output_names, self.output_shapes, is_dict)


def chain(
    input_shape: Shape, layers: Sequence[Layer], output_shapes: Mapping[int, Shape], input_name: str = "input"
) -> Structure:
    """Each layer on the one before it. `output_shapes` has those that are known, by call."""
    calls: list[Call] = []
    shape = input_shape
    for number, layer in enumerate(layers):
        if layer.takes_list:
            raise ValueError(f"Sequential: {layer.name} takes several values; build such a model with Model")
        output_shape = layer.prepare(shape, output_shapes.get(number))
        calls.append(Call(layer, (number,), shape, output_shape))
        shape = output_shape
    return Structure((input_name,), (input_shape,), tuple(calls), (len(calls),))


def structure_of(inputs: Any, outputs: Any) -> Structure:
    """What leads from `inputs` to `outputs`. Whatever else was connected on the way does not matter."""
    starts: list[Any] = [inputs] if isinstance(inputs, Value) else _listed(inputs, "inputs")
    for start in starts:
        if not isinstance(start, Input):
            raise TypeError(f"Model: expected inputs made by Input; received {start!r:.100}")
    if len(set(map(id, starts))) != len(starts):
        raise ValueError("Model: expected each input once; received one twice")
    keys: tuple[Any, ...] | None = None
    if isinstance(outputs, Mapping):
        keys = tuple(outputs)
        for key in keys:
            if not isinstance(key, str) or not key:
                raise TypeError(f"Model: names of outputs must be text; received {key!r}")
        outputs = list(outputs.values())
    ends = [outputs] if isinstance(outputs, Value) else _listed(outputs, "outputs")
    calls, nodes = _calls(starts, ends)
    used = {node for call in calls for node in call.inputs} | {nodes[id(end)] for end in ends}
    for number, start in enumerate(starts):
        if number not in used:
            raise ValueError(f"Model: every input must lead to an output; received {start!r}, which is not connected")
    if not calls:
        raise ValueError("Model: expected at least one layer between inputs and outputs; received none")
    shapes = tuple(start.shape for start in starts)
    return Structure(_input_names(starts), shapes, tuple(calls), tuple(nodes[id(end)] for end in ends), keys)


def _calls(starts: Sequence[Value], ends: Sequence[Value]) -> tuple[list[Call], dict[int, int]]:
    """The calls that lead from `starts` to `ends`, in order, and the node of each value, by its id."""
    nodes: dict[int, int] = {id(start): number for number, start in enumerate(starts)}
    calls: list[Call] = []
    # Depth first, what a value is made of before itself; a list instead of recursion, for deep networks.
    pending: list[tuple[Value, bool]] = [(value, False) for value in reversed(ends)]
    while pending:
        value, ready = pending.pop()
        if id(value) in nodes:
            continue
        if value.layer is None:
            raise ValueError(
                "Model: outputs must be computed from inputs; received values that are not connected:"
                f" they need {value!r}, which is not among the inputs"
            )
        if not ready:
            pending.append((value, True))
            pending += [(source, False) for source in reversed(value.sources)]
            continue
        shapes = tuple(source.shape for source in value.sources)
        sources = tuple(nodes[id(source)] for source in value.sources)
        calls.append(Call(value.layer, sources, shapes if value.layer.takes_list else shapes[0], value.shape))
        nodes[id(value)] = len(starts) + len(calls) - 1
    return calls, nodes


def _listed(values: Any, what: str) -> list[Any]:
    found = list(values) if isinstance(values, (list, tuple)) else []
    if not found or not all(isinstance(value, Value) for value in found):
        raise TypeError(
            f"Model: expected {what} to be a value, or a list of them; received {type(values).__name__} {values!r:.100}"
        )
    return found


def _input_names(starts: Sequence[Input]) -> tuple[str, ...]:
    given = [start.name for start in starts if start.name is not None]
    if len(set(given)) != len(given):
        raise ValueError(f"Model: names of inputs must be unique; received {', '.join(given)}")
    names: list[str] = []
    number = 0
    for start in starts:
        name = start.name
        while name is None or (start.name is None and name in given):
            name = f"input_{number}" if number else "input"
            number += 1
        names.append(name)
    return tuple(names)


class ProgramBuilder:
    """Numbers values and parameters while layers add their operations."""

    def __init__(self, width: int, dtype: str) -> None:
        self.dtype = dtype  # of the arrays
        self.widths = [width]
        self.operations: list[Operation] = []
        self.owners: list[tuple[Weight, Layer]] = []
        self.state_owners: list[tuple[Weight, Layer]] = []
        self.shapes: dict[int, tuple[Shapes, Shape]] = {}
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
        self,
        kind: str,
        owner: Layer | str,
        sources: tuple[int, ...],
        shape: Shape,
        parameters: tuple[int, ...] = (),
        **fields: Any,
    ) -> int:
        """Adds one operation and the value it computes; returns that value."""
        self.widths.append(math.prod(shape))
        output = len(self.widths) - 1
        name = owner if isinstance(owner, str) else owner.name
        self.operations.append(Operation(kind, sources, output, name, parameters, **fields))
        return output

    def python(self, layer: Layer, sources: tuple[int, ...], input_shape: Shapes, output_shape: Shape) -> int:
        """Adds a layer that runs in Python."""
        output = self.operation("python", layer, sources, output_shape, self.parameters_of(layer), layer=layer)
        self.shapes[output] = (input_shape, output_shape)
        return output


def build_graph(structure: Structure, dtype: str) -> Graph:
    """The program of this structure. Layers have been built, and named, before."""
    widths = [math.prod(shape) for shape in structure.input_shapes]
    builder = ProgramBuilder(sum(widths), PRECISIONS[dtype])
    values = [0]
    if len(widths) > 1:  # value 0 holds them side by side
        values, begin = [], 0
        for name, shape, width in zip(structure.input_names, structure.input_shapes, widths, strict=True):
            values.append(builder.operation("columns", name, (0,), shape, begin=begin))
            begin += width
    inputs = set(values)
    for layer, nodes, input_shape, output_shape in structure.calls:
        given = tuple(structure.shape(node) for node in nodes)
        if input_shape != (given if layer.takes_list else given[0]):
            raise ValueError(f"Model: {layer.name} was connected to rows of shape {input_shape}; received {given}")
        values.append(layer.emit(builder, tuple(values[node] for node in nodes), input_shape, output_shape))
    outputs = []
    for node in structure.outputs:
        value = values[node]
        if value in inputs:  # only layers that change nothing; the network computes its outputs
            value = builder.operation("activation", structure.node_names()[node], (value,), structure.shape(node))
        outputs.append(value)
    parameters, states = (
        tuple(Parameter(f"{weight.layer}/{weight.name}", weight.shape) for weight, _ in owners)
        for owners in (builder.owners, builder.state_owners)
    )
    names = Counter(parameter.name for parameter in (*parameters, *states))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ValueError(f"Model: names of a layer's weights must differ; received {', '.join(twice)} more than once")
    program = Program(dtype, tuple(builder.widths), parameters, tuple(builder.operations), tuple(outputs), states)
    owners = tuple(builder.owners), tuple(builder.state_owners)
    shapes = tuple(structure.shape(node) for node in structure.outputs)
    is_simple = len(widths) == len(shapes) == len(shapes[0]) == 1 and structure.output_keys is None
    return Graph(structure, program, *owners, builder.shapes, _output_names(structure), shapes, is_simple)


def _output_names(structure: Structure) -> tuple[str, ...]:
    """The keys when the outputs are a dict, else the names of what computes them; "<name>_1" for a second one."""
    if structure.output_keys is not None:
        return structure.output_keys
    names: dict[str, None] = {}
    used: dict[str, int] = {}
    for node in structure.outputs:
        base = name = structure.owner_name(node)
        while name in names:
            used[base] = used.get(base, 0) + 1
            name = f"{base}_{used[base]}"
        names[name] = None
    return tuple(names)


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

"""A model as a table of layers, shapes and parameter counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import NotBuiltError

if TYPE_CHECKING:
    from .models import Model

__all__ = ["summary_text"]


def summary_text(model: Model) -> str:
    """The table that ``model.summary()`` prints."""
    graph = model._graph
    if graph is None:
        raise NotBuiltError("summary: expected a model with weights; call fit or build first")
    structure = graph.structure
    chain, names = structure.is_chain, structure.node_names()
    rows = [("Layer (type)", "Output shape", "Parameters", "Trainable", "" if chain else "Connected to")]
    for name, shape in zip(structure.input_names, structure.input_shapes, strict=True):
        rows.append((f"{name}: {_shape(shape)}", "", "", "", ""))
    seen: set[int] = set()
    for number, call in enumerate(graph.calls):
        layer = call.layer
        count = layer.count_params()
        if id(layer) in seen:
            parameters, trainable = "(shared)", ""
        else:
            parameters = f"{count:,}"
            trainable = "" if not count else "yes" if layer.trainable else "no"
        seen.add(id(layer))
        name = layer.name if chain else names[len(structure.input_names) + number]
        connected = "" if chain else ", ".join(names[node] for node in call.inputs)
        rows.append((f"{name} ({type(layer).__name__})", _shape(call.output_shape), parameters, trainable, connected))
    total = sum(weight.size for weight in graph.weights)
    learning = sum(weight.size for weight, layer in graph.owners if weight.trainable and layer.trainable)
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * max(len(line) for line in lines)
    size = total * (8 if model.dtype == "float64" else 4)
    footer = [
        f"Parameters in total: {total:,} ({size:,} bytes)",
        f"Trainable: {learning:,}",
        f"Not trainable: {total - learning:,}",
    ]
    if not chain:
        nodes = zip(graph.output_names, structure.outputs, strict=True)
        footer.insert(0, f"Outputs: {', '.join(_output(name, names[node]) for name, node in nodes)}")
    title = f"{type(model).__name__} {model.name!r}, {model.dtype}, {model.backend} backend"
    return "\n".join([title, rule, lines[0], rule, *lines[1:], rule, *footer])


def _output(name: str, node: str) -> str:
    return name if name == node else f"{name} ({node})"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['n', *map(str, shape)])})"


def _line(row: tuple[str, str, str, str, str], widths: list[int]) -> str:
    name, shape, parameters, trainable, connected = row
    cells = [name.ljust(widths[0]), shape.ljust(widths[1]), parameters.rjust(widths[2]), trainable.ljust(widths[3])]
    cells.append(connected)
    return "  ".join(cells).rstrip()

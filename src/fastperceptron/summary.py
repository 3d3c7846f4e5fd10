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
    rows = [("Layer (type)", "Output shape", "Parameters", "Trainable")]
    rows.append((f"input: {_shape(graph.input_shape)}", "", "", ""))
    seen: set[int] = set()
    for call in graph.calls:
        layer = call.layer
        count = layer.count_params()
        if id(layer) in seen:
            parameters, trainable = "(shared)", ""
        else:
            parameters = f"{count:,}"
            trainable = "" if not count else "yes" if layer.trainable else "no"
        seen.add(id(layer))
        rows.append((f"{layer.name} ({type(layer).__name__})", _shape(call.output_shape), parameters, trainable))
    total = sum(weight.size for weight in graph.weights)
    learning = sum(weight.size for weight, layer in graph.owners if weight.trainable and layer.trainable)
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [_line(row, widths) for row in rows]
    rule = "-" * max(len(line) for line in lines)
    size = total * (8 if model.dtype == "float64" else 4)
    footer = [
        f"Parameters in total: {total:,} ({size:,} bytes)",
        f"Trainable: {learning:,}",
        f"Not trainable: {total - learning:,}",
    ]
    title = f"{type(model).__name__} {model.name!r}, {model.dtype}, {model.backend} backend"
    return "\n".join([title, rule, lines[0], rule, *lines[1:], rule, *footer])


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(['n', *map(str, shape)])})"


def _line(row: tuple[str, str, str, str], widths: list[int]) -> str:
    name, shape, parameters, trainable = row
    cells = [name.ljust(widths[0]), shape.ljust(widths[1]), parameters.rjust(widths[2]), trainable.ljust(widths[3])]
    return "  ".join(cells).rstrip()

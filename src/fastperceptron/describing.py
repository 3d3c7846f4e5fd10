"""Configurations of models, of which :mod:`fastperceptron.saving` makes models again.

They are JSON data but for arrays, of which :func:`fastperceptron.serialization.as_lists` makes lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import activations, initializers, layers, losses, metrics, optimizers
from .checks import kind_of
from .graph import Graph
from .layer import Layer
from .serialization import Configurable, as_json, serialize

if TYPE_CHECKING:
    from .models import Model

__all__ = ["file_config", "foreign_classes", "graph_config", "layer_entry", "public_classes", "without_given_values"]

#: Where this package's classes are that a configuration may name, by what it describes with them.
_MODULES = {
    "layer": (layers, activations, initializers),
    "loss": (losses,),
    "metric": (metrics,),
    "optimizer": (optimizers,),
}
_BASES = (Layer, initializers.Initializer, losses.Loss, metrics.Metric, optimizers.Optimizer)


def graph_config(model: Model) -> dict[str, Any]:
    """The structure of a built model, without weights."""
    graph = model._built_graph("get_config")
    structure, layers = graph.structure, graph.layers
    number = {layer: index for index, layer in enumerate(layers)}
    config = {
        "class": "Model",
        "name": str(model.name),
        "dtype": model.dtype,
        "seed": model._seed,
        "layers": [layer_entry(layer, graph) for layer in layers],
        "calls": [number[call.layer] for call in graph.calls],
    }
    if structure.is_chain and structure.input_names == ("input",):
        return config | {"input_shape": list(structure.input_shapes[0])}
    inputs = zip(structure.input_names, structure.input_shapes, strict=True)
    return config | {
        "inputs": [{"name": name, "shape": list(shape)} for name, shape in inputs],
        "connections": [list(call.inputs) for call in graph.calls],
        "outputs": list(structure.outputs),
        "output_keys": None if structure.output_keys is None else list(structure.output_keys),
    }


def layer_entry(layer: Layer, graph: Graph | None) -> dict[str, Any]:
    """What a configuration says of one layer."""
    entry = {
        "class": type(layer).__name__,
        "name": layer.name,
        "trainable": layer.trainable,
        "config": serialize(layer)["config"],
    }
    if layer.learning_rate_multiplier != 1:
        entry["learning_rate_multiplier"] = layer.learning_rate_multiplier
    flags = [(weight.name, weight.trainable, weight.is_state) for weight in layer.weights]
    changed = {name: flag for name, flag, is_state in flags if flag == is_state}
    if changed and graph is not None:
        entry["trainable_weights"] = changed
    if layer.is_python and graph is not None:
        # So that loading need not run the layer to know its shape.
        entry["output_shape"] = next(list(call.output_shape) for call in graph.calls if call.layer is layer)
    return entry


def file_config(model: Model) -> dict[str, Any]:
    """What a file, a pickle or a copy says of a model, beside its state. (A file leaves given arrays out.)"""
    compiled = None
    if model._compiled is not None:
        chosen = model._compiled
        compiled = {
            "optimizer": serialize(chosen.optimizer),
            "loss": serialize(chosen.losses[0] if len(chosen.losses) == 1 else chosen.losses),
            "metrics": serialize(chosen.metrics[0] if len(chosen.metrics) == 1 else chosen.metrics),
        }
        if any(weight != 1 for weight in chosen.weights):
            compiled["loss_weights"] = list(chosen.weights)
    return {"model": model._as_config(), "compile": compiled, "metadata": _metadata_of(model)}


def _metadata_of(model: Model) -> dict[str, Any]:
    if not isinstance(model.metadata, Mapping):
        raise TypeError(f"metadata: expected a mapping by text; received {kind_of(model.metadata)}")
    found: dict[str, Any] = _metadata_json(model.metadata)
    return found


def _metadata_json(value: Any) -> Any:
    return as_json(value, "metadata", "numbers, text, lists or mappings by text", _metadata_json)


def without_given_values(config: Any) -> Any:
    """Arrays given to initializers have done their work where the weights go along."""
    if isinstance(config, list):
        return [without_given_values(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class") == "Given" and "config" in config:
        return {"class": "Given", "config": {"values": None}}
    return {name: without_given_values(item) for name, item in config.items()}


def _described(value: Any) -> Iterator[Configurable]:
    """The objects that a configuration with this value describes, however deep in it they are."""
    if isinstance(value, Configurable):
        yield value
        value = value.get_config()
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from _described(item)


def public_classes(kind: str) -> dict[str, type[Any]]:
    """This package's classes that a configuration of a layer, loss, metric or optimizer may name: those that can be
    used as they are. Where two have one name it is that of this kind."""
    found: dict[str, type[Any]] = {}
    for each in [*(other for other in _MODULES if other != kind), kind]:  # the last of one name counts
        for module in _MODULES[each]:
            for name in module.__all__:
                item = getattr(module, name)
                if isinstance(item, type) and issubclass(item, Configurable) and item not in _BASES:
                    found[name] = item
    return found


def foreign_classes(model: Model) -> dict[str, type[Any]]:
    """Classes that are not this package's, by the names under which the configuration knows them."""
    parts: dict[str, Any] = {"layer": model.layers}
    if model._compiled is not None:
        chosen = model._compiled
        parts |= {"loss": chosen.losses, "metric": chosen.metrics, "optimizer": chosen.optimizer}
    found: dict[str, type[Any]] = {}
    for kind, values in parts.items():
        known = public_classes(kind)
        for cls in dict.fromkeys(map(type, _described(values))):
            name = cls.__name__
            other = known.get(name) or found.setdefault(name, cls)
            if other is not cls:
                raise ValueError(
                    f"{type(model).__name__}: copies and files know classes by name; received two called {name},"
                    f" of {other.__module__} and {cls.__module__} (rename one)"
                )
    return found

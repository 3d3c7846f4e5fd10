"""Models from configurations and files, and back.

Structure comes first, and is compared with the arrays that are offered; only then is anything allocated.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from . import backends, random
from .checks import kind_of
from .describing import public_classes
from .errors import ModelFormatError
from .graph import Call, Graph, Structure, build_graph, name_layers
from .judging import compiled_for, judges_of
from .layer import Input, Layer, Shape, checked_shape
from .models import Model
from .sequential import Sequential
from .serialization import deserialize
from .state import check_counters, check_state, expected_state, set_state

__all__ = ["checked_classes", "from_config", "load_model", "rebuild"]

Array = NDArray[Any]
Classes = Mapping[str, type[Any]]


def load_model(
    path: str | os.PathLike[str], *, backend: str | None = None, custom_objects: Classes | None = None
) -> Model:
    """The model that ``save`` wrote, with its whole state.

    Parameters
    ----------
    backend : where it shall run; None for the backend in force
    custom_objects : {name: class} of layers, losses, metrics and optimizers of one's own

    Raises
    ------
    ModelFormatError
        The file is damaged, not a model, or names a class that is not known.
    """
    from .modelfile import read_model_file

    backends.resolve(backend)  # an error here, or in the next line, is not the file's
    classes = checked_classes("load_model", custom_objects)
    made: list[tuple[Model, Graph, Any]] = []

    def check(config: dict[str, Any], described: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        parts = _parts(config, classes, backend)
        model, graph, compiled = parts
        if graph is None:
            raise ModelFormatError("expected a built model; received one without an input shape")
        check_state(described, expected_state(graph, compiled[0] if compiled is not None else None), "load_model")
        made.append((model, graph, compiled))

    _, tensors = read_model_file(path, check)
    model, graph, compiled = made[0]
    try:
        check_counters(tensors, "load_model")
    except ValueError as error:
        raise ModelFormatError(f"{error} in {os.fspath(path)}") from error
    _finish(model, graph, compiled, tensors)
    return model


def checked_classes(operation: str, custom_objects: Any) -> Classes:
    """The classes of a user's own, by name."""
    given: Any = {} if custom_objects is None else custom_objects
    wrong = [one for one in given.values() if not isinstance(one, type)] if isinstance(given, Mapping) else [given]
    if wrong:
        raise TypeError(f"{operation}: custom_objects must map names to classes; received {kind_of(wrong[0])}")
    return dict(given)


def from_config(config: Any, custom_objects: Classes, backend: str | None) -> tuple[Model, Graph | None]:
    """The model and its structure, without weights. Nothing large is allocated whatever the configuration says."""
    wanted = {"class": str, "name": str, "dtype": str, "layers": list, "calls": list}
    for field, kind in wanted.items():
        if not isinstance(config, Mapping) or not isinstance(config.get(field), kind):
            raise ValueError(f"from_config: expected a model's configuration with {field!r}; received {config!r:.80}")
    if config["class"] not in ("Model", "Sequential"):
        raise ValueError(f"from_config: expected the class Model or Sequential; received {config['class']!r}")
    classes = {**public_classes("layer"), **custom_objects}
    layers = [_layer_from_entry(entry, classes) for entry in config["layers"]]
    calls = config["calls"]
    if not all(type(call) is int and 0 <= call < len(layers) for call in calls) or len(set(calls)) != len(layers):
        raise ValueError(f"from_config: calls must use each of the {len(layers)} layers; received {calls!r:.80}")
    known = [_output_shape(entry["output_shape"]) if "output_shape" in entry else None for entry in config["layers"]]
    seed = None if config.get("seed") is None else int(config["seed"])
    if config["class"] == "Model" and "connections" in config:
        model = _empty(config, seed, backend)
        structure = _structure(config, layers, known)
        _set_trainable(layers, config["layers"])
        name_layers(layers)
        return model, build_graph(structure, model.dtype)
    chain = Sequential([layers[call] for call in calls], dtype=config["dtype"], backend=backend, name=config["name"])
    if seed is not None:
        chain._seed = seed
        chain._key = random.make_key(seed)
    graph = None
    if config.get("input_shape") is not None:
        begin = Input(checked_shape(config["input_shape"], "from_config"), config.get("input_name"))
        chain._given_shape, chain._input_name = begin.shape, begin.name or chain._input_name
        if calls:
            shapes = {number: shape for number, call in enumerate(calls) if (shape := known[call]) is not None}
            graph = chain._chain_graph(begin.shape, shapes)
            _set_trainable(layers, config["layers"])
    if config["class"] == "Sequential":
        return chain, graph
    if graph is None:
        raise ValueError("from_config: expected a Model's input shape and layers; received none")
    return _empty(config, seed, backend), graph


def _output_shape(shape: Any) -> Shape:
    return () if shape == [] else checked_shape(shape, "from_config")  # a layer in Python may give a number per row


def _empty(config: Mapping[str, Any], seed: int | None, backend: str | None) -> Model:
    model = Model.__new__(Model)
    model._prepare(seed, config["dtype"], backend, config["name"])
    return model


def _structure(config: Mapping[str, Any], layers: list[Layer], known: list[Shape | None]) -> Structure:
    """What a file says is connected with what, every number of it checked."""
    inputs: Any = config.get("inputs")
    outputs: Any = config.get("outputs")
    connections, keys = config["connections"], config.get("output_keys")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(entry, Mapping) for entry in inputs):
        raise ValueError(f"from_config: expected inputs with names and shapes; received {inputs!r:.80}")
    names = tuple(str(entry.get("name")) for entry in inputs)
    if len(set(names)) != len(names):
        raise ValueError(f"from_config: names of inputs must be unique; received {names!r:.80}")
    shapes = tuple(checked_shape(entry.get("shape"), "from_config") for entry in inputs)
    if not isinstance(connections, list) or len(connections) != len(config["calls"]):
        raise ValueError(f"from_config: expected connections for each of the calls; received {connections!r:.80}")
    found: list[Shape] = list(shapes)
    calls: list[Call] = []
    for number, nodes in zip(config["calls"], connections, strict=True):
        layer = layers[number]
        if not _are_nodes(nodes, len(found)) or (len(nodes) != 1 and not layer.takes_list):
            raise ValueError(
                f"from_config: {layer.name} must be connected to what comes before it; received {nodes!r:.80}"
            )
        given = tuple(found[node] for node in nodes)
        shape = given if layer.takes_list else given[0]
        calls.append(Call(layer, tuple(nodes), shape, layer.prepare(shape, known[number])))
        found.append(calls[-1].output_shape)
    if not _are_nodes(outputs, len(found)):
        raise ValueError(f"from_config: expected outputs among the {len(found)} values; received {outputs!r:.80}")
    if keys is not None and (
        not isinstance(keys, list)
        or not all(isinstance(key, str) for key in keys)
        or len(set(keys)) != len(keys)
        or len(keys) != len(outputs)
    ):
        raise ValueError(f"from_config: expected a name for each of the {len(outputs)} outputs; received {keys!r:.80}")
    return Structure(names, shapes, tuple(calls), tuple(outputs), None if keys is None else tuple(keys))


def _are_nodes(numbers: Any, count: int) -> bool:
    return isinstance(numbers, list) and bool(numbers) and all(type(n) is int and 0 <= n < count for n in numbers)


def _layer_from_entry(entry: Any, classes: Classes) -> Layer:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"from_config: expected a layer's class, name and config; received {entry!r:.80}")
    layer = deserialize({"class": entry.get("class"), "config": entry.get("config", {})}, classes, "layer")
    if not isinstance(layer, Layer):
        raise ValueError(f"from_config: expected a layer; received {entry.get('class')!r:.80}")
    multiplier = entry.get("learning_rate_multiplier", 1.0)
    Layer.__init__(
        layer, name=entry["name"], trainable=bool(entry.get("trainable", True)), learning_rate_multiplier=multiplier
    )
    return layer


def _set_trainable(layers: list[Layer], entries: list[Mapping[str, Any]]) -> None:
    """Of single weights, where that is not as their layer made them."""
    for layer, entry in zip(layers, entries, strict=True):
        flags = entry.get("trainable_weights", {})
        weights = {weight.name: weight for weight in layer.weights}
        if not isinstance(flags, Mapping) or not all(name in weights for name in flags):
            raise ValueError(
                f"from_config: {layer.name}: trainable_weights must be for {', '.join(weights) or 'no weights'};"
                f" received {flags!r:.80}"
            )
        for name, flag in flags.items():
            weights[name].trainable = flag


def _parts(config: Any, custom_objects: Classes, backend: str | None) -> tuple[Model, Graph | None, Any]:
    """Model, structure, and (optimizer, loss, metrics) or None, from what ``save`` stored."""
    if not isinstance(config, Mapping) or not isinstance(config.get("metadata", {}), dict):
        raise ValueError("from_config: expected a model's configuration with metadata; received something else")
    model, graph = from_config(config.get("model"), custom_objects, backend)
    model.metadata = dict(config.get("metadata", {}))
    stored = config.get("compile")
    if stored is None:
        return model, graph, None
    if not isinstance(stored, Mapping) or not isinstance(stored.get("metrics"), list):
        raise ValueError(f"from_config: expected optimizer, loss and metrics; received {stored!r:.80}")
    found = {
        kind: deserialize(stored.get(field), {**public_classes(kind), **custom_objects}, kind)
        for kind, field in (("optimizer", "optimizer"), ("loss", "loss"), ("metric", "metrics"))
    }
    names = ("output",) if graph is None else graph.output_names
    weights = stored.get("loss_weights")
    model._compiled = compiled_for(names, found["optimizer"], found["loss"], found["metric"], weights)
    judges_of(model._compiled, graph)
    if graph is not None:
        model._check_numbers(model._compiled, graph)
    return model, graph, model._compiled


def _finish(model: Model, graph: Graph, compiled: Any, state: Mapping[str, Array]) -> None:
    """Gives the structure its network and its state."""
    model._compiled = compiled
    model._adopt(graph, int(state["random/key"]), initialize=False)
    set_state(model, state)


def rebuild(target: Model, saved: Mapping[str, Any]) -> None:
    """Fills `target`, an empty model, from ``Model.__getstate__``; the same checks as for a file. Where its backend is
    not, in another installation, it runs on the one in force."""
    is_missing = saved["backend"] == "native" and backends.native_failure() is not None
    model, graph, compiled = _parts(saved["config"], saved["classes"], None if is_missing else saved["backend"])
    if saved["state"] is not None:
        if graph is None:
            raise ValueError("Model: expected a configuration with an input shape to go with the state; received none")
        optimizer = compiled.optimizer if compiled is not None else None
        described = {name: (array.dtype.newbyteorder("=").name, array.shape) for name, array in saved["state"].items()}
        check_state(described, expected_state(graph, optimizer), "Model")
        _finish(model, graph, compiled, saved["state"])
    if isinstance(model, Sequential):
        model._key = saved["key"]
    target.__dict__.update(model.__dict__)
    for layer in target.layers:
        layer._model = weakref.ref(target)

"""All that decides the future of a training run, as one tree of named arrays.

========================================= ==================================================
``params/<layer>/<weight>``               weights that training may change
``state/<layer>/<weight>``                weights made with ``trainable=False``
``slots/<slot>/<layer>/<weight>``         the optimizer's memory
``counters/step``, ``counters/epoch``     finished updates and epochs, int64
``counters/iterations``                   updates since the optimizer's memory began, int64
``random/key``                            the key of all random numbers, uint64
========================================= ==================================================

Arrays are (in, out), unpadded and little-endian; scalars have no axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .checks import as_array, kind_of, refuse_masked
from .errors import DTypeError, NotBuiltError, ShapeError
from .graph import Graph
from .undo import wholly

if TYPE_CHECKING:
    from .optimizers import Optimizer
    from .training import Trainer

__all__ = ["check_counters", "check_state", "expected_state", "get_state", "set_state"]

Array = NDArray[Any]
Described = dict[str, tuple[str, tuple[int, ...]]]


def expected_state(graph: Graph, optimizer: Optimizer | None) -> Described:
    """Name -> (dtype, shape) of the state of a model with this structure and optimizer."""
    dtype = graph.program.array_dtype
    found: Described = {f"params/{name}": (dtype, shape) for name, shape in graph.program.parameters}
    found |= {f"state/{name}": (dtype, shape) for name, shape in graph.program.states}
    for slot in () if optimizer is None else optimizer.slot_names:
        found |= {f"slots/{slot}/{name}": (dtype, shape) for name, shape in graph.program.parameters}
    found["counters/step"] = ("int64", ())
    found["counters/epoch"] = ("int64", ())
    found["counters/iterations"] = ("int64", ())
    found["random/key"] = ("uint64", ())
    return found


def check_state(described: Mapping[str, tuple[str, tuple[int, ...]]], expected: Described, operation: str) -> None:
    """An error when the arrays described are not exactly those expected."""
    missing, unknown = sorted(set(expected) - set(described)), sorted(set(described) - set(expected))
    if missing or unknown:
        parts = [f"without {', '.join(missing[:3])}"] if missing else []
        parts += [f"with {', '.join(map(str, unknown[:3]))}"] if unknown else []
        raise ValueError(
            f"{operation}: expected the {len(expected)} arrays of this model; received a state {' and '.join(parts)}"
        )
    for name, (dtype, shape) in expected.items():
        if tuple(described[name][1]) != shape:
            raise ShapeError(f"{operation}: {name} must have shape {shape}; received {tuple(described[name][1])}")
        if described[name][0] != dtype:
            raise DTypeError(f"{operation}: {name} must have dtype {dtype}; received {described[name][0]}")


def check_counters(arrays: Mapping[str, Array], operation: str) -> None:
    """An error for counts that no training reaches: random numbers are functions of 48 bits of them."""
    for name in ("counters/step", "counters/epoch"):
        if not 0 <= int(arrays[name]) < 1 << 48:
            raise ValueError(f"{operation}: {name} must lie in [0, 2**48); received {int(arrays[name])}")
    iterations, step = int(arrays["counters/iterations"]), int(arrays["counters/step"])
    if not 0 <= iterations <= step:
        raise ValueError(
            f"{operation}: counters/iterations must lie in [0, counters/step = {step}]; received {iterations}"
        )


def get_state(model: Trainer) -> dict[str, Array]:
    """Copies of all arrays."""
    network, graph = model._network, model._graph
    if network is None or graph is None:
        raise NotBuiltError("get_state: expected a model with weights; call fit or build first")
    with model._ownership.reading("get_state"):
        if model._segments is not None and model._segments.is_exchanging:  # in a signal's handler
            raise model._ownership.busy("get_state", "the update around this call")
        found: dict[str, Array] = {}
        for index, (name, _) in enumerate(graph.program.parameters):
            found[f"params/{name}"] = _little(network.get_parameter(index))
        for index, (name, _) in enumerate(graph.program.states):
            found[f"state/{name}"] = _little(network.get_state(index))
        python = model._segments.slots if model._segments is not None else {}
        slots = model._compiled.optimizer.slot_names if model._compiled is not None else ()
        native = network.slot_names()
        for slot in slots:
            for index, (name, shape) in enumerate(graph.program.parameters):
                if slot in python:
                    value = python[slot][index].copy()
                elif slot in native:
                    value = network.get_slot(slot, index)
                else:  # its momentum was zero until now
                    value = np.zeros(shape, graph.program.array_dtype)
                found[f"slots/{slot}/{name}"] = _little(value)
        found["counters/step"] = np.array(network.step, "<i8")
        found["counters/epoch"] = np.array(model._epoch, "<i8")
        found["counters/iterations"] = np.array(model._iterations, "<i8")
        found["random/key"] = np.array(network.key, "<u8")
        return found


def set_state(model: Trainer, state: Mapping[str, Any]) -> None:
    """Replaces everything; changes nothing when a part does not fit."""
    network, graph = model._network, model._graph
    if network is None or graph is None:
        raise NotBuiltError("set_state: expected a model with weights; call fit or build first")
    if not isinstance(state, Mapping):
        raise TypeError(f"set_state: expected a mapping of names to arrays; received {kind_of(state)}")
    optimizer = model._compiled.optimizer if model._compiled is not None else None
    for name, value in state.items():
        refuse_masked("set_state", str(name), value)
    arrays = {name: as_array("set_state", str(name), value) for name, value in state.items()}
    described = {name: (array.dtype.newbyteorder("=").name, array.shape) for name, array in arrays.items()}
    check_state(described, expected_state(graph, optimizer), "set_state")
    check_counters(arrays, "set_state")
    native = {name: np.asarray(array, array.dtype.newbyteorder("="), order="C") for name, array in arrays.items()}

    def write() -> None:
        for index, (name, _) in enumerate(graph.program.parameters):
            network.set_parameter(index, native[f"params/{name}"])
        for index, (name, _) in enumerate(graph.program.states):
            network.set_state(index, native[f"state/{name}"])
        python = model._segments.slots if model._segments is not None else {}
        for slot in optimizer.slot_names if optimizer is not None else ():
            for index, (name, _) in enumerate(graph.program.parameters):
                if slot in python:
                    python[slot][index] = native[f"slots/{slot}/{name}"].copy()
                else:
                    network.set_slot(slot, index, native[f"slots/{slot}/{name}"])
        network.step = int(native["counters/step"])
        network.key = int(native["random/key"])
        model._epoch = int(native["counters/epoch"])
        model._iterations = int(native["counters/iterations"])

    with model._ownership.writing("set_state"):
        model._push()
        wholly(write)


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)

"""``Sequential``: a chain of layers, which may grow and shrink, and is built when it first sees data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from . import random
from .checks import kind_of
from .describing import layer_entry
from .errors import NotBuiltError
from .graph import Graph, build_graph, chain, name_layers
from .layer import Input, Layer, Shape, Value, checked_shape
from .models import Model

__all__ = ["Sequential"]


class Sequential(Model):
    """A chain of layers. Without an ``Input`` it is built when it first sees data.

    Parameters
    ----------
    layers : layers in order, optionally with an ``Input`` first
    seed : int or numpy Generator; decides weights, order of rows and dropout. None: different every time
    dtype : "float32", "float64" or "mixed_bfloat16"
    backend : "native", "numpy", "auto", or None for the one in force

    >>> import fastperceptron as fp
    >>> model = fp.Sequential([fp.Input((4,)), fp.Dense(3), fp.Dense(2), fp.Dense(1)], seed=0)
    >>> model.count_params()
    26
    """

    def __init__(
        self,
        layers: Sequence[Layer | Input] | None = None,
        *,
        seed: Any = None,
        dtype: str = "float32",
        backend: str | None = None,
        name: str | None = None,
    ) -> None:
        self._prepare(seed, dtype, backend, name)
        self._key = random.make_key(seed)
        self._chain: list[Layer] = []
        self._given_shape: Shape | None = None
        self._input_name = "input"
        self._begin(() if layers is None else layers)

    def _begin(self, layers: Sequence[Layer | Input]) -> None:
        if not isinstance(layers, Iterable):
            raise TypeError(f"Sequential: expected a list of layers; received {kind_of(layers)}")
        layers = list(layers)
        with self._as_before_on_failure(*layers):
            for layer in layers:
                self._append(layer)
            self._name_chain()
            if self._given_shape is not None and self._chain:
                self.build(self._given_shape)

    def _append(self, layer: Any) -> None:
        if isinstance(layer, Value):
            if self._chain or self._given_shape is not None or not isinstance(layer, Input):
                raise ValueError("Sequential: an Input may only be the first of the list; received one after it")
            self._given_shape = layer.shape
            self._input_name = layer.name or self._input_name
        elif isinstance(layer, Layer):
            self._own([layer])
            self._chain.append(layer)
        else:
            raise TypeError(f"Sequential: expected layers; received {kind_of(layer)}")

    def _name_chain(self) -> None:
        name_layers(list(dict.fromkeys(self._chain)))

    @property
    def layers(self) -> list[Layer]:
        return list(dict.fromkeys(self._chain))

    @property
    def _network_key(self) -> int:
        return self._key if self._network is None else self._network.key

    def build(self, input_shape: int | Sequence[int | None]) -> None:
        """Makes the weights for samples of this shape (a leading None, the batch, is ignored)."""
        shape = checked_shape(input_shape, "build")
        if self._graph is not None:
            if shape != self.input_shape:
                raise ValueError(f"build: built for samples of shape {self.input_shape}; received {shape}")
            return
        with self._ownership.writing("build"), self._structured(shape):
            pass

    def _structured(self, shape: Shape) -> AbstractContextManager[Graph]:
        return self._building(shape) if self._graph is None else nullcontext(self._graph)

    @contextmanager
    def _building(self, shape: Shape) -> Iterator[Graph]:
        """The structure for these samples. What is new is undone when the block raises, and built when it does not."""
        if not self._chain:
            raise ValueError("Sequential: expected at least one layer; received none")
        with self._as_before_on_failure():
            graph = self._chain_graph(shape)
            yield graph
            self._adopt(graph, self._key)

    def _chain_graph(self, shape: Shape, output_shapes: Mapping[int, Shape] | None = None) -> Graph:
        self._own(self.layers)
        structure = chain(shape, self._chain, output_shapes or {}, self._input_name)
        self._name_chain()
        return build_graph(structure, self.dtype)

    def add(self, layer: Layer | Input) -> None:
        """Appends a layer. In a built model the weights stay and the optimizer's memory begins anew."""
        with self._ownership.writing("add") as around:
            self._refuse_inside("add", around)
            with self._as_before_on_failure(layer):
                self._append(layer)
                self._rechain()

    def pop(self) -> Layer:
        """Removes the last layer, which keeps its weights, and returns it."""
        with self._ownership.writing("pop") as around:
            self._refuse_inside("pop", around)
            if not self._chain:
                raise ValueError("pop: expected a model with layers; received one without")
            with self._as_before_on_failure():
                layer = self._chain.pop()
                self._rechain()
                if layer not in self._chain:
                    layer._model = None
                    for weight in layer.weights:
                        weight.release()
        return layer

    def __getstate__(self) -> dict[str, Any]:
        if self._network is None and any(weight.has_values for weight in self.weights):
            raise NotBuiltError("copy: expected a built model, since its layers have weights; call fit or build first")
        return super().__getstate__() | {"key": self._network_key}

    def _rechain(self) -> None:
        self._name_chain()
        shape = self._given_shape if self._graph is None else self._graph.input_shapes[0]
        if shape is None:
            return
        if not self._chain:
            self._key = self._network_key  # which a state may have replaced
            self._given_shape, self._graph, self._network = shape, None, None
            self._clear_runtime()
            return
        self._adopt(self._chain_graph(shape), self._network_key)

    def _as_config(self) -> dict[str, Any]:
        shape = self._given_shape if self._graph is None else self._graph.input_shapes[0]
        layers = self.layers
        return {
            "class": "Sequential",
            "name": str(self.name),
            "dtype": self.dtype,
            "seed": self._seed,
            "input_shape": None if shape is None else list(shape),
            "input_name": self._input_name,
            "layers": [layer_entry(layer, self._graph) for layer in layers],
            "calls": [layers.index(layer) for layer in self._chain],
        }

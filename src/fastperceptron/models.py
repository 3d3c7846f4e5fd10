"""Models: layers put together, and everything one does with the whole.

``Model(inputs, outputs)`` is made of calls of layers on values, which may use a layer more than once. Chains of layers
are in :mod:`fastperceptron.sequential`; training comes from :mod:`fastperceptron.training`.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from . import backends, random
from .checks import as_flag, kind_of
from .describing import file_config, foreign_classes, graph_config, without_given_values
from .errors import NotBuiltError
from .graph import Graph, build_graph, name_layers, structure_of
from .layer import Layer, Shape
from .ownership import Ownership
from .program import PRECISIONS
from .serialization import as_lists, snake_case
from .state import get_state, set_state
from .training import Trainer
from .undo import as_before_on_failure
from .weights import Weight, assign_all

if TYPE_CHECKING:
    from .predictors import Predictor
    from .profiling import Profile
    from .tracing import Trace

__all__ = ["Model"]

Array = NDArray[Any]
Classes = Mapping[str, type[Any]]


class Model(Trainer):
    """A network from `inputs` to `outputs`: any graph of layers.

    A value may be read by several layers and also be an output, a layer may be used several times, and Add, Multiply
    and Concatenate bring values together.

    Parameters
    ----------
    inputs : an ``Input``, or a list of them
    outputs : a value computed from them, a list of values, or a dict {name: value}
    seed : int or numpy Generator; decides weights, order of rows and dropout. None: different every time
    dtype : "float32", "float64" or "mixed_bfloat16"
        "mixed_bfloat16": the operands of dense products are rounded to bfloat16; their sums and all else, weights and
        predictions included, are float32. Layers written in Python, subclasses of Dense with a pass of their own among
        them, get float32 and compute as they are written.
    backend : "native", "numpy", "auto", or None for the one in force

    >>> import fastperceptron as fp
    >>> a, b = fp.Input((8,), name="text"), fp.Input((3,), name="numbers")
    >>> h = fp.Dense(8, activation="relu")(fp.Concatenate()([a, b]))
    >>> h = fp.Add()([h, a])
    >>> model = fp.Model([a, b], [fp.Dense(1, name="price")(h), fp.Dense(5, name="kind")(h)], seed=0)
    >>> price, kind = model.predict({"text": [[0.0] * 8], "numbers": [[1.0, 2.0, 3.0]]})
    >>> price.shape, kind.shape
    ((1, 1), (1, 5))
    """

    def __init__(
        self,
        inputs: Any,
        outputs: Any,
        *,
        seed: Any = None,
        dtype: str = "float32",
        backend: str | None = None,
        name: str | None = None,
    ) -> None:
        self._prepare(seed, dtype, backend, name)
        structure = structure_of(inputs, outputs)
        self._own(structure.layers)
        with self._as_before_on_failure(*structure.layers):
            name_layers(structure.layers)
            self._adopt(build_graph(structure, dtype), random.make_key(seed))

    def _prepare(self, seed: Any, dtype: str, backend: str | None, name: Any) -> None:
        if name is None:
            name = snake_case(type(self).__name__)
        if not isinstance(name, str):
            raise ValueError(f"{type(self).__name__}: name must be text; received {name!r}")
        if dtype not in list(PRECISIONS):  # dtype may be anything, unhashable too
            raise ValueError(f"{type(self).__name__}: dtype must be one of {', '.join(PRECISIONS)}; received {dtype!r}")
        self.name = name
        self._dtype = dtype
        self.stop_training = False
        self.history = None
        #: JSON data of one's own that is saved with the model: numbers, text, lists, mappings by text.
        self.metadata: dict[str, Any] = {}
        self._seed = int(seed) if isinstance(seed, (int, np.integer)) else None
        self._backend = backends.resolve(backend)
        self._ownership = Ownership()
        self._graph, self._network, self._compiled = None, None, None
        self._epoch = 0
        self._clear_runtime()

    # -- structure -----------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """Each layer once, in order of first use."""
        return [] if self._graph is None else self._graph.layers

    @property
    def built(self) -> bool:
        """Whether the model has weights."""
        return self._network is not None

    @property
    def trainable(self) -> bool:
        """Whether training changes any layer; setting it sets ``trainable`` of every layer that the model has."""
        return not self.layers or any(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        value = as_flag(type(self).__name__, "trainable", value)
        for layer in self.layers:
            layer.trainable = value

    @property
    def input_shape(self) -> Any:
        """Shape of one sample, without the batch axis; a list of them with several inputs."""
        shapes = self._built_graph("input_shape").input_shapes
        return shapes[0] if len(shapes) == 1 else list(shapes)

    @property
    def output_shape(self) -> Any:
        """Shape of one output, without the batch axis; a list of them with several outputs."""
        shapes = self._built_graph("output_shape").output_shapes
        return shapes[0] if len(shapes) == 1 else list(shapes)

    @property
    def input_names(self) -> list[str]:
        """By which a dict of inputs names them."""
        return list(self._built_graph("input_names").input_names)

    @property
    def output_names(self) -> list[str]:
        """By which dicts of targets, losses and metrics name them: keys of a dict of outputs, else names of layers."""
        return list(self._built_graph("output_names").output_names)

    @property
    def backend(self) -> str:
        """The backend that runs this model: "native" or "numpy"."""
        return self._backend.__name__.rpartition(".")[2]

    def get_layer(self, name: str) -> Layer:
        """The layer of that name."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = ", ".join(layer.name for layer in self.layers)
        raise ValueError(f"get_layer: expected one of {names}; received {name!r}")

    def _built_graph(self, operation: str) -> Graph:
        if self._graph is None:
            raise NotBuiltError(f"{operation}: expected a model with weights; call fit or build first")
        return self._graph

    def _structured(self, shape: Shape) -> AbstractContextManager[Graph]:
        return nullcontext(self._built_graph("fit"))

    def _own(self, layers: Sequence[Layer]) -> None:
        """Refuses layers that another living model trains."""
        for layer in layers:
            owner = None if layer._model is None else layer._model()
            if owner is not None and owner is not self:
                raise ValueError(
                    f"{type(self).__name__}: expected layers of no other model; received {layer.name},"
                    f" which belongs to {owner.name} (copy the model, or make the layer anew from its get_config())"
                )

    def _as_before_on_failure(self, *more: Any) -> AbstractContextManager[None]:
        """The model, its layers and their weights, its optimizer, and what else may be one of its layers."""
        layers = [*self.layers, *(layer for layer in more if isinstance(layer, Layer))]
        weights = [weight for layer in layers for weight in layer.weights]
        optimizers = [] if self.optimizer is None else [self.optimizer]
        return as_before_on_failure(self, *layers, *weights, *optimizers)

    def _adopt(self, graph: Graph, key: int, initialize: bool = True) -> None:
        """Makes the network of this structure; the layers' weights live in it from now on."""
        if initialize:
            for step, weight in enumerate(graph.weights):
                weight.dtype = np.dtype(PRECISIONS[self.dtype])
                weight.initialize(key, step)
        network = self._backend.Network(graph.program)
        network.key = key
        network.step = 0 if self._network is None else self._network.step
        self._graph, self._network, self._memory_began = graph, network, network.step
        for owners in (graph.owners, graph.state_owners):
            for index, (weight, _) in enumerate(owners):
                weight.release()
                weight.bind(network, index, self._ownership, PRECISIONS[self.dtype])
        for layer in graph.layers:
            layer._model = weakref.ref(self)
        self._configure()

    @property
    def _network_key(self) -> int:
        assert self._network is not None
        return self._network.key

    def to_backend(self, name: str) -> Self:
        """Moves the model, with its whole state, to another backend; returns the model."""
        module = backends.resolve(name)
        with self._ownership.writing("to_backend") as around:
            self._refuse_inside("to_backend", around)
            if module is not self._backend and self._graph is not None:
                state = get_state(self)
                with self._as_before_on_failure():
                    self._backend = module
                    self._adopt(self._graph, self._network_key)
                    set_state(self, state)
            self._backend = module
        return self

    # -- weights and state ---------------------------------------------------------------------------------------

    @property
    def weights(self) -> list[Weight]:
        """Of all layers, in order."""
        return [weight for layer in self.layers for weight in layer.weights]

    def get_weights(self) -> list[Array]:
        """Copies of all weights, layer by layer."""
        self._built_graph("get_weights")
        with self._ownership.reading("get_weights"):
            return [weight.value for weight in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Replaces all weights; none is changed when one does not fit."""
        self._built_graph("set_weights")
        assign_all("set_weights", self.weights, weights)

    def count_params(self) -> int:
        """Numbers in all weights; a shared layer counts once."""
        self._built_graph("count_params")
        return sum(weight.size for weight in self.weights)

    def get_state(self) -> dict[str, Array]:
        """Everything that decides the future of a training run; see :mod:`fastperceptron.state`."""
        return get_state(self)

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Replaces everything by what ``get_state`` gave; changes nothing when a part does not fit."""
        set_state(self, state)

    # -- predictors ----------------------------------------------------------------------------------------------

    def predictor(self) -> Predictor:
        """A snapshot of the model that only predicts, one row or many, at the least cost per call.

        With several inputs or outputs it takes and returns lists or dicts of them, as ``predict`` does.

        >>> import fastperceptron as fp
        >>> model = fp.Sequential([fp.Input((2,)), fp.Dense(1, kernel_initializer="ones")])
        >>> p = model.predictor()
        >>> model.set_weights([[[5.0], [5.0]], [0.0]])
        >>> p([1.0, 2.0]), model.predict_one([1.0, 2.0])
        (array([3.], dtype=float32), array([15.], dtype=float32))
        """
        from .predictors import ModelPredictor, native_predictor

        self._built_graph("predictor")
        with self._ownership.reading("predictor"):
            made: Predictor | None = native_predictor(self)
            return ModelPredictor(self) if made is None else made

    def _predict_one(self, x: Any, out: Any) -> Any:
        from .predictors import native_predictor, predict_through

        self._built_graph("predict_one")
        with self._ownership.reading("predict_one"):
            if self._live is None or not self._live.current:
                self._live = native_predictor(self)
            if self._live is not None:
                return self._live._one(x, out)
            return predict_through(self, x, out, one=True)

    # -- looking inside ------------------------------------------------------------------------------------------

    def summary(self, print_fn: Callable[[str], Any] | None = None) -> None:
        """Prints layers, shapes and parameter counts."""
        from .summary import summary_text

        _printer("summary", print_fn)(summary_text(self))

    def trace(self, x: Any, y: Any = None, sample_weight: Any = None, training: bool = True) -> Trace:
        """One step in slow motion: every intermediate by layer and name. Nothing of the model changes.

        Ctrl-C is seen between two operations, not within one.

        See :class:`fastperceptron.tracing.Trace`. Without y there is only the forward pass.
        """
        from .tracing import trace

        return trace(self, x, y, sample_weight, training)

    def profile(
        self,
        x: Any,
        y: Any,
        sample_weight: Any = None,
        seconds: float = 1.0,
        print_fn: Callable[[str], Any] | None = None,
    ) -> Profile:
        """Prints where the time of one training step on these rows goes, and returns it as numbers.

        A table per layer and pass: time, GFLOP/s and their share of what the machine's registers allow, bytes that
        have to be moved, and the path taken. A copy of the model is trained meanwhile; this one does not change.

        Parameters
        ----------
        x, y, sample_weight : the rows of one batch
        seconds : how long to measure; up to three times as long where others use the processor
        print_fn : takes the table; ``print`` by default

        >>> import fastperceptron as fp
        >>> x, y = fp.datasets.load_digits()
        >>> model = fp.Sequential([fp.Dense(64, activation="relu"), fp.Dense(10)], seed=0)
        >>> model.compile(loss=fp.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> model.build(64)
        >>> profile = model.profile(x[:32], y[:32], seconds=0.05, print_fn=lambda table: None)
        >>> [(row.layer, row.part) for row in profile.rows][:3]
        [('batch', 'gather'), ('dense', 'forward'), ('dense_1', 'forward')]
        """
        from .profiling import profile

        show = _printer("profile", print_fn)
        result = profile(self, x, y, sample_weight, seconds)
        show(str(result))
        return result

    # -- configuration, files, copies ----------------------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """The structure as JSON data, without weights, for ``from_config``. What a subclass adds here is not in copies
        and files."""
        return dict(as_lists(self._as_config()))

    def _as_config(self) -> dict[str, Any]:
        """``get_config`` with arrays as they are."""
        return graph_config(self)

    @staticmethod
    def from_config(
        config: Mapping[str, Any], custom_objects: Classes | None = None, backend: str | None = None
    ) -> Model:
        """A model of this structure with fresh weights. Raises ValueError for what is not a configuration."""
        from .saving import checked_classes, from_config

        model, graph = from_config(config, checked_classes("from_config", custom_objects), backend)
        if graph is not None:
            model._adopt(graph, random.make_key(model._seed))
        return model

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model with its whole state to a file, atomically. Code of one's own is named in it, not stored.

        Nothing is written that could not be read. Tuples of a layer's configuration come back as lists, its arrays in
        NumPy's own types (int64, float64, bool, text); weights stand for arrays that initializers were given. Raises
        ValueError where two classes have one name, be one of them this package's, and where a ``get_config`` gives a
        mapping with the key "class" or of "array" alone, as which files hold objects and arrays; TypeError where
        ``metadata`` is no mapping or holds what JSON does not: arrays, keys that are not text; ModelFormatError where
        it holds NaN or infinity.
        """
        from .modelfile import write_model_file

        if self._network is None:
            raise NotBuiltError("save: expected a model with weights; call fit or build first")
        with self._ownership.reading("save"):
            foreign_classes(self)  # or the file would be another model's
            config = file_config(self)
            config["model"] = without_given_values(config["model"])
            write_model_file(path, as_lists(config), get_state(self))

    @staticmethod
    def load(
        path: str | os.PathLike[str], *, backend: str | None = None, custom_objects: Classes | None = None
    ) -> Model:
        """The same as ``fastperceptron.load_model``."""
        from .saving import load_model

        return load_model(path, backend=backend, custom_objects=custom_objects)

    def copy(self) -> Self:
        """An independent model of the same class, with the same whole state.

        Its constructor is not called. Attributes of one's own, as those of a subclass, stay behind, in pickles and
        files too, for they may be bound to this model and its layers: data belong in ``metadata``. A subclass that
        wants copies and pickles to have them adds them to the dict of ``__getstate__`` and sets them in
        ``__setstate__``.
        """
        with self._ownership.reading("copy"):
            twin = type(self).__new__(type(self))
            twin.__setstate__(self.__getstate__())
            return twin

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of."""
        return {
            "config": file_config(self),
            "state": None if self._network is None else get_state(self),
            "classes": foreign_classes(self),
            "backend": self.backend,
        }

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        from .saving import rebuild

        rebuild(self, state)

    def __repr__(self) -> str:
        layers = ", ".join(layer.name for layer in self.layers)
        return f"<{type(self).__name__} {self.name}: {layers or 'no layers'}{'' if self.built else ', not built'}>"


def _printer(operation: str, print_fn: Callable[[str], Any] | None) -> Callable[[str], Any]:
    if print_fn is not None and not callable(print_fn):
        raise TypeError(f"{operation}: print_fn must take a text; received {kind_of(print_fn)}")
    return print if print_fn is None else print_fn

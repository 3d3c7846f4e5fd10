"""Those who compute the training step of a workload, behind the same few functions: NumPy by hand and this package.

Other libraries are in :mod:`others`; :mod:`worker` runs any of them in a process of its own.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from typing import Any, Protocol

import numpy as np
from machine import blas_in_use
from numpy.typing import NDArray
from numpy_by_hand import HandWrittenNetwork
from workloads import LEARNING_RATE, MOMENTUM, Workload, initial_weights, random_data

__all__ = [
    "CONTESTANTS",
    "Batches",
    "Contestant",
    "FitByModel",
    "NumpyByHand",
    "TrainOnBatch",
    "TrainSteps",
    "chain_network",
    "first_steps",
    "fixed_batches",
    "model_for",
]

Array = NDArray[Any]

_NO_LIMIT = 1e6  # seconds


class Contestant(Protocol):
    """Made from a workload; starts from ``initial_weights`` and ``random_data``."""

    def costs(self, steps: int) -> list[float]:
        """The cost of each of the first steps, on the first batches; call it before anything else."""

    def prepare(self) -> None:
        """Whatever has to be set right before a timed run and does not belong to it."""

    def run(self, steps: int) -> int:
        """Trains for about so many steps; returns how many they were."""

    def weights(self) -> list[Array]:
        """[w, b, w, b, ...] as they are now, w (in, out)."""

    def predictor(self, rows: int) -> Callable[[], Any]:
        """A function that predicts the first rows of the data, with the weights of now, at each call: (rows, out)."""

    def description(self) -> str:
        """What did the arithmetic."""


def first_steps(contestant: Contestant, workload: Workload, steps: int) -> dict[str, list[float]]:
    """The costs of the first steps, and how far each weight matrix has moved since."""
    costs = contestant.costs(steps)
    pairs = zip(contestant.weights()[0::2], initial_weights(workload)[0::2], strict=True)
    moved = [float(np.linalg.norm(np.asarray(now, np.float64) - first)) for now, first in pairs]
    return {"costs": costs, "moved": moved}


class Batches:
    """Batch after batch of the data, from the start again after the last."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.x, self.y = random_data(workload)
        self.at = 0

    def advance(self, steps: int) -> tuple[int, int]:
        """Rows begin..end of at most so many whole batches."""
        begin = self.at
        end = min(begin + steps * self.workload.batch, self.workload.rows)
        self.at = end if end < self.workload.rows else 0
        return begin, end


def fixed_batches(workload: Workload) -> list[tuple[Array, Array]]:
    """(x, y) of every batch of the data, as views."""
    x, y = random_data(workload)
    starts = range(0, workload.rows, workload.batch)
    return [(x[i : i + workload.batch], y[i : i + workload.batch]) for i in starts]


class NumpyByHand:
    """The best NumPy program for this step; batches are views, so that gathering costs it nothing."""

    def __init__(self, workload: Workload) -> None:
        self._workload, self._pairs = workload, fixed_batches(workload)
        self._next = 0
        self._network = HandWrittenNetwork(initial_weights(workload), workload.batch, LEARNING_RATE, MOMENTUM)

    def costs(self, steps: int) -> list[float]:
        return [self._network.step(*self._pairs[i % len(self._pairs)]) for i in range(steps)]

    def prepare(self) -> None:
        # Velocities of units that never fire would decay to subnormal numbers, which NumPy computes slowly.
        self._network.reset()

    def run(self, steps: int) -> int:
        step, pairs, at = self._network.step, self._pairs, self._next
        for _ in range(steps):
            step(*pairs[at])
            at = at + 1 if at + 1 < len(pairs) else 0
        self._next = at
        return steps

    def weights(self) -> list[Array]:
        return [array.copy() for array in self._network.parameters]

    def predictor(self, rows: int) -> Callable[[], Any]:
        network = HandWrittenNetwork(self.weights(), rows, LEARNING_RATE, MOMENTUM)
        x, _ = random_data(self._workload, rows=rows)
        return lambda: network.predict(x)

    def description(self) -> str:
        return f"NumPy {np.__version__}, {blas_in_use()}"


def chain_network(backend: Any, workload: Workload, dtype: str = "float32") -> Any:
    """The backend's Network for the workload, with its loss, optimizer and first weights."""
    from fastperceptron.program import Operation, Parameter, Program

    parameters: list[Parameter] = []
    operations: list[Operation] = []
    for k, (n_in, n_out) in enumerate(workload.layers):
        name = f"dense_{k}"
        parameters += [Parameter(f"{name}/kernel", (n_in, n_out)), Parameter(f"{name}/bias", (n_out,))]
        activation = "relu" if k + 2 < len(workload.widths) else "linear"
        operations.append(Operation("dense", (k,), k + 1, name, (2 * k, 2 * k + 1), activation))
    program = Program(dtype, workload.widths, tuple(parameters), tuple(operations), (len(operations),))
    network = backend.Network(program)
    for index, value in enumerate(initial_weights(workload)):
        network.set_parameter(index, value)
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_optimizer("sgd", {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "nesterov": 0.0})
    return network


class TrainSteps:
    """Many steps in one call of the network, as ``fit`` calls it; the cost is accumulated as always."""

    def __init__(self, workload: Workload, backend: str = "native", dtype: str = "float32") -> None:
        from fastperceptron.backends import resolve

        self._data, self._backend, self._dtype = Batches(workload), backend, dtype
        self._network = chain_network(resolve(backend), workload, dtype)

    def costs(self, steps: int) -> list[float]:
        costs = []
        for _ in range(steps):
            self._network.reset_metrics()
            self.run(1)
            total, rows = self._network.get_metrics()[0]
            costs.append(float(total / rows))
        return costs

    def prepare(self) -> None:
        self._network.reset_metrics()

    def run(self, steps: int) -> int:
        data, batch = self._data, self._data.workload.batch
        left = steps
        while left > 0:
            begin, end = data.advance(left)
            self._network.train_steps(data.x, data.y, None, None, batch, begin, end, _NO_LIMIT)
            left -= (end - begin) // batch
        return steps

    def weights(self) -> list[Array]:
        return [self._network.get_parameter(i) for i in range(2 * len(self._data.workload.layers))]

    def predictor(self, rows: int) -> Callable[[], Any]:
        return _predictor(self._data.workload, rows, self.weights(), self._backend, self._dtype)

    def description(self) -> str:
        return _package(self.path())

    def path(self) -> str:
        return str(self._network.product_path())

    def threads(self) -> int | None:
        return _threads(self._network, self._data.workload)


class _Terminal(io.StringIO):
    """Takes the progress bar as a terminal would."""

    def isatty(self) -> bool:
        return True


def model_for(
    workload: Workload,
    metrics: list[str] | None = None,
    backend: str = "native",
    dtype: str = "float32",
) -> Any:
    """A compiled model with the workload's first weights."""
    import fastperceptron as fp

    weights = initial_weights(workload)
    layers = [
        fp.Dense(
            n_out,
            activation="relu" if k + 2 < len(workload.widths) else "linear",
            kernel_initializer=weights[2 * k],
        )
        for k, (_, n_out) in enumerate(workload.layers)
    ]
    model = fp.Sequential(layers, seed=0, backend=backend, dtype=dtype)
    model.compile(
        optimizer=fp.SGD(learning_rate=LEARNING_RATE, momentum=MOMENTUM),
        loss=fp.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics,
    )
    model.build(workload.widths[:1])
    return model


def _predictor(workload: Workload, rows: int, weights: list[Array], backend: str, dtype: str) -> Callable[[], Any]:
    """The quickest public call that this version of the package has."""
    model = model_for(workload, backend=backend, dtype=dtype)
    model.set_weights(weights)
    x, _ = random_data(workload, rows=rows)
    if hasattr(model, "predictor"):
        return partial(model.predictor(), x[0] if rows == 1 else x)
    return partial(model.predict, x, verbose=0)


class _ByModel:
    """What is measured through a model's methods."""

    def __init__(self, workload: Workload, metrics: list[str] | None = None) -> None:
        self._workload = workload
        self._model = model_for(workload, metrics)

    def prepare(self) -> None:
        """Nothing: each call begins anew."""

    def weights(self) -> list[Array]:
        return list(self._model.get_weights())

    def predictor(self, rows: int) -> Callable[[], Any]:
        return _predictor(self._workload, rows, self.weights(), "native", "float32")

    def description(self) -> str:
        return _package(self.path())

    def path(self) -> str:
        return str(self._model._network.product_path())

    def threads(self) -> int | None:
        return _threads(self._model._network, self._workload)


class FitByModel(_ByModel):
    """``model.fit`` as people call it: shuffling, accuracy, history and a progress bar. Whole epochs only."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload, ["accuracy"])
        self._x, self._y = random_data(workload)

    def costs(self, steps: int) -> list[float]:
        batch, costs = self._workload.batch, []
        for i in range(steps):
            begin = i * batch % self._workload.rows
            part = slice(begin, begin + batch)
            history = self._model.fit(self._x[part], self._y[part], batch_size=batch, shuffle=False, verbose=0)
            costs.append(float(history.history["loss"][0]))
        return costs

    def run(self, steps: int) -> int:
        workload = self._workload
        epochs = max(1, round(steps / workload.steps_per_epoch))
        with contextlib.redirect_stdout(_Terminal()):
            self._model.fit(self._x, self._y, batch_size=workload.batch, epochs=epochs, verbose=1)
        return epochs * workload.steps_per_epoch


class TrainOnBatch(_ByModel):
    """``model.train_on_batch``, a call for each step: what a loop of one's own takes."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._pairs = cycle(fixed_batches(workload))

    def costs(self, steps: int) -> list[float]:
        return [float(self._model.train_on_batch(*next(self._pairs))) for _ in range(steps)]

    def run(self, steps: int) -> int:
        train = self._model.train_on_batch
        for x, y in islice(self._pairs, steps):
            train(x, y)
        return steps


def _threads(network: Any, workload: Workload) -> int | None:
    """On how many threads a step runs, of those allowed. Older versions of the package do not say, nor does NumPy."""
    for method, arguments in (("step_threads", ()), ("useful_threads", (True,))):
        if hasattr(network, method):
            return int(getattr(network, method)(workload.batch, *arguments))
    return None


def _package(path: str) -> str:
    import fastperceptron as fp
    from fastperceptron import _core

    threads = _core.thread_count()
    return f"fastperceptron {fp.__version__}, {path}, {threads} thread{'s' * (threads != 1)}, {_core.openmp_runtime()}"


CONTESTANTS: dict[str, Callable[[Workload], Contestant]] = {
    "numpy": NumpyByHand,
    "native": TrainSteps,
    "native-bf16": lambda workload: TrainSteps(workload, dtype="mixed_bfloat16"),
    "fit": FitByModel,
    "batch": TrainOnBatch,
}

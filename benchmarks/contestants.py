"""Those who compute the training step of a workload, each behind the same two functions.

Run as a program, this file is one contestant in a process of its own: it reads a command per line from standard input
and answers each with a line of JSON (see :mod:`interleave`, which starts it).
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any, Protocol

import numpy as np
from machine import blas_in_use
from numpy.typing import NDArray
from numpy_by_hand import HandWrittenNetwork
from workloads import LEARNING_RATE, MOMENTUM, WORKLOADS, Workload, initial_weights, random_data

__all__ = ["CONTESTANTS", "Contestant", "FitByModel", "NumpyByHand", "TrainSteps", "chain_network", "model_for"]

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

    def description(self) -> str:
        """What did the arithmetic."""


class _Batches:
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


class NumpyByHand:
    """The best NumPy program for this step; batches are views, so that gathering costs it nothing."""

    def __init__(self, workload: Workload) -> None:
        data = _Batches(workload)
        self._pairs = [
            (data.x[i : i + workload.batch], data.y[i : i + workload.batch])
            for i in range(0, workload.rows, workload.batch)
        ]
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

    def description(self) -> str:
        return f"NumPy {np.__version__}, {blas_in_use()}"


def chain_network(backend: Any, workload: Workload) -> Any:
    """The backend's Network for the workload, with its loss, optimizer and first weights."""
    from fastperceptron.program import Operation, Parameter, Program

    parameters: list[Parameter] = []
    operations: list[Operation] = []
    for k, (n_in, n_out) in enumerate(workload.layers):
        name = f"dense_{k}"
        parameters += [Parameter(f"{name}/kernel", (n_in, n_out)), Parameter(f"{name}/bias", (n_out,))]
        activation = "relu" if k + 2 < len(workload.widths) else "linear"
        operations.append(Operation("dense", (k,), k + 1, name, (2 * k, 2 * k + 1), activation))
    program = Program("float32", workload.widths, tuple(parameters), tuple(operations), (len(operations),))
    network = backend.Network(program)
    for index, value in enumerate(initial_weights(workload)):
        network.set_parameter(index, value)
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_optimizer("sgd", {"learning_rate": LEARNING_RATE, "momentum": MOMENTUM, "nesterov": 0.0})
    return network


class TrainSteps:
    """Many steps in one call of the network, as ``fit`` calls it; the cost is accumulated as always."""

    def __init__(self, workload: Workload, backend: str = "native") -> None:
        from fastperceptron.backends import resolve

        self._data = _Batches(workload)
        self._network = chain_network(resolve(backend), workload)

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

    def description(self) -> str:
        return _package()


class _Terminal(io.StringIO):
    """Takes the progress bar as a terminal would."""

    def isatty(self) -> bool:
        return True


def model_for(workload: Workload, metrics: list[str] | None = None, backend: str = "native") -> Any:
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
    model = fp.Sequential(layers, seed=0, backend=backend)
    model.compile(
        optimizer=fp.SGD(learning_rate=LEARNING_RATE, momentum=MOMENTUM),
        loss=fp.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=metrics,
    )
    model.build(workload.widths[:1])
    return model


class FitByModel:
    """``model.fit`` as people call it: shuffling, accuracy, history and a progress bar. Whole epochs only."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._x, self._y = random_data(workload)
        self._model = model_for(workload, ["accuracy"])

    def costs(self, steps: int) -> list[float]:
        batch, costs = self._workload.batch, []
        for i in range(steps):
            begin = i * batch % self._workload.rows
            part = slice(begin, begin + batch)
            history = self._model.fit(self._x[part], self._y[part], batch_size=batch, shuffle=False, verbose=0)
            costs.append(float(history.history["loss"][0]))
        return costs

    def prepare(self) -> None:
        """Nothing: ``fit`` begins anew each time."""

    def run(self, steps: int) -> int:
        workload = self._workload
        epochs = max(1, round(steps / workload.steps_per_epoch))
        with contextlib.redirect_stdout(_Terminal()):
            self._model.fit(self._x, self._y, batch_size=workload.batch, epochs=epochs, verbose=1)
        return epochs * workload.steps_per_epoch

    def description(self) -> str:
        return _package()


def _package() -> str:
    import fastperceptron as fp
    from fastperceptron import _core

    threads = _core.thread_count()
    return (
        f"fastperceptron {fp.__version__}, {_core.instruction_set()}, {threads} thread{'s' * (threads != 1)}, "
        f"{_core.openmp_runtime()}"
    )


CONTESTANTS: dict[str, Callable[[Workload], Contestant]] = {
    "numpy": NumpyByHand,
    "native": TrainSteps,
    "fit": FitByModel,
}


def main(name: str, workload_name: str) -> None:
    contestant = CONTESTANTS[name](WORKLOADS[workload_name])
    answers = sys.stdout
    for line in sys.stdin:
        command, _, argument = line.strip().partition(" ")
        answer: Any
        if command == "costs":
            answer = contestant.costs(int(argument))
        elif command == "run":
            contestant.prepare()
            contestant.run(1)  # wakes the threads and fills the caches
            wall, cpu = perf_counter(), process_time()
            steps = contestant.run(int(argument))
            answer = {"wall": perf_counter() - wall, "cpu": process_time() - cpu, "steps": steps}
        elif command == "description":
            answer = contestant.description()
        else:
            raise ValueError(f"contestants: expected costs, run or description; received {command!r}")
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

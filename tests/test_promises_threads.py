"""Threads that use one model: predictions at once are safe and bit-equal, conflicts raise ModelBusyError, and a caller
who changes the arrays during a call corrupts nothing."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from parity import Builder, load_backend, make_network, random_parameters
from promises import classifier, digest, labelled
from pure import BACKENDS, PURE

import fastperceptron as fp

each_backend = pytest.mark.parametrize("backend", BACKENDS)
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _several_threads() -> Iterator[None]:
    # Threads take turns often, so that conflicts do meet.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    fp.set_num_threads(2)
    yield
    fp.set_num_threads(0)
    sys.setswitchinterval(interval)


class Workers:
    """Threads whose errors, and whose failure to end, fail the test."""

    def __init__(self) -> None:
        self.threads: list[threading.Thread] = []
        self.errors: list[BaseException] = []

    def start(self, work: Callable[[], Any]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=guarded, daemon=True)
        self.threads.append(thread)
        thread.start()
        return thread

    def join(self) -> None:
        end = time.monotonic() + PATIENCE
        for thread in self.threads:
            thread.join(max(end - time.monotonic(), 0.01))
            assert not thread.is_alive(), "a thread hangs"
        if self.errors:
            raise self.errors[0]


class Pause(fp.Callback):
    """Stops the fit after its first batch until told to go on."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self.reached.set()
        assert self.go_on.wait(PATIENCE)


@each_backend
def test_predictions_at_once_are_equal(backend: str) -> None:
    x, y = labelled(1500 if backend == "native" else 300, 40, 6)
    model = classifier((128, 6), "gelu", backend=backend)
    model.fit(x[:64], y[:64], verbose=0)
    parts = [x[:1], x[3:20], x[100:], x]
    expected = [model.predict(part).tobytes() for part in parts]
    before = digest(model)
    workers = Workers()

    def work(first: int) -> None:
        for i in range(30):
            k = (first + i) % len(parts)
            assert model.predict(parts[k]).tobytes() == expected[k]

    for first in range(6):
        workers.start(lambda first=first: work(first))
    workers.join()
    assert digest(model) == before


@each_backend
def test_whatever_meets_a_fit_raises_and_changes_nothing(backend: str) -> None:
    x, y = labelled(300, 12, 4)
    model, alone = (classifier((16, 4), backend=backend) for _ in range(2))
    for each in (model, alone):
        each.build((12,))
    alone.fit(x, y, epochs=2, verbose=0)
    pause, workers = Pause(), Workers()
    workers.start(lambda: model.fit(x, y, epochs=2, verbose=0, callbacks=[pause]))
    try:
        assert pause.reached.wait(PATIENCE)
        loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
        for conflict in (
            lambda: model.fit(x, y, verbose=0),
            lambda: model.train_on_batch(x, y),
            lambda: model.evaluate(x, y),
            lambda: model.predict(x),
            lambda: model.compile("sgd", loss),
            lambda: model.set_weights(alone.get_weights()),
            lambda: model.set_state(alone.get_state()),
            lambda: model.get_state(),
            lambda: model.copy(),
        ):
            with pytest.raises(fp.ModelBusyError, match="in use"):
                conflict()
    finally:
        pause.go_on.set()
        workers.join()
    assert digest(model) == digest(alone)
    assert model.predict(x).tobytes() == alone.predict(x).tobytes()


@each_backend
def test_the_thread_that_trains_may_predict_and_not_fit(backend: str) -> None:
    x, y = labelled(200, 12, 4)
    model = classifier((16, 4), backend=backend)
    seen = []

    class Inside(fp.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            seen.append(self.model.predict(x))
            self.model.evaluate(x, y)
            with pytest.raises(fp.ModelBusyError):
                self.model.fit(x, y, verbose=0)

    model.fit(x, y, epochs=3, verbose=0, callbacks=[Inside()])
    assert len(seen) == 3
    assert np.array_equal(seen[-1], model.predict(x))


@each_backend
def test_hammering_one_model(backend: str) -> None:
    """Fits and predictions at random: each succeeds or raises ModelBusyError, both happen, nothing hangs, and the fits
    gave together what they give one after another."""
    x, y = labelled(256, 20, 5)
    model, alone = (classifier((32, 5), "tanh", backend=backend) for _ in range(2))
    for each in (model, alone):
        each.build((20,))
    counts = {"fit": 0, "predict": 0, "busy": 0}
    lock, end = threading.Lock(), time.monotonic() + 1.5

    def count(what: str) -> None:
        with lock:
            counts[what] += 1

    def work(fits: bool) -> None:
        while time.monotonic() < end:
            time.sleep(random.uniform(0, 0.004))  # or the fits would take all the time
            try:
                if fits:
                    model.fit(x, y, batch_size=64, epochs=3, verbose=0)
                else:
                    assert np.isfinite(model.predict(x)).all()
                count("fit" if fits else "predict")
            except fp.ModelBusyError:
                count("busy")

    workers = Workers()
    for fits in (True, True, False, False):
        workers.start(lambda fits=fits: work(fits))
    workers.join()
    assert min(counts.values()) > 0, counts
    for _ in range(counts["fit"]):
        alone.fit(x, y, batch_size=64, epochs=3, verbose=0)
    assert digest(model) == digest(alone)


@each_backend
def test_networks_of_one_program_train_at_once(backend: str) -> None:
    x, y = labelled(400, 30, 5)
    expected = classifier((64, 5), backend=backend)
    expected.fit(x, y, epochs=3, verbose=0)
    models = [classifier((64, 5), backend=backend) for _ in range(4)]
    workers = Workers()
    for model in models:
        workers.start(lambda model=model: model.fit(x, y, epochs=3, verbose=0))
    workers.join()
    assert {digest(model) for model in models} == {digest(expected)}


# -- a caller who changes the arrays ---------------------------------------------------------------------------------


@each_backend
def test_labels_and_weights_changed_during_fit_have_no_effect(backend: str) -> None:
    x, y = labelled(500, 20, 5)
    weights = np.random.default_rng(1).random(500)
    alone, model = (classifier((32, 5), backend=backend) for _ in range(2))
    alone.fit(x, y, epochs=20, verbose=0, sample_weight=weights)
    labels, changing = y.copy(), weights.copy()
    begun, done, workers = threading.Event(), threading.Event(), Workers()

    class Spoils(fp.Callback):
        def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
            workers.start(spoil)
            begun.wait()

    def spoil() -> None:
        rng = np.random.default_rng(2)
        while not done.is_set():
            labels[:] = rng.integers(-(2**62), 2**62, 500)
            changing[:] = np.nan
            begun.set()

    try:
        model.fit(x, labels, epochs=20, verbose=0, sample_weight=changing, callbacks=[Spoils()])
    finally:
        done.set()
        workers.join()
    assert not np.array_equal(labels, y)
    assert digest(model) == digest(alone)


@each_backend
def test_rows_and_targets_changed_during_fit_corrupt_nothing(backend: str) -> None:
    x, y = labelled(400, 20, 5)
    targets = np.eye(5, dtype=np.float32)[y]
    model = classifier((32, 5), backend=backend)
    model.compile(fp.SGD(0.001), "mse", ["mae"])
    done, workers = threading.Event(), Workers()

    def spoil() -> None:
        rng = np.random.default_rng(2)
        while not done.is_set():
            x[rng.integers(0, 400, 50)] = rng.standard_normal((50, 20), dtype=np.float32)
            targets[rng.integers(0, 400, 50)] = rng.random((50, 5), dtype=np.float32)

    workers.start(spoil)
    try:
        model.fit(x, targets, epochs=30, verbose=0)
    finally:
        done.set()
        workers.join()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    history = model.fit(x, targets, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()


@pytest.mark.skipif(PURE, reason="the native network reads labels and row numbers from the caller's memory")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("what", ["labels", "rows"])
def test_indices_changed_under_the_network_are_checked_at_use(what: str, dtype: str) -> None:
    """Without the private copies of the API: a step that meets an index out of range is given up, with an error."""
    builder = Builder(20, dtype)
    program = builder.program(builder.dense(builder.dense(0, 32, "relu"), 5))
    network = make_network(load_backend("native"), program, random_parameters(program, np.random.default_rng(0)))
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.01, "momentum": 0.9, "nesterov": 0.0})
    network.set_metrics([("sparse_categorical_accuracy", 0.0)])
    network.set_threads(2)
    x, y = labelled(2000, 20, 5)
    rows = np.arange(2000)
    good = {"labels": y.copy(), "rows": rows.copy()}[what]
    changing = {"labels": y, "rows": rows}[what]
    done, workers = threading.Event(), Workers()

    def spoil() -> None:
        rng = np.random.default_rng(2)
        while not done.is_set():
            changing[rng.integers(0, 2000, 3)] = rng.integers(-(2**62), 2**62, 3)
            changing[:] = good

    workers.start(spoil)
    refused = finished = 0
    end = time.monotonic() + 5
    try:
        while time.monotonic() < end and not (refused > 20 and finished > 20):
            before = network.step
            try:
                assert network.train_steps(x, y, None, rows, 500, 0, 2000, 60.0) == 2000
                finished += 1
                assert network.step == before + 4
            except (ValueError, IndexError):
                refused += 1
                assert before <= network.step < before + 4
    finally:
        done.set()
        workers.join()
    assert refused > 0, "no change met a step"
    assert all(np.isfinite(network.get_parameter(i)).all() for i in range(len(program.parameters)))
    changing[:] = good
    assert network.train_steps(x, y, None, rows, 500, 0, 2000, 60.0) == 2000

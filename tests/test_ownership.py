"""A Ctrl-C that arrives while a use of the model begins or ends must not leave it in use."""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fastperceptron as fp

X, Y = np.ones((8, 5), np.float32), np.ones((8, 3), np.float32)
USES: dict[str, Callable[[fp.Sequential], Any]] = {
    "train_on_batch": lambda model: model.train_on_batch(X, Y),
    "predict": lambda model: model.predict(X),
    "assign": lambda model: model.layers[0].weights[0].assign(np.zeros((5, 3))),
}


def interrupted(use: Callable[[fp.Sequential], Any], model: fp.Sequential, seconds: float) -> None:
    """Calls use(model) again and again until Ctrl-C comes, after so many seconds. (Or for half a second: it may fall
    into a finalizer of somebody else's, where it is lost. No garbage is collected meanwhile: what others do then would
    complain.)"""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    gc.disable()
    try:
        end = time.monotonic() + 0.5
        signal.setitimer(signal.ITIMER_REAL, seconds)
        while time.monotonic() < end:
            use(model)
    except KeyboardInterrupt:
        pass
    finally:
        gc.enable()
        signal.signal(signal.SIGALRM, before)


def in_another_thread(*uses: Callable[[fp.Sequential], Any], model: fp.Sequential) -> list[Exception]:
    errors: list[Exception] = []

    def run() -> None:
        for use in uses:
            try:
                use(model)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return errors


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")
@pytest.mark.parametrize("name", USES)
def test_an_interrupt_at_any_moment_leaves_the_model_free(name: str) -> None:
    model = fp.Sequential([fp.Input((5,)), fp.Dense(3)], seed=0)
    model.compile("sgd", "mse")
    for use in USES.values():  # an import of the first use, interrupted, would complain of an unclosed file
        use(model)
    chance = random.Random(0)
    for number in range(400):
        interrupted(USES[name], model, chance.uniform(50e-6, 400e-6))
        if number % 2:
            assert in_another_thread(*USES.values(), model=model) == [], f"after interrupt {number}"
        else:
            for use in USES.values():
                use(model)
        assert not model._ownership.writing_now
        assert not model._ownership.inside(os.getpid()).uses


def test_what_is_in_progress_still_counts() -> None:
    model = fp.Sequential([fp.Input((5,)), fp.Dense(3)], seed=0)
    model.compile("sgd", "mse")
    found: list[list[Exception]] = []

    class Meanwhile(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.predict(X)  # within one's own
            found.append(in_another_thread(*USES.values(), model=self.model))

    model.fit(X, Y, verbose=0, callbacks=[Meanwhile()])
    assert [[type(error) for error in errors] for errors in found] == [[fp.ModelBusyError] * 3]
    assert "in use by another thread, in fit" in str(found[0][0])
    assert in_another_thread(*USES.values(), model=model) == []


def test_a_thread_inside_generators_still_counts() -> None:
    """Generators leave their thread's frames and come back while others ask whether the use around them runs on."""
    model = fp.Sequential([fp.Input((5,)), fp.Dense(3)], seed=0)
    model.compile("sgd", "mse")
    end = time.monotonic() + 0.5

    def numbers() -> Iterator[int]:
        yield from range(100)

    class Generating(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            while time.monotonic() < end:
                assert sum(numbers()) == 4950

    inside = threading.Thread(target=lambda: model.fit(X, Y, verbose=0, callbacks=[Generating()]))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        inside.start()
        while not model._ownership.writing_now:
            time.sleep(0)
        while time.monotonic() < end - 0.1:
            with pytest.raises(fp.ModelBusyError):
                model.predict(X)
    finally:
        sys.setswitchinterval(before)
        inside.join()
    assert in_another_thread(*USES.values(), model=model) == []


def test_who_reads_within_his_own_writing_still_writes() -> None:
    """As a callback's ``predict`` does: others may not take the predictor that needs no lock."""
    ownership = fp.Sequential([fp.Input((5,)), fp.Dense(3)], seed=0)._ownership
    with ownership.writing("fit"):
        with ownership.reading("predict") as around:
            assert around == "fit"
            assert ownership.writing_now
        assert ownership.writing_now
    assert not ownership.writing_now
    with ownership.reading("predict"):
        with ownership.reading("get_state"):
            assert not ownership.writing_now
        assert not ownership.writing_now

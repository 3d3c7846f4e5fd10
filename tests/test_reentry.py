"""Uses of a model in the middle of another use by the same thread: in callbacks, in metrics and layers in Python, in
signals' handlers, and in a child that was forked then. They work or raise, and never hang or change results. And uses
by other threads that are close to that."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from promises import classifier, digest, labelled, run_script
from pure import BACKENDS, native_only

import fastperceptron as fp

each_backend = pytest.mark.parametrize("backend", BACKENDS)
needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer's signal")
X, Y = labelled(256, 20, 5)

REFUSED: dict[str, Callable[[fp.Sequential], Any]] = {
    "fit": lambda model: model.fit(X, Y, verbose=0),
    "compile": lambda model: model.compile("sgd", "sparse_categorical_crossentropy"),
    "add": lambda model: model.add(fp.Dense(2)),
    "pop": lambda model: model.pop(),
    "to_backend": lambda model: model.to_backend("numpy"),
}


class At(fp.Callback):
    """Does the same at the first call of a hook."""

    def __init__(self, hook: str, work: Callable[[fp.Sequential], Any]) -> None:
        self.errors: list[Exception] = []

        def once(*_: Any) -> None:
            if not self.errors:
                try:
                    work(self.model)
                    self.errors.append(Exception("none"))
                except fp.ModelBusyError as error:
                    self.errors.append(error)

        setattr(self, hook, once)


def model_of(backend: str) -> fp.Sequential:
    model = classifier((32, 5), "tanh", backend=backend)
    model.build((20,))
    return model


@each_backend
@pytest.mark.parametrize("work", REFUSED)
def test_what_a_callback_may_not_do(backend: str, work: str) -> None:
    """In fit, evaluate and predict; what they give is not changed by the attempt."""
    model, alone = model_of(backend), model_of(backend)
    runs: dict[str, tuple[str, Callable[[fp.Sequential, Any], Any]]] = {
        "fit": ("on_train_batch_end", lambda m, c: m.fit(X, Y, verbose=0, callbacks=c).history),
        "evaluate": ("on_test_batch_end", lambda m, c: m.evaluate(X, Y, batch_size=64, callbacks=c)),
        "predict": ("on_predict_batch_end", lambda m, c: m.predict(X, batch_size=64, callbacks=c).tobytes()),
    }
    for run, (hook, call) in runs.items():
        callback = At(hook, REFUSED[work])
        assert call(model, [callback]) == call(alone, [])
        assert f"in use by the {run} around this call" in str(callback.errors[0])
    assert digest(model) == digest(alone)


@each_backend
def test_evaluations_inside_an_evaluation_leave_its_logs_alone(backend: str) -> None:
    model = model_of(backend)
    expected = model.evaluate(X, Y, batch_size=64)
    for work in (lambda m: m.evaluate(X[:9], Y[:9]), lambda m: m.predict(X[:9])):
        assert model.evaluate(X, Y, batch_size=64, callbacks=At("on_test_batch_end", work)) == expected


class Listing(fp.Metric):
    """Notes the sizes of batches in a list that somebody else has too."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes

    def reset_state(self) -> None:
        self.sizes.clear()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.sizes.append(len(y_pred))

    def result(self) -> float:
        return sum(self.sizes)


@each_backend
def test_what_metrics_share_with_others_stays_theirs(backend: str) -> None:
    sizes: list[int] = []
    model = model_of(backend)
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True), [Listing(sizes)])
    work = At("on_train_batch_end", lambda m: m.evaluate(X[:9], Y[:9]))
    history = model.fit(X, Y, batch_size=64, verbose=0, callbacks=work).history
    assert sum(sizes) == len(X) == history["listing"][0]


class Curious(fp.Metric):
    """Uses the model in the middle of a step."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__("curious")
        self.work = work
        self.errors: list[str] = []

    def reset_state(self) -> None:
        pass

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        try:
            self.work()
        except fp.ModelBusyError as error:
            self.errors.append(str(error))

    def result(self) -> float:
        return 0.0


@each_backend
@pytest.mark.parametrize("work", ["predict", "evaluate", "train_on_batch"])
def test_python_code_does_not_disturb_its_own_step(backend: str, work: str) -> None:
    uses = {
        "predict": lambda: model.predict(X[:3]),
        "evaluate": lambda: model.evaluate(X[:3], Y[:3]),
        "train_on_batch": lambda: model.train_on_batch(X[:3], Y[:3]),
    }
    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    models = []
    for use in (lambda: None, uses[work]):
        model = model_of(backend)
        metric = Curious(use)
        model.compile(fp.SGD(0.02), loss, [metric])
        model.fit(X, Y, batch_size=64, epochs=2, verbose=0)
        judged = model.evaluate(X, Y)
        models.append((digest(model), judged, model.predict(X).tobytes()))
    assert models[0] == models[1]
    assert len(metric.errors) == 9
    assert "the step around this call" in metric.errors[0]


@needs_timer
@each_backend
@pytest.mark.parametrize("in_python", [False, True])
def test_signal_handlers_use_the_model(backend: str, in_python: bool) -> None:
    """At any moment, that of entering or leaving a method among them."""
    model = model_of(backend)
    if in_python:
        model.compile("sgd", "sparse_categorical_crossentropy", [Curious(lambda: None)])
    expected, handled, busy = model.predict(X[:5]).tobytes(), [], []

    def handler(number: int, frame: Any) -> None:
        if busy:
            return
        busy.append(number)
        try:
            handled.append(model.predict(X[:5]).tobytes() == expected)
            model.get_state()
        except fp.ModelBusyError:
            handled.append(True)  # in the middle of Python's own step
        finally:
            busy.clear()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert model.predict(X[:5]).tobytes() == expected
            model.evaluate(X[:5], Y[:5])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(handled) > 50
    assert all(handled)
    assert not model._ownership.writing_now
    assert not model._ownership.inside(os.getpid()).uses


def test_no_state_of_half_an_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may come between the new parameters of an optimizer written in Python."""

    class Plain(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> None:
            param -= 0.1 * grad

    model = model_of("numpy")
    model.compile(Plain(), "sparse_categorical_crossentropy")
    network: Any = model._network
    advance, refused = network.advance, []

    def interrupted() -> None:
        with pytest.raises(fp.ModelBusyError, match="the update around this call"):
            model.get_state()
        refused.append(True)
        advance()

    monkeypatch.setattr(network, "advance", interrupted)
    model.fit(X, Y, batch_size=64, verbose=0)
    assert len(refused) == 4
    assert int(model.get_state()["counters/step"]) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@each_backend
def test_a_child_forked_in_the_middle_of_a_python_step(backend: str, tmp_path: Path) -> None:
    code = """
import os, sys, threading, time
import numpy as np
import fastperceptron as fp

class Slow(fp.Layer):
    def forward(self, x, training):
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            time.sleep(0.02)
        return x, None
    def backward(self, dy, saved):
        return dy, ()

inside = threading.Event()
model = fp.Sequential([fp.Input((6,)), fp.Dense(5), Slow(), fp.Dense(3)], seed=0, backend=sys.argv[1])
x = np.ones((4, 6), np.float32)
p, expected = model.predictor(), model.predict(x).tobytes()
stop = False

def work():
    while not stop:
        model.predict(x)
        p(x)

thread = threading.Thread(target=work)
thread.start()
for _ in range(5):
    inside.clear()
    inside.wait()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if model.predict(x).tobytes() == p(x).tobytes() == expected else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
stop = True
thread.join()
"""
    run_script(tmp_path / "fork.py", code, backend)


@native_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_forked_in_the_middle_of_a_native_step(tmp_path: Path) -> None:
    """By a signal's handler, which returns in the child as well: the model is in use there until the call has ended,
    and no longer."""
    code = """
import os, signal
import numpy as np
import fastperceptron as fp

fp.set_num_threads(1)
model = fp.Sequential([fp.Input((256,)), fp.Dense(512), fp.Dense(10)], seed=0, backend="native")
model.compile("sgd", "mse")
x, y, pids, refused = np.ones((6000, 256), np.float32), np.ones((6000, 10), np.float32), [], []

def is_refused(use):
    try:
        use()
    except fp.ModelBusyError:
        return True
    return False

def handler(number, frame):
    if not is_refused(model.get_weights):  # between two calls
        return signal.setitimer(signal.ITIMER_REAL, 0.05)
    pids.append(os.fork())
    if pids[0] == 0:
        refused.extend([is_refused(model.get_weights), is_refused(lambda: model.predict(x[:5]))])

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.05)
while not pids:
    model._network.train_steps(x, y, None, None, 64, 0, 6000, 1e9)
model.fit(x[:64], y[:64], verbose=0)
model.predict(x[:5])
if pids[0] == 0:
    os._exit(0 if refused == [True, True] else 3)
assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
"""
    run_script(tmp_path / "fork.py", code)


@each_backend
def test_weights_are_those_of_one_moment(backend: str) -> None:
    model = model_of(backend)
    versions = [[np.full_like(w, k) for w in model.get_weights()] for k in range(2)]
    model.set_weights(versions[0])
    end = time.monotonic() + 0.7

    def write() -> None:
        k = 0
        while time.monotonic() < end:
            try:
                model.set_weights(versions[k % 2])
                k += 1
            except fp.ModelBusyError:
                pass

    thread = threading.Thread(target=write)
    thread.start()
    mixed, seen = 0, 0
    while time.monotonic() < end:
        try:
            found = model.get_weights()
        except fp.ModelBusyError:
            continue
        seen += 1
        mixed += len({float(w.flat[0]) for w in found}) > 1
    thread.join()
    assert seen > 0
    assert mixed == 0


@each_backend
def test_evaluations_beside_compile_are_refused_or_work(backend: str) -> None:
    model = model_of(backend)
    errors: list[Exception] = []
    end = time.monotonic() + 0.7

    def again(work: Callable[[], Any]) -> None:
        while time.monotonic() < end and not errors:
            try:
                work()
            except fp.ModelBusyError:
                pass
            except Exception as error:
                errors.append(error)

    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    works = [
        lambda: model.compile("sgd", loss, ["accuracy"]),
        lambda: model.evaluate(X[:5], Y[:5]),
        lambda: model.trace(X[:5], Y[:5]),
    ]
    threads = [threading.Thread(target=again, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@each_backend
def test_a_new_learning_rate_does_not_keep_readers_apart(backend: str) -> None:
    """The state can be read while another thread predicts, with the zeros of a momentum that nothing has used yet."""
    model = classifier((32, 5), "tanh", backend=backend, momentum=0.0)
    model.fit(X, Y, verbose=0)
    many, stop = np.tile(X, (200, 1)), threading.Event()

    def predict() -> None:
        while not stop.is_set():
            model.predict(many)

    model.optimizer.momentum = 0.9
    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for rate in range(20):
            time.sleep(0.002)
            model.optimizer.learning_rate = 0.1 + rate
            state = model.get_state()
    finally:
        stop.set()
        thread.join()
    slots = [name for name in state if name.startswith("slots/")]
    assert len(slots) == 4
    assert not any(state[name].any() for name in slots)
    model.set_state(state)


@each_backend
def test_predictions_beside_add_are_of_one_model(backend: str) -> None:
    model = model_of(backend)
    layer = fp.Dense(2, name="more")
    expected = {model.predict(X[:5]).tobytes()}
    model.add(layer)
    expected.add(model.predict(X[:5]).tobytes())
    errors: list[Exception] = []
    end = time.monotonic() + 0.7

    def change() -> None:
        there = True
        while time.monotonic() < end:
            try:
                model.pop() if there else model.add(layer)
                there = not there
            except fp.ModelBusyError:
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        while time.monotonic() < end:
            try:
                assert model.predict(X[:5]).tobytes() in expected
            except fp.ModelBusyError as error:
                errors.append(error)
    finally:
        sys.setswitchinterval(before)
        thread.join()
    assert {type(error) for error in errors} == {fp.ModelBusyError}

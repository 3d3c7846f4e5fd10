"""Forked and spawned processes after, and while, the parent trains with threads: no hang, the same bits."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from forks import needs_fork, no_asan, no_tsan
from promises import run_script
from pure import BACKENDS

from fastperceptron.backends import numpy_matmul

each_backend = pytest.mark.parametrize("backend", BACKENDS)
one_backend = pytest.mark.parametrize("backend", BACKENDS[-1:])  # the native one where there is one
#: Trains on more threads than the arithmetic can ignore; `finish` reports from a child without running exit handlers.
PRELUDE = """
import os, sys, threading, time, traceback
import numpy as np
import fastperceptron as fp
from promises import classifier, digest, labelled

BACKEND = os.environ["BACKEND"]
ROUNDS = 12 if BACKEND == "native" else 3
fp.set_num_threads(4)
x, y = labelled(640, 64, 10)

def new():
    return classifier((128, 10), "tanh", dropout=0.1, backend=BACKEND)

def train(model=None, epochs=2):
    model = new() if model is None else model
    model.fit(x, y, batch_size=320, epochs=epochs, verbose=0)
    return digest(model)

def child(work):
    "Forks; the child's status is 0 when work() is true."
    pid = os.fork()
    if pid:
        return pid
    try:
        ok = work()
    except BaseException:
        traceback.print_exc()
        ok = False
    finally:
        sys.stderr.flush()
        os._exit(0 if ok else 3)

def wait(pid):
    end = time.monotonic() + 40
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
            return
        time.sleep(0.002)
    os.kill(pid, 9)
    raise AssertionError("the child hangs")
"""

#: What found(model), a task of its own for each of four copies, must have computed.
TASKS = """
def task(model):
    return train(), digest(model), train(model)

if __name__ == "__main__":
    expected = train()
    model = new()
    train(model)
    before, after = digest(model), train(model.copy())
    assert found(model) == [(expected, before, after)] * 4
    assert train() == expected
    print("done")
"""


def run(tmp_path: Path, code: str, backend: str, *arguments: str) -> None:
    assert run_script(tmp_path / "forks.py", PRELUDE + code, *arguments, timeout=100, BACKEND=backend) == "done\n"


@each_backend
@needs_fork
def test_fork_after_training(backend: str, tmp_path: Path) -> None:
    code = """
expected = train()
model = new()
train(model)
prediction = model.predict(x).tobytes()
continued = train(model.copy())
for _ in range(ROUNDS):
    def work():
        mine = model.predict(x).tobytes() == prediction and train(model) == continued
        return mine and train() == expected
    wait(child(work))
    assert model.predict(x).tobytes() == prediction
assert train(model) == continued
print("done")
"""
    run(tmp_path, code, backend)


@one_backend
@needs_fork
def test_fork_of_a_fork(backend: str, tmp_path: Path) -> None:
    code = """
expected = train()

def work():
    if train() != expected:
        return False
    wait(child(lambda: train() == expected))
    return train() == expected

wait(child(work))
assert train() == expected
print("done")
"""
    run(tmp_path, code, backend)


@each_backend
@needs_fork
@no_asan
@no_tsan
def test_fork_while_another_thread_trains(backend: str, tmp_path: Path) -> None:
    """The child may use the model that was in training, and train others."""
    code = """
expected = train()
busy = new()
busy.fit(x, y, verbose=0)
stop = threading.Event()
rounds = 0

def work():
    global rounds
    while not stop.is_set():
        busy.fit(x, y, batch_size=64, verbose=0)
        rounds += 1

thread = threading.Thread(target=work)
thread.start()
try:
    for _ in range(ROUNDS):
        def in_child():
            busy.predict(x)
            busy.fit(x, y, batch_size=64, verbose=0)
            return bool(np.isfinite(busy.predict(x)).all()) and train() == expected
        wait(child(in_child))
        assert train() == expected
finally:
    stop.set()
    thread.join()
assert rounds > 0
print("done")
"""
    run(tmp_path, code, backend)


@each_backend
@needs_fork
def test_fork_inside_a_callback(backend: str, tmp_path: Path) -> None:
    """In the thread that trains: the child has the model as of that batch, and may go on with it."""
    code = """
expected = train()
model = new()

class Forks(fp.Callback):
    def on_epoch_end(self, epoch, logs=None):
        wait(child(lambda: self.model.predict(x).shape == (640, 10) and train() == expected))

model.fit(x, y, batch_size=320, epochs=2, verbose=0, callbacks=[Forks()])
assert digest(model) == expected
print("done")
"""
    run(tmp_path, code, backend)


@one_backend
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, backend: str, tmp_path: Path) -> None:
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system has no {method}")
    code = """
import multiprocessing

def found(model):
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        return pool.map_async(task, [model] * 4, 1).get(60)
"""
    run(tmp_path, code + TASKS, backend, method)


@one_backend
def test_loky(backend: str, tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    code = """
import joblib

def found(model):
    return joblib.Parallel(n_jobs=2, backend="loky", timeout=60)(joblib.delayed(task)(model) for _ in range(4))
"""
    run(tmp_path, code + TASKS, backend)


def test_forks_and_products_of_numpy_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product under way holds a fork up; one that comes while a fork is under way waits for its end."""
    inside, release, order = threading.Event(), threading.Event(), []

    def slow(a: object, b: object, out: object = None) -> None:
        inside.set()
        assert release.wait(10)
        order.append("product")

    def fork() -> None:
        numpy_matmul._before_fork()
        order.append("fork")
        time.sleep(0.05)
        order.append("forked")
        numpy_matmul._after_fork_in_parent()

    monkeypatch.setattr(np, "matmul", slow)
    x = np.ones((2, 2))
    first = threading.Thread(target=numpy_matmul.matmul, args=(x, x))
    first.start()
    assert inside.wait(10)
    forker = threading.Thread(target=fork)
    forker.start()
    while not numpy_matmul._forking:
        time.sleep(0.001)
    second = threading.Thread(target=numpy_matmul.matmul, args=(x, x))
    second.start()
    time.sleep(0.05)
    assert order == []
    release.set()
    for thread in (first, forker, second):
        thread.join(10)
    assert order == ["product", "fork", "forked", "product"]
    assert not numpy_matmul._forking
    assert not numpy_matmul._multiplying

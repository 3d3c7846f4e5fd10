"""Threads: forks, oversubscription, nested use, and the process's floating-point state."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from forks import needs_fork, no_tsan
from pure import PURE

import fastperceptron as fp
from fastperceptron import backends, config, kernels

pytestmark = pytest.mark.skipif(PURE, reason="the pure wheel starts no threads of its own")

PRELUDE = """
import os, sys, threading, time
import numpy as np
import fastperceptron as fp
from fastperceptron import backends, kernels
backends.set_backend("native")
fp.set_num_threads(4)
x = np.random.default_rng(0).standard_normal((512, 256), dtype=np.float32)
w = x[:256].copy()
expected = kernels.dense_forward(x, w)  # large enough for threads

def same():
    return np.array_equal(kernels.dense_forward(x, w), expected)
"""


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    before = backends.get_backend()
    backends.set_backend("native")
    yield
    backends.set_backend(before)
    fp.set_num_threads(0)


def run(code: str, timeout: float = 60, **environment: str) -> str:
    """Runs code in a fresh process; a hang fails."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_fork
def test_fork_after_threads_ran() -> None:
    code = """
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if same() else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert same()
print("done")
"""
    assert run(code) == "done\n"


@needs_fork
def test_fork_of_a_fork() -> None:
    code = """
pid = os.fork()
if pid == 0:
    ok = same()
    pid = os.fork()
    if pid == 0:
        os._exit(0 if same() else 3)
    os._exit(0 if ok and os.waitpid(pid, 0)[1] == 0 and same() else 4)
assert os.waitpid(pid, 0)[1] == 0
print("done")
"""
    assert run(code) == "done\n"


@needs_fork
@no_tsan
def test_fork_while_other_threads_are_inside_regions() -> None:
    code = """
stop = False
rounds = [0, 0]

def work(i):
    while not stop:
        assert same()
        rounds[i] += 1

workers = [threading.Thread(target=work, args=(i,)) for i in range(2)]
for t in workers:
    t.start()
try:
    for _ in range(30):
        pid = os.fork()
        if pid == 0:
            os._exit(0 if same() and same() else 3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert same()
finally:
    stop = True
    for t in workers:
        t.join()
assert min(rounds) > 0
print("done")
"""
    assert run(code) == "done\n"


@needs_fork
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method: str, tmp_path: object) -> None:
    script = os.path.join(str(tmp_path), "pool.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(
            PRELUDE
            + """
import multiprocessing

def task(_):
    return same()

if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        assert pool.map(task, range(4)) == [True] * 4
    assert same()
    print("done")
"""
        )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", script, method]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_joblib_workers(backend: str, tmp_path: object) -> None:
    pytest.importorskip("joblib")
    script = os.path.join(str(tmp_path), "workers.py")
    with open(script, "w", encoding="utf-8") as file:
        file.write(
            PRELUDE
            + """
from joblib import Parallel, delayed

def task(_):
    from fastperceptron import kernels
    return np.array_equal(kernels.dense_forward(x, w), expected)

if __name__ == "__main__":
    assert all(Parallel(n_jobs=2, backend=sys.argv[1])(delayed(task)(i) for i in range(6)))
    print("done")
"""
        )
    command = [sys.executable, "-W", "ignore::DeprecationWarning", script, backend]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr


def test_more_threads_than_cpus_and_a_team_smaller_than_asked() -> None:
    code = """
for n in (1, 2, 3, 7, 16, 64):
    fp.set_num_threads(n)
    for _ in range(5):
        assert same(), n
print("done")
"""
    assert run(code) == "done\n"
    assert run(code, OMP_THREAD_LIMIT="3") == "done\n"
    assert run(code, OMP_DYNAMIC="true") == "done\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the memory of the process")
@pytest.mark.skipif(not PURE and bool(config._core().sanitizers), reason="a sanitizer has an allocator of its own")
def test_threads_that_cannot_be_created_are_done_without() -> None:
    """OpenMP's runtime would end the process. Here stacks are larger than the memory that is left."""
    code = """
import os, resource
import numpy as np
import fastperceptron as fp
weights = []
for threads in (1, 3):
    fp.set_num_threads(threads)
    if threads > 1:
        used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
    model = fp.Sequential([fp.Input((100,)), fp.Dense(200, activation="relu"), fp.Dense(10)], seed=0)
    model.compile("sgd", "mse")
    model.fit(np.ones((1000, 100), np.float32), np.ones((1000, 10), np.float32), batch_size=500, verbose=0)
    weights.append(b"".join(weight.tobytes() for weight in model.get_weights()))
assert weights[0] == weights[1]
print("done")
"""
    deep = f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_STACK, ({1 << 30},) * 2); "
    deep += "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])"
    result = subprocess.run([sys.executable, "-c", deep, code], capture_output=True, text=True, timeout=120)
    assert result.stdout == "done\n", result.stderr


def test_the_number_of_threads_may_change_while_others_train() -> None:
    code = """
ended = threading.Event()

def change():
    while not ended.is_set():
        for n in (16, 1):
            fp.set_num_threads(n)
            time.sleep(0)

threading.Thread(target=change).start()
x, y = np.ones((1024, 64), np.float32), np.zeros(1024, np.int64)
try:
    for _ in range(60):
        model = fp.Sequential([fp.Input((64,)), fp.Dense(256, activation="relu"), fp.Dense(10)])
        model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
        for _ in range(3):
            model.fit(x, y, batch_size=512, verbose=0)
finally:
    ended.set()
print("done")
"""
    assert run(code) == "done\n"


@pytest.mark.parametrize(("threads", "rows"), [(1, 3000), (6, 60000)], ids=["short calls", "long calls"])
def test_a_thread_that_the_interpreters_exit_meets_inside(threads: int, rows: int) -> None:
    """Python ends a daemon thread that asks for its lock then; that must not end the process with an error. A long call
    asks, for signals, when the interpreter may be gone altogether."""
    code = f"""
model = fp.Sequential([fp.Input((256,)), fp.Dense(256), fp.Dense(16)])
rows = np.ones(({rows}, 256), np.float32)
begun = threading.Event()

def predict():
    while True:
        model.predict(rows)
        begun.set()

for _ in range({threads}):
    threading.Thread(target=predict, daemon=True).start()
begun.wait()
print("done", flush=True)
"""
    for _ in range(8):
        assert run(code) == "done\n"


def test_small_steps_say_that_they_stay_on_fewer_threads() -> None:
    model = fp.Sequential([fp.Dense(64), fp.Dense(10)])
    model.build(32)
    network = model._network
    network.set_threads(5)
    assert network.useful_threads(0, True) == network.useful_threads(32, True) == 1
    assert [network.useful_threads(100_000, training) for training in (True, False)] == [5, 5]
    middle = [rows for rows in range(0, 4000, 10) if network.useful_threads(rows, True) == 3]
    assert middle
    assert network.useful_threads(middle[0], False) == 1  # a third of the work
    network.set_threads(2)
    assert network.useful_threads(middle[0], True) == 2
    network.set_threads(0)
    fp.set_num_threads(4)
    assert network.useful_threads(100_000, True) == 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_results_do_not_depend_on_the_number_of_threads(dtype: type) -> None:
    rng = np.random.default_rng(1)
    x, w, dz = (rng.standard_normal(shape).astype(dtype) for shape in ((301, 257), (257, 203), (301, 203)))
    labels = rng.integers(0, 203, 301)

    def everything() -> list[np.ndarray]:
        y = kernels.dense_forward(x, w, w[0], activation="tanh")
        return [
            y,
            *kernels.dense_backward(x, w, dz),
            kernels.activation_backward("tanh", dz, y),
            kernels.activation_forward("softmax", y),
            kernels.activation_forward("gelu", x[:, ::2]),
            kernels.loss_forward("sparse_categorical_cross_entropy_logits", labels, y),
            kernels.loss_backward("sparse_categorical_cross_entropy_logits", labels, y),
            kernels.dropout_forward(x, rate=0.3, key=5),
        ]

    with config.threads(1):
        expected = everything()
    for threads in (2, 3, 4, 7, 16):
        with config.threads(threads):
            for one, other in zip(expected, everything(), strict=True):
                np.testing.assert_array_equal(one, other)


def test_python_threads_may_call_at_once() -> None:
    x = np.random.default_rng(0).standard_normal((400, 300), dtype=np.float32)
    expected = kernels.dense_backward_weights(x, x)
    wrong = []

    def work() -> None:
        for _ in range(10):
            if not np.array_equal(kernels.dense_backward_weights(x, x), expected):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_floating_point_state_is_restored() -> None:
    """Control bits and sticky flags are as they were, though the calls underflow and overflow."""
    core = importlib.import_module("fastperceptron._core")
    native = backends.resolve("native")
    tiny, huge = np.full(70_000, 1e-40, np.float32), np.full((600, 300), 1e30, np.float32)
    w, y = np.full((300, 64), 1e30, np.float32), np.empty((600, 64), np.float32)
    assert tiny[0] != 0
    for threads in (1, 4):
        with config.threads(threads):
            before = core.floating_point_state()
            native.activation_forward("gelu", 0.0, tiny, None)
            native.dense_forward(huge, w, None, "sigmoid", 0.0, y)
            assert core.floating_point_state() == before
    assert (tiny * np.float32(0.5))[0] != 0  # NumPy still sees subnormals


def test_import_leaves_the_floating_point_state_alone() -> None:
    code = """
import numpy as np
tiny = np.float32(1e-40)
assert tiny * np.float32(0.5) != 0
import fastperceptron._core
assert tiny * np.float32(0.5) != 0
print("done")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.parametrize("threads", [1, 2])
def test_subnormals_are_flushed_on_every_thread(threads: int) -> None:
    x = np.full((512, 512), 1e-30, np.float32)
    with config.threads(threads):
        assert not kernels.dense_forward(x, x * np.float32(1e-10)).any()

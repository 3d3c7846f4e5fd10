"""The floating-point state (MXCSR, FPCR): as it was after import and after every call, in every thread."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest
from promises import compiled, run_script
from pure import BACKENDS, native_only

KNOWN = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")
pytestmark = pytest.mark.skipif(os.name == "nt" or not KNOWN, reason="the probe is for x86-64 and AArch64 and cc")

# Without the sticky flags, which NumPy clears.
PROBE = """
#if defined(__x86_64__)
#include <xmmintrin.h>
unsigned get(void) { return _mm_getcsr() & ~0x3fu; }
void set(unsigned state) { _mm_setcsr(state); }
unsigned flush(void) { return 0x9fc0u; }   /* flush to zero, denormals are zero, all masked */
unsigned upward(void) { return 0x5f80u; }  /* round up, all masked */
#else
unsigned get(void) { unsigned long v; __asm__ volatile("mrs %0, fpcr" : "=r"(v)); return (unsigned)v; }
void set(unsigned state) { unsigned long v = state; __asm__ volatile("msr fpcr, %0" : : "r"(v)); }
unsigned flush(void) { return 1u << 24; }
unsigned upward(void) { return 1u << 22; }
#endif
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("probe"), PROBE)


PRELUDE = """
import ctypes, os, sys, threading
import numpy as np
probe = ctypes.CDLL(sys.argv[1])
probe.set.argtypes = [ctypes.c_uint]
at_start = probe.get()
"""


def test_import_changes_nothing(probe: Path, tmp_path: Path) -> None:
    code = """
import fastperceptron as fp
assert probe.get() == at_start, "import"
fp.show_config()
fp.Sequential([fp.Input((3,)), fp.Dense(2)])
assert probe.get() == at_start, "build"
tiny = np.float32(1e-38)
assert tiny / np.float32(16) > 0, "subnormals"
"""
    run_script(tmp_path / "import.py", PRELUDE + code, str(probe))


CALLS = """
import fastperceptron as fp
from fastperceptron import kernels
from promises import classifier, labelled

BACKEND = sys.argv[2]
fp.set_backend(BACKEND)
fp.set_num_threads(3)
x, y = labelled(900 if BACKEND == "native" else 100, 64, 5)
x[::7] *= 1e-40  # subnormal
failed = []

def check(state, what):
    if probe.get() != state:
        failed.append((what, hex(state), hex(probe.get())))
        probe.set(state)

def everything(state):
    probe.set(state)
    model = classifier((256, 5), "gelu", dropout=0.1, backend=BACKEND)
    check(state, "make")
    model.fit(x, y, batch_size=300, epochs=2, verbose=0, validation_split=0.2)
    check(state, "fit")
    model.predict(x)
    check(state, "predict")
    model.predict(x[:1])
    check(state, "predict a row")
    p = model.predictor()
    results = p(x[0]), p(x), model.predict_one(x[1])
    check(state, "predictor")
    if BACKEND == "native" and not np.array_equal(results[0], results[1][0]):
        failed.append(("predictor",))
    model.evaluate(x, y)
    check(state, "evaluate")
    model.train_on_batch(x, y)
    check(state, "train_on_batch")
    model.trace(x[:9], y[:9])
    check(state, "trace")
    model.copy()
    check(state, "copy")
    for wrong in (lambda: model.predict(x[:, :3]), lambda: model.fit(x, y + 9, verbose=0)):
        try:
            wrong()
        except ValueError:
            check(state, "an error")
        else:
            failed.append(("no error",))
    w = np.ones((64, 128), np.float32)
    z = kernels.dense_forward(x, w, activation="tanh")
    check(state, "dense_forward")
    kernels.dense_backward(x, w, z)
    check(state, "dense_backward")
    kernels.activation_backward("mish", z, kernels.activation_forward("mish", z))
    check(state, "activations")
    kernels.loss_backward("huber", z, z + 1)
    kernels.loss_forward("huber", z, z + 1)
    check(state, "losses")
    kernels.sgd_update(w, w.copy(), None, learning_rate=0.1)
    kernels.dropout_forward(z, rate=0.5, key=1, stream=2, step=3)
    check(state, "update, dropout")
    probe.set(at_start)

states = [at_start, probe.flush(), probe.upward()]
for state in states:
    everything(state)
threads = [threading.Thread(target=everything, args=(state,)) for state in states * 2]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
check(at_start, "threads")
assert not failed, failed
print("done")
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_call_restores_what_the_caller_set(backend: str, probe: Path, tmp_path: Path) -> None:
    assert run_script(tmp_path / "calls.py", PRELUDE + CALLS, str(probe), backend) == "done\n"


@pytest.mark.skipif("native" not in BACKENDS, reason="the pure wheel starts no threads of its own")
def test_results_do_not_depend_on_the_callers_state(probe: Path, tmp_path: Path) -> None:
    code = """
import fastperceptron as fp
from promises import classifier, digest, labelled
x, y = labelled(900, 64, 5)
x[::7] *= 1e-40
model = classifier((256, 5), "mish", dropout=0.1)
model.build((64,))
fp.set_num_threads(3)
found = set()
for state in (at_start, probe.flush(), probe.upward()):
    copy = model.copy()
    probe.set(state)
    copy.fit(x, y, batch_size=300, epochs=3, shuffle=False, verbose=0)
    probe.set(at_start)
    found.add(digest(copy))
assert len(found) == 1, found
print("done")
"""
    assert run_script(tmp_path / "state.py", PRELUDE + code, str(probe)) == "done\n"


@native_only
def test_signal_handlers_find_the_state_of_their_thread(probe: Path, tmp_path: Path) -> None:
    """Those that run in the middle of a fit."""
    code = """
import signal
from promises import classifier, labelled

x, y = labelled(4000, 256, 5)
model, seen = classifier((512, 512, 5)), []
signal.signal(signal.SIGALRM, lambda number, frame: seen.append(probe.get()))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
for state in (at_start, probe.upward()):
    seen.clear()
    probe.set(state)
    while len(seen) < 10:
        model.fit(x, y, batch_size=512, verbose=0)
    signals, after = set(seen), probe.get()
    probe.set(at_start)
    assert signals == {state} and after == state, (state, signals, after)
signal.setitimer(signal.ITIMER_REAL, 0)
"""
    run_script(tmp_path / "handlers.py", PRELUDE + code, str(probe))

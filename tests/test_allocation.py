"""Training allocates nothing from step to step, and each call of the network opens one parallel region. Where there is
no memory, calls fail and leave the network as it was."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from promises import compiled, run_script
from pure import PURE

pytestmark = [
    pytest.mark.skipif(PURE, reason="NumPy allocates its results"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs LD_PRELOAD and glibc"),
    pytest.mark.skipif(
        not PURE and bool(importlib.import_module("fastperceptron._core").sanitizers),
        reason="a sanitizer has an allocator of its own",
    ),
]

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static atomic_long allocations, regions;
long count_allocations(void) { return allocations; }
long count_regions(void) { return regions; }

/* The one after so many fails: of zeroed memory, or of any. */
static __thread long left = -1;
static __thread int of_any;
void fail_after(long count, int any) { left = count; of_any = any; }
static int fails(void) { return left >= 0 && left-- == 0; }

void* malloc(size_t n) { ++allocations; return of_any && fails() ? NULL : __libc_malloc(n); }
void* calloc(size_t n, size_t m) { ++allocations; return fails() ? NULL : __libc_calloc(n, m); }
void* realloc(void* p, size_t n) { ++allocations; return __libc_realloc(p, n); }
void* memalign(size_t a, size_t n) { ++allocations; return __libc_memalign(a, n); }
void* aligned_alloc(size_t a, size_t n) { ++allocations; return __libc_memalign(a, n); }
int posix_memalign(void** p, size_t a, size_t n) {
  ++allocations;
  *p = __libc_memalign(a, n);
  return *p ? 0 : ENOMEM;
}

/* A module linked with GCC's runtime calls this for every region. The runtime was loaded for that module alone, perhaps
   under another name, so the next symbol is not found by asking for it. */
static int find(struct dl_phdr_info* library, size_t size, void* found) {
  if (!strstr(library->dlpi_name, "libgomp")) return 0;
  void* handle = dlopen(library->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
  *(void**)found = handle ? dlsym(handle, "GOMP_parallel") : NULL;
  return *(void**)found != NULL;
}

void GOMP_parallel(void (*f)(void*), void* data, unsigned threads, unsigned flags) {
  static void (*real)(void (*)(void*), void*, unsigned, unsigned);
  if (!real) dl_iterate_phdr(find, &real);
  ++regions;
  real(f, data, threads, flags);
}
"""

SCRIPT = """
import ctypes, json, sys
import numpy as np
from fastperceptron.program import Head
from parity import Builder, load_backend, make_network, random_parameters
from promises import labelled

counter = ctypes.CDLL(None)
for name in ("count_allocations", "count_regions"):
    getattr(counter, name).restype = ctypes.c_long
allocations, regions = counter.count_allocations, counter.count_regions
kind, threads, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
native = load_backend("native")
builder = Builder(64, "mixed_bfloat16" if kind == "mixed" else "float32")
value = builder.dense(0, 48, "gelu")
value = builder.dropout(value, 0.2, 1)
if kind == "shared":
    square = builder.weights(48, 48)
    value = builder.dense(builder.dense(value, 48, "tanh", parameters=square), 48, "relu", parameters=square)
middle = value
if kind == "graph":  # skip connections, several losses, two of them on one value
    side = builder.dense(builder.columns(3, 20), 48, "relu")
    both = builder.join("multiply", builder.join("add", value, side, value), builder.activation(value, "sigmoid"))
    value = builder.join("concatenate", both, side, 0)
value = builder.activation(builder.dense(value, 10), "linear" if kind == "labels" else "softmax")
program = builder.program(value, middle, middle) if kind == "graph" else builder.program(value)
network = make_network(native, program, random_parameters(program, np.random.default_rng(0)))
network.set_optimizer("sgd", {"learning_rate": 0.001, "momentum": 0.9, "nesterov": 1.0})
rows, steps = 50 * batch + 7, 1020
x, y = labelled(rows, 64, 10)
if kind == "labels":
    network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
    network.set_metrics([("sparse_categorical_accuracy", 0.0)])
else:
    network.set_loss("categorical_cross_entropy", 0.0)
    network.set_metrics([("categorical_accuracy", 0.0), ("r2", 0.0)])
    y = np.eye(10)[y]
weights = np.ones(rows, np.float32)
if kind == "graph":
    network.set_heads(
        [Head(0, "categorical_cross_entropy"), Head(1, "huber", 1.0, 0.1, "weights"), Head(2, "mean_squared_error")]
    )
    network.set_metrics([("categorical_accuracy", 0.0), ("r2", 0.0, 2)])
    y, weights = (y, np.zeros((rows, 48)), np.ones((rows, 48))), (None, weights, weights)
    network.set_rates([0.5] * len(program.parameters))
network.set_threads(threads)
order = np.random.default_rng(1).permutation(np.resize(np.arange(rows), rows * steps // 51))
x = np.asfortranarray(x.astype(np.float64))  # converted while gathered

def count(run, end):
    a, r = allocations(), regions()
    reached = run(x, y, weights, order, batch, 0, end, 1e9)
    a, r = allocations() - a, regions() - r
    assert reached == end, reached
    return a, r

found = {}
for name, run in (("train", network.train_steps), ("evaluate", network.evaluate_steps)):
    count(run, batch)
    count(run, len(order))
    few, many = count(run, batch), count(run, len(order))
    found[name] = [many[0] - few[0], few[1], many[1], -(-len(order) // batch)]
out = np.empty((rows, 10), np.float32)
first = regions()
if kind == "graph":
    out = (out, np.empty((rows, 48), np.float32), np.empty((rows, 48), np.float32))
network.predict(x, out, 0, rows, 1e9)
found["predict"] = [0, 0, regions() - first, 0]
a = allocations()
np.empty(100_000)
assert allocations() > a, "the counter does not count"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("counter"), COUNTER, "-ldl")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["labels", "targets", "shared", "graph", "mixed"])
def test_a_thousand_steps_allocate_no_more_than_one(kind: str, threads: int, counter: Path, tmp_path: Path) -> None:
    batch = 300  # above the integers that Python keeps
    printed = run_script(
        tmp_path / "count.py", SCRIPT, kind, str(threads), str(batch), LD_PRELOAD=str(counter), PYTHONMALLOC="malloc"
    )
    found = json.loads(printed)
    for name in ("train", "evaluate"):
        extra, _, _, steps = found[name]
        assert steps >= 1000
        assert extra == 0, f"{name}: {extra} allocations in {steps} steps"
    runtime = importlib.import_module("fastperceptron._core").openmp_runtime()
    if not runtime.startswith("libgomp"):
        return
    # Evaluation is a third of the work; whether that is worth a second thread, for one step or for a thousand, is the
    # network's affair.
    # A call runs in stretches, on as many threads as were found quickest; not in a region per step.
    assert found["train"][1] <= threads - 1
    assert found["train"][2] <= (threads - 1) * steps // 20
    assert found["evaluate"][1] <= found["evaluate"][2] <= threads - 1
    assert found["predict"][2] <= threads - 1


FAILING = """
import ctypes, sys
import numpy as np
import fastperceptron as fp
from fastperceptron.program import Head
from parity import load_backend

fail_after = ctypes.CDLL(None).fail_after
fail_after.argtypes = [ctypes.c_long, ctypes.c_int]
rng = np.random.default_rng(0)
n = 300
x, narrow, wide, w = (rng.standard_normal((n, k), np.float32) for k in (40, 3, 70, 1))
y, w, order = (narrow, wide), (None, w[:, 0] ** 2), rng.permutation(n)
kind = "mean_squared_error"

def calls(network, found):
    out = [np.empty_like(a) for a in y]
    yield lambda: network.set_heads([Head(0, kind)])
    yield lambda: network.train_steps(x, narrow, None, None, 64, 0, n, 1e9)
    yield lambda: network.set_heads([Head(1, kind)])
    yield lambda: network.set_metrics([("r2", 0.0), ("mean_absolute_error", 0.0)])
    yield lambda: network.train_steps(x, wide, None, order, 64, 0, n, 1e9)
    yield lambda: network.predict(x, out, 0, n, 1e9)
    yield lambda: network.set_heads([Head(0, kind), Head(1, kind, 0.0, 0.5, "weights")])
    yield lambda: network.evaluate_steps(x, y, w, order, 100, 0, n, 1e9)
    yield lambda: network.set_optimizer("sgd", {"learning_rate": 0.01, "momentum": 0.9})
    yield lambda: network.train_steps(x, y, w, order, n, 0, n, 1e9)
    yield lambda: network.load_batch(x, y, w, None, 0, 200)
    yield lambda: network.forward(0, len(network.program.operations), True)
    yield lambda: network.loss(True)
    yield lambda: network.backward(0, len(network.program.operations))
    yield lambda: found.extend(network.get_gradient(i) for i in range(6))
    yield network.update
    found += out + network.get_metrics() + [network.get_slot("momentum", i) for i in range(6)]
    found += [network.get_parameter(i) for i in range(6)]

def results(failing):
    given = fp.Input((40,))
    middle = fp.Dense(33, activation="gelu")(given)
    model = fp.Model(given, [fp.Dense(k)(middle) for k in (3, 70)], seed=0, backend="native", dtype=sys.argv[1])
    model.compile("sgd", ["mse"] * 2)
    network, found, failures = model._network, [], 0
    network.set_threads(int(sys.argv[2]))
    network.set_trainable([True] * 6)
    network.set_optimizer("sgd", {"learning_rate": 0.01})
    for call in calls(network, found):
        count = 0
        while failing:
            fail_after(count, False)
            try:
                call()
            except MemoryError:
                count += 1
                continue
            finally:
                fail_after(-1, False)
            break
        else:
            call()
        failures += count
    return [a.tobytes() for a in found], failures

def configured():
    model = fp.Sequential([fp.Input((40,)), fp.Dense(33), fp.Dense(3)], seed=0, backend="native", dtype=sys.argv[1])
    model.compile(fp.SGD(momentum=0.5), "mse", ["r2"])
    model.train_on_batch(x, narrow)
    return model._network

changes = [
    lambda network: network.set_heads([Head(0, "huber", 1.0), Head(0, kind)]),
    lambda network: network.set_metrics([("r2", 0.0), ("mean_absolute_error", 0.0)]),
    lambda network: network.set_trainable([True, True, False, False]),
    lambda network: network.set_optimizer("sgd", {"learning_rate": 0.01, "momentum": 0.5}),
    lambda network: load_backend("native").Network(network.program),
]
for change in changes:
    for count in range(1000):
        networks = configured(), configured()
        fail_after(count, True)
        try:
            change(networks[0])
        except MemoryError:
            trained = []
            for network in networks:
                network.train_steps(x, narrow, None, None, n, 0, n, 1e9)
                trained.append([network.get_parameter(i).tobytes() for i in range(4)])
                trained[-1] += [a.tobytes() for a in network.get_metrics()]
            assert trained[0] == trained[1], count
        else:
            break
        finally:
            fail_after(-1, False)
    assert count > 3, count

undisturbed, _ = results(False)
disturbed, failures = results(True)
assert failures > 50, failures
assert undisturbed == disturbed
print("done")
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_calls_without_memory_may_be_repeated(dtype: str, threads: int, counter: Path, tmp_path: Path) -> None:
    """Each allocation of each call fails once. Memory of the old size was taken for that of the new one, and settings
    came into force without what belongs to them."""
    printed = run_script(tmp_path / "failing.py", FAILING, dtype, str(threads), LD_PRELOAD=str(counter))
    assert printed == "done\n"

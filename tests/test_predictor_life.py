"""The life of predictors: snapshots of a model that trains on, pickles, threads, and what calls leave behind."""

from __future__ import annotations

import contextlib
import gc
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from predictor_models import assert_threads_predict, at_once, chain, predicted, rows, same, two_by_two, two_rows
from pure import native_only

import fastperceptron as fp
from fastperceptron.errors import NotBuiltError
from fastperceptron.program import PRECISIONS

DTYPES = ("float32", "float64")


def test_mixed_bfloat16(backend: str) -> None:
    model = chain((40, 33, 10), dtype="mixed_bfloat16")
    x, p = rows(5, 40), model.predictor()
    before = model.predict(x)
    np.testing.assert_array_equal(p(x), before)
    assert p(x[0]).dtype == p.dtype == np.float32
    np.testing.assert_array_equal(p(x[0]), predicted(model, x[0]))
    np.testing.assert_array_equal(model.predict_one(x[0]), p(x[0]))
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))


def test_a_snapshot_keeps_its_weights(backend: str) -> None:
    model = chain((4, 8, 2))
    model.compile(fp.SGD(0.1), "mse")
    x, y = rows(20, 4), rows(20, 2, seed=1)
    p, before = model.predictor(), model.predict(x)
    np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))
    writes = [
        lambda: model.fit(x, y, epochs=1, verbose=0),
        lambda: model.train_on_batch(x, y),
        lambda: model.set_weights([w * 2 for w in model.get_weights()]),
        lambda: setattr(model.layers[0], "kernel", np.ones((4, 8))),
        lambda: model.set_state({**model.get_state(), "params/dense/bias": np.ones(8, np.float32)}),
        lambda: model.to_backend("numpy"),
        lambda: model.add(fp.Dense(2)),
    ]
    for write in writes:
        old = model.predict_one(x[0])
        write()
        new = model.predict_one(x[0])
        np.testing.assert_array_equal(new, predicted(model, x[0]))
        assert write is writes[5] or not np.array_equal(new, old)
    np.testing.assert_array_equal(p(x), before)


def test_a_snapshot_outlives_its_model(backend: str) -> None:
    p, x = chain((4, 8, 2)).predictor(), rows(20, 4)
    gc.collect()
    np.testing.assert_array_equal(p(x), chain((4, 8, 2)).predict(x))


def test_predict_one_inside_and_beside_training(backend: str) -> None:
    model = chain((4, 8, 2))
    model.compile(fp.SGD(0.1), "mse")
    x, y = rows(20, 4), rows(20, 2, seed=1)
    seen: list[Any] = []
    errors: list[str] = []

    def beside() -> None:
        try:
            model.predict_one(x[0])
        except fp.ModelBusyError as error:
            errors.append(str(error))

    def look(*_: Any) -> None:
        np.testing.assert_array_equal(model.predict_one(x[0]), predicted(model, x[0]))
        seen.append(model.predict_one(x[0]))
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()

    model.predict_one(x[0])
    model.fit(x, y, epochs=3, verbose=0, callbacks=fp.LambdaCallback(on_epoch_end=look))
    assert len({a.tobytes() for a in seen}) == 3
    assert len(errors) == 3
    assert "predict_one" in errors[0]


def test_not_built() -> None:
    model = fp.Sequential([fp.Dense(2)])
    with pytest.raises(NotBuiltError, match="predictor"):
        model.predictor()
    with pytest.raises(NotBuiltError, match="predict_one"):
        model.predict_one([1.0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_pickle(backend: str, dtype: str) -> None:
    model = chain((9, 20, 5, 3), dtype=dtype)
    x = rows(4, 9, dtype)
    p = pickle.loads(pickle.dumps(model.predictor()))
    assert isinstance(p, fp.Predictor)
    np.testing.assert_array_equal(p(x), model.predict(x))


class Doubled(fp.Layer):
    def forward(self, x: Any, training: bool) -> Any:
        return 2 * x, None

    def backward(self, dy: Any, saved: Any) -> Any:
        return 2 * dy, ()


def test_layers_written_in_python(backend: str) -> None:
    model = fp.Sequential([fp.Input((4,)), fp.Dense(3), Doubled()], seed=0)
    x, p = rows(5, 4), model.predictor()
    before = model.predict(x)
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(p(x[1]), predicted(model, x[1]))
    np.testing.assert_array_equal(model.predict_one(x[1]), p(x[1]))
    model.set_weights([w + 1 for w in model.get_weights()])
    np.testing.assert_array_equal(p(x), before)
    np.testing.assert_array_equal(model.predict_one(x[1]), predicted(model, x[1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(p))(x), before)


@pytest.mark.parametrize("widths", [(32, 64, 10), (300, 900, 10)])
def test_many_threads_at_once(backend: str, widths: tuple[int, ...]) -> None:
    model = chain(widths, "tanh")
    p, x = model.predictor(), rows(64, widths[0])
    assert_threads_predict(model, p, x, [p(row) for row in x], [p(x[i:]) for i in range(64)])


@pytest.mark.parametrize("units", [9, 2000])
def test_many_threads_at_several_inputs_and_outputs(backend: str, units: int) -> None:
    model, x = two_by_two(True, units=units), two_rows(64)
    p = model.predictor()
    expected, ones = p(x), [p([a[i] for a in x]) for i in range(64)]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in range(seed, 64, 4):
            sample = [a[i] for a in x]
            given = sample if i % 2 else dict(zip("ab", sample, strict=True))
            for found, wanted in ((p(given), ones[i]), (model.predict_one(given), ones[i]), (p(x), expected)):
                if any(not np.array_equal(found[name], wanted[name]) for name in ("first", "second")):
                    wrong.append(i)

    at_once(4, work)
    assert not wrong


def test_several_inputs_and_outputs_while_the_model_learns(backend: str) -> None:
    model, x = two_by_two(), two_rows(20)
    model.compile(fp.SGD(0.1), "mse")
    p, before, old = model.predictor(), model.predict(x), model.predict_one([a[0] for a in x])
    model.fit(x, [np.ones_like(y) for y in before], verbose=0)
    new = model.predict_one([a[0] for a in x])
    for found, wanted in zip(new, model.predict([a[:1] for a in x]), strict=True):
        same(found, wanted[0])
    assert not np.array_equal(new[0], old[0])
    for found, wanted in zip(p(x), before, strict=True):
        np.testing.assert_array_equal(found, wanted)


@contextlib.contextmanager
def waiting_thread(work: Callable[[], Any] = lambda: None) -> Iterator[threading.Event]:
    """A Python thread that awaits the interpreter, which nobody is made to give up; the event says it has had it, and
    that the work is done."""
    go, ran = threading.Event(), threading.Event()

    def run() -> None:
        go.wait()
        work()
        ran.set()

    thread = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        thread.start()
        go.set()
        yield ran
    finally:
        sys.setswitchinterval(interval)
        thread.join()


@native_only
@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this interpreter is not locked")
@pytest.mark.parametrize("dtype", [*DTYPES, "mixed_bfloat16"])
@pytest.mark.parametrize(("n", "lets"), [(1, False), (20_000, True)])
def test_large_work_lets_other_threads_run(n: int, lets: bool, dtype: str) -> None:
    """Small work does not: to give the interpreter up and get it back would take longer."""
    model = chain((32, 256, 10), dtype=dtype)
    p, x = model.predictor(), rows(n, 32, PRECISIONS[dtype])
    out = np.empty((n, 10), x.dtype)
    with waiting_thread() as ran:
        for _ in range(500):  # for one call the thread may not get a CPU
            p(x, out=out)
            if ran.is_set():
                break
        assert ran.is_set() == lets


@native_only
def test_a_list_that_changes_during_the_call() -> None:
    """Its arrays are held while other threads run."""
    model = two_by_two(units=2000)
    p, expected = model.predictor(), model.predict(two_rows(3000))
    x, out = two_rows(3000), [np.empty((3000, 4), np.float32), np.empty((3000, 2000), np.float32)]
    kept = list(out)

    def change() -> None:
        x.clear()
        out.clear()

    with waiting_thread(change) as ran:
        p(x, out=out)
    assert ran.is_set()
    assert not out
    for found, wanted in zip(kept, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@native_only
def test_nothing_leaks() -> None:
    model, several = chain((8, 4)), two_by_two(True)
    p, x, out = model.predictor(), np.ones(8, np.float32), np.empty(4, np.float32)
    q, many_rows = several.predictor(), two_rows(3)
    row, buffers = {"a": many_rows[0][0], "b": many_rows[1][0]}, [np.empty(4, np.float32), np.empty(9, np.float32)]
    call: Any = p
    objects = (p, x, out, p.dtype, np.dtype(np.float32), p.input_shape, q, *many_rows, *row.values(), *buffers)

    def many(n: int) -> None:
        for _ in range(n):
            p(x)
            p(x, out=out)
            model.predict_one(x)
        for _ in range(n // 10):
            q(many_rows)
            q(row, out=buffers)
            several.predict_one(row)
        for _ in range(n // 100):
            p([1.0] * 8)
            pickle.loads(pickle.dumps(p))
            pickle.loads(pickle.dumps(q))
            repr(q)
            for given in ((row, [x, x]), (row, many_rows), ([x, x],), ({**row, "c": x},)):
                with contextlib.suppress(TypeError, ValueError):
                    q(*given)
            for arguments in ((), (x, x), (x[:3],), ("a",)):
                with contextlib.suppress(TypeError, ValueError):
                    call(*arguments)

    many(10_000)
    gc.collect()
    before, blocks = [sys.getrefcount(o) for o in objects], sys.getallocatedblocks()
    many(100_000)
    gc.collect()
    assert [sys.getrefcount(o) for o in objects] == before
    assert sys.getallocatedblocks() - blocks < 900

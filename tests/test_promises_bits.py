"""The same bits for any number of threads, for any batch a row is predicted in, and on AVX2 and AVX-512."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import ALPHA, ELEMENTWISE, PAIR, PATHS, forced, instruction_sets, needs_pair, predictions_for, targets_for
from promises import activation, classifier, digest, guarded, labelled, run_script
from pure import PURE

import fastperceptron as fp
from fastperceptron.program import ACTIVATIONS, LOSSES, Operation, Parameter, Program

pytestmark = pytest.mark.skipif(PURE, reason="bitwise promises are the native backend's")

STEPS = 200
THREADS = (1, 2, 3, 4, 7, 8, 16)


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    yield
    fp.set_num_threads(0)


# -- A: the number of threads ----------------------------------------------------------------------------------------

#: Layers, rows, rows per step, dtype, activation, dropout. Large enough for threads, which share the rows or, where
#: rows are few, parts of the layers.
RUNS: dict[str, tuple[tuple[int, ...], int, int, str, str, float]] = {
    "one thread is enough": ((24, 17, 5), 90, 32, "float32", "tanh", 0.2),
    "rows are shared": ((96, 128, 33, 10), 700, 300, "float32", "gelu", 0.25),
    "rows are shared, float64": ((96, 128, 10), 700, 300, "float64", "elu", 0.1),
    "more than a block of inputs": ((600, 80, 10), 260, 130, "float32", "relu", 0.0),
    "whole blocks are shared": ((40, 64, 48, 10), 1280, 512, "float32", "relu", 0.1),
    "whole blocks are shared, of wide inputs": ((210, 16, 10), 1280, 512, "float32", "relu", 0.0),
    "whole blocks are shared, float64": ((40, 64, 17, 10), 1024, 384, "float64", "gelu", 0.0),
    "whole blocks are shared, a kernel has one row": ((40, 1, 160, 10), 2560, 1280, "float32", "tanh", 0.0),
    "blocks are shared, weights are copied": ((32, 64, 48, 10), 900, 256, "float32", "relu", 0.0),
    "columns are owned, inputs are copied": ((784, 128, 10), 200, 64, "float32", "relu", 0.0),
    "columns are owned, without weights": ((32, 64, 64, 10), 640, 32, "float32", "relu", 0.0),
    "columns are owned, of all layers": ((300, 256, 192, 10), 320, 128, "float32", "tanh", 0.0),
    "large kernels, in parts": ((40, 333, 517, 270, 10), 200, 72, "float32", "relu", 0.0),
    "large kernels, in parts, columns are owned": ((784, 560, 420, 10), 320, 64, "float32", "tanh", 0.0),
    "layers are shared": ((100, 640, 512, 10), 72, 40, "float32", "relu", 0.2),
    "fewer rows than threads": ((300, 672, 320, 7), 25, 10, "float64", "silu", 0.0),
}


def _trained(run: str, threads: int, *callbacks: fp.Callback) -> tuple[str, dict[str, list[float]]]:
    units, rows, batch, dtype, kind, dropout = RUNS[run]
    x, y = labelled(rows, units[0], units[-1])
    weights = None if "without weights" in run else np.random.default_rng(1).random(rows)
    model = classifier(units[1:], kind, dtype, dropout)
    fp.set_num_threads(threads)
    steps_per_epoch = -(-rows // batch)
    epochs = -(-STEPS // steps_per_epoch)
    history = model.fit(x, y, batch, epochs, verbose=0, callbacks=list(callbacks), sample_weight=weights)
    assert int(model.get_state()["counters/step"]) >= STEPS
    return digest(model), history.history


@pytest.mark.parametrize("run", RUNS)
def test_training_does_not_depend_on_the_number_of_threads(run: str) -> None:
    expected = _trained(run, 1)
    for threads in THREADS[1:]:
        assert _trained(run, threads) == expected, f"{threads} threads"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
@pytest.mark.parametrize("run", [name for name in RUNS if name.startswith(("rows are", "layers are"))])
def test_those_runs_use_threads(run: str, tmp_path: Path) -> None:
    core = importlib.import_module("fastperceptron._core")
    if core.openmp_runtime().startswith("none"):
        pytest.skip("built without threads, or with such as end with each call")
    code = f"""
import os
import fastperceptron as fp
import test_promises_bits as bits
bits.STEPS = 2
counts = [len(os.listdir("/proc/self/task"))]
count = fp.LambdaCallback(on_train_batch_end=lambda batch, logs: counts.append(len(os.listdir("/proc/self/task"))))
bits._trained({run!r}, 16, count)
print(max(counts) - counts[0])
"""
    # NumPy's own threads are kept out of the count.
    assert int(run_script(tmp_path / "count.py", code, OPENBLAS_NUM_THREADS="1")) >= 15


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_that_help_each_other_change_no_bits(dtype: str) -> None:
    """Large steps, of which threads finish parts for each other; the last one of an epoch is small."""
    x, y = labelled(1500, 300, 3)

    def trained(threads: int, isa: str) -> str:
        with forced(isa):
            model = classifier((700, 513, 77, 400, 3), "relu", dtype, 0.1)
            fp.set_num_threads(threads)
            model.fit(x, y, 700, 2, verbose=0)
            return digest(model)

    for isa in instruction_sets():
        expected = trained(1, isa)
        for threads in (2, 3, 5, 8):  # so many that some of them are always behind
            assert trained(threads, isa) == expected, f"{isa}, {threads} threads"


@pytest.mark.parametrize("kind", ["relu", "mish"])
def test_memory_made_for_large_batches_gives_the_same_bits(kind: str) -> None:
    """Large batches keep their gradients in less memory. Small steps are taken in it after a large one."""
    x, y = labelled(6000, 16, 10)

    def trained(threads: int, *, large_first: bool) -> tuple[str, str]:
        fp.set_num_threads(threads)
        model = classifier((300, 16, 300, 10), kind, dropout=0.2)
        model.build((16,))
        if large_first:
            model.evaluate(x, y, batch_size=6000)
        model.fit(x[:400], y[:400], 130, 8, verbose=0)
        small = digest(model)
        model.fit(x, y, 5500, 4, verbose=0)
        return small, digest(model)

    expected = trained(1, large_first=False)
    for threads in (1, 2, 4, 16):
        assert trained(threads, large_first=True) == expected, f"{threads} threads"


def _in_other_memory(x: np.ndarray) -> dict[str, np.ndarray]:
    """The same rows: those that are read in place, and those that are gathered."""
    rows, width = x.shape
    apart = np.zeros((rows, width + 5), x.dtype)[:, 3 : 3 + width]
    crowded = np.zeros((rows, -(-width // 256) * 256), x.dtype)[:, :width]
    misaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    for copy in (apart, crowded, misaligned):
        copy[...] = x
    return {
        "side by side": x,
        "apart": apart,
        "1 KiB apart": crowded,
        "misaligned": misaligned,
        "by columns": np.asfortranarray(x),
        "from the last to the first": np.ascontiguousarray(x[::-1])[::-1],
        "in another order of bytes": x.astype(x.dtype.newbyteorder()),
        "of another type": x.astype(np.float64 if x.dtype == np.float32 else np.float32),
    }


def _everybody_reads_the_input(dtype: str) -> fp.Model:
    inputs = fp.Input(48)
    branches = [
        fp.Dense(48, activation="relu")(inputs),
        fp.Dropout(0.3)(inputs),
        fp.Add()([inputs, fp.Activation("tanh")(inputs)]),
        fp.Multiply()([inputs, inputs]),
    ]
    model = fp.Model(inputs, fp.Dense(10)(fp.Concatenate()([*branches, inputs])), seed=5, dtype=dtype)
    model.compile(fp.SGD(0.02), fp.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    return model


#: Each way to compute, and the data type it is for.
WAYS = [
    *((dtype, isa) for dtype in ("float32", "float64") for isa in instruction_sets()),
    *(("mixed_bfloat16", path) for path in PATHS),
]


@pytest.mark.parametrize(("dtype", "isa"), [way for way in WAYS if way[1] != "generic"])
@pytest.mark.parametrize(
    "run",
    [
        *("everybody reads", "mostly zeros", "mostly zeros, not everywhere"),
        *(name for name in RUNS if name.startswith(("whole", "blocks", "columns", "layers"))),
    ],
)
@pytest.mark.parametrize("shuffle", [False, True], ids=["in order", "shuffled"])
def test_it_does_not_matter_where_rows_lie(run: str, dtype: str, isa: str, shuffle: bool) -> None:
    of_zeros = run.startswith("mostly zeros")
    other = ((200, 136, 10) if of_zeros else (48, 10), 300, 130, "", "relu", 0.0)
    units, rows, batch, _, kind, dropout = RUNS.get(run, other)
    x, y = labelled(rows, units[0], units[-1])
    if of_zeros:  # AVX2 reads shuffled rows in place then, and others among them as well
        dense = slice(120, 180) if "not everywhere" in run else slice(0)
        x[np.delete(np.arange(rows), dense)] *= np.random.default_rng(1).random((rows - len(x[dense]), 200)) < 0.1
    found = set()
    with forced(isa):
        for name, memory in _in_other_memory(x.astype(np.float64) if dtype == "float64" else x).items():
            before = memory.copy()
            for threads in (1, 2, 4):
                fp.set_num_threads(threads)
                everybody = run == "everybody reads"
                model = _everybody_reads_the_input(dtype) if everybody else classifier(units[1:], kind, dtype, dropout)
                history = model.fit(memory, y, batch, 2, shuffle=shuffle, verbose=0).history
                judged = model.evaluate(memory, y, batch_size=batch, verbose=0)
                predicted = model.predict(memory, batch_size=batch)
                found.add((digest(model), str(history), str(judged), predicted.tobytes()))
                assert len(found) == 1, f"{name}, {threads} threads"
            np.testing.assert_array_equal(memory, before, strict=True)


@pytest.mark.skipif(os.name != "posix", reason="protects pages of memory")
@pytest.mark.parametrize(("dtype", "isa"), WAYS)
def test_nothing_is_read_beyond_the_rows(dtype: str, isa: str) -> None:
    """What reads a byte more, or writes to the rows, ends the process."""
    with forced(isa):
        for width, units, kept in (
            *itertools.product((1, 3, 17, 33, 64, 270), ((17, 1), (33, 20), (1, 5), (272, 10)), (1.0,)),
            *itertools.product((270, 333), ((49, 10), (272, 10)), (0.1,)),
        ):
            x, y = labelled(70, width, units[-1])
            x = x.astype(np.float64) if dtype == "float64" else x
            x[:, :-1] *= np.random.default_rng(1).random((70, width - 1)) < kept
            results = []
            for memory in (np.asfortranarray(x), guarded(x)):  # gathered, and in place
                model = classifier(units, dtype=dtype)
                model.fit(memory, y, 35, 1, shuffle=False, verbose=0)
                model.fit(memory, y, 35, 1, shuffle=True, verbose=0)
                results.append((digest(model), model.predict(memory).tobytes()))
            assert results[0] == results[1]


def test_graphs_in_whole_blocks_give_the_same_bits() -> None:
    """Weight gradients by blocks of rows, where layers are frozen, added, without a bias, or used twice."""
    x, y = labelled(1024, 40, 10)

    def trained(threads: int, *, frozen: bool, twice: bool) -> str:
        fp.set_num_threads(threads)
        given = fp.Input((40,))
        first = fp.Dense(48, activation="relu")
        again = fp.Dense(48, activation="tanh", use_bias=False)
        hidden = first(given)
        joined = fp.Add()([hidden, again(hidden)])
        if twice:
            joined = again(joined)
        model = fp.Model(given, fp.Dense(10)(joined), seed=3)
        first.trainable = not frozen
        model.compile(fp.SGD(0.05, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.fit(x, y, 512, 6, verbose=0)
        return digest(model)

    for frozen in (False, True):
        for twice in (False, True):
            expected = trained(1, frozen=frozen, twice=twice)
            for threads in (2, 4):
                assert trained(threads, frozen=frozen, twice=twice) == expected, (threads, frozen, twice)


def test_evaluation_does_not_depend_on_the_number_of_threads() -> None:
    x, y = labelled(3000, 64, 10)
    model = classifier((256, 10))
    model.fit(x[:64], y[:64], verbose=0)
    found = set()
    for threads in THREADS:
        fp.set_num_threads(threads)
        found.add((tuple(model.evaluate(x, y)), model.predict(x).tobytes()))
    assert len(found) == 1


# -- B: the batch a row arrives in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_predictions_do_not_depend_on_the_batch(kind: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    x = (3 * rng.standard_normal((530, 261))).astype(dtype)
    layers = [fp.Dense(70, activation=activation(kind)), fp.Dropout(0.5), fp.Dense(33), fp.Activation(activation(kind))]
    model = fp.Sequential([fp.Input((261,)), *layers, fp.Dense(7, activation="softmax")], seed=1, dtype=dtype)
    assert model.backend == "native"
    fp.set_num_threads(2)
    whole = model.predict(x)
    assert np.isfinite(whole).all()
    cuts = [(i, i + 1) for i in (*range(40), 299, 529)]
    cuts += [tuple(sorted(rng.integers(0, 531, 2))) for _ in range(20)] + [(0, 0), (7, 24), (256, 512), (1, 530)]
    for i, j in cuts:
        assert model.predict(x[i:j]).tobytes() == whole[i:j].tobytes(), (i, j)
    assert model.predict(x[::-3]).tobytes() == whole[::-3].tobytes()
    assert model.predict(np.asfortranarray(x)).tobytes() == whole.tobytes()


def test_large_predictions_equal_single_rows() -> None:
    x, _ = labelled(20000, 40, 2)
    model = classifier((300, 3), "gelu")
    model.build((40,))
    fp.set_num_threads(2)
    whole = model.predict(x)
    for i in range(0, 20000, 1237):
        assert model.predict(x[i : i + 1]).tobytes() == whole[i : i + 1].tobytes(), i


@pytest.mark.parametrize("isa", ["generic", "avx2", "avx512", "neon"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_few_rows_have_the_bits_of_many(isa: str, dtype: str) -> None:
    """Products of few rows with large weights take a way of their own."""
    if isa not in instruction_sets():
        pytest.skip(f"{isa} is not usable here")

    def normal(seed: int, *shape: int) -> np.ndarray[Any, Any]:
        return np.random.default_rng(seed).standard_normal(shape).astype(dtype)

    with forced(isa):
        for inputs, outputs in ((530, 700), (2100, 1030), (20, 40000)):
            x, w, b = normal(0, 70, inputs), normal(1, inputs, outputs), normal(2, outputs)
            many = fp.kernels.dense_forward(x, w, b, activation="relu")
            for n in (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17):
                few = fp.kernels.dense_forward(x[3 : 3 + n], w, b, activation="relu")
                np.testing.assert_array_equal(few, many[3 : 3 + n])
            odd = np.asfortranarray(x[:4])  # another layout of x, and columns of w that are no whole registers
            np.testing.assert_array_equal(
                fp.kernels.dense_forward(odd, w[:, 3:], None), fp.kernels.dense_forward(x, w[:, 3:], None)[:4]
            )


# -- C: the instruction set ------------------------------------------------------------------------------------------


def _program(kind: str, loss: str, dtype: str) -> Program:
    """37-29-19-w with the activation after each product; the last brings the output into the loss's domain."""
    last = "linear"
    if loss in ("binary_cross_entropy", "categorical_cross_entropy", "sparse_categorical_cross_entropy"):
        last = "softmax"
    widths, parameters, operations = [37], [], []
    for units in (29, 19, 6):
        first = len(parameters)
        parameters += [Parameter(f"d{first}/kernel", (widths[-1], units)), Parameter(f"d{first}/bias", (units,))]
        act = kind if units != 6 else "linear"
        fused = act if act != "softmax" else "linear"
        widths.append(units)
        operations.append(
            Operation(
                "dense",
                (len(widths) - 2,),
                len(widths) - 1,
                f"d{first}",
                (first, first + 1),
                activation=fused,
                alpha=ALPHA.get(fused, 0.0),
            )
        )
        for extra in [act] if act == "softmax" else ["dropout"] if units == 19 else []:
            widths.append(units)
            values = (len(widths) - 2,), len(widths) - 1
            if extra == "dropout":
                operations.append(Operation("dropout", *values, "drop", rate=0.3, stream=1))
            else:
                operations.append(Operation("activation", *values, "soft", activation="softmax"))
    if last != "linear":
        widths.append(6)
        operations.append(Operation("activation", (len(widths) - 2,), len(widths) - 1, "last", activation=last))
    return Program(dtype, tuple(widths), tuple(parameters), tuple(operations), (len(widths) - 1,))


def _run(isa: str, kind: str, loss: str, dtype: str, steps: int) -> list[np.ndarray]:
    """Parameters and losses after so many steps, trained on this instruction set."""
    rng = np.random.default_rng(11)
    program = _program(kind, loss, dtype)
    x = rng.standard_normal((75, 37)).astype(dtype)
    y = targets_for(loss, rng, 75, 6, dtype)
    weights = rng.random(75).astype(dtype)
    with forced(isa) as native:
        network = native.Network(program)
        for i, parameter in enumerate(program.parameters):
            value = rng.standard_normal(parameter.shape) / (6 if len(parameter.shape) == 2 else 10)
            network.set_parameter(i, value.astype(dtype))
        network.key = 77
        network.set_loss(loss, 0.7)
        network.set_optimizer("sgd", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": 1.0})
        network.set_metrics([("mean_absolute_error", 0.0)] if not loss.startswith("sparse") else [])
        network.set_threads(1)
        done = 0
        while done < steps:
            # 75 rows: two batches of 32 and a remainder.
            assert network.train_steps(x, y, weights, None, 32, 0, 75, 60.0) == 75
            done += 3
        return [*(network.get_parameter(i) for i in range(len(program.parameters))), *network.get_metrics()]


@needs_pair
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_avx2_equals_avx512(loss: str, dtype: str) -> None:
    for kind in ACTIVATIONS:
        a, b = (_run(isa, kind, loss, dtype, STEPS if kind == "gelu" else 30) for isa in PAIR)
        for left, right in zip(a, b, strict=True):
            assert np.isfinite(left).all(), kind
            assert left.tobytes() == right.tobytes(), kind


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [k for k in ELEMENTWISE if k != "step"])
def test_generic_is_close(kind: str, dtype: str) -> None:
    """It multiplies, then adds: roundings differ, and each of 30 steps makes earlier differences a little larger."""
    best = instruction_sets()[0]
    tolerance = {"float32": 2e-3, "float64": 1e-11}[dtype]
    for loss in ("mean_squared_error", "sparse_categorical_cross_entropy_logits"):
        for left, right in zip(*(_run(isa, kind, loss, dtype, 30) for isa in ("generic", best)), strict=True):
            np.testing.assert_allclose(left, right, rtol=tolerance, atol=tolerance)


@needs_pair
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stateless_functions_on_avx2_equal_avx512(dtype: str) -> None:
    rng = np.random.default_rng(2)
    x = (4 * rng.standard_normal((41, 300))).astype(dtype)
    w = rng.standard_normal((300, 45)).astype(dtype)

    def everything(native: Any) -> list[np.ndarray]:
        found = [native.dense_forward(x, w, None, "linear", 0.0, None), native.dense_backward_bias(x, None)]
        for kind in ACTIVATIONS:
            y = native.activation_forward(kind, ALPHA.get(kind, 0.0), x, None)
            found += [y, native.activation_backward(kind, ALPHA.get(kind, 0.0), x, y, None)]
        for loss in LOSSES:
            r = np.random.default_rng(3)
            target, prediction = targets_for(loss, r, 41, 9, dtype), predictions_for(loss, r, 41, 9, dtype)
            found.append(native.loss_forward(loss, 0.6, target, prediction))
            found.append(native.loss_backward(loss, 0.6, target, prediction, None, 0.1, None))
        return found

    results = []
    for isa in PAIR:
        with forced(isa) as native:
            results.append([a.tobytes() for a in everything(native)])
    assert results[0] == results[1]


FORCED = """
import fastperceptron as fp, promises
x, y = promises.labelled(90, 24, 5)
model = promises.classifier((17, 5), "mish", dropout=0.2)
model.fit(x, y, epochs=5, verbose=0)
print(fp.config.get_config()["instruction_set"], promises.digest(model))
"""


@needs_pair
def test_environment_chooses_the_instruction_set(tmp_path: Path) -> None:
    printed = [run_script(tmp_path / "forced.py", FORCED, FASTPERCEPTRON_ISA=isa).split() for isa in PAIR]
    assert [name for name, _ in printed] == list(PAIR)
    assert printed[0][1] == printed[1][1]


@pytest.mark.parametrize("name", ["neon", "avx512", "avx2", "sse9", "AVX512 ", "\u00e9"])
def test_an_instruction_set_that_cannot_be_had_is_an_error(name: str, tmp_path: Path) -> None:
    usable = instruction_sets()
    if name in usable:
        pytest.skip(f"{name} can be had here")
    code = """
import sys
import fastperceptron as fp
try:
    fp.Sequential([fp.Dense(2)], backend=sys.argv[1])
except fp.BackendUnavailableError as error:
    print(error)
"""
    for backend in ("native", "auto"):
        message = run_script(tmp_path / "wrong.py", code, backend, FASTPERCEPTRON_ISA=name, PYTHONUTF8="1")
        assert name.strip() in message
        assert all(isa in message for isa in usable)
    core = importlib.import_module("fastperceptron._core")
    before = core.instruction_set()
    with pytest.raises((fp.BackendUnavailableError, ValueError)) as caught:
        core.set_instruction_set(name)
    assert name in str(caught.value)
    assert core.instruction_set() == before


def test_changing_the_instruction_set_keeps_a_model_usable() -> None:
    """Buffers made for one instruction set are not used with another."""
    x, y = labelled(200, 30, 4)
    model = classifier((50, 4))
    model.fit(x, y, verbose=0)
    expected = model.predict(x)
    for isa in (*instruction_sets(), "auto"):
        with forced(isa):
            np.testing.assert_allclose(model.predict(x), expected, rtol=1e-4, atol=1e-5)
            model.copy().fit(x, y, batch_size=64, verbose=0)
    assert os.environ.get("FASTPERCEPTRON_ISA") or model.predict(x).tobytes() == expected.tobytes()

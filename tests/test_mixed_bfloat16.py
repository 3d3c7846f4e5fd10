"""dtype="mixed_bfloat16": what is rounded and what is not, on every path of this machine and on both backends."""

from __future__ import annotations

import importlib
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import PATHS, WIDENED, Builder, forced, load_backend, make_network, random_parameters
from promises import classifier, digest, labelled, run_script
from pure import BACKENDS, native_only
from reference import rounded

import fastperceptron as fp


def one_neuron(backend: str, dtype: str) -> fp.Sequential:
    model = fp.Sequential([fp.Dense(1, use_bias=False)], dtype=dtype, backend=backend)
    model.compile(fp.SGD(1.0), "mean_squared_error")
    model.build((1,))
    return model


@pytest.mark.parametrize("backend", BACKENDS)
def test_products_really_use_bfloat16(backend: str) -> None:
    """Inputs, weights and gradients that float32 can tell from their neighbours and bfloat16 cannot."""
    fine = np.float32(1 + 2**-9)
    x = np.full((1, 1), fine)
    mixed, full = one_neuron(backend, "mixed_bfloat16"), one_neuron(backend, "float32")
    for model in (mixed, full):
        model.set_weights([np.ones((1, 1), np.float32)])
    assert mixed.predict(x)[0, 0] == 1
    assert full.predict(x)[0, 0] == fine
    for model in (mixed, full):
        model.set_weights([np.full((1, 1), fine)])
    assert mixed.get_weights()[0][0, 0] == fine  # kept in float32 ...
    assert mixed.predict(np.ones((1, 1), np.float32))[0, 0] == 1  # ... and rounded for the product
    assert full.predict(np.ones((1, 1), np.float32))[0, 0] == fine
    # The gradient 2 (y - t) x: y - t is 2^-9 less when y is rounded; x is 1 for the product.
    for model in (mixed, full):
        model.train_on_batch(x, np.zeros((1, 1)))
    assert mixed.get_weights()[0][0, 0] == fine - 2
    assert full.get_weights()[0][0, 0] == np.float32(fine - 2 * np.float32(fine * fine) * fine)
    assert mixed._network is not None
    assert mixed._network.product_path().startswith("bfloat16 ")
    assert full._network is not None
    assert full._network.product_path().startswith("float32 ")


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_input_gradient_uses_bfloat16_too(backend: str) -> None:
    """dz and w are rounded on the way down: seen in the first layer's gradient."""
    fine = np.float32(1 + 2**-9)
    model = fp.Sequential(
        [fp.Dense(1, use_bias=False), fp.Dense(1, use_bias=False)], dtype="mixed_bfloat16", backend=backend
    )
    model.compile(fp.SGD(1.0), "mean_squared_error")
    model.build((1,))
    model.set_weights([np.ones((1, 1)), np.full((1, 1), fine)])
    model.train_on_batch(np.ones((1, 1)), np.full((1, 1), -fine))
    # y = 1; dz = 2 (y + fine) = 4 + 2^-8 becomes 4; w becomes 1; dx = 4.
    assert model.get_weights()[0][0, 0] == 1 - 4
    assert model.get_weights()[1][0, 0] == fine - 4


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_bits_do_not_depend_on_threads_or_batch(path: str) -> None:
    x, y = labelled(331, 45, 7)
    with forced(path):
        digests = set()
        for threads in (1, 2, 3, 4):
            with fp.threads(threads):
                model = classifier((130, 33, 7), "gelu", dtype="mixed_bfloat16", dropout=0.2)
                model.fit(x, y, batch_size=100, epochs=2, verbose=0)
                digests.add(digest(model))
        assert len(digests) == 1
        whole = model.predict(x)
        for begin, end in ((0, 1), (7, 23), (100, 331)):
            assert model.predict(x[begin:end]).tobytes() == whole[begin:end].tobytes()


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_few_rows_through_large_layers(path: str) -> None:
    """Products that a team cuts over rows and columns: the same bits."""
    x, y = labelled(21, 700, 5)
    with forced(path):
        digests = set()
        for threads in (1, 2, 4):
            with fp.threads(threads):
                model = classifier((900, 500, 5), dtype="mixed_bfloat16")
                model.fit(x, y, batch_size=21, epochs=2, verbose=0)
                digests.add((digest(model), model.predict(x[:3]).tobytes()))
        assert len(digests) == 1


@native_only
def test_widened_paths_train_alike() -> None:
    pair = [name for name in ("avx2", "avx512") if name in WIDENED]
    if len(pair) < 2:
        pytest.skip("needs AVX2 and AVX-512")
    x, y = labelled(200, 24, 5)
    digests = set()
    for name in pair:
        with forced(name):
            model = classifier((65, 5), "mish", dtype="mixed_bfloat16")
            model.fit(x, y, epochs=3, verbose=0)
            digests.add(digest(model))
    assert len(digests) == 1


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_whole_runs_agree_with_numpy(path: str) -> None:
    """Rows 4 bytes from a tie may round apart after the first step, so runs are compared by what they learn."""
    x, y = labelled(150, 33, 6)
    weight = np.random.default_rng(5).random(150)
    models = []
    with forced(path):
        for backend in ("numpy", "native"):
            model = classifier((40, 17, 6), "tanh", dtype="mixed_bfloat16", dropout=0.1, backend=backend)
            model.fit(x, y, batch_size=50, epochs=4, sample_weight=weight, verbose=0)
            models.append(model)
        a, b = (model.predict(x) for model in models)
        np.testing.assert_allclose(a, b, rtol=0.02, atol=0.02)
        for one, other in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=0.02, atol=0.005)
        full = classifier((40, 17, 6), "tanh", dropout=0.1)
        full.fit(x, y, batch_size=50, epochs=4, sample_weight=weight, verbose=0)
        assert np.abs(full.predict(x) - b).max() > 1e-5  # another arithmetic


@native_only
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("large", [False, True], ids=["shared kernels", "large kernels, in parts"])
def test_one_step_agrees_with_numpy(path: str, large: bool) -> None:
    """Before rounding can fall apart: gradients and weights of one step, also of shared weights and of values."""
    rng = np.random.default_rng(3)
    builder = Builder(37, "mixed_bfloat16")
    if large:
        value = builder.dense(builder.dense(0, 333, "gelu"), 517, "relu")
    else:
        square = builder.weights(50, 50)
        value = builder.dense(0, 50, "gelu")
        value = builder.dense(builder.dense(value, 50, "relu", parameters=square), 50, "tanh", parameters=square)
    program = builder.program(builder.dense(value, 9))
    parameters = random_parameters(program, rng)
    x, y = rng.standard_normal((70, 37), np.float32), rng.integers(0, 9, 70)
    gradients, weights = [], []
    with forced(path):
        for backend in ("numpy", "native"):
            network = make_network(load_backend(backend), program, parameters)
            network.set_loss("sparse_categorical_cross_entropy_logits", 0.0)
            network.set_optimizer("sgd", {"learning_rate": 1.0, "momentum": 0.9})
            network.load_batch(x, y, None, None, 0, 70)
            network.forward(0, len(program.operations), True)
            network.loss(True)
            network.backward(0, len(program.operations))
            gradients.append([network.get_gradient(i) for i in range(len(program.parameters))])
            # The same step with its updates as the products' epilogues.
            network.train_steps(x, y, None, None, 70, 0, 70, 1e9)
            weights.append([network.get_parameter(i) - p for i, p in enumerate(parameters)])
    for one, other in (*zip(*gradients, strict=True), *zip(*weights, strict=True)):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=0.01 * np.abs(one).max())
        assert np.linalg.norm(one - other) <= 2e-3 * np.linalg.norm(one)


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_memory_made_for_a_large_batch_serves_a_smaller_one(path: str) -> None:
    """Sums over fewer rows may be cut into larger groups."""
    x, y = labelled(4096 + 2656, 784, 10)
    with forced(path):
        digests = set()
        for threads in (1, 2, 4):
            with fp.threads(threads):
                model = classifier((10,), dtype="mixed_bfloat16")
                model.fit(x, y, batch_size=4096, epochs=2, verbose=0)
                digests.add(digest(model))
        assert len(digests) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("training", [False, True])
def test_trace_computes_what_the_step_computes(backend: str, training: bool) -> None:
    x, y = labelled(50, 20, 4)
    model = classifier((33, 18, 4), "silu", dtype="mixed_bfloat16", dropout=0.2, backend=backend)
    model.build((20,))
    before = model.get_weights()
    traced = model.trace(x, y, training=training)
    if not training:
        output = list(traced.layers.values())[-1]["y"]
        np.testing.assert_allclose(output, model.predict(x), rtol=1e-6 if backend == "numpy" else 0)
        return
    model.compile(fp.SGD(1.0), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(x, y)
    assert model._network is not None
    names = [parameter.name for parameter in model._network.program.parameters]
    for name, old, new in zip(names, before, model.get_weights(), strict=True):
        np.testing.assert_allclose(old - new, traced.gradients[name], rtol=1e-3, atol=2e-6, err_msg=name)


@native_only
@pytest.mark.parametrize("path", PATHS)
def test_trace_has_the_bits_of_its_path(path: str) -> None:
    x, y = labelled(150, 70, 4)
    with forced(path):
        model = classifier((33, 18, 4), dtype="mixed_bfloat16")
        model.build((70,))
        traced = model.trace(x, y, training=True)
        assert list(traced.layers.values())[-1]["y"].tobytes() == model.predict(x).tobytes()
        network = model._network
        assert network is not None
        network.load_batch(x, y, None, None, 0, len(x))
        network.forward(0, len(network.program.operations), True)
        network.loss(True)
        network.backward(0, len(network.program.operations))
        for index, parameter in enumerate(network.program.parameters):
            gradient = network.get_gradient(index)
            assert gradient.tobytes() == traced.gradients[parameter.name].tobytes(), parameter.name


@native_only
def test_digits_reach_the_accuracy_of_float32() -> None:
    x, y = fp.datasets.load_digits()
    train, test = (x[:1400] / 16, y[:1400]), (x[1400:] / 16, y[1400:])

    def accuracy(dtype: str, seed: int) -> float:
        model = classifier((64, 10), dtype=dtype, seed=seed)
        model.optimizer.learning_rate = 0.05
        model.fit(*train, batch_size=32, epochs=12, verbose=0)
        return float(model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])

    full = [accuracy("float32", seed) for seed in range(4)]
    for path in PATHS:
        with forced(path):
            mixed = [accuracy("mixed_bfloat16", seed) for seed in range(4)]
        spread = max(np.std(full), 0.005)
        assert abs(np.mean(mixed) - np.mean(full)) < 2 * spread, (path, full, mixed)
    assert np.mean(full) > 0.9


def shifted_digits(first: int, last: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Like MNIST: some of the digits three times, three times as large, at random places of 28 x 28 noisy pixels."""
    rng = np.random.default_rng(seed)
    x, y = fp.datasets.load_digits()
    rows = np.repeat(np.arange(first, last), 3)
    pixels = rng.normal(0, 0.2, (rows.size, 28, 28)).astype(np.float32)
    ink = (x[rows] / 16).reshape(-1, 8, 8).repeat(3, axis=1).repeat(3, axis=2)
    for picture, digit, (down, right) in zip(pixels, ink, rng.integers(1, 4, (rows.size, 2)), strict=True):
        picture[down : down + 24, right : right + 24] += digit
    return pixels.reshape(-1, 784), y[rows]


def accuracies_on_shifted_digits(dtype: str) -> np.ndarray:
    """Of six seeds."""
    train, test = shifted_digits(0, 1400, 0), shifted_digits(1400, 1797, 1)
    found = []
    for seed in range(6):
        model = classifier((128, 10), dtype=dtype, seed=seed)
        model.fit(*train, batch_size=64, epochs=6, verbose=0)
        found.append(model.evaluate(*test, verbose=0, return_dict=True)["accuracy"])
    return np.array(found)


@pytest.fixture(scope="module")
def accuracies_of_float32() -> np.ndarray:
    return accuracies_on_shifted_digits("float32")


@native_only
@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
def test_shifted_digits_reach_the_accuracy_of_float32(path: str, accuracies_of_float32: np.ndarray) -> None:
    with forced(path):
        mixed = accuracies_on_shifted_digits("mixed_bfloat16")
    spread = accuracies_of_float32.std()
    assert abs(mixed.mean() - accuracies_of_float32.mean()) < spread < 0.02, (mixed, accuracies_of_float32)
    assert accuracies_of_float32.mean() > 0.85


# -- state ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_state_is_float32_and_survives(backend: str, tmp_path: Path) -> None:
    x, y = labelled(120, 12, 4)
    model = classifier((20, 4), dtype="mixed_bfloat16", backend=backend)
    model.fit(x, y, epochs=2, verbose=0)
    assert model.dtype == "mixed_bfloat16"
    assert model.predict(x).dtype == np.float32
    assert {a.dtype.name for n, a in model.get_state().items() if n.startswith(("params/", "slots/"))} == {"float32"}
    expected = model.predict(x)
    model.save(tmp_path / "m.fp.safetensors")
    others = [fp.load_model(tmp_path / "m.fp.safetensors", backend=backend), model.copy()]
    others.append(pickle.loads(pickle.dumps(model)))
    for other in others:
        assert other.dtype == "mixed_bfloat16"
        assert other.predict(x).tobytes() == expected.tobytes()
        other.fit(x, y, epochs=2, verbose=0)
    model.fit(x, y, epochs=2, verbose=0)
    assert {digest(other) for other in others} == {digest(model)}  # resuming is never having stopped


@native_only
def test_models_move_between_backends() -> None:
    x, y = labelled(120, 12, 4)
    model = classifier((20, 4), dtype="mixed_bfloat16", backend="numpy")
    model.fit(x, y, epochs=1, verbose=0)
    moved = model.to_backend("native")
    assert digest(moved) == digest(model)
    np.testing.assert_allclose(moved.predict(x), model.predict(x), rtol=0.02, atol=0.01)
    assert moved.to_backend("numpy").predict(x).tobytes() == model.predict(x).tobytes()


@pytest.mark.parametrize("backend", BACKENDS)
def test_written_weights_are_used_at_once(backend: str) -> None:
    x, _ = labelled(40, 30, 4)
    model = classifier((20, 4), dtype="mixed_bfloat16", backend=backend)
    model.build((30,))
    before = model.predict(x)
    weights = [w + 1 for w in model.get_weights()]
    model.set_weights(weights)
    assert [w.tobytes() for w in model.get_weights()] == [w.tobytes() for w in weights]
    after = model.predict(x)
    assert not np.allclose(before, after)
    hidden = rounded(np.maximum(rounded(x) @ rounded(weights[0]) + weights[1], 0))
    np.testing.assert_allclose(after, hidden @ rounded(weights[2]) + weights[3], rtol=0.02, atol=0.05)


class Double(fp.Layer):
    """y = 2 x, in Python."""

    def forward(self, x: Any, training: bool) -> Any:
        return 2 * x, None

    def backward(self, dy: Any, saved: Any) -> Any:
        return 2 * dy, []


@pytest.mark.parametrize("backend", BACKENDS)
def test_python_layers_stand_between(backend: str) -> None:
    """Doubling is exact, so that it can as well be in the next layer's weights."""
    x, y = labelled(64, 20, 4)
    with_layer = fp.Sequential(
        [fp.Dense(16, activation="relu"), Double(), fp.Dense(4)], seed=1, dtype="mixed_bfloat16", backend=backend
    )
    without = fp.Sequential(
        [fp.Dense(16, activation="relu"), fp.Dense(4)], seed=1, dtype="mixed_bfloat16", backend=backend
    )
    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model in (with_layer, without):
        model.compile(fp.SGD(0.1), loss)
        model.build((20,))
    w = with_layer.get_weights()
    without.set_weights([w[0], w[1], 2 * w[2], w[3]])
    np.testing.assert_array_equal(with_layer.predict(x), without.predict(x))
    for model in (with_layer, without):
        model.train_on_batch(x, y)
    np.testing.assert_array_equal(with_layer.get_weights()[0], without.get_weights()[0])


@native_only
def test_an_optimizer_in_python_renews_the_packed_weights() -> None:
    class Plain(fp.Optimizer):
        def update(self, param: Any, grad: Any, slots: Any) -> None:
            param -= np.float32(0.25) * grad

    x, y = labelled(64, 20, 4)
    models = [classifier((16, 4), dtype="mixed_bfloat16", momentum=0.0) for _ in range(2)]
    models[0].compile(fp.SGD(0.25), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    models[1].compile(Plain(0.25), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    for model in models:
        for _ in range(3):
            model.train_on_batch(x, y)
    np.testing.assert_allclose(models[0].predict(x), models[1].predict(x), rtol=1e-4, atol=1e-4)


# -- paths ----------------------------------------------------------------------------------------------------------


@native_only
def test_a_model_follows_the_path_in_force() -> None:
    x, y = labelled(90, 20, 4)
    model = classifier((33, 4), dtype="mixed_bfloat16")
    model.fit(x, y, verbose=0)
    assert model._network is not None
    for path in (*PATHS, "auto"):
        with forced(path):
            expected = model.copy().predict(x)
            assert model.predict(x).tobytes() == expected.tobytes()
            used = importlib.import_module("fastperceptron._core").bfloat16_path()
            assert model._network.product_path() == f"bfloat16 {used}"
            if path != "auto":
                assert used == path
            model.copy().fit(x, y, batch_size=40, verbose=0)


@native_only
def test_many_threads_predict_at_once() -> None:
    x, _ = labelled(300, 40, 4)
    model = classifier((64, 4), dtype="mixed_bfloat16")
    model.build((40,))
    expected = model.predict(x).tobytes()
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            if model.predict(x).tobytes() != expected:
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


FORCED = """
import sys
import fastperceptron as fp
try:
    model = fp.Sequential([fp.Dense(2)], dtype="mixed_bfloat16", backend="native")
    model.build((3,))
    print(model._network.product_path(), fp.config.get_config()["bfloat16_path_reason"])
except fp.BackendUnavailableError as error:
    print("refused:", error)
"""


@native_only
@pytest.mark.parametrize("name", [*PATHS, "amx", "neon"])
def test_the_environment_chooses_the_path(name: str, tmp_path: Path) -> None:
    printed = run_script(tmp_path / "forced.py", FORCED, FASTPERCEPTRON_ISA=name)
    if name in PATHS:
        assert printed.strip() == f"bfloat16 {name} FASTPERCEPTRON_ISA"
    else:
        assert printed.startswith("refused: ")
        assert f"'{name}'" in printed
        assert all(path in printed for path in PATHS)


@native_only
def test_a_path_that_cannot_be_had_changes_nothing() -> None:
    core = importlib.import_module("fastperceptron._core")
    missing = [name for name in ("amx", "avx512_bf16", "neon") if name not in PATHS]
    before = core.bfloat16_path()
    for name in missing:
        with pytest.raises(fp.BackendUnavailableError, match=name):
            core.set_instruction_set(name)
        assert core.bfloat16_path() == before


def test_unknown_dtypes_are_named() -> None:
    with pytest.raises(ValueError, match="float32, float64, mixed_bfloat16; received 'bfloat16'"):
        fp.Sequential([fp.Dense(2)], dtype="bfloat16")

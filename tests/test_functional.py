"""Models that are graphs: several inputs and outputs, skip connections, shared layers, a loss per output, and all that
one does with a model."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pure import BACKENDS

import fastperceptron as fp

N = 60
CROSSENTROPY = fp.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def graph(backend: str | None = None, dtype: str = "float64", **changes: Any) -> fp.Model:
    """Two inputs, a skip connection, a gate, a layer used twice, and two outputs, one of which is read on."""
    text, numbers = fp.Input((6,), name="text"), fp.Input((3,), name="numbers")
    h = fp.Dense(8, activation="tanh", name="first")(fp.Concatenate(name="both")([text, numbers]))
    h = fp.Dropout(0.2)(h)
    shared = fp.Dense(8, activation="gelu", name="shared")
    h = fp.Add(name="skip")([h, shared(h)])
    h = fp.Multiply(name="gate")([shared(h), fp.Activation("sigmoid")(h)])
    price = fp.Dense(2, name="price")(h)
    kind = fp.Dense(4, name="kind")(fp.Concatenate()([h, price]))
    return fp.Model([text, numbers], changes.get("outputs", [price, kind]), seed=3, dtype=dtype, backend=backend)


def data(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(N, 6)), rng.normal(size=(N, 3)).astype(np.float32)]
    y = [rng.normal(size=(N, 2)), rng.integers(0, 4, N)]
    return x, y, [rng.uniform(0.5, 2, N), rng.uniform(0.5, 2, N)]


def compiled(model: fp.Model, **changes: Any) -> fp.Model:
    settings: dict[str, Any] = {
        "loss": ["mse", CROSSENTROPY],
        "metrics": [["mae"], "accuracy"],
        "loss_weights": [0.5, 2.0],
    }
    model.compile(fp.SGD(0.05, momentum=0.9), **(settings | changes))
    return model


def state_of(model: fp.Model) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in model.get_state().items()}


# -- training ---------------------------------------------------------------------------------------------------------


def test_fit_evaluate_predict(backend: str) -> None:
    model = compiled(graph(backend))
    x, y, weights = data()
    history = model.fit(x, y, sample_weight=weights, epochs=4, batch_size=16, validation_split=0.2, verbose=0).history
    names = ["loss", "price_loss", "kind_loss", "price_mae", "kind_accuracy"]
    assert model.metrics_names == names
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    for prefix in ("", "val_"):
        total = 0.5 * np.array(history[f"{prefix}price_loss"]) + 2.0 * np.array(history[f"{prefix}kind_loss"])
        np.testing.assert_allclose(history[f"{prefix}loss"], total, rtol=1e-12)
    assert history["loss"][-1] < history["loss"][0]
    price, kind = model.predict(x)
    assert price.shape == (N, 2)
    assert kind.shape == (N, 4)
    logs = model.evaluate(x, y, return_dict=True)
    assert list(logs) == names
    mse = fp.losses.MeanSquaredError()
    assert logs["price_loss"] == pytest.approx(mse(y[0], price), rel=1e-12)
    assert logs["kind_loss"] == pytest.approx(CROSSENTROPY(y[1], kind), rel=1e-12)
    assert logs["loss"] == pytest.approx(0.5 * mse(y[0], price) + 2 * CROSSENTROPY(y[1], kind), rel=1e-12)
    assert logs["price_mae"] == pytest.approx(np.abs(y[0] - price).mean())
    assert logs["kind_accuracy"] == pytest.approx((kind.argmax(axis=1) == y[1]).mean())
    assert model.evaluate(x, y) == list(logs.values())
    assert model.test_on_batch(x, y) == pytest.approx(list(logs.values()))
    weighted = model.evaluate(x, y, sample_weight=weights, return_dict=True)
    assert weighted["kind_loss"] == pytest.approx(CROSSENTROPY(y[1], kind, weights[1]), rel=1e-12)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
def test_both_backends_train_alike() -> None:
    x, y, weights = data()
    found = []
    for name in BACKENDS:
        model = compiled(graph(name))
        history = model.fit(x, y, sample_weight=weights, epochs=3, batch_size=16, verbose=0)
        found.append([*history.history.values(), *model.get_weights(), *model.predict(x)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_lists_and_dicts_are_the_same(backend: str) -> None:
    x, y, weights = data()
    runs = []
    for by_name in (False, True):
        model = graph(backend)
        if by_name:
            losses = {"kind": CROSSENTROPY, "price": "mse"}
            compiled(model, loss=losses, metrics={"kind": ["accuracy"]}, loss_weights={"kind": 3})
            inputs: Any = {"numbers": x[1], "text": x[0]}
            targets: Any = {"kind": y[1], "price": y[0]}
            each: Any = {"kind": weights[1]}
        else:
            compiled(model, metrics=[None, "accuracy"], loss_weights=(1, 3.0))
            inputs, targets, each = x, y, [None, weights[1]]
        given = (inputs, targets, each)
        history = model.fit(*given[:2], sample_weight=each, epochs=2, verbose=0, validation_data=given)
        model.train_on_batch(inputs, targets, each)
        runs.append((history.history, state_of(model), model.predict(inputs)[1].tobytes()))
    assert runs[0] == runs[1]


def test_what_is_no_list_of_inputs_is_named(backend: str) -> None:
    model = compiled(graph(backend))
    calls: dict[str, Any] = {
        name: getattr(model, name) for name in ("fit", "evaluate", "train_on_batch", "test_on_batch", "trace")
    }
    for name, call in calls.items():
        with pytest.raises(TypeError, match=rf"^{name}: x must be a list of 2 or a dict, for .*; received int"):
            call(5, data()[1])
        with pytest.raises(fp.ShapeError, match=rf"^{name}: x\['text'\] must be a rectangular array"):
            call([[[1.0], [2.0, 3.0]], data()[0][1]], data()[1])


def test_outputs_as_a_dict(backend: str) -> None:
    x = fp.Input((4,))
    h = fp.Dense(3, activation="tanh")(x)
    model = fp.Model(x, {"a": fp.Dense(1)(h), "b": h}, seed=0, backend=backend)
    model.compile("sgd", {"a": "mse"})
    assert model.output_names == ["a", "b"]
    history = model.fit(np.ones((5, 4)), {"a": np.ones(5)}, verbose=0, epochs=1)
    assert list(history.history) == ["loss", "a_loss"]
    out = model.predict(np.ones((5, 4)))
    assert {name: value.shape for name, value in out.items()} == {"a": (5, 1), "b": (5, 3)}


def test_a_loss_and_a_weight_for_all(backend: str) -> None:
    x = fp.Input((4,))
    model = fp.Model(x, [fp.Dense(2)(x), fp.Dense(2)(x)], seed=0, backend=backend)
    model.compile("sgd", "mse", metrics="mae")
    rng = np.random.default_rng(0)
    inputs, y, w = rng.normal(size=(9, 4)), rng.normal(size=(9, 2)), rng.uniform(1, 2, 9)
    logs = model.evaluate(inputs, [y, y], sample_weight=w, return_dict=True)
    assert list(logs) == ["loss", "dense_loss", "dense_1_loss", "dense_mae", "dense_1_mae"]
    out = model.predict(inputs)
    assert logs["dense_1_loss"] == pytest.approx(fp.losses.MeanSquaredError()(y, out[1], w), rel=1e-6)


def test_the_same_value_as_output_twice(backend: str) -> None:
    """Two targets pull at one prediction: by hand, d/dw [(wx - 1)^2 + |wx - 5|] at w = 1, x = 2 is (2 - 1) 2."""
    x = fp.Input((1,))
    y = fp.Dense(1, use_bias=False, kernel_initializer=np.array([[1.0]]), name="y")(x)
    model = fp.Model(x, [y, y], backend=backend)
    assert model.output_names == ["y", "y_1"]
    model.compile(fp.SGD(0.1), ["mse", "mae"])
    assert model.train_on_batch([[2.0]], [[[1.0]], [[5.0]]]) == [4.0, 1.0, 3.0]
    np.testing.assert_allclose(model.get_weights()[0], 1.0 - 0.1 * 2.0, rtol=1e-6)


def test_outputs_have_the_whole_names_of_their_layers(backend: str) -> None:
    x, twice = fp.Input((2,)), fp.Dense(2, name="price:usd")
    h = twice(x)
    model = fp.Model(x, [h, twice(h), fp.Dense(1, name="price:eur")(h)], backend=backend)
    assert model.output_names == ["price:usd", "price:usd_1", "price:eur"]


def test_a_skip_connection_by_hand(backend: str) -> None:
    """y = x + w x; mse against 0 with x = 3, w = 1: d/dw = 2 y x = 36."""
    x = fp.Input((1,))
    dense = fp.Dense(1, use_bias=False, kernel_initializer=np.array([[1.0]]))
    model = fp.Model(x, fp.Add()([x, dense(x)]), backend=backend)
    model.compile(fp.SGD(0.01), "mse")
    assert model.train_on_batch([[3.0]], [[0.0]]) == 36.0
    np.testing.assert_allclose(model.get_weights()[0], 1 - 0.36, rtol=1e-6)


def test_inputs_of_any_shape_and_layout(backend: str) -> None:
    image, vector = fp.Input((2, 3)), fp.Input((1,))
    flat = fp.Flatten()(image)
    model = fp.Model([image, vector], [fp.Dense(2)(fp.Concatenate()([flat, vector])), image], seed=0, backend=backend)
    assert model.input_names == ["input", "input_1"]
    assert model.input_shape == [(2, 3), (1,)]
    assert model.output_shape == [(2,), (2, 3)]
    x = np.arange(24, dtype=np.int16).reshape(4, 3, 2).transpose(0, 2, 1)
    v = np.array([1, 2, 3, 4], ">f4")
    y, same = model.predict([x, v])
    np.testing.assert_array_equal(same, x)
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(y, np.hstack([x.reshape(4, 6), v[:, None]]) @ kernel + bias, rtol=1e-5)


# -- parts written in Python ------------------------------------------------------------------------------------------


class Squared(fp.Loss):
    def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> tuple[Any, Any]:
        error = y_pred - y_true
        return np.square(error).mean(axis=1), 2 * error * weights[:, None] / error.size


class Absolute(fp.Metric):
    def reset_state(self) -> None:
        self.sum = self.count = 0.0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        w = np.ones(len(y_true)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        self.sum += float(w @ np.abs(y_true - y_pred).mean(axis=1))
        self.count += float(w.sum())

    def result(self) -> float:
        return self.sum / self.count


class Sum(fp.Layer):
    """Add, written in Python."""

    takes_list = True

    def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        return sum(x[1:], x[0]), len(x)

    def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
        return [dy] * saved, []


class Momentum(fp.Optimizer):
    """SGD with momentum, written in Python."""

    slot_names = ("momentum",)

    def update(self, param: Any, grad: Any, slots: Any) -> None:
        slots["momentum"][...] = 0.9 * slots["momentum"] - self.learning_rate * grad
        param += slots["momentum"]


def two_outputs(backend: str, join: fp.Layer, dtype: str = "float64") -> fp.Model:
    x = fp.Input((4,))
    h = fp.Dense(5, activation="tanh", learning_rate_multiplier=0.25)(x)
    h = join([h, fp.Dense(5, activation="gelu")(h), fp.Dense(5)(x)])
    return fp.Model(x, [h, fp.Dense(2, name="y")(h)], seed=1, dtype=dtype, backend=backend)


@pytest.mark.parametrize("part", ["loss", "metric", "layer", "optimizer", "all"])
def test_parts_in_python_do_what_the_native_ones_do(backend: str, part: str) -> None:
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(30, 4)), [rng.normal(size=(30, 5)), rng.normal(size=(30, 2))], rng.uniform(1, 2, 30)
    found = []
    for python in (False, True):
        own = {name: python and part in (name, "all") for name in ("loss", "metric", "layer", "optimizer")}
        model = two_outputs(backend, Sum(name="join") if own["layer"] else fp.Add(name="join"))
        model.compile(
            Momentum(0.005) if own["optimizer"] else fp.SGD(0.005, momentum=0.9),
            ["mse", Squared() if own["loss"] else "mse"],
            [None, [Absolute("error") if own["metric"] else fp.metrics.MeanAbsoluteError("error")]],
            loss_weights=[0.3, 2.0],
        )
        history = model.fit(x, y, sample_weight=[None, w], epochs=3, batch_size=8, verbose=0, validation_split=0.3)
        found.append([*history.history.items(), *enumerate(model.get_weights()), *enumerate(model.predict(x))])
    for (a_name, a), (b_name, b) in zip(*found, strict=True):
        assert a_name == b_name
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_branch_without_a_loss_is_not_run_backwards(backend: str) -> None:
    calls = []

    class Watched(Sum):
        def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
            calls.append(self.name)
            return super().backward(dy, saved)

    x = fp.Input((3,))
    a, b = fp.Dense(3)(x), fp.Dense(3)(x)
    idle, busy, frozen = Watched(name="idle")([a, b]), Watched(name="busy")([a, b]), Watched(name="frozen")([x, x])
    model = fp.Model(x, [idle, fp.Dense(1)(fp.Add()([busy, frozen]))], seed=0, backend=backend)
    model.compile("sgd", [None, "mse"])
    model.train_on_batch(np.ones((4, 3)), [None, np.ones(4)])
    assert calls == ["busy"]


# -- learning-rate multipliers and freezing ---------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [fp.SGD(0.1), Momentum(0.1)])
def test_learning_rate_multiplier(backend: str, optimizer: Any) -> None:
    """One step moves each layer by its factor times what it would move."""
    x, y = np.ones((4, 3)), np.ones((4, 2))
    steps = []
    for factor in (1.0, 0.25):
        layers = [fp.Input((3,)), fp.Dense(4, learning_rate_multiplier=factor), fp.Dense(2)]
        model = fp.Sequential(layers, seed=0, dtype="float64", backend=backend)
        model.compile(copy.deepcopy(optimizer), "mse")
        before = model.get_weights()
        model.train_on_batch(x, y)
        steps.append([after - was for after, was in zip(model.get_weights(), before, strict=True)])
        assert model.optimizer is not None
        assert model.optimizer.learning_rate == 0.1
    for place, (whole, part) in enumerate(zip(*steps, strict=True)):
        np.testing.assert_allclose(part, whole * (0.25 if place < 2 else 1.0), rtol=1e-9, atol=1e-15)
    model.layers[0].learning_rate_multiplier = 0  # between calls
    before = model.get_weights()
    if isinstance(optimizer, fp.SGD):
        model.train_on_batch(x, y)
        np.testing.assert_array_equal(model.get_weights()[0], before[0])
        assert not np.array_equal(model.get_weights()[2], before[2])


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_bad_multipliers(bad: float) -> None:
    with pytest.raises(ValueError, match="learning_rate_multiplier"):
        fp.Dense(1, learning_rate_multiplier=bad)
    with pytest.raises(TypeError, match="learning_rate_multiplier"):
        fp.Dense(1).learning_rate_multiplier = "1"  # type: ignore[assignment]


def test_frozen_layers_of_a_graph_stay(backend: str) -> None:
    model = compiled(graph(backend))
    model.get_layer("shared").trainable = False
    before = model.get_layer("shared").get_weights()
    model.fit(*data()[:2], epochs=2, verbose=0)
    for a, b in zip(model.get_layer("shared").get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


# -- files, copies, looking inside ------------------------------------------------------------------------------------


def test_saving_and_resuming_gives_the_same_bits(backend: str, tmp_path: Path) -> None:
    x, y, weights = data()
    whole, half = compiled(graph(backend, "float32")), compiled(graph(backend, "float32"))
    for model in (whole, half):
        model.get_layer("first").learning_rate_multiplier = 0.5
    whole.fit(x, y, sample_weight=weights, epochs=4, batch_size=16, verbose=0)
    half.fit(x, y, sample_weight=weights, epochs=2, batch_size=16, verbose=0)
    path = tmp_path / "graph.fp.safetensors"
    half.save(path)
    twins = {
        "file": fp.load_model(path, backend=backend),
        "pickle": pickle.loads(pickle.dumps(half)),
        "copy": half.copy(),
    }
    for name, twin in twins.items():
        assert twin.output_names == ["price", "kind"], name
        assert twin.get_layer("first").learning_rate_multiplier == 0.5
        twin.fit(x, y, sample_weight=weights, epochs=2, batch_size=16, verbose=0)
        assert state_of(twin) == state_of(whole), name
        assert twin.get_config() == whole.get_config(), name
        assert twin.metrics_names == whole.metrics_names
    half.save(tmp_path / "again")
    fp.load_model(path).save(tmp_path / "loaded")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "loaded").read_bytes() == path.read_bytes()


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
def test_moving_to_another_backend() -> None:
    x, y, _ = data()
    model = compiled(graph("native"))
    model.fit(x, y, epochs=1, verbose=0)
    before = model.predict(x)
    state = state_of(model)
    model.to_backend("numpy")
    assert state_of(model) == state
    for a, b in zip(model.predict(x), before, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_from_config_makes_the_same_structure(backend: str) -> None:
    model = graph(backend, "float32")
    again = fp.Model.from_config(model.get_config(), backend=backend)
    assert again.get_config() == model.get_config()
    assert [a.shape for a in again.get_weights()] == [a.shape for a in model.get_weights()]
    keyed = two_outputs(backend, Sum())
    assert fp.Model.from_config(keyed.get_config(), {"Sum": Sum}).get_config() == keyed.get_config()


def test_a_chain_is_written_as_before(backend: str) -> None:
    """Files of chains have no new fields, and old files have none."""
    x = fp.Input((4,))
    config = fp.Model(x, fp.Dense(1)(fp.Dense(2)(x)), backend=backend).get_config()
    assert set(config) == {"class", "name", "dtype", "seed", "input_shape", "layers", "calls"}
    assert config["calls"] == [0, 1]


def bad_configs() -> list[tuple[str, Any]]:
    return [
        ("before it", lambda c: c["connections"].__setitem__(0, [99])),
        ("before it", lambda c: c["connections"].__setitem__(1, [0, 1])),
        ("before it", lambda c: c["connections"].__setitem__(0, [-1, 0])),
        ("before it", lambda c: c["connections"].__setitem__(0, [0.5])),
        ("for each of the calls", lambda c: c["connections"].pop()),
        ("expected outputs", lambda c: c.update(outputs=[99])),
        ("expected outputs", lambda c: c.update(outputs=[])),
        ("names of inputs", lambda c: c["inputs"].append(c["inputs"][0])),
        ("expected inputs", lambda c: c.update(inputs=[])),
        ("must be positive", lambda c: c["inputs"][0].update(shape=[-4])),
        ("name for each", lambda c: c.update(output_keys=["a"])),
        ("name for each", lambda c: c.update(output_keys=["a", "a"])),
        ("calls must use", lambda c: c["calls"].__setitem__(0, False)),
        ("of one shape|rows of shape", lambda c: c["inputs"][0].update(shape=[7])),
        ("learning_rate_multiplier", lambda c: c["layers"][0].update(learning_rate_multiplier=-1)),
    ]


@pytest.mark.parametrize("place", range(len(bad_configs())))
def test_bad_configurations(place: int) -> None:
    message, change = bad_configs()[place]
    config = copy.deepcopy(graph().get_config())
    if "of one shape" in message:  # the skip connection no longer fits
        config["connections"][2:] = [[0] if len(nodes) == 1 else nodes for nodes in config["connections"][2:]]
    change(config)
    with pytest.raises((ValueError, TypeError), match=message):
        fp.Model.from_config(config)


def test_state_names() -> None:
    names = list(compiled(graph()).get_state())
    assert "params/shared/kernel" in names
    assert "slots/momentum/kind/bias" in names
    assert len(names) == len(set(names)) == 2 * 8 + 4


def test_states_of_a_layer_in_python(backend: str, tmp_path: Path) -> None:
    class Center(fp.Layer):
        def build(self, input_shape: Any) -> None:
            self.mean = self.add_weight("mean", input_shape, "zeros", trainable=False)
            self.gain = self.add_weight("gain", input_shape, "ones")

        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            if training:
                self.seen = x.mean(axis=0)
            return (x - self.mean.value) * self.gain.value, x

        def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
            return dy * self.gain.value, {"gain": (dy * (saved - self.mean.value)).sum(axis=0)}

    model = fp.Sequential([fp.Input((3,)), Center(), fp.Dense(1)], seed=0, backend=backend)
    model.compile(fp.SGD(0.1, momentum=0.5), "mse")
    model.layers[0].mean.assign([1.0, 2.0, 3.0])  # type: ignore[attr-defined]
    model.fit(np.ones((8, 3)), np.ones(8), epochs=2, verbose=0)
    state = model.get_state()
    assert "state/center/mean" in state
    assert "slots/momentum/center/gain" in state
    assert "slots/momentum/center/mean" not in state
    assert model._network is not None
    assert [p.name for p in model._network.program.states] == ["center/mean"]
    np.testing.assert_array_equal(state["state/center/mean"], [1, 2, 3])
    model.save(tmp_path / "model")
    again = fp.load_model(tmp_path / "model", backend=backend, custom_objects={"Center": Center})
    assert state_of(again) == state_of(model)
    assert again.count_params() == model.count_params() == 3 + 3 + 3 + 1


def test_trace_of_a_graph(backend: str) -> None:
    """The sum over paths, and a step of plain SGD from it."""
    model = graph(backend)
    model.compile(fp.SGD(0.1), ["mse", CROSSENTROPY], loss_weights=[0.5, 2.0])
    x, y, weights = data()
    trace = model.trace(x, y, weights)
    assert list(trace)[:3] == ["both", "first", "dropout"]
    assert "shared:2" in trace
    np.testing.assert_array_equal(trace["both", "x2"], x[1])
    skip = trace["skip"]
    np.testing.assert_array_equal(skip["dx1"], skip["dy"])
    np.testing.assert_allclose(trace["dropout", "dy"], skip["dx1"] + trace["shared", "dx"], rtol=1e-12, atol=1e-15)
    assert set(trace.losses) == {"price", "kind"}  # type: ignore[arg-type]
    text = str(trace)
    assert "price losses" in text
    assert "cost" in text
    names = [f"{weight.layer}/{weight.name}" for weight in model.weights]
    before = model.get_weights()
    cost = model.train_on_batch(x, y, weights, return_dict=True)["loss"]
    assert trace.cost == pytest.approx(cost, rel=1e-12)
    for name, was, now in zip(names, before, model.get_weights(), strict=True):
        np.testing.assert_allclose(now, was - 0.1 * trace.gradients[name], rtol=1e-9, atol=1e-13)
    assert model.trace(x).cost is None


def test_summary_shows_connections() -> None:
    lines: list[str] = []
    model = graph()
    model.summary(print_fn=lines.append)
    text = lines[0]
    assert "Connected to" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert rows["text:"].split()[1:] == ["(n,", "6)"]
    assert rows["skip"].endswith("dropout, shared")
    assert rows["gate"].endswith("shared:2, activation")
    assert rows["shared:2"].split()[-2:] == ["(shared)", "skip"]
    assert rows["Outputs:"] == "Outputs: price, kind"
    total = sum(weight.size for weight in model.weights)
    assert f"Parameters in total: {total:,}" in text


def test_callbacks_and_early_stopping_by_output(backend: str) -> None:
    model = compiled(graph(backend))
    seen: list[Any] = []

    class Watch(fp.Callback):
        def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append([part.shape for part in logs["outputs"]])

    stop = fp.EarlyStopping(monitor="kind_loss", patience=0, min_delta=1e9)
    history = model.fit(*data()[:2], epochs=9, verbose=0, callbacks=[stop])
    assert len(history.history["loss"]) == 2
    model.predict(data()[0], batch_size=40, callbacks=[Watch()])
    assert seen == [[(40, 2), (40, 4)], [(20, 2), (20, 4)]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_predictors_of_graphs(backend: str, dtype: str) -> None:
    """One input and one output: joins and all. Several: see test_predictors.py."""
    x = fp.Input((5,))
    h = fp.Dense(6, activation="relu")(x)
    h = fp.Multiply()([h, fp.Dense(6)(h), h])
    model = fp.Model(x, fp.Dense(2)(fp.Concatenate()([h, x, h])), seed=0, dtype=dtype, backend=backend)
    rows = np.random.default_rng(0).normal(size=(9, 5)).astype(dtype)
    expected = model.predict(rows)
    # NumPy's products depend on the batch.
    room = 0 if backend == "native" else 1e-5
    np.testing.assert_allclose(model.predictor()(rows), expected, rtol=room, atol=room)
    np.testing.assert_allclose(model.predict_one(rows[3]), expected[3], rtol=room, atol=room)
    several = graph(backend)
    with pytest.raises(TypeError, match="predictor: x must be a list of 2 or a dict"):
        several.predictor()(rows)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs both backends")
def test_graphs_in_bfloat16(tmp_path: Path) -> None:
    """Both backends round the same operands; sums of a few hundred terms differ by 1e-6, which rounding may turn into a
    step of 2^-8 of one operand: the weights of a few steps agree within 1e-3."""
    x, y, weights = data()
    found = []
    for name in BACKENDS:
        model = compiled(graph(name, "mixed_bfloat16"))
        model.fit(x, y, sample_weight=weights, epochs=2, batch_size=16, verbose=0)
        found.append([*model.get_weights(), *model.predict(x)])
        model.save(tmp_path / name)
        for a, b in zip(fp.load_model(tmp_path / name, backend=name).predict(x), model.predict(x), strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(*found, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-3 * max(1.0, float(np.abs(b).max())))


def test_deep_graphs_need_no_recursion() -> None:
    x = fp.Input((2,))
    h: Any = x
    dense = fp.Dense(2, kernel_initializer="zeros")
    for _ in range(1500):
        h = fp.Add()([h, dense(h)])
    model = fp.Model(x, h, seed=0)
    np.testing.assert_array_equal(model.predict([[1.0, 2.0]]), [[1.0, 2.0]])


# -- errors -----------------------------------------------------------------------------------------------------------


def test_structures_that_do_not_fit() -> None:
    a, b = fp.Input((3,)), fp.Input((4,))
    for layer in (fp.Add(), fp.Multiply()):
        with pytest.raises(fp.ShapeError, match=r"one shape; received \('n', 3\), \('n', 4\)"):
            layer([a, b])
    with pytest.raises(fp.ShapeError, match="Flatten before"):
        fp.Concatenate()([fp.Input((2, 2)), a])
    with pytest.raises(ValueError, match="axis must be"):
        fp.Concatenate(axis=0)
    with pytest.raises(TypeError, match="expected one value"):
        fp.Dense(2)([a, b])
    with pytest.raises(TypeError, match="expected a list of values"):
        fp.Add()(a)
    with pytest.raises(TypeError, match="expected a list of arrays"):
        fp.Add()(np.ones((2, 2)))
    with pytest.raises(ValueError, match="received values that are not connected"):
        fp.Model(a, fp.Concatenate()([a, b]))
    with pytest.raises(ValueError, match="every input must lead to an output"):
        fp.Model([a, b], fp.Dense(1)(a))
    with pytest.raises(ValueError, match="received one twice"):
        fp.Model([a, a], fp.Dense(1)(a))
    with pytest.raises(TypeError, match="inputs made by Input"):
        fp.Model(fp.Dense(2)(a), fp.Dense(1)(a))
    with pytest.raises(TypeError, match="names of outputs"):
        fp.Model(a, {1: fp.Dense(1)(a)})
    c, d = fp.Input((1,), name="c"), fp.Input((1,), name="c")
    both = fp.Add()([c, d])
    with pytest.raises(ValueError, match="names of inputs must be unique"):
        fp.Model([c, d], both)
    with pytest.raises(ValueError, match="without '/'"):
        fp.Input((1,), name="a/b")
    with pytest.raises(ValueError, match="takes several values"):
        fp.Sequential([fp.Input((3,)), fp.Add()])
    shared = fp.Add()
    shared([a, a])
    with pytest.raises(fp.ShapeError, match="built for rows of shape"):
        shared([a, a, a])


def test_compile_errors(backend: str) -> None:
    model = graph(backend)

    def refused(message: str, error: type[Exception] = ValueError, **settings: Any) -> None:
        with pytest.raises(error, match=message):
            compiled(model, **settings)
        assert model.loss is None

    refused("losses must be 2, for price, kind; received 3", loss=["mse"] * 3)
    refused("must be for price, kind; received 'cost'", loss={"cost": "mse"})
    refused("for one output at least", loss=[None, None])
    refused("must be for price, kind; received 'x'", metrics={"x": "mse"})
    refused("metrics must be 2", metrics=["mse", "mse", "mse"])
    refused("must be names or Metrics", TypeError, metrics=[3, None])
    refused("loss_weights must be finite", loss_weights=[1, float("nan")])
    refused("loss_weights must be a list of 2 or a dict", TypeError, loss_weights=3)
    refused("needs class labels", metrics=["sparse_categorical_accuracy", None])
    mae = fp.metrics.MeanAbsoluteError()
    refused("a Metric of its own", loss="mse", metrics=[mae, mae])
    refused("must differ", metrics=[["mae", "mae"], None])
    refused("expected one of", loss=["mse", "nonsense"])


def test_data_errors_change_nothing(backend: str) -> None:
    model = compiled(graph(backend))
    x, y, weights = data()
    before = state_of(model)

    def refused(message: str, *given: Any, error: type[Exception] = ValueError, **more: Any) -> None:
        calls: list[Any] = [model.train_on_batch, model.fit, *([] if "class_weight" in more else [model.evaluate])]
        for call in calls:
            with pytest.raises(error, match=message):
                call(*given, **more)
        assert state_of(model) == before

    refused("x must be a list of 2 or a dict, for text, numbers; received ndarray", x[0], y, error=TypeError)
    refused("x must be 2, for text, numbers; received 3", [*x, x[0]], y)
    refused("x must be for text, numbers; received 'words'", {"words": x[0]}, y)
    refused(r"x\['numbers'\] must be given", {"text": x[0]}, y)
    refused(
        r"x\['numbers'\] must have as many rows as there are samples, 60; received 59",
        [x[0], x[1][:-1]],
        y,
        error=fp.ShapeError,
    )
    refused(r"x\['text'\] must have shape \(n, 6\); received \(60, 3\)", x[::-1], y, error=fp.ShapeError)
    refused("y must be a list of 2", x, y[0], error=TypeError)
    refused("y must be 2, for price, kind; received 1", x, y[:1])
    refused(r"y\['kind'\] must be given", x, {"price": y[0]})
    refused(r"y\['kind'\] must hold labels from 0 to 3", x, [y[0], y[1] + 1])
    refused(r"y\['price'\] must have shape \(n, 2\)", x, [y[1], y[1]], error=fp.ShapeError)
    refused(r"sample_weight\['price'\]", x, y, sample_weight=[weights[0][1:], None])
    refused("sample_weight must be 2", x, y, sample_weight=[weights[0]] * 3)
    refused("class_weight needs a model of one output", x, y, class_weight={0: 2.0})
    with pytest.raises(TypeError, match="x must be a list of 2"):
        model.predict(x[0])


@pytest.mark.parametrize("join", [fp.Add, fp.Multiply, fp.Concatenate])
def test_a_list_of_one_value(backend: str, tmp_path: Path, join: Any) -> None:
    """Such a model is no chain, although each call is on the one before it."""
    x = fp.Input((4,))
    model = fp.Model(x, fp.Dense(2)(join()([fp.Dense(3)(x)])), seed=0, backend=backend)
    model.compile("sgd", "mse")
    rows = np.ones((5, 4), np.float32)
    model.fit(rows, np.ones((5, 2)), verbose=0)
    model.save(tmp_path / "m")
    for again in (fp.load_model(tmp_path / "m", backend=backend), model.copy()):
        np.testing.assert_array_equal(again.predict(rows), model.predict(rows))
    np.testing.assert_allclose(model.predictor()(rows), model.predict(rows), rtol=1e-6)
    assert fp.Model.from_config(model.get_config()).get_config() == model.get_config()
    model.profile(rows, np.ones((5, 2)), seconds=0.01)


@pytest.mark.parametrize("join", [fp.Add, fp.Multiply, fp.Concatenate])
def test_joins_of_arrays_need_as_many_rows_of_each(join: Any) -> None:
    layer = join(name="join")
    with pytest.raises(fp.ShapeError, match="join: x must have as many rows as there are samples, 4; received 1"):
        layer([np.ones((4, 3)), np.ones((1, 3))])
    assert not layer.built


def test_uses_of_a_layer_have_no_name_of_an_input() -> None:
    x, layer = fp.Input((3,), name="a:2"), fp.Dense(3, name="a")
    model = fp.Model(x, fp.Add()([layer(x), layer(layer(x))]), seed=0)
    assert model._graph is not None
    assert model._graph.structure.node_names() == ["a:2", "a", "a:3", "a:4", "add"]


def test_the_only_input_may_come_by_name_before_the_model_is_built() -> None:
    model = fp.Sequential([fp.Dense(2)], seed=0)
    model.compile("sgd", "mse")
    model.fit({"input": np.ones((4, 3))}, np.ones((4, 2)), verbose=0)
    assert model.predict({"input": np.ones((4, 3))}).shape == (4, 2)

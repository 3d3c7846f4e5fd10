"""Files, copies, pickles, configurations and moves of models."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_examples import (
    CUSTOM,
    MyDense,
    MyMSE,
    MySGD,
    MyTanh,
    classification,
    classifier,
    custom_model,
    regression,
    same_state,
    trained,
)
from conftest import BACKENDS

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


def test_resume_from_a_file_bit_for_bit(tmp_path: Path) -> None:
    x, y = classification()
    options: dict[str, Any] = {"batch_size": 16, "verbose": 0, "validation_split": 0.2}
    whole, part = classifier(), classifier()
    long = whole.fit(x, y, epochs=5, **options).history
    first = part.fit(x, y, epochs=2, **options).history
    part.save(tmp_path / "m")
    again = fp.load_model(tmp_path / "m")
    second = again.fit(x, y, epochs=3, **options).history
    assert same_state(whole, again)
    assert {name: first[name] + second[name] for name in first} == long
    assert type(again) is fp.Sequential


def test_every_way_of_copying_gives_the_same_future(tmp_path: Path) -> None:
    x, y = classification()
    model = trained()
    model.metadata["classes"] = ["a", "b", "c"]
    model.save(tmp_path / "m")
    copies = [
        model.copy(),
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        fp.load_model(tmp_path / "m"),
        fp.Model.load(tmp_path / "m"),
    ]
    frozen = model.get_state()
    for twin in copies:
        assert same_state(model, twin)
        assert twin.metadata == {"classes": ["a", "b", "c"]}
        twin.fit(x, y, epochs=1, verbose=0)
    assert all(frozen[key].tobytes() == value.tobytes() for key, value in model.get_state().items())
    model.fit(x, y, epochs=1, verbose=0)
    assert all(same_state(model, twin) for twin in copies)


def test_functional_models_survive_files(tmp_path: Path) -> None:
    inputs = fp.Input((2, 2))
    shared = fp.Dense(4, fp.activations.leaky_relu.with_alpha(0.3), name="s", use_bias=False)
    model = fp.Model(inputs, fp.Dense(1)(shared(shared(fp.Flatten()(inputs)))), seed=9, dtype="float64", name="f")
    shared.trainable = False
    model.save(tmp_path / "m")
    again = fp.load_model(tmp_path / "m")
    assert type(again) is fp.Model
    assert (again.name, again.dtype, again.input_shape) == ("f", "float64", (2, 2))
    assert again.get_config() == model.get_config()
    assert again.get_layer("s").trainable is False
    assert again.get_layer("s").activation.alpha == 0.3  # type: ignore[attr-defined]
    x = np.random.default_rng(0).normal(size=(5, 2, 2))
    assert again.predict(x).tobytes() == model.predict(x).tobytes()


def test_code_of_ones_own_is_named_not_stored(tmp_path: Path) -> None:
    x, y = regression()
    model = custom_model()
    model.save(tmp_path / "m")
    with pytest.raises(fp.ModelFormatError, match="custom_objects; received 'MyDense'"):
        fp.load_model(tmp_path / "m")
    for wrong in (["MyDense"], {"MyDense": "MyDense"}):
        for make in (
            lambda objects: fp.load_model(tmp_path / "m", custom_objects=objects),
            lambda objects: fp.Model.from_config(model.get_config(), objects),
        ):
            with pytest.raises(TypeError, match=r"custom_objects must map names to classes; received (list|str)"):
                make(wrong)
    again = fp.load_model(tmp_path / "m", custom_objects=CUSTOM)
    twins = [again, model.copy(), pickle.loads(pickle.dumps(model))]
    model.fit(x, y, epochs=1, verbose=0)
    for twin in twins:
        twin.fit(x, y, epochs=1, verbose=0)
        assert same_state(model, twin)
    assert "slots/velocity/my_dense/kernel" in model.get_state()


class Summed(fp.Loss):
    def __init__(self, parts: Any) -> None:
        self.parts = parts

    def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
        found = [part.value_and_grad(y_true, y_pred, weights) for part in self.parts]
        return sum(losses for losses, _ in found), sum(dy for _, dy in found)


class Doubled(fp.Initializer):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def sample(self, shape: Any, key: int, step: int) -> Any:
        return 2 * self.inner.sample(shape, key, step)


def test_code_of_ones_own_may_be_within_other_code_of_ones_own() -> None:
    class Tens(fp.Initializer):
        def sample(self, shape: Any, key: int, step: int) -> Any:
            return np.full(shape, 10.0)

    x, y = regression()
    model = fp.Sequential([fp.Input((5,)), fp.Dense(1, kernel_initializer=Doubled(Doubled(Tens())))], seed=0)
    model.compile("sgd", Summed([MyMSE(), Summed([fp.losses.Huber(), MyMSE()])]))
    twin = model.copy()
    for each in (model, twin):
        each.fit(x, y, verbose=0)
    assert same_state(model, twin)


class Reported(fp.Metric):
    """The mean of a loss."""

    def __init__(self, loss: Any, name: str | None = None) -> None:
        super().__init__(name)
        self.loss = loss

    def reset_state(self) -> None:
        self.losses: list[float] = []

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.losses += self.loss.per_sample(y_true, y_pred).tolist()

    def result(self) -> float:
        return float(np.mean(self.losses))


def test_code_of_ones_own_may_hold_what_is_of_another_kind(tmp_path: Path) -> None:
    x, y = regression()
    model = fp.Sequential([fp.Input((5,)), fp.Dense(1)], seed=0)
    model.compile("sgd", "mse", metrics=[Reported(fp.losses.Huber(0.5))])
    model.save(tmp_path / "m")
    for twin in (model.copy(), fp.load_model(tmp_path / "m", custom_objects={"Reported": Reported})):
        assert twin.evaluate(x, y) == model.evaluate(x, y)
    model.compile("sgd", "mse", metrics=[Reported(fp.losses.MeanSquaredError())])  # there is such a metric too
    for use in (model.copy, lambda: model.save(tmp_path / "n")):
        with pytest.raises(ValueError, match=r"two called MeanSquaredError, of fastperceptron\.metrics and .*\.losses"):
            use()
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("sequential", [True, False])
def test_frozen_weights_stay_frozen_in_copies(sequential: bool, tmp_path: Path) -> None:
    x, y = regression()
    model: fp.Model = custom_model()
    if not sequential:
        inputs = fp.Input((5,))
        model = fp.Model(inputs, fp.Add()([fp.Dense(1)(fp.Dense(6)(inputs)), MyDense(1)(inputs)]), seed=5)
        model.compile(MySGD(0.05), MyMSE())
    assert all("trainable_weights" not in entry for entry in model.get_config()["layers"])
    frozen = [model.get_layer("dense").weights[0], model.get_layer("my_dense").weights[1]]
    for weight in frozen:
        weight.trainable = False
    model.save(tmp_path / "m")
    twins = [model.copy(), pickle.loads(pickle.dumps(model)), fp.load_model(tmp_path / "m", custom_objects=CUSTOM)]
    before = [weight.value for weight in frozen]
    model.fit(x, y, epochs=1, verbose=0)
    np.testing.assert_equal([weight.value for weight in frozen], before)
    for twin in twins:
        assert twin.get_config() == model.get_config()
        assert [weight.trainable for weight in twin.weights] == [weight.trainable for weight in model.weights]
        twin.fit(x, y, epochs=1, verbose=0)
        assert same_state(model, twin)
    frozen[0].trainable = True
    assert twins[0].get_layer("dense").weights[0].trainable is False


class Noted(fp.Sequential):
    """A model with attributes of its own, of which one goes along."""

    def __init__(self, units: int) -> None:
        super().__init__([fp.Input((3,)), fp.Dense(units)], seed=0)
        self.note, self.forgotten = "a note", self.layers[0]

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"note": self.note}

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        self.note = state["note"]


def test_copies_have_of_a_subclass_what_it_says(tmp_path: Path) -> None:
    model = Noted(2)
    for twin in (model.copy(), copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is Noted
        assert (twin.note, hasattr(twin, "forgotten")) == ("a note", False)
        assert same_state(twin, model)
    model.save(tmp_path / "m")
    assert type(fp.load_model(tmp_path / "m")) is fp.Sequential


@pytest.mark.parametrize("kind", ["layer", "two", "loss"])
def test_classes_that_files_could_not_tell_apart_are_refused(tmp_path: Path, kind: str) -> None:
    def named(base: type[Any], name: str) -> type[Any]:
        return type(name, (base,), {})

    layers: list[Any] = [fp.Input((4,)), fp.Dense(3)]
    layers += {"layer": [named(MyDense, "Dense")(2)], "two": [named(MyTanh, "T")(), named(MyTanh, "T")()]}.get(kind, [])
    model = fp.Sequential(layers, seed=0)
    model.compile("sgd", named(MyMSE, "MeanAbsoluteError")() if kind == "loss" else MyMSE())
    name = {"layer": "Dense", "two": "T", "loss": "MeanAbsoluteError"}[kind]
    for use in (model.copy, lambda: pickle.dumps(model), lambda: model.save(tmp_path / "m")):
        with pytest.raises(ValueError, match=f"two called {name}, of .* \\(rename one\\)"):
            use()
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("name", ["Layer", "Initializer", "Loss", "Metric", "Optimizer"])
def test_files_cannot_name_what_nobody_could_have_saved(tmp_path: Path, name: str) -> None:
    from fastperceptron.modelfile import read_model_file, write_model_file

    trained().save(tmp_path / "m")
    config, tensors = read_model_file(tmp_path / "m")
    entry = {"class": name, "config": {}}
    if name == "Layer":
        config["model"]["layers"][0] |= entry
    elif name == "Initializer":
        config["model"]["layers"][0]["config"]["kernel_initializer"] = entry
    else:
        config["compile"][{"Metric": "metrics"}.get(name, name.lower())] = [entry] if name == "Metric" else entry
    write_model_file(tmp_path / "bad", config, tensors)
    with pytest.raises(fp.ModelFormatError, match=f"received '{name}'"):
        fp.load_model(tmp_path / "bad")


def test_copies_of_what_is_not_built_will_be_built_alike() -> None:
    model = fp.Sequential([fp.Dense(3)], seed=np.random.default_rng(0))
    twins = [model.copy(), pickle.loads(pickle.dumps(model))]
    for each in (model, *twins):
        each.build(4)
    for twin in twins:
        assert same_state(model, twin)


def test_weights_do_not_get_lost_where_nothing_is_built() -> None:
    model = trained()
    chain = fp.Sequential([fp.Dense(16), model.pop()])
    for use in (chain.copy, lambda: pickle.dumps(chain)):
        with pytest.raises(fp.NotBuiltError, match="copy: expected a built model, since its layers have weights"):
            use()
    chain.build(4)
    assert same_state(chain.copy(), chain)


def test_inputs_keep_their_names(tmp_path: Path) -> None:
    model = fp.Sequential([fp.Input((2,), name="pair"), fp.Dense(1)], seed=0)
    model.save(tmp_path / "m")
    x = np.ones((3, 2), np.float32)
    twins = [model.copy(), pickle.loads(pickle.dumps(model)), fp.load_model(tmp_path / "m")]
    for one in (model, *twins, fp.Model.from_config(model.get_config())):
        assert one.input_names == ["pair"]
        assert one.predict({"pair": x}).tolist() == one.predict(x).tolist()
    for one in twins:
        assert isinstance(one, fp.Sequential)
        one.add(fp.Dense(2))
        assert one.input_names == ["pair"]


def test_pickles_open_where_their_backend_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained()
    pickled = pickle.dumps(model)
    monkeypatch.setattr("fastperceptron.backends.native_failure", lambda: "no extension")
    fp.set_backend("numpy")
    again = pickle.loads(pickled)
    assert again.backend == "numpy"
    assert same_state(again, model)


def test_given_arrays_are_not_stored_twice(tmp_path: Path) -> None:
    model = fp.Sequential([fp.Input((100,)), fp.Dense(100, kernel_initializer=np.full((100, 100), 1 / 3))])
    model.save(tmp_path / "m")
    assert (tmp_path / "m").stat().st_size < 45_000
    assert same_state(fp.load_model(tmp_path / "m"), model)
    unpickled = pickle.loads(pickle.dumps(model))
    assert same_state(unpickled, model)
    for config in (model.get_config(), model.copy().get_config(), unpickled.get_config()):
        fresh = fp.Model.from_config(config)
        assert fresh.get_weights()[0].tobytes() == model.get_weights()[0].tobytes()


def test_metadata_may_hold_a_configuration(tmp_path: Path) -> None:
    teacher = fp.Sequential([fp.Input((2,)), fp.Dense(1, kernel_initializer=np.ones((2, 1)))])
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1)])
    model.metadata["teacher"] = teacher.get_config()
    model.save(tmp_path / "m")
    for twin in (fp.load_model(tmp_path / "m"), model.copy(), pickle.loads(pickle.dumps(model))):
        assert twin.metadata == model.metadata


def test_given_arrays_go_with_models_without_weights() -> None:
    kernel = np.random.default_rng(0).normal(size=(3, 2))
    model = fp.Sequential([fp.Dense(2, kernel_initializer=kernel)])
    for twin in (model.copy(), pickle.loads(pickle.dumps(model)), fp.Model.from_config(model.get_config())):
        twin.build(3)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(twin.get_weights()[0], kernel.astype(np.float32))


def test_copies_have_arrays_of_their_own_as_they_are() -> None:
    table = np.arange(3, dtype=np.float32)
    model: Any = fp.Sequential([fp.Input((2,)), Holding({"table": table})])
    for twin in (model.copy(), pickle.loads(pickle.dumps(model))):
        (layer,) = twin.layers
        assert layer.config["table"].dtype == np.float32  # no list was made of it
        np.testing.assert_array_equal(layer.config["table"], table)
        assert not np.shares_memory(layer.config["table"], table)


def test_configuration_is_checked_against_the_tensors(tmp_path: Path) -> None:
    from fastperceptron.modelfile import read_model_file, write_model_file

    trained().save(tmp_path / "m")
    config, tensors = read_model_file(tmp_path / "m")

    def refused(change: Any, message: str) -> None:
        altered = copy.deepcopy(config)
        change(altered)
        write_model_file(tmp_path / "bad", altered, tensors)
        with pytest.raises(fp.ModelFormatError, match=message):
            fp.load_model(tmp_path / "bad")

    def units(c: Any) -> None:
        c["model"]["layers"][0]["config"]["units"] = 10**11

    refused(units, r"params/dense/kernel must have shape \(6, 100000000000\); received \(6, 16\)")
    refused(lambda c: c["model"].update(layers=[]), "calls must use")
    refused(lambda c: c["compile"].update(loss_weights=[1e308]), "loss_weights must be finite in float32")
    refused(lambda c: c["compile"]["optimizer"]["config"].update(learning_rate=1e39), "must be finite in float32")
    refused(lambda c: c["model"].update(calls=[0, 1]), "calls must use")
    refused(lambda c: c["model"].update(input_shape=None), "without an input shape")
    flags = "dense: trainable_weights must be for kernel, bias; received"
    refused(lambda c: c["model"]["layers"][0].update(trainable_weights={"x": False}), f"{flags} {{'x': False}}")
    refused(lambda c: c["model"]["layers"][0].update(trainable_weights=["kernel"]), f"{flags} \\['kernel'\\]")
    refused(lambda c: c["model"]["layers"][0].update(trainable_weights={"bias": 2}), "bias: trainable must be True")
    refused(lambda c: c["model"].update({"class": "os.system"}), "class Model or Sequential")
    refused(lambda c: c["model"]["layers"][0].update({"class": "Layer"}), "configuration is not valid")
    refused(lambda c: c["model"]["layers"][0].update({"class": "HeNormal", "config": {}}), "expected a layer")
    refused(lambda c: c.update(compile={"optimizer": None, "loss": "mse", "metrics": []}), "received NoneType")
    refused(lambda c: c.update(compile=None), "received a state with slots")
    refused(lambda c: c.update(model=3), "expected a model's configuration")
    refused(lambda c: c.update(compile=3), "expected optimizer, loss and metrics; received 3")
    refused(lambda c: c["compile"].update(metrics="mse"), "expected optimizer, loss and metrics; received")
    for count in (-5, 2**48):
        tensors["counters/step"] = np.array(count)
        refused(lambda c: None, "counters/step must lie in")


def test_writing_to_a_state_does_not_change_the_model() -> None:
    x, y = regression()
    model = fp.Sequential([fp.Dense(1)])
    model.compile(MySGD(), "mse")
    model.fit(x, y, verbose=0)
    state = model.get_state()
    before = {name: array.copy() for name, array in state.items()}
    assert any(name.startswith("slots/velocity/") for name in before)
    for array in state.values():
        array[...] = 0
    for name, array in model.get_state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_backend_that_is_none_is_not_the_files_fault(tmp_path: Path) -> None:
    trained().save(tmp_path / "m")
    with pytest.raises(ValueError, match="expected 'auto', 'native' or 'numpy'; received 'gpu'") as caught:
        fp.load_model(tmp_path / "m", backend="gpu")
    assert not isinstance(caught.value, fp.ModelFormatError)


def test_from_config_gives_fresh_weights() -> None:
    model = trained()
    fresh = fp.Model.from_config(model.get_config())
    start = classifier()
    start.build(6)
    assert fresh.get_config() == model.get_config()
    assert fresh.get_weights()[0].tobytes() == start.get_weights()[0].tobytes()
    unbuilt = fp.Sequential([fp.Dense(3, name="only")])
    assert fp.Model.from_config(unbuilt.get_config()).get_config() == unbuilt.get_config()
    seeded = fp.Sequential([fp.Dense(3, name="only")], seed=5)
    again = fp.Model.from_config(seeded.get_config())
    for model in (seeded, again):
        model.build(2)  # type: ignore[attr-defined]
    assert again.get_weights()[0].tobytes() == seeded.get_weights()[0].tobytes()


@pytest.mark.parametrize("target", BACKENDS)
@pytest.mark.parametrize("make", [trained, custom_model], ids=lambda f: f.__name__)
def test_moving_takes_the_whole_state(make: Any, target: str) -> None:
    model = make()
    before = model.get_state()
    assert model.to_backend(target) is model
    assert model.backend == target
    after = model.get_state()
    assert list(before) == list(after)
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    x, y = (regression if make is custom_model else classification)()
    model.fit(x, y, epochs=1, verbose=0)
    assert int(model.get_state()["counters/epoch"]) == 3


@pytest.mark.parametrize(
    ("metadata", "received"),
    [
        ({1: "one", "1": "another"}, r"received a mapping with the key 1"),
        ({"labels": np.arange(3)}, "received ndarray"),
        ({"x": [{"y": fp.Dense(3)}]}, "received Dense"),
        (None, "received NoneType"),
        ([1, 2], "received list"),
    ],
)
def test_metadata_that_would_come_back_as_something_else_is_refused(
    metadata: Any, received: str, tmp_path: Path
) -> None:
    model = fp.Sequential([fp.Dense(3)], seed=0)
    model.build(2)
    model.metadata = metadata
    with pytest.raises(TypeError, match=f"metadata: expected .*{received}"):
        model.save(tmp_path / "model.fp")
    assert not list(tmp_path.iterdir())
    model.metadata = {"labels": ["a", "b"], "rate": np.float32(0.5), "nested": {"array": [1, None, True]}}
    model.save(tmp_path / "model.fp")
    loaded = fp.load_model(tmp_path / "model.fp").metadata
    assert loaded == model.metadata


class Holding(fp.Layer):
    """Hands its input on; its configuration is whatever it was given."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def get_config(self) -> Any:
        return self.config

    @classmethod
    def from_config(cls, config: Any) -> Holding:
        return cls(config)

    def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
        return x, None

    def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
        return dy, []


@pytest.mark.parametrize(
    ("config", "error", "received"),
    [
        ({"table": {"class": "x"}}, ValueError, "without the key 'class'.*received {'class': 'x'}"),
        ({"table": [{"array": [1, 2]}]}, ValueError, r"not of 'array' alone.*received {'array': \[1, 2\]}"),
        ({1: "one"}, TypeError, "received a mapping with the key 1"),
        ([1, 2], TypeError, "a mapping; received list"),
        ({"empty": np.zeros((0, 3))}, TypeError, r"received dtype float64 and shape \(0, 3\)"),
        ({"mixed": np.array(["a", 1], object)}, TypeError, r"received dtype object and shape \(2,\)"),
    ],
)
def test_configurations_that_would_come_back_as_something_else_are_refused(
    config: Any, error: Any, received: str, tmp_path: Path
) -> None:
    model = fp.Sequential([fp.Input((2,)), Holding(config)])
    for use in (model.get_config, lambda: model.save(tmp_path / "m")):
        with pytest.raises(error, match=f"get_config: expected .*{received}"):
            use()
    assert not list(tmp_path.iterdir())


def test_configurations_come_back_as_they_were(tmp_path: Path) -> None:
    for config in (
        {"array": {"array": 1, "other": [2.5, None]}},  # the arguments of a constructor may have any names
        {"class": "x", "table": np.arange(3.0), "empty": np.zeros((3, 0))},
    ):
        model = fp.Sequential([fp.Input((2,)), Holding(config)])
        model.name = None  # type: ignore[assignment]
        model.save(tmp_path / "m")
        again: Any = fp.load_model(tmp_path / "m", custom_objects={"Holding": Holding})
        assert again.name == "None"
        for twin in (again, model.copy(), pickle.loads(pickle.dumps(model))):
            np.testing.assert_equal(twin.layers[0].config, config)


def test_numbers_of_numpy_are_pythons_in_configurations() -> None:
    numbers = {"flag": np.bool_(True), "count": np.uint8(3), "share": np.float32(0.5)}
    model = fp.Sequential([fp.Input((2,)), Holding(numbers)])
    model.metadata = dict(numbers)
    twin: Any = model.copy()
    for found in (model.get_config()["layers"][0]["config"], twin.layers[0].config, twin.metadata):
        assert found == {"flag": True, "count": 3, "share": 0.5}
        assert [type(value) for value in found.values()] == [bool, int, float]


def test_layers_that_give_a_number_per_row_survive_files(tmp_path: Path) -> None:
    class Total(fp.Layer):
        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            return x.sum(axis=1), None

    model = fp.Sequential([fp.Input((3,)), Total()])
    model.save(tmp_path / "m")
    for twin in (fp.load_model(tmp_path / "m", custom_objects={"Total": Total}), model.copy()):
        assert twin.output_shape == ()
        assert twin.predict(np.ones((2, 3))).tolist() == [3.0, 3.0]


def test_a_copy_of_an_empty_chain_knows_its_input_shape() -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2)], seed=1)
    model.pop()
    twin = pickle.loads(pickle.dumps(model.copy()))
    for chain in (model, twin):
        chain.add(fp.Dense(1))
    np.testing.assert_array_equal(twin.get_weights()[0], model.get_weights()[0])


def test_masked_arrays_are_no_configuration() -> None:
    model = fp.Sequential([fp.Input((2,)), Holding({"table": np.ma.masked_array([1.0, 2.0], [True, False])})])
    with pytest.raises(ValueError, match="get_config: arrays must have no masked entries"):
        model.copy()

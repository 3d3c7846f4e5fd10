"""Structure, weights and state of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from api_examples import (
    classification,
    classifier,
    same_state,
    trained,
)

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


def test_functional_model_equals_sequential() -> None:
    x, y = classification()
    inputs = fp.Input((6,))
    hidden = fp.Dense(16, activation="relu")(inputs)
    model = fp.Model(inputs, fp.Dense(3)(fp.Dropout(0.3)(hidden)), seed=0)
    model.compile(fp.SGD(0.1, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    chain = classifier()
    assert model.fit(x, y, epochs=2, verbose=0).history == chain.fit(x, y, epochs=2, verbose=0).history
    assert same_state(model, chain)


def test_shared_layer_counts_once_and_gets_both_gradients() -> None:
    inputs = fp.Input((3,))
    shared = fp.Dense(3, "tanh", name="shared")
    unused = fp.Dense(7)(inputs)
    model = fp.Model(inputs, shared(shared(inputs)), seed=1, dtype="float64")
    assert model.count_params() == 12
    assert unused.shape == (7,)
    model.compile(fp.SGD(0.5), "mse")
    x, y = np.eye(3), np.ones((3, 3))
    trace = model.trace(x, y)
    total = trace["shared"]["dw"] + trace["shared:2"]["dw"]
    np.testing.assert_allclose(trace.gradients["shared/kernel"], total, rtol=1e-13)
    before = model.get_weights()[0]
    model.train_on_batch(x, y)
    np.testing.assert_allclose(model.get_weights()[0], before - 0.5 * total, rtol=1e-10)


def test_structure_errors() -> None:
    a, b = fp.Input((3,)), fp.Input((3,))
    with pytest.raises(ValueError, match="not connected"):
        fp.Model(a, fp.Dense(1)(b))
    with pytest.raises(ValueError, match="at least one layer"):
        fp.Model(a, a)
    with pytest.raises(TypeError, match="expected outputs to be a value"):
        fp.Model([a], [fp.Dense(1)(a), 3])
    with pytest.raises(TypeError, match="expected layers; received str"):
        fp.Sequential(["relu"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="only be the first"):
        fp.Sequential([fp.Dense(1), fp.Input((3,))])
    with pytest.raises(ValueError, match=r"dtype must be one of .*; received \['float32'\]"):
        fp.Sequential([], dtype=["float32"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype must be one of float32, float64, mixed_bfloat16; received 'float16'"):
        fp.Sequential(dtype="float16")
    with pytest.raises(AttributeError, match="dtype"):
        fp.Sequential().dtype = "float64"  # type: ignore[misc]
    layer = fp.Dense(2)
    layer(a)
    with pytest.raises(fp.ShapeError, match=r"built for rows of shape \(3,\); received \(4,\)"):
        layer(fp.Input((4,)))
    model = fp.Sequential([fp.Input((2,)), fp.Dense(1)])
    with pytest.raises(ValueError, match="belongs to sequential"):
        fp.Sequential([model.layers[0]])
    shared = fp.Dense(2)
    early, late = fp.Sequential([shared], name="early"), fp.Sequential([shared])
    early.build(3)
    with pytest.raises(ValueError, match="received dense, which belongs to early"):
        late.build(3)
    assert early.built
    assert not late.built
    with pytest.raises(ValueError, match="expected one of dense; received 'x'"):
        model.get_layer("x")
    assert model.get_layer("dense") is model.layers[0]


def test_unbuilt_models_say_so() -> None:
    model = fp.Sequential([fp.Dense(1)])
    model.compile("sgd", "mse")
    for call in (
        lambda: model.predict([[1.0]]),
        lambda: model.evaluate([[1.0]], [[1.0]]),
        model.summary,
        model.get_weights,
        model.get_state,
        model.count_params,
        lambda: model.save("nowhere"),
        lambda: model.input_shape,
    ):
        with pytest.raises(fp.NotBuiltError, match="expected a model with weights"):
            call()
    assert not model.built
    model.build((None, 3))
    assert model.built
    assert model.count_params() == 4
    model.build(3)
    with pytest.raises(ValueError, match=r"built for samples of shape \(3,\); received \(4,\)"):
        model.build(4)


def test_add_and_pop_keep_weights() -> None:
    x, y = classification()
    model = trained()
    kept = model.get_weights()[:2]
    step = int(model.get_state()["counters/step"])
    head = model.pop()
    model.add(fp.Dense(5, name="head"))
    assert model.predict(x).shape == (120, 5)
    assert all((a == b).all() for a, b in zip(kept, model.get_weights()[:2], strict=True))
    assert int(model.get_state()["counters/step"]) == step
    assert head.get_weights()[0].shape == (16, 3)
    assert fp.Sequential([fp.Input((16,)), head]).get_weights()[0].tobytes() == head.get_weights()[0].tobytes()
    model.fit(x, y, epochs=1, verbose=0)
    with pytest.raises(fp.ShapeError, match="Given"):
        model.add(fp.Dense(2, kernel_initializer=np.ones((3, 3))))
    assert model.predict(x).shape == (120, 5)
    model.fit(x, y, epochs=1, verbose=0)


def test_a_chain_that_was_empty_draws_by_the_key_of_its_state(tmp_path: Path) -> None:
    """However the model came to its key: by its seed, a copy, a file or a state."""
    model, other = (fp.Sequential([fp.Input((3,)), fp.Dense(1)], seed=seed) for seed in (None, 7))
    other.set_state(model.get_state())
    model.save(tmp_path / "m")
    alike = [model, other, model.copy(), other.copy(), fp.load_model(tmp_path / "m")]
    for one in alike:
        assert isinstance(one, fp.Sequential)
        one.pop()
    alike += [one.copy() for one in alike]
    for one in alike:
        one.add(fp.Dense(1))  # type: ignore[attr-defined]
        one.build(3)  # type: ignore[attr-defined]
        assert same_state(one, model)


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    inputs = fp.Input((4,))
    shared = fp.Dense(4)
    model = fp.Model(inputs, fp.Dense(1, name="out")(fp.Dropout(0.5)(shared(shared(inputs)))))
    shared.trainable = False
    model.summary()
    text = capsys.readouterr().out
    assert "dense (Dense)      (n, 4)                20  no" in text
    assert "dense (Dense)      (n, 4)          (shared)\n" in text
    assert "Parameters in total: 25 (100 bytes)\nTrainable: 5\nNot trainable: 20\n" in text
    lines: list[str] = []
    model.summary(print_fn=lines.append)
    assert lines[0] + "\n" == text


def test_seed_decides_everything() -> None:
    x, y = classification()
    runs = []
    for seed in (3, 3, 4, np.random.default_rng(3), np.random.default_rng(3)):
        model = classifier(seed=seed)
        model.fit(x, y, epochs=2, verbose=0)
        runs.append(model)
    assert same_state(runs[0], runs[1])
    assert not same_state(runs[0], runs[2])
    assert same_state(runs[3], runs[4])


def test_set_weights_changes_all_or_nothing() -> None:
    model = trained()
    before = model.get_weights()
    bad = [*(w + 1 for w in before[:-1]), np.ones(4)]
    with pytest.raises(fp.ShapeError, match=r"dense_1/bias must have shape \(3,\); received \(4,\)"):
        model.set_weights(bad)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    model.set_weights([w.astype(np.float64) + 1 for w in before])
    np.testing.assert_allclose(model.get_weights()[0], before[0] + 1, rtol=1e-6)


def test_state_tree_names_and_types() -> None:
    state = trained().get_state()
    weights = ["dense/kernel", "dense/bias", "dense_1/kernel", "dense_1/bias"]
    assert list(state) == [
        *(f"params/{name}" for name in weights),
        *(f"slots/momentum/{name}" for name in weights),
        "counters/step",
        "counters/epoch",
        "counters/iterations",
        "random/key",
    ]
    assert state["counters/epoch"].shape == ()
    assert int(state["counters/epoch"]) == 2
    assert int(state["counters/step"]) == 2 * 3
    assert state["random/key"].dtype == np.dtype("<u8")
    assert all(array.dtype.byteorder in "<=|" for array in state.values())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("params/dense/bias", np.ones(3, np.float32), r"params/dense/bias must have shape \(16,\); received \(3,\)"),
        ("params/dense/bias", np.ones(16), "params/dense/bias must have dtype float32; received float64"),
        ("params/dense/bias", [[1.0], [1.0, 2.0]], "params/dense/bias must be a rectangular array"),
        ("counters/step", np.array(-1), r"counters/step must lie in .0, 2\*\*48.; received -1"),
        ("counters/iterations", np.array(99), r"counters/iterations must lie in .0, counters/step = 7.; received 99"),
        ("surplus", np.ones(1), "expected the 12 arrays of this model; received a state with surplus"),
        ("random/key", None, "received a state without random/key"),
    ],
)
def test_set_state_checks_before_it_changes(name: str, value: Any, message: str) -> None:
    model = trained()
    before = model.get_state()
    state = {key: array + np.ones((), array.dtype) for key, array in before.items()} | {name: value}
    if value is None:
        del state[name]
    with pytest.raises((ValueError, TypeError), match=message):
        model.set_state(state)
    after = model.get_state()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)


def test_frozen_layers_stay() -> None:
    x, y = classification()
    model = trained()
    model.layers[0].trainable = False
    before = model.get_weights()
    model.fit(x, y, epochs=1, verbose=0)
    changed = [not (a == b).all() for a, b in zip(before, model.get_weights(), strict=True)]
    assert changed == [False, False, True, True]


def test_a_frozen_model_stays() -> None:
    x, y = classification()
    model = trained()
    model.trainable = False
    assert not any(layer.trainable for layer in model.layers)
    before = model.get_weights()
    model.fit(x, y, epochs=1, verbose=0)
    assert all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    model.layers[-1].trainable = True
    assert model.trainable
    with pytest.raises(TypeError, match="trainable must be True or False; received 'no'"):
        model.trainable = "no"  # type: ignore[assignment]
    unbuilt = fp.Sequential([fp.Dense(2), fp.Dense(1)])
    unbuilt.trainable = False
    assert [layer.trainable for layer in unbuilt.layers] == [False, False]


def test_outputs_are_named_apart() -> None:
    x = fp.Input((2,))
    first, second = fp.Dense(1, name="a")(x), fp.Dense(1, name="a_1")(x)
    assert fp.Model(x, [second, first, first, first]).output_names == ["a_1", "a", "a_2", "a_3"]


def test_backend_is_chosen_per_model(backend: str) -> None:
    assert fp.Sequential().backend == backend
    assert fp.Sequential(backend="numpy").backend == "numpy"
    with pytest.raises(ValueError, match="received 'cuda'"):
        fp.Sequential(backend="cuda")


def test_sequential_and_input_name_what_came() -> None:
    with pytest.raises(TypeError, match="Sequential: expected a list of layers; received Dense"):
        fp.Sequential(fp.Dense(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"received the class Dense; write Dense\(\)"):
        fp.Sequential([fp.Dense])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"Input: shape must be positive integers.*received 3\.5"):
        fp.Input(3.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Sequential: name must be text; received 3"):
        fp.Sequential(name=3)  # type: ignore[arg-type]
    assert fp.Sequential(name=None).name == "sequential"


def test_targets_of_layers_that_give_a_number_per_row() -> None:
    class Total(fp.Layer):
        def forward(self, x: Any, training: bool) -> tuple[Any, Any]:
            return x.sum(axis=1), x.shape

        def backward(self, dy: Any, saved: Any) -> tuple[Any, Any]:
            return np.broadcast_to(dy[:, None], saved), []

    model = fp.Sequential([fp.Dense(2, kernel_initializer="ones"), Total()])
    model.compile(fp.SGD(0.01), "mse")
    losses = model.fit(np.ones((4, 3)), np.ones(4), epochs=2, verbose=0).history["loss"]  # of outputs 6, then less
    assert losses[0] == 25
    assert losses[1] < 25


def test_weights_of_one_name_would_get_lost() -> None:
    """In files and copies, which know them by name."""

    class Two(fp.Layer):
        def build(self, input_shape: Any) -> None:
            for inner in (fp.Dense(3), fp.Dense(3)):
                inner.prepare(input_shape)
                self.weights += inner.weights

        def forward(self, x: Any, training: bool) -> Any:
            return x, None

    layer = Two(name="two")
    with pytest.raises(ValueError, match="names of a layer's weights must differ; received two/kernel, two/bias more"):
        fp.Sequential([fp.Input((3,)), layer])
    assert not layer.built

"""What fails half-way, by an error of the user's code or Ctrl-C at any line, leaves the model usable and whole."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from pure import BACKENDS

import fastperceptron as fp
from fastperceptron.undo import as_before_on_failure, wholly

pytestmark = pytest.mark.usefixtures("backend")

PACKAGE = str(Path(fp.__file__).parent)
X, Y = np.ones((6, 4), np.float32), np.ones((6, 3), np.float32)


class Fussy(fp.Metric):
    """Fails when it is told to."""

    fails = False

    def reset_state(self) -> None:
        if Fussy.fails:
            raise RuntimeError("reset failed")
        self.seen = 0

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.seen += len(y_true)

    def result(self) -> float:
        return float(self.seen)


@pytest.fixture(autouse=True)
def tame() -> Any:
    Fussy.fails = False
    yield
    Fussy.fails = False


def trained(metric: Any = None) -> fp.Sequential:
    model = fp.Sequential([fp.Input((4,)), fp.Dense(5, activation="relu"), fp.Dense(3)], seed=0)
    model.compile(fp.SGD(0.1, momentum=0.9), "mse", metrics=[metric or "mae"])
    model.fit(X, Y, batch_size=2, verbose=0)
    return model


def other(name: str) -> str:
    return next((backend for backend in BACKENDS if backend != name), name)


def whole(model: fp.Sequential, tmp_path: Path) -> None:
    """What the model says of itself holds, and it goes on."""
    width = model.layers[-1].units  # type: ignore[attr-defined]
    assert model.output_shape == (width,)
    assert model.predict(X).shape == (6, width)
    model.save(tmp_path / "m")
    again = fp.load_model(tmp_path / "m", custom_objects={"Fussy": Fussy})
    assert again.predict(X).tobytes() == model.predict(X).tobytes()
    assert again.get_state().keys() == model.get_state().keys()
    model.fit(X, np.ones((6, width), np.float32), verbose=0)


CHANGES: dict[str, Callable[[fp.Sequential], Any]] = {
    "add": lambda model: model.add(fp.Dense(7)),
    "pop": lambda model: model.pop(),
    "to_backend": lambda model: model.to_backend(other(model.backend)),
    "compile": lambda model: model.compile(fp.SGD(0.2, momentum=0.5), "mae", metrics=[Fussy(), "mse"]),
    "set_weights": lambda model: model.set_weights([w + 1 for w in model.get_weights()]),
    "a layer's": lambda model: model.layers[0].set_weights([w + 1 for w in model.layers[0].get_weights()]),
}


@pytest.mark.parametrize("change", ["add", "pop", "to_backend"])
def test_a_metric_that_fails_undoes_the_change(change: str, tmp_path: Path) -> None:
    model = trained(Fussy())
    before, names = model.get_state(), [layer.name for layer in model.layers]
    if change == "to_backend" and other(model.backend) == model.backend:
        pytest.skip("there is one backend alone")
    Fussy.fails = True
    with pytest.raises(RuntimeError, match="reset failed"):
        CHANGES[change](model)
    Fussy.fails = False
    assert [layer.name for layer in model.layers] == names
    after = model.get_state()
    assert all(before[name].tobytes() == value.tobytes() for name, value in after.items())
    whole(model, tmp_path)


def test_rates_that_do_not_fit_undo_the_change(tmp_path: Path) -> None:
    model = trained()
    model.layers[0].learning_rate_multiplier = 1e300
    for change in ("add", "pop", "to_backend"):
        if change != "to_backend" or other(model.backend) != model.backend:
            with pytest.raises(ValueError, match="must be finite in float32"):
                CHANGES[change](model)
    model.layers[0].learning_rate_multiplier = 1.0
    assert [layer.name for layer in model.layers] == ["dense", "dense_1"]
    whole(model, tmp_path)


def test_a_first_fit_that_fails_frees_the_layers() -> None:
    model = fp.Sequential([fp.Dense(3)], seed=0)
    model.compile("sgd", "mse", metrics=[Fussy()])
    Fussy.fails = True
    with pytest.raises(RuntimeError, match="reset failed"):
        model.fit(X, Y, verbose=0)
    Fussy.fails = False
    assert not model.built
    layer = model.layers[0]
    assert not layer.built
    assert layer.weights == []
    fp.Sequential([layer]).build(4)


class Stop(BaseException):
    """Stands for Ctrl-C, which may arrive at any line."""


def at_line(number: int, run: Callable[[], Any]) -> bool:
    """Runs it, and raises Stop when so many lines of the package have begun; whether it came so far."""
    left, hit = number, False

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left, hit
        # A second Ctrl-C may come while the first one's damage is undone, and that nobody can help.
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_filename.endswith("undo.py"):
            return None
        if event == "line" and not hit:
            left -= 1
            if left < 0:
                hit = True
                raise Stop
        return trace

    sys.settrace(trace)
    try:
        run()
    except Stop:
        pass
    finally:
        sys.settrace(None)
    return hit


@pytest.mark.parametrize("change", list(CHANGES))
def test_stopped_at_any_line(change: str, tmp_path: Path) -> None:
    changed = trained()
    if change == "to_backend" and other(changed.backend) == changed.backend:
        pytest.skip("there is one backend alone")
    CHANGES[change](changed)
    line = 0
    while True:
        model = trained()
        before = model.get_state()
        if not at_line(line, lambda: CHANGES[change](model)):  # noqa: B023 - called at once
            break
        state = model.get_state()
        assert any(
            state.keys() == whole_state.keys()
            and all(state[name].tobytes() == value.tobytes() for name, value in whole_state.items())
            for whole_state in (before, changed.get_state())
        ), f"line {line}"
        whole(model, tmp_path)
        line += 1 + line // 20  # the first twenty, and then fewer
    assert line > 30


def test_attributes_and_lists_are_as_before() -> None:
    class Thing:
        pass

    thing: Any = Thing()
    thing.a, thing.items = 1, [1, 2]
    items = thing.items

    def change() -> None:
        with as_before_on_failure(thing):
            thing.a, thing.b = 2, 3
            thing.items.append(3)
            thing.items = []
            raise KeyError

    with pytest.raises(KeyError):
        change()
    assert vars(thing) == {"a": 1, "items": [1, 2]}
    assert thing.items is items
    with as_before_on_failure(thing):
        thing.a = 2
    assert thing.a == 2


def test_what_is_stopped_is_written_wholly() -> None:
    written: list[int] = []

    def write() -> None:
        written.append(len(written))
        if written == [0]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wholly(write)
    assert written == [0, 1]


class Flaky(fp.initializers.Initializer):
    """Raises, as Ctrl-C would, until it is told not to."""

    stops = True

    def sample(self, shape: tuple[int, ...], key: int, step: int) -> Any:
        if Flaky.stops:
            raise Stop
        return np.full(shape, 2.0)


def test_a_layer_whose_first_call_fails_is_as_before() -> None:
    layer = fp.Dense(2, kernel_initializer=np.ones((5, 2)))
    with pytest.raises(fp.ShapeError, match=r"expected an array of shape \(3, 2\); received \(5, 2\)"):
        layer(np.ones((4, 3)))
    assert not layer.built
    assert layer.weights == []
    np.testing.assert_array_equal(layer(np.ones((4, 5))), np.full((4, 2), 5.0))


def test_a_layer_whose_first_call_is_stopped_is_as_before(backend: str) -> None:
    layer = fp.Dense(2, bias_initializer=Flaky())
    Flaky.stops = True
    with pytest.raises(Stop):
        layer(np.ones((4, 3)))
    Flaky.stops = False
    assert not layer.built
    assert layer(np.ones((4, 5))).shape == (4, 2)
    np.testing.assert_array_equal(layer.get_weights()[1], [2.0, 2.0])


def test_a_model_whose_construction_fails_leaves_its_layers_as_before(backend: str) -> None:
    def connected() -> tuple[fp.Input, fp.Dense, fp.Dense]:
        return fp.Input((3,)), fp.Dense(4), fp.Dense(2, kernel_initializer=Flaky())

    x, first, last = connected()
    Flaky.stops = True
    y = last(first(x))
    with pytest.raises(Stop):
        fp.Model(x, y, seed=0)
    Flaky.stops = False
    with pytest.raises(fp.NotBuiltError, match="no values yet"):
        first.get_weights()
    model = fp.Model(x, y, seed=1)
    x, first, last = connected()
    expected = fp.Model(x, last(first(x)), seed=1)
    for now, wanted in zip(model.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(now, wanted)


def test_a_model_whose_construction_fails_leaves_the_weights_of_its_layers_alone(backend: str) -> None:
    first, last = fp.Dense(4), fp.Dense(2, kernel_initializer=Flaky())
    first(np.ones((1, 3)))
    before = first.get_weights()
    x = fp.Input((3,))
    Flaky.stops = True
    with pytest.raises(Stop):
        fp.Model(x, last(first(x)), dtype="float64")
    Flaky.stops = False
    for now, then in zip(first.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    assert first.weights[0].dtype == np.float32


@pytest.mark.parametrize("kind", ["layer", "Model", "Sequential"])
def test_making_is_stopped_at_any_line(kind: str) -> None:
    x = fp.Input((4,))
    make: Callable[[fp.Dense], Any] = {
        "layer": lambda layer: layer(X),
        "Model": lambda layer: fp.Model(x, layer(x), seed=1),
        "Sequential": lambda layer: fp.Sequential([fp.Input((4,)), layer], seed=1),
    }[kind]
    line = 0
    while True:
        layer = fp.Dense(3)
        if not at_line(line, lambda: make(layer)):  # noqa: B023 - called at once
            break
        gc.collect()  # a model that nobody has, and whose layers are free
        if layer.built and kind != "Model":  # a layer that was connected alone is built
            assert [weight.value.shape for weight in layer.weights] == [(4, 3), (3,)], f"line {line}"
        elif not layer.built:
            assert layer.weights == [], f"line {line}"
        assert fp.Sequential([fp.Input((4,)), layer], seed=0).predict(X).shape == (6, 3)
        line += 1 + line // 20
    assert line > 30

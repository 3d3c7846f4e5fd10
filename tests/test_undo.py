"""What fails half-way, by an error of the user's code or Ctrl-C at any line, leaves the model usable and whole."""

from __future__ import annotations

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

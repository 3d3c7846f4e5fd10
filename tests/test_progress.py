"""What fit shows: in a terminal, in a file, in a notebook, and not at all."""

from __future__ import annotations

import io
import sys
import types
from typing import Any

import numpy as np
import pytest
from api_examples import classification, classifier

import fastperceptron as fp
from fastperceptron import progress, training


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_file_gets_a_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = classification()
    for verbose in (1, 2, "auto"):
        classifier().fit(x, y, epochs=10, verbose=verbose)
        lines = capsys.readouterr().out.split("\n")
        assert len(lines) == 11
        assert lines[0].startswith("Epoch  1/10  ")
        assert "loss" in lines[9]
        assert not any(set(line) & {"\r", "\x1b", "\b"} for line in lines)
    classifier().fit(x, y, verbose=0)
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_bar_that_ends_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: clock[0])
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    bar = progress.progress_for(1, "fit", stream)
    bar.begin("Epoch 1/2", 40)
    for step in range(1, 41):
        clock[0] += 0.03
        if bar.is_due():
            bar.update(step, {"loss": 0.5 / step, "accuracy": 0.25})
    bar.end({"loss": 0.0125, "accuracy": 0.25, "val_loss": 1e-9})
    frames = stream.getvalue().split("\r")
    assert stream.getvalue().count("\n") == 1
    assert 9 <= len(frames) - 2 <= 12  # 1.2 s at most ten times a second
    assert all(len(frame) < 60 for frame in frames[:-1])
    assert frames[1].startswith("Epoch 1/2  [==>.................]  4/40  ETA 1.1s  loss 0.1")
    # Wider than the terminal, and whole: nothing is drawn over it.
    assert frames[-1] == "Epoch 1/2  1.2s  loss 0.0125  accuracy 0.2500  val_loss 1.000e-09\n"


def test_an_interrupted_bar_leaves_the_cursor_on_a_new_line() -> None:
    stream = Terminal()
    bar = progress.progress_for(1, "fit", stream)
    bar.begin("Epoch 1/1", 10)
    bar.update(5, {"loss": 1.0})
    bar.close()
    bar.close()
    assert stream.getvalue().endswith("\n")
    assert stream.getvalue().count("\n") == 1


def test_a_notebook_gets_one_output_that_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, bundle: Any, raw: bool) -> None:
            shown.append(bundle["text/plain"])

    def display(bundle: Any, raw: bool, display_id: bool) -> Handle:
        shown.append(bundle["text/plain"])
        return Handle()

    shell: Any = types.SimpleNamespace(kernel=object())
    ipython: Any = types.ModuleType("IPython")
    ipython.get_ipython = lambda: shell
    module: Any = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    x, y = classification()
    classifier().fit(x, y, epochs=2, verbose=1)
    assert shown[-1].splitlines()[0].startswith("Epoch 1/2")
    assert shown[-1].splitlines()[1].startswith("Epoch 2/2")
    assert "\r" not in "".join(shown)
    ipython.get_ipython = lambda: None
    assert isinstance(progress.progress_for(1, "fit"), progress.Lines)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (59.94, "59.9s"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert progress._duration(seconds) == text


def test_no_output_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    x, y = classification()
    assert isinstance(classifier().fit(x, y), fp.History)


def test_evaluate_and_predict_report_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = classification()
    model = classifier()
    model.fit(x, y, verbose=0)
    model.evaluate(x, y)
    model.predict(x)
    assert capsys.readouterr().out == ""
    model.evaluate(x, y, verbose=1)
    assert capsys.readouterr().out.startswith("Evaluate  ")
    quiet = model.predict(x)
    # Not to the bit: NumPy's products of other sizes may add in another order.
    np.testing.assert_allclose(model.predict(x, batch_size=7, verbose=1), quiet, rtol=1e-5, atol=1e-6)
    assert capsys.readouterr().out.startswith("Predict  ")
    with pytest.raises(ValueError, match="predict: verbose must be"):
        model.predict(x, verbose=3)


def test_the_bar_counts_the_batches_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Seen(progress.Silent):
        def begin(self, label: str, steps: int) -> None:
            seen.append(steps)

        def is_due(self) -> bool:
            return True

        def update(self, step: int, logs: Any) -> None:
            seen.append((step, sorted(logs)))

    class Batches(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None: ...

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None: ...

    x, y = classification(7)
    model = classifier()
    monkeypatch.setattr(training, "progress_for", lambda verbose, operation: Seen())
    counted = [3, *((step, ["accuracy", "loss"]) for step in (1, 2, 3))]
    model.fit(x, y, batch_size=3, callbacks=Batches())
    assert seen == counted
    model.evaluate(x, y, batch_size=3, callbacks=Batches())
    assert seen == counted * 2

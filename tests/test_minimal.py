"""If only one test file is run, then this one: the ten lines of the README, on every backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastperceptron as fp


def test_ten_lines(backend: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, y = fp.datasets.load_digits()
    model = fp.Sequential([fp.Dense(64, activation="relu"), fp.Dropout(0.2), fp.Dense(10)], seed=0)
    model.compile(
        optimizer=fp.SGD(learning_rate=0.1, momentum=0.9),
        loss=fp.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(x / 16, y, batch_size=32, epochs=30, validation_split=0.2)
    loss, accuracy = model.evaluate(x / 16, y)
    assert loss < 0.1
    assert accuracy > 0.98
    assert model.predict(x[:3] / 16).shape == (3, 10)
    assert history.history["val_accuracy"][-1] > 0.95
    model.summary()
    model.save(tmp_path / "digits.fp.safetensors")
    again = fp.load_model(tmp_path / "digits.fp.safetensors")
    assert again.predict(x / 16).tobytes() == model.predict(x / 16).tobytes()
    assert model.backend == backend
    output = capsys.readouterr().out
    assert output.count("\n") == 30 + 12
    assert "4,810" in output


def test_backends_agree_on_a_whole_run(backend: str) -> None:
    # The same seed gives the same start, order and masks; float64 rounding grows little over 60 steps.
    x, y = fp.datasets.load_digits()
    runs = []
    for name in ("numpy", backend):
        model = fp.Sequential(
            [fp.Dense(16, "tanh"), fp.Dropout(0.2), fp.Dense(10)], seed=3, dtype="float64", backend=name
        )
        model.compile(fp.SGD(0.1, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True), "accuracy")
        history = model.fit(x[:640] / 16, y[:640], epochs=3, verbose=0, validation_split=0.1)
        runs.append((model.get_weights(), history.history))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert runs[0][1]["accuracy"] == runs[1][1]["accuracy"]
    np.testing.assert_allclose(runs[0][1]["val_loss"], runs[1][1]["val_loss"], rtol=1e-9)

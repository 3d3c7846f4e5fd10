"""Which hooks run, when, and with what."""

from __future__ import annotations

import gc
import math
import pickle
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from api_examples import WorstError, classification, classifier, regression, same_state

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")

HOOKS = [name for name in dir(fp.Callback) if name.startswith("on_")]


class Recorder(fp.Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.logs: dict[str, Any] = {}


def _recording(hook: str) -> Any:
    def method(self: Recorder, *arguments: Any) -> None:
        self.calls.append((hook, arguments[0] if len(arguments) == 2 else None))
        self.logs[hook] = dict(arguments[-1])

    return method


for _hook in HOOKS:
    setattr(Recorder, _hook, _recording(_hook))


def test_all_hooks_of_keras_are_there() -> None:
    kinds = ["train", "test", "predict"]
    expected = {f"on_{kind}{part}_{end}" for kind in kinds for part in ("", "_batch") for end in ("begin", "end")}
    assert set(HOOKS) == expected | {"on_epoch_begin", "on_epoch_end"}


def test_order_and_logs() -> None:
    x, y = classification(20)
    model = classifier()
    recorder = Recorder()
    model.fit(x, y, batch_size=10, epochs=2, validation_data=(x[:5], y[:5]), verbose=0, callbacks=[recorder])
    epoch = [
        ("on_train_batch_begin", 0),
        ("on_train_batch_end", 0),
        ("on_train_batch_begin", 1),
        ("on_train_batch_end", 1),
        ("on_test_begin", None),
        ("on_test_batch_begin", 0),
        ("on_test_batch_end", 0),
        ("on_test_end", None),
    ]
    expected = [("on_train_begin", None)]
    for number in range(2):
        expected += [("on_epoch_begin", number), *epoch, ("on_epoch_end", number)]
    assert recorder.calls == [*expected, ("on_train_end", None)]
    assert set(recorder.logs["on_epoch_end"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert recorder.logs["on_train_end"] == recorder.logs["on_epoch_end"]
    assert set(recorder.logs["on_train_batch_end"]) == {"loss", "accuracy"}
    assert recorder.logs["on_test_end"]["loss"] == recorder.logs["on_epoch_end"]["val_loss"]
    names = ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert recorder.params == {"epochs": 2, "steps": 2, "verbose": 0, "metrics": names}
    recorder.calls.clear()
    model.evaluate(x, y, batch_size=20, callbacks=recorder)
    assert recorder.params == {"steps": 1, "verbose": 0}
    model.predict(x, batch_size=20, verbose=1, callbacks=recorder)
    assert recorder.params == {"steps": 1, "verbose": 1}
    assert [name for name, _ in recorder.calls] == [
        "on_test_begin",
        "on_test_batch_begin",
        "on_test_batch_end",
        "on_test_end",
        "on_predict_begin",
        "on_predict_batch_begin",
        "on_predict_batch_end",
        "on_predict_end",
    ]
    assert recorder.logs["on_predict_batch_end"]["outputs"].shape == (20, 3)


def test_callbacks_do_not_change_the_numbers() -> None:
    x, y = classification()
    plain, watched = classifier(), classifier()
    first = plain.fit(x, y, epochs=2, validation_split=0.2, verbose=0).history
    second = watched.fit(x, y, epochs=2, validation_split=0.2, verbose=0, callbacks=Recorder()).history
    assert same_state(plain, watched)
    assert first == second


def test_using_the_model_inside_a_batch_hook_leaves_the_logs_alone() -> None:
    x, y = regression()

    def model() -> fp.Sequential:
        made = fp.Sequential([fp.Dense(4, "tanh"), fp.Dense(1)], seed=2)
        made.compile(fp.SGD(0.05), "mse", metrics=["mae", "r2", WorstError()])
        return made

    class Nosy(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.evaluate(x[:7], y[:7])
            self.model.predict(x)

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.predict(x[:3])

    plain, nosy = model(), model()
    first = plain.fit(x, y, epochs=2, verbose=0, validation_split=0.5).history
    second = nosy.fit(x, y, epochs=2, verbose=0, validation_split=0.5, callbacks=Nosy()).history
    assert same_state(plain, nosy)
    for name, values in first.items():
        np.testing.assert_allclose(values, second[name], rtol=1e-12)


def test_a_trained_model_that_nobody_has_is_gone_at_once() -> None:
    x, y = classification()
    model = classifier()
    gc.disable()
    try:
        history = model.fit(x, y, epochs=2, verbose=0)
        assert history.model is model
        assert model.history is history
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()
    assert history.model is None
    assert len(history.history["loss"]) == 2


def test_validation_has_batches_of_its_own_size() -> None:
    seen: list[int] = []

    class Batches(fp.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
            seen.append(batch)

    x, y = classification(20)
    classifier().fit(x, y, 5, validation_data=(x, y), validation_batch_size=8, verbose=0, callbacks=Batches())
    assert seen == [0, 1, 2]


def test_stop_training_in_a_batch_and_in_an_epoch() -> None:
    x, y = classification()
    model = classifier()

    class Stop(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 1

    history = model.fit(x, y, epochs=5, verbose=0, callbacks=Stop())
    assert len(history.epoch) == 1
    assert int(model.get_state()["counters/step"]) == 2
    halt = fp.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", epoch == 2))
    assert model.fit(x, y, epochs=5, verbose=0, callbacks=halt).epoch == [0, 1, 2]


def test_stop_training_before_a_batch_ends_with_that_batch() -> None:
    x, y = classification()
    model = classifier()
    recorder = Recorder()
    stop = fp.LambdaCallback(on_epoch_begin=lambda epoch, logs: setattr(model, "stop_training", True))
    history = model.fit(x, y, epochs=5, verbose=0, callbacks=[stop, recorder])
    assert int(model.get_state()["counters/step"]) == 1
    assert history.history["loss"] == [recorder.logs["on_train_batch_end"]["loss"]]


def test_early_stopping_restores_the_best() -> None:
    x, y = classification()
    model = classifier()
    weights: list[Any] = []

    class Worsen(fp.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["watched"] = [3.0, 1.0, 2.0, 1.5, 0.5][epoch]
            weights.append(self.model.get_weights())

    stopping = fp.EarlyStopping("watched", patience=2, restore_best_weights=True)
    history = model.fit(x, y, epochs=5, verbose=0, callbacks=[Worsen(), stopping])
    assert history.history["watched"] == [3.0, 1.0, 2.0, 1.5]
    assert (stopping.best, stopping.best_epoch, stopping.stopped_epoch) == (1.0, 1, 3)
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights[1], strict=True))
    for name in ("val_accuracy", "val_acc", "r2", "r2_score", "auc"):
        assert fp.EarlyStopping(name).larger_is_better
    assert not fp.EarlyStopping("val_loss").larger_is_better
    with pytest.raises(ValueError, match="monitor must be one of loss, accuracy; received 'val_loss'"):
        model.fit(x, y, verbose=0, callbacks=fp.EarlyStopping())
    with pytest.raises(ValueError, match="received 'up'"):
        fp.EarlyStopping(mode="up")


def test_a_history_can_be_pickled() -> None:
    x, y = classification()
    history = classifier().fit(x, y, epochs=2, verbose=0)
    twin = pickle.loads(pickle.dumps(history))
    assert (twin.history, twin.epoch, twin.params) == (history.history, [0, 1], history.params)


def test_errors() -> None:
    x, y = classification()
    with pytest.raises(TypeError, match="expected Callback objects; received function"):
        classifier().fit(x, y, verbose=0, callbacks=[lambda: None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="expected names of hooks; received 'on_epoch'"):
        fp.LambdaCallback(on_epoch=print)
    with pytest.raises(TypeError, match="LambdaCallback: on_epoch_end must be a function; received int"):
        fp.LambdaCallback(on_epoch_end=3)  # type: ignore[arg-type]


def test_an_error_in_a_callback_frees_the_model() -> None:
    x, y = classification()
    model = classifier()

    def fail(epoch: int, logs: Any) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        model.fit(x, y, verbose=0, callbacks=fp.LambdaCallback(on_epoch_end=fail))
    model.fit(x, y, verbose=0)
    assert int(model.get_state()["counters/epoch"]) == 2


@pytest.mark.parametrize("min_delta", [0.5, -0.5])
def test_the_sign_of_min_delta_does_not_matter(min_delta: float) -> None:
    stopping: Any = fp.EarlyStopping("loss", min_delta)
    stopping.model = SimpleNamespace(stop_training=False)
    stopping.on_epoch_end(0, {"loss": 2.0})
    stopping.on_epoch_end(1, {"loss": 1.25})
    assert not stopping.model.stop_training
    stopping.on_epoch_end(2, {"loss": 1.0})
    assert stopping.model.stop_training
    assert stopping.best_epoch == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"monitor": 3}, TypeError, "monitor must be the name of a log; received 3"),
        ({"patience": -1}, ValueError, "patience must be an integer of at least 0; received -1"),
        ({"patience": 1.5}, ValueError, "patience must be an integer"),
        ({"min_delta": "a"}, TypeError, "min_delta must be a number; received 'a'"),
        ({"baseline": "a"}, TypeError, "baseline must be a number; received 'a'"),
        ({"baseline": math.nan}, ValueError, "baseline must be finite in float64; received nan"),
        ({"verbose": "a"}, ValueError, "verbose must be 0 or 1; received 'a'"),
        ({"start_from_epoch": None}, ValueError, "start_from_epoch must be an integer"),
    ],
)
def test_early_stopping_checks_its_arguments(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=f"EarlyStopping: {message}"):
        fp.EarlyStopping(**options)


@pytest.mark.parametrize(
    ("monitor", "share", "message"),
    [
        ("unknown", 0.0, "loss, accuracy; received 'unknown'"),
        ("acc", 0.2, "loss, accuracy, val_loss, val_accuracy; received 'acc'"),
        ("val_loss", 0.0, "loss, accuracy; received 'val_loss'; val_ names need validation data"),
        ("val_unknown", 0.2, "loss, accuracy, val_loss, val_accuracy; received 'val_unknown'"),
    ],
)
def test_early_stopping_on_a_log_that_nobody_writes_trains_nothing(
    backend: str, monitor: str, share: float, message: str
) -> None:
    x, y = classification()
    model = classifier()
    model.build(6)
    recorder = Recorder()
    before = model.get_state()
    callbacks = [fp.EarlyStopping("loss"), recorder, fp.History(), fp.EarlyStopping(monitor, start_from_epoch=9)]
    with pytest.raises(ValueError, match=f"^EarlyStopping: monitor must be one of {message}"):
        model.fit(x, y, verbose=0, validation_split=share, callbacks=[callbacks[0], *callbacks[2:]])
    assert all((before[name] == now).all() for name, now in model.get_state().items())
    # A callback before it that knows the ends of epochs may write other names; then only they tell.
    with pytest.raises(ValueError, match="EarlyStopping: monitor must be one of"):
        model.fit(x, y, epochs=10, verbose=0, validation_split=share, callbacks=callbacks)
    assert (("on_epoch_end", 9) in recorder.calls) == (monitor != "val_loss")
    if monitor != "val_loss":
        model.fit(x, y, epochs=9, verbose=0, validation_split=share, callbacks=callbacks)  # it has yet to watch


@pytest.mark.parametrize("callback", [fp.EarlyStopping("val_loss"), "callback", fp.EarlyStopping])
def test_refused_callbacks_leave_a_model_unbuilt(callback: Any) -> None:
    x, y = classification()
    model = fp.Sequential([fp.Dense(3)])
    model.compile("sgd", fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises((TypeError, ValueError), match=r"monitor must be one of loss|expected Callback objects"):
        model.fit(x, y, verbose=0, callbacks=[callback])
    with pytest.raises((TypeError, ValueError), match=r"monitor must be|expected Callback objects; received"):
        model.fit(x, y, verbose=0, callbacks=callback)
    assert not model.built


def test_logs_of_other_callbacks_can_be_watched() -> None:
    x, y = classification()

    class AfterEvaluation(fp.Callback):
        def on_test_end(self, logs: Any = None) -> None:
            logs["watched"] = 1.0

    class Own(fp.EarlyStopping):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, {"watched": 1.0})

    stopping = fp.EarlyStopping("val_watched")
    model = classifier()
    history = model.fit(x, y, epochs=5, verbose=0, validation_split=0.2, callbacks=[stopping, AfterEvaluation()])
    assert history.history["val_watched"] == [1.0, 1.0]
    assert len(model.fit(x, y, epochs=5, verbose=0, callbacks=Own("watched")).epoch) == 2

    class Writing(fp.History):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["watched"] = epoch

    assert len(model.fit(x, y, epochs=5, verbose=0, callbacks=[Writing(), fp.EarlyStopping("watched")]).epoch) == 2
    writer = fp.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(watched=epoch))
    assert len(model.fit(x, y, epochs=5, verbose=0, callbacks=[writer, fp.EarlyStopping("watched")]).epoch) == 2
    for odd in ("high", None):
        writer = fp.LambdaCallback(on_epoch_end=lambda epoch, logs, odd=odd: logs.update(watched=odd))
        with pytest.raises(TypeError, match=f"EarlyStopping: watched must be a number; received {odd!r}"):
            model.fit(x, y, verbose=0, callbacks=[writer, fp.EarlyStopping("watched")])
    with pytest.raises(ValueError, match="received 'watched'"):  # the writer comes too late
        model.fit(x, y, epochs=5, verbose=0, callbacks=[fp.EarlyStopping("watched"), writer])


def test_early_stopping_says_that_it_stopped_in_the_first_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = classification()
    stopping = fp.EarlyStopping("loss", baseline=0.0, verbose=1)
    classifier().fit(x, y, epochs=2, verbose=0, callbacks=stopping)
    assert stopping.stopped_epoch == 0
    told = capsys.readouterr().out
    assert told.startswith("EarlyStopping: stopped after epoch 1; best was epoch 1, whose loss ")
    assert told.endswith(" does not beat the baseline 0\n")


@pytest.mark.parametrize(
    ("values", "best", "told"),
    [
        ([5.0, 3.0, 4.0, 0.5], 1, "after epoch 3; best was epoch 2, whose watched 3 does not beat the baseline 1"),
        ([5.0, 0.5, 2.0, 3.0, 4.0], 1, "after epoch 5; best was epoch 2\n"),
        ([float("nan"), float("inf"), float("nan"), 0.5], -1, "after epoch 3; none was best, watched was never finite"),
    ],
)
def test_early_stopping_says_which_epoch_was_best_and_restores_it(
    values: list[float], best: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a baseline of 1 and a patience of 3."""
    x, y = classification()
    model = classifier()
    weights: list[Any] = []

    class Watched(fp.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            logs["watched"] = values[epoch]
            weights.append(self.model.get_weights())

    stopping = fp.EarlyStopping("watched", patience=3, verbose=1, baseline=1.0, restore_best_weights=True)
    model.fit(x, y, epochs=len(values), verbose=0, callbacks=[Watched(), stopping])
    assert stopping.best_epoch == best
    assert capsys.readouterr().out.startswith(f"EarlyStopping: stopped {told}")
    assert all((a == b).all() for a, b in zip(model.get_weights(), weights[best], strict=True))

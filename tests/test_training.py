"""compile, fit, evaluate, predict: data of every kind, weights, splits, errors, threads, interrupts, divergence."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from typing import Any

import numpy as np
import pytest
from api_examples import classification, classifier, regression, same_state

import fastperceptron as fp

pytestmark = pytest.mark.usefixtures("backend")


def linear(seed: int = 0, **options: Any) -> fp.Sequential:
    model = fp.Sequential([fp.Dense(1)], seed=seed, dtype="float64", **options)
    model.compile(fp.SGD(0.05), "mse", metrics=["mae", "r2"])
    return model


# -- results -----------------------------------------------------------------------------------------------------


def test_history_and_return_values() -> None:
    x, y = regression()
    model = linear()
    history = model.fit(x, y, epochs=3, initial_epoch=1, validation_data=(x[:10], y[:10]), verbose=0)
    assert history is model.history
    assert history.epoch == [1, 2]
    assert list(history.history) == ["loss", "mae", "r2", "val_loss", "val_mae", "val_r2"]
    names = ["loss", "mae", "r2", "val_loss", "val_mae", "val_r2"]
    assert history.params == {"epochs": 3, "steps": 4, "verbose": 0, "metrics": names}
    values = model.evaluate(x, y)
    assert model.evaluate(x, y, return_dict=True) == dict(zip(model.metrics_names, values, strict=True))
    prediction = model.predict(x)
    assert values[0] == pytest.approx(np.square(prediction - y).mean(), rel=1e-12)
    assert values[1] == pytest.approx(np.abs(prediction - y).mean(), rel=1e-12)
    assert model.test_on_batch(x, y) == pytest.approx(values, rel=1e-12)
    assert model.predict_on_batch(x).tobytes() == prediction.tobytes()
    model.compile("sgd", "mse")
    assert isinstance(model.evaluate(x, y), float)
    assert isinstance(model.train_on_batch(x, y), float)


def test_epoch_loss_is_the_mean_over_rows() -> None:
    # A learning rate of 0 keeps the weights: 7 rows in batches of 3 weigh 3, 3 and 1.
    x, y = regression(7)
    model = linear()
    model.compile(fp.SGD(0.0), "mse")
    loss = model.fit(x, y, batch_size=3, verbose=0).history["loss"][0]
    assert loss == pytest.approx(model.evaluate(x, y), rel=1e-12)


def test_logs_begin_anew_with_every_epoch() -> None:
    x, y = regression(20)
    together, apart = linear(), linear()
    expected = together.fit(x, y, epochs=2, verbose=0).history
    for epoch in range(2):
        assert apart.fit(x, y, verbose=0).history == {name: [values[epoch]] for name, values in expected.items()}
        apart.evaluate(x[:3], y[:3])


def test_validation_split_is_shuffled_and_stays_the_same() -> None:
    x = np.arange(100.0)[:, None]
    seen: list[Any] = []

    class Spy(fp.Loss):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            seen.append(y_true[:, 0].copy())
            return np.zeros(len(y_true)), np.zeros_like(y_pred)

    model = fp.Sequential([fp.Dense(1)], seed=1, dtype="float64")
    model.compile("sgd", Spy())
    held_out = []
    for _ in range(2):
        seen.clear()
        model.fit(x, x, batch_size=80, validation_split=0.2, verbose=0)
        train, validation = seen
        assert len(train) == 80
        assert sorted([*train, *validation]) == list(range(100))
        assert list(validation) == sorted(validation)
        held_out.append(list(validation))
    assert held_out[0] == held_out[1]
    assert held_out[0] != list(range(80, 100))


def test_shuffle_changes_with_the_epoch() -> None:
    x = np.arange(20.0)[:, None]
    seen: list[Any] = []

    class Spy(fp.Loss):
        def value_and_grad(self, y_true: Any, y_pred: Any, weights: Any) -> Any:
            seen.append(y_true[:, 0].tolist())
            return np.zeros(len(y_true)), np.zeros_like(y_pred)

    model = fp.Sequential([fp.Dense(1)], seed=1)
    model.compile("sgd", Spy())
    model.fit(x, x, epochs=2, verbose=0)
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(20))
    assert seen[0] != seen[1]
    seen.clear()
    model.fit(x, x, shuffle=False, verbose=0)
    assert seen[0] == list(range(20))


def test_sample_and_class_weights() -> None:
    x, y = classification(60)
    weights = np.random.default_rng(5).random(60)
    by_class = {0: 0.5, 2: 3.0}
    combined = weights * np.array([0.5, 1.0, 3.0])[y]
    a, b = classifier(), classifier()
    first = a.fit(x, y, epochs=2, sample_weight=weights, class_weight=by_class, verbose=0).history
    second = b.fit(x, y, epochs=2, sample_weight=combined, verbose=0).history
    assert first == second
    assert same_state(a, b)
    losses = fp.losses.SparseCategoricalCrossentropy(True).per_sample(y, a.predict(x))
    assert a.evaluate(x, y, sample_weight=weights)[0] == pytest.approx(losses @ weights / 60, rel=1e-5)
    one_hot = fp.data.class_weights(by_class, np.eye(3)[y], 3, "fit")
    np.testing.assert_array_equal(one_hot, fp.data.class_weights(by_class, y, 3, "fit"))
    np.testing.assert_array_equal(fp.data.class_weights({1: 2.0}, np.array([[0.0], [1.0]]), 1, "fit"), [1.0, 2.0])
    with pytest.raises(ValueError, match="classes 0 to 2; received 3"):
        a.fit(x, y, class_weight={3: 1.0}, verbose=0)


def test_a_weight_of_two_is_the_row_twice() -> None:
    x, y = regression(6)
    a, b = linear(), linear()
    a.fit(x, y, batch_size=6, shuffle=False, sample_weight=[2, 1, 1, 1, 1, 0], verbose=0)
    rows = [0, 0, 1, 2, 3, 4]
    b.fit(x[rows], y[rows], batch_size=6, shuffle=False, verbose=0)
    np.testing.assert_allclose(a.get_weights()[0], b.get_weights()[0], rtol=1e-12)


def test_train_on_batch_steps_like_fit() -> None:
    x, y = classification(32)
    a, b = classifier(dropout=0.0), classifier(dropout=0.0)
    a.fit(x, y, batch_size=32, shuffle=False, verbose=0)
    logs = b.train_on_batch(x, y, return_dict=True)
    assert set(logs) == {"loss", "accuracy"}
    assert all((p == q).all() for p, q in zip(a.get_weights(), b.get_weights(), strict=True))


# -- data --------------------------------------------------------------------------------------------------------


def kinds_of_arrays(x: Any) -> dict[str, Any]:
    """The same whole numbers from 0 to 9, each held in another way."""
    wide = np.zeros((x.shape[0] * 2, x.shape[1] * 3), np.float64)
    wide[::2, ::3] = x
    packed = np.zeros(x.size * 4 + 1, np.uint8)
    misaligned = packed[1:].view(np.float32).reshape(x.shape)
    misaligned[...] = x
    frozen = x.copy()
    frozen.setflags(write=False)
    found = {str(np.dtype(t)): x.astype(t) for t in "?bBhHiIlLqQefdg" if t != "?"}
    return found | {
        "list": x.tolist(),
        "strided": wide[::2, ::3],
        "negative": x[::-1, ::-1].copy()[::-1, ::-1],
        "fortran": np.asfortranarray(x),
        "misaligned": misaligned,
        "byte-swapped": x.astype(">f4"),
        "read-only": frozen,
        "matrix": x.view(np.matrix),
    }


def test_inputs_of_every_kind_train_alike_and_stay_as_they_are() -> None:
    rng = np.random.default_rng(6)
    x = rng.integers(0, 10, (40, 3)).astype(np.float32)
    y = rng.integers(0, 3, 40)
    reference = classifier()
    reference.fit(x, y, epochs=2, verbose=0)
    expected = reference.predict(x)
    for name, array in kinds_of_arrays(x).items():
        before = np.array(array)
        model = classifier()
        model.fit(array, y, epochs=2, verbose=0)
        assert same_state(model, reference), name
        assert model.predict(array).tobytes() == expected.tobytes(), name
        assert (np.array(array) == before).all(), name


def test_zero_strides_and_bools() -> None:
    x = np.broadcast_to(np.float32([1, 0, 1]), (40, 3))
    model = classifier()
    model.build(3)
    assert model.predict(x).tobytes() == model.predict(x.copy()).tobytes()
    assert model.predict(x.astype(bool)).tobytes() == model.predict(x).tobytes()


def test_dlpack_and_array_protocols() -> None:
    class Exchange:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __dlpack__(self, **options: Any) -> Any:
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.array.__dlpack_device__()

    class Frame:
        def __init__(self, array: Any) -> None:
            self.array = array

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return self.array

    x, y = classification()
    model = classifier()
    model.fit(Exchange(x), Frame(y), verbose=0)
    assert model.predict(Frame(x)).tobytes() == model.predict(x).tobytes()


def test_labels_and_targets_in_their_forms() -> None:
    x, y = classification()
    reference = classifier()
    reference.fit(x, y, verbose=0)
    for labels in (y.astype(np.uint8), y.astype(np.float64), y[:, None], y.tolist(), y.astype(">i4")):
        model = classifier()
        model.fit(x, labels, verbose=0)
        assert same_state(model, reference)
    x, y = regression()
    a, b = linear(), linear()
    a.fit(x, y, verbose=0)
    b.fit(x, y[:, 0], verbose=0)
    assert same_state(a, b)
    assert a.predict(x).shape == (100, 1)


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (np.ones((4, 7)), [0] * 4, fp.ShapeError, r"fit: x must have shape \(n, 6\); received \(4, 7\)"),
        (np.ones(6), [0], fp.ShapeError, r"received \(6,\); one sample is x\[None\]"),
        (np.ones((4, 6)), [0] * 3, fp.ShapeError, "y must have as many rows as there are samples, 4; received 3"),
        (np.ones((2, 6)), [0, 3], ValueError, "labels from 0 to 2.*received 3 in row 1"),
        (np.ones((2, 6)), [-1, 0], ValueError, "received -1 in row 0"),
        (np.ones((2, 6)), [0.5, 0], ValueError, "received 0.5 in row 0"),
        (np.ones((2, 6)), [0, np.nan], ValueError, "received nan in row 1"),
        (np.ones((2, 6)), np.array([0, 2**64 - 1], np.uint64), ValueError, "received 18446744073709551615 in row 1"),
        (np.ones((2, 6)), [[0, 1], [1, 0]], fp.ShapeError, r"class labels, shape \(n,\); received \(2, 2\)"),
        (np.ones((2, 6)), None, ValueError, "y must be given"),
        (
            np.full((2, 6), None),
            [0, 1],
            fp.DTypeError,
            "real numbers; received shape .2, 6., dtype object; convert n",
        ),
        (np.ones((2, 6), complex), [0, 1], fp.DTypeError, "dtype complex128"),
        (np.ones((2, 6), "M8[s]"), [0, 1], fp.DTypeError, r"dtype datetime64\[s\]"),
        (np.ones((2, 6), "U3"), [0, 1], fp.DTypeError, "dtype <U3"),
        ([[1.0] * 6, [1.0]], [0, 1], fp.ShapeError, "rectangular"),
        (np.ma.masked_equal(np.ones((2, 6)), 1), [0, 1], ValueError, "no masked entries"),
        (np.ones((0, 6)), [], ValueError, "at least one row"),
        (np.ones((2, 6)), ["a", "b"], fp.DTypeError, "y must hold real numbers"),
    ],
)
def test_bad_data_changes_nothing(x: Any, y: Any, error: Any, message: str) -> None:
    good = classification()
    model = classifier()
    model.fit(*good, verbose=0)
    before, history = model.get_state(), model.history
    for call in (model.fit, model.train_on_batch):
        with pytest.raises(error, match=message.replace("fit: ", "")):
            call(x, y)
    after = model.get_state()
    assert all(before[key].tobytes() == after[key].tobytes() for key in before)
    assert model.history is history


def test_a_failed_first_fit_leaves_the_model_unbuilt() -> None:
    x, y = classification()
    model = classifier()
    with pytest.raises(fp.ShapeError):
        model.fit(np.ones((4, 9)), [0, 1], verbose=0)
    assert not model.built
    assert not model.layers[0].built
    model.fit(x, y, verbose=0)
    fresh = classifier()
    fresh.fit(x, y, verbose=0)
    assert same_state(model, fresh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1; received 0"),
        ({"epochs": -1}, "epochs must be an integer of at least 0; received -1"),
        ({"epochs": 1.5}, "received 1.5"),
        ({"validation_split": 1.0}, "at least 0 and below 1; received 1.0"),
        ({"validation_split": 1e-12}, "leave rows on both sides; received 120 rows"),
        ({"validation_data": 3}, r"must be \(x, y\)"),
        ({"validation_data": (np.ones((2, 5)), [0, 0])}, r"validation x must have shape \(n, 6\)"),
        ({"sample_weight": [1.0]}, "sample_weight must have as many rows as there are samples, 120; received 1"),
        ({"sample_weight": [np.nan] * 120}, "must be finite; received nan in row 0"),
        ({"verbose": 3}, "verbose must be 0, 1, 2 or 'auto'; received 3"),
        ({"validation_batch_size": 0}, "validation_batch_size"),
    ],
)
def test_bad_options(options: Any, message: str) -> None:
    x, y = classification()
    model = classifier()
    with pytest.raises(ValueError, match=message):
        model.fit(x, y, **{"verbose": 0, **options})
    assert not model.built


def test_numbers_of_numpys_narrow_types() -> None:
    x = np.zeros((200_000, 1), np.float32)
    model = fp.Sequential([fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    rows: list[int] = []
    count = fp.LambdaCallback(on_predict_batch_end=lambda batch, logs: rows.append(len(logs["outputs"])))
    model.fit(x, x, batch_size=np.int64(100_000), validation_split=np.float16(0.5), verbose=0)
    assert int(model.get_state()["counters/step"]) == 1
    model.predict(x[:450], batch_size=np.uint8(200), callbacks=count)
    assert rows == [200, 200, 50]
    stopping = fp.EarlyStopping("watched", baseline=np.float16(0.3), patience=2)  # 0.30005
    watched = fp.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(watched=0.3 - 1e-5 * epoch))
    assert len(model.fit(x[:2], x[:2], epochs=3, verbose=0, callbacks=[watched, stopping]).epoch) == 3


def test_uncompiled() -> None:
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1)])
    for call in (model.fit, model.evaluate, model.train_on_batch, model.trace):
        with pytest.raises(RuntimeError, match="call compile"):
            call([[1.0]], [[1.0]])
    with pytest.raises(ValueError, match="loss must be a name or a Loss; received None"):
        model.compile("sgd")
    assert model.predict([[1.0]]).shape == (1, 1)


def test_a_metric_that_cannot_begin_leaves_the_model_as_it_was() -> None:
    class Broken(fp.Metric):
        def reset_state(self) -> None:
            raise OSError("broken")

    model = classifier()
    x, y = classification()
    model.fit(x, y, verbose=0)
    twin = model.copy()
    with pytest.raises(OSError, match="broken"):
        model.compile("sgd", "mae", [Broken()])
    assert same_state(model, twin)
    assert model.metrics_names == ["loss", "accuracy"]
    assert type(model.loss).__name__ == "SparseCategoricalCrossentropy"


def test_names_of_metrics_before_the_model_is_built() -> None:
    model = fp.Sequential([fp.Dense(1)])
    assert model.metrics_names == ["loss"]
    model.compile("sgd", "mse", ["mae", "r2"])
    assert model.metrics_names == ["loss", "mae", "r2"]
    model.build((2,))
    assert model.metrics_names == ["loss", "mae", "r2"]


def test_logs_that_validation_would_overwrite_are_refused() -> None:
    x, y = regression()
    model = fp.Sequential([fp.Dense(1)], seed=0)
    model.compile("sgd", "mse", metrics=[fp.metrics.MeanAbsoluteError(name="val_loss")])
    with pytest.raises(ValueError, match="fit: with validation, names of logs must differ; received val_loss more"):
        model.fit(x, y, validation_split=0.2, verbose=0)
    assert not model.built
    assert list(model.fit(x, y, verbose=0).history) == ["loss", "val_loss"]  # nothing is lost without validation

    for names, twice in ({"a": 1, "val_a": 1}, "val_a_loss"), ({"a": 1, "val": 1}, "val_loss"):
        inputs = fp.Input((x.shape[1],))
        model = fp.Model(inputs, {name: fp.Dense(width)(inputs) for name, width in names.items()}, seed=0)
        model.compile("sgd", "mse")
        targets = dict.fromkeys(names, y)
        before = model.get_state()
        with pytest.raises(ValueError, match=f"must differ; received {twice} more than once"):
            model.fit(x, targets, validation_data=(x, targets), verbose=0)
        assert all(before[name].tobytes() == now.tobytes() for name, now in model.get_state().items())


def test_predictions() -> None:
    model = classifier()
    x, y = classification()
    model.fit(x, y, verbose=0)
    whole = model.predict(x)
    assert whole.dtype == np.float32
    assert model.predict(x[:0]).shape == (0, 3)
    for wrong in (0, "many"):
        with pytest.raises(ValueError, match="predict: batch_size must be an integer of at least 1; received"):
            model.predict(x, batch_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(fp.ShapeError, match="test_on_batch: x must have"):
        model.test_on_batch(np.array(3.0), y)
    assert np.concatenate([model.predict(x[i : i + 1]) for i in range(4)]).shape == (4, 3)
    assert linear().fit(*regression(), verbose=0) is not None
    assert np.isnan(model.predict(np.full((1, 6), np.nan))).all()


# -- divergence, interrupts, threads -------------------------------------------------------------------------------


def test_divergence_is_said_once_and_names_the_epoch() -> None:
    x, y = regression()
    model = linear()
    model.compile(fp.SGD(1e6), "mse")
    with pytest.warns(fp.DivergenceWarning, match=r"the loss became (inf|nan) in epoch \d+") as caught:
        model.fit(x * 100, y, epochs=40, batch_size=10, verbose=0)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_divergence_in_the_last_step_is_said() -> None:
    model = fp.Sequential([fp.Input((1,)), fp.Dense(1)], seed=0)
    model.compile(fp.SGD(1e38), "mse")
    with pytest.warns(fp.DivergenceWarning, match="weights became infinite or NaN in epoch 1"):
        model.fit([[1e15]], [[0.0]], verbose=0)
    assert model.fit([[1e15]], [[0.0]], epochs=0, verbose=0).history == {}  # no step that could have diverged


def test_terminate_on_nan() -> None:
    x, y = regression()
    model = linear()
    model.compile(fp.SGD(1e6), "mse")
    with pytest.warns(fp.DivergenceWarning):
        history = model.fit(x * 100, y, epochs=40, verbose=0, callbacks=[fp.TerminateOnNaN()])
    assert len(history.epoch) < 40


def test_interrupt_leaves_a_whole_step_and_fit_works_after() -> None:
    x, y = classification(2000)
    model = classifier()
    model.fit(x, y, epochs=1, verbose=0)
    steps = 63

    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.25, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, epochs=10**6, verbose=0)
    timer.join()
    state = model.get_state()
    # Doing the same number of steps without an interrupt gives the same bits.
    epochs, rest = divmod(int(state["counters/step"]), steps)
    # (Between an epoch's last step and its being counted there is an instant.)
    assert int(state["counters/epoch"]) in ((epochs,) if rest else (epochs, epochs - 1))
    twin = classifier()

    class StopAt(fp.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if int(twin.get_state()["counters/step"]) == int(state["counters/step"]):
                self.model.stop_training = True

    twin.fit(x, y, epochs=epochs, verbose=0)
    if rest:
        twin.fit(x, y, epochs=1, verbose=0, callbacks=StopAt())
    assert all((a == b).all() for a, b in zip(model.get_weights(), twin.get_weights(), strict=True))
    model.fit(x, y, epochs=1, verbose=0)


def in_thread(function: Any) -> BaseException | None:
    """What `function` raises in another thread."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_thread_contract() -> None:
    x, y = classification()
    model = classifier()
    model.fit(x, y, verbose=0)
    outcomes: dict[str, Any] = {}

    class Busy(fp.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            calls = {
                "fit": lambda: model.fit(x, y, verbose=0),
                "predict": lambda: model.predict(x),
                "evaluate": lambda: model.evaluate(x, y),
                "set_weights": lambda: model.set_weights(model.get_weights()),
                "kernel": lambda: model.layers[0].kernel,  # type: ignore[attr-defined]
                "compile": lambda: model.compile("sgd", "sparse_categorical_crossentropy"),
            }
            for name, call in calls.items():
                outcomes[name] = in_thread(call)
            assert model.predict(x).shape == (120, 3)
            assert len(model.evaluate(x, y)) == 2
            for call in (lambda: model.fit(x, y, verbose=0), lambda: model.add(fp.Dense(2)), model.pop):
                with pytest.raises(fp.ModelBusyError, match="the fit around this call"):
                    call()

    model.fit(x, y, verbose=0, callbacks=Busy())
    assert set(outcomes) == {"fit", "predict", "evaluate", "set_weights", "kernel", "compile"}
    for name, error in outcomes.items():
        assert isinstance(error, fp.ModelBusyError), name
    assert in_thread(lambda: model.fit(x, y, verbose=0)) is None


def test_concurrent_predictions_are_equal() -> None:
    x, y = classification(3000)
    model = classifier()
    model.fit(x, y, verbose=0)
    expected = model.predict(x).tobytes()
    wrong: list[int] = []

    def predict() -> None:
        for _ in range(20):
            if model.predict(x).tobytes() != expected:
                wrong.append(1)

    threads = [threading.Thread(target=predict) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_is_not_busy() -> None:
    x, y = classification()
    model = classifier()
    model.fit(x, y, verbose=0)

    class Fork(fp.Callback):
        status = -1

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            def child() -> None:
                pid = os.fork()
                if pid == 0:  # the parent's main thread trains; here it does not exist
                    code = 1
                    try:
                        model.fit(x, y, verbose=0)
                        model.predict(x)
                        code = 0
                    finally:
                        os._exit(code)
                self.status = os.waitpid(pid, 0)[1]

            thread = threading.Thread(target=child)
            thread.start()
            thread.join()

    fork = Fork()
    model.fit(x, y, verbose=0, callbacks=fork)
    assert fork.status == 0


def test_targets_of_crossentropies_are_in_range() -> None:
    x = np.ones((2, 3))
    for loss, y, message in (
        ("binary_crossentropy", [[0.0, 1.0], [1.0, -1.0]], r"fit: y must lie in \[0, 1\]; received -1.0 in row 1"),
        ("binary_crossentropy", [[2, 1], [1, 0]], r"fit: y must lie in \[0, 1\]; received 2 in row 0"),
        ("categorical_crossentropy", [[0, 1], [-1, 2]], "fit: y must be at least 0; received -1 in row 1"),
    ):
        model = fp.Sequential([fp.Dense(2, "sigmoid")])
        model.compile("sgd", loss)
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0)


@pytest.mark.parametrize("loss", ["binary_crossentropy", "categorical_crossentropy", "mse"])
def test_no_rows_are_refused_whatever_the_loss(loss: str) -> None:
    model = fp.Sequential([fp.Input((3,)), fp.Dense(2, "sigmoid")])
    model.compile("sgd", loss)
    none = np.ones((0, 3)), np.ones((0, 2))
    for call in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch, model.trace):
        with pytest.raises(ValueError, match=r"expected at least one row; received x of shape \(0, 3\)"):
            call(*none)
    with pytest.raises(ValueError, match=r"expected at least one row; received validation x of shape \(0, 3\)"):
        model.fit(np.ones((2, 3)), np.ones((2, 2)), verbose=0, validation_data=none)


def test_divergence_names_the_row_that_is_not_finite() -> None:
    x, y = regression(10)
    x[3, 1] = np.nan
    model = fp.Sequential([fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    with pytest.warns(fp.DivergenceWarning, match="in epoch 1; x holds nan in row 3"):
        model.fit(x, y, verbose=0)


def test_divergence_names_the_row_of_the_callers_data_when_some_are_held_out() -> None:
    x, y = regression(10)
    named = []
    for row in range(10):
        bad = x.copy()
        bad[row, 1] = np.nan
        model = fp.Sequential([fp.Dense(1)], seed=0)
        model.compile("sgd", "mse")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(bad, y, verbose=0, validation_split=0.3)
        named += [f"x holds nan in row {row}" in str(warning.message) for warning in caught]
    assert named == [True] * 7


def test_divergence_names_the_input_that_is_not_finite() -> None:
    x, y = regression(10)
    left, right = fp.Input((5,), name="left"), fp.Input((5,), name="right")
    h = fp.Add()([left, right])
    model = fp.Model([left, right], [fp.Dense(1, name="free")(h), fp.Dense(1, name="judged")(h)], seed=0)
    model.compile("sgd", [None, "mse"])
    bad = x.copy()
    bad[2, 0] = np.inf
    for data, targets, message in (
        ([x, bad], [None, y], r"x\['right'\] holds inf in row 2"),
        ([x, x], [None, y * np.inf], r"y\['judged'\] holds -?inf in row 0"),
    ):
        with pytest.warns(fp.DivergenceWarning, match=message):
            model.fit(data, targets, verbose=0)


def test_validation_arguments() -> None:
    x, y = regression(20)
    model = fp.Sequential([fp.Dense(1)], seed=0)
    model.compile("sgd", "mse")
    assert "val_loss" in model.fit(x, y, verbose=0, validation_split=np.float32(0.5)).history
    with pytest.raises(ValueError, match=r"validation_data must be .*; received tuple of length 1"):
        model.fit(x, y, verbose=0, validation_data=(x,))

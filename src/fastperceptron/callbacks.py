"""Callbacks: code of one's own that runs while a model trains.

All hooks of Keras exist, but not the old names of two, ``on_batch_begin`` and ``on_batch_end``. Defining a per-batch
hook makes ``fit`` return to Python after every batch; without one it does so about twenty times a second.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .checks import as_finite, as_flag, is_integer, kind_of

if TYPE_CHECKING:
    from .training import Trainer

__all__ = ["Callback", "CallbackList", "EarlyStopping", "History", "LambdaCallback", "TerminateOnNaN"]

Logs = dict[str, float]


class Callback:
    """Base class; define the hooks you need.

    ``self.model`` is the model, ``self.params`` has "epochs", "steps", "verbose" and, in ``fit``, "metrics", the names
    of the logs. Setting ``self.model.stop_training`` ends the training after the batch or epoch.
    """

    model: Any  # the model that is trained: a fastperceptron.Model
    params: dict[str, Any]

    def set_model(self, model: Trainer) -> None:
        """Called before training; makes ``self.model``."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before training; makes ``self.params``."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch; logs of that epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before epoch number `epoch`, counted from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After the epoch and its validation; logs has loss, metrics and their val_ counterparts."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a training batch."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a training batch; logs has the means since the epoch began."""

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Before an evaluation, that of a validation set included."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """After an evaluation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of an evaluation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of an evaluation."""

    def on_predict_begin(self, logs: Logs | None = None) -> None:
        """Before a prediction."""

    def on_predict_end(self, logs: Logs | None = None) -> None:
        """After a prediction."""

    def on_predict_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Before a batch of a prediction."""

    def on_predict_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a batch of a prediction; logs has "outputs"."""


class CallbackList:
    """Calls the same hook of several callbacks, in order."""

    def __init__(self, callbacks: Iterable[Callback], params: dict[str, Any]) -> None:
        self.callbacks = list(callbacks)
        self.params = params
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks: expected Callback objects; received {kind_of(callback)}")

    def join(self, model: Trainer) -> None:
        """Tells the callbacks what is run, and how."""
        for callback in self.callbacks:
            callback.set_model(model)
            callback.set_params(self.params)

    def per_batch(self, kind: str) -> bool:
        """Whether any callback has hooks around batches; kind is "train", "test" or "predict"."""
        hooks = (f"on_{kind}_batch_begin", f"on_{kind}_batch_end")
        return any(callback_defines(callback, hook) for callback in self.callbacks for hook in hooks)

    def check_monitors(self) -> None:
        """Raises ValueError for an EarlyStopping that watches what nobody writes into the logs of ``fit``."""
        names = self.params["metrics"]
        validates = any(name.startswith("val_") for name in names)
        written = validates and any(callback_defines(callback, "on_test_end") for callback in self.callbacks)
        others = False  # whether a callback before it may add logs at the end of an epoch
        for callback in self.callbacks:
            if isinstance(callback, EarlyStopping):
                callback.check_monitor(names, others or (written and callback.monitor.startswith("val_")))
            if not watches_only(callback):
                others |= callback_defines(callback, "on_epoch_end")

    def call(self, hook: str, *arguments: Any) -> None:
        """Calls that hook of every callback."""
        for callback in self.callbacks:
            getattr(callback, hook)(*arguments)


def callback_defines(callback: Callback, hook: str) -> bool:
    return hook in vars(callback) or getattr(type(callback), hook) is not getattr(Callback, hook)


def watches_only(callback: Callback) -> bool:
    """Whether it is an EarlyStopping or a History, which take the logs as they come."""
    return type(callback).on_epoch_end in (EarlyStopping.on_epoch_end, History.on_epoch_end)


class History(Callback):
    """What ``fit`` returns: ``history`` maps each log's name to its values, ``epoch`` lists the epochs' numbers."""

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.params = {}

    @property
    def model(self) -> Any:
        """The model as long as it lives, else None: it has its history, and a cycle would keep its memory."""
        return self._model()

    @model.setter
    def model(self, model: Trainer) -> None:
        self._model = weakref.ref(model)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_model"}

    def __repr__(self) -> str:
        return f"<History of {len(self.epoch)} epochs: {', '.join(self.history)}>"


class LambdaCallback(Callback):
    """Hooks given as functions: ``LambdaCallback(on_epoch_end=lambda epoch, logs: print(epoch, logs))``."""

    def __init__(self, **hooks: Callable[..., Any] | None) -> None:
        for hook, function in hooks.items():
            if not hook.startswith("on_") or not hasattr(Callback, hook):
                raise TypeError(f"LambdaCallback: expected names of hooks; received {hook!r}")
            if function is None:
                continue
            if not callable(function):
                raise TypeError(f"LambdaCallback: {hook} must be a function; received {kind_of(function)}")
            setattr(self, hook, function)


class TerminateOnNaN(Callback):
    """Ends the training as soon as the cost of a batch is not finite."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


class EarlyStopping(Callback):
    """Ends the training when a log has not improved for `patience` epochs.

    Parameters
    ----------
    monitor : name of the log; another callback, before this one, may write it at the end of an epoch. ``fit`` raises
        ValueError before the first step where nobody will
    min_delta : the least change that counts as an improvement
    patience : epochs without improvement that are borne
    verbose : 1 tells when it has stopped, and which epoch was best
    mode : "min", "max", or "auto" ("max" for accuracies, r2 and auc)
    baseline : value that must be beaten; until one does, no epoch counts as an improvement
    restore_best_weights : go back to the weights of the best epoch at the end, whether it beat the baseline or not.
        Weights stay as they are where no epoch was watched, or the log was NaN or infinitely bad in all of them
    start_from_epoch : epochs to wait before watching
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be the name of a log; received {monitor!r}")
        if not is_integer(patience) or patience < 0:
            raise ValueError(f"EarlyStopping: patience must be an integer of at least 0; received {patience!r}")
        if not is_integer(start_from_epoch) or start_from_epoch < 0:
            raise ValueError(
                f"EarlyStopping: start_from_epoch must be an integer of at least 0; received {start_from_epoch!r}"
            )
        if verbose not in (0, 1):
            raise ValueError(f"EarlyStopping: verbose must be 0 or 1; received {verbose!r}")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"EarlyStopping: mode must be 'auto', 'min' or 'max'; received {mode!r}")
        self.monitor = monitor
        self.min_delta = abs(as_finite("EarlyStopping", "min_delta", min_delta, float))
        self.patience = patience
        self.verbose = verbose
        larger = monitor.endswith(("accuracy", "acc", "r2", "r2_score", "auc"))
        self.larger_is_better = mode == "max" or (mode == "auto" and larger)
        self.baseline = None if baseline is None else as_finite("EarlyStopping", "baseline", baseline)
        self.restore_best_weights = as_flag("EarlyStopping", "restore_best_weights", restore_best_weights)
        self.start_from_epoch = start_from_epoch
        self._begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self._begin()

    def check_monitor(self, names: Sequence[str], others: bool) -> None:
        """Raises ValueError when the monitor will not be among the logs, whose names are these. `others`: further ones
        may come from another callback. ``fit`` asks before the first step."""
        if self.monitor in names or not watches_only(self):
            return
        if not others or self.monitor.removeprefix("val_") in names:
            raise ValueError(self._missing(names))

    def _begin(self) -> None:
        self.wait = 0
        self.stopped_epoch: int | None = None
        self.best = -math.inf if self.larger_is_better else math.inf
        self.best_epoch = -1
        self._weights: list[np.ndarray[Any, Any]] | None = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if epoch < self.start_from_epoch:
            return
        value = self._value(logs or {})
        better = self._beats(value, self.best)
        if better:
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self._weights = self.model.get_weights()
        if better and (self.baseline is None or self._beats(value, self.baseline)):
            self.wait = 0
            return
        self.wait += 1
        if self.wait >= max(self.patience, 1):
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.verbose and self.stopped_epoch is not None:
            print(f"EarlyStopping: stopped after epoch {self.stopped_epoch + 1}; {self._found()}")
        if self._weights is not None:
            self.model.set_weights(self._weights)

    def _beats(self, value: float, other: float) -> bool:
        return value - self.min_delta > other if self.larger_is_better else value + self.min_delta < other

    def _found(self) -> str:
        if self.best_epoch < 0:
            return f"none was best, {self.monitor} was never finite"
        best = f"best was epoch {self.best_epoch + 1}"
        if self.baseline is None or self._beats(self.best, self.baseline):
            return best
        return f"{best}, whose {self.monitor} {self.best:g} does not beat the baseline {self.baseline:g}"

    def _value(self, logs: Mapping[str, float]) -> float:
        if self.monitor not in logs:
            raise ValueError(self._missing(logs))
        value: Any = logs[self.monitor]  # perhaps another callback's
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"EarlyStopping: {self.monitor} must be a number; received {value!r}") from None

    def _missing(self, names: Iterable[str]) -> str:
        names = list(names)
        alone = self.monitor.startswith("val_") and not any(name.startswith("val_") for name in names)
        hint = "; val_ names need validation data" if alone else ""
        return f"EarlyStopping: monitor must be one of {', '.join(names)}; received {self.monitor!r}{hint}"

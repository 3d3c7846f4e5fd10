"""compile, fit, evaluate and predict: how a model is driven.

``fit`` hands whole stretches of mini-batches to the network and comes back about every 50 ms, so that progress,
callbacks and Ctrl-C get their turn between whole steps.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import data, random
from .callbacks import Callback, CallbackList, History
from .checks import as_flag, is_integer, is_number
from .engine import Engine
from .errors import DivergenceWarning, NotBuiltError
from .fitting import BUDGET, EVALUATION_ROWS, Fit, Rows
from .judging import fit_log_names, judges_of
from .program import PRECISIONS
from .progress import SILENT, Silent, progress_for

__all__ = ["Trainer"]

Array = NDArray[Any]

_PREDICTION_ROWS = 1024  # only for per-batch callbacks
_NOTHING = nullcontext()


class Trainer(Engine):
    """What :class:`~fastperceptron.Model` inherits its training from."""

    # -- training ------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = 32,
        epochs: int = 1,
        verbose: int | str = "auto",
        callbacks: Callback | Sequence[Callback] | None = None,
        validation_split: Any = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        validation_batch_size: int | None = None,
    ) -> History:
        """Trains for `epochs` - `initial_epoch` passes over the data.

        Parameters
        ----------
        x : (n, ...) of any real dtype; never changed, not copied. Of a model with several inputs a list of such arrays
            in their order, or a dict by name
        y : targets (n, out), or class labels (n,) for sparse losses; for several outputs a list, or a dict by name
        batch_size : rows per step
        epochs, initial_epoch : the number of the last epoch, and how many are taken as done
        callbacks : one or several
        verbose : 0 silent; 1 or "auto" a progress bar, or lines where the output is no terminal; 2 a line per epoch
        validation_split : share of the rows, chosen by the model's key, that is held out; the same at every call
        validation_data : (x, y) or (x, y, sample_weight)
        validation_batch_size : rows at a time when validating; some thousand unless given
        shuffle : a new order every epoch, a function of the model's key and epoch number
        class_weight : {class: weight}; classes not named have weight 1
        sample_weight : (n,); the cost is sum_i weight_i loss_i / rows. For several outputs one, a list or a dict

        Returns
        -------
        History, whose ``history`` maps "loss", the metrics' names, and both with "val_" to one value per epoch. With
        several outputs "loss" is the weighted sum of "<output>_loss", and metrics are "<output>_<metric>".

        Raises
        ------
        ShapeError, DTypeError, ValueError
            Before anything of the model has changed.
        RuntimeError
            The model is not compiled; as ModelBusyError, another thread is using it, or this is a callback of its own
            training.
        """
        if self._compiled is None:
            raise RuntimeError("fit: expected a compiled model; call compile(optimizer, loss) first")
        batch_size = _rows(32 if batch_size is None else batch_size, "fit", "batch_size")
        if validation_batch_size is not None:
            validation_batch_size = _rows(validation_batch_size, "fit", "validation_batch_size")
        shuffle = as_flag("fit", "shuffle", shuffle)
        epochs, initial_epoch = (
            _positive(epochs, "fit", "epochs", 0),
            _positive(initial_epoch, "fit", "initial_epoch", 0),
        )
        display = progress_for(verbose, "fit")
        with self._ownership.writing("fit") as around:
            self._refuse_inside("fit", around)
            x, shape = self._first_rows(x, "fit")
            with self._structured(shape) as graph:
                train = self._check_data(graph, "fit", x, y, sample_weight, class_weight)
                rows, held_out = self._split(train.n, validation_split, validation_data is not None)
                validation = None
                if validation_data is not None:
                    validation = self._check_validation(graph, validation_data)
                elif held_out is not None:
                    validation = train  # without the weights of classes
                    if class_weight is not None:
                        validation = self._check_data(graph, "fit", x, y, sample_weight)
                count = train.n if rows is None else rows.size
                history = History()
                params = {
                    "epochs": epochs,
                    "steps": -(-count // batch_size),
                    "verbose": verbose,
                    "metrics": fit_log_names(judges_of(self._compiled, graph), validation is not None),
                }
                hooks = CallbackList([*_as_list(callbacks), history], params)
                hooks.check_monitors()
            hooks.join(self)
            self._push()
            self.stop_training, self.history = False, history
            try:
                run = Fit(self, train, rows, validation, held_out, batch_size, validation_batch_size, shuffle)
                run.epochs(initial_epoch, epochs, hooks, display)
            finally:
                display.close()
        return history

    def _first_rows(self, x: Any, operation: str) -> tuple[Any, tuple[int, ...]]:
        """x, and the shape of a row for a model that has yet to be built."""
        if self._graph is not None:
            return x, ()
        if isinstance(x, Mapping) and list(x) == ["input"]:  # as the input will be called
            x = x["input"]
        x = data.as_rows(x, None, operation)
        return x, x.shape[1:]

    def _split(self, n: int, share: Any, has_data: bool) -> tuple[Array | None, Array | None]:
        """Row numbers for training and for validation, in their order; None for all, and for no validation."""
        if not is_number(share) or not 0 <= share < 1:
            raise ValueError(f"fit: validation_split must be at least 0 and below 1; received {share!r}")
        if has_data or share == 0:
            return None, None
        kept = math.floor(n * (1 - float(share)) + 1e-9)
        if not 0 < kept < n:
            raise ValueError(f"fit: validation_split {share} must leave rows on both sides; received {n} rows")
        order = random.permutation(self._network_key, random.STREAM_SPLIT, 0, n)
        return np.sort(order[:kept]), np.sort(order[kept:])

    def train_on_batch(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        class_weight: Mapping[int, float] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """One step on these rows. Returns the cost before the step, or [cost, *metrics] of this batch."""
        if self._compiled is None:
            raise RuntimeError("train_on_batch: expected a compiled model; call compile(optimizer, loss) first")
        with self._ownership.writing("train_on_batch") as around:
            x, shape = self._first_rows(x, "train_on_batch")
            with self._structured(shape) as graph:
                rows = self._check_data(graph, "train_on_batch", x, y, sample_weight, class_weight)
            self._push()
            assert self._runner is not None
            n = rows.n
            with _NOTHING if around is None else self._logs_kept():
                self._reset_logs()
                self._runner.train_steps(rows.x, rows.y, rows.cast_weights(PRECISIONS[self.dtype]), None, n, 0, n, 0.0)
                self._count_updates()
                logs = self._logs()
                if not math.isfinite(logs["loss"]):
                    message = f"train_on_batch: training diverged: the loss became {logs['loss']}"
                    warnings.warn(message, DivergenceWarning, stacklevel=2)
                return _result(logs, return_dict)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: int | str = 0,
        sample_weight: Any = None,
        callbacks: Callback | Sequence[Callback] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """The cost over the data, or [cost, *metrics], or with ``return_dict`` all of them by name."""
        batch_size = _rows(EVALUATION_ROWS if batch_size is None else batch_size, "evaluate", "batch_size")
        return self._run_evaluation(
            "evaluate", x, y, sample_weight, batch_size, verbose, _as_list(callbacks), return_dict
        )

    def _run_evaluation(
        self,
        operation: str,
        x: Any,
        y: Any,
        sample_weight: Any,
        batch_size: int | None,
        verbose: int | str,
        callbacks: list[Callback],
        return_dict: bool,
    ) -> Any:
        """See ``evaluate``; here `batch_size` None stands for all rows at once."""
        self._ready(operation)
        assert self._graph is not None
        display = progress_for(verbose, operation)
        # The logs are the network's: evaluations exclude each other and training, predictions too.
        with self._ownership.writing(operation) as around, _NOTHING if around is None else self._logs_kept():
            rows = self._check_data(self._graph, operation, x, y, sample_weight)
            size = rows.n if batch_size is None else batch_size
            params: dict[str, Any] = {"steps": -(-rows.n // size), "verbose": verbose}
            hooks = CallbackList(callbacks, params)
            hooks.join(self)
            display.begin("Evaluate", params["steps"])
            try:
                logs = self._evaluate_rows(rows, None, size, hooks, "", display)
                display.end(logs)
            finally:
                display.close()
            return _result(logs, return_dict)

    def _evaluate_rows(
        self,
        rows: Rows,
        numbers: Array | None,
        batch_size: int,
        hooks: CallbackList,
        prefix: str,
        display: Silent = SILENT,
    ) -> dict[str, float]:
        assert self._runner is not None
        end = rows.n if numbers is None else numbers.size
        per_batch = hooks.per_batch("test")
        weights = rows.cast_weights(PRECISIONS[self.dtype])
        hooks.call("on_test_begin", {})
        self._reset_logs()
        position = batch = 0
        while position < end:
            if per_batch:
                hooks.call("on_test_batch_begin", batch, {})
            budget = 0.0 if per_batch else BUDGET
            position = self._runner.evaluate_steps(rows.x, rows.y, weights, numbers, batch_size, position, end, budget)
            if per_batch:
                hooks.call("on_test_batch_end", batch, self._logs())
            if display.is_due():
                display.update(-(-position // batch_size), self._logs())
            batch += 1
        logs = self._logs()
        hooks.call("on_test_end", logs)
        return {prefix + name: value for name, value in logs.items()}

    def test_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, return_dict: bool = False) -> Any:
        """What ``evaluate`` computes, with the rows as one batch."""
        return self._run_evaluation("test_on_batch", x, y, sample_weight, None, 0, [], return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: int | str = 0,
        callbacks: Callback | Sequence[Callback] | None = None,
    ) -> Any:
        """The outputs (n, out). With the native backend a row's output does not depend on the rows around it.

        With several outputs a list of arrays, or a dict for a model whose outputs are one. `batch_size` matters only to
        callbacks and progress. Threads may predict at the same time.
        """
        display = SILENT if verbose == 0 else progress_for(verbose, "predict")
        if batch_size is not None:
            batch_size = _rows(batch_size, "predict", "batch_size")
        network, graph = self._network, self._graph
        if network is None or graph is None or self._runner is None:
            raise NotBuiltError("predict: expected a model with weights; call fit or build first")
        rows: Any
        out: Any
        dtype = PRECISIONS[self.dtype]
        # Without detours: a row may take less than its preparation.
        if graph.is_simple and (isinstance(x, np.ndarray) or not isinstance(x, Mapping)):
            rows = data.flatten(data.as_rows(x, graph.structure.input_shapes[0], "predict"))
            n = rows.shape[0]
            out = np.empty((n, graph.output_shapes[0][0]), dtype)
        else:
            rows = self._check_inputs(graph, "predict", x)
            n = rows[0].shape[0]
            out = [np.empty((n, math.prod(shape)), dtype) for shape in graph.output_shapes]
        with self._ownership.reading("predict"):
            if self._graph is not graph:
                raise self._ownership.busy("predict", "a thread that has just changed its layers")
            if callbacks is not None or display is not SILENT:
                try:
                    self._predict_with(rows, out, n, batch_size, verbose, _as_list(callbacks), display)
                finally:
                    display.close()
            else:
                position = 0
                while position < n:
                    position = self._runner.predict(rows, out, position, n, BUDGET)
        if not isinstance(out, list):
            return out
        out = [y.reshape(n, *shape) for y, shape in zip(out, graph.output_shapes, strict=True)]
        if graph.structure.output_keys is not None:
            return dict(zip(graph.structure.output_keys, out, strict=True))
        return out[0] if len(out) == 1 else out

    def _predict_with(
        self,
        x: Any,
        out: Any,
        n: int,
        batch_size: int | None,
        verbose: int | str,
        callbacks: list[Callback],
        display: Silent,
    ) -> None:
        assert self._runner is not None
        size = _PREDICTION_ROWS if batch_size is None else batch_size
        hooks = CallbackList(callbacks, {"steps": -(-n // size), "verbose": verbose})
        hooks.join(self)
        hooks.call("on_predict_begin", {})
        display.begin("Predict", hooks.params["steps"])
        for batch, begin in enumerate(range(0, n, size)):
            hooks.call("on_predict_batch_begin", batch, {})
            position, end = begin, min(begin + size, n)
            while position < end:
                position = self._runner.predict(x, out, position, end, BUDGET)
            part = [y[begin:end] for y in out] if isinstance(out, list) else out[begin:end]
            part = part[0] if isinstance(part, list) and len(part) == 1 else part
            hooks.call("on_predict_batch_end", batch, {"outputs": part})
            if display.is_due():
                display.update(batch + 1, {})
        display.end({})
        hooks.call("on_predict_end", {})

    def predict_one(self, x: Any, out: Any = None) -> Any:
        """The output (out,) of one sample (in,): ``predict(x[None])[0]``, in a fraction of its time.

        Of several inputs x is a list or dict of their samples; several outputs come as a list or dict.

        It keeps a compiled predictor of the newest weights, made anew by the first call after they were written. See
        :class:`fastperceptron.Predictor` for `out`, for what makes a call quick, and for what raises.
        """
        live = self._live
        # A look without the lock: the predictor is a copy that nobody writes to, and tells when it is an old one.
        if live is not None and not self._ownership.writing_now:
            y = live._one(x, out)
            if y is not None:
                return y
        return self._predict_one(x, out)

    def _predict_one(self, x: Any, out: Any) -> Any:
        raise NotImplementedError

    def predict_on_batch(self, x: Any) -> Any:
        """The same as ``predict``."""
        return self.predict(x)


def _as_list(callbacks: Callback | Sequence[Callback] | None) -> list[Callback]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]


def _positive(value: Any, operation: str, name: str, least: int = 1) -> int:
    if not is_integer(value) or value < least:
        raise ValueError(f"{operation}: {name} must be an integer of at least {least}; received {value!r}")
    return int(value)


def _rows(value: Any, operation: str, name: str) -> int:
    """A batch's size; no data have more rows than 64 bits count."""
    return min(_positive(value, operation, name), sys.maxsize)


def _result(logs: dict[str, float], return_dict: bool) -> Any:
    if return_dict:
        return logs
    values = list(logs.values())
    return values[0] if len(values) == 1 else values

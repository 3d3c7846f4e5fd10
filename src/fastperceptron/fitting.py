"""The epochs of one call of ``fit``."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import random
from .callbacks import CallbackList
from .errors import DivergenceWarning
from .program import PRECISIONS
from .progress import Silent

if TYPE_CHECKING:
    from .training import Trainer

__all__ = ["BUDGET", "EVALUATION_ROWS", "Fit", "Rows"]

Array = NDArray[Any]

BUDGET = 0.05  # seconds in the network before Python gets its turn
EVALUATION_ROWS = 1024


class Rows(NamedTuple):
    """Checked data: the inputs (n, in), and of each output y (n, out), labels (n,) or None, and weights (n,) float64 or
    None."""

    x: tuple[Array, ...]
    y: tuple[Array | None, ...]
    weights: tuple[Array | None, ...]

    @property
    def n(self) -> int:
        return int(self.x[0].shape[0])

    def cast_weights(self, dtype: str) -> tuple[Array | None, ...]:
        return tuple([None if w is None else np.ascontiguousarray(w, dtype) for w in self.weights])


class Fit:
    """The epochs of one call of ``fit``."""

    def __init__(
        self,
        model: Trainer,
        train: Rows,
        rows: Array | None,
        validation: Rows | None,
        held_out: Array | None,
        batch_size: int,
        validation_batch_size: int | None,
        shuffle: bool,
    ) -> None:
        self.model = model
        self.train = train
        self.weights = train.cast_weights(PRECISIONS[model.dtype])
        self.rows = rows
        self.validation = validation
        self.held_out = held_out
        self.batch_size = batch_size
        self.validation_batch_size = validation_batch_size or EVALUATION_ROWS
        self.shuffle = shuffle
        self.warned = False

    def epochs(self, first: int, last: int, hooks: CallbackList, display: Silent) -> None:
        model = self.model
        logs: dict[str, float] = {}
        hooks.call("on_train_begin", {})
        for epoch in range(first, last):
            hooks.call("on_epoch_begin", epoch, {})
            display.begin(f"Epoch {epoch + 1:>{len(str(last))}}/{last}", hooks.params["steps"])
            self._steps(hooks, display)
            model._epoch += 1
            logs = model._logs()
            if self.validation is not None:
                logs |= model._evaluate_rows(self.validation, self.held_out, self.validation_batch_size, hooks, "val_")
            display.end(logs)
            if not math.isfinite(logs["loss"]):
                self._warn(f"the loss became {logs['loss']} in epoch {epoch + 1}")
            hooks.call("on_epoch_end", epoch, logs)
            if model.stop_training:
                break
        assert model._network is not None
        if last > first and not self.warned and not model._network.is_finite():
            self._warn(f"weights became infinite or NaN in epoch {epoch + 1}")
        hooks.call("on_train_end", logs)

    def _steps(self, hooks: CallbackList, display: Silent) -> None:
        """One pass over the training rows."""
        model, train = self.model, self.train
        assert model._runner is not None
        order = self.rows
        count = train.n if order is None else order.size
        if self.shuffle:
            shuffled = random.permutation(model._network_key, random.STREAM_SHUFFLE, model._epoch, count)
            order = shuffled if order is None else order[shuffled]
        per_batch = hooks.per_batch("train")
        budget = 0.0 if per_batch else BUDGET
        model._reset_logs()
        position = 0
        while position < count and not (per_batch and position and model.stop_training):
            batch = position // self.batch_size
            if per_batch:
                hooks.call("on_train_batch_begin", batch, {})
            model._push()
            try:
                position = model._runner.train_steps(
                    train.x, train.y, self.weights, order, self.batch_size, position, count, budget
                )
            finally:
                model._count_updates()
            if per_batch:
                hooks.call("on_train_batch_end", batch, model._logs())
            if display.is_due():
                display.update(-(-position // self.batch_size), model._logs())

    def _bad_value(self) -> str | None:
        """The first training row with a value that is not finite."""
        graph = self.model._graph
        assert graph is not None
        arrays: list[tuple[str, Array | None]] = []
        for what, names, values in (
            ("x", graph.input_names, self.train.x),
            ("y", graph.output_names, self.train.y),
        ):
            labels = [what] if len(names) == 1 else [f"{what}[{name!r}]" for name in names]
            arrays += zip(labels, values, strict=True)
        for name, array in arrays:
            if array is None:
                continue
            chosen = array if self.rows is None else array[self.rows]
            bad = ~np.isfinite(chosen)
            if bad.any():
                first = np.unravel_index(np.argmax(bad), bad.shape)
                row = int(first[0]) if self.rows is None else int(self.rows[first[0]])
                return f"{name} holds {chosen[first]} in row {row}"
        return None

    def _warn(self, what: str) -> None:
        if not self.warned:
            self.warned = True
            hint = self._bad_value() or "a smaller learning rate or scaled inputs may help"
            warnings.warn(f"fit: training diverged: {what}; {hint}", DivergenceWarning, stacklevel=4)

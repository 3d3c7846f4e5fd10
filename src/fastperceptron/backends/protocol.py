"""What a backend is: the functions and the Network that ``native`` and ``numpy`` both offer.

Everything a backend receives has been checked and shaped by the API above it: matrices are 2-D arrays of a real
dtype in native byte order (any strides, any alignment, possibly read-only), row numbers are private C-contiguous
int64 arrays within range. A backend never writes to its inputs. What it returns are fresh arrays of the
program's dtype.

Stateless functions (module level, arrays of one dtype, float32 or float64; see ``fastperceptron.kernels`` for the
public face with checks and documentation)::

    dense_forward(x, w, b, activation, alpha, out) -> y          (n, in) (in, out) (out,)|None -> (n, out)
    dense_backward_input(dz, w, out) -> dx                       (n, out) (in, out) -> (n, in)
    dense_backward_weights(x, dz, out) -> dw                     (n, in) (n, out) -> (in, out)
    dense_backward_bias(dz, out) -> db                           (n, out) -> (out,)
    bfloat16_product(a, b, transpose_a, transpose_b) -> c        (m, k) (k, n) -> (m, n) float32, or from transposes;
                                                                 operands rounded to bfloat16, sums in float32
    activation_forward(activation, alpha, z, out) -> y           any shape; softmax over the last axis
    activation_backward(activation, alpha, dy, saved, out) -> dz saved is z for NEEDS_Z, else y
    loss_forward(kind, parameter, y_true, y_pred) -> losses      (n,) float64, unweighted
    loss_backward(kind, parameter, y_true, y_pred, weights, scale, out) -> dy
                                                                 scale * weights[i] * d losses[i] / d y_pred
    sgd_update(w, g, v, learning_rate, momentum, nesterov)       in place; v may be None
    dropout_forward(x, rate, key, stream, step, out) -> y
    philox(key, stream, step, count) -> uint32 (count,)          word order of csrc/kernels/philox.hpp
    permutation(key, stream, step, n) -> int64 (n,)              see fastperceptron.random.permutation

``y_true`` is an integer vector of labels for the two sparse losses, else a matrix. ``out`` may be None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..program import Head, Program, Signature

__all__ = ["Network"]

Array = NDArray[Any]
#: x: one matrix, or several side by side. y and sample weights: one per head; an array alone when there is one head,
#: None where a head has none. Outputs: one matrix, or one per output.
Arrays = Array | Sequence[Array]
OptionalArrays = Array | Sequence[Array | None] | None


class Network(Protocol):
    """A program with its whole state: parameters, state, gradients, optimizer slots, counters, random key.

    The arithmetic of one step: the batch is rows[begin : begin + batch_size] of x; cost = sum over heads of
    weight * sum_i(sample_weight_i loss_i) / normaliser (see :class:`Head`); gradients of the cost; then the optimizer.
    A parameter that no loss reaches has a gradient of zero. ``step`` counts finished updates and selects the dropout
    masks.
    """

    backend: str  # "native" or "numpy"
    program: Program

    def product_path(self) -> str:
        """What computes the dense products: type of the operands and path, as in "bfloat16 avx512_bf16"."""

    # -- state ---------------------------------------------------------------------------------------------
    step: int
    key: int  # unsigned 64-bit

    def get_parameter(self, index: int) -> Array: ...
    def set_parameter(self, index: int, value: Array) -> None: ...
    def get_gradient(self, index: int) -> Array:
        """Gradient of the cost from the last ``backward``."""

    def is_finite(self) -> bool:
        """Whether no parameter is infinite or NaN."""

    def set_gradient(self, index: int, value: Array) -> None:
        """For parameters of layers written in Python."""

    def get_state(self, index: int) -> Array:
        """Of the program's ``states``."""

    def set_state(self, index: int, value: Array) -> None: ...
    def slot_names(self) -> tuple[str, ...]:
        """Of the optimizer in force: ("momentum",) for SGD with momentum, else ()."""

    def get_slot(self, name: str, index: int) -> Array: ...
    def set_slot(self, name: str, index: int, value: Array) -> None: ...

    # -- configuration: may change between calls --------------------------------------------------------------
    def set_threads(self, threads: int) -> None:
        """0: as set_num_threads says. NumPy ignores it."""

    def set_trainable(self, flags: Sequence[bool]) -> None:
        """One flag per parameter; frozen ones get no gradient and no update."""

    def set_rates(self, rates: Sequence[float]) -> None:
        """One factor per parameter, times the optimizer's learning rate. 1 at first."""

    def set_optimizer(self, name: str | None, hyper: dict[str, float]) -> None:
        """ "sgd" with learning_rate, momentum, nesterov (0/1); None: updates come from Python. Slots are kept when the
        optimizer's name and slot names stay the same; others begin as zeros."""

    def set_heads(self, heads: Sequence[Head]) -> None:
        """At least one. Logs begin anew; metrics of heads that are gone go too. At first there is one, without loss."""

    def set_loss(self, kind: str | None, parameter: float) -> None:
        """One head, on the first output."""

    def set_metrics(self, metrics: Sequence[tuple[str, float] | tuple[str, float, int]]) -> None:
        """(kind, parameter, head, 0 when not given): "binary_accuracy" (threshold), "categorical_accuracy",
        "sparse_categorical_accuracy", "mean_squared_error", "mean_absolute_error", "r2" (parameter unused)."""

    # -- accumulated logs ---------------------------------------------------------------------------------------
    def reset_metrics(self) -> None: ...
    def get_metrics(self) -> list[NDArray[np.float64]]:
        """For each head [sum of weight_i loss_i, sum of normalisers]; then one array per metric: accuracies and errors
        [sum of weight_i value_i, sum of weight_i] where value_i is the row's hit or mean error over columns; r2
        rows [sum w, sum w d, sum w d^2, sum w (y - p)^2, origin] over the columns, shape (5, out), d = y - origin, the
        first target."""

    # -- whole runs; each returns the position reached: it stops after the first whole step past ``budget``
    #    seconds (0: after one step), or at ``end``. x (N, in), or several side by side; of each head y labels (N,) or
    #    (N, out), weights (N,) or None; rows int64 (M,) or None for 0..N-1; positions count rows of ``rows``.
    def train_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: NDArray[np.int64] | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int: ...
    def evaluate_steps(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: NDArray[np.int64] | None,
        batch_size: int,
        begin: int,
        end: int,
        budget: float,
    ) -> int:
        """Inference, loss and metrics; no gradients."""

    def predict(self, x: Arrays, out: Arrays, begin: int, end: int, budget: float) -> int:
        """Writes out[begin:position] of each output; C-contiguous (N, width) of the program's dtype."""

    def predictor(self, signature: Signature) -> Any:
        """A compiled predictor with a copy of the parameters, see ``fastperceptron.Predictor``; None where the backend
        or the program has none."""

    # -- the pieces of one step, for layers, losses, metrics and optimizers written in Python ------------------
    def load_batch(
        self,
        x: Arrays,
        y: OptionalArrays,
        sample_weight: OptionalArrays,
        rows: NDArray[np.int64] | None,
        begin: int,
        end: int,
    ) -> None:
        """Gathers rows[begin:end] (or begin..end) into value 0 and the targets."""

    def forward(self, first: int, last: int, training: bool) -> None:
        """Runs operations first..last-1, none of them "python"."""

    def get_value(self, value: int) -> Array: ...
    def set_value(self, value: int, array: Array) -> None: ...
    def loss(self, training: bool) -> float:
        """Adds the batch to the metrics and losses that are set; returns the cost (nan when no head has a loss).

        With training, begins the backward pass: clears the value gradients and writes those of the outputs that have
        losses."""

    def get_value_gradient(self, value: int) -> Array:
        """For the values that a Python operation computes, and the outputs; others may be overwritten or fused."""

    def set_value_gradient(self, value: int, array: Array) -> None:
        """Replaces the gradient when it is the first of this backward pass, else adds to it."""

    def backward(self, first: int, last: int) -> None:
        """Runs operations last-1 down to first backwards, none of them "python": value gradients and parameter
        gradients (a parameter used again adds to its gradient within one backward pass)."""

    def update(self) -> None:
        """The optimizer in force over all trainable parameters and their gradients; counts a step."""

    def advance(self) -> None:
        """Counts a step (after an update made in Python)."""

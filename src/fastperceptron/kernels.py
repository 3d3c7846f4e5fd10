"""The stateless functions: one layer's products, activations, losses, dropout and the update of SGD over NumPy arrays.

They need no model. Arrays are float32 or float64, all of one call alike; anything NumPy can view works (lists,
strided, read-only or byte-swapped arrays), inputs are never written to, and the result is a fresh array unless ``out=``
gives one. The backend in use does the arithmetic.

>>> import numpy as np
>>> from fastperceptron import kernels
>>> x = np.array([[1.0, 2.0]])
>>> w = np.array([[1.0, -1.0], [0.5, -0.5]])
>>> kernels.dense_forward(x, w, np.array([0.0, 1.0]), activation="relu")
array([[2., 0.]])
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backends
from .activations import alpha_of
from .checks import (
    as_array,
    as_counter,
    as_finite,
    as_flag,
    as_float_array,
    check_dimensions,
    check_one_dtype,
    check_shape,
    check_written,
    is_number,
    refuse_masked,
)
from .errors import DTypeError, ShapeError
from .program import LOSSES

__all__ = [
    "activation_backward",
    "activation_forward",
    "dense_backward",
    "dense_backward_bias",
    "dense_backward_input",
    "dense_backward_weights",
    "dense_forward",
    "dropout_forward",
    "loss_backward",
    "loss_forward",
    "sgd_update",
]

Array = NDArray[Any]


def _targets(operation: str, kind: str, y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    if kind not in LOSSES:
        raise ValueError(f"{operation}: kind must be one of {', '.join(LOSSES)}; received {kind!r}")
    p = as_float_array(operation, "y_pred", y_pred)
    check_dimensions(operation, "y_pred", p, "(n, out)")
    if p.shape[1] == 0:
        raise ShapeError(f"{operation}: y_pred must have at least one column; received {p.shape}")
    if not kind.startswith("sparse_"):
        t = as_float_array(operation, "y_true", y_true)
        check_shape(operation, "y_true", t, p.shape, "to match y_pred")
        check_one_dtype(operation, y_true=t, y_pred=p)
        return t, p
    refuse_masked(operation, "y_true", y_true)
    labels = as_array(operation, "y_true", y_true)
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"{operation}: y_true must be integer labels; received {labels.dtype}")
    check_shape(operation, "y_true", labels, (len(p),), f"to match y_pred {p.shape}")
    wrong = np.flatnonzero((labels < 0) | (labels >= p.shape[1]))
    if wrong.size:
        row = int(wrong[0])
        raise ValueError(
            f"{operation}: y_true must lie in [0, {p.shape[1]}) to match y_pred {p.shape}; "
            f"received {labels[row]} at row {row}"
        )
    return labels.astype(np.int64), p


def _parameter(operation: str, kind: str, parameter: float, dtype: np.dtype[Any]) -> float:
    value = as_finite(operation, "parameter", parameter, dtype)
    if kind == "huber" and not dtype.type(value) > 0:
        raise ValueError(f"{operation}: the parameter of huber must be positive in {dtype}; received {parameter!r}")
    return value


# -- the dense layer -------------------------------------------------------------------------------------------------


def dense_forward(
    x: ArrayLike,
    w: ArrayLike,
    b: ArrayLike | None = None,
    *,
    activation: str = "linear",
    alpha: float | None = None,
    out: Array | None = None,
) -> Array:
    """Forward pass of a dense layer: y = act(x w + b).

    Parameters
    ----------
    x : (n, in)
    w : (in, out)
    b : (out,), optional
    activation : str
        One of ``fastperceptron.program.ACTIVATIONS``; softmax is taken over each row.
    alpha : float, optional
        Slope of leaky_relu below zero (default 0.2), or minus the limit of elu at minus infinity (default 1).
    out : (n, out), optional
        Where to write y; shares no memory with x, w or b.

    Returns
    -------
    y : (n, out)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.dense_forward(np.ones((1, 3)), np.ones((3, 2)), np.array([1.0, -1.0]))
    array([[4., 2.]])
    """
    operation = "dense_forward"
    x, w = as_float_array(operation, "x", x), as_float_array(operation, "w", w)
    b = None if b is None else as_float_array(operation, "b", b)
    a = alpha_of(operation, activation, alpha, x.dtype)
    check_one_dtype(operation, x=x, w=w, b=b)
    check_dimensions(operation, "w", w, "(in, out)")
    check_shape(operation, "x", x, ("n", w.shape[0]), f"to match w {w.shape}")
    if b is not None:
        check_shape(operation, "b", b, (w.shape[1],), f"to match w {w.shape}")
    if out is not None:
        check_written(operation, "out", out, (x.shape[0], w.shape[1]), x.dtype, apart=(x, w, b))
    backend = backends.resolve()
    if activation != "softmax":
        return np.asarray(backend.dense_forward(x, w, b, activation, a, out))
    y = backend.dense_forward(x, w, b, "linear", 0.0, out)
    return np.asarray(backend.activation_forward("softmax", 0.0, y, y))


def dense_backward_input(dz: ArrayLike, w: ArrayLike, *, out: Array | None = None) -> Array:
    """Gradient of a dense layer's input: dx = dz wᵀ.

    Parameters
    ----------
    dz : (n, out)
        Gradient of the pre-activation z = x w + b.
    w : (in, out)
    out : (n, in), optional
        Where to write dx; shares no memory with dz or w.

    Returns
    -------
    dx : (n, in)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.dense_backward_input(np.array([[1.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 3.0]]))
    array([[1., 6.]])
    """
    operation = "dense_backward_input"
    dz, w = as_float_array(operation, "dz", dz), as_float_array(operation, "w", w)
    check_one_dtype(operation, dz=dz, w=w)
    check_dimensions(operation, "w", w, "(in, out)")
    check_shape(operation, "dz", dz, ("n", w.shape[1]), f"to match w {w.shape}")
    if out is not None:
        check_written(operation, "out", out, (dz.shape[0], w.shape[0]), dz.dtype, apart=(dz, w))
    return np.asarray(backends.resolve().dense_backward_input(dz, w, out))


def dense_backward_weights(x: ArrayLike, dz: ArrayLike, *, out: Array | None = None) -> Array:
    """Gradient of a dense layer's weights: dw = xᵀ dz.

    Parameters
    ----------
    x : (n, in)
    dz : (n, out)
        Gradient of the pre-activation z = x w + b.
    out : (in, out), optional
        Where to write dw; shares no memory with x or dz.

    Returns
    -------
    dw : (in, out)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.dense_backward_weights(np.array([[1.0, 2.0]]), np.array([[3.0]]))
    array([[3.],
           [6.]])
    """
    operation = "dense_backward_weights"
    x, dz = as_float_array(operation, "x", x), as_float_array(operation, "dz", dz)
    check_one_dtype(operation, x=x, dz=dz)
    check_dimensions(operation, "x", x, "(n, in)")
    check_shape(operation, "dz", dz, (x.shape[0], "out"), f"to match x {x.shape}")
    if out is not None:
        check_written(operation, "out", out, (x.shape[1], dz.shape[1]), x.dtype, apart=(x, dz))
    return np.asarray(backends.resolve().dense_backward_weights(x, dz, out))


def dense_backward_bias(dz: ArrayLike, *, out: Array | None = None) -> Array:
    """Gradient of a dense layer's bias: db = the sum of the rows of dz.

    Parameters
    ----------
    dz : (n, out)
        Gradient of the pre-activation z = x w + b.
    out : (out,), optional
        Where to write db; shares no memory with dz.

    Returns
    -------
    db : (out,)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.dense_backward_bias(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])
    """
    operation = "dense_backward_bias"
    dz = as_float_array(operation, "dz", dz)
    check_dimensions(operation, "dz", dz, "(n, out)")
    if out is not None:
        check_written(operation, "out", out, (dz.shape[1],), dz.dtype, apart=(dz,))
    return np.asarray(backends.resolve().dense_backward_bias(dz, out))


def dense_backward(
    x: ArrayLike, w: ArrayLike, dz: ArrayLike, *, out: tuple[Array | None, Array | None, Array | None] | None = None
) -> tuple[Array, Array, Array]:
    """All gradients of a dense layer: dx = dz wᵀ, dw = xᵀ dz, db = the sum of the rows of dz.

    Parameters
    ----------
    x : (n, in)
    w : (in, out)
    dz : (n, out)
        Gradient of the pre-activation z = x w + b: ``activation_backward`` of the gradient of y.
    out : (dx, dw, db), optional
        Where the results go; None in a place gives a new array there.

    Returns
    -------
    dx : (n, in)
    dw : (in, out)
    db : (out,)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> dx, dw, db = kernels.dense_backward(np.ones((2, 3)), np.ones((3, 1)), np.ones((2, 1)))
    >>> dx.shape, dw.ravel(), db
    ((2, 3), array([2., 2., 2.]), array([2.]))
    """
    operation = "dense_backward"
    x, w, dz = as_float_array(operation, "x", x), as_float_array(operation, "w", w), as_float_array(operation, "dz", dz)
    check_one_dtype(operation, x=x, w=w, dz=dz)
    check_dimensions(operation, "w", w, "(in, out)")
    check_shape(operation, "x", x, ("n", w.shape[0]), f"to match w {w.shape}")
    check_shape(operation, "dz", dz, (x.shape[0], w.shape[1]), f"to match x {x.shape} and w {w.shape}")
    results: Any = (None, None, None) if out is None else out
    if not isinstance(results, (tuple, list)) or len(results) != 3:
        raise TypeError(f"{operation}: out must be (dx, dw, db), each an array or None; received {out!r:.80}")
    dx, dw, db = results
    shapes = {"dx": (dx, x.shape), "dw": (dw, w.shape), "db": (db, w.shape[1:])}
    for name, (array, shape) in shapes.items():
        if array is not None:
            others = tuple(other for key, (other, _) in shapes.items() if key != name and other is not None)
            check_written(operation, name, array, shape, dz.dtype, apart=(x, w, dz, *others))
    backend = backends.resolve()
    return (
        np.asarray(backend.dense_backward_input(dz, w, dx)),
        np.asarray(backend.dense_backward_weights(x, dz, dw)),
        np.asarray(backend.dense_backward_bias(dz, db)),
    )


# -- activations -----------------------------------------------------------------------------------------------------


def activation_forward(activation: str, z: ArrayLike, *, alpha: float | None = None, out: Array | None = None) -> Array:
    """y = act(z), element by element; softmax over the last axis.

    Parameters
    ----------
    activation : str
        One of ``fastperceptron.program.ACTIVATIONS``.
    z : any shape
    alpha : float, optional
        See :func:`dense_forward`.
    out : the shape of z, optional
        Where to write y; may be z itself.

    Returns
    -------
    y : the shape of z

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.activation_forward("leaky_relu", np.array([-1.0, 0.0, 2.0]), alpha=0.1)
    array([-0.1,  0. ,  2. ])
    """
    operation = "activation_forward"
    z = as_float_array(operation, "z", z)
    a = alpha_of(operation, activation, alpha, z.dtype)
    if activation == "softmax" and z.ndim == 0:
        raise ShapeError(f"{operation}: z must have at least one dimension for softmax; received ()")
    if out is not None:
        check_written(operation, "out", out, z.shape, z.dtype, same_or_apart=(z,))
    return np.asarray(backends.resolve().activation_forward(activation, a, z, out))


def activation_backward(
    activation: str, dy: ArrayLike, saved: ArrayLike, *, alpha: float | None = None, out: Array | None = None
) -> Array:
    """dz = dy act'(z), the gradient of an activation's input; for softmax dz = y (dy - sum(dy y)) in each row.

    Parameters
    ----------
    activation : str
        One of ``fastperceptron.program.ACTIVATIONS``.
    dy : any shape
        Gradient of y = act(z).
    saved : the shape of dy
        What the derivative is computed from: the input z for the activations in
        ``fastperceptron.program.NEEDS_Z``, the output y for the others.
    alpha : float, optional
        See :func:`dense_forward`.
    out : the shape of dy, optional
        Where to write dz; may be dy itself, and saved itself except for softmax.

    Returns
    -------
    dz : the shape of dy

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> y = kernels.activation_forward("sigmoid", np.array([0.0]))
    >>> kernels.activation_backward("sigmoid", np.array([2.0]), y)
    array([0.5])
    """
    operation = "activation_backward"
    dy, saved = as_float_array(operation, "dy", dy), as_float_array(operation, "saved", saved)
    a = alpha_of(operation, activation, alpha, dy.dtype)
    check_one_dtype(operation, dy=dy, saved=saved)
    check_shape(operation, "saved", saved, dy.shape, "to match dy")
    softmax = activation == "softmax"
    if softmax and dy.ndim == 0:
        raise ShapeError(f"{operation}: dy must have at least one dimension for softmax; received ()")
    if out is not None:
        apart, same = ((saved,), (dy,)) if softmax else ((), (dy, saved))
        check_written(operation, "out", out, dy.shape, dy.dtype, apart=apart, same_or_apart=same)
    return np.asarray(backends.resolve().activation_backward(activation, a, dy, saved, out))


# -- losses ----------------------------------------------------------------------------------------------------------


def loss_forward(
    kind: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    parameter: float = 1.0,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """The loss of each row, unweighted; cross-entropies in nats. Losses over elements are means over the columns.

    Parameters
    ----------
    kind : str
        One of ``fastperceptron.program.LOSSES``. Names that end in ``_logits`` take predictions before sigmoid or
        softmax, the other cross-entropies take probabilities.
    y_true : (n, out), or (n,) integer labels in [0, out) for the two sparse losses
    y_pred : (n, out)
    parameter : float
        The delta of huber; the others ignore it.
    out : (n,) float64, optional

    Returns
    -------
    losses : (n,) float64

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.loss_forward("mean_squared_error", np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    array([2.])
    """
    operation = "loss_forward"
    t, p = _targets(operation, kind, y_true, y_pred)
    if out is not None:
        check_written(operation, "out", out, (p.shape[0],), np.dtype(np.float64), apart=(t, p))
    losses = np.asarray(backends.resolve().loss_forward(kind, _parameter(operation, kind, parameter, p.dtype), t, p))
    if out is None:
        return losses
    out[...] = losses
    return out


def loss_backward(
    kind: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    scale: float = 1.0,
    parameter: float = 1.0,
    out: Array | None = None,
) -> Array:
    """Gradient of the weighted losses: dy[i] = scale weights[i] d losses[i] / d y_pred[i].

    With ``scale=1/n`` it is the gradient of the cost, the mean of the losses over the batch.

    Parameters
    ----------
    kind, y_true, y_pred, parameter
        See :func:`loss_forward`.
    weights : (n,), optional
        Sample weights; 1 when left out.
    scale : float
    out : (n, out), optional
        Where to write dy; shares no memory with the other arrays.

    Returns
    -------
    dy : (n, out)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> kernels.loss_backward("mean_squared_error", np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]]))
    array([[0., 2.]])
    """
    operation = "loss_backward"
    t, p = _targets(operation, kind, y_true, y_pred)
    delta = _parameter(operation, kind, parameter, p.dtype)
    weights = None if weights is None else as_float_array(operation, "weights", weights)
    if weights is not None:
        check_one_dtype(operation, y_pred=p, weights=weights)
        check_shape(operation, "weights", weights, (len(p),), f"to match y_pred {p.shape}")
    if out is not None:
        check_written(operation, "out", out, p.shape, p.dtype, apart=(t, p, weights))
    factor = as_finite(operation, "scale", scale, p.dtype)
    return np.asarray(backends.resolve().loss_backward(kind, delta, t, p, weights, factor, out))


# -- update and dropout ----------------------------------------------------------------------------------------------


def sgd_update(
    w: Array,
    g: ArrayLike,
    v: Array | None = None,
    *,
    learning_rate: float,
    momentum: float = 0.0,
    nesterov: bool = False,
) -> None:
    """One step of stochastic gradient descent, in place.

    v = momentum v - learning_rate g, then w += v, or with Nesterov w += momentum v - learning_rate g
    (Sutskever, Martens, Dahl, Hinton: "On the importance of initialization and momentum in deep learning", 2013).
    Without v: w -= learning_rate g.

    Parameters
    ----------
    w : any shape
        Parameters; changed.
    g : the shape of w
        Their gradient.
    v : the shape of w, optional
        Velocity; changed.
    learning_rate, momentum : float
    nesterov : bool

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> w = np.array([1.0, 2.0])
    >>> kernels.sgd_update(w, np.array([1.0, -1.0]), learning_rate=0.5)
    >>> w
    array([0.5, 2.5])
    """
    operation = "sgd_update"
    g, nesterov = as_float_array(operation, "g", g), as_flag(operation, "nesterov", nesterov)
    if v is None and (momentum != 0 or nesterov):
        raise ValueError(f"{operation}: momentum needs v, the velocity; received None")
    if v is not None:
        check_written(operation, "v", v, g.shape, g.dtype, apart=(g,))
    check_written(operation, "w", w, g.shape, g.dtype, apart=(g, v))
    rate, share = (
        as_finite(operation, name, value, g.dtype)
        for name, value in (("learning_rate", learning_rate), ("momentum", momentum))
    )
    backends.resolve().sgd_update(w, g, v, rate, share, nesterov)


def dropout_forward(
    x: ArrayLike, *, rate: float, key: int, stream: int = 0, step: int = 0, out: Array | None = None
) -> Array:
    """y = x mask / (1 - rate), where an element is kept with probability 1 - rate.

    The mask comes from Philox4x32-10 (Salmon and others: "Parallel random numbers: as easy as 1, 2, 3", 2011) over
    (key, stream, step, row, column): the same bits in every backend. The backward pass is the same function of dy
    (Srivastava and others: "Dropout: a simple way to prevent neural networks from overfitting", 2014).

    Parameters
    ----------
    x : (n, width)
    rate : float
        In [0, 1): the share of elements that become 0.
    key : int
        In [0, 2**64): the seed.
    stream : int
        In [0, 2**16): tells the dropout layers of a network apart.
    step : int
        In [0, 2**48): a new mask for each.
    out : (n, width), optional
        Where to write y; may be x itself.

    Returns
    -------
    y : (n, width)

    Raises
    ------
    ShapeError, DTypeError, ValueError

    Examples
    --------
    >>> import numpy as np
    >>> from fastperceptron import kernels
    >>> y = kernels.dropout_forward(np.ones((100, 100)), rate=0.25, key=7)
    >>> sorted(set(y.ravel().round(3).tolist())), abs(y.mean() - 1) < 0.02
    ([0.0, 1.333], np.True_)
    """
    operation = "dropout_forward"
    x = as_float_array(operation, "x", x)
    check_dimensions(operation, "x", x, "(n, width)")
    if not is_number(rate) or not 0 <= rate < 1:
        raise ValueError(f"{operation}: rate must lie in [0, 1); received {rate!r}")
    numbers = as_counter(operation, key, stream, step)
    if out is not None:
        check_written(operation, "out", out, x.shape, x.dtype, same_or_apart=(x,))
    return np.asarray(backends.resolve().dropout_forward(x, float(rate), *numbers, out))

"""Small data sets that come with the package, as NumPy arrays.

Each function returns ``(x, y)``: one row of ``x`` per sample, and its target in ``y``. The arrays are the caller's
own: changing them changes nothing for the next call. ``SOURCES.md`` in this folder says where the data come from.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["load_bmi", "load_digits", "load_heights"]


def load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """1,797 handwritten digits of 8 x 8 pixels.

    Returns
    -------
    x : float32 (1797, 64)
        Pixels row by row, whole numbers from 0 (paper) to 16 (ink); ``x / 16`` lies in [0, 1] and is float32.
    y : int64 (1797,)
        The digit, 0 to 9.

    Notes
    -----
    The test part of "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning
    Repository (1998), https://doi.org/10.24432/C50P49, licence CC BY 4.0.

    Examples
    --------
    >>> x, y = load_digits()
    >>> x.shape, x.dtype, int(x.max())
    ((1797, 64), dtype('float32'), 16)
    >>> y[:5]
    array([0, 1, 2, 3, 4])
    """
    arrays = _load("digits.npz")
    return arrays["x"].astype(np.float32), arrays["y"].astype(np.int64)


def load_bmi() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Four people's height and weight, and a body-mass index to predict.

    Small enough to work back-propagation by hand, with a 2-2-1 network. Its numbers are made up for arithmetic; they
    are not weight / height^2.

    Returns
    -------
    x : float32 (4, 2)
        Height in cm, weight in kg.
    y : float32 (4,)
        Body-mass index, kg/m^2.

    Examples
    --------
    >>> x, y = load_bmi()
    >>> x[0], float(y[0])
    (array([160.,  60.], dtype=float32), 21.0)
    """
    table = _load("tables.npz")["bmi"].astype(np.float32)
    return table[:, :2].copy(), table[:, 2].copy()


def load_heights() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Three people's height and weight, and a body-mass index to predict.

    Small enough to tell the *loss* of one sample from the *cost* of all by hand. Columns and units are those of
    :func:`load_bmi`.

    Returns
    -------
    x : float32 (3, 2)
    y : float32 (3,)

    Examples
    --------
    >>> load_heights()[1]
    array([22., 23., 24.], dtype=float32)
    """
    table = _load("tables.npz")["heights"].astype(np.float32)
    return table[:, :2].copy(), table[:, 2].copy()


def _load(name: str) -> dict[str, NDArray[Any]]:
    with np.load(os.path.join(os.path.dirname(__file__), name), allow_pickle=False) as file:
        return {key: file[key] for key in file.files}

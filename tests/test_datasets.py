from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from fastperceptron import datasets


def test_digits_are_what_they_were() -> None:
    x, y = datasets.load_digits()
    assert x.shape == (1797, 64)
    assert x.dtype == np.float32
    assert y.shape == (1797,)
    assert y.dtype == np.int64
    assert (x / 16).dtype == np.float32
    digest = hashlib.sha256(x.astype(np.uint8).tobytes() + y.astype(np.uint8).tobytes()).hexdigest()
    assert digest == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    assert x.min() == 0
    assert x.max() == 16
    assert np.bincount(y).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_equal_scikit_learns_copy() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    theirs = sklearn_datasets.load_digits()
    x, y = datasets.load_digits()
    np.testing.assert_array_equal(x, theirs.data)
    np.testing.assert_array_equal(y, theirs.target)


def test_tables() -> None:
    x, y = datasets.load_bmi()
    assert x.tolist() == [[160, 60], [170, 65], [180, 70], [190, 71]]
    assert y.tolist() == [21, 22, 20, 18]
    assert x.dtype == y.dtype == np.float32
    x, y = datasets.load_heights()
    assert x.tolist() == [[170, 65], [185, 68], [175, 71]]
    assert y.tolist() == [22, 23, 24]
    assert x.dtype == y.dtype == np.float32


@pytest.mark.parametrize("load", [datasets.load_digits, datasets.load_bmi, datasets.load_heights])
def test_every_call_gives_arrays_of_its_own(load: object) -> None:
    assert callable(load)
    x, y = load()
    x[:] = -1
    y[:] = -1
    assert (load()[0] != -1).all()
    assert (load()[1] != -1).all()
    assert x.flags.c_contiguous
    assert x.flags.owndata


def test_the_stored_arrays_are_small() -> None:
    folder = Path(datasets.__file__).parent
    assert sum(f.stat().st_size for f in folder.glob("*.npz")) < 60_000

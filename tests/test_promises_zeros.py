"""Products of mostly zero inputs leave out multiplications by zero, and nothing shows it but the time."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from parity import PAIR, forced, instruction_sets, needs_pair
from promises import classifier, labelled
from pure import PURE

import fastperceptron as fp

pytestmark = pytest.mark.skipif(PURE, reason="the native backend leaves them out")


@pytest.fixture(autouse=True)
def _default_threads() -> Iterator[None]:
    yield
    fp.set_num_threads(0)


@needs_pair
@pytest.mark.filterwarnings("ignore::fastperceptron.DivergenceWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", [0.0, np.inf, np.nan])
@pytest.mark.parametrize(
    ("units", "batch"),
    [((300, 96, 49, 10), 24), ((300, 96, 49, 10), 64), ((784, 330, 10), 24)],
    ids=["AVX-512 alone", "both", "kernels in parts"],
)
def test_multiplications_by_zero_that_are_left_out_change_no_bits(
    units: tuple[int, ...], batch: int, bad: float, dtype: str
) -> None:
    """They are where most inputs are zero and all weights finite: of 24 rows by AVX-512, of 64 by AVX2 as well."""
    x, y = labelled(211, units[0], 10)
    x *= np.random.default_rng(1).random(x.shape) < 0.1
    x[:, 100:180] = -0.0
    found = set()
    for isa in PAIR:
        with forced(isa):
            for threads, rows in itertools.product((1, 2, 3), (x, np.asfortranarray(x))):
                fp.set_num_threads(threads)
                model = classifier(units[1:], dtype=dtype)
                model.build((units[0],))
                kernel, *others = model.get_weights()
                kernel[150, 20] = bad
                model.set_weights([kernel, *others])
                model.fit(rows, y, batch, 2, verbose=0)
                few = np.concatenate([model.predict(rows[i : i + 15]) for i in range(0, 211, 15)])
                np.testing.assert_array_equal(model.predict(rows), few, strict=True)
                results = *model.get_weights(), few
                # Which NaN it is depends on the instruction set.
                found.add(b"".join(np.where(np.isnan(a), a.dtype.type(np.nan), a).tobytes() for a in results))
    assert len(found) == 1
    assert np.isfinite(model.get_weights()[0]).all() == np.isfinite(bad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("isa", [isa for isa in instruction_sets() if isa != "generic"])  # which adds rounded products
def test_a_sum_of_minus_zero_takes_zeros_that_follow(isa: str, dtype: str) -> None:
    """Where the only product that is not zero vanishes below zero, products of zeros decide the sign."""
    tiny = np.dtype(dtype).type(np.finfo(dtype).tiny)
    x = np.zeros((64, 130), dtype)
    x[:, 50] = tiny
    w = np.abs(np.random.default_rng(0).standard_normal((130, 64))).astype(dtype)
    w[50, ::2] = -tiny
    w[51:, ::4] *= -1
    with forced(isa):
        sums = fp.kernels.dense_forward(x, w, None)
        few = np.concatenate([fp.kernels.dense_forward(x[i : i + 8], w, None) for i in range(0, 64, 8)])
    assert sums.tobytes() == few.tobytes()
    assert np.signbit(sums[:, ::4]).all()
    assert not np.signbit(sums[:, 2::4]).any()
    assert not sums[:, ::2].any()

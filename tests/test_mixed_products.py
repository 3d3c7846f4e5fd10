"""Products with operands rounded to bfloat16, on every path of this machine and on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from parity import LAYOUTS, PATHS, WIDENED, forced, load_backend, strided
from pure import BACKENDS, PURE
from reference import rounded

import fastperceptron as fp
from fastperceptron.backends.numpy_bfloat16 import round_bfloat16


@pytest.fixture(params=PATHS or ("none",))
def product(request: pytest.FixtureRequest) -> Iterator[Callable[..., np.ndarray]]:
    """bfloat16_product of each path of the native backend."""
    if PURE:
        pytest.skip("the pure wheel has no extension")
    with forced(request.param) as native:
        yield native.bfloat16_product


# A tie to even each way, next to ties, the largest numbers, subnormal ones, and what is no number.
SPECIAL = np.array(
    [
        *(1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-23, 1 + 2**-8 - 2**-23, -1 - 2**-8, 0.1, -1 / 3),
        *(3.3895314e38, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan),
        *(1e-39, -1e-40, 2.0**-126, 2.0**-126 - 2.0**-149, 0.0, -0.0),
    ],
    np.float32,
)


def same_numbers(a: np.ndarray, b: np.ndarray) -> None:
    """NaN like NaN, but 0 unlike -0."""
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a[~np.isnan(a)]), np.signbit(b[~np.isnan(b)]))


def test_rounding() -> None:
    random = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    for x in (SPECIAL, random):
        with np.errstate(all="ignore"):  # signalling NaN
            same_numbers(round_bfloat16(x).astype(np.float64), rounded(x))
        assert round_bfloat16(x).dtype == np.float32
    assert not np.any(round_bfloat16(random).view(np.uint32) & 0xFFFF)
    hidden = np.array([0x7F800001, 0xFFBFFFFF], np.uint32).view(np.float32)  # NaN below the bits that are kept
    assert np.isnan(round_bfloat16(hidden)).all()


def test_products_round_like_the_numpy_backend(product: Callable[..., np.ndarray]) -> None:
    one = np.ones((1, 1), np.float32)
    expected = rounded(SPECIAL).astype(np.float32) + np.float32(0)  # a sum begins with +0
    for transpose in (False, True):
        column = SPECIAL[None, :] if transpose else SPECIAL[:, None]
        same_numbers(product(column, one, transpose_a=transpose).ravel(), expected)
        same_numbers(product(one, column, transpose_b=not transpose).ravel(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_numpy_and_native_offer_the_same_product(backend: str) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((9, 33), np.float32), rng.standard_normal((33, 17), np.float32)
    c = load_backend(backend).bfloat16_product(a, b)
    assert c.dtype == np.float32
    np.testing.assert_allclose(c, rounded(a) @ rounded(b), rtol=1e-4, atol=1e-5)
    assert not np.allclose(c, a.astype(np.float64) @ b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [0, 1, 2, 7, 31, 32, 33, 257, 700])
@pytest.mark.parametrize("transposes", [(False, False), (True, False), (False, True), (True, True)])
def test_products_against_float64(k: int, transposes: tuple[bool, bool], product: Callable[..., np.ndarray]) -> None:
    rng = np.random.default_rng(k)
    for m, n in (
        (0, 5),
        (1, 1),
        (1, 257),
        (7, 16),
        (8, 15),
        (9, 17),
        (16, 33),
        (31, 64),
        (33, 65),
        (255, 10),
        (64, 256),
    ):
        a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
        how = LAYOUTS[(m + n) % len(LAYOUTS)]
        given_a, given_b = strided(a.T if transposes[0] else a, how), strided(b.T if transposes[1] else b, how)
        c = product(given_a, given_b, *transposes)
        x, y = rounded(a), rounded(b)
        # Each product and each addition rounds once at most.
        bound = (k + 4) * 2.0**-24 * (np.abs(x) @ np.abs(y))
        assert c.shape == (m, n)
        assert np.all(np.abs(c - x @ y) <= bound), (m, n)


def test_products_check_their_arguments() -> None:
    if PURE:
        pytest.skip("the pure wheel has no extension")
    product = load_backend("native").bfloat16_product
    with pytest.raises(fp.ShapeError, match="bfloat16_product: b must have shape"):
        product(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32))
    with pytest.raises(fp.DTypeError, match="float32"):
        product(np.ones((2, 3)), np.ones((3, 4)))
    with pytest.raises(fp.ShapeError, match="2 dimensions"):
        product(np.ones(3, np.float32), np.ones((3, 4), np.float32))


def test_widened_paths_give_the_same_bits() -> None:
    """A product of two bfloat16 numbers is exact in float32: even the generic kernels, which do not fuse, agree."""
    if len(WIDENED) < 2:
        pytest.skip("needs two of them")
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((37, 600), np.float32), rng.standard_normal((600, 50), np.float32)
    results = set()
    for name in WIDENED:
        with forced(name) as native:
            results.add(native.bfloat16_product(a, b).tobytes())
    assert len(results) == 1

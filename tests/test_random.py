"""Random numbers: the published algorithm, the distributions, and the same bits everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import parity
import pytest
import reference
from pure import BACKENDS

from fastperceptron import initializers, random
from fastperceptron.backends import numpy as numpy_backend

KEY = 0x0123456789ABCDEF


@pytest.fixture(params=BACKENDS, autouse=True)
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on the words of each backend."""
    monkeypatch.setattr(random, "_fastest", parity.load_backend(request.param))
    return str(request.param)


def test_known_answers() -> None:
    """The test vectors published with Random123 for philox4x32, 10 rounds."""
    ones = 2**32 - 1
    assert reference.philox_block((0, 0, 0, 0), 0) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert reference.philox_block((ones,) * 4, 2**64 - 1) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert reference.philox_block(counter, 0x299F31D0A4093822) == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 33, 1001])
def test_words(source: str, count: int) -> None:
    philox = parity.load_backend(source).philox
    for key, stream, step in ((0, 0, 0), (KEY, 16, 12), (2**64 - 1, 0xFFFF, 2**48 - 1), (KEY, 3, 2**32 + 7)):
        words = philox(key, stream, step, count)
        assert words.dtype == np.uint32
        assert words.tolist() == reference.philox_words(key, stream, step, count)


def test_words_across_chunks(source: str) -> None:
    words = parity.load_backend(source).philox(KEY, 1, 2, 4 * 8192 + 6)
    assert words[-6:].tolist() == [w for i in (8192, 8193) for w in reference.philox_block((i, 0, 2, 1 << 16), KEY)][:6]


def test_high_counter_words() -> None:
    """Block numbers past 2^32 use the second counter word."""
    from fastperceptron.backends.numpy_philox import philox_blocks

    words = philox_blocks(np.array([5], np.uint64), np.array([9], np.uint64), KEY, 2, 3)
    assert words.tolist() == [list(reference.philox_block((5, 9, 3, 2 << 16), KEY))]


def test_keys() -> None:
    assert random.make_key(5) == random.make_key(np.int32(5))
    assert len({random.make_key(seed) for seed in range(200)}) == 200
    # Neighbouring seeds differ in about half of the bits.
    flips = [bin(random.make_key(s) ^ random.make_key(s + 1)).count("1") for s in range(200)]
    assert 30 < np.mean(flips) < 34
    assert random.make_key(None) != random.make_key(None)
    a, b = np.random.default_rng(1), np.random.default_rng(1)
    key = random.make_key(a)
    assert 0 <= key < 2**64
    b.integers(0, 2**64, dtype=np.uint64)
    assert a.random() == b.random()  # drawn from once
    assert key == random.make_key(np.random.default_rng(1))


@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (2**64, ValueError), (1.5, TypeError), ("1", TypeError)])
def test_bad_seeds(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="seed: expected"):
        random.make_key(seed)  # type: ignore[arg-type]


def test_the_bits_are_frozen() -> None:
    """Saved models and published results depend on these numbers; every machine must give them."""
    digest = hashlib.sha256()
    for array in (
        np.array(random.make_key(2024), np.uint64),
        random.uniform(KEY, random.STREAM_INIT, 1, (7, 3)),
        random.normal(KEY, random.STREAM_INIT, 2, 10007),
        random.truncated_normal(KEY, random.STREAM_INIT, 3, (50, 20)),
        random.permutation(KEY, random.STREAM_SHUFFLE, 4, 1797),
    ):
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    assert digest.hexdigest() == "6ba5e1902c724bf91a5d5085497bf4dad00237cd212f6ff56597935e1fcac258"


def test_uniform() -> None:
    u = random.uniform(KEY, 3, 0, 5)
    words = reference.philox_words(KEY, 3, 0, 10)
    expected = [((words[2 * i + 1] << 32 | words[2 * i]) >> 11) / 2**53 for i in range(5)]
    assert u.tolist() == expected
    many = random.uniform(KEY, 3, 1, 200_000)
    assert many.dtype == np.float64
    assert many.min() >= 0
    assert many.max() < 1
    # 4 standard deviations of the mean and of the second moment.
    assert abs(many.mean() - 1 / 2) < 4 * (1 / 12 / 2e5) ** 0.5
    assert abs(np.square(many).mean() - 1 / 3) < 4 * (4 / 45 / 2e5) ** 0.5


def test_normal() -> None:
    z = random.normal(KEY, 3, 0, 200_000)
    assert abs(z.mean()) < 4 / 2e5**0.5
    assert abs(z.var() - 1) < 4 * (2 / 2e5) ** 0.5
    assert abs((z**4).mean() - 3) < 4 * (96 / 2e5) ** 0.5
    # Kolmogorov-Smirnov distance: 1.63 / sqrt(n) is passed once in a hundred keys; this key is fixed.
    z.sort()
    cdf = np.array([reference._cdf(v) for v in z[::50]])
    assert np.abs(cdf - np.arange(0, len(z), 50) / len(z)).max() < 1.63 / 2e5**0.5


def test_normal_quantiles() -> None:
    """Where the oracle's distribution function has slope phi, an error dz shows as phi dz."""
    p = np.concatenate([np.arange(1, 1000) / 1000, 2.0 ** -np.arange(2, 53), 1 - 2.0 ** -np.arange(2, 53)])
    for probability, z in zip(p.tolist(), random._normal_quantile(p).tolist(), strict=True):
        tail = probability if z < 0 else 1 - probability
        error = (reference._cdf(-abs(z)) - tail) / reference._phi(z)
        # 1e-15 of z for the approximation, z^2 units of the tail for the oracle's erfc.
        assert abs(error) < 1e-15 * abs(z) + 4e-16 * (1 + z * z) * tail / reference._phi(z)


def test_logarithm() -> None:
    x = np.concatenate([np.linspace(0.5, 2, 1001), 2.0 ** np.linspace(-60, 60, 999)])
    import math

    expected = np.array([math.log(v) for v in x])
    np.testing.assert_allclose(random._log(x), expected, rtol=4e-16, atol=0)


def test_truncated_normal() -> None:
    z = random.truncated_normal(KEY, 3, 0, 200_000)
    assert np.abs(z).max() <= 2
    assert np.abs(z).max() > 1.999
    assert abs(z.mean()) < 4 * 0.88 / 2e5**0.5
    assert abs(z.std() - 0.87962566103423978) < 0.004


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 7, 8, 9, 255, 256, 257, 10_000])
def test_permutation(n: int) -> None:
    order = random.permutation(KEY, 0, 3, n)
    assert order.dtype == np.int64
    assert order.shape == (n,)
    assert sorted(order.tolist()) == list(range(n))


@pytest.mark.skipif(BACKENDS == ("numpy",), reason="one backend")
def test_permutations_of_the_backends_are_the_same() -> None:
    native = parity.load_backend("native")
    for n in (*range(20), 255, 256, 257, 5000, 65_536, 300_001):
        for step in (0, 2**33):
            expected = numpy_backend.permutation(KEY, 2, step, n)
            np.testing.assert_array_equal(native.permutation(KEY, 2, step, n), expected)
    with pytest.raises(ValueError, match="n must not be negative"):
        native.permutation(KEY, 2, 0, -1)


def test_permutations_are_uniform() -> None:
    """All 24 orders of four rows come equally often: chi squared with 23 degrees, 0.001 point 49.7."""
    counts: dict[tuple[int, ...], int] = {}
    for step in range(2400):
        order = tuple(random.permutation(KEY, 0, step, 4).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    assert sum((c - 100) ** 2 / 100 for c in counts.values()) < 49.7


def test_streams_and_steps_share_nothing() -> None:
    draws = [random.uniform(KEY, stream, step, 8) for stream in range(4) for step in range(4)]
    assert len({value for draw in draws for value in draw.tolist()}) == 128


def test_shapes() -> None:
    assert random.uniform(KEY, 0, 0, ()).shape == ()
    assert random.normal(KEY, 0, 0, (0, 3)).shape == (0, 3)
    assert random.normal(KEY, 0, 0, (2, 3)).ravel().tolist() == random.normal(KEY, 0, 0, 6).tolist()


@pytest.mark.parametrize("draw", [random.uniform, random.normal, random.truncated_normal])
def test_many_begin_as_few_do(draw: Callable[..., np.ndarray]) -> None:
    few, many = draw(KEY, 2, 0, 8300), draw(KEY, 2, 0, (100, 400))
    assert many.ravel()[:8300].tobytes() == few.tobytes()
    assert many.ravel()[8190:8200].tolist() == [draw(KEY, 2, 0, i + 1)[i] for i in range(8190, 8200)]


def test_numpy_draws_where_the_instruction_set_cannot_be_had() -> None:
    code = "import fastperceptron.random as r; print(r.make_key(5), r._source().__name__)"
    environment = {**os.environ, "FASTPERCEPTRON_ISA": "sse9"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert found.stdout.split() == [str(random.make_key(5)), "fastperceptron.backends.numpy"]


def test_import_is_light() -> None:
    code = (
        "import sys, numpy; loaded = 'numpy.random' in sys.modules; import fastperceptron.random; "
        "sys.exit('numpy.random' in sys.modules and not loaded)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_backends_give_the_same_words() -> None:
    for name in BACKENDS:
        words = parity.load_backend(name).philox(KEY, 2, 3, 1000)
        np.testing.assert_array_equal(words, numpy_backend.philox(KEY, 2, 3, 1000))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: random.uniform(-1, 0, 0, 3), ValueError, r"random: key must lie in \[0, 2\*\*64\); received -1"),
        (lambda: random.uniform(1.5, 0, 0, 3), TypeError, "random: key must be an integer; received 1.5"),
        (lambda: random.normal(KEY, 2**16, 0, 3), ValueError, r"random: stream must lie in \[0, 2\*\*16\)"),
        (lambda: random.truncated_normal(KEY, 0, "a", 3), TypeError, "random: step must be an integer; received 'a'"),
        (
            lambda: random.uniform(KEY, 0, 0, (2, -1)),
            ValueError,
            r"shape must be integers of at least 0; received \(2, -1",
        ),
        (lambda: random.uniform(KEY, 0, 0, "ab"), ValueError, "shape must be integers of at least 0; received 'ab'"),
        (lambda: random.uniform(KEY, 0, 0, 2.0), ValueError, "shape must be integers of at least 0; received 2.0"),
        (lambda: random.permutation(KEY, 0, 2**48, 3), ValueError, r"permutation: step must lie in \[0, 2\*\*48\)"),
        (lambda: random.permutation(KEY, 0, 0, 2.5), ValueError, "permutation: n must be an integer of at least 0"),
        (lambda: random.permutation(KEY, 0, 0, -1), ValueError, "n must be an integer of at least 0; received -1"),
        (lambda: initializers.Zeros()((2, -1)), ValueError, r"initializer Zeros: shape must be integers of at least 0"),
        (lambda: initializers.HeNormal()((2.0, 3)), ValueError, "initializer HeNormal: shape must be integers"),
    ],
)
def test_errors(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_shape_may_be_a_size() -> None:
    assert random.uniform(KEY, 0, 0, np.int64(3)).shape == initializers.Ones()(3).shape == (3,)

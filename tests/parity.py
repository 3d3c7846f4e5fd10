"""What the tests that compare backends share: the backends, awkward sizes, random programs, and tolerances."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from pure import PURE

from fastperceptron.program import LOSSES, Operation, Parameter, Program

#: Around every vector width (4, 8, 16), one cache line, four, and the block of a sum.
SIZES = (0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 65, 255, 256, 257)

ELEMENTWISE = (
    "linear",
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "gelu_tanh",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "sigmoid",
    "tanh",
    "step",
)
ALPHA = {"leaky_relu": 0.2, "elu": 1.3}


def load_backend(name: str) -> Any:
    """The backend's module. Raises when it cannot be had."""
    return importlib.import_module(f"fastperceptron.backends.{name}")


def instruction_sets(question: str = "instruction_sets_usable") -> tuple[str, ...]:
    """Those that the extension can run here; when it is missing, one name, so that the tests fail, not vanish."""
    if PURE:
        return ()
    try:
        core = importlib.import_module("fastperceptron._core")
    except ImportError:
        return ("auto",)
    return tuple(getattr(core, question)())


#: The ways to multiply in mixed precision that this machine has, and those of them that widen operands to float32.
PATHS = instruction_sets("bfloat16_paths_usable")
WIDENED = tuple(name for name in PATHS if name in ("generic", "avx2", "avx512", "neon"))

#: Two instruction sets that must give the same bits, on a CPU that has both.
PAIR = tuple(name for name in ("avx2", "avx512") if name in instruction_sets())
needs_pair = pytest.mark.skipif(len(PAIR) < 2, reason="this CPU has not both AVX2 and AVX-512")


@contextmanager
def forced(instruction_set: str) -> Iterator[Any]:
    """The native backend on one instruction set."""
    native = load_backend("native")
    core = importlib.import_module("fastperceptron._core")
    core.set_instruction_set(instruction_set)
    try:
        yield native
    finally:
        core.set_instruction_set("auto")


def strided(a: np.ndarray, how: str) -> np.ndarray:
    """The same numbers in another memory layout."""
    match how:
        case "contiguous":
            return np.ascontiguousarray(a)
        case "fortran":
            return np.asfortranarray(a)
        case "gaps":
            wide = np.zeros(tuple(2 * extent + 3 for extent in a.shape), a.dtype)
            view = wide[tuple(slice(1, 1 + 2 * extent, 2) for extent in a.shape)]
            view[...] = a
            return view
        case "padded":
            wide = np.zeros((*a.shape[:-1], a.shape[-1] + 5), a.dtype)
            wide[...] = 1 if a.dtype.kind in "biu" else np.nan
            wide[..., 2 : 2 + a.shape[-1]] = a
            return wide[..., 2 : 2 + a.shape[-1]]
        case "negative":
            return (
                np.ascontiguousarray(a[::-1])[::-1] if a.ndim == 1 else np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]
            )
        case "misaligned":
            raw = np.zeros(a.nbytes + 1, np.uint8)
            view = raw[1:].view(a.dtype).reshape(a.shape)
            view[...] = a
            return view
        case "read-only":
            copy = np.array(a)
            copy.flags.writeable = False
            return copy
    raise AssertionError(how)


LAYOUTS = ("contiguous", "fortran", "gaps", "padded", "negative", "misaligned", "read-only")


def targets_for(kind: str, rng: np.random.Generator, n: int, width: int, dtype: Any = np.float64) -> np.ndarray:
    """Targets that the loss is meant for; soft ones where it takes them."""
    if kind.startswith("sparse_"):
        return rng.integers(0, width, n)
    if kind.startswith("categorical"):
        t = rng.random((n, width)) + 0.01
        return (t / t.sum(axis=1, keepdims=True)).astype(dtype)
    if kind.startswith("binary"):
        return rng.random((n, width)).astype(dtype)
    if kind in ("hinge", "perceptron"):
        return rng.choice([-1.0, 1.0], (n, width)).astype(dtype)
    return rng.normal(size=(n, width)).astype(dtype)


def predictions_for(kind: str, rng: np.random.Generator, n: int, width: int, dtype: Any = np.float64) -> np.ndarray:
    """Predictions in the domain of the loss."""
    if kind in LOSSES and "cross_entropy" in kind and not kind.endswith("_logits"):
        return rng.uniform(0.02, 0.98, (n, width)).astype(dtype)
    return (2 * rng.normal(size=(n, width))).astype(dtype)


class Builder:
    """Grows a program value by value."""

    def __init__(self, width: int, dtype: str = "float64") -> None:
        self.dtype = dtype
        self.widths = [width]
        self.parameters: list[Parameter] = []
        self.operations: list[Operation] = []

    def _value(self, width: int) -> int:
        self.widths.append(width)
        return len(self.widths) - 1

    def weights(self, rows: int, cols: int, bias: bool = True) -> tuple[int, ...]:
        first = len(self.parameters)
        self.parameters.append(Parameter(f"d{first}/kernel", (rows, cols)))
        if bias:
            self.parameters.append(Parameter(f"d{first}/bias", (cols,)))
        return tuple(range(first, len(self.parameters)))

    def dense(
        self, x: int, units: int, activation: str = "linear", bias: bool = True, parameters: tuple[int, ...] = ()
    ) -> int:
        parameters = parameters or self.weights(self.widths[x], units, bias)
        y = self._value(units)
        self.operations.append(
            Operation(
                "dense", (x,), y, f"dense{y}", parameters, activation=activation, alpha=ALPHA.get(activation, 0.0)
            )
        )
        return y

    def activation(self, x: int, activation: str) -> int:
        y = self._value(self.widths[x])
        self.operations.append(
            Operation("activation", (x,), y, f"activation{y}", activation=activation, alpha=ALPHA.get(activation, 0.0))
        )
        return y

    def dropout(self, x: int, rate: float, stream: int) -> int:
        y = self._value(self.widths[x])
        self.operations.append(Operation("dropout", (x,), y, f"dropout{y}", rate=rate, stream=stream))
        return y

    def join(self, kind: str, *xs: int) -> int:
        """add, multiply or concatenate."""
        widths = [self.widths[x] for x in xs]
        y = self._value(sum(widths) if kind == "concatenate" else widths[0])
        self.operations.append(Operation(kind, xs, y, f"{kind}{y}"))
        return y

    def columns(self, begin: int, width: int) -> int:
        y = self._value(width)
        self.operations.append(Operation("columns", (0,), y, f"columns{y}", begin=begin))
        return y

    def program(self, *outputs: int) -> Program:
        return Program(self.dtype, tuple(self.widths), tuple(self.parameters), tuple(self.operations), outputs)


def random_parameters(program: Program, rng: np.random.Generator) -> list[np.ndarray]:
    """Of a size that keeps activations near 1."""
    return [
        (rng.normal(size=p.shape) / max(1.0, p.shape[0] if len(p.shape) > 1 else 4.0) ** 0.5).astype(
            program.array_dtype
        )
        for p in program.parameters
    ]


def make_network(backend: Any, program: Program, parameters: list[np.ndarray], key: int = 0) -> Any:
    network = backend.Network(program)
    network.key = key
    for i, value in enumerate(parameters):
        network.set_parameter(i, value)
    return network


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Largest absolute difference over the largest magnitude of b (or 1e-300): an error relative to the whole array."""
    if a.shape != b.shape:
        raise AssertionError(f"shapes differ: {a.shape} and {b.shape}")
    if a.size == 0:
        return 0.0
    scale = max(float(np.abs(b).max()), 1e-300)
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max()) / scale

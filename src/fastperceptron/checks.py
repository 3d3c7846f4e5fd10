"""Checks of array arguments that name the operation, what was expected and what came."""

from __future__ import annotations

import operator
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import DTypeError, ShapeError

__all__ = [
    "as_array",
    "as_counter",
    "as_dtype",
    "as_finite",
    "as_flag",
    "as_float_array",
    "as_list",
    "as_sizes",
    "by_name",
    "check_dimensions",
    "check_finite",
    "check_one_dtype",
    "check_pair",
    "check_shape",
    "check_written",
    "is_integer",
    "is_number",
    "kind_of",
    "refuse_masked",
]

Array = NDArray[Any]

_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
_LARGEST = {dtype: float(np.finfo(dtype).max) for dtype in (_FLOAT32, _FLOAT64)}


def as_array(operation: str, name: str, value: Any) -> Array:
    """What NumPy makes of it, which is nothing where lists are ragged."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{operation}: {name} must be a rectangular array; {error}") from error


def as_float_array(operation: str, name: str, value: ArrayLike) -> Array:
    """The value as a float32 or float64 array in native byte order."""
    refuse_masked(operation, name, value)
    a = as_array(operation, name, value)
    dtype = a.dtype
    if dtype is _FLOAT32 or dtype is _FLOAT64:  # nearly always: NumPy's own types are singletons
        return a
    native = dtype.newbyteorder("=")
    if native not in (_FLOAT32, _FLOAT64):
        raise DTypeError(f"{operation}: {name} must be float32 or float64; received {dtype}")
    return a.astype(native, copy=not dtype.isnative)


def refuse_masked(operation: str, name: str, value: Any) -> None:
    """Raises ValueError for an array with masked entries, which NumPy would turn into what lies under the mask."""
    masked = sys.modules.get("numpy.ma")  # a masked array exists only where this was imported
    if masked is not None and isinstance(value, masked.MaskedArray) and masked.is_masked(value):
        raise ValueError(
            f"{operation}: {name} must have no masked entries; received {value.dtype} {value.shape} with some"
        )


def is_integer(value: Any) -> bool:
    """One of Python's or NumPy's; True and False are none."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """An integer that a float can be near to, or a float of Python's or NumPy's."""
    return isinstance(value, (float, np.floating)) or (is_integer(value) and abs(int(value)) < 1 << 1023)


def kind_of(value: Any) -> str:
    """What came instead of an object, for messages; a class is told from its instances."""
    return f"the class {value.__name__}; write {value.__name__}()" if isinstance(value, type) else type(value).__name__


def by_name(kind: str, identifier: str, table: Mapping[str, Any], *further: str) -> Any:
    """The entry of that name. Case, hyphens and underscores do not count: "GlorotUniform" is "glorot_uniform"."""
    plain = _plain(identifier)
    for name, item in table.items():
        if _plain(name) == plain:
            return item
    names = ", ".join(sorted({*table, *further}))
    raise ValueError(f"{kind}: expected one of {names}; received {identifier!r}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def as_flag(operation: str, name: str, value: Any) -> bool:
    """True or False, and nothing that merely counts as one of them."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{operation}: {name} must be True or False; received {value!r}")
    return bool(value)


def as_finite(operation: str, name: str, value: Any, dtype: Any = np.float64) -> float:
    """A number that is finite in the dtype in which it is used."""
    if not is_number(value):
        raise TypeError(f"{operation}: {name} must be a number; received {value!r}")
    number = float(value)
    if not abs(number) <= _LARGEST[np.dtype(dtype)]:
        raise ValueError(f"{operation}: {name} must be finite in {np.dtype(dtype)}; received {value!r}")
    return number


def as_counter(operation: str, key: Any, stream: Any, step: Any) -> list[int]:
    """Key, stream and step of random numbers."""
    numbers = []
    for name, value, bits in (("key", key, 64), ("stream", stream, 16), ("step", step, 48)):
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(f"{operation}: {name} must be an integer; received {value!r}") from None
        if not 0 <= number < 2**bits:
            raise ValueError(f"{operation}: {name} must lie in [0, 2**{bits}); received {number}")
        numbers.append(number)
    return numbers


def as_sizes(operation: str, shape: Any) -> tuple[int, ...]:
    """A shape, given as sizes or as the size of its only axis."""
    sizes = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not all(is_integer(size) and size >= 0 for size in sizes):
        raise ValueError(f"{operation}: shape must be integers of at least 0; received {shape!r}")
    return tuple(map(int, sizes))


def as_dtype(operation: str, name: str, array: Array, dtype: Any, copy: bool = True) -> Array:
    """The array in a dtype and in C order, or an error where a finite number would become infinite."""
    with np.errstate(over="ignore"):
        cast = array.astype(dtype, order="C", copy=copy)
    if not np.can_cast(array.dtype, cast.dtype) and not np.isfinite(cast).all():
        lost = np.isinf(cast) & np.isfinite(array)
        if lost.any():
            raise ValueError(f"{operation}: {name} must be finite in {cast.dtype}; received {array[lost][0]}")
    return cast


def as_list(operation: str, what: str, value: Any) -> list[Any]:
    """The items of what can be gone through."""
    try:
        return list(value)
    except TypeError:
        raise TypeError(f"{operation}: expected a list of {what}; received {kind_of(value)}") from None


def check_finite(numbers: NDArray[np.float64], dtype: Any, operation: str, name: str) -> None:
    """An error where one of these is not finite in a dtype."""
    largest = _LARGEST[np.dtype(dtype)]
    if numbers.size and not np.abs(numbers).max() <= largest:
        row = int(np.argmin(np.abs(numbers) <= largest))
        kind = "" if np.dtype(dtype) is _FLOAT64 else f" in {np.dtype(dtype)}"
        raise ValueError(f"{operation}: {name} must be finite{kind}; received {numbers[row]} in row {row}")


def check_pair(operation: str, value: Any, expected: str) -> tuple[Any, Any]:
    """The two values that a user's code must return."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{operation}: expected {expected}; received {type(value).__name__}")
    if len(value) != 2:
        raise TypeError(f"{operation}: expected {expected}; received {len(value)} values")
    return value[0], value[1]


def check_one_dtype(operation: str, **arrays: Array | None) -> None:
    first: tuple[str, Array] | None = None
    for name, a in arrays.items():
        if a is None:
            continue
        if first is None:
            first = name, a
        elif a.dtype != first[1].dtype:
            raise DTypeError(
                f"{operation}: {first[0]} and {name} must have one dtype; received {first[1].dtype} and {a.dtype}"
            )


def check_dimensions(operation: str, name: str, a: Array, expected: str) -> None:
    if a.ndim != 1 + expected.count(", "):
        raise ShapeError(f"{operation}: {name} must have shape {expected}; received {a.shape}")


def check_shape(operation: str, name: str, a: Array, expected: tuple[int | str, ...], why: str) -> None:
    """Letters in the expected shape stand for any number."""
    if len(expected) == a.ndim and all(isinstance(e, str) or e == n for e, n in zip(expected, a.shape, strict=True)):
        return
    text = ", ".join(map(str, expected)) + ("," if len(expected) == 1 else "")
    raise ShapeError(f"{operation}: {name} must have shape ({text}) {why}; received {a.shape}")


def _identical(a: Array, b: Array) -> bool:
    return (
        a.shape == b.shape
        and a.strides == b.strides
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
    )


def check_written(
    operation: str,
    name: str,
    a: Any,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    apart: tuple[Array | None, ...] = (),
    same_or_apart: tuple[Array, ...] = (),
) -> None:
    """Check an array that is written to: it is never copied, so it has to fit exactly."""
    if not isinstance(a, np.ndarray):
        raise DTypeError(f"{operation}: {name} must be a numpy.ndarray; received {type(a).__name__}")
    masked = sys.modules.get("numpy.ma")  # a masked array exists only where this was imported
    if masked is not None and isinstance(a, masked.MaskedArray):
        raise DTypeError(
            f"{operation}: {name} must be a plain array; received a MaskedArray, whose mask has no part here"
        )
    if a.dtype != dtype or not a.dtype.isnative:
        raise DTypeError(f"{operation}: {name} must be {dtype}; received {a.dtype}")
    if a.shape != shape:
        raise ShapeError(f"{operation}: {name} must have shape {shape}; received {a.shape}")
    if not a.flags.writeable:
        raise ValueError(f"{operation}: {name} must be writeable; received a read-only array")
    in_rows = a.flags.c_contiguous or (
        a.ndim == 2 and a.strides[1] == a.itemsize and a.strides[0] >= a.shape[1] * a.itemsize
    )
    if not (a.flags.aligned and in_rows):
        raise ValueError(
            f"{operation}: {name} must be aligned, with adjacent elements in each row and rows in order; "
            f"received strides {a.strides}"
        )
    for other in apart:
        if other is not None and np.shares_memory(a, other):
            raise ValueError(f"{operation}: {name} must share no memory with the other arrays; received one that does")
    for other in same_or_apart:
        if not _identical(a, other) and np.shares_memory(a, other):
            raise ValueError(
                f"{operation}: {name} must be the input itself or share no memory with it; "
                "received one that overlaps it in part"
            )

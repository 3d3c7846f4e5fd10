"""The model file: a safetensors file with a configuration and a checksum in its metadata.

Layout: 8 bytes, the header's length as a little-endian unsigned integer; the header, JSON in UTF-8, padded with
spaces to a multiple of 8; the tensors, little-endian, in C order, without gaps. The header maps each tensor's name to
``{"dtype", "shape", "data_offsets": [begin, end]}`` (offsets count from the end of the header) and
``"__metadata__"`` to four strings:

=================== ===========================================================================================
``format``          ``"fastperceptron"``
``format_version``  ``"1"``
``config``          the configuration, a JSON object
``checksum``        ``"sha256:"`` and 64 lower-case hexadecimal digits
=================== ===========================================================================================

The checksum is the SHA-256 of, first, the UTF-8 encoding of
``json.dumps([metadata, tensors], separators=(",", ":"))``, where ``metadata`` is the sorted list of
``[key, value]`` of every metadata entry but ``checksum`` and ``tensors`` the list of ``[name, dtype, shape]`` sorted
by name; and then of the tensors' bytes in the order of that list. It covers all that the file says and not how the
file says it, so that a program which rewrites a safetensors file unchanged leaves a valid model file.

Reading trusts nothing: each size, offset, type and shape is checked before memory for tensors is allocated. The
tensors take the memory they take in the file; the header may take some 50 MB more, however it is made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .atomicfile import write_atomically
from .errors import ModelFormatError

__all__ = ["FORMAT_NAME", "FORMAT_VERSION", "read_model_file", "write_model_file"]

FORMAT_NAME = "fastperceptron"
FORMAT_VERSION = "1"

#: safetensors' names of the element types a model may hold, and NumPy's, as stored.
_DTYPES: dict[str, str] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}
_CODES: dict[str, str] = {stored: code for code, stored in _DTYPES.items()}

_MAX_HEADER = 16 << 20
_MAX_JSON_ITEMS = 250_000
_MAX_RANK = 32
_METADATA = "__metadata__"

Config = dict[str, Any]
Described = dict[str, tuple[str, tuple[int, ...]]]


class _Entry(NamedTuple):
    """One tensor as its header describes it."""

    name: str
    code: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write_model_file(path: str | os.PathLike[str], config: Config, tensors: dict[str, NDArray[Any]]) -> None:
    """Write a configuration and named arrays; equal arguments give equal bytes.

    The file appears whole or not at all: see :func:`~fastperceptron.atomicfile.write_atomically`.

    Parameters
    ----------
    path
        An existing file is replaced; its permissions are kept.
    config
        A dict that JSON can express: string keys, no NaN or infinity. Tuples come back as lists.
    tensors
        Arrays of any real dtype of 8 to 64 bits, or bool; any strides; scalars are 0-d arrays.

    Raises
    ------
    ModelFormatError
        When the configuration or an array cannot be expressed.
    OSError
        When the file cannot be written; what was there before is still there.
    """
    import json

    _check_config(config)
    try:
        text = json.dumps(config, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelFormatError(f"write_model_file: config must be expressible in JSON; {error}") from error
    _json_object(encoded, "write_model_file: config")  # what cannot be read back is not written
    arrays = {name: _storable(name, value) for name, value in tensors.items()}
    metadata = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "config": text}
    entries = _lay_out(arrays)
    metadata["checksum"] = _checksum(metadata, entries, arrays)
    header: dict[str, Any] = {_METADATA: metadata}
    for e in entries:
        header[e.name] = {"dtype": e.code, "shape": list(e.shape), "data_offsets": [e.begin, e.end]}
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    if len(head) > _MAX_HEADER or _json_items(head) > _MAX_JSON_ITEMS:
        raise ModelFormatError(
            f"write_model_file: configuration and names must fit in {_MAX_HEADER} bytes and {_MAX_JSON_ITEMS} JSON "
            f"items; received {len(head)} bytes and {_json_items(head)} items of {len(entries)} tensors"
        )
    write_atomically(path, [len(head).to_bytes(8, "little"), head, *(_bytes_of(arrays[e.name]) for e in entries)])


def read_model_file(
    path: str | os.PathLike[str], check: Callable[[Config, Described], None] | None = None
) -> tuple[Config, dict[str, NDArray[Any]]]:
    """Read what :func:`write_model_file` wrote, or raise.

    ``check(config, {name: (dtype, shape)})``, with NumPy's dtype names, is called before tensors are allocated; what
    it raises becomes a :class:`ModelFormatError`.

    Returns
    -------
    The configuration, and the tensors by name as writable arrays in native byte order.

    Raises
    ------
    ModelFormatError
        When the file is not a model file, is damaged, or ``check`` refuses it. The message names the file.
    OSError
        When the file cannot be opened or read; ``FileNotFoundError`` when there is none.
    """
    place = f"read_model_file: {os.fsdecode(path)}"
    with open(path, "rb", buffering=0) as file:
        metadata, entries, data_size = _read_header(file, place)
        config = _json_object(metadata["config"].encode(), f"{place}: the configuration")
        if check is not None:
            described = {e.name: (np.dtype(_DTYPES[e.code]).name, e.shape) for e in entries}
            try:
                check(config, described)
            except ModelFormatError as error:
                raise ModelFormatError(f"{place}: {error}") from error
            except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
                raise ModelFormatError(f"{place}: the configuration is not valid: {error}") from error
        arrays: dict[str, NDArray[Any]] = {}
        for e in sorted(entries, key=lambda e: (e.begin, e.end)):
            arrays[e.name] = _read_tensor(file, e, place)
        if file.read(1):
            raise ModelFormatError(f"{place}: expected {data_size} bytes of tensors; received more")
    found = _checksum(metadata, entries, arrays)
    if found != metadata["checksum"]:
        raise ModelFormatError(
            f"{place}: the file is damaged: expected checksum {metadata['checksum']}; its contents give {found}"
        )
    tensors = {}
    for e in entries:
        array = arrays.pop(e.name)
        if e.code == "BOOL" and array.view(np.uint8).max(initial=0) > 1:
            raise ModelFormatError(f"{place}: tensor {e.name!r}: expected BOOL bytes of 0 or 1; received others")
        tensors[e.name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return config, tensors


# -- writing -----------------------------------------------------------------------------------------------------


def _check_config(value: object) -> None:
    """json.dumps turns keys such as 1 or None into strings; here they are errors."""
    if not isinstance(value, dict):
        raise ModelFormatError(f"write_model_file: config must be a dict; received {type(value).__name__}")
    stack: list[tuple[object, int]] = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > 200:
            raise ModelFormatError("write_model_file: config must not be nested deeper than 200; received more")
        if isinstance(item, dict):
            for key in item:
                if not isinstance(key, str):
                    raise ModelFormatError(f"write_model_file: config must have string keys; received {key!r}")
            stack.extend((v, depth + 1) for v in item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend((v, depth + 1) for v in item)


def _storable(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """The array in C order and little-endian; a copy only when it must be."""
    if not _is_name(name):
        raise ModelFormatError(f"write_model_file: tensor names must be printable text; received {name!r}")
    array = np.asarray(value)
    stored = array.dtype.newbyteorder("<").str
    if stored not in _CODES:
        raise ModelFormatError(
            f"write_model_file: tensor {name!r} must have one of the dtypes "
            f"{', '.join(np.dtype(s).name for s in _CODES)}; received {array.dtype}"
        )
    if array.ndim > _MAX_RANK:
        raise ModelFormatError(
            f"write_model_file: tensor {name!r} must have at most {_MAX_RANK} axes; received {array.ndim}"
        )
    return array.astype(stored, order="C", copy=False)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and 0 < len(name) <= 10_000 and name.isprintable() and name != _METADATA


def _lay_out(arrays: dict[str, NDArray[Any]]) -> list[_Entry]:
    """Largest elements first, so that every tensor is aligned; names decide between equals."""
    entries, offset = [], 0
    for name in sorted(arrays, key=lambda n: (-arrays[n].itemsize, n)):
        array = arrays[name]
        entries.append(_Entry(name, _CODES[array.dtype.str], array.shape, offset, offset + array.nbytes))
        offset += array.nbytes
    return entries


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _checksum(metadata: dict[str, str], entries: list[_Entry], arrays: dict[str, NDArray[Any]]) -> str:
    import hashlib
    import json

    said = sorted([key, value] for key, value in metadata.items() if key != "checksum")
    ordered = sorted(entries, key=lambda e: e.name)
    head = json.dumps([said, [[e.name, e.code, list(e.shape)] for e in ordered]], separators=(",", ":"))
    digest = hashlib.sha256(head.encode(), usedforsecurity=False)
    for e in ordered:
        digest.update(_bytes_of(arrays[e.name]))
    return f"sha256:{digest.hexdigest()}"


# -- reading -----------------------------------------------------------------------------------------------------


def _read_header(file: IO[bytes], place: str) -> tuple[dict[str, str], list[_Entry], int]:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):  # its size, by which all is checked, would be 0
        raise ModelFormatError(f"{place}: expected a regular file; it is something else")
    size = status.st_size
    prefix = _read_exactly(file, 8, place, "the header's length")
    length = int.from_bytes(prefix, "little")
    if length > min(_MAX_HEADER, size - 8):
        raise ModelFormatError(
            f"{place}: not a model file: expected a header of at most {min(_MAX_HEADER, size - 8)} bytes in a file of "
            f"{size}; its first 8 bytes announce {length}"
        )
    header = _json_object(_read_exactly(file, length, place, "the header"), f"{place}: the header")
    metadata = header.pop(_METADATA, None)
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT_NAME:
        raise ModelFormatError(
            f"{place}: not a fastperceptron model file: its metadata must say format 'fastperceptron'"
        )
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ModelFormatError(
            f"{place}: expected format version {FORMAT_VERSION}, which this release reads; "
            f"received {_short(metadata.get('format_version'))}"
        )
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise ModelFormatError(f"{place}: metadata {_short(key)} must be a string; received {_short(value)}")
        if not _is_text(key) or not _is_text(value):
            raise ModelFormatError(f"{place}: metadata {_short(key)} must be Unicode text; received a lone surrogate")
    for key in ("config", "checksum"):
        if key not in metadata:
            raise ModelFormatError(f"{place}: the metadata must have {key!r}; received {sorted(metadata)}")
    data_size = size - 8 - length
    entries = [_entry(name, value, data_size, place) for name, value in header.items()]
    _check_cover(entries, data_size, place)
    return metadata, entries, data_size


def _json_items(raw: bytes) -> int:
    """What stands outside strings, which decides how many Python objects come out of a byte."""
    import re

    structure = re.sub(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', b"", raw, flags=re.DOTALL)
    return structure.count(b",") + structure.count(b"[") + structure.count(b"{")


def _json_object(raw: bytes, place: str) -> dict[str, Any]:
    """Strict JSON: an object, no repeated keys, no NaN or infinity, bounded in depth and number of items."""
    import json
    import math

    if _json_items(raw) > _MAX_JSON_ITEMS:
        raise ModelFormatError(f"{place} must hold at most {_MAX_JSON_ITEMS} items; received more")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise ValueError(f"the key {_short(repeated)} is repeated")
        return made

    def finite(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"the number {_short(text)} is out of range")
        return value

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not a JSON number")

    try:
        value = json.loads(raw.decode(), object_pairs_hook=unique, parse_float=finite, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{place} must be valid JSON: {_short(str(error), 200)}") from error
    if not isinstance(value, dict):
        raise ModelFormatError(f"{place} must be a JSON object; received {type(value).__name__}")
    return value


def _entry(name: str, value: object, data_size: int, place: str) -> _Entry:
    place = f"{place}: tensor {_short(name)}"
    if not _is_name(name):
        raise ModelFormatError(f"{place}: the name must be printable text of at most 10000 characters")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ModelFormatError(f"{place}: expected dtype, shape and data_offsets; received {_short(value)}")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in _DTYPES:
        raise ModelFormatError(f"{place}: dtype must be one of {', '.join(_DTYPES)}; received {_short(code)}")
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_is_size(n) for n in shape):
        raise ModelFormatError(f"{place}: shape must be at most {_MAX_RANK} sizes; received {_short(shape)}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise ModelFormatError(f"{place}: data_offsets must be two positions; received {_short(offsets)}")
    begin, end = offsets
    if not begin <= end <= data_size:
        raise ModelFormatError(
            f"{place}: data_offsets must rise and lie within the {data_size} bytes of tensors; received {offsets}"
        )
    needed = np.dtype(_DTYPES[code]).itemsize
    extent = needed  # as if empty axes had one element: NumPy refuses shapes whose other axes overflow
    for n in shape:
        needed *= n
        extent *= max(n, 1)
    if needed != end - begin or extent > 2**63 - 1:
        raise ModelFormatError(
            f"{place}: {code} of shape {_short(shape)} needs {needed} bytes; data_offsets give {end - begin}"
        )
    return _Entry(name, code, tuple(shape), begin, end)


def _check_cover(entries: list[_Entry], data_size: int, place: str) -> None:
    """The tensors must cover the data exactly: a gap or an overlap could hide something."""
    position = 0
    for e in sorted(entries, key=lambda e: (e.begin, e.end)):
        if e.begin != position:
            kind = "overlaps the one before it" if e.begin < position else "leaves a gap before it"
            raise ModelFormatError(
                f"{place}: tensor {_short(e.name)} {kind}: expected it at {position}; received {e.begin}"
            )
        position = e.end
    if position != data_size:
        raise ModelFormatError(f"{place}: the tensors need {position} bytes; the file has {data_size} for them")


def _read_tensor(file: IO[bytes], entry: _Entry, place: str) -> NDArray[Any]:
    array = np.empty(entry.shape, dtype=_DTYPES[entry.code])
    view, done = _bytes_of(array), 0
    while done < len(view):
        count = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise ModelFormatError(f"{place}: tensor {entry.name!r}: expected {len(view)} bytes; received {done}")
        done += count
    return array


def _read_exactly(file: IO[bytes], count: int, place: str, what: str) -> bytes:
    parts, missing = [], count
    while missing:
        part = file.read(missing)
        if not part:
            raise ModelFormatError(
                f"{place}: not a model file: expected {count} bytes of {what}; received {count - missing}"
            )
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: object, limit: int = 60) -> str:
    """For messages: a hostile file must not choose their length."""
    text = value if isinstance(value, str) and limit > 60 else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."

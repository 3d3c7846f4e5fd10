"""CSV files with a header line: numeric features, and a target of numbers or of class names.

Text is UTF-8, with or without a byte-order mark; lines end in LF or CRLF; values may be quoted with ``"``; the
delimiter, a comma, semicolon or tab, is found in the header. Blank lines after it are skipped. Numbers have a decimal
point. Whatever else a file holds is a :class:`CSVError` that names the file, the line and the column.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["CSVError", "Table", "Target", "read_csv", "read_target"]

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}

_ROWS_AT_ONCE = 4096
#: With "auto", whole numbers are class labels when there are at most this many, and each comes up this often.
_MAX_LABELS, _MIN_REPEATS = 20, 5


class CSVError(ValueError):
    """A CSV file that cannot be read. ``path``, ``line`` (from 1) and ``column`` say where, when they are known."""

    def __init__(self, path: str, message: str, line: int | None = None, column: str | None = None) -> None:
        place = path if line is None else f"{path}, line {line}"
        super().__init__(f"{place}, column {column!r}: {message}" if column is not None else f"{place}: {message}")
        self.path, self.line, self.column = path, line, column


class Table(NamedTuple):
    """What a CSV file holds."""

    path: str
    features: tuple[str, ...]
    x: NDArray[np.float64]  # (rows, features)
    target: str | None
    cells: list[str]  # the target column as text; empty without a target
    lines: NDArray[np.int64]  # the line each row begins on


class Target(NamedTuple):
    """A target column, understood."""

    task: str  # "classification" or "regression"
    y: NDArray[Any]  # labels, int64, or numbers, float64
    classes: tuple[str, ...]  # the name of each label; empty for regression


def read_csv(
    path: str | os.PathLike[str],
    *,
    target: str | None = None,
    features: Sequence[str] | None = None,
    delimiter: str | None = None,
) -> Table:
    """Read the columns named ``features`` (all but the target when None) as numbers, and ``target`` as text.

    Raises
    ------
    CSVError
        When the file is not such a file: no header, a column missing, text in a numeric column, a row with too few
        or too many values, an empty or infinite value.
    OSError
        When the file cannot be read.
    """
    shown = os.fsdecode(path)
    with open(path, "rb") as opened:
        data: BinaryIO = opened if opened.seekable() else io.BytesIO(opened.read())  # a pipe can be read once
        file = io.TextIOWrapper(data, encoding="utf-8-sig", newline="")
        try:
            rows = _rows(file, shown, delimiter)
            names = _header(rows, shown)
            return _columns(rows, shown, names, target, features)
        except UnicodeDecodeError as error:
            found = f"{error.reason} (byte {error.object[error.start]:#04x})"
            raise CSVError(shown, f"expected UTF-8 text; found {found}", _undecodable_line(data)) from error


def _undecodable_line(data: BinaryIO) -> int | None:
    data.seek(0)
    for line, text in enumerate(data, 1):
        try:
            text.decode()
        except UnicodeDecodeError:
            return line
    return None


#: Whole numbers from here on, as long identifiers are, may be equal as float64.
_FIRST_INEXACT = 2.0**53


def read_target(table: Table, task: str = "auto") -> Target:
    """Turn the target column into labels or numbers.

    ``task`` is "classification", "regression" or "auto": text and whole numbers that repeat (at most 20 different
    ones, 5 rows or more of each on average) are classes, other numbers are values. Labels are in the order of the
    sorted names, or of the numbers when all names are numbers; from 2**53 on these count as text.
    """
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"read_target: task must be auto, classification or regression; received {task!r}")
    if table.target is None:
        raise ValueError("read_target: the table must have been read with a target column")
    values, wrong = _numbers(table.cells)
    empty = next((i for i, cell in enumerate(table.cells) if not cell.strip()), None)
    if empty is not None:
        raise CSVError(table.path, "expected a value; found an empty cell", int(table.lines[empty]), table.target)
    slip = task == "auto" and values is None and _mostly_numbers(table.cells)
    if values is None and (task == "regression" or slip):
        expected = "a number (or task classification, to take the column as classes)" if slip else "a number"
        found = _found(table.cells[wrong])
        raise CSVError(table.path, f"expected {expected}; found {found}", int(table.lines[wrong]), table.target)
    if task == "auto":
        task = "classification" if values is None or _are_labels(values) else "regression"
    if task == "regression":
        assert values is not None
        return Target(task, values, ())
    if values is None or np.abs(values).max() >= _FIRST_INEXACT:
        names = [cell.strip() for cell in table.cells]
        classes = tuple(sorted(set(names)))
        number = {name: label for label, name in enumerate(classes)}
        return Target(task, np.array([number[name] for name in names], np.int64), classes)
    distinct, labels = np.unique(values, return_inverse=True)
    classes = tuple(str(int(v)) if v == int(v) else repr(float(v)) for v in distinct)
    return Target(task, labels.astype(np.int64), classes)


def _mostly_numbers(cells: Sequence[str]) -> bool:
    """Whether text in these cells is rather a slip in a column of measurements than the name of a class."""
    numbers = sum(map(_is_number, cells))
    return 2 * numbers > len(cells) and len({cell.strip() for cell in cells}) > _MAX_LABELS


def _are_labels(values: NDArray[np.float64]) -> bool:
    distinct = np.unique(values)
    few = 1 < len(distinct) <= min(_MAX_LABELS, len(values) // _MIN_REPEATS)
    return bool(few and (distinct == np.floor(distinct)).all())


def _rows(file: Any, shown: str, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank."""
    first = file.readline()
    if first and not first.strip():
        raise CSVError(shown, "expected a header line of column names; found a blank line", 1)
    if not first:
        raise CSVError(shown, "expected a header line of column names; the file is empty")
    file.seek(0)
    reader = csv.reader(file, delimiter=delimiter or _find_delimiter(first), strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CSVError(shown, f'expected rows of values, quoted with " where needed; {error}', line) from error
        if cells:
            yield line, cells


def _find_delimiter(header: str) -> str:
    """The one that stands most often outside quotes; a comma when none does."""
    outside = "".join(header.split('"')[::2])
    return max(DELIMITERS, key=outside.count)


def _header(rows: Iterator[tuple[int, list[str]]], shown: str) -> list[str]:
    _, cells = next(rows)
    names = [cell.strip() for cell in cells]
    for position, name in enumerate(names, 1):
        if not name:
            hint = " (pandas: to_csv(index=False))" if position == 1 else ""
            place = f"column {position} of {len(names)}"
            raise CSVError(shown, f"expected a name for each column; {place} has none{hint}", 1)
        if name in names[: position - 1]:
            raise CSVError(shown, f"expected different names for columns; found {name!r} twice", 1, name)
    if _numbers(names)[0] is not None:
        raise CSVError(
            shown, f"expected a header line of column names; found only numbers, {_found(cells[0])} first", 1
        )
    return names


def _columns(
    rows: Iterator[tuple[int, list[str]]],
    shown: str,
    names: list[str],
    target: str | None,
    features: Sequence[str] | None,
) -> Table:
    wanted = [n for n in names if n != target] if features is None else list(features)
    for name in [*wanted, *([target] if target is not None else [])]:
        if name not in names:
            hint = "; is --delimiter right?" if len(names) == 1 else ""
            raise CSVError(shown, f"expected a column {name!r}; found {', '.join(map(repr, names))}{hint}", 1, name)
    if not wanted:
        raise CSVError(shown, f"expected at least one column beside the target {target!r}; found none", 1)
    take = [names.index(name) for name in wanted]
    target_index = names.index(target) if target is not None else -1
    blocks: list[NDArray[np.float64]] = []
    waiting: list[list[str]] = []
    cells: list[str] = []
    lines: list[int] = []
    for line, row in rows:
        if len(row) != len(names):
            raise CSVError(shown, f"expected {len(names)} values, one per column; found {len(row)}", line)
        lines.append(line)
        waiting.append([row[i] for i in take])
        if target is not None:
            cells.append(row[target_index])
        if len(waiting) == _ROWS_AT_ONCE:
            blocks.append(_block(waiting, shown, wanted, lines))
            waiting = []
    if not lines:
        raise CSVError(shown, "expected rows of values after the header; found none")
    if waiting:
        blocks.append(_block(waiting, shown, wanted, lines))
    return Table(shown, tuple(wanted), np.concatenate(blocks), target, cells, np.array(lines, np.int64))


def _block(rows: list[list[str]], shown: str, names: list[str], lines: list[int]) -> NDArray[np.float64]:
    """The rows, the last of those read so far, as numbers."""
    flat = [cell for row in rows for cell in row]
    values, wrong = _numbers(flat)
    if values is None:
        line = lines[len(lines) - len(rows) + wrong // len(names)]
        cell, name = flat[wrong], names[wrong % len(names)]
        hint = " (decimal commas are not understood)" if _numbers([cell.replace(",", ".")])[0] is not None else ""
        raise CSVError(shown, f"expected a finite number; found {_found(cell)}{hint}", line, name)
    return values.reshape(len(rows), len(names))


def _numbers(cells: list[str]) -> tuple[NDArray[np.float64] | None, int]:
    """The cells as finite numbers; or None, and the position of the first that is not one."""
    try:
        values = np.array(list(map(float, cells)))
    except ValueError:
        values = None
    # float() takes "1_000" and digits of any script; a data file that has them means something else.
    if values is not None and np.isfinite(values).all() and not any("_" in c or not c.isascii() for c in cells):
        return values, -1
    return None, next((i for i, cell in enumerate(cells) if not _is_number(cell)), 0)


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell)) and "_" not in cell and cell.isascii()
    except ValueError:
        return False


def _found(cell: str) -> str:
    if not cell.strip():
        return "an empty cell"
    return repr(cell) if len(cell) <= 40 else f"{cell[:40]!r}..."

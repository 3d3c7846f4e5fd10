from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastperceptron.csvfile import CSVError, Table, read_csv, read_target


def put(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_delimiters_line_ends_and_byte_order_marks(tmp_path: Path, delimiter: str, bom: str, newline: str) -> None:
    rows = ["height,weight,bmi", "160,60.5,21", "1e2, -7 ,.5"]
    text = bom + newline.join(rows).replace(",", delimiter)
    table = read_csv(put(tmp_path, text), target="bmi")
    assert table.features == ("height", "weight")
    assert table.x.dtype == np.float64
    np.testing.assert_array_equal(table.x, [[160, 60.5], [100, -7]])
    assert table.cells == ["21", ".5"]
    assert table.lines.tolist() == [2, 3]


def test_delimiters_within_quotes_do_not_count(tmp_path: Path) -> None:
    assert read_csv(put(tmp_path, '"a;;;b",c\n1,2\n')).features == ("a;;;b", "c")


def test_quotes_blank_lines_and_lines_within_quotes(tmp_path: Path) -> None:
    text = 'a,"b, with ""quotes"" and ; ; ;",kind\n1,2,"two\nlines"\n\n"3",4,x\n'
    table = read_csv(put(tmp_path, text), target="kind")
    assert table.features == ("a", 'b, with "quotes" and ; ; ;')
    assert table.x.tolist() == [[1, 2], [3, 4]]
    assert table.cells == ["two\nlines", "x"]
    assert table.lines.tolist() == [2, 5]


def test_columns_by_name_in_the_order_asked(tmp_path: Path) -> None:
    path = put(tmp_path, "name,a,b,c\nx,1,2,3\ny,4,5,6\n")
    table = read_csv(path, features=["c", "a"])
    assert table.x.tolist() == [[3, 1], [6, 4]]
    assert table.target is None
    assert table.cells == []


def test_one_column_and_a_given_delimiter(tmp_path: Path) -> None:
    assert read_csv(put(tmp_path, "a\n1\n2")).x.tolist() == [[1], [2]]
    assert read_csv(put(tmp_path, "a|b\n1|2"), delimiter="|").x.tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("text", "line", "column", "message"),
    [
        ("", None, None, "the file is empty"),
        ("\n\na,b\n", 1, None, "found a blank line"),
        ("a,b\n", None, None, "expected rows of values after the header; found none"),
        ("a,b\n\n\n", None, None, "found none"),
        ("1,2\n3,4\n", 1, None, "expected a header line of column names; found only numbers, '1' first"),
        ("a,,c\n1,2,3\n", 1, None, "column 2 of 3 has none"),
        (",b\n0,2\n", 1, None, "column 1 of 2 has none (pandas: to_csv(index=False))"),
        ("a,b,a\n1,2,3\n", 1, "a", "found 'a' twice"),
        ("a,b\n1,2\n3\n", 3, None, "expected 2 values, one per column; found 1"),
        ("a,b\n1,2\n\n3,4,5\n", 4, None, "expected 2 values, one per column; found 3"),
        ("a,b\n1,2\n3,four\n", 3, "b", "expected a finite number; found 'four'"),
        ("a,b\n1,2\n,4\n", 3, "a", "found an empty cell"),
        ("a,b\n1,nan\n", 2, "b", "found 'nan'"),
        ("a,b\n1,-inf\n", 2, "b", "found '-inf'"),
        ("a,b\n1,1e999\n", 2, "b", "found '1e999'"),
        ("a,b\n1,1_000\n", 2, "b", "found '1_000'"),
        ("a,b\n1,\u0663\n", 2, "b", "found '\u0663'"),
        ("a;b\n1;2,5\n", 2, "b", "found '2,5' (decimal commas are not understood)"),
        ("a,b\n1,0x10\n", 2, "b", "found '0x10'"),
        ("a,b\n1," + "z" * 100 + "\n", 2, "b", "found '" + "z" * 40 + "'..."),
        ('a,b\n1,"2\n', 2, None, "unexpected end of data"),
        ('a,b\n1,"2"3\n', 2, None, "quoted"),
        ("a,b\n1," + "z" * 200_000 + "\n", 2, None, "field larger"),
        (b"a,b\n1,\xff\n", 2, None, "expected UTF-8 text"),
        ("a,b\n1,2\n".encode("utf-16"), 1, None, "expected UTF-8 text"),
    ],
)
def test_bad_files(tmp_path: Path, text: str | bytes, line: int | None, column: str | None, message: str) -> None:
    path = put(tmp_path, text)
    with pytest.raises(CSVError) as caught:
        read_csv(path)
    error = caught.value
    assert (error.path, error.line, error.column) == (str(path), line, column)
    assert message in str(error)
    assert str(error).startswith(str(path))
    assert ("decimal commas" in str(error)) == ("decimal commas" in message)


def test_missing_columns(tmp_path: Path) -> None:
    path = put(tmp_path, "a,b\n1,2\n")
    with pytest.raises(CSVError, match="line 1, column 'c': expected a column 'c'; found 'a', 'b'"):
        read_csv(path, target="c")
    with pytest.raises(CSVError, match="expected a column 'd'"):
        read_csv(path, features=["a", "d"])
    with pytest.raises(CSVError, match=r"found 'a\|b'; is --delimiter right\?"):
        read_csv(put(tmp_path, "a|b\n1|2\n"), target="b")
    with pytest.raises(CSVError, match="beside the target"):
        read_csv(put(tmp_path, "a\n1\n"), target="a")
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_pipe_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a,b\n1,2\n")
    os.close(writing)
    try:
        assert read_csv(f"/dev/fd/{reading}").x.tolist() == [[1, 2]]
    finally:
        os.close(reading)


def test_every_row_of_a_long_file_is_read_once(tmp_path: Path) -> None:
    table = read_csv(put(tmp_path, "\n".join(["a,b", *(f"{i},{-i}" for i in range(10_000))])), target="b")
    assert table.x[:, 0].tolist() == list(range(10_000))
    assert table.cells == [str(-i) for i in range(10_000)]


def test_an_error_far_into_a_long_file_names_its_line(tmp_path: Path) -> None:
    lines = ["a,b", *(f"{i},{i}" for i in range(10_000))]
    lines[9_000] = "1,oops"
    with pytest.raises(CSVError, match=r"line 9001, column 'b'.*'oops'"):
        read_csv(put(tmp_path, "\n".join(lines)))


@given(
    st.lists(
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1, max_size=20
    ),
    st.sampled_from(",;\t"),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
@settings(max_examples=80, deadline=None)
def test_numbers_survive(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[float]], delimiter: str, quoting: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "survive.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)  # type: ignore[arg-type]
        writer.writerow(["a", "b;,", "c"])
        writer.writerows(rows)
    table = read_csv(path, delimiter=delimiter)
    np.testing.assert_array_equal(table.x, np.array(rows))


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_table_or_the_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(b"a,b\n" + data)
    try:
        table = read_csv(path)
    except CSVError:
        return
    assert table.x.shape == (len(table.lines), 2)
    assert np.isfinite(table.x).all()


def table_of(cells: list[str]) -> Table:
    n = len(cells)
    return Table("data.csv", ("a",), np.zeros((n, 1)), "kind", cells, np.arange(2, n + 2))


def test_text_is_classes_in_sorted_order() -> None:
    target = read_target(table_of(["dog", "cat ", "dog", "10"]))
    assert target.task == "classification"
    assert target.classes == ("10", "cat", "dog")
    assert target.y.tolist() == [2, 1, 2, 0]
    assert target.y.dtype == np.int64


def test_repeated_whole_numbers_are_classes_and_other_numbers_values() -> None:
    target = read_target(table_of(["10", "9", "9.0", "10", "9"] * 4))
    assert target.task == "classification"
    assert target.classes == ("9", "10")
    assert target.y.tolist() == [1, 0, 0, 1, 0] * 4
    assert read_target(table_of(["21", "22", "20", "18"])).task == "regression"
    assert read_target(table_of(["0.5", "1.5"] * 10)).task == "regression"
    assert read_target(table_of(["3"] * 10)).task == "regression"
    target = read_target(table_of(["21", "-2e1"]), "regression")
    assert target == ("regression", pytest.approx([21.0, -20.0]), ())
    assert read_target(table_of(["0.5", "-1", "0.5"]), "classification").classes == ("-1", "0.5")


def test_long_identifiers_stay_apart() -> None:
    numbers = [str(2**60 + k) for k in range(3)]
    found = read_target(table_of(numbers), "classification")
    assert found.classes == tuple(numbers)
    assert found.y.tolist() == [0, 1, 2]
    edge = [str(2**53), str(2**53 + 1)]
    assert read_target(table_of(edge), "classification").classes == tuple(edge)
    assert read_target(table_of([str(2**53 - 1), f"{2**53 - 1}.0"]), "classification").classes == (str(2**53 - 1),)


@pytest.mark.parametrize(
    ("different", "rows", "task"),
    [
        (20, 100, "classification"),
        (20, 99, "regression"),
        (21, 200, "regression"),
        (2, 10, "classification"),
        (2, 9, "regression"),
    ],
)
def test_how_few_and_how_frequent_whole_numbers_are_classes(different: int, rows: int, task: str) -> None:
    assert read_target(table_of([str(i % different) for i in range(rows)])).task == task


def test_targets_that_do_not_fit() -> None:
    with pytest.raises(CSVError, match=r"data.csv, line 3, column 'kind': expected a number; found 'cat'"):
        read_target(table_of(["1", "cat"]), "regression")
    with pytest.raises(CSVError, match="line 4, column 'kind': expected a value; found an empty cell"):
        read_target(table_of(["a", "b", " "]))
    with pytest.raises(ValueError, match="task must be"):
        read_target(table_of(["a"]), "ranking")
    with pytest.raises(ValueError, match="target column"):
        read_target(Table("p", ("a",), np.zeros((1, 1)), None, [], np.array([2])))


def test_a_slip_in_a_numeric_target_is_not_a_class(tmp_path: Path) -> None:
    path = tmp_path / "prices.csv"
    rows = [f"{i},{i}.5" for i in range(60)]
    rows[41] = "41,41x.5"
    path.write_text("a,price\n" + "\n".join(rows) + "\n")
    table = read_csv(path, target="price")
    with pytest.raises(CSVError, match=r"line 43.*price.*expected a number \(or task classification") as caught:
        read_target(table)
    assert caught.value.line == 43
    assert len(read_target(table, "classification").classes) == 60


def test_names_among_numbers_are_classes_unless_most_are_numbers_and_many_differ() -> None:
    numbers, names = [str(i) for i in range(12)], [f"n{i}" for i in range(11)]
    assert len(read_target(table_of(numbers[:11] + names)).classes) == 22
    with pytest.raises(CSVError, match=r"expected a number \(or task classification.*; found 'n0'"):
        read_target(table_of(numbers + names))
    assert len(read_target(table_of((numbers + names[:8]) * 2)).classes) == 20

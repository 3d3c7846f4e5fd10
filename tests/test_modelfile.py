from __future__ import annotations

import json
import os
import stat
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastperceptron import modelfile
from fastperceptron.atomicfile import write_atomically
from fastperceptron.errors import ModelFormatError
from fastperceptron.modelfile import read_model_file, write_model_file

CONFIG: dict[str, Any] = {
    "class": "Sequential",
    "layers": [{"units": 3, "activation": "relu"}],
    "é": 'a"\\b\n',
    "x": 0.1,
}


def small_tensors() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "params/dense/kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "params/dense/bias": np.array([0.5, -1.5, np.nan], dtype=np.float32),
        "counters/step": np.array(7, dtype=np.int64),
        "random/key": np.array(2**64 - 1, dtype=np.uint64),
        "empty": np.zeros((0, 4), dtype=np.float64),
        "flag": np.array([True, False]),
    }


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert set(a) == set(b)
    for name in a:
        assert a[name].dtype == b[name].dtype.newbyteorder("=")
        assert a[name].shape == b[name].shape
        np.testing.assert_array_equal(a[name], b[name])


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    path = tmp_path / "golden.fp.safetensors"
    write_model_file(path, CONFIG, small_tensors())
    return path


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(path: Path, header: Any, data: bytes) -> Path:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)
    return path


def test_round_trip(golden: Path) -> None:
    config, tensors = read_model_file(golden)
    assert config == CONFIG
    assert_same(tensors, small_tensors())
    assert all(t.flags.writeable and t.dtype.isnative for t in tensors.values())


def test_bytes_are_deterministic_and_do_not_depend_on_the_order_of_the_tensors(golden: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_model_file(again, CONFIG, dict(reversed(small_tensors().items())))
    assert again.read_bytes() == golden.read_bytes()


def test_the_bytes_of_version_1(tmp_path: Path) -> None:
    """The format is frozen: a release that fails this cannot read older files, or is not read by older releases."""
    path = tmp_path / "frozen"
    write_model_file(path, {"a": 1}, {"w": np.array([1.5], np.float32)})
    header = (
        b'{"__metadata__":{"format":"fastperceptron","format_version":"1","config":"{\\"a\\":1}","checksum":"sha256:'
        b'CHECKSUM"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    )
    import hashlib

    said = (
        b'[[["config","{\\"a\\":1}"],["format","fastperceptron"],["format_version","1"]],[["w","F32",[1]]]]'
        b"\x00\x00\xc0\x3f"
    )
    header = header.replace(b"CHECKSUM", hashlib.sha256(said).hexdigest().encode())
    header += b" " * (-len(header) % 8)
    assert path.read_bytes() == struct.pack("<Q", len(header)) + header + b"\x00\x00\xc0\x3f"


@given(
    tensors=st.dictionaries(
        st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=20).filter("__metadata__".__ne__),
        hnp.arrays(
            st.sampled_from([np.dtype(d) for d in ("<f4", ">f4", "<f8", "<f2", "<i8", ">i4", "u1", "<u8", "?")]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=5,
    ),
    config=st.dictionaries(
        st.text(max_size=10),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(st.characters(exclude_categories=("Cs",)), max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
            max_leaves=8,
        ),
        max_size=4,
    ),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_round_trip_of_anything(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], config: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything"
    write_model_file(path, config, tensors)
    config_read, read = read_model_file(path)
    assert config_read == config
    assert_same(read, tensors)


def test_any_strides_and_read_only_arrays(tmp_path: Path) -> None:
    base = np.arange(24, dtype=np.float64).reshape(4, 6)
    base.flags.writeable = False
    tensors = {"t": base.T, "neg": base[::-1, ::-2], "zero": np.broadcast_to(base[0], (3, 6))}
    write_model_file(tmp_path / "m", {}, tensors)
    assert_same(read_model_file(tmp_path / "m")[1], tensors)


def test_every_truncation_is_refused(golden: Path, tmp_path: Path) -> None:
    raw = golden.read_bytes()
    cut = tmp_path / "cut"
    for n in range(len(raw)):
        cut.write_bytes(raw[:n])
        with pytest.raises(ModelFormatError, match="cut"):
            read_model_file(cut)


def test_every_single_bit_flip_is_refused(golden: Path, tmp_path: Path) -> None:
    raw = bytearray(golden.read_bytes())
    flipped = tmp_path / "flipped"
    for position in range(len(raw)):
        for bit in range(8):
            raw[position] ^= 1 << bit
            flipped.write_bytes(raw)
            with pytest.raises(ModelFormatError, match="flipped"):
                read_model_file(flipped)
            raw[position] ^= 1 << bit


@given(position=st.integers(0, 10**6), junk=st.binary(max_size=12), drop=st.integers(0, 12))
@settings(max_examples=300, deadline=None)
def test_spliced_bytes_give_the_saved_model_or_the_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, junk: bytes, drop: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "spliced"
    write_model_file(path, CONFIG, small_tensors())
    raw = path.read_bytes()
    position %= len(raw)
    path.write_bytes(raw[:position] + junk + raw[position + drop :])
    try:
        config, tensors = read_model_file(path)
    except ModelFormatError:
        return
    assert config == CONFIG
    assert_same(tensors, small_tensors())


def test_tensors_begin_at_a_multiple_of_8_bytes(tmp_path: Path) -> None:
    for length in range(8):
        write_model_file(tmp_path / "m", {"text": "a" * length}, small_tensors())
        assert int.from_bytes((tmp_path / "m").read_bytes()[:8], "little") % 8 == 0


def test_the_safetensors_package_reads_our_files(golden: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    numpy_api = pytest.importorskip("safetensors.numpy")
    assert_same(numpy_api.load_file(golden), small_tensors())
    with safetensors.safe_open(golden, framework="numpy") as file:
        assert json.loads(file.metadata()["config"]) == CONFIG


def test_we_read_what_the_safetensors_package_writes(golden: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    numpy_api = pytest.importorskip("safetensors.numpy")
    rewritten = tmp_path / "rewritten"
    with safetensors.safe_open(golden, framework="numpy") as file:
        numpy_api.save_file(numpy_api.load_file(golden), rewritten, metadata=file.metadata())
    config, tensors = read_model_file(rewritten)
    assert config == CONFIG
    assert_same(tensors, small_tensors())


def test_a_file_of_another_program_is_named_as_such(tmp_path: Path) -> None:
    numpy_api = pytest.importorskip("safetensors.numpy")
    numpy_api.save_file({"w": np.zeros(3, np.float32)}, tmp_path / "other", metadata={"format": "pt"})
    with pytest.raises(ModelFormatError, match="not a fastperceptron model file"):
        read_model_file(tmp_path / "other")


def test_a_later_format_version_is_named_as_such(golden: Path) -> None:
    header, data = parts(golden)
    header["__metadata__"]["format_version"] = "2"
    with pytest.raises(ModelFormatError, match=r"expected format version 1.*received '2'"):
        read_model_file(join(golden, header, data))


def test_a_missing_file_stays_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_model_file(tmp_path / "none")


@pytest.mark.skipif(os.name == "nt", reason="pipes have no names on Windows")
def test_a_pipe_is_named_as_such(golden: Path) -> None:
    source, sink = os.pipe()
    os.write(sink, golden.read_bytes()[:64])
    os.close(sink)
    with pytest.raises(ModelFormatError, match="expected a regular file; it is something else"):
        read_model_file(f"/dev/fd/{source}")
    os.close(source)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": ENTRY, "b": ENTRY}, "overlaps"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [4, 12]}}, "overlaps"),
        ({"a": {**ENTRY, "data_offsets": [8, 16]}}, "gap"),
        ({"a": ENTRY}, "the file has 16"),
        ({}, "the file has 16"),
        ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "must rise"),
        ({"a": {**ENTRY, "data_offsets": [0, 24], "shape": [6]}}, "must rise and lie within"),
        ({"a": {**ENTRY, "data_offsets": [0, -8]}}, "two positions"),
        ({"a": {**ENTRY, "data_offsets": [0.0, 8]}}, "two positions"),
        ({"a": {**ENTRY, "data_offsets": [False, 8]}}, "two positions"),
        ({"a": {**ENTRY, "data_offsets": [0]}}, "two positions"),
        ({"a": {**ENTRY, "shape": [3]}}, "needs 12 bytes"),
        ({"a": {**ENTRY, "shape": [-1, -2]}}, "sizes"),
        ({"a": {**ENTRY, "shape": [2.0]}}, "sizes"),
        ({"a": {**ENTRY, "shape": "2"}}, "sizes"),
        ({"a": {**ENTRY, "shape": [1] * 33}}, "at most 32"),
        ({"a": {**ENTRY, "shape": [2**62, 2**62, 2**62]}}, "needs"),
        ({"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, "needs"),
        ({"a": {"dtype": "U8", "shape": [0, 3, 2**62], "data_offsets": [0, 0]}}, "needs"),
        ({"a": {**ENTRY, "dtype": "F128"}}, "dtype must be one of"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, "dtype must be one of"),
        ({"a": {**ENTRY, "extra": 1}}, "expected dtype"),
        ({"a": [1, 2]}, "expected dtype"),
        ({"": ENTRY}, "printable"),
        ({"a\nb": ENTRY}, "printable"),
        ({"\ud800": ENTRY}, "printable"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, entries: dict[str, Any], message: str) -> None:
    metadata = {"format": "fastperceptron", "format_version": "1", "config": "{}", "checksum": ""}
    path = join(tmp_path / "bad", {"__metadata__": metadata, **entries}, bytes(16))
    with pytest.raises(ModelFormatError, match=message):
        read_model_file(path)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"{}",
        b"\xff\xfe",
        b'{"__metadata__": 1}',
        b'{"__metadata__": {"format": "fastperceptron"}}',
        b'{"__metadata__": {"format": "fastperceptron", "format_version": "1"}}',
        b'{"__metadata__": {"format": "fastperceptron", "format_version": "1", "config": {}, "checksum": ""}}',
        b'{"__metadata__": {"format": "fastperceptron", "format_version": "1", "config": "{}", "checksum": 3}}',
        b'{"__metadata__": {"format": "fastperceptron", "format_version": "1", "config": "{}", "checksum": "",'
        b'"\\ud800": ""}}',
        b'{"a": 1, "a": 1}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=lambda raw: raw[:24].decode("latin-1") + f"~{len(raw)}",
)  # fmt: skip
def test_headers_that_are_not_ours_are_refused(tmp_path: Path, header: bytes) -> None:
    with pytest.raises(ModelFormatError, match="bad"):
        read_model_file(join(tmp_path / "bad", header, b""))


@pytest.mark.parametrize(
    "config", ['{"a": NaN}', "[1]", "3", "{", '{"a": 1, "a": 2}', '{"a":' + "[" * 5000, '{"a": 1e400}', ""]
)
def test_configurations_that_are_not_strict_json_are_refused(tmp_path: Path, config: str) -> None:
    metadata = {"format": "fastperceptron", "format_version": "1", "config": config, "checksum": ""}
    with pytest.raises(ModelFormatError, match="configuration"):
        read_model_file(join(tmp_path / "bad", {"__metadata__": metadata}, b""))


def test_false_booleans_are_refused(golden: Path) -> None:
    header, data = parts(golden)
    begin, _ = header["flag"]["data_offsets"]
    data = data[:begin] + b"\x02" + data[begin + 1 :]
    entries = [
        modelfile._Entry(name, e["dtype"], tuple(e["shape"]), *e["data_offsets"])
        for name, e in header.items()
        if name != "__metadata__"
    ]
    arrays = {e.name: np.frombuffer(data[e.begin : e.end], modelfile._DTYPES[e.code]) for e in entries}
    header["__metadata__"]["checksum"] = modelfile._checksum(header["__metadata__"], entries, arrays)
    with pytest.raises(ModelFormatError, match="BOOL"):
        read_model_file(join(golden, header, data))


def test_hostile_files_do_not_choose_the_memory(tmp_path: Path) -> None:
    bombs = [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        struct.pack("<Q", 8_000_000) + b"[" + b"{}," * 2_666_666,
        struct.pack("<Q", 8_000_000) + b'{"a":[' + b"1," * 3_999_997,
    ]
    entry = {"dtype": "F64", "shape": [2**40], "data_offsets": [0, 2**43]}
    metadata = {"format": "fastperceptron", "format_version": "1", "config": "{}", "checksum": ""}
    head = json.dumps({"__metadata__": metadata, "a": entry}).encode()
    bombs.append(struct.pack("<Q", len(head)) + head)
    for bomb in bombs:
        path = tmp_path / "bomb"
        path.write_bytes(bomb)
        tracemalloc.start()
        try:
            with pytest.raises(ModelFormatError):
                read_model_file(path)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 * len(bomb) + 50_000_000


def test_reading_takes_little_more_memory_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large"
    write_model_file(path, {}, {"w": np.ones(4_000_000, np.float32)})
    tracemalloc.start()
    read_model_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 17_500_000


def test_the_check_sees_everything_before_tensors_exist(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_tensors(*args: object) -> None:
        raise AssertionError("a tensor was read before the check had passed")

    seen: list[Any] = []

    def check(config: dict[str, Any], described: dict[str, tuple[str, tuple[int, ...]]]) -> None:
        seen.append((config, described))
        raise KeyError("units")

    monkeypatch.setattr(modelfile, "_read_tensor", no_tensors)
    with pytest.raises(ModelFormatError, match=r"golden.*'units'"):
        read_model_file(golden, check)
    ((config, described),) = seen
    assert config == CONFIG
    assert described["params/dense/kernel"] == ("float32", (2, 3))
    assert described["random/key"] == ("uint64", ())
    assert described["flag"] == ("bool", (2,))


@pytest.mark.parametrize(
    "config",
    [{"a": float("nan")}, {"a": float("inf")}, {1: 2}, {"a": {None: 1}}, {"a": {1, 2}}, {"a": "\ud800"}, [1], None],
)
def test_configurations_json_cannot_express_are_refused(tmp_path: Path, config: Any) -> None:
    with pytest.raises(ModelFormatError, match="config must"):
        write_model_file(tmp_path / "m", config, {})
    assert os.listdir(tmp_path) == []


def test_a_configuration_that_contains_itself_is_refused(tmp_path: Path) -> None:
    config: dict[str, Any] = {}
    config["self"] = config
    with pytest.raises(ModelFormatError, match="nested deeper"):
        write_model_file(tmp_path / "m", config, {})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a", np.zeros(2, complex)),
        ("a", np.array([object()])),
        ("a", np.array(["text"])),
        ("a", np.zeros(2, "datetime64[s]")),
        ("", np.zeros(2)),
        ("a\n", np.zeros(2)),
        ("__metadata__", np.zeros(2)),
    ],
)
def test_tensors_that_cannot_be_stored_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(ModelFormatError, match="tensor"):
        write_model_file(tmp_path / "m", {}, {name: value})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    golden: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = golden.read_bytes()

    def fail(*args: object) -> None:
        raise KeyboardInterrupt

    def chunks() -> Any:
        yield b"half"
        if call == "write":
            raise OSError(28, "No space left on device")
        yield b"done"

    if call != "write":
        monkeypatch.setattr(os, call, fail)
    with pytest.raises((OSError, KeyboardInterrupt)):
        write_atomically(golden, chunks())
    assert golden.read_bytes() == before
    assert os.listdir(golden.parent) == [golden.name]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions and directories")
def test_the_order_of_writing_is_crash_safe(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append("fsync directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync file")
        real_fsync(descriptor)

    def replace(a: str, b: str) -> None:
        events.append("replace")
        assert os.path.dirname(a) == os.path.dirname(b)
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_model_file(golden, CONFIG, small_tensors())
    assert events == ["fsync file", "replace", "fsync directory"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask_or_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "m"
    old = os.umask(0o027)
    try:
        write_model_file(path, {}, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o604, 0o666):
            path.chmod(mode)
            write_model_file(path, {}, {})
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(old)


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights on Windows")
def test_a_symbolic_link_is_followed(golden: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(golden.name)
    write_model_file(link, {"new": True}, {})
    assert link.is_symlink()
    assert read_model_file(golden)[0] == {"new": True}


def test_paths_of_bytes(tmp_path: Path) -> None:
    path: Any = os.fsencode(tmp_path / "ü")
    write_model_file(path, {"new": True}, {})
    assert read_model_file(path)[0] == {"new": True}
    (tmp_path / "ü").write_bytes(b"")
    with pytest.raises(ModelFormatError, match=r"[\\/]ü: not a model file"):
        read_model_file(path)


def test_what_is_not_a_regular_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(OSError, match="directory': expected a regular file"):
        write_model_file(tmp_path / "directory", {}, {})
    with pytest.raises(FileNotFoundError, match="the directory does not exist"):
        write_model_file(tmp_path / "none" / "m", {}, {})
    assert os.listdir(tmp_path) == ["directory"]


@pytest.mark.parametrize(("rank", "count"), [(2, 31_250), (3, 30_000)])
def test_what_is_written_can_be_read(tmp_path: Path, rank: int, count: int) -> None:
    """A header has so many numbers and brackets at most, by the reader's count."""
    tensors = {f"t{i}": np.zeros((1,) * rank, np.float32) for i in range(count)}
    with pytest.raises(ModelFormatError, match=f"must fit in .* 250000 JSON items; received .* of {count} tensors"):
        write_model_file(tmp_path / "m", CONFIG, tensors)
    for name in list(tensors)[25_000:]:
        del tensors[name]
    write_model_file(tmp_path / "m", CONFIG, tensors)
    assert read_model_file(tmp_path / "m")[1].keys() == tensors.keys()

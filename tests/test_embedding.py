"""The C and Cython interface: extensions built against the installed package, those of docs/embedding.md first."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from predictor_models import two_by_two, two_rows
from pure import PURE, native_only

import fastperceptron as fp
from fastperceptron import kernels
from fastperceptron.program import ACTIVATIONS

GUIDE = Path(__file__).parent.parent / "docs" / "embedding.md"
compiled = pytest.mark.skipif(PURE or os.name == "nt", reason="needs the native extension, and a Unix compiler")


def example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert found
    return found[1]


def compiler(name: str) -> list[str]:
    """The compiler that Python was built with, or what goes by its usual name."""
    configured = shlex.split(sysconfig.get_config_var(name) or "")
    if configured and shutil.which(configured[0]):
        return configured[:1]
    return [next(c for c in {"CC": ("cc", "gcc", "clang"), "CXX": ("c++", "g++", "clang++")}[name] if shutil.which(c))]


def build(folder: Path, name: str, source: str, *flags: str, cxx: bool = False) -> ModuleType:
    """Compiles the source to an extension module and imports it."""
    path = folder / f"{name}.{'cpp' if cxx else 'c'}"
    path.write_text(source, encoding="utf-8")
    target = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    shared = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared", "-fPIC"]
    includes = [f"-I{sysconfig.get_path('include')}", f"-I{fp.get_include()}"]
    command = [*compiler("CXX" if cxx else "CC"), "-O1", *shared, *includes, *flags, str(path), "-o", str(target)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    spec = importlib.util.spec_from_file_location(name, target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build_cython(folder: Path, name: str, source: str) -> ModuleType:
    """The same for Cython, which finds cython_api.pxd where the package is installed."""
    path = folder / f"{name}.pyx"
    path.write_text(source, encoding="utf-8")
    command = [sys.executable, "-m", "cython", "-3", "-Werror", "-o", str(folder / f"{name}.c"), str(path)]
    # -m cython looks for cimports from the folder of the package on.
    result = subprocess.run([*command, "-I", str(Path(fp.__file__).parent.parent)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return build(folder, name, (folder / f"{name}.c").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_cython(tmp_path_factory.mktemp("scorer"), "scorer", example("cython"))


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_cython(tmp_path_factory.mktemp("probe"), "probe", PROBE)


# All functions, by address, so that a test can pass anything.
PROBE = (
    """
from libc.stdint cimport int64_t, uintptr_t
from fastperceptron cimport cython_api as api

def run_before_import():
    cdef float x = 1
    return (api.activation_forward_f32(0, 0, 1, 1, &x, 1, &x, 1), api.predictor_inputs(NULL))

def handle_before_import(p):
    api.predictor_of(p)

def begin():
    api.import_fastperceptron()
"""
    + "".join(
        f"""
def dense_forward_{s}(n, inputs, outputs, uintptr_t x, x_row, uintptr_t w, w_row, uintptr_t b, act, alpha, uintptr_t y,
                      y_row):
    cdef int64_t n_ = n, i_ = inputs, o_ = outputs, xr = x_row, wr = w_row, yr = y_row
    cdef int a_ = act, status
    cdef {t} alpha_ = alpha
    with nogil:
        status = api.dense_forward_{s}(
            n_, i_, o_, <const {t}*>x, xr, <const {t}*>w, wr, <const {t}*>b, a_, alpha_, <{t}*>y, yr)
    return status

def dense_backward_input_{s}(n, inputs, outputs, uintptr_t dz, dz_row, uintptr_t w, w_row, uintptr_t dx, dx_row):
    return api.dense_backward_input_{s}(
        n, inputs, outputs, <const {t}*>dz, dz_row, <const {t}*>w, w_row, <{t}*>dx, dx_row)

def dense_backward_weights_{s}(n, inputs, outputs, uintptr_t x, x_row, uintptr_t dz, dz_row, uintptr_t dw, dw_row):
    return api.dense_backward_weights_{s}(
        n, inputs, outputs, <const {t}*>x, x_row, <const {t}*>dz, dz_row, <{t}*>dw, dw_row)

def dense_backward_bias_{s}(n, outputs, uintptr_t dz, dz_row, uintptr_t db):
    return api.dense_backward_bias_{s}(n, outputs, <const {t}*>dz, dz_row, <{t}*>db)

def activation_forward_{s}(act, alpha, n, width, uintptr_t z, z_row, uintptr_t y, y_row):
    return api.activation_forward_{s}(act, alpha, n, width, <const {t}*>z, z_row, <{t}*>y, y_row)

def activation_backward_{s}(act, alpha, n, width, uintptr_t dy, dy_row, uintptr_t saved, saved_row, uintptr_t dz,
                            dz_row):
    return api.activation_backward_{s}(
        act, alpha, n, width, <const {t}*>dy, dy_row, <const {t}*>saved, saved_row, <{t}*>dz, dz_row)

def predictor_run_{s}(p, uintptr_t x, rows, uintptr_t y):
    return api.predictor_run_{s}(NULL if p is None else api.predictor_of(p), <const {t}*>x, rows, <{t}*>y)
"""
        for s, t in (("f32", "float"), ("f64", "double"))
    )
    + """
def widths(p):
    cdef const api.fastperceptron_predictor* h = NULL if p is None else api.predictor_of(p)
    return api.predictor_inputs(h), api.predictor_outputs(h), api.predictor_is_f64(h)

def statuses():
    return [api.OK, api.NOT_IMPORTED, api.BAD_ARGUMENT, api.WRONG_TYPE, api.NO_MEMORY, api.FAILED]

def activations():
    return [api.LINEAR, api.RELU, api.LEAKY_RELU, api.ELU, api.SELU, api.GELU, api.GELU_TANH, api.SILU, api.MISH,
            api.SOFTPLUS, api.SOFTSIGN, api.SIGMOID, api.TANH, api.STEP, api.SOFTMAX]
"""
)

OK, NOT_IMPORTED, BAD_ARGUMENT, WRONG_TYPE = range(4)
DTYPES = {"f32": np.float32, "f64": np.float64}


def model_of(dtype: str = "float32") -> fp.Sequential:
    layers = [fp.Input((4,)), fp.Dense(8, activation="relu"), fp.Dense(3)]
    return fp.Sequential(layers, seed=0, dtype=dtype, backend="native")


@compiled
def test_the_guides_cython_example(scorer: Any) -> None:
    model, rng = model_of(), np.random.default_rng(0)
    x, y = rng.standard_normal((50, 4), np.float32), np.empty((50, 3), np.float32)
    best = scorer.best_rows(model.predictor(), x, y)
    np.testing.assert_array_equal(y, model.predict(x))
    assert best == y[:, 0].argmax()
    with pytest.raises(ValueError, match="as wide"):
        scorer.best_rows(model.predictor(), x, y[:, :2].copy())
    with pytest.raises(RuntimeError, match="status 3"):
        scorer.best_rows(model_of("float64").predictor(), x, y)
    for wrong in (model, None, model.predictor):
        with pytest.raises(TypeError, match="expected a compiled predictor"):
            scorer.best_rows(wrong, x, y)
    a, w, b, z = rng.random((5, 7)), rng.random((7, 6)), rng.random(6), np.empty((5, 6))
    scorer.layer(a, w, b, z)
    np.testing.assert_array_equal(z, kernels.dense_forward(a, w, b, activation="tanh"))


@compiled
@pytest.mark.parametrize("cxx", [False, True], ids=["c", "c++"])
def test_the_guides_c_example(tmp_path: Path, cxx: bool) -> None:
    flags = ["-Wall", "-Wextra", "-Werror", "-std=c++17" if cxx else "-std=c11"]
    summer: Any = build(tmp_path, "summer", example("c"), *flags, cxx=cxx)
    model, x = model_of(), np.arange(4, dtype=np.float32)
    assert summer.row_sum(model.predictor(), x.tobytes()) == model.predict(x[None])[0].astype(float).sum()
    with pytest.raises(TypeError, match=r"expected a compiled predictor, .* received int"):
        summer.row_sum(3, x.tobytes())
    with pytest.raises(ValueError, match="one row"):
        summer.row_sum(model.predictor(), x[:3].tobytes())


@compiled
def test_another_version_is_refused(tmp_path: Path) -> None:
    header = (Path(fp.get_include()) / "fastperceptron.h").read_text(encoding="utf-8")
    for number, (old, new) in enumerate(
        [
            ("#define FASTPERCEPTRON_ABI_VERSION 1\n", "#define FASTPERCEPTRON_ABI_VERSION 2\n"),
            ("} fastperceptron_api;", "int (*later)(void); } fastperceptron_api;"),
        ]
    ):
        assert header.count(old) == 1
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "fastperceptron.h").write_text(header.replace(old, new), encoding="utf-8")
        with pytest.raises(ImportError, match="compiled for version"):
            build(folder, "summer", example("c"), f"-I{folder}", "-iquote", str(folder))


@compiled
def test_numbers(probe: Any) -> None:
    assert probe.statuses() == list(range(6))
    assert probe.activations() == list(range(len(ACTIVATIONS)))


@compiled
def test_before_the_import(tmp_path: Path) -> None:
    fresh: Any = build_cython(tmp_path, "fresh", PROBE)
    assert fresh.run_before_import() == (NOT_IMPORTED, -1)
    with pytest.raises(RuntimeError, match="import_fastperceptron"):
        fresh.handle_before_import(model_of().predictor())
    fresh.begin()
    assert fresh.run_before_import() == (OK, -1)


@compiled
@pytest.mark.parametrize("s", DTYPES)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 7, 3), (33, 64, 130), (4, 0, 3), (0, 4, 3), (3, 4, 0)], ids=str)
def test_dense(probe: Any, s: str, sizes: tuple[int, int, int]) -> None:
    """The functions are those of fastperceptron.kernels, padded rows and all."""
    probe.begin()
    n, inputs, outputs = sizes
    rng = np.random.default_rng(1)

    def padded(rows: int, cols: int) -> Any:
        return rng.standard_normal((rows, cols + 3)).astype(DTYPES[s])[:, :cols]

    def row(a: Any) -> int:
        return int(a.strides[0] // a.itemsize)

    x, w, dz = padded(n, inputs), padded(inputs, outputs), padded(n, outputs)
    b = rng.standard_normal(outputs).astype(DTYPES[s])
    y, dx, dw, db = padded(n, outputs), padded(n, inputs), padded(inputs, outputs), b.copy()
    memory = [a.base.copy() for a in (y, dx, dw)]

    def at(a: Any) -> int:
        return int(a.ctypes.data)

    call = getattr(probe, f"dense_forward_{s}")
    for bias, alpha, act in ((b, 0.0, 12), (None, 0.3, 2)):
        shift = 0 if bias is None else at(bias)
        assert call(*sizes, at(x), row(x), at(w), row(w), shift, act, alpha, at(y), row(y)) == OK
        expected = kernels.dense_forward(x, w, bias, activation=ACTIVATIONS[act], alpha=alpha if act == 2 else None)
        np.testing.assert_array_equal(y, expected)
    call = getattr(probe, f"dense_backward_input_{s}")
    assert call(*sizes, at(dz), row(dz), at(w), row(w), at(dx), row(dx)) == OK
    call = getattr(probe, f"dense_backward_weights_{s}")
    assert call(*sizes, at(x), row(x), at(dz), row(dz), at(dw), row(dw)) == OK
    assert getattr(probe, f"dense_backward_bias_{s}")(n, outputs, at(dz), row(dz), at(db)) == OK
    for found, expected in zip((dx, dw, db), kernels.dense_backward(x, w, dz), strict=True):
        np.testing.assert_array_equal(found, expected)
    for a, before in zip((y, dx, dw), memory, strict=True):
        np.testing.assert_array_equal(a.base[:, a.shape[1] :], before[:, a.shape[1] :])  # pads are not touched


@compiled
@pytest.mark.parametrize("s", DTYPES)
@pytest.mark.parametrize("act", range(len(ACTIVATIONS)))
def test_activations(probe: Any, s: str, act: int) -> None:
    probe.begin()
    rng = np.random.default_rng(1)
    z, dy = rng.standard_normal((2, 5, 17)).astype(DTYPES[s])
    y, dz = np.empty_like(z), np.empty_like(z)
    activation: Any = fp.activations.get(ACTIVATIONS[act])
    alpha = getattr(activation, "alpha", 0.0) or 0.0
    forward, backward = (getattr(probe, f"activation_{way}_{s}") for way in ("forward", "backward"))
    assert forward(act, alpha, 5, 17, z.ctypes.data, 17, y.ctypes.data, 17) == OK
    np.testing.assert_array_equal(y, kernels.activation_forward(ACTIVATIONS[act], z))
    saved = z if ACTIVATIONS[act] in fp.program.NEEDS_Z else y
    assert backward(act, alpha, 5, 17, dy.ctypes.data, 17, saved.ctypes.data, 17, dz.ctypes.data, 17) == OK
    np.testing.assert_array_equal(dz, kernels.activation_backward(ACTIVATIONS[act], dy, saved))
    assert forward(act, alpha, 5, 17, z.ctypes.data, 17, z.ctypes.data, 17) == OK  # in place
    np.testing.assert_array_equal(z, y)


@compiled
@pytest.mark.parametrize("s", DTYPES)
def test_predictor(probe: Any, s: str) -> None:
    probe.begin()
    model = model_of(np.dtype(DTYPES[s]).name)
    p, other = model.predictor(), {"f32": "f64", "f64": "f32"}[s]
    assert probe.widths(p) == (4, 3, int(s == "f64"))
    assert probe.widths(None) == (-1, -1, -1)
    x = np.random.default_rng(0).standard_normal((30, 4)).astype(DTYPES[s])
    y = np.empty((30, 3), DTYPES[s])
    run = getattr(probe, f"predictor_run_{s}")
    assert run(p, x.ctypes.data, 30, y.ctypes.data) == OK
    np.testing.assert_array_equal(y, p(x))
    before = y.copy()
    assert run(p, 0, 0, 0) == OK
    assert getattr(probe, f"predictor_run_{other}")(p, x.ctypes.data, 30, y.ctypes.data) == WRONG_TYPE
    for wrong in ((None, x.ctypes.data, 1, y.ctypes.data), (p, 0, 1, y.ctypes.data), (p, x.ctypes.data, 1, 0)):
        assert run(*wrong) == BAD_ARGUMENT
    for rows in (-1, 1 << 40, 1 << 62):
        assert run(p, x.ctypes.data, rows, y.ctypes.data) == BAD_ARGUMENT
    assert run(p, y.ctypes.data, 2, y.ctypes.data) == BAD_ARGUMENT
    assert run(p, x.ctypes.data + 1, 2, y.ctypes.data) == BAD_ARGUMENT
    np.testing.assert_array_equal(y, before)


@compiled
@pytest.mark.parametrize("s", DTYPES)
def test_a_predictor_of_several_inputs_and_outputs(probe: Any, s: str) -> None:
    """Side by side in each row."""
    probe.begin()
    model = two_by_two(dtype=np.dtype(DTYPES[s]).name, backend="native")
    p, run = model.predictor(), getattr(probe, f"predictor_run_{s}")
    assert probe.widths(p) == (12, 13, int(s == "f64"))
    x = two_rows(30, model.dtype)
    expected = np.concatenate(p(x), axis=1)
    beside, y = np.concatenate([a.reshape(30, 6) for a in x], axis=1), np.empty((30, 13), DTYPES[s])
    for n in (30, 1):
        y[:] = 0
        assert run(p, beside.ctypes.data, n, y.ctypes.data) == OK
        np.testing.assert_array_equal(y[:n], expected[:n])
        assert not y[n:].any()
    assert run(p, 0, 0, 0) == OK
    assert run(p, y.ctypes.data, 1, y.ctypes.data) == BAD_ARGUMENT


@compiled
def test_what_is_no_compiled_predictor(probe: Any) -> None:
    class Own(fp.Dense):
        def forward(self, x: Any, training: bool) -> Any:
            return super().forward(x, training)

    probe.begin()
    for layer, backend in ((fp.Dense(3), "numpy"), (Own(3), "native")):
        p = fp.Sequential([fp.Input((4,)), layer], backend=backend).predictor()
        with pytest.raises(TypeError, match="without layers written in Python; received ModelPredictor"):
            probe.widths(p)


@compiled
@pytest.mark.parametrize("s", DTYPES)
def test_bad_arguments(probe: Any, s: str) -> None:
    """Each argument in turn is wrong; nothing is written."""
    probe.begin()
    memory = np.ones((6, 8, 8), DTYPES[s])
    x, w, b, y, saved, spare = (int(part.ctypes.data) for part in memory)
    good: dict[str, tuple[Any, ...]] = {
        "dense_forward": (4, 5, 6, x, 8, w, 8, b, 1, 0.0, y, 8),
        "dense_backward_input": (4, 5, 6, x, 8, w, 8, y, 8),
        "dense_backward_weights": (4, 5, 6, x, 8, w, 8, y, 8),
        "dense_backward_bias": (4, 6, x, 8, y),
        "activation_forward": (1, 0.0, 4, 5, x, 8, y, 8),
        "activation_backward": (1, 0.0, 4, 5, x, 8, saved, 8, y, 8),
    }
    tried = 0
    for name, arguments in good.items():
        call = getattr(probe, f"{name}_{s}")
        for place, value in enumerate(arguments):
            wrong: list[Any] = []
            if value in (x, w, y, saved):
                wrong = [0, value + 1]
            elif value in (4, 5, 6, 8):
                wrong = [-1, -(1 << 62), 1 << 40, (1 << 63) - 1]
            elif value == 1:
                wrong = [-1, 15, 1 << 30] + ([14] if name == "dense_forward" else [])
            if value == 8:
                wrong += [0, 4]
            if value == y:
                wrong += [x + 4 * memory.itemsize] + ([w, b] if name == "dense_forward" else [])
            for other in wrong:
                assert call(*arguments[:place], other, *arguments[place + 1 :]) == BAD_ARGUMENT, (name, place, other)
                tried += 1
    assert tried > 100
    assert (memory == 1).all()
    assert getattr(probe, f"activation_backward_{s}")(14, 0.0, 4, 5, x, 8, y, 8, y, 8) == BAD_ARGUMENT
    for negative in (-0.5, float("nan")):
        for act, status in ((2, BAD_ARGUMENT), (3, BAD_ARGUMENT), (0, OK)):
            forward = getattr(probe, f"activation_forward_{s}")
            assert forward(act, negative, 1, 5, x, 8, x, 8) == status
            assert (memory == 1).all()
    assert getattr(probe, f"dense_forward_{s}")(*good["dense_forward"]) == OK
    assert spare


@pytest.mark.skipif(not PURE, reason="only the pure wheel has none")
def test_the_pure_wheel_has_nothing_to_include() -> None:
    with pytest.raises(fp.BackendUnavailableError, match=r"get_include: expected the native extension.*pure wheel"):
        fp.get_include()


@native_only
def test_the_header_is_installed() -> None:
    assert (Path(fp.get_include()) / "fastperceptron.h").is_file()
    assert (Path(fp.__file__).parent / "cython_api.pxd").is_file()

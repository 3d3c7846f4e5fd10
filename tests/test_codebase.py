"""The parts of the project agree with each other: stub and extension, versions, enum numbers, storeys."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import pkgutil
import re
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pure import PURE, native_only

import fastperceptron
from fastperceptron import backends, program
from fastperceptron.backends import numpy as numpy_backend

PACKAGE = Path(fastperceptron.__file__).parent
ROOT = Path(__file__).parent.parent

STATELESS = {
    "bfloat16_product",
    "dense_forward",
    "dense_backward_input",
    "dense_backward_weights",
    "dense_backward_bias",
    "activation_forward",
    "activation_backward",
    "loss_forward",
    "loss_backward",
    "sgd_update",
    "dropout_forward",
    "philox",
    "permutation",
    "Network",
}


def core() -> ModuleType:
    return importlib.import_module("fastperceptron._core")


def stub() -> dict[str, ast.stmt]:
    """The stub's names and what they are; private ones exist for the stub alone."""
    names: dict[str, ast.stmt] = {}
    for node in ast.parse((PACKAGE / "_core.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            names[node.target.id] = node
    return names


def members(node: ast.ClassDef, names: dict[str, ast.stmt]) -> dict[str, ast.stmt]:
    """A class's attributes and methods, those of its bases in the stub included."""
    found: dict[str, ast.stmt] = {}
    for base in node.bases:
        parent = names[base.id] if isinstance(base, ast.Name) else None
        assert isinstance(parent, ast.ClassDef)
        found |= members(parent, names)
    for item in node.body:
        if isinstance(item, ast.FunctionDef):
            found[item.name] = item
        elif isinstance(item, ast.AnnAssign):
            assert isinstance(item.target, ast.Name)
            found[item.target.id] = item
    return found


def stub_parameters(node: ast.FunctionDef) -> list[str]:
    return [a.arg for a in node.args.args if a.arg != "self"]


def bound_parameters(function: Any) -> list[str] | None:
    """Parameter names from the signature that pybind11 writes into the docstring; None when it names none."""
    signature = (function.__doc__ or "").splitlines()[0]
    inside = signature[signature.index("(") + 1 : signature.rindex(") ->")]
    names = re.findall(r"(?:^|, )(\w+):", re.sub(r"\[[^\[\]]*(\[[^\[\]]*\][^\[\]]*)*\]", "", inside))
    names = [name for name in names if name != "self"]
    return None if any(re.fullmatch(r"arg\d+", name) for name in names) else names


@native_only
def test_stub_names_are_the_extensions() -> None:
    public = {name for name in vars(core()) if not name.startswith("_")} | {"__version__"}
    assert {name for name in stub() if not name.startswith("_") or name == "__version__"} == public


@native_only
def test_stub_parameters_are_the_extensions() -> None:
    compared = 0
    for name, node in stub().items():
        if isinstance(node, ast.FunctionDef):
            expected = bound_parameters(getattr(core(), name))
            assert expected == stub_parameters(node), name
            compared += 1
    assert compared >= len(STATELESS)


@native_only
@pytest.mark.parametrize("name", ["NetworkFloat32", "NetworkFloat64"])
def test_stub_classes_are_the_extensions(name: str) -> None:
    names = stub()
    node = names[name]
    assert isinstance(node, ast.ClassDef)
    expected = members(node, names)
    bound = vars(getattr(core(), name))
    assert {m for m in expected if m != "__init__"} == {m for m in bound if not m.startswith("_")}
    for method, item in expected.items():
        if isinstance(item, ast.FunctionDef) and not item.decorator_list:
            assert bound_parameters(bound[method]) == stub_parameters(item), method


@native_only
def test_attribute_types_are_the_stubs() -> None:
    for name in ("__version__", "compiler", "compiler_flags", "build_type", "sanitizers"):
        assert isinstance(getattr(core(), name), str), name


def test_versions_agree() -> None:
    versions = {"__version__": fastperceptron.__version__}
    with contextlib.suppress(metadata.PackageNotFoundError):  # run from the source tree
        versions["metadata"] = metadata.version("fastperceptron")
    if (ROOT / "pyproject.toml").is_file():
        versions["pyproject"] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
            "version"
        ]
    if not PURE:
        versions["extension"] = core().__version__
    assert len(set(versions.values())) == 1, versions


@native_only
def test_activation_numbers_agree() -> None:
    assert core().activation_numbers == {name: i for i, name in enumerate(program.ACTIVATIONS)}


@native_only
def test_loss_numbers_agree() -> None:
    assert core().loss_numbers == {name: i for i, name in enumerate(program.LOSSES)}


@native_only
def test_what_derivatives_need_agrees() -> None:
    needs = {name for i, name in enumerate(program.ACTIVATIONS) if core().derivative_needs_z(i)}
    assert needs == program.NEEDS_Z


@native_only
def test_built_without_dangerous_flags() -> None:
    flags = core().compiler_flags
    assert "-ffp-contract=off" in flags
    for flag in ("fast-math", "march=native", "-Ofast"):
        assert flag not in flags


def test_backends_offer_the_same_names() -> None:
    modules = [numpy_backend] if PURE else [numpy_backend, backends.resolve("native")]
    for module in modules:
        assert set(module.__all__) - {"check_usable"} == STATELESS, module.__name__
        for name in STATELESS:
            assert callable(getattr(module, name)), f"{module.__name__}.{name}"


def test_public_modules_define_all() -> None:
    for info in pkgutil.walk_packages([str(PACKAGE)], "fastperceptron."):
        name = info.name.rpartition(".")[2]
        if name.startswith("_") or (PURE and name == "native"):
            continue
        module = importlib.import_module(info.name)
        exported = getattr(module, "__all__", None)
        assert exported is not None, f"{info.name} lacks __all__"
        assert all(hasattr(module, item) for item in exported), info.name


def sources(pattern: str) -> dict[str, str]:
    folder = ROOT / "csrc"
    if not folder.is_dir():
        pytest.skip("no C++ sources beside the tests")  # an installed copy of the tests
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.glob(pattern)}


def test_only_bindings_know_python() -> None:
    users = {name for name, text in sources("**/*.[ch]pp").items() if re.search(r"#include\s*<(pybind11|Python)", text)}
    assert users
    assert {name.split(os.sep)[0] for name in users} == {"bindings"}


def test_only_one_file_knows_openmp() -> None:
    users = {name for name, text in sources("**/*.[ch]pp").items() if re.search(r"#pragma omp|<omp\.h>", text)}
    assert users == {os.path.join("runtime", "parallel.cpp")}


def test_kernels_leave_the_standard_library_out() -> None:
    """An inline function of the library compiled for AVX-512 could be picked by the linker for every machine."""
    allowed = {"cstdint", "cstddef", "immintrin.h", "arm_neon.h"}
    for name, text in sources("kernels/*.[ch]pp").items():
        assert set(re.findall(r"#include\s*<([^>]+)>", text)) <= allowed, name

"""What the tests of the promises share: models, digests of their state, and fresh processes that may hang or die."""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parity import ALPHA
from pure import BACKENDS, PURE

import fastperceptron as fp

#: Children fork with threads around and must not be stopped by Python's warning about it.
PYTHON = (sys.executable, "-W", "ignore::DeprecationWarning")


def digest(model: fp.Model) -> str:
    """Of all arrays of the state, weights, slots, counters and key."""
    hashed = hashlib.sha256()
    for name, array in sorted(model.get_state().items()):
        hashed.update(name.encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


def activation(name: str) -> Any:
    """The activation with a parameter that is not its default."""
    return fp.activations.get(name).with_alpha(ALPHA[name]) if name in ALPHA else name


def classifier(
    units: tuple[int, ...],
    kind: str = "relu",
    dtype: str = "float32",
    dropout: float = 0.0,
    backend: str = BACKENDS[-1],
    seed: int = 3,
    momentum: float = 0.9,
) -> fp.Sequential:
    """Compiled; the last of the units are the classes."""
    layers: list[Any] = []
    for width in units[:-1]:
        layers.append(fp.Dense(width, activation=activation(kind)))
        if dropout:
            layers.append(fp.Dropout(dropout))
    model = fp.Sequential([*layers, fp.Dense(units[-1])], seed=seed, dtype=dtype, backend=backend)
    loss = fp.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(fp.SGD(0.02, momentum=momentum), loss, ["accuracy"])
    return model


def guarded(a: np.ndarray) -> np.ndarray:
    """A copy that ends where memory begins that nobody may touch, in memory that cannot be written (Unix)."""
    page = mmap.PAGESIZE
    size = -(-a.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    copy = np.frombuffer(memory, a.dtype, a.size, size - a.nbytes).reshape(a.shape)
    copy[...] = a
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    assert protect(begin, size, mmap.PROT_READ) == 0
    assert protect(begin + size, page, 0) == 0
    return copy


def labelled(n: int, width: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random rows (n, width) float32 and labels (n,)."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width), dtype=np.float32), rng.integers(0, classes, n)


def compiled(folder: Path, code: str, *options: str) -> Path:
    """A shared library of this C code; the pure wheel alone may have no compiler for it."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        assert PURE, "a C compiler is needed: the extension was built with one"
        pytest.skip("no C compiler")
    source, library = folder / "code.c", folder / "code.so"
    source.write_text(code)
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), *options]
    subprocess.run(command, check=True, capture_output=True)
    return library


def run_script(path: Path, code: str, *arguments: str, timeout: float = 60, **environment: str) -> str:
    """Runs the code as a file of a fresh process, with this folder importable; returns what it printed. A process that
    hangs, fails or is killed by a signal fails the test."""
    path.write_text(code, encoding="utf-8")
    folders = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    result = subprocess.run(
        [*PYTHON, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders), **environment},
    )
    assert result.returncode == 0, f"exit status {result.returncode}\n{result.stdout}\n{result.stderr}"
    return result.stdout

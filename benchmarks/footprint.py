"""What the package takes besides time: to be imported, on the disk, in memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from interleave import ContestantError
from machine import set_environment
from workloads import WORKLOADS

__all__ = ["Memory", "can_measure_memory", "import_seconds", "memory_while_training", "run_python", "wheel_bytes"]


def run_python(program: str, *arguments: str, threads: int | None = None) -> str:
    """What a fresh process prints that runs the program, with so many threads at most."""
    command = [sys.executable, "-c", program, *arguments]
    folder = Path(__file__).parent
    variables = dict(os.environ)
    if threads is not None:
        set_environment(threads, variables)
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContestantError(f"a process ended with status {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def import_seconds(repeats: int = 10) -> float:
    """CPU time that importing the package adds to importing NumPy, all files cached: the fastest of ``repeats``, since
    whatever disturbs an import makes it longer. NumPy's own threads, which may still be starting, do not count."""
    program = "import time, numpy; t = time.thread_time(); import fastperceptron; print(time.thread_time() - t)"
    return min(float(run_python(program)) for _ in range(repeats))


def wheel_bytes() -> int | None:
    """Size of the installed package's files, compressed as in a wheel; None where what is imported is not among them,
    as in an editable installation."""
    import fastperceptron

    files: dict[Path, metadata.PackagePath] = {}
    with contextlib.suppress(metadata.PackageNotFoundError):
        files = {Path(str(file.locate())).resolve(): file for file in metadata.files("fastperceptron") or []}
    if Path(fastperceptron.__file__).resolve() not in files:
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, file in files.items():
            if path.is_file() and path.suffix != ".pyc" and ".." not in file.parts:
                archive.write(path, str(file))
    return len(buffer.getvalue())


#: Peak memory is reset after the data and a first, tiny training have been made (libraries and threads are up by then).
_MEMORY_PROGRAM = """
import json, re, sys
import fastperceptron as fp
from workloads import WORKLOADS, random_data

def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read()).group(1)) * 1024

def train(workload, rows):
    hidden = [fp.Dense(width, activation="relu") for width in workload.widths[1:-1]]
    model = fp.Sequential([*hidden, fp.Dense(workload.widths[-1])], seed=0, backend="native")
    model.compile(fp.SGD(1e-3, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x[:rows], y[:rows], batch_size=workload.batch, epochs=3, verbose=0)
    return model

small, workload = WORKLOADS["A"], WORKLOADS[sys.argv[1]]
x, y = random_data(small, rows=256)
train(small, 256)
x, y = random_data(workload)
with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")
before = status("VmRSS")
model = train(workload, workload.rows)
print(json.dumps([status("VmHWM") - before, model.count_params()]))
"""


class Memory(NamedTuple):
    """Bytes."""

    grown: int
    allowed: int

    def __str__(self) -> str:
        return f"grew by {self.grown / 2**20:.1f} MB; allowed: {self.allowed / 2**20:.1f} MB"


def can_measure_memory() -> bool:
    return os.access("/proc/self/clear_refs", os.W_OK)


def memory_while_training(name: str, threads: int = 2) -> Memory:
    """Peak memory of training the workload, beyond its data, against parameters x (3 + optimizer slots), activations,
    and 16 MB; the data is not copied. Each thread has memory of its own to pack operands in."""
    workload = WORKLOADS[name]
    grown, parameters = json.loads(run_python(_MEMORY_PROGRAM, name, threads=threads))
    assert parameters == workload.parameters
    slots, float32 = 1, 4
    activations = workload.batch * sum(workload.widths) * float32
    return Memory(grown, parameters * (3 + slots) * float32 + activations + 16 * 2**20)

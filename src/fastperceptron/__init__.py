"""Multi-layer perceptrons on CPUs: trained and served at the speed of the hardware, with NumPy alone beside it.

>>> import fastperceptron as fp
>>> x, y = fp.datasets.load_digits()
>>> model = fp.Sequential([fp.Dense(32, activation="relu"), fp.Dense(10)], seed=0)
>>> model.compile(fp.SGD(0.1, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
>>> history = model.fit(x / 16, y, epochs=5, validation_split=0.2, verbose=0)
>>> history.history["val_accuracy"][-1] > 0.9
True
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import activations, callbacks, initializers, layers, losses, metrics, optimizers
from .backends import get_backend, set_backend
from .callbacks import Callback, EarlyStopping, History, LambdaCallback, TerminateOnNaN
from .errors import (
    BackendUnavailableError,
    DivergenceWarning,
    DTypeError,
    ModelBusyError,
    ModelFormatError,
    NotBuiltError,
    ShapeError,
)
from .initializers import Initializer
from .layers import Activation, Add, Concatenate, Dense, Dropout, Flatten, Input, Layer, Multiply
from .losses import Loss
from .metrics import Metric
from .models import Model
from .optimizers import SGD, Optimizer
from .predictors import Predictor
from .saving import load_model
from .sequential import Sequential

if TYPE_CHECKING:
    from . import backends, config, datasets, errors, kernels, models, peak, program, random
    from .config import get_num_threads, set_num_threads, show_config, threads
    from .embedding import get_include

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Activation",
    "Add",
    "BackendUnavailableError",
    "Callback",
    "Concatenate",
    "DTypeError",
    "Dense",
    "DivergenceWarning",
    "Dropout",
    "EarlyStopping",
    "Flatten",
    "History",
    "Initializer",
    "Input",
    "LambdaCallback",
    "Layer",
    "Loss",
    "Metric",
    "Model",
    "ModelBusyError",
    "ModelFormatError",
    "Multiply",
    "NotBuiltError",
    "Optimizer",
    "Predictor",
    "Sequential",
    "ShapeError",
    "TerminateOnNaN",
    "activations",
    "backends",
    "callbacks",
    "config",
    "datasets",
    "errors",
    "get_backend",
    "get_include",
    "get_num_threads",
    "initializers",
    "kernels",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "peak",
    "program",
    "random",
    "set_backend",
    "set_num_threads",
    "show_config",
    "threads",
]

# Loaded when first used: importing the package stays quick.
_MODULES = ("config", "datasets", "kernels", "peak")
_FROM_CONFIG = ("get_num_threads", "set_num_threads", "show_config", "threads")


def __getattr__(name: str) -> Any:
    import importlib

    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "get_include":
        return importlib.import_module(f"{__name__}.embedding").get_include
    if name in _FROM_CONFIG:
        return getattr(importlib.import_module(f"{__name__}.config"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    loaded = (name for name, value in globals().items() if isinstance(value, ModuleType) and not name.startswith("_"))
    return sorted({"__version__", *__all__, *loaded})

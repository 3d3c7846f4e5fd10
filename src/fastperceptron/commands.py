"""What the command line program does: one function per command, over the parsed arguments."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .models import Model
    from .preparation import Preparation
    from .sequential import Sequential

__all__ = ["UserError", "info", "predict", "summary", "train"]


class UserError(Exception):
    """What was asked for cannot be done; the message says why."""


def train(arguments: argparse.Namespace) -> None:
    import numpy as np

    from . import random
    from .preparation import held_out_rows
    from .program import PRECISIONS

    _set_machine(arguments)
    _check_destination("--save", arguments.save, arguments.data)  # before training, not after
    x, y, preparation = _training_data(arguments)
    labels = y if preparation.task == "classification" else None
    order = random.permutation(random.make_key(arguments.seed), random.STREAM_SPLIT, 1, len(y))
    held_out = held_out_rows(order, labels, arguments.test_split)
    if arguments.test_split and not held_out.any():
        few = "rows" if labels is None else "rows of each class"
        _warn(f"--test-split {arguments.test_split:g}: expected more {few}; none could be held out")
    standardize = arguments.data != "digits" if arguments.standardize is None else arguments.standardize
    preparation = _with_scaling(preparation, x[~held_out], y[~held_out], standardize)
    dtype = PRECISIONS[arguments.dtype]
    inputs = preparation.scale(x, dtype)
    targets = y[~held_out]
    if labels is None:
        targets = ((targets - preparation.target_offset) / preparation.target_scale).astype(dtype)

    model = _compiled_model(arguments, len(preparation.classes))
    model.build(inputs.shape[1])
    if not arguments.quiet:
        model.summary()
        kind = f"{len(preparation.classes)} classes" if labels is not None else "one number to predict"
        rows = f"{np.count_nonzero(~held_out)} rows to train on, {np.count_nonzero(held_out)} held out"
        print(f"{rows}, {inputs.shape[1]} features, {kind}", flush=True)
    history = model.fit(
        inputs[~held_out],
        targets,
        batch_size=arguments.batch_size,
        epochs=arguments.epochs,
        validation_split=arguments.validation_split,
        verbose=0 if arguments.quiet else 1,
    )
    if not np.isfinite(history.history["loss"][-1]):
        raise _diverged("the loss is")
    if not all(np.isfinite(weight).all() for weight in model.get_weights()):  # no loss has seen the last step
        raise _diverged("the weights are")
    which = held_out if held_out.any() else ~held_out
    _report(model, preparation, inputs[which], y[which], "held-out" if held_out.any() else "training")
    if arguments.save is not None:
        model.metadata["preparation"] = preparation.to_metadata()
        model.save(arguments.save)
        print(f"saved {arguments.save}")


def _compiled_model(arguments: argparse.Namespace, classes: int) -> Sequential:
    """As the options say; of one output where there are no classes."""
    import fastperceptron as fp

    layers: list[fp.Layer] = []
    for units in arguments.hidden:
        layers.append(fp.Dense(units, activation=arguments.activation))
        if arguments.dropout:
            layers.append(fp.Dropout(arguments.dropout))
    layers.append(fp.Dense(classes or 1))
    model = fp.Sequential(layers, seed=arguments.seed, dtype=arguments.dtype, backend=_backend(arguments))
    optimizer = fp.SGD(learning_rate=arguments.learning_rate, momentum=arguments.momentum, nesterov=arguments.nesterov)
    if classes:
        model.compile(optimizer, fp.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    else:
        model.compile(optimizer, fp.losses.MeanSquaredError(), metrics=["mae"])
    return model


def predict(arguments: argparse.Namespace) -> None:
    import numpy as np

    from .atomicfile import write_atomically
    from .program import PRECISIONS

    _set_machine(arguments)
    _check_destination("--output", arguments.output, arguments.model, arguments.data)
    model, preparation = _load(arguments.model, _backend(arguments))
    _check_takes_columns(arguments.model, model)
    if arguments.probabilities and (preparation is None or preparation.task != "classification"):
        raise UserError(f"--probabilities: {arguments.model} must be a classifier saved by fastperceptron train")
    x = _features(arguments, preparation, model.input_shape[0])
    z = model.predict(x if preparation is None else preparation.scale(x, PRECISIONS[model.dtype]), verbose=0)
    z = z.reshape(len(z), -1)
    finite = np.isfinite(z).all(axis=1)
    if preparation is not None and not finite.all():  # no class is the likeliest
        raise UserError(f"{arguments.data}: expected finite outputs; those of row {finite.argmin() + 1} are not")
    if arguments.output is None:
        if sys.stdout is None:
            raise UserError("--output must name a file where there is no standard output; received none")
        try:
            _write_predictions(sys.stdout, z, preparation, arguments.probabilities)
        except UnicodeEncodeError as error:
            lacking = error.object[error.start : error.end]
            raise UserError(f"--output must name a file, since {sys.stdout.encoding} has no {lacking!r}") from error
        return
    text = io.StringIO()
    _write_predictions(text, z, preparation, arguments.probabilities)
    write_atomically(arguments.output, [text.getvalue().encode()])
    print(f"wrote {len(z)} predictions to {arguments.output}", file=sys.stderr)


def summary(arguments: argparse.Namespace) -> None:
    model, preparation = _load(arguments.model, None)
    model.summary()
    if preparation is not None:
        print(f"task: {preparation.task} of {preparation.target!r}")
        print(f"features: {_listed(preparation.features)}")
        if preparation.classes:
            print(f"classes: {_listed(preparation.classes)}")


def info(arguments: argparse.Namespace) -> None:
    import fastperceptron as fp

    fp.show_config()


# -- data --------------------------------------------------------------------------------------------------------


def _training_data(arguments: argparse.Namespace) -> tuple[NDArray[Any], NDArray[Any], Preparation]:
    """Raw features, targets, and their description without the scaling."""
    import numpy as np

    from .csvfile import read_csv, read_target
    from .datasets import load_digits
    from .preparation import Preparation

    if arguments.data == "digits":
        for_files = (arguments.target, arguments.features, arguments.delimiter)
        if any(given is not None for given in for_files) or arguments.task == "regression":
            raise UserError(
                "--target, --features, --delimiter and --task regression are for files; the digits have one target"
            )
        x, y = load_digits()
        names = tuple(f"pixel_{i // 8}_{i % 8}" for i in range(64))
        task, target, classes = "classification", "digit", tuple("0123456789")
        return x, y, Preparation(task, target, names, classes, np.zeros(64), np.full(64, 16.0), 0.0, 1.0)
    if arguments.target is None:
        raise UserError(f"{arguments.data}: --target COLUMN must name the column to predict")
    features = None if arguments.features is None else [name.strip() for name in arguments.features.split(",")]
    if features is not None and arguments.target in features:
        raise UserError(f"--features must not contain the target {arguments.target!r}")
    if features is not None and len(set(features)) != len(features):
        twice = next(name for name in features if features.count(name) > 1)
        raise UserError(f"--features must name each column once; received {twice!r} twice")
    table = read_csv(arguments.data, target=arguments.target, features=features, delimiter=arguments.delimiter)
    found = read_target(table, arguments.task)
    if len(table.x) < 2 or (found.task == "classification" and len(found.classes) < 2):
        what = f"{len(table.x)} rows" if len(table.x) < 2 else f"one class, {found.classes[0]!r}"
        raise UserError(f"{arguments.data}: training needs at least two rows and two classes; found {what}")
    width = table.x.shape[1]
    preparation = Preparation(
        found.task, arguments.target, table.features, found.classes, np.zeros(width), np.ones(width), 0.0, 1.0
    )
    return table.x, found.y, preparation


def _with_scaling(preparation: Preparation, x: NDArray[Any], y: NDArray[Any], standardize: bool) -> Preparation:
    """Scaling learned from the rows that are not held out, and only from those."""
    from .preparation import fit_scaling

    if standardize:
        offset, scale = fit_scaling(x, preparation.features)
        preparation = preparation._replace(input_offset=offset, input_scale=scale)
    if preparation.task == "regression":
        target_offset, target_scale = fit_scaling(y[:, None], [preparation.target])
        preparation = preparation._replace(target_offset=float(target_offset[0]), target_scale=float(target_scale[0]))
    return preparation


def _features(arguments: argparse.Namespace, preparation: Preparation | None, width: int) -> NDArray[Any]:
    from .csvfile import read_csv
    from .datasets import load_digits

    if arguments.data == "digits":
        if arguments.delimiter is not None:
            raise UserError("--delimiter is for files; the digits are none")
        x: NDArray[Any] = load_digits()[0]
    else:
        names = None if preparation is None else preparation.features
        x = read_csv(arguments.data, features=names, delimiter=arguments.delimiter).x
    if x.shape[1] != width:
        raise UserError(f"{arguments.data}: {arguments.model} needs {width} columns; received {x.shape[1]}")
    return x


def _load(path: str, backend: str | None) -> tuple[Model, Preparation | None]:
    import fastperceptron as fp

    from .preparation import Preparation

    model = fp.load_model(path, backend=backend)
    data = model.metadata.get("preparation")
    if data is None:
        return model, None
    try:
        return model, Preparation.from_metadata(data, model.input_shape[0], model.output_shape[0])
    except fp.ModelFormatError as error:
        raise fp.ModelFormatError(f"{path}: {error}") from error


def _check_takes_columns(path: str, model: Model) -> None:
    """Refuse a model that a table of numbers does not fit."""
    inputs, outputs = model.input_shape, len(model.output_names)
    if len(inputs) > 1 or outputs > 1:
        what = f"{len(inputs)} inputs" if len(model.input_names) > 1 else f"an input of shape {inputs}"
        has = f"{what} and {outputs} output{'s' if outputs > 1 else ''}"
        raise UserError(f"{path}: expected a model with one input, of one axis, and one output; received {has}")


def _check_destination(option: str, path: str | None, *inputs: str) -> None:
    """Refuse, before any work, a file that could not be written or that would replace an input."""
    if path is None:
        return
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    if os.path.exists(target) and not os.path.isfile(target):
        what = "a directory" if os.path.isdir(target) else "something else"
        raise UserError(f"{option} {path}: expected the name of a file; received {what}")
    if not os.path.isdir(directory):
        raise UserError(f"{option} {path}: expected a file in a directory; the directory does not exist")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: expected a directory that can be written to; received {directory}")
    for name in inputs:
        if name != "digits" and os.path.exists(target) and os.path.exists(name) and os.path.samefile(target, name):
            raise UserError(f"{option} {path}: expected another file than the input; received {name}")


# -- output ------------------------------------------------------------------------------------------------------


def _report(model: Model, preparation: Preparation, inputs: NDArray[Any], y: NDArray[Any], which: str) -> None:
    import numpy as np

    from .preparation import confusion_matrix

    z = model.predict(inputs, verbose=0)
    if preparation.task == "regression":
        z = z[:, 0].astype(np.float64) * preparation.target_scale + preparation.target_offset
    if not np.isfinite(z).all():
        raise _diverged(f"{which} predictions are")
    if preparation.task == "regression":
        residual, spread = math.hypot(*(y - z)), math.hypot(*(y - y.mean()))  # their squares may be infinite
        ratio = residual / spread if spread else 0.0
        r2 = f", R2 {1 - ratio * ratio:.4f}" if spread else ""
        print(f"{which} RMSE {residual / len(y) ** 0.5:.6g}{r2} ({len(y)} rows)")
        return
    counts = confusion_matrix(y, z.argmax(axis=1), len(preparation.classes))
    right = int(counts.trace())
    print(f"{which} accuracy: {100 * right / len(y):.2f} % ({right} of {len(y)})")
    if len(preparation.classes) <= 30:
        _print_confusion(counts, preparation.classes, sys.stdout)


def _diverged(what: str) -> UserError:
    return UserError(f"training diverged: {what} not finite; a smaller --learning-rate may help")


def _write_predictions(out: TextIO, z: NDArray[Any], preparation: Preparation | None, probabilities: bool) -> None:
    from .preparation import softmax

    def shown(values: NDArray[Any], more: int = 0) -> list[list[str]]:
        digits = 9 if z.dtype.itemsize == 4 else 17  # what the model's dtype holds
        return [[format(value, f".{min(digits + more, 17)}g") for value in row] for row in values.tolist()]

    writer = csv.writer(out, lineterminator="\n")
    if preparation is None:
        writer.writerow([f"output_{j}" for j in range(z.shape[1])])
        writer.writerows(shown(z))
    elif preparation.task == "regression":
        writer.writerow([preparation.target])
        offset, scale = preparation.target_offset, preparation.target_scale
        before = math.ceil(
            math.log10(min(max(abs(offset) / scale, 1), 1e17))
        )  # digits that the offset has before z's first
        writer.writerows(shown(z.astype("float64") * scale + offset, before))
    else:
        names = [preparation.classes[label] for label in z.argmax(axis=1)]
        writer.writerow([preparation.target, *(preparation.classes if probabilities else ())])
        rows = shown(softmax(z)) if probabilities else [[]] * len(names)
        writer.writerows([name, *row] for name, row in zip(names, rows, strict=True))


def _warn(message: str) -> None:
    print(f"fastperceptron: warning: {message}", file=sys.stderr)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(_printable, names[:20]))
    return shown if len(names) <= 20 else f"{shown}, and {len(names) - 20} more"


def _printable(name: str) -> str:
    """A name of a file, on one line and without what a terminal would obey."""
    return name if name.isprintable() else repr(name)[1:-1]


def _print_confusion(counts: NDArray[np.int64], classes: Sequence[str], out: TextIO) -> None:
    names = [name if len(name) <= 12 else f"{name[:11]}~" for name in map(_printable, classes)]
    label = max(len("actual"), *map(len, names))
    width = max(len(str(counts.max())), *map(len, names)) + 2
    print(f"{'':{label}}  predicted", file=out)
    print(f"{'actual':{label}}" + "".join(f"{name:>{width}}" for name in names), file=out)
    for name, row in zip(names, counts.tolist(), strict=True):
        print(f"{name:>{label}}" + "".join(f"{n or '.':>{width}}" for n in row), file=out)


# -- the machine ---


def _set_machine(arguments: argparse.Namespace) -> None:
    import fastperceptron as fp

    if arguments.threads is not None:
        fp.set_num_threads(arguments.threads)


def _backend(arguments: argparse.Namespace) -> str | None:
    return None if arguments.backend == "auto" else str(arguments.backend)

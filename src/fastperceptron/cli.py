"""The command line program: its arguments, messages and exit status. What it does is in ``commands``."""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import __version__, commands
from .errors import BackendUnavailableError, DivergenceWarning, DTypeError, NotBuiltError
from .program import PRECISIONS

__all__ = ["build_parser", "main"]

EXAMPLES = """\
examples:
  fastperceptron train digits --save digits.fp.safetensors
  fastperceptron train iris.csv --target species --hidden 32,32 --epochs 100 --save iris.fp.safetensors
  fastperceptron predict iris.fp.safetensors new.csv --output predicted.csv
  fastperceptron summary iris.fp.safetensors
  fastperceptron info

exit status: 0 done, 1 error, 2 wrong usage, 130 interrupted
"""

TRAIN_EXAMPLES = """\
examples:
  fastperceptron train digits --hidden 128 --dropout 0.2 --epochs 40
  fastperceptron train iris.csv --target species --hidden 16 --epochs 100 --save iris.fp.safetensors
  fastperceptron train houses.csv --target price --task regression --hidden 64,64 --learning-rate 0.01

Of a CSV file's columns the target may hold class names, whole numbers or real numbers; all others (or those of
--features) must be numbers. What the model needs to read raw data again (names, scaling) is saved with it.
"""

PREDICT_EXAMPLES = """\
examples:
  fastperceptron predict iris.fp.safetensors new.csv
  fastperceptron predict iris.fp.safetensors new.csv --probabilities --output predicted.csv

A model that `train` saved finds its columns by name, in any order; others are ignored. One saved in Python takes all
columns, in their order. Models with layers of one's own can only be loaded in Python.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit status. Wrong usage and --help leave through SystemExit, as argparse does."""
    arguments = build_parser().parse_args(argv)
    run: Callable[[argparse.Namespace], None] = arguments.run
    if run is not commands.predict and isinstance(sys.stdout, io.TextIOWrapper):
        # Names that the terminal's encoding lacks are no reason to lose a model. Predictions are data.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", DivergenceWarning)
            run(arguments)
            if sys.stdout is not None:  # pythonw has no output
                sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nfastperceptron: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has left; the interpreter's own flush at exit must not complain about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (
        commands.UserError, OSError, ValueError, MemoryError, DTypeError, NotBuiltError, BackendUnavailableError
    ) as error:  # fmt: skip
        message = " ".join(_text(error).split()) or type(error).__name__
        print(f"fastperceptron: error: {message}", file=sys.stderr)
        return 1
    return 0


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
    print(f"fastperceptron: warning: {' '.join(str(message).split())}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """The program's arguments."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="fastperceptron",
        description="Train multi-layer perceptrons and predict with them.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"fastperceptron {__version__}")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = subcommands.add_parser(
        "train", help="train a network on a CSV file or on the digits", epilog=TRAIN_EXAMPLES, formatter_class=raw
    )
    train.set_defaults(run=commands.train)
    train.add_argument("data", metavar="digits|FILE.csv", help="the data that come with the package, or a CSV file")
    _add_data_options(train)
    train.add_argument("--target", metavar="COLUMN", help="the column to predict (required with a file)")
    train.add_argument("--features", metavar="A,B,...", help="the columns to predict from (default: all others)")
    train.add_argument("--task", choices=["auto", "classification", "regression"], default="auto")
    train.add_argument(
        "--standardize",
        action=argparse.BooleanOptionalAction,
        help="scale each column to mean 0 and deviation 1 (default: yes for files; the digits are divided by 16)",
    )
    network = train.add_argument_group("the network")
    network.add_argument(
        "--hidden", type=_sizes, default="64,64", metavar="N,N,...", help="units (default 64,64; 0: none)"
    )
    network.add_argument("--activation", default="relu", help="of the hidden layers (default relu)")
    network.add_argument("--dropout", type=_fraction, default=0.0, help="after each hidden layer (default 0)")
    network.add_argument("--dtype", choices=list(PRECISIONS), default="float32")
    training = train.add_argument_group("training")
    training.add_argument("--epochs", type=_count, default=30, help="(default 30)")
    training.add_argument("--batch-size", type=_count, default=32, help="(default 32)")
    training.add_argument("--learning-rate", type=_positive, default=0.05, help="(default 0.05)")
    training.add_argument("--momentum", type=_fraction, default=0.9, help="(default 0.9)")
    training.add_argument("--nesterov", action="store_true", help="Nesterov's momentum")
    training.add_argument("--seed", type=_seed, default=0, help="same seed, same result (default 0)")
    training.add_argument(
        "--validation-split", type=_fraction, default=0.0, metavar="F", help="share of the training rows to watch"
    )
    training.add_argument(
        "--test-split", type=_fraction, default=0.2, metavar="F", help="share of the rows held out (default 0.2)"
    )
    training.add_argument("--quiet", action="store_true", help="no summary and no progress")
    training.add_argument("--save", metavar="MODEL", help="where to save the trained model")
    _add_machine_options(train)

    predict = subcommands.add_parser(
        "predict", help="apply a saved model to a CSV file", epilog=PREDICT_EXAMPLES, formatter_class=raw
    )
    predict.set_defaults(run=commands.predict)
    predict.add_argument("model", metavar="MODEL", help="a file written by train --save or Model.save")
    predict.add_argument("data", metavar="digits|FILE.csv")
    _add_data_options(predict)
    predict.add_argument("--output", metavar="FILE", help="where to write the predictions as CSV (default: print them)")
    predict.add_argument("--probabilities", action="store_true", help="add a column for each class")
    _add_machine_options(predict)

    summary = subcommands.add_parser("summary", help="print a saved model's layers and parameters")
    summary.set_defaults(run=commands.summary)
    summary.add_argument("model", metavar="MODEL")

    info = subcommands.add_parser("info", help="print backend, instruction sets, threads and why")
    info.set_defaults(run=commands.info)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delimiter", type=_delimiter, metavar="C", help="of the file (default: found in its header)")


def _add_machine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the machine")
    group.add_argument("--threads", type=_count, help="(default: see info)")
    group.add_argument("--backend", choices=["auto", "native", "numpy"], default="auto")


# -- arguments -----------------------------------------------------------------------------------------------------


def _usage(expected: str, text: str) -> NoReturn:
    raise argparse.ArgumentTypeError(f"expected {expected}; received {text!r}")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**31):
        _usage("a whole number greater than 0", text)
    return int(text)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**64):
        _usage("a whole number from 0", text)
    return int(text)


def _sizes(text: str) -> list[int]:
    if text.strip() == "0":
        return []
    try:
        return [_count(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError:
        _usage("unit counts such as 64,64, or 0 for no hidden layer", text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        _usage("a number", text)


def _fraction(text: str) -> float:
    value = _number(text)
    if not 0 <= value < 1:
        _usage("a number from 0 up to, not including, 1", text)
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        _usage("a number greater than 0", text)
    return value


def _delimiter(text: str) -> str:
    text = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(text) != 1 or text in '"\r\n':
        _usage("one character, or tab", text)
    return text

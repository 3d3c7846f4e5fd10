"""This package against everybody else: training steps, prediction, and how both grow, side by side in one run.

    python benchmarks/compare.py --quick                            # about six minutes on two CPUs
    python benchmarks/compare.py                                    # everything, below half an hour
    python benchmarks/compare.py --threads 1 --workloads A B --contestants numpy torch jax --no-extras
    python benchmarks/compare.py --cpus 4 5                         # where CPUs 0 and 1 are busy
    python benchmarks/compare.py --from .benchmarks/compare/compare.json --write docs/performance.md

Whoever is installed takes part: NumPy by hand, scikit-learn, PyTorch (eager, compile, both in bfloat16 too), JAX,
Keras, ONNX Runtime and mlpfile; `pip install fastperceptron[compare]` brings them. Each runs in a process of its own,
all with the same thread count, in turns. A contestant that does not compute the same step is shown and not ranked.

Raw numbers (JSON), tables (Markdown) and plots (SVG, with matplotlib) go to the folder of --output. Ctrl-C ends a run
early: what was measured until then is written. The exit status is 0 after a whole run, 130 after Ctrl-C, 2 when
nothing could be compared.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from comparison import Comparison, say
from contestants import CONTESTANTS
from interleave import ContestantError
from machine import PREFERRED_CPUS, allowed_cpus, usable_cpus
from others import OTHERS
from report import between_markers, pictures, tables, write_between_markers
from standings import ALONG
from wanted import ROWS
from workloads import WORKLOADS

__all__ = ["main"]

#: Everybody is compared with this one's costs.
_REFERENCE = "numpy"
_OURS = "native"


#: Who may be named, the reference first.
_EVERYBODY = [*(name for name in CONTESTANTS if name not in ALONG), *OTHERS]


def unavailable() -> dict[str, str]:
    """Contestants that cannot run here, and why."""
    found = {} if _takes_bfloat16() else {"native-bf16": "this version has no mixed_bfloat16"}
    for name, other in OTHERS.items():
        if not all(importlib.util.find_spec(package) for package in other.needs):
            found[name] = "not installed"
    return found


def _takes_bfloat16() -> bool:
    """Whether this version of the package can build such a model."""
    import fastperceptron as fp

    try:
        fp.Sequential([fp.Dense(2)], dtype="mixed_bfloat16").build(2)
    except Exception:  # whatever it says, it cannot
        return False
    return True


def _page(path: str) -> Path:
    """A page that can be written into. A long run must not end with finding that it cannot."""
    try:
        between_markers(Path(path))
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(path)


def _earlier_run(path: str) -> dict[str, Any]:
    """A result of which tables can be made."""
    try:
        result: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        tables(result)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise argparse.ArgumentTypeError(f"{path}: expected the compare.json of a run ({reason})") from None
    return result


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    cpus = usable_cpus()
    parser = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short form: fewer rounds, no torch.compile, nobody else's growth",
    )
    parser.add_argument("--threads", type=int, default=min(2, cpus), help="of every contestant (default: 2)")
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu: the process's time on a CPU, for one thread on a busy machine (default: wall)",
    )
    parser.add_argument(
        "--cpus",
        type=int,
        nargs="+",
        metavar="CPU",
        help="on which contestants run first, the quiet ones of a busy machine (default: one of each core)",
    )
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS), metavar="NAME")
    parser.add_argument(
        "--contestants",
        nargs="+",
        choices=_EVERYBODY,
        metavar="NAME",
        help="default: all that are installed; NumPy by hand and this package always take part",
    )
    parser.add_argument("--seconds", type=float, help="for each contestant and workload (default: 2; quick: 0.5)")
    parser.add_argument("--rounds", type=int, help="slices that the seconds are cut into (default: 7; quick: 4)")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, *ROWS], help="of predictions (default: 1 1024 4096)")
    parser.add_argument(
        "--extras",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="threads, AVX2, import, memory, time to a result, and --sweep",
    )
    parser.add_argument(
        "--sweep",
        action=argparse.BooleanOptionalAction,
        help="growth with width, batch and depth (default: as --extras)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path(".benchmarks/compare"), help="folder (default: %(default)s)"
    )
    parser.add_argument("--write", type=_page, metavar="PAGE", help="replace the generated part of a Markdown page")
    parser.add_argument(
        "--from", dest="earlier", type=_earlier_run, metavar="JSON", help="report on an earlier run's compare.json"
    )
    options = parser.parse_args(given)
    if options.clock == "cpu" and options.threads != 1:
        parser.error(f"--clock cpu: expected --threads 1; received {options.threads}")
    if not 1 <= options.threads <= cpus:
        parser.error(f"--threads: expected 1 to {cpus}, the CPUs of this machine; received {options.threads}")
    if options.cpus:
        strange = [cpu for cpu in options.cpus if cpu not in allowed_cpus()]
        if strange:
            parser.error(f"--cpus: expected CPUs that this process may use; received {strange[0]}")
    options.seconds = options.seconds if options.seconds is not None else 0.5 if options.quick else 2.0
    options.rounds = options.rounds if options.rounds is not None else 4 if options.quick else 7
    options.sweep = options.extras if options.sweep is None else options.sweep
    if options.seconds <= 0 or options.rounds < 1 or min(options.rows) < 1:
        parser.error("--seconds, --rounds and --rows: expected positive numbers")
    return options


def _choose(options: argparse.Namespace) -> None:
    """Fills in who takes part (NumPy by hand and this package always), who is absent and why, and where they run."""
    if options.cpus:
        os.environ[PREFERRED_CPUS] = " ".join(map(str, options.cpus))
    options.absent = unavailable()
    if missing := [name for name in options.contestants or () if name in options.absent]:
        raise ContestantError("; ".join(f"{name}: {options.absent[name]}" for name in missing))
    for name in _EVERYBODY:
        if options.contestants is None:
            if options.quick and name in OTHERS and OTHERS[name].compiles:
                options.absent.setdefault(name, "not in the short form")
        elif name not in (*options.contestants, _REFERENCE, _OURS):
            options.absent.setdefault(name, "not chosen")
    options.contestants = [name for name in _EVERYBODY if name not in options.absent]


@contextmanager
def _measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The result, of an earlier run or of one now; what Ctrl-C leaves of it too."""
    if options.earlier is not None:
        yield options.earlier
        return
    _choose(options)
    comparison = Comparison(options)
    say(f"contestants: {', '.join(options.contestants)}; {options.threads} thread(s) each")
    try:
        comparison.start()
        comparison.run()
    except KeyboardInterrupt:
        comparison.result["interrupted"] = True
        say("interrupted: what was measured so far is written")
    finally:
        comparison.close()
        comparison.write()
    yield json.loads(json.dumps(comparison.result))


def _draw(result: dict[str, Any], folder: Path) -> list[Path]:
    if importlib.util.find_spec("matplotlib") is None:
        say("no plots: matplotlib is not installed")
        return []
    from plots import draw

    return draw(result, folder)


def main(given: Sequence[str] | None = None) -> int:
    options = arguments(given)
    try:
        with _measured(options) as result:
            options.output.mkdir(parents=True, exist_ok=True)
            text = tables(result)
            (options.output / "compare.md").write_text(text, encoding="utf-8")
            _draw(result, options.output)
            if options.write is not None:
                # The page's pictures lie in a folder of its name.
                folder = options.write.with_suffix("")
                drawn = _draw(result, folder)
                write_between_markers(options.write, text + pictures(drawn, options.write.parent))
            print(text)
            say(f"written to {options.output}/")
    except ContestantError as error:
        say(f"compare: {error}")
        return 2
    return 130 if result.get("interrupted") else 0


if __name__ == "__main__":
    sys.exit(main())

"""The figures that are wanted, each beside what a comparison reached."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any, NamedTuple

from standings import LABELS, Result, best_other, cliffs, fewer_threads, peak_of, ranked, ratio

__all__ = ["LARGEST_CLIFF", "Wanted", "wanted"]

FASTER = {"A": 6.0, "A2": 5.0, "B": 4.5, "C": 1.65, "D": 1.2}
SHARE = {"A": 0.50, "A2": 0.55, "B": 0.65, "C": 0.82, "D": 0.86}
FASTER_BFLOAT16 = {"A": (6.0, None), "A2": (5.0, None), "B": (4.5, None), "C": (2.5, 3.0), "D": (2.5, 3.5)}
FIT_ADDS = {"A": 0.30, "B": 0.03}
LARGEST_CLIFF = 1.3
_AMX = "bfloat16 amx"
_UNKNOWN = "not measured"


class Wanted(NamedTuple):
    """A line of the table. reached is None where it does not apply or was not measured, and note says why."""

    what: str
    wanted: str
    reached: str | None
    held: bool | None
    note: str = ""


def wanted(result: Result) -> list[Wanted]:
    """Every figure that is wanted, beside what was reached."""
    lines: list[Wanted] = []
    lines += _training(result)
    lines += _bfloat16(result)
    lines += _prediction(result)
    lines += _fit(result)
    lines += _growth(result)
    lines += _footprint(result)
    lines += _time_to_result(result)
    return lines


def _compare(what: str, contestants: dict[str, Any], ours: str, least: float, other: str | None, more: str) -> Wanted:
    """A ratio of times that should be at least so large."""
    text = f"{least:g} x{more}"
    mine = contestants.get(ours)
    if mine is None or "rounds" not in mine or other is None:
        return Wanted(what, text, None, None, f"{_UNKNOWN}: nobody to compare with" if mine else _UNKNOWN)
    if mine["reason"]:
        return Wanted(what, text, None, None, f"does not compute the same: {mine['reason']}")
    reached = ratio(contestants[other], mine)
    return Wanted(what, text, f"{reached:.2f} x", reached >= least, f"best other: {LABELS[other]}")


def _would_take(result: Result, found: dict[str, Any], other: str | None, least: float, dtype: str) -> str:
    """What share of the peak a step has to reach to be so many times faster, which may be more than there is."""
    limits = result["limits"].get(str(result["threads"]))
    if other is None or not limits or not limits.get(dtype):
        return ""
    needed = found["flop"] * least / median(found["contestants"][other]["rounds"])
    return f"; {least:g} x would take {needed / limits[dtype]:.0%} of the peak of all threads"


def _training(result: Result) -> Iterator[Wanted]:
    for name, least in FASTER.items():
        what = f"{name}, float32 step: times faster than the best other"
        found = result["training"].get(name)
        if found is None:
            yield Wanted(what, f"{least:g} x", None, None, _UNKNOWN)
            continue
        other = best_other(found["contestants"], False)
        line = _compare(what, found["contestants"], "native", least, other, "")
        yield line._replace(note=line.note + _would_take(result, found, other, least, "float32"))
    for name, least in SHARE.items():
        what = f"{name}, float32 step: share of the FMA peak of the cores used"
        found = result["training"].get(name, {})
        entry = found.get("contestants", {}).get("native", {})
        if "rounds" not in entry or (peak := peak_of(result, entry)) is None:
            yield Wanted(what, f"{least:.0%}", None, None, _UNKNOWN)
            continue
        share = found["flop"] / median(entry["rounds"]) / peak
        yield Wanted(what, f"{least:.0%}", f"{share:.0%}", share >= least, fewer_threads(result, entry))
    what, found = "D, float32 step with AVX2 forced: share of the AVX2 peak", result.get("avx2")
    if found is None:
        yield Wanted(what, "80%", None, None, _UNKNOWN)
    else:
        share = found["flop"] / median(found["rounds"]) / found["peak"]
        yield Wanted(what, "80%", f"{share:.0%}", share >= 0.8)


def _bfloat16(result: Result) -> Iterator[Wanted]:
    for name, (least, stretch) in FASTER_BFLOAT16.items():
        what = f"{name}, mixed_bfloat16 step on AMX: times faster than the best other at any precision"
        more = f" (stretch {stretch:g} x)" if stretch else ""
        found = result["training"].get(name)
        if found is None:
            yield Wanted(what, f"{least:g} x{more}", None, None, _UNKNOWN)
            continue
        contestants = found["contestants"]
        other = best_other(contestants, None)
        line = _compare(what, contestants, "native-bf16", least, other, more)
        if "native-bf16" not in contestants:
            line = line._replace(note=result.get("absent", {}).get("native-bf16", _UNKNOWN))
        line = line._replace(
            note=line.note + _would_take(result, found, best_other(contestants, None), least, "bfloat16")
        )
        if line.reached and (path := contestants["native-bf16"].get("path")) != _AMX:
            line = line._replace(held=None, note=f"not applicable: not by AMX, but by {path}; {line.note}")
        yield line


def _prediction(result: Result) -> Iterator[Wanted]:
    one = result["prediction"].get("A", {}).get("1", {})
    for other, least in (("mlpfile", 2.5), ("onnxruntime", 10.0)):
        there = other if other in dict(ranked(one)) else None
        yield _compare(f"one row through A: times faster than {LABELS[other]}", one, "native", least, there, "")
    for name in FASTER:
        for rows, contestants in result["prediction"].get(name, {}).items():
            if int(rows) < 1024:
                continue
            fast = {n: e for n, e in contestants.items() if n in ("native", "onnxruntime", "torch", "torch-compile")}
            what = f"{name}, predicting {rows} rows: ahead of ONNX Runtime and PyTorch"
            yield _compare(what, fast, "native", 1.0, best_other(fast, False), "")


def _fit(result: Result) -> Iterator[Wanted]:
    for name, most in FIT_ADDS.items():
        what = f"{name}: `fit` with accuracy and progress bar adds to its steps"
        contestants = result["training"].get(name, {}).get("contestants", {})
        if not {"native", "fit"} <= set(dict(ranked(contestants))):
            yield Wanted(what, f"at most {most:.0%}", None, None, _UNKNOWN)
            continue
        adds = ratio(contestants["fit"], contestants["native"]) - 1
        yield Wanted(what, f"at most {most:.0%}", f"{adds:+.0%}", adds <= most)


def _growth(result: Result) -> Iterator[Wanted]:
    what, scaling = "D at 16 threads: times faster than at one", result.get("scaling", {})
    found = scaling.get("workloads", {}).get("D")
    if found is None or 16 not in scaling["threads"]:
        note = _UNKNOWN if found is None else f"not applicable: {result['machine']['cpus']} CPUs"
        yield Wanted(what, "10 x", None, None, note)
    else:
        at = scaling["threads"].index(16)
        reached = median(a / b for a, b in zip(found["rounds"][0], found["rounds"][at], strict=True))
        yield Wanted(what, "10 x", f"{reached:.1f} x", reached >= 10)
    for size in ("width", "batch", "depth"):
        what = f"growth with {size}: largest cliff between neighbouring sizes"
        points = result.get("sweep", {}).get(size)
        if not points:
            yield Wanted(what, f"at most {LARGEST_CLIFF:g} x", None, None, _UNKNOWN)
            continue
        worst, at = max((value, i) for i, value in enumerate(cliffs(points)))
        note = f"from {points[at]['size']} to {points[at + 1]['size']}"
        yield Wanted(what, f"at most {LARGEST_CLIFF:g} x", f"{worst:.2f} x", worst <= LARGEST_CLIFF, note)


def _footprint(result: Result) -> Iterator[Wanted]:
    found = result.get("footprint", {})
    for what, key, limit, scale, unit in (
        ("import, beyond NumPy's", "import_seconds", 30.0, 1e3, "ms"),
        ("wheel", "wheel_bytes", 1.5, 1 / 2**20, "MB"),
    ):
        text = f"at most {limit:g} {unit}"
        if key not in found:
            yield Wanted(what, text, None, None, _UNKNOWN)
        else:
            value = found[key] * scale
            yield Wanted(what, text, f"{value:.2f} {unit}", value <= limit)
    memory = found.get("memory_d")
    if memory is None:
        yield Wanted("memory while training D", "parameters x 4, activations and 16 MB", None, None, _UNKNOWN)
    else:
        grown, allowed = (memory[key] / 2**20 for key in ("grown", "allowed"))
        yield Wanted("memory while training D", f"at most {allowed:.1f} MB", f"{grown:.1f} MB", grown <= allowed)


def _time_to_result(result: Result) -> Iterator[Wanted]:
    for data in ("digits", "mnist"):
        found = result.get("time_to_result", {}).get(data)
        faster, same = f"{data}: times faster to a result than MLPClassifier", f"{data}: held-out accuracy, same"
        if found is None:
            yield Wanted(faster, "8 x", None, None, _UNKNOWN)
            continue
        yield Wanted(faster, "8 x", f"{found['ratio']:.1f} x", found["ratio"] >= 8)
        (ours, spread), (theirs, other_spread) = found["accuracy"]["native"], found["accuracy"]["sklearn"]
        yield Wanted(
            same,
            f"{theirs:.2%} ± {other_spread:.2%}",
            f"{ours:.2%} ± {spread:.2%}",
            ours >= theirs - max(spread, other_spread),
            f"mean and standard deviation over {found['seeds']} seeds",
        )

"""The figures that are wanted, each beside what a comparison reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from statistics import median
from typing import Any, NamedTuple

from standings import (
    BY_MEDIANS,
    LABELS,
    Ratio,
    Result,
    best_other,
    cliffs,
    fewer_threads,
    peak_of,
    ranked,
    ratio,
    ratio_to_result,
)

__all__ = ["LARGEST_CLIFF", "Wanted", "wanted"]

FASTER = {"A": 6.0, "A2": 5.0, "B": 4.5, "C": 1.65, "D": 1.2}
SHARE = {"A": 0.50, "A2": 0.55, "B": 0.65, "C": 0.82, "D": 0.86}
SHARE_AVX2 = 0.80
FASTER_BFLOAT16 = {"A": (6.0, None), "A2": (5.0, None), "B": (4.5, None), "C": (2.5, 3.0), "D": (2.5, 3.5)}
FASTER_ONE_ROW = {"mlpfile": 2.5, "onnxruntime": 10.0}
FASTER_ROWS = 1.0
ROWS = (1024, 4096)
FIT_ADDS = {"A": 0.30, "B": 0.03}
FASTER_16_THREADS = 10.0
LARGEST_CLIFF = 1.3
FASTER_TO_RESULT = 8.0
#: fit makes the same steps: what comes out below this is the machine's doing.
_FIT_NOISE = -0.05
#: What fit adds is small beside its steps: statistics of both that differ by less than elsewhere are said.
_FIT_APART = 0.03
_AMX = "bfloat16 amx"
_UNKNOWN = "not measured"

#: Nothing is decided about a ratio unless one of each group took part; who of a group did not is said.
_TRAINERS = (("torch", "torch-compile"), ("jax",))
_BFLOAT16_TRAINERS = (("torch-bf16", "torch-bf16-compile"), ("jax",))
_PREDICTORS = (("onnxruntime",), ("torch", "torch-compile"))


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


def _compare(
    result: Result,
    what: str,
    contestants: dict[str, Any],
    least: float,
    other: str | None,
    rivals: Sequence[Sequence[str]],
    ours: str = "native",
    more: str = "",
) -> Wanted:
    """A ratio of times that should be at least so large. No verdict unless one of each group of rivals is ranked."""
    text, there = f"{least:g} x{more}", dict(ranked(contestants))
    if ours not in there:
        return Wanted(what, text, None, None, _why_not(result, contestants, ours))
    absent = [group[0] for group in rivals if not there.keys() & set(group)]
    missing = ", ".join(f"{LABELS[name]} ({_why_not(result, contestants, name)})" for name in absent)
    if other is None:
        return Wanted(what, text, None, None, f"missing: {missing}")
    line = _by_both(what, text, ratio(there[other], there[ours]), least)
    without = [LABELS[name] for group in rivals if there.keys() & set(group) for name in group if name not in there]
    notes = (
        f"missing: {missing}" if missing else "",
        f"best other: {LABELS[other]}",
        line.note,
        f"without {' and '.join(without)}" if without else "",
    )
    return line._replace(held=None if missing else line.held, note="; ".join(filter(None, notes)))


def _by_both(what: str, text: str, found: Ratio, least: float, digits: int = 2) -> Wanted:
    """A ratio that is held when both statistics hold it. Where they are apart the second one is said too."""
    within, medians = (f"{value:.{digits}f} x" for value in found)
    note = f"{BY_MEDIANS} {medians}" if found.apart(least) else ""
    return Wanted(what, text, within, min(found) >= least, note)


def _why_not(result: Result, contestants: dict[str, Any], name: str) -> str:
    """Why somebody is not ranked."""
    if contestants.get(name, {}).get("reason"):
        return "does not compute the same"
    return str(result.get("absent", {}).get(name, _UNKNOWN))


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
        found = result["training"].get(name, {"contestants": {}})
        other = best_other(found["contestants"], False)
        line = _compare(result, what, found["contestants"], least, other, _TRAINERS)
        yield line._replace(note=line.note + _would_take(result, found, other, least, "float32"))
    for name, least in SHARE.items():
        what = f"{name}, float32 step: share of the FMA peak of the cores used"
        found = result["training"].get(name, {"contestants": {}})
        entry = dict(ranked(found["contestants"])).get("native")
        if entry is None or (peak := peak_of(result, entry)) is None:
            yield Wanted(what, f"{least:.0%}", None, None, _UNKNOWN)
            continue
        share = found["flop"] / median(entry["rounds"]) / peak
        yield _share(what, least, share, fewer_threads(result, entry))
    what, text = "D, float32 step with AVX2 forced: share of the AVX2 peak", f"{SHARE_AVX2:.0%}"
    if "avx2" not in result:
        yield Wanted(what, text, None, None, _UNKNOWN)
    else:
        found = result["avx2"]
        share = found["flop"] / median(found["rounds"]) / found["peak"]
        yield _share(what, SHARE_AVX2, share)


def _share(what: str, least: float, share: float, note: str = "") -> Wanted:
    """A share of a peak that was measured beside it, at another moment. More than all of it decides nothing."""
    held = None if share > 1 else share >= least
    noise = "noise: more than the peak that was measured" if held is None else ""
    return Wanted(what, f"{least:.0%}", f"{share:.0%}", held, "; ".join(filter(None, (noise, note))))


def _bfloat16(result: Result) -> Iterator[Wanted]:
    for name, (least, stretch) in FASTER_BFLOAT16.items():
        what = f"{name}, mixed_bfloat16 step on AMX: times faster than the best other at any precision"
        more = f" (stretch {stretch:g} x)" if stretch else ""
        found = result["training"].get(name, {"contestants": {}})
        contestants = found["contestants"]
        other = best_other(contestants, None)
        line = _compare(result, what, contestants, least, other, _BFLOAT16_TRAINERS, "native-bf16", more)
        line = line._replace(note=line.note + _would_take(result, found, other, least, "bfloat16"))
        if line.reached and (path := contestants["native-bf16"].get("path")) != _AMX:
            note = f"not applicable: not by AMX, but by {path}" if path else "what computed it was not noted"
            line = line._replace(held=None, note=f"{note}; {line.note}")
        yield line


def _prediction(result: Result) -> Iterator[Wanted]:
    one = result["prediction"].get("A", {}).get("1", {})
    for other, least in FASTER_ONE_ROW.items():
        pair = {who: entry for who, entry in one.items() if who in ("native", other)}
        what = f"one row through A: times faster than {LABELS[other]}"
        yield _compare(result, what, pair, least, best_other(pair, False), ((other,),))
    those = {"native", *chain(*_PREDICTORS)}
    for name in FASTER:
        for rows in ROWS:
            found = result["prediction"].get(name, {}).get(str(rows), {})
            fast = {who: entry for who, entry in found.items() if who in those}
            what = f"{name}, predicting {rows} rows: ahead of ONNX Runtime and PyTorch"
            yield _compare(result, what, fast, FASTER_ROWS, best_other(fast, False), _PREDICTORS)


def _fit(result: Result) -> Iterator[Wanted]:
    for name, most in FIT_ADDS.items():
        what = f"{name}: `fit` with accuracy and progress bar adds to its steps"
        contestants = result["training"].get(name, {}).get("contestants", {})
        if not {"native", "fit"} <= set(dict(ranked(contestants))):
            yield Wanted(what, f"at most {most:.0%}", None, None, _UNKNOWN)
            continue
        times = ratio(contestants["fit"], contestants["native"])
        within, medians = (value - 1 for value in times)
        notes = [f"{BY_MEDIANS} {medians:+.0%}"] if times.apart(1 + most, _FIT_APART) else []
        held: bool | None = max(within, medians) <= most
        if min(within, medians) < _FIT_NOISE:
            held = None
            notes.insert(0, "noise: fit was measured quicker than its own steps")
        yield Wanted(what, f"at most {most:.0%}", f"{within:+.0%}", held, "; ".join(notes))


def _growth(result: Result) -> Iterator[Wanted]:
    what, scaling = "D at 16 threads: times faster than at one", result.get("scaling", {})
    found = scaling.get("workloads", {}).get("D")
    text = f"{FASTER_16_THREADS:g} x"
    if found is None or 16 not in scaling["threads"]:
        note = _UNKNOWN if found is None else f"not applicable: {result['machine']['cpus']} CPUs"
        yield Wanted(what, text, None, None, note)
    else:
        one, sixteen = ({"rounds": found["rounds"][at]} for at in (0, scaling["threads"].index(16)))
        yield _by_both(what, text, ratio(one, sixteen), FASTER_16_THREADS, 1)
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
        ("wheel", "wheel_bytes", 1.5, 1e-6, "MB"),
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
        faster, text = f"{data}: times faster to a result than MLPClassifier", f"{FASTER_TO_RESULT:g} x"
        same = f"{data}: held-out accuracy, same"
        if found is None:
            yield Wanted(faster, text, None, None, _UNKNOWN)
            yield Wanted(same, "that of MLPClassifier", None, None, _UNKNOWN)
            continue
        yield _by_both(faster, text, ratio_to_result(found), FASTER_TO_RESULT, 1)
        (ours, spread), (theirs, other_spread) = found["accuracy"]["native"], found["accuracy"]["sklearn"]
        yield Wanted(
            same,
            f"{theirs:.2%} ± {other_spread:.2%}",
            f"{ours:.2%} ± {spread:.2%}",
            ours >= theirs - other_spread,
            f"mean and standard deviation over {found['seeds']} seeds",
        )

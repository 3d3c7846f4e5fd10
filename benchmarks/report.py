"""The tables of a comparison, in Markdown: what was wanted and what was reached, and everybody's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

__all__ = ["best_other", "cliffs", "pictures", "ratio", "tables", "wanted", "write_between_markers"]

Result = dict[str, Any]

OURS = ("native", "native-bf16", "fit")
LABELS = {
    "native": "**fastperceptron**",
    "native-bf16": "**fastperceptron, mixed_bfloat16**",
    "fit": "**fastperceptron, `fit`**",
    "numpy": "NumPy by hand",
    "sklearn": "scikit-learn",
    "torch": "PyTorch",
    "torch-compile": "PyTorch, compile",
    "torch-bf16": "PyTorch, bfloat16",
    "torch-bf16-compile": "PyTorch, bfloat16, compile",
    "jax": "JAX",
    "keras": "Keras",
    "onnxruntime": "ONNX Runtime",
    "mlpfile": "mlpfile",
}

FASTER = {"A": 6.0, "A2": 5.0, "B": 4.5, "C": 1.65, "D": 1.2}
SHARE = {"A": 0.50, "A2": 0.55, "B": 0.65, "C": 0.82, "D": 0.86}
FASTER_BFLOAT16 = {"A": (6.0, None), "A2": (5.0, None), "B": (4.5, None), "C": (2.5, 3.0), "D": (2.5, 3.5)}
FIT_ADDS = {"A": 0.30, "B": 0.03}
LARGEST_CLIFF = 1.3
_BEGIN, _END = "<!-- compare: begin -->", "<!-- compare: end -->"
_UNKNOWN = "not measured"


class Wanted(NamedTuple):
    """A line of the table. reached is None where it does not apply or was not measured, and note says why."""

    what: str
    wanted: str
    reached: str | None
    held: bool | None
    note: str = ""


# -- what the numbers say -------------------------------------------------------------------------------------------


def ratio(entry: dict[str, Any], base: dict[str, Any]) -> float:
    """How many times longer a contestant takes: the median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(entry["rounds"], base["rounds"], strict=True))


def _ranked(contestants: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those who were timed and compute what they should."""
    for name, entry in contestants.items():
        if entry["reason"] is None and "rounds" in entry:
            yield name, entry


def best_other(contestants: dict[str, Any], bfloat16: bool | None) -> str | None:
    """Of the others that compute the same, the one with the fastest median; of one precision, or (None) of any."""
    others = [
        (median(entry["rounds"]), name)
        for name, entry in _ranked(contestants)
        if name not in OURS and bfloat16 in (None, entry["bfloat16"])
    ]
    return min(others)[1] if others else None


def cliffs(points: Sequence[dict[str, Any]], name: str = "native") -> list[float]:
    """Between neighbouring sizes: by how much the time grows beyond the growth of the arithmetic (below 1: less).

    Of the fastest rounds: a slow moment of the machine at one size is no cliff.
    """
    cost = [min(point["rounds"][name]) / point["flop"] for point in points]
    return [b / a for a, b in pairwise(cost)]


def _peak(result: Result, entry: dict[str, Any]) -> float | None:
    """Of as many threads as the contestant's step runs on, or of all where it does not say."""
    limits = result["limits"].get(str(entry.get("threads", result["threads"])))
    return limits["bfloat16" if entry["bfloat16"] else "float32"] or None if limits else None


def _fewer(result: Result, entry: dict[str, Any]) -> str:
    """Whether the step runs on fewer threads than it may."""
    used = entry.get("threads", result["threads"])
    return "" if used == result["threads"] else f"{used} thread{'s' * (used != 1)} used"


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
        if "rounds" not in entry or (peak := _peak(result, entry)) is None:
            yield Wanted(what, f"{least:.0%}", None, None, _UNKNOWN)
            continue
        share = found["flop"] / median(entry["rounds"]) / peak
        yield Wanted(what, f"{least:.0%}", f"{share:.0%}", share >= least, _fewer(result, entry))
    what, found = "D, float32 step with AVX2 forced: share of the AVX2 peak", result.get("avx2")
    if found is None:
        yield Wanted(what, "80%", None, None, _UNKNOWN)
    else:
        share = found["flop"] / median(found["rounds"]) / found["peak"]
        yield Wanted(what, "80%", f"{share:.0%}", share >= 0.8)


def _bfloat16(result: Result) -> Iterator[Wanted]:
    has_amx = any(flag.startswith("amx") for flag in result["machine"]["flags"])
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
            line = line._replace(note="this version has no mixed_bfloat16")
        line = line._replace(
            note=line.note + _would_take(result, found, best_other(contestants, None), least, "bfloat16")
        )
        if not has_amx:
            note = "not applicable: this processor has no AMX"
            line = line._replace(held=None, note=f"{note}; {line.note}")
        yield line


def _prediction(result: Result) -> Iterator[Wanted]:
    one = result["prediction"].get("A", {}).get("1", {})
    for other, least in (("mlpfile", 2.5), ("onnxruntime", 10.0)):
        there = other if other in dict(_ranked(one)) else None
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
        if not {"native", "fit"} <= set(dict(_ranked(contestants))):
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


# -- Markdown -------------------------------------------------------------------------------------------------------


def tables(result: Result) -> str:
    """All of it, as a part of a page."""
    parts = [_introduction(result), "### Wanted and reached", _wanted_table(result)]
    if result["training"]:
        parts += ["### Training steps", _summary(result), *_training_tables(result)]
    if result["prediction"]:
        parts += ["### Prediction", *_prediction_tables(result)]
    if scaling := result.get("scaling"):
        parts += ["### Threads", _scaling_table(scaling)]
    if sweep := result.get("sweep"):
        parts += ["### Growth", *(_sweep_table(what, points) for what, points in sweep.items())]
    if found := result.get("time_to_result"):
        parts += ["### Time to a result", _result_table(found)]
    if result["training"] or result["prediction"]:
        parts += ["### Where others win", _where_others_win(result)]
    if result["failed"]:
        parts += ["### Left out", "\n".join(f"- {who}: {_line(why)}" for who, why in result["failed"].items())]
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    marks = [":--" if i < left else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def _introduction(result: Result) -> str:
    machine, threads = result["machine"], result["threads"]
    how = "short" if result["quick"] else "full"
    clock = (
        "" if result["clock"] == "wall" else " Times are those of each process on a CPU, since the machine was busy."
    )
    lines = [
        f"Measured on {result['date']}, {how} form, {threads} thread{'s' * (threads != 1)} for everyone.{clock}",
        f"{machine['processor']}, {machine['cpus']} CPUs, load {machine['load']} at the start; {machine['system']}, "
        f"Python {machine['python']}. Vectors: {', '.join(machine['flags']) or 'unknown'}. "
        f"Caches: {', '.join(f'{k} {v}' for k, v in machine['caches'].items()) or 'unknown'}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
    ]
    if result.get("interrupted"):
        lines.append("**The run was interrupted: what is missing was not measured.**")
    limits = [
        [
            count,
            *(f"{found[dtype] / 1e9:,.0f}" if found[dtype] else "none" for dtype in ("float32", "float64", "bfloat16")),
            *(f"{found[f'memory {way}'] / 1e9:.1f}" for way in ("read", "update")),
        ]
        for count, found in result["limits"].items()
    ]
    head = ("threads", "float32 GFLOP/s", "float64 GFLOP/s", "bfloat16 GFLOP/s", "memory read GB/s", "update GB/s")
    if limits:
        lines.append("Limits of the machine, measured in the same run:\n\n" + _table(head, limits, left=0))
    return "\n\n".join(lines)


def _wanted_table(result: Result) -> str:
    verdict = {True: "yes", False: "**no**", None: "-"}
    rows = [[line.what, line.wanted, line.reached or "-", verdict[line.held], line.note] for line in wanted(result)]
    return _table(("what", "wanted", "reached", "held", "note"), rows, left=5)


def _summary(result: Result) -> str:
    """Everybody's microseconds, a column for each workload."""
    names = list(dict.fromkeys(name for found in result["training"].values() for name in found["contestants"]))
    rows = []
    for name in names:
        cells = []
        for found in result["training"].values():
            entry = found["contestants"].get(name)
            text = f"{median(entry['rounds']) * 1e6:,.0f}" if entry and "rounds" in entry else "-"
            cells.append(f"({text})" if entry and entry["reason"] else text)
        rows.append([LABELS[name], *cells])
    return "Median microseconds per step; in brackets who does not compute the same step.\n\n" + _table(
        ("", *result["training"]), rows
    )


def _training_tables(result: Result) -> Iterator[str]:
    for name, found in result["training"].items():
        contestants = found["contestants"]
        base = contestants.get("native")
        rows = []
        for who, entry in sorted(contestants.items(), key=lambda item: median(item[1]["rounds"])):
            time = median(entry["rounds"])
            rate = found["flop"] / time
            peak, fewer = _peak(result, entry), _fewer(result, entry)
            share = f"{rate / peak:.0%}" if peak else "-"
            times = f"{ratio(entry, base):.2f}" if base else "-"
            agreement = (entry["reason"] or "same step") + (f"; {fewer}" if fewer else "")
            rows.append([LABELS[who], f"{time * 1e6:,.1f}", times, f"{rate / 1e9:.1f}", share, agreement])
        layers = "-".join(map(str, found["widths"]))
        head = ("", "µs", "times ours", "GFLOP/s", "share of peak", "agreement")
        yield f"**{name}**: {layers}, batch {found['batch']}, {found['flop'] / 1e6:,.2f} MFLOP\n\n" + _table(head, rows)


def _prediction_tables(result: Result) -> Iterator[str]:
    counts = list(dict.fromkeys(rows for found in result["prediction"].values() for rows in found))
    for count in counts:
        columns = {name: found[count] for name, found in result["prediction"].items() if count in found}
        names = list(dict.fromkeys(who for contestants in columns.values() for who in contestants))
        rows = []
        for who in names:
            cells = []
            for contestants in columns.values():
                entry, base = contestants.get(who), contestants.get("native")
                if entry is None or "rounds" not in entry:
                    cells.append("-")
                    continue
                text = f"{median(entry['rounds']) * 1e6:,.1f}"
                text += f" ({ratio(entry, base):.2f})" if base else ""
                cells.append(f"{text}, differs" if entry["reason"] else text)
            rows.append([LABELS[who], *cells])
        what = "One row" if count == "1" else f"{int(count):,} rows"
        yield f"{what}: microseconds a call, and in brackets times ours\n\n" + _table(("", *columns), rows)


def _where_others_win(result: Result) -> str:
    """Everybody who takes less time than this package does in the same precision, or in float32."""
    races = [(f"{name}, training", found["contestants"]) for name, found in result["training"].items()]
    for name, counts in result["prediction"].items():
        for count, contestants in counts.items():
            races.append((f"{name}, predicting {int(count):,} row{'s' * (count != '1')}", contestants))
    lines = []
    for what, contestants in races:
        ranked = dict(_ranked(contestants))
        winners = []
        for who, entry in ranked.items():
            own = "native-bf16" if entry["bfloat16"] and "native-bf16" in ranked else "native"
            if who in OURS or own not in ranked:
                continue
            if (share := ratio(entry, ranked[own])) < 1:
                winners.append((share, f"{LABELS[who]} takes {share:.2f} of our time"))
        if winners:
            lines.append(f"- {what}: {', '.join(text for _, text in sorted(winners))}")
    if not lines:
        return "Nowhere in this run."
    note = "Compared in the same precision; where we have no bfloat16, with our float32."
    return f"{note}\n\n" + "\n".join(lines)


def _scaling_table(scaling: dict[str, Any]) -> str:
    rows = []
    for name, found in scaling["workloads"].items():
        times = [median(rounds) for rounds in found["rounds"]]
        rows.append([name, *(f"{time * 1e6:,.1f} ({times[0] / time:.2f} x)" for time in times)])
    head = ("microseconds a step", *(f"{count} thread{'s' * (count != 1)}" for count in scaling["threads"]))
    return _table(head, rows)


def _sweep_table(what: str, points: Sequence[dict[str, Any]]) -> str:
    names = list(points[0]["rounds"])
    steps = ["-", *(f"{value:.2f}" for value in cliffs(points))]
    rows = [
        [str(point["size"]), *(f"{median(point['rounds'][name]) * 1e6:,.1f}" for name in names), cliff]
        for point, cliff in zip(points, steps, strict=True)
    ]
    note = (
        "the last column is the growth of our time (fastest rounds) beyond that of the arithmetic, from the size before"
    )
    return f"Against {what}: microseconds a step; {note}\n\n" + _table(
        (what, *(LABELS[n] for n in names), "cliff"), rows
    )


def _result_table(found: dict[str, Any]) -> str:
    rows = []
    for data, numbers in found.items():
        for name in ("native", "sklearn"):
            accuracy, spread = numbers["accuracy"][name]
            times = f"{numbers['ratio']:.1f}" if name == "sklearn" else "1"
            rows.append(
                [data, LABELS[name], f"{numbers['seconds'][name] * 1e3:,.0f}", times, f"{accuracy:.2%} ± {spread:.2%}"]
            )
    return _table(("data", "", "ms", "times ours", "held-out accuracy"), rows, left=2)


def pictures(paths: Sequence[Path], base: Path) -> str:
    """Markdown that shows the pictures on a page in the folder ``base``."""
    return "".join(f"\n![{path.stem}]({path.relative_to(base).as_posix()})\n" for path in paths)


def write_between_markers(page: Path, text: str) -> None:
    """Replaces what stands between the two markers of a page. Raises ValueError when it has none."""
    old = page.read_text(encoding="utf-8")
    before, found, rest = old.partition(_BEGIN)
    _, closed, after = rest.partition(_END)
    if not found or not closed:
        raise ValueError(f"{page}: expected the lines {_BEGIN} and {_END}, in this order")
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}", encoding="utf-8")

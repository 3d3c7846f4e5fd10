"""The tables of a comparison, in Markdown: what was wanted and what was reached, and everybody's numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import disturbance
from standings import (
    BY_MEDIANS,
    LABELS,
    OURS,
    Result,
    cliffs,
    fewer_threads,
    peak_of,
    ranked,
    ratio,
    ratio_to_result,
)
from wanted import wanted

__all__ = ["between_markers", "pictures", "tables", "write_between_markers"]

_BEGIN, _END = "<!-- compare: begin -->", "<!-- compare: end -->"


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
    left_out = {LABELS[name]: why for name, why in result.get("absent", {}).items()} | result["failed"]
    if left_out:
        parts += ["### Left out", "\n".join(f"- {who}: {_line(why)}" for who, why in left_out.items())]
    return "\n\n".join(parts) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    marks = [":--" if i < left else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, marks, *rows))


def _introduction(result: Result) -> str:
    machine, threads = result["machine"], result["threads"]
    versions = ({"commit": result["commit"]} if result.get("commit") else {}) | result["versions"]
    how = "short" if result["quick"] else "full"
    clock = (
        "" if result["clock"] == "wall" else " Times are those of each process on a CPU, since the machine was busy."
    )
    lines = [
        f"Measured on {result['date']}, {how} form, {threads} thread{'s' * (threads != 1)} for everyone.{clock}",
        f"{machine['processor']}, {machine['cpus']} CPUs, load {machine['load']} at the start; {machine['system']}, "
        f"Python {machine['python']}. Vectors: {', '.join(machine['flags']) or 'unknown'}. "
        f"Caches: {', '.join(f'{k} {v}' for k, v in machine['caches'].items()) or 'unknown'}.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    if warning := disturbance(machine):
        lines.append(f"**{warning}**")
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
    if trips := [1e9 * seconds for seconds in result.get("round_trips", [])]:
        lines.append(
            "A cache line from one thread to another and back, before and after the training steps of each workload: "
            f"{', '.join(f'{trip:.0f}' for trip in trips)} ns."
        )
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
    note = (
        "Median microseconds per step; in brackets who does not compute the same step. Ratios are medians of those "
        'within a round; "medians" is the quotient of the median times, where that says something else.'
    )
    return f"{note}\n\n" + _table(("", *result["training"]), rows)


def _training_tables(result: Result) -> Iterator[str]:
    for name, found in result["training"].items():
        contestants = found["contestants"]
        base = contestants.get("native")
        rows = []
        for who, entry in sorted(contestants.items(), key=lambda item: median(item[1]["rounds"])):
            time = median(entry["rounds"])
            rate = found["flop"] / time
            peak, fewer = peak_of(result, entry), fewer_threads(result, entry)
            share = f"{rate / peak:.0%}" if peak else "-"
            times = ratio(entry, base).text() if base else "-"
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
                text += f" ({ratio(entry, base).text()})" if base else ""
                cells.append(f"{text}, differs" if entry["reason"] else text)
            rows.append([LABELS[who], *cells])
        what = "One row" if count == "1" else f"{int(count):,} rows"
        yield f"{what}: microseconds a call, and in brackets times ours\n\n" + _table(("", *columns), rows)


def _where_others_win(result: Result) -> str:
    """Who takes less time, by either statistic, than this package does in the same precision, or in float32."""
    races = [(f"{name}, training", found["contestants"]) for name, found in result["training"].items()]
    for name, counts in result["prediction"].items():
        for count, contestants in counts.items():
            races.append((f"{name}, predicting {int(count):,} row{'s' * (count != '1')}", contestants))
    lines = []
    for what, contestants in races:
        fair = dict(ranked(contestants))
        winners = []
        if "native" not in fair:
            lines.append(f"- {what}: we are not ranked")
        for who, entry in fair.items():
            own = "native-bf16" if entry["bfloat16"] and "native-bf16" in fair else "native"
            if who in OURS or own not in fair:
                continue
            if min(share := ratio(entry, fair[own])) < 1:
                beside = f" ({BY_MEDIANS} {share.medians:.2f})" if share.apart() else ""
                winners.append((min(share), f"{LABELS[who]} takes {share.within:.2f} of our time{beside}"))
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
    note = "the last column is the growth of our time beyond that of the arithmetic, from the size before"
    return f"Against {what}: microseconds a step; {note}\n\n" + _table(
        (what, *(LABELS[n] for n in names), "cliff"), rows
    )


def _result_table(found: dict[str, Any]) -> str:
    rows = []
    for data, numbers in found.items():
        for name in ("native", "sklearn"):
            accuracy, spread = numbers["accuracy"][name]
            times = ratio_to_result(numbers).text(1) if name == "sklearn" else "1"
            rows.append(
                [data, LABELS[name], f"{numbers['seconds'][name] * 1e3:,.0f}", times, f"{accuracy:.2%} ± {spread:.2%}"]
            )
    return _table(("data", "", "ms", "times ours", "held-out accuracy"), rows, left=2)


def pictures(paths: Sequence[Path], base: Path) -> str:
    """Markdown that shows the pictures on a page in the folder ``base``."""
    return "".join(f"\n![{path.stem}]({path.relative_to(base).as_posix()})\n" for path in paths)


def between_markers(page: Path) -> tuple[str, str, str]:
    """What stands before, between and after the two markers of a page. Raises ValueError when it has none."""
    before, found, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    between, closed, after = rest.partition(_END)
    if not found or not closed:
        raise ValueError(f"{page}: expected the lines {_BEGIN} and {_END}, in this order")
    return before, between, after


def write_between_markers(page: Path, text: str) -> None:
    """Replaces what stands there."""
    before, _, after = between_markers(page)
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n{_END}{after}", encoding="utf-8")

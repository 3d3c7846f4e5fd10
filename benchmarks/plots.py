"""The plots of a comparison, as SVG files: bars per workload, a roofline, threads, and growth with its cliffs."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from standings import ALONG, LABELS, OURS, cliffs
from wanted import LARGEST_CLIFF

__all__ = ["bars", "draw", "growth", "roofline", "threads"]

#: Text stays text, and equal numbers give equal files.
_SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "fastperceptron"}


def draw(result: dict[str, Any], folder: Path) -> list[Path]:
    """Writes the plots that the result has numbers for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.switch_backend("svg")  # no window, whatever the user's settings say
    drawn = []
    for name, plot in (("bars", bars), ("roofline", roofline), ("threads", threads), ("growth", growth)):
        figure = plot(result)
        if figure is None:
            continue
        path = folder / f"{name}.svg"
        with plt.rc_context(_SETTINGS):
            figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
        drawn.append(path)
    return drawn


#: Of the bars, by who they are.
_COLOURS = {"this package": "tab:orange", "others": "tab:blue", "another step: not ranked": "lightgrey"}


def _label(name: str) -> str:
    return LABELS[name].replace("*", "").replace("`", "")


def bars(result: dict[str, Any]) -> Any:
    found = result["training"]
    if not found:
        return None
    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 4), squeeze=False)
    for axis, (name, workload) in zip(axes[0], found.items(), strict=True):
        entries = sorted(workload["contestants"].items(), key=lambda item: -median(item[1]["rounds"]))
        times = [median(entry["rounds"]) * 1e6 for _, entry in entries]
        axis.barh([_label(who) for who, _ in entries], times, color=[_colour(who, entry) for who, entry in entries])
        axis.set_xscale("log")
        axis.set_xlim(min(times) / 2, max(times) * 1.3)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("microseconds a step")
        axis.set_title(f"{name}: {'-'.join(map(str, workload['widths']))},\nbatch {workload['batch']}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.tick_params(axis="x", labelrotation=45)  # long numbers stand close
    figure.tight_layout()
    patches = [Patch(color=colour, label=label) for label, colour in _COLOURS.items()]
    figure.legend(handles=patches, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(patches), fontsize=8)
    return figure


def _colour(who: str, entry: dict[str, Any]) -> str:
    ours, others, different = _COLOURS.values()
    return different if entry["reason"] else ours if who in OURS else others


def roofline(result: dict[str, Any]) -> Any:
    limits = result["limits"].get(str(result["threads"]))
    if not limits or not result["training"]:
        return None
    figure, axis = plt.subplots(figsize=(6.5, 4.5))
    peak, bandwidth = limits["float32"], limits["memory update"]
    corner = peak / bandwidth
    intensities = [corner / 100, corner, corner * 100]
    axis.plot(intensities, [min(peak, bandwidth * i) / 1e9 for i in intensities], color="black")
    # Above the slope is room; at the plateau's other end stand our large networks.
    axis.annotate("float32 peak", (corner, peak / 1e9), ha="right", va="bottom", fontsize=8)
    for name, found in result["training"].items():
        x = found["flop"] / found["bytes"]
        axis.axvline(x, color="lightgrey", linewidth=0.5)
        for who, entry in found["contestants"].items():
            if entry["bfloat16"] or entry["reason"] or who in ALONG:
                continue
            rate = found["flop"] / median(entry["rounds"]) / 1e9
            ours = who == "native"
            axis.plot(x, rate, "o" if ours else ".", color="tab:orange" if ours else "tab:blue", alpha=0.9)
            if ours:
                axis.annotate(name, (x, rate), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set(xscale="log", yscale="log", xlabel="flop per byte, were nothing kept in a cache", ylabel="GFLOP/s")
    axis.set_title("Training steps under the roofline: ours (large), others (small)", fontsize=10)
    return figure


def threads(result: dict[str, Any]) -> Any:
    scaling = result.get("scaling")
    if not scaling or not scaling["workloads"]:
        return None
    figure, axis = plt.subplots(figsize=(5.5, 4))
    counts = scaling["threads"]
    for name, found in scaling["workloads"].items():
        times = [median(rounds) for rounds in found["rounds"]]
        axis.plot(counts, [times[0] / time for time in times], marker="o", label=name)
    axis.plot(counts, counts, color="lightgrey", linestyle="--", label="ideal")
    axis.set(xlabel="threads", ylabel="times faster than one thread", xticks=counts)
    axis.legend()
    return figure


def growth(result: dict[str, Any]) -> Any:
    sweep = result.get("sweep")
    if not sweep:
        return None
    figure, axes = plt.subplots(2, len(sweep), figsize=(4.5 * len(sweep), 6), squeeze=False, sharex="col")
    for k, (what, points) in enumerate(sweep.items()):
        sizes = [point["size"] for point in points]
        for name in points[0]["rounds"]:
            times = [median(point["rounds"][name]) * 1e6 for point in points]
            axes[0][k].plot(sizes, times, marker=".", label=_label(name))
        axes[0][k].set(xscale="log", yscale="log", ylabel="microseconds a step", title=f"growth with {what}")
        axes[0][k].legend(fontsize=7)
        axes[1][k].plot(sizes[1:], cliffs(points), marker=".")
        axes[1][k].axhline(LARGEST_CLIFF, color="tab:red", linewidth=0.8)
        axes[1][k].set(xlabel=what, ylabel="time / arithmetic, against the size before")
    figure.tight_layout()
    return figure

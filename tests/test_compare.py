"""benchmarks/compare.py: its options, its tables on canned numbers, and a tiny run. No times are asserted."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from comparing import FOLDER, NEEDS, entry, module

pytestmark = NEEDS


@pytest.fixture
def result() -> dict[str, Any]:
    """Three rounds of a run on one thread, with numbers that are easy to check."""
    training = {
        "native": entry(1e-6, 2e-6, 1e-6),
        "fit": entry(1.1e-6, 2.2e-6, 1.2e-6),
        "numpy": entry(8e-6, 12e-6, 6e-6),
        "jax": entry(7e-6, 14e-6, 7e-6),
        "torch": entry(1e-6, 1e-6, 1e-6, reason="cost of step 1: expected 2; received 3"),
        "torch-compile": entry(2e-5, 2e-5, 2e-5),
        "torch-bf16": entry(3e-6, 6e-6, 4e-6, bfloat16=True),
    }
    return {
        "date": "2026-01-01 00:00 UTC",
        "quick": True,
        "threads": 1,
        "clock": "wall",
        "machine": {
            "processor": "a processor",
            "cpus": 2,
            "load": 0.0,
            "system": "Linux",
            "python": "3.11",
            "flags": ["avx2"],
            "caches": {"L2": "1M"},
        },
        "versions": {"numpy": "2"},
        "descriptions": {},
        "failed": {"keras, A": "ImportError: no\nkeras"},
        "limits": {
            "1": {"float32": 2e12, "float64": 1e12, "bfloat16": 0.0, "memory read": 1e10, "memory update": 2e10}
        },
        "training": {"A": {"widths": [32, 10], "batch": 32, "flop": 1_000_000, "bytes": 1000, "contestants": training}},
        "prediction": {
            "A": {
                "1": {"native": entry(1e-6), "onnxruntime": entry(5e-6), "mlpfile": entry(3e-6)},
                "1024": {"native": entry(4e-5), "onnxruntime": entry(3e-5), "torch": entry(5e-5)},
            }
        },
        "scaling": {"threads": [1, 2], "workloads": {"A": {"rounds": [[2e-6], [1e-6]]}}},
        "sweep": {
            "batch": [
                {"size": size, "flop": flop, "rounds": {"native": [seconds]}}
                for size, flop, seconds in ((1, 100, 1e-6), (2, 200, 1.5e-6), (3, 300, 4.5e-6))
            ]
        },
        "footprint": {
            "import_seconds": 0.02,
            "wheel_bytes": 2 * 2**20,
            "memory_d": {"grown": 2**20, "allowed": 2**21},
        },
        "time_to_result": {
            "digits": {
                "seeds": 10,
                "ratio": 9.0,
                "seconds": {"native": 0.1, "sklearn": 0.9},
                "accuracy": {"native": [0.970, 0.002], "sklearn": [0.975, 0.004]},
            }
        },
    }


def line(result: dict[str, Any], beginning: str) -> Any:
    found = [line for line in module("wanted").wanted(result) if line.what.startswith(beginning)]
    assert len(found) == 1, beginning
    return found[0]


def test_best_other_computes_the_same_at_the_same_precision(result: dict[str, Any]) -> None:
    contestants = result["training"]["A"]["contestants"]
    assert module("standings").best_other(contestants, False) == "jax"  # medians 7, 8; torch differs
    assert module("standings").best_other(contestants, None) == "torch-bf16"
    assert module("standings").best_other({"native": entry(1.0)}, False) is None


def test_ratios_are_within_rounds(result: dict[str, Any]) -> None:
    contestants = result["training"]["A"]["contestants"]
    ratio = module("standings").ratio(contestants["numpy"], contestants["native"])
    assert (ratio.within, ratio.medians) == (6, pytest.approx(8))  # of 8, 6 and 6; 8 us and 1
    assert line(result, "A, float32 step: times").reached == "7.00 x"
    assert line(result, "A, float32 step: times").held is True
    needed = "6 x would take 43% of the peak of all threads"  # 1 MFLOP in 7/6 us, of 2 TFLOP/s
    assert line(result, "A, float32 step: times").note == f"best other: JAX; without PyTorch; {needed}"
    assert line(result, "A, float32 step: share").reached == "50%"  # 1 TFLOP/s of 2


def test_wanted_lines(result: dict[str, Any]) -> None:
    assert line(result, "one row through A: times faster than ONNX").held is False
    assert line(result, "one row through A: times faster than mlpfile").held is True
    assert line(result, "A, predicting 1024").held is False
    assert line(result, "A: `fit`").reached == "+10%"
    assert line(result, "import").held is True
    assert line(result, "wheel").held is False
    assert line(result, "memory").held is True
    assert line(result, "digits: times").held is True
    assert line(result, "digits: held-out").held is False  # half a point below, and the spreads are smaller
    assert line(result, "growth with batch").reached == "2.00 x"
    assert line(result, "growth with batch").note == "from 2 to 3"


def test_the_peak_is_that_of_the_threads_used(result: dict[str, Any]) -> None:
    """The same run on two threads, whose step stays on one; without the field, as older files are, both count."""
    result["threads"] = 2
    result["limits"]["2"] = {**result["limits"]["1"], "float32": 4e12}
    share = line(result, "A, float32 step: share")
    assert (share.reached, share.held, share.note) == ("25%", False, "")
    assert "| **fastperceptron** | 1.0 | 1.00 | 1000.0 | 25% | same step |" in module("report").tables(result)

    contestants = result["training"]["A"]["contestants"]
    contestants["native"]["threads"] = contestants["fit"]["threads"] = 1
    share = line(result, "A, float32 step: share")
    assert (share.reached, share.held, share.note) == ("50%", True, "1 thread used")
    text = module("report").tables(result)
    assert "| **fastperceptron** | 1.0 | 1.00 | 1000.0 | 50% | same step; 1 thread used |" in text
    assert "| JAX | 7.0 | 7.00 | 142.9 | 4% | same step |" in text  # of both

    contestants["native"]["threads"] = 2
    assert line(result, "A, float32 step: share").reached == "25%"
    assert line(result, "A, float32 step: share").note == ""
    contestants["native"]["threads"] = 3
    assert line(result, "A, float32 step: share").reached is None  # nobody measured that peak


def test_what_computed_decides_about_amx(result: dict[str, Any]) -> None:
    """Not what the processor could. mixed_bfloat16 takes 1 us, PyTorch 4 us in bfloat16."""
    ours = result["training"]["A"]["contestants"]["native-bf16"] = entry(1e-6, 2e-6, 1e-6, bfloat16=True)
    result["machine"]["flags"] = ["amx_bf16"]
    for path, note in (
        ("bfloat16 avx512_bf16", "not applicable: not by AMX, but by bfloat16 avx512_bf16"),
        (None, "what computed it was not noted"),  # as in older files
    ):
        ours["path"] = path
        amx = line(result, "A, mixed_bfloat16")
        assert (amx.reached, amx.held) == ("3.00 x", None)
        assert amx.note.startswith(note)
    ours["path"] = "bfloat16 amx"
    assert line(result, "A, mixed_bfloat16").held is False
    ours["rounds"] = [0.5e-6, 1e-6, 0.5e-6]
    assert line(result, "A, mixed_bfloat16").held is True


def test_what_does_not_apply_says_so(result: dict[str, Any]) -> None:
    assert line(result, "D at 16 threads").held is None
    assert line(result, "D, float32 step: times").note == "not measured"
    missing = {**result, "training": {}, "prediction": {}, "limits": {}}
    assert all(found.held is not True for found in module("wanted").wanted(missing)[:10])


def test_tables(result: dict[str, Any]) -> None:
    result["round_trips"] = [1.04e-7, 4.9e-7]
    text = module("report").tables(result)
    assert "before and after the training steps of each workload: 104, 490 ns." in text
    assert "| **fastperceptron** | 1.0 | 1.00 | 1000.0 | 50% | same step |" in text
    assert "cost of step 1: expected 2; received 3" in text
    assert "- keras, A: ImportError: no keras" in text
    assert "- A, predicting 1,024 rows: ONNX Runtime takes 0.75 of our time" in text
    assert "A, training" not in text  # torch is faster, but does not compute the same step
    assert "| NumPy by hand | 8.0 | 6.00, medians 8.00 |" in text
    assert "| JAX | 7.0 | 7.00 |" in text
    assert "interrupted" not in text
    assert "busy" not in text
    busy = module("report").tables({**result, "machine": {**result["machine"], "load": 1.5}})
    assert "**The machine was busy (load 1.5 at the start): " in busy
    assert "Versions: commit abc-dirty, numpy 2." in module("report").tables({**result, "commit": "abc-dirty"})
    assert "The run was interrupted" in module("report").tables({**result, "interrupted": True})
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) >= 8
    for table in tables:
        assert len({row.replace("\\|", "").count("|") for row in table.splitlines()}) == 1, table


def test_who_is_quicker_by_either_statistic_wins(result: dict[str, Any]) -> None:
    """By the times alone, and by the rounds alone."""
    contestants = result["training"]["A"]["contestants"]
    contestants["native"]["rounds"], contestants["jax"]["rounds"] = [4e-6, 7e-6, 8e-6], [4.12e-6, 8e-6, 5e-6]
    text = module("report").tables(result)
    assert "| JAX | 5.0 | 1.03, medians 0.71 |" in text
    assert "JAX takes 1.03 of our time (by the medians of the times 0.71)" in text
    contestants["native"]["rounds"], contestants["jax"]["rounds"] = [5e-6, 2e-6, 8e-6], [4e-6, 5.5e-6, 7.2e-6]
    text = module("report").tables(result)
    assert "JAX takes 0.90 of our time (by the medians of the times 1.10)" in text


def test_who_is_not_ranked_does_not_win(result: dict[str, Any]) -> None:
    """Where we compute another step, or nothing, it is not said that nobody wins."""
    result["prediction"] = {}
    assert "Nowhere in this run." in module("report").tables(result)
    result["training"]["A"]["contestants"]["native"]["reason"] = "cost of step 1: expected 2; received 3"
    text = module("report").tables(result)
    assert "Nowhere in this run." not in text
    assert "- A, training: we are not ranked" in text


def test_who_did_not_take_part_is_listed(result: dict[str, Any]) -> None:
    result["absent"] = {"torch-bf16-compile": "not in the short form", "mlpfile": "not installed"}
    expected = [
        "- PyTorch, bfloat16, compile: not in the short form",
        "- mlpfile: not installed",
        "- keras, A: ImportError: no keras",
    ]
    assert module("report").tables(result).endswith("### Left out\n\n" + "\n".join(expected) + "\n")
    result["failed"] = {}
    assert module("report").tables(result).endswith("\n".join(expected[:2]) + "\n")
    del result["absent"]  # as in older files
    assert "Left out" not in module("report").tables(result)


def test_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- compare: begin -->\nold\n<!-- compare: end -->\nafter\n", encoding="utf-8")
    module("report").write_between_markers(page, "new")
    text = page.read_text(encoding="utf-8")
    assert text == "before\n<!-- compare: begin -->\n\nnew\n<!-- compare: end -->\nafter\n"
    page.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="expected the lines"):
        module("report").write_between_markers(page, "new")


def test_another_step_is_noticed() -> None:
    disagreement = module("interleave").disagreement
    first = {"costs": [2.0, 1.9], "moved": [1.0]}
    assert disagreement(first, first, 1e-4, 1e-3) is None
    assert "cost of step 1" in disagreement(first, {"costs": [2.0, 1.8], "moved": [1.0]}, 1e-4, 1e-3)
    assert "weight matrix 0 moved" in disagreement(first, {"costs": [2.0, 1.9], "moved": [0.6]}, 1e-4, 1e-3)
    assert disagreement(first, {"costs": [float("nan"), 1.9], "moved": [1.0]}, 1e-4, 1e-3)


def test_growth_workloads() -> None:
    for what in ("width", "batch", "depth"):
        sizes = [size for size, _ in module("workloads").growth(what)]
        assert sizes == sorted(set(sizes))
        assert all(b <= 2 * a for a, b in pairwise(sizes))
        for _, workload in module("workloads").growth(what):
            assert workload.rows % workload.batch == 0


@pytest.mark.parametrize("columns", [16, 24, 32, 48, 64])
def test_growth_has_one_column_more_than_whole_registers(columns: int) -> None:
    """And than whole panels of AVX2 (24 columns) and AVX-512 (48)."""
    assert (columns, columns + 1) in pairwise(size for size, _ in module("workloads").growth("width"))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_preferred_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = module("machine")
    chosen: list[set[int]] = []
    monkeypatch.setattr(machine, "allowed_cpus", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cpus: chosen.append(set(cpus)))
    monkeypatch.setenv(machine.PREFERRED_CPUS, "3 1")
    for threads in (1, 2, 3, 4):
        machine.keep_to_cpus(threads)
    assert [len(cpus) for cpus in chosen] == [1, 2, 3]  # four are all there are
    assert chosen[:2] == [{3}, {3, 1}]


def test_options() -> None:
    arguments = module("compare").arguments
    assert (arguments(["--quick"]).rounds, arguments([]).rounds) == (4, 7)
    for form in ([], ["--quick"]):
        assert arguments(form).sweep is True
        assert arguments(form).rows == [1, 1024, 4096]  # those of the wanted figures
    assert arguments(["--no-sweep"]).sweep is False
    assert arguments(["--no-extras"]).sweep is False
    assert arguments(["--no-extras", "--sweep"]).sweep is True
    assert arguments(["--rows", "7"]).rows == [7]


@pytest.mark.parametrize(
    "given",
    [
        ["--threads", "0"],
        ["--threads", "1000000"],
        ["--rounds", "0"],
        ["--seconds", "-1"],
        ["--workloads", "Z"],
        ["--cpus", "1000000"],
        ["--clock", "cpu", "--threads", "2"],
        ["--write", "missing.md"],
        ["--write", str(FOLDER / "README.md")],  # no markers
        ["--from", "missing.json"],
        ["--from", __file__],  # no JSON
    ],
)
def test_bad_options(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        module("compare").arguments(given)
    assert stop.value.code == 2
    assert given[0] in capsys.readouterr().err.splitlines()[-1]  # above it stands the usage


@pytest.mark.parametrize(
    "text", ['{"training": {}}', "[]", '"training"', "null", '{"training": {"A": 1}}', "{}", "nonsense"]
)
def test_what_is_no_run_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    path.write_text(text, encoding="utf-8")
    done = run("--from", str(path), "--output", str(tmp_path / "made"))
    assert done.returncode == 2
    assert f"--from: {path}: expected the compare.json of a run" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "made").exists()


def test_a_run_with_a_broken_part_is_refused(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(result), encoding="utf-8")
    assert module("compare").arguments(["--from", str(path)]).earlier == result
    for part, broken in (("training", {"A": {}}), ("time_to_result", {"digits": {}}), ("machine", {"load": "high"})):
        path.write_text(json.dumps({**result, part: broken}), encoding="utf-8")
        with pytest.raises(SystemExit) as stop:
            module("compare").arguments(["--from", str(path)])
        assert stop.value.code == 2
        assert "expected the compare.json of a run" in capsys.readouterr().err


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, str(FOLDER / "compare.py"), *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=300, check=False)


def test_help() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "--quick" in done.stdout
    assert "python benchmarks/compare.py" in done.stdout


def test_tiny_run(tmp_path: Path) -> None:
    """NumPy and this package on A, one short slice each, and the page that follows from it."""
    page = tmp_path / "page.md"
    page.write_text("<!-- compare: begin -->\n<!-- compare: end -->\n", encoding="utf-8")
    tiny = ["--workloads", "A", "--threads", "1", "--seconds", "0.01", "--rounds", "1", "--rows", "1", "9"]
    where = ["--output", str(tmp_path), "--no-extras"]
    done = run("--quick", "--contestants", "numpy", *tiny, *where, "--write", str(page))
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    contestants = result["training"]["A"]["contestants"]
    assert set(contestants) == {"numpy", "native", "fit", "batch"}
    assert result["absent"]["native-bf16"] == "not chosen"
    assert "| not chosen" in done.stdout
    assert all(found["reason"] is None and found["rounds"][0] > 0 for found in contestants.values())
    assert set(result["prediction"]["A"]) == {"1", "9"}
    assert all(found["reason"] is None for rows in result["prediction"]["A"].values() for found in rows.values())
    assert result["limits"]["1"]["float32"] > 1e9
    if result["commit"] is not None:  # in a repository
        assert f"Versions: commit {result['commit']}, fastperceptron " in done.stdout
        assert f"version: {result['commit']}\n" in done.stderr
    assert "others" in result["machine"]
    assert "round_trips" not in result  # with one thread
    assert {name: found.get("threads") for name, found in contestants.items()} == {
        "numpy": None,
        "native": 1,
        "fit": 1,
        "batch": 1,
    }
    path = contestants["native"]["path"]  # such as float32 avx512
    assert contestants["fit"]["path"] == path
    assert path in result["descriptions"]["native"]
    assert "path" not in contestants["numpy"]
    assert result["failed"] == {}
    assert "about" in done.stderr  # the time left
    text = (tmp_path / "compare.md").read_text(encoding="utf-8")
    assert text in page.read_text(encoding="utf-8")
    assert text.strip() in done.stdout

    again = run("--from", str(tmp_path / "compare.json"), "--output", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again" / "compare.md").read_text(encoding="utf-8") == text


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a signal")
def test_interrupted_run(tmp_path: Path) -> None:
    """Ctrl-C in the second task: the first is written, and told as what it is."""
    program = [sys.executable, str(FOLDER / "compare.py"), "--workloads", "A", "--threads", "1", "--no-extras"]
    command = [*program, "--contestants", "numpy", "--seconds", "300", "--output", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "compare.json").exists() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    result = json.loads((tmp_path / "compare.json").read_text(encoding="utf-8"))
    assert result["interrupted"] is True
    assert result["limits"]["1"]["float32"] > 0
    assert "The run was interrupted" in output


def test_a_contestant_that_is_not_there(tmp_path: Path) -> None:
    missing = [name for name in ("mlpfile", "keras", "jax") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("all are installed")
    done = run("--contestants", missing[0], "--output", str(tmp_path))
    assert done.returncode == 2
    assert f"{missing[0]}: not installed" in done.stderr


def test_plots(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    drawn = module("plots").draw(result, tmp_path)
    assert [path.name for path in drawn] == ["bars.svg", "roofline.svg", "threads.svg", "growth.svg"]
    assert all(path.read_text(encoding="utf-8").endswith("</svg>\n") for path in drawn)


def test_bars(result: dict[str, Any]) -> None:
    """As long as the medians are, slowest first (which is below), and coloured by who they are."""
    pytest.importorskip("matplotlib")
    from matplotlib.colors import to_hex

    figure = module("plots").bars(result)
    axis = figure.axes[0]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([20, 8, 7, 4, 1.2, 1, 1])
    assert all(bar.get_height() > 0.5 for bar in axis.patches)
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names[:3] == ["PyTorch, compile", "NumPy by hand", "JAX"]
    colours = dict(zip(names, (to_hex(bar.get_facecolor()) for bar in axis.patches), strict=True))
    legend = figure.legends[0]
    means = {
        text.get_text(): to_hex(patch.get_facecolor())
        for text, patch in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert len(set(means.values())) == 3
    assert colours["fastperceptron"] == colours["fastperceptron, fit"] == means["this package"]
    assert colours["JAX"] == colours["NumPy by hand"] == means["others"]
    assert colours["PyTorch"] == means["another step: not ranked"]


@pytest.mark.parametrize(("fastest", "slowest"), [(2_200e-6, 7_200e-6), (12e-6, 600e-6)])
def test_bars_have_numbers(result: dict[str, Any], fastest: float, slowest: float) -> None:
    """Less than a decade of times has numbers at its axis, too."""
    pytest.importorskip("matplotlib")
    result["training"]["A"]["contestants"] = {"native": entry(fastest), "numpy": entry(slowest)}
    figure = module("plots").bars(result)
    figure.canvas.draw()
    axis = figure.axes[0]
    low, high = axis.get_xlim()
    shown = [label.get_text() for label in axis.get_xticklabels() if low <= label.get_position()[0] <= high]
    assert len(shown) >= 2
    assert all(re.fullmatch(r"[125],?0*(,000)*", text) for text in shown)


def test_roofline(result: dict[str, Any]) -> None:
    """Every contestant of the same step is a point, and no text lies on another."""
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    result["training"]["D"] = {**result["training"]["A"], "flop": 1_900_000, "bytes": 400}  # near the peak, far right
    figure = module("plots").roofline(result)
    axis = figure.axes[0]
    points = [line for line in axis.get_lines() if len(line.get_xdata()) == 1]
    assert len(points) == 2 * 4  # native, NumPy, JAX, PyTorch compiled
    assert [text.get_text() for text in axis.texts] == ["float32 peak", "A", "D"]
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axis.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))

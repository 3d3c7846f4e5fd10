"""The wanted figures: which they are, what each one asks for, and that nothing is decided without the rivals."""

from __future__ import annotations

from typing import Any

import pytest
from comparing import NEEDS, entry, module

pytestmark = NEEDS

#: Every line and what it asks for: nobody lowers a figure in passing.
LINES = {
    "A, float32 step: times faster than the best other": "6 x",
    "A2, float32 step: times faster than the best other": "5 x",
    "B, float32 step: times faster than the best other": "4.5 x",
    "C, float32 step: times faster than the best other": "1.65 x",
    "D, float32 step: times faster than the best other": "1.2 x",
    "A, float32 step: share of the FMA peak of the cores used": "50%",
    "A2, float32 step: share of the FMA peak of the cores used": "55%",
    "B, float32 step: share of the FMA peak of the cores used": "65%",
    "C, float32 step: share of the FMA peak of the cores used": "82%",
    "D, float32 step: share of the FMA peak of the cores used": "86%",
    "D, float32 step with AVX2 forced: share of the AVX2 peak": "80%",
    "A, mixed_bfloat16 step on AMX: times faster than the best other at any precision": "6 x",
    "A2, mixed_bfloat16 step on AMX: times faster than the best other at any precision": "5 x",
    "B, mixed_bfloat16 step on AMX: times faster than the best other at any precision": "4.5 x",
    "C, mixed_bfloat16 step on AMX: times faster than the best other at any precision": "2.5 x (stretch 3 x)",
    "D, mixed_bfloat16 step on AMX: times faster than the best other at any precision": "2.5 x (stretch 3.5 x)",
    "one row through A: times faster than mlpfile": "2.5 x",
    "one row through A: times faster than ONNX Runtime": "10 x",
    **{
        f"{name}, predicting {rows} rows: ahead of ONNX Runtime and PyTorch": "1 x"
        for name in ("A", "A2", "B", "C", "D")
        for rows in (1024, 4096)
    },
    "A: `fit` with accuracy and progress bar adds to its steps": "at most 30%",
    "B: `fit` with accuracy and progress bar adds to its steps": "at most 3%",
    "D at 16 threads: times faster than at one": "10 x",
    "growth with width: largest cliff between neighbouring sizes": "at most 1.3 x",
    "growth with batch: largest cliff between neighbouring sizes": "at most 1.3 x",
    "growth with depth: largest cliff between neighbouring sizes": "at most 1.3 x",
    "import, beyond NumPy's": "at most 30 ms",
    "wheel": "at most 1.5 MB",
    "memory while training D": "at most 119.6 MB",
    "digits: times faster to a result than MLPClassifier": "8 x",
    "digits: held-out accuracy, same": "95.00% ± 1.00%",
    "mnist: times faster to a result than MLPClassifier": "8 x",
    "mnist: held-out accuracy, same": "95.00% ± 1.00%",
}
#: For each workload: times faster, share of the peak, times faster with bfloat16, what fit adds.
STEPS = {
    "A": (6, 0.50, 6, 0.30),
    "A2": (5, 0.55, 5, None),
    "B": (4.5, 0.65, 4.5, 0.03),
    "C": (1.65, 0.82, 2.5, None),
    "D": (1.2, 0.86, 2.5, None),
}
ALLOWED = 119.6 * 2**20


def reaching(margin: float) -> dict[str, Any]:
    """A run in which every figure is better than wanted by this share of it, or worse where that is negative."""
    more, less = 1 + margin, 1 - margin
    training, prediction = {}, {}
    for name, (faster, share, faster_bfloat16, adds) in STEPS.items():
        flop, ours = 1_000_000, 1e-6 / (share * more)  # of a peak of 1 TFLOP/s
        others = ours * faster * more
        training[name] = {
            "flop": flop,
            "contestants": {
                "native": entry(ours),
                "native-bf16": entry(others / (faster_bfloat16 * more), bfloat16=True) | {"path": "bfloat16 amx"},
                **({"fit": entry(ours * (1 + adds * less))} if adds else {}),
                **{who: entry(others) for who in ("numpy", "torch", "jax")},
                "torch-bf16": entry(others, bfloat16=True),
            },
        }
        prediction[name] = {
            rows: {"native": entry(1.0), "torch": entry(more), "onnxruntime": entry(more)} for rows in ("1024", "4096")
        }
    prediction["A"]["1"] = {"native": entry(1.0), "mlpfile": entry(2.5 * more), "onnxruntime": entry(10 * more)}
    result = {
        "seeds": 10,
        "ratio": 8 * more,
        "seconds": {"native": 1.0, "sklearn": 8 * more},
        "accuracy": {"native": [0.95 - 0.01 * less, 0.005], "sklearn": [0.95, 0.01]},
    }
    points = [{"size": size, "flop": 1, "rounds": {"native": [(1.3 * less) ** size]}} for size in range(3)]
    return {
        "threads": 2,
        "machine": {"flags": [], "cpus": 16},
        "limits": {"2": {"float32": 1e12, "bfloat16": 1e13}},
        "training": training,
        "prediction": prediction,
        "avx2": {"flop": 1, "rounds": [1.0], "peak": 1 / (0.80 * more)},
        "scaling": {"threads": [1, 16], "workloads": {"D": {"rounds": [[10 * more], [1.0]]}}},
        "sweep": dict.fromkeys(("width", "batch", "depth"), points),
        "footprint": {
            "import_seconds": 0.030 * less,
            "wheel_bytes": 1.5e6 * less,
            "memory_d": {"grown": ALLOWED * less, "allowed": ALLOWED},
        },
        "time_to_result": {"digits": result, "mnist": result},
    }


def nothing() -> dict[str, Any]:
    return {"threads": 2, "machine": {"flags": [], "cpus": 2}, "training": {}, "prediction": {}, "limits": {}}


def lines(result: dict[str, Any]) -> Any:
    return {line.what: line for line in module("wanted").wanted(result)}


def test_the_figures() -> None:
    assert {what: line.wanted for what, line in lines(reaching(0.01)).items()} == LINES


@pytest.mark.parametrize(("margin", "held"), [(0.01, True), (-0.01, False)])
def test_what_is_a_little_better_holds_and_a_little_worse_does_not(margin: float, held: bool) -> None:
    found = module("wanted").wanted(reaching(margin))
    assert [line.what for line in found] == list(LINES)
    assert [line.what for line in found if line.held is not held] == []


def test_a_run_without_numbers_has_every_line() -> None:
    found = module("wanted").wanted(nothing())
    assert [line.what for line in found] == list(LINES)
    assert all(line.reached is None and line.held is None and line.note for line in found)


@pytest.mark.parametrize(
    ("absent", "undecided"),
    [
        (["torch"], [*(f"{name}, float32 step: times" for name in STEPS), *(f"{name}, predicting" for name in STEPS)]),
        (
            ["jax"],
            [f"{name}, {what}: times" for name in STEPS for what in ("float32 step", "mixed_bfloat16 step on AMX")],
        ),
        (["torch-bf16"], [f"{name}, mixed_bfloat16 step on AMX: times" for name in STEPS]),
        (["onnxruntime"], ["one row through A: times faster than ONNX", *(f"{name}, predicting" for name in STEPS)]),
        (["mlpfile"], ["one row through A: times faster than mlpfile"]),
        (["numpy"], []),
    ],
)
@pytest.mark.parametrize("why", ["not installed", "does not compute the same"])
def test_no_verdict_without_the_rivals(absent: list[str], undecided: list[str], why: str) -> None:
    result = reaching(0.01)
    result["absent"] = {}
    races = [found["contestants"] for found in result["training"].values()]
    races += [contestants for rows in result["prediction"].values() for contestants in rows.values()]
    for contestants in races:
        for name in set(absent) & contestants.keys():
            if why == "not installed":
                del contestants[name]
                result["absent"][name] = why
            else:
                contestants[name] = {**contestants[name], "reason": "outputs differ by 1"}
    for line in module("wanted").wanted(result):
        expected = line.what.startswith(tuple(undecided))
        assert (line.held is None) is expected, line
        if expected:
            label = module("standings").LABELS[absent[0]]
            assert line.note.startswith(f"missing: {label} ({why})"), line


def test_numpy_alone_is_no_rival() -> None:
    """Both that are missing are named, and what was reached against NumPy is shown."""
    result = reaching(0.01)
    result["absent"] = {"torch": "not installed", "jax": "not chosen"}
    contestants = result["training"]["A"]["contestants"]
    for name in ("torch", "torch-bf16", "jax"):
        del contestants[name]
    line = lines(result)["A, float32 step: times faster than the best other"]
    assert (line.reached, line.held) == ("6.06 x", None)
    assert line.note.startswith("missing: PyTorch (not installed), JAX (not chosen); best other: NumPy by hand")


def test_compiled_graphs_stand_for_the_library() -> None:
    result = reaching(0.01)
    for found in result["training"].values():
        for name in ("torch", "torch-bf16"):
            found["contestants"][f"{name}-compile"] = found["contestants"].pop(name)
    assert all(line.held for line in module("wanted").wanted(result))


@pytest.mark.parametrize("group", ["torch", "torch-bf16"])
@pytest.mark.parametrize("without", ["", "-compile"])
def test_who_of_a_group_did_not_take_part_is_said(group: str, without: str) -> None:
    """With a verdict all the same: one of the group was there."""
    result = reaching(0.01)
    for found in [*result["training"].values(), *(rows["1024"] for rows in result["prediction"].values())]:
        contestants = found.get("contestants", found)
        if group in contestants:
            contestants[f"{group}-compile"] = contestants[group]
            del contestants[group + without]
    label = module("standings").LABELS[group + without]
    begins = {"torch": "A, float32 step: times", "torch-bf16": "A, mixed_bfloat16"}[group]
    found = [line for line in module("wanted").wanted(result) if line.what.startswith((begins, "A, predicting 1024"))]
    assert [line.held for line in found] == [True, True]
    assert f"; without {label}; " in found[0].note
    if group == "torch":
        assert found[1].note == f"best other: {module('standings').LABELS['onnxruntime']}; without {label}"


def test_all_of_a_group_are_there() -> None:
    result = reaching(0.01)
    contestants = result["training"]["A"]["contestants"]
    contestants["torch-compile"] = contestants["torch"]
    assert "without" not in lines(result)["A, float32 step: times faster than the best other"].note


@pytest.mark.parametrize(
    ("ours", "theirs", "reached", "held", "note"),
    [
        ([1.0, 1.0, 1.0], [6.5, 6.5, 6.5], "6.50 x", True, None),
        ([1.0, 1.0, 2.0], [6.1, 6.5, 13.0], "6.50 x", True, None),
        ([1.0, 2.0, 2.0], [7.0, 11.0, 14.0], "7.00 x", False, "5.50 x"),  # by rounds alone
        ([1.0, 1.0, 2.0], [5.0, 9.0, 11.0], "5.50 x", False, "9.00 x"),  # by the times alone
        ([1.0, 1.0, 2.0], [6.1, 9.0, 12.4], "6.20 x", True, "9.00 x"),  # by both, and apart
        ([1.0, 1.0, 1.01], [5.98, 6.1, 6.05], "5.99 x", False, "6.05 x"),  # close, on both sides
    ],
)
def test_both_statistics_must_hold(
    ours: list[float], theirs: list[float], reached: str, held: bool, note: str | None
) -> None:
    result = reaching(0.01)
    contestants = result["training"]["A"]["contestants"]
    contestants.update({"native": entry(*ours), "torch": entry(*theirs), "torch-compile": entry(*theirs)})
    for name in ("numpy", "fit", "torch-bf16", "native-bf16"):
        del contestants[name]
    contestants["jax"] = entry(*(2 * seconds for seconds in theirs))
    line = lines(result)["A, float32 step: times faster than the best other"]
    assert (line.reached, line.held) == (reached, held)
    beside = f"; by the medians of the times {note}" if note else ""
    assert line.note.startswith(f"best other: PyTorch{beside}; 6 x would take")


def test_both_statistics_must_hold_for_threads_and_results() -> None:
    """Ten and eight times as fast by the rounds, less by the times."""
    result = reaching(0.01)
    result["scaling"]["workloads"]["D"]["rounds"] = [[10.1, 12.0, 20.2], [1.0, 2.0, 2.0]]
    result["time_to_result"]["digits"]["seconds"]["sklearn"] = 7.0
    found = lines(result)
    line = found["D at 16 threads: times faster than at one"]
    assert (line.reached, line.held, line.note) == ("10.1 x", False, "by the medians of the times 6.0 x")
    line = found["digits: times faster to a result than MLPClassifier"]
    assert (line.reached, line.held, line.note) == ("8.1 x", False, "by the medians of the times 7.0 x")


@pytest.mark.parametrize(
    ("ours", "fit", "reached", "held", "note"),
    [
        ([1.00, 1.00, 2.00], [1.01, 1.01, 2.02], "+1%", True, ""),
        ([1.00, 1.00, 2.00], [1.01, 1.10, 2.02], "+1%", False, "by the medians of the times +10%"),
        ([1.00, 1.10, 1.15], [1.05, 1.12, 1.30], "+5%", False, "by the medians of the times +2%"),
        ([1.00, 1.00, 2.00], [1.05, 1.15, 2.10], "+5%", False, "by the medians of the times +15%"),
    ],
)
def test_both_statistics_must_hold_for_fit(
    ours: list[float], fit: list[float], reached: str, held: bool, note: str
) -> None:
    result = reaching(0.01)
    result["training"]["B"]["contestants"] = {"native": entry(*ours), "fit": entry(*fit)}
    line = lines(result)["B: `fit` with accuracy and progress bar adds to its steps"]
    assert (line.reached, line.held, line.note) == (reached, held, note)


def test_the_same_accuracy_is_within_the_spread_of_the_other() -> None:
    """However far ours spreads."""
    result = reaching(0.01)
    digits = result["time_to_result"]["digits"]
    result["time_to_result"]["mnist"] = {**digits, "accuracy": {"native": [0.935, 0.05], "sklearn": [0.95, 0.01]}}
    found = lines(result)
    assert found["digits: held-out accuracy, same"].held is True
    assert found["mnist: held-out accuracy, same"].held is False


@pytest.mark.parametrize(("adds", "note"), [(-0.06, True), (-0.04, False), (0.2, False)])
def test_fit_quicker_than_its_steps_is_noise(adds: float, note: bool) -> None:
    result = reaching(0.01)
    contestants = result["training"]["A"]["contestants"]
    contestants["fit"] = entry(contestants["native"]["rounds"][0] * (1 + adds))
    line = lines(result)["A: `fit` with accuracy and progress bar adds to its steps"]
    assert line.held is (None if note else True)
    assert line.note == ("noise: fit was measured quicker than its own steps" if note else "")


@pytest.mark.parametrize(("share", "held"), [(0.79, False), (0.81, True), (1.36, None)])
def test_more_than_the_peak_is_noise(share: float, held: bool | None) -> None:
    result = reaching(0.01)
    result["avx2"] = {"flop": share, "rounds": [1.0], "peak": 1.0}
    line = lines(result)["D, float32 step with AVX2 forced: share of the AVX2 peak"]
    assert (line.reached, line.held) == (f"{share:.0%}", held)
    assert line.note == ("noise: more than the peak that was measured" if held is None else "")

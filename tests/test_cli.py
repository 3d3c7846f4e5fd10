from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastperceptron as fp
from fastperceptron import cli, random
from fastperceptron.preparation import Preparation, confusion_matrix, fit_scaling, held_out_rows, softmax


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own."""
    command = [sys.executable, "-m", "fastperceptron", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload,no-any-return]


def write_csv(path: Path, header: list[str], rows: list[list[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def fruit(tmp_path: Path) -> Path:
    """Two classes that a line separates; very different scales; a text target."""
    rng = np.random.default_rng(0)
    rows: list[list[object]] = []
    for i in range(120):
        apple = i % 2 == 0
        rows.append([rng.normal(150 if apple else 5000, 20), "apple" if apple else "melon, big", rng.normal(0, 1e-3)])
    return write_csv(tmp_path / "fruit.csv", ["weight", "kind", "noise"], rows)


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    """price = 1000 area - 20000 age + 50000 + noise of deviation 100."""
    rng = np.random.default_rng(1)
    area, age = rng.uniform(50, 200, 200), rng.uniform(0, 5, 200)
    price = 1000 * area - 20000 * age + 50000 + rng.normal(0, 100, 200)
    return write_csv(tmp_path / "houses.csv", ["area", "age", "price"], np.c_[area, age, price].tolist())


# -- training ------------------------------------------------------------------------------------------------------


def test_digits_reach_97_percent_of_the_held_out_rows(tmp_path: Path) -> None:
    model = tmp_path / "digits.fp.safetensors"
    done = run("train", "digits", "--hidden", "128,64", "--dropout", 0.2, "--epochs", 40, "--save", model)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = re.search(r"held-out accuracy: ([\d.]+) % \((\d+) of (\d+)\)", done.stdout)
    assert found is not None
    assert float(found[1]) >= 97
    assert int(found[3]) in range(355, 365)  # a fifth of 1797, rounded in each class
    assert f"{1797 - int(found[3])} rows to train on" in done.stdout
    assert re.search(r"Total params:? *17[,.]?226|17[,.]?226", done.stdout)  # 64-128-64-10
    assert "Epoch 40/40" in done.stdout or "40/40" in done.stdout
    assert "\r" not in done.stdout
    matrix = done.stdout.split("predicted\n")[1].splitlines()[1:11]
    counts = np.array([[0 if c == "." else int(c) for c in line.split()[1:]] for line in matrix])
    assert counts.shape == (10, 10)
    assert counts.trace() == int(found[2])
    assert counts.sum() == int(found[3])

    predicted = run("predict", model, "digits")
    assert predicted.returncode == 0, predicted.stderr
    labels = predicted.stdout.splitlines()[1:]
    assert len(labels) == 1797
    assert np.mean(np.array(labels, int) == fp.datasets.load_digits()[1]) > 0.97


def test_classification_of_a_file(fruit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "fruit.model"
    status = cli.main(["train", str(fruit), "--target", "kind", "--hidden", "8", "--epochs", "5", "--save", str(model)])
    out, err = capsys.readouterr()
    assert (status, err) == (0, "")
    assert "held-out accuracy: 100.00 % (24 of 24)" in out
    assert "96 rows to train on, 24 held out, 2 features, 2 classes" in out
    assert re.search(r"actual +apple +melon, big\n +apple +12 +\.\n *melon, big +\. +12\n", out)
    assert out.endswith(f"saved {model}\n")

    # Other order of columns, one more, no target.
    new = write_csv(tmp_path / "new.csv", ["noise", "note", "weight"], [[0, "x", 5010], [0.001, "y", 140]])
    assert cli.main(["predict", str(model), str(new)]) == 0
    assert capsys.readouterr().out == 'kind\n"melon, big"\napple\n'

    output = tmp_path / "out.csv"
    assert cli.main(["predict", str(model), str(new), "--probabilities", "--output", str(output)]) == 0
    header, first, second = csv.reader(output.read_text().splitlines())
    assert header == ["kind", "apple", "melon, big"]
    assert first[0] == "melon, big"
    assert float(first[2]) > 0.5
    assert float(second[1]) > 0.5
    assert float(first[1]) + float(first[2]) == pytest.approx(1)

    capsys.readouterr()
    assert cli.main(["summary", str(model)]) == 0
    out = capsys.readouterr().out
    assert "task: classification of 'kind'" in out
    assert "features: weight, noise" in out
    assert "classes: apple, melon, big" in out
    assert "42" in out  # (2 + 1) 8 + (8 + 1) 2 parameters


def test_regression_of_a_file(houses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "houses.model"
    command = (
        f"train {houses} --target price --hidden 0 --epochs 30 --learning-rate 0.01 --dtype float64 --save {model}"
    )
    assert cli.main(command.split()) == 0
    out = capsys.readouterr().out
    found = re.search(r"held-out RMSE ([\d.]+), R2 ([\d.]+) \(40 rows\)", out)
    assert found is not None
    assert float(found[1]) < 200  # the noise's deviation is 100; in the price's unit
    assert float(found[2]) > 0.999

    new = write_csv(tmp_path / "new.csv", ["age", "area"], [[1, 100]])
    assert cli.main(["predict", str(model), str(new)]) == 0
    header, value = capsys.readouterr().out.splitlines()
    assert header == "price"
    assert float(value) == pytest.approx(1000 * 100 - 20000 + 50000, abs=200)


def test_the_same_seed_gives_the_same_file(fruit: Path, tmp_path: Path) -> None:
    def train(name: str, seed: int) -> bytes:
        path = tmp_path / name
        arguments = (
            f"train {fruit} --target kind --hidden 4 --dropout 0.5 --epochs 2 --quiet --seed {seed} --save {path}"
        )
        assert cli.main(arguments.split()) == 0
        return path.read_bytes()

    assert train("a", 3) == train("b", 3)
    assert train("a", 3) != train("c", 4)


def test_the_model_is_what_the_options_say(fruit: Path, tmp_path: Path) -> None:
    path = tmp_path / "fruit.model"
    options = "--hidden 6,5 --activation tanh --dropout 0.25 --dtype float64 --epochs 2 --batch-size 7 --seed 3 --quiet"
    training = "--learning-rate 0.01 --momentum 0.8 --nesterov --validation-split 0.5"
    command = ["train", str(fruit), "--target", "kind", "--save", str(path), *options.split(), *training.split()]
    assert cli.main(command) == 0
    model = fp.load_model(path)
    layers: list[Any] = model.layers
    assert [type(layer) for layer in layers] == [fp.Dense, fp.Dropout, fp.Dense, fp.Dropout, fp.Dense]
    assert [layer.units for layer in layers[::2]] == [6, 5, 2]
    assert [layer.activation.name for layer in layers[::2]] == ["tanh", "tanh", "linear"]
    assert [layer.rate for layer in layers[1::2]] == [0.25, 0.25]
    assert model.dtype == "float64"
    optimizer: Any = model.optimizer
    assert (optimizer.learning_rate, optimizer.momentum, optimizer.nesterov) == (0.01, 0.8, True)
    assert optimizer.iterations == 2 * 7  # 48 rows
    assert model.get_config()["seed"] == 3


def test_validation_rows_are_watched(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"train {fruit} --target kind --epochs 1 --validation-split 0.25 --test-split 0".split()) == 0
    out = capsys.readouterr().out
    assert "val_accuracy" in out
    assert "120 rows to train on, 0 held out" in out
    assert "training accuracy" in out


def test_quiet_prints_the_result_alone(fruit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(f"train {fruit} --target kind --epochs 1 --quiet".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("held-out accuracy")
    assert len(lines) == 5  # and the confusion matrix


def test_names_that_span_lines_are_printed_on_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[list[object]] = [[i, "red\nor\x1b[31m" if i < 10 else "blue"] for i in range(20)]
    path, model = write_csv(tmp_path / "colours.csv", ["wave\nlength", "colour"], rows), tmp_path / "m"
    assert cli.main(f"train {path} --target colour --epochs 1 --quiet --save {model}".split()) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["actual", "blue", "red\\nor\\x1b~"]
    assert len(lines) == 6
    assert cli.main(["summary", str(model)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["features: wave\\nlength", "classes: blue, red\\nor\\x1b[31m"]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_names_that_the_output_cannot_show_cost_no_model(tmp_path: Path, encoding: str) -> None:
    rows = "".join(f"{i},{'яблоко' if i < 10 else 'pear'}\n" for i in range(20))
    data, model = tmp_path / "fruit.csv", tmp_path / "m"
    data.write_text("weight,kind\n" + rows, encoding="utf-8")
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run("train", data, "--target", "kind", "--epochs", 30, "--quiet", "--save", model, env=env)
    assert done.returncode == 0, done.stderr
    assert "\\u044f" in done.stdout
    assert done.stdout.endswith(f"saved {model}\n")
    assert "\\u044f\\u0431" in run("summary", model, env=env).stdout
    done = run("predict", model, data, env=env)
    assert done.returncode == 1
    received = "'\\u044f\\u0431\\u043b\\u043e\\u043a\\u043e'"
    assert done.stderr == f"fastperceptron: error: --output must name a file, since {encoding} has no {received}\n"
    assert run("predict", model, data, "--output", tmp_path / "out.csv", env=env).returncode == 0
    assert "яблоко" in (tmp_path / "out.csv").read_text(encoding="utf-8")


def test_without_an_output(fruit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    model = tmp_path / "m"
    assert cli.main(f"train {fruit} --target kind --epochs 2 --save {model}".split()) == 0
    assert cli.main(f"predict {model} {fruit} --output {tmp_path / 'out.csv'}".split()) == 0
    assert cli.main(f"predict {model} {fruit}".split()) == 1
    assert cli.main(["summary", str(model)]) == 0


def test_training_that_diverges_is_an_error_and_saves_nothing(
    houses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "m"
    command = f"train {houses} --target price --hidden 8 --activation linear --learning-rate 1e6 --quiet --save {model}"
    assert cli.main(command.split()) == 1
    err = capsys.readouterr().err
    assert "fastperceptron: warning:" in err
    assert "fastperceptron: error: training diverged" in err
    assert not model.exists()


@pytest.mark.parametrize(("rate", "what"), [("3.4e38", "the weights are"), ("1e38", "held-out predictions are")])
def test_a_last_step_that_diverges_is_an_error_and_saves_nothing(
    houses: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rate: str, what: str
) -> None:
    """One step alone: its loss, of the weights before it, is finite."""
    model = tmp_path / "m"
    model.write_text("old")
    command = f"train {houses} --target price --hidden 8 --epochs 1 --batch-size 1000 --learning-rate {rate} --quiet"
    assert cli.main([*command.split(), "--save", str(model)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(
        f"fastperceptron: error: training diverged: {what} not finite; a smaller --learning-rate may help\n"
    )
    assert model.read_text() == "old"


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train nowhere.csv --target a", "error: nowhere.csv: No such file"),
        ("train fruit.csv", "--target COLUMN"),
        (
            "train fruit.csv --target color",
            "column 'color': expected a column 'color'; found 'weight', 'kind', 'noise'",
        ),
        ("train fruit.csv --target weight", "line 2, column 'kind': expected a finite number; found 'apple'"),
        ("train fruit.csv --target kind --features weight,size", "expected a column 'size'"),
        ("train fruit.csv --target kind --features kind,weight", "must not contain the target"),
        ("train fruit.csv --target kind --features weight,weight", "name each column once; received 'weight' twice"),
        ("train digits --delimiter ;", "--delimiter and --task regression are for files"),
        ("train fruit.csv --target kind --task regression", "line 2, column 'kind': expected a number; found 'apple'"),
        ("train fruit.csv --target kind --activation rely", "rely"),
        ("train fruit.csv --target kind --save no/where", "the directory does not exist"),
        ("train fruit.csv --target kind --save .", "expected the name of a file; received a directory"),
        (
            "train fruit.csv --target kind --save ./fruit.csv",
            "expected another file than the input; received fruit.csv",
        ),
        ("predict ragged.csv fruit.csv --output ragged.csv", "expected another file than the input"),
        ("predict ragged.csv fruit.csv --output fruit.csv", "expected another file than the input"),
        ("train digits --target digit", "are for files"),
        ("train ragged.csv --target a", "ragged.csv, line 3: expected 2 values, one per column; found 3"),
        ("train empty.csv --target a", "empty.csv: expected a header line"),
        ("train single.csv --target b", "two rows and two classes; found one class, 'x'"),
        (
            "train large.csv --target a --no-standardize --test-split 0",
            "scaling: column 'b' must be finite in float32 when scaled; received 1e+39 in row 2",
        ),
        ("predict nothing.model fruit.csv", "nothing.model"),
        ("predict fruit.csv fruit.csv", "not a model file"),
        ("summary fruit.csv", "not a model file"),
    ],
)
def test_errors_are_one_line_and_exit_status_1(
    fruit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    monkeypatch.chdir(fruit.parent)
    Path("ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    Path("empty.csv").write_text("")
    Path("single.csv").write_text("a,b\n1,x\n2,x\n3,x\n")
    Path("large.csv").write_text("a,b\nx,1\ny,1e39\n")
    before = set(os.listdir())
    assert cli.main(command.split()) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("fastperceptron: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert set(os.listdir()) == before


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("1e300", "scaling: column 'weight' must be finite in float32 when scaled; received 1e+300 in row 1"),
        ("3e35", "odd.csv: expected finite outputs; those of row 1 are not"),
    ],
)
def test_no_class_is_predicted_from_what_overflows(
    fruit: Path, capsys: pytest.CaptureFixture[str], number: str, message: str
) -> None:
    model, odd = fruit.with_name("m"), write_csv(fruit.with_name("odd.csv"), ["weight", "noise"], [[number, number]])
    assert cli.main(f"train {fruit} --target kind --epochs 1 --hidden 4 --quiet --save {model}".split()) == 0
    trained = fp.load_model(model)
    trained.set_weights([weight * 1e6 for weight in trained.get_weights()])
    trained.save(model)
    capsys.readouterr()
    assert cli.main(f"predict {model} {odd}".split()) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


def test_a_directory_that_cannot_be_written_is_refused_before_training(
    fruit: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    assert cli.main(["train", str(fruit), "--target", "kind", "--save", str(fruit.parent / "m")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected a directory that can be written to" in err


def test_classes_too_small_to_hold_out_from_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "few.csv", ["a", "b"], [[1, "x"], [2, "y"], [3, "x"]])
    assert cli.main(["train", str(path), "--target", "b", "--epochs", "1", "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == (
        "fastperceptron: warning: --test-split 0.2: expected more rows of each class; none could be held out\n"
    )
    assert out.startswith("training accuracy")


@pytest.mark.parametrize(
    "command",
    [
        "",
        "dance",
        "train",
        "train digits --hidden 64,-1",
        "train digits --hidden a",
        "train digits --epochs 0",
        "train digits --epochs 1.5",
        "train digits --batch-size 2147483648",
        "train digits --dropout 1",
        "train digits --learning-rate 0",
        "train digits --learning-rate nan",
        "train digits --learning-rate inf",
        "train digits --test-split -0.1",
        "train digits --seed -1",
        "train digits --seed 18446744073709551616",
        "train digits --threads 0",
        "train digits --dtype float16",
        "train digits --delimiter ab",
        'train digits --delimiter "',
        "predict m",
    ],
)
def test_wrong_usage_is_exit_status_2(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(command.split())
    assert caught.value.code == 2
    assert "usage: fastperceptron" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "train", "predict", "summary", "info"])
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([*command.split(), "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: fastperceptron {command}".strip() in out
    if command in ("", "train", "predict"):
        assert "examples:\n  fastperceptron " in out


def test_examples_in_the_help_parse() -> None:
    parser = cli.build_parser()
    examples = re.findall(r"^  fastperceptron (.*)$", cli.EXAMPLES + cli.TRAIN_EXAMPLES + cli.PREDICT_EXAMPLES, re.M)
    assert len(examples) >= 8
    for example in examples:
        parser.parse_args(example.split())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"fastperceptron {fp.__version__}\n"


def test_dir_has_the_public_names_and_no_others() -> None:
    assert set(fp.__all__) <= set(dir(fp))
    assert not {"Any", "TYPE_CHECKING", "ModuleType"} & set(dir(fp))


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    assert fp.__version__ in out
    assert "numpy" in out.lower()


def test_the_installed_command_is_this_program() -> None:
    from importlib.metadata import entry_points

    found = [e for e in entry_points(group="console_scripts") if e.name == "fastperceptron"]
    assert [e.value for e in found[:1]] == ["fastperceptron.cli:main"]


# -- models of other origin ----------------------------------------------------------------------------------------


def test_a_model_saved_from_python_predicts_plain_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = fp.Sequential([fp.Dense(2)], seed=0)
    model.build(3)
    model.save(tmp_path / "m")
    data = write_csv(tmp_path / "x.csv", ["a", "b", "c"], [[1, 2, 3], [4, 5, 6]])
    assert cli.main(["predict", str(tmp_path / "m"), str(data)]) == 0
    header, *rows = csv.reader(capsys.readouterr().out.splitlines())
    assert header == ["output_0", "output_1"]
    expected = model.predict(np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    assert rows == [[f"{value:.9g}" for value in row] for row in expected]
    np.testing.assert_allclose(np.array(rows, float), expected, rtol=1e-6)
    assert cli.main(["predict", str(tmp_path / "m"), str(data), "--probabilities"]) == 1
    assert "must be a classifier" in capsys.readouterr().err
    narrow = write_csv(tmp_path / "y.csv", ["a"], [[1]])
    assert cli.main(["predict", str(tmp_path / "m"), str(narrow)]) == 1
    assert "needs 3 columns; received 1" in capsys.readouterr().err


def two_outputs() -> fp.Model:
    x = fp.Input((3,))
    return fp.Model(x, [fp.Dense(1)(x), fp.Dense(2)(x)])


def two_inputs() -> fp.Model:
    inputs = [fp.Input((3,)), fp.Input((2,))]
    return fp.Model(inputs, fp.Dense(1)(fp.Concatenate()(inputs)))


def two_axes() -> fp.Model:
    model = fp.Sequential([fp.Input((3, 2)), fp.Flatten(), fp.Dense(1)])
    model.build((3, 2))
    return model


@pytest.mark.parametrize(
    ("make", "received"),
    [
        (two_outputs, "an input of shape (3,) and 2 outputs"),
        (two_inputs, "2 inputs and 1 output"),
        (two_axes, "an input of shape (3, 2) and 1 output"),
    ],
)
def test_models_that_columns_do_not_fit_are_for_summary_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[], fp.Model], received: str
) -> None:
    make().save(tmp_path / "m")
    data = write_csv(tmp_path / "x.csv", ["a", "b", "c"], [[1, 2, 3]])
    assert cli.main(["predict", str(tmp_path / "m"), str(data)]) == 1
    expected = "expected a model with one input, of one axis, and one output"
    assert capsys.readouterr().err == f"fastperceptron: error: {tmp_path / 'm'}: {expected}; received {received}\n"
    assert cli.main(["summary", str(tmp_path / "m")]) == 0


GOOD = {
    "task": "regression",
    "target": "t",
    "features": ["a", "b"],
    "classes": [],
    "input_offset": [0.5, -1],
    "input_scale": [1, 2.5],
    "target_offset": 0.0,
    "target_scale": 3.0,
}


def test_metadata_round_trip() -> None:
    assert Preparation.from_metadata(GOOD, 2, 1).to_metadata() == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"task": "ranking"},
        {"target": 3},
        {"features": ["a"]},
        {"features": ["a", 2]},
        {"features": "ab"},
        {"task": "classification", "classes": ["x", "y"]},
        {"task": "classification", "classes": None},
        {"input_offset": [0.5]},
        {"input_offset": [0.5, "1"]},
        {"input_offset": [0.5, True]},
        {"input_scale": [1, 0]},
        {"input_scale": [1, -1]},
        {"input_scale": [1, 1e301]},
        {"target_scale": 0},
        {"target_offset": None},
        {"target_offset": 10**400},
        {"extra": 1},
    ],
)
def test_metadata_that_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(fp.ModelFormatError, match="metadata"):
        Preparation.from_metadata({**GOOD, **change}, 2, 1)
    with pytest.raises(fp.ModelFormatError, match="metadata"):
        Preparation.from_metadata([], 2, 1)


# -- the process ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_exits_130_and_saves_nothing(tmp_path: Path) -> None:
    model = tmp_path / "m"
    command = [sys.executable, "-m", "fastperceptron", "train", "digits", "--epochs", "1000000", "--save", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:  # training has begun when an epoch is reported
            if re.search(r"[Ee]poch|loss", line):
                break
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "interrupted" in err
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_causes_no_noise(tmp_path: Path) -> None:
    model = fp.Sequential([fp.Dense(50)], seed=0)
    model.build(64)
    model.save(tmp_path / "m")
    command = [sys.executable, "-m", "fastperceptron", "predict", str(tmp_path / "m"), "digits"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1


# -- pieces --------------------------------------------------------------------------------------------------------


def test_held_out_rows_are_a_share_of_each_class() -> None:
    labels = np.array([0] * 10 + [1] * 5 + [2])
    order = np.random.default_rng(0).permutation(16)
    held_out = held_out_rows(order, labels, 0.2)
    assert np.bincount(labels[held_out], minlength=3).tolist() == [2, 1, 0]
    assert held_out_rows(order, None, 0.25).sum() == 4
    assert held_out_rows(np.arange(3), None, 0.25).tolist() == [True, False, False]  # 0.75 rows are rather 1 than 0
    assert not held_out_rows(order, labels, 0.0).any()
    assert held_out_rows(order, labels, 0.99).sum() == 9 + 4 + 0  # one row of each class is left


def test_scaling_of_constant_columns() -> None:
    x = np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 5.0]])
    offset, scale = fit_scaling(x, ["a", "b"])
    assert scale.tolist() == [1.0, pytest.approx(np.sqrt(8 / 3))]
    np.testing.assert_allclose(((x - offset) / scale)[:, 0], 0, atol=1e-15)
    for constant in (0.0, 2.0):
        offset, scale = fit_scaling(np.full((3, 1), constant), ["a"])
        assert (offset.tolist(), scale.tolist()) == ([constant], [1.0])


def test_scaling_that_overflows_names_the_column() -> None:
    with pytest.raises(
        ValueError, match=r"scaling: column 'b' must have a finite mean and deviation; .* up to 1e[+]300"
    ):
        fit_scaling(np.array([[1, 1e300], [2, -1e300]]), ["a", "b"])
    with pytest.raises(ValueError, match="column 'a' must have a finite mean"):  # no model that has it could be read
        fit_scaling(np.full((3, 1), 2e300), ["a"])


def test_confusion_matrix() -> None:
    counts = confusion_matrix(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 1], [0, 1, 0], [0, 1, 0]]


def test_probabilities_of_large_logits() -> None:
    large = np.array([[1000, 1000, -1000]], np.float32)
    np.testing.assert_array_equal(softmax(np.concatenate([large, large - 5000])), [[0.5, 0.5, 0]] * 2)


def test_a_target_far_from_zero_keeps_its_digits(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a = rng.random(200)
    data = write_csv(tmp_path / "far.csv", ["a", "t"], [[x, repr(1.7e9 + 10 * x)] for x in a.tolist()])
    model, out = tmp_path / "m", tmp_path / "out.csv"
    assert cli.main(f"train {data} --target t --epochs 100 --quiet --save {model}".split()) == 0
    assert cli.main(f"predict {model} {data} --output {out}".split()) == 0
    found = np.array(out.read_text().split()[1:], float)
    assert np.abs(found - (1.7e9 + 10 * a)).max() < 0.5


def test_a_tiny_column_is_scaled_too() -> None:
    x = np.array([[0.0], [2e-165], [4e-165]])
    offset, scale = fit_scaling(x, ["a"])
    np.testing.assert_allclose((x - offset) / scale, [[-(1.5**0.5)], [0], [1.5**0.5]], atol=1e-15)


def test_a_huge_target_that_is_held_out_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[list[object]] = [[x, 3.0 * x] for x in range(40)]
    held_out = held_out_rows(random.permutation(random.make_key(0), random.STREAM_SPLIT, 1, 40), None, 0.2)
    rows[int(held_out.argmax())][1] = 1e200
    data = write_csv(tmp_path / "huge.csv", ["a", "t"], rows)
    assert cli.main(f"train {data} --target t --epochs 1 --quiet".split()) == 0
    done = capsys.readouterr()
    assert done.out == "held-out RMSE 3.53553e+199, R2 -0.1429 (8 rows)\n"
    assert done.err == ""

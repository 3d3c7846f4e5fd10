"""Damages model and CSV files at random: each must give what was saved or the one documented error.

    python tests/fuzz_files.py --seconds 60 [--seed 1]

Some damage is done below the checksum, which is then made right, so that the checks behind it are reached.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from typing import Any

import numpy as np

import fastperceptron as fp
from fastperceptron import modelfile
from fastperceptron.csvfile import CSVError, read_csv

JUNK: list[Any] = [None, True, 0, -1, 1, 2**31, 2**63, 2**70, 0.5, 1e308, "", "relu", "\ud800", [], [1], {}, {"a": 1}]
TOKENS = [b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-", b"9" * 20, b"null", b"\\u0000", b"\xff", b"\n", b";"]


def golden_graph(folder: str) -> str:
    a, b = fp.Input((6,), name="a"), fp.Input((3,), name="b")
    h = fp.Dense(6, activation="relu", learning_rate_multiplier=0.5)(fp.Concatenate()([a, b]))
    h = fp.Add()([h, a, fp.Multiply()([h, a])])
    model = fp.Model([a, b], {"p": fp.Dense(2)(h), "q": fp.Dense(3)(h)}, seed=0)
    model.compile(fp.SGD(0.1, momentum=0.9), {"p": "mse"}, {"p": "mae"}, {"p": 2.0})
    model.train_on_batch([np.ones((4, 6)), np.ones((4, 3))], {"p": np.ones((4, 2))})
    path = os.path.join(folder, "golden_graph")
    model.save(path)
    return path


def golden(folder: str) -> str:
    x, y = fp.datasets.load_digits()
    model = fp.Sequential([fp.Dense(4, activation="relu"), fp.Dropout(0.1), fp.Dense(10)], seed=0)
    model.compile(fp.SGD(0.1, momentum=0.9), fp.losses.SparseCategoricalCrossentropy(from_logits=True), ["accuracy"])
    model.fit(x[:64] / 16, y[:64], verbose=0)
    path = os.path.join(folder, "golden")
    model.save(path)
    return path


def damage_bytes(rng: random.Random, raw: bytes) -> bytes:
    data = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + rng.randint(1, 40)]
        elif kind == 2:
            data[at:at] = rng.choice(TOKENS)
        else:
            begin = rng.randrange(len(data) + 1)
            data[at:at] = data[begin : begin + rng.randint(1, 60)]
    return bytes(data)


def damage_tree(rng: random.Random, tree: Any) -> Any:
    """One value, somewhere, becomes another, disappears or is doubled."""
    if isinstance(tree, dict) and tree and rng.random() < 0.85:
        key = rng.choice(list(tree))
        if rng.random() < 0.1:
            return {k: v for k, v in tree.items() if k != key}
        return {**tree, key: damage_tree(rng, tree[key])}
    if isinstance(tree, list) and tree and rng.random() < 0.85:
        at = rng.randrange(len(tree))
        if rng.random() < 0.1:
            return [*tree, tree[at]]
        return [*tree[:at], damage_tree(rng, tree[at]), *tree[at + 1 :]]
    return rng.choice(JUNK)


def damage_model(rng: random.Random, raw: bytes) -> bytes:
    """The configuration or a tensor's description is changed and the checksum made right again."""
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    data = raw[8 + length :]
    metadata = header["__metadata__"]
    if rng.random() < 0.7:
        metadata["config"] = json.dumps(damage_tree(rng, json.loads(metadata["config"])))
    else:
        name = rng.choice([n for n in header if n != "__metadata__"])
        if rng.random() < 0.3:
            header[name + "x"] = header.pop(name)
        else:
            header[name] = damage_tree(rng, header[name])
    try:
        entries = [
            modelfile._Entry(name, e["dtype"], tuple(e["shape"]), *e["data_offsets"])
            for name, e in header.items()
            if name != "__metadata__"
        ]
        arrays = {e.name: np.frombuffer(data[e.begin : e.end], np.uint8) for e in entries}
        metadata["checksum"] = modelfile._checksum(metadata, entries, arrays)
    except (TypeError, ValueError, KeyError, UnicodeError, OverflowError):
        pass  # damaged beyond a checksum
    head = json.dumps(header).encode()
    return len(head).to_bytes(8, "little") + head + data


def check_model(path: str, reference: dict[str, Any], config: Any) -> str:
    try:
        model = fp.load_model(path)
    except fp.ModelFormatError:
        return "refused"
    state = model.get_state()
    for array in state.values():
        np.asarray(array).sum()
    if model.built and model.input_shape == (64,):
        model.predict(np.zeros((3, 64), np.float32), verbose=0)
    elif model.built and model.input_shape == [(6,), (3,)]:
        model.predict([np.zeros((3, 6)), np.zeros((3, 3))], verbose=0)
    same = model.get_config() == config and set(state) == set(reference)
    same = same and all(np.array_equal(state[k], reference[k]) for k in state)
    return "as saved" if same else "another model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=None)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "little")
    rng = random.Random(seed)
    print(f"seed {seed}", flush=True)
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for path in (golden(folder), golden_graph(folder)):
            with open(path, "rb") as file:
                saved = fp.load_model(path)
                models.append((file.read(), saved.get_state(), saved.get_config()))
        table = b"a,b,kind\n" + b"".join(b'%d,%d.5,"k%d"\n' % (i, i, i % 3) for i in range(30))
        end = time.monotonic() + arguments.seconds
        target = os.path.join(folder, "damaged")
        while time.monotonic() < end:
            kind = rng.choice(["bytes", "tree", "csv"])
            raw, reference, config = rng.choice(models)
            damaged = damage_model(rng, raw) if kind == "tree" else damage_bytes(rng, raw if kind == "bytes" else table)
            with open(target, "wb") as file:
                file.write(damaged)
            try:
                if kind == "csv":
                    outcome = "refused"
                    try:
                        read_csv(target, target="kind")
                        outcome = "read"
                    except CSVError:
                        pass
                else:
                    outcome = check_model(target, reference, config)
                    # Below the checksum another model is a legal outcome; above it only the saved one is.
                    if kind == "bytes" and outcome == "another model":
                        raise AssertionError("a damaged file gave another model")
            except BaseException:
                keep = os.path.abspath(f"fuzz-failure-{seed}")
                with open(keep, "wb") as file:
                    file.write(damaged)
                print(f"kept as {keep}")
                raise
            counts[f"{kind}: {outcome}"] = counts.get(f"{kind}: {outcome}", 0) + 1
    for name, count in sorted(counts.items()):
        print(f"{count:8}  {name}")


if __name__ == "__main__":
    main()

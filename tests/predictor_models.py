"""What the tests of predictors predict with: chains of layers, graphs with every operation or several inputs and
outputs, and rows for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from parity import Builder, make_network, random_parameters
from promises import activation

import fastperceptron as fp
from fastperceptron.program import Program, Signature

#: Values of the graph that are its outputs: each alone, all of them, and some of them twice.
GRAPH_OUTPUTS = [*((value,) for value in range(1, 13)), tuple(range(1, 13)), (12, 3, 12), (11, 11)]


def rows(n: int, width: int, dtype: str = "float32", seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((n, width)).astype(dtype)


def same(a: Any, b: Any) -> None:
    """Bit for bit."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(a, b)  # which says where
    assert a.tobytes() == b.tobytes()


def chain(
    widths: tuple[int, ...],
    kind: str = "relu",
    dtype: str = "float32",
    last: str = "linear",
    bias: bool = True,
    backend: str | None = None,
) -> fp.Sequential:
    """Dense layers with dropout between them; the biases are ones, since zeros could be left out."""
    more: dict[str, Any] = {"use_bias": bias, "bias_initializer": "ones"}
    layers: list[Any] = [fp.Input((widths[0],))]
    for width in widths[1:-1]:
        layers += [fp.Dense(width, activation=activation(kind), **more), fp.Dropout(0.3)]
    layers.append(fp.Dense(widths[-1], activation=last, **more))
    return fp.Sequential(layers, seed=1, dtype=dtype, backend=backend)


def predicted(model: fp.Model, x: Any) -> Any:
    """Of one sample. (NumPy's products give a row other bits in another batch.)"""
    return model.predict(np.asarray(x)[None])[0]


def at_once(threads: int, work: Callable[[int], None]) -> None:
    """Calls work(0), work(1), ... in a thread each."""
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def assert_threads_predict(model: fp.Model, p: Any, x: Any, singly: Any, from_row: Any) -> None:
    """Eight threads at once: singly[i] of sample i, from_row[i] of the rows from i on."""
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(40):
            i = (seed * 7 + k) % len(x)
            if not np.array_equal(p(x[i]), singly[i]) or not np.array_equal(model.predict_one(x[i]), singly[i]):
                wrong.append(i)
            if not np.array_equal(p(x[i:]), from_row[i]):
                wrong.append(-i)

    at_once(8, work)
    assert not wrong


def two_by_two(as_dict: bool = False, dtype: str = "float32", units: int = 9, backend: str | None = None) -> fp.Model:
    """Inputs of 6 and (2, 3), outputs of 4 and `units`, which the first one is computed from."""
    inputs = [fp.Input((6,), name="a"), fp.Input((2, 3), name="b")]
    h = fp.Dense(units, activation="tanh")(fp.Concatenate()([inputs[0], fp.Flatten()(inputs[1])]))
    y = fp.Dense(4, name="y")(h)
    outputs = {"first": y, "second": h} if as_dict else [y, h]
    return fp.Model(inputs, outputs, seed=0, dtype=dtype, backend=backend)


def two_rows(n: int, dtype: str = "float32") -> list[Any]:
    """Rows for these inputs."""
    return [rows(n, 6, dtype), rows(n, 6, dtype, seed=1).reshape(n, 2, 3)]


def graph(dtype: str, outputs: tuple[int, ...], inputs: int) -> Program:
    """Values that are read twice, skipped over, joined, and wanted while others still read them; weights that two
    layers share. One input of 5 columns, or a second one of 4; outputs as in GRAPH_OUTPUTS."""
    b = Builder(5 if inputs == 1 else 9, dtype)
    x, other = (0, 0) if inputs == 1 else (b.columns(0, 5), b.columns(5, 4))
    before = len(b.widths) - 1
    first = b.dense(x, 33, "tanh")
    bent = b.activation(first, "gelu")
    total = b.join("add", first, bent, first)
    dropped = b.dropout(total, 0.5, 16)
    product = b.dropout(b.join("multiply", dropped, bent), 0.5, 17)  # read in no other way
    shared = b.weights(33, 33, bias=False)
    second = b.dense(dropped, 33, "relu", parameters=(*shared, 1))  # with the first layer's bias
    third = b.dense(second, 33, "softsign", parameters=shared)
    together = b.join("concatenate", product, third, other, total, second)
    b.activation(b.dense(together, 4, "relu", bias=False), "softmax")
    b.join("add", together, together)
    assert len(b.widths) - before == 13
    return b.program(*(before + value for value in outputs))


def assert_graph_predicts(backend: Any, dtype: str, outputs: tuple[int, ...], inputs: int) -> None:
    """The network's predictor has the bits of its predict, whatever the number of rows."""
    program = graph(dtype, outputs, inputs)
    network = make_network(backend, program, random_parameters(program, np.random.default_rng(0)))
    widths = [program.widths[value] for value in program.outputs]
    x = [rows(130, width, program.array_dtype) for width in (5, 4)[:inputs]]
    expected = [np.empty((130, width), program.array_dtype) for width in widths]
    assert network.predict(x, expected, 0, 130, 1e9) == 130
    given, found = (tuple((a.shape[1],) for a in arrays) for arrays in (x, expected))
    p = network.predictor(Signature(("x", "z")[:inputs], given, tuple(f"y{i}" for i in range(len(found))), found))

    def check(part: Any) -> None:
        y = p([a[part] for a in x] if inputs > 1 else x[0][part])
        for one, wanted in zip(y if len(found) > 1 else [y], expected, strict=True):
            same(one, wanted[part])

    check(slice(None))
    for i in range(3):
        check(i)
        check(slice(i, i + 4))
        check(slice(i, i + 17))

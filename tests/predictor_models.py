"""What the tests of predictors predict with: chains of layers, a graph with every operation, and rows for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from parity import Builder, make_network, random_parameters
from promises import activation

import fastperceptron as fp
from fastperceptron.program import Program

#: Values of the graph, each of which can be its output.
GRAPH_VALUES = range(1, 13)


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


def graph(dtype: str, output: int) -> Program:
    """Values that are read twice, skipped over, joined, and wanted while others still read them; weights that two
    layers share. One output, any of GRAPH_VALUES."""
    b = Builder(5, dtype)
    first = b.dense(0, 33, "tanh")
    bent = b.activation(first, "gelu")
    total = b.join("add", first, bent, first)
    dropped = b.dropout(total, 0.5, 16)
    product = b.dropout(b.join("multiply", dropped, bent), 0.5, 17)  # read in no other way
    shared = b.weights(33, 33, bias=False)
    second = b.dense(dropped, 33, "relu", parameters=(*shared, 1))  # with the first layer's bias
    third = b.dense(second, 33, "softsign", parameters=shared)
    together = b.join("concatenate", product, third, 0, total, second)
    b.activation(b.dense(together, 4, "relu", bias=False), "softmax")
    b.join("add", together, together)
    assert len(b.widths) == GRAPH_VALUES.stop
    return b.program(output)


def assert_graph_predicts(backend: Any, dtype: str, output: int) -> None:
    """The network's predictor has the bits of its predict, whatever the number of rows."""
    program = graph(dtype, output)
    network = make_network(backend, program, random_parameters(program, np.random.default_rng(0)))
    width = program.widths[output]
    x, out = rows(130, 5, program.array_dtype), np.empty((130, width), program.array_dtype)
    assert network.predict(x, out, 0, 130, 1e9) == 130
    p = network.predictor((5,), (width,))
    same(p(x), out)
    for i in range(3):
        same(p(x[i]), out[i])
        for n in (4, 17):
            same(p(x[i : i + n]), out[i : i + n])

"""One training step in slow motion: every number of the chain rule, by layer and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .judging import Judge
from .layer import Layer
from .layers import Add, Concatenate, Multiply
from .program import NEEDS_Z, Operation
from .usercode import input_gradients, layer_backward, layer_forward, parameter_gradient, value_and_grad
from .weights import assign_all, values_of

if TYPE_CHECKING:
    from .fitting import Rows
    from .models import Model

__all__ = ["Trace", "trace"]

Array = NDArray[Any]

_SHOWN = 8  # numbers of an array in the table
_JOINS: dict[str, Layer] = {layer.kind: layer for layer in (Add(), Multiply(), Concatenate())}


class Trace(Mapping[str, dict[str, Array]]):
    """What one step computes, layer by layer: ``trace["dense"]["dw"]`` or ``trace["dense", "dw"]``.

    ======= ============ ===================================================================
    name    shape        is
    ======= ============ ===================================================================
    x       (n, in)      the layer's input
    w, b    (in, out),   the weights (of a layer written in Python: under their own names)
            (out,)
    z       (n, out)     x w + b
    y       (n, out)     f(z), the layer's output
    dy      (n, out)     d cost / d y, the sum over all paths from y to the cost
    dz      (n, out)     d cost / d z = dy f'(z)
    dw, db  as w and b   d cost / d w = x^T dz, d cost / d b = the column sums of dz
    dx      (n, in)      d cost / d x = dz w^T, the dy of the layer before
    ======= ============ ===================================================================

    A layer used again appears once per use ("dense", "dense:2", ..., but never under another layer's name), each with
    its own part of dw and db; ``gradients`` has the sums, by "<layer>/<weight>". ``losses`` are the samples' losses
    (with several outputs a dict by output), ``cost`` is sum_i weight_i losses_i / n (the weighted sum of these). A
    layer that takes a list has x1, x2, ... and dx1, dx2, ... ``str(trace)`` is a table.

    >>> import numpy as np, fastperceptron as fp
    >>> model = fp.Sequential([fp.Input((1,)), fp.Dense(1, kernel_initializer=np.array([[2.0]]))])
    >>> model.compile("sgd", "mse")
    >>> trace = model.trace([[3.0]], [[5.0]])
    >>> float(trace.cost), trace["dense", "dw"].tolist(), trace["dense", "db"].tolist()
    (1.0, [[6.0]], [2.0])
    """

    def __init__(self) -> None:
        self.layers: dict[str, dict[str, Array]] = {}
        self.gradients: dict[str, Array] = {}
        self.losses: Array | dict[str, Array] | None = None
        self.cost: float | None = None

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, tuple):
            layer, name = key
            return _look_up(self[layer], name, f"trace: name in {layer!r}")
        return _look_up(self.layers, key, "trace: layer")

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __str__(self) -> str:
        shown = [array for arrays in self.layers.values() for array in arrays.values()]
        losses: dict[str, Array] = {}
        if isinstance(self.losses, dict):
            losses = {f"{name} losses": array for name, array in self.losses.items()}
        elif self.losses is not None:
            losses = {"losses": self.losses}
        shown += losses.values()
        width = max((len(_number(value)) for array in shown for value in array.reshape(-1)[:_SHOWN]), default=0)
        label = max((len(name) for arrays in self.layers.values() for name in arrays), default=0)
        label = max(label + 2, *map(len, losses), len("losses"))
        lines = []
        for layer, arrays in self.layers.items():
            lines.append(layer)
            for name, array in arrays.items():
                lines.append(f"{'  ' + name:<{label}} {_shape_text(array.shape):<14} {_values(array, width)}")
        for name, array in losses.items():
            lines.append(f"{name:<{label}} {_shape_text(array.shape):<14} {_values(array, width)}")
        if self.cost is not None:
            lines.append(f"{'cost':<{label}} {self.cost:.6g}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        cost = "" if self.cost is None else f", cost {self.cost:.6g}"
        return f"<Trace of {', '.join(self.layers)}{cost}>"


class _Use:
    """One use of a layer: one operation, or product and softmax."""

    def __init__(self, op: Operation) -> None:
        self.operations = [op]
        self.arrays: dict[str, Array] = {}
        self.saved: Any = None


def trace(model: Model, x: Any, y: Any, sample_weight: Any, training: bool) -> Trace:
    """See ``Model.trace``."""
    graph = model._built_graph("trace")
    states = [weight for weight, _ in graph.state_owners] if training else []
    with model._ownership.writing("trace") if states else model._ownership.reading("trace"):
        rows = None
        if y is None:
            inputs = model._check_inputs(graph, "trace", x)
        else:
            model._ready("trace")
            rows = model._check_data(graph, "trace", x, y, sample_weight)
            inputs = rows.x
        before = values_of("trace", states)
        try:
            return _Tracer(model, inputs, training).run(rows)
        finally:  # layers in Python assign to their states
            assign_all("trace", states, before)


class _Tracer:
    def __init__(self, model: Model, inputs: Sequence[Array], training: bool) -> None:
        assert model._graph is not None
        assert model._network is not None
        self.model = model
        self.training = training
        self.graph = model._graph
        self.network = model._network
        self.backend = model._backend
        self.program = self.graph.program
        x = [np.ascontiguousarray(part, self.program.array_dtype) for part in inputs]
        self.values: dict[int, Array] = {0: x[0] if len(x) == 1 else np.concatenate(x, axis=1)}
        self.gradients: dict[int, Array] = {}
        self.parameters = [self.network.get_parameter(i) for i in range(len(self.program.parameters))]
        self.trainable = [weight.trainable and layer.trainable for weight, layer in self.graph.owners]
        self.uses: list[_Use] = []

    def run(self, rows: Rows | None) -> Trace:
        result = Trace()
        for op in self.program.operations:
            if op.kind == "columns":  # of one of several inputs
                self.values[op.output] = self.values[0][:, op.begin : op.begin + self.program.widths[op.output]]
            else:
                self._forward(op)
        if rows is not None:
            self._judge_all(result, rows)
            for use in reversed(self.uses):
                if use.operations[-1].output in self.gradients:  # a loss depends on it
                    self._backward(use, result)
        names = self.graph.structure.use_names([use.operations[0].name for use in self.uses])
        result.layers.update(zip(names, (use.arrays for use in self.uses), strict=True))
        return result

    def _forward(self, op: Operation) -> None:
        x = self.values[op.inputs[0]]
        if op.kind == "activation" and self.uses and self.uses[-1].operations[-1].output == op.inputs[0]:
            last = self.uses[-1]
            if last.operations[-1].kind == "dense" and last.operations[-1].name == op.name:  # softmax of a dense layer
                last.operations.append(op)
                last.arrays["y"] = self.values[op.output] = self._activate(op, x)
                return
        use = _Use(op)
        if len(op.inputs) == 1:
            use.arrays["x"] = x
        else:
            use.arrays |= {f"x{place}": self.values[v] for place, v in enumerate(op.inputs, 1)}
        self.uses.append(use)
        if op.kind == "dense":
            w = use.arrays["w"] = self.parameters[op.parameters[0]]
            b = None
            if len(op.parameters) > 1:
                b = use.arrays["b"] = self.parameters[op.parameters[1]]
            if self.program.is_mixed:
                z = self.backend.bfloat16_product(x, w)
                if b is not None:
                    with np.errstate(all="ignore"):
                        z += b
            else:
                z = self.backend.dense_forward(x, w, b, "linear", 0.0, None)
            use.arrays["z"] = z
            y = self._activate(op, z)
        elif op.kind == "activation":
            y = self._activate(op, x)
        elif op.kind == "dropout":
            y = x.copy()
            if self.training:
                y = self.backend.dropout_forward(x, op.rate, self.network.key, op.stream, self.network.step, None)
        elif op.kind == "python":
            y = self._python_forward(op, use)
        else:
            y, use.saved = _JOINS[op.kind].forward([self.values[v] for v in op.inputs], self.training)
        use.arrays["y"] = self.values[op.output] = y

    def _python_forward(self, op: Operation, use: _Use) -> Array:
        for weight in op.layer.weights:
            use.arrays[weight.name] = weight.value
        xs = [self.values[v].copy() for v in op.inputs]  # the layer may write over what it is given
        y, use.saved = layer_forward(op, self.graph.shapes[op.output], xs, self.training)
        return y

    def _activate(self, op: Operation, z: Array) -> Array:
        return np.asarray(self.backend.activation_forward(op.activation, op.alpha, z, None))

    def _judge_all(self, result: Trace, rows: Rows) -> None:
        several = len(self.model._judges) > 1
        losses: dict[str, Array] = {}
        result.cost = 0.0
        for place, judge in enumerate(self.model._judges):
            target = rows.y[place]
            if judge.loss is None or target is None:
                continue
            losses[judge.name] = self._judge(result, judge, self.program.outputs[place], target, rows.weights[place])
        result.losses = losses if several else next(iter(losses.values()))

    def _judge(self, result: Trace, judge: Judge, output: int, y: Array, weights: Array | None) -> Array:
        """The losses of one output, whose gradient and part of the cost are added."""
        loss, prediction = judge.loss, self.values[output]
        assert loss is not None
        assert result.cost is not None
        n = len(prediction)
        given = np.ones(n, prediction.dtype) if weights is None else np.ascontiguousarray(weights, prediction.dtype)
        y = y if loss.takes_labels else np.ascontiguousarray(y, prediction.dtype)
        native = loss.native()
        if native is None:
            losses, gradient = value_and_grad(loss, y.copy(), prediction.copy(), given.copy(), True)
            assert gradient is not None
            dy = gradient if judge.weight == 1 else gradient * judge.weight
        else:
            losses = self.backend.loss_forward(*native, y, prediction)
            dy = self.backend.loss_backward(*native, y, prediction, given, judge.weight / n, None)
        losses = np.asarray(losses, np.float64)
        result.cost += judge.weight * float(losses @ given.astype(np.float64) / n)
        self._add_gradient(output, np.asarray(dy, prediction.dtype))
        return losses

    def _add_gradient(self, value: int, gradient: Array) -> None:
        self.gradients[value] = self.gradients[value] + gradient if value in self.gradients else gradient

    def _backward(self, use: _Use, result: Trace) -> None:
        op, last = use.operations[0], use.operations[-1]
        dy = use.arrays["dy"] = self.gradients[last.output]
        if op.kind == "python":
            dxs = self._python_backward(op, dy, use, result)
        elif op.kind in _JOINS:
            dxs = [dx.copy() for dx in _JOINS[op.kind].backward(dy, use.saved)[0]]
        elif op.kind == "dropout":
            dx = dy.copy()
            if self.training:
                dx = self.backend.dropout_forward(dy, op.rate, self.network.key, op.stream, self.network.step, None)
            dxs = [dx]
        else:
            z = use.arrays["z"] if op.kind == "dense" else use.arrays["x"]
            saved = z if last.activation in NEEDS_Z else use.arrays["y"]
            dx = self.backend.activation_backward(last.activation, last.alpha, dy, saved, None)
            if op.kind == "dense":
                dx = self._dense_backward(op, dx, use, result)
            dxs = [dx]
        for place, (source, dx) in enumerate(zip(op.inputs, dxs, strict=True), 1):
            use.arrays["dx" if len(dxs) == 1 else f"dx{place}"] = dx
            self._add_gradient(source, dx)

    def _dense_backward(self, op: Operation, dz: Array, use: _Use, result: Trace) -> Array:
        use.arrays["dz"] = dz
        if self.program.is_mixed:
            use.arrays["dw"] = self.backend.bfloat16_product(use.arrays["x"], dz, transpose_a=True)
        else:
            use.arrays["dw"] = self.backend.dense_backward_weights(use.arrays["x"], dz, None)
        self._add(result, op.parameters[0], use.arrays["dw"])
        if len(op.parameters) > 1:
            use.arrays["db"] = self._bias_gradient(dz)
            self._add(result, op.parameters[1], use.arrays["db"])
        if self.program.is_mixed:
            return np.asarray(self.backend.bfloat16_product(dz, use.arrays["w"], transpose_b=True))
        return np.asarray(self.backend.dense_backward_input(dz, use.arrays["w"], None))

    def _bias_gradient(self, dz: Array) -> Array:
        if not self.program.is_mixed or self.network.backend != "native":
            return np.asarray(self.backend.dense_backward_bias(dz, None))
        # As a step does: 16 rows at a time (kSums16 of csrc/kernels/bf16.hpp), for the same bits.
        sums = (self.backend.dense_backward_bias(dz[i : i + 16], None) for i in range(0, len(dz), 16))
        return np.asarray(reduce(np.add, sums))

    def _python_backward(self, op: Operation, dy: Array, use: _Use, result: Trace) -> list[Array]:
        shapes = self.graph.shapes[op.output]
        dx, gradients = layer_backward(op, shapes, dy.copy(), use.saved)
        for index, weight, gradient in gradients:
            if gradient is not None or self.trainable[index]:
                gradient = use.arrays[f"d{weight.name}"] = parameter_gradient(op, weight, gradient, dy.dtype)
                self._add(result, index, gradient)
        everything = [True] * len(self.program.widths)
        return [gradient for _, gradient in input_gradients(op, shapes, dx, dy, everything)]

    def _add(self, result: Trace, index: int, gradient: Array) -> None:
        name = self.program.parameters[index].name
        known = result.gradients.get(name)
        result.gradients[name] = gradient.copy() if known is None else known + gradient


def _shape_text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _look_up(known: Mapping[str, Any], key: Any, what: str) -> Any:
    if key not in known:
        raise KeyError(f"{what} must be one of {', '.join(known)}; received {key!r}")
    return known[key]


def _number(value: Any) -> str:
    return f"{value + 0.0:.5g}"  # -0.0 + 0.0 is 0.0


def _values(array: Array, width: int) -> str:
    """The first numbers of an array, on one line; rows that fit are in brackets."""
    numbers = [f"{_number(value):>{width}}" for value in array.reshape(-1)[:_SHOWN]]
    columns = array.shape[-1] if array.ndim == 2 and len(array) > 1 else 0
    if 0 < columns <= _SHOWN:
        numbers = numbers[: len(numbers) // columns * columns]
        shown = "  ".join(f"[{'  '.join(numbers[i : i + columns])}]" for i in range(0, len(numbers), columns))
    else:
        shown = " " + "  ".join(numbers)
    return shown + ("  ..." if array.size > len(numbers) else "")

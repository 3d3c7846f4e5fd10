"""One training step in slow motion: every number of the chain rule, by layer and name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import data
from .program import NEEDS_Z, Operation

if TYPE_CHECKING:
    from .models import Model

__all__ = ["Trace", "trace"]

Array = NDArray[Any]

_SHOWN = 8  # numbers of an array in the table


class Trace(Mapping[str, dict[str, Array]]):
    """What one step computes, layer by layer: ``trace["dense"]["dw"]`` or ``trace["dense", "dw"]``.

    ======= ============ ===================================================================
    name    shape        is
    ======= ============ ===================================================================
    x       (n, in)      the layer's input
    w, b    (in, out)    the weights (of a layer written in Python: under their own names)
    z       (n, out)     x w + b
    y       (n, out)     f(z), the layer's output
    dy      (n, out)     d cost / d y, the sum over all paths from y to the cost
    dz      (n, out)     d cost / d z = dy f'(z)
    dw, db  as w and b   d cost / d w = x^T dz, d cost / d b = the column sums of dz
    dx      (n, in)      d cost / d x = dz w^T, the dy of the layer before
    ======= ============ ===================================================================

    A layer used again appears once per use ("dense", "dense:2", ...), each with its own part of dw and db;
    ``gradients`` has the sums, by "<layer>/<weight>". ``losses`` are the samples' losses, ``cost`` is sum_i weight_i
    losses_i / n. ``str(trace)`` is a table.

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
        self.losses: Array | None = None
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
        if self.losses is not None:
            shown.append(self.losses)
        width = max((len(_number(value)) for array in shown for value in array.reshape(-1)[:_SHOWN]), default=0)
        label = max((len(name) for arrays in self.layers.values() for name in arrays), default=0)
        label = max(label + 2, len("losses"))
        lines = []
        for layer, arrays in self.layers.items():
            lines.append(layer)
            for name, array in arrays.items():
                lines.append(f"{'  ' + name:<{label}} {_shape_text(array.shape):<14} {_values(array, width)}")
        if self.losses is not None and self.cost is not None:
            lines.append(f"{'losses':<{label}} {_shape_text(self.losses.shape):<14} {_values(self.losses, width)}")
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
    if y is None:
        matrix = data.flatten(data.as_rows(x, graph.input_shape, "trace"))
        target, weights = None, None
    else:
        model._ready("trace")
        matrix, target, weights = model._check_data(graph, "trace", x, y, sample_weight)
    with model._ownership.reading("trace"):
        return _Tracer(model, matrix, training).run(target, weights)


class _Tracer:
    def __init__(self, model: Model, x: Array, training: bool) -> None:
        assert model._graph is not None
        assert model._network is not None
        self.model = model
        self.training = training
        self.graph = model._graph
        self.network = model._network
        self.backend = model._backend
        self.program = self.graph.program
        self.values: dict[int, Array] = {0: np.ascontiguousarray(x, self.program.array_dtype)}
        self.gradients: dict[int, Array] = {}
        self.parameters = [self.network.get_parameter(i) for i in range(len(self.program.parameters))]
        self.uses: list[_Use] = []

    def run(self, y: Array | None, weights: Array | None) -> Trace:
        result = Trace()
        for op in self.program.operations:
            self._forward(op)
        if y is not None:
            self._judge(result, y, weights)
            for use in reversed(self.uses):
                self._backward(use, result)
        count: dict[str, int] = {}
        for use in self.uses:
            name = use.operations[0].name
            count[name] = count.get(name, 0) + 1
            result.layers[name if count[name] == 1 else f"{name}:{count[name]}"] = use.arrays
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
        use.arrays["x"] = x
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
        else:
            y = self._python_forward(op, x, use)
        use.arrays["y"] = self.values[op.output] = y

    def _python_forward(self, op: Operation, x: Array, use: _Use) -> Array:
        for weight in op.layer.weights:
            use.arrays[weight.name] = weight.value
        shape, _ = self.graph.shapes[op.output]
        y, use.saved = op.layer.forward(x.reshape(len(x), *shape), self.training)
        return np.ascontiguousarray(y, x.dtype).reshape(len(x), self.program.widths[op.output])

    def _activate(self, op: Operation, z: Array) -> Array:
        return np.asarray(self.backend.activation_forward(op.activation, op.alpha, z, None))

    def _judge(self, result: Trace, y: Array, weights: Array | None) -> None:
        assert self.model._compiled is not None
        loss, prediction = self.model._compiled.loss, self.values[self.program.output]
        n = max(len(prediction), 1)
        given = np.ones(n, prediction.dtype) if weights is None else np.ascontiguousarray(weights, prediction.dtype)
        y = y if loss.takes_labels else np.ascontiguousarray(y, prediction.dtype)
        native = loss.native()
        if native is None:
            losses, dy = loss.value_and_grad(y, prediction, given)
        else:
            losses = self.backend.loss_forward(*native, y, prediction)
            dy = self.backend.loss_backward(*native, y, prediction, given, 1.0 / n, None)
        result.losses = np.asarray(losses, np.float64)
        result.cost = float(result.losses @ given.astype(np.float64) / n)
        self.gradients[self.program.output] = np.asarray(dy)

    def _backward(self, use: _Use, result: Trace) -> None:
        op, last = use.operations[0], use.operations[-1]
        dy = use.arrays["dy"] = self.gradients[last.output]
        if op.kind == "python":
            dx = self._python_backward(op, dy, use, result)
        elif op.kind == "dropout":
            dx = dy.copy()
            if self.training:
                dx = self.backend.dropout_forward(dy, op.rate, self.network.key, op.stream, self.network.step, None)
        else:
            z = use.arrays["z"] if op.kind == "dense" else use.arrays["x"]
            saved = z if last.activation in NEEDS_Z else use.arrays["y"]
            dx = self.backend.activation_backward(last.activation, last.alpha, dy, saved, None)
            if op.kind == "dense":
                dx = self._dense_backward(op, dx, use, result)
        use.arrays["dx"] = dx
        source = op.inputs[0]
        self.gradients[source] = self.gradients[source] + dx if source in self.gradients else dx

    def _dense_backward(self, op: Operation, dz: Array, use: _Use, result: Trace) -> Array:
        use.arrays["dz"] = dz
        if self.program.is_mixed:
            use.arrays["dw"] = self.backend.bfloat16_product(use.arrays["x"], dz, transpose_a=True)
        else:
            use.arrays["dw"] = self.backend.dense_backward_weights(use.arrays["x"], dz, None)
        self._add(result, op.parameters[0], use.arrays["dw"])
        if len(op.parameters) > 1:
            use.arrays["db"] = self.backend.dense_backward_bias(dz, None)
            self._add(result, op.parameters[1], use.arrays["db"])
        if self.program.is_mixed:
            return np.asarray(self.backend.bfloat16_product(dz, use.arrays["w"], transpose_b=True))
        return np.asarray(self.backend.dense_backward_input(dz, use.arrays["w"], None))

    def _python_backward(self, op: Operation, dy: Array, use: _Use, result: Trace) -> Array:
        _, output_shape = self.graph.shapes[op.output]
        dx, grads = op.layer.backward(dy.reshape(len(dy), *output_shape), use.saved)
        if not isinstance(grads, Mapping):
            grads = dict(zip([weight.name for weight in op.layer.weights], grads or (), strict=False))
        trained = [weight for weight in op.layer.weights if not weight.is_state]
        for index, weight in zip(op.parameters, trained, strict=True):
            if grads.get(weight.name) is not None:
                use.arrays[f"d{weight.name}"] = np.asarray(grads[weight.name])
                self._add(result, index, use.arrays[f"d{weight.name}"])
        return np.ascontiguousarray(dx, dy.dtype).reshape(len(dy), self.program.widths[op.inputs[0]])

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

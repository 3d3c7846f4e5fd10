"""Slow, obvious float64 oracles: explicit loops over Python floats, and nothing of the package's own arithmetic.

Arrays are only containers here. Every function follows its textbook formula; where that formula would overflow or
cancel, the arguments that tests pass stay clear of it or the stable form is written out.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

EPSILON = 1e-7
SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717

# -- Philox4x32-10 ---------------------------------------------------------------------------------------------


def philox_block(counter: tuple[int, int, int, int], key: int) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key % 2**32, key // 2**32 % 2**32
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def _last_counters(stream: int, step: int) -> tuple[int, int]:
    return step % 2**32, stream * 2**16 + step // 2**32 % 2**16


def philox_words(key: int, stream: int, step: int, count: int) -> list[int]:
    words: list[int] = []
    for i in range((count + 3) // 4):
        words += philox_block((i % 2**32, i // 2**32, *_last_counters(stream, step)), key)
    return words[:count]


def dropout(x: np.ndarray, rate: float, key: int, stream: int, step: int) -> np.ndarray:
    y = np.zeros(x.shape)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            word = philox_block((j // 4, i, *_last_counters(stream, step)), key)[j % 4]
            if word >= math.floor(rate * 2**32):
                y[i, j] = float(x[i, j]) / (1 - rate)
    return y


# -- activations -----------------------------------------------------------------------------------------------


def _phi(z: float) -> float:
    return math.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def _cdf(z: float) -> float:
    return math.erfc(-z / math.sqrt(2)) / 2


def _sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z)) if z > -700 else math.exp(z)


def _softplus(z: float) -> float:
    return z + math.log1p(math.exp(-z)) if z > 0 else math.log1p(math.exp(z))


def _inner(z: float) -> float:
    return math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def activation(name: str, alpha: float, z: float) -> float:
    match name:
        case "linear":
            return z
        case "relu":
            return 0.0 if z < 0 else z
        case "leaky_relu":
            return alpha * z if z < 0 else z
        case "elu":
            return alpha * math.expm1(z) if z < 0 else z
        case "selu":
            return SELU_SCALE * (SELU_ALPHA * math.expm1(z) if z < 0 else z)
        case "gelu":
            return z * _cdf(z)
        case "gelu_tanh":
            return z * _sigmoid(2 * _inner(z))
        case "silu":
            return z * _sigmoid(z)
        case "mish":
            return z * math.tanh(_softplus(z))
        case "softplus":
            return _softplus(z)
        case "softsign":
            return z / (1 + abs(z))
        case "sigmoid":
            return _sigmoid(z)
        case "tanh":
            return math.tanh(z)
        case "step":
            return 1.0 if z >= 0 else 0.0
    raise AssertionError(name)


def derivative(name: str, alpha: float, z: float) -> float:
    match name:
        case "linear":
            return 1.0
        case "relu":
            return 1.0 if z > 0 else 0.0
        case "leaky_relu":
            return 1.0 if z > 0 else alpha
        case "elu":
            return 1.0 if z > 0 else alpha * math.exp(z)
        case "selu":
            return SELU_SCALE * (1.0 if z > 0 else SELU_ALPHA * math.exp(z))
        case "gelu":
            return _cdf(z) + z * _phi(z)
        case "gelu_tanh":
            s = _sigmoid(2 * _inner(z))
            slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
            return s + z * 2 * slope * s * _sigmoid(-2 * _inner(z))
        case "silu":
            return _sigmoid(z) + z * _sigmoid(z) * _sigmoid(-z)
        case "mish":
            return math.tanh(_softplus(z)) + z * _sigmoid(z) / math.cosh(min(_softplus(z), 300)) ** 2
        case "softplus":
            return _sigmoid(z)
        case "softsign":
            return 1 / (1 + abs(z)) ** 2
        case "sigmoid":
            return _sigmoid(z) * _sigmoid(-z)
        case "tanh":
            return 1 / math.cosh(min(abs(z), 300)) ** 2
        case "step":
            return 0.0
    raise AssertionError(name)


def activate(name: str, alpha: float, z: np.ndarray) -> np.ndarray:
    """Over an (n, width) matrix; softmax over each row."""
    y = np.zeros(z.shape)
    for i in range(z.shape[0]):
        row = [float(v) for v in z[i]]
        y[i] = softmax(row) if name == "softmax" else [activation(name, alpha, v) for v in row]
    return y


def activate_backward(name: str, alpha: float, dy: np.ndarray, z: np.ndarray) -> np.ndarray:
    """dz from dy and the pre-activation."""
    dz = np.zeros(z.shape)
    for i in range(z.shape[0]):
        row = [float(v) for v in z[i]]
        if name == "softmax":
            y = softmax(row)
            for j in range(len(row)):  # the Jacobian, entry by entry
                for k in range(len(row)):
                    dz[i, j] += float(dy[i, k]) * y[k] * ((j == k) - y[j])
        else:
            dz[i] = [float(dy[i, j]) * derivative(name, alpha, v) for j, v in enumerate(row)]
    return dz


def softmax(row: list[float]) -> list[float]:
    if not row:
        return []
    largest = max(row)
    exponentials = [math.exp(v - largest) for v in row]
    total = math.fsum(exponentials)
    return [e / total for e in exponentials]


# -- the dense layer ---------------------------------------------------------------------------------------------


def rounded(x: np.ndarray) -> np.ndarray:
    """To bfloat16, 8 bits of significand, by arithmetic in float64."""
    with np.errstate(all="ignore"):
        x = np.asarray(x, np.float32).astype(np.float64)
        ulp = 2.0 ** (np.floor(np.log2(np.abs(x))) - 7)
        r = np.where(np.abs(x) < 2.0**-126, np.copysign(0.0, x), np.rint(x / ulp) * ulp)
        r = np.where(np.abs(r) >= 2.0**128, np.copysign(np.inf, x), r)
    return np.where(np.isfinite(x), r, x)


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b, every element an exactly rounded sum of products."""
    c = np.zeros((a.shape[0], b.shape[1]))
    for i in range(a.shape[0]):
        for j in range(b.shape[1]):
            c[i, j] = math.fsum(float(a[i, p]) * float(b[p, j]) for p in range(a.shape[1]))
    return c


def dense(x: np.ndarray, w: np.ndarray, b: np.ndarray | None) -> np.ndarray:
    z = product(x, w)
    if b is not None:
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                z[i, j] += float(b[j])
    return z


def column_sums(dz: np.ndarray) -> np.ndarray:
    return np.array([math.fsum(float(v) for v in dz[:, j]) for j in range(dz.shape[1])])


# -- losses ------------------------------------------------------------------------------------------------------


def _clip(p: float) -> float:
    return min(max(p, EPSILON), 1 - EPSILON)


def _outside(p: float) -> bool:
    return p < EPSILON or p > 1 - EPSILON


def _element_loss(kind: str, delta: float, t: float, p: float) -> float:
    sign = 1.0 if t > 0 else -1.0
    match kind:
        case "mean_squared_error":
            return (p - t) ** 2
        case "mean_absolute_error":
            return abs(p - t)
        case "huber":
            return (p - t) ** 2 / 2 if abs(p - t) <= delta else delta * (abs(p - t) - delta / 2)
        case "binary_cross_entropy":
            return -t * math.log(_clip(p)) - (1 - t) * math.log(1 - _clip(p))
        case "binary_cross_entropy_logits":
            return max(p, 0.0) - p * t + math.log1p(math.exp(-abs(p)))
        case "hinge":
            return max(0.0, 1 - sign * p)
        case "perceptron":
            return max(0.0, -sign * p)
    raise AssertionError(kind)


def _element_gradient(kind: str, delta: float, t: float, p: float) -> float:
    sign = 1.0 if t > 0 else -1.0
    match kind:
        case "mean_squared_error":
            return 2 * (p - t)
        case "mean_absolute_error":
            return 0.0 if p == t else math.copysign(1.0, p - t)
        case "huber":
            return p - t if abs(p - t) <= delta else math.copysign(delta, p - t)
        case "binary_cross_entropy":
            return 0.0 if _outside(p) else -t / p + (1 - t) / (1 - p)
        case "binary_cross_entropy_logits":
            return _sigmoid(p) - t
        case "hinge":
            return -sign if 1 - sign * p > 0 else 0.0
        case "perceptron":
            return -sign if -sign * p >= 0 else 0.0
    raise AssertionError(kind)


def _distribution(kind: str, target: Any, width: int) -> list[float]:
    """The targets as a row: labels become one-hot."""
    if kind.startswith("sparse_"):
        return [1.0 if j == int(target) else 0.0 for j in range(width)]
    return [float(v) for v in target]


def loss(kind: str, delta: float, target: Any, prediction: np.ndarray) -> float:
    """Of one row."""
    p = [float(v) for v in prediction]
    t = _distribution(kind, target, len(p))
    if kind.endswith("categorical_cross_entropy"):
        return -math.fsum(a * math.log(_clip(b)) for a, b in zip(t, p, strict=True))
    if kind.endswith("categorical_cross_entropy_logits"):
        largest = max(p)
        total = math.log(math.fsum(math.exp(v - largest) for v in p))
        return math.fsum(a * (total - (v - largest)) for a, v in zip(t, p, strict=True))
    return math.fsum(_element_loss(kind, delta, a, b) for a, b in zip(t, p, strict=True)) / len(p)


def loss_gradient(kind: str, delta: float, target: Any, prediction: np.ndarray) -> list[float]:
    """Of one row's loss with respect to its prediction."""
    p = [float(v) for v in prediction]
    t = _distribution(kind, target, len(p))
    if kind.endswith("categorical_cross_entropy"):
        return [0.0 if _outside(b) else -a / b for a, b in zip(t, p, strict=True)]
    if kind.endswith("categorical_cross_entropy_logits"):
        total = math.fsum(t)
        return [s * total - a for s, a in zip(softmax(p), t, strict=True)]
    return [_element_gradient(kind, delta, a, b) / len(p) for a, b in zip(t, p, strict=True)]


# -- a whole step --------------------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One training step: what it computed and what it left."""

    cost: float
    losses: list[float]
    values: dict[int, np.ndarray]
    z: dict[int, np.ndarray]  # what each operation's activation was applied to
    gradients: list[np.ndarray]  # zeros for frozen parameters
    parameters: list[np.ndarray]
    velocities: list[np.ndarray]


class Head(NamedTuple):
    """A head as in fastperceptron.program, with its targets and sample weights."""

    output: int
    kind: str
    y: np.ndarray
    sample_weight: np.ndarray | None = None
    parameter: float = 0.0
    weight: float = 1.0
    normaliser: str = "rows"


def train_step(
    program: Any,
    parameters: list[np.ndarray],
    velocities: list[np.ndarray],
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    *,
    kind: str,
    delta: float = 0.0,
    **settings: Any,
) -> Step:
    """One step with one loss on the first output."""
    return step_of_heads(program, parameters, velocities, x, [Head(0, kind, y, weights, delta)], **settings)


def step_of_heads(
    program: Any,
    parameters: list[np.ndarray],
    velocities: list[np.ndarray],
    x: np.ndarray,
    heads: list[Head],
    *,
    learning_rate: float = 0.0,
    momentum: float = 0.0,
    nesterov: bool = False,
    trainable: list[bool] | None = None,
    rates: list[float] | None = None,
    key: int = 0,
    step: int = 0,
    training: bool = True,
) -> Step:
    """Forward, losses, chain rule and SGD over a program's operations."""
    values = {0: np.array(x, np.float64)}
    z: dict[int, np.ndarray] = {}
    for i, op in enumerate(program.operations):
        values[op.output] = _forward(program, i, op, parameters, values, z, key, step, training)

    n = len(x)
    losses: list[float] = []
    cost = 0.0
    value_gradients = {v: np.zeros(values[v].shape) for v in values}
    gradients = [np.zeros(p.shape) for p in program.parameters]
    for head in heads:
        v = program.outputs[head.output]
        w = [1.0 if head.sample_weight is None else float(head.sample_weight[i]) for i in range(n)]
        divisor = math.fsum(w) if head.normaliser == "weights" else n
        mine = [loss(head.kind, head.parameter, head.y[i], values[v][i]) for i in range(n)]
        losses += mine
        cost += head.weight * math.fsum(a * b for a, b in zip(w, mine, strict=True)) / divisor
        for i in range(n):
            slope = loss_gradient(head.kind, head.parameter, head.y[i], values[v][i])
            value_gradients[v][i] += [head.weight * w[i] / divisor * g for g in slope]
    for i in reversed(range(len(program.operations))):
        op = program.operations[i]
        dy = value_gradients[op.output]
        source = values[op.inputs[0]]
        if op.kind == "dense":
            dz = activate_backward(op.activation, op.alpha, dy, z[i])
            gradients[op.parameters[0]] += product(source.T, dz)
            if len(op.parameters) > 1:
                gradients[op.parameters[1]] += column_sums(dz)
            value_gradients[op.inputs[0]] += product(dz, np.asarray(parameters[op.parameters[0]]).T)
        elif op.kind == "activation":
            value_gradients[op.inputs[0]] += activate_backward(op.activation, op.alpha, dy, z[i])
        elif op.kind == "dropout":
            value_gradients[op.inputs[0]] += dropout(dy, op.rate, key, op.stream, step) if training else dy
        else:
            _join_backward(op, dy, values, value_gradients)

    new_parameters, new_velocities = [], []
    for p, g in enumerate(gradients):
        if trainable is not None and not trainable[p]:
            g[...] = 0
            new_parameters.append(np.array(parameters[p], np.float64))
            new_velocities.append(np.array(velocities[p], np.float64))
            continue
        rate = learning_rate * (1.0 if rates is None else rates[p])
        a, v_new = sgd(parameters[p], g, velocities[p], rate, momentum, nesterov)
        new_parameters.append(a)
        new_velocities.append(v_new)
    return Step(cost, losses, values, z, gradients, new_parameters, new_velocities)


def _forward(
    program: Any,
    i: int,
    op: Any,
    parameters: list[np.ndarray],
    values: dict[int, np.ndarray],
    z: dict[int, np.ndarray],
    key: int,
    step: int,
    training: bool,
) -> np.ndarray:
    source = values[op.inputs[0]]
    match op.kind:
        case "dense":
            bias = parameters[op.parameters[1]] if len(op.parameters) > 1 else None
            z[i] = dense(source, parameters[op.parameters[0]], bias)
            return activate(op.activation, op.alpha, z[i])
        case "activation":
            z[i] = source
            return activate(op.activation, op.alpha, source)
        case "dropout":
            return dropout(source, op.rate, key, op.stream, step) if training else source
        case "columns":
            return source[:, op.begin : op.begin + program.widths[op.output]]
    y = np.zeros((len(source), program.widths[op.output]))
    for r in range(y.shape[0]):
        rows = [[float(v) for v in values[x][r]] for x in op.inputs]
        if op.kind == "concatenate":
            y[r] = [v for row in rows for v in row]
        else:
            combine = math.fsum if op.kind == "add" else math.prod
            y[r] = [combine(column) for column in zip(*rows, strict=True)]
    return y


def _join_backward(
    op: Any, dy: np.ndarray, values: dict[int, np.ndarray], value_gradients: dict[int, np.ndarray]
) -> None:
    """Each input's part of the sum over paths, element by element."""
    if op.kind == "columns":
        return  # the input's gradient is not wanted
    begin = 0
    for place, v in enumerate(op.inputs):
        dx = value_gradients[v]
        for r in range(dx.shape[0]):
            for j in range(dx.shape[1]):
                if op.kind == "concatenate":
                    dx[r, j] += float(dy[r, begin + j])
                else:
                    others = [float(values[o][r, j]) for at, o in enumerate(op.inputs) if at != place]
                    dx[r, j] += float(dy[r, j]) * (math.prod(others) if op.kind == "multiply" else 1.0)
        begin += dx.shape[1]


def sgd(
    w: np.ndarray, g: np.ndarray, v: np.ndarray, learning_rate: float, momentum: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The new parameter and the new velocity."""
    new_w, new_v = np.zeros(w.shape), np.zeros(w.shape)
    for at in np.ndindex(*w.shape):
        velocity = momentum * float(v[at]) - learning_rate * float(g[at])
        new_v[at] = velocity
        if nesterov:
            new_w[at] = float(w[at]) + momentum * velocity - learning_rate * float(g[at])
        else:
            new_w[at] = float(w[at]) + velocity
    return new_w, new_v

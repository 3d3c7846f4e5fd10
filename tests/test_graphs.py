"""Networks that are no chains: values joined and shared, several outputs, several losses, frozen parameters, factors of
the learning rate, state. Three judges: explicit loops (reference.py), central differences, and the other backend.

Tolerances as in test_gradients.py: differences with a step of 1e-5 err by about 1e-10 of the largest derivative.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import parity
import pytest
import reference
from pure import BACKENDS, PURE

from fastperceptron.errors import ShapeError
from fastperceptron.program import PRECISIONS, Head, Operation, Parameter, Program

N = 5
H = 1e-5
#: Smooth: nothing has to keep away from kinks.
ACTIVATIONS = ("linear", "tanh", "sigmoid", "gelu", "silu", "softplus", "mish", "softsign")
KINDS = (
    "mean_squared_error",
    "huber",
    "binary_cross_entropy_logits",
    "categorical_cross_entropy_logits",
    "sparse_categorical_cross_entropy_logits",
)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    return parity.load_backend(request.param)


class Case:
    """A random graph with losses, data and what is frozen."""

    def __init__(self, seed: int, n: int = N, scale: int = 1, dtype: str = "float64", dropout: bool = True) -> None:
        rng = np.random.default_rng(seed)
        parts = [int(width) for width in rng.integers(1, 5, int(rng.integers(1, 4)))]
        parts = [width * scale for width in parts]
        b = parity.Builder(sum(parts), dtype)
        starts = np.cumsum([0, *parts[:-1]])
        values = [b.columns(int(at), width) for at, width in zip(starts, parts, strict=True)]
        values.append(0)
        shared: dict[tuple[int, int], tuple[int, ...]] = {}
        stream = 16
        for _ in range(int(rng.integers(4, 10))):
            x = values[int(rng.integers(len(values)))]
            name = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
            same = [v for v in values if b.widths[v] == b.widths[x]]
            match int(rng.integers(8)):
                case 0 | 1:
                    y = b.dense(x, scale * int(rng.integers(1, 6)), name, bias=bool(rng.integers(2)))
                case 2:  # a kernel that may be used elsewhere too
                    shape = (b.widths[x], 3 * scale)
                    if shape not in shared:
                        shared[shape] = b.weights(*shape)
                    y = b.dense(x, shape[1], name, parameters=shared[shape])
                case 3:
                    y = b.activation(x, "softmax" if rng.integers(3) == 0 else name)
                case 4 if dropout:
                    y, stream = b.dropout(x, 0.3, stream), stream + 1
                case 5:
                    y = b.join("concatenate", *(values[int(i)] for i in rng.integers(len(values), size=3)))
                case 6:
                    y = b.join("multiply", x, *(same[int(i)] for i in rng.integers(len(same), size=2)))
                case _:
                    y = b.join("add", x, *(same[int(i)] for i in rng.integers(len(same), size=2)))
            values.append(y)
        # What is nowhere read, values in the middle, and perhaps one of them twice.
        read = {v for op in b.operations for v in op.inputs}
        outputs = [v for v in values if v not in read and v != 0][-2:]
        outputs += [values[int(i)] for i in rng.integers(len(parts) + 1, len(values), size=2)]
        outputs = [b.dense(v, b.widths[v]) if rng.integers(3) == 0 else v for v in outputs]
        self.program = b.program(*outputs)
        self.parts, self.n = parts, n
        self.parameters = parity.random_parameters(self.program, rng)
        dtype = PRECISIONS[dtype]
        self.x = rng.normal(size=(n, sum(parts))).astype(dtype)
        self.heads: list[reference.Head] = []
        for place in rng.permutation(len(outputs))[: int(rng.integers(1, len(outputs) + 1))]:
            width = self.program.widths[outputs[place]]
            kind = KINDS[int(rng.integers(len(KINDS)))]
            if width == 1 and "categorical" in kind:
                kind = "mean_squared_error"
            weights = rng.uniform(0.2, 2, n).astype(dtype) if rng.integers(2) else None
            normaliser = ("rows", "weights")[int(rng.integers(2))]
            y = parity.targets_for(kind, rng, n, width, dtype)
            self.heads.append(reference.Head(int(place), kind, y, weights, 0.8, float(rng.uniform(0.3, 2)), normaliser))
        count = len(self.parameters)
        self.trainable = [bool(flag) for flag in rng.random(count) > 0.2]
        self.rates = [float(rate) for rate in rng.choice([1.0, 0.5, 2.0, 0.0], count)]

    def network(self, backend: Any, settings: dict[str, float] | None = None) -> Any:
        network = parity.make_network(backend, self.program, self.parameters, key=5)
        network.set_heads([Head(h.output, h.kind, h.parameter, h.weight, h.normaliser) for h in self.heads])
        network.set_metrics(
            [
                ("sparse_categorical_accuracy" if h.kind.startswith("sparse") else "r2", 0.0, place)
                for place, h in enumerate(self.heads)
            ]
        )
        network.set_trainable(self.trainable)
        network.set_rates(self.rates)
        if settings is not None:
            network.set_optimizer("sgd", settings)
        return network

    @property
    def data(self) -> tuple[Any, Any, Any]:
        """x in its parts, and targets and weights of each head."""
        cuts = np.cumsum(self.parts)[:-1]
        return (
            tuple(np.split(self.x, cuts, axis=1)),
            tuple(head.y for head in self.heads),
            tuple(head.sample_weight for head in self.heads),
        )

    def oracle(self, **settings: Any) -> reference.Step:
        zeros = [np.zeros(p.shape) for p in self.parameters]
        return reference.step_of_heads(
            self.program, self.parameters, zeros, self.x, self.heads,
            trainable=self.trainable, rates=self.rates, key=5, **settings,
        )  # fmt: skip


def case_of_parts() -> Case:
    """One with several inputs and several losses."""
    return next(case for seed in range(100) if len((case := Case(seed)).parts) > 1 < len(case.heads))


def forward_and_loss(network: Any, training: bool) -> float:
    network.forward(0, len(network.program.operations), True)
    return float(network.loss(training))


@pytest.mark.parametrize("seed", range(60))
def test_gradients_of_random_graphs(backend: Any, seed: int) -> None:
    case = Case(seed)
    operations = len(case.program.operations)
    expected = case.oracle()
    network = case.network(backend)
    network.load_batch(*case.data, None, 0, N)
    assert forward_and_loss(network, True) == pytest.approx(expected.cost, rel=1e-12)
    network.backward(0, operations)
    gradients = [network.get_gradient(i) for i in range(len(case.parameters))]
    for flag, gradient, oracle in zip(case.trainable, gradients, expected.gradients, strict=True):
        if flag:
            np.testing.assert_allclose(gradient, oracle, rtol=1e-9, atol=1e-12)
    for i, p in enumerate(case.parameters):
        if not case.trainable[i]:
            continue
        quotient = np.zeros(p.shape)
        for at in np.ndindex(*p.shape):
            costs = []
            for h in (H, -H):
                moved = p.copy()
                moved[at] += h
                network.set_parameter(i, moved)
                costs.append(forward_and_loss(network, False))
            quotient[at] = (costs[0] - costs[1]) / (2 * H)
        network.set_parameter(i, p)
        # The cost itself is rounded at 1e-16 of its size, over 2 H.
        slack = 1e-9 + 1e-11 * abs(expected.cost) + 1e-6 * np.abs(quotient).max(initial=0)
        np.testing.assert_allclose(gradients[i], quotient, rtol=1e-6, atol=slack)


@pytest.mark.parametrize("seed", range(40))
def test_a_whole_step(backend: Any, seed: int) -> None:
    """Fused updates, factors, frozen parameters, parameters that no loss reaches, and what each value was."""
    case = Case(1000 + seed)
    settings = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": float(seed % 2)}
    network = case.network(backend, settings)
    assert network.train_steps(*case.data, None, N, 0, N, 0.0) == N
    expected = case.oracle(learning_rate=0.1, momentum=0.9, nesterov=bool(seed % 2))
    for i, (w, v) in enumerate(zip(expected.parameters, expected.velocities, strict=True)):
        np.testing.assert_allclose(network.get_parameter(i), w, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(network.get_slot("momentum", i), v, rtol=1e-9, atol=1e-12)
    sums = network.get_metrics()
    cost = sum(h.weight * s[0] / s[1] for h, s in zip(case.heads, sums, strict=False))
    assert cost == pytest.approx(expected.cost, rel=1e-12)
    out = [np.empty((N, case.program.widths[v])) for v in case.program.outputs]
    case.parameters = [network.get_parameter(i) for i in range(len(case.parameters))]
    values = case.oracle(training=False).values
    position = 0
    while position < N:
        position = network.predict(case.data[0], tuple(out), position, N, 0.0)
    for y, v in zip(out, case.program.outputs, strict=True):
        np.testing.assert_allclose(y, values[v], rtol=1e-9, atol=1e-12)


def run(backend: Any, case: Case, threads: int, batch: int, steps: int, pieces: bool = False) -> list[np.ndarray]:
    """Everything that training leaves: parameters, momentum, logs, predictions."""
    network = case.network(backend, {"learning_rate": 0.05, "momentum": 0.9})
    network.set_threads(threads)
    x, y, weights = case.data
    operations = len(case.program.operations)
    while network.step < steps:
        rows = np.random.default_rng(network.step).permutation(case.n)
        begin = 0
        while begin < case.n:
            if not pieces:
                begin = network.train_steps(x, y, weights, rows, batch, begin, case.n, 0.001)
                continue
            end = min(begin + batch, case.n)
            network.load_batch(x, y, weights, rows, begin, end)
            for i in range(operations):
                network.forward(i, i + 1, True)
            network.loss(True)
            for i in reversed(range(operations)):
                network.backward(i, i + 1)
            network.update()
            begin = end
    out = [np.empty((case.n, case.program.widths[v]), case.program.array_dtype) for v in case.program.outputs]
    begin = 0
    while begin < case.n:
        begin = network.predict(x, out, begin, case.n, 1.0)
    count = range(len(case.parameters))
    kept = [network.get_parameter(i) for i in count] + [network.get_slot("momentum", i) for i in count]
    return [*kept, *network.get_metrics(), *out]


@pytest.mark.skipif(PURE, reason="needs both backends")
@pytest.mark.parametrize("seed", range(12))
def test_training_is_the_same_on_both_backends(seed: int) -> None:
    """Roundings of 1e-16 grow through a dozen steps; a wrong term shows at 1e-3."""
    case = Case(2000 + seed, n=67)
    ours = run(parity.load_backend("native"), case, 2, 16, 12)
    theirs = run(parity.load_backend("numpy"), case, 1, 16, 12)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8 * max(1.0, float(np.abs(b).max(initial=0))))


@pytest.mark.skipif(PURE, reason="threads are the native backend's")
@pytest.mark.parametrize("dtype", list(PRECISIONS))
@pytest.mark.parametrize("batch", [9, 96, 700])  # cut by rows and columns, and by rows
@pytest.mark.parametrize("seed", range(3))
def test_threads_and_pieces_give_the_same_bits(seed: int, batch: int, dtype: str) -> None:
    native = parity.load_backend("native")
    case = Case(3000 + seed, n=max(200, batch), scale=37, dtype=dtype)
    expected = run(native, case, 1, batch, 3)
    for threads, pieces in ((2, False), (5, False), (1, True), (3, True)):
        for a, b in zip(run(native, case, threads, batch, 3, pieces), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.skipif(PURE, reason="threads are the native backend's")
def test_a_bias_that_is_shared_apart_from_its_kernel() -> None:
    """Kernels of 40 and 16 rows are cut so that their first rows are not the same thread's."""
    b, rows = parity.Builder(1024, "float32"), 512
    wide = b.dense(b.dense(0, 1024, "tanh"), 1024, "tanh")
    tall, short = b.dense(wide, 40, "tanh"), b.dense(wide, 16, "tanh")
    kernel, bias = b.weights(40, 20)
    outputs = [
        b.dense(tall, 20, "linear", parameters=(kernel, bias)),
        b.dense(short, 20, "linear", parameters=(*b.weights(16, 20, bias=False), bias)),
        b.dense(tall, 20, "linear", parameters=(kernel,)),
    ]
    program = b.program(b.join("add", *outputs))
    rng = np.random.default_rng(0)
    parameters = parity.random_parameters(program, rng)
    x, y = (rng.normal(size=(4 * rows, width)).astype(np.float32) for width in (1024, 20))

    def trained(threads: int) -> list[bytes]:
        network = parity.make_network(parity.load_backend("native"), program, parameters)
        network.set_heads([Head(0, "mean_squared_error")])
        network.set_optimizer("sgd", {"learning_rate": 0.05, "momentum": 0.0})
        network.set_threads(threads)
        reached = 0
        while reached < len(x):
            reached = network.train_steps(x, (y,), None, None, rows, reached, len(x), 10.0)
        return [network.get_parameter(i).tobytes() for i in range(len(parameters))]

    expected = trained(1)
    for threads in (2, 3, 4):
        assert trained(threads) == expected, f"{threads} threads"


def test_one_matrix_or_several_side_by_side(backend: Any) -> None:
    """Parts of other dtypes and layouts, row numbers, and an evaluation."""
    case = case_of_parts()
    x, y, weights = case.data
    rows = np.array([3, 0, 0, 4, 2])
    found = []
    parts = tuple(parity.strided(part, how) for part, how in zip(x, ("fortran", "gaps", "misaligned"), strict=False))
    for given in (case.x, parts, list(x)):
        network = case.network(backend, {"learning_rate": 0.1})
        network.train_steps(given, y, weights, rows, 2, 0, N, 1e9)
        network.evaluate_steps(given, y, weights, rows, 2, 0, N, 1e9)
        found.append([*network.get_metrics(), *(network.get_parameter(i) for i in range(len(case.parameters)))])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def products_of_inputs(dtype: str, other: str = "") -> Program:
    """Dense layers of an input of 200 columns and of some of them, and perhaps another reader."""
    b = parity.Builder(200, dtype)
    parts = [b.columns(0, 50), b.columns(33, 120), 0]
    hidden = [b.dense(part, width, "tanh") for part, width in zip(parts, (8, 17, 24), strict=True)]
    if other == "dropout":
        hidden.append(b.dropout(parts[0], 0.25, 3))
    outputs = [b.dense(b.join("concatenate", *hidden), 10)]
    return b.program(*outputs, *([parts[1]] if other == "output" else []))


@pytest.mark.parametrize("other", ["", "dropout", "output"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_of_rows_that_are_read_in_place(backend: Any, dtype: str, other: str) -> None:
    """In order and in any, the rows of the caller give the bits of gathered ones."""
    program = products_of_inputs(dtype, other)
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((70, 200)).astype(dtype), (rng.integers(0, 10, 70), np.zeros((70, 120)))
    heads = [Head(0, KINDS[-1]), Head(1, "mean_squared_error")][: len(program.outputs)]
    values = parity.random_parameters(program, rng)
    for rows in (None, rng.integers(0, 70, 70)):
        found = []
        for given in (x, np.asfortranarray(x)):
            network = parity.make_network(backend, program, values)
            network.set_optimizer("sgd", {"learning_rate": 0.05, "momentum": 0.9})
            network.set_heads(heads)
            network.train_steps(given, y[: len(heads)], None, rows, 30, 0, 70, 1e9)
            network.evaluate_steps(given, y[: len(heads)], None, rows, 64, 0, 70, 1e9)
            found.append([*network.get_metrics(), *(network.get_parameter(i) for i in range(len(values)))])
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)


def test_two_losses_on_one_value_by_hand(backend: Any) -> None:
    """cost = 2 (w x - 1)^2 + 3 |w x - 5| with x = 2, w = 1: d/dw = (2 * 2 * (2 - 1) - 3) * 2."""
    b = parity.Builder(1)
    y = b.dense(0, 1, bias=False)
    network = parity.make_network(backend, b.program(y, y), [np.array([[1.0]])])
    network.set_heads([Head(0, "mean_squared_error", weight=2.0), Head(1, "mean_absolute_error", weight=3.0)])
    network.load_batch(np.array([[2.0]]), (np.array([[1.0]]), np.array([[5.0]])), None, None, 0, 1)
    assert forward_and_loss(network, True) == pytest.approx(2 + 9)
    network.backward(0, 1)
    assert network.get_gradient(0)[0, 0] == pytest.approx((4 - 3) * 2)


def test_the_normaliser_by_hand(backend: Any) -> None:
    """Weights 1 and 3, losses 4 and 16: 52 / 2 rows, or 52 / 4."""
    b = parity.Builder(1)
    program = b.program(b.activation(0, "linear"))
    network = backend.Network(program)
    for normaliser, cost, divisor in (("rows", 26.0, 2.0), ("weights", 13.0, 4.0)):
        network.set_heads([Head(0, "mean_squared_error", normaliser=normaliser)])
        network.load_batch(np.array([[2.0], [4.0]]), np.zeros((2, 1)), np.array([1.0, 3.0]), None, 0, 2)
        network.forward(0, 1, False)
        assert network.loss(False) == pytest.approx(cost)
        np.testing.assert_allclose(network.get_metrics()[0], [52.0, divisor])
    network.load_batch(np.array([[2.0], [4.0]]), np.zeros((2, 1)), np.zeros(2), None, 0, 2)
    network.forward(0, 1, True)
    assert network.loss(True) == 0.0
    assert not network.get_value_gradient(1).any()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_parameter_that_no_loss_reaches_has_a_gradient_of_zero(backend: Any, momentum: float) -> None:
    """Its momentum runs out; without momentum nothing moves."""
    b = parity.Builder(2)
    a, other = b.dense(0, 2), b.dense(0, 3)
    program = b.program(a, other)
    parameters = parity.random_parameters(program, np.random.default_rng(0))
    for whole in (True, False):
        network = parity.make_network(backend, program, parameters)
        network.set_heads([Head(0, "mean_squared_error"), Head(1)])
        network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": momentum})
        if momentum:
            network.set_slot("momentum", 2, np.ones((2, 3)))
        network.set_gradient(2, np.full((2, 3), 7.0))  # of a pass long ago
        data = (np.ones((4, 2)), (np.zeros((4, 2)), None), None, None)
        if whole:
            network.train_steps(*data, 4, 0, 4, 0.0)
        else:
            network.load_batch(*data, 0, 4)
            forward_and_loss(network, True)
            network.backward(0, 2)
            assert not network.get_gradient(2).any()  # which an optimizer in Python reads
            network.update()
        np.testing.assert_allclose(network.get_parameter(2), parameters[2] + momentum, rtol=1e-15)
        assert not np.array_equal(network.get_parameter(0), parameters[0])


def test_states_are_a_block_of_their_own(backend: Any) -> None:
    b = parity.Builder(3)
    program = b.program(b.dense(0, 2))._replace(
        states=(Parameter("norm/mean", (3,)), Parameter("norm/table", (17, 33)), Parameter("norm/count", ()))
    )
    network = backend.Network(program)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=p.shape) for p in program.states]
    for i, value in enumerate(values):
        assert not network.get_state(i).any()
        network.set_state(i, value)
    network.set_loss("mean_squared_error", 0.0)
    network.set_optimizer("sgd", {"learning_rate": 0.1, "momentum": 0.5})
    network.train_steps(np.ones((4, 3)), np.ones((4, 2)), None, None, 4, 0, 4, 0.0)
    for i, value in enumerate(values):
        np.testing.assert_array_equal(network.get_state(i), value)
    with pytest.raises(ShapeError, match="expected shape"):
        network.set_state(0, np.zeros(4))


def bad_programs() -> list[tuple[str, Program]]:
    def program(*operations: Operation, widths: tuple[int, ...] = (4, 3, 3, 7), outputs: tuple[int, ...] = (3,)) -> Any:
        parts = [Operation("columns", (0,), 1, "a", begin=1), Operation("columns", (0,), 2, "b")]
        return Program("float64", widths, (), (*parts, *operations), outputs)

    return [
        ("operation 2.*width 7", program(Operation("add", (1, 2), 3, "sum"))),
        ("operation 2.*width 7", program(Operation("multiply", (1, 2), 3, "product"))),
        ("operation 2.*width 6", program(Operation("concatenate", (1, 2), 3, "both"))),
        ("operation 2.*one input", program(Operation("activation", (1, 2), 3, "f", activation="tanh"))),
        ("operation 2.*input", program(Operation("add", (), 3, "nothing"))),
        ("operation 2.*columns within", program(Operation("columns", (0,), 3, "far", begin=2), widths=(4, 3, 3, 3))),
        ("operation 2.*value 0", program(Operation("columns", (1,), 3, "of", begin=0), widths=(4, 3, 3, 3))),
        ("at least one output", program(outputs=())),
    ]


@pytest.mark.parametrize(("message", "program"), bad_programs())
def test_programs_that_do_not_fit(backend: Any, message: str, program: Program) -> None:
    with pytest.raises(ValueError, match=message):
        backend.Network(program)


def test_operations_in_python_are_not_the_networks(backend: Any) -> None:
    b = parity.Builder(2)
    y = b.dense(0, 2)
    program = b.program(y)
    mine = Operation("python", (y,), 2, "mine")
    program = program._replace(widths=(2, 2, 2), operations=(*program.operations, mine), outputs=(2,))
    network = parity.make_network(backend, program, parity.random_parameters(program, np.random.default_rng(0)))
    network.load_batch(np.ones((4, 2)), None, None, None, 0, 4)
    network.forward(0, 1, True)
    for run in (lambda: network.forward(1, 2, True), lambda: network.backward(1, 2)):
        with pytest.raises((ValueError, RuntimeError), match=r"'mine'|in Python"):
            run()


def test_bad_arguments_change_nothing(backend: Any) -> None:
    case = case_of_parts()
    network = case.network(backend, {"learning_rate": 0.1})
    x, y, weights = case.data
    for bad in (
        (x[:-1], y, weights),
        ((*x[:-1], x[-1][:-1]), y, weights),
        (x, (*y, y[0]), weights),
        (x, y, (*weights, None)),
    ):
        with pytest.raises(ShapeError, match="expected"):
            network.train_steps(*bad, None, N, 0, N, 0.0)
    with pytest.raises(ShapeError, match="expected"):  # a loss without targets
        network.train_steps(x, (*y[:-1], None), weights, None, N, 0, N, 0.0)
    for heads in ([], [Head(9)], [Head(-1)], [Head(0, "nonsense")], [Head(0, normaliser="columns")]):
        with pytest.raises(ValueError, match="set_heads"):
            network.set_heads(heads)
    with pytest.raises(ValueError, match="heads"):
        network.set_metrics([("r2", 0.0, len(case.heads))])
    with pytest.raises(ValueError, match="nonsense"):
        network.set_metrics([("nonsense", 0.0)])
    with pytest.raises(ValueError, match="rates"):
        network.set_rates([1.0])
    with pytest.raises(ValueError, match="flags"):
        network.set_trainable([True])
    for steps in (network.train_steps, network.evaluate_steps):
        with pytest.raises(ValueError, match=r"batch.size"):
            steps(x, y, weights, None, 0, 0, N, 0.0)
    with pytest.raises(ShapeError, match="outputs"):
        network.predict(x, (np.empty((N, 1)),) * 9, 0, N, 0.0)
    for i, p in enumerate(case.parameters):
        np.testing.assert_array_equal(network.get_parameter(i), p)


def test_a_batch_is_of_the_heads_it_was_loaded_for(backend: Any) -> None:
    b = parity.Builder(2)
    program = b.program(b.dense(0, 3), b.dense(0, 3))
    network = parity.make_network(backend, program, parity.random_parameters(program, np.random.default_rng(0)))
    network.set_heads([Head(0, "mean_squared_error")])
    network.load_batch(np.ones((4, 2)), np.ones((4, 3)), None, None, 0, 4)
    network.set_heads([Head(0, "mean_absolute_error")])
    assert forward_and_loss(network, False) > 0
    network.set_heads([Head(1, "mean_absolute_error")])
    with pytest.raises((ValueError, RuntimeError), match="no batch"):
        forward_and_loss(network, False)


def test_metrics_of_heads_that_are_no_more_are_gone(backend: Any) -> None:
    b = parity.Builder(2)
    network = backend.Network(b.program(b.dense(0, 3), b.dense(0, 3)))
    network.set_heads([Head(0, "mean_squared_error"), Head(1, "mean_squared_error")])
    network.set_metrics([("r2", 0.0, 1), ("mean_absolute_error", 0.0, 0)])
    assert [sums.shape for sums in network.get_metrics()] == [(2,), (2,), (5, 3), (2,)]
    network.set_heads([Head(0, "mean_squared_error")])
    assert [sums.shape for sums in network.get_metrics()] == [(2,), (2,)]


def test_bad_labels_of_a_later_head(backend: Any) -> None:
    b = parity.Builder(2)
    program = b.program(b.dense(0, 3), b.dense(0, 4))
    network = parity.make_network(backend, program, parity.random_parameters(program, np.random.default_rng(0)))
    kind = "sparse_categorical_cross_entropy_logits"
    network.set_heads([Head(0, kind), Head(1, kind)])
    network.set_optimizer("sgd", {"learning_rate": 0.1})
    before = network.get_parameter(0)
    labels = np.array([0, 1, 2, 3])  # too many classes for the first head only
    with pytest.raises(ValueError, match=r"3.*received 3.*row 3"):
        network.train_steps(np.ones((4, 2)), (labels, labels), None, None, 4, 0, 4, 0.0)
    late = np.array([0, 0, 0, 0, 0, 7])
    with pytest.raises(ValueError, match=r"received 7.*row 5"):
        network.evaluate_steps(np.ones((6, 2)), (late, late), None, None, 4, 0, 6, 1e9)
    with pytest.raises(ValueError, match=r"4.*received 9.*row 1"):
        network.train_steps(np.ones((2, 2)), (labels[:2], np.array([0, 9])), None, None, 2, 0, 2, 0.0)
    np.testing.assert_array_equal(network.get_parameter(0), before)

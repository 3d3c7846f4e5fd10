"""Other libraries, computing the same step from the same weights and batches, each as its own documentation advises.

Everything that can be done before the clock runs is done before: batches lie in the library's own arrays, graphs are
compiled. A library is imported by the contestant that needs it, in a process of its own.
"""

from __future__ import annotations

import os
import struct
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from contestants import Batches, Contestant, fixed_batches
from numpy.typing import NDArray
from workloads import LEARNING_RATE, MOMENTUM, Workload, initial_weights, random_data

__all__ = ["OTHERS", "Other"]

Array = NDArray[Any]


class _Trained:
    """Batch after batch through ``_step``, from the start again after the last."""

    _pairs: list[Any]
    _next = 0
    _workload: Workload

    def _step(self, x: Any, y: Any) -> Any:
        """One step; returns its cost, or something that ``float`` turns into it."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Until all that was asked for is computed."""

    def costs(self, steps: int) -> list[float]:
        return [float(self._step(*self._pairs[i % len(self._pairs)])) for i in range(steps)]

    def prepare(self) -> None:
        """Nothing."""

    def run(self, steps: int) -> int:
        step, pairs, at = self._step, self._pairs, self._next
        for _ in range(steps):
            step(*pairs[at])
            at = at + 1 if at + 1 < len(pairs) else 0
        self._wait()
        self._next = at
        return steps


class Sklearn(_Trained):
    """MLPClassifier.partial_fit over many batches a call, which makes a step of each, as ``fit`` does.

    After a call with one batch ``loss_`` is the cost before the update. Outputs are probabilities.
    """

    probabilities = True

    def __init__(self, workload: Workload, threads: int) -> None:
        from sklearn.neural_network import MLPClassifier

        self._workload, self._pairs, self._data = workload, fixed_batches(workload), Batches(workload)
        self._classes = np.arange(workload.widths[-1])
        self._network = MLPClassifier(
            hidden_layer_sizes=workload.widths[1:-1],
            activation="relu",
            solver="sgd",
            alpha=0.0,
            batch_size=workload.batch,
            learning_rate_init=LEARNING_RATE,
            momentum=MOMENTUM,
            nesterovs_momentum=False,
            shuffle=False,
            random_state=0,
        )
        # The first call makes the weights; then they are replaced, and the optimizer begins anew.
        self._network.partial_fit(*self._pairs[0], classes=self._classes)
        weights = initial_weights(workload)
        for own, given in zip(self._network.coefs_, weights[0::2], strict=True):
            own[...] = given
        for own, given in zip(self._network.intercepts_, weights[1::2], strict=True):
            own[...] = given
        for velocity in self._network._optimizer.velocities:
            velocity[...] = 0

    def _step(self, x: Any, y: Any) -> Any:
        self._network.partial_fit(x, y)
        return self._network.loss_

    def run(self, steps: int) -> int:
        data, left = self._data, steps
        while left > 0:
            begin, end = data.advance(left)
            self._network.partial_fit(data.x[begin:end], data.y[begin:end])
            left -= (end - begin) // self._workload.batch
        return steps

    def weights(self) -> list[Array]:
        pairs = zip(self._network.coefs_, self._network.intercepts_, strict=True)
        return [np.array(array) for pair in pairs for array in pair]

    def predictor(self, rows: int) -> Callable[[], Any]:
        x, _ = random_data(self._workload, rows=rows)
        return lambda: self._network.predict_proba(x)

    def description(self) -> str:
        import sklearn

        return f"scikit-learn {sklearn.__version__}, MLPClassifier.partial_fit; predict_proba includes the softmax"


class Torch(_Trained):
    """Linear layers, ``cross_entropy``, ``optim.SGD`` in its fused form."""

    def __init__(self, workload: Workload, threads: int, compiled: bool = False, bfloat16: bool = False) -> None:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of compiling processes beside the timed ones
        import torch

        torch.set_num_threads(threads)
        torch.compiler.reset()  # forgets the graphs of another workload, which count against a limit
        self._torch, self._workload, self._compiled, self._bfloat16 = torch, workload, compiled, bfloat16
        self._pairs = [(torch.from_numpy(x), torch.from_numpy(y)) for x, y in fixed_batches(workload)]
        layers: list[Any] = []
        weights = initial_weights(workload)
        for k, (n_in, n_out) in enumerate(workload.layers):
            linear = torch.nn.Linear(n_in, n_out)
            with torch.no_grad():
                linear.weight.copy_(torch.from_numpy(weights[2 * k].T))
                linear.bias.copy_(torch.from_numpy(weights[2 * k + 1]))
            layers += [linear] if k + 2 == len(workload.widths) else [linear, torch.nn.ReLU()]
        self._model = torch.nn.Sequential(*layers)
        parameters = list(self._model.parameters())
        self._optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)
        self._loss = torch.compile(self._plain_loss, dynamic=False) if compiled else self._plain_loss

    def _forward(self, x: Any) -> Any:
        if not self._bfloat16:
            return self._model(x)
        with self._torch.autocast("cpu", dtype=self._torch.bfloat16):
            return self._model(x).float()

    def _plain_loss(self, x: Any, y: Any) -> Any:
        return self._torch.nn.functional.cross_entropy(self._forward(x), y)

    def _step(self, x: Any, y: Any) -> Any:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(x, y)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def weights(self) -> list[Array]:
        return [p.detach().numpy().T.copy() for p in self._model.parameters()]

    def predictor(self, rows: int) -> Callable[[], Any]:
        torch = self._torch
        x = torch.from_numpy(random_data(self._workload, rows=rows)[0])
        forward = torch.compile(self._forward, dynamic=False) if self._compiled else self._forward

        def predict() -> Any:
            with torch.inference_mode():
                return forward(x)

        return predict

    def description(self) -> str:
        how = "torch.compile" if self._compiled else "eager"
        precision = ", autocast to bfloat16" if self._bfloat16 else ""
        return f"PyTorch {self._torch.__version__}, {how}{precision}, {self._torch.get_num_threads()} threads"


class Jax(_Trained):
    """One jitted function for the whole step; parameters and velocities are donated."""

    def __init__(self, workload: Workload, threads: int) -> None:
        import jax
        import jax.numpy as jnp

        self._jax, self._workload = jax, workload
        self._pairs = [(jnp.asarray(x), jnp.asarray(y.astype(np.int32))) for x, y in fixed_batches(workload)]
        self._parameters = [jnp.asarray(array) for array in initial_weights(workload)]
        self._velocities = [jnp.zeros_like(array) for array in self._parameters]

        def forward(parameters: Any, x: Any) -> Any:
            for w, b in zip(parameters[0:-2:2], parameters[1:-2:2], strict=True):
                x = jax.nn.relu(x @ w + b)
            return x @ parameters[-2] + parameters[-1]

        def cost(parameters: Any, x: Any, y: Any) -> Any:
            z = forward(parameters, x)
            target = jnp.take_along_axis(z, y[:, None], axis=1)[:, 0]
            return (jax.nn.logsumexp(z, axis=1) - target).mean()

        def step(parameters: Any, velocities: Any, x: Any, y: Any) -> Any:
            value, gradients = jax.value_and_grad(cost)(parameters, x, y)
            velocities = [MOMENTUM * v - LEARNING_RATE * g for v, g in zip(velocities, gradients, strict=True)]
            return [p + v for p, v in zip(parameters, velocities, strict=True)], velocities, value

        self._jitted = jax.jit(step, donate_argnums=(0, 1))
        self._forward = jax.jit(forward)

    def _step(self, x: Any, y: Any) -> Any:
        self._parameters, self._velocities, cost = self._jitted(self._parameters, self._velocities, x, y)
        return cost

    def _wait(self) -> None:
        self._jax.block_until_ready(self._parameters)

    def weights(self) -> list[Array]:
        return [np.array(array) for array in self._parameters]

    def predictor(self, rows: int) -> Callable[[], Any]:
        x = self._jax.numpy.asarray(random_data(self._workload, rows=rows)[0])
        parameters, forward = [self._jax.numpy.array(p) for p in self._parameters], self._forward
        return lambda: forward(parameters, x).block_until_ready()

    def description(self) -> str:
        return f"JAX {self._jax.__version__}, jit, donated buffers, {self._jax.default_backend()}"


class Keras(_Trained):
    """``train_on_batch`` and ``predict_on_batch``, on JAX where that is installed, else on PyTorch."""

    def __init__(self, workload: Workload, threads: int) -> None:
        import importlib.util

        os.environ["KERAS_BACKEND"] = "jax" if importlib.util.find_spec("jax") else "torch"
        import keras

        if keras.backend.backend() == "torch":
            import torch

            torch.set_num_threads(threads)
        self._keras, self._workload, self._pairs = keras, workload, fixed_batches(workload)
        layers: list[Any] = [keras.Input((workload.widths[0],))]
        for k, (_, n_out) in enumerate(workload.layers):
            layers.append(keras.layers.Dense(n_out, activation="relu" if k + 2 < len(workload.widths) else None))
        self._model = keras.Sequential(layers)
        self._model.set_weights(initial_weights(workload))
        self._model.compile(
            keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )

    def _step(self, x: Any, y: Any) -> Any:
        return self._model.train_on_batch(x, y)

    def costs(self, steps: int) -> list[float]:
        costs = []
        for i in range(steps):
            self._model.reset_metrics()  # in some versions train_on_batch returns the mean since then
            costs.append(float(self._step(*self._pairs[i % len(self._pairs)])))
        return costs

    def weights(self) -> list[Array]:
        return [np.array(array) for array in self._model.get_weights()]

    def predictor(self, rows: int) -> Callable[[], Any]:
        x, _ = random_data(self._workload, rows=rows)
        return lambda: self._model.predict_on_batch(x)

    def description(self) -> str:
        return f"Keras {self._keras.__version__} on {self._keras.backend.backend()}, train_on_batch"


class _Predicts:
    """Cannot train."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def costs(self, steps: int) -> list[float]:
        raise NotImplementedError("it only predicts")

    def prepare(self) -> None:
        """Nothing."""

    def run(self, steps: int) -> int:
        raise NotImplementedError("it only predicts")

    def weights(self) -> list[Array]:
        return initial_weights(self._workload)


class OnnxRuntime(_Predicts):
    """Gemm and Relu nodes, all optimizations of the graph."""

    def __init__(self, workload: Workload, threads: int) -> None:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        super().__init__(workload)
        nodes, weights, name = [], [], "x"
        for k in range(len(workload.layers)):
            last = k + 2 == len(workload.widths)
            for kind, array in zip("wb", initial_weights(workload)[2 * k : 2 * k + 2], strict=True):
                weights.append(numpy_helper.from_array(array, f"{kind}{k}"))
            nodes.append(helper.make_node("Gemm", [name, f"w{k}", f"b{k}"], ["y" if last else f"z{k}"]))
            if not last:
                nodes.append(helper.make_node("Relu", [f"z{k}"], [name := f"y{k}"]))
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width])
            for name, width in (("x", workload.widths[0]), ("y", workload.widths[-1]))
        ]
        graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
        # Versions that every ONNX Runtime of the last years reads.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self._version = onnxruntime.__version__
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)

    def predictor(self, rows: int) -> Callable[[], Any]:
        return partial(self._session.run, ["y"], {"x": random_data(self._workload, rows=rows)[0]})

    def description(self) -> str:
        return f"ONNX Runtime {self._version}, CPUExecutionProvider"


class Mlpfile(_Predicts):
    """One row at a time, in C++ over Eigen. Its file: see the package's description (linear is 2, relu is 3)."""

    def __init__(self, workload: Workload, threads: int) -> None:
        import mlpfile

        super().__init__(workload)
        depth, weights = len(workload.layers), initial_weights(workload)
        content = struct.pack("<2I", 2 * depth - 1, workload.widths[0])
        for k, width in enumerate(workload.widths[1:]):
            content += struct.pack("<2I", 2, width) + (struct.pack("<I", 3) if k + 1 < depth else b"")
        for w, b in zip(weights[0::2], weights[1::2], strict=True):
            content += np.ascontiguousarray(w.T).tobytes() + b.tobytes()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlp"
            path.write_bytes(content)
            self._model = mlpfile.Model.load(str(path))

    def predictor(self, rows: int) -> Callable[[], Any]:
        if rows != 1:
            raise NotImplementedError("it predicts one row at a time")
        return partial(self._model.forward, random_data(self._workload, rows=1)[0][0])

    def description(self) -> str:
        from importlib.metadata import version

        return f"mlpfile {version('mlpfile')}"


class Other(NamedTuple):
    """What has to be importable, and how to make it."""

    needs: tuple[str, ...]
    make: Callable[[Workload, int], Contestant]
    trains: bool = True
    bfloat16: bool = False
    compiles: bool = False  # takes long to begin


def _torch(**how: bool) -> Callable[[Workload, int], Contestant]:
    def make(workload: Workload, threads: int) -> Contestant:
        warnings.simplefilter("ignore")
        return Torch(workload, threads, **how)

    return make


OTHERS: dict[str, Other] = {
    "sklearn": Other(("sklearn",), Sklearn),
    "torch": Other(("torch",), _torch()),
    "torch-compile": Other(("torch",), _torch(compiled=True), compiles=True),
    "torch-bf16": Other(("torch",), _torch(bfloat16=True), bfloat16=True),
    "torch-bf16-compile": Other(("torch",), _torch(compiled=True, bfloat16=True), bfloat16=True, compiles=True),
    "jax": Other(("jax",), Jax),
    "keras": Other(("keras",), Keras),
    "onnxruntime": Other(("onnxruntime", "onnx"), OnnxRuntime, trains=False),
    "mlpfile": Other(("mlpfile",), Mlpfile, trains=False),
}

"""Prediction: one row, where the call is what costs, and many rows, where the arithmetic is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from contestants import chain_network, model_for
from numpy_by_hand import HandWrittenNetwork
from workloads import LEARNING_RATE, MOMENTUM, WORKLOADS, exact_outputs, initial_weights, random_data

ROWS = 1024


@pytest.mark.parametrize("rows", [1, ROWS])
@pytest.mark.parametrize("name", list(WORKLOADS))
class TestPredict:
    def test_model(self, benchmark: Any, name: str, rows: int) -> None:
        """``model.predict``: checks, a fresh output, and the progress machinery switched off."""
        workload = WORKLOADS[name]
        x, _ = random_data(workload, rows=rows)
        model = model_for(workload)
        self._group(benchmark, name, rows)
        y = benchmark(model.predict, x, verbose=0)
        np.testing.assert_allclose(y, _expected(name, x), rtol=1e-3, atol=1e-3)

    def test_network(self, benchmark: Any, native: Any, name: str, rows: int) -> None:
        """The network's own call, with an output made beforehand."""
        workload = WORKLOADS[name]
        x, _ = random_data(workload, rows=rows)
        out = np.empty((rows, workload.widths[-1]), np.float32)
        network = chain_network(native, workload)
        self._group(benchmark, name, rows)
        benchmark(network.predict, x, out, 0, rows, 1e6)
        np.testing.assert_allclose(out, _expected(name, x), rtol=1e-3, atol=1e-3)

    def test_numpy_by_hand(self, benchmark: Any, name: str, rows: int) -> None:
        workload = WORKLOADS[name]
        x, _ = random_data(workload, rows=rows)
        network = HandWrittenNetwork(initial_weights(workload), rows, LEARNING_RATE, MOMENTUM)
        self._group(benchmark, name, rows)
        benchmark(network.predict, x)

    def test_predictor(self, benchmark: Any, name: str, rows: int) -> None:
        """``model.predictor()``: a compiled snapshot."""
        x, _ = random_data(WORKLOADS[name], rows=rows)
        p = model_for(WORKLOADS[name]).predictor()
        self._group(benchmark, name, rows)
        y = benchmark(p, x)
        np.testing.assert_allclose(y, _expected(name, x), rtol=1e-3, atol=1e-3)

    def test_predictor_out(self, benchmark: Any, name: str, rows: int) -> None:
        """The same with an output made beforehand."""
        x, _ = random_data(WORKLOADS[name], rows=rows)
        out = np.empty((rows, WORKLOADS[name].widths[-1]), np.float32)
        p = model_for(WORKLOADS[name]).predictor()
        self._group(benchmark, name, rows)
        benchmark(p, x, out)
        np.testing.assert_allclose(out, _expected(name, x), rtol=1e-3, atol=1e-3)

    def _group(self, benchmark: Any, name: str, rows: int) -> None:
        workload = WORKLOADS[name]._replace(batch=rows)
        benchmark.group = f"predict {rows} row(s), {workload.describe()}"
        benchmark.extra_info["flop"] = workload.flop_forward


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_predict_one(benchmark: Any, name: str) -> None:
    """One row, as a vector."""
    x, _ = random_data(WORKLOADS[name], rows=1)
    model = model_for(WORKLOADS[name])
    benchmark.group = f"predict 1 row(s), {WORKLOADS[name]._replace(batch=1).describe()}"
    benchmark.extra_info["flop"] = WORKLOADS[name].flop_forward
    y = benchmark(model.predict_one, x[0])
    np.testing.assert_allclose(y, _expected(name, x)[0], rtol=1e-3, atol=1e-3)


def _expected(name: str, x: Any) -> Any:
    return exact_outputs(initial_weights(WORKLOADS[name]), x)

"""What a NumPy network trains: its parameters and their momentum, and the step of SGD from one state to the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..program import Program

__all__ = ["Span", "State", "spans_of", "vector", "views"]

Array = NDArray[Any]
#: A slice of a vector of all parameters, and the factor of their learning rate; None where they are frozen.
Span = tuple[slice, "float | None"]


def vector(program: Program) -> Array:
    """Zeros, one for each number of each parameter."""
    return np.zeros(sum(math.prod(p.shape) for p in program.parameters), program.array_dtype)


def views(program: Program, flat: Array) -> list[Array]:
    """The parameters that lie in such a vector."""
    found, at = [], 0
    for p in program.parameters:
        size = math.prod(p.shape)
        found.append(flat[at : at + size].reshape(p.shape))
        at += size
    return found


def spans_of(program: Program, trainable: Sequence[bool], rates: Sequence[float]) -> list[Span]:
    """The longest runs of parameters of one learning-rate factor, or all frozen (None), as slices of a vector."""
    spans: list[Span] = []
    at = 0
    for p, flag, rate in zip(program.parameters, trainable, rates, strict=True):
        begin, at = at, at + math.prod(p.shape)
        factor = rate if flag else None
        if spans and spans[-1][1] == factor:
            spans[-1] = (slice(spans[-1][0].start, at), factor)
        else:
            spans.append((slice(begin, at), factor))
    return spans


class State:
    """Parameters, momentum and step. Each kind is one vector; the arrays are views into it."""

    def __init__(self, program: Program) -> None:
        self.step = 0
        self.flat = vector(program)
        self.parameters = views(program, self.flat)
        self.flat_momentum: Array | None = None
        self.momentum: list[Array] = []

    def set_momentum(self, program: Program, flat: Array | None) -> None:
        self.flat_momentum = flat
        self.momentum = [] if flat is None else views(program, flat)

    def follow(self, before: State, gradients: Array, spans: Sequence[Span], hyper: dict[str, float]) -> None:
        """Become the state one step of SGD after `before`. Callers silence NumPy's floating-point warnings."""
        rate, momentum, nesterov = hyper["learning_rate"], hyper["momentum"], hyper["nesterov"]
        for span, factor in spans:
            w, new = before.flat[span], self.flat[span]
            if factor is None:
                np.copyto(new, w)
                if before.flat_momentum is not None and self.flat_momentum is not None:
                    np.copyto(self.flat_momentum[span], before.flat_momentum[span])
                continue
            step = rate * factor * gradients[span]
            if before.flat_momentum is None or self.flat_momentum is None:
                np.subtract(w, step, out=new)
                continue
            v = np.multiply(before.flat_momentum[span], momentum, out=self.flat_momentum[span])
            v -= step
            np.add(w, momentum * v - step if nesterov else v, out=new)
        self.step = before.step + 1

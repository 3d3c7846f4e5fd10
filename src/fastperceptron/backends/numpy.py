"""The NumPy backend: readable, complete, everywhere. See :mod:`fastperceptron.backends.protocol`.

It keeps the arithmetic of the native backend up to the order of sums: NumPy's ``@`` chooses its own.
"""

from __future__ import annotations

from .numpy_activations import activation_backward, activation_forward
from .numpy_bfloat16 import bfloat16_product
from .numpy_kernels import (
    dense_backward_bias,
    dense_backward_input,
    dense_backward_weights,
    dense_forward,
    dropout_forward,
    sgd_update,
)
from .numpy_losses import loss_backward, loss_forward
from .numpy_network import Network
from .numpy_philox import permutation, philox

__all__ = [
    "Network",
    "activation_backward",
    "activation_forward",
    "bfloat16_product",
    "dense_backward_bias",
    "dense_backward_input",
    "dense_backward_weights",
    "dense_forward",
    "dropout_forward",
    "loss_backward",
    "loss_forward",
    "permutation",
    "philox",
    "sgd_update",
]

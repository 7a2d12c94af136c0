"""Feed-forward layers on one vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine, erf, sigmoid

Options = Mapping[str, Any]
Bend = Callable[[Options, Array], Array]


def gelu(options: Options, z: Array) -> Array:
    """Hendrycks and Gimpel 2016, section 2: z Phi(z); 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))); z s(1.702 z)."""
    if options["approximate"] == "quick":
        return z * sigmoid(1.702 * z)
    if options["approximate"] == "tanh":
        return 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))
    return np.array([value * 0.5 * (1 + erf(value / math.sqrt(2))) for value in z])


def relu(options: Options, z: Array) -> Array:
    """Vaswani et al. 2017, eq. 2: max(0, z)."""
    return np.array([value if value.real > 0 else 0.0 * value for value in z])


def relu2(options: Options, z: Array) -> Array:
    """So et al. 2021, section 4.1: max(0, z)^2."""
    return np.array([value * value if value.real > 0 else 0.0 * value for value in z])


def silu(options: Options, z: Array) -> Array:
    """Ramachandran et al. 2017, section 3: z / (1 + e^-z)."""
    return z * sigmoid(z)


def linear(options: Options, z: Array) -> Array:
    """z."""
    return z


def wide(bend: Bend) -> Callable[[Options, Mapping[str, Array], Array], Array]:
    """Vaswani et al. 2017, eq. 2: bend(x W1 + b1) W2 + b2."""
    return lambda options, held, x: affine(held, "down", bend(options, affine(held, "up", x)))


def gated(bend: Bend) -> Callable[[Options, Mapping[str, Array], Array], Array]:
    """Shazeer 2020, eq. 6: (bend(x W) * x V) W2."""
    return lambda options, held, x: affine(held, "down", bend(options, affine(held, "gate", x)) * affine(held, "up", x))


FEEDFORWARDS = {
    "none": None,
    "gelu": wide(gelu),
    "relu": wide(relu),
    "relu2": wide(relu2),
    "silu": wide(silu),
    "bilinear": gated(linear),
    "reglu": gated(relu),
    "geglu": gated(gelu),
    "swiglu": gated(silu),
}

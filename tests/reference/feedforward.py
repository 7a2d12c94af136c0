"""Feed-forward layers on one vector."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine, erf


def gelu(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """Hendrycks and Gimpel 2016, section 2: z Phi(z), or 0.5 z (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3)))."""
    z = affine(parameters, "up", x)
    if options["approximate"] == "tanh":
        inner = 0.5 * z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)))
    else:
        inner = np.array([value * 0.5 * (1 + erf(value / math.sqrt(2))) for value in z])
    return affine(parameters, "down", inner)


def relu(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """Vaswani et al. 2017, eq. 2: max(0, x W1 + b1) W2 + b2."""
    return affine(parameters, "down", np.array([z if z.real > 0 else 0.0 * z for z in affine(parameters, "up", x)]))


def relu2(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """So et al. 2021, section 4.1: max(0, x W1)^2 W2."""
    return affine(parameters, "down", np.array([z * z if z.real > 0 else 0.0 * z for z in affine(parameters, "up", x)]))


def swiglu(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """Shazeer 2020, eq. 6: (Swish_1(x W) * x V) W2, with Swish_1(z) = z / (1 + e^-z)."""
    z = affine(parameters, "gate", x)
    small = np.exp(np.where(z.real < 0, z, -z))  # e^-|z|: e^z overflows
    sigmoid = np.where(z.real < 0, small, 1) / (1 + small)
    return affine(parameters, "down", z * sigmoid * affine(parameters, "up", x))


FEEDFORWARDS = {"gelu": gelu, "relu": relu, "relu2": relu2, "swiglu": swiglu, "none": None}

"""Derivatives without autograd and without rounding: the complex step (Squire and Trapp 1998).

f(x + ih) = f(x) + ih f'(x) + O(h^2), so f'(x) = Im f(x + ih) / h; nothing is subtracted, and h may be 1e-30.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

Array = np.ndarray
_STEP = 1e-30


def slope(f: Callable[[dict[str, Array]], complex], at: Mapping[str, Array], along: Mapping[str, Array]) -> float:
    """The derivative of f at `at` in the direction `along` (arrays of both by name; what is not in `along` stays)."""
    moved = {name: x + 1j * _STEP * along[name] if name in along else x for name, x in at.items()}
    return complex(f(moved)).imag / _STEP


def erf(z: complex) -> complex:
    """The error function; its derivative is 2/sqrt(pi) exp(-z^2)."""
    z = complex(z)
    return complex(math.erf(z.real), 2 / math.sqrt(math.pi) * math.exp(-z.real * z.real) * z.imag)


def sigmoid(z: Array) -> Array:
    """1 / (1 + e^-z)."""
    small = np.exp(np.where(z.real < 0, z, -z))  # e^-|z|: e^z overflows
    return np.where(z.real < 0, small, 1) / (1 + small)


def matrix(weight: Array, x: Array) -> Array:
    """y_i = sum_j W_ij x_j."""
    return np.array([np.sum(row * x) for row in weight])


def affine(parameters: Mapping[str, Array], name: str, x: Array) -> Array:
    """W x + b, where there is a b."""
    y = matrix(parameters[f"{name}.weight"], x)
    return y + parameters[f"{name}.bias"] if f"{name}.bias" in parameters else y


def below(parameters: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """The parameters of the part called `prefix`, without that prefix."""
    return {name[len(prefix) + 1 :]: x for name, x in parameters.items() if name.startswith(f"{prefix}.")}

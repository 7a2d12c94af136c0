"""Normalisation of one vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.calculus import Array


def none(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """x."""
    return x


def layer(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """Ba, Kiros and Hinton 2016, eq. 4: a = (x - mu) / sigma * g + b, epsilon added to the variance."""
    mu = sum(x) / len(x)
    variance = sum((value - mu) * (value - mu) for value in x) / len(x)
    y = (x - mu) / np.sqrt(variance + options["epsilon"]) * parameters["weight"]
    return y + parameters["bias"] if options["bias"] else y


def rms(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """Zhang and Sennrich 2019, eq. 4: a = x / RMS(x) * g, epsilon added to the mean square; or g = 1 + w."""
    mean_square = sum(value * value for value in x) / len(x)
    gain = parameters["weight"] + (1 if options["zero_centered"] else 0)
    return x / np.sqrt(mean_square + options["epsilon"]) * gain


NORMS = {"none": none, "layer": layer, "rms": rms}

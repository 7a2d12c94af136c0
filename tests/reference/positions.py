"""Where order enters: what is added to a token's vector, and how a head's query or key is turned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.calculus import Array

Options = Mapping[str, Any]


class NoPositions:
    """Nothing."""

    @staticmethod
    def embed(options: Options, parameters: Mapping[str, Array], x: Array, place: int) -> Array:
        """x as it enters the stack."""
        return x

    @staticmethod
    def rotate(options: Options, x: Array, place: int) -> Array:
        """A query or key of one head at `place`."""
        return x


class Learned(NoPositions):
    """Gehring et al. 2017, section 3.1: e = w + p, p a learned vector for each place."""

    @staticmethod
    def embed(options: Options, parameters: Mapping[str, Array], x: Array, place: int) -> Array:
        return x + parameters["table.weight"][place]


class Rotary(NoPositions):
    """Su et al. 2021, eq. 15: the i-th pair is turned by m theta_i, theta_i = theta^(-2i/d)."""

    @staticmethod
    def rotate(options: Options, x: Array, place: int) -> Array:
        turned = round(len(x) * options["share"])
        y = np.array(x)
        for i in range(turned // 2):
            angle = place * options["theta"] ** (-2 * i / turned)
            first, second = x[i], x[i + turned // 2]
            y[i] = first * math.cos(angle) - second * math.sin(angle)
            y[i + turned // 2] = first * math.sin(angle) + second * math.cos(angle)
        return y


POSITIONS = {"none": NoPositions, "learned": Learned, "rotary": Rotary}

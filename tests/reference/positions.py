"""Where order enters: what is added to a token's vector or to a score, and how a head's query or key is turned."""

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

    @staticmethod
    def bias(options: Options, head: int, heads: int, query: int, key: int) -> float:
        """What is added to the scaled score of the query and the key at these places, in head 0 ... heads - 1."""
        return 0.0


class Learned(NoPositions):
    """Gehring et al. 2017, section 3.1: e = w + p, p a learned vector for each place."""

    @staticmethod
    def embed(options: Options, parameters: Mapping[str, Array], x: Array, place: int) -> Array:
        return x + parameters["table.weight"][place]


class Sinusoidal(NoPositions):
    """Vaswani et al. 2017, section 3.5: PE(pos, 2i) = sin(pos/10000^(2i/d)), PE(pos, 2i + 1) = cos of the same."""

    @staticmethod
    def embed(options: Options, parameters: Mapping[str, Array], x: Array, place: int) -> Array:
        y = np.array(x)
        for channel in range(len(x)):
            angle = place / options["theta"] ** (2 * (channel // 2) / len(x))
            y[channel] += math.cos(angle) if channel % 2 else math.sin(angle)
        return y


class Alibi(NoPositions):
    """Press et al. 2022, section 3: -m |i - j|; the slopes m of n heads begin at 2^(-8/n) and use that as ratio."""

    @staticmethod
    def bias(options: Options, head: int, heads: int, query: int, key: int) -> float:
        lower = 2 ** math.floor(math.log2(heads))
        if head < lower:
            slope = (2 ** (-8 / lower)) ** (head + 1)
        else:  # footnote to the official code: of twice as many heads the first, the third, ...
            slope = (2 ** (-8 / (2 * lower))) ** (2 * (head - lower) + 1)
        return -slope * abs(query - key)


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


class RotaryAlibi(NoPositions):
    """Both: queries and keys are turned, and a bias is added."""

    rotate, bias = Rotary.rotate, Alibi.bias


POSITIONS = {"none": NoPositions, "learned": Learned, "rotary": Rotary, "sinusoidal": Sinusoidal, "alibi": Alibi,
             "rotary-alibi": RotaryAlibi}  # fmt: skip

"""Where order enters: what is added to a token's vector or to a score, and how a head's query or key is turned.

Rotary's scalings are functions (options, theta, width, pair, length) -> radians a place, `length` the text's.
"""

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
    def rotate(options: Options, x: Array, place: int, length: int) -> Array:
        """A query or key of one head at `place` in a text of that length."""
        return x

    @staticmethod
    def bias(
        options: Options, parameters: Mapping[str, Array], head: int, heads: int, query: int, key: int, *, causal: bool
    ) -> complex:
        """What is added to the scaled score of the query and the key at these places, in head 0 ... heads - 1."""
        return 0.0


class Learned(NoPositions):
    """Gehring et al. 2017, section 3.1: e = w + p, p a learned vector for each place, the first in row `offset`."""

    @staticmethod
    def embed(options: Options, parameters: Mapping[str, Array], x: Array, place: int) -> Array:
        return x + parameters["table.weight"][options["offset"] + place]


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
    def bias(
        options: Options, parameters: Mapping[str, Array], head: int, heads: int, query: int, key: int, *, causal: bool
    ) -> complex:
        lower = 2 ** math.floor(math.log2(heads))
        if head < lower:
            slope = (2 ** (-8 / lower)) ** (head + 1)
        else:  # footnote to the official code: of twice as many heads the first, the third, ...
            slope = (2 ** (-8 / (2 * lower))) ** (2 * (head - lower) + 1)
        return -slope * abs(query - key)


class T5(NoPositions):
    """Raffel et al. 2020, section 2.1: half of the buckets hold one distance each, the others logarithmic ranges.

    In an encoder half of all buckets are for keys after the query.
    """

    @staticmethod
    def bias(
        options: Options, parameters: Mapping[str, Array], head: int, heads: int, query: int, key: int, *, causal: bool
    ) -> complex:
        buckets = options["num_buckets"] if causal else options["num_buckets"] // 2
        first = 0 if causal or key <= query else buckets
        distance = max(query - key, 0) if causal else abs(query - key)
        exact = buckets // 2
        bucket = distance
        if distance >= exact:
            share = math.log(distance / exact) / math.log(options["max_distance"] / exact)
            bucket = min(exact + math.floor(share * (buckets - exact) + 1e-9), buckets - 1)
        return complex(parameters["table.weight"][first + bucket, head])


def unscaled(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """Su et al. 2021, eq. 15: theta_i = theta^(-2i/d)."""
    return theta ** (-2 * pair / width)


def linear(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """Chen et al. 2023, eq. 4: f(x, m L/L')."""
    return unscaled(options, theta, width, pair, length) / options["factor"]


def ntk(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """Peng et al. 2023, definition 1: b' = b s^(d/(d - 2))."""
    return unscaled(options, theta * options["factor"] ** (width / (width - 2)), width, pair, length)


def dynamic(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """The same, by the text's own stretch: s l/L - (s - 1) beyond L, 1 up to it (L the model's, unless given)."""
    original, factor = options["original_length"] or math.inf, options["factor"]
    stretch = 1.0 if length <= original else factor * length / original - (factor - 1)
    return ntk({"factor": stretch}, theta, width, pair, length)


def llama_3(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """Dubey et al. 2024, in the authors' code: long waves are divided, short ones kept, between them a mixture."""
    plain = unscaled(options, theta, width, pair, length)
    wave, original = 2 * math.pi / plain, options["original_length"]
    low, high = options["low_freq_factor"], options["high_freq_factor"]
    if wave < original / high:
        return plain
    if wave > original / low:
        return plain / options["factor"]
    smooth = (original / wave - low) / (high - low)
    return (1 - smooth) * plain / options["factor"] + smooth * plain


def yarn(options: Options, theta: float, width: int, pair: int, length: int) -> float:
    """Peng et al. 2023, section 3.2: interpolated by 1 - gamma; gamma a ramp over pairs, as in the authors' code."""

    def dimension(rotations: float) -> float:
        return width * math.log(options["original_length"] / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = max(math.floor(dimension(options["beta_fast"])), 0), math.ceil(dimension(options["beta_slow"]))
    high = min(high, width - 1)
    gamma = 1 - min(max((pair - low) / max(high - low, 0.001), 0.0), 1.0)
    plain = unscaled(options, theta, width, pair, length)
    return (1 - gamma) * plain / options["factor"] + gamma * plain


SCALINGS = {"none": unscaled, "linear": linear, "ntk": ntk, "dynamic": dynamic, "llama-3": llama_3, "yarn": yarn}


class Rotary(NoPositions):
    """Su et al. 2021, eq. 15: the i-th pair is turned by m theta_i; the paper's pairs are neighbours."""

    @staticmethod
    def rotate(options: Options, x: Array, place: int, length: int) -> Array:
        turned, scaling = round(len(x) * options["share"]), options["scaling"]
        size = 1.0
        if scaling["kind"] == "yarn":  # section 3.4: sqrt(1/t) = 0.1 ln s + 1
            size = scaling["attention_factor"] or 0.1 * math.log(scaling["factor"]) + 1
        y = np.array(x)
        for i in range(turned // 2):
            angle = place * SCALINGS[scaling["kind"]](scaling, options["theta"], turned, i, length)
            one, other = (2 * i, 2 * i + 1) if options["layout"] == "interleaved" else (i, i + turned // 2)
            y[one] = size * (x[one] * math.cos(angle) - x[other] * math.sin(angle))
            y[other] = size * (x[one] * math.sin(angle) + x[other] * math.cos(angle))
        return y


class RotaryAlibi(NoPositions):
    """Both: queries and keys are turned, and a bias is added."""

    rotate, bias = Rotary.rotate, Alibi.bias


POSITIONS = {"none": NoPositions, "learned": Learned, "rotary": Rotary, "sinusoidal": Sinusoidal, "alibi": Alibi,
             "rotary-alibi": RotaryAlibi, "t5": T5}  # fmt: skip

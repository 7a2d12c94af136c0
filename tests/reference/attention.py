"""Attention of one sequence, query by query and head by head."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine
from reference.positions import POSITIONS

Options = Mapping[str, Any]


def softmax(options: Options, products: Mapping[int, complex], width: int) -> dict[int, complex]:
    """Vaswani et al. 2017, eq. 1: exp(q.k / sqrt(d_k)), divided by their sum."""
    scale = options["scale"] or 1 / math.sqrt(width)
    highest = max((product.real * scale for product in products.values()), default=0.0)
    powers = {key: np.exp(product * scale - highest) for key, product in products.items()}
    return {key: power / sum(powers.values()) for key, power in powers.items()}


def everything(options: Options, query: int, key: int) -> bool:
    """Whether the query at place `query` may see the key at place `key`."""
    return True


def window(options: Options, query: int, key: int) -> bool:
    """Beltagy et al. 2020, section 3.1: the `size` nearest keys on a side, the query's own included."""
    return -options["size"] < query - key < options["size"]


SCORES = {"softmax": softmax}
MASKS = {"none": everything, "window": window}


def attention(options: Options, parameters: Mapping[str, Array], x: Array, positions: Options) -> Array:
    """Vaswani et al. 2017, section 3.2.2, with key/value heads shared as in Ainslie et al. 2023; causal."""
    heads, groups = options["n_heads"], options["n_kv_heads"] or options["n_heads"]
    positions = options["positions"] or positions
    rotate = POSITIONS[positions["kind"]].rotate
    score, visible = SCORES[options["score"]["kind"]], MASKS[options["mask"]["kind"]]
    places = range(len(x))
    q = [affine(parameters, "query", x[t]).reshape(heads, -1) for t in places]
    k = [affine(parameters, "key", x[t]).reshape(groups, -1) for t in places]
    v = [affine(parameters, "value", x[t]).reshape(groups, -1) for t in places]
    rows = []
    for t in places:
        mixed = []
        for head in range(heads):
            group = head * groups // heads
            query = rotate(positions, q[t][head], t)
            products = {
                s: np.sum(query * rotate(positions, k[s][group], s))
                for s in range(t + 1)
                if visible(options["mask"], t, s)
            }
            weights = score(options["score"], products, len(query))
            mixed.append(sum(weight * v[s][group] for s, weight in weights.items()))
        rows.append(affine(parameters, "output", np.concatenate(mixed)))
    return np.array(rows)

"""Attention of one sequence, query by query and head by head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine, below
from reference.norms import NORMS
from reference.positions import POSITIONS

Options = Mapping[str, Any]
Sees = Callable[[int, int], bool]


def softmax(
    options: Options, products: Mapping[int, complex], width: int, biases: Mapping[int, complex] | None = None
) -> dict[int, complex]:
    """Vaswani et al. 2017, eq. 1: exp(q.k / sqrt(d_k) + bias), divided by their sum."""
    scale = options["scale"] or 1 / math.sqrt(width)
    scores = {key: product * scale + (biases or {}).get(key, 0.0) for key, product in products.items()}
    highest = max((score.real for score in scores.values()), default=0.0)
    powers = {key: np.exp(score - highest) for key, score in scores.items()}
    return {key: power / sum(powers.values()) for key, power in powers.items()}


def everything(options: Options, query: int, key: int) -> bool:
    """Whether the query at place `query` may see the key at place `key`."""
    return True


def window(options: Options, query: int, key: int) -> bool:
    """Beltagy et al. 2020, section 3.1: the `size` nearest keys on a side, the query's own included."""
    return -options["size"] < query - key < options["size"]


SCORES = {"softmax": softmax}
MASKS = {"none": everything, "window": window}


def attention(
    options: Options,
    parameters: Mapping[str, Array],
    x: Array,
    positions: Options,
    shared: Mapping[str, Array] | None = None,
    *,
    causal: bool = True,
) -> Array:
    """Vaswani et al. 2017, section 3.2.2, with key/value heads shared as in Ainslie et al. 2023.

    `positions` and `shared`, what these have learned, are the stack's; an attention may have its own.
    """
    visible = MASKS[options["mask"]["kind"]]

    def sees(query: int, key: int) -> bool:
        return (key <= query or not causal) and visible(options["mask"], query, key)

    own = options["positions"]
    chosen, learned = (own, below(parameters, "scheme")) if own else (positions, shared or {})
    scheme, heads = POSITIONS[chosen["kind"]], options["n_heads"]

    def bias(head: int, query: int, key: int) -> complex:
        return scheme.bias(chosen, learned, head, heads, query, key, causal=causal)

    return _attention(
        options, parameters, x, x, sees, bias, lambda vector, place: scheme.rotate(chosen, vector, place, len(x))
    )


def cross_attention(options: Options, parameters: Mapping[str, Array], x: Array, source: Array) -> Array:
    """Vaswani et al. 2017, section 3.2.3: queries of the decoder, keys and values of the encoder's output, all seen."""
    return _attention(options, parameters, x, source, lambda query, key: True)


def _attention(
    options: Options,
    parameters: Mapping[str, Array],
    x: Array,
    source: Array,
    sees: Sees,
    bias: Callable[[int, int, int], complex] = lambda head, query, key: 0.0,
    rotate: Callable[[Array, int], Array] = lambda vector, place: vector,
) -> Array:
    heads, groups = options["n_heads"], options["n_kv_heads"] or options["n_heads"]
    score = SCORES[options["score"]["kind"]]

    def normed(name: str, vectors: Array) -> Array:
        inside = f"{name}."
        own = {path.removeprefix(inside): value for path, value in parameters.items() if path.startswith(inside)}
        return np.array([NORMS[options["qk_norm"]["kind"]](options["qk_norm"], own, vector) for vector in vectors])

    q = [normed("query_norm", affine(parameters, "query", vector).reshape(heads, -1)) for vector in x]
    k = [normed("key_norm", affine(parameters, "key", vector).reshape(groups, -1)) for vector in source]
    v = [affine(parameters, "value", vector).reshape(groups, -1) for vector in source]
    rows = []
    for t in range(len(x)):
        mixed = []
        for head in range(heads):
            group = head * groups // heads
            query = rotate(q[t][head], t)
            products = {s: np.sum(query * rotate(k[s][group], s)) for s in range(len(source)) if sees(t, s)}
            biases = {s: bias(head, t, s) for s in products}
            weights = score(options["score"], products, len(query), biases)
            mixed.append(sum(weight * v[s][group] for s, weight in weights.items()))
        rows.append(affine(parameters, "output", np.concatenate(mixed)))
    return np.array(rows)

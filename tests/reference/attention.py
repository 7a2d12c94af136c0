"""Attention of one sequence, query by query and head by head."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine, below, sigmoid
from reference.norms import NORMS
from reference.positions import POSITIONS

Options = Mapping[str, Any]
Sees = Callable[[int, int], bool]


def softmax(
    options: Options,
    products: Mapping[int, complex],
    width: int,
    biases: Mapping[int, complex] | None = None,
    sink: complex | None = None,
) -> dict[int, complex]:
    """Vaswani et al. 2017, eq. 1: exp(q.k / sqrt(d_k) + bias), divided by their sum.

    Capped: c tanh(q.k / (c sqrt(d_k))) in place of the scaled product (Gemma Team 2024, section 2). With a sink, its
    exp is in the sum (Xiao et al. 2024, eq. 2, with a learned score in place of 0).
    """
    scale = options["scale"] or 1 / math.sqrt(width)
    scores = {}
    for key, product in products.items():
        score = product * scale
        if options["cap"]:
            score = options["cap"] * np.tanh(score / options["cap"])
        scores[key] = score + (biases or {}).get(key, 0.0)
    every = [*scores.values(), *([] if sink is None else [sink])]
    highest = max((complex(score).real for score in every), default=0.0)
    total = sum(np.exp(score - highest) for score in every)
    return {key: np.exp(score - highest) / total for key, score in scores.items()}


# Whether a query may see a key. `ordered`: the stack's order lets it. `within`: both belong to a prefix.


def everything(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """All that the order leaves."""
    return ordered


def window(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Beltagy et al. 2020, section 3.1: the `size` nearest keys on a side, the query's own included."""
    return ordered and -options["size"] < query - key < options["size"]


def dilated(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Beltagy et al. 2020, section 3.1: places 0, d, 2d, ... away, `size` of them on a side."""
    return ordered and abs(query - key) in [place * options["dilation"] for place in range(options["size"])]


def strided(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Child et al. 2019, section 4.2: (i - j) mod l = 0."""
    return ordered and abs(query - key) % options["stride"] == 0


def block(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Qiu et al. 2020, section 3.1: floor(i / size) = floor(j / size)."""
    return ordered and math.floor(query / options["size"]) == math.floor(key / options["size"])


def first_tokens(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Beltagy et al. 2020, section 3.1: the first ones attend to all, and all attend to them (and to themselves)."""
    return ordered and (min(query, key) < options["tokens"] or query == key)


def prefix(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """Raffel et al. 2020, figure 4: causal, and fully visible inside the prefix."""
    return ordered or within


def union(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """What any of them lets see."""
    return any(MASKS[one["kind"]](one, query, key, ordered, within) for one in options["of"])


def intersection(options: Options, query: int, key: int, ordered: bool, within: bool = False) -> bool:
    """What all of them let see; a prefix among them widens the order for the others."""
    ordered = ordered or (within and _has_prefix(options))
    return all(MASKS[one["kind"]](one, query, key, ordered, within) for one in options["of"])


def _has_prefix(options: Options) -> bool:
    return options["kind"] == "prefix" or any(_has_prefix(one) for one in options.get("of", ()))


def ungated(parameters: Mapping[str, Array], x: Array, mixed: Array) -> Array:
    """All is handed on."""
    return mixed


def gated(parameters: Mapping[str, Array], x: Array, mixed: Array) -> Array:
    """Qiu et al. 2025, eq. 5: Y * sigmoid(X W), a share for each channel or for each head (then W has fewer rows)."""
    shares = sigmoid(affine(parameters, "output_gate.projection", x)).reshape(len(mixed), -1)
    return np.array([head * share for head, share in zip(mixed, shares, strict=True)])


SCORES = {"softmax": softmax}
MASKS = {
    "none": everything,
    "window": window,
    "dilated": dilated,
    "strided": strided,
    "block": block,
    "global": first_tokens,
    "prefix": prefix,
    "any": union,
    "all": intersection,
}
GATES = {"none": ungated, "elementwise": gated, "headwise": gated}


def attention(
    options: Options,
    parameters: Mapping[str, Array],
    x: Array,
    positions: Options,
    shared: Mapping[str, Array] | None = None,
    *,
    causal: bool = True,
    first: int = 0,
) -> Array:
    """Vaswani et al. 2017, section 3.2.2, with key/value heads shared as in Ainslie et al. 2023.

    `positions` and `shared`, what these have learned, are the stack's; an attention may have its own. The prefix is
    the `first` tokens.
    """
    visible = MASKS[options["mask"]["kind"]]

    def sees(query: int, key: int) -> bool:
        return visible(options["mask"], query, key, key <= query or not causal, max(query, key) < first)

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
            sink = parameters["weighting.sinks"][head] if options["score"]["sinks"] else None
            weights = score(options["score"], products, len(query), biases, sink)
            mixed.append(sum(weight * v[s][group] for s, weight in weights.items()))
        handed_on = GATES[options["gate"]["kind"]](parameters, x[t], np.array(mixed))
        rows.append(affine(parameters, "output", np.concatenate(handed_on)))
    return np.array(rows)

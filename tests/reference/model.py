"""The whole model on one sequence of tokens (and one source): embedding, blocks, last norm, losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reference.attention import attention, cross_attention
from reference.calculus import Array, affine, below
from reference.feedforward import FEEDFORWARDS
from reference.norms import NORMS
from reference.positions import POSITIONS

Step = Callable[[Array], Array]
Options = Mapping[str, Any]
Norms = Callable[[str], Step]
"""The norm of that name."""


def pre(options: Options, x: Array, norms: Norms, sublayers: Mapping[str, Step]) -> Array:
    """Radford et al. 2019, section 2.3: x + f(norm(x))."""
    for name, f in sublayers.items():
        x = x + f(norms(f"{name}_norm")(x))
    return x


def post(options: Options, x: Array, norms: Norms, sublayers: Mapping[str, Step]) -> Array:
    """Vaswani et al. 2017, section 3.1: norm(x + f(x))."""
    for name, f in sublayers.items():
        x = norms(f"{name}_norm")(x + f(x))
    return x


def sandwich(options: Options, x: Array, norms: Norms, sublayers: Mapping[str, Step]) -> Array:
    """Ding et al. 2021, section 2.4: x + LN(f(LN(x)))."""
    for name, f in sublayers.items():
        x = x + norms(f"{name}_norm.after")(f(norms(f"{name}_norm.before")(x)))
    return x


def parallel(options: Options, x: Array, norms: Norms, sublayers: Mapping[str, Step]) -> Array:
    """Black et al. 2022, section 2.1: x + Attn(LN1(x)) + FF(LN2(x)); in GPT-J LN1 and LN2 are one."""
    y = x
    for name, f in sublayers.items():
        y = y + f(norms("norm" if options["shared_norm"] else f"{name}_norm")(x))
    return y


def plain(options: Options, x: Array, norms: Norms, sublayers: Mapping[str, Step]) -> Array:
    """f(norm(x))."""
    for name, f in sublayers.items():
        x = f(norms(f"{name}_norm")(x))
    return x


BLOCKS = {"pre": pre, "post": post, "sandwich": sandwich, "parallel": parallel, "plain": plain}
STOCHASTIC_DEPTH = {
    "none": lambda options, layer, layers: 0.0,
    "uniform": lambda options, layer, layers: options["share"],
    "linear": lambda options, layer, layers: layer / layers * options["share"],
}
"""Huang et al. 2016: 1 - p_l, the chance that layer l = 1 ... L is skipped; eq. 4: 1 - p_l = l/L (1 - p_L)."""


def each(f: Callable[..., Array], *fixed: Any) -> Step:
    """f on every vector of a sequence."""
    return lambda x: np.array([f(*fixed, vector) for vector in x])


def first_with_its_weights(declared: Options, layer: int) -> int:
    """Lan et al. 2020's code: layer l of L is of group floor(l / (L/G)); the first of a group has the weights."""
    layers = len(declared["layers"])
    groups = 1 if declared["share"] == "all" else declared["share"] or layers
    return min(other for other in range(layers) if other * groups // layers == layer * groups // layers)


def stack(
    declared: Options, parameters: Mapping[str, Array], x: Array, enter: Step, *, causal: bool,
    source: Array | None = None,
) -> Array:  # fmt: skip
    """Blocks over one another, and the last norm where the last block does not end with one."""
    positions = POSITIONS[declared["positions"]["kind"]]
    shared = below(parameters, "positions")
    x = np.array([positions.embed(declared["positions"], shared, vector, place) for place, vector in enumerate(x)])
    norm = declared["embedding_norm"]
    x = enter(each(NORMS[norm["kind"]], norm, below(parameters, "embedding_norm"))(x))
    for layer, block in enumerate(declared["layers"]):
        norm = block["norm"] or declared["norm"]
        held = below(parameters, f"blocks.{first_with_its_weights(declared, layer)}")
        sublayers: dict[str, Step] = {}
        if block["attention"]["kind"] != "none":
            options, weights = block["attention"], below(held, "attention")
            sublayers["attention"] = lambda x, o=options, w=weights: attention(
                o, w, x, declared["positions"], shared, causal=causal
            )
        reading = block["cross_attention"] or block["attention"]
        if source is not None and reading["kind"] != "none":
            weights = below(held, "cross_attention")
            sublayers["cross_attention"] = lambda x, o=reading, w=weights: cross_attention(o, w, x, source)
        if block["feedforward"]["kind"] != "none":
            feedforward = FEEDFORWARDS[block["feedforward"]["kind"]]
            sublayers["feedforward"] = each(feedforward, block["feedforward"], below(held, "feedforward"))
        norms = lambda name, n=norm, w=held: each(NORMS[n["kind"]], n, below(w, name))  # noqa: E731
        x = BLOCKS[block["kind"]](block, x, norms, sublayers)
    if declared["layers"][-1]["kind"] != "post":
        x = each(NORMS[declared["norm"]["kind"]], declared["norm"], below(parameters, "norm"))(x)
    return x


def bigrams(options: Options, parameters: Mapping[str, Array], text: Sequence[int]) -> Array:
    """Each token's vector + that of the pair (token before, token); the first one's pair is (nothing, token).

    Pagnoni et al. 2024, section 3.2.1, for pairs of tokens: all (V + 1) V pairs have rows of their own where there are
    as many rows, else pair n has the row floor(R frac(n / golden ratio)) in 32 bits (Knuth, section 6.4).
    """
    table, rows, golden = parameters["tokens.weight"], options["rows"], round(2**32 / ((1 + math.sqrt(5)) / 2))
    vocab, found = len(table), []
    for before, token in zip([None, *text[:-1]], text, strict=True):
        pair = (0 if before is None else before + 1) * vocab + token
        row = pair if (vocab + 1) * vocab <= rows else (pair * golden % 2**32) * rows // 2**32
        found.append(table[token] + parameters["pairs.weight"][row])
    return np.array(found)


def embedded(options: Options, parameters: Mapping[str, Array], text: Sequence[int], segments: Sequence[int]) -> Array:
    """Devlin et al. 2019, section 3.2: token + segment; Vaswani et al. 2017, section 3.4: tokens times sqrt(width)."""
    table = parameters["tokens.weight"]
    plain = bigrams(options, parameters, text) if options["kind"] == "bigrams" else np.array([table[t] for t in text])
    x = plain * (math.sqrt(len(table[0])) if options["scaled"] else 1.0)
    return x + np.array([parameters["segments.weight"][of] for of in segments]) if options["n_segments"] else x


EMBEDDINGS = {
    "tokens": lambda held, x: x,
    "bigrams": lambda held, x: x,
    "factorized": lambda held, x: each(affine, held, "from_embedding")(x),
}
"""What follows once positions were added; Lan et al. 2020, section 3.1: V x E, then E x D."""


def vectors(
    model: Options, parameters: Mapping[str, Array], tokens: Sequence[int], read: Sequence[int] | None = None,
    segments: Sequence[int] | None = None,
) -> Array:  # fmt: skip
    """T x D, of the model that a whole declaration (`config.dump()`, with every layer's under `layers` of its stack)
    and its parameters by path describe: Vaswani et al. 2017, figure 1."""
    options, held = model["embedding"], below(parameters, "embedding")

    def through(name: str, text: Sequence[int], causal: bool, memory: Array | None = None) -> Array:
        x = embedded(options, held, text, segments or [0] * len(text))
        stacks = [below(parameters, stack) for stack in ("encoder", "decoder")]
        shared = next(stack for stack in stacks if stack)  # one matrix for both, named after the first
        enter = lambda x: EMBEDDINGS[options["kind"]](shared, x)  # noqa: E731
        return stack(model[name], below(parameters, name), x, enter, causal=causal, source=memory)

    if not model["decoder"]:
        return through("encoder", tokens, causal=False)
    memory = None if read is None else through("encoder", read, causal=False)
    return through("decoder", tokens, causal=True, memory=memory)


def loss(logits_TV: Array, targets: Sequence[int], smoothing: float = 0.0) -> complex:
    """sum over t of -sum over v of q(v) log softmax(logits_t)[v], in nats.

    q is 1 at the target; smoothed (Szegedy et al. 2016, section 7), (1 - e) of that and e/V everywhere.
    """
    total = 0j
    for row, target in zip(logits_TV, targets, strict=True):
        highest = max(row.real)
        logs = row - highest - np.log(sum(np.exp(row - highest)))
        total -= (1 - smoothing) * logs[target] + smoothing * sum(logs) / len(row)
    return total

"""The whole model on one sequence of tokens (and one source): embedding, blocks, last norm, heads, losses."""

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


def pre(x: Array, norm: Step, f: Step) -> Array:
    """Radford et al. 2019, section 2.3: x + f(norm(x))."""
    return x + f(norm(x))


def post(x: Array, norm: Step, f: Step) -> Array:
    """Vaswani et al. 2017, section 3.1: norm(x + f(x))."""
    return norm(x + f(x))


def plain(x: Array, norm: Step, f: Step) -> Array:
    """f(norm(x))."""
    return f(norm(x))


BLOCKS = {"pre": pre, "post": post, "plain": plain}


def each(f: Callable[..., Array], *fixed: Any) -> Step:
    """f on every vector of a sequence."""
    return lambda x: np.array([f(*fixed, vector) for vector in x])


def stack(
    declared: Mapping[str, Any], parameters: Mapping[str, Array], x: Array, *, causal: bool, source: Array | None = None
) -> Array:
    """Blocks over one another, and the last norm where the last block does not end with one."""
    positions = POSITIONS[declared["positions"]["kind"]]
    shared = below(parameters, "positions")
    x = np.array([positions.embed(declared["positions"], shared, vector, place) for place, vector in enumerate(x)])
    for layer, block in enumerate(declared["layers"]):
        step, norm = BLOCKS[block["kind"]], block["norm"] or declared["norm"]
        held = below(parameters, f"blocks.{layer}")
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
        for name, f in sublayers.items():
            x = step(x, each(NORMS[norm["kind"]], norm, below(held, f"{name}_norm")), f)
    if declared["layers"][-1]["kind"] != "post":
        x = each(NORMS[declared["norm"]["kind"]], declared["norm"], below(parameters, "norm"))(x)
    return x


def vectors(
    model: Mapping[str, Any], parameters: Mapping[str, Array], tokens: Sequence[int], read: Sequence[int] | None = None
) -> Array:
    """T x D, of the model that a whole declaration (`config.dump()`, with every layer's under `layers` of its stack)
    and its parameters by path describe: Vaswani et al. 2017, figure 1."""
    scale = math.sqrt(model["d_model"]) if model["embedding"]["scaled"] else 1.0

    def through(name: str, text: Sequence[int], causal: bool, memory: Array | None = None) -> Array:
        x = np.array([scale * parameters["embedding.tokens.weight"][token] for token in text])
        return stack(model[name], below(parameters, name), x, causal=causal, source=memory)

    if not model["decoder"]:
        return through("encoder", tokens, causal=False)
    memory = None if read is None else through("encoder", read, causal=False)
    return through("decoder", tokens, causal=True, memory=memory)


def logits(model: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """T x V: the language model head's, whose table may be the embedding's (Press and Wolf 2017)."""
    head = dict(below(parameters, "heads.lm"))
    if model["embedding"]["tied"]:
        head["projection.weight"] = parameters["embedding.tokens.weight"]
    return each(affine, head, "projection")(x)


def classes(options: Mapping[str, Any], parameters: Mapping[str, Array], x: Array) -> Array:
    """C scores of one text: affine in its first vector, its last, or the mean of all."""
    pooled = {"first": x[0], "last": x[-1], "mean": sum(x) / len(x)}[options["pooling"]]
    return affine(parameters, "projection", pooled)


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

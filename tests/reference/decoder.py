"""The whole decoder on one sequence of tokens: embedding, blocks, last norm, logits, loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from reference.attention import attention
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


def logits(model: Mapping[str, Any], parameters: Mapping[str, Array], tokens: Sequence[int]) -> Array:
    """T x V, of the model that a whole declaration (`config.dump()`, with every layer's under `decoder.layers`) and its
    parameters by path describe."""
    stack, own = model["decoder"], below(parameters, "decoder")
    table = parameters["embedding.tokens.weight"]
    positions = POSITIONS[stack["positions"]["kind"]]
    x = np.array(
        [
            positions.embed(stack["positions"], below(own, "positions"), table[token], place)
            for place, token in enumerate(tokens)
        ]
    )
    for layer, block in enumerate(stack["layers"]):
        step, norm, held = BLOCKS[block["kind"]], block["norm"] or stack["norm"], below(own, f"blocks.{layer}")
        sublayers: dict[str, Step] = {}
        if block["attention"]["kind"] != "none":
            options, weights = block["attention"], below(held, "attention")
            sublayers["attention"] = lambda x, o=options, w=weights: attention(o, w, x, stack["positions"])
        if block["feedforward"]["kind"] != "none":
            feedforward = FEEDFORWARDS[block["feedforward"]["kind"]]
            sublayers["feedforward"] = each(feedforward, block["feedforward"], below(held, "feedforward"))
        for name, f in sublayers.items():
            x = step(x, each(NORMS[norm["kind"]], norm, below(held, f"{name}_norm")), f)
    if stack["layers"][-1]["kind"] != "post":
        x = each(NORMS[stack["norm"]["kind"]], stack["norm"], below(own, "norm"))(x)
    head = dict(below(parameters, "heads.lm"))
    if model["embedding"]["tied"]:
        head["projection.weight"] = table
    return each(affine, head, "projection")(x)


def loss(logits_TV: Array, targets: Sequence[int]) -> complex:
    """sum over t of -log softmax(logits_t)[target_t], in nats."""
    total = 0j
    for row, target in zip(logits_TV, targets, strict=True):
        highest = max(row.real)
        total += highest + np.log(sum(np.exp(row - highest))) - row[target]
    return total

"""Heads on the last vectors of one text, T x D."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reference.calculus import Array, affine, below, matrix
from reference.feedforward import gelu
from reference.norms import NORMS

Options = Mapping[str, Any]


def lm(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """T x V: Press and Wolf 2017; of a factorised table (Lan et al. 2020, section 3.1) W (P^T x), P of shape D x E."""
    if "back.weight" in held:
        x = np.array([matrix(held["back.weight"].T, vector) for vector in x])
    if options.get("scaled"):  # Raffel et al. 2020's code
        x = x / np.sqrt(x.shape[-1])
    return np.array([affine(held, "projection", vector) for vector in x])


def mlm(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """T x V: BERT's code, get_masked_lm_output: W norm(gelu(dense(x))) + b."""
    bent = [gelu(options, affine(held, "dense", vector)) for vector in x]
    return lm(options, held, np.array([norm(options["norm"], below(held, "norm"), vector) for vector in bent]))


def norm(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """The declared norm of one vector."""
    return NORMS[options["kind"]](options, held, x)


def pooled(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """The first vector, the last, or the mean of all; Devlin et al. 2019's code: perhaps tanh(W x + b) of it."""
    chosen = {"first": x[0], "last": x[-1], "mean": sum(x) / len(x)}[options["pooling"]]
    return np.tanh(affine(held, "pooler", chosen)) if options.get("pooler") else chosen


def classifier(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """C scores of one text: affine in its pooled vector."""
    return affine(held, "projection", pooled(options, held, x))


def tokens(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """T x C scores, or T x 2 (Devlin et al. 2019, section 4.2: S . T_i and E . T_i, with shifts as in its code)."""
    return np.array([affine(held, "projection", vector) for vector in x])


def embedding(options: Options, held: Mapping[str, Array], x: Array) -> Array:
    """D numbers: z / |z| (Reimers and Gurevych 2019, section 3)."""
    z = pooled(options, held, x)
    return z / np.sqrt(sum(value * value for value in z)) if options["normalize"] else z


HEADS = {"lm": lm, "mlm": mlm, "classifier": classifier, "multiple-choice": classifier, "token-classifier": tokens,
         "span": tokens, "embedding": embedding}  # fmt: skip


def answer(model: Options, parameters: Mapping[str, Array], name: str, x: Array) -> Array:
    """What the head of that name says, which may share the embedding's table."""
    options, held = model["heads"][name], dict(below(parameters, f"heads.{name}"))
    if model["embedding"]["tied"] and options["kind"] in ("lm", "mlm"):
        held["projection.weight"] = parameters["embedding.tokens.weight"]
        outward = [x for path, x in parameters.items() if path.endswith("from_embedding.weight")]
        if options["kind"] == "lm" and outward:
            held["back.weight"] = outward[0]
    return HEADS[options["kind"]](options, held, x)

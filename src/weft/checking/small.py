"""Models so small that all can be tried with them, in float64, with weights so large that every part matters."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

import torch

from weft.config import Section, sections_within
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.seeds import derive

SIZES: dict[str, Any] = {"d_model": 16, "max_length": 24, "vocab_size": 11, "decoder": {"n_layers": 2}}
"""Of every model that is made here."""

LABELS = ("a", "b", "c", "d")
"""Classes of a classifier that names none."""


@functools.lru_cache(maxsize=1024)
def model_from(text: str) -> Transformer:
    """The model that this JSON text declares; shared: leave it as it is.

    Raises WeftError when it is refused.
    """
    model = build(ModelConfig.load(json.loads(text)).bind(SIZES["vocab_size"], LABELS)).double().eval()
    stir(model)
    zeros = torch.zeros(1, 4, dtype=torch.long)
    model(zeros, source=zeros if model.encoder and model.decoder else None)  # some are refused only here
    return model


def forget() -> None:
    """Drop the models that are kept: a kind may come to mean another part."""
    model_from.cache_clear()


def small(decoder: Mapping[str, Any] | None = None, **options: Any) -> Transformer:
    """A model of two rotary layers unless said otherwise, in float64, stirred."""
    model = build({**SIZES, **options, "decoder": {"n_layers": 2, "positions": "rotary", **(decoder or {})}})
    stir(model.double().eval())
    return model


def stir(model: torch.nn.Module, strength: float = 0.3) -> None:
    """Add noise to every parameter, gains and shifts included, so that none is 0 or 1 and no weight is small."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(derive(0, "stir", name))
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(strength * noise.to(parameter))


def changed(config: ModelConfig, section: type[Section], name: str, value: Any) -> dict[str, Any]:
    """The model's declaration with another value of one option, in all sections of that type."""
    tree = config.dump()
    for path, found in sections_within(config):
        if type(found) is section and (name != "cross_attention" or path[0] == "decoder"):  # an encoder has no source
            functools.reduce(lambda node, key: node[int(key) if isinstance(node, list) else key], path, tree)[name] = (
                value
            )
    return tree

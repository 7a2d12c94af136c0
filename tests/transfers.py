"""Transfers in small: a donor of the tiny recipe's model, what a recipe asks of it, a training begun with it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny import prepared

import weft
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.text.tokenizers import Tokenizer, TokenizerConfig
from weft.training.loop import Training
from weft.training.setup import make_training, new_training

TABLE = "embedding.tokens.weight"
UNTIED = "model.embedding.tied=false"


def tokenizer(seed: int | None = None) -> Tokenizer:
    """Bytes; or with a seed 300 tokens learned from words of that seed's."""
    if seed is None:
        return TokenizerConfig.choose("bytes").train([], 0)
    draw = random.Random(seed)
    texts = [" ".join("".join(draw.choices("abcdefgh", k=4)) for _ in range(200))]
    return TokenizerConfig.choose({"kind": "bpe", "vocab_size": 300}).train(texts, len(texts[0]))


def saved(path: Path, source: Path, *overrides: str, of: Tokenizer | None = None) -> Path:
    """A model folder: the tiny recipe's model with overrides, drawn from seed 9."""
    of = of or tokenizer()
    config = ModelConfig.load(tiny.recipe(source)["model"], *overrides).bind(of.vocab_size)
    return weft.save(weft.build(config, seed=9), of, path)


def asks(options: dict[str, Any]) -> str:
    return f"transfer={json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in options.items()})}"


def begun(source: Path, *overrides: str) -> Training:
    return make_training(prepared(source, *overrides))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {path: parameter.detach().clone() for path, parameter in model.named_parameters()}


def refused(source: Path, *overrides: str) -> str:
    with pytest.raises(WeftError) as error:
        new_training(prepared(source, *overrides), tiny.Console(quiet=True))
    assert "\n" not in str(error.value), "one line"
    return str(error.value)

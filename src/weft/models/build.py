"""From a declaration to a model with its starting values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from weft.config import Override
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn.module import materialize


def build(
    config: ModelConfig | dict[str, Any] | str | Path,
    *overrides: str | Override,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Transformer:
    """The model that `config` (a ModelConfig, mapping, preset's name or YAML file) describes, drawn from `seed`.

    On device "meta" it has shapes and no memory. Raises WeftError when the declaration cannot be built.
    """
    model = blank(ModelConfig.load(config, *overrides))
    if torch.device(device).type != "meta":
        materialize(model, seed, device)
        model.tie()
    return model


def blank(config: ModelConfig) -> Transformer:
    """The model on the meta device: every shape, no memory.

    Raises WeftError when parts do not fit together.
    """
    with torch.device("meta"):
        model = config.build()
    if not isinstance(model, Transformer):
        raise WeftError(f"model kind {config.kind!r}: its build() gave a {type(model).__name__}, not a Transformer")
    return model

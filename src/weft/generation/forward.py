"""One forward of a model that writes: rows of tokens padded to a batch, without dropout, the scores after each row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from weft.errors import WeftError
from weft.models.transformer import Transformer
from weft.nn.cache import Cache
from weft.nn.context import Inputs


def next_logits(
    model: Transformer, fed: Sequence[Sequence[int]], cache: Cache | None, source: Inputs | None = None
) -> Tensor:
    """logits_BV after the last token of each row."""
    device = next(model.parameters()).device
    tokens_BT, valid_BT, last_B = (x if x is None else x.to(device) for x in pad(fed))
    output = model(Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT), source=source, cache=cache)
    x_BD = output.x_BTD[torch.arange(len(fed), device=device), last_B]
    logits_BV: Tensor = model.head("lm")(x_BD)
    return logits_BV


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None, Tensor]:
    """tokens_BT filled up on the right, valid_BT (None where nothing was filled), and each row's last index."""
    lengths_B = torch.tensor([len(row) for row in rows])
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    alike = bool((lengths_B == longest).all())
    valid_BT = None if alike else torch.arange(longest) < lengths_B[:, None]
    return tokens_BT, valid_BT, lengths_B - 1


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The same batch there."""
    held = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return replace(inputs, **{name: x.to(device) for name, x in held.items() if isinstance(x, Tensor)})


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Without dropout; afterwards each module is as it was, also where only some were training."""
    training = [module for module in modules if module.training]
    for module in training:  # into the dictionary: nn.Module's own setter takes a quarter of a small model's step
        vars(module)["training"] = False
    try:
        yield
    finally:
        for module in training:
            vars(module)["training"] = True


def no_numbers() -> WeftError:
    """What is said of scores that are not finite."""
    return WeftError("the model's scores are not finite numbers: its weights are damaged or its training diverged")

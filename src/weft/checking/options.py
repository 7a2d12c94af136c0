"""Whether an option does anything: other parameters, or other outputs of the same ones."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from weft.checking.compare import tokens, whole_answer
from weft.checking.small import changed, stir
from weft.checking.values import values_of
from weft.config import Section
from weft.device import seed_draws
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer


def alive(model: Transformer, section: type[Section], name: str) -> bool:
    """Whether some value of the option changes the parameters or what is computed from them."""
    as_is = Tried(model.config)
    for value in values_of(section, name):
        try:
            if as_is.differs(Tried(changed(model.config, section, name, value))):
                return True
        except WeftError:  # refused in this combination
            continue
    return False


class Tried:
    """A declaration, built: what it starts from, and what it says with other weights."""

    def __init__(self, declaration: ModelConfig | dict[str, Any]) -> None:
        self.model = build(declaration)
        self.start = {name: parameter.detach().clone() for name, parameter in self.model.named_parameters()}
        stir(self.model)
        self.said: dict[tuple[int, bool], list[Tensor]] = {}

    def differs(self, other: Tried) -> bool:
        """Other parameters; or other outputs, in evaluation or in training, of the same ones."""
        if [(k, p.shape) for k, p in self.start.items()] != [(k, p.shape) for k, p in other.start.items()]:
            return True
        if any(not torch.equal(self.start[k], other.start[k]) for k in self.start):
            return True
        beyond = self.model.config.max_length + 1  # some positions differ where training had ended
        lengths = (6,) if {self.model.limit(), other.model.limit()} != {None} else (6, beyond)
        return any(
            not all(torch.equal(*pair) for pair in zip(self.says(*how), other.says(*how), strict=True))
            for how in itertools.product(lengths, (False, True))
        )

    def says(self, length: int, training: bool) -> list[Tensor]:
        """Scores and every other head's answers to the same tokens."""
        if (length, training) not in self.said:
            seed_draws(0)
            logits_BTV, answers = whole_answer(self.model.train(training), tokens(self.model, 2, length))
            self.said[length, training] = [logits_BTV, *answers]
        return self.said[length, training]

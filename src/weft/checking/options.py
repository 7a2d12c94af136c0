"""Whether an option does anything: other parameters, or other outputs of the same ones."""

from __future__ import annotations

import itertools

import torch

from weft.checking.compare import answers, logits, tokens
from weft.checking.small import changed, stir
from weft.checking.values import values_of
from weft.config import Section
from weft.errors import WeftError
from weft.models.build import build
from weft.models.transformer import Transformer


def alive(model: Transformer, section: type[Section], name: str) -> bool:
    """Whether some value of the option changes the parameters or what is computed from them."""
    for value in values_of(section, name):
        try:
            other = build(changed(model.config, section, name, value))
            if differ(build(model.config), other):
                return True
        except WeftError:  # refused in this combination
            continue
    return False


def differ(one: Transformer, other: Transformer) -> bool:
    """Other parameters; or other outputs, in evaluation or in training, of the same ones."""
    first, second = dict(one.named_parameters()), dict(other.named_parameters())
    if [(k, p.shape) for k, p in first.items()] != [(k, p.shape) for k, p in second.items()]:
        return True
    if any(not torch.equal(first[k], second[k]) for k in first):
        return True
    beyond = one.config.max_length + 1  # some positions differ where training had ended
    lengths = (6,) if {one.limit(), other.limit()} != {None} else (6, beyond)
    for model in (one, other):
        stir(model)
    for length, training, compute in itertools.product(lengths, (False, True), (logits, answers)):
        outs = []
        for model in (one, other):
            torch.manual_seed(0)
            outs.append(compute(model.train(training), tokens(model, 2, length)))
        if not all(torch.equal(*pair) for pair in zip(*outs, strict=True)):
            return True
    return False

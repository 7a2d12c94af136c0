"""Rows of tokens that grow together, one token a step each, with a cache or (the reference) without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from weft.generation.sampling import Sampler
from weft.models.transformer import Transformer
from weft.nn.context import Inputs


class Rows:
    """A batch of token sequences that a model continues; rows that are done leave it."""

    def __init__(
        self, model: Transformer, prompts: Sequence[Sequence[int]], sampler: Sampler, *, use_cache: bool = True
    ) -> None:
        """`prompts` have at least one token each; without the cache every step computes everything anew."""
        assert all(prompts), "a row starts from at least one token"
        self.model = model
        self.sampler = sampler
        self.tokens = [list(prompt) for prompt in prompts]
        self.cache = model.new_cache(len(prompts)) if use_cache else None
        self._unread = [list(prompt) for prompt in prompts]
        """What the cache has not seen of each row."""
        self._modules = list(model.modules())

    def step(self) -> list[int]:
        """One new token for each row.

        Raises WeftError when a row is longer than the positions can number, or the scores are not numbers.
        """
        fed = self.tokens if self.cache is None else self._unread
        chosen: list[int] = self.sampler.choose(self._logits(fed)).tolist()
        for row, token in zip(self.tokens, chosen, strict=True):
            row.append(token)
        self._unread = [[token] for token in chosen]
        return chosen

    def select(self, rows: Sequence[int]) -> None:
        """Keep the named rows, in that order."""
        self.tokens = [self.tokens[row] for row in rows]
        self._unread = [self._unread[row] for row in rows]
        self.sampler.select(rows)
        if self.cache is not None:
            self.cache.select(rows)

    def _logits(self, fed: Sequence[Sequence[int]]) -> Tensor:
        """logits_BV after the last token of each row."""
        device = next(self.model.parameters()).device
        tokens_BT, valid_BT, last_B = (x if x is None else x.to(device) for x in pad(fed))
        with evaluating(self._modules), torch.no_grad():
            output = self.model(Inputs(tokens_BT=tokens_BT, valid_BT=valid_BT), cache=self.cache)
            x_BD = output.x_BTD[torch.arange(len(fed), device=device), last_B]
            logits_BV: Tensor = self.model.heads["lm"](x_BD)
        return logits_BV


def pad(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None, Tensor]:
    """tokens_BT filled up on the right, valid_BT (None where nothing was filled), and each row's last index."""
    lengths_B = torch.tensor([len(row) for row in rows])
    longest = max(map(len, rows))
    tokens_BT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
    alike = bool((lengths_B == longest).all())
    valid_BT = None if alike else torch.arange(longest) < lengths_B[:, None]
    return tokens_BT, valid_BT, lengths_B - 1


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

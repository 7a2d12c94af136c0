"""Rows of tokens that grow together, one token a step each, with a cache or (the reference) without."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from weft.generation.forward import evaluating, next_logits
from weft.generation.likelihood import Likelihood, likelihoods
from weft.generation.sampling import Sampler
from weft.models.transformer import Transformer


class Rows:
    """A batch of token sequences that a model continues; rows that are done leave it."""

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        sampler: Sampler,
        *,
        use_cache: bool = True,
        logprobs: int | None = None,
    ) -> None:
        """`prompts` have at least one token each; without the cache every step computes everything anew.

        With `logprobs` it is told how probable each new token was, beside so many alternatives.
        """
        assert all(prompts), "a row starts from at least one token"
        self.model = model
        self.sampler = sampler
        self.logprobs = logprobs
        self.tokens = [list(prompt) for prompt in prompts]
        self.cache = model.new_cache(len(prompts)) if use_cache else None
        self._unread = [list(prompt) for prompt in prompts]
        """What the cache has not seen of each row."""
        self._modules = list(model.modules())

    def step(self) -> list[tuple[int, Likelihood | None]]:
        """One new token for each row, and how probable it was where that is asked for.

        Raises WeftError when a row is longer than the positions can number, or the scores are not numbers.
        """
        fed = self.tokens if self.cache is None else self._unread
        with evaluating(self._modules), torch.no_grad():
            logits_BV = next_logits(self.model, fed, self.cache)
        told: list[Likelihood] | list[None] = [None] * len(fed)
        if self.logprobs is None:
            tokens_B = self.sampler.choose(logits_BV)
        else:
            drawn_BV = self.sampler.scores(logits_BV)  # as long as the new tokens do not count as seen
            tokens_B = self.sampler.choose(logits_BV)
            told = likelihoods(logits_BV[:, : self.sampler.vocab_size], tokens_B, self.logprobs, drawn_BV)
        chosen: list[int] = tokens_B.tolist()
        for row, token in zip(self.tokens, chosen, strict=True):
            row.append(token)
        self._unread = [[token] for token in chosen]
        return list(zip(chosen, told, strict=True))

    def select(self, rows: Sequence[int]) -> None:
        """Keep the named rows, in that order."""
        self.tokens = [self.tokens[row] for row in rows]
        self._unread = [self._unread[row] for row in rows]
        self.sampler.select(rows)
        if self.cache is not None:
            self.cache.select(rows)

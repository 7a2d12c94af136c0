"""The likeliest answer of an encoder-decoder: beam search, which with one beam is greedy.

Each source keeps its `beams` likeliest beginnings. An answer is compared by its log-probability over the length penalty
((5 + tokens) / 6)^strength (Wu et al. 2016, eq. 14), its end counted as a token; no coverage penalty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from weft.config import Section
from weft.errors import WeftError
from weft.generation.rows import evaluating
from weft.models.transformer import Transformer
from weft.nn.context import Inputs


class Searching(Section):
    """How an answer is searched for; as Vaswani et al. 2017, section 6.1, unless said otherwise."""

    beams: PositiveInt = 4
    """beginnings of answers that are kept: 1 always takes the likeliest token (greedy)"""
    length_penalty: float = Field(0.6, ge=0, allow_inf_nan=False)
    """0 compares answers by their probability alone, which favours short ones; 1 nearly by that of a token"""
    max_tokens: PositiveInt | None = None
    """most tokens of an answer; 256 unless given, or the trained length where that is less"""


@dataclass(frozen=True)
class Hypothesis:
    """An answer, or its beginning."""

    tokens: tuple[int, ...]
    """without start and end"""
    log_probability: float
    """in nats, of all its tokens and, where it is finished, its end"""
    score: float
    """what hypotheses of one source are compared by: log_probability over the length penalty"""
    finished: bool
    """whether it came to its end within the number of tokens"""


def length_penalty_of(tokens: int, strength: float) -> float:
    """Wu et al. 2016, eq. 14: ((5 + tokens) / 6)^strength."""
    return ((5 + tokens) / 6) ** strength


def search(
    model: Transformer,
    source: Inputs,
    *,
    start: int,
    end: int,
    beams: int = 1,
    max_tokens: int,
    length_penalty: float = 0.6,
    vocab_size: int | None = None,
) -> list[Hypothesis]:
    """The best answer that is found for each source, all of them together; an unfinished one only where none ended.

    `max_tokens` counts the end. With one beam the likeliest token is taken each time. Tokens from `vocab_size` on (of a
    padded head) are never chosen. Raises WeftError for a model that is no encoder-decoder, or cannot number as many
    tokens, and when its scores are not numbers.
    """
    _check(model, beams, max_tokens, length_penalty)
    device, rows = next(model.parameters()).device, source.shape[0]
    searches = [_Search(end, beams, max_tokens, length_penalty) for _ in range(rows)]
    alive, beginnings = list(range(rows)), [each.filled(1) for each in searches]
    tokens, cache = [start] * rows, model.new_cache(rows)
    given: Inputs | None = _on(source, device)
    with evaluating(list(model.modules())), torch.no_grad():
        for _ in range(max_tokens):
            step_BT = torch.tensor(tokens, device=device)[:, None]
            x_BTD = model(Inputs(tokens_BT=step_BT), source=given, cache=cache).x_BTD
            logits_BV = model.head("lm")(x_BTD[:, -1])[:, :vocab_size]
            given, width, size = None, len(beginnings[0]), logits_BV.shape[1]
            found = _best([[live.log_p for live in row] for row in beginnings], logits_BV, 2 * beams)
            for which, candidates in zip(alive, found, strict=True):
                searches[which].step((log_p, *divmod(index, size)) for log_p, index in candidates)
            kept = [place for place, which in enumerate(alive) if searches[which].goes_on()]
            if not kept:
                break
            alive = [alive[place] for place in kept]
            # all sources get as many beams; one that has fewer beginnings is filled up with impossible ones
            wide = max(len(searches[which].live) for which in alive)
            beginnings = [searches[which].filled(wide) for which in alive]
            tokens = [live.tokens[-1] for row in beginnings for live in row]
            origin = [place * width + live.parent for place, row in zip(kept, beginnings, strict=True) for live in row]
            if origin != list(range(cache.rows)):
                cache.select(origin)
    return [each.answer() for each in searches]


def _best(log_p_NK: list[list[float]], logits_BV: Tensor, number: int) -> list[list[tuple[float, int]]]:
    """Of each source the likeliest next tokens of all its beginnings: log-probability, beginning x V + token.

    Raises WeftError when a score is not a number.
    """
    logits_BV = logits_BV.to(torch.promote_types(logits_BV.dtype, torch.float32))
    so_far_NK = torch.tensor(log_p_NK, dtype=logits_BV.dtype, device=logits_BV.device)
    total_NC = (so_far_NK[..., None] + logits_BV.log_softmax(-1).unflatten(0, so_far_NK.shape)).flatten(1)
    best = total_NC.topk(min(number, total_NC.shape[1]))
    values = best.values.tolist()
    if any(math.isnan(row[0]) for row in values):  # of all numbers the first to be found
        raise WeftError("the model's scores are not finite numbers: its weights are damaged or its training diverged")
    return [list(zip(*pair, strict=True)) for pair in zip(values, best.indices.tolist(), strict=True)]


@dataclass(frozen=True)
class _Live:
    """The beginning of an answer, and the beginning before it that it continues."""

    parent: int
    tokens: tuple[int, ...]
    log_p: float


class _Search:
    """What is found for one source."""

    def __init__(self, end: int, beams: int, max_tokens: int, strength: float) -> None:
        self.end = end
        self.beams = beams
        self.max_tokens = max_tokens
        self.strength = strength
        self.live = [_Live(0, (), 0.0)]
        self.best: Hypothesis | None = None

    def step(self, candidates: Iterable[tuple[float, int, int]]) -> None:
        """Go on with the likeliest of these (log-probability, beginning, token), twice as many as beams.

        So as many as beams go on even where each of them could end; and only the likeliest half may end, so that
        a beam is not wide for its ends alone.
        """
        before, self.live = self.live, []
        for rank, (log_p, parent, token) in enumerate(candidates):
            if log_p == -math.inf:
                break
            if token == self.end:
                if rank < self.beams:
                    self._end(before[parent].tokens, log_p)
            elif len(self.live) < self.beams:
                self.live.append(_Live(parent, (*before[parent].tokens, token), log_p))

    def _end(self, tokens: tuple[int, ...], log_p: float) -> None:
        found = Hypothesis(tokens, log_p, log_p / length_penalty_of(len(tokens) + 1, self.strength), True)
        if self.best is None or found.score > self.best.score:
            self.best = found

    def goes_on(self) -> bool:
        """Whether a beginning may yet become better than the best answer: at most as long, with nothing more to pay."""
        if self.best is None or not self.live:
            return bool(self.live)
        if self.beams == 1:  # the likeliest token was the end
            return False
        return self.live[0].log_p / length_penalty_of(self.max_tokens, self.strength) > self.best.score

    def filled(self, number: int) -> list[_Live]:
        """The live beginnings, and so many impossible ones that there are `number`."""
        return self.live + [replace(self.live[0], log_p=-math.inf)] * (number - len(self.live))

    def answer(self) -> Hypothesis:
        """The best finished one; where none is, the likeliest beginning."""
        if self.best is not None:
            return self.best
        live = self.live[0]
        return Hypothesis(
            live.tokens, live.log_p, live.log_p / length_penalty_of(len(live.tokens), self.strength), False
        )


def _on(source: Inputs, device: torch.device) -> Inputs:
    held = {field.name: getattr(source, field.name) for field in fields(source)}
    return replace(source, **{name: x.to(device) for name, x in held.items() if isinstance(x, Tensor)})


def _check(model: Transformer, beams: int, max_tokens: int, length_penalty: float) -> None:
    if model.encoder is None or model.decoder is None:
        raise WeftError("a search answers a source: it needs an encoder-decoder")
    if beams < 1 or max_tokens < 1 or not 0 <= length_penalty < math.inf:
        raise WeftError(
            f"beams = {beams}, max_tokens = {max_tokens}, length_penalty = {length_penalty}: should be at least 1, 1, 0"
        )
    limit = model.limit()
    if limit is not None and max_tokens > limit:
        raise WeftError(f"max_tokens = {max_tokens}: the decoder's positions end at {limit}")
    model.decoder.check_cached(max_tokens)

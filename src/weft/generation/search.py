"""The likeliest texts: beam search, for a decoder that continues and for an encoder-decoder that answers.

The `beams` likeliest beginnings are kept; one beam is greedy. What ended is compared by its log-probability over the
length penalty ((5 + tokens) / 6)^strength (Wu et al. 2016, eq. 14), its end counted as a token; no coverage penalty.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from weft.errors import WeftError
from weft.generation.forward import evaluating, next_logits, no_numbers, on_device
from weft.generation.stops import Ending
from weft.generation.texts import RowText
from weft.models.transformer import Transformer
from weft.nn.context import Inputs


class Searching(Ending):
    """How the likeliest text is searched for; as Vaswani et al. 2017, section 6.1, unless said otherwise."""

    beams: PositiveInt = 4
    """beginnings that are kept: 1 always takes the likeliest token (greedy)"""
    length_penalty: float = Field(0.6, ge=0, allow_inf_nan=False)
    """0 compares texts by their probability alone, which favours short ones; 1 nearly by that of a token"""

    @classmethod
    def asked(cls, options: Mapping[str, object]) -> bool:
        """Whether one of these options, as a person gave them, is a search's alone."""
        own = cls.model_fields.keys() - Ending.model_fields.keys()
        return any(options.get(name) is not None for name in own)


@dataclass(frozen=True)
class Hypothesis:
    """What a model may write, or the beginning of that."""

    tokens: tuple[int, ...]
    """the new ones, without the token that ends a document"""
    log_probability: float
    """in nats, of all its tokens and, where it came to one, its end"""
    score: float
    """what hypotheses after one beginning are compared by: log_probability over the length penalty"""
    finished: bool
    """whether it came to its end, or a stop string, within the number of tokens"""


def length_penalty_of(tokens: int, strength: float) -> float:
    """Wu et al. 2016, eq. 14: ((5 + tokens) / 6)^strength."""
    return ((5 + tokens) / 6) ** strength


def search(
    model: Transformer,
    beginnings: Sequence[Sequence[int]],
    *,
    source: Inputs | None = None,
    end: int | None,
    max_tokens: int | Sequence[int],
    beams: int = 1,
    length_penalty: float = 0.6,
    number: int = 1,
    vocab_size: int | None = None,
    texts: Sequence[RowText] | None = None,
) -> list[list[Hypothesis]]:
    """The best that is found after each beginning, all of them together: `number` each, or as many as there are.

    Those that ended come first, the best at the front; unfinished ones only where too few did. `max_tokens` (one for
    all, or one a beginning) counts the end. With one beam the likeliest token is taken each time. Tokens from
    `vocab_size` on (of a padded head) are never chosen. An encoder-decoder writes after reading its row of `source`.
    `texts`, one a beginning, have stop strings that end a hypothesis; where several tokens would complete one, fewer
    than `beams` may go on.
    Raises WeftError for options that make no sense, for more tokens than the model can number, and when its scores are
    not numbers.
    """
    rows = len(beginnings)
    budgets = [max_tokens] * rows if isinstance(max_tokens, int) else list(max_tokens)
    _check(model, beginnings, budgets, beams, length_penalty, number)
    heard = [None] * rows if texts is None else texts
    searches = [
        _Search(end, beams, budget, length_penalty, number, text) for budget, text in zip(budgets, heard, strict=True)
    ]
    alive, live = list(range(rows)), [each.filled(1) for each in searches]
    fed, cache = beginnings, model.new_cache(rows)
    given = None if source is None else on_device(source, next(model.parameters()).device)
    with evaluating(list(model.modules())), torch.no_grad():
        while alive:
            logits_BV = next_logits(model, fed, cache, given)[:, :vocab_size]
            given, width, size = None, len(live[0]), logits_BV.shape[1]
            found = _best([[each.log_p for each in row] for row in live], logits_BV, 2 * beams)
            for which, candidates in zip(alive, found, strict=True):
                searches[which].step((log_p, *divmod(index, size)) for log_p, index in candidates)
            kept = [place for place, which in enumerate(alive) if searches[which].goes_on()]
            alive = [alive[place] for place in kept]
            # all have as many beams in the batch; one with fewer beginnings is filled up with impossible ones
            wide = max((len(searches[which].live) for which in alive), default=0)
            live = [searches[which].filled(wide) for which in alive]
            fed = [[each.tokens[-1]] for row in live for each in row]
            origin = [place * width + each.parent for place, row in zip(kept, live, strict=True) for each in row]
            if alive and origin != list(range(cache.rows)):
                cache.select(origin)
    return [each.answers() for each in searches]


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
        raise no_numbers()
    return [list(zip(*pair, strict=True)) for pair in zip(values, best.indices.tolist(), strict=True)]


@dataclass(frozen=True)
class _Live:
    """What goes on, and the one before it that it continues."""

    parent: int
    tokens: tuple[int, ...]
    log_p: float
    text: RowText | None = None


class _Search:
    """What is found after one beginning."""

    def __init__(
        self,
        end: int | None,
        beams: int,
        max_tokens: int,
        strength: float,
        number: int = 1,
        text: RowText | None = None,
    ) -> None:
        self.end = end
        self.beams = beams
        self.max_tokens = max_tokens
        self.strength = strength
        self.number = number
        self.live = [_Live(0, (), 0.0, text)]
        self.ended: list[Hypothesis] = []
        """The best so far, at most `number`, best first."""

    def step(self, candidates: Iterable[tuple[float, int, int]]) -> None:
        """Go on with the likeliest of these (log-probability, beginning, token), twice as many as beams.

        So as many as beams go on even where each of them could end; and only the likeliest half may end, so that
        a beam is not wide for its ends alone.
        """
        before, self.live = self.live, []
        for rank, (log_p, parent, token) in enumerate(candidates):
            if log_p == -math.inf:
                break
            tokens, text = before[parent].tokens, before[parent].text
            length = len(tokens) + 1
            if token == self.end:
                if rank < self.beams:
                    self._end(tokens, length, log_p)
            elif len(self.live) < self.beams:
                text = None if text is None else text.branch()
                if text is None or text.push(token).finish != "stop":
                    self.live.append(_Live(parent, (*tokens, token), log_p, text))
                elif rank < self.beams:
                    self._end((*tokens, token), length, log_p)

    def _end(self, tokens: tuple[int, ...], length: int, log_p: float) -> None:
        self.ended.append(Hypothesis(tokens, log_p, log_p / length_penalty_of(length, self.strength), True))
        self.ended.sort(key=lambda each: -each.score)  # stable: of equals the first that was found
        del self.ended[self.number :]

    def goes_on(self) -> bool:
        """Whether a beginning may yet be among the best: at most as long as may be, with nothing more to pay."""
        if not self.live or len(self.live[0].tokens) >= self.max_tokens:
            return False
        if len(self.ended) < self.number:
            return True
        if self.beams == 1:  # the likeliest token was the end
            return False
        return self.live[0].log_p / length_penalty_of(self.max_tokens, self.strength) > self.ended[-1].score

    def filled(self, number: int) -> list[_Live]:
        """What goes on, and so many impossible ones that there are `number`."""
        return self.live + [replace(self.live[0], log_p=-math.inf)] * (number - len(self.live))

    def answers(self) -> list[Hypothesis]:
        """The best that ended; where they are too few, the likeliest that did not."""
        penalty = length_penalty_of(self.max_tokens, self.strength)
        cut = [Hypothesis(each.tokens, each.log_p, each.log_p / penalty, False) for each in self.live]
        return [*self.ended, *cut][: self.number]


def _check(
    model: Transformer,
    beginnings: Sequence[Sequence[int]],
    budgets: Sequence[int],
    beams: int,
    length_penalty: float,
    number: int,
) -> None:
    assert all(beginnings), "a search goes on from at least one token"
    if model.decoder is None:
        raise WeftError("this model is an encoder, which writes nothing: there is nothing to search for")
    least = min(budgets, default=1)
    if beams < 1 or least < 1 or not 0 <= length_penalty < math.inf:
        raise WeftError(
            f"beams = {beams}, max_tokens = {least}, length_penalty = {length_penalty}: should be at least 1, 1, 0"
        )
    if not 1 <= number <= beams:
        raise WeftError(f"number = {number}: a search with beams = {beams} finds from 1 to {beams}")
    limit = model.limit()
    for beginning, budget in zip(beginnings, budgets, strict=True):
        length = len(beginning) + budget - 1  # the last token is never read
        if limit is not None and length > limit:
            after = f" after {len(beginning)}" if len(beginning) > 1 else ""
            raise WeftError(f"max_tokens = {budget}{after}: the decoder's positions end at {limit}")
        model.decoder.check_cached(length)

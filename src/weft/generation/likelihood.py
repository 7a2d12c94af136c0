"""How probable a model finds each token, and what it would rather have said. V is the tokenizer's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.errors import WeftError
from weft.generation.forward import evaluating, no_numbers, on_device
from weft.models.transformer import Transformer
from weft.nn.context import Inputs


@dataclass(frozen=True)
class Likelihood:
    """How probable one token is after those before it, by the model's own scores: nothing divided, nothing ruled out.

    Log-probabilities are in nats and sum to 1, as probabilities, over the tokenizer's vocabulary.
    """

    token: int
    log_probability: float
    rank: int
    """1 where no token is likelier"""
    alternatives: tuple[tuple[int, float], ...]
    """the likeliest tokens and their log-probabilities, best first; this one may be among them"""
    drawn: float | None = None
    """log-probability with which it was drawn: after repetition penalty, temperature and truncations; greedy: 0"""


def check_logprobs(logprobs: int | None) -> None:
    """Raises WeftError for a number of alternatives that makes no sense."""
    if logprobs is not None and logprobs < 0:
        raise WeftError(f"logprobs = {logprobs}: how many alternatives are told beside each token; 0 or more")


def likelihoods(logits_NV: Tensor, tokens_N: Tensor, logprobs: int, drawn_NV: Tensor | None = None) -> list[Likelihood]:
    """How probable each token is by these scores, and so many of the likeliest; of equals those with lower ids first.

    `drawn_NV` are the scores that it was drawn from.
    """
    logits_NV, tokens_N1 = logits_NV.cpu(), tokens_N.cpu()[:, None]
    log_p_NV = logits_NV.double().log_softmax(-1)
    own_N1 = log_p_NV.gather(-1, tokens_N1)
    ranks = ((logits_NV > logits_NV.gather(-1, tokens_N1)).sum(-1) + 1).tolist()
    drawn: list[float] | list[None] = [None] * len(ranks)
    if drawn_NV is not None:
        drawn = drawn_NV.double().log_softmax(-1).gather(-1, tokens_N1)[:, 0].tolist()
    rows = zip(tokens_N1[:, 0].tolist(), own_N1[:, 0].tolist(), ranks, log_p_NV, drawn, strict=True)
    return [Likelihood(token, own, rank, _likeliest(log_p_V, logprobs), of) for token, own, rank, log_p_V, of in rows]


def _likeliest(log_p_V: Tensor, number: int) -> tuple[tuple[int, float], ...]:
    number = min(number, len(log_p_V))
    if number == 0:
        return ()
    least = log_p_V.topk(number).values[-1]
    ids = ((log_p_V >= least) & log_p_V.isfinite()).nonzero()[:, 0]  # topk takes any of those that are equal
    best = ids[log_p_V[ids].argsort(descending=True, stable=True)[:number]]
    return tuple(zip(best.tolist(), log_p_V[best].tolist(), strict=True))


def read(
    model: Transformer,
    beginning: Sequence[int],
    tokens: Sequence[int],
    logprobs: int,
    *,
    vocab_size: int | None = None,
    source: Inputs | None = None,
) -> list[Likelihood]:
    """How probable the model finds each of these tokens after a beginning (one at least) and those before it.

    One forward, without a cache. An encoder-decoder reads its source too. Raises WeftError when they are more than the
    positions can number, or the scores are not numbers.
    """
    assert beginning, "the first token comes after something"
    if not tokens:
        return []
    device = next(model.parameters()).device
    text_BT = torch.tensor([[*beginning, *tokens]], device=device)
    with evaluating(list(model.modules())), torch.no_grad():
        given = None if source is None else on_device(source, device)
        x_BTD = model(text_BT[:, :-1], source=given).x_BTD
        logits_TV: Tensor = model.head("lm")(x_BTD[0, len(beginning) - 1 :])[:, :vocab_size]
    if not logits_TV.amax(-1).isfinite().all():
        raise no_numbers()
    return likelihoods(logits_TV, text_BT[0, len(beginning) :], logprobs)

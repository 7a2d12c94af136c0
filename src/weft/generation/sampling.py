"""From scores to the next token: a chain of small functions, each of which changes the scores, then one draw.

The order: repetition penalty, temperature, top-k, top-p, min-p, typical, eta. What a step rules out gets the score
-inf; for the next one what is left is all there is. V is the tokenizer's vocabulary; logits_BV are float32 on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from weft.generation.forward import no_numbers
from weft.generation.stops import Ending
from weft.seeds import derive


class Sampling(Ending):
    """How the next token is chosen, and when a text ends."""

    temperature: float = Field(0.8, ge=0, allow_inf_nan=False)
    """what scores are divided by: below 1 bolder, above 1 wilder, 0 always takes the likeliest token (greedy)"""
    top_k: PositiveInt | None = None
    """choose among the k likeliest tokens only"""
    top_p: float | None = Field(None, gt=0, le=1)
    """choose among the fewest tokens that have this probability together"""
    min_p: float | None = Field(None, gt=0, le=1)
    """choose among tokens at least this many times as likely as the likeliest"""
    typical_p: float | None = Field(None, gt=0, le=1)
    """choose among the fewest tokens with this probability together, first those that surprise as much as expected"""
    eta_cutoff: float | None = Field(None, gt=0, lt=1)
    """choose among tokens with at least this probability, and less where many are likely; 0.0003 to 0.004 are usual"""
    repetition_penalty: float = Field(1.0, ge=0.1, le=10)
    """what the scores of tokens that stand in the text already are lowered by; 1 changes nothing"""
    seed: int = 0
    """of the random draws: the same seed, prompt and model give the same text"""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0


def penalize_repetition(logits_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Divide the positive scores of seen tokens by the penalty, and multiply the negative ones.

    Keskar et al. 2019, "CTRL", section 4.1, which divides both; dividing a negative score would raise it.
    """
    lowered_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    return torch.where(seen_BV, lowered_BV, logits_BV)


def scale(logits_BV: Tensor, temperature: float) -> Tensor:
    """Scores divided by the temperature (Ackley et al. 1985), shifted so that the likeliest has 0."""
    # shifted first, and in float64: a tiny temperature then gives 0 and -inf, never inf - inf
    shifted_BV = (logits_BV - logits_BV.amax(-1, keepdim=True)).double()
    return (shifted_BV / temperature).float()


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Rule out all but the k likeliest (Fan et al. 2018, section 5.4); of equals, those with the lower ids stay."""
    if k >= logits_BV.shape[-1]:
        return logits_BV
    least_B1 = logits_BV.topk(k).values[..., -1:]
    above_BV, equal_BV = logits_BV > least_B1, logits_BV == least_B1
    room_B1 = k - above_BV.sum(-1, keepdim=True)
    return _only(logits_BV, above_BV | (equal_BV & (equal_BV.cumsum(-1) <= room_B1)))


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Rule out all but the fewest likeliest tokens that have probability p together, at least one.

    Holtzman et al. 2020, "nucleus sampling", section 3.1; of equals, those with the lower ids come first.
    """
    if p == 1:  # by rounding, the last ones may have nothing left to add
        return logits_BV
    p_BV = logits_BV.double().softmax(-1)
    return _only(logits_BV, _first(p_BV, p_BV.argsort(dim=-1, descending=True, stable=True), p))


def keep_min_p(logits_BV: Tensor, p: float) -> Tensor:
    """Rule out tokens less than p times as likely as the likeliest (Nguyen et al. 2024, "min-p sampling")."""
    return _only(logits_BV, logits_BV >= logits_BV.amax(-1, keepdim=True) + math.log(p))


def keep_typical_p(logits_BV: Tensor, p: float) -> Tensor:
    """Rule out all but the fewest most typical tokens that have probability p together, at least one.

    Typical is a token whose surprise -ln p(token) is near the expected one, the entropy: the likeliest may go, and the
    rarest do. Meister et al. 2022, "Locally Typical Sampling" (arXiv 2202.00666); of equals, lower ids come first.
    """
    if p == 1:
        return logits_BV
    log_p_BV, entropy_B1 = _log_p_and_entropy(logits_BV)
    order_BV = (log_p_BV + entropy_B1).abs().argsort(dim=-1, stable=True)
    return _only(logits_BV, _first(log_p_BV.exp(), order_BV, p))


def keep_eta(logits_BV: Tensor, epsilon: float) -> Tensor:
    """Rule out tokens with no more than eta = min(epsilon, sqrt(epsilon) exp(-entropy)), but never the likeliest.

    Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191): eta-sampling, with
    alpha = sqrt(epsilon) as in their experiments.
    """
    log_p_BV, entropy_B1 = _log_p_and_entropy(logits_BV)
    log_eta_B1 = (math.log(epsilon) / 2 - entropy_B1).clamp(max=math.log(epsilon))
    return _only(logits_BV, (log_p_BV > log_eta_B1) | (log_p_BV == log_p_BV.amax(-1, keepdim=True)))


def _log_p_and_entropy(logits_BV: Tensor) -> tuple[Tensor, Tensor]:
    """In nats and float64; a token that is ruled out already adds nothing to the entropy."""
    log_p_BV = logits_BV.double().log_softmax(-1)
    return log_p_BV, torch.special.entr(log_p_BV.exp()).sum(-1, keepdim=True)


def _first(p_BV: Tensor, order_BV: Tensor, mass: float) -> Tensor:
    """Marks the first tokens in that order, until they have so much probability together."""
    sorted_BV = p_BV.gather(-1, order_BV)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    return torch.zeros_like(order_BV, dtype=torch.bool).scatter(-1, order_BV, before_BV < mass)


def _only(logits_BV: Tensor, kept_BV: Tensor) -> Tensor:
    return logits_BV.masked_fill(~kept_BV, -math.inf)


def chain(logits_BV: Tensor, options: Sampling, seen_BV: Tensor | None = None) -> Tensor:
    """The scores after every step that the options ask for; their softmax is what is drawn from.

    `seen_BV` marks the tokens that stand in each row already, for the repetition penalty.
    """
    if seen_BV is not None and options.repetition_penalty != 1:
        logits_BV = penalize_repetition(logits_BV, seen_BV, options.repetition_penalty)
    if options.greedy:
        return keep_top_k(logits_BV, 1)
    logits_BV = scale(logits_BV, options.temperature)
    if options.top_k is not None:
        logits_BV = keep_top_k(logits_BV, options.top_k)
    if options.top_p is not None:
        logits_BV = keep_top_p(logits_BV, options.top_p)
    if options.min_p is not None:
        logits_BV = keep_min_p(logits_BV, options.min_p)
    if options.typical_p is not None:
        logits_BV = keep_typical_p(logits_BV, options.typical_p)
    if options.eta_cutoff is not None:
        logits_BV = keep_eta(logits_BV, options.eta_cutoff)
    return logits_BV


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token of each row at which the cumulative softmax passes a number drawn evenly from [0, 1).

    One number a token, whatever V is, so that a row's stream stays in step.
    """
    cumulative_BV = logits_BV.double().softmax(-1).cumsum(-1)
    # divided by the sum, the last is exactly 1: the first above u < 1 exists, and is a token with a probability
    cumulative_BV = cumulative_BV / cumulative_BV[:, -1:]
    return torch.searchsorted(cumulative_BV, uniform_B[:, None], right=True)[:, 0]


class Sampler:
    """Chooses each row's next token, from a stream of its own: what stands beside a row does not change its text."""

    def __init__(self, options: Sampling, prompts: Sequence[Sequence[int]], vocab_size: int) -> None:
        self.options = options
        self.vocab_size = vocab_size
        self.generators = [
            torch.Generator().manual_seed(derive(options.seed, "sampling", row)) for row in range(len(prompts))
        ]
        self.seen_BV: Tensor | None = None
        if options.repetition_penalty != 1:
            self.seen_BV = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
            for row, prompt in enumerate(prompts):
                self.seen_BV[row, list(prompt)] = True

    def scores(self, logits_BV: Tensor) -> Tensor:
        """What the next token of each row is drawn from, on the CPU: scores of the vocabulary after every step.

        Scores beyond it (a padded head's) are left out. Raises WeftError when the scores are not numbers.
        """
        logits_BV = logits_BV[:, : self.vocab_size].float().cpu()
        if not logits_BV.amax(-1).isfinite().all():
            raise no_numbers()
        return chain(logits_BV, self.options, self.seen_BV)

    def choose(self, logits_BV: Tensor) -> Tensor:
        """The next token of each row, on the CPU.

        Raises WeftError when the scores are not numbers.
        """
        logits_BV = self.scores(logits_BV)
        if self.options.greedy:
            tokens_B = logits_BV.argmax(-1)
        else:
            uniform = [torch.rand((), dtype=torch.float64, generator=generator) for generator in self.generators]
            tokens_B = draw(logits_BV, torch.stack(uniform))
        if self.seen_BV is not None:
            self.seen_BV.scatter_(1, tokens_B[:, None], True)
        return tokens_B

    def select(self, rows: Sequence[int]) -> None:
        """Keep the named rows, in that order."""
        self.generators = [self.generators[row] for row in rows]
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[list(rows)]

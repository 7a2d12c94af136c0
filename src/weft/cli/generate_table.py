"""What `weft generate --logprobs` tells: each new token, how probable it was, what the model would rather have said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.generation import Likelihood
    from weft.text.tokenizers import Tokenizer


def lines(told: Sequence[Likelihood], tokenizer: Tokenizer, width: int) -> Iterator[str]:
    """A table with a line for each token, and what they come to together."""
    from weft.report.formats import significant
    from weft.report.terminal import table

    # where a token is always taken, how probable the draw was says nothing
    drawn = any(each.drawn for each in told)
    likeliest = any(each.alternatives for each in told)
    headers = ["token", "log-probability", "probability", "rank", *(["drawn with"] if drawn else [])]
    rows = [
        [
            _visible(tokenizer, each.token),
            f"{each.log_probability:.3f}",
            _percent(each.log_probability),
            each.rank,
            *([_percent(each.drawn or 0.0)] if drawn else []),
            "  ".join(f"{_visible(tokenizer, token)} {_percent(p)}" for token, p in each.alternatives),
        ]
        for each in told
    ]
    yield table([*headers, "likeliest" if likeliest else ""], rows, width)
    total = math.fsum(each.log_probability for each in told)
    if told:
        perplexity = significant(math.exp(-total / len(told)))
        yield f"{len(told)} tokens, {total:.3f} nats together: perplexity {perplexity}"


def entries(told: Sequence[Likelihood], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The same as data; alternatives are the likeliest tokens, the one that came among them."""
    from weft.text.show import read_on

    def entry(token: int, log_probability: float) -> dict[str, Any]:
        return {"token": token, "text": read_on(tokenizer, token), "log_probability": log_probability}

    return [
        {
            **entry(each.token, each.log_probability),
            "rank": each.rank,
            **({} if each.drawn is None else {"drawn": each.drawn}),
            "alternatives": [entry(*alternative) for alternative in each.alternatives],
        }
        for each in told
    ]


def _percent(log_probability: float) -> str:
    """A probability with enough digits that one above 0 never reads 0: 41 %, 0.3 %, 0.04 %, 2e-5 %."""
    from weft.report.formats import percent, significant

    probability = math.exp(log_probability)
    return percent(probability) if probability >= 0.001 else f"{significant(100 * probability, 1)} %"


def _visible(tokenizer: Tokenizer, token: int) -> str:
    """A token's text between quotes, what has no shape as an escape; a special token by its name."""
    from weft.text.show import read_on

    text = read_on(tokenizer, token)
    return text if text in tokenizer.special else repr(text)

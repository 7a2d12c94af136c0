"""A model writes, in one call: a decoder continues prompts; an encoder-decoder answers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

from weft.config import load
from weft.generation.answers import answer
from weft.generation.sampling import Sampling
from weft.generation.search import Searching
from weft.generation.streaming import answers_sources
from weft.models.transformer import Transformer
from weft.text.tokenizers import Tokenizer


@overload
def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: str, *, use_cache: bool = True, **options: Any
) -> str: ...


@overload
def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: Sequence[str], *, use_cache: bool = True, **options: Any
) -> list[str]: ...


def generate(
    model: Transformer, tokenizer: Tokenizer, prompt: str | Sequence[str], *, use_cache: bool = True, **options: Any
) -> str | list[str]:
    """How the model continues a prompt, or each of a list of them; the prompt itself is not repeated.

    `options` are those of `Sampling`: temperature, top_k, top_p, min_p, typical_p, eta_cutoff, repetition_penalty,
    max_tokens, stop, seed. With beams or length_penalty they are those of `Searching` (with max_tokens and stop): the
    likeliest text is searched for. An encoder-decoder answers the prompt, always by a search.
    Raises WeftError for options that make no sense, for more tokens than the model's positions can number, and for an
    encoder, which writes nothing.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    searched = answers_sources(model) or Searching.asked(options)
    chosen = load(Searching, options) if searched else load(Sampling, options)
    found = answer(model, tokenizer, prompts, chosen, use_cache=use_cache)
    texts = [best.text for best, *_ in found]
    return texts[0] if isinstance(prompt, str) else texts

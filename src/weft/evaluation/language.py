"""Bits per byte: how well a language model predicts a text, comparable between tokenizers.

total nats over all tokens, ends of documents included / (ln 2 x UTF-8 bytes of the text), each byte counted once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from weft.data.loader import evaluation_sample, evaluation_windows
from weft.data.rows import IGNORE
from weft.data.shards import TokenSplit
from weft.evaluation.base import Plan, evaluate, measuring
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.objectives import Causal
from weft.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class LanguageResult:
    """What was measured, on what, and how."""

    nats: float
    tokens: int
    bytes: float
    window: int
    stride: int
    whole: bool
    nats_by_document: np.ndarray
    """Summed nats of each document of the split; zero for those beyond the limit."""

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / self.tokens

    @property
    def bits_per_byte(self) -> float:
        """Bits a byte of the text that the tokens stand for; not a number where the tokens lost some of it."""
        return self.nats / math.log(2) / self.bytes

    def values(self) -> dict[str, float | int | bool]:
        """For the log."""
        return {
            "loss": self.loss,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "window": self.window,
            "stride": self.stride,
            "whole": self.whole,
        }

    def short(self) -> str:
        return "" if math.isnan(self.bits_per_byte) else f"{self.bits_per_byte:.3f} bits/byte"

    def lines(self, baselines: Mapping[str, Any]) -> list[str]:
        over = f"over {self.tokens:,} validation tokens, window {self.window}, stride {self.stride}"
        if math.isnan(self.bits_per_byte):
            return [f"{self.loss:.3f} nats a token {over}; no bits per byte: the tokenizer loses some text"]
        xz = baselines.get("xz")
        compared = f" (xz -9e with the training text: {xz['bits_per_byte']:.3f})" if xz else ""
        return [f"{self.bits_per_byte:.3f} bits per byte {over}{compared}"]

    def predictions(self, split: TokenSplit) -> Iterator[dict[str, Any]]:
        for name, nats in zip(split.ids, self.nats_by_document.tolist(), strict=True):
            yield {"id": name, "nats": nats}


@evaluate.register
def evaluate_causal(
    objective: Causal, model: Transformer, tokenizer: Tokenizer, split: TokenSplit, plan: Plan
) -> LanguageResult:
    """Bits per byte in windows as long as the model; overlapping by half where it should be thorough."""
    stride = max(1, plan.length // 2) if plan.thorough else plan.length
    rows = max(1, plan.batch_tokens // plan.length)
    return evaluate_language(model, split, plan.length, stride, plan.limit, rows, plan.told)


def evaluate_language(
    model: Transformer,
    split: TokenSplit,
    window: int,
    stride: int,
    limit: int | None = None,
    rows: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> LanguageResult:
    """Predict each token of a split once, with at least `window - stride` tokens before it where there are that many.

    With a `limit` below the split's tokens, about so many in windows spread over it, which do not overlap.
    `progress(done, total)` is called after each batch.
    """
    part = limit is not None and limit < split.tokens
    if part:
        batches, stride = evaluation_sample(split, window, limit or 0, rows), window
    else:
        batches = evaluation_windows(split, window, stride, rows)
    by_document = np.zeros(split.documents)
    nats, tokens, covered = 0.0, 0, 0.0
    total = min(split.tokens, limit or split.tokens)
    with measuring(model) as device:
        for batch in batches:
            inputs = torch.from_numpy(batch.tokens_BT).to(device)
            targets = torch.from_numpy(batch.targets_BT).to(device)
            output = model(Inputs(tokens_BT=inputs))
            losses = model.head("lm").losses(output.x_BTD, targets).double().cpu().numpy()
            wanted = batch.targets_BT != IGNORE
            np.add.at(by_document, batch.document_BT[wanted], losses[wanted])
            nats, tokens = nats + float(losses[wanted].sum()), tokens + int(wanted.sum())
            covered += float(split.bytes_per_token[batch.document_BT[wanted]].sum())
            if progress is not None:
                progress(tokens, total)
    covered = float(split.bytes) if not part else covered
    if not split.lossless:
        covered = math.nan
    return LanguageResult(nats, tokens, covered, window, stride, not part, by_document)

"""Sequence to sequence: write a text that answers another one, as in translation and summarisation."""

from __future__ import annotations

import torch
from pydantic import Field

from weft.data.config import DataConfig
from weft.data.examples import ExampleLoader, ExampleRows, Examples
from weft.data.rows import IGNORE
from weft.data.shards import PreparedData
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.heads import Head, Lm
from weft.nn.module import Terms
from weft.objectives.base import Batch, BatchLoader, Objective, tensor


class Seq2Seq(Objective, kind="seq2seq"):
    """The mean of -log p(target token | source, target tokens before it), in nats (Sutskever et al. 2014, eq. 1)."""

    columns = ("target",)
    metrics = ("loss", "bleu", "chrf")

    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """share of each target that is spread evenly over all tokens (Vaswani et al. 2017, section 5.4)"""

    def heads(self) -> dict[str, Head]:
        return {"lm": Lm()}

    def check(self, model: ModelConfig) -> None:
        missing = [name for name in ("encoder", "decoder") if getattr(model, name, None) is None]
        if missing:
            raise WeftError(
                f"objective seq2seq: the model has no {' and no '.join(missing)}; give model.encoder and model.decoder"
                " (preset translator-tiny has both)"
            )

    def loader(self, data: PreparedData, config: DataConfig, length: int, batch_tokens: int, seed: int) -> BatchLoader:
        return ExampleLoader(Examples(data.train, length), batch_tokens, seed)

    def collate(self, rows: ExampleRows, device: torch.device | str) -> Batch:
        assert rows.answers_BU is not None, "shards made for this objective have targets"
        assert rows.targets_BU is not None, "shards made for this objective have targets"
        source = Inputs(tokens_BT=tensor(rows.tokens_BT, device), valid_BT=tensor(rows.valid_BT, device))
        # padding stands at the end, where causality hides it from every target: no need to say what is valid
        return Batch(Inputs(tokens_BT=tensor(rows.answers_BU, device)), tensor(rows.targets_BU, device), source)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch.targets != IGNORE).sum())}

    def terms(self, model: Transformer, batch: Batch) -> Terms:
        output = model(batch.inputs, source=batch.source)
        smoothing = self.label_smoothing if model.training else 0.0
        return {"loss": model.head("lm").loss(output.x_BTD, batch.targets, smoothing=smoothing), **output.terms}

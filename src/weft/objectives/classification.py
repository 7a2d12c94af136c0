"""Classification: which of a few classes a text belongs to."""

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
from weft.nn.heads import Head
from weft.nn.module import Terms
from weft.nn.text_heads import Classifier
from weft.objectives.base import Batch, BatchLoader, Objective, tensor


class Classification(Objective, kind="classification"):
    """The mean of -log p(class | text), in nats; the classes are those of the training part."""

    columns = ("label",)
    metrics = ("loss", "accuracy", "macro_f1")
    judged_by = "accuracy"  # the loss is least long before: it grows with each confident mistake

    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """share of each target that is spread evenly over all classes (Szegedy et al. 2016, section 7)"""

    def heads(self) -> dict[str, Head]:
        return {"classifier": Classifier()}

    def check(self, model: ModelConfig) -> None:
        if getattr(model, "encoder", None) is not None and getattr(model, "decoder", None) is not None:
            raise WeftError(
                "objective classification: reads one text, so one stack; leave model.decoder out"
                " (model.decoder=null) or model.encoder"
            )

    def loader(self, data: PreparedData, config: DataConfig, length: int, batch_tokens: int, seed: int) -> BatchLoader:
        return ExampleLoader(Examples(data.train, length, data.labels), batch_tokens, seed)

    def collate(self, rows: ExampleRows, device: torch.device | str) -> Batch:
        assert rows.labels_B is not None, "shards made for this objective have labels"
        inputs = Inputs(tokens_BT=tensor(rows.tokens_BT, device), valid_BT=tensor(rows.valid_BT, device))
        return Batch(inputs, tensor(rows.labels_B, device))

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch.targets != IGNORE).sum())}

    def terms(self, model: Transformer, batch: Batch) -> Terms:
        output = model(batch.inputs)
        smoothing = self.label_smoothing if model.training else 0.0
        loss = model.head("classifier").loss(output.x_BTD, batch.inputs.valid_BT, batch.targets, smoothing)
        return {"loss": loss, **output.terms}

"""Causal language modelling: predict each token from those before it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weft.data.config import DataConfig
from weft.data.loader import Loader
from weft.data.rows import IGNORE, Packed
from weft.data.shards import PreparedData
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.heads import Head, Lm
from weft.nn.module import Terms
from weft.objectives.base import Batch, BatchLoader, Objective, tensor


class Causal(Objective, kind="causal"):
    """Next-token prediction: the mean of -log p(token | tokens before it), in nats (Radford et al. 2018, eq. 1)."""

    continues = True
    metrics = ("loss", "bits_per_byte")

    def heads(self) -> dict[str, Head]:
        return {"lm": Lm()}

    def check(self, model: ModelConfig) -> None:
        if getattr(model, "encoder", None) is not None:
            raise WeftError(
                "objective causal: a model with an encoder sees what it is to predict, or needs a source; leave"
                " model.encoder out (objectives with one: classification, seq2seq)"
            )

    def loader(self, data: PreparedData, config: DataConfig, length: int, batch_tokens: int, seed: int) -> BatchLoader:
        return Loader(data.train, config.packing, length, max(1, batch_tokens // length), seed)

    def collate(self, rows: Packed, device: torch.device | str) -> Batch:
        def optional(array: np.ndarray | None) -> Tensor | None:
            return None if array is None else tensor(array, device)

        inputs = Inputs(
            tokens_BT=tensor(rows.tokens_BT, device),
            positions_BT=optional(rows.positions_BT),
            documents_BT=optional(rows.documents_BT),
            valid_BT=optional(rows.valid_BT),
        )
        return Batch(inputs, tensor(rows.targets_BT, device))

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch.targets != IGNORE).sum())}

    def terms(self, model: Transformer, batch: Batch) -> Terms:
        output = model(batch.inputs)
        return {"loss": model.head("lm").loss(output.x_BTD, batch.targets), **output.terms}

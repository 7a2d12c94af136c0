"""Causal language modelling: predict each token from those before it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from weft.data.rows import IGNORE, Packed
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.nn.heads import Head, Lm
from weft.nn.module import Terms
from weft.objectives.base import Batch, Objective


class Causal(Objective, kind="causal"):
    """Next-token prediction: the mean of -log p(token | tokens before it), in nats (Radford et al. 2018, eq. 1)."""

    def heads(self) -> dict[str, Head]:
        return {"lm": Lm()}

    def collate(self, packed: Packed, device: torch.device | str) -> Batch:
        def tensor(array: np.ndarray | None) -> Tensor | None:
            return None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)

        targets_BT = tensor(packed.targets_BT)
        assert targets_BT is not None, "packed rows have targets"
        inputs = Inputs(
            tokens_BT=tensor(packed.tokens_BT),
            positions_BT=tensor(packed.positions_BT),
            documents_BT=tensor(packed.documents_BT),
            valid_BT=tensor(packed.valid_BT),
        )
        return Batch(inputs, targets_BT)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"loss": int((batch.targets_BT != IGNORE).sum())}

    def terms(self, model: Transformer, batch: Batch) -> Terms:
        output = model(batch.inputs)
        return {"loss": model.head("lm").loss(output.x_BTD, batch.targets_BT), **output.terms}

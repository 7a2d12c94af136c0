"""The one `Linear` and `Embedding` that every weight matrix is.

Weights are float32 masters; they are cast to the dtype of what comes in, so the compute precision is that of the
activations. Adapters, quantised and sharded forms replace a `Linear` by its path and keep `weight`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.nn import fused
from weft.nn.initialization import Constant, Initialization
from weft.nn.module import Cost, Module


class Linear(Module):
    """y = x W^T + b, with W of shape (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, initialization: Initialization, *, bias: bool = False) -> None:
        super().__init__()
        self.tied = False
        self.weight = self.parameter("weight", (d_out, d_in), initialization)
        self.bias = self.parameter("bias", (d_out,), Constant(0.0)) if bias else None

    def tie(self, table: Embedding) -> None:
        """Use the embedding's table as this matrix from now on (Press and Wolf 2017): one parameter, two uses."""
        self.tied = True
        self._initializations.pop("weight", None)
        self.weight = table.weight

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype)
        if not _slow(x, weight):
            return F.linear(x, weight, bias)
        out = fused.aligned_product(x, weight)
        return out if bias is None else out + bias

    def cost(self, length: int) -> Cost:
        d_out, d_in = self.weight.shape
        own = (0 if self.tied else d_in * d_out) + (0 if self.bias is None else d_out)
        return Cost(parameters=own, flops=2 * d_in * d_out)

    def extra_repr(self) -> str:
        d_out, d_in = self.weight.shape
        return f"{d_in} -> {d_out}{', tied' if self.tied else ''}{'' if self.bias is None else ', bias'}"


class Transposed(Module):
    """y = x W, the way back through a Linear, whose matrix it uses; the shift is left out."""

    def __init__(self, of: Linear) -> None:
        super().__init__()
        self.of = of  # standing here too, it tells its cost once more

    def forward(self, y: Tensor) -> Tensor:
        return y @ self.of.weight.to(y.dtype)


def _slow(x: Tensor, weight: Tensor) -> bool:
    """Whether this is a float32 product on a CPU whose many wide rows (50,257 scores) begin between cache lines.

    MKL takes 1.2 times as long for those.
    """
    wide = len(weight) >= 2**14 and len(weight) % 16 != 0 and x.numel() >= 64 * x.shape[-1]
    return wide and x.dtype is torch.float32 and x.device.type == "cpu"


class Embedding(Module):
    """A table of `rows` vectors of width `d_model`, looked up by index."""

    def __init__(self, rows: int, d_model: int, initialization: Initialization) -> None:
        super().__init__()
        self.weight = self.parameter("weight", (rows, d_model), initialization)

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.weight)

    def cost(self, length: int) -> Cost:
        return Cost(parameters=self.weight.numel())

    def extra_repr(self) -> str:
        rows, d_model = self.weight.shape
        return f"{rows} x {d_model}"

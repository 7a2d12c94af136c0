"""How long a run goes on: in steps, tokens, epochs, FLOPs or minutes; all of them become a number of steps."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

_UNITS = {"step": "steps", "token": "tokens", "epoch": "epochs", "flop": "flops", "minute": "minutes"}
_SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}


@dataclass(frozen=True)
class Budget:
    """An amount and its unit."""

    amount: float
    unit: str

    @classmethod
    def read(cls, text: str) -> Budget:
        """`450 steps`, `10M tokens`, `2 epochs`, `3e15 flops`, `3 minutes`.

        Raises ValueError when it is none of these.
        """
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([kMGTP]?)\s*([A-Za-z]+?)s?\s*", text)
        if not found or found[3].lower() not in _UNITS or not 0 < float(found[1]) * _SCALES[found[2]] < math.inf:
            raise ValueError("should be an amount and a unit: 450 steps, 10M tokens, 2 epochs, 3e15 flops or 3 minutes")
        return cls(float(found[1]) * _SCALES[found[2]], _UNITS[found[3].lower()])

    def steps(self, tokens_per_step: int, tokens_per_epoch: int, flops_per_token: int) -> int | None:
        """The number of steps, at least 1; None for minutes, which must be timed."""
        per_step = {
            "steps": 1.0,
            "tokens": tokens_per_step,
            "epochs": tokens_per_step / max(tokens_per_epoch, 1),
            "flops": tokens_per_step * flops_per_token,
        }
        if self.unit == "minutes":
            return None
        exact = self.amount / per_step[self.unit]
        return max(1, math.floor(exact + 1e-9) if self.unit == "flops" else math.ceil(exact - 1e-9))

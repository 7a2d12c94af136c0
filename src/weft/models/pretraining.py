"""What a long training would take: FLOPs, days and price on hardware that somebody names, computed and not measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from weft.config.slot import unknown_name
from weft.errors import WeftError
from weft.report.terminal import count, significant

PEAKS = {
    "v100": 125e12,
    "a100": 312e12,
    "h100": 989e12,
    "h200": 989e12,
    "mi300x": 1307e12,
    "tpu-v4": 275e12,
}
"""FLOP/s of dense products in 16 bit, as the makers' data sheets say (SXM forms; without the factor for sparsity)."""


@dataclass(frozen=True)
class Pretraining:
    """A training of `flops` on `devices` alike, of whose peak a share is used."""

    tokens: float
    flops: float
    device: str
    peak: float
    """FLOP/s of one device"""
    devices: int
    utilization: float
    """share of the peak that the model's products have: 0.2 to 0.5 where people have told (Chowdhery et al. 2022)"""
    price: float | None
    """of a device for an hour, in any currency"""

    @property
    def device_hours(self) -> float:
        """Of all devices together."""
        return self.flops / (self.peak * self.utilization) / 3600

    @property
    def days(self) -> float:
        """By the clock."""
        return self.device_hours / self.devices / 24

    @property
    def cost(self) -> float | None:
        """Of all device hours."""
        return None if self.price is None else self.device_hours * self.price

    def data(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "device_hours": self.device_hours, "days": self.days, "cost": self.cost}

    def lines(self) -> list[str]:
        """For a terminal."""
        hardware = f"{self.devices:,} x {self.device} ({count(self.peak)} FLOP/s each, {self.utilization:.0%} used)"
        price = "" if self.cost is None else f"; at {self.price:g} for an hour of one: {significant(self.cost)}"
        return [
            f"training on {count(self.tokens)} tokens takes {self.flops:.3g} FLOPs",
            f"{hardware}: {significant(self.days)} days, {significant(self.device_hours)} device hours{price}",
            "computed from the peak that is named, not measured; memory for optimizer and activations comes on top",
        ]


def pretraining(
    flops_per_token: float,
    tokens: float,
    device: str,
    devices: int = 1,
    utilization: float = 0.4,
    price: float | None = None,
) -> Pretraining:
    """A training on `tokens` tokens by devices of a known name, or of a peak in FLOP/s ("312e12").

    Raises WeftError for a device that is neither, or numbers that cannot be.
    """
    try:
        peak = PEAKS[device] if device in PEAKS else float(device)
    except ValueError:
        raise WeftError(unknown_name("device", device, sorted(PEAKS)) + "; or give its FLOP/s, as 312e12") from None
    for name, value in {"--tokens": tokens, "--on": peak, "--utilization": utilization}.items():
        if not 0 < value < float("inf"):
            raise WeftError(f"{name} = {value:g}: should be more than 0")
    if utilization > 1:
        raise WeftError(f"--utilization {utilization:g}: a share of the peak, so at most 1")
    return Pretraining(tokens, tokens * flops_per_token, device, peak, devices, utilization, price)

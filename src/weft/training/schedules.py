"""Schedules: what the learning rate is multiplied by, step by step."""

from __future__ import annotations

import math

from pydantic import Field

from weft.config import Part


class Schedule(Part, slot="schedule", default="warmup-stable-decay"):
    """The learning rate over a run."""

    warmup: float = Field(0.1, ge=0, lt=1)
    """share of the steps over which the rate rises from near 0; short runs need a long one"""

    def factor(self, step: int, total: int) -> float:
        """What multiplies the learning rate at step 0 ... total - 1."""
        rising = round(self.warmup * total)
        if step < rising:
            return (step + 1) / (rising + 1)
        return self.after(step - rising, max(total - rising, 1))

    def after(self, step: int, total: int) -> float:
        """The factor once warm-up is over; `step` and `total` count from there."""
        raise NotImplementedError


class Constant(Schedule, kind="constant"):
    """The same rate throughout."""

    def after(self, step: int, total: int) -> float:
        return 1.0


class Linear(Schedule, kind="linear"):
    """A straight line down."""

    end: float = Field(0.0, ge=0, le=1)
    """share of the rate that is left at the end"""

    def after(self, step: int, total: int) -> float:
        return 1 - (1 - self.end) * step / total


class Cosine(Schedule, kind="cosine"):
    """Half a cosine wave down (Loshchilov and Hutter 2017, eq. 5)."""

    end: float = Field(0.1, ge=0, le=1)
    """share of the rate that is left at the end"""

    def after(self, step: int, total: int) -> float:
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * step / total))


class WarmupStableDecay(Schedule, kind="warmup-stable-decay"):
    """Constant, then a straight line down to (nearly) nothing (Hu et al. 2024, section 4.2)."""

    decay: float = Field(0.3, gt=0, le=1)
    """share of all steps over which the rate falls"""
    end: float = Field(0.0, ge=0, le=1)
    """share of the rate that is left at the end"""

    def after(self, step: int, total: int) -> float:
        falling = max(round(self.decay * total / (1 - self.warmup)), 1)
        left = min((total - step) / falling, 1.0)
        return self.end + (1 - self.end) * left

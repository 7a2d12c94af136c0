"""What the atlas's drawings share: a picture and what it shows, modules at their start, numbers by lot."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from weft.nn import Module
from weft.report.figure import Panel, figure
from weft.report.formats import plain

TOKENS = 12
"""Of a drawing in which one sees each."""


@dataclass(frozen=True)
class Drawing:
    """A picture and what it shows, for those who do not see it; `name` tells several of one part apart."""

    svg: str
    shows: str
    name: str = ""


def picture(title: str, said: str, panels: Sequence[Panel], name: str = "") -> Drawing:
    """A figure of panels, and its words for those who do not see it."""
    return Drawing(figure(title, said, panels), f"{title}. {said}".rstrip(". ") + ".", name)


def started(thing: Any) -> Any:
    """A module with its starting values, from seed 0; what is tied stays so."""
    for path, inside in thing.named_modules() if isinstance(thing, nn.Module) else ():
        if isinstance(inside, Module):
            inside.reset_parameters(0, path)
            inside.reset_buffers()
    return thing.eval() if isinstance(thing, nn.Module) else thing


def by_lot(count: int, seed: int = 0) -> list[float]:
    """Numbers by lot from a normal distribution, alike on every machine."""
    lot = random.Random(seed)
    return [lot.gauss(0, 1) for _ in range(count)]


def every(count: int, step: int = 1) -> list[tuple[int, str]]:
    """Labels of columns, a step apart."""
    return [(i, str(i)) for i in range(0, count, step)]


def number(value: float) -> str:
    """With three significant digits and a true minus sign."""
    return plain(value, 3).replace("-", "−")

"""What a part of a model tells of itself beside its options: the few words of a drawing, and its equations in LaTeX.

In equations vectors are rows, tokens are numbered i, j = 0, 1, ..., heads h = 1 ... H, layers l = 1 ... L; sizes have
the names that they have everywhere in weft: D, K, F, V. `&` stands before the sign at which lines are aligned.
"""

from __future__ import annotations

from typing import ClassVar

from weft.config import Part
from weft.nn.module import Dims

Equations = tuple[str, ...]
"""Lines of an `align*`, without what ends them."""


class ModelPart(Part):
    """A declaration of something that computes."""

    symbol: ClassVar[str] = ""
    """What other parts' equations call it; its kind, upright, unless given."""

    def named(self) -> str:
        """What other parts' equations call it: \\operatorname{LayerNorm}."""
        return operator(self.symbol or self.kind)

    def equations(self, dims: Dims) -> Equations:
        """What it computes, with the values of its options; nothing for a part that does not tell."""
        return ()

    def words(self, dims: Dims) -> str | None:
        """Its main options in a few words for a drawing; None: the options that are not their defaults."""
        return None


def operator(name: str) -> str:
    """A name in upright letters."""
    return rf"\operatorname{{{escape(name).replace('-', '{-}')}}}"


def escape(text: str) -> str:
    """Plain text as LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: rf"\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def tex(value: float) -> str:
    """A number as LaTeX: 50{,}257, 0.1, 10^{-5}."""
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", "{,}")
    if abs(value) >= 1e-3:
        return f"{value:.6g}"
    mantissa, exponent = f"{value:.5e}".split("e")
    short = mantissa.rstrip("0").rstrip(".")
    return rf"10^{{{int(exponent)}}}" if short == "1" else rf"{short} \cdot 10^{{{int(exponent)}}}"


def size(*lengths: int) -> str:
    """A space of matrices: \\mathbb{R}^{768 \\times 3{,}072}."""
    return r"\mathbb{R}^{" + r" \times ".join(map(tex, lengths)) + "}"

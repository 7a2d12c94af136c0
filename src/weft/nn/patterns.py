"""Patterns: what an attention's `mask` may be. Each says what a query sees, given the order that its stack is read in.

In a decoder that order is causal, in an encoder there is none. A pattern narrows it; `prefix` alone widens it.
Documents and padding are kept apart in any case. In all patterns a token sees itself.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveInt, WithJsonSchema

from weft.config import Slot
from weft.errors import WeftError
from weft.nn.masks import Among, Causal, EverySo, Everything, InPrefix, Mask, Near, SameBlock
from weft.nn.module import Dims
from weft.nn.part import Equations, ModelPart


class MaskPart(ModelPart, slot="mask", default="none"):
    """What an attention sees of what order, documents and padding leave it."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Fields of `Inputs` without which the pattern is another one's: an objective must fill them in."""

    @property
    def reach(self) -> int | None:
        """How many of the last keys a causal query sees at most, its own included; None: all of them."""
        return None

    def build(self, dims: Dims, order: Mask) -> Mask:
        """The mask in a stack with this order: `Causal()`, or `Everything()` in an encoder."""
        raise NotImplementedError

    def widened(self, order: Mask) -> Mask:
        """The order in which this pattern's stack is read, where the pattern changes that."""
        return order

    def equations(self, dims: Dims) -> Equations:
        mask = self.build(dims, Causal() if dims.causal else Everything())
        return (rf"M_i &= \left\{{ j : {mask.formula()} \right\}}",)

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """`{any: [...]}` and `{all: [...]}`, too, as kind and list."""
        if isinstance(raw, Mapping) and "kind" not in raw and cls.is_choice(raw):
            return {"kind": next(iter(raw)), "of": next(iter(raw.values()))}
        return super().expand_short(raw)

    @classmethod
    def is_choice(cls, raw: Mapping[str, Any]) -> bool:
        return super().is_choice(raw) or (len(raw) == 1 and set(raw) <= {"all", "any"})

    @classmethod
    def short_schema(cls) -> dict[str, Any]:
        """A kind's name, or several patterns together."""
        several = {
            "any": {**_SEVERAL, "description": "what at least one of these patterns lets a query see"},
            "all": {**_SEVERAL, "description": "what every one of these patterns lets a query see"},
        }
        together = {"type": "object", "properties": several, "additionalProperties": False}
        return {"anyOf": [super().short_schema(), together]}


class NoMask(MaskPart, kind="none"):
    """Nothing more is hidden."""

    def build(self, dims: Dims, order: Mask) -> Mask:
        return order


class Window(MaskPart, kind="window"):
    """Sliding window: only the nearest keys are seen (Child et al. 2019; Beltagy et al. 2020, section 3.1)."""

    trials = {"size": (3, 2)}  # less than the texts that are tried are long, and more than one

    size: PositiveInt = Field(examples=[64, 4])
    """keys seen, the query's own included, on each side that the stack lets it see"""

    def words(self, dims: Dims) -> str:
        return f"window {self.size:,}"

    @property
    def reach(self) -> int:
        return self.size

    def build(self, dims: Dims, order: Mask) -> Mask:
        return Near(self.size) & order


class Dilated(MaskPart, kind="dilated"):
    """A sliding window with gaps: one key in `dilation` is seen (Beltagy et al. 2020, section 3.1)."""

    trials = {"size": (2, 3), "dilation": (3,)}

    size: PositiveInt = Field(examples=[32, 3])
    """keys seen, the query's own included, on each side that the stack lets it see"""
    dilation: PositiveInt = 2
    """distance of two neighbouring keys that are seen; 1: a window"""

    def words(self, dims: Dims) -> str:
        return f"window {self.size:,}, 1 key in {self.dilation:,}"

    @property
    def reach(self) -> int:
        return (self.size - 1) * self.dilation + 1

    def build(self, dims: Dims, order: Mask) -> Mask:
        return Near(self.reach) & EverySo(self.dilation) & order


class Strided(MaskPart, kind="strided"):
    """One key in `stride`, however far: the second half of a sparse transformer's strided attention.

    Child et al. 2019, section 4.2, A^(2). With a window of the same size, `{any: [window, strided]}`, it is the whole.
    """

    trials = {"stride": (2, 3)}

    stride: PositiveInt = Field(examples=[16, 3])
    """distance of two neighbouring keys that are seen"""

    def words(self, dims: Dims) -> str:
        return f"1 key in {self.stride:,}"

    def build(self, dims: Dims, order: Mask) -> Mask:
        return EverySo(self.stride) & order


class InBlocks(MaskPart, kind="block"):
    """Attention within blocks: a text is cut into pieces that do not see each other (Qiu et al. 2020, section 3.1)."""

    trials = {"size": (3, 2)}

    size: PositiveInt = Field(examples=[64, 4])
    """tokens of a block, counted from the beginning of each document"""

    def words(self, dims: Dims) -> str:
        return f"blocks of {self.size:,}"

    @property
    def reach(self) -> int:
        return self.size

    def build(self, dims: Dims, order: Mask) -> Mask:
        return SameBlock(self.size) & order


class Global(MaskPart, kind="global"):
    """The first tokens see all and are seen by all; the others see those and themselves.

    Beltagy et al. 2020, section 3.1; Zaheer et al. 2020, section 2 (internal construction). With a window it is
    Longformer's mask: `{any: [{kind: window, size: 256}, global]}`.
    """

    tokens: PositiveInt = 1
    """how many of each document's first tokens"""

    def words(self, dims: Dims) -> str:
        return f"first {self.tokens} global"

    def build(self, dims: Dims, order: Mask) -> Mask:
        return Among(self.tokens) & order


class Prefix(MaskPart, kind="prefix"):
    """Tokens of a prefix see each other both ways, what follows is causal (Raffel et al. 2020, section 3.2.1).

    Which tokens these are, `Inputs.prefix_BT` says batch by batch; where it says nothing, all is causal.
    """

    reads = ("prefix_BT",)

    def build(self, dims: Dims, order: Mask) -> Mask:
        return self.widened(order)

    def widened(self, order: Mask) -> Mask:
        if isinstance(order, Everything):
            raise WeftError(
                "attention.mask: prefix lets tokens see what follows, and in an encoder all do; leave it out there"
            )
        return order | InPrefix()


_SEVERAL: dict[str, Any] = {
    "type": "array",
    "minItems": 2,
    # names and options of the parts stand in `mask` itself; here they would be a circle
    "items": {"anyOf": [{"type": "string"}, {"type": "object"}]},
}

_EXAMPLES = [
    [{"kind": "window", "size": size}, {"kind": "strided", "stride": stride}] for size, stride in ((64, 16), (4, 3))
]


class Together(MaskPart):
    """Several patterns at once."""

    of: Annotated[tuple[Slot[MaskPart], ...], Field(min_length=2, examples=_EXAMPLES), WithJsonSchema(_SEVERAL)]
    """the patterns"""

    def words(self, dims: Dims) -> str:
        return f" {'or' if self.kind == 'any' else 'and'} ".join(part.words(dims) or part.kind for part in self.of)

    def widened(self, order: Mask) -> Mask:
        return functools.reduce(lambda wider, part: part.widened(wider), self.of, order)


class AnyOf(Together, kind="any"):
    """What at least one of several patterns lets a query see; short form `{any: [...]}`.

    A window and a stride together are a sparse transformer's attention (Child et al. 2019, section 4.2), a window and
    global tokens Longformer's (Beltagy et al. 2020, section 3.1).
    """

    trials = {
        "of": (
            [{"kind": "window", "size": 2}, {"kind": "global", "tokens": 1}],
            [{"kind": "block", "size": 2}, {"kind": "strided", "stride": 3}],
        )
    }

    @property
    def reach(self) -> int | None:
        reaches = [part.reach for part in self.of]
        known = [reach for reach in reaches if reach is not None]
        return max(known) if len(known) == len(reaches) else None

    def build(self, dims: Dims, order: Mask) -> Mask:
        return functools.reduce(Mask.__or__, (part.build(dims, order) for part in self.of))


class AllOf(Together, kind="all"):
    """What every one of several patterns lets a query see; short form `{all: [...]}`.

    What a window and a stride both let it see is a dilated window (Beltagy et al. 2020, section 3.1).
    """

    trials = {
        "of": (
            [{"kind": "window", "size": 4}, {"kind": "strided", "stride": 2}],
            [{"kind": "window", "size": 3}, {"any": [{"kind": "block", "size": 2}, "global"]}],
        )
    }

    @property
    def reach(self) -> int | None:
        return min((part.reach for part in self.of if part.reach is not None), default=None)

    def build(self, dims: Dims, order: Mask) -> Mask:
        order = self.widened(order)
        return functools.reduce(Mask.__and__, (part.build(dims, order) for part in self.of))

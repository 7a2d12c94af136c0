"""Attention: queries ask, keys answer, values are handed on.

n_kv_heads = n_heads   multi-head      each query head has its own keys and values (Vaswani et al. 2017, 3.2.2)
n_kv_heads = 1         multi-query     all query heads share one (Shazeer 2019)
between                grouped-query   n_heads / n_kv_heads query heads share one (Ainslie et al. 2023)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveInt, ValidationInfo, field_validator
from torch import Tensor, nn

from weft.config import EXECUTION, Slot
from weft.errors import WeftError
from weft.nn.cache import SLACK, FullEntry
from weft.nn.context import Context
from weft.nn.gates import Gate, NoGate
from weft.nn.initialization import Normal
from weft.nn.kernels import Call, attend, check
from weft.nn.linear import Linear
from weft.nn.masks import Causal, Everything, Mask
from weft.nn.module import Cost, Dims, Module
from weft.nn.norms import NoNorm, Norm
from weft.nn.part import Equations, ModelPart, size, tex
from weft.nn.patterns import MaskPart, NoMask
from weft.nn.positions import NoPositions, Positions, PositionScheme
from weft.nn.ring import RingEntry
from weft.nn.scores import Score, Softmax
from weft.nn.sides import Sides

Matrix = Literal["query", "key", "value", "output"]
"""The matrices of an attention."""


class Attention(ModelPart, slot="attention", default="dot-product"):
    """How positions exchange what they know."""

    symbol = "Attention"

    def equations(self, dims: Dims, acts: frozenset[str] = frozenset(), *, across: bool = False) -> Equations:
        """What it gives for x_i; `acts`: hooks of its positions; `across`: it reads y_j, what an encoder made."""
        return ()

    def build(self, dims: Dims, positions: Positions) -> DotProductAttention | None:
        """The attention for vectors of width d_model in a stack with these positions, or None for `none`."""
        raise NotImplementedError

    def across(self) -> Attention:
        """What a block's cross-attention is unless given: this, without what makes no sense between two texts."""
        return self

    def build_across(self, dims: Dims) -> CrossAttention | None:
        """The attention to what an encoder made, or None for `none`.

        Raises WeftError where this kind cannot read another text.
        """
        raise WeftError(f"cross_attention: kind {self.kind!r} cannot read a source; give dot-product, or none")


class NoAttention(Attention, kind="none"):
    """No attention, and no norm before it: each position stays alone."""

    def build(self, dims: Dims, positions: Positions) -> None:
        return None

    def build_across(self, dims: Dims) -> None:
        return None


class DotProduct(Attention, kind="dot-product"):
    """weights = score(q.k), output = weights . v, in several heads (Vaswani et al. 2017, section 3.2)."""

    trials = {"head_width": (8,), "bias": (["query", "output"], True)}

    n_heads: PositiveInt = 4
    """number of query heads"""
    n_kv_heads: PositiveInt | None = None
    """number of key/value heads; n_heads unless given"""
    head_width: PositiveInt | None = None
    """channels of a head; d_model / n_heads unless given"""
    bias: bool | tuple[Matrix, ...] = False
    """learn a shift in every matrix, or in those named: query, key, value, output"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of the weights that is dropped in training; the model's dropout unless given"""
    qk_norm: Slot[Norm] = NoNorm()
    """of each head's queries and of its keys, before positions turn them (Henry et al. 2020; Dehghani et al. 2023)"""
    score: Slot[Score] = Softmax()
    """from products to weights"""
    mask: Slot[MaskPart] = NoMask()
    """what is seen of what causality, documents and padding leave"""
    gate: Slot[Gate] = NoGate()
    """what the heads' mixtures are multiplied with"""
    positions: Slot[Positions] | None = None
    """the stack's unless given"""
    kernel: Annotated[Literal["auto", "blocked", "sdpa", "flex", "reference"], EXECUTION] = "auto"
    """how it is computed"""
    cache: Annotated[Literal["auto", "full", "window"], EXECUTION] = "auto"
    """what generation keeps: all keys and values, or the last ones that a window sees; auto: what the mask needs"""

    @field_validator("bias", mode="before")
    @classmethod
    def _shortest(cls, bias: Any) -> bool | tuple[Matrix, ...]:
        """All matrices as `true`, none as `false`, several in the order in which they are used."""
        if isinstance(bias, bool):
            return bias
        names = get_args(Matrix)
        if not isinstance(bias, list | tuple) or any(name not in names for name in bias):
            raise ValueError(f"should be true, false, or a list of some of {', '.join(names)}")
        return len(set(bias)) == len(names) or tuple(name for name in names if name in bias) or False

    @field_validator("cache")
    @classmethod
    def _check_cache(cls, cache: str, info: ValidationInfo) -> str:
        mask = info.data.get("mask")
        if cache == "window" and isinstance(mask, MaskPart) and mask.reach is None:
            raise ValueError(f"an attention with mask: {mask.kind} sees all that came before, so its cache is full")
        return cache

    def widths(self, dims: Dims) -> tuple[int, int]:
        """Number of key/value heads and a head's width.

        Raises WeftError when heads do not divide as they must.
        """
        groups = self.n_kv_heads or self.n_heads
        if self.n_heads % groups:
            raise WeftError(f"n_kv_heads = {groups} does not divide n_heads = {self.n_heads}")
        if self.head_width is None and dims.d_model % self.n_heads:
            raise WeftError(f"n_heads = {self.n_heads} does not divide d_model = {dims.d_model}; or give head_width")
        return groups, self.head_width or dims.d_model // self.n_heads

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        groups, width = self.widths(dims)
        said = [] if self.head_width else [f"head_width not given: d_model / n_heads = {width}"]
        if self.n_kv_heads is None:
            said.append(f"n_kv_heads not given: n_heads = {groups} (multi-head)")
        if self.cache == "auto" and self.mask.reach is not None and dims.causal:
            reach = f"the {self.mask.kind}'s {self.mask.reach} keys"
            said.append(f"cache not given: {reach}, and {SLACK} that may be taken back")
        return said

    def equations(self, dims: Dims, acts: frozenset[str] = frozenset(), *, across: bool = False) -> Equations:
        groups, width = self.widths(dims)
        head, read = replace(dims, d_model=width), "y_j" if across else "x_j"
        key = "h" if groups == self.n_heads else "g(h)"
        q, k, v = (
            rf"{x} W^{letter}_{{{index}}}" + (rf" + b^{letter}_{{{index}}}" if self.shifts(name) else "")
            for x, letter, index, name in _projected(read, key)
        )
        if self.qk_norm.kind != "none":
            q, k = (f"{self.qk_norm.named()}({x})" for x in (q, k))
        if "rotate" in acts:
            q, k = rf"R_i\left({q}\right)", rf"R_j\left({k}\right)"
        grouped = rf", \quad g(h) = \lceil h / {self.n_heads // groups} \rceil" if key != "h" else ""
        mask = replace(dims, causal=False) if across else dims
        mixed = r"\sum_{j \in M_i} a_{hij} v_{hj}"
        gate = self.gate.equations(dims)
        out = r"\left[\, o_{1i}, \dots, o_{Hi} \,\right] W^O" + (" + b^O" if self.shifts("output") else "")
        name = self.named().replace("{", "{Cross" if across else "{", 1)
        return (
            rf"q_{{hi}} &= {q}, \quad k_{{hj}} = {k}, \quad v_{{hj}} = {v}{grouped}",
            *self.score.equations(head, biased="bias" in acts),
            *self.mask.equations(mask),
            *gate,
            r"o_{hi} &= " + (r"G_{hi} \odot " if gate else "") + mixed,
            rf"{name}(x)_i &= {out}",
            rf"H &= {tex(self.n_heads)}, \quad K = {tex(width)}, \quad W^Q_h, W^K_h, W^V_h \in"
            rf" {size(dims.d_model, width)}, \quad W^O \in {size(self.n_heads * width, dims.d_model)}",
            *self.qk_norm.equations(head),
        )

    def words(self, dims: Dims) -> str:
        groups, width = self.widths(dims)
        head = replace(dims, d_model=width)
        heads = f"{self.n_heads} head{'s' if self.n_heads > 1 else ''} x {width}"
        shared = f", {groups} of keys and values" if groups != self.n_heads else ""
        inside = {"qk_norm": self.qk_norm, "score": self.score, "mask": self.mask, "gate": self.gate}
        changed = [
            part.words(head) or f"{name.replace('_', ' ')} {part.kind}"
            for name, part in inside.items()
            if part != DotProduct.model_fields[name].default
        ]
        return ", ".join([f"{heads}{shared}", *changed])

    def shifts(self, name: Matrix) -> bool:
        """Whether that matrix has a bias."""
        return self.bias if isinstance(self.bias, bool) else name in self.bias

    def build(self, dims: Dims, positions: Positions) -> DotProductAttention:
        return DotProductAttention(self, dims, self.positions or positions)

    def across(self) -> DotProduct:
        return self.model_copy(update={"mask": NoMask(), "positions": None, "cache": "auto"})

    def build_across(self, dims: Dims) -> CrossAttention:
        for name, part in {"mask": self.mask, "positions": self.positions}.items():
            if part is not None and part.kind != "none":
                raise WeftError(
                    f"cross_attention.{name}: {part.kind} counts how far a key is from the query, and the places of two"
                    " texts are no distance; leave it out"
                )
        return CrossAttention(self, dims, NoPositions())


def _projected(read: str, key: str) -> Iterator[tuple[str, str, str, Matrix]]:
    """Of queries, keys and values: what is projected, the matrix's letter and its index, its name."""
    yield "x_i", "Q", "h", "query"
    yield read, "K", key, "key"
    yield read, "V", key, "value"


class DotProductAttention(Module):
    """Self-attention: x asks itself."""

    taps = ("queries", "keys", "values", "weights", "mixed")
    unfused_taps = ("weights",)

    def __init__(self, options: DotProduct, dims: Dims, positions: Positions) -> None:
        super().__init__()
        self.options = options
        self.n_heads = options.n_heads
        self.n_kv_heads, self.width = options.widths(dims)
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.weighting = options.score.build(self.width, self.n_heads)
        check(options.kernel, self.weighting)
        self.mask = options.mask.build(dims, Causal() if dims.causal else Everything())
        self.positions = positions
        # layers with positions of their own hold the scheme; the others use the stack's
        own = options.positions
        self.scheme: PositionScheme | None = own.build(replace(dims, heads=frozenset({self.n_heads}))) if own else None
        if own and isinstance(self.scheme, PositionScheme) and type(self.scheme).embed is not PositionScheme.embed:
            raise WeftError(
                f"attention.positions: {own.kind} positions enter where a stack begins, not in a layer;"
                " give them to the stack"
            )
        asked, kept, start = self.n_heads * self.width, self.n_kv_heads * self.width, Normal(dims.init_std)
        self.query = Linear(dims.d_model, asked, start, bias=options.shifts("query"))
        self.key = Linear(dims.d_model, kept, start, bias=options.shifts("key"))
        self.value = Linear(dims.d_model, kept, start, bias=options.shifts("value"))
        self.output = Linear(asked, dims.d_model, Normal(dims.narrow_std), bias=options.shifts("output"))
        self.output_gate = options.gate.build(dims, self.n_heads, self.width)
        head = replace(dims, d_model=self.width)
        self.query_norm, self.key_norm = options.qk_norm.build(head), options.qk_norm.build(head)
        self.kept = dims.causal

    @property
    def prepared_key(self) -> Hashable:
        """Under which a context holds what this attention's position scheme prepared."""
        return self.positions, self.width

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        q_BHTK = self.tap("queries", self._split(self.query(x_BTD), self.n_heads, self.query_norm))
        k_BGSK = self.tap("keys", self._split(self.key(x_BTD), self.n_kv_heads, self.key_norm))
        v_BGSK = self.tap("values", self._split(self.value(x_BTD), self.n_kv_heads))
        scheme = self.scheme or context.positions
        q_BHTK, k_BGSK = scheme.rotate(q_BHTK, k_BGSK, context.prepared[self.prepared_key])
        sides = context.sides
        if context.cache is not None and context.placement is not None:
            entry = context.cache.entries[context.depth]
            assert entry is not None, "a layer with attention has a cache entry"
            k_BGSK, v_BGSK, sides = entry.append(k_BGSK, v_BGSK, context.placement, sides)
        bias_BHTS = scheme.bias(sides, self.n_heads, q_BHTK.dtype)
        mixed_BHTK = self.mix(q_BHTK, k_BGSK, v_BGSK, self.mask & context.mask, sides, bias_BHTS)
        return self.handed_on(x_BTD, mixed_BHTK)

    def mix(
        self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, mask: Mask, sides: Sides, bias_BHTS: Tensor | None = None
    ) -> Tensor:
        """Each query's mixture of the values that the mask lets it see, B x H x T x K."""
        call = Call(q_BHTK, k_BGSK, v_BGSK, mask, sides, self.weighting, bias_BHTS,
                    self.dropout if self.training else 0.0, self.tap if self.heard("weights") else None)  # fmt: skip
        return self.tap("mixed", attend(call, self.options.kernel))

    def handed_on(self, x_BTD: Tensor, mixed_BHTK: Tensor) -> Tensor:
        """The heads' mixtures as far as the gate lets them pass, side by side again and put out: B x T x D."""
        if self.output_gate is not None:
            mixed_BHTK = self.output_gate(x_BTD, mixed_BHTK)
        return self.output(mixed_BHTK.transpose(1, 2).flatten(2))

    def _split(self, x_BTN: Tensor, heads: int, norm: nn.Module | None = None) -> Tensor:
        """B x T x (heads width) as B x heads x T x width, each head's vector brought to a common scale by `norm`."""
        x_BTHK = x_BTN.unflatten(-1, (heads, self.width))
        return (x_BTHK if norm is None else norm(x_BTHK)).transpose(1, 2)

    def extra_repr(self) -> str:
        return f"{self.n_heads} x {self.width}"

    def cache_entry(self, slack: int = SLACK) -> FullEntry:
        """An empty entry for this attention's keys and values; a window's lets one take back `slack` tokens."""
        reach = self._reach
        return FullEntry() if reach is None else RingEntry(reach, slack)

    @property
    def _reach(self) -> int | None:
        """How many of the last keys the cache is to keep for the next query, itself included; None: all."""
        return None if self.options.cache == "full" else self.options.mask.reach

    def cost(self, length: int) -> Cost:
        """q.k and weights.v against all `length` keys, masked or not (the convention of Chowdhery et al. 2022, B)."""
        flops = 2 * 2 * self.n_heads * self.width * length
        kept = 2 * self.n_kv_heads * self.width if self.kept else 0
        slots = length if self._reach is None else min(length, self._reach + SLACK)
        return Cost(flops=flops, cache=kept if slots == length else kept * slots / length)


class CrossAttention(DotProductAttention):
    """Queries from x, keys and values from what an encoder made, all of which they see (Vaswani et al. 2017, 3.2.3).

    In a cache the keys and values are written once, with the source.
    """

    def forward(self, x_BTD: Tensor, context: Context) -> Tensor:
        assert context.across is not None, "a block that reads a source has one"
        q_BHTK = self.tap("queries", self._split(self.query(x_BTD), self.n_heads, self.query_norm))
        k_BGSK, v_BGSK = self._remembered(context)
        return self.handed_on(x_BTD, self.mix(q_BHTK, k_BGSK, v_BGSK, context.across.mask, context.across.sides))

    def _remembered(self, context: Context) -> tuple[Tensor, Tensor]:
        """The source's keys and values: computed where it is given, else from the cache."""
        entry = None if context.cache is None else context.cache.memories[context.depth]
        if context.memory is None:
            assert entry is not None, "a source that is not given was kept"
            return entry.read()
        x_BSD = context.memory.x_BSD
        k_BGSK = self.tap("keys", self._split(self.key(x_BSD), self.n_kv_heads, self.key_norm))
        v_BGSK = self.tap("values", self._split(self.value(x_BSD), self.n_kv_heads))
        if entry is not None:
            entry.write(k_BGSK, v_BGSK)
        return k_BGSK, v_BGSK

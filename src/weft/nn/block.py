"""A block: attention lets positions talk, cross-attention reads a source, feed-forward lets each think.

A block's kind says where norms and residuals stand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from weft.config import Slot
from weft.nn.attention import Attention, DotProduct
from weft.nn.context import Context
from weft.nn.feedforward import FeedForward, Gelu
from weft.nn.linear import Linear
from weft.nn.module import Dims, Module, Terms, collecting
from weft.nn.norms import Layer, Norm
from weft.nn.part import Equations, ModelPart
from weft.nn.positions import Positions
from weft.nn.stochastic_depth import NoStochasticDepth, StochasticDepth, skip_rows

Sublayer = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wiring:
    """Where norms stand around each sublayer f, and whether x is added to what it gives: `step`, told."""

    before: bool = False
    """f(norm(x))"""
    after: bool = False
    """norm(f(x)), before x is added"""
    outside: bool = False
    """norm(x + f(x))"""
    residual: bool = True
    """x + f(x), not f(x)"""
    parallel: bool = False
    """all sublayers read the same x, and what they give is added up"""
    shared: bool = False
    """one norm before all of them"""

    def branch(self, x: str, norm: str, f: str) -> str:
        """What is added to x, or takes its place, in LaTeX."""
        branch = f"{f}({f'{norm}({x})' if norm and self.before and not self.shared else x})"
        return f"{norm}({branch})" if norm and self.after else branch


class BlockPart(ModelPart, slot="block", default="pre"):
    """One layer of a stack."""

    ends_normed: ClassVar[bool] = False
    """Whether what leaves the block is normalised already; if not, the stack ends with a norm."""

    attention: Slot[Attention] = DotProduct()
    """how positions exchange what they know"""
    cross_attention: Slot[Attention] | None = None
    """how they read the encoder's output, where there is one; as `attention` does unless given"""
    feedforward: Slot[FeedForward] = Gelu()
    """what happens to each position by itself"""
    norm: Slot[Norm] | None = None
    """the stack's unless given"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of what each sublayer adds that is dropped in training; the model's dropout unless given"""

    def wiring(self) -> Wiring | None:
        """How sublayers and norms are joined, for drawings and equations; None where that is no `Wiring`."""
        return None

    def equations(self, dims: Dims, norm: Norm = Layer()) -> Equations:
        """x^{(l)} from x^{(l-1)}; `norm` is the stack's."""
        wiring, norm = self.wiring(), self.norm or norm
        if wiring is None:
            return ()
        named = "" if norm.kind == "none" else norm.named()
        return _parallel(wiring, named, self.branches(dims)) if wiring.parallel else _in_turn(
            wiring, named, self.branches(dims)
        )  # fmt: skip

    def branches(self, dims: Dims) -> list[tuple[str, str]]:
        """The sublayers that there are: what their branch is called, and their name, in LaTeX."""
        across = self.reading() if dims.across else None
        found = [("a", self.attention, ""), ("c", across, "Cross"), ("f", self.feedforward, "")]
        return [
            (letter, part.named().replace("{", "{" + prefix, 1))
            for letter, part, prefix in found
            if part is not None and part.kind != "none"
        ]

    def reading(self) -> Attention:
        """The cross-attention as given, or with the attention's options."""
        return self.cross_attention or self.attention.across()

    def derived(self, dims: Dims) -> list[str]:
        """Derived values, said aloud."""
        given = self.cross_attention is not None or not dims.across
        return [] if given else ["cross_attention not given: attention's options, without its mask and positions"]

    def skipped(self, dims: Dims) -> float:
        """Share of the rows that skip a sublayer in training."""
        return 0.0

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> Block:
        """The block in a stack with these positions and this norm."""
        raise NotImplementedError


class _Residual(BlockPart):
    stochastic_depth: Slot[StochasticDepth] = NoStochasticDepth()
    """how often a residual branch is skipped in training"""

    def skipped(self, dims: Dims) -> float:
        return self.stochastic_depth.at(dims.depth, dims.n_layers)


class Pre(_Residual, kind="pre"):
    """Norm inside the residual branch: x + f(norm(x)) (Radford et al. 2019, section 2.3; Xiong et al. 2020)."""

    def wiring(self) -> Wiring:
        return Wiring(before=True)

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PreNormBlock:
        return PreNormBlock(self, dims, positions, norm)


class Post(_Residual, kind="post"):
    """Norm after the sum: norm(x + f(x)) (Vaswani et al. 2017, section 3.1)."""

    ends_normed = True

    def wiring(self) -> Wiring:
        return Wiring(outside=True)

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PostNormBlock:
        return PostNormBlock(self, dims, positions, norm)


class Sandwich(_Residual, kind="sandwich"):
    """A norm at both ends of the residual branch: x + after(f(before(x))) (Ding et al. 2021, section 2.4; Gemma 2)."""

    def wiring(self) -> Wiring:
        return Wiring(before=True, after=True)

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> SandwichBlock:
        return SandwichBlock(self, dims, positions, norm)


class Parallel(_Residual, kind="parallel"):
    """All sublayers side by side: x + attention(norm(x)) + feedforward(norm(x)) (Wang and Komatsuzaki 2021, GPT-J)."""

    shared_norm: bool = True
    """one norm for all sublayers (GPT-J); if not, each has its own (Black et al. 2022, GPT-NeoX, section 2.1)"""

    def wiring(self) -> Wiring:
        return Wiring(before=True, parallel=True, shared=self.shared_norm)

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> ParallelBlock:
        return (SharedNormBlock if self.shared_norm else ParallelBlock)(self, dims, positions, norm)


class Plain(BlockPart, kind="plain"):
    """No residual: f(norm(x)). What is not passed on is lost (the plain networks of He et al. 2016, section 3.3)."""

    def wiring(self) -> Wiring:
        return Wiring(before=True, residual=False)

    def build(self, dims: Dims, positions: Positions, norm: Norm) -> PlainBlock:
        return PlainBlock(self, dims, positions, norm)


_BEFORE, _AFTER = r"x^{(\ell-1)}", r"x^{(\ell)}"


def _parallel(wiring: Wiring, norm: str, branches: list[tuple[str, str]]) -> Equations:
    read, first = _BEFORE, []
    if wiring.shared and norm and branches:
        read, first = r"y^{(\ell)}", [rf"y^{{(\ell)}} &= {norm}({_BEFORE})"]
    summed = " + ".join([_BEFORE, *(wiring.branch(read, norm, f) for _, f in branches)])
    return (*first, f"{_AFTER} &= {summed}")


def _in_turn(wiring: Wiring, norm: str, branches: list[tuple[str, str]]) -> Equations:
    """Each sublayer's branch under its own letter where x is only added to, so that a stack is a sum."""
    x, lines = _BEFORE, []
    if is_sum(wiring):
        for letter, f in branches:
            lines.append(rf"{letter}^{{(\ell)}} &= {wiring.branch(x, norm, f)}")
            x = rf"{x} + {letter}^{{(\ell)}}"
        return (*lines, f"{_AFTER} &= {x}")
    for index, (_, f) in enumerate(branches, start=1):
        branch = wiring.branch(x, norm, f)
        out = f"{x} + {branch}" if wiring.residual else branch
        out = f"{norm}({out})" if norm and wiring.outside else out
        x = _AFTER if index == len(branches) else rf"u_{{{index}}}^{{(\ell)}}"
        lines.append(f"{x} &= {out}")
    return tuple(lines) or (f"{_AFTER} &= {_BEFORE}",)


def is_sum(wiring: Wiring | None) -> bool:
    """Whether what leaves a block is what came in plus what each sublayer adds."""
    return wiring is not None and wiring.residual and not wiring.outside


class Block(Module):
    """Attention, cross-attention where there is a source, feed-forward: each as the subclass's `step` joins it to x."""

    def __init__(self, options: BlockPart, dims: Dims, positions: Positions, norm: Norm) -> None:
        super().__init__()
        norm = options.norm or norm
        self.dropout = dims.dropout if options.dropout is None else options.dropout
        self.skipped = options.skipped(dims)
        self.attention = options.attention.build(dims, positions)
        if self.attention is not None:
            self.attention_norm = self.around(norm, dims)
        self.cross_attention = options.reading().build_across(dims) if dims.across else None
        if self.cross_attention is not None:
            self.cross_attention_norm = self.around(norm, dims)
        self.feedforward = options.feedforward.build(dims)
        if self.feedforward is not None:
            self.feedforward_norm = self.around(norm, dims)

    def around(self, norm: Norm, dims: Dims) -> nn.Module:
        """What `step` is given as a sublayer's norm."""
        return norm.build(dims)

    def share(self, other: Block) -> None:
        """Compute with the other's weights from now on; what depends on the depth stays."""
        for name, module in other.named_children():
            setattr(self, name, module)

    def forward(self, x_BTD: Tensor, context: Context) -> tuple[Tensor, Terms]:
        """x after this block, and what its parts emitted: by value, so that recomputing a block repeats nothing."""
        with collecting() as terms:
            x_BTD = self.mix(x_BTD, context)
        return x_BTD, terms

    def mix(self, x_BTD: Tensor, context: Context) -> Tensor:
        """The block's arithmetic, without bookkeeping."""
        for norm, f in self.sublayers(context):
            x_BTD = self.step(x_BTD, norm, f)
        return x_BTD

    def sublayers(self, context: Context) -> Iterator[tuple[nn.Module, Sublayer]]:
        """Each sublayer that there is, and its norm."""
        attention, cross_attention, feedforward = self.attention, self.cross_attention, self.feedforward
        if attention is not None:
            yield self.attention_norm, lambda h_BTD: attention(h_BTD, context)
        if cross_attention is not None:
            yield self.cross_attention_norm, lambda h_BTD: cross_attention(h_BTD, context)
        if feedforward is not None:
            yield self.feedforward_norm, feedforward

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        """How one sublayer `f` and its norm are joined to x."""
        raise NotImplementedError

    def drop(self, x_BTD: Tensor) -> Tensor:
        """What training drops at the end of a residual branch: channels (Vaswani et al. 2017, 5.4), and whole rows."""
        x_BTD = F.dropout(x_BTD, self.dropout, self.training)
        return skip_rows(x_BTD, self.skipped, training=self.training)


class PreNormBlock(Block):
    """x + f(norm(x))."""

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        return x_BTD + self.drop(f(norm(x_BTD)))


class PostNormBlock(Block):
    """norm(x + f(x))."""

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        out_BTD: Tensor = norm(x_BTD + self.drop(f(x_BTD)))
        return out_BTD


class SandwichBlock(Block):
    """x + after(f(before(x)))."""

    def around(self, norm: Norm, dims: Dims) -> nn.Module:
        return nn.ModuleDict({"before": norm.build(dims), "after": norm.build(dims)})

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        before, after = norm.children()
        return x_BTD + self.drop(after(f(before(x_BTD))))


class ParallelBlock(Block):
    """x + f(norm(x)) + g(norm(x)), each with its own norm."""

    def __init__(self, options: BlockPart, dims: Dims, positions: Positions, norm: Norm) -> None:
        super().__init__(options, dims, positions, norm)
        self.norm: nn.Module = nn.Identity()

    def mix(self, x_BTD: Tensor, context: Context) -> Tensor:
        h_BTD = self.norm(x_BTD)
        return sum((self.step(h_BTD, norm, f) for norm, f in self.sublayers(context)), start=x_BTD)

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        return self.drop(f(norm(x_BTD)))


class SharedNormBlock(ParallelBlock):
    """h = norm(x), x + f(h) + g(h)."""

    def __init__(self, options: BlockPart, dims: Dims, positions: Positions, norm: Norm) -> None:
        super().__init__(options, dims, positions, norm)
        if any(sublayer is not None for sublayer in (self.attention, self.cross_attention, self.feedforward)):
            self.norm = (options.norm or norm).build(dims)

    def around(self, norm: Norm, dims: Dims) -> nn.Module:
        return nn.Identity()


class PlainBlock(Block):
    """f(norm(x))."""

    def step(self, x_BTD: Tensor, norm: nn.Module, f: Sublayer) -> Tensor:
        return self.drop(f(norm(x_BTD)))


def hidden_matrices(model: nn.Module) -> frozenset[str]:
    """Paths of the matrices inside a model's blocks: no embedding, no head, nothing that is no matrix."""
    blocks = tuple(f"{path}." for path, module in model.named_modules() if isinstance(module, Block))
    linear = (f"{path}.weight" for path, module in model.named_modules() if isinstance(module, Linear))
    return frozenset(path for path in linear if path.startswith(blocks))

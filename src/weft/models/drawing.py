"""A model as a picture: what enters, the layers that are alike drawn once, norms and residual lines, what is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from torch import nn

from weft.models.build import blank
from weft.models.config import StackConfig, TransformerConfig
from weft.models.cost import costs, parameter_count
from weft.models.describe import changed, shape_of
from weft.models.transformer import Stack, Transformer
from weft.nn import Attention, BlockPart, Cost, Dims, FeedForward, Head, Linear, Norm, Positions, PositionScheme
from weft.nn.embeddings import Embeddings
from weft.nn.part import ModelPart
from weft.report.boxes import Box, Cells, Column, Group, Item, Note, Residual, Sum, Tone, boxes
from weft.report.formats import count

TONES: dict[type[ModelPart], Tone] = {
    Embeddings: "amber", Positions: "purple", Attention: "blue", FeedForward: "green", Head: "vermillion", Norm: "grey",
}  # fmt: skip
"""A slot's colour."""
ACTS = {"rotate": "turn queries and keys", "bias": "are added to scores", "embed": "are added"}
"""What the hooks of a scheme of positions do."""


def draw(config: TransformerConfig, name: str = "model", said: Sequence[str] = ()) -> str:
    """The model as an SVG file; its vocabulary and labels are known, and `said` tells which of them were not given.

    Raises WeftError when parts do not fit together.
    """
    picture = _Picture.of(config)
    layers = " + ".join(str(len(stack.layers())) for stack in config.stacks().values())
    subtitle = [
        f"{parameter_count(picture.model):,} parameters, {layers} layer{'' if layers == '1' else 's'} of width"
        f" {config.d_model:,}, vocabulary of {config.vocab_size:,}",
        *said,
    ]
    columns = [picture.column(stack) for stack in config.stacks()]
    return boxes(name, subtitle, columns, f"{name}: {subtitle[0]}")


def draw_block(config: TransformerConfig, name: str = "block") -> str:
    """The layers of the model's last stack by themselves, those that are alike drawn once, as an SVG file."""
    stack = list(config.stacks())[-1]
    n_layers = len(config.stacks()[stack].layers())
    said = f"{n_layers} layer{'' if n_layers == 1 else 's'} of width {config.d_model:,}"
    return boxes(name, [said], [Column(("x",), tuple(_Picture.of(config).layers(stack)))], f"{name}: {said}")


def draw_entrance(config: TransformerConfig, name: str = "embedding") -> str:
    """What leads from tokens to the first block of the model's last stack, as an SVG file."""
    stack = list(config.stacks())[-1]
    said = f"vocabulary of {config.vocab_size:,}, width {config.d_model:,}"
    return boxes(name, [said], [Column(("tokens",), tuple(_Picture.of(config).entrance(stack)))], f"{name}: {said}")


class _Picture:
    """A model's parts as boxes, with what is counted of them."""

    def __init__(self, model: Transformer, found: Mapping[str, Cost]) -> None:
        self.model, self.config = model, model.config
        self.found, self.modules = found, dict(model.named_modules(remove_duplicate=False))
        self.both = len(self.config.stacks()) > 1

    @staticmethod
    def of(config: TransformerConfig) -> _Picture:
        """Of the model that `config` declares."""
        model = blank(config)
        return _Picture(model, costs(model, config.max_length))

    def column(self, stack: str) -> Column:
        """One stack from its tokens to its end; the last one goes on to the heads."""
        built, declared = self._stack(stack)
        last = stack == list(self.config.stacks())[-1]
        foot = (f"{'source' if stack == 'encoder' else 'target'} tokens", stack) if self.both else ("tokens",)
        items = [*self.entrance(stack), Note(f"width {self.config.d_model:,}")]
        items += self.layers(stack)
        if f"{stack}.norm" in self.modules and not isinstance(built.norm, nn.Identity):
            items.append(self._box(declared.norm, "norm", f"{stack}.norm", self.config.dims(stack)))
        return Column(foot, (*items, *(self._heads() if last else ())))

    def _stack(self, name: str) -> tuple[Stack, StackConfig]:
        """A stack at work, and its declaration."""
        built = self.modules[name]
        assert isinstance(built, Stack), "a stack's name is a module's"
        return built, self.config.stacks()[name]

    def entrance(self, stack: str) -> Iterator[Item]:
        """The embedding, positions that are added to it, its norm, the way to the blocks' width."""
        built, declared = self._stack(stack)
        dims = replace(self.config.dims(stack), d_model=self.model.embedding.width)
        table = self._box(self.config.embedding, "embedding", "embedding", self.config.dims())
        if self.both and stack == "decoder":
            table = replace(table, detail=f"{table.detail}, the source's", count="")
        yield table
        if "embed" in built.positions.acts():
            yield Sum(self._positions(declared.positions, built.positions, f"{stack}.positions", dims))
        if declared.embedding_norm.kind != "none":
            yield self._box(declared.embedding_norm, "norm", f"{stack}.embedding_norm", dims)
        if not isinstance(built.from_embedding, nn.Identity):
            yield Box("projection", shape_of(built.from_embedding).replace("->", "→"),
                      self._counted(f"{stack}.from_embedding"), "amber")  # fmt: skip

    def layers(self, stack: str) -> list[Item]:
        """Every layer, those that are alike and their pattern folded."""
        built, declared = self._stack(stack)
        layers, dims = declared.layers(), self.config.dims(stack)
        sets = len(set(declared.sharing()))

        def one(index: int, times: int, repeated: int) -> Group:
            layer, path = (
                layers[index],
                f"{stack}.blocks.{layers.index(layers[index])}",
            )
            items = tuple(self._block(layer, declared, built, path, dims))
            each = self._counted(path)
            total = f"{times * repeated} × {each}" if each and times * repeated > 1 else each
            if sets < len(layers):
                total = f"{sets} × {each}, shared" if sets > 1 else f"{each}, shared by all"
            return Group(f"{layer.kind} block", times, items, total)

        folded: list[Item] = []
        for start, period, repeated in fold(layers):
            groups: list[Item] = []
            for at, times in runs(layers[start : start + period]):
                groups.append(one(start + at, times, repeated))
            folded += [Group("pattern", repeated, tuple(groups))] if repeated > 1 and len(groups) > 1 else groups
        return folded

    def _block(self, layer: BlockPart, declared: StackConfig, built: Stack, path: str, dims: Dims) -> Iterator[Item]:
        """A block's sublayers and norms, wired as its kind says; in their order where it says nothing."""
        wiring, norm = layer.wiring(), layer.norm or declared.norm
        branches: list[tuple[Item, ...]] = []
        for name, box in self._sublayers(layer, declared, built, path, dims):
            norms = {side: self._norm(norm, path, f"{name}_norm", side, dims) for side in ("before", "after")}
            before = wiring is None or (wiring.before and not wiring.shared)
            inside = (*(norms["before"] if before else ()), box)
            inside = (*inside, *(norms["after"] if wiring is not None and wiring.after else ()))
            if wiring is None or wiring.parallel:
                branches.append(inside)
            else:
                outside = norms["after"] if wiring.outside else ()
                branches.append((*((Residual(inside),) if wiring.residual else inside), *outside))
        if wiring is None or not wiring.parallel or not branches:
            yield from (item for branch in branches for item in branch)
            return
        shared = self._norm(norm, path, "norm", "before", dims) if wiring.shared else ()
        sides = (Cells(tuple(branches), added=True),) if len(branches) > 1 else branches[0]
        yield Residual((*shared, *sides))

    def _sublayers(
        self, layer: BlockPart, declared: StackConfig, built: Stack, path: str, dims: Dims
    ) -> Iterator[tuple[str, Box]]:
        """Each sublayer that there is: the name of its module, and its box."""
        if f"{path}.attention" in self.modules:
            box = self._box(layer.attention, "attention", f"{path}.attention", dims)
            scheme: PositionScheme = getattr(self.modules[f"{path}.attention"], "scheme", None) or built.positions
            if scheme.acts() & {"rotate", "bias"}:
                own = getattr(layer.attention, "positions", None) or declared.positions
                at = f"{path}.attention.scheme" if scheme is not built.positions else f"{stack_of(path)}.positions"
                aside = self._positions(own, scheme, at, dims)
                box = replace(box, detail=f"{box.detail}, {own.kind}", aside=aside)
            yield "attention", box
        if f"{path}.cross_attention" in self.modules:
            box = self._box(layer.reading(), "cross-attention", f"{path}.cross_attention", dims)
            yield "cross_attention", replace(box, reads_source=True)
        if f"{path}.feedforward" in self.modules:
            yield "feedforward", self._box(layer.feedforward, "feed-forward", f"{path}.feedforward", dims)

    def _norm(self, norm: Norm, path: str, name: str, side: str, dims: Dims) -> tuple[Item, ...]:
        """A norm's box, where there is one: a sublayer may have two, by side."""
        inside = f"{path}.{name}.{side}"
        at = inside if inside in self.modules else f"{path}.{name}"
        return () if norm.kind == "none" else (self._box(norm, "norm", at, dims),)

    def _positions(self, part: Positions, scheme: PositionScheme, path: str, dims: Dims) -> Box:
        does = next((text for hook, text in ACTS.items() if hook in scheme.acts()), "")
        options = _options(part, dims)
        detail = ": ".join(filter(None, [part.kind, options]))
        return Box(f"positions {does}" if does != "are added" else "positions", detail, self._counted(path), "purple")

    def _heads(self) -> tuple[Item, ...]:
        """What is read from the last vectors, side by side."""
        found = []
        for name, head in self.config.heads.items():
            box = self._box(head, "head" if name == head.kind else f"head {name}", f"heads.{name}", self.config.dims())
            linear = [module for module in self.model.heads[name].modules() if isinstance(module, Linear)]
            tied = ", tied to the embedding" if any(module.tied for module in linear) else ""
            found.append(replace(box, detail=box.detail + tied))
        if len(found) < 2:
            return tuple(found)
        return (Cells(tuple((box,) for box in found), added=False),)

    def _box(self, part: ModelPart, title: str, path: str, dims: Dims) -> Box:
        """A part's box: its slot, its kind, its main options."""
        tone: Tone = next((tone for slot, tone in TONES.items() if isinstance(part, slot)), "grey")
        options = _options(part, dims)
        if isinstance(part, Norm):
            return Box(" ".join(filter(None, [part.kind, title])), options, self._counted(path), tone)
        return Box(title, ": ".join(filter(None, [part.kind, options])), self._counted(path), tone)

    def _counted(self, path: str) -> str:
        """Parameters of a module and all that is inside it; nothing where there are none."""
        inside = (cost for at, cost in self.found.items() if at == path or at.startswith(f"{path}."))
        parameters = sum(cost.parameters for cost in inside)
        return count(parameters) if parameters else ""


def stack_of(path: str) -> str:
    """The stack that a module stands in."""
    return path.partition(".")[0]


def fold(layers: Sequence[BlockPart]) -> Iterator[tuple[int, int, int]]:
    """Stretches of layers as (start, period, times): the whole pattern as often as it is there, then what is left.

    Layers that are alike, or that repeat nothing, are one stretch.
    """
    n = len(layers)
    period = next(p for p in range(1, n + 1) if all(layers[i] == layers[i - p] for i in range(p, n)))
    times = n // period
    if period == 1 or times == 1:
        yield 0, n, 1
        return
    yield 0, period, times
    if n % period:
        yield times * period, n % period, 1


def runs(layers: Sequence[BlockPart]) -> Iterator[tuple[int, int]]:
    """Neighbours that are alike: where they begin, and how many they are."""
    start = 0
    for index in range(1, len(layers) + 1):
        if index == len(layers) or layers[index] != layers[start]:
            yield start, index - start
            start = index


def _options(part: ModelPart, dims: Dims) -> str:
    """A part's own few words, or the options that are not their defaults."""
    words = part.words(dims)
    told = ", ".join(text for _, text in changed(part)) if words is None else words
    for short, long in {" x ": "\u00a0×\u00a0", " → ": "\u00a0→\u00a0", "→ ": "→\u00a0"}.items():
        told = told.replace(short, long)  # what no line is broken at
    return told

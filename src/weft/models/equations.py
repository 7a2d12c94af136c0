"""A model as LaTeX: what each of its parts computes, in its parts' own words, each kind once.

What is written is a fragment: paragraphs with an `align*` each, for amsmath.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from weft.models.build import blank
from weft.models.config import StackConfig, TransformerConfig
from weft.models.cost import parameter_count
from weft.models.transformer import Stack, Transformer
from weft.nn import Block, BlockPart, Dims, DotProductAttention, Norm
from weft.nn.block import is_sum
from weft.nn.part import Equations, ModelPart, escape

LEGEND = (
    "Vectors are rows. Tokens: i, j = 0, ..., T - 1; heads: h = 1, ..., H; [...] is 1 where it holds, else 0.",
    "Each place and each layer has parameters of its own, unless it is said that layers share theirs.",
    "Dropout is for training only, and left out. For amsmath and amssymb.",
)


@dataclass
class _Told:
    """Paragraphs: of which part, where it stands, and its lines; what is said twice stands once."""

    places: dict[tuple[str, str, Equations], list[str]] = field(default_factory=dict)

    def add(self, part: ModelPart, where: str, lines: Equations) -> None:
        """What a part says of itself, or that it says nothing."""
        if part.kind == "none":
            return
        silent = "" if lines else _meaning(part)
        places = self.places.setdefault((f"{part.slot.replace('_', ' ').capitalize()}: {part.kind}", silent, lines), [])
        places += [where] * (where not in places)

    def paragraphs(self) -> Iterator[str]:
        """Each as LaTeX."""
        for (title, silent, lines), places in self.places.items():
            yield paragraph(f"{title} ({'; '.join(places)})", lines, silent)


def latex(config: TransformerConfig, name: str = "model") -> str:
    """The model's equations; its vocabulary and labels are known.

    Raises WeftError when parts do not fit together.
    """
    model, told = blank(config), _Told()
    entering = replace(config.dims(), d_model=model.embedding.width)
    told.add(config.embedding, "input", config.embedding.equations(config.dims()))
    for stack, declared in config.stacks().items():
        built = model.encoder if stack == "encoder" else model.decoder
        assert built is not None, "a stack that is declared is built"
        dims = replace(config.dims(stack), heads=_heads(built))
        at_entrance = replace(dims, d_model=entering.d_model)
        told.add(declared.positions, stack, declared.positions.equations(at_entrance))
        told.add(declared.embedding_norm, f"{stack}, input", declared.embedding_norm.equations(at_entrance))
        told.places[stack.capitalize(), "", _whole(config, stack)] = [_layers(declared)]
        _tell_layers(told, stack, declared, built, dims)
        if not declared.layers()[-1].ends_normed:
            told.add(declared.norm, stack, declared.norm.equations(dims))
    for key, head in config.heads.items():
        told.add(head, f"heads.{key}", head.equations(config.dims(), config.embedding))
        norm = getattr(head, "norm", None)
        if isinstance(norm, Norm):
            told.add(norm, f"heads.{key}", norm.equations(entering))
    return "\n".join([*_header(name, model), *told.paragraphs()])


def paragraph(title: str, lines: Sequence[str], silent: str = "") -> str:
    """One part: its lines below its name, or plain words where it has none."""
    head = rf"\paragraph{{{escape(title)}}}"
    if not lines:
        return f"{head} tells no equation. {escape(silent)}\n"
    body = " \\\\\n".join(f"  {line}" for line in lines)
    return f"{head}\n\\begin{{align*}}\n{body}\n\\end{{align*}}\n"


def _header(name: str, model: Transformer) -> list[str]:
    return [f"% {' '.join(name.split())}: {parameter_count(model):,} parameters", *(f"% {line}" for line in LEGEND), ""]


def _tell_layers(told: _Told, stack: str, declared: StackConfig, built: Stack, dims: Dims) -> None:
    """Each kind of layer, then what stands in it."""
    layers = declared.layers()
    for layer in dict.fromkeys(layers):
        indices = [index for index, other in enumerate(layers) if other == layer]
        where = stack if len(indices) == len(layers) else f"{stack}, {_numbered(indices)}"
        told.add(layer, where, layer.equations(dims, declared.norm))
        told.add(norm := layer.norm or declared.norm, stack, norm.equations(dims))
        attention = _attentions(built)[indices[0]]
        acts: frozenset[str] = frozenset() if attention is None else (attention.scheme or built.positions).acts()
        told.add(layer.attention, where, layer.attention.equations(dims, acts))
        own = getattr(layer.attention, "positions", None)
        if isinstance(own, ModelPart):
            told.add(own, where, own.equations(dims))
        if dims.across:
            told.add(layer.reading(), f"{where}, across", layer.reading().equations(dims, across=True))
        told.add(layer.feedforward, where, layer.feedforward.equations(dims))
        depth = getattr(layer, "stochastic_depth", None)
        if isinstance(depth, ModelPart):
            told.add(depth, where, depth.equations(dims))


def _whole(config: TransformerConfig, stack: str) -> Equations:
    """Where a stack begins and ends; as one sum where each layer only adds to what comes in."""
    declared, dims = config.stacks()[stack], config.dims(stack)
    layers, last = declared.layers(), rf"x^{{({len(declared.layers())})}}"
    x = "x_i" if declared.embedding_norm.kind == "none" else rf"{declared.embedding_norm.named()}(x_i)"
    lines = [rf"x^{{(0)}}_i &= {config.embedding.entering(x)}, \quad \ell = 1, \dots, {len(layers)}"]
    if (letters := _summed(layers, dims)) is not None:
        added = " + ".join(rf"{letter}^{{(\ell)}}" for letter in letters)
        several = rf"\left({added}\right)" if len(letters) > 1 else added
        lines.append(rf"{last} &= x^{{(0)}} + \sum_{{\ell=1}}^{{{len(layers)}}} {several}")
    out = "y" if stack == "encoder" and config.decoder is not None else "x"
    normed = layers[-1].ends_normed or declared.norm.kind == "none"
    lines.append(rf"{out}_i &= {last}_i" if normed else rf"{out}_i &= {declared.norm.named()}({last}_i)")
    return tuple(lines)


def _summed(layers: Sequence[BlockPart], dims: Dims) -> list[str] | None:
    """What every layer adds, under one letter each; None where layers differ in that, or do more than adding."""
    wirings = [layer.wiring() for layer in layers]
    letters = [[letter for letter, _ in layer.branches(dims)] for layer in layers]
    alike = all(is_sum(wiring) and wiring is not None and not wiring.parallel for wiring in wirings)
    return letters[0] if alike and letters[0] and all(found == letters[0] for found in letters) else None


def _heads(stack: Stack) -> frozenset[int]:
    """Numbers of heads of the attentions that use the stack's positions."""
    return frozenset(item.n_heads for item in _attentions(stack) if item is not None and item.scheme is None)


def _attentions(stack: Stack) -> list[DotProductAttention | None]:
    return [block.attention for block in stack.blocks if isinstance(block, Block)]


def _layers(declared: StackConfig) -> str:
    n_layers, sets = len(declared.layers()), len(set(declared.sharing()))
    shared = "" if sets == n_layers else f", {sets} set{'s' if sets > 1 else ''} of weights"
    return f"{n_layers} layer{'s' if n_layers > 1 else ''}{shared}"


def _numbered(indices: Sequence[int]) -> str:
    """`layers 1-5,7-11`, counted from 1."""
    from weft.models.describe import ranges

    return f"layer{'s' if len(indices) > 1 else ''} {ranges(index + 1 for index in indices)}"


def _meaning(part: ModelPart) -> str:
    return (inspect.getdoc(type(part)) or "").partition("\n")[0]

"""What the atlas knows of a part before it writes: where it stands, an example of it, what it builds, what it costs.

All in weft's default model, so that what a page says is what `weft describe transformer` says.
"""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin

import torch
from torch import nn

from weft.config import SLOTS, Part, Section, yaml
from weft.config.tree import place_of
from weft.models.build import blank
from weft.models.config import ModelConfig, TransformerConfig
from weft.models.cost import cache_bytes, costs, total
from weft.nn import (
    Attention,
    BlockPart,
    Causal,
    Cost,
    Dims,
    DotProduct,
    Embeddings,
    FeedForward,
    Gate,
    Head,
    Layer,
    MaskPart,
    NoPositions,
    Norm,
    Positions,
    RotaryScaling,
    Score,
    StochasticDepth,
)
from weft.nn.part import Equations, ModelPart

VOCABULARY = 4096
"""Tokens of the default model: what `weft describe` takes where the declaration leaves it to the data."""
N_HEADS = DotProduct().n_heads


class AtlasError(Exception):
    """A part does not say what its page needs."""


@dataclass(frozen=True)
class Place:
    """Where a slot stands below `model`, and the kinds that are chosen on the way so that it does."""

    path: str
    chosen: tuple[tuple[str, str], ...] = ()

    def of(self, part: ModelPart) -> str:
        """The path of that part: heads have a name each, here their kind."""
        return f"{self.path}.{part.kind}" if isinstance(part, Head) else self.path

    def overrides(self, part: ModelPart) -> list[str]:
        """What puts the part there, as on the command line."""
        return [*(f"{at}={kind}" for at, kind in self.chosen), f"{self.of(part)}={inline(written(part))}"]

    def declaration(self, part: ModelPart) -> dict[str, Any]:
        """The same as part of a recipe."""
        tree: dict[str, Any] = {}
        for at, value in [*self.chosen, (self.of(part), written(part))]:
            *above, name = at.split(".")
            node = tree
            for key in above:
                below = node.setdefault(key, beside(key))
                if isinstance(below, str):
                    node[key] = below = {"kind": below}
                node = below
            node[name] = value
        return tree


def beside(section: str) -> dict[str, Any]:
    """What one must say in a section of a recipe to have the rest of it as in the default model."""
    if section == "heads":  # a mapping that is given replaces the default's
        return {name: head.kind for name, head in default_model().heads.items()}
    return {"n_layers": dims().n_layers} if section in default_model().stacks() else {}


def slots() -> dict[str, type[ModelPart]]:
    """The slots of a model that are weft's own, each with its kinds."""
    import weft.training.recipe  # noqa: F401 (it imports all that a recipe may hold)

    found = {name: base for name, base in SLOTS.items() if issubclass(base, ModelPart) and ours(base)}
    return dict(sorted(found.items(), key=lambda item: (_depth(places()[item[0]][0].path), item[0])))


def kinds(base: type[Part]) -> dict[str, type[ModelPart]]:
    """The kinds of a slot that are weft's own, not a plugin's; the default first."""
    found = {kind: part for kind, part in base.kinds.items() if issubclass(part, ModelPart) and ours(part)}
    return dict(sorted(found.items(), key=lambda item: (item[0] != base.default, item[0] == "none", item[0])))


def ours(thing: Any) -> bool:
    """Whether it belongs to weft itself."""
    return str(thing.__module__).partition(".")[0] == "weft"


def _depth(path: str) -> tuple[int, int]:
    order = ["embedding", "decoder", "heads"]
    top = path.split(".")[0]
    return order.index(top) if top in order else len(order), path.count(".")


@cache
def places() -> dict[str, list[Place]]:
    """Where each slot may be filled below `model`, in a decoder; the place that has the slot's name first."""
    found: dict[str, list[Place]] = {}
    seen: set[str] = set()

    def visit(section: type[Section], prefix: str, chosen: tuple[tuple[str, str], ...]) -> None:
        for name, field in section.model_fields.items():
            place, path = place_of(field.annotation), f"{prefix}{name}"
            optional = type(None) in get_args(field.annotation)
            if get_origin(field.annotation) is dict and place.items is not None:
                place = place.items
            if place.section is None or path in seen or name == "encoder":
                continue
            seen.add(path)
            if not issubclass(place.section, Part):
                visit(place.section, f"{path}.", chosen)
                continue
            base = place.section
            found.setdefault(base.slot, []).append(Place(path, chosen))
            for kind, part in kinds(base).items() if not optional else ():
                if base is Head:
                    visit(part, f"{path}.{kind}.", (*chosen, (f"{path}.{kind}", kind)))
                else:
                    visit(part, f"{path}.", chosen if kind == base.default else (*chosen, (path, kind)))

    visit(TransformerConfig, "", ())
    for slot, held in found.items():
        held.sort(key=lambda place: (place.path.rpartition(".")[2] not in (slot, f"{slot}s"), place.path.count(".")))
    return found


@cache
def default_model() -> TransformerConfig:
    """The model in which costs are told: weft's own defaults."""
    config = ModelConfig.load("transformer").stand_in(VOCABULARY)
    assert isinstance(config, TransformerConfig), "the default model is a transformer"
    return config


def dims() -> Dims:
    """What parts of the default model know of their surroundings."""
    return replace(default_model().dims("decoder"), heads=frozenset({N_HEADS}))


def head_width() -> int:
    """Channels of a head of the default model."""
    return default_model().d_model // N_HEADS


def example(part: type[ModelPart], *, small: bool = False) -> ModelPart:
    """The part with its defaults, and an example for each option that has none; `small`: for a drawing of few tokens.

    Raises AtlasError for an option that has neither.
    """
    given = {}
    for name, field in part.model_fields.items():
        if field.is_required():
            if not field.examples:
                raise AtlasError(
                    f"{part.slot}: {part.kind}.{name} has no default, so its page needs an example:"
                    f" {name}: ... = Field(examples=[...]), the last one small enough for a drawing"
                )
            given[name] = field.examples[-1 if small else 0]
    found = part.choose({"kind": part.kind, **given})
    return found.stand_in() if isinstance(found, Head) else found


def variants(part: type[ModelPart]) -> Iterator[tuple[str, ModelPart]]:
    """The part as `example` has it, and with each choice of its own changed: name and what it then is.

    Changed are switches, options that are one of a few words, and those with examples.
    """
    plain = example(part, small=True)
    yield part.kind, plain
    for name, field in part.model_fields.items():
        before = getattr(plain, name)
        values: list[Any] = list(field.examples[-1:]) if field.examples and not field.is_required() else []
        if field.annotation is bool:
            values = [not before]
        elif get_origin(field.annotation) is Literal:
            values = list(get_args(field.annotation))
        for value in values:
            if value != before:
                shown = (
                    name if value is True else f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
                )
                yield shown, plain.model_copy(update={name: value})


def written(part: ModelPart) -> Any:
    """The part as one writes it: its kind, or kind and the options that have no default."""
    given = {name: field for name, field in type(part).model_fields.items() if field.is_required()}
    dumped = part.dump()
    return {"kind": part.kind, **{name: _short(dumped[name]) for name in given}} if given else part.kind


def _short(value: Any) -> Any:
    """What stands in an option, parts by kind alone where no more is said."""
    if isinstance(value, Mapping):
        inside = {key: _short(item) for key, item in value.items()}
        return inside["kind"] if list(inside) == ["kind"] else inside
    return [_short(item) for item in value] if isinstance(value, list) else value


def inline(value: Any) -> str:
    """The value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


def block_yaml(tree: Mapping[str, Any], indent: str = "") -> str:
    """The declaration as a person writes it: mappings below each other, those without any inside on one line."""
    lines = []
    for key, value in tree.items():
        nested = isinstance(value, Mapping) and any(isinstance(item, Mapping) for item in value.values())
        if nested or (isinstance(value, Mapping) and "kind" not in value):
            lines.append(f"{indent}{key}:\n{block_yaml(value, indent + '  ')}")
        else:
            lines.append(f"{indent}{key}: {inline(value)}")
    return "\n".join(lines)


@cache
def selected(part: ModelPart, place: Place) -> TransformerConfig:
    """The default model with the part in that place, by command line and by recipe, which must say the same.

    Raises WeftError where it cannot be built, AtlasError where the two differ.
    """
    by_path = ModelConfig.load(ModelConfig.load("transformer").dump(), *place.overrides(part))
    recipe = yaml.parse(block_yaml({"model": place.declaration(part)}), "recipe")
    by_recipe = ModelConfig.load(recipe["model"])
    if by_path.dump() != by_recipe.dump():
        raise AtlasError(f"{part.slot}: {part.kind}: the recipe and the override at {place.path} differ")
    config = by_path.stand_in(VOCABULARY)
    assert isinstance(config, TransformerConfig), "an override keeps the model's kind"
    blank(config)
    return config


MAKERS: dict[type[ModelPart], Callable[[Any, Dims], list[Any]]] = {
    Embeddings: lambda part, dims: [made := part.build(dims), made.from_width()],
    Positions: lambda part, dims: [part.build(dims)],
    Norm: lambda part, dims: [part.build(dims)],
    BlockPart: lambda part, dims: [part.build(dims, NoPositions(), Layer())],
    Attention: lambda part, dims: [part.build(dims, NoPositions())],
    Score: lambda part, dims: [part.build(dims.d_model // N_HEADS, N_HEADS)],
    MaskPart: lambda part, dims: [part.build(dims, Causal())],
    FeedForward: lambda part, dims: [part.build(dims)],
    Head: lambda part, dims: [part.build(dims, default_model().embedding.build(dims))],
    Gate: lambda part, dims: [part.build(dims, N_HEADS, dims.d_model // N_HEADS)],
    RotaryScaling: lambda part, dims: [part],
    StochasticDepth: lambda part, dims: [part],
}
"""What a part of each slot becomes: modules, or values that compute."""


def made(part: ModelPart, sizes: Dims | None = None, device: str = "meta") -> list[Any]:
    """What computes the part, of the default model's sizes unless others are given; nothing for a `none`.

    Raises AtlasError for a slot that the atlas does not know.
    """
    maker = next((maker for base, maker in MAKERS.items() if isinstance(part, base)), None)
    if maker is None:
        raise AtlasError(f"{part.slot}: say in MAKERS of tools/atlas_parts.py how a part of this slot is built")
    with torch.device(device):
        return [thing for thing in maker(part, sizes or dims()) if not isinstance(thing, nn.Identity | types.NoneType)]


@cache
def own_cost(part: ModelPart) -> Cost:
    """What the part by itself costs in a text as long as the default model's."""
    modules = nn.ModuleList([thing for thing in made(part) if isinstance(thing, nn.Module)])
    return sum(costs(modules, default_model().max_length).values(), start=Cost())


def whole_cost(config: TransformerConfig) -> Cost:
    """What the whole model costs."""
    return total(blank(config), config.max_length)


@cache
def default_cost() -> Cost:
    """What the default model costs."""
    return whole_cost(default_model())


def kept_bytes(cost: Cost) -> int:
    """Bytes of cache a token, in float32."""
    return cache_bytes(cost, "fp32")


def equations(part: ModelPart) -> Equations:
    """What it computes, in LaTeX, in the default model's sizes."""
    if isinstance(part, Score):
        return part.equations(replace(dims(), d_model=head_width()))
    if isinstance(part, Head):
        return part.equations(dims(), default_model().embedding)
    if isinstance(part, Embeddings) and (entering := part.entering("x_i")) != "x_i":
        return (*part.equations(dims()), rf"x^{{(0)}}_i &= {entering}")
    return part.equations(dims())


def meaning(part: type[Part]) -> str:
    """The first line of what its documentation says."""
    return inspect.cleandoc(part.__doc__ or "").partition("\n")[0]

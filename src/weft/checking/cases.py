"""Small models from the registry: every registered part, alone and in combination.

A *place* is where a choice stands below `model` ("decoder.block.attention.score"); a *level* is one choice for it, as
JSON text ('{"kind": "rotary", "share": 0.5}', or 'null' for what the surroundings give); a *case* has a level for each
place.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, get_args

from weft.checking.small import SIZES, model_from
from weft.checking.values import Count, levels_of, section_of, slot_of
from weft.config import SLOTS, Part, Section
from weft.errors import WeftError
from weft.models.config import ModelConfig, TransformerConfig
from weft.models.transformer import Transformer

STACKS = ("decoder", "encoder", "both")
"""A model is one of these; what a case says of "decoder" is what all its stacks are made of."""

CROSS = "cross_attention"
"""A slot that is never `none` here: every layer that reads a source would be without, which is refused. What stands
below it is tried where it comes from unless given: below `attention`."""

Case = dict[str, str]
INHERIT = "null"


@dataclass(frozen=True)
class Place:
    """A slot of the declaration, and the levels that are tried there."""

    base: type[Part]
    levels: tuple[str, ...]


def once(section: type[Section], name: str) -> int:
    """Every option with one other value."""
    return 1


def places(*, variants: bool = True, count: Count = once) -> dict[str, Place]:
    """Every slot below `model`, those of all kinds of parts included."""
    found: dict[str, Place] = {}

    def add(path: str, base: type[Part], optional: bool, number: int) -> None:
        # what overrides another is tried by kind, and what stands below it where it comes from
        levels = levels_of(base, variants=variants and not optional and number > 0, count=count)
        levels = [level for level in levels if level["kind"] != "none" or not path.endswith(CROSS)]
        found[path] = Place(base, (*([INHERIT] if optional else []), *map(json.dumps, levels)))
        for part in base.kinds.values() if not optional else ():
            visit(part, f"{path}.")

    def visit(section: type[Section], prefix: str) -> None:
        for name, field in section.model_fields.items():
            base = slot_of(field.annotation)
            if base is not None and f"{prefix}{name}" not in found:
                add(f"{prefix}{name}", base, type(None) in get_args(field.annotation), count(section, name))
            elif (stack := section_of(field.annotation)) is not None and name != "encoder":
                visit(stack, f"{prefix}{name}.")

    visit(TransformerConfig, "")
    for kind in SLOTS["head"].kinds:
        levels = levels_of(SLOTS["head"], variants=variants, count=count)
        levels = [level for level in levels if level["kind"] == kind]
        found[f"heads.{kind}"] = Place(SLOTS["head"], tuple(map(json.dumps, levels)))
    found["stacks"] = Place(ModelConfig, tuple(map(json.dumps, STACKS)))
    return found


def applies(path: str, case: Mapping[str, str], where: Mapping[str, Place]) -> bool:
    """Whether the part that the case chooses above `path` has such a slot."""
    above, _, name = path.rpartition(".")
    if name == CROSS and case.get("stacks") != '"both"':
        return False
    if above not in where:
        return True
    level = json.loads(case[above])
    if any(case.get(other, INHERIT) != INHERIT for other in overriding(above, where)):
        return False
    return level is not None and name in where[above].base.kinds[level["kind"]].model_fields and applies(
        above, case, where
    )  # fmt: skip


def declaration(case: Mapping[str, str], where: Mapping[str, Place]) -> dict[str, Any]:
    """The model's declaration; levels whose slot does not exist in this case are left out."""
    tree = deepcopy(SIZES)
    for path in sorted(case, key=lambda path: path.count(".")):
        level = json.loads(case[path])
        if path != "stacks" and level is not None and applies(path, case, where):
            *above, name = path.split(".")
            functools.reduce(lambda node, key: node.setdefault(key, {}), above, tree)[name] = level
    stacks, block = json.loads(case.get("stacks", '"decoder"')), tree["decoder"].get("block", {})
    if stacks == "both" and block.get("attention", {}).get("kind") == "none":
        block.setdefault(CROSS, {"kind": "dot-product"})
    if stacks != "decoder":
        tree["encoder"] = deepcopy(tree["decoder"] if stacks == "both" else tree.pop("decoder"))
        tree["encoder"].get("block", {}).pop(CROSS, None)
    if stacks == "both":
        tree["encoder"]["n_layers"] = 1  # without norms and residuals three layers in a row are steep enough
    return tree


def plain_case(where: Mapping[str, Place]) -> Case:
    """Each place's default kind, or what the surroundings give."""
    case = {"stacks": '"decoder"'}
    for path, place in where.items():
        if path == "stacks":
            continue
        kinds = {"kind": place.base.default} if place.base.default else {}
        plain = next((level for level in place.levels if kinds and json.loads(level) == kinds), place.levels[0])
        case[path] = INHERIT if INHERIT in place.levels else plain
    return case


def one_by_one(where: Mapping[str, Place]) -> Iterator[dict[str, Any]]:
    """The declaration with each level of each place, in a model that is the default otherwise."""
    for path, place in where.items():
        for level in place.levels:
            yield declaration({**plain_case(where), path: level}, where)


def overridden(path: str, where: Mapping[str, Place]) -> list[str]:
    """The places whose choice the one at `path` overrides: of the same slot, further out."""
    if path.endswith(CROSS):  # stands beside the attention whose options it has
        return []
    return [other for other, place in where.items() if place.base is where[path].base and INHERIT not in place.levels]


def overriding(path: str, where: Mapping[str, Place]) -> list[str]:
    """The places whose choice overrides the one at `path`."""
    return [other for other, place in where.items() if INHERIT in place.levels and path in overridden(other, where)]


def hosts(place: Place, level: str, other: str, path: str) -> bool:
    """Whether the part that `level` chooses at `path` has the slot in which `other` begins."""
    chosen, name = json.loads(level), other.removeprefix(f"{path}.").partition(".")[0]
    return chosen is not None and name in place.base.kinds[chosen["kind"]].model_fields


def model_of(case: Mapping[str, str], where: Mapping[str, Place]) -> Transformer:
    """The case's model in float64, its weights large enough that every part matters; shared: leave it as it is.

    Raises WeftError when this combination is refused.
    """
    return model_from(json.dumps(declaration(case, where)))


def refusal(case: Mapping[str, str], where: Mapping[str, Place]) -> str | None:
    """Why this combination is refused, or None."""
    try:
        model_of(case, where)
    except WeftError as error:
        return str(error)
    return None


def smallest(case: Case, where: Mapping[str, Place], fails: Callable[[Case], bool]) -> Case:
    """The failing case with all that does not matter taken back to the default; what is refused does not fail."""
    plain = plain_case(where)
    for path in sorted(case, key=lambda path: -path.count(".")):
        simpler = {**case, path: plain[path]}
        if case[path] != plain[path] and fails(simpler):
            case = simpler
    return case


def told(case: Case, where: Mapping[str, Place]) -> str:
    """What differs from the default, for a person."""
    plain = plain_case(where)
    changed = [path for path in case if case[path] != plain[path] and applies(path, case, where)]
    return ", ".join(f"{path}={case[path]}" for path in changed) or "the default model"

"""Raw declarations as trees beside the types that will read them: short forms, overrides by path, nearest names.

Work on the raw tree comes before validation, so that presets and short forms are expanded first, overrides apply to the
expanded form in order, and every problem of the result is reported together.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from weft.config.slot import Part, Section
from weft.config.yaml import parse
from weft.errors import WeftError


@dataclass(frozen=True)
class Place:
    """What may stand somewhere in a declaration: a section, a slot's part, a list or mapping of these, or a value."""

    section: type[Section] | None = None
    items: Place | None = None  # of a list or a mapping with free keys
    leaf: bool = True

    def child(self, key: str | int, node: Any) -> Place:
        """The place at `key` below this one, where `node` is what stands here now."""
        if self.items is not None:
            return self.items
        section = self.chosen(node)
        field = section.model_fields.get(str(key)) if section is not None else None
        return place_of(field.annotation) if field is not None else Place()

    def chosen(self, node: Any) -> type[Section] | None:
        """The class whose options `node` holds: for a slot, that of the kind which it names."""
        if self.section is None or not self.is_slot:
            return self.section
        assert issubclass(self.section, Part)
        kind = node.get("kind", self.section.default) if isinstance(node, Mapping) else self.section.default
        return self.section.kinds.get(str(kind))

    @property
    def is_slot(self) -> bool:
        """Whether a choice among parts stands here."""
        return self.section is not None and issubclass(self.section, Part)


def place_of(annotation: Any) -> Place:
    """The place that a field's annotation describes; `| None` says nothing about it."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return place_of(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        places = [place_of(argument) for argument in get_args(annotation) if argument is not type(None)]
        return next((place for place in places if not place.leaf), Place())
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        items = place_of([argument for argument in get_args(annotation) if argument is not Ellipsis][-1])
        return Place(items=items, leaf=False)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return Place(section=annotation, leaf=False)
    return Place()


def expand(place: Place, raw: Any) -> Any:
    """`raw` with every short form, preset and default kind written out, as a new tree; unknown names stay in it."""
    if place.section is not None:
        raw = place.section.expand_short(raw)
    if isinstance(raw, Mapping):
        return {key: expand(place.child(key, raw), value) for key, value in raw.items()}
    if isinstance(raw, list | tuple):
        return [expand(place.items or Place(), value) for value in raw]
    return raw


def merge(place: Place, old: Any, new: Any) -> Any:
    """`new` over `old`: a string or a mapping with `kind` replaces, a mapping merges, lists replace, null clears."""
    if not isinstance(new, Mapping) or not isinstance(old, Mapping):
        return expand(place, new)
    if place.section is not None and issubclass(place.section, Part) and place.section.is_choice(new):
        return expand(place, new)
    result = dict(old)
    for key, value in new.items():
        if value is None:
            result.pop(key, None)
        else:
            below = place.child(key, old)
            result[key] = merge(below, old[key], value) if key in old else expand(below, value)
    return result


def _holds_null(place: Place, node: Any, name: str) -> bool:
    """Whether null is a choice of its own there, beside the default."""
    section = place.chosen(node)
    field = section.model_fields.get(name) if section is not None else None
    return field is not None and type(None) in get_args(field.annotation) and field.default is not None


@dataclass(frozen=True)
class Override:
    """One `path=value` of the command line or of a study's arm."""

    path: tuple[str, ...]
    value: Any

    @classmethod
    def read(cls, text: str) -> Override:
        """`model.decoder.n_layers=2` as a path and a YAML value.

        Raises WeftError when there is no `=` or no path.
        """
        path, equals, value = text.partition("=")
        names = tuple(path.strip().split("."))
        if not equals or not all(names):
            raise WeftError(f"{text!r}: an override is written path=value, such as train.seed=3")
        return cls(names, parse(value, f"{path}="))

    def apply(self, place: Place, tree: Any, notes: list[str]) -> Any:
        """The tree with this override in it; what was dropped on the way is told in `notes`."""
        return self._apply(place, deepcopy(tree), 0, notes)

    def _apply(self, place: Place, node: Any, depth: int, notes: list[str]) -> Any:
        if depth == len(self.path):
            return merge(place, node, self.value)
        name = self.path[depth]
        if isinstance(node, list):
            index = self._index(name, node, depth)
            node[index] = self._apply(place.child(index, node), node[index], depth + 1, notes)
            return node
        if node is None:
            node = expand(place, {})
        elif not isinstance(node, Mapping):
            here = ".".join(self.path[:depth])
            raise WeftError(f"{'.'.join(self.path)}: {here} is the value {node!r} and has no options of its own")
        if depth == len(self.path) - 1:
            if name == "kind" and place.is_slot:
                return self._change_kind(place, node, notes)
            if place.section is not None and issubclass(place.section, Part) and name in place.section.extra_options:
                return expand(place, {name: self.value})  # another preset: a whole declaration
            if self.value is None and not _holds_null(place, node, name):
                return {key: value for key, value in node.items() if key != name}
        return {**node, name: self._apply(place.child(name, node), node.get(name), depth + 1, notes)}

    def _index(self, name: str, node: list[Any], depth: int) -> int:
        if not name.isdecimal() or int(name) >= len(node):
            here = ".".join(self.path[:depth])
            raise WeftError(f"{'.'.join(self.path)}: {here} is a list of {len(node)}; count from 0, not {name!r}")
        return int(name)

    def _change_kind(self, place: Place, node: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
        changed = {"kind": self.value}
        new = place.chosen(changed)
        if new is None:  # an unknown kind: validation says so, with the path
            return changed
        kept = {key: value for key, value in node.items() if key in new.model_fields}
        dropped = [key for key in node if key != "kind" and key not in kept]
        if dropped:
            notes.append(
                f"{'.'.join(self.path)}={self.value}: {', '.join(dropped)} dropped, {self.value} has no such option"
            )
        return {**changed, **kept}

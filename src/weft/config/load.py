"""From raw declarations and overrides to checked ones: everything that is wrong is said at once, each with its path."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from weft.config.slot import Part, Section, did_you_mean
from weft.config.tree import Override, Place, expand, place_of
from weft.errors import ConfigError, WeftError

S = TypeVar("S", bound=Section)


def apply(
    section: type[Section], raw: Any, overrides: Iterable[str | Override], notes: list[str] | None = None
) -> tuple[Any, list[str]]:
    """The raw tree of `section` with short forms written out and the overrides in it; and what was wrong with these."""
    place = Place(section=section, leaf=False)
    tree, problems = expand(place, raw), []
    for item in overrides:
        try:
            override = item if isinstance(item, Override) else Override.read(item)
            tree = override.apply(place, tree, notes if notes is not None else [])
        except WeftError as error:
            problems.append(str(error))
    return tree, problems


def load(section: type[S], raw: Any, overrides: Iterable[str | Override] = (), notes: list[str] | None = None) -> S:
    """The declaration that `raw` and the overrides, applied in order, describe.

    `notes` collects sentences that a person should hear (options that an override dropped).
    Raises ConfigError with every problem, a line each.
    """
    tree, problems = apply(section, raw, overrides, notes)
    try:
        found = section.choose(tree) if issubclass(section, Part) else section.model_validate(tree)
    except ValidationError as error:
        problems += explain(error, Place(section=section, leaf=False), tree)
    except ValueError as error:  # choose() outside of a field: an unknown kind at the very top
        problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    assert isinstance(found, section), "validation gives the class that was asked for"
    return found


def explain(error: ValidationError, place: Place, tree: Any) -> list[str]:
    """One line a problem: the path as in the file, the value, what would be right."""
    return [_explain_one(details, place, tree) for details in error.errors(include_url=False)]


def _explain_one(details: ErrorDetails, root: Place, tree: Any) -> str:
    loc, kind = details["loc"], details["type"]
    path = ".".join(map(str, loc)) or "declaration"
    if kind == "extra_forbidden":
        return _unknown_option(loc, root, tree)
    if kind == "missing":
        field = _field(loc, root, tree)
        return f"{path}: needs a value{f' ({field.description})' if field and field.description else ''}"
    message = re.sub(r"^(Value error, |Input )", "", details["msg"])
    if kind == "slot":
        return f"{path}: {message}"
    if kind == "string_type":
        field = _field(loc, root, tree)
        usual = field.default if field else None
        message = f"should be text, such as {usual!r}" if usual and isinstance(usual, str) else "should be text"
    value = details["input"]
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    return f"{path} = {shown}: {message}"


def _field(loc: Sequence[str | int], root: Place, tree: Any) -> FieldInfo | None:
    """What declares the option at `loc`."""
    place, node = _walk(root, tree, loc[:-1])
    section = place.chosen(node)
    return section.model_fields.get(str(loc[-1])) if section else None


def _unknown_option(loc: Sequence[str | int], root: Place, tree: Any) -> str:
    place, node = _walk(root, tree, loc[:-1])
    section, name = place.chosen(node), str(loc[-1])
    names = list(section.model_fields) if section else []
    where = ".".join(map(str, loc[:-1])) or "the declaration"
    kind = f" ({section.kind})" if section and issubclass(section, Part) and section.kind else ""
    hint = did_you_mean(name, names)
    if not hint:
        elsewhere = [".".join(path) for path in _paths(root, tree) if path[-1] == name]
        hint = f"; did you mean {elsewhere[0]!r}?" if elsewhere else ""
    listed = f"has: {', '.join(names)}" if names else "has no options"
    return f"{'.'.join(map(str, loc))}: no such option{hint} ({where}{kind} {listed})"


def _walk(place: Place, node: Any, loc: Sequence[str | int]) -> tuple[Place, Any]:
    """The place and the raw node at `loc`."""
    for key in loc:
        place = place.child(key, node)
        if isinstance(node, Mapping):
            node = node.get(key)
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        else:
            node = None
    return place, node


def _paths(place: Place, node: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every option's path in the tree as it is chosen now, defaults included."""
    section = place.chosen(node)
    if section is None or len(prefix) > 8:
        return
    for name, field in section.model_fields.items():
        yield (*prefix, name)
        below = node.get(name) if isinstance(node, Mapping) else None
        yield from _paths(place_of(field.annotation), below, (*prefix, name))

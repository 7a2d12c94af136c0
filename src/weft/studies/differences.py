"""What differs between two resolved recipes, option by option, and which of it nobody declared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from weft.config import Section, semantic, yaml

_NOTHING = object()


@dataclass(frozen=True)
class Difference:
    """One option in two recipes; a part of another kind is one difference."""

    path: str
    before: Any
    after: Any

    def words(self) -> str:
        """`model.decoder.positions: learned -> rotary`; of a part, what the other does not have alike."""
        before, after = self.before, self.after
        if isinstance(before, Mapping) and isinstance(after, Mapping) and "kind" in before and "kind" in after:
            new = {key: value for key, value in after.items() if key == "kind" or value != before.get(key, _NOTHING)}
            return f"{self.path}: {before['kind']} -> {_shown(new)}"
        return f"{self.path}: {_shown(before)} -> {_shown(after)}"


def differences(one: Section, other: Section) -> tuple[Difference, ...]:
    """Where the semantic options of two declarations differ."""
    return tuple(_differences(semantic(one), semantic(other), ()))


def undeclared(found: Iterable[Difference], declared: Iterable[str]) -> tuple[Difference, ...]:
    """Those that lie neither below nor above a declared path."""
    paths = list(declared)

    def known(path: str) -> bool:
        return any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for one in paths)

    return tuple(one for one in found if not known(one.path))


def _differences(one: Any, other: Any, path: tuple[str, ...]) -> Iterator[Difference]:
    if one == other and type(one) is type(other):
        return
    both = isinstance(one, Mapping) and isinstance(other, Mapping)
    if both and one.get("kind") == other.get("kind"):
        for key in dict.fromkeys([*one, *other]):
            yield from _differences(one.get(key, _NOTHING), other.get(key, _NOTHING), (*path, str(key)))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, (*path, str(index)))
    elif one != other:
        yield Difference(".".join(path), *(None if value is _NOTHING else value for value in (one, other)))


def _says_nothing(value: Any) -> bool:
    """Whether an option is off: null, false, 0, none."""
    return value in (None, False, 0, "none") or value == {"kind": "none"} or value == []


def _shown(value: Any) -> str:
    """As a file would say it, in one line."""
    if isinstance(value, Mapping) and "kind" in value:
        options = {key: item for key, item in value.items() if key != "kind" and not _says_nothing(item)}
        if not options:
            return str(value["kind"])
        inside = ", ".join(f"{key}: {_shown(item)}" for key, item in options.items())
        return f"{value['kind']} ({inside})"
    if isinstance(value, list):
        return f"[{', '.join(map(_shown, value))}]"
    text = yaml.dump(value).strip().removesuffix("\n...")
    return " ".join(text.split())

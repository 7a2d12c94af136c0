"""HTML and SVG from Python, where text is escaped unless it says that it is markup already."""

from __future__ import annotations

import html
from collections.abc import Iterable

VOID = frozenset({"meta", "link", "br", "hr", "col"})
SELF_CLOSING = frozenset({"path", "line", "circle", "rect", "polyline"})
# A control character has no place in a page and some break its parsing; tab and newline stay. Half of a surrogate pair,
# as JSON can hold it, is no character and cannot be written at all.
CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(13, 32), 127, *range(0xD800, 0xE000)], "�")


class Markup(str):
    """Text that is HTML already and is put into a page as it is."""

    __slots__ = ()


def escape(value: object) -> Markup:
    """The value as HTML: markup as it is, anything else escaped, quotes included."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(str(value).replace("\r\n", "\n").translate(CONTROLS)))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    """The parts one after another, each escaped unless it is markup."""
    return Markup(escape(separator).join(escape(part) for part in parts))


def tag(element: str, *children: object, **attributes: object) -> Markup:
    """One element. `class_` is `class`, `stroke_width` is `stroke-width`; None and False leave an attribute out."""
    written = "".join(_attribute(name, value) for name, value in attributes.items())
    if element in VOID:
        return Markup(f"<{element}{written}>")
    if element in SELF_CLOSING and not children:
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{join(children)}</{element}>")


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    return f' {name}="{number(value) if isinstance(value, float) else escape(value)}"'


def number(value: float) -> str:
    """A coordinate with at most two decimals: 12.5, 3, -0.25."""
    short = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if short == "-0" else short

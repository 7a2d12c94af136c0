"""`weft list`: what there is to name in a recipe or on the command line, and each part's options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from inspect import cleandoc
from itertools import zip_longest
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weft.config import Part, Section

app = typer.Typer(no_args_is_help=True, help="List what there is by name: weft list parts positions")

WIDTH = 100

Plugins = Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@app.command()
def presets(as_json: Json = False) -> None:
    """Bundled models: weft list presets"""
    from weft.models.config import presets

    _tell(presets(), as_json)


@app.command()
def recipes(as_json: Json = False) -> None:
    """Bundled recipes: weft list recipes"""
    from weft.training.recipe import recipes

    _tell(recipes(), as_json)


@app.command()
def studies(as_json: Json = False) -> None:
    """Bundled studies: weft list studies"""
    from weft.studies.reading import bundled

    _tell(bundled(), as_json)


@app.command()
def sources(plugins: Plugins = None, as_json: Json = False) -> None:
    """Sources of text, for data.source: weft list sources"""
    _tell({kind: meaning(part) for kind, part in _slots(plugins)["source"].kinds.items()}, as_json)


@app.command()
def parts(
    kind: Annotated[str | None, typer.Argument(help="a slot or a kind, told with all options")] = None,
    plugins: Plugins = None,
    as_json: Json = False,
) -> None:
    """Slots and their parts: weft list parts positions"""
    found = _named(_slots(plugins), kind)
    if as_json:
        _print_json({slot: data_of(base, kinds) for slot, (base, kinds) in found.items()})
    else:
        typer.echo("\n".join(overview(found) if kind is None else details(found)))


Found = dict[str, tuple["type[Part]", "dict[str, type[Part]]"]]
"""Slots by name: the base class, and kinds of it."""


def overview(found: Found) -> list[str]:
    """Every slot with its kinds, a line or two each; the default is marked."""
    lines = []
    for slot, (base, kinds) in found.items():
        rows = [[f"  {kind}{' *' if kind == base.default else ''}", meaning(part)] for kind, part in kinds.items()]
        lines += [f"{slot}: {meaning(base)}", *columns(rows), ""]
    return [*lines, "* unless said. All options of a slot's parts, or of one part: weft list parts attention"]


def details(found: Found) -> list[str]:
    """Each kind with what its documentation says, and its options."""
    lines, execution = [], False
    for slot, (base, kinds) in found.items():
        default = f" Unless said: {base.default}." if base.default else ""
        lines += [*wrap(f"{slot}: {meaning(base)}{default}", WIDTH), ""]
        for kind, part in kinds.items():
            about = options(part)
            rows = [[f"  {name}", item["type"], default_of(item), meaning_of(item)] for name, item in about.items()]
            lines += columns([[kind, cleandoc(part.__doc__ or "")]])
            lines += [*(columns([["  option", "type", "default", "meaning"], *rows]) if rows else []), ""]
            execution |= any(item["execution"] for item in about.values())
    return [*lines, "[execution]: changes how it is computed, not what"] if execution else lines[:-1]


def data_of(base: type[Part], kinds: dict[str, type[Part]]) -> dict[str, Any]:
    """A slot and its kinds for `--json`."""
    told = {kind: {"meaning": meaning(part), "options": options(part)} for kind, part in kinds.items()}
    return {"meaning": meaning(base), "default": base.default, "kinds": told}


def options(section: type[Section], prefix: str = "") -> dict[str, dict[str, Any]]:
    """The options of a part, and of the sections inside it, by path; execution: they change how, not what."""
    from weft.config import Part
    from weft.config.slot import is_execution
    from weft.config.tree import place_of

    found: dict[str, dict[str, Any]] = {}
    properties = section.model_json_schema()["properties"] if section.model_fields else {}
    for name, field in section.model_fields.items():
        place, schema = place_of(field.annotation), properties[name]
        below = (place.items or place).section
        slot = below.slot if below is not None and issubclass(below, Part) else None
        inside = below if slot is None else None
        found[prefix + name] = {
            "type": type_of(schema, f"part: {slot}" if slot else "options" if inside else None),
            "required": field.is_required(),
            "default": None if inside else schema.get("default"),
            "meaning": schema.get("description", ""),
            "execution": is_execution(section, name),
        }
        if inside is not None:
            found |= options(inside, f"{prefix}{name}.{'N.' if place.items else ''}")
    return found


def type_of(schema: dict[str, Any], named: str | None = None) -> str:
    """A JSON Schema in a few words; `named` stands for a slot or section that it holds."""
    if schema.get("type") == "array":
        return f"list of {named or type_of(schema.get('items', {}))}"
    if schema.get("type") == "object" and "additionalProperties" in schema:
        return f"names to {named}" if named else "mapping"
    if named is not None:
        return named
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " or ".join(type_of(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
    bounds = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = ", ".join(f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema)
    name = {"string": "text", "boolean": "true | false"}.get(schema.get("type", ""), schema.get("type", "anything"))
    return f"{name} {limits}".strip()


def meaning(part: type[Part]) -> str:
    """The first line of what a part's documentation says."""
    return cleandoc(part.__doc__ or "").partition("\n")[0]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of at most WIDTH characters; the last column goes on below where it is too long."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]) - 1)]
    indent = " " * (sum(widths) + 2 * len(widths))
    lines = []
    for row in rows:
        head = "".join(f"{text:{room}}  " for text, room in zip(row, widths, strict=False))
        paragraphs = [line for text in row[-1].splitlines() for line in wrap(text, WIDTH - len(indent))]
        lines += [(lead + text).rstrip() for lead, text in zip_longest([head], paragraphs or [""], fillvalue=indent)]
    return lines


def _named(slots: dict[str, type[Part]], kind: str | None) -> Found:
    """All slots; or the one of that name, or those that have a kind of that name, with it alone."""
    from weft.config import unknown_name
    from weft.errors import WeftError

    if kind is None or kind in slots:
        return {slot: (base, dict(base.kinds)) for slot, base in slots.items() if kind in (None, slot)}
    found = {slot: (base, {kind: base.kinds[kind]}) for slot, base in slots.items() if kind in base.kinds}
    if not found:
        raise WeftError(
            unknown_name("slot or kind", kind, {*slots, *(k for base in slots.values() for k in base.kinds)})
        )
    return found


def _slots(plugins: list[str] | None) -> dict[str, type[Part]]:
    """Every slot, once all that weft has (and the plugins) is registered."""
    from pathlib import Path

    import weft.training.recipe  # noqa: F401 (it imports all that a recipe may hold)
    from weft.config import SLOTS
    from weft.config.plugins import load_plugins

    load_plugins(plugins or (), Path())
    return dict(sorted(SLOTS.items()))


def default_of(item: dict[str, Any]) -> str:
    """An option's default in a table."""
    value = item["default"]
    if item["required"]:
        return "required"
    if value is None or isinstance(value, list | dict):
        return json.dumps(value) if value else ""
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-")
    return str(value).lower() if isinstance(value, bool) else str(value)


def meaning_of(item: dict[str, Any]) -> str:
    """What an option means in a table."""
    return f"{item['meaning']}{' [execution]' if item['execution'] else ''}"


def _tell(found: dict[str, str], as_json: bool) -> None:
    if as_json:
        _print_json(found)
    else:
        typer.echo("\n".join(columns(list(found.items()))))


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))

"""As much of JSON Schema (draft 2020-12) as weft's schemas use: whether a document fits one, checked independently."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
ANNOTATIONS = {"title", "description", "default", "$schema", "$defs", "format", "examples"}


def problems(document: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Each thing that does not fit, with its path. Raises AssertionError for a keyword that is not known here."""
    for keyword, value in schema.items():
        if keyword in ANNOTATIONS:
            continue
        check = CHECKS.get(keyword)
        assert check is not None, f"{path}: no such keyword in JSON Schema, or not known to this checker: {keyword}"
        yield from check(value, document, schema, root, path)


def resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` points to."""
    assert reference.startswith("#/"), reference
    node: Any = root
    for name in reference[2:].split("/"):
        node = node[name.replace("~1", "/").replace("~0", "~")]
    return node


def _type(names: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    for name in [names] if isinstance(names, str) else names:
        number = name in ("integer", "number") and isinstance(document, bool)
        if isinstance(document, TYPES[name]) and not number:
            return
    yield f"{path}: {document!r} is no {names}"


def _properties(known: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    for name in document if isinstance(document, dict) else ():
        if name in known:
            yield from problems(document[name], known[name], root, f"{path}.{name}")


def _additional(allowed: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    for name in document if isinstance(document, dict) else ():
        if name not in schema.get("properties", {}):
            if allowed is False:
                yield f"{path}.{name} is unknown"
            elif allowed is not True:
                yield from problems(document[name], allowed, root, f"{path}.{name}")


def _required(names: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    if isinstance(document, dict):
        yield from (f"{path}.{name} is missing" for name in names if name not in document)


def _any_of(choices: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    found = [list(problems(document, choice, root, path)) for choice in choices]
    if all(found):
        yield min(found, key=len)[0]


def _items(each: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
    for index, item in enumerate(document if isinstance(document, list) else ()):
        yield from problems(item, each, root, f"{path}.{index}")


def _one(holds: Any) -> Any:
    def check(value: Any, document: Any, schema: Any, root: Any, path: str) -> Iterator[str]:
        if not holds(document, value):
            yield f"{path}: {document!r} against {value!r}"

    return check


def _number(holds: Any) -> Any:
    return _one(lambda document, value: not isinstance(document, int | float) or holds(document, value))


CHECKS: dict[str, Any] = {
    "$ref": lambda value, document, schema, root, path: problems(document, resolve(value, root), root, path),
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "anyOf": _any_of,
    "items": _items,
    "const": _one(lambda document, value: document == value),
    "enum": _one(lambda document, value: document in value),
    "pattern": _one(lambda document, value: not isinstance(document, str) or re.search(value, document)),
    "minLength": _one(lambda document, value: not isinstance(document, str) or len(document) >= value),
    "maxLength": _one(lambda document, value: not isinstance(document, str) or len(document) <= value),
    "minItems": _one(lambda document, value: not isinstance(document, list) or len(document) >= value),
    "minimum": _number(lambda document, value: document >= value),
    "maximum": _number(lambda document, value: document <= value),
    "exclusiveMinimum": _number(lambda document, value: document > value),
    "exclusiveMaximum": _number(lambda document, value: document < value),
}


def parts_of(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Every schema within one."""
    if isinstance(schema, list):
        for item in schema:
            yield from parts_of(item)
    elif isinstance(schema, dict):
        yield schema
        for keyword, value in schema.items():
            if keyword in ("properties", "$defs"):
                for item in value.values():
                    yield from parts_of(item)
            elif keyword not in ("default", "const", "enum", "required", "examples"):
                yield from parts_of(value)

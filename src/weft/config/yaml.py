"""The one YAML loader: 1.2 core schema, safe, for files and for the right-hand side of every override.

In YAML 1.1 (PyYAML's default) `1e-3` is a string, `no` is False, `1_000` is a number and `2024-01-01` a date; here each
is what it looks like. A key given twice is refused instead of silently lost.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from weft.errors import WeftError


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # nested aliases make a few lines into gigabytes
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read: write the options out", mark)
        return super().compose_node(parent, index)

    def construct_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if text.startswith("0o"):
            return int(text[2:], 8)
        return int(text[2:], 16) if text.startswith("0x") else int(text)

    def construct_unique(self, node: yaml.MappingNode) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a name", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return self.construct_mapping(node, deep=True)


def _resolve(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_resolve("null", "~|null|Null|NULL|", "~nN\0")
_Loader.yaml_implicit_resolvers.setdefault("", []).append(("tag:yaml.org,2002:null", re.compile("^$")))
_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("int", "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
_resolve("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789")
_resolve("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_int)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_unique)

_LARGEST = 1_000_000
"""Characters; a declaration is a page of text."""


def parse(text: str, where: str) -> Any:
    """The data that `text` holds; `where` names it in messages.

    Raises WeftError with the line of a syntax error.
    """
    if len(text) > _LARGEST:
        raise WeftError(f"{where}: {len(text):,} characters is no declaration (at most {_LARGEST:,})")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}" if mark else ""
        raise WeftError(f"{where}{line}: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise WeftError(f"{where}: {error}".replace("\n", " ")) from None


def read(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises WeftError when there is no such file, it is not text, or it holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeftError(f"{path}: not UTF-8 text (byte {error.start}); a declaration is a YAML file") from None
    except OSError as error:
        raise WeftError(f"{path}: {error.strerror or error}") from None
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise WeftError(f"{path}: should hold `name: value` lines, not {type(data).__name__ if data else 'nothing'}")
    return data


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers  # quote what *this* loader would read as another type

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    text = repr(value).replace("inf", ".inf").replace("nan", ".nan")
    return dumper.represent_scalar("tag:yaml.org,2002:float", text)


_Dumper.add_representer(float, _represent_float)


def dump(data: Any) -> str:
    """`data` as YAML that `parse` reads back unchanged; leaves are written on one line where they fit."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=120)

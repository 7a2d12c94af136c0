"""`weft schema`: the JSON Schema from which editors complete and check a recipe or a model."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer


def command(
    what: Annotated[str, typer.Argument(help="recipe (a whole one), model (alone), or study")],
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
) -> None:
    """Print a JSON Schema: weft schema recipe > recipe.schema.json

    In editors with a YAML language server this line at the top of a recipe completes and checks it:

    # yaml-language-server: $schema=recipe.schema.json
    """
    from pathlib import Path

    from weft.config.plugins import load_plugins
    from weft.config.slot import unknown_name
    from weft.errors import WeftError

    schemas = {"recipe": recipe_schema, "model": model_schema, "study": study_schema}
    if what not in schemas:
        raise WeftError(unknown_name("schema", what, schemas))
    load_plugins(plugins or (), Path())
    typer.echo(json.dumps(schemas[what](), ensure_ascii=False, indent=2))


def recipe_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a recipe."""
    from weft.training.recipe import Recipe

    return _schema(Recipe, "a recipe of weft")


def model_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a model's declaration."""
    from weft.config import Slot
    from weft.models.config import ModelConfig

    return _schema(Slot[ModelConfig], "a model of weft")


def study_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a study."""
    from weft.studies.declaration import Study

    return _schema(Study, "a study of weft")


def _schema(declared: Any, title: str) -> dict[str, Any]:
    from pydantic import TypeAdapter

    definitions: dict[str, Any] = {}
    body = _compact(TypeAdapter(declared).json_schema(), definitions)
    definitions |= body.pop("$defs", {})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "title": title, "$defs": definitions}


def _compact(node: Any, definitions: dict[str, Any]) -> Any:
    """The same schema with each part in one place, and without titles that repeat a name ("N Heads")."""
    if isinstance(node, list):
        return [_compact(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties", "$defs"):
            found[key] = {name: _compact(item, definitions) for name, item in value.items()}
        elif key in ("default", "const", "enum", "examples"):
            found[key] = value
        elif key != "title":
            found[key] = _compact(value, definitions)
    if "const" not in node.get("properties", {}).get("kind", {}):
        return found
    name = node["title"].replace(": ", "-")
    definitions[name] = {"title": node["title"], **found}
    return {"$ref": f"#/$defs/{name}"}

"""Ablations: a study whose arms leave out one part each, or bring in one, from the tree of parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from weft.config import Override, Part, load, sections_within
from weft.errors import WeftError
from weft.models.build import blank
from weft.studies.differences import differences
from weft.training.recipe import Recipe, load_recipe, read_recipe

WITHOUT = {"block": "plain"}
"""What a slot without a kind `none` has in its place: blocks without residuals and norms."""


def ablation(source: str, against: str | None = None, add: bool = False) -> tuple[dict[str, Any], list[str]]:
    """A study of a recipe's parts as a file would say it; and what is left out of it, each with its reason.

    Alone: each part that can be absent is left out once. `against` another recipe: each difference between the two is
    taken back once, or with `add` brought into that other recipe once. Every arm differs in exactly one node.
    Raises WeftError when nothing can be left out.
    """
    whole = _recipe(source)
    base, nodes = source, _absences(whole)
    if against is not None:
        other = _recipe(against)
        base, whole = (against, other) if add else (source, whole)
        ours, theirs = (other, _recipe(source)) if add else (whole, other)
        nodes = ((one.path, one.after) for one in differences(ours, theirs) if one.path.split(".")[0] != "train")
    arms: dict[str, Any] = {"whole": {}}
    refused = []
    for path, value in nodes:
        try:
            _check(whole, path, value)
        except WeftError as error:
            refused.append(f"{path}: {' '.join(str(error).splitlines())}")
            continue
        arms[_name(path, value, against, add)] = {path: value}
    if len(arms) == 1:
        raise WeftError(
            f"{source}: no part of it can be left out: {'; '.join(refused) or 'there is none to begin with'}"
        )
    metrics = whole.objective.metrics
    name = metrics[1] if len(metrics) > 1 else metrics[0]
    better = "lower" if name in ("loss", "bits_per_byte") else "higher"
    study = {
        "name": f"{Path(source).stem}-ablation",
        "base": base,
        "arms": arms,
        "baseline": "whole",
        "seeds": 5,
        "equal": ["tokens"],
        "metric": {"name": f"validation/{name}", "better": better},
    }
    return study, refused


def _recipe(source: str) -> Recipe:
    raw, place = read_recipe(source)
    return load_recipe(raw, place)[0]


def _absences(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Each part that its slot can do without, with what stands there then."""
    for path, section in sections_within(recipe):
        if not isinstance(section, Part):
            continue
        nothing = "none" if "none" in type(section).kinds else WITHOUT.get(type(section).slot)
        if nothing is not None and nothing != section.kind:
            yield ".".join(path), nothing


def _check(recipe: Recipe, path: str, value: Any) -> None:
    """Raises WeftError where the recipe with this one change cannot be built, or changes in more than this node."""
    changed = load(Recipe, recipe.model_dump(mode="json"), [Override(tuple(path.split(".")), value)])
    found = [one.path for one in differences(recipe, changed)]
    if found != [path]:
        raise WeftError(f"would change {', '.join(found) or 'nothing'}")
    model = changed.model.with_heads(changed.objective.heads())
    changed.objective.check(model)
    changed.objective.check_inputs(model)
    blank(model.stand_in())


def _name(path: str, value: Any, against: str | None, add: bool) -> str:
    """`without model.decoder.positions`."""
    short = path.removeprefix("model.")
    if against is None:
        return f"without {short}"
    kind = value.get("kind") if isinstance(value, dict) else value
    return f"{'with' if add else 'only'} {short} {kind}"

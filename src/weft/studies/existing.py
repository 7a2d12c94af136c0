"""Comparing runs that exist: those of one recipe are an arm; what such runs cannot tell is said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weft.config import load, semantic
from weft.config.plugins import require
from weft.errors import WeftError
from weft.runs.fingerprints import of_data
from weft.runs.folder import RunFolder
from weft.studies.cells import score
from weft.studies.comparing import compare
from weft.studies.differences import Difference, differences
from weft.studies.scores import CorpusScores
from weft.studies.verdicts import Question
from weft.training.recipe import Recipe

LOWER = ("loss", "bits_per_byte")
"""Of what a validation measures, what is better when it is lower."""


@dataclass(frozen=True)
class _Found:
    """A run that is finished."""

    folder: Path
    recipe: Recipe
    seed: int
    manifest: Mapping[str, Any]


def compare_runs(folders: Sequence[Path], metric: str | None = None, margin: float | None = None) -> list[str]:
    """What these runs tell of each other, the first one's recipe being the baseline; in lines.

    Raises WeftError where they cannot be compared at all.
    """
    runs = [_read(folder) for folder in folders]
    arms: dict[str, list[_Found]] = {}
    for run in runs:
        arms.setdefault(_recipe_address(run), []).append(run)
    if len({run.manifest["data"]["fingerprint"] for run in runs}) > 1:
        raise WeftError("these runs have seen different texts, or other parts of one: their figures do not compare")
    if len(arms) < 2:
        raise WeftError("these runs are of one recipe with several seeds; name runs of another one, too")
    named = {group[0].folder.name: group for group in arms.values()}
    if len(named) < len(arms):
        named = {str(group[0].folder): group for group in arms.values()}
    name = metric or _metric(runs[0].recipe)
    better = "lower" if name.rpartition("/")[2] in (*LOWER, "seconds", "parameters", "flops") else "higher"
    baseline = next(iter(named))
    seeds = tuple(sorted({run.seed for run in runs}))
    twice = [group[0].folder for group in named.values() if len({run.seed for run in group}) < len(group)]
    if twice:
        raise WeftError(f"{twice[0]}: two of these runs are of the same recipe and seed; name one of them")
    values = {arm: {run.seed: score(run.folder, name) for run in group} for arm, group in named.items()}
    unknown = [run.folder for run in runs if not math.isfinite(score(run.folder, name))]
    if unknown:
        raise WeftError(f"{unknown[0]}: its log has no {name}")
    lines = _differing(named, baseline)
    for arm, by_seed in values.items():
        mean = sum(by_seed.values()) / len(by_seed)
        lines.append(f"{arm}: {name} {mean:.4f}, {len(by_seed)} seed{'s' * (len(by_seed) > 1)}")
    rows = [[values[arm].get(seed, math.nan) for seed in seeds] for arm in named]
    paired = all(set(by_seed) == set(seeds) for by_seed in values.values())
    question = Question(name, better, baseline, margin)  # type: ignore[arg-type]  # one of two words
    try:
        found = compare(CorpusScores(tuple(named), seeds, np.array(rows), shared_seeds=paired), question)
        lines += [f"{one.arm} against {baseline}: {one.verdict.words} ({one.method})" for one in found]
    except WeftError as error:
        lines.append(f"untested: {error}")
    return [*lines, "", *_limits(named, paired)]


def _read(folder: Path) -> _Found:
    run = RunFolder.open(folder)
    manifest = run.manifest()
    if manifest.get("status") != "finished":
        raise WeftError(f"{folder}: is not finished; go on with it (weft train {folder})")
    require(manifest.get("plugins", {}), folder)
    return _Found(folder, load(Recipe, run.resolved()), manifest["seed"], manifest)


def _recipe_address(run: _Found) -> str:
    """What makes runs one arm: everything semantic but the seed."""
    told = semantic(run.recipe)
    told["train"].pop("seed")
    return of_data(told)


def _metric(recipe: Recipe) -> str:
    metrics = recipe.objective.metrics
    return f"validation/{metrics[1] if len(metrics) > 1 else metrics[0]}"


def _differing(named: Mapping[str, Sequence[_Found]], baseline: str) -> list[str]:
    """Each arm as what differs from the baseline's recipe."""
    first = named[baseline][0]
    lines = []
    for arm, group in named.items():
        found: list[Difference] = [
            one for one in differences(first.recipe, group[0].recipe) if one.path != "train.seed"
        ]
        lines.append(f"{arm}: {'; '.join(one.words() for one in found) or 'the baseline'}")
    return lines


def _limits(named: Mapping[str, Sequence[_Found]], paired: bool) -> list[str]:
    """What runs that were found, and not planned, cannot support."""
    runs = [run for group in named.values() for run in group]
    said = [
        "Nobody declared the question before these runs were seen: what is chosen after looking is found too often."
    ]
    fewest = min(len(group) for group in named.values())
    if fewest < 2:
        said.append("An arm of one seed tells of that checkpoint, not of its recipe: nothing can be said of recipes.")
    if not paired:
        said.append("The arms have different seeds, so they are compared as independent.")
    for what, values in (
        ("steps", {run.manifest["budget"]["steps"] for run in runs}),
        ("tokens", {run.manifest["budget"]["tokens"] for run in runs}),
        ("parameters", {run.manifest["model"]["parameters"] for run in runs}),
    ):
        if len(values) > 1:
            said.append(f"Not equal: {what} ({', '.join(f'{value:,}' for value in sorted(values))}).")
    for what in ("code", "processor", "threads", "precision"):
        if len({str(run.manifest["environment"].get(what)) for run in runs}) > 1:
            said.append(f"They ran under different {what}; a part of the difference may be that.")
    return said

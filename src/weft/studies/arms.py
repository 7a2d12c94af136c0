"""Arms: from a study's declaration to recipes that are ready to run, every problem said at once."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.config import Override, load
from weft.errors import ConfigError, WeftError
from weft.models.cost import cache_bytes, parameter_count, total, training_flops
from weft.studies.arm import Arm, code_of, with_budget
from weft.studies.declaration import Study
from weft.studies.differences import differences, undeclared
from weft.studies.equality import equalized, unequal
from weft.training.budget import Budget
from weft.training.recipe import Recipe, load_recipe
from weft.training.setup import Prepared, blank_of, prepare_run


@dataclass(frozen=True)
class Arms:
    """All arms of a study, the plugins that they need with their hashes, and what a person should hear."""

    arms: tuple[Arm, ...]
    plugins: Mapping[Path, str]
    notes: tuple[str, ...]

    def __getitem__(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def resolve(study: Study, base: dict[str, Any], folder: Path, console: Console, quick: bool = False) -> Arms:
    """The arms of a study, checked as a whole before anything runs.

    Raises ConfigError with every problem, a line each.
    """
    declared = study.overrides(folder)
    more = dict(study.quick.set) if quick else {}
    plugins, problems = _base(base)
    recipes: dict[str, Recipe] = {}
    wrong: dict[str, list[str]] = {}
    for name, overrides in declared.items():
        try:
            recipes[name] = load(Recipe, base, overrides_of({**study.set, **overrides, **more}))
        except WeftError as error:
            wrong[name] = [line for line in str(error).splitlines() if f"base: {line}" not in problems]
    problems += _of_arms(wrong, len(declared))
    problems += _clashes(study, declared)
    if problems:
        raise ConfigError(problems)
    if quick and not more:
        recipes = {name: shorter(recipe) for name, recipe in recipes.items()}
    found, said = _examined(recipes, {name: {**one, **more} for name, one in declared.items()}, console)
    arms = equalized(study, found)
    # a quick look has too few steps to be equal in all
    checked = (
        study.model_copy(update={"equal": ("parameters",) if "parameters" in study.equal else ()}) if quick else study
    )
    problems = [*_unlogged(study, arms), *unequal(checked, arms), *_twins(arms)]
    if problems:
        raise ConfigError(problems)
    return Arms(tuple(_compared(study, arms)), plugins, tuple(said))


def _of_arms(wrong: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """What is wrong with each of so many arms; what is with all of them, once."""
    alike = [
        line
        for line in next(iter(wrong.values()), ())
        if len(wrong) == count and all(line in lines for lines in wrong.values())
    ]
    each = [f"arms.{name}: {line}" for name, lines in wrong.items() for line in lines if line not in alike]
    return [*(f"every arm: {line}" for line in alike), *each]


def overrides_of(paths: Mapping[str, Any]) -> list[Override]:
    """Paths and values as what a recipe is loaded with."""
    return [Override(tuple(path.split(".")), value) for path, value in paths.items()]


def _base(base: dict[str, Any]) -> tuple[dict[Path, str], list[str]]:
    """Loads the plugins of the base recipe; and what is wrong with it."""
    try:
        return load_recipe(base, Path())[1], []
    except WeftError as error:
        return {}, [f"base: {line}" for line in str(error).splitlines()]


def _clashes(study: Study, declared: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Arms that set what the study sets for all of them."""
    taken = {"train.seed": "its seeds", "plugins": "the base recipe", "train.threads": "the base recipe, or --threads"}
    if set(study.equal) - {"parameters"}:
        taken["train.budget"] = f"equal: {', '.join(study.equal)}"
    if study.adjust:
        taken[study.adjust] = "adjust"
    if study.sweep:
        taken[study.sweep.path] = "its sweep"
    clashes = [
        f"arms.{name}.{path}: is set for all arms alike, by {taken[path]}"
        for name, overrides in declared.items()
        for path in _leaves(overrides)
        if path in taken
    ]
    elsewhere = {path: by for path, by in taken.items() if path != "train.budget"}
    return clashes + [f"set.{path}: is set by {elsewhere[path]}" for path in _leaves(study.set) if path in elsewhere]


def _leaves(value: Any, above: str = "") -> Iterator[str]:
    """The paths of all options below."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{above}.{name}" if above else str(name))
    else:
        yield above


def shorter(recipe: Recipe) -> Recipe:
    """A twentieth of the budget."""
    budget = Budget.read(recipe.train.budget)
    amount = budget.amount / 20
    return with_budget(recipe, f"{amount:.6g} {budget.unit}")


def _examined(
    recipes: Mapping[str, Recipe], declared: Mapping[str, Mapping[str, Any]], console: Console
) -> tuple[list[Arm], list[str]]:
    """Each arm with its data and its size; what was said of the data, once."""
    found, wrong, said = [], dict[str, list[str]](), list[str]()
    for name, recipe in recipes.items():
        heard = io.StringIO()
        try:
            with console.status(f"preparing {name}"):
                found.append(examine(name, declared[name], recipe, Console(file=heard, width=10_000)))
        except WeftError as error:
            wrong[name] = str(error).splitlines()
        said += [line for line in heard.getvalue().splitlines() if line not in said]
    if problems := _of_arms(wrong, len(recipes)):
        raise ConfigError(problems)
    return found, said


def examine(name: str, overrides: Mapping[str, Any], recipe: Recipe, console: Console) -> Arm:
    """An arm with its data, which are prepared, and its size."""
    prepared = prepare_run(recipe, console)
    return _arm(name, overrides, recipe, prepared)


def _arm(name: str, overrides: Mapping[str, Any], recipe: Recipe, prepared: Prepared) -> Arm:
    """The arm's amounts, from shapes alone."""
    bound, train = prepared.recipe, recipe.train
    model, length = blank_of(bound), bound.row_length
    loader = recipe.objective.loader(prepared.data, recipe.data, length, train.batch_tokens, 0)
    flops, tokens = training_flops(model, length), loader.tokens_per_step
    steps = Budget.read(train.budget).steps(tokens, loader.tokens_per_epoch, flops)
    return Arm(
        name, overrides, recipe, bound, prepared.data.fingerprint, parameter_count(model), flops, tokens, steps,
        prepared.environment, code_of(bound), cache_bytes(total(model, length), "fp32"),
        prepared.data.report["train"]["bytes"], prepared.donor,
    )  # fmt: skip


def _unlogged(study: Study, arms: list[Arm]) -> list[str]:
    """A metric that an arm's run does not write down."""
    split, _, name = study.metric.name.partition("/")
    if split == "cost":
        return []
    found = {}
    for arm in arms:
        known = arm.recipe.objective.metrics if split == "validation" else ("loss",)
        if name not in known:
            listed = ", ".join(f"{split}/{one}" for one in known)
            found[arm.recipe.objective.kind] = (
                f"metric.name = {study.metric.name!r}: the objective {arm.recipe.objective.kind} does not log it; it"
                f" logs {listed}"
            )
    return list(found.values())


def _twins(arms: list[Arm]) -> list[str]:
    """Arms that are the same recipe."""
    found = []
    for number, arm in enumerate(arms):
        for other in arms[:number]:
            if not differences(other.recipe, arm.recipe):
                found.append(f"arms.{arm.name}: is the same recipe as arms.{other.name}; what is compared?")
    return found


def _compared(study: Study, arms: list[Arm]) -> list[Arm]:
    """Each arm with what differs from the one that it is compared with, and what of that it does not declare."""
    first = next(arm for arm in arms if arm.name == study.compared_with)
    common = ["train.budget", *([study.adjust] if study.adjust else [])]
    found = []
    for number, arm in enumerate(arms):
        other = arms[max(0, number - 1)] if study.question.ladder else first
        differing = differences(other.recipe, arm.recipe)
        found.append(replace(arm, differences=differing, undeclared=undeclared(differing, [*arm.overrides, *common])))
    return found

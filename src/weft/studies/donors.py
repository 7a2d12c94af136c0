"""Donors: models that a study trains once, before its arms, which copy from `donors.NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.config import load
from weft.device import available_cores
from weft.errors import ConfigError, WeftError
from weft.hub.names import trained_folder
from weft.studies.arm import Arm, with_budget
from weft.studies.arms import Arms, examine, overrides_of, shorter
from weft.studies.cells import State, cell_of, reason_of, run_cell, state_of
from weft.studies.declaration import Study
from weft.studies.differences import Difference
from weft.studies.running import Runner
from weft.training.progress import say
from weft.training.recipe import Recipe, load_recipe

PLACE = "donors."
SEED = 2_000_000
"""The seed of donors, which no cell of a study or of its sweep has."""

Made = Mapping[str, Path] | None
"""The folder of each donor's model; None when somebody asked to stop."""
Maker = Callable[[Study, dict[str, Any], bool, Console], Made]
"""From a study, its base recipe and whether it is the quick look, to its donors."""


def trained(runner: Runner) -> Maker:
    """Donors that are trained to the end, each once: cells like those of arms."""

    def make(study: Study, base: dict[str, Any], quick: bool, console: Console) -> Made:
        arms = _arms(study, base, quick, console)
        cells = {name: cell_of(arm, SEED, available_cores()) for name, arm in arms.items()}
        if not cells:
            return {}
        say(console, f"{study.name}: models to copy from: {', '.join(cells)}")
        if not runner.carry_out(list(cells.values()), f"validation/{_metric(next(iter(arms.values())))}"):
            return None
        return {name: _model(name, runner.store / cell.name) for name, cell in cells.items()}

    return make


def stand_ins(store: Path) -> Maker:
    """Donors of one step, which serve to see what fits: for a plan."""

    def make(study: Study, base: dict[str, Any], quick: bool, console: Console) -> Made:
        places = {}
        for name, arm in _arms(study, base, quick, console).items():
            recipe, bound = (with_budget(one, "1 steps") for one in (arm.recipe, arm.bound))
            cell = cell_of(replace(arm, recipe=recipe, bound=bound), SEED, available_cores())
            places[name] = _model(name, run_cell(cell, store, Console(quiet=True)))
        return places

    return make


def _arms(study: Study, base: dict[str, Any], quick: bool, console: Console) -> dict[str, Arm]:
    """Each donor's recipe, checked. Raises ConfigError with every problem, a line each."""
    found, problems = {}, []
    if study.donors:
        load_recipe(base, Path())  # its plugins
    for name, overrides in study.donors.items():
        more = dict(study.quick.set) if quick else {}
        try:
            recipe = load(Recipe, base, overrides_of({**overrides, **more}))
            if quick and not more:
                recipe = shorter(recipe)
            with console.status(f"preparing {name}"):
                found[name] = examine(name, overrides, recipe, Console(quiet=True))
        except WeftError as error:
            problems += [f"donors.{name}: {line}" for line in str(error).splitlines()]
    if problems:
        raise ConfigError(problems)
    return found


def _metric(arm: Arm) -> str:
    metrics = arm.recipe.objective.metrics
    return metrics[1] if len(metrics) > 1 else metrics[0]


def _model(name: str, folder: Path) -> Path:
    state = state_of(folder)
    if state is not State.finished:
        reason = reason_of(folder) if state is State.failed else f"is {state}"
        raise WeftError(f"donors.{name}: {reason} ({folder})")
    return trained_folder(folder)


def donated(
    study: Study, base: dict[str, Any], folder: Path, places: Mapping[str, Path]
) -> tuple[Study, dict[str, Any]]:
    """The study and its base with the donors' folders in place of `donors.NAME`, wherever their options say that.

    Raises ConfigError where there is no such donor, or a file of an arm cannot be read.
    """
    arms = {} if study.grid else study.overrides(folder)
    options = {"arms": arms, "grid": study.grid, "set": study.set, "quick": study.quick.set, "base": base}
    problems: list[str] = []
    filled = {name: _filled(value, places, name, problems) for name, value in options.items()}
    if problems:
        raise ConfigError(problems)
    quick = study.quick.model_copy(update={"set": filled.pop("quick")})
    whole = filled.pop("base")
    return study.model_copy(update={**filled, "quick": quick}), whole


def told(arms: Arms, places: Mapping[str, Path]) -> Arms:
    """The arms with what differs between them said by the donors' names, wherever these lie."""
    names = {str(place): f"{PLACE}{name}" for name, place in places.items()}

    def renamed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: renamed(item) for key, item in value.items()}
        return names.get(value, value) if isinstance(value, str) else value

    def of(found: tuple[Difference, ...]) -> tuple[Difference, ...]:
        return tuple(Difference(one.path, renamed(one.before), renamed(one.after)) for one in found)

    changed = [replace(arm, differences=of(arm.differences), undeclared=of(arm.undeclared)) for arm in arms.arms]
    return replace(arms, arms=tuple(changed))


def _filled(value: Any, places: Mapping[str, Path], path: str, problems: list[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _filled(item, places, f"{path}.{key}", problems) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_filled(item, places, path, problems) for item in value)
    if not isinstance(value, str) or not value.startswith(PLACE):
        return value
    name, slash, rest = value.removeprefix(PLACE).partition("/")
    if name not in places:
        there = f"there are {', '.join(places)}" if places else "the study declares none"
        problems.append(f"{path} = {value!r}: there is no donor called {name!r}; {there}")
        return value
    return f"{places[name]}{slash}{rest}"

"""From what a person names to studies that are checked: a file, a bundled one's name, or the mapping itself.

A study with `settings` is several studies that ask the same in several circumstances; each is one of its own.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.config import Override, apply, load, unknown_name, yaml
from weft.config.bundled import Shelf
from weft.errors import ConfigError, WeftError
from weft.runs import fingerprints
from weft.studies.declaration import Study
from weft.training.recipe import read_recipe

STUDIES = Shelf("weft.studies", "bundled")
MERGED = ("set", "metric", "quick")
"""What a setting adds to; all else that it names is in place of the study's."""
WHOLE = ("name", "settings")
"""What a study with settings is asked for itself."""


@dataclass(frozen=True)
class Declared:
    """A study that was read: the declaration, its base recipe as written, and what its files are relative to."""

    study: Study
    base: dict[str, Any]
    folder: Path
    setting: str | None = None
    """which of the settings it is"""
    series: str = ""
    """what the study with settings is called"""
    claim: str | None = None
    """of the study with settings"""

    def written(self) -> dict[str, Any]:
        """The declaration as a file without other files would say it."""
        asked = self.study.model_dump(mode="json", exclude_unset=True)
        arms = {} if self.study.grid else {"arms": self.study.overrides(self.folder)}
        return {**asked, "base": self.base, **arms}


def bundled() -> dict[str, str]:
    """The bundled studies: name and first comment line."""
    return STUDIES.listed()


def read_raw(source: str | Path) -> tuple[dict[str, Any], Path]:
    """A declaration as written, and the folder that its files are relative to.

    Raises WeftError when there is none.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return dict(yaml.read(path)), path.parent
    if str(source) in STUDIES.names():
        return STUDIES.read(str(source)), Path()
    raise WeftError(f"{unknown_name('study', str(source), bundled())}; or name a .yaml file")


def command(source: object, changes: Sequence[str] = (), settings: Sequence[str] = (), quick: bool = False) -> str:
    """What runs a study, or goes on with it."""
    named = "{...}" if isinstance(source, dict) else str(source)
    chosen = [word for name in settings for word in ("--setting", name)]
    return shlex.join(["weft", "study", "run", named, *changes, *chosen, *["--quick"] * quick])


def is_timing(raw: Mapping[str, Any]) -> bool:
    """Whether a declaration as written is that of a study of time, which trains nothing."""
    return "times" in raw


def read_studies(
    source: str | Path | dict[str, Any], quick: bool = False, changes: Sequence[str] = (), settings: Sequence[str] = ()
) -> list[Declared]:
    """The checked study, or each of its settings as a study; of a quick look those that it names.

    `changes`: path=value, options of the study or of every arm's recipe; `settings`: which of them, all unless given.
    Raises ConfigError with every problem, a line each.
    """
    raw, folder = (dict(source), Path()) if isinstance(source, dict) else read_raw(source)
    if is_timing(raw):
        named = "{...}" if isinstance(source, dict) else str(source)
        raise WeftError(f"{named}: is a study of time and trains nothing: it can be run (weft study run), and is quick")
    changed = Changes.read(changes)
    raw = changed.named(raw)
    known = raw.get("settings") or {}
    if strange := [unknown_name("setting", name, known) for name in settings if name not in known]:
        raise ConfigError(strange)
    if not known:
        return [_declared(changed.within(raw), folder)]
    whole = load(Study, changed.within(raw))  # what is wrong with it is said once
    found, problems = [], whole.problems() if whole.arms or whole.grid else []
    for name in settings or (whole.quick.settings if quick else ()) or known:
        try:
            one = _declared(changed.within(_within(raw, name)), folder)
            found.append(Declared(one.study, one.base, one.folder, name, str(raw["name"]), whole.claim))
        except WeftError as error:
            problems += [f"settings.{name}: {line}" for line in str(error).splitlines() if line not in problems]
    if problems:
        raise ConfigError(problems)
    return found


@dataclass(frozen=True)
class Changes:
    """What a person changes in a study as it is run: its own options, and those of every arm's recipe."""

    own: tuple[Override, ...]
    recipe: Mapping[str, Any]

    @classmethod
    def read(cls, texts: Sequence[str]) -> Changes:
        """`seeds=3` is an option of the study, `data.source=notes.txt` one of every recipe.

        Raises WeftError for what is not path=value.
        """
        read = [Override.read(text) for text in texts]
        own = tuple(one for one in read if one.path[0] in Study.model_fields)
        return cls(own, {".".join(one.path): one.value for one in read if one not in own})

    def named(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The declaration with its name and settings: other recipes make another study, called so unless it is named.

        Raises ConfigError for an override that cannot be applied.
        """
        if self.recipe:
            raw = {**raw, "name": f"{raw.get('name')}-{fingerprints.of_data(self.recipe)[:6]}"}
        return _applied(raw, [one for one in self.own if one.path[0] in WHOLE])

    def within(self, raw: dict[str, Any]) -> dict[str, Any]:
        """The declaration of a study, or of one of its settings, with all else; arms alone have the last word.

        Raises ConfigError for an override that cannot be applied.
        """
        tree = _applied(raw, [one for one in self.own if one.path[0] not in WHOLE])
        if not self.recipe:
            return tree
        quick = tree.get("quick") or {}
        again = {path: value for path, value in self.recipe.items() if path in (quick.get("set") or {})}
        changed = {"set": {**(tree.get("set") or {}), **self.recipe}}
        return {**tree, **changed, **({"quick": {**quick, "set": {**quick["set"], **again}}} if again else {})}


def renamed(read: Declared, changes: Sequence[str]) -> str:
    """What a person should hear of a name that was made up; empty where none was."""
    changed = Changes.read(changes)
    if not changed.recipe or any(one.path == ("name",) for one in changed.own):
        return ""
    recipe = ", ".join(f"{path} = {value}" for path, value in changed.recipe.items())
    return f"{read.series or read.study.name}: another study, with {recipe} (name=NAME calls it otherwise)"


def _applied(raw: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    if not overrides:
        return raw
    tree, problems = apply(Study, raw, overrides)
    if problems:
        raise ConfigError(problems)
    return dict(tree)


def _within(raw: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The study in one of its settings."""
    setting = raw["settings"][name] or {}
    merged = {key: {**raw.get(key, {}), **setting[key]} for key in MERGED if isinstance(setting.get(key), dict)}
    whole = {key: value for key, value in raw.items() if key != "settings"}
    if "arms" in setting:
        whole.pop("grid", None)
    if "grid" in setting:
        whole.pop("arms", None)
    return {**whole, **setting, **merged, "name": f"{raw['name']}-{name}"}


def _declared(raw: dict[str, Any], folder: Path) -> Declared:
    study = load(Study, raw)
    if problems := study.problems():
        raise ConfigError(problems)
    if isinstance(study.base, dict):
        return Declared(study, study.base, folder)
    try:
        near = folder / study.base
        base, place = read_recipe(near if near.is_file() else study.base)
    except WeftError as error:
        raise WeftError(f"base: {error}") from None
    plugins = base.get("plugins")
    if isinstance(plugins, list):  # they are named relative to the recipe's file
        base = {**base, "plugins": [str((place / str(name)).resolve()) for name in plugins]}
    return Declared(study, base, folder)

"""Recipe: model, data, objective, optimizer, schedule, budget and seed; becomes a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, field_validator

from weft.config import EXECUTION, Override, Section, Slot, load, unknown_name, yaml
from weft.config.bundled import Shelf
from weft.config.plugins import load_plugins
from weft.config.slot import did_you_mean
from weft.data.config import DataConfig
from weft.errors import WeftError
from weft.models.config import ModelConfig
from weft.objectives import Causal, Objective
from weft.training.averages import Average, NoAverage
from weft.training.budget import Budget
from weft.training.optimizers import AdamW, Optimizer
from weft.training.schedules import Schedule, WarmupStableDecay
from weft.transfer import Transfer

PLAIN = "should be a folder's name: no path, nothing of :*?\"<>|, no dot or dash in front"


def is_plain(name: str) -> bool:
    """Whether a folder can have this name on every system."""
    long = len(name.encode(errors="replace")) > 200
    forbidden = any(character in '/\\:*?"<>|' or not character.isprintable() for character in name)
    return bool(name) and name == name.strip(" ") and name[0] not in ".-" and not long and not forbidden


def _plain(name: str) -> str:
    if not is_plain(name):
        raise ValueError(PLAIN)
    return name


FolderName = Annotated[str, AfterValidator(_plain)]
"""What a run's or a study's folder may be called."""


class Train(Section):
    """How long, in what portions, and how it is watched."""

    budget: str = "450 steps"
    """how long: an amount of steps, tokens, epochs, flops or minutes"""
    batch_tokens: PositiveInt = 2048
    """tokens a step"""
    length: PositiveInt | None = None
    """tokens of a training row; model.max_length, on which validation looks, unless given"""
    clip: PositiveFloat | None = 1.0
    """longest gradient (its norm over all parameters); longer ones are shortened"""
    average: Slot[Average] = NoAverage()
    """which weights are measured, sampled from and kept: those of the last step, or an average over steps"""
    seed: int = Field(0, ge=0)
    """what all random streams derive from"""
    evaluate_every: PositiveInt | None = None
    """steps between two validations; a tenth of the budget unless given"""
    evaluate_tokens: PositiveInt = 16_384
    """validation tokens that each of these looks at, always the same ones; the last validation sees all"""
    sample_tokens: Annotated[int, EXECUTION] = Field(96, ge=0)
    """length of the sample that is written at each validation"""
    sample_prompt: Annotated[str, EXECUTION] = ""
    """what the samples go on from"""
    log_every: Annotated[PositiveInt | None, EXECUTION] = None
    """steps between two lines of the log; a hundredth of the budget unless given"""
    checkpoint_every: Annotated[PositiveInt | None, EXECUTION] = None
    """steps between two checkpoints; as evaluate_every unless given"""
    keep_checkpoints: Annotated[PositiveInt, EXECUTION] = 2
    """newest checkpoints that are kept beside the best one"""
    micro_batch: Annotated[PositiveInt | None, EXECUTION] = None
    """rows that are computed at a time; all of a step's unless given"""
    device: Annotated[str, EXECUTION] = "auto"
    """cpu, cuda, cuda:1, mps, or auto"""
    precision: Annotated[Literal["auto", "fp32", "bf16"], EXECUTION] = "auto"
    """what activations are computed in; parameters and optimizer state are fp32"""
    threads: Annotated[PositiveInt | None, EXECUTION] = None
    """CPU threads; physical cores unless given"""

    @field_validator("budget")
    @classmethod
    def _readable(cls, text: str) -> str:
        Budget.read(text)
        return text


class Recipe(Section):
    """Everything that one run is."""

    name: Annotated[FolderName, EXECUTION] = "run"
    """what the run folder is called"""
    plugins: tuple[str, ...] = ()
    """Python files with parts of your own, relative to the recipe"""
    model: Slot[ModelConfig]
    """which parts, how large"""
    data: DataConfig = DataConfig()
    """what is read, and how it is cut into batches"""
    objective: Slot[Objective] = Causal()
    """what is learned"""
    optimizer: Slot[Optimizer] = AdamW()
    """how a step follows from a gradient"""
    schedule: Slot[Schedule] = WarmupStableDecay()
    """the learning rate over the run"""
    transfer: Transfer | None = None
    """what is copied from another model, and what is frozen; nothing unless given"""
    train: Train = Train()
    """how long, in what portions, and how it is watched"""

    @property
    def row_length(self) -> int:
        """Tokens of a training row."""
        return self.train.length or self.model.max_length


RECIPES = Shelf("weft.training", "recipes")


def recipes() -> dict[str, str]:
    """The bundled recipes: name and first comment line."""
    return RECIPES.listed()


def read_recipe(source: str | Path) -> tuple[dict[str, Any], Path]:
    """A recipe as written, and the folder that its plugins are relative to: a file, or the name of a bundled one.

    Raises WeftError when there is none.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return yaml.read(path), path.parent
    if str(source) in RECIPES.names():
        return RECIPES.read(str(source)), Path()
    beside = sorted(str(path.parent) for path in path.parent.glob("*/manifest.json")) if path.parent.is_dir() else []
    if len(path.parts) > 1 and beside:
        raise WeftError(f"{path}: there is no such run{did_you_mean(str(path), beside)} (there: {', '.join(beside)})")
    raise WeftError(f"{unknown_name('recipe', str(source), recipes())}; or name a .yaml file or a run folder")


def load_recipe(
    raw: dict[str, Any], base: Path, overrides: Sequence[str] = (), notes: list[str] | None = None
) -> tuple[Recipe, dict[Path, str]]:
    """The checked recipe, and the plugins that it loaded with their hashes.

    Plugins that the recipe names lie relative to `base`, those that an override names to the current folder.

    Raises ConfigError with every problem, a line each.
    """
    names, folder = raw.get("plugins") or (), base
    for text in overrides:
        if text.partition("=")[0].strip() == "plugins":  # before all others: they may name what a plugin registers
            names, folder = Override.read(text).value or (), Path()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise WeftError(f"plugins = {names!r}: should be a list of Python files")
    loaded = load_plugins(names, folder)
    return load(Recipe, raw, overrides, notes), loaded

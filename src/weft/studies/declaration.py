"""Study: a base recipe, arms that override it, seeds, what is held equal, and the question, declared before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, PositiveFloat, PositiveInt, WithJsonSchema, field_validator

from weft.config import Section, yaml
from weft.errors import ConfigError, WeftError
from weft.studies.laws import Amount
from weft.studies.planning import Noise
from weft.studies.verdicts import Question
from weft.training.recipe import FolderName

Equal = Literal["steps", "tokens", "flops", "parameters", "seconds"]
ONE_OR_SEVERAL = {
    "anyOf": [{"enum": list(get_args(Equal))}, {"type": "array", "items": {"enum": list(get_args(Equal))}}]
}
PREVIOUS = "previous"
"""In place of a baseline: each arm is compared with the one before it."""
COSTS = ("seconds", "tokens_per_second", "parameters", "flops", "peak_memory")
"""What a cell cost, as a metric: `cost/seconds`."""
BY_THE_CLOCK = ("seconds", "tokens_per_second", "peak_memory")
"""Of these, what other work on the machine would change."""


class Metric(Section):
    """What decides, and in which direction."""

    name: str
    """SPLIT/NAME as the log has it, such as validation/bits_per_byte; or cost/NAME"""
    better: Literal["lower", "higher"]
    """which direction is an improvement"""
    margin: PositiveFloat | None = None
    """differences smaller than this do not matter"""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """how often a difference may be claimed where there is none"""

    @field_validator("name")
    @classmethod
    def _split_and_name(cls, name: str) -> str:
        split, slash, value = name.partition("/")
        if not slash or split not in ("validation", "train", "cost") or not value:
            raise ValueError("should be validation/NAME, train/NAME or cost/NAME, such as validation/bits_per_byte")
        if split == "cost" and value not in COSTS:
            raise ValueError(f"of costs there are: {', '.join(f'cost/{cost}' for cost in COSTS)}")
        return name

    @property
    def by_the_clock(self) -> bool:
        """Whether other work on the machine would change it, so that its cells run alone."""
        split, _, value = self.name.partition("/")
        return split == "cost" and value in BY_THE_CLOCK


class Quick(Section):
    """A quick look: the same arms, smaller."""

    seeds: int = Field(2, ge=2)
    """how many seeds"""
    set: dict[str, Any] = {}
    """path: value, for every arm; a twentieth of the budget unless given"""
    settings: tuple[str, ...] = ()
    """which of the settings; all unless given"""


class Sweep(Section):
    """Every arm gets the value of one option that suits it best, found with seeds of its own."""

    values: tuple[Any, ...] = Field(min_length=2)
    """what is tried"""
    path: str = "optimizer.learning_rate"
    """the option"""
    arms: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = {}
    """what is tried of some arms instead"""
    seeds: PositiveInt = 1
    """seeds for each value; they are others than those of the study"""

    def tried(self, arm: str) -> tuple[Any, ...]:
        """The values that an arm tries."""
        return self.arms.get(arm, self.values)


class ExpectedNoise(Section):
    """The noise to plan with: an arm's standard deviation over seeds, and how much two arms correlate."""

    sd: PositiveFloat
    """of the metric, over seeds"""
    correlation: float = Field(0.0, ge=-1, lt=1)
    """of two arms that share their seeds"""

    def noise(self) -> Noise:
        """That of a difference."""
        return Noise.of_arms(self.sd, self.correlation)


class Study(Section):
    """Everything that one study is."""

    name: FolderName
    """what its folder is called"""
    claim: str | None = None
    """what is taught, or expected; the report holds the verdict against it"""
    base: str | dict[str, Any]
    """a recipe: a file, a bundled one's name, or the recipe itself"""
    arms: dict[str, dict[str, Any] | str | None] = {}
    """name: what it overrides (path: value), or a file that says so"""
    grid: dict[str, tuple[Any, ...]] = {}
    """path: values; one arm for each combination, in place of `arms`"""
    set: dict[str, Any] = {}
    """path: value, for every arm, whose own come after"""
    settings: dict[str, dict[str, Any] | None] = {}
    """name: what is otherwise there (any of these, `set` beside it); the same question in several circumstances"""
    donors: dict[str, dict[str, Any]] = {}
    """name: what it overrides of the base recipe; trained once, before the arms, which name its folder `donors.NAME`"""
    baseline: str | None = None
    """the arm that others are compared with, the first unless given; `previous`: each with the one before it"""
    seeds: int | tuple[int, ...] = 5
    """how many (0, 1, 2, ...), or which"""
    equal: Annotated[tuple[Equal, ...], WithJsonSchema(ONE_OR_SEVERAL)] = ("tokens",)
    """what all arms have alike: steps, tokens, flops, parameters, seconds"""
    adjust: str | None = None
    """path of a width that is changed until parameters or FLOPs are equal within 1 %"""
    metric: Metric
    """what decides"""
    law: Amount | None = None
    """what the metric is fitted to, as a power law over the arms: parameters, tokens, flops, or text (its bytes)"""
    sweep: Sweep | None = None
    """each arm's own learning rate"""
    noise: ExpectedNoise | None = None
    """for the plan: the noise that is expected"""
    quick: Quick = Quick()
    """what --quick changes"""

    @field_validator("equal", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("seeds")
    @classmethod
    def _several(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        seeds = range(value) if isinstance(value, int) else value
        if len(seeds) < 2:
            raise ValueError("one seed says nothing about how much seeds differ: at least 2, better 5")
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("should be different numbers from 0 on")
        return value

    def problems(self) -> list[str]:
        """What is wrong with it as a whole, a line each."""
        found = []
        if bool(self.arms) == bool(self.grid):
            return ["arms: needs arms, or a grid; one of the two"]
        names = self.arm_names
        if len(set(names)) < len(names):
            found.append("grid: two arms are the same combination of values")
        for name in self.quick.settings:
            if self.settings and name not in self.settings:
                found.append(f"quick.settings: {name!r} is not among the settings {', '.join(self.settings)}")
        if PREVIOUS in names:
            found.append(f"arms.{PREVIOUS}: is what `baseline` calls the arm before; give it another name")
        if len(names) < 2:
            found.append(f"arms: {', '.join(names) or 'none'} is the only one: what is it compared with?")
        if self.baseline not in (None, PREVIOUS, *names):
            found.append(f"baseline = {self.baseline!r}: is not among the arms {', '.join(names)}")
        if self.adjust and not {"parameters", "flops"} & set(self.equal):
            found.append(f"adjust = {self.adjust!r}: needs equal: parameters (or flops), to be adjusted to")
        strange = [name for name in (self.sweep.arms if self.sweep else ()) if name not in names]
        found += [f"sweep.arms.{name}: is not among the arms {', '.join(names)}" for name in strange]
        if self.sweep and not self.metric.name.startswith("validation/"):
            found.append(f"sweep: chooses on the validation text, where {self.metric.name} is not measured")
        return found

    @property
    def arm_names(self) -> tuple[str, ...]:
        """The arms in order."""
        return tuple(self.arms) or tuple(_name(point) for point in self._points() if point)

    @property
    def compared_with(self) -> str:
        """The baseline's name."""
        return self.arm_names[0] if self.baseline in (None, PREVIOUS) else str(self.baseline)

    @property
    def seed_list(self) -> tuple[int, ...]:
        """The seeds, in order."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def question(self) -> Question:
        """What is declared before the run."""
        metric = self.metric
        ladder = self.baseline == PREVIOUS
        return Question(metric.name, metric.better, self.compared_with, metric.margin, metric.alpha, ladder)

    @property
    def alone(self) -> bool:
        """Whether cells run one at a time, because time is what is measured or held equal."""
        return self.metric.by_the_clock or "seconds" in self.equal

    def overrides(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Each arm's path: value; files lie relative to `folder`.

        Raises ConfigError with every file that cannot be read.
        """
        if self.grid:
            return {_name(point): dict(point) for point in self._points()}
        found, problems = {}, []
        for name, arm in self.arms.items():
            try:
                found[name] = yaml.read(folder / arm) if isinstance(arm, str) else dict(arm or {})
            except WeftError as error:
                problems.append(f"arms.{name}: {error}")
        if problems:
            raise ConfigError(problems)
        return found

    def quicker(self) -> Study:
        """The quick look at it, a study of its own."""
        return self.model_copy(update={"name": f"{self.name}-quick", "seeds": self.quick.seeds, "sweep": None})

    def _points(self) -> list[tuple[tuple[str, Any], ...]]:
        """The grid's combinations, the last path running fastest."""
        return [tuple(zip(self.grid, values, strict=True)) for values in product(*self.grid.values())]


def _name(point: tuple[tuple[str, Any], ...]) -> str:
    """`positions=rotary d_model=64`."""
    return " ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in point)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        options = [f"{key}:{_short(item)}" for key, item in value.items() if key != "kind"]
        return ",".join([*([str(value["kind"])] if "kind" in value else []), *options])
    return str(value)

"""One arm of a study, resolved: its recipe, what it costs before it runs, how it differs from the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from weft.config import Override, load, sections_within
from weft.models.cost import cache_bytes, parameter_count, total, training_flops
from weft.runs import fingerprints
from weft.studies.differences import Difference
from weft.training.recipe import Recipe
from weft.training.setup import blank_of

DRAWING = ("weft.report", "weft.training.report")
"""Code that shows results and changes none."""


@dataclass(frozen=True)
class Arm:
    """One arm, resolved. `recipe` has no data bound and seed 0; `bound` has what the data gave it."""

    name: str
    overrides: Mapping[str, Any]
    recipe: Recipe
    bound: Recipe
    data: str
    """fingerprint of its data"""
    parameters: int
    flops_per_token: int
    tokens_per_step: int
    steps: int | None
    """None where a budget in minutes is timed when it runs"""
    environment: Mapping[str, Any]
    code: str
    """fingerprint of the code that its run uses"""
    cache_bytes: int
    """that a cache keeps for each token, in fp32"""
    text_bytes: int
    """of the training text"""
    donor: str | None = None
    """content address of the model that it copies from"""
    adjusted: Difference | None = None
    swept: tuple[str, Any, bool] | None = None
    """the path that was swept, the value chosen, and whether it was the first or last of those tried"""
    differences: tuple[Difference, ...] = ()
    """from the baseline"""
    undeclared: tuple[Difference, ...] = ()

    def amount(self, quantity: str) -> float | None:
        """How many steps, tokens, FLOPs, parameters it has; None where that is not known before it runs."""
        if quantity == "parameters":
            return self.parameters
        if self.steps is None:
            return None
        tokens = self.steps * self.tokens_per_step
        return {"steps": self.steps, "tokens": tokens, "flops": tokens * self.flops_per_token}[quantity]


def with_budget(recipe: Recipe, budget: str) -> Recipe:
    """The recipe with another budget."""
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"budget": budget})})


def code_of(recipe: Recipe) -> str:
    """Which code a run of this recipe uses: that of the run, and of the parts which the recipe names."""
    return fingerprints.of_modules([*sorted(_modules(recipe)), "weft.training.run"], without=DRAWING)


def _modules(recipe: Recipe) -> set[str]:
    """Where the parts that it names are declared."""
    return {type(section).__module__ for _, section in sections_within(recipe)}


def with_option(arm: Arm, path: str, value: Any) -> Arm:
    """The arm with another value at a path of its recipe, and the size that follows.

    Raises WeftError where that is no recipe, or builds no model.
    """
    override = [Override(tuple(path.split(".")), value)]
    recipe, bound = (load(Recipe, one.model_dump(mode="json"), override) for one in (arm.recipe, arm.bound))
    model, length = blank_of(bound), bound.row_length
    code = arm.code if _modules(bound) == _modules(arm.bound) else code_of(bound)
    return replace(
        arm, recipe=recipe, bound=bound, code=code, parameters=parameter_count(model),
        flops_per_token=training_flops(model, length), cache_bytes=cache_bytes(total(model, length), "fp32"),
    )  # fmt: skip

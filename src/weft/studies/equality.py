"""What a study holds equal: budgets set to the baseline's, widths adjusted until sizes are alike, or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from weft.errors import ConfigError, WeftError
from weft.studies.arm import Arm, with_budget, with_option
from weft.studies.declaration import Study
from weft.studies.differences import Difference
from weft.training.budget import Budget
from weft.training.recipe import Recipe

TOLERANCE = 0.01
"""Amounts that differ by no more than this share count as equal."""


def equalized(study: Study, arms: list[Arm]) -> list[Arm]:
    """The arms with widths adjusted and budgets made equal to the baseline's.

    Raises ConfigError where that cannot be.
    """
    first = next(arm for arm in arms if arm.name == study.compared_with)
    if study.adjust is not None:
        arms = _adjusted(study, study.adjust, first, arms)
    budget = _budget(study, first)
    return arms if budget is None else [_rebudgeted(arm, budget) for arm in arms]


def _rebudgeted(arm: Arm, text: str) -> Arm:
    recipe, budget = with_budget(arm.recipe, text), Budget.read(text)
    bound = with_budget(arm.bound, text)
    return replace(arm, recipe=recipe, bound=bound, steps=budget.steps(arm.tokens_per_step, 1, arm.flops_per_token))


def _budget(study: Study, first: Arm) -> str | None:
    """The budget of all arms, from the baseline's; None where each keeps its own."""
    text, equal = first.recipe.train.budget, study.equal
    minutes = Budget.read(text).unit == "minutes"
    if "seconds" in equal:
        if not minutes:
            raise ConfigError([f"equal = seconds: the budget is {text}; give train.budget in minutes"])
        return text
    chosen = next((unit for unit in ("steps", "tokens", "flops") if unit in equal), None)
    if chosen is None:
        return None
    if minutes:
        raise ConfigError(
            [f"equal = {chosen}: train.budget = {text} is a number of steps that every machine times anew; give steps"]
        )
    amount = first.amount(chosen)
    assert amount is not None, "all budgets but minutes are a number of steps"
    return f"{amount:.0f} {chosen}"


def _adjusted(study: Study, path: str, first: Arm, arms: list[Arm]) -> list[Arm]:
    """Each arm but the baseline with the width at `path` that comes nearest to the baseline's size."""
    by_size = "parameters" in study.equal
    what = "parameters" if by_size else "FLOPs a token"
    target = first.parameters if by_size else first.flops_per_token
    found, problems = [], []
    for arm in arms:
        amount = arm.parameters if by_size else arm.flops_per_token
        if arm.name == first.name or abs(amount - target) <= TOLERANCE * target:
            found.append(arm)
            continue
        try:
            value = _value_at(arm.recipe, path)
            changed = _nearest(arm, path, value, target, by_size)
        except WeftError as error:
            problems += [f"adjust: arms.{arm.name}: {line}" for line in str(error).splitlines()]
            continue
        reached = changed.parameters if by_size else changed.flops_per_token
        if abs(reached - target) > TOLERANCE * target:
            problems.append(
                f"adjust = {path!r}: arms.{arm.name} comes nearest to the {target:,} {what} of {first.name} with"
                f" {_value_at(changed.recipe, path)}, which gives {reached:,} ({_off(reached, target)}); at most 1 % is"
                " equal"
            )
        found.append(replace(changed, adjusted=Difference(path, value, _value_at(changed.recipe, path))))
    if problems:
        raise ConfigError(problems)
    return found


def _value_at(recipe: Recipe, path: str) -> int | None:
    """The whole number at a path of a recipe; None where it is derived.

    Raises WeftError when there is no width.
    """
    value: Any = recipe
    for name in path.split("."):
        if isinstance(value, tuple | list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif hasattr(type(value), "model_fields") and name in type(value).model_fields:
            value = getattr(value, name)
        else:
            raise WeftError(f"{path}: this arm has no such option")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise WeftError(f"{path} = {value!r}: is no width; a whole number can be adjusted")
    return value


def _nearest(arm: Arm, path: str, start: int | None, target: int, by_size: bool) -> Arm:
    """The arm with the value at `path` whose size comes nearest to the target."""
    tried: dict[int, Arm | None] = {}

    def size(value: int) -> int | None:
        if value not in tried:
            tried[value] = _with_width(arm, path, value)
        found = tried[value]
        return None if found is None else found.parameters if by_size else found.flops_per_token

    search(size, target, start or 64)
    known = [found for found in tried.values() if found is not None]
    if not known:
        raise WeftError(f"{path}: no value of it builds a model")
    return min(known, key=lambda found: abs((found.parameters if by_size else found.flops_per_token) - target))


def search(size: Callable[[int], int | None], target: int, start: int, most: int = 1 << 17) -> None:
    """Ask for sizes of whole numbers, which grow with them, until none nearer to the target is left.

    A number that does not build (None) is passed over, upwards.
    """

    def first(low: int, high: int) -> tuple[int, int] | None:
        return next(((value, found) for value in range(low, high) if (found := size(value)) is not None), None)

    low, high = 1, max(2, start)
    while high < most and ((found := first(high, min(2 * high, high + 1024))) is None or found[1] < target):
        low, high = high, 2 * high
    high = min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        found = first(middle, high)
        if found is not None and found[1] < target:
            low = found[0]
        else:
            high = middle
    first(low, low + 1)


def _with_width(arm: Arm, path: str, value: int) -> Arm | None:
    """The arm with another width; None where that builds no model."""
    try:
        return with_option(arm, path, value)
    except WeftError:
        return None


def _off(amount: float, target: float) -> str:
    share = amount / target - 1
    return f"{abs(share):.1%} {'more' if share > 0 else 'less'}".replace("%", " %")


def unequal(study: Study, arms: list[Arm]) -> list[str]:
    """Arms that are not alike in what the study holds equal."""
    first = next(arm for arm in arms if arm.name == study.compared_with)
    found = []
    for quantity in study.equal:
        target = None if quantity == "seconds" else first.amount(quantity)
        for arm in arms:
            amount = None if target is None else arm.amount(quantity)
            if amount is None or target is None or abs(amount - target) <= TOLERANCE * target:
                continue
            hint = (
                "name a width to `adjust`, such as model.d_model"
                if quantity == "parameters" or len(study.equal) > 1
                else "a longer budget comes nearer"
            )
            found.append(
                f"equal = {quantity}: arms.{arm.name} has {amount:,.0f}, {first.name} {target:,.0f}"
                f" ({_off(amount, target)}; at most 1 % is equal): {hint}"
            )
    return found

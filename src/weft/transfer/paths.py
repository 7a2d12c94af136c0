"""A model's parameters by path: which a pattern fits, and what is near to one that fits none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

from weft.config.slot import did_you_mean


@dataclass(frozen=True)
class Fit:
    """How a pattern fits a parameter: what each `*` stands for, and what lies below the module that the rest names."""

    stars: tuple[str, ...]
    below: str | None

    def fill(self, pattern: str) -> str:
        """The path that another pattern means, its `*` standing for the same."""
        stars = iter(self.stars)
        path = re.sub(r"\*", lambda _: next(stars), pattern)
        return path if self.below is None else f"{path}.{self.below}"


class Parameters:
    """A model's parameters by every path that leads to them; one in several places is named by the first of them."""

    def __init__(self, model: nn.Module) -> None:
        self.by_path = dict(model.named_parameters(remove_duplicate=False))
        first: dict[int, str] = {}
        for path, parameter in self.by_path.items():
            first.setdefault(id(parameter), path)
        self.name_of = {path: first[id(parameter)] for path, parameter in self.by_path.items()}
        """a parameter's name by each of its paths"""
        self.modules = [path for path, _ in model.named_modules(remove_duplicate=False) if path]

    def named(self) -> dict[str, nn.Parameter]:
        """Each parameter once, by its name."""
        return {path: parameter for path, parameter in self.by_path.items() if self.name_of[path] == path}

    def fitting(self, pattern: str) -> dict[str, Fit]:
        """The parameters whose own path, or that of a module around them, the pattern is; `*` stands for any text."""
        expression = _expression(pattern)
        found = {path: expression.fullmatch(path) for path in self.by_path}
        return {path: Fit(fit.groups()[:-1], fit["below"]) for path, fit in found.items() if fit}

    def modules_fitting(self, pattern: str) -> set[str]:
        """The modules that the pattern names, with those inside them."""
        expression = _expression(pattern)
        return {path for path in self.modules if expression.fullmatch(path)}

    def missing(self, pattern: str) -> str:
        """What to say of a pattern that fits no parameter."""
        if self.modules_fitting(pattern):
            return "has no parameters"
        paths = [*self.modules, *self.by_path]
        starred = [re.sub(r"\.\d+(?=\.|$)", ".*", path) for path in paths]
        near = did_you_mean(pattern, dict.fromkeys([*paths, *starred, *(f"{path}.*" for path in self.modules)]))
        tops = dict.fromkeys(path.partition(".")[0] for path in self.by_path)
        return f"fits no parameter{near or '; paths begin with ' + ', '.join(tops)}"


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile("(.*)".join(map(re.escape, pattern.split("*"))) + r"(?:\.(?P<below>.+))?")

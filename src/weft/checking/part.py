"""Whether one part has every property: models with it, the smallest in which one does not hold, and what to change."""

from __future__ import annotations

import itertools
import json
import random
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from weft.checking.advice import advice
from weft.checking.cases import INHERIT, Case, Place, applies, hosts, model_of, places, plain_case, smallest
from weft.checking.compare import PropertyError, SilentError
from weft.checking.compiling import compiles
from weft.checking.options import alive
from weft.checking.properties import PROPERTIES, Property
from weft.checking.values import is_choice, levels_of, options_of, required_of
from weft.config import Part
from weft.errors import WeftError

Effort = Literal["quick", "normal", "thorough"]
ROUNDS = 2
"""How often each kind of every other slot is tried beside the part, each time in other company."""

Tick = Callable[[int, int, str], None]
"""Told how many of how many steps are done, and of which property."""


@dataclass(frozen=True)
class Finding:
    """Whether a property holds in the models that were tried."""

    name: str
    says: str
    tried: int
    failed: int = 0
    message: str = ""
    """What was seen in the smallest model in which it does not hold."""
    example: tuple[tuple[str, Any], ...] = ()
    """That model: what differs from the default one, by path."""
    advice: str = ""
    rests_on: str = ""
    """The property without which this one was not looked at."""

    @property
    def holds(self) -> bool:
        """Whether it was looked at, and held everywhere."""
        return not self.failed and not self.rests_on


@dataclass(frozen=True)
class Report:
    """All that was found of one part."""

    slot: str
    kind: str
    findings: tuple[Finding, ...]
    models: int
    refused: dict[str, int]
    """Why combinations were refused, and how many for this reason."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every property held."""
        return all(finding.holds for finding in self.findings)


def check_part(part: type[Part], effort: Effort = "normal", tick: Tick | None = None) -> Report:
    """Every property of a part, in models where it stands in each of its places, with each of its options; beside each
    kind of every other slot unless the effort is `quick`, and each of its options so where it is `thorough`.

    Raises WeftError where a part cannot be tried at all.
    """
    return _Checker(part, effort, tick or (lambda done, total, name: None)).report()


class _Checker:
    def __init__(self, part: type[Part], effort: Effort, tick: Tick) -> None:
        self.part, self.effort, self.tick = part, effort, tick
        self.where, self.homes, self.own = _surroundings(part)
        self.refused: Counter[str] = Counter()
        self.crashed: list[tuple[Case, str]] = []
        self.plainest = self.hosted({**plain_case(self.where), self.homes[0]: self.own[0]}, self.homes[0])

    def report(self) -> Report:
        started = time.monotonic()
        cases = [case for case in self.cases() if self.stands(case)]
        if not cases and not self.crashed:
            raise WeftError(f"{self.part.slot}: {self.part.kind} is refused everywhere: {next(iter(self.refused), '')}")
        findings = [self.found("builds", "It can be built and run.", len(cases), self.crashed, self.crash_of)]
        failed: dict[str, str] = {}
        for number, (name, holds) in enumerate(PROPERTIES.items()):
            self.tick(number, len(PROPERTIES) + 2, name)
            first = next((failed[other] for other in holds.rests_on if other in failed), "")
            if not cases or first:
                findings.append(Finding(name, holds.says, 0, rests_on=first or "builds"))
                failed[name] = first or "builds"
                continue
            findings.append(self.looked_at(name, holds, cases))
            if findings[-1].failed:
                failed[name] = name
        if cases:
            self.tick(len(PROPERTIES), len(PROPERTIES) + 2, "options_alive")
            findings.append(self.options(cases))
        if cases and self.effort != "quick":
            findings.append(self.compiled(cases[0]))
        taken = time.monotonic() - started
        return Report(self.part.slot, self.part.kind, tuple(findings), len(cases), dict(self.refused), taken)

    # --- cases ---

    def cases(self) -> Iterator[Case]:
        """Those that are tried: alone, and in as much company as the effort allows."""
        yield from self.alone()
        if self.effort != "quick":
            yield from self.company(max(ROUNDS, len(self.own) if self.effort == "thorough" else 0))

    def alone(self) -> Iterator[Case]:
        """The part with each of its levels, in its other places and in models of other stacks, all else the default."""
        plain, first = plain_case(self.where), self.homes[0]
        for level in self.own:
            yield self.hosted({**plain, first: level}, first)
        for home in self.homes[1:]:
            yield self.hosted({**plain, home: self.own[0]}, home)
        for stacks in self.where["stacks"].levels:
            if stacks != plain["stacks"]:
                yield self.hosted({**plain, first: self.own[0], "stacks": stacks}, first)

    def company(self, turns: int) -> Iterator[Case]:
        """The part beside every level of all other places, so many times, each time in another order."""
        plain, home, order = plain_case(self.where), self.homes[0], random.Random(0)
        others = {path: list(place.levels) for path, place in self.where.items() if path not in self.homes}
        rounds, thorough = max(map(len, others.values())), self.effort == "thorough"
        for turn in range(turns):
            for levels in others.values():
                order.shuffle(levels)
            for number in range(rounds):
                case = {path: levels[number % len(levels)] for path, levels in others.items()}
                case |= {path: plain[path] for path in self.homes}
                case[home] = self.own[(turn if thorough else turn * rounds + number) % len(self.own)]
                yield self.accepted(self.hosted(case, home), plain)

    def hosted(self, case: Case, home: str) -> Case:
        """The case with the nearest kinds above `home` that have such a place, and nothing that overrides them."""
        case = dict(case)
        above = home
        while "." in above:
            above = above.rpartition(".")[0]
            if above in self.where and not hosts(self.where[above], case[above], home, above):
                case[above] = next(
                    level for level in self.where[above].levels if hosts(self.where[above], level, home, above)
                )
        if not applies(home, case, self.where):
            case |= {path: INHERIT for path, place in self.where.items() if INHERIT in place.levels and path != home}
        return case

    def accepted(self, case: Case, plain: Case) -> Case:
        """The case, or one with a few other parts taken back to the default where together they are refused."""
        for path in [path for path in case if path not in self.homes and case[path] != plain[path]]:
            if self.outcome(case) is None:
                break
            simpler = self.hosted({**case, path: plain[path]}, self.homes[0])
            reason = self.outcome(case) or ""
            if self.outcome(simpler) != reason:  # what was taken back was a reason
                self.refused[reason] += 1
                case = simpler
        return case

    def outcome(self, case: Case) -> str | None:
        """Why the case is refused or crashes, or None."""
        try:
            model_of(case, self.where)
        except WeftError as error:
            return str(error)
        except Exception as error:
            return _told(error)
        return None

    def stands(self, case: Case) -> bool:
        """Whether the model can be built; what cannot is counted."""
        try:
            model_of(case, self.where)
        except WeftError as error:
            self.refused[str(error)] += 1
            return False
        except Exception as error:
            self.crashed.append((case, _told(error)))
            return False
        return True

    # --- findings ---

    def broken(self, case: Case, holds: Callable[[Any], None]) -> str | None:
        """What is seen where the property does not hold in the case; None where it does, or where it is refused."""
        try:
            holds(model_of(case, self.where))
        except SilentError as error:
            return str(error) if case == self.plainest else None
        except PropertyError as error:
            return str(error)
        except WeftError:
            return None
        except Exception as error:
            return _told(error)
        return None

    def looked_at(self, name: str, holds: Property, cases: list[Case]) -> Finding:
        """The finding on one property; what does not hold without the part either is not the part's fault."""
        plain = plain_case(self.where)

        def message_of(case: Case) -> str | None:
            message = self.broken(case, holds) if self.has(case) else None
            without = {**case, **{home: plain[home] for home in self.homes}}
            return message if message is not None and self.broken(without, holds) is None else None

        broken = [(case, message) for case in cases if (message := message_of(case)) is not None]
        return self.found(name, holds.says, len(cases), broken, message_of)

    def crash_of(self, case: Case) -> str | None:
        """How building the case crashes, if it does."""
        return self.broken(case, lambda model: None) if self.has(case) else None

    def found(
        self, name: str, says: str, tried: int, broken: list[tuple[Case, str]], again: Callable[[Case], str | None]
    ) -> Finding:
        """The finding, with the smallest case."""
        finding = Finding(name, says, tried)
        if not broken:
            return finding
        case = smallest(broken[0][0], self.where, lambda case: again(case) is not None)
        plain = plain_case(self.where)
        example = tuple(
            (path, _short(case[path]))
            for path in case
            if (case[path] != plain[path] or (path in self.homes and _kind(case[path]) == self.part.kind))
            and applies(path, case, self.where)
        )
        told = advice(name, self.part.slot)
        return replace(finding, failed=len(broken), message=again(case) or broken[0][1], example=example, advice=told)

    def options(self, cases: list[Case]) -> Finding:
        """Whether each option changes something in some case; those that do not in these are tried in company."""
        says = "Every option changes something."
        names = [name for name in options_of(self.part) if is_choice(self.part, name)]
        dead, refused = [], self.refused.copy()
        for name in names:
            more = (case for case in self.company(1) if self.outcome(case) is None) if self.effort == "quick" else ()
            try:
                tried = (case for case in itertools.chain(cases, more) if self.has(case))
                if not any(alive(model_of(case, self.where), self.part, name) for case in tried):
                    dead.append(name)
            except Exception as error:
                dead.append(f"{name} ({_told(error)})")
        self.refused = refused  # what was tried for the options alone is not told
        finding = Finding("options_alive", says, len(names))
        if not dead:
            return finding
        message = f"{', '.join(dead)}: no value makes a difference in any model"
        return replace(finding, failed=len(dead), message=message, advice=advice("options_alive", self.part.slot))

    def has(self, case: Case) -> bool:
        """Whether the part itself (not its options) is what the case was made for."""
        return any(_kind(case[home]) == self.part.kind and applies(home, case, self.where) for home in self.homes)

    def compiled(self, case: Case) -> Finding:
        """Whether torch.compile can follow the plainest case."""
        self.tick(len(PROPERTIES) + 1, len(PROPERTIES) + 2, "compiles")
        says = "torch.compile follows it, in no more pieces than without it."
        without = self.hosted(plain_case(self.where), self.homes[0])

        def again(case: Case) -> str | None:
            return self.broken(case, lambda model: compiles(model, model_of(without, self.where)))

        message = again(case)
        broken = [(case, message)] if message else []
        return self.found("compiles", says, 1, broken, lambda other: message if other == case else None)


def _surroundings(part: type[Part]) -> tuple[dict[str, Place], list[str], list[str]]:
    """All places by kinds alone; those where the part may stand, outermost first; and its own levels."""
    where = places(variants=False)
    homes = [path for path, place in where.items() if place.base.slot == part.slot]
    if part.slot == "head":
        homes = [f"heads.{part.kind}"]
    if not homes:
        raise WeftError(
            f"{part.slot}: {part.kind} is no part of a model (those have the slots"
            f" {', '.join(sorted({place.base.slot for place in where.values() if place.base.slot != 'model'}))})"
        )
    homes.sort(key=lambda path: (INHERIT in where[path].levels, path.count(".")))
    plain = json.dumps({"kind": part.kind, **required_of(part)})
    kinds = levels_of(where[homes[0]].base)
    own = list(dict.fromkeys([plain, *(json.dumps(level) for level in kinds if level["kind"] == part.kind)]))
    for home in homes:
        levels = (*where[home].levels, *(level for level in own if level not in where[home].levels))
        where[home] = replace(where[home], levels=levels)
    return where, homes, own


def _kind(level: str) -> str | None:
    """The kind that a level names."""
    said = json.loads(level)
    return None if not isinstance(said, dict) else said["kind"]


def _short(level: str) -> Any:
    """A level as a person writes it: the kind alone where nothing else is said."""
    said = json.loads(level)
    return said["kind"] if isinstance(said, dict) and set(said) == {"kind"} else said


def _told(error: Exception) -> str:
    """What an exception says, and where it was raised: the last line that is the author's own."""
    frames = traceback.extract_tb(error.__traceback__)
    plugins = {
        getattr(module, "__file__", None) for name, module in sys.modules.items() if name.startswith("weft_plugin_")
    }
    mine = next((frame for frame in reversed(frames) if frame.filename in plugins), frames[-1])
    text = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {text} ({Path(mine.filename).name}:{mine.lineno}, in {mine.name})"

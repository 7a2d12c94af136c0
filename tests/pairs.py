"""Combinations of parts: cases in which every two levels of different places meet."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from collections.abc import Iterator, Mapping

from weft.checking.cases import (
    CROSS,
    INHERIT,
    Case,
    Place,
    applies,
    hosts,
    overridden,
    places,
    refusal,
)
from weft.config import Section

TRIED = {
    ("DotProduct", "n_kv_heads"): 2,
    ("Rotary", "theta"): 0,
    ("Rotary", "scaling"): 0,
    ("Sinusoidal", "theta"): 0,
    ("Learned", "offset"): 0,
    ("T5", "num_buckets"): 0,
    ("T5", "max_distance"): 0,
    **dict.fromkeys((("Window", "size"), ("Dilated", "size"), ("Dilated", "dilation"), ("InBlocks", "size")), 0),
    **dict.fromkeys((("Strided", "stride"), ("Global", "tokens"), ("AnyOf", "of"), ("AllOf", "of")), 0),
}
"""How many levels beside the default's an option has in pairs, if not one. None where it changes a figure in a
formula, and whatever goes with the default goes with it (of a slot, its kinds are tried): those are in test_reference,
and each is shown to be alive."""

ALONE = {"dropout", "epsilon", "stochastic_depth"}
"""So it is with options of these names, whoever has them: properties are those of evaluation."""

Pair = tuple[tuple[str, str], tuple[str, str]]


def everything() -> bool:
    """Whether the long tests are asked for: make test-all."""
    return os.environ.get("WEFT_TEST_ALL", "0") not in ("", "0")


def tried(section: type[Section], name: str) -> int:
    """TRIED of the section, or of what it has the option from."""
    if name in ALONE:
        return 0
    return next((TRIED[above.__name__, name] for above in section.__mro__ if (above.__name__, name) in TRIED), 1)


PLACES = places(count=tried)


def by_lot(where: Mapping[str, Place], count: int) -> Iterator[Case]:
    """`count` cases that are not refused, every level by lot: of the whole product, which nobody can compute."""
    lot = random.Random(1)
    while count:
        case = {path: lot.choice(place.levels) for path, place in where.items()}
        if refusal(case, where) is None:
            count -= 1
            yield case


def pairwise(where: Mapping[str, Place]) -> tuple[list[Case], dict[Pair, str]]:
    """Cases in which every two levels of different places meet; and the pairs that are refused, with the reason.

    A choice that overrides another meets what it overrides: what goes with that one goes with it.
    """
    order = random.Random(0)
    overriding = {path: overridden(path, where) for path, place in where.items() if INHERIT in place.levels}
    missing = {
        pair
        for (a, first), (b, second) in itertools.combinations(sorted(where.items()), 2)
        if b in (overriding.get(a) or [b]) and a in (overriding.get(b) or [a])
        for pair in itertools.product(((a, level) for level in first.levels), ((b, level) for level in second.levels))
    }
    cases, refused, accepted, tries = [], dict[Pair, str](), set[tuple[str, str]](), Counter[tuple[str, str]]()
    while missing:
        pair = min(missing)  # not pop(): the same cases in every process
        hopeless = next((item for item in pair if tries[item] >= 40 and item not in accepted), None)
        if hopeless is not None:  # refused whatever stands beside it
            refused[pair] = next(reason for other, reason in refused.items() if hopeless in other)
            missing.discard(pair)
            continue
        for wanted in (missing, *[set[Pair]()] * 20):  # the fullest case; should it be refused, twenty random ones
            found = [_complete(dict(pair), where, wanted, order) for _ in range(8 if wanted else 1)]
            case = max(filter(None, found), key=lambda case: len(met(case, where) & missing), default=None)
            if case is None:  # the two exclude one another
                break
            reason = refusal(case, where)
            if reason is None:
                cases.append(case)
                accepted |= {item for pair in met(case, where) for item in pair}
                missing -= met(case, where)
                refused.pop(pair, None)
                break
            tries.update(pair)
            refused[pair] = reason
        missing.discard(pair)
    return cases, refused


def met(case: Mapping[str, str], where: Mapping[str, Place]) -> set[Pair]:
    """The pairs of levels that are at work together in this case."""
    alive = {path for path in case if applies(path, case, where)}
    # what is overridden below is at work together with what overrides it only
    overriding = {path for path in alive if INHERIT in where[path].levels and case[path] != INHERIT}
    hidden = {path: above for path in overriding for above in overridden(path, where)}
    pairs = itertools.combinations(sorted((path, case[path]) for path in alive), 2)
    return {
        (a, b) for a, b in pairs
        if (a[0] not in hidden.values() or hidden.get(b[0]) == a[0])
        and (b[0] not in hidden.values() or hidden.get(a[0]) == b[0])
    }  # fmt: skip


def _complete(fixed: Case, where: Mapping[str, Place], wanted: set[Pair], order: random.Random) -> Case | None:
    """The fixed levels and, elsewhere, those that meet most wanted pairs; None where the fixed ones exclude another."""
    case = dict(fixed)
    rest = [path for path in where if path not in case]
    needed = {*fixed, *(path for path in where for below in fixed if below.startswith(f"{path}."))}
    order.shuffle(rest)
    for path in sorted(rest, key=lambda path: path.count(".")):
        levels = list(where[path].levels)
        if path == "stacks" and any(CROSS in other for other in fixed):
            levels = ['"both"']
        if INHERIT in levels and set(overridden(path, where)) & needed:
            levels = [INHERIT]
        order.shuffle(levels)
        below = [other for other in fixed if other.startswith(f"{path}.")]
        levels = [level for level in levels if all(hosts(where[path], level, other, path) for other in below)]
        if not levels:
            return None
        gains = {
            level: sum(tuple(sorted([(path, level), item])) in wanted for item in case.items()) for level in levels
        }
        case[path] = max(levels, key=gains.__getitem__)
    return case if all(applies(path, case, where) for path in fixed) else None

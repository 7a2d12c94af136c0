"""A study's charts: differences against the zero line, curves with bands, quality against cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from weft.report.formats import count, duration, significant, size
from weft.report.intervals import Effect, IntervalChart
from weft.report.scales import Point
from weft.report.scatter import ScatterChart, Spot
from weft.report.svg import PALETTE, Chart, Series
from weft.studies.laws import LACKS, power
from weft.studies.sentences import (
    DECIDED,
    FEW,
    Results,
    against,
    called,
    confidence,
    costs,
    difference,
    ends,
    listed,
    metric_of,
    metric_words,
    pareto,
    row_name,
    short_verdict,
)
from weft.training.record import Curve, Run, curve_of

MOST_PLACES, MOST_OF_ONE = 100, 50
"""Of a curve that is drawn as a mean of runs, and of each of the runs behind it."""
MOST_LINES = 7
"""Arms in one picture; more are drawn in a picture each, beside the baseline."""
FEWEST_LATER = 4
"""Places that a curve must have after its first steps before these are cut off."""
CURVES = ("bits_per_byte", "accuracy", "loss")
"""What stands for quality over time where the metric itself is not measured on validation text."""


@dataclass(frozen=True)
class Told:
    """A study's results and the logs of its finished cells; one colour an arm for all pictures of a page.

    `order`: the arms in the order of their colours, where a page shows other studies too.
    """

    results: Results
    store: Path
    order: tuple[str, ...] = ()
    _read: dict[str, list[Run]] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        return str(self.results["question"]["baseline"])

    @property
    def lower(self) -> bool:
        return bool(self.results["question"]["metric"]["better"] == "lower")

    @cached_property
    def others(self) -> list[str]:
        return [name for name in self.results["arms"] if name != self.baseline]

    def color(self, arm: str) -> str:
        """The baseline is grey."""
        return "muted" if arm == self.baseline else PALETTE[self._place(arm) % len(PALETTE)]

    def again(self, arm: str) -> bool:
        """Whether another arm has its colour."""
        return arm != self.baseline and self._place(arm) >= len(PALETTE)

    def _place(self, arm: str) -> int:
        return (self.order or self.others).index(arm)

    def runs(self, arm: str) -> list[Run]:
        """The arm's finished cells, by seed."""
        if arm not in self._read:
            cells = [one for one in self.results["cells"] if one["arm"] == arm and one["state"] == "finished"]
            places = [self.store / Path(one["folder"]).name for one in sorted(cells, key=lambda one: int(one["seed"]))]
            self._read[arm] = [Run.read(place) for place in places if place.is_dir()]
        return self._read[arm]

    @cached_property
    def x_name(self) -> str:
        """Steps; tokens where arms differ in the tokens of a step."""
        sizes = [
            line.tokens / line.step
            for arm in self.results["arms"]
            for run in self.runs(arm)[:1]
            for line in run.log.of("train")[-1:]
            if line.step and math.isfinite(line.tokens)
        ]
        return "tokens" if sizes and max(sizes) > 1.01 * min(sizes) else "steps"


def between(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student's interval of the mean; None of fewer than two."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    middle = float(np.mean(values))
    return middle - half, middle + half


# differences


def intervals(told: Told) -> IntervalChart | None:
    """Each arm's difference from the baseline; None where nothing could be compared."""
    results = told.results
    if not results["comparisons"]:
        return None
    effects = []
    for one in results["comparisons"]:
        pairs = zip(*(results["arms"][name]["scores"] for name in (one["arm"], one["baseline"])), strict=True)
        known = one["effect"] is not None and one["interval"]["low"] is not None
        within = one["on_this_test_set"]
        effects.append(
            Effect(
                row_name(one, results), told.color(one["arm"]), one["effect"],
                (one["interval"]["low"], one["interval"]["high"]) if known else None,
                short_verdict(one, results), ends(one) if known else "",
                (within["low"], within["high"]) if within and within["low"] is not None else None,
                [value - other for value, other in pairs if value is not None and other is not None],
            )
        )  # fmt: skip
    base = against(results)
    axis = f"difference from {base}, {metric_of(results)}"
    metric = results["question"]["metric"]
    return IntervalChart(_stands(told), effects, axis, base, metric["better"], metric["margin"])


def _stands(told: Told) -> str:
    """What the intervals show, as a title."""
    kinds = {called(one["arm"]): one["verdict"]["kind"] for one in told.results["comparisons"]}
    base = against(told.results)
    decided = {kind: [arm for arm, found in kinds.items() if found == kind] for kind in DECIDED}
    if len(kinds) == 1:
        arm, kind = next(iter(kinds.items()))
        return {
            "better": f"{arm}'s whole interval lies on the better side of {base}",
            "worse": f"{arm}'s whole interval lies on the worse side of {base}",
            "equivalent": f"{arm} differs from {base} by less than matters",
            "undecided": f"{arm}'s interval does not tell it from {base}",
        }.get(kind, f"{arm} could not be tested")
    words = {
        "better": f"better than {base}", "worse": f"worse than {base}",
        "equivalent": f"equivalent to {base}",
    }  # fmt: skip
    parts = [f"{len(arms)} {words[kind]}" for kind, arms in decided.items() if arms]
    if not parts:
        return f"No interval tells an arm from {base}"
    text = parts[0].split(" ", 1)[0] + f" of {len(kinds)} arms {'is' if parts[0].startswith('1 ') else 'are'} "
    return text + parts[0].split(" ", 1)[1] + "".join(f", {part}" for part in parts[1:])


def interval_note(told: Told, chart: IntervalChart) -> str:
    """How to read the picture of intervals."""
    results = told.results
    notes = [f"Lines: {confidence(results)} intervals of the difference; small dots: the difference at each seed."]
    if any(one.inner for one in chart.effects):
        notes.append("Thick: on this test set, seeds alone being random; thin: on data like these, examples too.")
    if chart.margin:
        notes.append(f"Light band: differences below {chart.margin:g}, which do not matter.")
    if chart.reach()[1]:
        notes.append("An arrow: the interval goes on beyond the picture.")
    if any(
        one["verdict"]["kind"] == "undecided" and "Holm" in one["verdict"]["words"] for one in results["comparisons"]
    ):
        notes.append("An interval that leaves zero out alone may still be undecided among several comparisons.")
    return " ".join(notes)


# curves


def _points(run: Run, curve: Curve, x_name: str) -> dict[float, float]:
    if x_name == "steps":
        return {x: y for x, y in curve.points if math.isfinite(y)}
    at = {line.step: line.tokens for line in run.log.lines}
    return {at[int(x)]: y for x, y in curve.points if math.isfinite(y) and math.isfinite(at[int(x)])}


def mean_line(told: Told, arm: str, pick: Callable[[Run], Curve]) -> Series | None:
    """The mean of an arm's runs wherever all of them were measured, its band, and the runs."""
    runs = [found for run in told.runs(arm) if (found := _points(run, pick(run), told.x_name))]
    shared = sorted(set.intersection(*map(set, runs))) if runs else []
    if not shared:
        return None
    every = math.ceil(len(shared) / MOST_PLACES)
    places = sorted({*shared[::every], shared[-1]})
    columns = [[run[x] for run in runs] for x in places]
    means = [(x, sum(values) / len(values)) for x, values in zip(places, columns, strict=True)]
    level = 1 - told.results["question"]["metric"]["alpha"]
    ends = [(x, between(values, level)) for x, values in zip(places, columns, strict=True)]
    band = [(x, *found) for x, found in ends if found]
    few = sorted({*places[:: math.ceil(len(places) / MOST_OF_ONE)], places[-1]})
    single: list[list[Point]] = [[(x, run[x]) for x in few] for run in runs] if len(runs) > 1 else []
    return Series(arm, means, told.color(arm), "dashed" if told.again(arm) else "line", "", band, single)


def validation(told: Told) -> list[Chart]:
    """The metric on validation text as training went on; one picture, or one an arm where they are many."""
    split, _, asked = str(told.results["question"]["metric"]["name"]).partition("/")
    logged = {
        name for arm in told.results["arms"] for run in told.runs(arm) for line in run.log.repeated()
        for name in line.values
    }  # fmt: skip
    name = next((name for name in ((asked,) if split == "validation" else CURVES) if name in logged), None)
    if name is None:
        return []
    concluded = any(run.log.concluding() for arm in told.results["arms"] for run in told.runs(arm))
    later = " Measured during training as each run repeated it; scores are of the last, whole measurement." * concluded
    words = metric_words(f"validation/{name}")
    lower = told.lower if name == asked else name != "accuracy"
    return _charts(told, lambda run: _curve(run, name), words, lower, later)


def _curve(run: Run, name: str) -> Curve:
    return curve_of(run.log.repeated(), name)


def training(told: Told) -> list[Chart]:
    """The training loss; running medians where the log is long."""
    return _charts(
        told, lambda run: run.log.curve("train", "loss").smooth(), "training loss, nats", True,
        " Running medians of the log's lines where it has many.",
    )  # fmt: skip


def _charts(told: Told, pick: Callable[[Run], Curve], words: str, lower: bool, more: str) -> list[Chart]:
    found = [mean_line(told, arm, pick) for arm in (*told.others, told.baseline)]
    lines = [line for line in found if line and len(line.points) > 1]
    if not lines:
        return []
    ceiling = _ceiling(lines) if lower else None
    notes = _notes(told, lines, ceiling) + more
    title = _ends_best(lines, words, lower)
    note = f"{words}; {'lower' if lower else 'higher'} is better"
    if len(lines) <= MOST_LINES:
        return [Chart(title, lines, told.x_name, words, note, notes, ceiling=ceiling)]
    base = next((line for line in lines if line.name == told.baseline), None)
    levels = [y for line in lines for run in (line.points, *line.runs) for _, y in run]
    top = min(max(levels), ceiling) if ceiling is not None else max(levels)
    arms = [replace(line, short="this arm", style="line") for line in lines if line is not base]
    pairs = [[line, base] if base else [line] for line in arms]
    charts = [
        Chart(f"{pair[0].name} and {told.baseline}", pair, told.x_name, words, y_range=(min(levels), top), ceiling=top)
        for pair in pairs
    ]
    return [Chart(title, [], told.x_name, words, f"{note}; each arm beside {told.baseline}", notes), *charts]


def _ends_best(lines: Sequence[Series], words: str, lower: bool) -> str:
    """Which mean ends best, which is next, and whether their bands keep them apart there."""
    first, *rest = sorted(lines, key=lambda line: line.points[-1][1] * (1 if lower else -1))
    how = "lowest" if lower else "highest"
    title = f"{called(first.name)} ends {how}: {significant(first.points[-1][1])} {words}"
    if not rest:
        return title
    title += f", {called(rest[0].name)} follows at {significant(rest[0].points[-1][1])}"
    bands = [line.band[-1] for line in (first, rest[0]) if line.band]
    apart = len(bands) < 2 or max(low for _, low, _ in bands) > min(high for *_, high in bands)
    return title if apart else f"{title}; their bands overlap"


def _ceiling(lines: Sequence[Series]) -> float | None:
    """Where to cut the first steps off, which would flatten all that follows."""
    start = 0.15 * max(line.points[-1][0] for line in lines)
    points = [point for line in lines for run in (line.points, *line.runs) for point in run]
    later = [y for x, y in points if x >= start]
    if any(sum(x >= start for x, _ in line.points) < FEWEST_LATER for line in lines):
        return None
    return max(later) if later and max(y for _, y in points) > max(later) else None


def _notes(told: Told, lines: Sequence[Series], ceiling: float | None) -> str:
    counts = sorted({len(line.runs) or 1 for line in lines})
    seeds = " or ".join(map(str, counts))
    notes = f"Lines: means over {seeds} seed{'s' * (counts[-1] > 1)}; faint: single runs."
    if any(line.band for line in lines):
        notes += (
            f" Bands: {confidence(told.results)} intervals of each mean (Student's t). Arms share seeds, so bands that"
            " overlap may still differ: the differences above decide."
        )
    levels = [y for line in lines for run in (line.points, *line.runs) for _, y in run]
    wide = any(low < min(levels) or high > max(levels) for line in lines for _, low, high in line.band)
    notes += " Bands are cut at the frame." * wide
    return notes + " The first steps lie above the frame." * (ceiling is not None)


# cost


def cost(told: Told, quantity: str, clock: bool = False) -> ScatterChart | None:
    """Quality against what it took; None where all arms took the same, or quality is a cost itself."""
    results = told.results
    known = costs(results, quantity, clock)
    spent = [amount for _, _, amount in known]
    if len(known) < 2 or max(spent) <= 1.01 * min(spent) or str(results["question"]["metric"]["name"])[:5] == "cost/":
        return None
    front = pareto(results, quantity, clock)
    words, show = COSTS[quantity]
    named = [called(name) for name, _, _ in known if name in front]
    beat = listed(named, "or") if len(named) <= FEW else f"any of {len(named)} arms"
    title = f"No arm beats {beat} in both quality and {words.partition(',')[0]}"
    stair = sorted((amount, mean) for name, mean, amount in known if name in front)
    return ScatterChart(title, _spots(told, known), words, metric_of(results), stair, show, significant)


def law_line(told: Told) -> ScatterChart | None:
    """The power law through the arms, on logarithmic axes; None where none was fitted."""
    found = told.results.get("law")
    if not found or "exponent" not in found:
        return None
    results, amount = told.results, "text_bytes" if found["amount"] == "text" else str(found["amount"])
    known = costs(results, amount)
    reach = [size_of for _, _, size_of in known]
    first, last = ((x, found["constant"] * x ** found["exponent"]) for x in (min(reach), max(reach)))
    words, show = COSTS[amount]
    how = "falls" if found["exponent"] < 0 else "grows"
    exponent = power(found["exponent"], found["low"], found["high"]).replace("-", "−")
    title = f"{metric_of(results)} {how} as {words} to the power {exponent}"
    if found.get("p_fit", 1) <= LACKS:
        title = f"{metric_of(results)} follows no power law of {words}; the nearest has the exponent {exponent}"
    return ScatterChart(title, _spots(told, known), words, metric_of(results), (), show, significant, (first, last))


def _spots(told: Told, known: list[tuple[str, float, float]]) -> list[Spot]:
    level = 1 - told.results["question"]["metric"]["alpha"]
    return [
        Spot(name, told.color(name), amount, mean, between(_scores(told.results, name), level), told.again(name))
        for name, mean, amount in known
    ]


COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "flops": ("training FLOPs", significant),
    "parameters": ("parameters", count),
    "cache_bytes": ("bytes of cache a token", size),
    "tokens": ("training tokens", count),
    "text_bytes": ("bytes of training text", size),
    "seconds": ("seconds a cell, by the clock", duration),
}
"""Each cost's or size's name, and how its amounts are written."""


def _scores(results: Results, arm: str) -> list[float]:
    return [value for value in results["arms"][arm]["scores"] if value is not None]


def effect_rows(told: Told) -> dict[str, tuple[str, str]]:
    """Each compared arm's difference and interval, as text."""
    return {
        one["arm"]: (difference(one), ends(one))
        for one in told.results["comparisons"]
        if one["effect"] is not None and one["interval"]["low"] is not None
    }

"""Several runs laid over each other: the same curves, one color a run, and what differs in what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from weft.config import yaml
from weft.errors import WeftError
from weft.report.formats import count, duration, percent, plain, rate, significant
from weft.report.markup import Markup, tag
from weft.report.page import figure, flatten, fold, page, prose, section, table
from weft.report.svg import PALETTE, Chart, Reference, Series
from weft.training.pictures import BITS, NATS, baselines, conversion, measure, scaled, smooth, two_decimals
from weft.training.record import Curve, Run, curve_of

Pick = Callable[[Run], Curve]


class Overlay:
    """The runs, a name and a color for each, and the x axis they share: steps, or tokens where steps differ in size."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.names = _names(runs)
        sizes = [_tokens_a_step(run) for run in runs if run.log.of("train")]
        known = [size for size in sizes if size is not None]
        self.x_name = "tokens" if len(known) == len(sizes) > 0 and max(known) > 1.01 * min(known) else "steps"

    def series(self, pick: Pick) -> list[Series]:
        """One line a run; runs without that quantity have none."""
        lines = []
        for i, (run, name) in enumerate(zip(self.runs, self.names, strict=True)):
            points = pick(run).points
            if self.x_name == "tokens":
                at = {line.step: line.tokens for line in run.log.lines}
                points = [(at[int(step)], value) for step, value in points if math.isfinite(at[int(step)])]
            lines.append(Series(name, points, PALETTE[i % len(PALETTE)], "line" if i < len(PALETTE) else "dashed"))
        return [line for line in lines if line.last]


def overlay_page(runs: list[Run]) -> str:
    """The page that compares these runs, in the order given."""
    overlay = Overlay(runs)
    curves = [chart for chart in (_validation(overlay), _training(overlay)) if chart]
    panels = [panel for panel in (_learning_rates(overlay), _gradient_norms(overlay), _speeds(overlay)) if panel]
    recipes = [
        fold(f"Recipe of {name}", tag("pre", run.resolved or run.recipe), raw=True)
        for run, name in zip(runs, overlay.names, strict=True)
        if run.resolved or run.recipe
    ]
    body = [
        tag("p", f"weft training reports · {len(runs)} runs laid over each other", class_="kicker"),
        tag("h1", prose(verdict(overlay))),
        tag("p", prose(_caution(runs)), class_="lead"),
        *(figure(chart) for chart in curves),
        section("The runs in figures", _summary(overlay)),
        section("What differs in what was asked", _differences(overlay)),
        section("Steering and speed", *(figure(panel, low=True) for panel in panels)),
        section("What they were made from", *recipes),
    ]
    footer = "Drawn from the run folders alone; the same files give the same page."
    return page("weft training reports · " + ", ".join(overlay.names), body, footer)


def verdict(overlay: Overlay) -> str:
    """Which run came lowest and by how much, where their numbers compare."""
    problem = _incomparable(overlay.runs)
    measures = [measure(run) for run in overlay.runs]
    ranked = sorted(
        ((found.value, name, found) for found, name in zip(measures, overlay.names, strict=True) if found),
        key=lambda entry: entry[:2],
    )
    if problem or len(ranked) < 2:
        return f"{len(overlay.runs)} runs, without a ranking: {problem or 'fewer than two of them were measured'}."
    (low, name, found), (following, beside, _) = ranked[:2]
    lead = f"{name} came lowest: {two_decimals(low)} {found.unit}"
    share = 1 - low / following
    gap = f"{percent(share)} below" if share >= 0.0005 else "level with"
    return f"{lead}, {gap} {beside}'s {two_decimals(following)}."


def _incomparable(runs: list[Run]) -> str:
    """Why the last measures of these runs do not compare; empty where they do."""
    measures = [found for found in map(measure, runs) if found]
    tokenizers = {str(run.at("data.tokenizer")) for run in runs if run.at("data.tokenizer")}
    # A fingerprint covers the tokenizer too: where those differ, the text is known by its source and its size.
    same = ("data.fingerprint",) if len(tokenizers) < 2 else ("data.source", "data.validation.bytes")
    if any(len({str(run.at(path)) for run in runs if run.at(path) is not None}) > 1 for path in same):
        return "they were trained and measured on different texts"
    if len({found.unit for found in measures}) > 1:
        return "their units differ"
    if len({(found.whole, found.validation) for found in measures}) > 1:
        return "not all of them were measured on the whole validation text"
    if len(tokenizers) > 1 and any(found.unit == NATS for found in measures):
        return "their tokenizers differ, so that nats per token do not compare"
    return ""


def _caution(runs: list[Run]) -> str:
    seeds = {str(run.at("seed")) for run in runs}
    same = "the same seed" if len(seeds) == 1 else f"{len(seeds)} seeds"
    tokens = [run.log.lines[-1].tokens for run in runs if run.log.lines]
    known = [amount for amount in tokens if math.isfinite(amount)]
    unequal = known and max(known) > 1.01 * min(known)
    budget = f" They did not see equally much text: {_span(known, count)} tokens." if unequal else ""
    return f"One run each, on {same}: how far another seed would move these numbers is not known from them.{budget}"


def _validation(overlay: Overlay) -> Chart | None:
    measured = [run for run in overlay.runs if run.log.of("validation")]
    bits = all(len(curve_of(run.log.repeated(), "bits_per_byte").finite()) for run in measured)
    name, unit = ("bits_per_byte", BITS) if bits else ("loss", NATS)
    series = overlay.series(lambda run: curve_of(run.log.repeated(), name))
    if not series:
        return None
    levels = {(level.name, level.value): Reference(level.name, level.value) for level in baselines(overlay.runs[0])}
    shared = all({(level.name, level.value) for level in baselines(run)} == set(levels) for run in overlay.runs)
    lowest = min(series, key=lambda line: line.last[1] if line.last else math.inf)
    return Chart(
        f"{lowest.name} ends lowest on validation",
        series,
        overlay.x_name,
        unit,
        subtitle="Validation loss during training, as each run repeated it; lower is better",
        references=list(levels.values()) if bits and shared else [],
        ceiling=_ceiling(series),
        show=two_decimals,
        caption=_cut_note(series),
    )


def _training(overlay: Overlay) -> Chart | None:
    conversions = [conversion(run) for run in overlay.runs]
    bits = all(conversions)

    def pick(run: Run) -> Curve:
        convert = conversion(run)
        return smooth(scaled(run.log.curve("train", "loss"), convert.factor if bits and convert else 1.0))

    series = overlay.series(pick)
    if not series:
        return None
    lowest = min(series, key=lambda line: line.last[1] if line.last else math.inf)
    notes = ["Running medians of the log lines.", _cut_note(series)]
    if bits:
        notes.append("Logged in nats per token and shown with each run's own bytes per token.")
    return Chart(
        f"{lowest.name} ends lowest on the text trained on",
        series,
        overlay.x_name,
        BITS if bits else NATS,
        subtitle="Training loss",
        caption=" ".join(note for note in notes if note),
        ceiling=_ceiling(series),
        show=two_decimals,
    )


def _ceiling(series: list[Series]) -> float | None:
    """Where to cut the first steps off, which would flatten all that follows."""
    start = 0.04 * max(x for line in series for x, _ in line.points)
    later = [y for line in series for x, y in line.points if x >= start and math.isfinite(y)]
    highest = max(y for line in series for _, y in line.points if math.isfinite(y))
    return max(later) if later and highest > max(later) else None


def _cut_note(series: list[Series]) -> str:
    return "The first steps lie above the frame." if _ceiling(series) is not None else ""


def _learning_rates(overlay: Overlay) -> Chart | None:
    series = overlay.series(lambda run: run.log.curve("train", "learning_rate"))
    if not series:
        return None
    peaks = [max(y for _, y in line.points if math.isfinite(y)) for line in series]
    same = all(line.points == series[0].points for line in series)
    title = "All followed the same learning rate" if same else f"Learning rates peaked at {_span(peaks, plain)}"
    return Chart(title, series, overlay.x_name, "learning rate", y_zero=True, show=plain)


def _gradient_norms(overlay: Overlay) -> Chart | None:
    series = overlay.series(lambda run: smooth(run.log.curve("train", "gradient_norm")))
    if not series:
        return None
    title = (
        f"Gradient norms end at {_span([line.last[1] for line in series if line.last], lambda v: significant(v, 2))}"
    )
    log = all(y > 0 for line in series for _, y in line.points if math.isfinite(y))
    caption = "Running medians of the log lines."
    return Chart(title, series, overlay.x_name, "norm before clipping", caption=caption, y_log=log)


def _speeds(overlay: Overlay) -> Chart | None:
    series = overlay.series(lambda run: smooth(run.log.clock("tokens_per_second")))
    if not series:
        return None
    middle = [median(y for _, y in line.points if math.isfinite(y)) for line in series]
    title = f"Speeds of {_span(middle, lambda value: count(round(value)))} tokens/s"
    caption = "Running medians of the log lines."
    return Chart(title, series, overlay.x_name, "tokens per second", caption=caption, y_zero=True, show=count)


def _span(values: list[float], show: Callable[[float], str]) -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"


def _summary(overlay: Overlay) -> Markup:
    rows = []
    for run, name in zip(overlay.runs, overlay.names, strict=True):
        found, last = measure(run), run.log.lines[-1] if run.log.lines else None
        speed, parameters = run.log.clock("tokens_per_second").finite(), run.number("model.parameters")
        where = "" if not found else "whole" if found.whole else "part" if found.validation else "training"
        rows.append(
            [
                name,
                f"{found} {found.unit}" if found else "none",
                where,
                f"{last.step:,}" if last else "",
                count(last.tokens) if last and math.isfinite(last.tokens) else "",
                count(parameters) if parameters else "",
                duration(last.seconds) if last and math.isfinite(last.seconds) else "",
                rate(median(speed.values)) if len(speed) else "",
                str(run.at("status") or ""),
            ]
        )
    return table(["run", "last measure", "of validation", "steps", "tokens", "parameters", "time", "speed", ""], rows)


def _differences(overlay: Overlay) -> Markup:
    """The fields of the resolved recipes that are not the same in all runs."""
    fields = [dict(flatten(_recipe(run))) for run in overlay.runs]
    if not all(fields):
        return tag("p", "Not every run holds a resolved recipe.")
    paths = list(dict.fromkeys(path for each in fields for path in each))
    rows = [
        [path, *(each.get(path, "") for each in fields)]
        for path in paths
        if len({each.get(path) for each in fields}) > 1
    ]
    return table(["field", *overlay.names], rows) if rows else tag("p", "Nothing: the same recipe was asked for.")


def _recipe(run: Run) -> dict[str, object]:
    try:
        found = yaml.parse(run.resolved, "resolved.yaml") if run.resolved else {}
    except WeftError:
        return {}
    return found if isinstance(found, dict) else {}


def _tokens_a_step(run: Run) -> float | None:
    known = [line for line in run.log.of("train") if line.step and math.isfinite(line.tokens)]
    return known[-1].tokens / known[-1].step if known else None


def _names(runs: list[Run]) -> list[str]:
    """The runs' own names, or where two are the same their folders', or else numbered."""
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = [run.folder for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
    ]

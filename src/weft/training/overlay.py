"""Several runs laid over each other: the same curves, one color a run, and what differs in what was asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

from weft.report.formats import count, duration, percent, plain, rate, significant
from weft.report.markup import Markup, tag
from weft.report.page import figure, flatten, fold, page, prose, section, table
from weft.report.svg import PALETTE, Chart, Reference, Series
from weft.training.measures import BITS, TOKEN_LOSS, Measure, Metric, baselines, measure, task_of
from weft.training.pictures import conversion
from weft.training.record import Curve, Run, curve_of

Pick = Callable[[Run], Curve]


class Overlay:
    """The runs, a name and a color for each, and the x axis they share: steps, or tokens where steps differ in size."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs = runs
        self.names = _names(runs)
        sizes = [_tokens_a_step(run) for run in runs if run.log.of("train")]
        known = [size for size in sizes if size is not None]
        tasks = {task.objective: task for task in (task_of(run.log) for run in runs)}
        self.task = next(iter(tasks.values())) if len(tasks) == 1 else None
        """what all of them are judged by; None where their objectives differ"""
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
    charts = [*(_validation(overlay, metric) for metric in _metrics(overlay)), _training(overlay)]
    curves = [chart for chart in charts if chart]
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
    """Which run came out best and by how much, where their numbers compare."""
    problem = _incomparable(overlay)
    pairs = zip(overlay.runs, overlay.names, strict=True)
    ranked = [(found, name) for run, name in pairs if (found := measure(run))]
    if problem or len(ranked) < 2:
        return f"{len(overlay.runs)} runs, without a ranking: {problem or 'fewer than two of them were measured'}."
    sign = 1 if ranked[0][0].metric.lower else -1
    (best, name), (following, beside) = sorted(ranked, key=lambda pair: (sign * pair[0].value, pair[1]))[:2]
    metric = best.metric
    gap = _gap(best, following) or "level with"
    lead = f"{name} {'came lowest' if metric.lower else 'is ahead'}: {best.named}, "
    if metric.lower:
        return f"{lead}{gap} {beside}'s {following}."
    doubt = ", less than the uncertainty of either" if gap != "level with" and _overlapping(best, following) else ""
    return f"{lead}{gap} {beside} ({following}){doubt}."


def _gap(best: Measure, following: Measure) -> str:
    """How far the best lies from the one after it."""
    if not best.metric.lower:
        return best.metric.gap(best.value, following.value)
    share = 1 - best.value / following.value
    return f"{percent(share)} below" if share >= 0.0005 else ""


def _overlapping(one: Measure, other: Measure) -> bool:
    """Whether each value lies within the other's interval."""
    if not one.interval or not other.interval:
        return False
    return one.interval[0] <= other.value <= one.interval[1] and other.interval[0] <= one.value <= other.interval[1]


def _incomparable(overlay: Overlay) -> str:
    """Why the last measures of these runs do not compare; empty where they do."""
    runs = overlay.runs
    if overlay.task is None:
        return f"their objectives differ ({', '.join(sorted({task_of(run.log).objective for run in runs}))})"
    measures = [found for found in map(measure, runs) if found]
    tokenizers = {str(run.at("data.tokenizer")) for run in runs if run.at("data.tokenizer")}
    # A fingerprint covers the tokenizer too: where those differ, the text is known by its source and its size.
    same = ("data.fingerprint",) if len(tokenizers) < 2 else ("data.source", "data.validation.bytes")
    if any(len({str(run.at(path)) for run in runs if run.at(path) is not None}) > 1 for path in same):
        return "they were trained and measured on different texts"
    if len({found.metric for found in measures}) > 1:
        return "their units differ"
    if len({(found.whole, found.validation) for found in measures}) > 1:
        return f"not all of them were measured on {overlay.task.all_of_it}"
    if len(tokenizers) > 1 and any(found.metric == TOKEN_LOSS for found in measures):
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


def _metrics(overlay: Overlay) -> list[Metric]:
    """What to draw of validation: what the task is judged by, and the loss; for different tasks their losses alone."""
    if overlay.task is None:
        return [Metric("loss", "nats per token, or per example", lower=True)]
    measured = [run for run in overlay.runs if run.log.of("validation")]
    known = [
        metric
        for metric in overlay.task.metrics
        if all(len(curve_of(run.log.repeated(), metric.key).finite()) for run in measured)
    ]
    return known if known and known[0].lower else [*known, overlay.task.loss]


def _validation(overlay: Overlay, metric: Metric) -> Chart | None:
    series = overlay.series(lambda run: curve_of(run.log.repeated(), metric.key).times(metric.factor))
    if not series:
        return None
    levels = {(level.label, level.value * metric.factor) for level in baselines(overlay.runs[0], metric)}
    shared = all(
        {(level.label, level.value * metric.factor) for level in baselines(run, metric)} == levels
        for run in overlay.runs
    )
    ceiling = _ceiling(series) if metric.lower else None
    return Chart(
        _title(overlay, series, metric, "on validation"),
        series,
        overlay.x_name,
        f"{metric.name}, %" if metric.unit else metric.name,
        subtitle=f"Validation {'loss' if metric.lower else metric.name} during training, as each run repeated it; "
        f"{'lower' if metric.lower else 'higher'} is better",
        references=[Reference(*level) for level in sorted(levels)] if shared and metric.key != "loss" else [],
        ceiling=ceiling,
        show=metric.shown,
        caption=_cut_note(series) if metric.lower else "",
    )


def _title(overlay: Overlay, series: list[Series], metric: Metric, where: str) -> str:
    """Which line ends best, where the lines compare."""
    if overlay.task is None:
        return f"The loss {where}: different objectives, so the lines do not compare"
    ends = [(line.last[1], line.name) for line in series if line.last]
    best = min(ends) if metric.lower else max(ends)
    how = "lowest" if metric.lower else f"highest in {metric.name}"
    return f"{best[1]} ends {how} {where}"


def _training(overlay: Overlay) -> Chart | None:
    metric = _metrics(overlay)[-1]
    bits = metric == BITS and all(conversion(run) for run in overlay.runs)

    def pick(run: Run) -> Curve:
        convert = conversion(run)
        return run.log.curve("train", "loss").times(convert.factor if bits and convert else 1.0).smooth()

    series = overlay.series(pick)
    if not series:
        return None
    metric = BITS if bits else overlay.task.loss if overlay.task else metric
    notes = ["Running medians of the log lines.", _cut_note(series)]
    if bits:
        notes.append("Logged in nats per token and shown with each run's own bytes per token.")
    return Chart(
        _title(overlay, series, metric, "in training"),
        series,
        overlay.x_name,
        metric.name,
        subtitle="Training loss",
        caption=" ".join(note for note in notes if note),
        ceiling=_ceiling(series),
        show=metric.shown,
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
    series = overlay.series(lambda run: run.log.curve("train", "gradient_norm").smooth())
    if not series:
        return None
    title = (
        f"Gradient norms end at {_span([line.last[1] for line in series if line.last], lambda v: significant(v, 2))}"
    )
    log = all(y > 0 for line in series for _, y in line.points if math.isfinite(y))
    caption = "Running medians of the log lines."
    return Chart(title, series, overlay.x_name, "norm before clipping", caption=caption, y_log=log)


def _speeds(overlay: Overlay) -> Chart | None:
    series = overlay.series(lambda run: run.log.clock("tokens_per_second").smooth())
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
                _with_interval(found) if found else "none",
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


def _with_interval(found: Measure) -> str:
    """The measure, with its 95 % interval where it has one."""
    if not found.interval:
        return found.named
    low, high = (found.metric.show(value) for value in found.interval)
    return f"{found.named} ({low.removesuffix(found.metric.unit)} to {high})"


def _differences(overlay: Overlay) -> Markup:
    """The fields of the resolved recipes that are not the same in all runs."""
    fields = [dict(flatten(run.asked)) for run in overlay.runs]
    if not all(fields):
        return tag("p", "Not every run holds a resolved recipe.")
    paths = list(dict.fromkeys(path for each in fields for path in each))
    rows = [
        [path, *(each.get(path, "") for each in fields)]
        for path in paths
        if len({each.get(path) for each in fields}) > 1
    ]
    return table(["field", *overlay.names], rows) if rows else tag("p", "Nothing: the same recipe was asked for.")


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

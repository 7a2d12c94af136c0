"""The pictures of a task: its metric over the steps beside simple methods, calibration, the spread of answers."""

from __future__ import annotations

from weft.report.formats import percent
from weft.report.markup import Markup, join, tag
from weft.report.svg import NARROW, Chart, Reference, Series
from weft.training.answers import Bin, Classified, Written, calibration_error, reliability
from weft.training.diagnosis import Finding
from weft.training.measures import (
    ACCURACY,
    CHRF,
    SEQ2SEQ,
    Measure,
    Metric,
    baselines,
    measured,
    task_of,
    validated,
    wilson,
)
from weft.training.pictures import VALIDATION, events
from weft.training.record import Line, Run, curve_of, finite

BEAM = "beam 4"


def metric_curve(run: Run, metric: Metric, findings: list[Finding]) -> Chart | None:
    """A metric on validation over the steps; what simple methods reach as levels."""
    repeated, concluding = run.log.repeated(), run.log.concluding()
    if [measured(line, metric) for line in repeated[-1:]] == [measured(line, metric) for line in concluding[-1:]]:
        concluding = []  # the same examples again
    dots, ring = (curve_of(lines, metric.key).times(metric.factor) for lines in (repeated, concluding))
    beam = curve_of(concluding, f"{metric.key}_beam_4").times(metric.factor)
    every, last = _examples(repeated, metric), _examples(concluding, metric)
    series = [
        Series(f"validation{every and ', ' + every}", dots.points, VALIDATION, "dots", "valid."),
        Series(f"validation{last and ', ' + last}", ring.points[-1:], VALIDATION, "ring", "valid. all"),
        Series(f"{BEAM}{last and ', ' + last}", beam.points[-1:], "green", "ring", BEAM),
    ]
    series = [line for line in series if line.last]
    found = validated(run.log, metric)
    if not series or not found:
        return None
    levels = baselines(run, metric)
    return Chart(
        _metric_title(run, found),
        series,
        "steps",
        f"{metric.name}, %" if metric.unit else metric.name,
        subtitle=f"{metric.title} on examples held out; higher is better",
        references=[Reference(level.label, level.value * metric.factor) for level in levels],
        events=events(run, findings),
        show=metric.shown,
    )


def _examples(lines: list[Line], metric: Metric) -> str:
    amount = measured(lines[-1], metric) if lines else None
    return f"{amount:,} {'answers' if metric in SEQ2SEQ.metrics else 'examples'}" if amount else ""


def _metric_title(run: Run, found: Measure) -> str:
    """What the curve shows: where it passed the best simple method, or how far it rose."""
    metric = found.metric
    curve = curve_of(run.log.repeated(), metric.key).finite()
    for level in baselines(run, metric)[:1]:
        gap = metric.gap(found.value, level.value)
        if found.value < level.value and gap:
            return f"{metric.title} is still {gap} {level.name}"
        above = [step for step, value in zip(curve.steps, curve.values, strict=True) if value > level.value]
        if found.value > level.value and above and above[0] > curve.steps[0] and curve.values[-1] > level.value:
            return f"{metric.title} passed above {level.name} by step {above[0]:,}"
    if len(curve) < 2:
        return f"{metric.title} came to {found}"
    moved = "rose" if curve.values[-1] > curve.values[0] else "went"
    return f"{metric.title} {moved} from {metric.show(curve.values[0])} to {metric.show(curve.values[-1])}"


def task_curves(run: Run, findings: list[Finding]) -> list[Chart]:
    """One chart for each metric of the run's task, that of the headline first."""
    charts = (metric_curve(run, metric, findings) for metric in task_of(run.log).metrics)
    return [chart for chart in charts if chart]


def calibration(found: Classified) -> Markup:
    """Reliability diagram: the share of right answers by confidence, with its interval, and the number of examples."""
    bins = reliability(found)
    total = sum(one.examples for one in bins)
    if not total:
        return Markup("")
    confidence = sum(one.examples * one.confidence for one in bins) / total
    right = sum(one.examples * one.right for one in bins) / total
    low, high = wilson(right, total)
    how = "surer" if confidence > right else "less sure"
    title = f"It is {how} than it is right, by {100 * abs(confidence - right):.1f} points on average"
    if low <= confidence <= high:
        title = "On average it is about as sure as it is right"
    note = (
        f"Upright strokes: Wilson's 95 % interval. Below: examples in each tenth. Expected calibration error "
        f"{100 * calibration_error(bins):.1f} points in {len(bins)} bins (Guo et al. 2017)."
    )
    head = tag(
        "figcaption", tag("h3", title), tag("p", "Share of right answers by the probability of the predicted class")
    )
    drawn = tag("div", _diagram(bins, f"{title}. {note}"), class_="canvas")
    return tag("figure", head, drawn, tag("p", note, class_="caption"), class_="heat half")


def _diagram(bins: list[Bin], spoken: str) -> Markup:
    left, top, height = 46.0, 26.0, 220.0
    width = NARROW - left - 14
    foot = top + height

    def at(confidence: float, right: float) -> tuple[float, float]:
        return left + confidence * width, foot - right * height

    parts = [tag("text", "right answers, %", x=0, y=14, class_="axis-name")]
    for tick in (0.0, 0.5, 1.0):
        x, y = at(tick, tick)
        parts.append(tag("line", x1=left, x2=left + width, y1=y, y2=y, class_="grid" if tick else "axis"))
        parts.append(tag("text", f"{100 * tick:.0f}", x=left - 8, y=y + 5, class_="tick end"))
        parts.append(tag("text", f"{100 * tick:.0f}", x=x, y=foot + 38, class_="tick middle"))
    (x1, y1), (x2, y2) = at(0, 0), at(1, 1)
    parts.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="reference"))
    for one in bins:
        x, y = at(one.confidence, one.right)
        low, high = wilson(one.right, one.examples)
        said = f"{percent(one.confidence)} sure, {percent(one.right)} right of {one.examples:,}"
        stroke = tag("line", x1=x, x2=x, y1=at(0, low)[1], y2=at(0, high)[1], stroke="currentColor", stroke_width=1.5)
        dot = tag("circle", tag("title", said), cx=x, cy=y, r=4.0, class_="dot")
        parts.append(tag("g", stroke, dot, class_=f"c-{VALIDATION}"))
        middle = at((one.low + one.high) / 2, 0)[0]
        parts.append(tag("text", f"{one.examples:,}", x=middle, y=foot + 17, class_="tick middle small"))
    parts.append(tag("text", "probability, %", x=left + width, y=foot + 58, class_="axis-name end"))
    size = f"0 0 {NARROW} {round(foot + 66)}"
    return tag("svg", join(parts), viewBox=size, width=NARROW, height=round(foot + 66), role="img", aria_label=spoken)


def spread_of_answers(run: Run, found: Written) -> Chart | None:
    """All scores in ascending order, with the samples that are shown as dots."""
    if len(found.scores) < 2:
        return None
    last = len(found.scores) - 1
    points = [(100 * i / last, score) for i, score in enumerate(found.scores)]
    how, middle = next(iter(found.ways)), found.scores[last // 2]
    return Chart(
        f"Half of the answers score above {CHRF.show(middle)}",
        [
            Series(f"{how}, one by one", points, VALIDATION, short=how),
            Series("shown below", [(100 * sample.worse, sample.score) for sample in found.samples], VALIDATION, "ring"),
        ],
        "% of the answers",
        "chrF of an answer",
        subtitle=f"chrF of {'' if len(points) < 1000 else 'an even choice of '}{len(points):,} answers by themselves, "
        "the worst on the left",
        labels=False,
        show=CHRF.show,
    )


def accuracy_note(found: Measure) -> str:
    """What the interval in the headline is, and what it leaves out."""
    if found.metric != ACCURACY or not found.interval:
        return ""
    return (
        f"The interval is Wilson's for a share, the {found.examples:,} examples taken as a sample: what another seed "
        "would change is not in it."
    )


def signatures(run: Run) -> list[str]:
    """sacrebleu's signatures of the last validation: what makes a figure comparable with others."""
    for line in reversed(run.log.of("validation")):
        said = [line.values.get(name) for name in ("signature_bleu", "signature_chrf")]
        if any(isinstance(text, str) for text in said):
            return [text for text in said if isinstance(text, str)]
    return []


def reached(run: Run, metric: Metric, way: str) -> float | None:
    """What a way of decoding reached on the whole of validation, or else on what was measured last."""
    key = metric.key if way == "greedy" else f"{metric.key}_{way.replace(' ', '_')}"
    for lines in (run.log.concluding(), run.log.repeated()):
        for line in reversed(lines):
            value = finite(line.values.get(key))
            if value is not None:
                return value
    return None

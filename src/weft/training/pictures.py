"""The pictures of a training run: its curves as charts whose titles say what is seen in them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median, quantiles

from weft.report.formats import count, percent, plain, rate, significant, size
from weft.report.heat import HeatMap
from weft.report.svg import Chart, Event, Reference, Series
from weft.training.diagnosis import Finding
from weft.training.measures import (
    BITS,
    LANGUAGE,
    Measure,
    Metric,
    baselines,
    task_of,
    validated,
)
from weft.training.record import Curve, Line, Run, curve_of, finite

TRAINING, VALIDATION = "blue", "vermillion"  # one color each, in every picture


@dataclass(frozen=True)
class Conversion:
    """From nats per token to bits per byte: the factor, and whose bytes per token it rests on."""

    factor: float
    bytes_per_token: float
    whose: str


def conversion(run: Run) -> Conversion | None:
    """How training loss becomes bits per byte: by the training text's own bytes per token, else by validation's."""
    counted = [(run.number("data.train.bytes"), run.number("data.train.tokens"), "training text")]
    for line in run.log.of("validation")[-1:]:
        counted.append((finite(line.values.get("bytes")), finite(line.values.get("tokens")), "validation text"))
    for amount, tokens, whose in counted:
        if amount and tokens:
            return Conversion(tokens / amount / math.log(2), amount / tokens, whose)
    return None


def learning_curve(run: Run, findings: list[Finding]) -> Chart | None:
    """Loss in training and validation over the steps, in bits per byte where those can be had honestly."""
    known = curve_of(run.log.repeated(), BITS.key).finite()
    convert, task = conversion(run) if len(known) else None, task_of(run.log)
    metric = BITS if convert else task.loss
    training = run.log.curve("train", "loss").times(convert.factor if convert else 1.0)
    repeated, concluding = run.log.repeated(), _another(run)
    part = "" if all(line.values.get("whole") for line in repeated) else " part"
    dots = curve_of(repeated, metric.key)
    series = [
        *_faint_and_smooth(training, "training", "train"),
        Series(f"validation{part and ',' + part}", dots.points, VALIDATION, "dots", f"valid.{part}"),
        Series("validation, whole", curve_of(concluding, metric.key).points[-1:], VALIDATION, "ring", "valid. whole"),
    ]
    series = [line for line in series if line.last]
    if not series:
        return None
    ceiling, found = _ceiling(training, dots), validated(run.log, metric)
    what = (
        ("the text trained on", "text held out") if task is LANGUAGE else ("the training examples", "examples held out")
    )
    return Chart(
        title=_curve_title(run, findings, metric),
        series=series,
        x_name="steps",
        y_name=metric.name,
        subtitle=f"Loss on {' and on '.join(what[: 1 + bool(found)])}; lower is better",
        caption=" ".join(_curve_notes(run, training, convert, ceiling)),
        references=[Reference(level.name, level.value) for level in baselines(run, BITS)] if convert else [],
        events=events(run, findings),
        ceiling=ceiling,
        show=metric.shown,
    )


def _another(run: Run) -> list[Line]:
    """What concluded the run, where it is another quantity than what was repeated: for a task the loss of all examples
    is the same however often it is taken."""
    same = task_of(run.log) is not LANGUAGE and all(line.values.get("whole") for line in run.log.repeated())
    return [] if same else run.log.concluding()


def _curve_title(run: Run, findings: list[Finding], metric: Metric) -> str:
    told = {
        "not-finite": "The loss is not finite from step {} on",
        "diverging": "The loss was lowest around step {} and has risen since",
        "overfitting": "Validation was best at step {} and has risen since",
        "validation-rose": "Validation was best at step {} and has risen since",
    }
    for kind, text in told.items():
        for finding in findings:
            if finding.kind == kind:
                return text.format(f"{finding.step:,}")
    found = validated(run.log, metric)
    if found is None:
        loss = run.log.curve("train", "loss").finite()
        return f"The training loss went from {loss.values[0]:.2f} to {loss.values[-1]:.2f} {metric.name}"
    return _seen(run, found)


def _seen(run: Run, found: Measure) -> str:
    """What the validation curve shows: when it passed the baseline, or how far it fell."""
    curve = curve_of(run.log.repeated(), found.metric.key).finite()
    for level in baselines(run, BITS)[:1] if found.metric == BITS else ():
        below = [step for step, value in zip(curve.steps, curve.values, strict=True) if value < level.value]
        if below and curve.values[-1] < level.value and below[0] > curve.steps[0]:
            return f"Validation passed below {level.name} by step {below[0]:,}"
        if found.value > level.value * 1.005:
            return f"Validation is still {percent(found.value / level.value - 1)} above {level.name}"
    if len(curve) < 2:
        return f"Validation came to {found.named}"
    moved = "fell" if curve.values[-1] < curve.values[0] else "went"
    ends = [found.metric.show(value) for value in (curve.values[0], curve.values[-1])]
    return f"Validation {moved} from {ends[0]} to {ends[1]} {found.metric.name}"


def _curve_notes(run: Run, training: Curve, convert: Conversion | None, ceiling: float | None) -> list[str]:
    """What a reader must know to take the picture for no more than it is."""
    said, task = [], task_of(run.log)
    if training.window > 1:
        said.append(f"Training: the running median of {training.window} log lines, the lines themselves faint.")
    if convert:
        said.append(
            f"Training loss is logged in nats per token and shown with the {convert.whose}'s "
            f"{convert.bytes_per_token:.2f} bytes per token."
        )
    for line in run.log.repeated()[-1:]:
        part = task.all_of_it if line.values.get("whole") else f"one fixed part of the {task.held_out}"
        said.append(f"Dots: {part}{_way(line)}.")
    for line in _another(run)[-1:]:
        said.append(
            f"Ring: {'the whole of it' if task is LANGUAGE else 'all of them'}{_way(line)}, so not the same quantity."
        )
    smoothing = objective_option(run, "label_smoothing")
    if smoothing:
        said.append(
            f"Only the training loss has label smoothing ({smoothing:g}): the distance between the two says nothing."
        )
    if convert:
        said += [f"{level.name}: {level.how}." for level in baselines(run, BITS) if level.how]
    above = [value for value in training.finite().values if ceiling is not None and value > ceiling]
    if above:
        lines = "1 early line lies" if len(above) == 1 else f"{len(above):,} early lines lie"
        said.append(f"{lines} above the frame, up to {max(above):.2f}.")
    return said


def objective_option(run: Run, name: str) -> float | None:
    """A number among the objective's options in the resolved recipe."""
    objective = run.asked.get("objective")
    return finite(objective.get(name)) if isinstance(objective, dict) else None


def _ceiling(training: Curve, validation: Curve) -> float | None:
    """Where to cut the picture: the first steps fall so far that they would flatten all that follows."""
    known = training.finite()
    if len(known) < 20:
        return None
    start = known.steps[0] + 0.04 * (known.steps[-1] - known.steps[0])
    top = max([*known.between(start).values, *validation.finite().between(start).values])
    return top if max(known.values) > top else None


def events(run: Run, findings: list[Finding]) -> list[Event]:
    """What happened at one step, for the x axis."""
    marked = ("overfitting", "validation-rose")
    found = [Event(float(f.step), "least validation loss") for f in findings if f.kind in marked and f.step is not None]
    found += [Event(float(f.step), "not finite from here") for f in findings if f.kind == "not-finite" and f.step]
    happened = [(line.step, str(line.values.get("what") or "event")) for line in run.log.of("event")]
    resumes = run.at("resumes")
    for entry in resumes if isinstance(resumes, list) else []:
        step = finite(entry.get("step")) if isinstance(entry, dict) else None
        happened += [(int(step), "resumed")] if step is not None else []
    # More than a few would hide the curve; all of them stand at the end of the page.
    if len(happened) <= 4:
        found += [Event(float(step), what[:24]) for step, what in dict.fromkeys(happened)]
    return found


def learning_rate(run: Run) -> Chart | None:
    """The schedule as it was run."""
    curve = run.log.curve("train", "learning_rate")
    known = curve.finite()
    if not len(known):
        return None
    peak, last = max(known.values), known.values[-1]
    top = [step for step, value in zip(known.steps, known.values, strict=True) if value >= 0.999 * peak]
    if min(known.values) >= 0.999 * peak:
        title = f"The learning rate was {plain(peak)} throughout"
    else:
        rose = f"reached {plain(peak)} at step {top[0]:,}" if top[0] > known.steps[0] else "was highest at first"
        held = f", held it until {top[-1]:,}" if top[-1] > top[0] else ""
        ended = f", ended at {plain(last, 2)}" if last < 0.999 * peak else ""
        title = f"The learning rate {rose}{held}{ended}"
    series = [Series("learning rate", curve.points, TRAINING)]
    return Chart(title, series, "steps", "learning rate", y_zero=True, labels=False, show=plain)


def gradient_norm(run: Run) -> Chart | None:
    """The norm of the whole gradient, before clipping."""
    curve = run.log.curve("train", "gradient_norm")
    known = curve.finite()
    if not len(known):
        return None
    highest = max(known.values)
    at = known.steps[known.values.index(highest)]
    middle = significant(median(known.tail(0.5).values), 2)
    title = f"The gradient norm came to about {middle}; the highest, {significant(highest, 2)}, was at step {at:,}"
    note = f"The running median of {curve.window} log lines, the lines themselves faint."
    return Chart(
        title,
        _faint_and_smooth(curve, "gradient norm"),
        "steps",
        "norm before clipping",
        caption=note if curve.window > 1 else "",
        y_log=min(known.values) > 0,
        labels=False,
    )


def layers(run: Run, findings: list[Finding]) -> list[HeatMap]:
    """Gradient norm and update-to-weight ratio of each layer over time."""
    kinds = {finding.kind for finding in findings}
    told = {
        "no-gradient": "Some layers receive no gradient",
        "vanishing": "Gradients vanish towards the input",
        "exploding-layers": "Gradients explode towards the input",
    }
    maps = []
    norms, ratios = run.log.layers("gradient_norm"), run.log.layers("update_ratio")
    if norms:
        title = next((text for kind, text in told.items() if kind in kinds), "Gradients reach every layer")
        rows = {name: curve.points for name, curve in norms.items()}
        maps.append(HeatMap(title, rows, "steps", "gradient norm", "Gradient norm of each layer, before clipping"))
    if ratios:
        usual = "of the usual size" if "usual-updates" in kinds else "unusual in some layers"
        rows = {name: curve.points for name, curve in ratios.items()}
        what = "Norm of a step's update over norm of the weights; near 0.001 is usual"
        name = "update-to-weight ratio"
        maps.append(HeatMap(f"Updates beside the weights are {usual}", rows, "steps", name, what, center=1e-3))
    return maps


def speed(run: Run) -> list[Chart]:
    """Throughput, and the share of the machine's measured peak that it makes use of."""
    charts = []
    tokens, share = run.log.clock("tokens_per_second").finite(), run.log.clock("peak_share").finite()
    if len(tokens):
        title = rate(median(tokens.values))
        if len(tokens) >= 10:
            low, *_, high = quantiles(tokens.values, n=10, method="inclusive")
            title += f"; four lines in five between {count(round(low))} and {count(round(high))}"
        series = _faint_and_smooth(tokens, "tokens per second")
        charts.append(Chart(title, series, "steps", "tokens per second", y_zero=True, labels=False, show=count))
    if len(share):
        peak = run.number("machine.peak_gflops")
        title = f"{percent(median(share.values))} of the machine's peak was used"
        caption = f"Measured peak: {count(peak)} GFLOP/s." if peak else ""
        series = _faint_and_smooth(share.times(100), "share of peak")
        charts.append(Chart(title, series, "steps", "% of peak", caption=caption, y_zero=True, labels=False))
    return charts


def _faint_and_smooth(curve: Curve, name: str, short: str = "") -> list[Series]:
    """The curve's running median in front of its own lines; the curve alone where it is short."""
    behind = [Series(f"{name}, each line", curve.points, TRAINING, "faint")] if curve.window > 1 else []
    return [*behind, Series(name, curve.smooth().points, TRAINING, short=short)]


def _way(line: Line) -> str:
    """How much text was measured, and in which windows."""
    amount, window, stride = (finite(line.values.get(name)) for name in ("bytes", "window", "stride"))
    examples = finite(line.values.get("examples"))
    said = [size(amount)] if amount else [f"{examples:,.0f}"] if examples else []
    if window and stride:
        said.append(f"windows of {window:,.0f} tokens every {stride:,.0f}")
    return f" ({', '.join(said)})" if said else ""

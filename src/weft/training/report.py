"""`report.html`: what a run reached, how it got there, and whether its curves look healthy, from its folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from weft.errors import WeftError
from weft.report.formats import count, duration, percent, rate
from weft.report.markup import Markup, join, tag
from weft.report.page import facts, figure, flatten, fold, heat_figure, page, prose, section
from weft.runs.atomic import write_text
from weft.training import pictures
from weft.training.diagnosis import Finding, diagnose
from weft.training.overlay import overlay_page
from weft.training.pictures import BITS, baselines, comparison, measure
from weft.training.record import Line, Run, curve_of, finite

TREND = {
    "diverging": "the training loss has risen",
    "overfitting": "overfitting since step {:,}",
    "validation-rose": "validation has risen since step {:,}",
    "falling": "still falling",
    "plateau": "level at the end",
    "short": "too few log lines to judge a trend",
}
SAMPLES_SHOWN = 4
SAMPLE_LENGTH = 600


def write_report(runs: list[Path], out: Path | None = None) -> Path:
    """Writes the page of one run (RUN/report.html), or of several laid over each other, and returns where it is.

    The same files give the same bytes. Raises WeftError for what is no run folder, or where it cannot write.
    """
    if not runs:
        raise WeftError("a report needs at least one run folder, and none was given")
    records = [Run.read(folder) for folder in runs]
    target = out or runs[0] / ("report.html" if len(runs) == 1 else "report-overlay.html")
    if target.is_dir():
        raise WeftError(f"{target} is a folder; name the file that the report is to be written to")
    write_text(target, run_page(records[0]) if len(records) == 1 else overlay_page(records))
    return target


def run_page(run: Run) -> str:
    """The page of one run."""
    findings = diagnose(run.log)
    curve = pictures.learning_curve(run, findings)
    steering = [
        figure(chart, half=True) for chart in (pictures.learning_rate(run), pictures.gradient_norm(run)) if chart
    ]
    layers = [heat_figure(chart) for chart in pictures.layers(run, findings)]
    speed = [figure(chart, half=True) for chart in pictures.speed(run)]
    status = str(run.at("status") or "")
    body = [
        tag("p", " · ".join(part for part in ("weft training report", run.name, status) if part), class_="kicker"),
        tag("h1", prose(verdict(run, findings))),
        _headline(run),
        figure(curve) if curve else "",
        section("What the curves say", _findings(run, findings)),
        section("What it wrote along the way", _samples(run)),
        section("How it was steered", _pair(steering)),
        section("Layer by layer", _pair(layers)),
        section("How fast it went", _pair(speed)),
        section("What it was made from", *_raw(run)),
    ]
    footer = "Drawn from the run folder alone; the same files give the same page."
    return page(f"{run.name} · weft training report", [part for part in body if part], footer)


def verdict(run: Run, findings: list[Finding]) -> str:
    """The run in one sentence: what it reached, against what, and where its curve was heading."""
    found, stopped = measure(run), _stopped(run)
    if found is None:
        return f"{stopped or 'Nothing to show yet'}: the log holds no loss."
    where = "" if found.whole else " on part of the validation text" if found.validation else " in training"
    text = f"{found} {found.unit}{where} after {_steps(found.step)}"
    kinds = {finding.kind: finding for finding in findings}
    if "not-finite" in kinds:
        return f"{kinds['not-finite'].message.removesuffix('.')}; the last finite measure is {text}."
    for against in baselines(run)[:1] if found.unit == BITS else ():
        text += f": {comparison(found.value, against)}"
    said = [text, *(words.format(kinds[kind].step) for kind, words in TREND.items() if kind in kinds)][:2]
    if not found.validation:
        said.append("nothing was validated")
    return f"{stopped + ': ' if stopped else ''}{'; '.join(said)}."


def _stopped(run: Run) -> str:
    """How a run that did not finish stands; empty for one that did, and where the manifest does not say."""
    words = {"interrupted": "Interrupted", "failed": "Failed", "running": "Not finished"}.get(str(run.at("status")), "")
    if not words or not run.log.lines:
        return words
    asked = run.number("budget.steps")
    return f"{words} at step {run.log.lines[-1].step:,}" + (f" of {asked:,.0f}" if asked else "")


def _steps(step: int) -> str:
    return f"{step:,} step{'' if step == 1 else 's'}"


def _headline(run: Run) -> Markup:
    """The one number and its comparison, then what it cost."""
    found, items = measure(run), []
    if found:
        where = "validation" if found.whole else "part of validation" if found.validation else "training"
        items.append(tag("div", tag("dt", f"{found.unit}, {where}"), tag("dd", str(found)), class_="first"))
        for against in baselines(run)[:1] if found.unit == BITS else ():
            change = percent(found.value / against.value - 1)
            items.append(_item(f"against {against.name}", change if change.startswith("−") else f"+{change}"))
    parameters, speed = run.number("model.parameters"), run.log.clock("tokens_per_second").finite()
    if parameters:
        items.append(_item("parameters", count(parameters)))
    for line in run.log.lines[-1:]:
        if math.isfinite(line.tokens):
            items.append(_item("tokens", count(line.tokens)))
        if math.isfinite(line.seconds):
            items.append(_item("time", duration(line.seconds)))
    if len(speed):
        items.append(_item("speed", rate(median(speed.values))))
    return tag("dl", join(items), class_="headline") if items else Markup("")


def _item(name: str, value: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def _pair(figures: list[Markup]) -> Markup:
    return tag("div", join(figures, "\n"), class_="pair") if figures else Markup("")


def _findings(run: Run, findings: list[Finding]) -> Markup:
    """The diagnosis, the data's own warnings with it, and the rules folded."""
    warnings = run.at("data.warnings")
    about_data = warnings if isinstance(warnings, list) else []
    said = [("warning", "data", text) for text in about_data]
    said += [(finding.level, finding.level, finding.message) for finding in findings]
    if not said:
        return tag("p", "The log holds nothing that a rule applies to.")
    lines = (
        tag("li", tag("span", label, class_="level"), tag("span", prose(str(text))), class_=level)
        for level, label, text in said
    )
    rules = facts((finding.kind.replace("-", " "), finding.rule) for finding in findings)
    return join(
        [tag("ul", join(lines, "\n"), class_="findings"), fold("The rules behind these sentences", rules)], "\n"
    )


def _samples(run: Run) -> Markup:
    """A few samples from the first to the last step, each with the validation loss of that time; the rest folded."""
    lines = [line for line in run.log.of("sample") if isinstance(line.values.get("text"), str)]
    if not lines:
        return Markup("")
    steps = sorted({line.step for line in lines})
    chosen = {steps[round(i * (len(steps) - 1) / (SAMPLES_SHOWN - 1))] for i in range(SAMPLES_SHOWN)}
    first = next((line.values.get("prompt") for line in lines), "")
    few = [line for line in lines if line.step in chosen and line.values.get("prompt") == first]
    losses = _losses(run)
    shown = tag("dl", join((_sample(line, losses, SAMPLE_LENGTH) for line in few), "\n"), class_="samples")
    if len(few) == len(lines) and all(len(line.values["text"]) <= SAMPLE_LENGTH for line in lines):
        return shown
    everything = tag("dl", join((_sample(line, losses) for line in lines), "\n"), class_="samples")
    return join([shown, fold(f"All {len(lines):,} samples in full", everything)], "\n")


def _losses(run: Run) -> dict[int, str]:
    """The validation loss at each step where there is one, with its unit."""
    for name, unit in (("bits_per_byte", BITS), ("loss", pictures.NATS)):
        curve = curve_of(run.log.repeated(), name).finite()
        if len(curve):
            return {step: f"{value:.2f} {unit}" for step, value in zip(curve.steps, curve.values, strict=True)}
    return {}


def _sample(line: Line, losses: Mapping[int, str], most: int | None = None) -> Markup:
    prompt, text = str(line.values.get("prompt") or ""), str(line.values["text"])
    beside = [losses[line.step]] if line.step in losses else []
    temperature = finite(line.values.get("temperature"))
    if temperature is not None:
        beside.append(f"temperature {temperature:g}")
    rest = text.removeprefix(prompt)
    cut = rest if most is None or len(rest) <= most else rest[:most] + "…"
    written = [tag("span", prompt, class_="prompt"), cut or tag("span", "(nothing)", class_="prompt")]
    label = [tag("b", f"step {line.step:,}"), join(beside, tag("br"))]
    return tag("div", tag("dt", join(label)), tag("dd", join(written), dir="auto"))


def _raw(run: Run) -> list[Markup]:
    """Recipe, data, machine, versions: the raw material, folded."""
    events = [
        (f"step {line.step:,}", line.values.get("message") or line.values.get("what") or "")
        for line in run.log.of("event")
    ]
    named = ("data", "model", "machine", "versions")
    rest = {key: value for key, value in run.manifest.items() if key not in named}
    parts = [
        ("Recipe, as asked", tag("pre", run.recipe) if run.recipe else ""),
        ("Recipe, with every default", tag("pre", run.resolved) if run.resolved else ""),
        *((name.capitalize(), _facts(run.section(name))) for name in named),
        ("Identity and command", _facts(rest)),
        ("Events", facts(events) if events else ""),
    ]
    return [fold(title, content, raw=True) for title, content in parts if content]


def _facts(mapping: Mapping[str, object]) -> Markup:
    return facts(flatten(mapping)) if mapping else Markup("")

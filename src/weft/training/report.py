"""`report.html`: what a run reached, how it got there, and whether its curves look healthy, from its folder alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from statistics import median

from weft.errors import WeftError
from weft.report.formats import count, duration, rate
from weft.report.markup import Markup, join, tag
from weft.report.page import facts, figure, flatten, fold, heat_figure, page, prose, section
from weft.runs.atomic import write_text
from weft.training import pictures
from weft.training.diagnosis import Finding, diagnose, ordered
from weft.training.measures import LANGUAGE, baselines, comparison, losses, measure, task_of, validated
from weft.training.overlay import overlay_page
from weft.training.record import Line, Run, finite
from weft.training.report_tasks import opening, read_answers, task_sections
from weft.training.task_diagnosis import diagnose_answers

TREND = {
    "one-class": "it puts every example into one class",
    "one-answer": "it writes the same answer to every source",
    "diverging": "the training loss has risen",
    "overfitting": "overfitting since step {:,}",
    "validation-rose": "validation has risen since step {:,}",
    "falling": "still falling",
    "plateau": "level at the end",
    "short": "too few log lines to judge a trend",
}
_OF_THE_LOSS = {"falling": "the training loss still falls", "plateau": "the training loss was level at the end"}
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
    answers = read_answers(run)
    findings = ordered([*diagnose(run.log), *diagnose_answers(run, answers)])
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
        *opening(run, findings, answers, curve),
        section("What the curves say", _findings(run, findings)),
        *task_sections(run, answers),
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
    held_out = task_of(run.log).held_out
    where = "" if found.whole else f" on part of the {held_out}" if found.validation else " in training"
    text = f"{found.named}{where} after {_steps(found.step)}"
    kinds = {finding.kind: finding for finding in findings}
    if "not-finite" in kinds:
        return f"{kinds['not-finite'].message.removesuffix('.')}; the last finite measure is {text}."
    for against in baselines(run, found.metric)[:1]:
        text += f": {comparison(found, against)}"
    # What is judged by something else than the loss may rise while the loss is level, or falls.
    trend = TREND if found.metric.lower else TREND | _OF_THE_LOSS
    said = [text, *(words.format(kinds[kind].step) for kind, words in trend.items() if kind in kinds)][:2]
    if not found.validation:
        said.append("nothing was validated")
    sentence = "; ".join(said)
    return f"{stopped}: {sentence}." if stopped else f"{sentence[:1].upper()}{sentence[1:]}."


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
        items.append(tag("div", tag("dt", f"{found.metric.name}, {where}"), tag("dd", str(found)), class_="first"))
        if found.interval:
            low, high = (found.metric.show(value) for value in found.interval)
            items.append(_item("95 % interval", f"{low.removesuffix(found.metric.unit)} to {high}"))
        for metric in task_of(run.log).metrics[1:]:
            other = validated(run.log, metric)
            items += [_item(metric.name, str(other))] if other else []
        for against in baselines(run, found.metric)[: 1 if found.metric.lower else 2]:
            items.append(_item(f"against {against.label}", found.metric.change(found.value, against.value)))
    parameters, speed = run.number("model.parameters"), run.log.clock("tokens_per_second").finite()
    if parameters:
        items.append(_item("parameters", count(parameters)))
    language = task_of(run.log) is LANGUAGE
    for line in run.log.lines[-1:]:
        if language and math.isfinite(line.tokens):
            items.append(_item("tokens", count(line.tokens)))
        if math.isfinite(line.seconds):
            items.append(_item("time", duration(line.seconds)))
    if language and len(speed):
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
    metric, values = losses(run)
    beside = {step: metric.named(value) for step, value in values.items()}
    shown = tag("dl", join((_sample(line, beside, SAMPLE_LENGTH) for line in few), "\n"), class_="samples")
    if len(few) == len(lines) and all(len(line.values["text"]) <= SAMPLE_LENGTH for line in lines):
        return shown
    everything = tag("dl", join((_sample(line, beside) for line in lines), "\n"), class_="samples")
    return join([shown, fold(f"All {len(lines):,} samples in full", everything)], "\n")


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
    named = ("data", "model", "transfer", "machine", "versions")
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

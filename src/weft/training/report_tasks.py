"""What a report says of a task: the metric beside simple methods, what was answered, and the data before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weft.report.formats import percent
from weft.report.grids import Confusion, bars, captioned, confusion_grid, quotes
from weft.report.markup import Markup, join, tag
from weft.report.page import figure, prose, section, table
from weft.report.svg import Chart
from weft.training.answers import Classified, Mistake, Written
from weft.training.diagnosis import Finding
from weft.training.measures import CLASSIFICATION, LANGUAGE, SEQ2SEQ, Metric, baselines, measure, task_of, validated
from weft.training.pictures import TRAINING, VALIDATION
from weft.training.record import Run, finite
from weft.training.task_pictures import accuracy_note, calibration, reached, signatures, spread_of_answers, task_curves

CLASSES = 40
"""Classes that a picture shows; the smallest beyond are put together."""
TEXT = 700
"""Characters of a text that are shown."""


def read_answers(run: Run) -> Classified | Written | None:
    """What the run said of each validation example, where its task has answers and they were written down."""
    task = task_of(run.log)
    if task is CLASSIFICATION:
        return Classified.read(run)
    return Written.read(run) if task is SEQ2SEQ else None


def opening(
    run: Run, findings: list[Finding], answers: Classified | Written | None, loss: Chart | None
) -> list[Markup]:
    """What stands first: the metric over the steps, the same beside simple methods, the other metric and the loss; of a
    language model the loss alone."""
    if task_of(run.log) is LANGUAGE:
        return [figure(loss)] if loss else []
    charts = task_curves(run, findings)
    charts += [loss] if loss else []
    halves = [figure(chart, half=True) for chart in charts[1:]]
    pair = tag("div", join(halves, "\n"), class_="pair") if halves else Markup("")
    return [*(figure(chart) for chart in charts[:1]), _compared(run, answers), pair]


def task_sections(run: Run, answers: Classified | Written | None) -> list[Markup]:
    """What was answered, and what the data were before anything was learned."""
    task = task_of(run.log)
    if task is LANGUAGE:
        return []
    shown = _classified(answers) if isinstance(answers, Classified) else []
    if isinstance(answers, Written):
        shown = _written(run, answers)
    return [*shown, section("The data before training", *_data(run))]


def _compared(run: Run, answers: Classified | Written | None) -> Markup:
    """This run and the simple methods in every metric of the task."""
    metrics = task_of(run.log).metrics
    rows: list[list[object]] = []
    for how in answers.ways if isinstance(answers, Written) else (["greedy"] if task_of(run.log) is SEQ2SEQ else []):
        values = [reached(run, metric, how) for metric in metrics]
        if any(value is not None for value in values):
            rows.append([f"this run, {how}", *_values(metrics, values), *_of_way(answers, how)])
    if not rows and (found := [validated(run.log, metric) for metric in metrics]) and any(found):
        rows.append(["this run", *_values(metrics, [one.value if one else None for one in found])])
    by_metric = [{level.label: level.value for level in baselines(run, metric)} for metric in metrics]
    for name in dict.fromkeys(name for levels in by_metric for name in levels):
        rows.append([name, *_values(metrics, [levels.get(name) for levels in by_metric])])
    width = max(map(len, rows), default=0)
    heads = ["", *(metric.name for metric in metrics), "length", "exact", "empty"][:width]
    filled = [[*row, *[""] * (width - len(row))] for row in rows]
    note = " ".join(f"{text}." for text in signatures(run))
    said = measure(run)
    about = [accuracy_note(said)] if said else []
    made = dict.fromkeys(
        (level.label, level.how) for metric in metrics for level in baselines(run, metric) if level.how
    )
    about += [f"{text}." if text.startswith(label) else f"{label}: {text}." for label, text in made]
    if width > 1 + len(metrics):
        about.append("Length: characters of the answers over those of the references.")
    caption = tag("p", prose(" ".join(about)), " ", tag("span", note, class_="signature"), class_="caption")
    return tag("div", table(heads, filled), caption, class_="compared") if len(rows) > 1 or note else Markup("")


def _values(metrics: Sequence[Metric], values: Sequence[float | None]) -> list[str]:
    return ["" if value is None else metric.show(value) for metric, value in zip(metrics, values, strict=True)]


def _of_way(answers: Classified | Written | None, how: str) -> list[str]:
    """Length beside the references, share of answers that are right to the letter, and of those that are empty."""
    way = answers.ways.get(how) if isinstance(answers, Written) else None
    if not way:
        return []
    ratio = f"{way.ratio:.2f}" if math.isfinite(way.ratio) else ""
    return [ratio, percent(way.exact / way.answers), percent(way.empty / way.answers) if way.empty else "none"]


def _classified(found: Classified) -> list[Markup]:
    counts = found.confusion()
    confusion = Confusion(found.labels, counts.tolist()).cut(CLASSES)
    subtitle = "Rows: what an example is; columns: what it was called; the colour is the share of its row"
    matrix = captioned(_confused(confusion), subtitle, confusion_grid(confusion))
    rows = []
    for label, (precision, recall, f1, support), called in zip(
        found.labels, found.by_class(), counts.sum(0), strict=True
    ):
        shown = [f"{100 * value:.1f}" for value in (precision, recall, f1)]
        if not support:
            shown[1] = shown[2] = "–"
        if not called:
            shown[0] = "–"
        rows.append([label, *shown, f"{support:,}", f"{int(called):,}"])
    heads = ["class", "precision, %", "recall, %", "F1, %", "examples", "called so"]
    by_class = tag("div", tag("h3", "Class by class"), table(heads, rows), class_="by-class")
    sure = [(_mistaken(one), [("", one.text)]) for one in found.mistakes]
    wrong, total = int((found.truth_N != found.predicted_N).sum()), len(found.truth_N)
    said = f"The {len(sure)} most confident of {wrong:,} mistakes among {total:,} examples, the surest first."
    lead = tag("p", said, class_="lead")
    trusted, parts = calibration(found), [section("Which class it takes for which", matrix, by_class)]
    if sure:
        parts.append(section("Where it was surest and wrong", lead, quotes(sure, TEXT)))
    if trusted:
        parts.append(section("How far its probabilities can be trusted", tag("div", trusted, class_="pair")))
    return parts


def _mistaken(one: Mistake) -> Markup:
    called, label = (tag("b", name, dir="auto") for name in (one.predicted, one.label))
    return tag("span", f"{100 * one.probability:.1f} % ", called, " but is ", label)


def _confused(confusion: Confusion) -> str:
    """The most frequent mistake."""
    wrong = [
        (amount, -i, -j) for i, row in enumerate(confusion.counts) for j, amount in enumerate(row) if i != j and amount
    ]
    if not wrong:
        return "No example was put into a wrong class"
    amount, i, j = max(wrong)
    total = sum(confusion.counts[-i])
    return f"Most often “{confusion.names[-i]}” is called “{confusion.names[-j]}”: {amount:,} of {total:,}"


def _written(run: Run, found: Written) -> list[Markup]:
    first = next(iter(found.ways))
    entries = []
    for sample in found.samples:
        label = tag("span", tag("b", f"chrF {sample.score:.0f}"), f", {100 * sample.worse:.0f} % score lower")
        said: dict[str, list[str]] = {}
        for how, answer in sample.answers.items():
            said.setdefault(answer, []).append(how)
        parts = [("source", sample.text), ("reference", sample.target)]
        entries.append((label, [*parts, *((" = ".join(ways), answer) for answer, ways in said.items())]))
    chart = spread_of_answers(run, found)
    lead = (
        f"Not picked by hand: {first}'s answers put in the order of their chrF, and from there those at "
        f"{', '.join(f'{round(100 * sample.worse)}' for sample in found.samples)} % of the way."
    )
    note = "chrF compares letters: a good answer in other words scores low."
    body = [tag("p", lead, " ", note, class_="lead"), quotes(entries, TEXT), figure(chart) if chart else ""]
    return [section("What it wrote", *body)]


def _data(run: Run) -> list[Markup]:
    """Class balance, lengths, and what stands in more than one split, as they were found before training."""
    survey = run.section("data.examples")
    found = survey.get("parts")
    pairs = found.items() if isinstance(found, Mapping) else ()
    parts = {str(name): part for name, part in pairs if isinstance(part, Mapping)}
    return [part for part in (_balance(run, parts), _lengths(parts), _twice(survey, parts)) if part]


def _balance(run: Run, parts: Mapping[str, Mapping[str, Any]]) -> Markup:
    colors = (TRAINING, VALIDATION, "green", "purple")
    by_part = {name: labels for name, part in parts.items() if (labels := _counts(part.get("labels")))}
    known = run.at("data.labels")
    listed = [*(known if isinstance(known, list) else []), *(name for counts in by_part.values() for name in counts)]
    names = list(dict.fromkeys(map(str, listed)))
    if not by_part or not names:
        return Markup("")
    train = next(iter(by_part.values()))
    total = max(1, sum(train.values()))
    most, least = max(names, key=lambda name: train.get(name, 0)), min(names, key=lambda name: train.get(name, 0))
    title = (
        f"“{most}” has {percent(train.get(most, 0) / total)} of the training examples, "
        f"“{least}” {percent(train.get(least, 0) / total)}"
    )
    shown = sorted(names, key=lambda name: -train.get(name, 0))[:CLASSES]
    columns = [
        (name, colors[i % len(colors)], [counts.get(label, 0) for label in shown])
        for i, (name, counts) in enumerate(by_part.items())
    ]
    rest = f"The {len(shown)} largest of {len(names):,} classes." if len(names) > len(shown) else ""
    return captioned(title, f"Examples of each of {len(names):,} classes", bars(shown, columns), rest)


def _counts(labels: object) -> dict[str, int]:
    if not isinstance(labels, Mapping):
        return {}
    return {str(name): int(n) for name, value in labels.items() if (n := finite(value)) is not None and n >= 0}


def _lengths(parts: Mapping[str, Mapping[str, Any]]) -> Markup:
    rows = []
    for name, part in parts.items():
        examples = finite(part.get("examples"))
        shown = f"{examples:,.0f}" if examples is not None else ""
        rows.append([name, shown, _length(part.get("characters")), _length(part.get("words"))])
        if isinstance(part.get("target_characters"), Mapping):
            rows.append([f"{name}: targets", "", _length(part["target_characters"]), _length(part.get("target_words"))])
    if not rows:
        return Markup("")
    grid = table(["", "examples", "characters", "words"], rows)
    words = "half of the texts are no longer than the first number, nine in ten than the second, all than the third"
    about = tag("p", f"Lengths: {words}.", class_="caption")
    return tag("div", grid, about, class_="lengths")


def _length(found: object) -> str:
    if not isinstance(found, Mapping):
        return ""
    values = [finite(found.get(key)) for key in ("median", "p90", "longest")]
    return " / ".join("?" if value is None else f"{value:,.0f}" for value in values)


def _twice(survey: Mapping[str, Any], parts: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Texts that stand in more than one split, or more than once, or are empty."""
    said = []
    overlaps = survey.get("overlaps")
    for overlap in overlaps if isinstance(overlaps, list) else []:
        if isinstance(overlap, Mapping):
            said.append(_overlap(overlap))
    for name, part in parts.items():
        for key, words in (
            ("repeated", "stand there more than once"),
            ("empty", "are empty"),
            ("empty_targets", "have an empty target"),
        ):
            amount = finite(part.get(key))
            if amount:
                said.append(f"{name}: {amount:,.0f} examples {words}.")
    contradictory = finite(survey.get("contradictory"))
    if contradictory:
        said.append(f"{contradictory:,.0f} texts occur with more than one answer.")
    lines = [tag("li", prose(text)) for text in said if text]
    return tag("ul", join(lines, "\n"), class_="plain") if lines else Markup("")


def _overlap(overlap: Mapping[str, Any]) -> str:
    exact, near, examples, against = (
        finite(overlap.get(k)) or 0.0 for k in ("exact", "near", "examples", "contradicted")
    )
    names = [str(overlap.get(key) or "?") for key in ("split", "earlier")]
    if not exact and not near:
        return f"No text of {names[0]} stands in {names[1]}, too."
    share = f" ({percent(exact / examples)})" if examples else ""
    other = f", {against:,.0f} of them with another answer" if against else ""
    return (
        f"{exact:,.0f} texts of {names[0]}{share} stand in {names[1]}, too{other}; {near:,.0f} more do nearly: there a "
        "model may answer by heart."
    )

"""`report.html`: what a study asked, what it found and how sure that is; from its results and its cells' logs alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.report.formats import count
from weft.report.intervals import pictures as drawn_intervals
from weft.report.markup import Markup, join, tag
from weft.report.page import drawing, facts, figure, fold, page, prose, section, table
from weft.report.scatter import pictures as drawn_scatter
from weft.report.svg import Chart
from weft.studies.markdown import CLOCK, FRONT, clock_rows, flat
from weft.studies.pictures import Told, cost, effect_rows, interval_note, intervals, law_line, training, validation
from weft.studies.sentences import (
    DECIDED,
    UNDECLARED,
    Results,
    across,
    against,
    called,
    cell_rows,
    choices,
    claimed,
    command,
    confidence,
    difference,
    ends,
    failed_cells,
    failures,
    law,
    leading,
    metric_of,
    notes_on,
    pareto,
    question,
    reuse,
    row_name,
    shown,
    statistics,
    summary,
    unit_note,
)

FOOTER = "Drawn from the study's folder and its cells alone; the same files give the same page."
QUICK = "A quick look, not the study: fewer seeds, shorter runs. "
CODE = re.compile(r"`([^`]*)`")
MINUS = re.compile(r"(?<![\w.`-])-(?=\d)")
OPEN_DIFFERENCES = 12
"""Lines of what differs that stand open; more are folded, arm by arm."""

Part = tuple[str, list[Markup]]


def study_page(results: Results, store: Path) -> str:
    """The page of one study."""
    told = Told(results, store)
    body = [_kicker("weft study", results), *_opening(told), *(section(*_flat(part)) for part in _parts(told))]
    raw = section("What it was made from", _raw(told))
    return page(f"{results['study']} · weft study", [part for part in (*body, _clock(told), raw) if part], FOOTER)


def series_page(title: str, claim: str, parts: Sequence[tuple[str, Results, Path]]) -> str:
    """Several settings of one question on one page: a sentence and a picture for each, then all of each."""
    order = tuple(dict.fromkeys(arm for _, results, _ in parts for arm in _others(results)))
    each = [(setting, Told(results, store, order)) for setting, results, store in parts]
    heads, rows = across([(setting, results) for setting, results, _ in parts])
    quick = any(results["quick"] for _, results, _ in parts)
    sentences = tag(
        "dl",
        join((_pair(setting, _words(summary(told.results))) for setting, told in each), "\n"),
        class_="facts verdicts",
    )
    small = [_intervals(told, half=True, title=setting) for setting, told in each]
    body = [
        tag("p", "weft study" + " · quick look" * quick, class_="kicker"),
        tag("h1", _words(title)),
        tag("p", _words(QUICK * quick + claimed(claim)), class_="lead"),
        sentences,
        tag("div", table(heads, rows), class_="dense across") if rows else "",
        _grid([picture for picture in small if picture]),
        *(_setting(setting, told) for setting, told in each),
    ]
    return page(f"{title} · weft study", [part for part in body if part], FOOTER)


def _others(results: Results) -> list[str]:
    return [name for name in results["arms"] if name != results["question"]["baseline"]]


def _setting(setting: str, told: Told) -> Markup:
    """All of one setting, folded but for what it found."""
    folded = [fold(title, *content, raw=True) for title, content in _parts(told) if any(content)]
    content = [tag("p", _words(summary(told.results)), class_="verdict"), _asked(told), *_found(told), *folded]
    return section(setting, *content, _clock(told, folded=True), _raw(told))


def _kicker(what: str, results: Results) -> Markup:
    parts = [what, str(results["study"]), *[str(results.get("setting") or "")], "quick look" * results["quick"]]
    return tag("p", " · ".join(part for part in parts if part), class_="kicker")


def _flat(part: Part) -> list[Any]:
    return [part[0], *part[1]]


def _words(text: str) -> Markup:
    """A sentence: `code` as code, a minus as one, numbers tied to their units."""
    pieces = CODE.split(prose(text))
    return join(tag("code", piece) if i % 2 else MINUS.sub("−", piece) for i, piece in enumerate(pieces))


# what was found


def _opening(told: Told) -> list[Markup]:
    """The first screen: the verdict, the question, the number, the picture; then a sentence for each arm."""
    return [tag("h1", _words(summary(told.results))), _asked(told), _headline(told.results), *_found(told)]


def _asked(told: Told) -> Markup:
    results = told.results
    said = [QUICK.strip() * bool(results["quick"]), claimed(results.get("claim")) * (not told.order), question(results)]
    return tag("p", _words(" ".join(part for part in said if part)), class_="lead")


def _headline(results: Results) -> Markup:
    """The one number with its interval, and what it rests on."""
    one = leading(results)
    if one is None:
        return Markup("")
    words = f"{metric_of(results)}, {called(one['arm'])} less {called(one['baseline'])}"
    means = [results["arms"][name]["mean"] for name in (one["baseline"], one["arm"])]
    items = [
        _pair(f"{confidence(results)} interval, {one['seeds']} seeds", ends(one)),
        *(_pair(name, shown(mean)) for name, mean in zip((one["baseline"], one["arm"]), means, strict=True)),
        _pair("p after Holm", shown(one["p_holm"], 2)) if one["p_holm"] is not None else "",
    ]
    undecided = one["verdict"]["kind"] not in DECIDED
    first = tag("div", tag("dt", words), tag("dd", difference(one)), class_="first open" if undecided else "first")
    return tag("dl", join([first, *items]), class_="headline")


def _pair(name: str, value: object) -> Markup:
    return tag("div", tag("dt", name), tag("dd", value))


def _found(told: Told) -> list[Markup]:
    """The picture of the differences, and a sentence for each where there are several."""
    found = told.results["comparisons"]
    listed = tag("dl", join((_verdict(told, one) for one in found), "\n"), class_="facts verdicts")
    parts = [_intervals(told), listed if len(found) > 1 else ""]
    fitted, note = law(told.results), unit_note(told.results)
    parts += [tag("p", _words(fitted), class_="law")] if fitted else []
    parts += [tag("p", _words(note), class_="caption")] if note else []
    parts += [_law(told)]
    return [part for part in parts if isinstance(part, Markup)]


def _law(told: Told) -> Markup:
    """The picture of a power law."""
    chart = law_line(told)
    if chart is None:
        return Markup("")
    note = (
        f"Dotted: the fitted power law. Vertical lines: {confidence(told.results)} intervals of each mean over seeds."
    )
    return drawing(chart.title, f"{metric_of(told.results)} against {chart.x_name}", drawn_scatter(chart), note)


def _verdict(told: Told, one: Mapping[str, Any]) -> Markup:
    """One arm's sentence, with why its cells failed where some did."""
    name = tag("span", row_name(one, told.results), class_=f"c-{told.color(one['arm'])}")
    failed = failures(told.results, one["arm"])
    return tag(
        "div", tag("dt", name), tag("dd", _words(one["verdict"]["words"]), tag("small", failed) if failed else "")
    )


def _intervals(told: Told, half: bool = False, title: str = "") -> Markup:
    chart = intervals(told)
    if chart is None:
        return Markup("")
    metric = told.results["question"]["metric"]
    subtitle = f"Difference from {against(told.results)} in {metric_of(told.results)}; {metric['better']} is better"
    heading = f"{title}: {chart.title}" if title else chart.title
    return drawing(heading, subtitle, drawn_intervals(chart, half), "" if half else interval_note(told, chart),
                   Markup("") if half else _figures(told), half)  # fmt: skip


def _figures(told: Told) -> Markup:
    """The values behind the picture of differences."""
    results, known = told.results, effect_rows(told)
    seeds = [f"seed {seed}" for seed in results["seeds"]]
    rows = []
    for one in results["comparisons"]:
        pairs = zip(*(results["arms"][name]["scores"] for name in (one["arm"], one["baseline"])), strict=True)
        each = ["" if None in pair else _minus(f"{pair[0] - pair[1]:+.3g}") for pair in pairs]
        rows.append([one["arm"], *known.get(one["arm"], ("", "")), *each])
    return fold("Values", table(["arm", "difference", f"{confidence(results)} interval", *seeds], rows))


def _minus(text: str) -> str:
    return MINUS.sub("−", text)


# the sections


def _parts(told: Told) -> list[Part]:
    """All sections but those of the clock and the raw material, by how often they are wanted."""
    before = "the arm before" if told.results["question"].get("ladder") else "the baseline"
    parts = [
        ("How they learned", _curves(told)),
        ("What it cost", _costs(told)),
        ("The figures", [_table(told)]),
        (f"What differs from {before}", [_differences(told)]),
        ("How the statistics were chosen", [_statistics(told)]),
        ("Cells, and how to repeat each", [_cells(told)]),
    ]
    return [(title, content) for title, content in parts if any(content)]


def _curves(told: Told) -> list[Markup]:
    """Validation and training; of several settings on one page each once, small and side by side."""
    found = [charts for charts in (validation(told), training(told)) if charts]
    if told.order and all(len(charts) == 1 for charts in found):
        return [_grid([figure(charts[0], half=True) for charts in found])]
    return [_curve(charts) for charts in found]


def _curve(charts: Sequence[Chart]) -> Markup:
    """One picture, or a heading and a small picture an arm."""
    head, *small = charts
    if not small:
        return figure(head)
    return drawing(head.title, head.subtitle, [_grid([figure(chart, half=True) for chart in small])], head.caption)


def _grid(figures: Sequence[Markup]) -> Markup:
    return tag("div", join(figures, "\n"), class_="pair") if figures else Markup("")


def _costs(told: Told) -> list[Markup]:
    """Quality against FLOPs, against parameters where those differ; words where nothing does."""
    charts = [chart for quantity in ("flops", "parameters", "cache_bytes") if (chart := cost(told, quantity))]
    if not charts:
        alike = [
            name for name, key in (("parameters", "parameters"), ("training FLOPs", "flops"))
            if len({arm[key] for arm in told.results["arms"].values()}) == 1
        ]  # fmt: skip
        return [tag("p", f"All arms have the same {' and the same '.join(alike)}.")] if alike else []
    note = f"Vertical lines: {confidence(told.results)} intervals of each mean over seeds."
    return [
        drawing(chart.title, f"{metric_of(told.results)} against {chart.x_name}", drawn_scatter(chart),
                note + " Dotted: the Pareto front." * (len(chart.front) > 1))
        for chart in charts
    ]  # fmt: skip


def _table(told: Told) -> Markup:
    """Quality beside cost."""
    results, known, front = told.results, effect_rows(told), pareto(told.results)
    kinds = {one["arm"]: one["verdict"]["kind"] for one in results["comparisons"]}
    rows = []
    for name, arm in results["arms"].items():
        cells = [
            tag("span", name, class_=f"c-{told.color(name)}"), shown(arm["mean"]), *known.get(name, ("", "")),
            "baseline" if name == told.baseline else kinds.get(name, "untested"), count(arm["parameters"]),
            "" if arm["tokens"] is None else count(arm["tokens"]), shown(arm["flops"], 3),
            "yes" if name in front else "",
        ]  # fmt: skip
        rows.append(cells)
    heads = ["arm", "mean", "difference", f"{confidence(results)} interval", "verdict", "parameters", "tokens"]
    note = tag("p", _words(f"Mean and difference: {metric_of(results)}. {FRONT}"), class_="caption")
    shown_table = table([*heads, "training FLOPs", "on the front"], rows)
    return join([tag("div", shown_table, class_="dense"), note], "\n")


def _differences(told: Told) -> Markup:
    """Every recipe as what differs from the baseline's."""
    arms = told.results["arms"]
    many = sum(len(arm["differences"]) for arm in arms.values()) > OPEN_DIFFERENCES
    parts = []
    for name, arm in arms.items():
        if name == told.baseline and not notes_on(arm):
            continue
        lines = [_change(line) for line in arm["differences"]]
        notes = [
            tag("p", tag("b", f"{what.capitalize()}: ", class_="c-vermillion" if what == UNDECLARED else None),
                tag("code", said), class_="caption")
            for what, said in notes_on(arm)
        ]  # fmt: skip
        same = [tag("p", "Nothing.")] * (not lines and name != told.baseline)
        heading, content = tag("span", name, class_=f"strong c-{told.color(name)}"), [*lines, *same, *notes]
        parts.append(fold(heading, *content) if many and lines else tag("div", tag("h3", heading), join(content, "\n")))
    swept = any(arm["swept"] for arm in arms.values())
    none = [] if swept else [tag("p", "No arm got a learning rate of its own.", class_="caption")]
    lead = tag("p", "− what it has, + what the arm has in its place; all else is equal.", class_="caption")
    return tag("div", join([lead, *parts, *none], "\n"), class_="diffs")


def _change(words: str) -> Markup:
    """`path: before -> after` as three lines."""
    path, _, values = words.partition(": ")
    before, arrow, after = values.partition(" -> ")
    if not arrow or " -> " in after:
        return tag("pre", words)
    lines = [tag("b", path), tag("span", f"− {before}", class_="minus"), tag("span", f"+ {after}", class_="plus")]
    return tag("pre", join(lines, "\n"))


def _statistics(told: Told) -> Markup:
    results = told.results
    said = tag("ul", join((tag("li", _words(line)) for line in choices(results)), "\n"), class_="plain")
    each = [
        fold(one["arm"], facts((name, _words(value)) for name, value in statistics(one)))
        for one in results["comparisons"]
    ]
    if len(each) == 1:
        one = results["comparisons"][0]
        each = [facts((name, _words(value)) for name, value in statistics(one))]
    return join([*each, said], "\n")


def _cells(told: Told) -> Markup:
    """Each cell's score, or why there is none, whether it was there before, and what repeats it."""
    rows = []
    for cell, value in cell_rows(told.results):
        failed = cell["state"] == "failed"
        state = "failed" if failed else "reused" if cell.get("reused") else str(cell["state"])
        again = tag("code", command(cell)) if cell.get("repeatable", True) else ""
        rows.append([tag("span", cell["arm"], class_=f"c-{told.color(cell['arm'])}"), str(cell["seed"]), shown(value),
                     state, again])  # fmt: skip
    reasons = [tag("li", tag("b", where), f" failed: {reason}") for where, reason in failed_cells(told.results)]
    words = f"{reuse(told.results)} Each command, given where `studies` lies, runs that cell once more."
    return join([
        tag("p", _words(words)),
        tag("ul", join(reasons, "\n"), class_="plain") if reasons else "",
        table(["arm", "seed", metric_of(told.results), "state", "repeat it"], rows),
    ], "\n")  # fmt: skip


def _clock(told: Told, folded: bool = False) -> Markup:
    """What a clock said: the only section in which two runs of a study differ."""
    chart = cost(told, "seconds", clock=True)
    picture = (
        [drawing(chart.title, f"{metric_of(told.results)} against {chart.x_name}", drawn_scatter(chart))]
        if chart
        else []
    )
    note = tag("p", "Means over an arm's finished cells. Other work on the machine changes them; no two runs of a study"
                    " agree in this section, and in nothing else.", class_="caption")  # fmt: skip
    content = [*picture, table(["arm", "time a cell", "tokens/s", "peak memory"], clock_rows(told.results)), note]
    if folded:
        return tag("section", fold(CLOCK, *content, raw=True), class_="clock")
    return tag("section", tag("h2", CLOCK), "\n", join(content, "\n"), class_="clock")


def _raw(told: Told) -> Markup:
    """Machine, versions, data, declaration: folded."""
    results, declared = told.results, told.store.parent / str(told.results["study"]) / "study.yaml"
    text = declared.read_text(encoding="utf-8") if declared.is_file() else ""
    parts = [
        ("Machine and versions", facts(flat(results["machine"])) if results.get("machine") else ""),
        ("Data", facts(flat(results["data"])) if results.get("data") else ""),
        ("Declaration (study.yaml)", tag("pre", text) if text else ""),
    ]
    return join([fold(title, content, raw=True) for title, content in parts if content], "\n")

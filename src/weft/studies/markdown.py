"""`report.md`: a study's results as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weft.report.formats import count, duration, size
from weft.studies.sentences import (
    UNDECLARED,
    Results,
    across,
    against,
    cell_rows,
    choices,
    claimed,
    command,
    confidence,
    law,
    metric_of,
    notes_on,
    pareto,
    question,
    reuse,
    shown,
    statistics,
    summary,
    unit_note,
    verdicts,
)

FRONT = "On the front: by their means, no other arm is at least as good for at most as many FLOPs, and better in one."
CLOCK = "By the clock"
"""The heading over what no two runs of a study agree in."""


def report(results: Results) -> str:
    """The page: question and verdict first."""
    return "\n".join([f"# {results['study']}", "", *_body(results, "##")]) + "\n"


def series_report(title: str, claim: str, parts: Sequence[tuple[str, Results, Path]]) -> str:
    """Several settings of one question: a sentence for each, then all of each."""
    lines = [f"# {title}", "", *([claimed(claim), ""] if claim else [])]
    lines += [f"- **{setting}**: {summary(results)}" for setting, results, _ in parts]
    heads, rows = across([(setting, results) for setting, results, _ in parts])
    lines += ["", *_rows(heads, rows)] if rows else []
    for setting, results, _ in parts:
        lines += ["", f"## {setting}", "", *_body(results, "###")]
    return "\n".join(lines).rstrip("\n") + "\n"


def _body(results: Results, level: str) -> list[str]:
    told = [
        ("Arms", _arms(results)),
        ("Statistics", _statistics(results)),
        ("Cells", _cells(results)),
        ("Machine", _machine(results)),
        (CLOCK, _by_the_clock(results)),
    ]
    lines = []
    if results["quick"]:
        lines += ["A quick look, not the study: fewer seeds, shorter runs.", ""]
    if results.get("claim") and level == "##":
        lines += [claimed(results["claim"]), ""]
    lines += [f"**{summary(results)}**", "", question(results), ""]
    lines += [*(f"- {line}" for line in verdicts(results)), ""]
    for note in (law(results), unit_note(results)):
        lines += [note, ""] if note else []
    lines += _table(results)
    for title, content in told:
        lines += [f"{level} {title}", "", *content] if content else []
    return lines


def _rows(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(map(_cell, line))} |" for line in lines] + [""]


def _cell(value: object) -> str:
    return "" if value is None else " ".join(str(value).replace("|", "\\|").split())


def _table(results: Results) -> list[str]:
    """Quality beside cost; what no other arm beats in both is on the front."""
    front = pareto(results)
    effects = {one["arm"]: one for one in results["comparisons"]}
    rows = []
    for name, arm in results["arms"].items():
        one = effects.get(name)
        ends = one["interval"] if one and one["interval"]["low"] is not None else None
        rows.append([
            name, shown(arm["mean"]), shown(one["effect"], 3) if one else "",
            f"{shown(ends['low'], 3)} to {shown(ends['high'], 3)}" if ends else "",
            count(arm["parameters"]), "" if arm["tokens"] is None else count(arm["tokens"]),
            shown(arm["flops"], 3), "yes" if name in front else "",
        ])  # fmt: skip
    interval = f"{confidence(results)} interval"
    difference = f"difference from {against(results)}"
    heads = ["arm", f"mean, {metric_of(results)}", difference, interval, "parameters", "tokens", "training FLOPs"]
    return [*_rows([*heads, "on the front"], rows), FRONT, ""]


def _arms(results: Results) -> list[str]:
    """Every arm as what differs from the baseline."""
    base = "the arm before" if results["question"].get("ladder") else f"`{results['question']['baseline']}`"
    lines = [f"As differences from {base}.", ""]
    for name, arm in results["arms"].items():
        lines.append(f"- **{name}**: {'; '.join(f'`{one}`' for one in arm['differences']) or 'the baseline'}")
        lines += [
            f"  - **{what}**: `{said}`" if what == UNDECLARED else f"  - {what}: {said}" for what, said in notes_on(arm)
        ]
    if not any(arm["swept"] for arm in results["arms"].values()):
        lines.append("- no arm got a learning rate of its own")
    return [*lines, ""]


def _statistics(results: Results) -> list[str]:
    """How each verdict came about."""
    lines = [
        f"- {one['arm']}: {'; '.join(f'{name} {value}' for name, value in statistics(one))}"
        for one in results["comparisons"]
    ]
    return [*lines, "", *choices(results), ""]


def _cells(results: Results) -> list[str]:
    """Each cell's score, or why there is none, and what repeats it."""
    lines = [reuse(results), "", "Where `studies` lies, each command repeats one cell.", ""]
    rows = []
    for cell, value in cell_rows(results):
        reached = f"failed: {cell['reason']}" if cell["state"] == "failed" else shown(value)
        again = f"`{command(cell)}`" if cell.get("repeatable", True) else ""
        rows.append([cell["arm"], cell["seed"], reached, "yes" if cell.get("reused") else "", again])
    return [
        *lines,
        *_rows(["arm", "seed", results["question"]["metric"]["name"], "was there before", "repeat it"], rows),
    ]


def _machine(results: Results) -> list[str]:
    """What the cells ran on."""
    return [f"- {name}: {value}" for name, value in flat(results.get("machine") or {})] + [""]


def flat(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Names and values of nested mappings; several values are said to differ."""
    pairs: list[tuple[str, str]] = []
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            pairs.append((f"{prefix}{key}", f"differs from cell to cell: {', '.join(map(str, value))}"))
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs


def _by_the_clock(results: Results) -> list[str]:
    """What the machine said; no two runs of a study agree in it."""
    return _rows(["arm", "time a cell", "tokens/s", "peak memory"], clock_rows(results))


def clock_rows(results: Results) -> list[list[str]]:
    """What each arm took, by the clock."""
    return [
        [
            name,
            duration(spent["seconds"]) if spent["seconds"] is not None else "",
            count(round(spent["tokens_per_second"])) if spent["tokens_per_second"] is not None else "",
            size(spent["peak_memory"]) if spent["peak_memory"] is not None else "",
        ]
        for name, spent in results["clock"].items()
    ]

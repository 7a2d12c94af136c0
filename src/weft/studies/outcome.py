"""What a study found, from its cells' folders alone: scores, comparisons, cost; as data and as a page of Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import WeftError
from weft.report.formats import count, duration, significant, size
from weft.runs.atomic import write_text
from weft.runs.folder import to_json
from weft.studies.arm import Arm
from weft.studies.arms import Arms
from weft.studies.cells import Cell, State, costs, reason_of, score, state_of
from weft.studies.comparing import compare
from weft.studies.declaration import BY_THE_CLOCK, Study
from weft.studies.estimates import FEWEST_SEEDS
from weft.studies.folder import question_of
from weft.studies.laws import fitted
from weft.studies.scores import CorpusScores, ItemScores

FORMAT = 1


def findings(
    study: Study, arms: Arms, cells: Sequence[Cell], store: Path, looks: Sequence[Sequence[int]], quick: bool
) -> dict[str, Any]:
    """Everything that is known, as plain data; a pure function of the cells' folders, and what a clock said apart."""
    scores = scores_of(study, cells, store)
    means = scores.means() if isinstance(scores, ItemScores) else scores
    values = dict(zip(means.arms, means.values_AS.tolist(), strict=True))
    told: list[Any] = []
    problem = None
    try:
        told = [asdict(one) for one in compare(scores, study.question)]
    except WeftError as error:
        problem = f"untested: {error}"
    spent = {name: _clock(name, cells, store) for name in means.arms}
    return _plain(
        {
            "format": FORMAT,
            "study": study.name,
            "quick": quick,
            "question": question_of(study),
            "seeds": list(study.seed_list),
            "looks": [list(look) for look in looks],
            "items": scores.n_items if isinstance(scores, ItemScores) else None,
            "arms": {arm.name: _arm(arm, values[arm.name]) for arm in arms.arms},
            "comparisons": told,
            "problem": problem,
            "law": _law(study, arms, means),
            "cells": [_cell(cell, store) for cell in cells],
            "clock": spent,
        }
    )


def _law(study: Study, arms: Arms, means: CorpusScores) -> dict[str, Any] | None:
    """The power law through the arms, where one is asked for; or why there is none."""
    if study.law is None:
        return None
    sizes: dict[str, list[float]] = {
        "parameters": [arm.parameters for arm in arms.arms],
        "tokens": [arm.amount("tokens") or 0 for arm in arms.arms],
        "flops": [arm.amount("flops") or 0 for arm in arms.arms],
        "text": [arm.text_bytes for arm in arms.arms],
    }
    try:
        law = fitted(study.law, sizes[study.law], means.values_AS, 1 - study.metric.alpha)
    except WeftError as error:
        return {"amount": study.law, "problem": str(error)}
    return {**asdict(law), "words": law.words}


def scores_of(study: Study, cells: Sequence[Cell], store: Path) -> CorpusScores | ItemScores:
    """The metric of every cell; of every example where examples are right or wrong, and seeds are enough for that."""
    names, seeds = study.arm_names, study.seed_list
    by_place = {(cell.arm, cell.seed): store / cell.name for cell in cells}
    finished = {place: folder for place, folder in by_place.items() if state_of(folder) is State.finished}
    if study.metric.name == "validation/accuracy" and len(seeds) >= FEWEST_SEEDS and finished:
        right = {place: _right(folder) for place, folder in finished.items()}
        ids = set(map(tuple, right.values()))
        if len(ids) == 1:
            n_items = len(next(iter(ids)))
            nothing = [math.nan] * n_items
            tables = [[list(right[arm, s].values()) if (arm, s) in right else nothing for s in seeds] for arm in names]
            return ItemScores(names, seeds, np.array(tables))
    reached = {place: score(folder, study.metric.name) for place, folder in finished.items()}
    rows = [[reached.get((arm, seed), math.nan) for seed in seeds] for arm in names]
    return CorpusScores(names, seeds, np.array(rows))


def measured(study: Study, results: Mapping[str, Any], store: Path) -> CorpusScores | ItemScores:
    """The scores behind results that were written."""
    cells = [Cell(one["arm"], one["seed"], Path(one["folder"]).name, {}, "") for one in results["cells"]]
    return scores_of(study.model_copy(update={"seeds": tuple(results["seeds"])}), cells, store)


def _right(folder: Path) -> dict[str, float]:
    """Which examples of the validation text a run got right, by id."""
    lines = (folder / "predictions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    examples = [json.loads(line) for line in lines]
    return {example["id"]: float(example["label"] == example["predicted"]) for example in examples}


def _arm(arm: Arm, values: Sequence[float]) -> dict[str, Any]:
    """What is known of an arm without a clock."""
    known = [value for value in values if math.isfinite(value)]
    return {
        "scores": list(values),
        "mean": sum(known) / len(known) if known else None,
        "parameters": arm.parameters,
        "flops_per_token": arm.flops_per_token,
        "steps": arm.steps,
        "tokens": arm.amount("tokens"),
        "flops": arm.amount("flops"),
        "cache_bytes": arm.cache_bytes,
        "text_bytes": arm.text_bytes,
        "differences": [one.words() for one in arm.differences],
        "undeclared": [one.words() for one in arm.undeclared],
        "adjusted": arm.adjusted.words() if arm.adjusted else None,
        "swept": {"path": arm.swept[0], "value": arm.swept[1], "at_the_end": arm.swept[2]} if arm.swept else None,
    }


def _clock(name: str, cells: Sequence[Cell], store: Path) -> dict[str, float | None]:
    """Means over an arm's finished cells of what a clock, or the system, said."""
    folders = [store / cell.name for cell in cells if cell.arm == name]
    spent = [costs(folder) for folder in folders if state_of(folder) is State.finished]
    found: dict[str, float | None] = {}
    for cost in BY_THE_CLOCK:
        known = [one[cost] for one in spent if math.isfinite(one[cost])]
        found[cost] = sum(known) / len(known) if known else None
    return found


def _cell(cell: Cell, store: Path) -> dict[str, Any]:
    folder = store / cell.name
    state = state_of(folder)
    told = {"arm": cell.arm, "seed": cell.seed, "folder": f"cells/{cell.name}", "state": str(state)}
    return told | ({"reason": reason_of(folder)} if state is State.failed else {})


def _plain(value: Any) -> Any:
    """As JSON has it: what is no number is null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def write_results(folder: Path, results: dict[str, Any]) -> list[str]:
    """Write results.json and report.md, and return what a terminal should say."""
    write_text(folder / "results.json", to_json(results))
    write_text(folder / "report.md", report(results))
    failed = sum(cell["state"] == "failed" for cell in results["cells"])
    said = [f"{failed} of {len(results['cells'])} cells failed"] * bool(failed)
    return ["", *verdicts(results), *said, f"report: {folder / 'report.md'}"]


def verdicts(results: Mapping[str, Any]) -> list[str]:
    """One sentence for each arm."""
    if results["problem"]:
        return [results["problem"]]
    metric = results["question"]["metric"]["name"]
    return [
        f"{one['arm']} against {one['baseline']}, {metric}: {one['verdict']['words']}" for one in results["comparisons"]
    ]


def report(results: Mapping[str, Any]) -> str:
    """The page: question and verdict first."""
    metric, baseline = results["question"]["metric"], results["question"]["baseline"]
    margin = f"; differences below {metric['margin']:g} do not matter" if metric["margin"] else ""
    equal = ", ".join(results["question"]["equal"]) or "nothing"
    lines = [f"# {results['study']}", ""]
    if results["quick"]:
        lines += ["A quick look, not the study: fewer seeds, shorter runs.", ""]
    lines += [
        f"Which arm is better than `{baseline}` in `{metric['name']}` ({metric['better']} is better{margin})?"
        f" Seeds {', '.join(map(str, results['seeds']))}; held equal: {equal}.",
        "",
        *(f"- {line}" for line in verdicts(results)),
        "",
        *_table(results),
        *_arms(results),
        *_statistics(results),
        *_cells(results),
        *_by_the_clock(results),
    ]
    return "\n".join(lines) + "\n"


def _rows(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines] + [""]


def _shown(value: float | None, digits: int = 4) -> str:
    return "" if value is None else significant(value, digits)


def _table(results: Mapping[str, Any]) -> list[str]:
    """Quality beside cost; what no other arm beats in both is on the front."""
    front = pareto(results)
    effects = {one["arm"]: one for one in results["comparisons"]}
    rows = []
    for name, arm in results["arms"].items():
        one = effects.get(name)
        ends = one["interval"] if one and one["interval"]["low"] is not None else None
        rows.append([
            name, _shown(arm["mean"]), _shown(one["effect"], 3) if one else "",
            f"{_shown(ends['low'], 3)} to {_shown(ends['high'], 3)}" if ends else "",
            count(arm["parameters"]), "" if arm["tokens"] is None else count(arm["tokens"]),
            _shown(arm["flops"], 3), "yes" if name in front else "",
        ])  # fmt: skip
    heads = ["arm", "mean", "difference", "95 % interval", "parameters", "tokens", "training FLOPs", "on the front"]
    heads[3] = f"{100 * (1 - results['question']['metric']['alpha']):g} % interval"
    return _rows(heads, rows)


def pareto(results: Mapping[str, Any]) -> set[str]:
    """Arms than which no other is at least as good for at most as many FLOPs, and better in one of the two."""
    sign = 1 if results["question"]["metric"]["better"] == "lower" else -1
    points = {
        name: (sign * arm["mean"], arm["flops"])
        for name, arm in results["arms"].items()
        if arm["mean"] is not None and arm["flops"] is not None
    }

    def beaten(one: tuple[float, float]) -> bool:
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points.values())

    return {name for name, point in points.items() if not beaten(point)}


def _arms(results: Mapping[str, Any]) -> list[str]:
    """Every arm as what differs from the baseline."""
    lines = ["## Arms", "", f"As differences from `{results['question']['baseline']}`.", ""]
    for name, arm in results["arms"].items():
        lines.append(f"- **{name}**: {'; '.join(f'`{one}`' for one in arm['differences']) or 'the baseline'}")
        if arm["adjusted"]:
            lines.append(f"  - adjusted, to be of equal size: `{arm['adjusted']}`")
        if arm["undeclared"]:
            lines.append(f"  - **not declared**: {'; '.join(f'`{one}`' for one in arm['undeclared'])}")
        if swept := arm["swept"]:
            end = ", at the end of what was tried: a wider sweep may find a better one" if swept["at_the_end"] else ""
            chosen = f"{swept['value']}, chosen on the validation text with seeds of its own"
            lines.append(f"  - its own `{swept['path']}`: {chosen}{end}")
    if not any(arm["swept"] for arm in results["arms"].values()):
        lines.append("- no arm got a learning rate of its own")
    return [*lines, ""]


def _statistics(results: Mapping[str, Any]) -> list[str]:
    """How each verdict came about."""
    lines = ["## Statistics", ""]
    for one in results["comparisons"]:
        parts = [f"{one['method']}, {one['seeds']} seeds", f"p {_shown(one['p'], 2)}"]
        parts.append(f"after Holm {_shown(one['p_holm'], 2)}")
        if one["p_equivalence"] is not None:
            parts.append(f"equivalence p {_shown(one['p_equivalence'], 2)}")
        if one["correlation"] and one["correlation"]["value"] is not None:
            parts.append(f"correlation of the arms over seeds {one['correlation']['value']:.2f}")
        if one["on_this_test_set"]:
            ends = one["on_this_test_set"]
            parts.append(f"on this test set {_shown(ends['low'], 3)} to {_shown(ends['high'], 3)}")
        if one["missing"]:
            parts.append(f"without seeds {', '.join(map(str, one['missing']))}, where a cell failed")
        lines.append(f"- {one['arm']}: {'; '.join(parts)}")
    if len(results["looks"]) > 1:
        seen = ", then ".join(str(len(look)) for look in results["looks"])
        lines.append(
            f"- Results were seen more than once ({seen} seeds): a second look errs more often than the level says"
        )
    return [*lines, ""]


def _cells(results: Mapping[str, Any]) -> list[str]:
    """Each cell's score, or why there is none, and what repeats it."""
    lines = ["## Cells", "", "Repeat one, beside the folder `cells`: `weft train FOLDER/recipe.yaml`", ""]
    rows = []
    for cell in results["cells"]:
        place = results["seeds"].index(cell["seed"])
        value = results["arms"][cell["arm"]]["scores"][place]
        reached = f"failed: {cell['reason']}" if cell["state"] == "failed" else _shown(value)
        rows.append([cell["arm"], cell["seed"], reached, f"`{cell['folder']}`"])
    return [*lines, *_rows(["arm", "seed", results["question"]["metric"]["name"], "folder"], rows)]


def _by_the_clock(results: Mapping[str, Any]) -> list[str]:
    """What the machine said; no two runs of a study agree in it."""
    rows = [
        [
            name,
            duration(spent["seconds"]) if spent["seconds"] is not None else "",
            count(round(spent["tokens_per_second"])) if spent["tokens_per_second"] is not None else "",
            size(spent["peak_memory"]) if spent["peak_memory"] is not None else "",
        ]
        for name, spent in results["clock"].items()
    ]
    return ["## By the clock", "", *_rows(["arm", "time a cell", "tokens/s", "peak memory"], rows)]

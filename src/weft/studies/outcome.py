"""What a study found, from its cells' folders alone: scores, comparisons, cost, machine; as data, then as files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from weft.errors import WeftError
from weft.runs.atomic import write_text
from weft.runs.folder import RunFolder, read_json, to_json
from weft.studies.arm import Arm
from weft.studies.arms import Arms
from weft.studies.cells import Cell, State, costs, reason_of, score, state_of
from weft.studies.comparing import compare
from weft.studies.declaration import BY_THE_CLOCK, Study
from weft.studies.estimates import FEWEST_SEEDS
from weft.studies.folder import StudyFolder, question_of
from weft.studies.markdown import report
from weft.studies.page import study_page
from weft.studies.scores import CorpusScores, ItemScores
from weft.studies.sentences import verdicts
from weft.studies.tables import csv_table, latex_table

FORMAT = 1
MACHINE = ("system", "processor", "cores", "memory_gib", "device", "precision", "threads")
DATA = ("source", "fingerprint", "documents", "tokenizer", "train", "validation", "warnings")


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
    reused = set(StudyFolder(store.parent, study.name).declared().get("reused", ()))
    manifests = [RunFolder(store / cell.name).manifest() for cell in cells if RunFolder.is_run(store / cell.name)]
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
            "cells": [_cell(cell, store) | ({"reused": True} if cell.name in reused else {}) for cell in cells],
            "machine": merged([_chosen(one, "machine", MACHINE) | _versions(one) for one in manifests]),
            "data": merged([_chosen(one, "data", DATA) for one in manifests]),
            "clock": spent,
        }
    )


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
    if not (folder / "recipe.yaml").is_file():
        told["repeatable"] = False
    return told | ({"reason": reason_of(folder)} if state is State.failed else {})


def _chosen(manifest: Mapping[str, Any], section: str, names: Sequence[str]) -> dict[str, Any]:
    known = manifest.get(section, {})
    return {name: known[name] for name in names if name in known}


def _versions(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {"versions": manifest["versions"]} if "versions" in manifest else {}


def merged(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of them say, said once; where they differ, each value once, in a list."""
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in found for name in one):
        values: list[Any] = []
        for one in found:
            value = one.get(name, "unknown")
            values += [] if value in values else [value]
        if all(isinstance(value, Mapping) for value in values):
            result[name] = merged(values)
        elif len(values) == 1 and isinstance(values[0], list):
            result[name] = "; ".join(map(str, values[0])) or "none"
        else:
            result[name] = values[0] if len(values) == 1 else [str(value) for value in values]
    return result


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
    """Write results.json and all that shows it, and return what a terminal should say."""
    write_text(folder / "results.json", to_json(results))
    page = write_pages(folder, results)
    failed = sum(cell["state"] == "failed" for cell in results["cells"])
    said = [f"{failed} of {len(results['cells'])} cells failed"] * bool(failed)
    return ["", *verdicts(results), *said, f"report: {page}"]


def write_pages(folder: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Write report.html, report.md, results.csv and results.tex of a study in this folder; returns where the page is.

    The same results.json and cells give the same bytes. Raises WeftError where there are no results yet.
    """
    if results is None:
        if not (folder / "results.json").is_file():
            raise WeftError(f"{folder}: no study with results lies here (there is no results.json)")
        results = read_json(folder / "results.json")
    if results.get("format") != FORMAT:
        raise WeftError(f"{folder}: results of format {results.get('format')}; this weft reads {FORMAT}")
    pages = {
        "report.html": study_page(results, folder.parent / "cells"),
        "report.md": report(results),
        "results.csv": csv_table(results),
        "results.tex": latex_table(results),
    }
    for name, text in pages.items():
        write_text(folder / name, text)
    return folder / "report.html"

"""What a study found, from its cells' folders alone: scores, comparisons, cost, machine; as data, then as files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
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
from weft.studies.laws import fitted
from weft.studies.markdown import report, series_report
from weft.studies.page import series_page, study_page
from weft.studies.scores import CorpusScores, ItemScores
from weft.studies.sentences import law, verdicts
from weft.studies.tables import csv_table, latex_table
from weft.studies.timing_outcome import write_pages as write_timing_pages

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
            "law": _law(study, arms, means),
            "cells": [_cell(cell, store) | ({"reused": True} if cell.name in reused else {}) for cell in cells],
            "machine": merged([_chosen(one, "machine", MACHINE) | _versions(one) for one in manifests]),
            "data": merged([_chosen(one, "data", DATA) for one in manifests]),
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
        found = fitted(study.law, sizes[study.law], means.values_AS, 1 - study.metric.alpha)
    except WeftError as error:
        return {"amount": study.law, "problem": str(error)}
    return {**asdict(found), "words": found.words}


def scores_of(study: Study, cells: Sequence[Cell], store: Path) -> CorpusScores | ItemScores:
    """The metric of every cell; of every example where runs wrote that down, and seeds and examples are enough."""
    names, seeds = study.arm_names, study.seed_list
    by_place = {(cell.arm, cell.seed): store / cell.name for cell in cells}
    finished = {place: folder for place, folder in by_place.items() if state_of(folder) is State.finished}
    by_example = BY_EXAMPLE.get(study.metric.name)
    if by_example is not None and len(seeds) >= FEWEST_SEEDS and finished:
        told = {place: by_example(folder) for place, folder in finished.items()}
        ids = set(map(tuple, told.values()))
        n_items = len(next(iter(ids)))
        if len(ids) == 1 and n_items >= FEWEST_EXAMPLES:
            nothing = [math.nan] * n_items
            tables = [[list(told[arm, s].values()) if (arm, s) in told else nothing for s in seeds] for arm in names]
            return ItemScores(names, seeds, np.array(tables))
    reached = {place: score(folder, study.metric.name) for place, folder in finished.items()}
    rows = [[reached.get((arm, seed), math.nan) for seed in seeds] for arm in names]
    return CorpusScores(names, seeds, np.array(rows))


def measured(study: Study, results: Mapping[str, Any], store: Path) -> CorpusScores | ItemScores:
    """The scores behind results that were written."""
    cells = [Cell(one["arm"], one["seed"], Path(one["folder"]).name, {}, "") for one in results["cells"]]
    return scores_of(study.model_copy(update={"seeds": tuple(results["seeds"])}), cells, store)


def _examples(folder: Path) -> list[dict[str, Any]]:
    """What a run wrote down of each example (or document) of the validation text."""
    lines = (folder / "predictions" / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _right(folder: Path) -> dict[str, float]:
    """Which examples a run got right, by id."""
    return {one["id"]: float(one["label"] == one["predicted"]) for one in _examples(folder)}


def _nats(folder: Path) -> dict[str, float]:
    """What each document or example adds to the loss of a token, by id, scaled so that the mean is the loss itself."""
    nats = {one["id"]: one["nats"] for one in _examples(folder) if "nats" in one}
    total = sum(nats.values())
    scale = score(folder, "validation/loss") * len(nats) / total if total else math.nan
    return {name: value * scale for name, value in nats.items()}


BY_EXAMPLE: dict[str, Callable[[Path], dict[str, float]]] = {"validation/accuracy": _right, "validation/loss": _nats}
"""Metrics that are means over examples: each example's part in it."""
FEWEST_EXAMPLES = 20
"""Examples below which nothing is said of others like them."""


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
    more = [law(results)] * bool(law(results))
    more += [f"{failed} of {len(results['cells'])} cells failed"] * bool(failed)
    return ["", *verdicts(results), *more, f"report: {page}"]


def write_pages(folder: Path, results: Mapping[str, Any] | None = None) -> Path:
    """Write report.html, report.md, results.csv and results.tex of a study in this folder; returns where the page is.

    The same results.json and cells give the same bytes. Raises WeftError where there are no results yet.
    """
    if results is None and (folder / "series.json").is_file():
        return _write_series_pages(folder, read_json(folder / "series.json"))
    if results is None and "passes" in (kept := _results_in(folder)):
        return write_timing_pages(folder, kept)
    results = _results_in(folder) if results is None else results
    pages = {
        "report.html": study_page(results, folder.parent / "cells"),
        "report.md": report(results),
        "results.csv": csv_table(results),
        "results.tex": latex_table(results),
    }
    for name, text in pages.items():
        write_text(folder / name, text)
    return folder / "report.html"


def write_series(folder: Path, title: str, claim: str | None, settings: Mapping[str, Path]) -> list[str]:
    """Write report.html and report.md of several settings of one question, each a study in a folder beside this one.

    Returns what a terminal should say.
    """
    told = {"title": title, "claim": claim, "settings": {name: path.name for name, path in settings.items()}}
    write_text(folder / "series.json", to_json(told))
    return [f"report of all settings: {_write_series_pages(folder, told)}"]


def _write_series_pages(folder: Path, told: Mapping[str, Any]) -> Path:
    store = folder.parent / "cells"
    parts = [(setting, _results_in(folder.parent / name), store) for setting, name in told["settings"].items()]
    write_text(folder / "report.html", series_page(told["title"], told["claim"] or "", parts))
    write_text(folder / "report.md", series_report(told["title"], told["claim"] or "", parts))
    return folder / "report.html"


def _results_in(folder: Path) -> dict[str, Any]:
    if not (folder / "results.json").is_file():
        raise WeftError(f"{folder}: no study with results lies here (there is no results.json)")
    results = read_json(folder / "results.json")
    if results.get("format") != FORMAT:
        raise WeftError(f"{folder}: the results there are not in format {FORMAT}, which this weft reads")
    return results

"""A study's folder: what was declared before it ran, what it found; beside it the cells, which studies share.

studies/
  cells/0123456789abcdef/   a run folder for each cell, by content address
  positions/
    declared.json           question, threads, cells that were there before, each time that results were seen
    study.yaml              the declaration as it was run last
    results.json            what was found
    report.html  report.md  results.csv  results.tex
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weft.config import semantic, yaml
from weft.errors import WeftError
from weft.runs.atomic import disk_errors, write_text
from weft.runs.folder import read_json, to_json
from weft.runs.lock import LOCK, held
from weft.studies.cells import State, state_of
from weft.studies.declaration import Study


@dataclass(frozen=True)
class Report:
    """What a study found, or how far it came; `settings`: the same of each of its settings, where it has some."""

    folder: Path
    finished: bool
    results: dict[str, Any]
    settings: tuple[Report, ...] = ()

    @property
    def table(self) -> list[dict[str, Any]]:
        """One mapping for each comparison with the baseline: arm, effect, interval, p, verdict and words."""
        rows = list(self.results.get("comparisons", ()))
        return rows + [{"setting": one.results["setting"], **row} for one in self.settings for row in one.table]


class StudyFolder:
    """The files of one study."""

    def __init__(self, studies: Path, name: str) -> None:
        self.path, self.store = studies / name, studies / "cells"

    def declared(self) -> dict[str, Any]:
        """What was declared; empty where nothing was."""
        path = self.path / "declared.json"
        return read_json(path) if path.is_file() else {}

    def check(self, study: Study) -> None:
        """Refuse another question than the one which cells have begun to answer.

        Raises WeftError that names what differs.
        """
        self.refuse_another(question_of(study))

    def refuse_another(self, now: dict[str, Any]) -> None:
        """The same for a question as plain data, which is written before cells run.

        Raises WeftError that names what differs.
        """
        before = self.declared()
        if not any(state_of(self.store / name) in (State.finished, State.failed) for name in before.get("cells", ())):
            return
        for name, value in now.items():
            if (old := before["question"].get(name)) != value:
                raise WeftError(
                    f"{name} = {value!r}: was declared as {old!r} before {self.path} ran; a question that is changed"
                    " afterwards is a new study: give it another name (its cells are reused)"
                )

    def declare(self, study: Study, raw: dict[str, Any], threads: int, cells: Sequence[str]) -> None:
        """Write down the question, before a cell is run."""
        self.write_question(question_of(study), raw, threads, cells)

    def write_question(self, question: dict[str, Any], raw: dict[str, Any], threads: int, cells: Sequence[str]) -> None:
        """The same for a question as plain data."""
        known = self.declared()
        before = set(known.get("cells", ()))
        found = {name for name in {*cells} - before if state_of(self.store / name) is State.finished}
        kept = {
            "looks": known.get("looks", []),
            "cells": sorted({*before, *cells}),
            "reused": sorted({*known.get("reused", ()), *found}),
        }
        write_text(self.path / "study.yaml", yaml.dump(raw))
        told = {"question": question, "threads": threads, **kept}
        write_text(self.path / "declared.json", to_json(told))

    def looked(self, seeds: Sequence[int]) -> list[list[int]]:
        """Write down that results of these seeds are seen; returns all the times, each with its seeds."""
        declared = self.declared()
        looks: list[list[int]] = declared.get("looks", [])
        if list(seeds) not in looks:
            looks = [*looks, list(seeds)]
            write_text(self.path / "declared.json", to_json({**declared, "looks": looks}))
        return looks


def question_of(study: Study) -> dict[str, Any]:
    """What may not change once cells have run, as plain data."""
    return {
        "metric": semantic(study.metric),
        "baseline": study.compared_with,
        "ladder": study.question.ladder,
        "equal": list(study.equal),
    }


def found_studies(studies: Path) -> list[dict[str, Any]]:
    """The studies in a folder: how many of their cells are finished, and what they found."""
    found = []
    for path in sorted(studies.glob("*/declared.json")):
        folder = StudyFolder(studies, path.parent.name)
        names = folder.declared().get("cells", [])
        finished = sum(state_of(folder.store / name) is State.finished for name in names)
        results = path.parent / "results.json"
        told = read_json(results) if results.is_file() else {}
        words = [f"{one['arm']}: {one['verdict']['words']}" for one in told.get("comparisons", ())]
        verdict = "; ".join(words) or told.get("problem") or "not finished"
        found.append({"study": folder.path.name, "cells": len(names), "finished": finished, "verdict": verdict})
    return found


@contextmanager
def only_one(store: Path) -> Iterator[None]:
    """Only one study at a time runs cells of a store.

    Raises WeftError when another does.
    """
    made = not store.exists()
    with disk_errors(store):
        store.mkdir(parents=True, exist_ok=True)
    with held(store, "another study runs cells now; wait for it, or use another --studies"):
        try:
            yield
        finally:
            if made and os.listdir(store) == [LOCK]:  # what was refused leaves nothing
                with suppress(OSError):
                    (store / LOCK).unlink()
                    store.rmdir()
                    store.parent.rmdir()

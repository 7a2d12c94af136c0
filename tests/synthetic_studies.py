"""Studies made of formulas: cells that nobody ran, with scores that a test chose, and the results they lead to."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import synthetic_runs
from synthetic_runs import line

from weft.runs.folder import to_json
from weft.studies.arm import Arm
from weft.studies.arms import Arms
from weft.studies.cells import Cell, fail
from weft.studies.declaration import Study
from weft.studies.differences import Difference
from weft.studies.folder import StudyFolder
from weft.studies.outcome import findings, write_results

PATH = "model.decoder.positions"


def log(final: float, steps: int = 40) -> list[dict[str, Any]]:
    """A log that ends at `final` bits per byte."""
    lines = []
    for step in range(steps + 1):
        loss = final + 3.0 * math.exp(-step / (steps / 6))
        if step % 4 == 0:
            measured = {"bits_per_byte": loss, "loss": loss * 0.7, "whole": True, "window": 256, "stride": 256}
            lines.append(line(step, "validation", measured))
        if step:
            lines.append(line(step, "train", {"loss": loss * 0.7}, tokens_per_second=5000.0 + step))
    lines[-1]["values"]["loss"] *= 1.0
    last = {"bits_per_byte": final, "loss": final * 0.7, "whole": True, "window": 256, "stride": 128}
    return [*lines, line(steps, "validation", last)]


def made_up(
    folder: Path,
    scores: Mapping[str, Sequence[float | None]],
    *,
    flops: Mapping[str, int] | None = None,
    margin: float | None = None,
    name: str = "positions",
    reason: str = "the run diverged",
    changes: Mapping[str, Sequence[Difference]] | None = None,
) -> tuple[Path, dict[str, Any]]:
    """A finished study in `folder`/studies with these scores; a score of None is a cell that failed."""
    store, names = folder / "studies" / "cells", list(scores)
    n_seeds = len(scores[names[0]])
    asked = {"name": "validation/bits_per_byte", "better": "lower", "margin": margin}
    study = Study.model_validate(
        {"name": name, "base": {}, "arms": {arm: {} for arm in names}, "seeds": n_seeds, "metric": asked}
    )
    arms, cells = list[Arm](), list[Cell]()
    nothing: Any = None
    for number, arm in enumerate(names):
        cost = (flops or {}).get(arm, 1_000_000)
        differs = (changes or {}).get(arm, (Difference(PATH, names[0], arm),) if number else ())
        arms.append(
            Arm(
                name=arm,
                overrides={},
                recipe=nothing,
                bound=nothing,
                data="data",
                parameters=20_000 + 500 * number,
                flops_per_token=cost,
                tokens_per_step=2048,
                steps=40,
                environment={},
                code="code",
                cache_bytes=256,
                text_bytes=10_000,
                differences=tuple(differs),
            )
        )
        for seed, value in enumerate(scores[arm]):
            key = f"{number:08x}{seed:08x}"
            cells.append(Cell(arm, seed, key, {}, "data"))
            described = synthetic_runs.manifest(key, seconds=10.0 + number + seed, peak_memory=2e8 + 1e6 * number)
            described["budget"] = {"asked": "40 steps", "steps": 40, "tokens": 40 * 2048}
            synthetic_runs.write(store / key, log(value if value is not None else 9.0), described)
            if value is None:
                fail(store / key, reason)
    declared = StudyFolder(folder / "studies", name)
    declared.declare(study, {"name": name, "arms": {arm: {} for arm in names}}, 1, [])
    looks = declared.looked(study.seed_list)
    results = findings(study, Arms(tuple(arms), {}, ()), cells, store, looks, quick=False)
    write_results(declared.path, results)
    return declared.path, json.loads(to_json(results))

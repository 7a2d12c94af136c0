"""What a model said of each example, as a file: one JSON object a line, with the example's stable id."""

from __future__ import annotations

import json
from pathlib import Path

from weft.data.shards import TokenSplit
from weft.evaluation.base import Result
from weft.runs.atomic import disk_errors, new_folder


def write_predictions(folder: Path, result: Result, split: TokenSplit, name: str = "validation") -> None:
    """Make `folder` with `<name>.jsonl` in it, in one step.

    Raises DiskError when the disk is full.
    """
    lines = (json.dumps(prediction, ensure_ascii=False) + "\n" for prediction in result.predictions(split))
    with (
        new_folder(folder) as temporary,
        disk_errors(folder),
        (temporary / f"{name}.jsonl").open("w", encoding="utf-8") as file,
    ):
        file.writelines(lines)

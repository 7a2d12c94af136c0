"""The run folder: the only interface between training and all that follows.

runs/demo/
  recipe.yaml  resolved.yaml    as asked; everything
  manifest.json                 versions, machine, fingerprints, data, budget
  metrics.jsonl                 one object a line
  transfer.safetensors          what was copied from another model, if anything was
  predictions/<split>.jsonl     per example
  checkpoints/step-00001000/    what a model folder holds, and the loop's state
  report.html                   a pure function of the files above
  .lock                         held by the process that trains it
"""

from __future__ import annotations

import glob
import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from weft.config import yaml
from weft.errors import WeftError
from weft.runs.atomic import TEMPORARY, new_folder, write_text
from weft.runs.lock import held
from weft.runs.log import Log

FORMAT = 1
"""Version of the layout; a newer one is refused."""


class RunFolder:
    """One run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = Log(path / "metrics.jsonl")

    @classmethod
    def create(
        cls,
        path: Path,
        recipe: dict[str, Any],
        resolved: dict[str, Any],
        manifest: dict[str, Any],
        copies: Mapping[str, Path] | None = None,
        fill: Callable[[Path], None] | None = None,
    ) -> RunFolder:
        """A new run at `path`, complete from its first instant, with copies of files by their name in it.

        `fill` writes what else belongs there.

        Raises WeftError when there is something already.
        """
        if path.exists():
            raise WeftError(f"{path}: exists already; go on with it (weft train {path}) or choose another --name")
        for left in path.parent.glob(f"{TEMPORARY}{glob.escape(path.name)}-????????"):  # by a kill at this very place
            shutil.rmtree(left, ignore_errors=True)
        with new_folder(path) as folder:
            write_text(folder / "recipe.yaml", yaml.dump(recipe))
            write_text(folder / "resolved.yaml", yaml.dump(resolved))
            write_text(folder / "manifest.json", to_json({"format": FORMAT, **manifest}))
            (folder / "checkpoints").mkdir()
            for name, source in (copies or {}).items():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(source, folder / name)
            if fill is not None:
                fill(folder)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run at `path`.

        Raises WeftError when that is no run, or one of a newer weft.
        """
        if not path.is_dir():
            raise WeftError(f"{path}: there is no such run folder")
        if not (path / "manifest.json").is_file():
            raise WeftError(f"{path}: not a run folder (it has no manifest.json)")
        run = cls(path)
        version = run.manifest().get("format")
        if not isinstance(version, int):
            raise WeftError(f"{path}: not a run folder (its manifest.json is not weft's)")
        if version > FORMAT:
            raise WeftError(f"{path}: run format {version} is newer than this weft reads ({FORMAT}); upgrade weft")
        return run

    @staticmethod
    def is_run(path: Path) -> bool:
        """Whether a run lies at `path`."""
        return (path / "manifest.json").is_file() and (path / "resolved.yaml").is_file()

    def manifest(self) -> dict[str, Any]:
        """What was recorded of the run's surroundings."""
        return read_json(self.path / "manifest.json")

    def update_manifest(self, **changes: Any) -> None:
        """Set entries of the manifest."""
        write_text(self.path / "manifest.json", to_json(self.manifest() | changes))

    def resolved(self) -> dict[str, Any]:
        """The whole recipe, every default written out."""
        return yaml.read(self.path / "resolved.yaml")

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        found = (self.path / "checkpoints").glob("step-*")
        return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and path.is_dir())

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of `step` belongs."""
        return self.path / "checkpoints" / f"step-{step:08d}"

    def held(self) -> AbstractContextManager[None]:
        """Work on this run as the only process. Raises WeftError when another one does."""
        return held(self.path, "another weft trains this run now; wait for it, or stop it")

    def clean(self) -> None:
        """Remove what a kill left half-written."""
        for folder in (self.path, self.path / "checkpoints"):
            for item in folder.glob(f"{TEMPORARY}*"):
                shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises WeftError when there is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeftError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise WeftError(f"{path}: not JSON ({error}); the file is damaged") from None
    if not isinstance(data, dict):
        raise WeftError(f"{path}: should hold an object; the file is damaged")
    return data


def free_name(parent: Path, name: str) -> Path:
    """`parent/name`, or the first of name-2, name-3, ... that does not exist."""
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path


def to_json(data: dict[str, Any]) -> str:
    """An object as it is written to a file for people to read too."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"

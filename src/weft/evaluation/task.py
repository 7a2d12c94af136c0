"""A trained model with its task: what `evaluate` and `predict` begin from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from weft import device as machines
from weft.config import load
from weft.config.plugins import load_plugins
from weft.data.files import Files
from weft.data.given import encoded, open_source
from weft.data.sources import Source
from weft.errors import WeftError
from weft.evaluation.base import Plan, Result, evaluate
from weft.evaluation.records import write_predictions
from weft.hub.folder import read_config
from weft.hub.names import load as load_model
from weft.hub.names import model_folder
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.objectives import Causal, Classification, Objective, Seq2Seq
from weft.runs.atomic import write_text
from weft.runs.folder import RunFolder, free_name, to_json
from weft.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Task:
    """A model, what it was trained to do, and the kind of data that it was trained on."""

    name: str
    model: Transformer
    tokenizer: Tokenizer
    objective: Objective
    source: Source | None = None
    """the training data's, where the model belongs to a run"""
    run: Path | None = None
    checkpoint: Path | None = None
    """the run's best, where the run itself was named"""

    @classmethod
    def open(cls, name: str | Path, device: str = "auto", plugins: Iterable[str] = ()) -> Task:
        """The task of a run or a model folder.

        Raises WeftError when there is no such model.
        """
        load_plugins(plugins)
        machine = machines.choose(device)
        machines.set_threads(None)
        machines.keep_memory()
        model, tokenizer = load_model(name, machine.device)
        model.compute_dtype = machine.dtype
        folder = model_folder(Path(name))
        run = next((path for path in (Path(name), folder.parent.parent) if RunFolder.is_run(path)), None)
        resolved = RunFolder.open(run).resolved() if run is not None else {}
        source = Source.choose(resolved["data"]["source"]) if "data" in resolved else None
        about = read_config(folder).get("objective")
        objective = Objective.choose(about) if about is not None else objective_of(model.config)
        checkpoint = folder if folder != Path(name) else None
        return cls(Path(name).resolve().name, model, tokenizer, objective, source, run, checkpoint)

    def reading(self, data: str, overrides: Sequence[str] = ()) -> Source:
        """The source that DATA stands for, its columns named as in training unless `overrides` say otherwise."""
        return open_source(data, self.source, overrides)

    def reading_texts(self, file: str, overrides: Sequence[str] = ()) -> Source:
        """The same for texts without answers: a .txt has one on each line."""
        path = Path(file)
        if file.lower().endswith(".txt") and path.is_file():
            return load(Source, {"kind": "aligned", "path": str(path.parent), "text": path.name}, overrides)
        like = self.source if isinstance(self.source, Files) else None
        return open_source(file, like, overrides)


def objective_of(config: ModelConfig) -> Objective:
    """What a model without a recipe can be taken to do: by its heads and stacks."""
    if "classifier" in config.heads:
        return Classification()
    return Seq2Seq() if getattr(config, "encoder", None) is not None else Causal()


@dataclass(frozen=True)
class Evaluation:
    """What was measured, and the folder that holds it with a line for each example."""

    result: Result
    folder: Path
    notes: list[str]

    def report(self) -> dict[str, Any]:
        """As JSON."""
        return {"folder": str(self.folder), **self.result.values(), "notes": self.notes}


def evaluate_on(
    task: Task,
    data: str,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    out: str | Path | None = None,
    console: Console | None = None,
) -> Evaluation:
    """Measure a model on DATA; results lie in `out`, or beside the run in `evaluations/`.

    Raises WeftError when the data cannot be read or lack a column that the task needs, or `out` exists.
    """
    source = task.reading(data, overrides)
    folder = Path(out) if out is not None else free_name((task.run or Path()) / "evaluations", _plain(data))
    if folder.exists():
        raise WeftError(f"{folder}: exists already; choose another --out")
    with encoded(source, task.tokenizer, task.objective.columns, console) as (split, notes):
        plan = Plan(task.model.config.max_length, limit, thorough=True)
        result = evaluate(task.objective, task.model, task.tokenizer, split, plan)
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(folder, result, split, "predictions")
        about = {"model": str(task.name), "data": data, "source": source.dump(), "objective": task.objective.dump(),
                 "values": result.values(), "notes": notes}  # fmt: skip
        write_text(folder / "metrics.json", to_json(about))
        return Evaluation(result, folder, notes)


def _plain(data: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(data).name).strip("-.") or "data"

"""What MODEL names, everywhere alike: a preset, a YAML file, a run, a checkpoint folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from weft.config.plugins import load_plugins
from weft.config.slot import did_you_mean
from weft.errors import WeftError
from weft.hub.folder import read_config, read_model
from weft.models.config import ModelConfig, presets
from weft.models.transformer import Transformer
from weft.runs.folder import RunFolder
from weft.text.tokenizers import Tokenizer


def load(
    name: str | Path, device: torch.device | str = "cpu", plugins: Iterable[str | Path] = ()
) -> tuple[Transformer, Tokenizer]:
    """The trained model and its tokenizer of a run (its best checkpoint) or a model folder.

    `plugins` are files of its own parts that may be run; none is unless it is named here.
    Raises WeftError when there is none, or the name is a preset, which has no trained weights.
    """
    load_plugins(plugins)
    return read_model(trained_folder(name), device)


def trained_folder(name: str | Path) -> Path:
    """The model folder of a run (its best checkpoint) or the one that is named.

    Raises WeftError when there is none, or the name is a preset, which has no trained weights.
    """
    path = Path(name)
    if not path.exists() and str(name) in presets():
        raise WeftError(f"{name}: a preset has no trained weights; train one (weft train) or name a run's folder")
    return model_folder(path)


def model_folder(path: Path) -> Path:
    """The model folder that a path stands for: itself, or the best checkpoint of a run.

    Raises WeftError when there is none.
    """
    if not path.exists():
        beside = sorted(str(run.parent) for run in path.parent.glob("*/manifest.json")) if path.parent.is_dir() else []
        near = did_you_mean(str(path), [*beside, *presets()])
        raise WeftError(f"{path}: there is no such preset, run or model folder{near} (presets: {', '.join(presets())})")
    if (path / "config.json").is_file():
        return path
    if RunFolder.is_run(path):
        return best_checkpoint(RunFolder.open(path))
    raise WeftError(f"{path}: neither a run (manifest.json) nor a model folder (config.json)")


def best_checkpoint(run: RunFolder) -> Path:
    """The checkpoint that the objective judged best, or the last one where none was measured.

    Raises WeftError when the run has no checkpoint yet.
    """
    checkpoints = run.checkpoints()
    if not checkpoints:
        raise WeftError(f"{run.path}: this run has no checkpoint yet; go on with it (weft train {run.path})")
    best = (run.manifest().get("best") or {}).get("checkpoint")
    return next((path for path in checkpoints if path.name == best), checkpoints[-1])


def model_config(name: str | Path) -> ModelConfig:
    """The declaration that a preset, YAML file, run or model folder stands for.

    Raises WeftError when there is none.
    """
    path = Path(name)
    if path.is_dir():
        if RunFolder.is_run(path) and not RunFolder.open(path).checkpoints():
            return ModelConfig.load(RunFolder.open(path).resolved()["model"])
        return ModelConfig.load(read_config(model_folder(path))["model"])
    return ModelConfig.load(str(name))

"""Checkpoints: a model folder and the loop's own state, each complete or absent.

    step-00001000/  model.safetensors  config.json  tokenizer.json  state.safetensors  state.json

Where weights are averaged, the model has the averages, and the state the weights that training goes on with.
`state.json` is written last and holds the other files' SHA-256 and its own, so that damage is recognised.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from weft.config.plugins import require
from weft.errors import WeftError
from weft.hub.folder import copy_weights, read_config, read_tensors, write_model, write_tensors
from weft.runs.atomic import new_folder, write_text
from weft.runs.fingerprints import of_data, of_file
from weft.runs.folder import RunFolder, read_json
from weft.text.tokenizers import Tokenizer
from weft.training.loop import Training
from weft.training.optimizers import restore_state, state_tensors
from weft.transfer import START, fingerprint

_WEIGHTS = "weights/"
"""In front of a parameter's path in the state: the weight itself, where the model has its average."""


def save_checkpoint(
    run: RunFolder, training: Training, tokenizer: Tokenizer, state: dict[str, Any], about: dict[str, Any]
) -> Path:
    """Write the checkpoint of `state["step"]`; a kill at any instant leaves the older ones.

    Raises DiskError when the disk is full.
    """
    path = run.checkpoint(state["step"])
    with new_folder(path) as folder:
        with training.shown() as weights:
            write_model(folder, training.model, tokenizer, about)
            kept = {f"{_WEIGHTS}{path}": tensor for path, tensor in weights.items()}
        write_tensors(folder / "state.safetensors", {**state_tensors(training.optimizer), **kept})
        files = {file.name: of_file(file) for file in sorted(folder.iterdir())}
        whole = {**state, "files": files}
        write_text(folder / "state.json", json.dumps({**whole, "sha256": of_data(whole)}, indent=2) + "\n")
    return path


def prune(run: RunFolder, keep: int, best: str | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one."""
    for path in run.checkpoints()[:-keep]:
        if path.name != best:
            shutil.rmtree(path)


def newest(run: RunFolder) -> Iterator[tuple[Path, dict[str, Any] | None, str]]:
    """The run's checkpoints, newest first: folder, its state, or None and what is wrong with it."""
    for path in reversed(run.checkpoints()):
        try:
            yield path, _checked(path), ""
        except (WeftError, OSError) as error:
            yield path, None, str(error)


def _checked(path: Path) -> dict[str, Any]:
    """The state of a checkpoint all of whose files are what was written."""
    state = read_json(path / "state.json")
    if state.pop("sha256", None) != of_data(state):
        raise WeftError("state.json: not what was written")
    for name, digest in state["files"].items():
        if not (path / name).is_file():
            raise WeftError(f"{name} is missing")
        if of_file(path / name) != digest:
            raise WeftError(f"{name}: not what was written")
    return state


def restore_tensors(path: Path, training: Training) -> None:
    """Weights, their averages and optimizer state as they were.

    Raises WeftError when they belong to another model.
    """
    require(read_config(path).get("plugins", {}), path)
    tensors, state = read_tensors(path / "model.safetensors"), read_tensors(path / "state.safetensors")
    weights = {name.removeprefix(_WEIGHTS): state.pop(name) for name in list(state) if name.startswith(_WEIGHTS)}
    copy_weights(training.model, tensors, str(path))
    if training.averages is not None:
        training.averages.begin()
        copy_weights(training.model, {**tensors, **weights}, str(path))
    restore_state(training.optimizer, state)


def restore_start(run: RunFolder, training: Training) -> None:
    """What a new run copied from another model, where there is no checkpoint to go on from.

    Raises WeftError when that was lost or damaged.
    """
    copied = run.manifest().get("transfer", {}).get("copied", {})
    if not copied:
        return
    path, parameters = run.path / START, dict(training.model.named_parameters())
    tensors = read_tensors(path)
    written = {name: entry["sha256"] for name, entry in copied.items()}
    if {name: fingerprint(tensor) for name, tensor in tensors.items()} != written:
        raise WeftError(f"{path}: not what was written; begin a new run with the recipe.yaml beside it")
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
    if training.averages is not None:
        training.averages.begin()

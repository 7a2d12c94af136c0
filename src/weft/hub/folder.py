"""Model folders, in and out: model.safetensors, config.json, tokenizer.json. Nothing is ever unpickled or executed.

`config.json` keeps the declaration with what was bound from data, so that a folder alone can be used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import weft
from weft.errors import WeftError
from weft.models.build import blank
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn.module import Module
from weft.runs.atomic import new_folder, write_text
from weft.runs.fingerprints import of_data, of_file
from weft.runs.folder import read_json, to_json
from weft.text.tokenizers import Tokenizer

FORMAT = 1
"""Version of config.json; a newer one is refused."""


def write_model(folder: Path, model: Transformer, tokenizer: Tokenizer, about: dict[str, Any]) -> None:
    """Write weights, declaration and tokenizer into `folder`, which exists; `about` is kept in config.json."""
    config = {"format": FORMAT, "weft": weft.__version__, "model": model.config.dump(), **about}
    write_text(folder / "config.json", to_json(config))
    tokenizer.save(folder / "tokenizer.json")
    # a parameter that two places share is written once, under its first name
    write_tensors(folder / "model.safetensors", stored(model))


def save(model: Transformer, tokenizer: Tokenizer, folder: str | Path) -> Path:
    """A model folder at `folder` that `weft.load` reads back exactly.

    Raises WeftError when something is there already or the disk is full.
    """
    folder = Path(folder)
    if folder.exists():
        raise WeftError(f"{folder}: exists already; choose another name")
    with new_folder(folder) as temporary:
        write_model(temporary, model, tokenizer, {})
    return folder


def stored(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors that a folder holds: parameters (each once) and persistent buffers, by path."""
    persistent = model.state_dict(keep_vars=True)
    return {**dict(model.named_parameters()), **{k: v for k, v in model.named_buffers() if k in persistent}}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a safetensors file.

    Raises OSError, as writing does, when the disk is full.
    """
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
        path.chmod(0o644)  # as all that is written; safetensors keeps it to its owner
    except SafetensorError as error:  # its text alone says what the system said
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from None


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises WeftError when it is missing, damaged, or of a newer weft.
    """
    data = read_json(folder / "config.json")
    version = data.get("format")
    if not isinstance(version, int) or "model" not in data:
        raise WeftError(f"{folder}: config.json is not weft's (it has no `format` and `model`)")
    if version > FORMAT:
        raise WeftError(f"{folder}: model format {version} is newer than this weft reads ({FORMAT}); upgrade weft")
    return data


def read_model(folder: Path, device: torch.device | str = "cpu") -> tuple[Transformer, Tokenizer]:
    """The model and tokenizer of a model folder.

    Raises WeftError when a file is missing or damaged, or the weights belong to another model.
    """
    config = read_config(folder)
    if config.get("plugins"):
        from weft.config.plugins import require

        require(config["plugins"], folder)
    model = blank(ModelConfig.load(config["model"]))
    model.to_empty(device=device)
    model.tie()
    for module in model.modules():
        if isinstance(module, Module):
            module.reset_buffers()
    copy_weights(model, read_tensors(folder / "model.safetensors", device), str(folder))
    return model.eval(), Tokenizer.load(folder / "tokenizer.json")


def content_of(folder: Path) -> str:
    """Content address of a model folder: SHA-256 over its declaration, weights and tokenizer, wherever it lies.

    Raises WeftError when a file is missing or damaged.
    """
    try:
        files = {name: of_file(folder / name) for name in ("model.safetensors", "tokenizer.json")}
    except OSError as error:
        raise WeftError(f"{error.filename}: {error.strerror}") from None
    return of_data({**files, "model": read_config(folder)["model"]})


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """A safetensors file.

    Raises WeftError when it is missing or cut short.
    """
    try:
        return load_file(path, device=str(device))
    except FileNotFoundError:
        raise WeftError(f"{path}: there is no such file") from None
    except (SafetensorError, OSError) as error:
        raise WeftError(f"{path}: damaged ({error})") from None


def copy_weights(model: nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Copy tensors into the model, all of them or none.

    Raises WeftError naming what is missing, unknown, or of another shape.
    """
    mine = stored(model)
    problems = [f"{name} is missing" for name in mine.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - mine.keys()]
    for name in mine.keys() & tensors.keys():
        if mine[name].shape != tensors[name].shape:
            problems.append(f"{name} is {tuple(tensors[name].shape)}, the model's is {tuple(mine[name].shape)}")
    if problems:
        shown = "; ".join(sorted(problems)[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
        raise WeftError(f"{where}: the weights are those of another model: {shown}")
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(tensors[name])

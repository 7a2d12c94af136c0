"""weft: a workbench for transformers. Build from named parts, train, compare, look inside."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.errors import WeftError
    from weft.generation.generate import generate
    from weft.hub import load, save
    from weft.models.build import build
    from weft.models.config import ModelConfig
    from weft.studies.engine import study
    from weft.studies.folder import Report
    from weft.training.recipe import Recipe
    from weft.training.run import Run, train

__version__ = "0.1.0"

_HOMES = {
    "ModelConfig": "weft.models.config",
    "Recipe": "weft.training.recipe",
    "Report": "weft.studies.folder",
    "Run": "weft.training.run",
    "WeftError": "weft.errors",
    "build": "weft.models.build",
    "generate": "weft.generation.generate",
    "load": "weft.hub",
    "save": "weft.hub",
    "study": "weft.studies.engine",
    "train": "weft.training.run",
}

__all__ = ["ModelConfig", "Recipe", "Report", "Run", "WeftError", "build", "generate", "load", "save", "study", "train"]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used, so that `weft --help` need not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'weft' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

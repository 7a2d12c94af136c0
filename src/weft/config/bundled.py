"""Declarations that come with weft: YAML files in a folder of a package, whose first line says what each is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import Any

from weft.config import yaml


@dataclass(frozen=True)
class Shelf:
    """A folder of bundled declarations."""

    package: str
    folder: str

    def names(self) -> list[str]:
        """What is there; no file is read."""
        place = resources.files(self.package) / self.folder
        return sorted(item.name.removesuffix(".yaml") for item in place.iterdir() if item.name.endswith(".yaml"))

    def listed(self) -> dict[str, str]:
        """Name and first comment line of each."""
        return {name: self._text(name).partition("\n")[0].lstrip("# ") for name in self.names()}

    def read(self, name: str) -> dict[str, Any]:
        """The declaration of a name that is there."""
        return dict(yaml.parse(self._text(name), f"{self.folder}: {name}"))

    def _text(self, name: str) -> str:
        return (resources.files(self.package) / self.folder / f"{name}.yaml").read_text(encoding="utf-8")

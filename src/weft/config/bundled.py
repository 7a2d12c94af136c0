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

    def listed(self) -> dict[str, str]:
        """Name and first comment line of each."""
        place = resources.files(self.package) / self.folder
        found = sorted(item.name for item in place.iterdir() if item.name.endswith(".yaml"))
        texts = {name.removesuffix(".yaml"): (place / name).read_text(encoding="utf-8") for name in found}
        return {name: text.partition("\n")[0].lstrip("# ") for name, text in texts.items()}

    def read(self, name: str) -> dict[str, Any]:
        """The declaration of a name that is there."""
        place = resources.files(self.package) / self.folder / f"{name}.yaml"
        return dict(yaml.parse(place.read_text(encoding="utf-8"), f"{self.folder}: {name}"))

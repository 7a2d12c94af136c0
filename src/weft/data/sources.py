"""Sources: where text comes from. `data.source` is the name of a kind, the path of a file or folder, or `hf:name`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weft.config import Part
from weft.data.documents import Corpus


class Source(Part, slot="source", default="python-docs"):
    """Where text comes from."""

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """What is no kind but looks like a path, or a mapping with only a `path`, is `files`; `hf:name` is `hf`."""
        if isinstance(raw, str) and raw.startswith("hf:"):
            name, _, configuration = raw.removeprefix("hf:").partition(":")
            return {"kind": "hf", "name": name, "config": configuration or None}
        if isinstance(raw, str) and raw not in cls.kinds and _like_a_path(raw):
            return {"kind": "files", "path": raw}
        if isinstance(raw, Mapping) and "path" in raw and "kind" not in raw:
            return {"kind": "files", **raw}
        return super().expand_short(raw)

    @classmethod
    def short_schema(cls) -> dict[str, Any]:
        """A kind's name, a path, or `hf:name`."""
        return {"anyOf": [super().short_schema(), {"type": "string"}]}

    def elsewhere(self, path: str) -> Source:
        """The source of other text, at `path`, that is read as this one is; where this has no place, of files there."""
        return Source.choose({"kind": "files", "path": path})

    def build(self) -> Corpus:
        """The documents, ready to be read.

        Raises WeftError when there is nothing to read.
        """
        raise NotImplementedError


def _like_a_path(text: str) -> bool:
    return any(mark in text for mark in "/\\.:~") or Path(text).exists()

"""What a tokenizer's file declares of its steps, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Declared = Mapping[str, Any]


def opened(declared: Declared | None, within: str) -> Iterator[Declared]:
    """Each step that a declaration names; a sequence's steps, which it keeps under `within`, one by one."""
    if declared is None:
        return
    if declared["type"] != "Sequence":
        yield declared
        return
    for part in declared[within]:
        yield from opened(part, within)

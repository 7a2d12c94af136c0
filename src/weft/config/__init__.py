"""Declarations: slots and parts, one YAML loader, overrides by path, and messages that a person can act on."""

from weft.config.load import apply, load
from weft.config.slot import EXECUTION, SLOTS, Part, Section, Slot, sections_within, semantic, slot_base, unknown_name
from weft.config.tree import Override, Place, expand, merge

__all__ = [
    "EXECUTION",
    "SLOTS",
    "Override",
    "Part",
    "Place",
    "Section",
    "Slot",
    "apply",
    "expand",
    "load",
    "merge",
    "sections_within",
    "semantic",
    "slot_base",
    "unknown_name",
]

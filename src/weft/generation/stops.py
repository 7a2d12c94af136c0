"""When a text ends; stop strings in one that arrives in pieces: found across pieces, cut off, never shown in part."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt, field_validator

from weft.config import Section


class Ending(Section):
    """When a text ends that a model writes."""

    max_tokens: PositiveInt | None = None
    """most new tokens; 256 unless given, or as many as the trained length leaves where that is less"""
    stop: tuple[str, ...] = ()
    """strings that end the text, and are cut off"""

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: object) -> object:
        return (stop,) if isinstance(stop, str) else stop

    @field_validator("stop")
    @classmethod
    def _check_stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("an empty stop string would end every text at once")
        return stop


class Stops:
    """Lets text through, except what may yet turn out to be the beginning of a stop string."""

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """What may be shown now, and whether a stop string is complete; the one that is complete first counts."""
        text = self._held + text
        found = [(at + len(string), at) for string in self.strings if (at := text.find(string)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        begun = self._begun(text)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun], False

    def flush(self) -> str:
        """What was held back, when the text ended otherwise."""
        held, self._held = self._held, ""
        return held

    def _begun(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        longest = max((len(string) - 1 for string in self.strings), default=0)
        lengths = range(min(longest, len(text)), 0, -1)
        return next((n for n in lengths if any(string.startswith(text[-n:]) for string in self.strings)), 0)

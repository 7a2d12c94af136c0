"""The byte-level alphabet: 256 printable characters that stand for the 256 bytes, so that any text has tokens.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

from __future__ import annotations

import re
from itertools import chain

WORDS = r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""What a token never reaches beyond: a word with the one sign or space before it (combining marks belong to their
letters), up to three digits, a run of signs, white space. Every character falls into exactly one piece."""


def _characters() -> list[str]:
    printable = set(chain(range(ord("!"), ord("~") + 1), range(0xA1, 0xAD), range(0xAE, 0x100)))
    beyond = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(beyond)) for byte in range(256)]


BYTE_TO_CHARACTER: list[str] = _characters()
"""The character that stands for each byte; one that prints stands for itself."""

CHARACTER_TO_BYTE: dict[str, int] = {character: byte for byte, character in enumerate(BYTE_TO_CHARACTER)}


BYTE_TOKENS: list[str] = [f"<0x{byte:02X}>" for byte in range(256)]
"""SentencePiece's names for single bytes, where characters are the alphabet and bytes what they fall back to."""

BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


def to_bytes(token: str) -> bytes:
    """The bytes that a byte-level token stands for; what is no byte-level character stands for itself."""
    if all(character in CHARACTER_TO_BYTE for character in token):
        return bytes(CHARACTER_TO_BYTE[character] for character in token)
    return token.encode()

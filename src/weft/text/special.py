"""Special tokens by what they are for, whatever a tokenizer calls them, and texts between them: [CLS] A [SEP] B [SEP].

Devlin et al. 2019, "BERT", section 3 and figure 2 (arXiv 1810.04805).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from tokenizers import Encoding, processors

END_OF_DOCUMENT = "<|end|>"
"""The token after each document, and before the first."""
UNKNOWN = "<|unknown|>"

ROLES: dict[str, tuple[str, ...]] = {
    "end": (END_OF_DOCUMENT, "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[SEP]"),
    "first": ("[CLS]", "<s>", "<cls>"),
    "separator": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>", "<|mask|>"),
    "padding": ("[PAD]", "<pad>", "<|pad|>"),
    "unknown": ("[UNK]", "<unk>", UNKNOWN),
}
"""What fills a role in weft's tokenizers and those of others, by how likely it is meant so."""

BERT = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's special tokens, in the order of its vocabulary."""


@dataclass(frozen=True)
class Framed:
    """One text, or a pair of them, between special tokens: a row of a model's input."""

    tokens: list[int]
    segments: list[int]
    """0 for the first text and what frames it, 1 for the second"""
    special: list[bool]
    """which tokens are the frame's: nothing there is masked or labelled"""
    offsets: list[tuple[int, int]]
    """the characters of its own text that each token covers; (0, 0) for the frame's"""


def filling(role: str, special: Container[str]) -> str | None:
    """The first of a role's names that is there."""
    return next((name for name in ROLES[role] if name in special), None)


def unfilled(names: Iterable[str], special: Container[str]) -> list[str]:
    """Those names which are not there, nor is another for the same role; names of no role are for themselves."""
    vacant = [known for role, known in ROLES.items() if filling(role, special) is None]
    return [
        name
        for name in dict.fromkeys(names)
        if name not in special
        and (any(name in known for known in vacant) or not any(name in known for known in ROLES.values()))
    ]


def bert_frame(first: tuple[str, int], separator: tuple[str, int]) -> processors.TemplateProcessing:
    """[CLS] A [SEP] and [CLS] A [SEP] B [SEP] with their segments, for a tokenizer.json; each token with its id."""
    cls, sep = first[0], separator[0]
    return processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[first, separator],
    )


def longest_first(sizes: tuple[int, int], room: int) -> tuple[int, int]:
    """How many tokens of each text stay where both have `room`: the longer one loses first, until they are equal."""
    short, long = sorted(sizes)
    short = min(short, room // 2 if long > room - short else short)
    long = min(long, room - short)
    return (short, long) if sizes[0] <= sizes[1] else (long, short)


def framed(encoding: Encoding) -> Framed:
    """What the library says, as a row."""
    return Framed(
        encoding.ids, encoding.type_ids, [mask == 1 for mask in encoding.special_tokens_mask], encoding.offsets
    )

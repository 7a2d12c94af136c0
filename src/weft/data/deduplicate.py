"""Near-duplicates: texts most of whose runs of three words stand in one other text.

Containment of shingles (Broder 1997, "On the resemblance and containment of documents"), exact, by an inverted index.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

RUN = 3
"""Words in a shingle."""


def near_duplicates(texts: Sequence[str], share: float) -> list[bool]:
    """For each text, whether at least that share of its shingles stands in one longer, or earlier, text that is kept.

    The memory is that of all shingles: for some tens of megabytes of text.
    """
    shingles = [_shingles(text) for text in texts]
    holders: defaultdict[int, list[int]] = defaultdict(list)
    duplicate = [False] * len(texts)
    for index in sorted(range(len(texts)), key=lambda index: -len(shingles[index])):
        found: Counter[int] = Counter()
        for shingle in shingles[index]:
            found.update(holders.get(shingle, ()))
        most = max(found.values(), default=0)
        if most and most >= share * len(shingles[index]):
            duplicate[index] = True
            continue
        for shingle in shingles[index]:
            holders[shingle].append(index)
    return duplicate


def _shingles(text: str) -> frozenset[int]:
    """All runs of three words; the whole text where it has fewer words."""
    words = re.findall(r"\w+", text.lower())
    if len(words) < RUN:
        return frozenset([hash(" ".join(words) or text.strip())])
    return frozenset(hash(run) for run in zip(words, words[1:], words[2:], strict=False))

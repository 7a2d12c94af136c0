"""What a tokenizer that strips accents does to a text whose words differ by accents alone, as Vietnamese ones do."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from weft.text.tokenizers import Tokenizer

NOTICED = 0.02
"""Share of words that lose accents above which a person is told."""
READ = 1_000_000
"""Characters of a text that are looked at."""
SHOWN = 4
"""Words of one spelling that are shown."""


def accents_lost(tokenizer: Tokenizer, texts: Iterable[str]) -> str | None:
    """One line on the words of a text that lose accents, and on those that become the same word; None where few do."""
    normalizer = tokenizer.inner.normalizer
    if normalizer is None or normalizer.normalize_str("ế") != "e":
        return None
    total = lost = 0
    spellings: defaultdict[str, set[str]] = defaultdict(set)
    for word in _words(texts):
        total += 1
        folded = normalizer.normalize_str(word).strip()
        spellings[folded].add(word)
        lost += _marks(word) > _marks(folded)
    if lost <= NOTICED * total:
        return None
    merged = sum(len(words) > 1 for words in spellings.values())
    base, words = max(spellings.items(), key=lambda item: (len(item[1]), item[0]))
    example = f"; {merged:,} spellings stand for several words" if merged > 1 else ""
    if len(words) > 1:
        some = sorted(words)
        example += f" ({', '.join(some[:SHOWN])}{', ...' * (len(some) > SHOWN)} all become {base})"
    return (
        f"tokenizer: strips accents, and {100 * lost / total:.0f} % of the words of this text have some{example};"
        " casing: uncased-accents keeps them"
    )


def _words(texts: Iterable[str]) -> Iterable[str]:
    """The words of the beginning of a text, composed, without capitals."""
    left = READ
    for text in texts:
        for word in text[:left].split():
            kept = "".join(c for c in unicodedata.normalize("NFC", word.lower()) if c.isalpha())
            if kept:
                yield kept
        left -= len(text)
        if left <= 0:
            return


def _marks(word: str) -> int:
    """How many accents a word bears."""
    return sum(unicodedata.category(c) == "Mn" for c in unicodedata.normalize("NFD", word))

"""Texts that are nearly the same, found in bounded memory: bottom-k sketches, looked up by bands of MinHash.

Broder 1997, "On the resemblance and containment of documents"; the bands as in Leskovec, Rajaraman and Ullman, "Mining
of massive datasets", 3.4. Exact for texts of up to about thirty words. `deduplicate` is exact for any, at the price of
memory.
"""

from __future__ import annotations

import heapq
import re
from array import array
from collections import defaultdict
from itertools import pairwise
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

SIZE = 64
"""Hashes that are kept of a text, the smallest ones."""
BANDS, ROWS = 10, 3
"""Of texts with a likeness of 0.8 all but one in a thousand share a band, at 0.5 three of four do."""
_MOST = 100
"""Texts of one band that are compared: more are boilerplate."""
_CHUNK = 1 << 14
_RANDOM = np.random.Generator(np.random.Philox(key=0))
_FACTORS = _RANDOM.integers(0, 2**63, BANDS * ROWS, np.uint64) * 2 + 1
_TERMS = _RANDOM.integers(0, 2**63, BANDS * ROWS, np.uint64)


class Sketches:
    """Sketches of texts, of their words and pairs of words; case, punctuation and white space do not count."""

    def __init__(self) -> None:
        self._hashes, self._starts = array("I"), array("Q", [0])

    def __len__(self) -> int:
        return len(self._starts) - 1

    def add(self, text: str) -> None:
        """Sketch a text."""
        words = re.findall(r"\w+", text.lower()) or [text.strip()]
        found = {crc32(item.encode(errors="surrogatepass")) for item in (*words, *map(" ".join, pairwise(words)))}
        hashes = _mixed(np.fromiter(found, np.uint32, len(found)))
        self._hashes.frombytes(np.sort(hashes)[:SIZE].tobytes())
        self._starts.append(len(self._hashes))

    def hashes(self, number: int) -> set[int]:
        """Those of one text."""
        return set(self._hashes[self._starts[number] : self._starts[number + 1]])

    def band(self, band: int) -> NDArray[np.uint64]:
        """A number for each text that is the same for ROWS of ROWS same least hashes."""
        hashes, starts_N = np.asarray(self._hashes), np.asarray(self._starts).astype(np.int64)
        keys_N = np.zeros(len(self), np.uint64)
        for first in range(0, len(self), _CHUNK):
            starts = starts_N[first : first + _CHUNK + 1]
            part = hashes[starts[0] : starts[-1]].astype(np.uint64)
            keys = keys_N[first : first + _CHUNK]
            for row in range(band * ROWS, (band + 1) * ROWS):
                least = np.minimum.reduceat(
                    (part * _FACTORS[row] + _TERMS[row]) >> np.uint64(32), starts[:-1] - starts[0]
                )
                keys ^= least
                keys *= _FACTORS[0]
                keys ^= keys >> np.uint64(29)
        return keys_N


def most_alike(these: Sketches, others: Sketches) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For each text the likeness (Jaccard, 0 to 1) of the most alike other text, and its number; 0 and -1 for none."""
    near: defaultdict[int, set[int]] = defaultdict(set)
    for band in range(BANDS):
        keys_N, keys_M = these.band(band), others.band(band)
        order_M = np.argsort(keys_M, kind="stable")
        first_N, end_N = (np.searchsorted(keys_M[order_M], keys_N, side) for side in ("left", "right"))
        for number in np.flatnonzero(end_N > first_N).tolist():
            start = int(first_N[number])
            near[number].update(order_M[start : min(int(end_N[number]), start + _MOST)].tolist())
    likeness_N, nearest_N = np.zeros(len(these)), np.full(len(these), -1)
    for number, candidates in near.items():
        mine = these.hashes(number)
        likeness_N[number], place = max((_likeness(mine, others.hashes(other)), -other) for other in candidates)
        nearest_N[number] = -place
    return likeness_N, nearest_N


def _likeness(one: set[int], other: set[int]) -> float:
    union = one | other
    if SIZE in (len(one), len(other)):  # only the smallest are known of both
        union = set(heapq.nsmallest(SIZE, union))
    return len(union & one & other) / len(union)


def _mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MurmurHash3's last step: checksums of like words are alike, these are not."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes = (hashes ^ (hashes >> np.uint32(shift))) * np.uint32(factor)
    return hashes ^ (hashes >> np.uint32(16))

"""What there is to know of labelled data before anything is learned from it: balance, lengths, what stands twice.

One pass; of each text only hashes and lengths are kept, some 300 bytes, so that a million examples fit.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weft.data.sketches import Sketches, most_alike
from weft.report.formats import percent
from weft.report.terminal import table

NEAR = 0.8
"""Share of words and pairs of words from which on two texts are nearly the same."""
_CLASSES = 20
"""Classes that a terminal shows, where there are more than one beyond."""
_SHOWN = 3
"""Names or ids that a line shows."""

Example = tuple[str, str, str | None, str | None, str]
"""Id, text, label, target, and the name of the split: `train` first, then what is measured on."""


@dataclass(frozen=True)
class Lengths:
    """How long the texts of a split are."""

    median: float
    p90: float
    longest: int

    def __str__(self) -> str:
        return f"{self.median:,.0f} / {self.p90:,.0f} / {self.longest:,}"


@dataclass(frozen=True)
class Part:
    """One split by itself."""

    examples: int
    labels: dict[str, int]
    """examples of each class, the most frequent first"""
    empty: int
    """texts of white space alone"""
    empty_targets: int
    repeated: int
    """examples whose text stood in the split before"""
    characters: Lengths
    words: Lengths
    """by white space"""
    target_characters: Lengths | None
    target_words: Lengths | None


@dataclass(frozen=True)
class Overlap:
    """What a later split has in common with an earlier one: there a model may answer by heart."""

    split: str
    earlier: str
    examples: int
    """of `split`"""
    exact: int
    """of them: those whose text stands in `earlier`, too"""
    contradicted: int
    """of those: the ones that have another label (or target) there, and only another"""
    near: int
    """others that share `NEAR` of all words and pairs of words with one text of `earlier`"""
    shown: tuple[tuple[str, str], ...]
    """the first of each kind: its id, and that of the other"""

    def line(self, answer: str) -> str:
        """In a sentence; `answer` is what an example is to be answered with, a label or a target."""
        ids = "; ".join(f"{one} = {other}" for one, other in self.shown)
        contradicted = f" ({self.contradicted:,} with another {answer})" if self.contradicted else ""
        return (
            f"{self.split}: of {self.examples:,} texts {self.exact:,} stand in {self.earlier}, too{contradicted},"
            f" and {self.near:,} nearly: {percent((self.exact + self.near) / self.examples)} ({ids})"
        )


@dataclass(frozen=True)
class ExamplesSurvey:
    """Facts about labelled examples."""

    parts: dict[str, Part]
    overlaps: tuple[Overlap, ...]
    contradictory: int
    """texts that occur with more than one label (or target), in all splits together"""

    def as_dict(self) -> dict[str, Any]:
        """As plain data for a manifest."""
        return asdict(self)

    def lines(self) -> list[str]:
        """As a terminal shows it."""
        return [*self._lengths(), *self._balance(), *self._warnings()]

    def _lengths(self) -> list[str]:
        headers = ["median / 90 % / longest", "examples", "characters", "words"]
        rows: list[list[object]] = []
        for name, part in self.parts.items():
            rows.append([name, part.examples, str(part.characters), str(part.words)])
            if part.target_characters is not None:
                rows.append([f"{name}: targets", None, str(part.target_characters), str(part.target_words)])
        return table(headers, rows).splitlines()

    def _balance(self) -> list[str]:
        total = sum((Counter(part.labels) for part in self.parts.values()), Counter[str]())
        if not total:
            return []
        parts = {name: part for name, part in self.parts.items() if part.labels}
        shown = [label for label, _ in total.most_common(_CLASSES if len(total) > _CLASSES + 1 else None)]

        def share(labels: dict[str, int], wanted: list[str]) -> str:
            found = sum(labels.get(label, 0) for label in wanted)
            return f"{found:,} ({percent(found / max(1, sum(labels.values())))})" if found else "none"

        rows = [[label, *(share(part.labels, [label]) for part in parts.values())] for label in shown]
        rest = [label for label in total if label not in set(shown)]
        if rest:
            rows.append([f"{len(rest):,} more", *(share(part.labels, rest) for part in parts.values())])
        return ["", *table([f"{len(total):,} classes", *parts], rows).splitlines()]

    def _warnings(self) -> list[str]:
        answer = "label" if any(part.labels for part in self.parts.values()) else "target"
        said = [overlap.line(answer) for overlap in self.overlaps if overlap.exact or overlap.near]
        if self.contradictory:
            said.append(f"texts with more than one {answer}, in all splits together: {self.contradictory:,}")
        train = next(iter(self.parts), "")
        for name, part in self.parts.items():
            unseen = [label for label in part.labels if label not in self.parts[train].labels]
            if unseen:
                said.append(f"{name}: {_few(unseen)} of which {train} has no example")
            for count, what in (
                (part.repeated, "texts stand there before"),
                (part.empty, "texts are empty"),
                (part.empty_targets, "targets are empty"),
            ):
                if count:
                    said.append(f"{name}: {count:,} of {part.examples:,} {what}")
        return ["", *said] if said else []


class _Gathered:
    """What is kept of a split's examples; empty texts are only counted."""

    def __init__(self) -> None:
        self.examples = self.empty = self.empty_targets = 0
        self.ids: list[str] = []
        self.labels: Counter[str] = Counter()
        self.hashes, self.answers, self.sketches = array("Q"), array("Q"), Sketches()
        self.text_lengths, self.target_lengths = _Gauge(), _Gauge()

    def add(self, id: str, text: str, label: str | None, target: str | None) -> None:
        self.examples += 1
        self.text_lengths.add(text)
        if label is not None:
            self.labels[label] += 1
        if target is not None:
            self.target_lengths.add(target)
            self.empty_targets += not target.strip()
        text = text.strip()
        if not text:
            self.empty += 1
            return
        self.ids.append(id)
        self.hashes.append(_hash(text))
        self.answers.append(_hash(f"{label}\0{target}"))
        self.sketches.add(text)

    @property
    def texts_N(self) -> NDArray[np.uint64]:
        return np.asarray(self.hashes, np.uint64)

    @property
    def pairs_N2(self) -> NDArray[np.uint64]:
        """Text and answer."""
        return np.stack([self.texts_N, np.asarray(self.answers, np.uint64)], 1)

    def part(self) -> Part:
        with_targets = bool(self.target_lengths.words)
        return Part(
            examples=self.examples,
            labels=dict(self.labels.most_common()),
            empty=self.empty,
            empty_targets=self.empty_targets,
            repeated=len(self.hashes) - len(np.unique(self.texts_N)),
            characters=_lengths(self.text_lengths.characters),
            words=_lengths(self.text_lengths.words),
            target_characters=_lengths(self.target_lengths.characters) if with_targets else None,
            target_words=_lengths(self.target_lengths.words) if with_targets else None,
        )


class _Gauge:
    """Lengths of texts."""

    def __init__(self) -> None:
        self.characters, self.words = array("I"), array("I")

    def add(self, text: str) -> None:
        self.characters.append(len(text))
        self.words.append(len(text.split()))


def survey_examples(examples: Iterable[Example]) -> ExamplesSurvey:
    """Read labelled examples once; splits are compared in the order in which they first appear, `train` first."""
    seen: dict[str, _Gathered] = {}
    for id, text, label, target, split in examples:
        if split not in seen:
            seen[split] = _Gathered()
        seen[split].add(id, text, label, target)
    gathered = {split: seen[split] for split in sorted(seen, key=lambda split: split != "train")}
    overlaps = tuple(
        _overlap(later, gathered[later], earlier, gathered[earlier]) for earlier, later in combinations(gathered, 2)
    )
    pairs_N2 = np.concatenate([np.zeros((0, 2), np.uint64), *(part.pairs_N2 for part in gathered.values())])
    _, answers_N = np.unique(np.unique(pairs_N2, axis=0)[:, 0], return_counts=True)
    parts = {name: part.part() for name, part in gathered.items()}
    return ExamplesSurvey(parts, overlaps, int((answers_N > 1).sum()))


def _overlap(split: str, these: _Gathered, earlier: str, others: _Gathered) -> Overlap:
    """Which texts of a split stand in an earlier one, wholly or nearly."""
    order_M = np.argsort(others.texts_N, kind="stable")
    sorted_M = others.texts_N[order_M]
    exact_N = np.isin(these.texts_N, sorted_M)
    agreed = set(map(tuple, others.pairs_N2[np.isin(others.texts_N, these.texts_N)].tolist()))
    contradicted_N = np.asarray([tuple(pair) not in agreed for pair in these.pairs_N2.tolist()], np.bool_) & exact_N
    likeness_N, nearest_N = most_alike(these.sketches, others.sketches)
    near_N = (likeness_N >= NEAR) & ~exact_N
    places_N = np.where(near_N, nearest_N, -1)
    places_N[exact_N] = order_M[np.searchsorted(sorted_M, these.texts_N[exact_N])]
    shown = [*np.flatnonzero(exact_N)[:_SHOWN], *np.flatnonzero(near_N)[:_SHOWN]]
    return Overlap(
        split,
        earlier,
        these.examples,
        int(exact_N.sum()),
        int(contradicted_N.sum()),
        int(near_N.sum()),
        tuple((these.ids[number], others.ids[places_N[number]]) for number in shown),
    )


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _lengths(values: array[int]) -> Lengths:
    if not values:
        return Lengths(0.0, 0.0, 0)
    median, p90 = np.percentile(np.asarray(values), [50, 90])
    return Lengths(float(median), float(p90), max(values))


def _few(names: list[str]) -> str:
    """`class a`, or `classes a, b and 4 more`."""
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")
    return f"{'class' if len(names) == 1 else 'classes'} {shown}"

"""What is held out for validation: decided by document and by name, before anything is fitted to the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from weft.config import Part, semantic
from weft.data.documents import Corpus, Document
from weft.data.sources import Source
from weft.data.survey import Survey
from weft.errors import WeftError
from weft.report.formats import percent
from weft.seeds import derive

Reading = Callable[[], Iterator[Document]]


@dataclass(frozen=True)
class Surveyed:
    """A corpus and what is known of it."""

    corpus: Corpus
    survey: Survey

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should hear about it, what reading left out included."""
        return (*self.corpus.notes, *self.survey.left_out)


@dataclass(frozen=True)
class Split:
    """The two parts of a text; each can be read any number of times."""

    kind: str
    train: Reading
    validation: Reading
    train_bytes: int
    validation_bytes: int
    notes: tuple[str, ...] = ()

    def with_share(self, share: float, whole: bool) -> Split:
        """The same with less to train on: documents by a hash of their names, so that a smaller share is part of a
        larger one; or of one document (`whole`), whose names say nothing, the beginning."""

        def some() -> Iterator[Document]:
            return (document for document in self.train() if derive(0, "share", document.id) < share * 2**63)

        def beginning() -> Iterator[Document]:
            for document in self.train():
                kept = max(1, int(len(document.text) * share))
                yield replace(document, text=document.text[:kept])

        note = f"training text: {percent(share)} of it is used (data.share)"
        expected = max(1, round(self.train_bytes * share))
        return replace(self, train=beginning if whole else some, train_bytes=expected, notes=(*self.notes, note))


class Validation(Part, slot="validation", default="hash"):
    """Which text is held out for validation."""

    def given(self, source: Source) -> Corpus | None:
        """A corpus of its own that is the validation part, where there is one."""
        return None

    def holds_out(self, document: Document) -> bool:
        """Whether this document is for validation, as far as its name alone says."""
        return False

    def split(self, text: Surveyed, given: Surveyed | None) -> Split:
        """The two parts of a corpus that was surveyed with `holds_out`.

        Raises WeftError when there is too little text for two parts.
        """
        raise NotImplementedError

    def identity(self) -> Any:
        """What the split depends on beside the texts, as plain data."""
        return semantic(self)


class HashValidation(Validation, kind="hash"):
    """Documents by a hash of their stable names; what belongs together (a module's docstrings) stays together."""

    share: float = Field(0.1, gt=0, lt=1)
    """about which part is held out"""

    def holds_out(self, document: Document) -> bool:
        return derive(0, "validation", document.together) < self.share * 2**63

    def split(self, text: Surveyed, given: Surveyed | None) -> Split:
        corpus, survey = text.corpus, text.survey
        if survey.held_out in (0, survey.bytes):
            what = "one document" if survey.documents == 1 else f"{survey.documents} documents, all on one side"
            note = (
                f"validation: hash splits between documents, and {corpus.name} has {what}: instead the last"
                f" {percent(self.share)} of its characters are held out (data.validation=tail)"
            )
            whole = TailValidation(share=self.share).split(text, None)
            return replace(whole, notes=(note, *whole.notes))
        notes: tuple[str, ...] = ()
        got = survey.held_out / survey.bytes
        if not self.share / 2 <= got <= min(2 * self.share, (1 + self.share) / 2):
            notes = (
                f"validation: {percent(got)} of the text is held out where {percent(self.share)} were asked for: few or"
                f" unequal documents ({survey.documents}); data.validation=tail cuts by length",
            )

        def side(wanted: bool) -> Iterator[Document]:
            return (document for document in corpus.documents() if self.holds_out(document) is wanted)

        return Split(
            self.kind,
            lambda: side(False),
            lambda: side(True),
            survey.bytes - survey.held_out,
            survey.held_out,
            notes,
        )


class TailValidation(Validation, kind="tail"):
    """The end of the text, by characters: the first int(n x (1 - share)) are for training, the others are held out.

    Examples (documents whose label or target a task needs) are not cut: the one at the border is held out.
    """

    share: float = Field(0.1, gt=0, lt=1)
    """which part of the characters is held out"""

    def split(self, text: Surveyed, given: Surveyed | None) -> Split:
        corpus, survey = text.corpus, text.survey
        if survey.characters < 2:
            raise WeftError(f"data.source = {corpus.name}: {survey.characters} character is too little to split")
        if corpus.needed and survey.documents < 2:
            raise WeftError(f"data.source = {corpus.name}: {survey.documents} example is too little to split")
        kept = min(max(1, int(survey.characters * (1 - self.share))), survey.characters - 1)
        # bytes of the parts as if all characters were equally wide: for progress and samples, not for measures
        train_bytes = survey.bytes * kept // survey.characters
        return Split(
            self.kind,
            lambda: _first(corpus, kept),
            lambda: _beyond(corpus, kept),
            train_bytes,
            survey.bytes - train_bytes,
        )


class FileValidation(Validation, kind="file"):
    """A text given for validation, taken as it is; the source is then all for training."""

    path: str
    """a file or folder, read as the source is; for a data set from the Hugging Face hub, another of its splits"""

    def given(self, source: Source) -> Corpus | None:
        return source.elsewhere(self.path).build()

    def split(self, text: Surveyed, given: Surveyed | None) -> Split:
        assert given is not None, "`given` names a corpus"
        notes: tuple[str, ...] = ()
        if given.survey.fingerprint == text.survey.fingerprint:
            notes = (f"validation: {given.corpus.name} is the training text itself",)
        train, held_out = text.survey.bytes, given.survey.bytes
        return Split(self.kind, text.corpus.documents, given.corpus.documents, train, held_out, notes)

    def identity(self) -> Any:
        return {"kind": self.kind}


def _first(corpus: Corpus, characters: int) -> Iterator[Document]:
    """The documents up to that many characters, at least one; the one at the border is cut, unless needed whole."""
    left = characters
    for document in corpus.documents():
        if left <= 0:
            return
        if len(document.text) <= left or (corpus.needed and left == characters):
            yield document
        elif not corpus.needed:
            yield replace(document, text=document.text[:left])
        left -= len(document.text)


def _beyond(corpus: Corpus, characters: int) -> Iterator[Document]:
    """What `_first` leaves out; the rest of the document at the border is called `id:tail`."""
    left = characters
    for document in corpus.documents():
        if left <= 0 or (corpus.needed and len(document.text) > left != characters):
            yield document
        elif len(document.text) > left and not corpus.needed:
            yield replace(document, id=f"{document.id}:tail", text=document.text[left:])
        left -= len(document.text)

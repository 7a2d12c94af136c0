"""Code that every Python installation brings: the source files of its library."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from weft.data.documents import Document
from weft.data.python_library import LibraryCorpus, standard_library
from weft.data.sources import Source

_TABLES = {"encodings", "pydoc_data"}  # generated: a seventh of all bytes, and no code


class PythonSource(Source, kind="python-source"):
    """Code from the Python installation: the source files of the standard library."""

    similarity: float = Field(0.8, gt=0, le=1)
    """a file of whose runs of three words this share stands in one other file is left out"""

    def build(self) -> PythonSourceCorpus:
        return PythonSourceCorpus(self.similarity, standard_library())


class PythonSourceCorpus(LibraryCorpus):
    """A document a file, by path; packages are not torn apart. Ids: `email/message.py`."""

    name = "python-source"

    def found(self) -> Iterator[Document]:
        for module in self.modules():
            if module.package not in _TABLES and module.source.strip():
                yield Document(module.file, module.source, group=module.package)

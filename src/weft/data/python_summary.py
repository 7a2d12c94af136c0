"""Sequence to sequence that every Python installation brings: from a function's code to what its docstring says first.

Code summarisation as in Husain et al. 2019, "CodeSearchNet challenge" (arXiv 1909.09436), on the standard library.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field

from weft.data.documents import Document
from weft.data.python_library import NAMED, LibraryCorpus, standard_library
from weft.data.sources import Source

LEAST_WORDS = 3
"""Words that a summary must have."""


class PythonSummary(Source, kind="python-summary"):
    """Sequence to sequence: functions of the standard library, and the first line (the target) of their docstrings."""

    max_characters: int = Field(600, ge=50)
    """of a function's code; longer code ends with the last line that is within"""
    similarity: float = Field(0.8, gt=0, le=1)
    """a function of whose runs of three words this share stands in one other function is left out"""

    def build(self) -> PythonSummaryCorpus:
        return PythonSummaryCorpus(self.similarity, standard_library(), self.max_characters)


class PythonSummaryCorpus(LibraryCorpus):
    """Functions by module and line, without their docstrings. Ids: `email.message.Message.walk`."""

    name = "python-summary"
    fields = ("target",)

    def __init__(self, similarity: float, library: Path, max_characters: int = 600) -> None:
        super().__init__(similarity, library)
        self.max_characters = max_characters

    def found(self) -> Iterator[Document]:
        for module in self.modules():
            lines = module.source.split("\n")
            for item in module.described():
                if isinstance(item.node, ast.FunctionDef | ast.AsyncFunctionDef) and _does_something(item.node):
                    target, code = summary(item.text), without_docstrings(lines, item.node)
                    if target and code:
                        text = _within(code, self.max_characters)
                        yield Document(item.id, text, group=text, fields={"target": target})


def summary(docstring: str) -> str | None:
    """A docstring's first line, where that is a summary (PEP 257): alone, above an empty line, or a whole sentence."""
    first, _, rest = docstring.partition("\n")
    first = first.strip()
    goes_on = bool(rest.partition("\n")[0].strip()) and not first.endswith((".", "!", "?", ":"))
    return None if goes_on or len(re.findall(r"\w+", first)) < LEAST_WORDS else first


def without_docstrings(lines: list[str], function: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """A function as it stands in the `lines` of its file, less every docstring within and its indentation.

    None where a docstring shares its line with code.
    """
    dropped: set[int] = set()
    for node in ast.walk(function):
        if isinstance(node, NAMED) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            end = docstring.end_lineno or docstring.lineno
            before = lines[docstring.lineno - 1].encode()[: docstring.col_offset]
            after = lines[end - 1].encode()[docstring.end_col_offset :].strip()
            if before.strip() or (after and not after.startswith(b"#")):
                return None
            dropped.update(range(docstring.lineno, end + 1))
    start = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    indent = lines[function.lineno - 1][: function.col_offset]
    kept = [number for number in range(start, (function.end_lineno or start) + 1) if number not in dropped]
    return "\n".join(lines[number - 1].removeprefix(indent) for number in kept).strip()


def _does_something(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether there is more below the docstring than what stands in for a body."""
    return any(not isinstance(statement, ast.Pass | ast.Raise) for statement in function.body[1:])


def _within(code: str, most: int) -> str:
    """The first lines of `code`, at most so many characters; of the first line, where that is longer, its start."""
    if len(code) <= most:
        return code
    end = code.rfind("\n", 0, most + 1)
    return code[: most if end < 0 else end].rstrip()

"""`weft predict`: what a model says of each text of a file, in the file's order, as it goes."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer

from weft.errors import WeftError


def command(
    model: Annotated[str, typer.Argument(help="a run or a model folder")],
    file: Annotated[str, typer.Argument(help="texts: .txt with one a line, .csv, .tsv, .jsonl, .parquet, a source")],
    overrides: Annotated[list[str] | None, typer.Argument(help="options of the source, such as text=sentence")] = None,
    out: Annotated[str | None, typer.Option(help="a .csv or .jsonl to write [standard output]")] = None,
    form: Annotated[str | None, typer.Option("--format", help="csv or jsonl [by --out's ending, else jsonl]")] = None,
    beams: Annotated[int, typer.Option(min=1, help="width of the search, for a model that writes")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
) -> None:
    """Let a model answer texts: weft predict runs/topics texts.csv --out answers.csv"""
    from weft.data.progress import Progress
    from weft.evaluation.predict import predict
    from weft.evaluation.task import Task
    from weft.report.terminal import console

    kind = _format(out, form)
    task = Task.open(model, device, plugins or ())
    corpus = task.reading_texts(file, overrides or ()).build()
    screen = console(stderr=True)
    with Progress(screen) as progress, _opened(out) as stream:
        documents = progress.track(corpus.documents(), f"reading {corpus.name}", corpus.size())
        count = _write(predict(task, documents, beams), stream, kind)
    for note in (*corpus.notes, *corpus.left_out):
        screen.print(f"note: {note}", highlight=False, markup=False, emoji=False)
    if out is not None:
        screen.print(f"{out}: {count:,} answers", highlight=False, markup=False, emoji=False)


def _format(out: str | None, form: str | None) -> Literal["csv", "jsonl"]:
    kind = form or (Path(out).suffix.removeprefix(".") if out else "jsonl")
    if kind not in ("csv", "jsonl"):
        where = f"--format {form}" if form else f"--out {out}"
        raise WeftError(f"{where}: answers are written as .csv or .jsonl")
    return "csv" if kind == "csv" else "jsonl"


@contextmanager
def _opened(out: str | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there when all of it is."""
    if out is None:
        yield sys.stdout
        return
    path = Path(out)
    if path.exists():
        raise WeftError(f"{out}: exists already; choose another --out")
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as stream:
            yield stream
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)


def _write(answers: Iterable[dict[str, Any]], stream: TextIO, kind: Literal["csv", "jsonl"]) -> int:
    """Each answer as it comes; how many there were."""
    table, count = None, 0
    for answer in answers:
        count += 1
        if kind == "jsonl":
            stream.write(json.dumps(answer, ensure_ascii=False) + "\n")
        else:
            row = {**answer, **{f"p({label})": p for label, p in answer.get("probabilities", {}).items()}}
            row.pop("probabilities", None)
            if table is None:
                table = csv.DictWriter(stream, list(row), lineterminator="\n")
                table.writeheader()
            table.writerow(row)
        stream.flush()
    return count

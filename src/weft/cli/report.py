"""`weft report`: draw a run's report again, or several runs over one another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    out: Annotated[
        Path | None, typer.Option(help="where the page goes; into the first run's folder unless given")
    ] = None,
) -> None:
    """Draw the report of a run, or of several in one page: weft report runs/demo runs/demo-2"""
    from weft.runs.folder import RunFolder
    from weft.training.report import write_report

    for run in runs:
        RunFolder.open(run)
    typer.echo(f"report: {write_report(runs, out)}")

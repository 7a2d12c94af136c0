"""`weft compare`: what runs that exist tell of each other, and what they cannot."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="run folders; the first one's recipe is the baseline")
    ],
    metric: Annotated[str | None, typer.Option(help="SPLIT/NAME as logged; the task's own unless given")] = None,
    margin: Annotated[float | None, typer.Option(help="differences smaller than this do not matter")] = None,
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Compare runs that exist, those of one recipe as seeds of an arm: weft compare runs/a runs/b"""
    from pathlib import Path

    from weft.config.plugins import load_plugins
    from weft.studies.existing import compare_runs

    load_plugins(plugins or (), Path())
    lines = compare_runs([Path(run) for run in runs], metric, margin)
    typer.echo(json.dumps({"lines": lines}, ensure_ascii=False) if as_json else "\n".join(lines))

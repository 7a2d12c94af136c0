"""`weft train`: a new run, or on with one that exists."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    recipe: Annotated[str, typer.Argument(help="a recipe (file or bundled name), or a run's folder to go on with")],
    overrides: Annotated[list[str] | None, typer.Argument(help="path=value, such as model.decoder.n_layers=2")] = None,
    name: Annotated[str | None, typer.Option(help="the run folder's name; the recipe's unless given")] = None,
    runs: Annotated[str, typer.Option(help="where run folders lie")] = "runs",
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Train a model: weft train demo train.seed=1"""
    try:
        from rich.console import Console

        from weft.report.terminal import console
        from weft.training.run import train

        shown: Console = Console(stderr=True) if as_json else console()
        run = train(recipe, *(overrides or ()), name=name, runs=runs, plugins=plugins or (), console=shown)
    except KeyboardInterrupt as stop:
        typer.echo(str(stop) or "stopped before training began: nothing was trained, no run folder was made", err=True)
        raise typer.Exit(130) from None
    if as_json:
        last = [line for line in run.metrics if line["split"] == "validation"][-1:]
        result = {
            "folder": str(run.folder),
            "finished": run.finished,
            "validation": last[0]["values"] if last else None,
        }
        typer.echo(json.dumps(result))
    if not run.finished:
        raise typer.Exit(130)

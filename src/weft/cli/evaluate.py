"""`weft evaluate`: what a model reaches on data, and a line for every example."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Argument(help="a run or a model folder")],
    data: Annotated[str, typer.Argument(help="a source, a file, a folder or hf:name")],
    overrides: Annotated[list[str] | None, typer.Argument(help="options of the source, such as label=topic")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="look at about so many tokens [all]")] = None,
    out: Annotated[str | None, typer.Option(help="folder for the results [evaluations/ in the run]")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Measure a model on data: weft evaluate runs/topics python-topics"""
    from weft.evaluation.task import Task, evaluate_on
    from weft.report.terminal import console

    screen = console(stderr=as_json)
    task = Task.open(model, device, plugins or ())
    found = evaluate_on(task, data, overrides or (), limit, out, screen)
    if as_json:
        typer.echo(json.dumps(found.report(), ensure_ascii=False))
        return
    chosen = [f"checkpoint: {task.checkpoint}, the run's best"] if task.checkpoint else []
    for line in (*chosen, *(f"note: {note}" for note in found.notes), *found.result.lines({})):
        screen.print(line, highlight=False, markup=False, emoji=False)
    screen.print(f"each example: {found.folder / 'predictions.jsonl'}", highlight=False, markup=False, emoji=False)

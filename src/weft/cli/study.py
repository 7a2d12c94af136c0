"""`weft study`: is one recipe better than another, by how much, how sure are we."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Compare recipes over seeds: weft study run study.yaml")

Source = Annotated[str, typer.Argument(metavar="STUDY", help="a YAML file, or a bundled study: weft list studies")]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PATH=VALUE]...", help="of the study (seeds=3) or of every recipe (data.source=notes.txt)"),
]
Settings = Annotated[list[str] | None, typer.Option("--setting", help="one of its settings; all unless given")]
Studies = Annotated[str, typer.Option(help="where studies and their cells lie")]
Quick = Annotated[bool, typer.Option("--quick", help="a quick look: fewer seeds, shorter runs, another folder")]
Jobs = Annotated[int | None, typer.Option(min=1, help="cells at a time; as many as there are cores for unless given")]
Threads = Annotated[int | None, typer.Option(min=1, help="threads of each cell; cores divided by cells unless given")]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON")]


@app.command()
def run(
    study: Source,
    changes: Changes = None,
    setting: Settings = None,
    quick: Quick = False,
    studies: Studies = "studies",
    jobs: Jobs = None,
    threads: Threads = None,
    retry: Annotated[bool, typer.Option("--retry", help="run cells again that failed")] = False,
    as_json: AsJson = False,
) -> None:
    """Run a study, or go on with it: weft study run study.yaml

    What is there already is not repeated: Ctrl-C saves, and the same command goes on.
    """
    from weft.report.terminal import console
    from weft.studies.engine import study as carry_out

    report = carry_out(
        study, *(changes or ()), settings=setting or (), studies=studies, quick=quick, jobs=jobs, threads=threads,
        retry=retry, console=console(stderr=as_json),
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"folder": str(report.folder), "finished": report.finished, **report.results}))
    if not report.finished:
        raise typer.Exit(130)


@app.command()
def plan(
    study: Source,
    changes: Changes = None,
    setting: Settings = None,
    quick: Quick = False,
    studies: Studies = "studies",
    jobs: Jobs = None,
    threads: Threads = None,
    timed: Annotated[bool, typer.Option("--probe/--no-probe", help="two short timed runs of each arm")] = True,
    as_json: AsJson = False,
) -> None:
    """Tell what a study takes and what it can find, without running it: weft study plan study.yaml"""
    import tempfile
    from pathlib import Path

    from weft.report.terminal import console
    from weft.studies.donors import stand_ins
    from weft.studies.probes import plan
    from weft.studies.reading import read_studies
    from weft.studies.session import open_studies

    shown = console(stderr=as_json)
    read = read_studies(study, quick, changes or (), setting or ())
    with tempfile.TemporaryDirectory(prefix="weft-donors-") as place:
        sessions = open_studies(read, Path(studies), quick, jobs, threads, shown, stand_ins(Path(place))) or []
        found = {session.study.name: (session, plan(session, shown, timed)) for session in sessions}
    if as_json:
        told = {name: one.data() for name, (_, one) in found.items()}
        typer.echo(json.dumps(told if len(told) > 1 else next(iter(told.values()))))
        return
    for name, (session, one) in found.items():
        typer.echo("\n".join([f"{name}:"] * (len(found) > 1) + one.lines(len(session.study.seed_list))))


@app.command()
def report(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="a study's folder: studies/NAME")],
) -> None:
    """Write a study's report anew from its folder: weft study report studies/positions"""
    from pathlib import Path

    from weft.studies.outcome import write_pages

    typer.echo(str(write_pages(Path(folder))))


@app.command()
def selfcheck(
    study: Source, changes: Changes = None, setting: Settings = None, quick: Quick = False, studies: Studies = "studies"
) -> None:
    """Tell how often the method errs on a study's own cells, split at random: weft study selfcheck study.yaml"""
    from pathlib import Path

    from weft.runs.folder import read_json
    from weft.studies.folder import StudyFolder
    from weft.studies.outcome import measured
    from weft.studies.reading import read_studies
    from weft.studies.selfchecks import selfcheck

    for declared in read_studies(study, quick, changes or (), setting or ()):
        chosen = declared.study.quicker() if quick else declared.study
        folder = StudyFolder(Path(studies), chosen.name)
        scores = measured(chosen, read_json(folder.path / "results.json"), folder.store)
        words = selfcheck(scores, alpha=chosen.metric.alpha).words()
        typer.echo(words if declared.setting is None else f"{declared.setting}: {words}")


@app.command()
def ablate(
    recipe: Annotated[str, typer.Argument(help="a recipe: a file or a bundled name")],
    against: Annotated[str | None, typer.Option(help="another recipe: its differences, one at a time")] = None,
    add: Annotated[bool, typer.Option("--add", help="add each to the other recipe, instead of leaving it out")] = False,
) -> None:
    """Print a study that leaves out one part at a time: weft study ablate demo > ablation.yaml"""
    from weft.config import yaml
    from weft.studies.ablations import ablation

    study, refused = ablation(recipe, against, add)
    typer.echo(yaml.dump(study), nl=False)
    for reason in refused:
        typer.echo(f"left out: {reason}", err=True)


@app.command("list")
def listing(studies: Studies = "studies", as_json: AsJson = False) -> None:
    """List the studies here and what they found: weft study list"""
    from pathlib import Path

    from weft.report.terminal import table
    from weft.studies.folder import found_studies

    found = found_studies(Path(studies))
    if as_json:
        typer.echo(json.dumps(found))
    elif not found:
        typer.echo(f"{studies}: no studies yet; weft study run STUDY makes one")
    else:
        rows = [[one["study"], f"{one['finished']} of {one['cells']}", one["verdict"]] for one in found]
        typer.echo(table(["study", "cells", "verdict"], rows, width=10_000))

"""A study from its declaration to its verdict: cells that are not there are run, arms interleaved in time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.report.terminal import console as make_console
from weft.studies.cells import Cell
from weft.studies.donors import trained
from weft.studies.folder import Report, StudyFolder, only_one
from weft.studies.outcome import findings, write_results, write_series
from weft.studies.reading import command, is_timing, read_raw, read_studies, renamed
from weft.studies.running import Runner
from weft.studies.session import Session, open_studies
from weft.studies.sweeps import swept
from weft.training.progress import say


def study(
    source: str | Path | dict[str, Any],
    *changes: str,
    settings: Sequence[str] = (),
    studies: str | Path = "studies",
    quick: bool = False,
    jobs: int | None = None,
    threads: int | None = None,
    retry: bool = False,
    isolated: bool = True,
    console: Console | None = None,
) -> Report:
    """Run a study (a file, a bundled one's name or a mapping), or go on with it; cells that are there are not repeated.

    `changes`: path=value, options of the study (seeds=3) or of every arm's recipe (data.source=notes.txt), which make
    it another study; `settings`: which of them, all unless given.
    `retry`: cells that failed are run again. `isolated=False` runs the cells in this process, one after another.
    Raises WeftError, with nothing run, when something is wrong with what was asked.
    """
    console = console or make_console()
    if is_timing(source if isinstance(source, dict) else read_raw(source)[0]):
        from weft.studies.timing import run_timing

        return run_timing(
            source, *changes, studies=studies, quick=quick, threads=threads, isolated=isolated, console=console
        )
    read = read_studies(source, quick, changes, settings)
    if note := renamed(read[0], changes):
        say(console, note)
    where = Path(studies)
    store = where / "cells"
    with only_one(store):
        donors = trained(Runner(store, 1, console, isolated))
        sessions = open_studies(read, where, quick, jobs, threads, console, donors)
        for session in sessions or ():
            session.folder.check(session.study)
        reports: list[Report] = []
        for session in sessions or ():
            report = _carried_out(session, Runner(store, session.lanes.jobs, console, isolated, retry), console)
            if report is None:
                sessions = None
                break
            reports.append(report)
    if sessions is None:
        say(console, "stopped; go on with:")
        say(console, f"  {command(source, changes, settings, quick)}")
        return Report(where, False, {}, tuple(reports))
    whole = reports[0] if sessions[0].declared.setting is None else _together(where, sessions, reports, console)
    if quick:
        say(console, f"this was a quick look; the study: {command(source, changes, settings)}")
    return whole


def _carried_out(session: Session, runner: Runner, console: Console) -> Report | None:
    """What one study found; None when somebody asked to stop."""
    folder, study = session.folder, session.study

    def run(cells: Sequence[Cell]) -> bool:
        folder.declare(study, session.declared.written(), session.lanes.threads, [cell.name for cell in cells])
        return runner.carry_out(cells, study.metric.name)

    arms = swept(session, run, console)
    if arms is None or not run(cells := session.cells(arms)):
        return None
    looks = folder.looked(study.seed_list)
    results = findings(study, arms, cells, folder.store, looks, session.quick)
    results |= {"claim": study.claim, "setting": session.declared.setting}
    for line in write_results(folder.path, results):
        say(console, line)
    return Report(folder.path, True, results)


def _together(where: Path, sessions: Sequence[Session], reports: Sequence[Report], console: Console) -> Report:
    """The settings of a study on one page."""
    first = sessions[0]
    name = f"{first.declared.series}-quick" if first.quick else first.declared.series
    folder = StudyFolder(where, name).path
    places = {str(session.declared.setting): report.folder for session, report in zip(sessions, reports, strict=True)}
    for line in write_series(folder, name, first.declared.claim, places):
        say(console, line)
    return Report(folder, True, {}, tuple(reports))

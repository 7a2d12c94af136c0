"""`weft check`: whether a part has every property that the rest of weft relies on, and what to change if not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from weft.checking.part import Report, Tick
    from weft.config import Part


def command(
    what: Annotated[list[str], typer.Argument(help="a Python file with parts, a kind, or slot:kind")],
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="beside default parts only, and without torch.compile")
    ] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="each option beside all kinds of other parts")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Hold a part to every property, and say what to change: weft check my_attention.py

    Exit code 1 where a property does not hold.
    """
    from pathlib import Path

    import weft.training.recipe  # noqa: F401 (it imports all that a recipe may hold)
    from weft.checking.part import Effort, check_part
    from weft.config.plugins import load_plugins
    from weft.device import set_threads
    from weft.errors import WeftError

    if quick and thorough:
        raise WeftError("--quick and --thorough: give one of them")
    effort: Effort = "quick" if quick else "thorough" if thorough else "normal"
    set_threads(1)  # more only get in each other's way in models so small
    load_plugins([*(plugins or ()), *(name for name in what if name.endswith(".py"))], Path())
    parts = list(dict.fromkeys(part for name in what for part in named(name)))
    reports = []
    for part in parts:
        with _bar(f"{part.slot}: {part.kind}") as tick:
            reports.append(check_part(part, effort, tick))
        if not as_json:
            typer.echo("\n".join([*lines(reports[-1]), ""]))
    if as_json:
        typer.echo(json.dumps([data(report) for report in reports], ensure_ascii=False, indent=2))
    if not all(report.holds for report in reports):
        raise typer.Exit(1)


def named(name: str) -> list[type[Part]]:
    """The parts of a file, of a kind's name or of `slot:kind`.

    Raises WeftError where there is none.
    """
    import sys
    from pathlib import Path

    from weft.config import SLOTS, slot_base, unknown_name
    from weft.errors import WeftError

    every = [part for base in SLOTS.values() for part in base.kinds.values()]
    if name.endswith(".py"):
        file = str(Path(name).resolve())
        found = [part for part in every if getattr(sys.modules[part.__module__], "__file__", None) == file]
        if not found:
            raise WeftError(f"{name}: it registers no part: a class with kind=..., below a slot's class")
        return found
    slot, _, kind = name.rpartition(":")
    bases = [slot_base(slot)] if slot else list(SLOTS.values())
    found = [base.kinds[kind] for base in bases if kind in base.kinds]
    if not found:
        raise WeftError(unknown_name(slot or "part", kind, {kind for base in bases for kind in base.kinds}))
    if len(found) > 1:
        raise WeftError(f"{name}: several slots have it: {', '.join(f'{part.slot}:{name}' for part in found)}")
    return found


WIDTH = 100


def lines(report: Report) -> list[str]:
    """A report as a person reads it: a line a property, and below each that does not hold, what was seen."""
    from weft.report.formats import duration

    width = max(len(finding.name) for finding in report.findings)
    models = f"{report.models} small model{'s' * (report.models != 1)}"
    said = [f"{report.slot}: {report.kind}, in {models} ({duration(report.seconds)})", ""]
    for finding in report.findings:
        state = f"holds  {finding.says}"
        if finding.failed:
            state = f"FAILS  in {finding.failed} of {finding.tried}"
        elif finding.rests_on:
            state = f"       not looked at, since it rests on {finding.rests_on}"
        said.append(f"{'x' if finding.failed else ' '} {finding.name:{width}}  {state}")
        if finding.failed:
            example = ", ".join(f"{path}={_written(value)}" for path, value in finding.example)
            told = {"should": finding.says, "seen": finding.message, "with": example, "change": finding.advice}
            said += [line for name, text in told.items() if text for line in _indented(f"{name:7}", text, 4)]
    if report.refused:
        said += ["", "refused together, which is no fault:"]
    for reason, times in sorted(report.refused.items(), key=lambda item: (-item[1], item[0])):
        said += _indented(f"{times:3}x ", reason, 0)
    broken = [finding.name for finding in report.findings if finding.failed]
    return [*said, "", f"does not hold: {', '.join(broken)}" if broken else "everything holds"]


def _indented(head: str, text: str, indent: int) -> list[str]:
    """Text in lines of at most WIDTH characters, below one another after `head`."""
    from textwrap import wrap

    start = " " * indent + head
    return wrap(text, WIDTH, initial_indent=start, subsequent_indent=" " * len(start), break_on_hyphens=False)


def data(report: Report) -> dict[str, Any]:
    """The same for `--json`."""
    from dataclasses import asdict

    found = [{**asdict(item), "example": dict(item.example), "holds": item.holds} for item in report.findings]
    return {**asdict(report), "findings": found, "holds": report.holds}


def _written(value: Any) -> str:
    """A level as an override says it."""
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _bar(label: str) -> Iterator[Tick]:
    """A bar on stderr, where that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from weft.report.terminal import console

    screen = console(stderr=True)
    shape = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed} of {task.total}"),
             TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    with Progress(*shape, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task(label, total=None)

        def tick(done: int, total: int, name: str) -> None:
            progress.update(task, completed=done, total=total, description=f"{label}: {name}")

        yield tick

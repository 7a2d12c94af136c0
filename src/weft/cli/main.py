"""The command line: one file a command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

import weft
from weft.cli import (
    bench,
    check,
    compare,
    describe,
    evaluate,
    generate,
    predict,
    report,
    schema,
    study,
    tokenizer,
    train,
)
from weft.cli import list as listing
from weft.errors import WeftError

app = typer.Typer(
    name="weft",
    help="weft: build, train, compare and look inside transformers. Begin with: weft train demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # drawing boxes around a help text takes as long as everything else
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("train")(train.command)
app.command("generate")(generate.command)
app.command("evaluate")(evaluate.command)
app.command("predict")(predict.command)
app.command("describe")(describe.command)
app.command("check")(check.command)
app.command("compare")(compare.command)
app.command("report")(report.command)
app.command("schema")(schema.command)
app.add_typer(tokenizer.app, name="tokenizer")
app.add_typer(listing.app, name="list")
app.add_typer(bench.app, name="bench")
app.add_typer(study.app, name="study")


def _short(text: str | None) -> str:
    """The first half of `what it does: weft an example`, for the lists of commands."""
    return (text or "").partition(": weft ")[0]


for _group in (app, tokenizer.app, listing.app, bench.app, study.app):
    for _command in _group.registered_commands:
        _command.short_help = _short(_command.callback.__doc__)
for _entry in app.registered_groups:
    _entry.short_help = _short(_entry.typer_instance.info.help if _entry.typer_instance else None)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"weft {weft.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before a command."""


def main() -> None:
    """Run one command. A person's mistake is a line on stderr for each problem, and exit code 2.

    WEFT_DEBUG=1 shows where it was noticed.
    """
    # A thread that waits for its siblings spins; on cores that do other work too it spins away the time which they wait
    # for. Read when torch is imported, so it is set here, in a process that is ours.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        app()
    except WeftError as error:
        if os.environ.get("WEFT_DEBUG"):
            raise
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()

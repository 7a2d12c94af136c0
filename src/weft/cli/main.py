"""The command line: one file a command; nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import weft
from weft.cli import describe, generate, report, schema, tokenizer, train
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


def _short(text: str | None) -> str:
    """The first half of `what it does: weft an example`, for the list of commands."""
    return (text or "").partition(": weft ")[0]


_commands: dict[str, Callable[..., None]] = {
    "train": train.command,
    "generate": generate.command,
    "describe": describe.command,
    "report": report.command,
    "schema": schema.command,
}
for _name, _command in _commands.items():
    app.command(_name, short_help=_short(_command.__doc__))(_command)
for _name, _group in {"tokenizer": tokenizer.app, "list": listing.app}.items():
    app.add_typer(_group, name=_name, short_help=_short(_group.info.help))


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
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except WeftError as error:
        if os.environ.get("WEFT_DEBUG"):
            raise
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (`| head`) has seen enough; Python would complain when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


if __name__ == "__main__":
    main()

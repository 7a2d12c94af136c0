"""What `weft tokenizer show` prints: pieces, a table of several tokenizers, steps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from weft.text import Tokenizer
    from weft.text.show import Fit, Piece

LONGEST = 2_000
"""Characters of a text that are shown in pieces; its figures are those of all of it."""
MOST_IDS = 200
"""Token ids that are shown below the pieces."""
COLORS = ("cyan", "yellow", "green", "magenta")
HEADERS = ("text", "tokenizer", "vocabulary", "tokens", "bytes a token", "pieces a word", "unknown", "kept")


def print_tokenizers(opened: Mapping[str, Tokenizer], given: Mapping[str, str], typed: bool) -> None:
    """What each tokenizer makes of the texts: a table where there are several of either, and pieces."""
    from weft.report.terminal import console, table
    from weft.text.accents import accents_lost
    from weft.text.show import fit

    screen = console()
    fits = {(name, text): fit(opened[name], given[text]) for text in given for name in opened}
    for name, tokenizer in opened.items():
        lost = accents_lost(tokenizer, given.values())
        told = any("strips accents" in note for note in tokenizer.notes)
        for note in [*tokenizer.notes, *([lost] if lost is not None and not told else ())]:
            line = f"{name}: {note.removeprefix('tokenizer: ')}" if len(opened) > 1 else note
            screen.print(line, markup=False, soft_wrap=True)
    if len(fits) > 1:
        rows = [_row(text, name, opened[name], found) for (name, text), found in fits.items()]
        screen.print(table(HEADERS, rows, screen.width), markup=False, soft_wrap=True)
    if len(fits) > 1 and not typed:
        return
    for (name, text), found in fits.items():
        if len(fits) > 1:
            screen.print(f"\n{name}", style="bold", markup=False)
        _print_pieces(screen, opened[name], given[text], found)


def print_json(opened: Mapping[str, Tokenizer], given: Mapping[str, str]) -> None:
    """The same as data: one object for one tokenizer and one text, else a list of them."""
    from weft.text.show import fit, pieces

    found = []
    for text_name, text in given.items():
        for name, tokenizer in opened.items():
            measured = fit(tokenizer, text)
            names = ("bytes_per_token", "pieces_per_word", "unknown_rate")
            figures = {figure: getattr(measured, figure) for figure in names}
            about = {"tokenizer": name, "text": text_name, "vocab_size": tokenizer.vocab_size}
            cut = [asdict(piece) for piece in pieces(tokenizer, text[:LONGEST])]
            found.append({**about, **asdict(measured), **figures, "pieces": cut})
    typer.echo(json.dumps(found[0] if len(found) == 1 else found))


def print_steps(opened: Mapping[str, Tokenizer], text: str, as_json: bool) -> None:
    """How each tokenizer comes to its pieces of the text's beginning; exit code 1 where the library does otherwise."""
    from weft.cli.tokenizer_steps import lines
    from weft.report.terminal import console
    from weft.text.steps import LONGEST, account

    accounts = {name: account(tokenizer, text[:LONGEST]) for name, tokenizer in opened.items()}
    if as_json:
        told: Any = [{"tokenizer": name, **asdict(each)} for name, each in accounts.items()]
        typer.echo(json.dumps(told[0] if len(told) == 1 else told))
    else:
        screen = console()
        for name, each in accounts.items():
            if len(text) > LONGEST:
                screen.print(f"(the first {LONGEST} of {len(text):,} characters)")
            for line in lines(name, each, opened[name]):
                screen.print(line, soft_wrap=True)
    if any(each.problems for each in accounts.values()):
        raise typer.Exit(1)


def _row(text: str, name: str, tokenizer: Tokenizer, found: Fit) -> Sequence[object]:
    from weft.report.formats import significant

    unknown = f"{significant(100 * found.unknown_rate)} %"
    figures = (found.tokens, found.bytes_per_token, found.pieces_per_word, unknown)
    return (text, name, tokenizer.vocab_size, *figures, "exactly" if found.exact else "in part")


def _print_pieces(screen: Console, tokenizer: Tokenizer, text: str, found: Fit) -> None:
    from weft.report.formats import significant
    from weft.text.show import pieces

    cut = pieces(tokenizer, text[:LONGEST])
    if screen.is_terminal and not screen.no_color:
        screen.print(_colored(cut), soft_wrap=True)
    else:
        screen.print("|".join(_shown(piece) for piece in cut), markup=False, soft_wrap=True)
    ids = " ".join(str(piece.id) for piece in cut[:MOST_IDS])
    screen.print(f"ids: {ids}{' ...' if len(cut) > MOST_IDS else ''}", soft_wrap=True)
    if len(text) > LONGEST:
        screen.print(f"(the first {LONGEST:,} characters; the figures are for all {found.characters:,})")
    unknown = f", {found.unknown:,} of them unknown" if found.unknown else ""
    screen.print(
        f"{found.tokens:,} tokens{unknown}, {found.bytes:,} bytes: {significant(found.bytes_per_token)} bytes a token,"
        f" {significant(found.pieces_per_word)} pieces a word; decodes to"
        f" {'the same text exactly' if found.exact else 'ANOTHER text: this tokenizer loses some of it'}"
    )


def _colored(cut: Sequence[Piece]) -> Text:
    from rich.text import Text

    line = Text()
    for index, piece in enumerate(cut):
        style = "bold white on red" if piece.unknown else f"black on {COLORS[index % len(COLORS)]}"
        line.append(visible(piece.shown), style=style)
    return line


def _shown(piece: Piece) -> str:
    """A piece without colours; what is unknown says so."""
    return f"<unknown: {visible(piece.shown)}>" if piece.unknown else visible(piece.shown)


def visible(text: str) -> str:
    """Control characters as signs, a line's end followed by one."""
    signs = {"\n": "↵\n", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c) or (f"<{ord(c):02X}>" if ord(c) < 32 or ord(c) == 127 else c) for c in text)

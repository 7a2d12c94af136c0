"""`weft tokenizer`: train one on a text, or see how one cuts a text into pieces."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.errors import WeftError

if TYPE_CHECKING:
    from rich.text import Text

    from weft.text.show import Fit, Piece

app = typer.Typer(
    no_args_is_help=True, help="Train a tokenizer, or see what one does to a text: weft tokenizer show runs/demo"
)

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]

SAMPLE = 'The cat\'s "naïve" café — đặc biệt, 1234567 tokens:\n\tdef f(x): return x ** 2  # 🙂\n'
LONGEST = 2_000
"""Characters of a file that are shown in pieces; its figures are those of all of it."""
COLORS = ("cyan", "yellow", "green", "magenta")
MEASURED = 1_000_000
"""Characters of held-out text on which a new tokenizer is measured."""


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="a source, a file or a folder")],
    kind: Annotated[str, typer.Option(help="bpe, characters or bytes")] = "bpe",
    vocab_size: Annotated[int | None, typer.Option(help="number of tokens, for bpe [4096]")] = None,
    field: Annotated[str | None, typer.Option(help="the field of .jsonl lines that holds the text [text]")] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("tokenizer.json"),
    whole: Annotated[bool, typer.Option("--all", help="train on the part for validation too")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on a text's training part: weft tokenizer train book.txt --vocab-size 2048"""
    from weft.config import load
    from weft.data.config import DataConfig, fit_tokenizer
    from weft.report.formats import significant, size
    from weft.report.terminal import console

    if out.exists() and not force:
        raise WeftError(f"{out}: is there already; give another --out, or --force to replace it")
    options = {"kind": kind} | ({"vocab_size": vocab_size} if vocab_size is not None else {})
    overrides = [f"source.text={field}"] if field is not None else []
    config = load(DataConfig, {"source": data, "tokenizer": options}, overrides)
    tokenizer, split, notes = fit_tokenizer(config, whole, console(stderr=True))
    held_out = "".join(_beginning(split.validation, MEASURED))
    bytes_per_token = len(held_out.encode()) / len(tokenizer.encode(held_out))
    tokenizer.save(out)
    result = {
        "file": str(out),
        "kind": kind,
        "vocab_size": tokenizer.vocab_size,
        "train_bytes": split.train_bytes,
        "bytes_per_token": bytes_per_token,
    }
    if as_json:
        typer.echo(json.dumps(result))
        return
    for note in notes:
        typer.echo(note)
    part = "all of it" if whole else "its training part; --all takes everything"
    typer.echo(
        f"{out}: {kind}, {tokenizer.vocab_size:,} tokens, trained on {size(split.train_bytes)} of {data} ({part});"
        f" {significant(bytes_per_token)} bytes a token on the rest"
    )


@app.command()
def show(
    tokenizer: Annotated[str, typer.Argument(help="a tokenizer.json, or a run or model folder that holds one")],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="what to cut into pieces")] = None,
    file: Annotated[Path | None, typer.Option(help="a text file instead")] = None,
    as_json: Json = False,
) -> None:
    """The pieces that a tokenizer makes of a text: weft tokenizer show runs/demo "Hello, world" """
    from weft.data.reading import blocks, missing
    from weft.text import open_tokenizer
    from weft.text import show as showing

    if file is not None and not file.is_file():
        raise missing(file)
    text = "".join(blocks(file, str(file))) if file is not None else " ".join(texts or ()) or SAMPLE
    found = open_tokenizer(tokenizer)
    fit = showing.fit(found, text)
    pieces = showing.pieces(found, text[:LONGEST])
    if as_json:
        figures = {"bytes_per_token": fit.bytes_per_token, "pieces_per_word": fit.pieces_per_word}
        typer.echo(json.dumps({**asdict(fit), **figures, "pieces": [asdict(piece) for piece in pieces]}))
    else:
        _print(pieces, fit, cut=len(text) > LONGEST)


def _beginning(documents: Any, characters: int) -> list[str]:
    """The first documents' texts, up to that many characters."""
    texts: list[str] = []
    for document in documents():
        if characters <= 0:
            break
        texts.append(document.text[:characters])
        characters -= len(document.text)
    return texts


def _print(pieces: list[Piece], fit: Fit, cut: bool) -> None:
    from weft.report.formats import significant
    from weft.report.terminal import console

    screen = console()
    if screen.is_terminal and not screen.no_color:
        screen.print(_colored(pieces), soft_wrap=True)
    else:
        screen.print("|".join(visible(piece.shown) for piece in pieces), markup=False, soft_wrap=True)
    if cut:
        screen.print(f"(the first {LONGEST:,} characters; the figures are for all {fit.characters:,})")
    unknown = f", {fit.unknown:,} of them unknown" if fit.unknown else ""
    screen.print(
        f"{fit.tokens:,} tokens{unknown}, {fit.bytes:,} bytes: {significant(fit.bytes_per_token)} bytes a token,"
        f" {significant(fit.pieces_per_word)} pieces a word; decodes to"
        f" {'the same text exactly' if fit.exact else 'ANOTHER text: this tokenizer loses some of it'}"
    )


def _colored(pieces: list[Piece]) -> Text:
    from rich.text import Text

    line = Text()
    for index, piece in enumerate(pieces):
        line.append(visible(piece.shown), style=f"black on {COLORS[index % len(COLORS)]}")
    return line


def visible(text: str) -> str:
    """Control characters as signs, a line's end followed by one."""
    signs = {"\n": "↵\n", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(c) or (f"<{ord(c):02X}>" if ord(c) < 32 or ord(c) == 127 else c) for c in text)

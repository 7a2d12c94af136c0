"""`weft tokenizer`: train one on a text, or see how some cut a text into pieces, side by side or step by step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.errors import WeftError

if TYPE_CHECKING:
    from weft.data.documents import Document
    from weft.data.splits import Split
    from weft.text import Tokenizer

app = typer.Typer(
    no_args_is_help=True, help="Train a tokenizer, or see what one does to a text: weft tokenizer show runs/demo"
)

Json = Annotated[bool, typer.Option("--json", help="print the result as JSON")]
VocabSize = Annotated[int | None, typer.Option(help="number of tokens, for kinds that learn them [4096]")]

SAMPLE = 'The cat\'s "naïve" café — đặc biệt, 1234567 tokens:\n\tdef f(x): return x ** 2  # 🙂\n'
MEASURED = 1_000_000
"""Characters of a text on which tokenizers are measured."""


@app.command()
def train(
    data: Annotated[str, typer.Argument(help="a source, a file or a folder")],
    kind: Annotated[
        str, typer.Option(help="bpe, bpe-fallback, wordpiece, unigram, characters, bytes; or {kind: ..., ...}")
    ] = "bpe",
    vocab_size: VocabSize = None,
    field: Annotated[str | None, typer.Option(help="the field of .jsonl lines that holds the text [text]")] = None,
    out: Annotated[Path, typer.Option(help="the file to write")] = Path("tokenizer.json"),
    whole: Annotated[bool, typer.Option("--all", help="train on the part for validation too")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
    as_json: Json = False,
) -> None:
    """Train a tokenizer on a text's training part: weft tokenizer train book.txt --vocab-size 2048"""
    from weft.report.formats import significant, size

    if out.exists() and not force:
        raise WeftError(f"{out}: is there already; give another --out, or --force to replace it")
    options = _declared(kind) | ({"vocab_size": vocab_size} if vocab_size is not None else {})
    tokenizer, split, notes = _trained(data, options, whole, field)
    held_out = "".join(_beginning(split, MEASURED))
    bytes_per_token = len(held_out.encode()) / max(1, len(tokenizer.encode(held_out)))
    tokenizer.save(out)
    result = {
        "file": str(out),
        "kind": options["kind"],
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
        f"{out}: {options['kind']}, {tokenizer.vocab_size:,} tokens, trained on {size(split.train_bytes)} of {data}"
        f" ({part}); {significant(bytes_per_token)} bytes a token on the rest"
    )


@app.command()
def show(
    tokenizer: Annotated[
        str,
        typer.Argument(help="a run or model folder, a tokenizer.json, GPT-2's or BERT's files, or a kind"),
    ],
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="what to cut into pieces")] = None,
    file: Annotated[list[Path] | None, typer.Option(help="a text file instead; several are compared")] = None,
    beside: Annotated[list[str] | None, typer.Option(help="another tokenizer, to compare")] = None,
    train_on: Annotated[str | None, typer.Option(help="what a kind is trained on: a source, file or folder")] = None,
    vocab_size: VocabSize = None,
    steps: Annotated[bool, typer.Option("--steps", help="how it comes to them, one step after the other")] = False,
    as_json: Json = False,
) -> None:
    """The pieces that tokenizers make of a text: weft tokenizer show runs/demo "Hello, world" """
    from weft.cli.tokenizer_show import print_json, print_steps, print_tokenizers

    given = _texts(file or [], " ".join(texts or ()))
    opened: dict[str, Tokenizer] = {}
    for name in dict.fromkeys([tokenizer, *(beside or ())]):
        opened[name] = _opened(name, given, train_on, vocab_size)
    if not given:
        given["the sample text"] = SAMPLE
    typed = not file
    if steps and len(given) > 1:
        raise WeftError(f"--steps: one text at a time, not {len(given)} files")
    if steps:
        print_steps(opened, next(iter(given.values())), as_json)
    elif as_json:
        print_json(opened, given)
    else:
        print_tokenizers(opened, given, typed)


def _texts(files: list[Path], typed: str) -> dict[str, str]:
    """What is shown, by name: files, each up to MEASURED characters, or what was typed."""
    from weft.data.reading import blocks, missing

    found: dict[str, str] = {}
    for file in files:
        if not file.is_file():
            raise missing(file)
        text = ""
        for block in blocks(file, str(file)):
            text += block
            if len(text) > MEASURED:
                break
        cut = len(text) > MEASURED
        found[f"{file} (its first {MEASURED:,} characters)" if cut else str(file)] = text[:MEASURED]
    if files and typed:
        raise WeftError(f"text and --file: give one of them ({typed[:40]!r}, {files[0]})")
    return found or ({"the text": typed} if typed else {})


def _opened(name: str, given: dict[str, str], train_on: str | None, vocab_size: int | None) -> Tokenizer:
    """The tokenizer of that name: what is there; or a kind, trained now on `train_on`, else on the text itself.

    A text is added to those `given` where there is none: what was held out in training.
    """
    from weft.config import load, unknown_name
    from weft.text import TokenizerConfig, open_tokenizer

    kinds = sorted(kind for kind in TokenizerConfig.kinds if kind != "file")
    if not name.startswith("{") and name not in kinds:
        if not Path(name).exists() and not {"/", "."}.intersection(name):
            raise WeftError(unknown_name("file, folder or kind of tokenizer", name, kinds))
        return open_tokenizer(name)
    options = _declared(name)
    kind = TokenizerConfig.kinds.get(options["kind"])
    if vocab_size is not None and kind is not None and "vocab_size" in kind.model_fields:
        options["vocab_size"] = vocab_size
    if train_on is not None:
        tokenizer, split, notes = _trained(train_on, options, whole=False)
        if not given:
            given[f"{train_on}, held out"] = "".join(_beginning(split, MEASURED))
    elif given:
        config = load(TokenizerConfig, options)
        total = sum(len(text.encode()) for text in given.values())
        tokenizer = config.train(iter(given.values()), total)
        notes = [*config.notes(tokenizer, total), "tokenizer: trained on the very text that it is shown on"]
    else:
        raise WeftError(f"{name}: a kind is trained first: give --train-on DATA, or a text")
    tokenizer.notes = tuple(notes)
    return tokenizer


def _declared(kind: str) -> dict[str, Any]:
    """The options of a kind that is given by its name or as {kind: ..., ...}."""
    from weft.config.yaml import parse

    options = parse(kind, "the tokenizer") if kind.startswith("{") else {"kind": kind}
    if not isinstance(options, dict) or not isinstance(options.get("kind"), str):
        raise WeftError(f"{kind}: should be a kind's name, or such as {{kind: wordpiece, casing: cased}}")
    return options


def _trained(
    data: str, options: dict[str, Any], whole: bool, field: str | None = None
) -> tuple[Tokenizer, Split, list[str]]:
    from weft.config import load
    from weft.data.config import DataConfig, fit_tokenizer
    from weft.report.terminal import console

    overrides = [f"source.text={field}"] if field is not None else []
    config = load(DataConfig, {"source": data, "tokenizer": options}, overrides)
    return fit_tokenizer(config, whole, console(stderr=True))


def _beginning(split: Split, characters: int) -> list[str]:
    """The first held-out documents' texts, up to that many characters."""
    texts: list[str] = []
    document: Document
    for document in split.validation():
        if characters <= 0:
            break
        texts.append(document.text[:characters])
        characters -= len(document.text)
    return texts

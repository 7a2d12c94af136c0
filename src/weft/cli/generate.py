"""`weft generate`: a model continues a prompt, shown as it comes; line by line where no prompt is given."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weft.errors import WeftError

if TYPE_CHECKING:
    from weft.generation import Piece, Sampling
    from weft.models.transformer import Transformer
    from weft.text.tokenizers import Tokenizer

Number = Annotated[int, typer.Option(min=1, help="how many continuations of the prompt")]


def command(
    model: Annotated[str, typer.Argument(help="a run or a model folder")],
    prompt: Annotated[str | None, typer.Option(help="text to continue; else standard input, or a line at a time")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="most new tokens [256, or what the trained length leaves]")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token [0.8]")] = None,
    top_k: Annotated[int | None, typer.Option(help="choose among the k likeliest tokens")] = None,
    top_p: Annotated[float | None, typer.Option(help="choose among the fewest tokens of this probability together")] = None,
    min_p: Annotated[float | None, typer.Option(help="least probability, as a share of the likeliest token's")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="above 1, what was said is said less [1.0]")] = None,
    stop: Annotated[list[str] | None, typer.Option(help=r"end the text here; \n is a line's end (may be repeated)")] = None,
    seed: Annotated[int | None, typer.Option(help="of the random draws [0]")] = None,
    number: Number = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON, when it is whole")] = False,
) -> None:
    """Let a trained model continue a text: --prompt, standard input, or (in a terminal) what you type, line by line."""
    from weft import device as machines
    from weft.config import load
    from weft.generation import Sampling
    from weft.hub import load_model

    strings = [string.replace("\\n", "\n").replace("\\t", "\t") for string in stop or ()]
    given = dict(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p,
                 repetition_penalty=repetition_penalty, stop=strings or None, seed=seed)  # fmt: skip
    sampling = load(Sampling, {name: value for name, value in given.items() if value is not None})
    if number > 1 and sampling.greedy:
        raise WeftError(f"--number {number} with --temperature 0: the likeliest text is always the same one")
    # fp32: one token at a time is bound by reading the weights, which casting would only add to
    place = machines.choose(device, "fp32").device
    machines.set_threads(None)
    writer = Writer(*load_model(model, place), sampling, number)
    if prompt is None and sys.stdin.isatty() and not as_json:
        _converse(writer)
        return
    prompt = _standard_input() if prompt is None else prompt
    answer = writer.quietly(prompt) if as_json else writer.aloud(prompt)
    if as_json:
        asked = {"model": model, "prompt": prompt, "sampling": sampling.model_dump(mode="json")}
        typer.echo(json.dumps({**asked, **answer.report()}, ensure_ascii=False, indent=2))
    if answer.interrupted:
        raise typer.Exit(130)


@dataclass
class Row:
    """One continuation, as far as it has come."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None


@dataclass
class Answer:
    """All continuations of one prompt, and the seconds from the prompt to the last token."""

    rows: list[Row]
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows together by the clock, reading the prompt included."""
        return sum(row.tokens for row in self.rows) / max(self.seconds, 1e-9)

    def report(self) -> dict[str, Any]:
        """As JSON."""
        speed = {"seconds": round(self.seconds, 3), "tokens_per_second": round(self.tokens_per_second, 1)}
        return {"texts": [asdict(row) for row in self.rows], **speed}


class Writer:
    """A model that answers prompts."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, sampling: Sampling, number: int) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.number = number

    def quietly(self, prompt: str) -> Answer:
        """Whole continuations, nothing printed."""
        answer = Answer([Row() for _ in range(self.number)])
        for _ in self._pieces(prompt, answer):
            pass
        return answer

    def aloud(self, prompt: str) -> Answer:
        """The same, printed as they come: the first row at once, the next ones when those before them are complete."""
        answer = Answer([Row() for _ in range(self.number)])
        pieces = self._pieces(prompt, answer)
        shown, waiting = 0, [""] * self.number
        first = next(pieces, None)  # a mistake in the prompt is told before anything is shown
        self._open(prompt, shown)
        while first is not None:
            waiting[first.row] += first.text
            while shown < self.number:
                _say(waiting[shown])
                waiting[shown] = ""
                if answer.rows[shown].finish is None:
                    break
                shown += 1
                typer.echo()
                if shown < self.number:
                    self._open(prompt, shown)
            first = next(pieces, None)
        if answer.interrupted:
            typer.echo()
        if sys.stderr.isatty():
            _tell_speed(answer)
        return answer

    def _open(self, prompt: str, row: int) -> None:
        if self.number > 1:
            typer.secho(f"--- {row + 1} of {self.number} ---", dim=True)
        _say(prompt, dim=True)

    def _pieces(self, prompt: str, answer: Answer) -> Iterator[Piece]:
        """The pieces of every row, counted into the answer; Ctrl-C ends them."""
        from weft.generation import stream

        start = time.perf_counter()
        try:
            for piece in stream(self.model, self.tokenizer, [prompt] * self.number, self.sampling):
                row = answer.rows[piece.row]
                row.text, row.tokens, row.finish = row.text + piece.text, row.tokens + 1, piece.finish
                answer.seconds = time.perf_counter() - start
                yield piece
        except KeyboardInterrupt:
            answer.interrupted = True


def _converse(writer: Writer) -> None:
    """Prompt after prompt until an empty line or Ctrl-D; Ctrl-C stops an answer."""
    typer.secho("An empty line or Ctrl-D ends; Ctrl-C stops an answer.", dim=True, err=True)
    seed, turn = writer.sampling.seed, 0
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not prompt.strip():
            return
        # the same prompt again gives another text; --seed N repeats that of turn N
        writer.sampling = writer.sampling.model_copy(update={"seed": seed + turn})
        turn += 1
        try:
            writer.aloud(prompt)
        except WeftError as error:  # such as a prompt that is too long: the next may be shorter
            typer.secho(str(error), err=True)


def _standard_input() -> str:
    """All of it, without the line end that a shell adds.

    Raises WeftError when it is not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeftError(f"standard input: not UTF-8 text (byte {error.start})") from None
    return text.removesuffix("\n").removesuffix("\r")


_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_CONTROLS |= {code: 0xFFFD for code in range(128, 160)}


def _say(text: str, *, dim: bool = False) -> None:
    """Print at once; in a terminal control characters as pictures: a model may write what would move the cursor."""
    if not text:
        return
    if sys.stdout.isatty():
        text = text.translate(_CONTROLS)
    typer.echo(typer.style(text, dim=True) if dim else text, nl=False)


def _tell_speed(answer: Answer) -> None:
    from weft.report.formats import duration, rate

    tokens = sum(row.tokens for row in answer.rows)
    line = f"{tokens} tokens in {duration(answer.seconds)}: {rate(answer.tokens_per_second)}"
    typer.secho(line, dim=True, err=True)

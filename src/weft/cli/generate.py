"""`weft generate`: a model continues a prompt, shown as it comes, or answers it; line by line where none is given."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from weft.errors import WeftError

if TYPE_CHECKING:
    from weft.generation import Hypothesis, Likelihood, Piece, Sampling, Searching
    from weft.models.transformer import Transformer
    from weft.text.tokenizers import Tokenizer


def command(
    model: Annotated[str, typer.Argument(help="a run or a model folder")],
    prompt: Annotated[
        str | None, typer.Option(help="text to continue or answer; else standard input, or in a terminal what you type")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="most new tokens [256, or what the trained length leaves]")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token [0.8]")] = None,
    top_k: Annotated[int | None, typer.Option(help="choose among the k likeliest tokens")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="choose among the fewest tokens that have this probability together")
    ] = None,
    min_p: Annotated[float | None, typer.Option(help="least probability, as a share of the likeliest token's")] = None,
    typical_p: Annotated[
        float | None, typer.Option(help="as --top-p, but those tokens first that surprise as much as is expected")
    ] = None,
    eta_cutoff: Annotated[
        float | None, typer.Option(help="least probability, lower where many tokens are likely; such as 0.002")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="above 1, what was said is said less [1.0]")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help=r"a string that ends the text (\n: a line's end); may be repeated"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the random draws [0]")] = None,
    number: Annotated[int, typer.Option(min=1, help="how many continuations; the best of a search")] = 1,
    beams: Annotated[
        int | None,
        typer.Option(help="search, as encoder-decoders do: beginnings of texts that are kept, 1 is greedy [4]"),
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="of a search: 0 favours short texts, 1 hardly [0.6]")
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option(metavar="K", help="tell how probable each token was, and the K likeliest")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON, when it is whole")] = False,
) -> None:
    """Let a model continue a text, or an encoder-decoder answer it: weft generate runs/demo --prompt "Return the" """
    strings = [string.replace("\\n", "\n").replace("\\t", "\t") for string in stop or ()]
    options = {"max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
               "typical_p": typical_p, "eta_cutoff": eta_cutoff, "repetition_penalty": repetition_penalty,
               "stop": strings or None, "seed": seed}  # fmt: skip
    ways = {"max_tokens": max_tokens, "stop": strings or None, "beams": beams, "length_penalty": length_penalty}
    writer = _writer(model, options, ways, number, logprobs, device, plugins or ())
    if prompt is None and sys.stdin.isatty() and not as_json:
        _converse(writer)
        return
    prompt = _standard_input() if prompt is None else prompt
    asked = {"model": model, "prompt": prompt, **writer.asked()}
    answer = writer.answer(prompt, aloud=not as_json)
    if as_json:
        typer.echo(json.dumps({**asked, **answer.report(writer.tokenizer)}, ensure_ascii=False, indent=2))
    if answer.interrupted:
        raise typer.Exit(130)


def _writer(
    model: str,
    options: dict[str, Any],
    ways: dict[str, Any],
    number: int,
    logprobs: int | None,
    device: str,
    plugins: Sequence[str],
) -> Answering:
    """The model of this name, about to draw as `options` say, or to search as `ways` do.

    Raises WeftError, before anything is loaded, for options that cannot be; and then for those that this model does not
    understand.
    """
    from weft import device as machines
    from weft.config import load
    from weft.config.plugins import load_plugins
    from weft.generation import Sampling, Searching, answers_sources
    from weft.generation.likelihood import check_logprobs
    from weft.hub import load_model

    sampling = load(Sampling, {name: value for name, value in options.items() if value is not None})
    searching = load(Searching, {name: value for name, value in ways.items() if value is not None})
    check_logprobs(logprobs)
    if number > 1 and sampling.greedy:
        raise WeftError(f"--number {number} with --temperature 0: the likeliest text is the same each time")
    load_plugins(plugins)
    # fp32: one token at a time is bound by reading the weights, which a cast would only add to
    place = machines.choose(device, "fp32").device
    machines.set_threads(None)
    loaded, tokenizer = load_model(model, place)
    answers = answers_sources(loaded)
    if not answers and not Searching.asked(ways):
        return Writer(loaded, tokenizer, sampling, number, logprobs)
    why = "this model answers by a search (--beams), which" if answers else "a search (--beams, --length-penalty)"
    _refuse(options, ways, f"{why} draws nothing")
    return Searcher(loaded, tokenizer, searching, number, logprobs)


def _refuse(given: dict[str, Any], understood: dict[str, Any], reason: str) -> None:
    """Raises WeftError for options that are not understood here."""
    wrong = [
        f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None and name not in understood
    ]
    if wrong:
        raise WeftError(f"{', '.join(wrong)}: {reason}; leave {'it' if len(wrong) == 1 else 'them'} out")


@dataclass
class Row:
    """One continuation, as far as it has come, or an answer."""

    text: str = ""
    tokens: int = 0
    finish: str | None = None
    told: list[Likelihood] = field(default_factory=list)
    """how probable each token was, where that is asked for"""
    found: Hypothesis | None = None
    """how a search found it"""

    def report(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """As JSON."""
        from weft.cli.generate_table import entries

        said: dict[str, Any] = {"text": self.text, "tokens": self.tokens, "finish": self.finish}
        if self.found is not None:
            said |= {"log_probability": self.found.log_probability, "score": self.found.score}
        return {**said, "logprobs": entries(self.told, tokenizer)} if self.told else said


@dataclass
class Answer:
    """All continuations of one prompt, and the seconds from the prompt to the last token."""

    rows: list[Row]
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def tokens(self) -> int:
        """New tokens of all rows together."""
        return sum(row.tokens for row in self.rows)

    @property
    def tokens_per_second(self) -> float:
        """New tokens by the clock, reading the prompt included."""
        return self.tokens / max(self.seconds, 1e-9)

    def report(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """As JSON."""
        speed = {"seconds": round(self.seconds, 3), "tokens_per_second": round(self.tokens_per_second, 1)}
        return {"texts": [row.report(tokenizer) for row in self.rows], "interrupted": self.interrupted, **speed}


class Answering(Protocol):
    """What writes when it is asked."""

    tokenizer: Tokenizer

    def answer(self, prompt: str, *, aloud: bool) -> Answer:
        """What follows the prompt, shown or not."""

    def asked(self) -> dict[str, Any]:
        """How it is written, for JSON."""


class Writer:
    """A decoder that continues prompts."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        sampling: Sampling,
        number: int = 1,
        logprobs: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.number = number
        self.logprobs = logprobs

    def answer(self, prompt: str, *, aloud: bool) -> Answer:
        """Continuations of the prompt, shown as they come or not at all; Ctrl-C ends them where they are."""
        from weft.generation import stream

        answer = Answer([Row() for _ in range(self.number)])
        page = Page(prompt, answer.rows)
        start = time.perf_counter()
        try:
            prompts = [prompt] * self.number
            for piece in stream(self.model, self.tokenizer, prompts, self.sampling, logprobs=self.logprobs):
                row = answer.rows[piece.row]
                row.told += [] if piece.likelihood is None else [piece.likelihood]
                row.text, row.tokens, row.finish = row.text + piece.text, row.tokens + 1, piece.finish
                answer.seconds = time.perf_counter() - start
                if aloud:
                    page.show(piece)
        except KeyboardInterrupt:
            answer.interrupted = True
            if aloud:
                typer.echo()
        if aloud:
            _tell(answer, self.tokenizer)
        # the same prompt again gets another answer; --seed 3 begins with the fourth of --seed 0
        self.sampling = self.sampling.model_copy(update={"seed": self.sampling.seed + 1})
        return answer

    def asked(self) -> dict[str, Any]:
        return {"sampling": self.sampling.model_dump(mode="json")}


class Searcher:
    """A model whose likeliest texts are searched for: it continues a prompt or answers it."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        searching: Searching,
        number: int = 1,
        logprobs: int | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.searching = searching
        self.number = number
        self.logprobs = logprobs

    def answer(self, prompt: str, *, aloud: bool) -> Answer:
        """The best texts that are found, shown when they are whole; Ctrl-C ends the search without one."""
        from weft.generation import Piece, answer

        start = time.perf_counter()
        try:
            (found,) = answer(
                self.model, self.tokenizer, [prompt], self.searching, number=self.number, logprobs=self.logprobs
            )
        except KeyboardInterrupt:
            return Answer([], time.perf_counter() - start, interrupted=True)
        said = Answer([Row() for _ in found], time.perf_counter() - start)
        page = Page("" if self.model.encoder is not None else prompt, said.rows)
        for place, (row, one) in enumerate(zip(said.rows, found, strict=True)):
            row.text, row.tokens, row.finish = one.text, len(one.tokens), one.finish
            row.told, row.found = list(one.likelihoods), one.found
            if aloud:
                page.show(Piece(place, one.tokens[-1], one.text, one.finish))
        if aloud:
            _tell(said, self.tokenizer)
        return said

    def asked(self) -> dict[str, Any]:
        return {"searching": self.searching.model_dump(mode="json")}


class Page:
    """Rows that grow side by side, shown one below the other: the first as it comes, each next one after it."""

    def __init__(self, prompt: str, rows: list[Row]) -> None:
        self.prompt = prompt
        self.rows = rows
        self.waiting = [""] * len(rows)
        self.opened = -1

    def show(self, piece: Piece) -> None:
        """Print what this piece lets one see."""
        self.waiting[piece.row] += piece.text
        if self.opened < 0:
            self._open(0)
        while self._caught_up() and self.opened + 1 < len(self.rows):
            self._open(self.opened + 1)

    def _caught_up(self) -> bool:
        """Print what waits of the open row, and tell whether that was its end."""
        _say(self.waiting[self.opened])
        self.waiting[self.opened] = ""
        ended = self.rows[self.opened].finish is not None
        if ended:
            typer.echo()
        return ended

    def _open(self, row: int) -> None:
        self.opened = row
        if len(self.rows) > 1:
            typer.secho(f"--- {row + 1} of {len(self.rows)} ---", dim=True)
        _say(self.prompt, dim=True)


def _converse(writer: Answering) -> None:
    """Prompt after prompt until an empty line or Ctrl-D; Ctrl-C stops an answer."""
    typer.secho("An empty line or Ctrl-D ends; Ctrl-C stops an answer.", dim=True, err=True)
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if not prompt.strip():
            return
        try:
            writer.answer(prompt, aloud=True)
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


_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_PICTURES |= dict.fromkeys(range(128, 160), 0xFFFD)


def _say(text: str, *, dim: bool = False) -> None:
    """Print at once; in a terminal control characters as pictures: a model may write one that moves the cursor."""
    if not text:
        return
    if sys.stdout.isatty():
        text = text.translate(_PICTURES)
    typer.echo(typer.style(text, dim=True) if dim else text, nl=False)


def _tell(answer: Answer, tokenizer: Tokenizer) -> None:
    """How probable the tokens were, where that is asked for; in a terminal the speed, too."""
    if any(row.told for row in answer.rows):
        from weft.cli.generate_table import lines
        from weft.report.terminal import console

        screen = console()
        for number, row in enumerate(answer.rows, 1):
            typer.echo(f"\n--- {number} of {len(answer.rows)} ---" if len(answer.rows) > 1 else "")
            for line in lines(row.told, tokenizer, screen.width):
                screen.print(line, markup=False, emoji=False, soft_wrap=True)
    if sys.stderr.isatty():
        from weft.report.formats import duration, rate

        line = f"{answer.tokens} tokens in {duration(answer.seconds)}: {rate(answer.tokens_per_second)}"
        typer.secho(line, dim=True, err=True)

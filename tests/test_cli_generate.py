"""`weft generate`: what is printed where, for a prompt, standard input and a conversation; and Ctrl-C."""

import inspect
import io
import json
import math
import re
import sys
from collections.abc import Iterable
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from weft.cli import generate
from weft.errors import WeftError
from weft.generation import Sampling, Searching, stream
from weft.generation import generate as weft_generate
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.text.tokenizers import Tokenizer, TokenizerConfig

BYTES: Tokenizer = TokenizerConfig.choose("bytes").train((), 0)


def alphabet(stop_after: int | None = None) -> Transformer:
    """After each byte it says the next one; its user presses Ctrl-C at a step."""
    declaration = {"d_model": 257, "vocab_size": 257, "max_length": 64, "embedding": {"tied": False},
                   "decoder": {"n_layers": 1, "norm": "none",
                               "block": {"attention": "none", "feedforward": "none"}}}  # fmt: skip
    model = build(declaration)
    with torch.no_grad():
        model.embedding.tokens.weight.copy_(torch.eye(257))
        model.heads["lm"].projection.weight.copy_(100 * torch.eye(257).roll(1, 0))
    return interrupted(model, stop_after)


def interrupted(model: Transformer, stop_after: int | None) -> Transformer:
    """The model, at whose forward of that number Ctrl-C is pressed."""
    steps: list[int] = []

    def press(*given: Any) -> None:
        steps.append(1)
        if len(steps) == stop_after:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(press)
    return model


def greeter(stop_after: int | None = None) -> Transformer:
    """It reads anything and writes "hi"; its user presses Ctrl-C at a step."""
    block = {"attention": "none", "feedforward": "none", "cross_attention": "dot-product"}
    declaration = {"d_model": 260, "vocab_size": 260, "max_length": 64, "embedding": {"tied": False},
                   "encoder": {"n_layers": 1}, "decoder": {"n_layers": 1, "norm": "none", "block": block}}  # fmt: skip
    model = build(declaration)
    end = BYTES.end_of_document
    with torch.no_grad():
        model.decoder.blocks[0].cross_attention.value.weight.zero_()
        model.embedding.tokens.weight.copy_(torch.eye(260))
        model.heads["lm"].projection.weight.zero_()
        for before, after in [(end, ord("h")), (ord("h"), ord("i")), (ord("i"), end)]:
            model.heads["lm"].projection.weight[after, before] = 50
    return interrupted(model, stop_after)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    app = typer.Typer()
    app.command()(generate.command)

    def load_model(name: str, device: str) -> tuple[Transformer, Tokenizer]:
        if name == "runs/encoder":
            return build({"vocab_size": 260, "d_model": 16, "encoder": {"n_layers": 1}}), BYTES
        return {"runs/demo": alphabet, "runs/greeter": greeter}[name](stop_after=stop_after), BYTES

    stop_after = None
    monkeypatch.setattr("weft.hub.load_model", load_model)

    def call(
        *arguments: str, given: str | bytes = "", ctrl_c: int | None = None, name: str = "runs/demo"
    ) -> tuple[str, str, int]:
        nonlocal stop_after
        stop_after = ctrl_c
        result = CliRunner().invoke(app, [name, "--device", "cpu", *arguments], input=given)
        if isinstance(result.exception, WeftError):
            raise result.exception
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.stdout, result.stderr, result.exit_code

    return call


def test_prompt_and_continuation_are_one_text(run: Any) -> None:
    assert run("--prompt", "ab", "--max-tokens", "3") == ("abcde\n", "", 0)


def test_every_option_arrives(run: Any) -> None:
    options = ["--temperature", "0", "--top-k", "3", "--top-p", "0.5", "--min-p", "0.1", "--typical-p", "0.9",
               "--eta-cutoff", "0.01", "--repetition-penalty", "1.5", "--seed", "7", "--max-tokens", "9",
               "--stop", "hi", "--stop", r"\n"]  # fmt: skip
    out, err, code = run("--prompt", "ab", "--json", *options)
    said = json.loads(out)
    assert (said["model"], said["prompt"], err, code) == ("runs/demo", "ab", "", 0)
    assert said["sampling"] == {
        "temperature": 0, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.9, "eta_cutoff": 0.01,
        "repetition_penalty": 1.5, "max_tokens": 9, "stop": ["hi", "\n"], "seed": 7,
    }  # fmt: skip
    assert said["texts"] == [{"text": "cdefg", "tokens": 7, "finish": "stop"}]
    assert said["tokens_per_second"] > 0


def test_every_sampling_option_can_be_given_and_defaults_are_as_the_help_says() -> None:
    parameters = inspect.signature(generate.command, eval_str=True).parameters
    for name, field in Sampling.model_fields.items():
        help_text = parameters[name].annotation.__metadata__[0].help
        if field.default not in (None, ()):
            assert f"[{field.default}]" in help_text, f"--{name}"


def test_standard_input_is_the_prompt(run: Any) -> None:
    assert run("--max-tokens", "2", given="x\nab\n")[0] == "x\nabcd\n"
    assert json.loads(run("--max-tokens", "2", "--json", given="ab\r\n")[0])["prompt"] == "ab"
    with pytest.raises(WeftError, match=r"standard input: not UTF-8 text \(byte 2\)"):
        run(given=b"ab\xff")


def test_an_empty_prompt_starts_a_document(run: Any) -> None:
    assert json.loads(run("--prompt", "", "--max-tokens", "2", "--json")[0])["texts"][0]["text"] == "\0\1"


def test_several_continuations_stand_below_each_other(run: Any) -> None:
    out, _, _ = run("--prompt", "ab", "--max-tokens", "3", "--number", "3")
    assert out == "--- 1 of 3 ---\nabcde\n--- 2 of 3 ---\nabcde\n--- 3 of 3 ---\nabcde\n"
    with pytest.raises(WeftError, match="--number 2 with --temperature 0"):
        run("--prompt", "ab", "--number", "2", "--temperature", "0")


def test_rows_that_end_early_wait_for_those_before_them(capsys: pytest.CaptureFixture[str]) -> None:
    from weft.generation import Piece

    rows = [generate.Row() for _ in range(3)]
    page, shown = generate.Page("P", rows), []
    for row, text, finish in [(0, "a", None), (1, "x", "stop"), (2, "k", None), (0, "b", None), (2, "l", None),
                              (0, "c", "length"), (2, "m", "length")]:  # fmt: skip
        rows[row].finish = finish
        page.show(Piece(row, 0, text, finish))
        shown.append(capsys.readouterr().out)
    assert shown == [
        "--- 1 of 3 ---\nPa", "", "", "b", "", "c\n--- 2 of 3 ---\nPx\n--- 3 of 3 ---\nPkl", "m\n",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=-1",
        "--top-p=0",
        "--typical-p=2",
        "--eta-cutoff=1",
        "--max-tokens=0",
        "--beams=0",
        "--logprobs=-1",
    ],
)
def test_options_without_sense_are_refused(run: Any, option: str) -> None:
    name = option.removeprefix("--").replace("-", "_", 1).partition("=")[0]
    with pytest.raises(WeftError, match=f"{name} = "):
        run("--prompt", "a", option)


def test_ctrl_c_keeps_what_is_there(run: Any) -> None:
    assert run("--prompt", "ab", ctrl_c=4) == ("abcde\n", "", 130)
    out, _, code = run("--prompt", "ab", "--json", ctrl_c=3)
    said = json.loads(out)
    assert (said["texts"], said["interrupted"], code) == ([{"text": "cd", "tokens": 2, "finish": None}], True, 130)


def converse(monkeypatch: pytest.MonkeyPatch, lines: Iterable[str | type[BaseException]], model: Transformer) -> None:
    waiting = iter(lines)

    def read(prompt: str) -> str:
        line = next(waiting)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    generate._converse(generate.Writer(model, BYTES, Sampling(max_tokens=3), 1))
    assert next(waiting, None) is None, "ended too early"


@pytest.mark.parametrize("end", ["", EOFError, KeyboardInterrupt])
def test_a_conversation_goes_on_until_it_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], end: Any
) -> None:
    converse(monkeypatch, ["ab", "mn", end], alphabet())
    assert capsys.readouterr().out.rstrip("\n") == "abcde\nmnopq"


def test_ctrl_c_stops_one_answer_and_a_refused_prompt_does_not_end_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    converse(monkeypatch, ["ab", "mn", "half a surrogate: \ud800", "xy", ""], alphabet(stop_after=5))
    out, err = capsys.readouterr()
    assert out == "abcde\nmno\nxyz{|\n"
    assert "no Unicode text" in err


def test_each_turn_has_its_own_seed_and_the_first_that_of_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = alphabet()
    with torch.no_grad():
        model.heads["lm"].projection.weight.zero_()
        model.heads["lm"].projection.weight[ord("a") : ord("z")] = 20
    converse(monkeypatch, ["ab", "ab", ""], model)
    turns = capsys.readouterr().out.split()
    writers = [generate.Writer(model, BYTES, Sampling(max_tokens=3, seed=seed), 1) for seed in (0, 1)]
    assert turns == ["ab" + writer.answer("ab", aloud=False).rows[0].text for writer in writers]
    assert turns[0] != turns[1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_prompt_dim_no_control_characters_and_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    writer = generate.Writer(alphabet(), BYTES, Sampling(max_tokens=4), 1)
    writer.answer("\x18", aloud=True)
    assert out.getvalue() == "\x1b[2m␘\x1b[0m␙␚␛␜\n"
    assert err.getvalue().startswith("\x1b[2m4 tokens in 0.0 s: ")
    assert "tokens/s" in err.getvalue()


# --- an encoder-decoder answers ---


def test_an_encoder_decoder_answers(run: Any) -> None:
    assert run("--prompt", "hello", name="runs/greeter") == ("hi\n", "", 0)
    assert run(given="hello\n", name="runs/greeter") == ("hi\n", "", 0)
    assert run("--prompt", "hello", "--max-tokens", "1", "--beams", "1", name="runs/greeter")[0] == "h\n"


def test_how_an_answer_was_searched_stands_beside_it(run: Any) -> None:
    options = ["--beams", "3", "--length-penalty", "0.5", "--max-tokens", "9"]
    said = json.loads(run("--prompt", "hello", "--json", *options, name="runs/greeter")[0])
    assert said["searching"] == {"beams": 3, "length_penalty": 0.5, "max_tokens": 9, "stop": []}
    (text,) = said["texts"]
    assert (text.pop("log_probability"), text.pop("score")) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-6))
    assert text == {"text": "hi", "tokens": 3, "finish": "end"}
    cut = json.loads(run("--prompt", "hello", "--json", "--max-tokens", "1", "--beams", "1", name="runs/greeter")[0])
    assert cut["texts"][0].items() >= {"text": "h", "tokens": 1, "finish": "length"}.items()


def test_search_options_have_the_defaults_that_the_help_says() -> None:
    parameters = inspect.signature(generate.command, eval_str=True).parameters
    for name in ("beams", "length_penalty"):
        assert f"[{Searching.model_fields[name].default}]" in parameters[name].annotation.__metadata__[0].help


def test_a_decoder_searches_where_beams_are_asked_for(run: Any) -> None:
    assert run("--prompt", "ab", "--max-tokens", "3", "--beams", "2") == ("abcde\n", "", 0)
    assert run("--prompt", "ab", "--length-penalty", "1", "--stop", "fg")[0] == "abcde\n"
    out, _, _ = run("--prompt", "ab", "--max-tokens", "1", "--beams", "3", "--number", "2")
    assert out.startswith("--- 1 of 2 ---\nabc\n--- 2 of 2 ---\nab")
    said = json.loads(run("--prompt", "ab", "--max-tokens", "1", "--beams", "3", "--number", "3", "--json")[0])
    assert said["searching"] == {"beams": 3, "length_penalty": 0.6, "max_tokens": 1, "stop": []}
    scores = [text["score"] for text in said["texts"]]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 3


def test_what_a_search_does_not_know_is_refused(run: Any) -> None:
    with pytest.raises(WeftError, match=r"^--temperature, --top-k: this model answers by a search .* leave them out$"):
        run("--prompt", "a", "--temperature", "0.5", "--top-k", "3", name="runs/greeter")
    with pytest.raises(WeftError, match=r"^--typical-p: a search \(--beams, .*\) draws nothing; leave it out$"):
        run("--prompt", "a", "--beams", "2", "--typical-p", "0.5")
    with pytest.raises(WeftError, match="number = 3: a search with beams = 2"):
        run("--prompt", "a", "--number", "3", "--beams", "2")
    with pytest.raises(WeftError, match="beams = 0: should be"):
        run("--prompt", "a", "--beams", "0", name="runs/greeter")


# --- how probable each token was ---


def test_a_table_tells_how_probable_each_token_was(run: Any) -> None:
    options = ["--prompt", "\x07", "--max-tokens", "4", "--logprobs", "2", "--temperature", "0"]
    out, err, code = run(*options)
    assert (err, code) == ("", 0)
    assert out.splitlines()[-7:] == [
        "",
        "token   log-probability  probability  rank  likeliest",
        "'\\x08'            0.000        100 %     1  '\\x08' 100 %  '\\x00' 4e-42 %",
        "'\\t'              0.000        100 %     1  '\\t' 100 %  '\\x00' 4e-42 %",
        "'\\n'              0.000        100 %     1  '\\n' 100 %  '\\x00' 4e-42 %",
        "'\\x0b'            0.000        100 %     1  '\\x0b' 100 %  '\\x00' 4e-42 %",
        "4 tokens, 0.000 nats together: perplexity 1.00",
    ]


def test_a_table_for_each_text_and_what_it_was_drawn_with(run: Any) -> None:
    out, _, _ = run("--prompt", "ab", "--max-tokens", "2", "--logprobs", "0", "--number", "2", "--temperature", "90")
    _, first, second = re.split(r"\n\n--- \d of 2 ---\n", out)
    for part in (first, second):
        heads, *tokens, total = part.rstrip().splitlines()
        assert heads.split() == ["token", "log-probability", "probability", "rank", "drawn", "with"]
        assert len(tokens) == 2
        assert total.startswith("2 tokens, -")
    assert run("--prompt", "hello", "--logprobs", "1", name="runs/greeter")[0].splitlines()[-3].startswith("'i' ")


def test_json_holds_how_probable_each_token_was(run: Any) -> None:
    said = json.loads(run("--prompt", "ab", "--max-tokens", "2", "--logprobs", "2", "--json")[0])
    first, second = said["texts"][0]["logprobs"]
    assert (first["text"], second["text"]) == ("c", "d")
    assert first["log_probability"] == pytest.approx(-256 * math.exp(-100), abs=1e-12)
    assert (first["token"], first["rank"], first["drawn"]) == (ord("c"), 1, pytest.approx(0, abs=1e-6))
    assert [other["token"] for other in first["alternatives"]] == [ord("c"), 0]
    assert first["alternatives"][1] == {"token": 0, "text": "\0", "log_probability": pytest.approx(-100)}
    assert "logprobs" not in json.loads(run("--prompt", "ab", "--max-tokens", "2", "--json")[0])["texts"][0]
    answer = json.loads(run("--prompt", "hello", "--logprobs", "1", "--json", name="runs/greeter")[0])["texts"][0]
    assert [word["text"] for word in answer["logprobs"]] == ["h", "i", "<|end|>"]
    assert all("drawn" not in word for word in answer["logprobs"])


def test_an_encoder_writes_nothing(run: Any) -> None:
    with pytest.raises(WeftError, match=r"^this model is an encoder: it reads and writes nothing"):
        run("--prompt", "a", name="runs/encoder")


def test_ctrl_c_in_a_search_leaves_no_answer(run: Any) -> None:
    assert run("--prompt", "hello", ctrl_c=2, name="runs/greeter") == ("", "", 130)


def test_python_answers_too() -> None:
    model = greeter()
    assert weft_generate(model, BYTES, ["hello", "", "you"], beams=2) == ["hi"] * 3
    assert weft_generate(model, BYTES, "hello", max_tokens=1, beams=1) == "h"
    assert weft_generate(model, BYTES, []) == []
    with pytest.raises(WeftError, match="temperature: no such option"):
        weft_generate(model, BYTES, "hello", temperature=0.5)
    with pytest.raises(WeftError, match="use_cache"):
        weft_generate(model, BYTES, "hello", use_cache=False)
    with pytest.raises(WeftError, match="comes whole"):
        stream(model, BYTES, ["hello"])

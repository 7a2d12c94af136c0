"""The command line: help without torch, mistakes in one line each, lists and schemas that tell the truth."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from schema import problems

from weft.cli import main as entry
from weft.cli.list import options
from weft.cli.schema import model_schema, recipe_schema
from weft.config import SLOTS, Part, Section, yaml
from weft.errors import ConfigError, WeftError
from weft.models.config import preset, presets
from weft.training.recipe import Recipe, read_recipe, recipes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`weft ARGUMENTS` in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["weft", *arguments])
        with pytest.raises(SystemExit) as ended:
            entry.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command and group with its words."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = dict(commands(typer.main.get_command(entry.app)))


def test_no_help_text_needs_anything_heavy() -> None:
    script = """
import json, sys
from weft.cli.main import main
for words in json.loads(sys.argv[1]):
    sys.argv = ["weft", *words]
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None), words
    heavy = {"torch", "numpy", "tokenizers", "rich", "yaml"} & set(sys.modules)
    assert not heavy, (words, heavy)
"""
    asked = [[*words, "--help"] for words in ALL] + [["--version"]]
    assert ["describe", "--help"] in asked
    assert ["tokenizer", "train", "--help"] in asked
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(asked)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Usage: ") == len(ALL)


@pytest.mark.parametrize("words", [words for words in ALL if words], ids=" ".join)
def test_every_command_says_what_it_does_with_an_example(words: tuple[str, ...]) -> None:
    what, _, example = (ALL[words].help or "").partition(": weft ")
    assert what[:1].isupper()
    assert example.startswith(" ".join(words) if not hasattr(ALL[words], "commands") else words[0])
    assert ALL[words].short_help == what
    for parameter in ALL[words].params:
        assert getattr(parameter, "help", None), f"{parameter.name} says nothing"


def test_a_mistake_is_a_line_each_and_no_traceback(weft: Run) -> None:
    code, out, err = weft("describe", "gpt2", "decoder.n_layer=2", "d_modl=5")
    assert (code, out) == (2, "")
    deep, shallow = err.splitlines()
    assert deep.startswith("error: decoder.n_layer: no such option; did you mean 'n_layers'?")
    assert shallow.startswith("error: d_modl: no such option; did you mean 'd_model'?")


def test_a_schema_that_there_is_not_is_a_line(weft: Run) -> None:
    line = "error: no schema called 'recipes'; did you mean 'recipe'? (known: model, recipe, study)\n"
    assert weft("schema", "recipes") == (2, "", line)


def test_what_the_program_did_wrong_is_not_hidden(weft: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> Callable[[], None]:
        def app() -> None:
            raise error

        return app

    monkeypatch.setattr(entry, "app", raising(ConfigError(["one", "two"])))
    assert weft() == (2, "", "error: one\nerror: two\n")
    monkeypatch.setenv("WEFT_DEBUG", "1")
    with pytest.raises(WeftError, match="one"):
        entry.main()
    monkeypatch.setattr(entry, "app", raising(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        entry.main()


def test_usage_errors_and_interruption_have_their_codes(weft: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = weft("lst")
    assert (code, out) == (2, "")
    assert "Did you mean 'list'?" in err
    assert weft("describe", "gpt2", "--batch", "0")[0] == 2
    assert weft("describe")[0] == 2

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("weft.hub.model_config", interrupted)
    assert weft("describe", "gpt2") == (130, "", "")


def test_a_reader_that_leaves_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "weft.cli.main", "--help"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert done.stderr == b""


def test_describe_of_a_preset_a_file_and_json(weft: Run, tmp_path: Path) -> None:
    tiny = ["d_model=32", "decoder.n_layers=1", "--length", "16", "--batch", "2", "--precision", "fp32"]
    code, out, err = weft("describe", "llama-tiny", *tiny, "model.decoder.positions.kind=learned", "--vocab-size", "99")
    assert code == 0
    assert out.startswith("llama-tiny: ")
    assert "\nvocab_size not given: the tokenizer's, known with the data; here 99\n" in out
    dropped = "theta, share, layout, scaling dropped, learned has no such option"
    assert err == f"note: decoder.positions.kind=learned: {dropped}\n"

    file = tmp_path / "mine.yaml"
    file.write_text("preset: llama-tiny\nvocab_size: 99\ndecoder: {positions: learned}\n")
    code, out, err = weft("describe", str(file), *tiny, "--json")
    assert (code, err) == (0, "")
    data = json.loads(out)
    assert data["model"]["decoder"]["positions"] == {"kind": "learned", "offset": 0}
    assert (data["length"], data["batch"], data["precision"]) == (16, 2, "fp32")


def test_describe_refuses_what_it_cannot_tell(weft: Run) -> None:
    assert weft("describe", "gtp2")[2].startswith("error: no preset called 'gtp2'; did you mean 'gpt2'?")
    assert weft("describe", "gpt2", "--precision", "fp8")[2] == (
        "error: --precision fp8: should be auto, fp32 or bf16\n"
    )
    code, out, err = weft("describe", "gpt2", "--length", "1025")
    assert (code, out) == (2, "")
    assert err == "error: 1025 tokens are more than these positions can number: they end at 1024 (max_length)\n"


def test_list_of_presets_recipes_and_sources(weft: Run) -> None:
    assert json.loads(weft("list", "presets", "--json")[1]).keys() == set(presets())
    assert json.loads(weft("list", "recipes", "--json")[1]) == recipes()
    assert json.loads(weft("list", "sources", "--json")[1]).keys() == SLOTS["source"].kinds.keys()
    lines = [" ".join(line.split()) for line in weft("list", "presets")[1].splitlines()]
    assert any(line.startswith("gpt2 GPT-2 small (Radford et al. 2019)") for line in lines)


def test_list_of_parts_names_every_slot_and_kind(weft: Run) -> None:
    code, out, _ = weft("list", "parts")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    for slot, base in SLOTS.items():
        section = f"\n{out}".split(f"\n{slot}: ")[1].split("\n\n")[0]
        listed = [line[2:].split("  ")[0] for line in section.splitlines() if line[:2] == "  " and line[2] != " "]
        assert listed == [f"{kind}{' *' if kind == base.default else ''}" for kind in base.kinds]
    assert json.loads(weft("list", "parts", "--json")[1]).keys() == SLOTS.keys()


def test_list_of_a_slot_tells_each_option(weft: Run) -> None:
    out = weft("list", "parts", "attention")[1]
    assert max(map(len, out.splitlines())) <= 100
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "n_heads integer > 0 4 number of query heads" in lines
    assert "kernel auto | blocked | sdpa | flex | reference auto how it is computed [execution]" in " ".join(lines)
    assert "score part: score softmax from products to weights" in " ".join(lines)
    assert "size integer > 0 required keys seen" in " ".join(weft("list", "parts", "window")[1].split())
    assert (
        "decoder.n_layers"
        in json.loads(weft("list", "parts", "model", "--json")[1])["model"]["kinds"]["transformer"]["options"]
    )
    # a kind of two slots is told twice
    assert json.loads(weft("list", "parts", "none", "--json")[1]).keys() >= {"attention", "positions", "mask"}


def test_list_of_an_unknown_part_names_the_nearest(weft: Run) -> None:
    code, out, err = weft("list", "parts", "rotry")
    assert (code, out) == (2, "")
    assert "did you mean 'rotary'?" in err


def test_list_and_schema_know_the_parts_of_plugins(weft: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from weft.nn import Score\n"
        "class Mine(Score, kind='only-here'):\n"
        "    '''A score of my own.'''\n"
        "    sharpness: float = 2.0\n"
        "    '''how sharp'''\n"
    )
    try:
        assert "A score of my own." in weft("list", "parts", "score", "--plugins", str(file))[1]
        assert "score-only-here" in json.loads(weft("schema", "model", "--plugins", str(file))[1])["$defs"]
    finally:
        SLOTS["score"].kinds.pop("only-here")


@pytest.mark.parametrize(
    "part",
    [*(part for base in SLOTS.values() for part in base.kinds.values()), Recipe],
    ids=lambda part: f"{part.slot}-{part.kind}" if issubclass(part, Part) else part.__name__,
)
def test_every_part_and_option_says_what_it_means(part: Any) -> None:
    assert (part.__doc__ or "").strip().endswith(".")
    assert "pydantic" not in part.__doc__
    for name, about in options(part).items():
        assert about["meaning"], f"{name} has no description"
        assert about["type"], f"{name} has no type"


@functools.cache
def schema_of(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A schema that takes a second to make, made once."""
    return make()


@pytest.mark.parametrize("name", presets())
def test_schema_accepts_the_bundled_presets(name: str) -> None:
    schema = schema_of(model_schema)
    assert not list(problems(preset(name), schema, schema))
    assert not list(problems(name, schema, schema))
    assert not list(problems({"preset": name, "decoder": {"n_layers": 2}}, schema, schema))


@pytest.mark.parametrize("name", recipes())
def test_schema_accepts_the_bundled_recipes(name: str) -> None:
    schema = schema_of(recipe_schema)
    raw, _ = read_recipe(name)
    assert not list(problems(raw, schema, schema))


@pytest.mark.parametrize(
    "wrong",
    [
        "{}",
        "{model: gpt2, trian: {seed: 1}}",
        "{model: gpt2, train: {seed: -1}}",
        "{model: gpt2, train: {seed: one}}",
        "{model: gpt-2}",
        "{model: {decoder: {n_layer: 2}}}",
        "{model: {decoder: {positions: {kind: rotry}}}}",
        "{model: {decoder: {positions: {kind: learned, theta: 5}}}}",
        "{model: {decoder: {block: {attention: {mask: {kind: window}}}}}}",
        "{model: {dropout: 1}}",
    ],
)
def test_schema_refuses_what_weft_refuses(wrong: str) -> None:
    from weft.config import load

    schema, raw = schema_of(recipe_schema), yaml.parse(wrong, "test")
    assert list(problems(raw, schema, schema))
    with pytest.raises(WeftError):
        load(Recipe, raw)


def test_schema_is_closed_and_its_defaults_fit_it() -> None:
    schema = schema_of(recipe_schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    seen = 0
    for body in [schema, *schema["$defs"].values()]:
        assert body["additionalProperties"] is False
        for name, below in body["properties"].items():
            if "default" in below:
                seen += 1
                assert not list(problems(below["default"], below, schema)), name
    assert seen > 40


def test_a_default_in_the_schema_is_the_default() -> None:
    def check(section: type[Section], body: dict[str, Any]) -> None:
        for name, field in section.model_fields.items():
            if not field.is_required():
                written = {name: body["properties"][name]["default"]}
                assert getattr(section.model_validate(written), name) == getattr(section.model_validate({}), name)

    schema = schema_of(model_schema)
    for base in SLOTS.values():
        for kind, part in base.kinds.items():
            body = schema["$defs"].get(f"{base.slot}-{kind}")
            if body is not None and not any(field.is_required() for field in part.model_fields.values()):
                check(part, body)


def test_schema_prints_json(weft: Run) -> None:
    code, out, err = weft("schema", "recipe")
    assert (code, err) == (0, "")
    assert json.loads(out) == recipe_schema()

"""A person's mistake is one clear line for each problem, exit code 2, no traceback, and nothing left behind."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from weft.config import yaml
from weft.runs.folder import RunFolder

Weft = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a recipe tiny.yaml and its text."""
    monkeypatch.chdir(tmp_path)
    tiny.recipe_file(tmp_path)
    return tmp_path


@pytest.fixture
def weft(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Weft:
    """Runs a command that must fail and leave no run; its lines on stderr, without `error: `."""

    def call(*arguments: object) -> list[str]:
        before = sorted(folder.rglob("*"))
        code, out, err = tiny.command(*arguments, patch=monkeypatch, capture=capsys)
        assert code == 2, out + err
        lines = err.splitlines()
        assert lines
        assert all(line.startswith("error: ") for line in lines), err
        assert [path for path in sorted(folder.rglob("*")) if path not in before and path.name != "runs"] == []
        assert not list(folder.glob("runs/*")), "the folder `runs` may be there, but it is empty"
        return [line.removeprefix("error: ") for line in lines]

    return call


def one(lines: list[str]) -> str:
    assert len(lines) == 1, lines
    return lines[0]


# --- recipes ---


def test_several_mistakes_at_once(weft: Weft) -> None:
    lines = weft("train", "demo", "model.decoder.n_layer=2", "train.bach_tokens=4096", "optimizer.learning_rate=fast")
    problems = {line.partition(":")[0].partition(" = ")[0]: line for line in lines}
    assert list(problems) == ["model.decoder.n_layer", "optimizer.learning_rate", "train.bach_tokens"]
    assert "no such option; did you mean 'n_layers'? (model.decoder has: n_layers, positions" in lines[0]
    assert lines[1].startswith("optimizer.learning_rate = 'fast': should be a valid number")
    assert "no such option; did you mean 'batch_tokens'? (train has: budget, batch_tokens" in lines[2]


RECIPES = {
    "unknown name": (["dmeo"], r"no recipe called 'dmeo'; did you mean 'demo'\? .*or name a .yaml file or a run"),
    "missing file": (["recipes/mine.yaml"], r"recipes/mine.yaml: No such file or directory"),
    "no override": (["tiny.yaml", "train.seed"], r"'train.seed': an override is written path=value"),
    "bad value": (["tiny.yaml", "train.seed=[1"], r"train.seed= line 1: "),
    "unknown part": (["tiny.yaml", "model.decoder.positions=rotori"], r"model.decoder.positions: no positions called"),
    "budget": (["tiny.yaml", "train.budget=soon"], r"train.budget = 'soon': should be an amount and a unit: 450 ste"),
    "no unit": (["tiny.yaml", "train.budget=0"], r"train.budget = 0: should be text, such as '450 steps'"),
    "endless": (["tiny.yaml", "train.budget=1e999 steps"], r"train.budget = '1e999 steps': should be an amount"),
    "seed": (["tiny.yaml", "train.seed=-1"], r"train.seed = -1: should be greater than or equal to 0"),
    "batch": (["tiny.yaml", "train.batch_tokens=31"], r"batch_tokens = 31 is less than a row of model.max_length = 32"),
    "heads": (["tiny.yaml", "model.decoder.block.attention.n_heads=5"], r"n_heads = 5 .*32|32.*n_heads = 5"),
    "vocabulary": (["tiny.yaml", "model.vocab_size=100"], r"model.vocab_size = 100 is less than the tokenizer's 257"),
    "device": (["tiny.yaml", "train.device=tpu"], r"device 'tpu' is not available here \(there is: cpu"),
    "precision": (["tiny.yaml", "train.precision=fp16"], r"train.precision = 'fp16': should be 'auto', 'fp32' or"),
    "group": (["tiny.yaml", 'optimizer.groups=[{paths: ["*.nrom*"]}]'], r"optimizer.groups: '\*.nrom\*' fits no par"),
    "name": (["tiny.yaml", "name=../up"], r"name = '../up': should be a folder's name"),
    "--name with a path": (["tiny.yaml", "--name", "../up"], r"--name ../up: should be a folder's name: no path"),
    "--name deeper": (["tiny.yaml", "--name", "a/b"], r"--name a/b: should be a folder's name"),
    "--name hidden": (["tiny.yaml", "--name", ".writing-x"], r"--name .writing-x: should be a folder's name"),
    "--name nothing": (["tiny.yaml", "--name", ""], r"--name : should be a folder's name"),
    "--name too long": (["tiny.yaml", "--name", "x" * 300], r"--name x+: should be a folder's name"),
    "--runs is a file": (["tiny.yaml", "--runs", "text.jsonl"], r"text.jsonl/tiny: cannot be written \((Not|File)"),
    "not a run": (["."], r"not a run folder \(it has no manifest.json\)"),
    "plugin": (["tiny.yaml", "--plugins", "mine.py"], r"plugins: mine.py: No such file or directory"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", RECIPES)
def test_a_wrong_recipe(weft: Weft, mistake: str) -> None:
    arguments, expected = RECIPES[mistake]
    assert re.search(expected, one(weft("train", *arguments)))


FILES = {
    "empty": (b"", r"bad.yaml: should hold `name: value` lines, not nothing"),
    "a list": (b"- name\n", r"bad.yaml: should hold `name: value` lines, not list"),
    "syntax": (b"name: x\nmodel:\n  d_model: [32\ntrain: {}\n", r"bad.yaml line 4: "),
    "tabs": (b"name: x\nmodel:\n\td_model: 32\n", r"bad.yaml line 3: "),
    "twice": (b"name: x\nname: y\n", r"bad.yaml line 2: 'name' is given twice"),
    "binary": (b"\x89PNG\r\n\x1a\n\xff\xfe", r"bad.yaml: not UTF-8 text \(byte 0\)"),
    "control characters": (b"name: \0\1\n", r"bad.yaml.*special characters are not allowed"),
    "utf-16": ("name: x\n".encode("utf-16"), r"bad.yaml: not UTF-8 text"),
    "no model": (b"name: x\n", r"model: needs a value \(which parts, how large\)"),
    "python": (
        b"model: !!python/object/apply:os.system ['touch pwned']\n",
        r"bad.yaml line 1: could not determine a c",
    ),
    "model of another kind": (b"model: {kind: mamba}\n", r"model: no model called 'mamba'"),
    "preset": (b"model: gtp2\n", r"no preset called 'gtp2'; did you mean 'gpt2'\?"),
}


@pytest.mark.parametrize("content", FILES)
def test_a_file_that_is_no_recipe(weft: Weft, folder: Path, content: str) -> None:
    data, expected = FILES[content]
    (folder / "bad.yaml").write_bytes(data)
    assert re.search(expected, one(weft("train", "bad.yaml")))
    assert not (folder / "pwned").exists()


# --- texts ---

LINE = b'{"text": "the cat sat on the mat"}\n'
TEXTS: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("texd.jsonl", None, r"texd.jsonl: no such file or folder; did you mean .*text.jsonl\?"),
    "empty": ("bad.txt", b"", r"bad.txt: the file is empty"),
    "white space": ("bad.txt", b" \n\n\t\n", r"bad.txt: holds no text"),
    "binary": ("bad.txt", bytes(range(256)) * 4, r"bad.txt: holds NUL bytes, so it is a binary file"),
    "utf-16": ("bad.txt", "chữ\n".encode("utf-16"), r"bad.txt: begins with the mark of UTF-16 .* set data.source.enc"),
    "latin-1": ("bad.txt", b"one\ntwo caf\xe9\n", r"bad.txt line 2: byte 0xE9 at offset 11 is not utf-8 .*latin-1"),
    "not json": ("bad.jsonl", LINE * 2 + b"{'text': 1}\n", r"bad.jsonl line 3: not JSON"),
    "no object": ("bad.jsonl", LINE + b'["text"]\n', r"bad.jsonl line 2: should be an object"),
    "other field": (
        "bad.jsonl",
        b'{"body": "x", "id": 1}\n',
        r"bad.jsonl line 1: no column 'text'; there are: body",
    ),
    "field of a number": ("bad.jsonl", b'{"text": 3}\n', r"bad.jsonl line 1: 'text' should be text, not 3"),
    "damaged gz": ("bad.txt.gz", gzip.compress(b"x" * 9999)[:-20], r"bad.txt.gz: a damaged .gz file"),
    "unknown ending": ("bad.docx", b"PK\3\4", r"bad.docx: cannot read .docx; readable are"),
    "one letter": ("bad.txt", b"x", r"bad.txt: 1 character is too little to split"),
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_cannot_be_read(weft: Weft, folder: Path, text: str) -> None:
    name, data, expected = TEXTS[text]
    if data is not None:
        (folder / name).write_bytes(data)
    assert re.search(expected, one(weft("train", "tiny.yaml", f"data.source={folder / name}")))


def test_a_folder_of_nothing_readable(weft: Weft, folder: Path) -> None:
    (folder / "pictures").mkdir()
    (folder / "pictures/a.png").write_bytes(b"\x89PNG")
    said = one(weft("train", "tiny.yaml", "data.source=pictures/"))
    assert re.search(r"pictures: nothing to read in this folder \(1 .png\); readable are", said)


# --- runs ---


def test_a_name_that_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs/mine").mkdir(parents=True)
    (folder / "runs/mine/notes.txt").write_text("keep")
    code, _, err = tiny.command("train", "tiny.yaml", "--name", "mine", patch=monkeypatch, capture=capsys)
    expected = "error: runs/mine: exists already; go on with it (weft train runs/mine) or choose another --name\n"
    assert (code, err) == (2, expected)
    assert [path.name for path in (folder / "runs/mine").iterdir()] == ["notes.txt"]


def test_a_run_that_diverges(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["optimizer.kind=sgd", "optimizer.learning_rate=1e6", "model.decoder.norm=none", "train.clip=null"]
    code, _, err = tiny.command("train", "tiny.yaml", *wild, patch=monkeypatch, capture=capsys)
    assert code == 2
    assert re.fullmatch(
        r"error: step \d+: the loss is (nan|inf|\d\S*), the gradient's norm (nan|inf): the run diverged; try a smaller"
        r" optimizer.learning_rate \(now 1e\+06\)\n",
        err,
    )
    lines = (folder / "runs/tiny/metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["split"] for line in lines), "what was measured before stays readable"
    assert json.loads((folder / "runs/tiny/manifest.json").read_text())["status"] == "failed"


def test_a_folder_called_like_a_recipe(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "demo").mkdir()
    code, _, err = tiny.command("train", "demo", "train.seeed=1", patch=monkeypatch, capture=capsys)
    assert (code, err.partition(":")[2][:30]) == (2, " train.seeed: no such option; ")


def test_names_that_are_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a run is called shows up quoted where a shell needs that, and never as markup."""
    name = "thử [bold]nghiệm  1"
    one_step = ["train.budget=1 steps", "train.sample_tokens=0"]
    code, out, err = tiny.command("train", "tiny.yaml", *one_step, "--name", name, patch=monkeypatch, capture=capsys)
    assert (code, err) == (0, "")
    assert f"report: runs/{name}/report.html" in out
    assert RunFolder(folder / "runs" / name).manifest()["name"] == name
    code, _, err = tiny.command("train", f"runs/{name}", "train.seed=1", patch=monkeypatch, capture=capsys)
    assert (code, f"weft train 'runs/{name}/recipe.yaml' train.seed=1" in err) == (2, True)


def test_the_console_script(folder: Path) -> None:
    """The same through a process of its own."""
    command = [sys.executable, "-m", "weft.cli.main", "train", "demo", "model.decoder.n_layer=2", "train.bach_tokens=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(":")[:2] for line in done.stderr.splitlines()] == [
        ["error", " model.decoder.n_layer"],
        ["error", " train.bach_tokens"],
    ]
    assert sorted(path.name for path in folder.iterdir()) == ["text.jsonl", "tiny.yaml"]
    assert yaml.read(folder / "tiny.yaml")["name"] == "tiny"

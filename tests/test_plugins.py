"""A user's own part or objective: ten lines in a file that a recipe names, recorded, and never run unasked."""

from __future__ import annotations

import hashlib
import json
import os
import py_compile
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

import weft
from weft.config import plugins, yaml
from weft.config.plugins import load_plugins
from weft.errors import WeftError
from weft.runs.folder import RunFolder

PART = '''"""A feed-forward layer of my own."""
from weft.nn import FeedForward, Linear, Module, Normal

class Squared(FeedForward, kind="squared"):
    """down(max(0, up(x))^2) (So et al. 2021)."""
    def build(self, dims):
        return SquaredLayer(dims.d_model, Normal(dims.init_std))

class SquaredLayer(Module):
    def __init__(self, width, start):
        super().__init__()
        self.up, self.down = Linear(width, 4 * width, start), Linear(4 * width, width, start)
    def forward(self, x_BTD):
        return self.down(self.up(x_BTD).relu().square())
'''

OBJECTIVE = '''"""An objective of my own: only the second half of each row is learned."""
from weft.objectives import Causal

class Later(Causal, kind="later"):
    """Next-token prediction with half a row of context."""
    def collate(self, packed, device):
        batch = super().collate(packed, device)
        batch.targets[:, : batch.targets.shape[1] // 2] = -100
        return batch
'''
BRIEF = ("train.budget=12 steps",)
MINE = (*BRIEF, "model.decoder.block.feedforward=squared", "objective=later")


pytestmark = pytest.mark.usefixtures("own_parts")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe beside two plugins, which it names."""
    (tmp_path / "part.py").write_text(PART)
    (tmp_path / "objective.py").write_text(OBJECTIVE)
    path = tmp_path / "mine.yaml"
    raw = {**tiny.recipe(tiny.text(tmp_path)), "plugins": ["part.py", "objective.py"]}
    path.write_text(yaml.dump(raw))
    return path


def stop(step: int, values: dict[str, Any]) -> None:
    if step == 6:
        raise InterruptedError


def test_a_recipe_trains_with_what_its_plugins_register(recipe: Path) -> None:
    run, _ = tiny.run(recipe, recipe.parent, *MINE)
    model, _ = run.load()
    assert type(model.decoder.blocks[0].feedforward).__name__ == "SquaredLayer"
    train = [line for line in run.metrics if line["split"] == "train"]
    assert train[-1]["values"]["loss"] < train[0]["values"]["loss"] - 1
    assert 0.4 < train[-1]["tokens"] / (12 * 128) <= 0.5, "half of each row is counted"


def test_a_run_keeps_its_plugins_and_their_hashes(recipe: Path) -> None:
    folder = tiny.run(recipe, recipe.parent, *MINE)[0].folder
    expected = {
        f"plugins/{name}": hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("part.py", PART), ("objective.py", OBJECTIVE))
    }
    assert RunFolder(folder).manifest()["plugins"] == expected
    assert json.loads((folder / "checkpoints/step-00000012/config.json").read_text())["plugins"] == expected
    assert yaml.read(folder / "recipe.yaml")["plugins"] == list(expected)
    assert (folder / "plugins/part.py").read_text() == PART


def test_a_runs_recipe_repeats_it_without_the_originals(recipe: Path) -> None:
    first = tiny.run(recipe, recipe.parent, *MINE)[0].folder
    (recipe.parent / "part.py").unlink()
    (recipe.parent / "objective.py").unlink()
    second = tiny.run(first / "recipe.yaml", recipe.parent)[0].folder
    assert (first.name, second.name) == ("tiny", "tiny-2")
    assert tiny.result(first) == tiny.result(second)


@pytest.mark.parametrize("how", ["--plugins", "override"])
def test_plugins_of_the_command_line_are_kept_too(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    raw = tiny.recipe(recipe.parent / "text.jsonl")
    recipe.write_text(yaml.dump(raw))
    (recipe.parent / "elsewhere").mkdir()
    shutil.move(recipe.parent / "part.py", recipe.parent / "elsewhere/part.py")
    monkeypatch.chdir(recipe.parent)
    named = ["--plugins", "elsewhere/part.py"] if how == "--plugins" else ["plugins=[elsewhere/part.py]"]
    code, _, err = tiny.command("train", recipe, MINE[0], MINE[1], *named, patch=monkeypatch, capture=capsys)
    assert (code, err) == (0, "")
    assert list(RunFolder(Path("runs/tiny")).manifest()["plugins"]) == ["plugins/part.py"]
    assert yaml.read(Path("runs/tiny/recipe.yaml"))["plugins"] == ["plugins/part.py"]


def test_nothing_runs_a_plugin_unasked(recipe: Path) -> None:
    """Other processes: one that was not asked says what to type, and that works."""
    path = recipe.parent / "stopped"
    with pytest.raises(InterruptedError):
        tiny.run(recipe, recipe.parent, *MINE, name=path.name, on_step=stop)
    for command in (["train", path], ["generate", path, "--prompt", "the"]):
        process = tiny.Process(recipe.parent, *command)
        assert process.wait() == 2, process.said
        assert process.said.startswith("error: ")
        assert process.said.count("\n") == 1
        assert "made with plugins/part.py, plugins/objective.py, which" in process.said
        asked = [f"--plugins {path / name}" for name in ("plugins/part.py", "plugins/objective.py")]
        assert process.said.endswith(f"code runs only when asked for: {' '.join(asked)}\n")
    again = tiny.Process(recipe.parent, "train", path, *" ".join(asked).split())
    assert again.wait() == 0, again.said
    assert tiny.result(path) == tiny.result(tiny.run(recipe, recipe.parent, *MINE)[0].folder)


def test_a_compiled_copy_beside_a_plugin_is_neither_run_nor_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is run is what was read and is recorded; Python's cache is trusted by date and size alone."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "mine.py"
    path.write_text("raise ValueError('compiled')")
    compiled = Path(py_compile.compile(str(path)))
    when = path.stat().st_mtime_ns
    path.write_text("raise ValueError('as read!')")
    os.utime(path, ns=(when, when))
    with pytest.raises(WeftError, match="as read!"):
        load_plugins([path])
    shutil.rmtree(compiled.parent)
    path.write_text("VALUE = 1")
    load_plugins([path])
    assert [one.name for one in tmp_path.iterdir()] == ["mine.py"]
    with pytest.raises(WeftError, match="not a Python file"):
        load_plugins([path.rename(tmp_path / "mine.txt")])


def test_in_a_process_that_was_not_asked(recipe: Path) -> None:
    run = tiny.run(recipe, recipe.parent, *MINE)[0]
    plugins._loaded.clear()
    assert "is finished after 12 steps" in tiny.run(run.folder, recipe.parent)[1], "that needs no plugin"
    with pytest.raises(WeftError, match="code runs only when asked for"):
        weft.load(run.folder)
    kept = [run.folder / "plugins/part.py", run.folder / "plugins/objective.py"]
    assert type(weft.load(run.folder, plugins=kept)[0].decoder.blocks[0].feedforward).__name__ == "SquaredLayer"


def test_another_version_of_a_plugin_is_not_it(recipe: Path) -> None:
    path = recipe.parent / "stopped"
    with pytest.raises(InterruptedError):
        tiny.run(recipe, recipe.parent, *MINE, name=path.name, on_step=stop)
    (recipe.parent / "part.py").write_text(PART.replace("square()", "square() * 2"))
    asked = [f"--plugins={recipe.parent / name}" for name in ("part.py", "objective.py")]
    process = tiny.Process(recipe.parent, "train", path, *asked)
    assert process.wait() == 2, process.said
    assert "made with plugins/part.py, which is not loaded (or only another version of it)" in process.said
    again = tiny.Process(recipe.parent, "train", path, asked[1], "--plugins", path / "plugins/part.py")
    assert again.wait() == 0, again.said


BROKEN = {
    "syntax": ("class Mine(:\n", r"part.py: SyntaxError: invalid syntax \(part.py, line 1\)"),
    "error": ("1 / 0\n", "part.py: ZeroDivisionError: division by zero"),
    "import": ("import nothing_of_this_name\n", "part.py: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
    "exit": ("raise SystemExit(0)\n", "part.py: SystemExit: 0"),
    "binary": ("\0\1\2", "part.py: SyntaxError: source code string cannot contain null bytes"),
    "taken": (
        "from weft.nn import Gelu\nclass Mine(Gelu, kind='swiglu'): ...\n",
        "part.py: feedforward: the kind 'swiglu' is already taken by weft.nn.feedforward.SwiGlu",
    ),
}


@pytest.mark.parametrize("problem", [*BROKEN, "missing", "no list", "two of a name"])
def test_what_is_wrong_with_a_plugin(recipe: Path, problem: str) -> None:
    overrides: tuple[str, ...] = BRIEF
    if problem == "missing":
        (recipe.parent / "part.py").unlink()
        expected = "part.py: No such file or directory"
    elif problem == "no list":
        overrides, expected = ("plugins=part.py",), "plugins = 'part.py': should be a list of Python files"
    elif problem == "two of a name":
        (recipe.parent / "other").mkdir()
        (recipe.parent / "other/part.py").write_text("")
        names = f"[{recipe.parent / 'part.py'}, {recipe.parent / 'other/part.py'}]"
        overrides, expected = (f"plugins={names}",), "different files of one name; rename one"
    else:
        text, expected = BROKEN[problem]
        (recipe.parent / "part.py").write_text(text)
    with pytest.raises(WeftError, match=expected) as caught:
        tiny.run(recipe, recipe.parent, *overrides)
    assert "\n" not in str(caught.value)
    assert not (recipe.parent / "tiny").exists()


def test_the_same_file_runs_once(tmp_path: Path) -> None:
    counted = "import sys\nsys.weft_test = getattr(sys, 'weft_test', 0) + 1\n"
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(counted)
    import sys

    try:
        loaded = load_plugins(["a.py", "b.py", "a.py"], tmp_path)
        assert sys.weft_test == 1  # type: ignore[attr-defined]
        assert set(loaded.values()) == {hashlib.sha256(counted.encode()).hexdigest()}
    finally:
        del sys.weft_test  # type: ignore[attr-defined]

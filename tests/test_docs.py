"""Every command and snippet of the README and of docs/ is run, in the order in which a reader meets them.

Trainings are cut to a few steps of a small model; `make` and `pip` lines are checked against the Makefile instead.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import tiny

from weft.config import Override, yaml

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import tutorials

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = [
    "train.budget=2 steps",
    "train.batch_tokens=64",
    "train.evaluate_tokens=256",
    "train.sample_tokens=4",
    "model.d_model=32",
    "model.max_length=32",
    "data.validation={kind: hash, share: 0.01}",
]
STACKS = {"classifier": ("encoder",), "translator": ("encoder", "decoder")}
"""What the bundled recipes that are no decoder train."""
REVIEWS = [("The food was good and warm.", "good"), ("Never again, it was cold.", "bad")]
NEW_REVIEWS = [("Warm and good food.", "good"), ("It was cold again.", "bad")]
PAIRS = [("Good morning.", "Chào buổi sáng."), ("Good night.", "Chúc ngủ ngon.")]


def small(recipe: str) -> list[str]:
    """Overrides that make a recipe's model small."""
    layers = [f"model.{stack}.n_layers=1" for stack in STACKS.get(recipe, ("decoder",))]
    heads = [f"model.{stack}.block.attention.n_heads=2" for stack in STACKS.get(recipe, ("decoder",))]
    return [*SMALL, *layers, *heads]


def small_study(text: str) -> str:
    """The study, its quick look made small."""
    study = yaml.parse(text, "study.yaml")
    overrides = [Override.read(one) for one in small(study["base"])]
    study.setdefault("quick", {})["set"] = {".".join(one.path): one.value for one in overrides}
    return yaml.dump(study)


def files_of_a_reader(folder: Path) -> None:
    """The files that the pages speak of."""
    (folder / "notes.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 400, encoding="utf-8")
    reviews = "".join(f'"{text}",{label}\n' for text, label in REVIEWS * 20)
    (folder / "reviews.csv").write_text("text,label\n" + reviews, encoding="utf-8")
    reviews = "".join(f'"{text}",{label}\n' for text, label in NEW_REVIEWS)
    (folder / "new-reviews.csv").write_text("text,label\n" + reviews, encoding="utf-8")
    pairs = "".join(f"{number} {text}\t{target}\n" for number in range(20) for text, target in PAIRS)
    (folder / "pairs.tsv").write_text("en\tvi\n" + pairs, encoding="utf-8")


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The language and text of each fenced block."""
    for found in re.finditer(r"^```(\w+)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def commands(text: str) -> Iterator[str]:
    """The commands of a console block, comments dropped."""
    for line in text.splitlines():
        if line.startswith("$ "):
            yield line[2:].partition("  #")[0].strip()


def run(arguments: Sequence[str], folder: Path, code: int = 0) -> str:
    """Run `weft ARGUMENTS`, or `-c CODE`, as a user would; it must end with that exit code. Returns what it said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        process = tiny.Process(folder.parent, *arguments, cwd=folder)
    if process.wait(300) is None:
        process.kill()
    assert process.wait() == code, f"{shlex.join(arguments)}\n{process.said}"
    return process.said


def run_command(command: str, folder: Path, said: str | None = None) -> None:
    """One line of a console block; what `weft check` says is what the page says, but for the time."""
    words = [word for word in shlex.split(command) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0] == "make":
        targets = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"(?m)^{words[1]}:|^\.PHONY:.*\b{words[1]}\b", targets), f"the Makefile has no {words[1]}"
        return
    assert words[0] == "weft", f"a command that this test cannot run: {command}"
    if words[1] == "train" and not (folder / words[2]).is_dir():
        words[3:3] = small(words[2])  # before the page's own overrides, which stand
    if words[1] != "check":
        run(words[1:], folder)
        return
    assert said is not None, f"{command}: what does it say?"
    found = run(words[1:], folder, int("does not hold: " in said))
    assert re.sub(r" \([^()]* s\)$", "", found, count=1, flags=re.MULTILINE).strip() == said.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path) -> None:
    """All blocks of a page, one after the other, in one folder."""
    reader = tmp_path / "reader"
    reader.mkdir()
    files_of_a_reader(reader)
    for (language, text), (following, answer) in pairwise([*blocks(page), ("", "")]):
        if language == "console":
            for command in commands(text):
                run_command(command, reader, answer if following == "text" else None)
        elif language == "yaml" and "\narms:" in text:
            (reader / "study.yaml").write_text(small_study(text), encoding="utf-8")
        elif language == "yaml":
            (reader / "recipe.yaml").write_text(text, encoding="utf-8")
            run(["train", "recipe.yaml", *small("recipe.yaml")], reader)
        elif language == "python" and (named := re.match(r'"""(\w+\.py):', text)):
            (reader / named[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            run(["-c", text], reader)
        else:
            assert language == "text", f"{page.name}: a block of {language} that nothing runs"


@pytest.mark.parametrize("page", sorted(tutorials.FOLDER.glob("*.md")), ids=lambda page: page.name)
def test_tutorial(page: Path) -> None:
    """What a tutorial says its code prints is what it prints."""
    outputs = tutorials.printed(page)
    assert len(outputs) == page.read_text(encoding="utf-8").count("```python\n") > 3
    assert tutorials.filled(page, outputs) == page.read_text(encoding="utf-8")


def test_the_pages_have_blocks() -> None:
    """The pattern above finds what it should."""
    assert sum(1 for _ in blocks(ROOT / "README.md")) >= 8

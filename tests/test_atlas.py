"""docs/atlas: pages are what the script makes now, say what the parts compute, and link to what is there."""

from __future__ import annotations

import re
import shlex
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_equations import sound
from typer.testing import CliRunner

from weft.cli import main
from weft.config import SLOTS, sections_within, yaml
from weft.models.config import ModelConfig
from weft.nn import Dims, FeedForward, Linear, Normal
from weft.nn.part import ModelPart
from weft.report.figure import cells, figure
from weft.report.svg import text_width

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import atlas
import atlas_code
import atlas_parts

PARTS = {
    f"{slot}/{kind}": part
    for slot, base in SLOTS.items()
    for kind, part in base.kinds.items()
    if issubclass(part, ModelPart) and part.__module__.startswith("weft.")
}
Files = dict[str, str]


@pytest.fixture(scope="module")
def found() -> Files:
    return atlas.pages()


def pages(found: Files) -> Iterator[tuple[str, str]]:
    """Each part's page: slot and kind, and its text."""
    for name, text in found.items():
        if name.endswith(".md") and name != "README.md":
            yield name.removesuffix(".md"), text


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


def test_the_pages_are_up_to_date(found: Files) -> None:
    names = atlas.stale(found)
    assert not names, f"{len(names)} files are not what the parts say now (such as {names[0]}): {atlas.COMMAND}"


def test_every_part_has_its_page_and_the_index_leads_to_it(found: Files) -> None:
    assert {name for name, _ in pages(found)} == PARTS.keys()
    index = found["README.md"]
    for name, part in PARTS.items():
        link = f"[{part.kind}]({name}.md)"
        assert (f"| **{link}** |" if part.kind == part.default else f"| {link} |") in index


def test_links_lead_somewhere(found: Files) -> None:
    anchors = {line[3:].replace(" ", "-") for line in found["README.md"].splitlines() if line.startswith("## ")}
    for name, text in found.items():
        if name.endswith(".md"):
            plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
            for target, anchor in re.findall(r"\]\(([^)#]+)#?([\w-]*)\)", plain):
                if not target.startswith("https://arxiv.org/abs/"):
                    at = (atlas.FOLDER / name).parent / target
                    assert at.resolve().is_file(), f"{name}: {target}"
                    assert not anchor or anchor in anchors, f"{name}: {target}#{anchor}"


def test_recipe_and_command_choose_the_part_alike(found: Files) -> None:
    for name, text in pages(found):
        (recipe,), (command,) = blocks(text, "yaml"), blocks(text, "console")
        by_recipe = ModelConfig.load(yaml.parse(recipe, name)["model"])
        words = shlex.split(command)
        assert words[:4] == ["$", "weft", "describe", "transformer"]
        by_path = ModelConfig.load(ModelConfig.load("transformer").dump(), *words[4:])
        assert by_path == by_recipe, name
        chosen = [type(section) for _, section in sections_within(by_path)]
        assert PARTS[name] in chosen, f"{name} is not in the model that its page declares"


def test_a_command_runs_as_it_stands(found: Files) -> None:
    (command,) = blocks(found["mask/any.md"], "console")
    told = CliRunner().invoke(main.app, [*shlex.split(command)[2:], "--equations"])
    assert told.exit_code == 0, told.output
    assert r"\lor" in told.stdout


def test_equations_are_what_github_shows(found: Files) -> None:
    told = [block for _, text in pages(found) for block in blocks(text, "math")]
    assert len(told) == sum(part.kind != "none" for part in PARTS.values()) + 2  # no mask and no scaling tell theirs
    for block in told:
        sound(block)
        assert "operatorname" not in block, "GitHub refuses it"
        assert block.startswith("\\begin{aligned}\n")


def test_pictures_are_small_and_sound(found: Files) -> None:
    pictures = {name: text for name, text in found.items() if name.endswith(".svg")}
    assert len(pictures) > 40
    for name, text in pictures.items():
        root = ET.fromstring(text)
        assert len(text.encode()) < 20_000, name
        assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
        assert "prefers-color-scheme: dark" in text
        assert "script" not in text
        width = float(root.get("viewBox", "").split()[2])
        for item in root.findall("{http://www.w3.org/2000/svg}text"):
            end = float(item.get("x", "0")) + text_width(item.text or "", float(item.get("font-size", "14")))
            assert end <= width, f"{name}: {item.text!r} leaves the picture"
        assert f"]({name.rpartition('/')[2]})" in found[page_of(name)], f"no page shows {name}"


def page_of(picture: str) -> str:
    """The page that shows a picture: rotary-alibi's is rotary-alibi-turns.svg."""
    slot, _, file = picture.partition("/")
    kinds = [name for name in PARTS if name.startswith(f"{slot}/") and file.startswith(name.partition("/")[2])]
    return f"{max(kinds, key=len)}.md"


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        ("mask/window", f"{sum(min(i + 1, 4) for i in range(12))} in a decoder"),
        ("mask/window", f"{sum(abs(i - j) < 4 for i in range(12) for j in range(12))} in an encoder"),
        ("mask/prefix", f"{sum(j <= i or (i < 4 and j < 4) for i in range(12) for j in range(12))} in a decoder"),
        ("feedforward/gelu", "−2 becomes −0.0455, 2 becomes 1.95"),  # 2 Phi(2) = 2 x 0.97725
        ("feedforward/relu2", "−2 becomes 0, 2 becomes 4"),
        ("positions/rotary-turns", "57.3°"),  # a radian
        ("positions/alibi", "−39.8"),  # 159 tokens at a slope of 1/4
        ("scaling/linear", "in 25.1 tokens, the slowest in 188,469"),  # four times 2 pi, and 2 pi 10,000^(62/64)
        ("norm/layer", "after: mean 0, root mean square 1"),
        ("stochastic_depth/linear", "passes through 10.7"),  # 12 - 0.2 (1 + ... + 12)/12
    ],
)
def test_pictures_are_computed_by_the_part(found: Files, picture: str, said: str) -> None:
    assert said in " ".join(ET.fromstring(found[f"{picture}.svg"]).itertext())


def test_costs_are_those_of_the_sizes(found: Files) -> None:
    for name, row in {
        "feedforward/swiglu": f"| the part itself | {3 * 256 * 704:,} | 1.1 M | 0 |",
        "attention/dot-product": f"| the part itself | {4 * 256 * 256:,} | 786.4 k | 2.0 kB |",
        "embedding/factorized": f"| the part itself | {4096 * 128 + 128 * 256 + 256:,} |",
        "positions/learned": f"| the default model with it | {4_198_912 + 256 * 256:,} |",
        "mask/window": "| the default model with it | 4,198,912 | 9.4 M |",
    }.items():
        assert row in found[f"{name}.md"], name


def test_code_is_that_of_the_files(found: Files) -> None:
    for name, text in pages(found):
        files = re.findall(r", in \[[\w/.]+\]\(\.\./\.\./\.\./(src/[\w/.]+)\):", text)
        listings = blocks(text, "python")
        assert len(files) == len(listings) >= 1
        for file, listing in zip(files, listings, strict=True):
            lines = {line.strip() for line in (atlas.ROOT / file).read_text(encoding="utf-8").splitlines()}
            missing = [line for line in listing.splitlines() if line.strip() not in lines]
            assert not missing, f"{name}: {missing}"
            assert "def equations" not in listing


def test_every_part_names_its_paper() -> None:
    for name, part in PARTS.items():
        assert part.kind == "none" or atlas.papers(part), f"{name}: its docstring names no paper (authors, year)"


def test_papers_are_found_in_docstrings() -> None:
    class Cited(FeedForward):
        """x (Ba, Kiros and Hinton 2016, eq. 4; van den Oord et al. 2018; Gemma Team 2024; arXiv 2009.12345)."""

    assert atlas.papers(Cited) == ["Ba, Kiros and Hinton 2016", "van den Oord et al. 2018", "Gemma Team 2024"]
    assert "[arXiv 2009.12345](https://arxiv.org/abs/2009.12345)" in atlas.prose(Cited.__doc__ or "")


def test_an_option_without_default_needs_an_example() -> None:
    class Bare(FeedForward):
        """x W."""

        strength: float

        def build(self, dims: Dims) -> Linear:
            return Linear(dims.d_model, dims.d_model, Normal(self.strength))

    with pytest.raises(atlas_parts.AtlasError, match=r"strength has no default.*Field\(examples="):
        atlas_parts.example(Bare)


def test_stale_pages_are_found_and_mended(tmp_path: Path) -> None:
    made = {"README.md": "all", "slot/kind.md": "one", "slot/kind.svg": "<svg/>"}
    atlas.write(made, atlas.stale(made, tmp_path), tmp_path)
    assert atlas.stale(made, tmp_path) == []
    (tmp_path / "slot" / "kind.md").write_text("other", encoding="utf-8")
    (tmp_path / "slot" / "kind.svg").unlink()
    (tmp_path / "slot" / "gone.md").write_text("of no part", encoding="utf-8")
    assert atlas.stale(made, tmp_path) == ["slot/gone.md", "slot/kind.md", "slot/kind.svg"]
    atlas.write(made, atlas.stale(made, tmp_path), tmp_path)
    assert atlas.stale(made, tmp_path) == []


def test_listings_leave_out_what_a_part_tells_of_itself() -> None:
    text = atlas_code.shown(FeedForward.kinds["gelu"].__mro__[2])
    assert "def build" in text
    assert "def equations" not in text
    assert "\n\n\n" not in text


def test_panels_stand_beside_each_other_until_there_is_no_room() -> None:
    panel = cells([["yes", "no", None]] * 3, 20.0, "one", names=["a", "b", "c"], columns=[(0, "0")])
    svg = figure("A title", "and more", [panel] * 12, room=440)
    places = re.findall(r'<g transform="translate\(([\d.]+) ([\d.]+)\)"><text x="0" y="13">one', svg)
    rows = {y for _, y in places}
    assert len(places) == 12
    assert len(rows) > 1
    assert all(float(x) + panel.width <= 440 + 20 for x, _ in places)
    assert panel.content.count("class=") == 2 + 3 + 1  # two colours, three names, one column

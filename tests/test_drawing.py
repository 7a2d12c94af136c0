"""The drawing of a model: all parts are in it; no text leaves its box, or meets another text or a line."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weft.checking.cases import one_by_one, places
from weft.checking.small import SIZES
from weft.cli import main
from weft.config import SLOTS
from weft.errors import WeftError
from weft.models.config import ModelConfig, TransformerConfig, presets
from weft.models.drawing import draw, fold, runs
from weft.models.equations import latex
from weft.nn import BlockPart, Dims, FeedForward, Linear, Norm, Normal, Positions
from weft.nn.block import PreNormBlock
from weft.report.boxes import wrapped
from weft.report.svg import text_width

SVG = "{http://www.w3.org/2000/svg}"
Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""

WINDOW = {"attention": {"mask": {"kind": "window", "size": 8}, "score": {"cap": 50, "sinks": True}, "gate": "headwise"}}
CASES: dict[str, dict[str, Any]] = {
    "a pattern and its rest": {
        "decoder": {"n_layers": 26, "positions": "rotary", "block": "sandwich", "pattern": [WINDOW] * 5 + [{}]}
    },
    "side by side, across, several heads": {
        "encoder": {"n_layers": 2, "positions": "t5"},
        "decoder": {"n_layers": 3, "positions": "t5", "block": {"kind": "parallel"}},
        "heads": {"lm": "lm", "my-own-name-of-a-head": {"kind": "classifier", "labels": ["a", "b"]}, "span": "span"},
    },
    "a norm each, positions of layers": {
        "embedding": {"kind": "factorized", "width": 8, "n_segments": 2},
        "encoder": {"n_layers": 4, "share": 2, "embedding_norm": "rms", "positions": "learned"},
        "decoder": {
            "positions": {"kind": "rotary-alibi", "scaling": {"kind": "yarn", "factor": 4, "original_length": 64}},
            "blocks": [
                {"kind": "parallel", "shared_norm": False, "attention": {"positions": "alibi"}},
                {"kind": "plain", "feedforward": "none"},
                {"kind": "post", "norm": "rms"},
                {"kind": "pre", "attention": "none", "cross_attention": "none"},
            ],
        },
        "heads": {},
    },
    "bare": {"decoder": {"n_layers": 1, "norm": "none", "block": {"attention": "none", "feedforward": "none"}}},
}


def config_of(source: Any) -> TransformerConfig:
    config = ModelConfig.load(source).stand_in()
    assert isinstance(config, TransformerConfig)
    return config


def elements(svg: str, name: str, style: str = "") -> list[ET.Element]:
    return [
        item for item in ET.fromstring(svg).iter(f"{SVG}{name}") if style in item.get("class", "").split() or not style
    ]


def area_of_text(item: ET.Element) -> Area:
    """Where the text is, by measured widths."""
    styles, size = item.get("class", "").split(), float(item.get("font-size", 0))
    width = text_width(item.text or "", size) * (1.06 if "bold" in styles else 1)
    x, y = float(item.get("x", 0)), float(item.get("y", 0))
    left = x - width / 2 if "middle" in styles else x
    return left, y - 0.75 * size, left + width, y + 0.22 * size


def area_of_rect(item: ET.Element) -> Area:
    x, y, w, h = (float(item.get(name, 0)) for name in ("x", "y", "width", "height"))
    return x, y, x + w, y + h


def segments(svg: str) -> Iterator[Area]:
    """The straight pieces of all lines."""
    for item in elements(svg, "path", "wire"):
        if "h10" in item.get("d", ""):  # the cross of a sum
            continue
        points = [tuple(map(float, pair.split())) for pair in re.findall(r"[ML]([-\d.]+ [-\d.]+)", item.get("d", ""))]
        for (x, y), (u, v) in pairwise(points):
            assert x == u or y == v, "a line that is neither upright nor level"
            yield min(x, u), min(y, v), max(x, u), max(y, v)


def meet(a: Area, b: Area, spare: float = 0.0) -> bool:
    return a[0] < b[2] - spare and b[0] < a[2] - spare and a[1] < b[3] - spare and b[1] < a[3] - spare


def inside(a: Area, b: Area) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


def check(svg: str) -> None:
    """All that must hold of every picture."""
    whole: Area = (0, 0, *map(float, ET.fromstring(svg).get("viewBox", "").split()[2:]))  # type: ignore[assignment]
    texts = [(item.text or "", area_of_text(item)) for item in elements(svg, "text")]
    boxes = [area_of_rect(item) for item in elements(svg, "rect", "box")]
    for index, (text, area) in enumerate(texts):
        assert inside(area, whole), f"{text!r} leaves the picture"
        assert all(not meet(area, other) for _, other in texts[:index]), f"{text!r} meets another text"
        around = [box for box in boxes if meet(area, box)]
        assert len(around) <= 1, f"{text!r} stands in two boxes"
        assert all(inside(area, box) for box in around), f"{text!r} leaves its box"
        assert not any(meet(area, line) for line in segments(svg)), f"{text!r} is crossed by a line"
    for index, box in enumerate(boxes):
        assert inside(box, whole)
        assert all(not meet(box, other) for other in boxes[:index]), "two boxes overlap"
        assert not any(meet(box, line, spare=0.5) for line in segments(svg)), "a line goes through a box"
    for group in map(area_of_rect, elements(svg, "rect", "group")):
        assert all(inside(box, group) or not meet(box, group) for box in boxes), "a box sticks out of its group"


def words(svg: str) -> str:
    return " | ".join((item.text or "").replace("\u00a0", " ") for item in elements(svg, "text"))


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    check(draw(config_of(name), name))


@pytest.mark.parametrize("name", CASES)
def test_shapes(name: str) -> None:
    svg = draw(config_of({**SIZES, "decoder": {}, **CASES[name]}), f"{name} " * 9, ["something was not given; " * 4])
    check(svg)
    assert "something was not given" in words(svg)


def test_every_registered_part_appears_with_its_kind() -> None:
    where = places(variants=False)
    seen = set()
    for declaration in one_by_one(where):
        try:
            config = config_of(declaration)
            svg = draw(config)
        except WeftError:
            continue
        check(svg)
        said = words(svg)
        for layer in config.stacks()["decoder" if config.decoder else "encoder"].layers():
            for part in (layer, layer.attention, layer.feedforward, *config.heads.values(), config.embedding):
                if part.kind != "none":
                    assert part.kind in said, f"{part.slot}: {part.kind} is not in the drawing"
                    seen.add((part.slot, part.kind))
    wanted = {
        (name, kind)
        for name in ("block", "attention", "feedforward", "head", "embedding")
        for kind in SLOTS[name].kinds
    }
    assert {item for item in wanted if item[1] != "none"} <= seen


def test_gpt2() -> None:
    svg = draw(config_of("gpt2"), "gpt2")
    said = words(svg)
    for text in (
        "124,439,808 parameters, 12 layers of width 768", "× 12", "12 × 7.1 M", "dot-product: 12 heads × 64",
        "gelu: 768 → 3,072 → 768", "learned: 1,024 × 768", "tied to the embedding", "tokens: 50,257 × 768", "38.6 M",
    ):  # fmt: skip
        assert text in said, text
    assert len(elements(svg, "circle", "sum")) == 3
    assert svg == draw(config_of("gpt2"), "gpt2")
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme: dark" in svg


def test_the_drawing_in_the_pages_is_this_one() -> None:
    kept = Path(__file__).parent.parent / "docs" / "gpt2.svg"
    assert kept.read_text(encoding="utf-8") == draw(config_of("gpt2"), "gpt2")


def test_cross_attention_reads_the_end_of_the_encoder() -> None:
    svg = draw(config_of("transformer-base"))
    boxes = [area_of_rect(item) for item in elements(svg, "rect", "box")]
    titles = {item.text: area_of_text(item) for item in elements(svg, "text", "bold")}
    (box,) = [box for box in boxes if meet(box, titles["cross-attention"])]
    arrows = [line for line in segments(svg) if line[2] == box[0] and line[1] == line[3]]
    assert len(arrows) == 1
    (start,) = [line for line in segments(svg) if line[0] == line[2] == arrows[0][0]]
    assert any(line[1] == line[3] == start[1] and line[2] == start[0] for line in segments(svg))
    assert "6 × 4.2 M" in words(svg)


def test_folding() -> None:
    a, b, c = (config_of({**SIZES, "decoder": {"block": {"kind": kind}}}).stacks()["decoder"].layers()[0]
               for kind in ("pre", "post", "plain"))  # fmt: skip
    assert list(fold([a] * 12)) == [(0, 12, 1)]
    assert list(fold([a, a, b] * 4)) == [(0, 3, 4)]
    assert list(fold([a, a, b] * 2 + [a, a])) == [(0, 3, 2), (6, 2, 1)]
    assert list(fold([a, b, c])) == [(0, 3, 1)]
    assert list(runs([a, a, b, a])) == [(0, 2), (2, 1), (3, 1)]


def test_a_part_of_ones_own_appears_with_its_kind_and_options() -> None:
    kinds = SLOTS["feedforward"].kinds
    try:

        class Narrow(FeedForward, kind="narrow"):
            """x W."""

            strength: float = 1.0

            def build(self, dims: Dims) -> Linear:
                return Linear(dims.d_model, dims.d_model, Normal(self.strength))

        block = {"feedforward": {"kind": "narrow", "strength": 2.0}}
        svg = draw(config_of({**SIZES, "decoder": {"n_layers": 3, "block": block}}))
        check(svg)
        assert "narrow: strength=2" in words(svg)
        assert "3 × 1,3" in words(svg)
    finally:
        kinds.pop("narrow", None)


def test_a_block_that_does_not_tell_how_it_is_wired() -> None:
    kinds = SLOTS["block"].kinds
    try:

        class Halved(BlockPart, kind="halved"):
            """x + f(norm(x)) / 2."""

            def build(self, dims: Dims, positions: Positions, norm: Norm) -> PreNormBlock:
                return PreNormBlock(self, dims, positions, norm)

        config = config_of({**SIZES, "decoder": {"n_layers": 3, "block": "halved"}})
        svg = draw(config)
        check(svg)
        assert "halved block" in words(svg)
        assert not elements(svg, "circle", "sum"), "a residual line that nobody spoke of"
        assert r"\paragraph{Block: halved (decoder)} tells no equation. x + f(norm(x)) / 2." in latex(config)
    finally:
        kinds.pop("halved", None)


def test_lines_are_broken_within_their_room() -> None:
    lines = wrapped("one and another and a-word-that-is-far-too-long-for-any-line-of-this-box", 120)
    assert all(text_width(line, 12.5) <= 120 for line in lines)
    assert lines[0] == "one and another"
    assert wrapped("", 100) == []


def test_command(tmp_path: Path) -> None:
    run = CliRunner()
    file = tmp_path / "deep" / "model.svg"
    told = run.invoke(main.app, ["describe", "ladder-5", "--svg", str(file), "--equations"])
    assert told.exit_code == 0, told.output
    assert "here 4,096" in words(file.read_text(encoding="utf-8"))
    assert told.stdout.startswith("% ladder-5: ")
    assert [item.name for item in file.parent.iterdir()] == ["model.svg"]


NOWHERE = pytest.param(["--svg", "/proc/x.svg"], marks=pytest.mark.skipif(sys.platform != "linux", reason="has /proc"))


@pytest.mark.parametrize(
    "more", [["--svg", "FOLDER"], ["--svg", "FILE/below.svg"], NOWHERE, ["--equations", "--json"]], ids=str
)
def test_command_refuses_in_one_line(
    more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("as it was", encoding="utf-8")
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["weft", "describe", "ladder-5", "vocab_size=10", *more])
    with pytest.raises(SystemExit) as ended:
        main.main()
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert sorted(item.name for item in tmp_path.rglob("*")) == ["FILE", "FOLDER"]
    assert (tmp_path / "FILE").read_text(encoding="utf-8") == "as it was"

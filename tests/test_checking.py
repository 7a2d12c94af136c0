"""`weft check` finds what is wrong with a part, tells the smallest model that shows it, and what to change."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
import tiny

from weft.checking import PROPERTIES
from weft.checking.advice import ADVICE, OF_SLOT
from weft.checking.cases import places
from weft.checking.part import Report, check_part
from weft.cli.check import lines, named
from weft.config import SLOTS, Part
from weft.config.plugins import load_plugins
from weft.errors import WeftError
from weft.models.config import ModelConfig

BEGINNING = (
    "import torch\nfrom weft.nn import *\nfrom weft.nn.masks import Mask\nfrom weft.nn.patterns import MaskPart\n"
)


def slots() -> list[type[Part]]:
    """The slots of a model."""
    return sorted({place.base for place in places().values()} - {ModelConfig}, key=lambda base: base.slot)


LAYER = """
class {name}(FeedForward, kind="mine"):
    \"\"\"A feed-forward layer.\"\"\"
    strength: float = 1.0
    def build(self, dims): return Layer(dims, self.strength)

class Layer(Module):
    def __init__(self, dims, strength):
        super().__init__()
        self.strength = strength
        self.up = Linear(dims.d_model, dims.d_model, Normal(0.5))
        {init}
    def forward(self, x_BTD):
        {forward}
"""


pytestmark = pytest.mark.usefixtures("own_parts")


def layer(forward: str, init: str = "pass") -> str:
    return LAYER.format(name="Mine", forward=forward, init=init)


def report_on(text: str, folder: Path) -> Report:
    """What a quick check says of the one part that this code registers."""
    file = folder / "mine.py"
    file.write_text(BEGINNING + dedent(text), encoding="utf-8")
    load_plugins([file])
    (part,) = named(str(file))
    return check_part(part, "quick")


FAULTS = {
    "a mean over the text": (
        layer("return self.up(x_BTD - x_BTD.mean(1, keepdim=True)) * self.strength"),
        "causal", "token 1 changes what is said at 0", "one position at a time",
    ),
    "a norm over the batch": (
        layer("return self.up(x_BTD - x_BTD.mean(0, keepdim=True)) * self.strength"),
        "rows_alone", "of the largest value", "axis 0",
    ),
    "a table of positions that forgets the cache": (
        """
        class Mine(Positions, kind="mine"):
            def build(self, dims): return Scheme(dims)

        class Scheme(PositionScheme):
            def __init__(self, dims):
                super().__init__()
                self.table = Embedding(999, dims.d_model, Normal(0.5))
            def embed(self, x_BTD, positions_BT):
                return x_BTD + self.table(torch.arange(x_BTD.shape[1]))
        """,
        "padded", "of the largest value", "never from torch.arange(T)",
    ),
    "a mask that shows more than it was given": (
        """
        class Mine(MaskPart, kind="mine"):
            def build(self, dims, order): return Everyone()

        class Everyone(Mask):
            def allow(self, q, k): return (q.index - k.index).abs() < 3
            def sees(self, q, k): return (q.index - k.index).abs() < 3
        """,
        "causal", "token 1 changes what is said at 0", "order & Mine",
    ),
    "a gradient that is cut": (
        layer("return (self.up(x_BTD).detach() + self.up(x_BTD)) * self.strength"),
        "right_gradients", "finite differences", "detach()",
    ),
    "a matrix by hand that nobody declared": (
        layer("return self.up(x_BTD) @ self.hand * self.strength",
              "self.hand = torch.nn.Parameter(torch.randn(dims.d_model, dims.d_model))"),
        "starts_alike", "hand", "self.parameter(",
    ),
    "a parameter that idles": (
        layer("return self.up(x_BTD) * self.strength", "self.idle = Linear(2, 2, Normal(0.5))"),
        "every_parameter_learns", "feedforward.idle.weight", "use it",
    ),
    "products that are not declared": (
        layer("return self.up(x_BTD) @ torch.ones(16, 16).to(x_BTD) * self.strength"),
        "costs_as_declared", "FLOPs a token are counted", "cost(length)",
    ),
    "an option without a meaning": (
        layer("return self.up(x_BTD)"), "options_alive", "strength", "build()",
    ),
    "sums in bf16": (
        layer("y = self.up(x_BTD)\n        return (y + 300.0 - 300.0).to(y) * self.strength"),
        "bf16_rounds_only", "in bf16", "float32",
    ),
    "a slip": (
        layer("return self.upp(x_BTD) * self.strength"),
        "builds", "AttributeError: 'Layer' object has no attribute 'upp'", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_part_is_diagnosed(fault: str, tmp_path: Path) -> None:
    text, name, seen, change = FAULTS[fault]
    report = report_on(text, tmp_path)
    first = next(finding for finding in report.findings if finding.failed)
    assert first.name == name, lines(report)
    assert seen in first.message
    assert change in first.advice
    if name != "options_alive":
        kept = [(path, value) for path, value in first.example if path != "stacks"]
        assert [value for _, value in kept] == ["mine"], "the smallest model is the default one with the part"
    if name == "builds":
        assert "(mine.py:" in first.message
        assert all(finding.rests_on == "builds" for finding in report.findings[1:])
    assert not report.holds


def test_a_sound_part_holds(tmp_path: Path) -> None:
    report = report_on(layer("return self.up(x_BTD).sin() * self.strength"), tmp_path)
    assert report.holds, lines(report)
    assert [finding.name for finding in report.findings] == ["builds", *PROPERTIES, "options_alive"]
    assert lines(report)[-1] == "everything holds"


def test_every_property_comes_with_advice() -> None:
    assert set(ADVICE) == {"builds", *PROPERTIES, "options_alive", "compiles"} - {"as_the_formulas_say"}
    assert all(name in ADVICE and slot in SLOTS for name, slot in OF_SLOT)
    for finding in PROPERTIES.values():
        assert set(finding.rests_on) <= set(PROPERTIES)
        assert finding.says.endswith("."), finding.name


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_command(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As JSON; without --quick in company, and compiled."""
    file = tmp_path / "mine.py"
    file.write_text(BEGINNING + layer("return self.up(x_BTD.relu()) * self.strength"), encoding="utf-8")
    monkeypatch.setattr("weft.checking.part.ROUNDS", 1)
    code, out, _ = tiny.command("check", file, "--json", *["--quick"] * quick, patch=monkeypatch, capture=capsys)
    (found,) = json.loads(out)
    assert code == 0, found
    assert (found["slot"], found["kind"], found["holds"]) == ("feedforward", "mine", True)
    if quick:
        return
    assert found["models"] > 8
    assert found["findings"][-1]["name"] == "compiles"
    assert any("t5 learns one bias" in reason for reason in found["refused"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no part called 'nothing'"),
        ("none", "none: several slots have it: "),
        ("positions:rotery", "no positions called 'rotery'; did you mean 'rotary'?"),
        ("adamw", "optimizer: adamw is no part of a model"),
        ("empty.py", "empty.py: it registers no part"),
        ("missing.py", "plugins: missing.py: No such file or directory"),
    ],
)
def test_what_cannot_be_checked_is_said(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.py").write_text("", encoding="utf-8")
    code, _, err = tiny.command("check", name, patch=monkeypatch, capture=capsys)
    assert code == 2
    assert message in err


def test_an_option_that_nobody_can_guess_asks_for_values(tmp_path: Path) -> None:
    text = layer("return self.up(x_BTD) * self.strength").replace(
        "strength: float = 1.0", "strength: float = 1.0\n    names: dict[str, str] = {}"
    )
    with pytest.raises(WeftError, match=r"Mine\.names: .* trials = \{'names': \(first, second\)\}"):
        report_on(text, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part",
    [part for base in slots() for part in base.kinds.values()],
    ids=lambda part: f"{part.slot}-{part.kind}",
)
def test_weft_s_own_parts_hold(part: type[Part]) -> None:
    report = check_part(part, "quick")
    assert report.holds, "\n".join(lines(report))


def test_the_page_tells_every_property() -> None:
    page = (Path(__file__).parent.parent / "docs" / "own-part.md").read_text(encoding="utf-8")
    for held in PROPERTIES.values():
        if held.name != "as_the_formulas_say":  # which is asked by tests alone
            assert f"| {held.name} | {held.says.removesuffix('.')} |" in page

"""The equations of a model: every part has its own, they are sound LaTeX, and they say what the declaration says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from weft.checking.small import LABELS, SIZES, stir
from weft.checking.values import levels_of, required_of
from weft.config import SLOTS
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig, TransformerConfig, presets
from weft.models.equations import latex
from weft.nn import BlockPart, Dims, Everything, FeedForward, Linear, MaskPart, Normal, Rms
from weft.nn.part import ModelPart, escape, tex

DIMS = Dims(16, 24, 11, n_layers=2, heads=frozenset({4}))
MODEL_PARTS = {name: base for name, base in SLOTS.items() if issubclass(base, ModelPart)}
LEVELS = [
    pytest.param(base.choose(level), id=f"{name}-{index}-{level['kind']}")
    for name, base in MODEL_PARTS.items()
    for index, level in enumerate(levels_of(base))
]


def check(lines: Iterator[str] | tuple[str, ...] | list[str]) -> None:
    """Whether the lines of an `align*` are balanced, each with one mark to align at outside of what is inside it."""
    for line in lines:
        assert re.sub(r"\\begin\{(\w+)\}.*?\\end\{\1\}", "", line).count("&") == 1, line
        sound(line)


def sound(text: str) -> None:
    r"""Whether braces, \left and \right, environments and parentheses close in the order in which they open."""
    closes = {"}": "{", ")": "(", "]": "[", r"\rfloor": r"\lfloor", r"\rceil": r"\lceil", r"\right": r"\left"}
    opened: list[str] = []
    delimited = r"\\(?:left|right)(?![a-z])\s*(?:\\[a-z]+|\\?.)"
    for token in re.findall(delimited + r"|\\(?:begin|end)\{[\w*]+\}|\\[lr](?:floor|ceil)|\\[\\{}]|[{}()\[\]]", text):
        name, _, environment = token.removesuffix("}").partition("{")
        if name in (r"\begin", r"\end"):
            token = "{" + environment if name == r"\begin" else "}" + environment
            closes["}" + environment] = "{" + environment
        for word in (r"\left", r"\right"):
            token = word if token.startswith(word) else token
        if token in closes.values():
            opened.append(token)
        elif token in closes:
            assert opened, text
            assert opened.pop() == closes[token], text
    assert not opened, text
    assert text.isascii(), text


@pytest.mark.parametrize("part", LEVELS)
def test_every_kind_has_equations_for_every_option(part: ModelPart) -> None:
    if part.kind == "none":
        return
    for causal in (True, False):
        dims = replace(DIMS, causal=causal, across=causal)
        if hasattr(part, "labels") and not part.labels:
            part = part.bind(LABELS)
        if isinstance(part, MaskPart) and not causal and refused(part, dims):
            continue
        lines = part.equations(dims)
        assert lines, f"{part.slot}: {part.kind} tells no equation"
        check(lines)


def refused(part: MaskPart, dims: Dims) -> bool:
    """Whether an encoder refuses this pattern."""
    try:
        part.build(dims, Everything())
    except WeftError:
        return True
    return False


def test_the_slots_of_a_model_are_those_of_nn() -> None:
    of_models = {name for name, base in SLOTS.items() if base.__module__.startswith("weft.nn")}
    assert MODEL_PARTS.keys() == of_models


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    config = ModelConfig.load(name).stand_in()
    assert isinstance(config, TransformerConfig)
    text = latex(config, name)
    sound(re.sub(r"(?m)^%.*\n", "", text))
    assert "tells no equation" not in text
    aligned = re.findall(r"\\begin\{align\*\}\n(.*?)\n\\end\{align\*\}", text, re.DOTALL)
    assert len(aligned) == text.count(r"\paragraph{")
    for block in aligned:
        check(re.split(r" \\\\\n", block))
    assert len(set(aligned)) == len(aligned), "something is said twice"


def test_every_option_that_shapes_the_function_shows() -> None:
    """Values stand in the equations: each option but those of training changes something."""
    training = {"dropout", "tied"}  # what is tied, a head tells
    for name, base in MODEL_PARTS.items():
        for level in levels_of(base):
            changed = [key for key in level if key != "kind" and key not in training]
            plain: dict[str, Any] = {"kind": level["kind"], **required_of(base.kinds[level["kind"]])}
            if changed and level != plain:
                told = [base.choose(one) for one in (level, plain)]
                told = [part.bind(LABELS) if hasattr(part, "labels") else part for part in told]
                first, second = (part.equations(DIMS) for part in told)
                assert first != second, f"{name}: {level} tells the same as {plain}"


def test_gpt2_says_what_gpt2_is() -> None:
    config = ModelConfig.load("gpt2")
    assert isinstance(config, TransformerConfig)
    text = latex(config, "gpt2")
    for said in (
        "% gpt2: 124,439,808 parameters",
        r"x_i &= E_{t_i}, \quad E \in \mathbb{R}^{50{,}257 \times 768}",
        r"x_i &\leftarrow x_i + P_{i}, \quad P \in \mathbb{R}^{1{,}024 \times 768}",
        r"a^{(\ell)} &= \operatorname{Attention}(\operatorname{LayerNorm}(x^{(\ell-1)}))",
        r"f^{(\ell)} &= \operatorname{FeedForward}(\operatorname{LayerNorm}(x^{(\ell-1)} + a^{(\ell)}))",
        r"x^{(12)} &= x^{(0)} + \sum_{\ell=1}^{12} \left(a^{(\ell)} + f^{(\ell)}\right)",
        r"\sqrt{\sigma^2 + 10^{-5}}",
        r"\frac{q_{hi} \cdot k_{hj}}{\sqrt{64}}",
        r"M_i &= \left\{ j : j \le i \right\}",
        "H &= 12, \\quad K = 64",
        "0.044715",
        r"\operatorname{logits}_i &= x_i E^\top",
    ):
        assert said in text, said
    assert text == latex(config, "gpt2")


def test_a_pattern_tells_its_layers_and_an_encoder_decoder_what_is_read() -> None:
    config = ModelConfig.load(
        {
            **SIZES,
            "encoder": {"n_layers": 1, "block": "post"},
            "decoder": {"n_layers": 5, "pattern": [{"attention": {"mask": {"kind": "window", "size": 3}}}, {}]},
        }
    )
    assert isinstance(config, TransformerConfig)
    text = latex(config)
    assert "(decoder, layers 1,3,5)" in text
    assert "(decoder, layers 2,4)" in text
    assert r"M_i &= \left\{ j : |i - j| < 3 \land j \le i \right\}" in text
    assert r"y_i &= x^{(1)}_i" in text
    assert r"k_{hj} = y_j W^K_{h}" in text


def test_a_part_that_tells_nothing_is_named() -> None:
    kinds = SLOTS["feedforward"].kinds
    try:

        class Silent(FeedForward, kind="silent-100%"):
            """Half of x & nothing more."""

            def build(self, dims: Dims) -> Linear:
                return Linear(dims.d_model, dims.d_model, Normal(0.02))

        config = ModelConfig.load({**SIZES, "decoder": {"n_layers": 1, "block": {"feedforward": "silent-100%"}}})
        assert isinstance(config, TransformerConfig)
        text = latex(config)
        assert r"\paragraph{Feedforward: silent-100\% (decoder)} tells no equation. Half of x \& nothing more." in text
        sound(re.sub(r"(?m)^%.*\n", "", text))
    finally:
        kinds.pop("silent-100%", None)


@pytest.mark.parametrize("kind", sorted(kind for kind in SLOTS["block"].kinds))
@pytest.mark.parametrize("shared", [True, False])
def test_the_wiring_of_a_block_is_its_arithmetic(kind: str, shared: bool) -> None:
    """What drawings and equations say of norms and residuals gives the block's output, in float64."""
    options = {"kind": kind, **({"shared_norm": shared} if kind == "parallel" else {})}
    model = build({**SIZES, "decoder": {"n_layers": 1, "norm": "rms", "block": options}}).double().eval()
    stir(model)
    assert model.decoder is not None
    block, (layer,) = model.decoder.blocks[0], model.config.stacks()["decoder"].layers()
    assert isinstance(layer, BlockPart)
    wiring = layer.wiring()
    assert wiring is not None
    seen: dict[str, torch.Tensor] = {}
    model.decoder.blocks[0].register_forward_pre_hook(lambda _, given: seen.update(x=given[0], context=given[1]))
    model.decoder.blocks[0].register_forward_hook(lambda _, __, given: seen.update(out=given[0]))
    model(torch.arange(6)[None])
    x, total = seen["x"], seen["x"]
    for name, f in {
        "attention": lambda h: block.attention(h, seen["context"]),
        "feedforward": block.feedforward,
    }.items():
        around = getattr(block, f"{name}_norm")
        before, after = around.children() if isinstance(around, torch.nn.ModuleDict) else (around, around)
        h = block.norm(x) if wiring.shared else before(x) if wiring.before else x
        out = after(f(h)) if wiring.after else f(h)
        total = total + out if wiring.residual else out
        total = around(total) if wiring.outside else total
        x = x if wiring.parallel else total
    torch.testing.assert_close(seen["out"], total, rtol=1e-12, atol=1e-12)


def test_numbers_and_names() -> None:
    assert [tex(value) for value in (50257, 1e-5, 3e-4, 0.1, 1e6, 1.5)] == [
        "50{,}257", "10^{-5}", r"3 \cdot 10^{-4}", "0.1", "1{,}000{,}000", "1.5",
    ]  # fmt: skip
    assert escape("a_b 100% {x}") == r"a\_b 100\% \{x\}"
    assert Rms(epsilon=1e-6).equations(DIMS) != Rms(epsilon=1e-5).equations(DIMS)

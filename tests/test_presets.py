"""Published models as short declarations: they have the numbers of parameters that are published."""

from __future__ import annotations

from importlib import resources

import pytest

from weft.models.build import blank
from weft.models.config import ModelConfig, presets
from weft.models.cost import parameter_count
from weft.models.transformer import Transformer

PUBLISHED = {
    "gpt": 116_534_784,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3": 174_604_259_328,
    "bert-base": 109_514_298,
    "bert-large": 335_174_458,
    "roberta-base": 124_697_433,
    "albert-base": 11_221_680,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "bart-base": 139_420_416,
    "llama-3-8b": 8_030_261_248,
}
"""Of the checkpoints that are published under these names, with the heads that the presets have; of GPT-3, which is
not, what its table 2.1 gives."""


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_published_counts(name: str, count: int) -> None:
    assert parameter_count(blank(ModelConfig.load(name))) == count


def test_the_big_model_with_the_vocabulary_of_the_base_one() -> None:
    assert parameter_count(blank(ModelConfig.load("transformer-big").bind(37_000))) == 214_245_376


@pytest.mark.parametrize(("name", "count"), PUBLISHED.items())
def test_a_preset_tells_its_count(name: str, count: int) -> None:
    text = (resources.files("weft.models") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"{count:,} parameters" in text.partition("\n")[0]


def test_the_ladder_climbs_one_step_at_a_time() -> None:
    """Each has what the one before has, and more; the last is a small GPT-2."""
    steps = [blank(ModelConfig.load(f"ladder-{step}").bind(512)) for step in range(1, 6)]
    one, two, three, four, five = steps
    assert all(isinstance(step, Transformer) and step.decoder is not None for step in steps)
    assert [len(step.decoder.blocks) for step in steps] == [1, 1, 1, 4, 4]
    assert one.decoder.blocks[0].attention is None
    assert two.decoder.blocks[0].attention is None
    assert [step.decoder.blocks[0].attention.n_heads for step in (three, four, five)] == [1, 1, 4]
    assert one.heads["lm"].projection.weight is not one.embedding.tokens.weight
    assert two.heads["lm"].projection.weight is two.embedding.tokens.weight
    assert (one.limit(), two.limit()) == (None, 128)
    small = ["d_model=128", "max_length=128", "dropout=0", "decoder.n_layers=4", "decoder.block.attention.n_heads=4",
             "decoder.block.feedforward.width=null"]  # fmt: skip
    assert ModelConfig.load("ladder-5").dump() == ModelConfig.load("gpt2", *small, "vocab_size=null").dump()


def test_every_bundled_model_is_one_of_these() -> None:
    others = {"transformer-base", "transformer-big", "llama-tiny", "encoder-tiny", "translator-tiny"}
    assert set(presets()) == {*PUBLISHED, *others, *(f"ladder-{step}" for step in range(1, 6))}

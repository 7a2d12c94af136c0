"""ModelConfig: which parts, how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from torch import nn

from weft.config import Override, Part, Place, Section, Slot, expand, load, merge, unknown_name
from weft.config import yaml as weft_yaml
from weft.config.bundled import Shelf
from weft.errors import WeftError
from weft.nn import (
    BlockPart,
    Dims,
    Embeddings,
    Head,
    Layer,
    Lm,
    NoAttention,
    NoNorm,
    NoPositions,
    Norm,
    Positions,
    Pre,
    Tokens,
)

PRESETS = Shelf("weft.models", "presets")


def presets() -> dict[str, str]:
    """The bundled models: name and first comment line."""
    return PRESETS.listed()


def preset(name: str) -> dict[str, Any]:
    """The declaration of a bundled model.

    Raises WeftError when there is none of that name.
    """
    if name not in PRESETS.names():
        raise WeftError(unknown_name("preset", name, presets()))
    return PRESETS.read(name)


class StackConfig(Section):
    """Blocks over one another, and what they share."""

    trials = {
        "pattern": ([{"attention": "none"}, {}],),
        "blocks": ([{"kind": "post"}, {"kind": "pre", "attention": "none"}],),
        "share": ("all",),
    }

    n_layers: PositiveInt | None = None
    """number of blocks"""
    positions: Slot[Positions] = NoPositions()
    """where order enters; a layer's attention may have its own"""
    embedding_norm: Slot[Norm] = NoNorm()
    """of what enters the first block, positions added (Devlin et al. 2019; Le Scao et al. 2022, BLOOM, section 3.2)"""
    norm: Slot[Norm] = Layer()
    """the norm of every block, and of the stack's end"""
    block: Slot[BlockPart] = Pre()
    """what every layer is"""
    pattern: tuple[dict[str, Any], ...] = ()
    """overrides of `block`, layer by layer, cycled"""
    blocks: tuple[Slot[BlockPart], ...] = ()
    """every layer by itself, instead of n_layers, block and pattern"""
    share: Literal["all"] | PositiveInt | None = None
    """layers that share their weights: all of them (Lan et al. 2020, ALBERT, section 3.1), or the number of groups of
    neighbours that share theirs; none unless given"""

    @field_validator("share", mode="wrap")
    @classmethod
    def _all_or_a_number(cls, value: Any, check: ValidatorFunctionWrapHandler) -> Any:
        try:
            if not isinstance(value, bool):
                return check(value)
        except ValidationError:
            pass
        raise ValueError("should be `all` or a number of groups of layers")

    @model_validator(mode="after")
    def _check_layers(self) -> StackConfig:
        if self.blocks and self.pattern:
            raise ValueError("blocks lists every layer already; pattern belongs to n_layers and block")
        if self.blocks and self.n_layers not in (None, len(self.blocks)):
            raise ValueError(f"n_layers = {self.n_layers}, but blocks lists {len(self.blocks)}")
        layers = self.layers()
        if isinstance(self.share, int) and self.share > len(layers):
            raise ValueError(f"share = {self.share} groups, but there are {len(layers)} layers")
        if any(layer != layers[first] for layer, first in zip(layers, self.sharing(), strict=True)):
            raise ValueError("share: layers that share their weights are alike; pattern and blocks make these differ")
        return self

    def sharing(self) -> list[int]:
        """For each layer the first one that has the same weights: itself, where they are its own."""
        n_layers = len(self.layers())
        groups = 1 if self.share == "all" else self.share or n_layers
        of = [index * groups // n_layers for index in range(n_layers)]
        return [of.index(group) for group in of]

    def layers(self) -> list[BlockPart]:
        """Each layer's declaration, the short forms written out."""
        if self.blocks:
            return list(self.blocks)
        place = Place(section=BlockPart, leaf=False)
        kinds = [BlockPart.choose(merge(place, self.block.dump(), override)) for override in self.pattern or ({},)]
        return [kinds[index % len(kinds)] for index in range(self.n_layers or len(kinds))]


class ModelConfig(Part, slot="model", default="transformer"):
    """Which parts, how large: becomes a module, its parameter count, FLOPs and cache bytes."""

    extra_options: ClassVar[dict[str, Any]] = {"preset": {"type": "string", "description": "a bundled model to change"}}

    max_length: PositiveInt = 256
    """positions T that the model is trained for"""
    vocab_size: PositiveInt | None = None
    """number of tokens V; the tokenizer's, filled in from the data"""
    heads: dict[str, Slot[Head]] = {"lm": Lm()}
    """what is read from the last vectors, by name"""

    @classmethod
    def load(cls, source: ModelConfig | dict[str, Any] | str | Path, *overrides: str | Override) -> ModelConfig:
        """From a preset's name, a YAML file, or a mapping; then the overrides.

        Raises WeftError (ConfigError with every problem) when that is no model.
        """
        if isinstance(source, ModelConfig):
            source = source.dump()
        elif isinstance(source, Path) or (isinstance(source, str) and source.endswith((".yaml", ".yml"))):
            source = weft_yaml.read(Path(source))
        return load(cls, source, overrides)

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """A preset's name, or `{preset: NAME, ...changes}`, as the preset's declaration with the changes."""
        if isinstance(raw, str) and raw not in cls.kinds:
            raw = {"preset": raw}
        if isinstance(raw, dict) and isinstance(raw.get("preset"), str):
            changes = {key: value for key, value in raw.items() if key != "preset"}
            place = Place(section=cls, leaf=False)
            return merge(place, expand(place, preset(raw["preset"])), changes)
        return super().expand_short(raw)

    @classmethod
    def short_schema(cls) -> dict[str, Any]:
        """Kinds and presets, for editors."""
        return {"enum": [*sorted(cls.kinds), *PRESETS.names()]}

    def bind(self, vocab_size: int, labels: Sequence[str] = ()) -> ModelConfig:
        """The same with the tokenizer's vocabulary and the data's labels.

        Raises WeftError when the declaration says a size or labels that do not hold them.
        """
        if self.vocab_size is not None and self.vocab_size < vocab_size:
            raise WeftError(
                f"model.vocab_size = {self.vocab_size} is less than the tokenizer's {vocab_size} tokens;"
                " leave it out, and it is filled in"
            )
        heads = {name: head.bind(tuple(labels)) for name, head in self.heads.items()}
        return self.model_copy(update={"vocab_size": self.vocab_size or vocab_size, "heads": heads})

    def stand_in(self, vocab_size: int = 256) -> ModelConfig:
        """The same with something in place of what only data can tell, to see the shapes before there are data."""
        heads = {name: head.stand_in() for name, head in self.heads.items()}
        return self.model_copy(update={"vocab_size": self.vocab_size or vocab_size, "heads": heads})

    def with_heads(self, heads: Mapping[str, Head]) -> ModelConfig:
        """The same with heads that it may lack."""
        return self.model_copy(update={"heads": {**heads, **self.heads}})

    def build(self) -> nn.Module:
        """The model, on the current default device; `weft.build` gives it its starting values too."""
        raise NotImplementedError


class TransformerConfig(ModelConfig, kind="transformer"):
    """A transformer: an embedding, an encoder or a decoder or both, heads. With neither: a decoder of 4 layers."""

    trials = {
        "heads": ({"lm": {"kind": "lm", "bias": True}},),
        "encoder": ({"n_layers": 3},),
        "decoder": ({"n_layers": 3},),
    }

    d_model: PositiveInt = 256
    """width D of the residual stream"""
    dropout: float = Field(0.0, ge=0, lt=1)
    """share of the embedding and of every residual branch that is dropped in training"""
    init_std: PositiveFloat = 0.02
    """standard deviation of weights at the start"""
    init_residual: NonNegativeFloat | None = None
    """that of the last matrix of every residual branch; init_std / sqrt(branches) unless given; 0: a block begins by
    handing on what comes in (Goyal et al. 2017, section 5.1)"""
    embedding: Slot[Embeddings] = Tokens()
    """where a sequence enters"""
    decoder: StackConfig | None = None
    """a stack in which a position sees itself and what came before"""
    encoder: StackConfig | None = None
    """a stack in which a position sees all of its text; with a decoder, what that one's cross-attention reads"""

    @model_validator(mode="before")
    @classmethod
    def _a_decoder_unless_given(cls, raw: Any) -> Any:
        given = isinstance(raw, Mapping) and (raw.get("encoder") is not None or raw.get("decoder") is not None)
        return raw if given or not isinstance(raw, Mapping) else {**raw, "decoder": {"n_layers": 4}}

    @model_validator(mode="after")
    def _check_sources(self) -> TransformerConfig:
        both = self.encoder is not None and self.decoder is not None
        for name, stack in self.stacks().items():
            if both and name == "decoder":
                if all(layer.reading() == NoAttention() for layer in stack.layers()):
                    raise ValueError("decoder: no block has cross_attention, so that nothing reads the encoder")
            elif any(layer.cross_attention not in (None, NoAttention()) for layer in stack.layers()):
                raise ValueError(
                    f"{name}.block.cross_attention: there is nothing to read; only the decoder of a model with an"
                    " `encoder:` and a `decoder:` has a source"
                )
        return self

    def stacks(self) -> dict[str, StackConfig]:
        """The stacks that there are, by name."""
        named = {"encoder": self.encoder, "decoder": self.decoder}
        return {name: stack for name, stack in named.items() if stack is not None}

    def dims(self, stack: str | None = None) -> Dims:
        """What the parts (of that stack) may know of their surroundings.

        Raises WeftError when the vocabulary's size is not known yet.
        """
        if self.vocab_size is None:
            raise WeftError("model.vocab_size is not known: it comes from the data's tokenizer, or give it")
        dims = Dims(self.d_model, self.max_length, self.vocab_size, init_std=self.init_std, dropout=self.dropout)
        if stack is None:
            return dims
        n_layers, across = len(self.stacks()[stack].layers()), stack == "decoder" and self.encoder is not None
        causal, residual = stack == "decoder", self.init_residual
        return replace(dims, n_layers=n_layers, causal=causal, across=across, init_residual=residual)

    def build(self) -> nn.Module:
        """The module, on the current default device, without starting values."""
        from weft.models.transformer import Transformer

        return Transformer(self)

"""A model before it runs: its tree with shapes, counts and costs, what was derived, and the memory that it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from textwrap import wrap
from typing import Any

from torch import nn

from weft.config import Part, Section
from weft.errors import WeftError
from weft.models.build import blank
from weft.models.config import ModelConfig, StackConfig, TransformerConfig
from weft.models.cost import (
    GenerationMemory,
    Precision,
    TrainingMemory,
    UnknownMemoryError,
    attentions_with_dropout,
    by_section,
    by_slot,
    cache_bytes,
    costs,
    generation_memory,
    training_memory,
)
from weft.models.transformer import Transformer
from weft.nn import BlockPart, Cost, Dims
from weft.report.terminal import count, percent, size, table

_PART = 26
"""Columns for a part's kind and options; more of them go on below."""


@dataclass(frozen=True)
class Row:
    """One module of the tree, or several that are alike, with all that lies below it."""

    path: str
    """module path, alike ones as `decoder.blocks.0-11`"""
    label: str
    """the path below the row above"""
    depth: int
    copies: int
    """how many modules the row stands for"""
    part: str
    """the declared part: its kind, and the options that are not its defaults"""
    shape: str
    cost: Cost
    """of all of them together"""


@dataclass(frozen=True)
class Memory:
    """What training and generating take, in bytes."""

    training: TrainingMemory
    generation: GenerationMemory
    undropped: TrainingMemory | None
    """training without dropout in attention, where there is any"""


@dataclass(frozen=True)
class Description:
    """What `weft describe` tells; costs are for one token in a text of `length` tokens."""

    name: str
    config: TransformerConfig
    batch: int
    length: int
    precision: Precision
    rows: list[Row]
    sections: dict[str, Cost]
    slots: dict[str, Cost]
    derived: list[str]
    memory: Memory | None
    """None where a part looks at values, so that only a run can tell"""

    @property
    def cost(self) -> Cost:
        """The whole model's."""
        return sum(self.sections.values(), start=Cost())

    def lines(self) -> list[str]:
        """For a terminal, at most 100 columns: the totals first, then the tree, where the cost lies, the memory."""
        return [*self._summary(), "", *self._tree(), *self._said(), "", *self._shares(), "", *self._memory()]

    def data(self) -> dict[str, Any]:
        """For `--json`; memory in bytes."""
        return {
            "name": self.name,
            "model": self.config.dump(),
            "parameters": self.cost.parameters,
            "length": self.length,
            "flops_per_token": {"forward": self.cost.flops, "training": 3 * self.cost.flops},
            "cache_bytes_per_token": cache_bytes(self.cost, self.precision),
            "sections": {name: asdict(cost) for name, cost in self.sections.items()},
            "slots": {name: asdict(cost) for name, cost in self.slots.items()},
            "modules": [asdict(row) for row in self.rows],
            "derived": self.derived,
            "batch": self.batch,
            "precision": self.precision,
            "memory": asdict(self.memory) if self.memory else None,
        }

    def _summary(self) -> list[str]:
        config, cost = self.config, self.cost
        layers = [len(stack.layers()) for stack in config.stacks().values()]
        deep = " + ".join(map(str, layers))
        one = f"a token in a text of {self.length:,}"
        told = one if len(layers) == 1 else f"a pair of tokens in texts of {self.length:,}"
        kept = f", {size(cache_bytes(cost, self.precision))} of cache" if config.decoder is not None else ""
        lines = [
            f"{self.name}: {cost.parameters:,} parameters, {deep} layer{'' if deep == '1' else 's'}"
            f" of width {config.d_model:,}, vocabulary of {config.vocab_size:,}",
            f"{told}: {count(cost.flops)} FLOPs forward, {count(3 * cost.flops)} in training{kept}",
        ]
        if self.memory is not None:
            texts = f"({self.length:,} + {self.length:,})" if len(layers) > 1 else f"{self.length:,}"
            lines.append(
                f"{self.batch:,} x {texts} tokens in {self.precision}: training takes"
                f" {size(self.memory.training.peak)} of memory, {self._use} {size(self.memory.generation.peak)}"
            )
        return lines

    @property
    def _use(self) -> str:
        """What the model does once it is trained."""
        return "generating" if self.config.decoder is not None else "reading"

    def _tree(self) -> list[str]:
        rows = []
        for row in self.rows:
            label = "  " * row.depth + row.label
            cache = cache_bytes(row.cost, self.precision)
            flops = count(row.cost.flops) if row.cost.flops else None
            first, *more = wrap(row.part, _PART) or [""]
            rows.append((label, first, row.shape, row.cost.parameters or None, flops, size(cache) if cache else None))
            rows += [("", text, "", None, None, None) for text in more]
        return table(("module", "part", "shape", "parameters", "FLOPs", "cache"), rows).splitlines()

    def _said(self) -> list[str]:
        lines = [line for text in self.derived for line in wrap(text, 100, subsequent_indent="  ")]
        return ["", *lines] if lines else []

    def _shares(self) -> list[str]:
        def share(value: int, whole: int) -> str | None:
            return percent(value / whole) if value else None

        whole = self.cost
        slots = sorted(self.slots.items(), key=lambda item: -item[1].flops - item[1].parameters)
        rows = [
            (name, cost.parameters or None, share(cost.parameters, whole.parameters),
             count(cost.flops) if cost.flops else None, share(cost.flops, whole.flops))
            for name, cost in slots
        ]  # fmt: skip
        return table(("where", "parameters", "share", "FLOPs", "share"), rows).splitlines()

    def _memory(self) -> list[str]:
        if self.memory is None:
            return ["memory: a part looks at values, so that only a run can tell"]
        training, generation, undropped = self.memory.training, self.memory.generation, self.memory.undropped
        rows = [
            ("parameters, fp32", size(training.parameters), size(generation.parameters)),
            ("gradients", size(training.gradients), None),
            ("AdamW's two averages", size(training.optimizer), None),
            (f"kept for backward, {self.batch:,} x {self.length:,}", size(training.activations), None),
            ("the loss, a chunk of logits at a time", size(training.head), None),
            *([(f"cache, {self.batch:,} x {self.length:,}", None, size(generation.cache))] if generation.cache else []),
            ("most at once", size(training.peak), size(generation.peak)),
        ]
        said = ["these are tensors on a CPU; a process takes up to 30 % more: its allocator keeps what was freed"]
        if undropped is not None:
            said.append(
                f"dropout in attention keeps every head's {self.length:,} x {self.length:,} weights for backward;"
            )
            paths = " and ".join(f"{name}.block.attention.dropout=0" for name in self.config.stacks())
            said.append(f"with {paths} training takes {size(undropped.peak)}")
        return [*table(("memory", "training", self._use), rows).splitlines(), *said]


def describe(
    config: ModelConfig,
    batch: int = 8,
    length: int | None = None,
    *,
    name: str = "model",
    vocab_size: int = 4096,
    precision: Precision = "fp32",
) -> Description:
    """What a model is and takes at `batch` texts of `length` tokens (its max_length unless given), before it is made.

    `vocab_size` stands in where the declaration leaves it to the tokenizer. Raises WeftError when parts do not fit
    together, or the positions cannot number `length` tokens.
    """
    config, said = known(config, vocab_size)
    if len(config.stacks()) > 1:
        said.append("costs are those of one source token and one target token together, in texts of the same length")
    length = length or config.max_length
    model = blank(config)
    found = costs(model, length)
    return Description(
        name=name,
        config=config,
        batch=batch,
        length=length,
        precision=precision,
        rows=list(_Tree(model, found, declarations(config)).rows()),
        sections=by_section(found),
        slots=by_slot(found),
        derived=[*said, *derived(config)],
        memory=_memory(model, batch, length, precision),
    )


def known(config: ModelConfig, vocab_size: int) -> tuple[TransformerConfig, list[str]]:
    """The model with something in place of what only data can tell; and what that is.

    Raises WeftError for a model that is no transformer.
    """
    if not isinstance(config, TransformerConfig):
        raise WeftError(f"model kind {config.kind!r}: only transformers can be described")
    said = []
    if config.vocab_size is None:
        said.append(f"vocab_size not given: the tokenizer's, known with the data; here {vocab_size:,}")
    said += [
        f"heads.{name}: labels not given: the data's; here two"
        for name, head in config.heads.items()
        if head != head.stand_in()
    ]
    whole = config.stand_in(vocab_size)
    assert isinstance(whole, TransformerConfig), "the same kind, with stand-ins"
    return whole, said


def _memory(model: Transformer, batch: int, length: int, precision: Precision) -> Memory | None:
    asked = model.config, batch, length, precision
    try:
        training, generation = training_memory(*asked), generation_memory(*asked)
        dropping = attentions_with_dropout(model)
        return Memory(training, generation, training_memory(*asked, attention_dropout=False) if dropping else None)
    except UnknownMemoryError:
        return None


def declarations(config: TransformerConfig) -> dict[str, Part]:
    """Each part's declaration by the path of the module that it builds."""
    found: dict[str, Part] = {}
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Part):
            found[name] = value
        elif isinstance(value, Mapping):
            found |= {f"{name}.{key}": part for key, part in value.items()}
        elif isinstance(value, StackConfig):
            found |= {f"{name}.{part}": getattr(value, part) for part in ("positions", "embedding_norm", "norm")}
            across = config.dims(name).across
            for index, layer in enumerate(value.layers()):
                found |= _layer(f"{name}.blocks.{index}", layer, value.norm, across=across)
    return found


def _layer(path: str, layer: BlockPart, norm: Part, *, across: bool) -> dict[str, Part]:
    parts = {name: getattr(layer, name) for name in type(layer).model_fields}
    parts["cross_attention"] = layer.reading() if across else None
    inside = {name: part for name, part in parts.items() if isinstance(part, Part) and name != "norm"}
    norms = {f"{path}.{name}": parts.get("norm") or norm for name in ("norm", *(f"{name}_norm" for name in inside))}
    return {path: layer, **{f"{path}.{name}": part for name, part in inside.items()}, **norms}


def derived(config: TransformerConfig) -> list[str]:
    """Values that parts derived from their surroundings, said aloud: one line for all layers that say the same."""
    said: dict[tuple[str, str], list[str]] = {}
    for path, part in declarations(config).items():
        stack = path.partition(".")[0]
        for line in _derived(part, config.dims(stack if stack in config.stacks() else None)):
            names = path.split(".")
            index = names.pop(2) if names[1:2] == ["blocks"] else ""
            said.setdefault((".".join(names), line), []).append(index)
    for path, line in [*said]:  # what cross-attention has from attention is said once
        if said.get((path.replace(".cross_attention", ".attention"), line)) == said[path, line] and "cross" in path:
            del said[path, line]
    return [f"{_with_index(path, indices, config)}: {line}" for (path, line), indices in said.items()]


def _derived(part: Part, dims: Dims) -> list[str]:
    say = getattr(part, "derived", None)
    return say(dims) if say is not None else []


def _with_index(path: str, indices: list[str], config: TransformerConfig) -> str:
    """`decoder.blocks.feedforward` of layers 0 to 4 as `decoder.blocks.0-4.feedforward`; of all, as declared."""
    if indices == [""]:
        return path
    stack, _, *below = path.split(".")
    everywhere = len(indices) == len(config.stacks()[stack].layers())
    layers = "block" if everywhere else f"blocks.{_brief(ranges(map(int, indices)))}"
    return ".".join([stack, layers, *below])


class _Tree:
    """Walks a model's modules; those of a list that are alike become one row."""

    def __init__(self, model: nn.Module, found: Mapping[str, Cost], parts: Mapping[str, Part]) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.found, self.parts = found, parts

    def rows(self) -> Iterator[Row]:
        """Every row, from the top."""
        for name, _ in self.modules[""].named_children():
            yield from self._below([name], name, name, 0)

    def _below(self, paths: list[str], shown: str, label: str, depth: int) -> Iterator[Row]:
        """Rows of the modules at `paths`, which are alike and `shown` as one, and of what lies below them."""
        part = self._part(paths[0])
        while (only := self._only_child(paths[0])) is not None:
            paths, shown, label = [f"{path}.{only}" for path in paths], f"{shown}.{only}", f"{label}.{only}"
            part = part or self._part(paths[0])
        whole = sum((self._cost(path) for path in paths), start=Cost())
        yield Row(shown, label, depth, len(paths), part, shape_of(self.modules[paths[0]]), whole)
        for name, child in self.modules[paths[0]].named_children():
            if isinstance(child, nn.ModuleList):
                for group in self._alike(f"{paths[0]}.{name}", len(child)):
                    each, brief = f"{name}.{ranges(group)}", f"{name}.{_brief(ranges(group))}"
                    inside = [f"{path}.{name}.{index}" for path in paths for index in group]
                    label = f"{brief} ({len(group)} x)" if len(group) > 1 else brief
                    yield from self._below(inside, f"{shown}.{each}", label, depth + 1)
            elif not isinstance(child, nn.Identity):
                yield from self._below([f"{path}.{name}" for path in paths], f"{shown}.{name}", name, depth + 1)

    def _only_child(self, path: str) -> str | None:
        """The name of a child with which its parent shares a row, because the parent is nothing beside it."""
        children = list(self.modules[path].named_children())
        if len(children) != 1 or isinstance(children[0][1], nn.ModuleList) or self.found.get(path, Cost()) != Cost():
            return None
        return children[0][0]

    def _alike(self, path: str, length: int) -> list[list[int]]:
        """The items of a list, in groups that differ in nothing that a row shows."""
        groups: dict[Any, list[int]] = {}
        for index in range(length):
            inside = self._inside(f"{path}.{index}")
            seen = ((self._part(one), shape_of(self.modules[one]), self.found.get(one)) for one in inside)
            groups.setdefault(tuple(seen), []).append(index)
        return list(groups.values())

    def _inside(self, path: str) -> list[str]:
        return [one for one in self.modules if one == path or one.startswith(f"{path}.")]

    def _cost(self, path: str) -> Cost:
        return sum((self.found.get(one, Cost()) for one in self._inside(path)), start=Cost())

    def _part(self, path: str) -> str:
        """The declared part, without those inside it that have rows of their own."""
        part = self.parts.get(path)
        if part is None:
            return ""
        options = [text for name, text in changed(part) if f"{path}.{name}" not in self.modules]
        return " ".join([part.kind, *options])


def changed(part: Section) -> Iterator[tuple[str, str]]:
    """The options of a part that are not at their defaults, each as name and `name=value`."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        if value != field.get_default(call_default_factory=True):
            yield name, name if value is True else f"{name}={_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Part):
        inside = ", ".join(text for _, text in changed(value))
        return f"{value.kind}({inside})" if inside else value.kind
    if isinstance(value, float):
        return f"{value:g}".replace("e-0", "e-").replace("e+0", "e")
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) if len(value) < 5 else f"{_shown(value[:3])},... ({len(value)})"
    return str(value).lower() if isinstance(value, bool) else str(value)


def shape_of(module: nn.Module) -> str:
    """How a module shows itself, or else the shape of its own parameters."""
    own = [" x ".join(map(str, parameter.shape)) for parameter in module.parameters(recurse=False)]
    return module.extra_repr() or ", ".join(dict.fromkeys(own))


def ranges(numbers: Iterable[int]) -> str:
    """Ascending whole numbers in short: 0-4,6."""
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _brief(text: str, room: int = 12) -> str:
    """The first of several ranges, as many as there is room for."""
    return text if len(text) <= room else f"{text[: text.rindex(',', 0, room)]},..."

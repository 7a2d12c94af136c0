"""What a model costs, before anything runs: parameters, FLOPs and cache summed over its parts, and the memory it takes.

Memory is not guessed from formulas: a training step and the reading of a prompt run on fake tensors, which have shapes
and lifetimes but no values, while every storage is counted from its making to its end.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from weft.config import SLOTS
from weft.models.config import ModelConfig
from weft.models.transformer import Transformer
from weft.nn import Cost, CrossAttention, DotProductAttention, HeadModule, LanguageModelHead, Module
from weft.nn.block import hidden_matrices

Precision = Literal["fp32", "bf16"]
OptimizerKind = Literal["adam", "adamw", "muon", "sgd"]
OPTIMIZER_STATE: dict[OptimizerKind, tuple[int, int]] = {"adam": (2, 2), "adamw": (2, 2), "muon": (1, 2), "sgd": (1, 1)}
"""Float32 numbers that an optimizer keeps for each number in a block's matrices, and in all other parameters."""


def costs(model: nn.Module, length: int) -> dict[str, Cost]:
    """Each module's own cost by its path, in a text of `length` tokens; an encoder-decoder's with a source as long.

    So an encoder-decoder's FLOPs and cache per token are those of one source token and one target token together;
    `pair_flops` tells other lengths. A module that stands in several places computes in each, and has its parameters
    once.
    """
    found: dict[str, Cost] = {}
    seen: set[nn.Module] = set()
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Module):
            cost = module.cost(length)
            found[path] = Cost(0, cost.flops, cost.cache) if module in seen else cost
            seen.add(module)
    return found


def total(model: nn.Module, length: int) -> Cost:
    """Parameters, forward FLOPs per token and cached numbers per token of the whole model at `length` tokens."""
    return sum(costs(model, length).values(), start=Cost())


def parameter_count(model: nn.Module) -> int:
    """Number of parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def training_flops(model: nn.Module, length: int) -> int:
    """FLOPs per token of a training step: backward computes two products for each of forward's.

    That is the gradient of the weights, where they learn, and that of what came in, where something before it learns.
    Of matrices that read the same in the first block that learns all but one count as if another stood before them.
    """
    flops, flows = 0, False
    found = costs(model, length)
    for path, module in model.named_modules(remove_duplicate=False):
        if path in found:
            own = list(module.parameters(recurse=False))
            learns = any(parameter.requires_grad for parameter in own or module.parameters())
            # without weights of its own it multiplies what the modules inside it gave, by itself
            times = 1 + learns + flows if own else 1 + 2 * (learns or flows)
            flops += times * found[path].flops
            flows = flows or (learns and bool(own))
    return flops


def pair_flops(model: nn.Module, source: int, target: int) -> int:
    """Forward FLOPs of one source of `source` tokens and one target of `target`, through both stacks and all heads.

    What the encoder computes, and the keys and values that cross-attention makes of it, is for each source token; all
    else for each target token, before as many keys as it reads.
    """
    flops = 0
    for path, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, Module):
            continue
        encoded, crossing = path.startswith("encoder."), isinstance(module, CrossAttention)
        of_source = encoded or path.endswith(("cross_attention.key", "cross_attention.value"))
        length = source if encoded or crossing else target
        flops += module.cost(length).flops * (source if of_source else target)
    return flops


def by_section(found: Mapping[str, Cost]) -> dict[str, Cost]:
    """Costs by the model's top-level sections: embedding, decoder, heads."""
    return _grouped((path.partition(".")[0], cost) for path, cost in found.items())


def by_slot(found: Mapping[str, Cost]) -> dict[str, Cost]:
    """Costs by the slot whose part causes them: attention, feedforward, embedding, ..."""
    return _grouped((slot_of(path), cost) for path, cost in found.items())


def slot_of(path: str) -> str:
    """The innermost slot that a module path names (`decoder.blocks.0.attention_norm` stands in a norm's)."""
    for name in reversed(path.split(".")):
        for slot in SLOTS:
            if name in (slot, f"{slot}s") or name.endswith(f"_{slot}"):
                return slot
    return "other"


def _grouped(named: Iterable[tuple[str, Cost]]) -> dict[str, Cost]:
    groups: dict[str, Cost] = {}
    for name, cost in named:
        groups[name] = groups.get(name, Cost()) + cost
    return {name: cost for name, cost in groups.items() if cost != Cost()}


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of a training step, and the most that is alive at once (gradients come as activations go)."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    """kept by the forward pass for backward"""
    head: int
    """what the heads' losses need beside them, a chunk of logits at a time"""
    peak: int


@dataclass(frozen=True)
class GenerationMemory:
    """Bytes of generation, and the most that is alive at once while a prompt of that length is read in one go.

    An encoder only reads, and keeps nothing; nor does a decoder in a text longer than a cache may hold.
    """

    parameters: int
    cache: int
    peak: int


class UnknownMemoryError(Exception):
    """Some part looks at values, so that what it does is not known before it runs."""


@contextmanager
def _fake() -> Iterator[_Live]:
    """Tensors made inside are fake, and counted.

    Raises UnknownMemoryError when somebody wants to know a value.
    """
    try:
        with FakeTensorMode(), _Live() as live:
            yield live
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise UnknownMemoryError(str(error)) from error


def training_memory(
    config: ModelConfig,
    batch: int,
    length: int,
    precision: Precision = "fp32",
    optimizer: OptimizerKind = "adamw",
    *,
    attention_dropout: bool = True,
) -> TrainingMemory:
    """What a step on `batch` x `length` tokens takes, its tensors counted on a CPU; `attention_dropout=False`: without.

    An encoder-decoder reads as many tokens again. A process takes more: what libraries use as scratch, and what the
    allocator does not give back.
    Raises WeftError when the positions cannot number `length` tokens, UnknownMemoryError when a part looks at values.
    """
    with _fake() as live:
        model = _model(config, precision)
        if not attention_dropout:
            for module in attentions_with_dropout(model):
                module.dropout = 0.0
        parameters = live.now
        output = model(torch.zeros(batch, length, dtype=torch.long), source=_source(model, batch, length))
        forward = live.now
        live.peak_since = forward
        heads = [head for head in model.heads.values() if isinstance(head, HeadModule)]
        totals = [head.rehearse(output.x_BTD) for head in heads] or [output.x_BTD.sum()]
        del output
        head = live.peak_since - forward
        torch.stack(totals).sum().backward()
        learned = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
        inside = [parameter for path, parameter in model.named_parameters() if path in hidden_matrices(model)]
        hidden = sum(parameter.nbytes for parameter in inside if parameter.requires_grad)
        for_hidden, for_others = OPTIMIZER_STATE[optimizer]
        state = for_hidden * hidden + for_others * (learned - hidden)
        return TrainingMemory(parameters, learned, state, forward - parameters, head, live.peak + state)


def generation_memory(config: ModelConfig, batch: int, length: int, precision: Precision = "fp32") -> GenerationMemory:
    """What `batch` texts of `length` tokens take, float32 parameters included, its tensors counted on a CPU.

    An encoder-decoder reads as many tokens before.
    Raises WeftError when the positions cannot number `length` tokens, UnknownMemoryError when a part looks at values.
    """
    with torch.no_grad(), _fake() as live:
        model = _model(config, precision).eval()
        parameters, cache = live.now, None
        if model.decoder is not None and length <= (model.decoder.cached_limit() or length):
            cache = model.new_cache(batch)
        tokens_BT = torch.zeros(batch, length, dtype=torch.long)
        output = model(tokens_BT, source=_source(model, batch, length), cache=cache)
        for head in model.heads.values():
            head(output.x_BTD[:, -1:] if isinstance(head, LanguageModelHead) else output.x_BTD)
        return GenerationMemory(parameters, 0 if cache is None else cache.bytes, live.peak)


def _source(model: Transformer, batch: int, length: int) -> Tensor | None:
    reads = model.encoder is not None and model.decoder is not None
    return torch.zeros(batch, length, dtype=torch.long) if reads else None


def attentions_with_dropout(model: nn.Module) -> list[DotProductAttention]:
    """Attentions that drop weights in training, which no fused kernel of a CPU does: all H x T x T are kept."""
    return [module for module in model.modules() if isinstance(module, DotProductAttention) and module.dropout > 0]


def cache_bytes(cost: Cost, precision: Precision) -> int:
    """Bytes per token that a cache in that precision keeps."""
    return round(cost.cache * (2 if precision == "bf16" else 4))


def _model(config: ModelConfig, precision: Precision) -> Transformer:
    model = config.build()
    assert isinstance(model, Transformer), "whoever asks for memory has built the model before"
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else None
    return model


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages that operations make while it is active, until each one's end."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self.peak_since = 0
        """The highest since a caller last set it."""
        self._held: dict[int, int] = {}
        self._values = WeakTensorKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0] in self._values:
            with unset_fake_temporarily():
                return self._values[args[0]].item()
        out = _chosen(*args) if func is torch.ops.aten.index.Tensor else None
        out = func(*args, **(kwargs or {})) if out is None else out
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf)
        if isinstance(out, Tensor) and not out.is_floating_point() and out.nbytes <= _SMALL:
            self._compute(out, func, args, kwargs or {})
        return out

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        name = storage._cdata
        if name in self._held:
            return
        self._held[name] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak, self.peak_since = max(self.peak, self.now), max(self.peak_since, self.now)
        weakref.finalize(storage, self._end, name)

    def _end(self, name: int) -> None:
        self.now -= self._held.pop(name)

    def _compute(self, out: Tensor, func: Any, args: Any, kwargs: Any) -> None:
        """Keep what `out` is in truth, if its operands' values are known: masks ask where queries and keys stand."""
        fake = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, FakeTensor)]
        if all(tensor in self._values for tensor in fake):
            known = tree_map(lambda leaf: self._values[leaf] if isinstance(leaf, FakeTensor) else leaf, (args, kwargs))
            with unset_fake_temporarily():
                self._values[out] = func(*known[0], **known[1])


_SMALL = 1 << 25
"""Bytes of whole numbers that are computed in truth: the places of four million tokens."""


def _chosen(x: Tensor, indices: list[Tensor | None]) -> Tensor | None:
    """x[mask] as if all were chosen: how many a fake mask chooses is not known, and all is the most."""
    mask = indices[0]
    if mask is None or mask.dtype is not torch.bool:
        return None
    return x.flatten(0, mask.dim() - 1).clone()

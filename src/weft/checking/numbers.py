"""Properties of numbers: gradients, start, precision, declared cost."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weft.checking.compare import (
    BOTH,
    PropertyError,
    ensure,
    executions,
    logits,
    other_values,
    reads,
    run,
    tokens,
    weights_of,
)
from weft.checking.properties import WRITING, holds_of
from weft.models.build import build
from weft.models.cost import costs as costs_of
from weft.models.transformer import Transformer
from weft.nn import ClassifierHead, Module
from weft.nn.text_heads import MultipleChoiceHead

STEP = 2.0**-20
"""Of finite differences: so small that few activations have a kink within it; their error is rounding, 2^-52 / STEP."""


ROUNDINGS = 4.0
"""Of 257 pairwise cases the farthest was off by 1.8 times what rounding its parameters moved, the median by 0.7."""


@holds_of()
def right_gradients(model: Transformer) -> None:
    """The gradients are those that finite differences show."""
    x_BT = tokens(model, 2, 6)
    model.zero_grad()
    _weighted(model, x_BT).backward()
    exact = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    generator = torch.Generator().manual_seed(4)
    towards = {name: torch.randn(grad.shape, generator=generator, dtype=grad.dtype) for name, grad in exact.items()}
    if _agree(model, x_BT, exact, towards):
        return
    for name in exact:  # which one is it?
        if not _agree(model, x_BT, {name: exact[name]}, {name: towards[name]}):
            raise PropertyError(f"the gradient of {name} is not the one that finite differences show")
    raise PropertyError("the gradients are not those that finite differences show")


def _weighted(model: Transformer, x_BT: Tensor) -> Tensor:
    out = run(model, x_BT).logits_BTV
    return (out * weights_of(out)).sum()


def _agree(model: Transformer, x_BT: Tensor, exact: dict[str, Tensor], towards: dict[str, Tensor]) -> bool:
    """Whether the slope in one direction is the gradient's share in it, to 1e-6 of the largest it could be."""
    slope = sum(float((exact[name] * towards[name]).sum()) for name in exact)
    steepest = sum(float(exact[name].norm() * towards[name].norm()) for name in exact)
    values = []
    for step in (STEP, -STEP, STEP / 2, -STEP / 2):

        def moved(name: str, x: Tensor, step: float = step) -> Tensor:
            return x + step * towards[name] if name in towards else x

        with other_values(model, moved), torch.no_grad():
            values.append(float(_weighted(model, x_BT)))
    wide, narrow = (values[0] - values[1]) / (2 * STEP), (values[2] - values[3]) / STEP
    rounding = 2.0**-44 * max(map(abs, values)) / STEP
    # where an activation has a kink within the step, the extrapolation is no better than the difference of both
    return abs((4 * narrow - wide) / 3 - slope) <= 1e-6 * steepest + rounding + 2 * abs(narrow - wide)


@holds_of()
def bf16_rounds_only(model: Transformer) -> None:
    """In bf16 it is no further off than a few roundings of its parameters."""
    x_BT = tokens(model, 2, 8)
    exact = logits(model, x_BT)
    with other_values(model, lambda name, x: x.bfloat16().to(x)):
        moved = float((logits(model, x_BT) - exact).abs().mean() / exact.abs().max())
    mixed = deepcopy(model).float()
    mixed.compute_dtype = torch.bfloat16
    found = logits(mixed, x_BT).double()
    ensure(found.isfinite().all(), "not finite in bf16")
    off = float((found - exact).abs().mean() / exact.abs().max())
    ensure(
        off <= ROUNDINGS * (moved + 2**-9), f"off by {off:.2g} in bf16; rounding its parameters moves it {moved:.2g}"
    )


@holds_of()
def costs_as_declared(model: Transformer) -> None:
    """Declared parameters, FLOPs and cache = counted ones; a source is as long as the text."""
    length = 64
    changed = {**model.config.dump(), "max_length": length}
    plain = build(changed).double().eval()
    # a fused kernel's FLOPs are not all counted
    longer = next((other for _, other in executions(plain, only="reference")), plain)
    for path, module in longer.named_modules():
        if isinstance(module, Module):
            own, declared = sum(p.numel() for p in module.parameters(recurse=False)), module.cost(length).parameters
            ensure(
                own == declared or _shared(longer, module), f"{path}: {own} parameters, {declared} declared by cost()"
            )
    costs = costs_of(longer, length).values()
    held, said = sum(parameter.numel() for parameter in longer.parameters()), sum(cost.parameters for cost in costs)
    ensure(held == said, f"{held} parameters, {said} declared")
    x_BT = tokens(longer, 2, length)
    source = x_BT if reads(longer, *BOTH) else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = run(longer, x_BT, source=source)
        for head in longer.heads.values():
            head(output.x_BTD)
    # what is used once a text is rounded to whole FLOPs a token
    rounded = sum(isinstance(head, ClassifierHead | MultipleChoiceHead) for head in longer.heads.values())
    counted, told = counter.get_total_flops() / 2 / length, sum(cost.flops for cost in costs)
    ensure(abs(told - counted) <= rounded / 2, f"{counted:g} FLOPs a token are counted, {told} declared by cost()")
    if not reads(longer, *WRITING):
        ensure(sum(cost.cache for cost in costs) == 0, "a cache is declared where nothing is generated")
        return
    cache = longer.new_cache(2)
    logits(longer, x_BT, cache, source)
    kept = sum(cost.cache for cost in costs)
    # in float64 a number has 8 bytes
    ensure(
        kept * 2 * length * 8 == cache.bytes,
        f"{cache.bytes / 16 / length:g} numbers a token are cached, {kept:g} declared",
    )


def _shared(model: Transformer, module: Module) -> bool:
    """Whether another module has (and declares) its parameters, too."""
    mine = {id(parameter) for parameter in module.parameters(recurse=False)}
    others = (other for other in model.modules() if other is not module)
    return any(mine & {id(parameter) for parameter in other.parameters(recurse=False)} for other in others)

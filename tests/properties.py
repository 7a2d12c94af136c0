"""What must hold of every model, whatever its parts: each property takes a small float64 model and asserts.

`test_properties.py` holds every combination of registered parts to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import parts
import pytest
import reference
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from weft.config import Part, sections_within
from weft.errors import WeftError
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import Inputs, Module

Property = Callable[[Transformer], None]
PROPERTIES: dict[str, Property] = {}


def holds(function: Property) -> Property:
    """Hold every model to this property."""
    PROPERTIES[function.__name__] = function
    return function


def tokens(model: Transformer, rows: int, length: int, seed: int = 0) -> Tensor:
    """Random tokens, rows x length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size or 0, (rows, length), generator=generator)


def logits(model: Transformer, inputs: Tensor | Inputs, cache: Any = None) -> Tensor:
    """The language model head's scores, without gradients."""
    with torch.no_grad():
        return model(inputs, cache=cache).logits_BTV


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal up to `tolerance` of the largest expected value, which is not 0."""
    assert found.shape == expected.shape
    largest = expected.abs().max()
    assert largest > 1e-6, "nothing to compare"
    assert bool(found.isfinite().all()), "not finite"
    error = float((found - expected).abs().max() / largest)
    assert error <= tolerance, f"off by {error:.2g} of the largest value"


@holds
def causal(model: Transformer) -> None:
    """A token changes nothing before it, and something where it stands."""
    x_BT = tokens(model, 4, 7)
    before = logits(model, x_BT)
    for place in (1, 4, 6):
        changed_BT = x_BT.clone()
        changed_BT[:, place] = (x_BT[:, place] + 1) % 11
        after = logits(model, changed_BT)
        close(after[:, :place], before[:, :place], 1e-12)
        assert (after[:, place] - before[:, place]).abs().max() > 1e-8, f"token {place} is not seen at {place}"


@holds
def rows_alone(model: Transformer) -> None:
    """The other rows of a batch, and their order, change nothing."""
    x_BT = tokens(model, 3, 6)
    whole = logits(model, x_BT)
    close(logits(model, x_BT[[2, 0, 1]]), whole[[2, 0, 1]], 1e-12)
    close(torch.cat([logits(model, row[None]) for row in x_BT]), whole, 1e-12)


@holds
def padded(model: Transformer) -> None:
    """Padding left, right or on both sides changes nothing at the tokens, whatever stands in it."""
    x_BT = tokens(model, 3, 10, seed=1)
    starts, ends = torch.tensor([4, 0, 2]), torch.tensor([10, 7, 9])
    places = torch.arange(10)
    valid_BT = (places >= starts[:, None]) & (places < ends[:, None])
    found = logits(model, Inputs(tokens_BT=x_BT, valid_BT=valid_BT))
    assert bool(found.isfinite().all()), "padding gave what is no number"
    for row in range(3):
        close(found[row, valid_BT[row]], logits(model, x_BT[row, valid_BT[row]][None])[0])


@holds
def documents_apart(model: Transformer) -> None:
    """Documents packed into a row do not see each other: each is as if it were alone."""
    lengths = [[3, 5], [6, 2], [1, 4, 3]]
    x_BT = tokens(model, 3, 8)
    documents_BT = torch.tensor([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths])
    positions_BT = torch.tensor([[place for length in row for place in range(length)] for row in lengths])
    packed = logits(model, Inputs(tokens_BT=x_BT, documents_BT=documents_BT, positions_BT=positions_BT))
    for row, held in enumerate(lengths):
        alone = [logits(model, piece[None])[0] for piece in x_BT[row].split(held)]
        close(packed[row], torch.cat(alone))


@holds
def cached(model: Transformer) -> None:
    """In pieces through a cache = at once."""
    x_BT = tokens(model, 2, 7)
    whole = logits(model, x_BT)
    for size in (1, 2, 4):
        cache = model.new_cache(2)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(size, dim=1)], dim=1), whole)
        assert cache.lengths == [7, 7]


@holds
def cached_ragged(model: Transformer) -> None:
    """Rows of unequal lengths go on together in one cache as each would alone, padded on either side."""
    x_BT, lengths = tokens(model, 3, 9), [3, 6, 1]
    for left in (True, False):
        prompts_BT, valid_BT = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.bool)
        for row, length in enumerate(lengths):
            place = slice(6 - length, 6) if left else slice(0, length)
            prompts_BT[row, place], valid_BT[row, place] = x_BT[row, :length], True
        cache = model.new_cache(3)
        prompt = logits(model, Inputs(tokens_BT=prompts_BT, valid_BT=valid_BT), cache)
        following = [torch.stack([x_BT[row, length + step] for row, length in enumerate(lengths)]) for step in (0, 1)]
        steps = torch.cat([logits(model, step[:, None], cache) for step in following], dim=1)
        for row, length in enumerate(lengths):
            close(
                torch.cat([prompt[row, valid_BT[row]], steps[row]]), logits(model, x_BT[row : row + 1, : length + 2])[0]
            )


@holds
def same_greedy_tokens(model: Transformer) -> None:
    """In float32, continuing greedily gives the same tokens with and without a cache."""
    model = deepcopy(model).float()
    text = plain = tokens(model, 2, 3)
    cache = model.new_cache(2)
    step = text
    for _ in range(6):
        step = logits(model, step, cache)[:, -1:].argmax(-1)
        text = torch.cat([text, step], dim=1)
        plain = torch.cat([plain, logits(model, plain)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(text, plain), f"{text.tolist()} with a cache, {plain.tolist()} without"


@holds
def numbered_to_the_limit(model: Transformer) -> None:
    """Positions that end refuse what is beyond them, and leave a cache as it was; the others go on."""
    limit, beyond = model.limit(), (model.limit() or model.config.max_length) + 1
    if limit is None:
        assert bool(logits(model, tokens(model, 1, beyond)).isfinite().all())
        return
    cache = model.new_cache(2)
    close(logits(model, tokens(model, 2, limit), cache), logits(model, tokens(model, 2, limit)))
    with pytest.raises(WeftError, match=str(limit)):
        logits(model, tokens(model, 2, 1), cache)
    assert cache.lengths == [limit, limit]
    with pytest.raises(WeftError, match=str(limit)):
        logits(model, tokens(model, 2, beyond))


@holds
def computed_alike(model: Transformer) -> None:
    """Execution options (kernels) change neither outputs nor gradients, plain or packed and padded."""
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    valid_BT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    x_BT = tokens(model, 2, 6)
    batches = [Inputs(tokens_BT=x_BT), Inputs(tokens_BT=x_BT, documents_BT=documents_BT, valid_BT=valid_BT)]
    expected = [_with_gradients(model, inputs) for inputs in batches]
    for other in executions(model):
        for inputs, (out, grads) in zip(batches, expected, strict=True):
            other_out, other_grads = _with_gradients(other, inputs)
            close(other_out, out)
            close(other_grads, grads)


def executions(model: Transformer, only: object = None) -> Iterator[Transformer]:
    """The same model with each value (or that one) of each execution option, all parts that have it alike."""
    held = {type(section) for _, section in sections_within(model.config)}
    options = [(section, name) for section in held for name in parts.options_of(section, execution=True)]
    for section, name in sorted(options, key=str):
        for value in [value for value in parts.values_of(section, name) if only in (None, value)]:
            other = build(parts.changed(model.config, section, name, value)).double().eval()
            other.load_state_dict(model.state_dict())
            yield other


def _with_gradients(model: Transformer, inputs: Inputs) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    out = model(inputs).logits_BTV
    if inputs.valid_BT is not None:
        out = out[inputs.valid_BT]
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=out.dtype)
    (out * weights).sum().backward()
    return out.detach(), torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


@holds
def every_parameter_learns(model: Transformer) -> None:
    """No parameter is left out of the computation."""
    model.zero_grad()
    model(tokens(model, 2, 6)).logits_BTV.square().sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle, f"never used: {', '.join(idle)}"


@holds
def costs_as_declared(model: Transformer) -> None:
    """Declared parameters, FLOPs and cache = counted ones."""
    length = 64
    changed = {**model.config.dump(), "max_length": length}
    plain = build(changed).double().eval()
    longer = next(executions(plain, only="reference"), plain)  # a fused kernel's FLOPs are not all counted
    costs = [part.cost(length) for part in longer.modules() if isinstance(part, Module)]
    assert sum(cost.parameters for cost in costs) == sum(parameter.numel() for parameter in longer.parameters())
    with FlopCounterMode(display=False) as counter:
        logits(longer, tokens(longer, 1, length))
    assert sum(cost.flops for cost in costs) * length == counter.get_total_flops()
    cache = longer.new_cache(2)
    logits(longer, tokens(longer, 2, length), cache)
    assert sum(cost.cache for cost in costs) * 2 * length * 8 == cache.bytes, "8 bytes a number in float64"


@holds
def as_the_formulas_say(model: Transformer) -> None:
    """Logits and the loss's gradient = those of the papers' formulas in plain loops."""
    declared = model.config.dump()
    declared["decoder"]["layers"] = [layer.dump() for layer in model.config.decoder.layers()]
    for _, section in sections_within(model.config):
        if isinstance(section, Part) and section.kind not in reference.REFERENCES.get(section.slot, {}):
            return  # a part from elsewhere
    row = tokens(model, 1, 5)[0]
    text, targets = row[:-1], row[1:]
    arrays = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    close(logits(model, text[None])[0], torch.from_numpy(reference.logits(declared, arrays, text.tolist())))
    model.zero_grad()
    output = model(text[None])
    loss = model.heads["lm"].loss(output.x_BTD, targets[None])
    loss.total.backward()
    random = np.random.default_rng(0)
    direction = {name: random.standard_normal(array.shape) for name, array in arrays.items()}
    exact = reference.slope(
        lambda at: reference.loss(reference.logits(declared, at, text.tolist()), targets.tolist()), arrays, direction
    )
    used = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
    found = sum(float((p.grad.numpy() * direction[name]).sum()) for name, p in used)
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-9)

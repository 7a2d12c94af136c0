"""What must hold of every model, whatever its parts: each property takes a small float64 model and asserts.

`test_properties.py` holds every combination of registered parts to all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import parts
import pytest
import reference
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.flop_counter import FlopCounterMode

from weft.config import Part, sections_within
from weft.errors import WeftError
from weft.models.build import build
from weft.models.cost import costs as costs_of
from weft.models.transformer import Output, Transformer
from weft.nn import ClassifierHead, Inputs, RingEntry
from weft.nn.text_heads import MultipleChoiceHead

Property = Callable[[Transformer], None]
PROPERTIES: dict[str, Property] = {}
WRITING, BOTH = ("decoder",), ("encoder", "decoder")
"""Kinds of models by the stacks that they need."""


def holds(function: Property) -> Property:
    """Hold every model to this property."""
    PROPERTIES[function.__name__] = function
    return function


def holds_with(*stacks: str) -> Callable[[Property], Property]:
    """Hold every model that has these stacks to this property."""

    def register(function: Property) -> Property:
        PROPERTIES[function.__name__] = lambda model: function(model) if reads(model, *stacks) else None
        return function

    return register


def reads(model: Transformer, *stacks: str) -> bool:
    """Whether the model has all of these stacks."""
    return all(getattr(model, name) is not None for name in stacks)


def tokens(model: Transformer, rows: int, length: int, seed: int = 0) -> Tensor:
    """Random tokens, rows x length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.config.vocab_size or 0, (rows, length), generator=generator)


def run(model: Transformer, inputs: Tensor | Inputs, cache: Any = None, source: Any = None) -> Output:
    """A forward; whoever reads a source and is given none, and has none in the cache, reads `source_of` the inputs."""
    if source is None and reads(model, *BOTH) and (cache is None or cache.source_valid_BS is None):
        source = source_of(inputs if isinstance(inputs, Inputs) else Inputs(tokens_BT=inputs))
    return model(inputs, source=source, cache=cache)


def source_of(inputs: Inputs) -> Inputs:
    """A source for each text (each document of each row), of 3 to 6 tokens, known by the text's first token.

    So what holds of texts holds of pairs: whoever moves, cuts or packs a text moves its source too.
    """
    tokens_BT, (rows, length) = inputs.tokens_BT, inputs.shape
    assert tokens_BT is not None, "texts are tokens"
    valid_BT = torch.ones(rows, length, dtype=torch.bool) if inputs.valid_BT is None else inputs.valid_BT
    documents_BT = torch.zeros_like(tokens_BT) if inputs.documents_BT is None else inputs.documents_BT
    packed = []
    for row in range(rows):
        numbers = documents_BT[row, valid_BT[row]].unique_consecutive().tolist()
        firsts = [int(tokens_BT[row, valid_BT[row] & (documents_BT[row] == number)][0]) for number in numbers]
        texts = [torch.randint(11, (3 + k % 4,), generator=torch.Generator().manual_seed(k)) for k in firsts]
        places = torch.cat([torch.arange(len(text)) for text in texts])
        belong = torch.cat([torch.full((len(text),), n) for n, text in zip(numbers, texts, strict=True)])
        packed.append((torch.cat(texts), places, belong, torch.ones(len(places), dtype=torch.bool)))
    padded = [pad_sequence(each, batch_first=True) for each in zip(*packed, strict=True)]
    tokens_BS, places_BS, documents_BS, valid_BS = padded
    return Inputs(
        tokens_BT=tokens_BS,
        positions_BT=places_BS,
        documents_BT=None if inputs.documents_BT is None else documents_BS,
        valid_BT=None if bool(valid_BS.all()) else valid_BS,
    )


def logits(model: Transformer, inputs: Tensor | Inputs, cache: Any = None, source: Any = None) -> Tensor:
    """The language model head's scores, without gradients."""
    with torch.no_grad():
        return run(model, inputs, cache, source).logits_BTV


def answers(model: Transformer, inputs: Tensor | Inputs) -> list[Tensor]:
    """What all other heads say of each row, without gradients: a vector a row, without what they say of padding."""
    with torch.no_grad():
        output = run(model, inputs)
        said = [asked(head, output) for name, head in model.heads.items() if name != "lm"]
    valid_BT = torch.ones(output.x_BTD.shape[:2], dtype=torch.bool) if output.valid_BT is None else output.valid_BT
    nothing = output.x_BTD.new_zeros(0)
    return [
        torch.cat([nothing, *((each[row][kept] if each.dim() == 3 else each[row]).flatten() for each in said)])
        for row, kept in enumerate(valid_BT)
    ]


def asked(head: torch.nn.Module, output: Output) -> Tensor:
    """What a head says: of each token, or of each text, for which it is told what is padding."""
    of_texts = "valid_BT" in inspect.signature(head.forward).parameters
    found: Tensor = head(output.x_BTD, output.valid_BT) if of_texts else head(output.x_BTD)
    return found


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal up to `tolerance` of the largest expected value, which is not 0."""
    assert found.shape == expected.shape
    if not expected.numel():
        return
    largest = expected.abs().max()
    assert largest > 1e-6, "nothing to compare"
    assert bool(found.isfinite().all()), "not finite"
    error = float((found - expected).abs().max() / largest)
    assert error <= tolerance, f"off by {error:.2g} of the largest value"


@holds_with(*WRITING)
def causal(model: Transformer) -> None:
    """A token changes nothing before it, and something where it stands."""
    x_BT = tokens(model, 4, 7)
    before = logits(model, x_BT)
    for place in (1, 4, 6):
        changed_BT = x_BT.clone()
        changed_BT[:, place] = (x_BT[:, place] + 1) % 11
        after = logits(model, changed_BT)
        close(after[:, :place], before[:, :place], 1e-12)
        moved = (after[:, place] - before[:, place]).abs().max() / before.abs().max()
        assert moved > 1e-9, f"token {place} is not seen at {place}"


@holds
def rows_alone(model: Transformer) -> None:
    """The other rows of a batch, and their order, change nothing."""
    x_BT = tokens(model, 3, 6)
    whole = logits(model, x_BT)
    close(logits(model, x_BT[[2, 0, 1]]), whole[[2, 0, 1]], 1e-12)
    close(torch.cat([logits(model, row[None]) for row in x_BT]), whole, 1e-12)
    for row, said in zip(x_BT, answers(model, x_BT), strict=True):
        close(answers(model, row[None])[0], said, 1e-12)


@holds
def padded(model: Transformer) -> None:
    """Padding left, right or on both sides changes nothing at the tokens, whatever stands in it."""
    x_BT = tokens(model, 3, 10, seed=1)
    starts, ends = torch.tensor([4, 0, 2]), torch.tensor([10, 7, 9])
    places = torch.arange(10)
    valid_BT = (places >= starts[:, None]) & (places < ends[:, None])
    inputs = Inputs(tokens_BT=x_BT, valid_BT=valid_BT)
    found, said = logits(model, inputs), answers(model, inputs)
    assert bool(found.isfinite().all()), "padding gave what is no number"
    for row in range(3):
        text_BT = x_BT[row, valid_BT[row]][None]
        close(found[row, valid_BT[row]], logits(model, text_BT)[0])
        close(said[row], answers(model, text_BT)[0])


@holds_with(*BOTH)
def source_padded(model: Transformer) -> None:
    """So it is with the source."""
    x_BT, source_BS = tokens(model, 3, 5), tokens(model, 3, 8, seed=1)
    places = torch.arange(8)
    starts, ends = torch.tensor([3, 0, 2]), torch.tensor([8, 4, 7])
    valid_BS = (places >= starts[:, None]) & (places < ends[:, None])
    found = logits(model, x_BT, source=Inputs(tokens_BT=source_BS, valid_BT=valid_BS))
    for row in range(3):
        text_BS = source_BS[row, valid_BS[row]][None]
        close(found[row], logits(model, x_BT[row, None], source=text_BS)[0])


@holds_with(*BOTH)
def source_seen(model: Transformer) -> None:
    """Every token of the source changes what every token of the target tells."""
    x_BT, source_BS = tokens(model, 4, 3), tokens(model, 4, 5, seed=1)
    before = logits(model, x_BT, source=source_BS)
    for place in range(5):
        changed_BS = source_BS.clone()
        changed_BS[:, place] = (source_BS[:, place] + 1) % 11
        moved_BT = (logits(model, x_BT, source=changed_BS) - before).abs().amax((0, 2))
        assert bool((moved_BT > 1e-8).all()), f"source token {place} is not seen"


@holds_with(*BOTH)
def encoded_once(model: Transformer) -> None:
    """What `encode` makes of a source stands for it."""
    x_BT = tokens(model, 3, 5)
    source = source_of(Inputs(tokens_BT=x_BT))
    with torch.no_grad():
        memory = model.encode(source)
    close(logits(model, x_BT, source=memory), logits(model, x_BT, source=source), 1e-14)


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


@holds_with(*WRITING)
def cached(model: Transformer) -> None:
    """In pieces through a cache = at once."""
    x_BT = tokens(model, 2, 7)
    whole = logits(model, x_BT)
    for size in (1, 2, 4):
        cache = model.new_cache(2)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(size, dim=1)], dim=1), whole)
        assert cache.lengths == [7, 7]


@holds_with(*WRITING)
def cached_beyond_a_window(model: Transformer) -> None:
    """The same where a window's cache keeps nothing more than the window, also in pieces longer than that."""
    if not any(isinstance(entry, RingEntry) for entry in model.new_cache(2).entries):
        return
    x_BT = tokens(model, 2, 16)
    whole = logits(model, x_BT)
    for sizes in (1, 2, [3, 5, 1, 6, 1]):
        cache = model.new_cache(2, slack=0)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(sizes, dim=1)], dim=1), whole)


@holds_with(*WRITING)
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


@holds_with(*WRITING)
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
    with pytest.raises(WeftError, match=str(limit)):
        logits(model, tokens(model, 2, beyond))
    if not reads(model, *WRITING):
        return
    cache = model.new_cache(2)
    close(logits(model, tokens(model, 2, limit), cache), logits(model, tokens(model, 2, limit)))
    with pytest.raises(WeftError, match=str(limit)):
        logits(model, tokens(model, 2, 1), cache)
    assert cache.lengths == [limit, limit]


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
            try:
                close(other_grads, grads)
            except AssertionError:  # without norms some models are steeper than 1e-10 allows
                close(other_grads, grads, 4 * _moved_by_rounding(model, inputs, grads))


def _moved_by_rounding(model: Transformer, inputs: Inputs, grads: Tensor) -> float:
    """How far the gradients move, as a share of the largest, where every parameter moves by one rounding."""
    other, generator = deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in other.parameters():
            up = torch.randint(2, parameter.shape, generator=generator).bool()
            away = torch.where(up, torch.inf, -torch.inf).to(parameter)
            parameter.copy_(torch.nextafter(parameter, away))
    return float((_with_gradients(other, inputs)[1] - grads).abs().max() / grads.abs().max())


def executions(model: Transformer, only: object = None) -> Iterator[Transformer]:
    """The same model with each value (or that one) of each execution option, all parts that have it alike."""
    held = {type(section) for _, section in sections_within(model.config)}
    options = [(section, name) for section in held for name in parts.options_of(section, execution=True)]
    for section, name in sorted(options, key=str):
        if name == "cache":  # of generation, which other properties look at
            continue
        for value in [value for value in parts.values_of(section, name) if only in (None, value)]:
            if value == "flex":  # is compiled for every shape: test_flex.py
                continue
            try:
                other = build(parts.changed(model.config, section, name, value)).double().eval()
            except WeftError as error:
                if str(error).startswith(f"{section.slot}.{name}: {value}: "):
                    continue  # a kernel that lacks what the score needs
                raise
            other.load_state_dict(model.state_dict())
            yield other


def _with_gradients(model: Transformer, inputs: Inputs) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    out = run(model, inputs).logits_BTV
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
    output = run(model, tokens(model, 2, 6))
    sum(head(output.x_BTD).square().sum() for head in model.heads.values()).backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not idle, f"never used: {', '.join(idle)}"


@holds
def costs_as_declared(model: Transformer) -> None:
    """Declared parameters, FLOPs and cache = counted ones; a source is as long as the text."""
    length = 64
    changed = {**model.config.dump(), "max_length": length}
    plain = build(changed).double().eval()
    longer = next(executions(plain, only="reference"), plain)  # a fused kernel's FLOPs are not all counted
    costs = costs_of(longer, length).values()
    assert sum(cost.parameters for cost in costs) == sum(parameter.numel() for parameter in longer.parameters())
    x_BT = tokens(longer, 2, length)
    source = x_BT if reads(longer, *BOTH) else None
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = run(longer, x_BT, source=source)
        for head in longer.heads.values():
            head(output.x_BTD)
    # what is used once a text is rounded to whole FLOPs a token
    rounded = sum(isinstance(head, ClassifierHead | MultipleChoiceHead) for head in longer.heads.values())
    missing = sum(cost.flops for cost in costs) * 2 * length - counter.get_total_flops()
    assert abs(missing) <= rounded * length, f"{missing / 2 / length:+} FLOPs a token are declared and not counted"
    if not reads(longer, *WRITING):
        assert sum(cost.cache for cost in costs) == 0
        return
    cache = longer.new_cache(2)
    logits(longer, x_BT, cache, source)
    assert sum(cost.cache for cost in costs) * 2 * length * 8 == cache.bytes, "8 bytes a number in float64"


@holds
def as_the_formulas_say(model: Transformer) -> None:
    """Scores and the losses' gradients = those of the papers' formulas in plain loops."""
    declared = model.config.dump()
    for name, stack in model.config.stacks().items():
        declared[name]["layers"] = [layer.dump() for layer in stack.layers()]
    for _, section in sections_within(model.config):
        if isinstance(section, Part) and section.kind not in reference.REFERENCES.get(section.slot, {}):
            return  # a part from elsewhere
    row = tokens(model, 1, 5)[0]
    text, targets = row[:-1], row[1:]
    read = tokens(model, 1, 3, seed=1) if reads(model, *BOTH) else None
    arrays = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    def formula(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x_TD = reference.vectors(declared, at, text.tolist(), None if read is None else read[0].tolist())
        return {name: reference.answer(declared, at, name, x_TD) for name in model.heads}

    output = run(model, text[None], source=read)
    found = {name: asked(head, output)[0] for name, head in model.heads.items()}
    for name, expected in formula(arrays).items():
        close(found[name].detach().flatten(), torch.from_numpy(expected).flatten())
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(x.numel(), generator=generator, dtype=x.dtype) for name, x in found.items()}

    def loss(at: dict[str, np.ndarray]) -> complex:
        said = formula(at)
        nats = reference.loss(said.pop("lm"), targets.tolist())
        return nats + sum(np.sum(x.flatten() * weights[name].numpy()) for name, x in said.items())

    model.zero_grad()
    others = sum((x.flatten() * weights[name]).sum() for name, x in found.items() if name != "lm")
    (model.heads["lm"].loss(output.x_BTD, targets[None]).total + others).backward()
    random = np.random.default_rng(0)
    direction = {name: random.standard_normal(array.shape) for name, array in arrays.items()}
    exact = reference.slope(loss, arrays, direction)
    used = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
    slope = sum(float((p.grad.numpy() * direction[name]).sum()) for name, p in used)
    assert slope == pytest.approx(exact, rel=1e-9, abs=1e-9)

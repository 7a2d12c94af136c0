"""Running small models on made-up texts, and comparing what they say."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from weft.checking.small import SIZES, changed
from weft.checking.values import options_of, values_of
from weft.config import sections_within
from weft.errors import WeftError
from weft.models.build import build
from weft.models.transformer import Output, Transformer
from weft.nn import Inputs

BOTH = ("encoder", "decoder")
"""A model that reads a source."""


class PropertyError(AssertionError):
    """A property does not hold: what was seen, in one line."""


class SilentError(PropertyError):
    """There is nothing to compare: all that was expected is nearly 0, as in deep models without norms."""


def ensure(holds: bool | Tensor, message: str) -> None:
    """Raises PropertyError unless it holds."""
    if not bool(holds):
        raise PropertyError(message)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Equal up to `tolerance` of the largest expected value, which is not 0; PropertyError otherwise."""
    ensure(found.shape == expected.shape, f"{tuple(found.shape)} instead of {tuple(expected.shape)}")
    if not expected.numel():
        return
    largest = expected.detach().abs().max()
    if not largest > 1e-6:
        raise SilentError("nothing to compare: all outputs are nearly 0, or no numbers")
    ensure(found.isfinite().all(), "not finite")
    error = float((found.detach() - expected.detach()).abs().max() / largest)
    ensure(error <= tolerance, f"off by {error:.2g} of the largest value")


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
        generators = [torch.Generator().manual_seed(first) for first in firsts]
        lengths = [3 + first % 4 for first in firsts]
        texts = [
            torch.randint(SIZES["vocab_size"], (n,), generator=g) for n, g in zip(lengths, generators, strict=True)
        ]
        places = torch.cat([torch.arange(n) for n in lengths])
        belong = torch.cat([torch.full((n,), number) for n, number in zip(lengths, numbers, strict=True)])
        packed.append((torch.cat(texts), places, belong, torch.ones(len(places), dtype=torch.bool)))
    padded = [pad_sequence(list(each), batch_first=True) for each in zip(*packed, strict=True)]
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


def whole_answer(model: Transformer, inputs: Tensor | Inputs) -> tuple[Tensor, list[Tensor]]:
    """`logits`, and what all other heads say of each row: a vector a row, without what they say of padding."""
    with torch.no_grad():
        output = run(model, inputs)
        said = [asked(head, output) for name, head in model.heads.items() if name != "lm"]
        logits_BTV = output.logits_BTV
    valid_BT = torch.ones(output.x_BTD.shape[:2], dtype=torch.bool) if output.valid_BT is None else output.valid_BT
    nothing = output.x_BTD.new_zeros(0)
    return logits_BTV, [
        torch.cat([nothing, *((each[row][kept] if each.dim() == 3 else each[row]).flatten() for each in said)])
        for row, kept in enumerate(valid_BT)
    ]


def asked(head: torch.nn.Module, output: Output) -> Tensor:
    """What a head says: of each token, or of each text, for which it is told what is padding."""
    of_texts = "valid_BT" in inspect.signature(head.forward).parameters
    found: Tensor = head(output.x_BTD, output.valid_BT) if of_texts else head(output.x_BTD)
    return found


def with_gradients(model: Transformer, inputs: Tensor | Inputs) -> tuple[Tensor, Tensor]:
    """Scores of the valid tokens, and the gradients of all parameters of a weighted sum of them, in one vector."""
    model.zero_grad()
    out = run(model, inputs).logits_BTV
    if isinstance(inputs, Inputs) and inputs.valid_BT is not None:
        out = out[inputs.valid_BT]
    (out * weights_of(out)).sum().backward()
    return out.detach(), torch.cat(
        [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    )


def weights_of(x: Tensor) -> Tensor:
    """Random weights, the same for every tensor of this shape."""
    generator = torch.Generator().manual_seed(3)
    return torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)


@contextmanager
def other_values(model: Transformer, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """The model with what `change` makes of each parameter, by path; its own values again afterwards."""
    kept = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(change(name, kept[name]))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(kept[name])


def moved_by_rounding(model: Transformer, inputs: Inputs, grads: Tensor) -> float:
    """How far the gradients move, as a share of the largest, where every parameter moves by one rounding."""
    generator = torch.Generator().manual_seed(0)

    def next_to(name: str, value: Tensor) -> Tensor:
        up = torch.randint(2, value.shape, generator=generator).bool()
        return torch.nextafter(value, torch.where(up, torch.inf, -torch.inf).to(value))

    with other_values(model, next_to):
        moved = with_gradients(model, inputs)[1]
    return float((moved - grads).abs().max() / grads.abs().max())


def executions(model: Transformer, only: object = None) -> Iterator[tuple[str, Transformer]]:
    """The same model with each value (or that one) of each execution option, all parts that have it alike.

    Each with its option and value, `kernel=sdpa`.
    """
    held = {type(section) for _, section in sections_within(model.config)}
    options = [(section, name) for section in held for name in options_of(section, execution=True)]
    for section, name in sorted(options, key=str):
        if name == "cache":  # of generation, which other properties look at
            continue
        for value in [value for value in values_of(section, name) if only in (None, value)]:
            if value == "flex":  # is compiled for every shape: test_flex.py
                continue
            try:
                other = build(changed(model.config, section, name, value)).double().eval()
            except WeftError as error:
                if str(error).startswith(f"{getattr(section, 'slot', '')}.{name}: {value}: "):
                    continue  # a kernel that lacks what the score needs
                raise
            other.load_state_dict(model.state_dict())
            yield f"{name}={value}", other

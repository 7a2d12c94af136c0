"""What must hold of every model, whatever its parts: each property takes a small float64 model; PropertyError if not.

`weft check` holds a user's part to all of them, the tests every combination of registered parts.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.checking.compare import (
    BOTH,
    PropertyError,
    close,
    ensure,
    executions,
    logits,
    moved_by_rounding,
    reads,
    run,
    source_of,
    tokens,
    whole_answer,
    with_gradients,
)
from weft.errors import WeftError
from weft.models.build import build
from weft.models.transformer import Transformer
from weft.nn import Inputs, RingEntry

Holds = Callable[[Transformer], None]


@dataclass(frozen=True)
class Property:
    """A property, and of which models it is asked."""

    name: str
    says: str
    """What holds, in a sentence."""
    holds: Holds
    stacks: tuple[str, ...]
    """Models without these stacks are not asked."""
    rests_on: tuple[str, ...]
    """Where one of these does not hold, this one cannot."""

    def __call__(self, model: Transformer) -> None:
        """Raises PropertyError where the property does not hold."""
        if reads(model, *self.stacks):
            self.holds(model)


PROPERTIES: dict[str, Property] = {}
WRITING = ("decoder",)


def holds_of(*stacks: str, rests_on: tuple[str, ...] = ("starts_alike",)) -> Callable[[Holds], Holds]:
    """Hold every model that has these stacks to this property."""

    def register(function: Holds) -> Holds:
        name, says = function.__name__, (function.__doc__ or "").partition("\n")[0]
        PROPERTIES[name] = Property(name, says, function, stacks, rests_on)
        return function

    return register


@holds_of(rests_on=())
def starts_alike(model: Transformer) -> None:
    """Built twice, it starts from the same finite values, and says the same."""
    first, second = _filled(model), _filled(model)
    others = dict(second.named_parameters())
    for name, value in first.named_parameters():
        ensure(value.isfinite().all(), f"{name} has no starting value")
        ensure(torch.equal(value, others[name]), f"{name} starts otherwise each time")
    for name, buffer in first.named_buffers():
        ensure(buffer.isfinite().all(), f"the buffer {name} is not computed again after a build without memory")
    x_BT = tokens(model, 2, 5)
    out = logits(first, x_BT)
    ensure(torch.equal(out, logits(first, x_BT)), "the same input gives another output the second time")
    ensure(torch.equal(out, logits(second, x_BT)), "two models with the same parameters say different things")


def _filled(model: Transformer) -> Transformer:
    """The same declaration built anew, in memory that is NaN wherever nothing was written."""
    before = torch.get_deterministic_debug_mode()  # use_deterministic_algorithms would import torch's compilers
    torch.set_deterministic_debug_mode("warn")
    try:
        return build(model.config).eval()
    finally:
        torch.set_deterministic_debug_mode(before)


@holds_of(*WRITING)
def causal(model: Transformer) -> None:
    """A token changes nothing before it, and something where it stands."""
    x_BT = tokens(model, 4, 7)
    before = logits(model, x_BT)
    for place in (1, 4, 6):
        changed_BT = x_BT.clone()
        changed_BT[:, place] = (x_BT[:, place] + 1) % 11
        moved_T = (logits(model, changed_BT) - before).abs().amax((0, 2)) / before.abs().max()
        ensure(moved_T.isfinite().all(), "not finite")
        earlier = (moved_T[:place] > 1e-12).nonzero()
        ensure(not len(earlier), f"token {place} changes what is said at {earlier[0, 0] if len(earlier) else 0}")
        ensure(moved_T[place] > 1e-9, f"token {place} is not seen at {place}")


@holds_of()
def rows_alone(model: Transformer) -> None:
    """The other rows of a batch, and their order, change nothing."""
    x_BT = tokens(model, 3, 6)
    x_BT[:, 0] = torch.tensor([1, 5, 9])  # sources of one length: padding is another matter
    whole, said = whole_answer(model, x_BT)
    close(logits(model, x_BT[[2, 0, 1]]), whole[[2, 0, 1]], 1e-12)
    for row in range(3):
        alone, (answer,) = whole_answer(model, x_BT[row, None])
        close(alone[0], whole[row], 1e-12)
        close(answer, said[row], 1e-12)


@holds_of(rests_on=("causal", "rows_alone"))
def padded(model: Transformer) -> None:
    """Padding changes nothing at the tokens, wherever it is and whatever stands in it."""
    x_BT = tokens(model, 3, 10, seed=1)
    starts, ends = torch.tensor([4, 0, 2]), torch.tensor([10, 7, 9])
    places = torch.arange(10)
    valid_BT = (places >= starts[:, None]) & (places < ends[:, None])
    inputs = Inputs(tokens_BT=x_BT, valid_BT=valid_BT)
    found, said = whole_answer(model, inputs)
    ensure(found.isfinite().all(), "padding gave what is no number")
    for row in range(3):
        alone, (answer,) = whole_answer(model, x_BT[row, valid_BT[row]][None])
        close(found[row, valid_BT[row]], alone[0])
        close(said[row], answer)


@holds_of(*BOTH, rests_on=("padded",))
def source_padded(model: Transformer) -> None:
    """Padding of the source changes nothing either."""
    x_BT, source_BS = tokens(model, 3, 5), tokens(model, 3, 8, seed=1)
    places = torch.arange(8)
    starts, ends = torch.tensor([3, 0, 2]), torch.tensor([8, 4, 7])
    valid_BS = (places >= starts[:, None]) & (places < ends[:, None])
    found = logits(model, x_BT, source=Inputs(tokens_BT=source_BS, valid_BT=valid_BS))
    for row in range(3):
        source = source_BS[row, valid_BS[row]][None]
        close(found[row], logits(model, x_BT[row, None], source=source)[0])


@holds_of(*BOTH)
def source_seen(model: Transformer) -> None:
    """Every token of the source changes what every token of the target tells."""
    x_BT, source_BS = tokens(model, 4, 3), tokens(model, 4, 5, seed=1)
    before = logits(model, x_BT, source=source_BS)
    for place in range(5):
        changed_BS = source_BS.clone()
        changed_BS[:, place] = (source_BS[:, place] + 1) % 11
        moved_BT = (logits(model, x_BT, source=changed_BS) - before).abs().amax((0, 2))
        ensure((moved_BT > 1e-8).all(), f"source token {place} is not seen")


@holds_of(*BOTH)
def encoded_once(model: Transformer) -> None:
    """What `encode` makes of a source stands for it."""
    x_BT = tokens(model, 3, 5)
    source = source_of(Inputs(tokens_BT=x_BT))
    with torch.no_grad():
        memory = model.encode(source)
    close(logits(model, x_BT, source=memory), logits(model, x_BT, source=source), 1e-14)


@holds_of(rests_on=("causal", "rows_alone"))
def documents_apart(model: Transformer) -> None:
    """Documents packed into a row do not see each other."""
    lengths = [[3, 5], [6, 2], [1, 4, 3]]
    x_BT = tokens(model, 3, 8)
    documents_BT = torch.tensor([[n for n, length in enumerate(row) for _ in range(length)] for row in lengths])
    positions_BT = torch.tensor([[place for length in row for place in range(length)] for row in lengths])
    packed = logits(model, Inputs(tokens_BT=x_BT, documents_BT=documents_BT, positions_BT=positions_BT))
    for row, held in enumerate(lengths):
        alone = [logits(model, piece[None])[0] for piece in x_BT[row].split(held)]
        close(packed[row], torch.cat(alone))


@holds_of(*WRITING, rests_on=("causal", "rows_alone"))
def cached(model: Transformer) -> None:
    """In pieces through a cache = at once."""
    x_BT = tokens(model, 2, 7)
    whole = logits(model, x_BT)
    for size in (1, 4):
        cache = model.new_cache(2)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(size, dim=1)], dim=1), whole)
        ensure(cache.lengths == [7, 7], f"the cache counts {cache.lengths} tokens instead of [7, 7]")


@holds_of(*WRITING, rests_on=("cached",))
def cached_beyond_a_window(model: Transformer) -> None:
    """The same where a cache keeps nothing more than a window, also in longer pieces."""
    if not any(isinstance(entry, RingEntry) for entry in model.new_cache(2).entries):
        return
    x_BT = tokens(model, 2, 12)
    whole = logits(model, x_BT)
    for sizes in (1, [3, 5, 1, 2, 1]):
        cache = model.new_cache(2, slack=0)
        close(torch.cat([logits(model, piece, cache) for piece in x_BT.split(sizes, dim=1)], dim=1), whole)


@holds_of(*WRITING, rests_on=("padded", "cached"))
def cached_ragged(model: Transformer) -> None:
    """Rows of unequal lengths go on in one cache as each would alone."""
    x_BT, lengths = tokens(model, 3, 9), [3, 6, 1]
    alone = [logits(model, x_BT[row : row + 1, : length + 2])[0] for row, length in enumerate(lengths)]
    for left in (True, False):
        prompts_BT, valid_BT = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.bool)
        for row, length in enumerate(lengths):
            place = slice(6 - length, 6) if left else slice(0, length)
            prompts_BT[row, place], valid_BT[row, place] = x_BT[row, :length], True
        cache = model.new_cache(3)
        prompt = logits(model, Inputs(tokens_BT=prompts_BT, valid_BT=valid_BT), cache)
        following = [torch.stack([x_BT[row, length + step] for row, length in enumerate(lengths)]) for step in (0, 1)]
        steps = torch.cat([logits(model, step[:, None], cache) for step in following], dim=1)
        for row in range(3):
            close(torch.cat([prompt[row, valid_BT[row]], steps[row]]), alone[row])


@holds_of(*WRITING, rests_on=("cached",))
def same_greedy_tokens(model: Transformer) -> None:
    """In float32, greedy tokens are the same with and without a cache."""
    model = deepcopy(model).float()
    text = plain = tokens(model, 2, 3)
    cache = model.new_cache(2)
    step = text
    for _ in range(6):
        step = logits(model, step, cache)[:, -1:].argmax(-1)
        text = torch.cat([text, step], dim=1)
        plain = torch.cat([plain, logits(model, plain)[:, -1:].argmax(-1)], dim=1)
    ensure(torch.equal(text, plain), f"{text.tolist()} with a cache, {plain.tolist()} without")


def refuses(model: Transformer, length: int, cache: object = None) -> None:
    """PropertyError unless the model says in one clear line that so many tokens are beyond its limit."""
    try:
        logits(model, tokens(model, 2, length), cache)
    except WeftError as error:
        ensure(str(model.limit()) in str(error), f"what refuses a longer text does not name the limit: {error}")
        return
    raise PropertyError(f"{length} more tokens are taken, beyond the limit of {model.limit()}")


@holds_of()
def numbered_to_the_limit(model: Transformer) -> None:
    """Positions that end refuse what is beyond them; the others go on.

    A cache stays as it was.
    """
    limit, beyond = model.limit(), (model.limit() or model.config.max_length) + 1
    if limit is None:
        ensure(logits(model, tokens(model, 1, beyond)).isfinite().all(), f"not finite in a text of {beyond} tokens")
        return
    refuses(model, beyond)
    if not reads(model, *WRITING):
        return
    cache = model.new_cache(2)
    close(logits(model, tokens(model, 2, limit), cache), logits(model, tokens(model, 2, limit)))
    refuses(model, 1, cache)
    ensure(cache.lengths == [limit, limit], "a token that was refused is counted in the cache")


@holds_of()
def computed_alike(model: Transformer) -> None:
    """Kernels change neither outputs nor gradients, plain or packed and padded."""
    documents_BT = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    valid_BT = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)
    x_BT = tokens(model, 2, 6)
    batches = [Inputs(tokens_BT=x_BT), Inputs(tokens_BT=x_BT, documents_BT=documents_BT, valid_BT=valid_BT)]
    expected = [with_gradients(model, inputs) for inputs in batches]
    for name, other in executions(model):
        for inputs, (out, grads) in zip(batches, expected, strict=True):
            other_out, other_grads = with_gradients(other, inputs)
            try:
                close(other_out, out)
                try:
                    close(other_grads, grads)
                except PropertyError:  # without norms some models are steeper than 1e-10 allows
                    close(other_grads, grads, 4 * moved_by_rounding(model, inputs, grads))
            except PropertyError as error:
                raise PropertyError(f"{name}: {error}") from None


@holds_of()
def every_parameter_learns(model: Transformer) -> None:
    """No parameter is left out of the computation."""
    model.zero_grad()
    output = run(model, tokens(model, 2, 6))
    losses: list[Tensor] = [head(output.x_BTD).square().sum() for head in model.heads.values()]
    torch.stack(losses).sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    ensure(not idle, f"never used: {', '.join(idle)}")

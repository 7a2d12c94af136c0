"""What every part at work shares: declared initialisation and cost, taps that a listener may read, emitted terms."""

from __future__ import annotations

import fnmatch
import logging
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from weft.errors import WeftError
from weft.nn.initialization import Initialization
from weft.seeds import derive

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Dims:
    """What a part may know of its surroundings when it is built; no part sees the whole model's declaration."""

    d_model: int
    max_length: int
    vocab_size: int
    n_layers: int = 1
    depth: int = 1
    """Place of the layer in its stack, 1 ... n_layers."""
    init_std: float = 0.02
    dropout: float = 0.0
    causal: bool = True
    """Whether a position of the stack sees what came before it only, so that generation may keep keys and values."""
    across: bool = False
    """Whether there is an encoder's output that the stack's blocks read."""
    heads: frozenset[int] = frozenset()
    """Numbers of heads of the attentions that a scheme of positions serves."""
    init_residual: float | None = None
    """How far the last matrix of a residual branch starts from zero, where the declaration says it."""

    @property
    def narrow_std(self) -> float:
        """How far the last matrix of a residual branch starts from zero: smaller, the more branches a stack adds up.

        All branches together are then no wider than one (Radford et al. 2019, section 2.3); a block has two, with
        cross-attention three.
        """
        if self.init_residual is not None:
            return self.init_residual
        return self.init_std / math.sqrt((3 if self.across else 2) * self.n_layers)


@dataclass(frozen=True)
class Cost:
    """What a part costs: parameters; forward FLOPs per token (a multiply-add is 2); cached numbers per token.

    A window's cache ends growing, so what it holds per token (of a text of some length) may be no whole number.
    """

    parameters: int = 0
    flops: int = 0
    cache: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.flops + other.flops, self.cache + other.cache)


@dataclass(frozen=True)
class Term:
    """A loss term or statistic as a sum and the count that it is to be divided by (globally)."""

    total: Tensor
    count: Tensor

    def __add__(self, other: Term) -> Term:
        return Term(self.total + other.total, self.count + other.count)


Terms = dict[str, Term]


def add_terms(terms: Terms, more: Terms) -> None:
    """Add `more` to `terms`, name by name."""
    for name, term in more.items():
        terms[name] = terms[name] + term if name in terms else term


_collected: ContextVar[Terms | None] = ContextVar("collected", default=None)


@contextmanager
def collecting() -> Iterator[Terms]:
    """Gather what parts emit meanwhile: a fresh mapping each time, so that recomputing a block repeats nothing."""
    terms: Terms = {}
    token = _collected.set(terms)
    try:
        yield terms
    finally:
        _collected.reset(token)


Listener = Callable[[str, Tensor], Tensor | None]


class Module(nn.Module):
    """A part at work. Its parameters are declared with how they start; its cost is declared beside them."""

    taps: ClassVar[tuple[str, ...]] = ()
    """Names of the values that this part offers to listeners."""
    unfused_taps: ClassVar[tuple[str, ...]] = ()
    """Those that a fused kernel does not have: while somebody listens, `auto` chooses `reference`."""
    frozen = False
    """Whether this part, with all inside it, computes as in evaluation in training too, and does not move."""

    def __init__(self) -> None:
        super().__init__()
        self._initializations: dict[str, Initialization] = {}
        self._listeners: dict[str, list[tuple[str, Listener]]] = {}

    def parameter(self, name: str, shape: tuple[int, ...], initialization: Initialization) -> nn.Parameter:
        """Declare a parameter and how it starts; its values come with `reset_parameters`."""
        self._initializations[name] = initialization
        return nn.Parameter(torch.empty(shape))

    def reset_parameters(self, seed: int, path: str) -> None:
        """Draw this part's own parameters, each in float32 on the CPU from the stream named after its path.

        So models that share a parameter share its start, whatever else differs between them.
        """
        for name, initialization in self._initializations.items():
            parameter = getattr(self, name)
            generator = torch.Generator().manual_seed(derive(seed, "init", f"{path}.{name}".lstrip(".")))
            values = initialization.draw(tuple(parameter.shape), generator)
            with torch.no_grad():
                parameter.copy_(values)

    def reset_buffers(self) -> None:
        """Compute this part's own buffers again after a build on the meta device."""

    def cost(self, length: int) -> Cost:
        """This part's own cost, without its children's, in a text of `length` tokens."""
        return Cost()

    def emit(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add a loss term or statistic; the block around this part returns it by value, beside x."""
        terms = _collected.get()
        assert terms is not None, f"{name} was emitted outside of a block, where nobody gathers it"
        add_terms(terms, {name: Term(total, count)})

    def tap(self, name: str, value: Tensor) -> Tensor:
        """Show `value` to whoever listens to `name`, who may replace it; free when nobody does."""
        for path, listener in self._listeners.get(name, ()):
            replaced = listener(path, value)
            value = value if replaced is None else replaced
        return value

    def heard(self, name: str) -> bool:
        """Whether somebody listens to `name`: a fused kernel may have to step aside."""
        return bool(self._listeners.get(name))

    def train(self, mode: bool = True) -> Self:
        """As torch's, but a frozen part stays in evaluation."""
        return super().train(mode and not self.frozen)

    def after_step(self) -> None:
        """Called once after each optimizer step, unless the part is frozen."""


def tap_paths(model: nn.Module) -> Iterator[tuple[str, Module, str]]:
    """Every tap of a model: its path (module path and name), the part, the name."""
    for path, module in model.named_modules():
        if isinstance(module, Module):
            for name in module.taps:
                yield f"{path}.{name}".lstrip("."), module, name


@contextmanager
def listen(model: nn.Module, pattern: str, listener: Listener) -> Iterator[list[str]]:
    """Call `listener(path, value)` for every tap whose path fits `pattern` (`decoder.blocks.*.attention.weights`).

    What the listener returns, unless None, replaces the value. Yields the paths that fit.
    Raises WeftError when none does.
    """
    found = [tap for tap in tap_paths(model) if fnmatch.fnmatchcase(tap[0], pattern)]
    if not found:
        known = sorted({re.sub(r"\.\d+\.", ".*.", path) for path, *_ in tap_paths(model)})
        raise WeftError(f"{pattern}: no tap has such a path (known: {', '.join(known)})")
    unfused = [path for path, module, name in found if name in module.unfused_taps]
    if unfused:
        logger.info("%s: no fused kernel has it, so kernel `auto` uses `reference` while it is listened to", pattern)
    for path, module, name in found:
        module._listeners.setdefault(name, []).append((path, listener))
    try:
        yield [path for path, *_ in found]
    finally:
        for path, module, name in found:
            module._listeners[name].remove((path, listener))


def materialize(model: nn.Module, seed: int, device: torch.device | str = "cpu") -> None:
    """Give a model that was built on the meta device its memory, its starting values and its buffers."""
    # as `to_empty`, which asks for a tensor like one on the meta device, and that goes through Python
    model._apply(lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype, device=device))
    for path, module in model.named_modules():
        if isinstance(module, Module):
            module.reset_parameters(seed, path)
            module.reset_buffers()

"""Where a step's time and memory go: each part of the model forward and backward, and what a step does beside them.

Every module's forward is a span of torch's profiler; an operation belongs to the innermost span around it, and what
backward does belongs to the operation that it is the derivative of.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, record_function

from weft.models.transformer import Transformer
from weft.training.loop import CLIP, DATA, OPTIMIZER, Training, span

GRADIENTS, REST = "gradients", "rest"
"""Adding gradients up where a parameter has several; all that no span encloses, Python's own time with it."""
_SPAN = span("").name
_MATRICES = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::addmm_", "aten::_mkl_linear")


@dataclass
class PartTime:
    """One part of a step, layers together; seconds and bytes a step."""

    path: str
    """module path with * for the layer; or what a step does beside the model"""
    slot: str
    """embedding, attention, feedforward, norm, head ...; or what a step does beside the model"""
    forward: float = 0.0
    backward: float = 0.0
    matrices: float = 0.0
    """seconds of both in matrix products"""
    kept: int = 0
    """bytes kept for backward: activations, without the parameters"""

    @property
    def seconds(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward


@dataclass
class Profile:
    """What `steps` steps showed, a step."""

    steps: int
    tokens: int
    """tokens a step"""
    seconds: float
    """by the clock, without the profiler"""
    parts: list[PartTime] = field(default_factory=list)

    def slots(self) -> list[PartTime]:
        """The same by slot, the longest first."""
        sums: dict[str, PartTime] = {}
        for part in self.parts:
            found = sums.setdefault(part.slot, PartTime(part.slot, part.slot))
            found.forward += part.forward
            found.backward += part.backward
            found.matrices += part.matrices
            found.kept += part.kept
        return sorted(sums.values(), key=lambda part: -part.seconds)

    def data(self) -> dict[str, Any]:
        """As plain data, for --json."""

        def plain(part: PartTime) -> dict[str, Any]:
            return {**vars(part), "share": part.seconds / self.measured}

        return {
            "steps": self.steps,
            "tokens_per_step": self.tokens,
            "seconds_per_step": self.seconds,
            "slots": [plain(part) for part in self.slots()],
            "parts": [plain(part) for part in self.parts],
        }

    @property
    def measured(self) -> float:
        """Seconds a step that the profiler saw: of what shares are shares."""
        return sum(part.seconds for part in self.parts) or 1.0


def profile(training: Training, steps: int = 5) -> Profile:
    """Profile `steps` steps after two to warm up; leaves `training` spoilt."""
    training.total = max(training.total, training.step + 2 * steps + 3)
    for _ in range(2):
        training.advance()
    started = time.perf_counter()
    for _ in range(steps):
        training.advance()
    seconds = (time.perf_counter() - started) / steps
    kept = _kept(training)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
    with _spans(training.model), torch.profiler.profile(activities=activities) as profiler:
        began = time.perf_counter()
        for _ in range(steps):
            training.advance()
        whole = time.perf_counter() - began
    parts = _attribute(profiler.events() or [], training)
    for path, amount in kept.items():
        _part(parts, path, training.model).kept = amount
    if not training.machine.device.startswith("cuda"):
        accounted = sum(part.seconds for part in parts.values())
        _part(parts, REST, training.model).forward += max(0.0, whole - accounted)
    for part in parts.values():
        part.forward, part.backward, part.matrices = (x / steps for x in (part.forward, part.backward, part.matrices))
    order = {_starred(path): number for number, (path, _) in enumerate(training.model.named_modules())}
    listed = sorted(parts.values(), key=lambda part: order.get(part.path, len(order)))
    return Profile(steps, training.tokens_per_step, seconds, listed)


def _attribute(events: list[FunctionEvent], training: Training) -> dict[str, PartTime]:
    """Each operation's own time to the part that it belongs to."""
    on_device = training.machine.device.startswith("cuda")
    parts: dict[str, PartTime] = {}
    authors: dict[int, str] = {}  # of the operations that backward derives, by their number in autograd's sequence
    for event in events:
        path = _span(event)
        if path is not None and event.sequence_nr >= 0:
            authors[event.sequence_nr] = path  # an operation without derivative before it names the same number
    for event in events:
        own = event.self_device_time_total if on_device else event.self_cpu_time_total
        root = _backward_root(event)
        if root is not None:
            path = GRADIENTS if "AccumulateGrad" in root.name else authors.get(root.sequence_nr, _span(root) or REST)
        else:
            path = _span(event) or REST
        part = _part(parts, path, training.model)
        if root is None:
            part.forward += own / 1e6
        else:
            part.backward += own / 1e6
        if event.name in _MATRICES:
            part.matrices += own / 1e6
    return parts


def _span(event: FunctionEvent) -> str | None:
    """The innermost of our spans around an event."""
    around: FunctionEvent | None = event
    while around is not None:
        if around.name.startswith(_SPAN):
            return around.name.removeprefix(_SPAN)
        around = around.cpu_parent
    return None


def _backward_root(event: FunctionEvent) -> FunctionEvent | None:
    """The node of the graph that an event of backward belongs to; None in the forward."""
    around: FunctionEvent | None = event
    while around is not None:
        if around.name.startswith("autograd::engine::evaluate_function"):
            return around
        around = around.cpu_parent
    return None


def _part(parts: dict[str, PartTime], path: str, model: Transformer) -> PartTime:
    starred = _starred(path)
    return parts.setdefault(starred, PartTime(starred, _slot(path, model)))


def _starred(path: str) -> str:
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)


def _slot(path: str, model: Transformer) -> str:
    """Which slot of the declaration a module fills."""
    names = path.split(".")
    if path in (DATA, CLIP, OPTIMIZER, GRADIENTS, REST):
        return path
    if names[0] in ("heads", "embedding"):
        return names[0].removesuffix("s")
    inner = next((name for name in names[1:] if name not in ("blocks",) and not name.isdigit()), None)
    return "residual" if inner is None else "norm" if inner.endswith("norm") else inner


@contextmanager
def _spans(model: Transformer) -> Iterator[None]:
    """Around each module's forward, and each head's loss, a span with its path."""
    with ExitStack() as undo:
        for path, module in model.named_modules():
            if path and not isinstance(module, nn.ModuleList | nn.ModuleDict):
                for handle in _hooks(module, path):
                    undo.callback(handle.remove)
        for name, head in model.heads.items():
            undo.enter_context(_spanned(head, "loss", f"heads.{name}"))
        yield


def _hooks(module: nn.Module, path: str) -> list[Any]:
    open_spans: list[record_function] = []

    def enter(module: nn.Module, inputs: Any) -> None:
        open_spans.append(span(path))
        open_spans[-1].__enter__()

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        open_spans.pop().__exit__(None, None, None)

    return [module.register_forward_pre_hook(enter, prepend=True), module.register_forward_hook(leave)]


@contextmanager
def _spanned(owner: Any, name: str, label: str) -> Iterator[None]:
    """The method of that name runs within a span."""
    method: Callable[..., Any] = getattr(owner, name)

    def spanned(*args: Any, **options: Any) -> Any:
        with span(label):
            return method(*args, **options)

    setattr(owner, name, spanned)
    try:
        yield
    finally:
        delattr(owner, name)


def _kept(training: Training) -> dict[str, int]:
    """Bytes that each part keeps for backward, in one more step: every storage once, where it is first kept."""
    found: dict[str, int] = defaultdict(int)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in training.model.parameters()}
    seen: dict[int, Tensor] = {}  # held, so that no address is used twice
    path: list[str] = []

    def pack(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if path and place not in parameters and place not in seen:
            seen[place] = tensor
            found[_starred(path[-1])] += tensor.untyped_storage().nbytes()
        return tensor

    with ExitStack() as undo:
        for name, module in training.model.named_modules():
            if name:
                before = module.register_forward_pre_hook(lambda m, i, name=name: path.append(name), prepend=True)
                after = module.register_forward_hook(lambda m, i, o: path.pop() and None)
                undo.callback(before.remove)
                undo.callback(after.remove)
        undo.enter_context(saved_tensors_hooks(pack, lambda tensor: tensor))
        training.advance()
    return dict(found)

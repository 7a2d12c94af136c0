"""Whether `torch.compile` can follow a model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from weft.checking.compare import close, ensure, executions, tokens, with_gradients
from weft.models.transformer import Transformer


def compiles(model: Transformer, plain: Transformer) -> None:
    """Compiled it gives the same outputs and gradients, in no more pieces than `plain`, a model without the part.

    The graphs are made and differentiated, and computed without a C++ compiler (backend `aot_eager`).
    """
    out, grads = with_gradients(model, tokens(model, 2, 6))
    usual: list[str] = []
    for without in (plain, *(other for _, other in executions(plain, only="reference"))):
        with _traced(without) as breaks:
            usual = max(usual, breaks, key=len)  # without a fused kernel masks are made, which takes some
    with _traced(model) as reasons:
        compiled_out, compiled_grads = with_gradients(model, tokens(model, 2, 6))
    close(compiled_out, out)
    close(compiled_grads, grads)
    more = [reason for reason in reasons if reason not in usual] or reasons
    ensure(
        len(reasons) <= len(usual), f"{len(reasons)} graph breaks, {len(usual)} without it: {more[0] if more else ''}"
    )


@contextmanager
def _traced(model: Transformer) -> Iterator[list[str]]:
    """The model compiled in place, and why its graph broke, once for each place; plain again afterwards."""
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    reasons: list[str] = []
    log = logging.getLogger("torch._dynamo")
    level = log.level
    log.setLevel(logging.ERROR)
    call = model.forward
    try:
        model.forward = torch.compile(call, backend="aot_eager")  # type: ignore[method-assign]
        with_gradients(model, tokens(model, 2, 6))
        breaks = counters["graph_break"]
        reasons += [reason.splitlines()[0] for reason, times in breaks.items() for _ in range(times)]
        yield reasons
    finally:
        del model.forward
        torch._dynamo.reset()
        log.setLevel(level)

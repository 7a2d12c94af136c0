"""Attention alone: weft's blocked kernel beside torch's sdpa and the formula as written, in one run, alternating.

    python benchmarks/attention.py [--quick] [--forward] [--json FILE]

Each system lives in a process of its own. Before anything is timed, outputs and gradients are computed by all of them
and must be equal. Where sdpa has no name for a mask it is given the dense one, made beforehand. The last column says
which kernel weft's `auto` takes there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from typing import Any

from common import Step, System, alternate, cores, finish, machine, parser, table

HEADS, WIDTH, WINDOW, DOCUMENT = 12, 64, 256, 256
"""GPT-2's heads; a window's keys; the mean length of packed documents."""
SYSTEMS = ("blocked", "sdpa", "formula")
LONG = 2048
"""Beyond it the formula takes gigabytes and seconds: left out of a quick run."""


@dataclass(frozen=True)
class Case:
    """One attention of a single row."""

    mask: str
    tokens: int
    precision: str
    backward: bool

    def __str__(self) -> str:
        return f"{self.mask} {self.tokens} {self.precision} {'forward + backward' if self.backward else 'forward'}"


@dataclass
class Work:
    """What a case computes with."""

    q: Any
    k: Any
    v: Any
    weights: Any
    """the gradient of the output"""
    mask: Any
    sides: Any


def work_of(case: Case) -> Work:
    """The case's tensors, laid out as an attention has them: heads cut from the channels."""
    import torch

    from weft.nn.masks import Causal, Near, SameDocument, Sides

    generator = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32

    def heads() -> Any:
        return torch.randn(1, case.tokens, HEADS, WIDTH, generator=generator).to(dtype).transpose(1, 2)

    places, documents = torch.arange(case.tokens), None
    mask = {"causal": Causal(), "window": Causal() & Near(WINDOW), "documents": Causal() & SameDocument()}[case.mask]
    if case.mask == "documents":
        ends = torch.randint(case.tokens, (case.tokens // DOCUMENT,), generator=generator).sort().values
        documents = torch.searchsorted(ends, places)[None]
    sides = Sides(places[None], places[None], None, documents, documents, aligned=True)
    return Work(heads(), heads(), heads(), heads(), mask, sides)


def attention_of(system: str, case: Case, work: Work) -> Callable[[Any, Any, Any], Any]:
    """q, k, v to the output, as that system computes it."""
    import torch
    import torch.nn.functional as F

    from weft.nn import Call, attend
    from weft.nn.scores import SoftmaxWeighting

    if system == "blocked":
        return lambda q, k, v: attend(Call(q, k, v, work.mask, work.sides, SoftmaxWeighting(WIDTH**-0.5)), "blocked")
    if system == "sdpa" and case.mask == "causal":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    dense = work.sides.dense(work.mask)
    if system == "sdpa":
        return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=dense)

    def formula(q: Any, k: Any, v: Any) -> Any:
        scores = (q @ k.transpose(-2, -1) * WIDTH**-0.5).masked_fill(~dense, -torch.inf)
        return scores.softmax(-1) @ v

    return formula


def results_of(system: str, case: Case, work: Work) -> list[Any]:
    """The output, and the gradients of q, k and v if the case asks for them."""
    import torch

    inputs = [x.detach().requires_grad_(case.backward) for x in (work.q, work.k, work.v)]
    with torch.set_grad_enabled(case.backward):
        out = attention_of(system, case, work)(*inputs)
    return [out.detach(), *(torch.autograd.grad(out, inputs, work.weights) if case.backward else ())]


def make(system: str, case: Case) -> Step:
    """One step of that system."""
    from weft import device

    device.keep_memory()  # as `weft train` does; so for all
    work = work_of(case)
    if case.mask != "causal" or system == "formula":
        work.sides.dense(work.mask)

    def step() -> float:
        results_of(system, case, work)
        return 0.0

    return step


def memory_of(system: str, case: Case) -> float:
    """The most MiB that one step's tensors hold at once beside its inputs (a dense mask counts), by torch's account."""
    from torch.profiler import ProfilerActivity, profile

    work = work_of(case)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        results_of(system, case, work)
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes), default=0) / 2**20


def check(case: Case) -> None:
    """All systems compute the same, bf16 within its rounding of what float32 gives.

    Raises SystemExit when one does not.
    """
    work, exact = work_of(case), work_of(replace(case, precision="fp32"))
    for name in ("q", "k", "v", "weights"):  # the same numbers, rounded alike
        setattr(exact, name, getattr(work, name).float())
    expected = results_of("sdpa", replace(case, precision="fp32"), exact)
    limit = 3e-2 if case.precision == "bf16" else 1e-4
    for system in SYSTEMS if case.tokens <= LONG else SYSTEMS[:2]:
        for found, true in zip(results_of(system, case, work), expected, strict=True):
            error = float((found.float() - true).abs().max() / true.abs().max())
            if not error < limit:
                raise SystemExit(f"{case}: {system} is off by {error:.2g} of the largest value: nothing is timed")


def auto_of(case: Case) -> str:
    """The kernel that weft takes by itself."""
    from weft.nn import KERNELS, Call
    from weft.nn.scores import SoftmaxWeighting

    work = work_of(case)
    q, k, v = (x.requires_grad_(case.backward) for x in (work.q, work.k, work.v))
    call = Call(q, k, v, work.mask, work.sides, SoftmaxWeighting(WIDTH**-0.5))
    return next(name for name, kernel in KERNELS.items() if kernel.refuses(call) is None and kernel.pays(call))


def measure(case: Case, threads: int, quick: bool, seconds: float) -> dict[str, Any]:
    """One case: milliseconds, their range, and memory of each system."""
    long = case.tokens > LONG
    check(case)
    systems = [System(name, threads, make, name, case) for name in (SYSTEMS[:2] if quick and long else SYSTEMS)]
    try:
        for system in systems:
            system.run(1)  # warms up
        systems[0].time(1)
        steps = max(1, min(20, int(0.1 / systems[0].seconds.pop())))  # a tenth of a second a sample
        alternate(systems, steps, 3 if quick else 7, time.monotonic() + seconds)
    finally:
        for system in systems:
            system.close()
    base = systems[0].median
    rows = {
        system.name: {
            "ms": 1e3 * system.median,
            "low": 1e3 * min(system.seconds),
            "high": 1e3 * max(system.seconds),
            "samples": len(system.seconds),
            "to_blocked": system.median / base,
            "mib": memory_of(system.name, case),
        }
        for system in systems
    }
    return {"case": asdict(case), "auto": auto_of(case), "systems": rows}


def cases_of(quick: bool, forward: bool, bf16: bool) -> list[Case]:
    """What is measured; bf16 only where the chip computes it fast: emulated, it takes minutes."""
    lengths = {"causal": (256, 512, 1024, 2048, 4096), "window": (1024, 2048, 4096), "documents": (1024, 4096)}
    if quick:
        lengths = {"causal": (1024, 4096), "window": (1024, 4096), "documents": (2048,)}
    modes, precisions = ((False, True) if forward else (True,)), ["bf16"] * bf16 + ["fp32"] * (not (bf16 and quick))
    return [Case(m, t, p, b) for p in precisions for m, ts in lengths.items() for t in ts for b in modes]


def lines_of(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """What the columns are, then one line a case."""
    names = [f"{name} ms" for name in SYSTEMS]
    headers: list[Any] = ["case", *names, "range of blocked", "x sdpa", "x formula", "MiB", "auto"]
    lines = []
    for row in rows:
        found, own = row["systems"], row["systems"]["blocked"]
        lines.append(
            [
                str(Case(**row["case"])),
                *(f"{found[name]['ms']:.1f}" if name in found else "" for name in SYSTEMS),
                f"{own['low']:.1f}-{own['high']:.1f}",
                *(f"{found[name]['to_blocked']:.2f}" if name in found else "" for name in SYSTEMS[1:]),
                " ".join(f"{found[name]['mib']:,.0f}" if name in found else "-" for name in SYSTEMS),
                row["auto"],
            ]
        )
    return [headers, *lines]


def show(rows: list[dict[str, Any]]) -> None:
    """The table, for a person."""
    headers, *lines = lines_of(rows)
    print(table(headers, lines))
    print("x: how many times as long as blocked it takes; MiB: the most that tensors hold at once, in that order")


def main() -> None:
    """Measure all cases and print the table."""
    options_of = parser(__doc__)
    options_of.add_argument("--forward", action="store_true", help="time forward alone, too")
    options = options_of.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler, which counts memory, is to be silent
    from weft.device import fast_bf16

    threads = cores(options)
    cases = cases_of(options.quick, options.forward, fast_bf16("cpu"))
    seconds = (options.seconds or (40 if options.quick else 400)) / len(cases)
    found: dict[str, Any] = {"benchmark": "attention", "machine": machine(threads), "heads": HEADS, "width": WIDTH}
    found["rows"] = []
    for case in cases:
        found["rows"].append(measure(case, threads, options.quick, seconds))
        found["table"] = lines_of(found["rows"])
        finish(options, found)  # what there is, if the next one should fail
    show(found["rows"])


if __name__ == "__main__":
    main()

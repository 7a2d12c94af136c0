"""Training speed: weft beside what a user would pick instead, on the same weights, in one run, alternating.

    python benchmarks/train.py [--quick] [--workload gpt2|small] [--json FILE]

Peers as they ship: a nanoGPT-style loop (eager, float32, torch's default AdamW), Hugging Face's GPT-2 with fused AdamW
(in bf16 autocast where the chip computes bf16 fast). In full mode also both with weft's setting of the allocator, and
the plain loop with fused AdamW: rows without a bar. `products` computes nothing but the step's matrix products.
Before anything is timed, all must compute the same loss.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

from common import Step, System, alternate, cores, finish, machine, parser, table


@dataclass(frozen=True)
class Workload:
    """A GPT-2 of a shape, and a batch."""

    layers: int
    width: int
    heads: int
    length: int
    vocabulary: int
    rows: int
    steps: int
    """steps of a sample"""

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    def __str__(self) -> str:
        return f"{self.layers} x {self.width}, T={self.length}, V={self.vocabulary:,}, B={self.rows}"


WORKLOADS = {
    "gpt2": Workload(12, 768, 12, 512, 50257, 2, steps=1),
    "small": Workload(6, 384, 6, 256, 4096, 16, steps=2),
}
EAGER, HF, WEFT, PRODUCTS = "plain eager fp32", "Hugging Face, fused", "weft", "matrix products alone"


def batches(work: Workload) -> tuple[Any, Any]:
    """A fixed batch of tokens and targets."""
    import torch

    shape = (work.rows, work.length + 1)
    tokens = torch.randint(work.vocabulary, shape, generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def plain_model(work: Workload) -> Any:
    """The plain model with its starting values."""
    import torch
    from peers import PlainGpt

    torch.manual_seed(0)
    return PlainGpt(work.layers, work.width, work.heads, work.length, work.vocabulary)


def peer(work: Workload, kind: str, fused: bool, autocast: bool, allocator: bool) -> Step:
    """A plain loop around the plain or Hugging Face's model."""
    import torch
    from peers import hugging_face

    from weft import device

    if allocator:
        device.keep_memory()
    model = plain_model(work)
    if kind == "hf":
        model = hugging_face(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=fused)
    tokens, targets = batches(work)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            if kind == "hf":
                loss = model(input_ids=tokens, labels=targets, shift_labels=targets).loss
            else:
                loss = model(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def weft(work: Workload, precision: str) -> Step:
    """weft's own step on the same shape and the same weights."""
    import torch

    from weft import Recipe, build, device
    from weft.config import load
    from weft.nn import Inputs
    from weft.objectives import Batch, Learner
    from weft.training.loop import clip_gradients

    device.keep_memory()  # as `weft train` does
    options = {"kind": "dot-product", "n_heads": work.heads, "bias": True}
    block = {"attention": options, "feedforward": {"kind": "gelu", "bias": True}}
    stack = {"n_layers": work.layers, "positions": "learned", "norm": "layer", "block": block}
    shape = {"d_model": work.width, "max_length": work.length, "vocab_size": work.vocabulary}
    declaration = {**shape, "decoder": stack}
    recipe = load(Recipe, {"model": declaration, "optimizer": {"kind": "adamw", "learning_rate": 1e-4}})
    model = build(declaration)
    copy_weights(plain_model(work), model, work)
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    learner = Learner(model, recipe.objective).train()
    optimizer = recipe.optimizer.build(model)
    tokens, targets = batches(work)
    batch = Batch(Inputs(tokens_BT=tokens), targets)

    def step() -> float:
        loss = learner.loss(learner(batch), recipe.objective.counts(batch))
        loss.backward()
        clip_gradients(model, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def copy_weights(plain: Any, model: Any, work: Workload) -> None:
    """The plain model's weights into weft's, the fused matrix cut in three."""
    import torch

    theirs, mine = plain.state_dict(), dict(model.named_parameters())
    found = {
        "embedding.tokens.weight": theirs["tokens.weight"],
        "decoder.positions.table.weight": theirs["positions.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"decoder.norm.{kind}"] = theirs[f"norm.{kind}"]
        for layer in range(work.layers):
            here, there = f"decoder.blocks.{layer}", f"blocks.{layer}"
            q, k, v = theirs[f"{there}.qkv.{kind}"].split(work.width)
            found |= {f"{here}.attention.{n}.{kind}": x for n, x in (("query", q), ("key", k), ("value", v))}
            pairs = {"attention.output": "out", "feedforward.up": "up", "feedforward.down": "down"}
            pairs |= {"attention_norm": "norm_1", "feedforward_norm": "norm_2"}
            found |= {f"{here}.{a}.{kind}": theirs[f"{there}.{b}.{kind}"] for a, b in pairs.items()}
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(found.pop(name))
    assert not found, f"not copied: {list(found)}"


def products(work: Workload, precision: str) -> Step:
    """The matrix products of a step, forward and backward, with attention's: what is left if all else cost nothing."""
    import torch

    from weft import device

    device.keep_memory()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokens, width = work.tokens, work.width
    layer = [(width, width)] * 4 + [(width, 4 * width), (4 * width, width)]
    shapes = {shape: work.layers * layer.count(shape) for shape in set(layer)} | {(width, work.vocabulary): 1}
    tensors = {
        (k, n): [torch.randn(*shape, dtype=dtype) for shape in ((tokens, k), (n, k), (tokens, n))] for k, n in shapes
    }
    heads = work.rows * work.heads
    q, k = (torch.randn(heads, work.length, width // work.heads, dtype=dtype) for _ in range(2))
    weights = torch.randn(heads, work.length, work.length, dtype=dtype)

    def step() -> float:
        for shape, times in shapes.items():
            x, w, g = tensors[shape]
            for _ in range(times):
                x @ w.t()
                g @ w
                g.t() @ x
        for _ in range(work.layers):  # half of each would be enough under a causal mask
            for _ in range(2):  # forward: scores, mixing; backward: their two derivatives each
                q @ k.transpose(1, 2)
            for _ in range(4):
                weights @ q
        return 0.0

    return step


def systems_of(work: Workload, threads: int, precision: str, bare: bool) -> list[System]:
    """One group that is timed in turn: as they ship, or with another allocator or optimizer."""
    autocast = precision == "bf16"
    own = [System(WEFT, threads, weft, work, precision)]
    if bare:
        return [
            System(EAGER, threads, peer, work, "plain", False, False, False),
            System(HF, threads, peer, work, "hf", True, autocast, False),
            *own,
            System(PRODUCTS, threads, products, work, precision),
        ]
    return [
        System("plain eager fp32 + allocator", threads, peer, work, "plain", False, False, True),
        System("Hugging Face, fused + allocator", threads, peer, work, "hf", True, autocast, True),
        System("plain, fused", threads, peer, work, "plain", True, False, False),
        *own,
    ]


def measure(work: Workload, threads: int, precision: str, bare: bool, rounds: int, seconds: float) -> list[System]:
    """Time one group; the first losses must agree."""
    deadline = time.monotonic() + seconds
    systems = systems_of(work, threads, precision, bare)
    try:
        first = {system.name: system.run(1)[0] for system in systems}  # warms up, too
        true = first[systems[0].name]
        for name, loss in first.items():
            near = 1e-4 if precision == "fp32" or name.startswith("plain") else 2e-2
            if name != PRODUCTS and not abs(loss - true) < near * max(1.0, abs(true)):
                raise SystemExit(f"{name}: its first loss is {loss}, not {true}: nothing is timed")
        alternate(systems, work.steps, rounds, deadline)
    finally:
        for system in systems:
            system.close()
    return systems


def rows_of(work: Workload, systems: list[System], best: float | None, eager: float | None) -> list[dict[str, Any]]:
    """Medians, ranges and ratios within the group; a ratio is of medians of one run."""
    rows = []
    for system in systems:
        rates = sorted(work.tokens / seconds for seconds in system.seconds)
        rate = statistics.median(rates)
        rows.append(
            {
                "system": system.name,
                "tokens_per_second": rate,
                "low": rates[0],
                "high": rates[-1],
                "samples": len(rates),
                "to_eager": rate / eager if eager else None,
                "to_best_peer": rate / best if best else None,
                "peak_mib": round(system.peak),
            }
        )
    return rows


def compare(name: str, threads: int, precision: str, quick: bool, seconds: float) -> dict[str, Any]:
    """One workload, all its groups."""
    work = WORKLOADS[name]
    rounds = 5 if quick else 9
    systems = measure(work, threads, precision, True, rounds, seconds if quick else seconds / 2)
    rates = {system.name: work.tokens / system.median for system in systems}
    rows = rows_of(work, systems, max(rates[EAGER], rates[HF]), rates[EAGER])
    result = {
        "workload": str(work),
        **asdict(work),
        "rows": rows,
        "limit_share": rates[WEFT] / rates[PRODUCTS],
        "others": [],
    }
    if not quick:
        others = measure(work, threads, precision, False, rounds, seconds / 2)
        again = next(work.tokens / system.median for system in others if system.name == WEFT)
        result["others"] = [
            {**row, "weft_to_it": again / row["tokens_per_second"]} for row in rows_of(work, others, None, None)
        ]
    return result


def show(result: dict[str, Any], precision: str) -> None:
    """Print the finding, then the table; `all.py` finds both in the result."""
    own = next(row for row in result["rows"] if row["system"] == WEFT)
    result["finding"] = (
        f"{result['workload']}: weft ({precision}) is {own['to_eager']:.2f}x eager,"
        f" {own['to_best_peer']:.2f}x the best peer,"
        f" {result['limit_share']:.0%} of the speed of its matrix products alone"
    )
    headers = ["system", "tokens/s", "range", "to eager", "to best peer", "peak MiB"]
    lines = []
    for row in [*result["rows"], *result["others"]]:
        ratios = [f"{row[key]:.2f}x" if row[key] else "" for key in ("to_eager", "to_best_peer")]
        if "weft_to_it" in row:
            ratios = ["", f"weft {row['weft_to_it']:.2f}x"]
        spread = f"{row['low']:,.0f}-{row['high']:,.0f}"
        lines.append([row["system"], f"{row['tokens_per_second']:,.0f}", spread, *ratios, f"{row['peak_mib']:,}"])
    result["table"] = [headers, *lines]
    print(f"\n{result['finding']}\n{table(headers, lines)}", flush=True)


def main() -> None:
    """Time all systems in turn and print the tables."""
    options_of = parser(__doc__)
    options_of.add_argument("--workload", choices=WORKLOADS, help="only this one")
    options = options_of.parse_args()
    from weft.device import fast_bf16

    threads, precision = cores(options), "bf16" if fast_bf16("cpu") else "fp32"
    names = [options.workload] if options.workload else list(WORKLOADS)
    seconds = (options.seconds or (240 if options.quick else 1500)) / len(names)
    found = {"benchmark": "train", "precision": precision, "machine": machine(threads), "workloads": {}}
    for name in names:
        found["workloads"][name] = compare(name, threads, precision, options.quick, seconds)
        show(found["workloads"][name], precision)
        finish(options, found)  # what there is, if the next one should fail


if __name__ == "__main__":
    main()

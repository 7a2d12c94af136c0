"""Training speed: weft beside a plain nanoGPT-style loop of the same shape, in one run, alternating.

    python benchmarks/train.py [--rounds 7] [--steps 3]

Each system lives in a process of its own (so that its peak memory is its own) and computes only while the others wait.
Before anything is timed, both are given the same weights and must compute the same loss.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection

LAYERS, WIDTH, HEADS, LENGTH, VOCABULARY, ROWS = 6, 384, 6, 256, 4096, 16
FP32 = ("plain fp32", "weft fp32")
BF16 = ("plain bf16 autocast, fused AdamW", "weft bf16")
"""Timed only where the chip computes bf16 fast: emulated, a step takes minutes."""

Step = Callable[[], float]


def batches() -> tuple:
    """A fixed batch of tokens and targets."""
    import torch

    tokens = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def plain(autocast: bool) -> Step:
    """The plain loop: eager, whole logits; fp32 and torch's default AdamW as published, or what speeds it up."""
    import torch
    from peers import PlainGpt

    torch.manual_seed(0)
    model = PlainGpt(LAYERS, WIDTH, HEADS, LENGTH, VOCABULARY)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=autocast)
    tokens, targets = batches()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def weft(precision: str) -> Step:
    """weft's own step on the same shape and the same weights."""
    import torch
    from peers import PlainGpt

    from weft import Recipe, build, device
    from weft.config import load
    from weft.nn import Inputs
    from weft.objectives import Batch, Learner

    options = {"kind": "dot-product", "n_heads": HEADS, "bias": True}
    block = {"attention": options, "feedforward": {"kind": "gelu", "bias": True}}
    stack = {"n_layers": LAYERS, "positions": "learned", "norm": "layer", "block": block}
    declaration = {"d_model": WIDTH, "max_length": LENGTH, "vocab_size": VOCABULARY, "decoder": stack}
    recipe = load(Recipe, {"model": declaration, "optimizer": {"kind": "adamw", "learning_rate": 1e-4}})
    model = build(declaration)
    torch.manual_seed(0)
    copy_weights(PlainGpt(LAYERS, WIDTH, HEADS, LENGTH, VOCABULARY), model)
    device.keep_memory()  # as `weft train` does
    model.compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    learner = Learner(model, recipe.objective).train()
    optimizer = recipe.optimizer.build(model)
    tokens, targets = batches()
    batch = Batch(Inputs(tokens_BT=tokens), targets)

    def step() -> float:
        loss = learner.loss(learner(batch), recipe.objective.counts(batch))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def copy_weights(plain_model, model) -> None:
    """The plain model's weights into weft's, the fused matrix cut in three."""
    import torch

    theirs, mine = plain_model.state_dict(), dict(model.named_parameters())
    found = {
        "embedding.tokens.weight": theirs["tokens.weight"],
        "decoder.positions.table.weight": theirs["positions.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"decoder.norm.{kind}"] = theirs[f"norm.{kind}"]
        for layer in range(LAYERS):
            here, there = f"decoder.blocks.{layer}", f"blocks.{layer}"
            q, k, v = theirs[f"{there}.qkv.{kind}"].split(WIDTH)
            found |= {f"{here}.attention.{n}.{kind}": x for n, x in (("query", q), ("key", k), ("value", v))}
            pairs = {"attention.output": "out", "feedforward.up": "up", "feedforward.down": "down"}
            pairs |= {"attention_norm": "norm_1", "feedforward_norm": "norm_2"}
            found |= {f"{here}.{a}.{kind}": theirs[f"{there}.{b}.{kind}"] for a, b in pairs.items()}
    with torch.no_grad():
        for name, parameter in mine.items():
            parameter.copy_(found.pop(name))
    assert not found, f"not copied: {list(found)}"


def worker(system: str, threads: int, pipe: Connection) -> None:
    """Serve `steps` requests: run that many, answer with seconds, first loss, peak memory."""
    import torch

    torch.set_num_threads(threads)
    makers: dict[str, Callable[[], Step]] = {
        "plain fp32": lambda: plain(False),
        "plain bf16 autocast, fused AdamW": lambda: plain(True),
        "weft fp32": lambda: weft("fp32"),
        "weft bf16": lambda: weft("bf16"),
    }
    step = makers[system]()
    while (steps := pipe.recv()) is not None:
        started = time.perf_counter()
        losses = [step() for _ in range(steps)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        pipe.send((time.perf_counter() - started, losses, peak))


def main() -> None:
    """Time all systems in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="how often each system is timed")
    parser.add_argument("--steps", type=int, default=3, help="steps a round")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from weft.device import fast_bf16

    systems = (*FP32, *BF16) if fast_bf16("cpu") else FP32
    context, pipes, processes = get_context("spawn"), {}, []
    for system in systems:
        pipes[system], theirs = context.Pipe()
        processes.append(context.Process(target=worker, args=(system, options.threads, theirs), daemon=True))
        processes[-1].start()
    peaks, first, rates = {}, {}, {system: [] for system in systems}
    for system, pipe in pipes.items():  # warm-up; the first losses must agree
        pipe.send(2)
        _, first[system], peaks[system] = pipe.recv()
    for system, losses in first.items():
        tolerance = 1e-4 if system.endswith("fp32") else 2e-2
        for mine, true in zip(losses, first["plain fp32"], strict=True):
            assert abs(mine - true) < tolerance, f"{system}: losses {losses} are not {first['plain fp32']}"
    for _ in range(options.rounds):
        for system, pipe in pipes.items():
            pipe.send(options.steps)
            seconds, _, peaks[system] = pipe.recv()
            rates[system].append(options.steps * ROWS * LENGTH / seconds)
    for pipe in pipes.values():
        pipe.send(None)
    show(rates, peaks, first, options)


def show(rates: dict, peaks: dict, first: dict, options: argparse.Namespace) -> None:
    """Medians, ranges and ratios within this run."""
    base = statistics.median(rates["plain fp32"])
    rows = [
        {
            "system": system,
            "tokens_per_second": round(statistics.median(values)),
            "range": [round(min(values)), round(max(values))],
            "ratio": round(statistics.median(values) / base, 2),
            "peak_mib": round(peaks[system]),
            "first_loss": first[system][0],
        }
        for system, values in rates.items()
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    import torch

    shape = f"{LAYERS} x {WIDTH}, T={LENGTH}, V={VOCABULARY}, {ROWS} rows"
    print(f"{shape}; {options.rounds} rounds of {options.steps} steps; torch {torch.__version__}; {platform.machine()}")
    print(f"{'system':34} {'tokens/s':>9} {'range':>15} {'ratio':>6} {'peak MiB':>9} {'first loss':>11}")
    for row in rows:
        low, high = row["range"]
        print(
            f"{row['system']:34} {row['tokens_per_second']:>9,} {f'{low:,}-{high:,}':>15} {row['ratio']:>5.2f}x"
            f" {row['peak_mib']:>9,} {row['first_loss']:>11.4f}"
        )


if __name__ == "__main__":
    main()

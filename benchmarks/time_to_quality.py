"""Quality for a given time: weft's recipe for tiny Shakespeare beside nanoGPT's published one for a CPU.

    python benchmarks/time_to_quality.py TEXT [--minutes 3] [--seeds 3] [--quick] [--json FILE]

TEXT is tiny Shakespeare's input.txt; its last tenth by characters is held out. The systems compute one after the other
on the same cores with as many threads, each in a fresh process:

  published   nanoGPT's CPU recipe in plain eager PyTorch (4 layers, 4 heads, width 128, context 64, batch 12,
              characters), its 2,000 iterations
  stretched   the same, its schedule stretched over the minutes (a timed probe sets the iterations)
  weft        the bundled recipe `shakespeare` over the same minutes (a timed probe sets the steps)

The clock runs while a system trains: preparing data and building models come before it, and it stands still while a
system is measured. Each token of the held-out text is predicted once, in windows of the system's own context that
overlap by half, so that all but the first have half a context before them at least.

`--quick` is a quarter of a minute for `stretched` and for `weft`, whose schedules end with it, and a fiftieth of the
text held out instead of a tenth; it says so.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

SYSTEMS = ("published", "stretched", "weft")
LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
ITERATIONS, WARMUP, RATE, END = 2000, 100, 1e-3, 1e-4
"""nanoGPT's README, "i only have a macbook", and config/train_shakespeare_char.py; dropout 0."""
PROBE = 20
"""Steps that are timed to set how many fit into the minutes, after five to warm up."""
INTERIM, QUICK_INTERIM = 20, 4
"""How often weft is measured on its way: windows that do not overlap, which is a little worse than the last measure."""
QUICK_MINUTES = 0.25
HELD_OUT, QUICK_HELD_OUT = 0.1, 0.02
"""Share of the text."""
AT_ONCE = 64
"""Windows that the peer is measured on together."""


@dataclass
class Outcome:
    """What one system reached."""

    system: str
    seed: int
    seconds: float
    """of training alone"""
    steps: int
    tokens: int
    """that it was trained on, repeated ones too"""
    parameters: int
    nats: float
    """a token of its own"""
    bits_per_byte: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    """seconds of training, bits per byte"""


class Clock:
    """Seconds that have passed while it ran."""

    def __init__(self) -> None:
        self.seconds, self.started = 0.0, time.perf_counter()

    def stop(self) -> float:
        self.seconds += time.perf_counter() - self.started
        return self.seconds

    def go(self) -> None:
        self.started = time.perf_counter()


def share(options: argparse.Namespace) -> float:
    """How much of the text, at its end, is held out."""
    return QUICK_HELD_OUT if options.quick else HELD_OUT


def fitting(step: Callable[[], object], seconds: float) -> int:
    """How many steps fit into the seconds."""
    for _ in range(5):
        step()
    started = time.perf_counter()
    for _ in range(PROBE):
        step()
    return max(1, int(seconds * PROBE / (time.perf_counter() - started)))


# --- nanoGPT's recipe ---


def plain(options: argparse.Namespace, seed: int, stretched: bool) -> Outcome:
    """Plain eager PyTorch in float32, as published."""
    import torch
    from peers import PlainGpt

    text = Path(options.text).read_text(encoding="utf-8")
    index = {character: number for number, character in enumerate(sorted(set(text)))}
    tokens = torch.tensor([index[character] for character in text])
    kept = int(len(tokens) * (1 - share(options)))
    train, held_out = tokens[:kept], tokens[kept:]

    def fresh() -> tuple[PlainGpt, Callable[[float], float]]:
        torch.manual_seed(seed)
        model = PlainGpt(LAYERS, WIDTH, HEADS, CONTEXT, len(index))
        matrices = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
        vectors = [parameter for parameter in model.parameters() if parameter.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.99))

        def step(rate: float) -> float:
            for group in optimizer.param_groups:
                group["lr"] = rate
            starts = torch.randint(len(train) - CONTEXT, (BATCH,))
            x = torch.stack([train[i : i + CONTEXT] for i in starts])
            y = torch.stack([train[i + 1 : i + 1 + CONTEXT] for i in starts])
            loss = model(x, y)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return float(loss.detach())

        return model, step

    _, step = fresh()
    fit = fitting(lambda: step(RATE), options.minutes * 60)  # always: what torch does but once is done then
    iterations = fit if stretched else options.iterations or ITERATIONS
    model, step = fresh()
    clock = Clock()
    for iteration in range(iterations):
        step(published_rate(iteration, iterations))
    seconds = clock.stop()
    nats = plain_nats(model, held_out)
    bits = nats * (len(held_out) - 1) / math.log(2) / len(text[kept + 1 :].encode())
    name, size = "stretched" if stretched else "published", sum(p.numel() for p in model.parameters())
    return Outcome(name, seed, seconds, iterations, iterations * BATCH * CONTEXT, size, nats, bits)


def published_rate(iteration: int, iterations: int) -> float:
    """Linear warm-up, then half a cosine wave down."""
    warmup = min(WARMUP, max(1, iterations // 4))
    if iteration < warmup:
        return RATE * (iteration + 1) / (warmup + 1)
    return END + (RATE - END) * 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / max(iterations - warmup, 1)))


def plain_nats(model, held_out) -> float:
    """Nats a character over all but the first, before which nothing stands."""
    import torch
    import torch.nn.functional as F

    total, count = 0.0, 0
    with torch.no_grad():
        *full, last = windows(held_out, CONTEXT, CONTEXT // 2)  # the last may be shorter
        for group in [*(full[i : i + AT_ONCE] for i in range(0, len(full), AT_ONCE)), [last]]:
            tokens_BT = torch.stack([tokens for tokens, _ in group])
            logits_BTV = model.logits(tokens_BT[:, :-1])
            nats_BT = F.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT[:, 1:], reduction="none").double()
            for nats, (_, new) in zip(nats_BT, group, strict=True):
                total, count = total + float(nats[-new:].sum()), count + new
    assert count == len(held_out) - 1, "each character once"
    return total / count


def windows(tokens, length: int, stride: int) -> Iterator[tuple]:
    """Windows of length + 1 tokens (the last may be shorter), and how many of their targets are new."""
    done = 0
    for start in range(0, max(len(tokens) - 1 - (length - stride), 1), stride):
        end = min(start + length, len(tokens) - 1)
        yield tokens[start : end + 1], end - done
        done = end


# --- weft ---


def weft(options: argparse.Namespace, seed: int) -> Outcome:
    """The bundled recipe, trained by weft's own loop; the clock stands still while it is measured."""
    from rich.console import Console

    from weft.evaluation.language import evaluate_language
    from weft.models.cost import parameter_count
    from weft.training.loop import Training
    from weft.training.recipe import load_recipe, read_recipe
    from weft.training.setup import make_training, prepare_run

    raw, base = read_recipe("shakespeare")
    changes = [f"data.source={json.dumps(str(Path(options.text).resolve()))}", f"train.seed={seed}"]
    changes.append(f"data.validation.share={share(options)}")
    recipe, _ = load_recipe(raw, base, [*changes, f"train.threads={options.threads}", *options.override])
    prepared = prepare_run(recipe, Console(quiet=True))

    def measured(training: Training, overlap: bool) -> tuple[float, float]:
        length = training.length
        with training.shown():
            result = evaluate_language(
                training.model, prepared.data.validation, length, length // 2 if overlap else length
            )
        return result.loss, result.bits_per_byte

    probe = make_training(prepared)
    probe.total = 10 * PROBE
    total = fitting(probe.advance, options.minutes * 60)
    training = make_training(prepared)
    training.total = total
    every, curve = max(1, total // (QUICK_INTERIM if options.quick else INTERIM)), []
    clock = Clock()
    while training.step < total:
        training.advance()
        if training.step % every == 0 and training.step < total:
            curve.append((clock.stop(), measured(training, overlap=False)[1]))
            clock.go()
    seconds = clock.stop()
    nats, bits = measured(training, overlap=True)
    size = parameter_count(training.model)
    return Outcome("weft", seed, seconds, total, training.tokens, size, nats, bits, [*curve, (seconds, bits)])


# --- the comparison ---


def worker(system: str, seed: int, options: argparse.Namespace, pipe: Connection) -> None:
    """Train and measure one system in this process."""
    import torch

    torch.set_num_threads(options.threads)
    pipe.send(weft(options, seed) if system == "weft" else plain(options, seed, system == "stretched"))


def computed(system: str, seed: int, options: argparse.Namespace) -> Outcome:
    """The outcome of a system, computed in a process of its own."""
    context = get_context("spawn")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(system, seed, options, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        raise SystemExit(f"{system} ended without a result") from None
    finally:
        process.join()


def reached(outcome: Outcome, bits: float) -> float | None:
    """Seconds of training after which the curve is at or below `bits`, along a straight line between two measures."""
    before: tuple[float, float] | None = None
    for seconds, value in outcome.curve:
        if value <= bits:
            if before is None:
                return seconds
            share = (before[1] - bits) / (before[1] - value)
            return before[0] + share * (seconds - before[0])
        before = seconds, value
    return None


def summary(outcomes: list[Outcome]) -> dict:
    """Means over seeds, weft's lead over the stretched recipe, and when weft has that one's quality."""
    by = {system: [one for one in outcomes if one.system == system] for system in SYSTEMS}
    bits = {system: statistics.mean(one.bits_per_byte for one in found) for system, found in by.items() if found}
    found: dict = {"bits_per_byte": bits}
    if "weft" in bits and "stretched" in bits:
        times = [reached(one, bits["stretched"]) for one in by["weft"]]
        seconds = statistics.mean(one.seconds for one in by["stretched"])
        known = [value for value in times if value is not None]
        found["lead"] = bits["stretched"] - bits["weft"]
        found["seconds_to_stretched"] = statistics.mean(known) if len(known) == len(times) else None
        found["share_of_its_time"] = found["seconds_to_stretched"] and found["seconds_to_stretched"] / seconds
    return found


def main() -> None:
    """Train all systems one after the other, for each seed in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", help="tiny Shakespeare's input.txt")
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, for `stretched` and `weft`")
    parser.add_argument("--seeds", type=int, default=1, help="how often everything is done, with another seed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--override", nargs="*", default=[], metavar="PATH=VALUE", help="changes of weft's recipe")
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute, `published` left out")
    parser.add_argument("--iterations", type=int, help="of `published`, instead of its 2,000")
    parser.add_argument("--json", metavar="FILE", help="write everything there")
    options = parser.parse_args()
    if options.quick:
        options.minutes = min(options.minutes, QUICK_MINUTES)
        options.systems = [system for system in options.systems if system != "published"]
        print(short(options))
    outcomes = []
    print(f"{'system':10} {'seed':>4} {'seconds':>8} {'steps':>6} {'tokens':>11} {'nats/token':>11} {'bits/byte':>10}")
    for seed in range(options.seeds):
        for system in options.systems:
            one = computed(system, seed, options)
            outcomes.append(one)
            print(
                f"{system:10} {seed:>4} {one.seconds:>8.1f} {one.steps:>6,} {one.tokens:>11,} {one.nats:>11.4f}"
                f" {one.bits_per_byte:>10.4f}",
                flush=True,
            )
            if options.json:  # each time: what is found stays, whenever the next one is stopped
                keep(outcomes, options)
    told(summary(outcomes), options)


def short(options: argparse.Namespace) -> str:
    """What a quick run is."""
    return f"a quick run: {options.minutes * 60:.0f} s of training each, {QUICK_HELD_OUT:.0%} of the text held out"


def keep(outcomes: list[Outcome], options: argparse.Namespace) -> None:
    """Write everything that is known so far."""
    found = summary(outcomes)
    about = {"machine": platform.machine(), "threads": options.threads, "minutes": options.minutes}
    whole = {**about, **found, **shown(found, outcomes, options), "outcomes": [asdict(one) for one in outcomes]}
    Path(options.json).write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def shown(found: dict, outcomes: list[Outcome], options: argparse.Namespace) -> dict:
    """The finding and the table that a document shows."""
    head = ["system", "seed", "seconds", "steps", "tokens", "nats a token", "bits per byte"]
    rows = [
        [one.system, one.seed, f"{one.seconds:.0f}", f"{one.steps:,}", f"{one.tokens:,}", f"{one.nats:.3f}",
         f"{one.bits_per_byte:.3f}"]
        for one in outcomes
    ]  # fmt: skip
    finding = ""
    if found.get("seconds_to_stretched") is not None:
        finding = (
            f"weft is {found['lead']:.3f} bits per byte below the stretched recipe, and has its quality after"
            f" {found['seconds_to_stretched']:.0f} s, {found['share_of_its_time']:.2f} of its time"
        )
    if options.quick:
        finding = f"{finding} ({short(options)})" if finding else short(options)
    return {"finding": finding, "table": [head, *rows]}


def told(found: dict, options: argparse.Namespace) -> None:
    """The means, and what they say."""
    for system, bits in found["bits_per_byte"].items():
        print(f"{system}: {bits:.4f} bits per byte, mean of {options.seeds}")
    if "lead" in found:
        print(f"weft is {found['lead']:.4f} bits per byte below `stretched`")
        if found["seconds_to_stretched"] is None:
            print("not every run of weft reached `stretched`'s quality")
        else:
            seconds, share = found["seconds_to_stretched"], found["share_of_its_time"]
            print(f"weft has `stretched`'s quality after {seconds:.1f} s of training: {share:.2f} of its time")


if __name__ == "__main__":
    main()

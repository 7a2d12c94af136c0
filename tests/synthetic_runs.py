"""Run folders made of formulas: what a healthy, overfitting, diverging, tiny or hostile run would have written."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

STEPS = 450
SAMPLES = ("th th e the", "The return the of value is the", "Return the value of the key in the mapping.")
LAYERS = ("embedding", *(f"decoder.blocks.{i}" for i in range(6)), "decoder.norm", "heads.lm")


def healthy(steps: int = STEPS, final: float = 2.0, seed: int = 0) -> list[dict[str, Any]]:
    """A log like the demo's: the loss falls from above 6 to about `final` nats per token, faster as the rate falls."""
    draw = random.Random(seed)
    lines: list[dict[str, Any]] = []
    for step in range(1, steps + 1):
        decay = max(0.0, (step - 0.7 * steps) / (0.3 * steps))
        loss = final + 0.35 + 4.0 * math.exp(-step / 14) + 1.1 * math.exp(-step / 110) - 0.35 * decay
        rate = 2e-3 * min(1.0, step / 9) * (1 - 0.99 * decay)
        values = {"loss": loss + draw.gauss(0, 0.05), "learning_rate": rate, "gradient_norm": gradient(step, draw)}
        if step % 5 == 0 or step == 1:
            values["layers"] = {name: layer(i, rate, draw) for i, name in enumerate(LAYERS)}
        lines.append(line(step, "train", values, tokens_per_second=5100 + draw.gauss(0, 120), peak_share=0.41))
        if step % 50 == 0:
            lines.append(validation(step, loss + 0.03))
            text = SAMPLES[min(2, step * 3 // steps)] + f" (step {step})"
            lines.append(line(step, "sample", {"prompt": "The", "text": text, "temperature": 0.8}))
    lines.append(validation(steps, loss + 0.02, whole=True))
    return lines


def gradient(step: int, draw: random.Random) -> float:
    return (0.45 + 4 * math.exp(-step / 8)) * math.exp(draw.gauss(0, 0.2))


def layer(i: int, rate: float, draw: random.Random) -> dict[str, float]:
    noise = math.exp(draw.gauss(0, 0.15))
    return {
        "gradient_norm": (0.05 + 0.03 * i) * noise,
        "update_ratio": 0.6 * rate * (1 + 0.2 * i) * noise + 1e-6,
        "weight_norm": 12.0 + i,
    }


def line(step: int, split: str, values: dict[str, Any], **clock: float) -> dict[str, Any]:
    entry = {"step": step, "tokens": step * 2048, "seconds": step * 0.4, "split": split, "values": values}
    return {**entry, "clock": clock} if clock else entry


def validation(step: int, loss: float, *, whole: bool = False) -> dict[str, Any]:
    tokens = 93_000 if whole else 30_500
    bits = loss / math.log(2) / 2.13
    values = {"loss": loss, "bits_per_byte": bits, "tokens": tokens, "bytes": round(tokens * 2.13), "whole": whole}
    return line(step, "validation", {**values, "window": 256, "stride": 128 if whole else 256})


def overfitting(steps: int = STEPS) -> list[dict[str, Any]]:
    """Training falls to the end; validation turns at about a third of the way."""
    lines = [entry for entry in healthy(steps, final=0.9) if entry["split"] in ("train", "sample")]
    for step in range(steps // 9, steps + 1, steps // 9):
        x = step / steps
        lines.append(validation(step, 2.9 + 2.2 * (x - 0.4) ** 2))
    return [*lines, validation(steps, 3.72, whole=True)]


def diverging(steps: int = STEPS, *, to_nan: bool = True) -> list[dict[str, Any]]:
    """The loss turns up half-way; towards the end the log holds the texts that stand for NaN and infinity."""
    lines = [entry for entry in healthy(steps) if entry["split"] == "train"]
    for entry in lines:
        late = max(0.0, entry["step"] / steps - 0.5)
        entry["values"]["loss"] += 9 * late
        entry["values"]["gradient_norm"] *= math.exp(14 * late)
        if to_nan and entry["step"] > 0.9 * steps:
            entry["values"] |= {"loss": "nan", "gradient_norm": "inf"}
    return lines


def manifest(name: str = "demo", **changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "weft": "0.1.0",
        "name": name,
        "status": "finished",
        "machine": {
            "system": "Linux 6.1 x86_64",
            "processor": "Xeon",
            "cores": 2,
            "threads": 2,
            "memory_gib": 16.0,
            "device": "cpu",
            "precision": "bf16",
            "peak_gflops": 212.5,
        },
        "versions": {"python": "3.11.9", "torch": "2.13.0"},
        "identity": "5f2a9c01",
        "seed": 0,
        "code": "9be1",
        "plugins": {},
        "parent": None,
        "command": "weft train demo",
        "model": {"kind": "transformer", "parameters": 8_012_160, "flops_per_token": 51_000_000, "max_length": 256},
        "budget": {"asked": "450 steps", "steps": 450, "tokens": 921_600},
        "data": {
            "source": "python-docs",
            "fingerprint": "c0ffee",
            "documents": 6120,
            "duplicates_removed": 811,
            "cut": 0,
            "tokenizer": {"kind": "bpe", "vocab_size": 512, "bytes_per_token": 2.1},
            "train": {"documents": 5500, "bytes": 1_790_000, "tokens": 843_000},
            "validation": {"documents": 620, "bytes": 198_000, "tokens": 93_000, "kind": "hash"},
            "baselines": {"xz": {"bits_per_byte": 1.53, "how": "xz -9e, training text as its dictionary"}},
            "warnings": [],
        },
        **changes,
    }


def write(folder: Path, lines: list[dict[str, Any]], described: dict[str, Any] | None = None, tail: str = "") -> Path:
    """A run folder that holds this log; `tail` is what follows the last whole line."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(described or manifest()), encoding="utf-8")
    (folder / "recipe.yaml").write_text("name: demo\nmodel: {d_model: 320}\n", encoding="utf-8")
    (folder / "resolved.yaml").write_text(
        "name: demo\nmodel:\n  d_model: 320\n  decoder: {n_layers: 6, positions: {kind: rotary}}\n", encoding="utf-8"
    )
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in lines) + tail
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    return folder

"""Run folders of classifiers and of models that write, made of formulas; see `synthetic_runs`."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from synthetic_runs import gradient, line, manifest, write

STEPS = 200
TEXTS = ("giáo trình chưa cụ thể .", "the lecturer explains well", "إنه درس جيد", "数学は楽しい", "so so")
SENTENCE = "the cat sat on a mat and then ran to see what was in that old red box by our door"
TF_IDF = {"accuracy": 0.86, "macro_f1": 0.71, "how": "TF-IDF of words (1-2) and letters (2-4) + logistic regression"}
COPY = {"bleu": 3.1, "chrf": 17.2, "how": "each source as its own target"}
SIGNATURES = {
    "signature_bleu": "BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0",
    "signature_chrf": "chrF2|nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
}


def names(classes: int) -> list[str]:
    """Short ones, and from the fourth on long ones."""
    return [*("negative", "neutral", "positive")][:classes] + [f"a class with number {i}" for i in range(3, classes)]


def guesses(classes: int, examples: int = 600, right: float = 0.85, seed: int = 0) -> list[dict[str, Any]]:
    """Predictions of a classifier that is right so often, and about as sure as that; the first class is the largest."""
    draw, labels = random.Random(seed), names(classes)
    lines = []
    for i in range(examples):
        truth = min(int(draw.expovariate(3 / classes)), classes - 1)
        said = truth if draw.random() < right else draw.randrange(classes)
        top = 1 / classes + (1 - 1 / classes) * draw.betavariate(6, 1.2)
        probabilities = dict.fromkeys(labels, (1 - top) / (classes - 1)) | {labels[said]: top}
        text = f"{TEXTS[i % len(TEXTS)]} {i}"
        lines.append(
            {
                "id": f"t#{i}",
                "text": text,
                "label": labels[truth],
                "predicted": labels[said],
                "probabilities": probabilities,
            }
        )
    return lines


def classified(lines: list[dict[str, Any]], steps: int = STEPS) -> list[dict[str, Any]]:
    """The log of a classifier that ends with these predictions."""
    accuracy = sum(entry["label"] == entry["predicted"] for entry in lines) / max(1, len(lines))
    log = training(steps, 1.1)
    for step in range(0, steps + 1, steps // 10):
        reached = accuracy - 0.5 * math.exp(-step / steps * 5)
        log.append(judged(step, reached, len(lines) // 2, whole=False))
    return [*log, judged(steps, accuracy, len(lines), whole=True, final=True)]


def judged(step: int, accuracy: float, examples: int, **more: Any) -> dict[str, Any]:
    values = {"loss": 1.4 - accuracy, "accuracy": accuracy, "macro_f1": 0.8 * accuracy, "examples": examples}
    return line(step, "validation", {**values, **more})


def training(steps: int, start: float) -> list[dict[str, Any]]:
    draw = random.Random(3)
    return [
        line(
            step,
            "train",
            {
                "loss": 0.4 + start * math.exp(-3 * step / steps) + draw.gauss(0, 0.03),
                "learning_rate": 1e-3,
                "gradient_norm": gradient(step, draw),
            },
            tokens_per_second=3000.0,
            peak_share=0.2,
        )
        for step in range(1, steps + 1)
    ]


def survey(labels: list[str], targets: bool = False) -> dict[str, Any]:
    """What the survey of the examples would have written."""

    def part(examples: int) -> dict[str, Any]:
        lengths = {"median": 41.0, "p90": 98.0, "longest": 812}
        return {
            "examples": examples,
            "labels": {label: examples // (2 + i) for i, label in enumerate(labels)},
            "empty": 0,
            "empty_targets": 0,
            "repeated": 3,
            "characters": lengths,
            "words": lengths,
            "target_characters": lengths if targets else None,
            "target_words": lengths if targets else None,
        }

    overlap = {"split": "validation", "earlier": "train", "examples": 600, "exact": 12, "contradicted": 2, "near": 5}
    return {"parts": {"train": part(9000), "validation": part(600)}, "contradictory": 7,
            "overlaps": [{**overlap, "shown": [["a#1", "b#2"]]}]}  # fmt: skip


def answers(examples: int = 300, seed: int = 0) -> list[dict[str, Any]]:
    """A translator that leaves out more and more words of what it should have written."""
    draw, lines = random.Random(seed), []
    words = SENTENCE.split()
    for i in range(examples):
        target = " ".join(draw.choices(words, k=9))
        greedy = " ".join(word for word in target.split() if draw.random() < i / examples)
        beam = greedy if i % 3 else f"{greedy} door".strip()
        source = f"{TEXTS[i % len(TEXTS)]} {i}"
        lines.append({"id": f"t#{i}", "text": source, "target": target, "nats": 12.5, "greedy": greedy, "beam 4": beam})
    return lines


def written(lines: list[dict[str, Any]], steps: int = STEPS) -> list[dict[str, Any]]:
    """The log of a model that writes: 64 answers meanwhile, all of them at the end."""
    log = training(steps, 5.0)
    for step in range(0, steps + 1, steps // 10):
        log.append(scored(step, 30 * (1 - math.exp(-3 * step / steps)), 64, len(lines)))
    final = scored(steps, 29.4, len(lines), len(lines))
    final["values"] |= {"final": True, "bleu_beam_4": 31.2, "chrf_beam_4": 52.6}
    return [*log, final]


def scored(step: int, bleu: float, written: int, examples: int) -> dict[str, Any]:
    values = {"loss": 6 - bleu / 10, "bleu": bleu, "chrf": 20 + bleu, "tokens": 10 * examples, "examples": examples}
    return line(step, "validation", {**values, "written": written, "whole": True, **SIGNATURES})


def described(labels: list[str], name: str = "task", **changes: Any) -> dict[str, Any]:
    """A manifest with the survey and the baselines of a task: that of a classifier where there are labels."""
    about = manifest(name, **changes)
    simple = {"majority": {"accuracy": 0.5, "macro_f1": 0.22, "how": "positive for every text"}, "tfidf": TF_IDF}
    about["data"] |= {
        "labels": labels,
        "examples": survey(labels, targets=not labels),
        "baselines": simple if labels else {"copy": COPY},
    }
    return about


def classifier(folder: Path, classes: int = 3, name: str = "task", **options: Any) -> Path:
    """The run folder of a classifier."""
    return task(folder, classified(lines := guesses(classes, **options)), described(names(classes), name), lines)


def translator(folder: Path, name: str = "translator") -> Path:
    """The run folder of a model that writes."""
    return task(folder, written(lines := answers()), described([], name), lines)


def task(folder: Path, log: list[dict[str, Any]], about: dict[str, Any], predictions: list[Any]) -> Path:
    """A run folder with predictions; texts among them are written as they are."""
    run = write(folder, log, about)
    kind = "classification" if about["data"].get("labels") else "seq2seq"
    (run / "resolved.yaml").write_text(f"objective: {{kind: {kind}, label_smoothing: 0.1}}\n", encoding="utf-8")
    (run / "predictions").mkdir(exist_ok=True)
    lines = (entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in predictions)
    (run / "predictions" / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run

"""Training in bf16 over fp32 masters learns what training in fp32 learns."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from rich.console import Console
from tiny import prepared

from weft.evaluation.base import Plan, evaluate
from weft.training.setup import new_training

# at rates from 2e-3 on, a change of the first weights by 2^-8 of each moves a run in fp32 by a hundredth, too
OPTIONS = (
    "model.d_model=48",
    "data.tokenizer=bytes",
    "train.batch_tokens=64",
    "optimizer.learning_rate=1e-3",
    "train.budget=200 steps",
)


def learned(source: Path, precision: str) -> tuple[list[float], float]:
    """The training loss of each of 200 steps, and the loss on a text that was held out, in nats a byte."""
    ready = prepared(source, *OPTIONS, f"train.precision={precision}")
    training = new_training(ready, Console(file=io.StringIO()))
    losses = [training.advance()["loss"] for _ in range(training.total)]
    plan = Plan(training.length, limit=2048)
    held_out = evaluate(ready.recipe.objective, training.model, ready.data.tokenizer, ready.data.validation, plan)
    return losses, held_out.loss


def test_200_steps_in_bf16_end_within_a_hundredth_of_fp32(tmp_path: Path) -> None:
    """On Python's own help, from one seed: means of 20 steps all along, and what is said of a text not seen."""
    source = tmp_path / "topics.jsonl"
    texts = [json.dumps({"text": text[:2000]}) for _, text in sorted(topics.items())]
    source.write_text("\n".join(texts), encoding="utf-8")
    (true, true_end), (near, near_end) = learned(source, "fp32"), learned(source, "bf16")
    assert len(true) == len(near) == 200
    assert near != true, "bf16 is no other name of fp32"
    assert true_end < 0.6 * math.log(256), "something was learned"
    for start in range(0, 200, 20):
        assert sum(near[start : start + 20]) == pytest.approx(sum(true[start : start + 20]), rel=0.01), start
    assert near_end == pytest.approx(true_end, rel=0.01)

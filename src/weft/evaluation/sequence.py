"""BLEU, chrF and loss of a model that writes an answer to each text; the answers themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weft.data.examples import ExampleRows, Examples
from weft.data.rows import IGNORE
from weft.data.shards import TokenSplit
from weft.data.task_baselines import corpus_scores
from weft.evaluation.base import Plan, evaluate, measuring, share
from weft.generation.search import search
from weft.models.transformer import Transformer
from weft.nn.context import Inputs
from weft.objectives import Seq2Seq
from weft.text.tokenizers import Tokenizer

BEAMS = 4
"""Width of the beam search beside greedy decoding (Vaswani et al. 2017, section 6.1)."""
GLANCE = 64
"""Answers that are written while a run goes on; all of them at its end."""


@dataclass(frozen=True)
class Written:
    """The answers of one way of decoding, and how near they come to the references."""

    how: str
    """`greedy`, or `beam 4`"""
    answers: dict[int, str]
    """by the example's place in its split"""
    bleu: float
    chrf: float
    signatures: tuple[str, str]
    """sacrebleu's, of BLEU and of chrF: what makes a figure comparable"""


@dataclass(frozen=True, eq=False)
class SequenceResult:
    """Loss with the reference read out, and what the model wrote by itself."""

    nats_by_example: dict[int, float]
    tokens: int
    written: tuple[Written, ...]
    whole: bool

    @property
    def loss(self) -> float:
        """Nats a target token."""
        return sum(self.nats_by_example.values()) / max(self.tokens, 1)

    def values(self) -> dict[str, Any]:
        """For the log."""
        greedy, *others = self.written
        return {
            "loss": self.loss,
            "bleu": greedy.bleu,
            "chrf": greedy.chrf,
            **{f"{name}_{other.how.replace(' ', '_')}": getattr(other, name)
               for other in others for name in ("bleu", "chrf")},
            "tokens": self.tokens,
            "examples": len(self.nats_by_example),
            "written": len(greedy.answers),
            "signature_bleu": greedy.signatures[0],
            "signature_chrf": greedy.signatures[1],
            "whole": self.whole,
        }  # fmt: skip

    def short(self) -> str:
        return f"BLEU {self.written[0].bleu:.1f}"

    def lines(self, baselines: Mapping[str, Any]) -> list[str]:
        said = [
            f"{way.how}: BLEU {way.bleu:.1f}, chrF {way.chrf:.1f} over {len(way.answers):,} examples"
            for way in self.written
        ]
        beside = [
            f"beside {name}: BLEU {entry['bleu']:.1f}, chrF {entry['chrf']:.1f}"
            for name, entry in baselines.items()
            if "bleu" in entry
        ]
        return [f"{self.loss:.3f} nats a token over {self.tokens:,} target tokens", *said, *beside,
                f"signatures: {'; '.join(self.written[0].signatures)}"]  # fmt: skip

    def predictions(self, split: TokenSplit) -> Iterator[dict[str, Any]]:
        ids, texts, targets = split.ids, split.column("text"), split.column("target")
        for number, nats in sorted(self.nats_by_example.items()):
            answers = {way.how: way.answers[number] for way in self.written if number in way.answers}
            yield {"id": ids[number], "text": texts[number], "target": targets[number], "nats": nats, **answers}


@evaluate.register
def evaluate_seq2seq(
    objective: Seq2Seq, model: Transformer, tokenizer: Tokenizer, split: TokenSplit, plan: Plan
) -> SequenceResult:
    """Loss of every target; answers by greedy decoding and, where it should be thorough, by beam search too."""
    examples = Examples(split, plan.length)
    limit = share(split, plan.limit)
    nats: dict[int, float] = {}
    tokens, total = 0, limit or len(examples)
    for rows in examples.in_order(plan.batch_tokens, limit):
        nats_B, counted = _losses(model, rows)
        nats.update(zip(rows.numbers_B.tolist(), nats_B.tolist(), strict=True))
        tokens += counted
        plan.told(len(nats), total)
    ways = (1, BEAMS) if plan.thorough else (1,)
    few = None if plan.thorough else min(GLANCE, total)
    references = split.column("target")
    written = tuple(_write(model, tokenizer, examples, references, beams, few, plan) for beams in ways)
    return SequenceResult(nats, tokens, written, limit is None)


def _losses(model: Transformer, rows: ExampleRows) -> tuple[NDArray[np.float64], int]:
    assert rows.answers_BU is not None, "shards made for this objective have targets"
    assert rows.targets_BU is not None, "shards made for this objective have targets"
    with measuring(model) as device:
        answers, targets = (torch.from_numpy(x).to(device) for x in (rows.answers_BU, rows.targets_BU))
        output = model(Inputs(tokens_BT=answers), source=source_of(rows, device))
        nats_BU = model.head("lm").losses(output.x_BTD, targets).double().cpu().numpy()
    return np.asarray(nats_BU.sum(1)), int((rows.targets_BU != IGNORE).sum())


def source_of(rows: ExampleRows, device: torch.device) -> Inputs:
    """What the encoder reads of a batch."""
    return Inputs(
        tokens_BT=torch.from_numpy(rows.tokens_BT).to(device), valid_BT=torch.from_numpy(rows.valid_BT).to(device)
    )


def write_answers(
    model: Transformer, tokenizer: Tokenizer, rows: ExampleRows, beams: int, length: int
) -> list[tuple[str, float]]:
    """The answer to each row, and its log-probability in nats."""
    end = tokenizer.end_of_document
    with measuring(model) as device:
        source = source_of(rows, device)
        found = search(
            model,
            [[end]] * source.shape[0],
            source=source,
            end=end,
            beams=beams,
            max_tokens=length,
            vocab_size=tokenizer.vocab_size,
        )
    return [(tokenizer.decode(best.tokens), best.log_probability) for (best,) in found]


def _write(
    model: Transformer,
    tokenizer: Tokenizer,
    examples: Examples,
    references: Sequence[str],
    beams: int,
    few: int | None,
    plan: Plan,
) -> Written:
    answers: dict[int, str] = {}
    for rows in examples.in_order(max(1, plan.batch_tokens // beams), few):
        texts = write_answers(model, tokenizer, rows, beams, plan.length)
        answers.update(zip(rows.numbers_B.tolist(), (text for text, _ in texts), strict=True))
        plan.told(len(answers), few or len(examples))
    bleu, chrf, signatures = corpus_scores(list(answers.values()), [references[number] for number in answers])
    return Written("greedy" if beams == 1 else f"beam {beams}", answers, bleu, chrf, signatures)

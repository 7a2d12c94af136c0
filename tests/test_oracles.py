"""What theory says of a whole model: its loss at the start, on one batch, and on a source of known entropy."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from weft.models.build import build
from weft.models.transformer import Transformer


def mean_loss(model: Transformer, tokens_BT: Tensor) -> Tensor:
    """Mean nats of each token given those before it."""
    term = model.heads["lm"].loss(model(tokens_BT[:, :-1]).x_BTD, tokens_BT[:, 1:])
    return term.total / term.count


def fit(model: Transformer, batches: Any, steps: int, learning_rate: float) -> float:
    """AdamW over the batches, the rate falling to zero; the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    loss = torch.tensor(math.nan)
    for _ in range(steps):
        loss = mean_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(loss.detach())


def endless(tokens_BT: Tensor) -> Any:
    while True:
        yield tokens_BT


@pytest.mark.parametrize("preset", ["gpt2", "llama-tiny"])
def test_loss_at_the_start(preset: str) -> None:
    """Targets that the model knows nothing of: the expected loss is ln V + half the variance of the logits.

    E[logsumexp(z) - z_target] over a uniform target is ln V + ln mean exp(z - mean z), which for Gaussian logits of
    variance s2 is ln V + s2/2. The mean of n tokens strays by sqrt(s2/n), one sigma; four are allowed.
    """
    rows, length, vocab_size = 128, 64, 2003
    sizes = {"d_model": 96, "vocab_size": vocab_size, "max_length": length, "decoder": {"n_layers": 2}}
    model = build({"preset": preset, **sizes}).eval()
    generator = torch.Generator().manual_seed(0)
    # no token twice in a row, so that the target is never one that stands there: a tied table knows that one
    tokens_BT = torch.stack([torch.randperm(vocab_size, generator=generator)[:length] for _ in range(rows)])
    with torch.no_grad():
        variance = float(model(tokens_BT[:, :-1]).logits_BTV.var(-1).mean())
        loss = float(mean_loss(model, tokens_BT))
    allowed = 4 * math.sqrt(variance / (rows * (length - 1)))
    assert 2 * allowed < variance / 2 < 0.1, "the second term can be told from noise, and the start is flat"
    assert loss == pytest.approx(math.log(vocab_size) + variance / 2, abs=allowed)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_one_batch_is_learned_by_heart(positions: str) -> None:
    model = build(
        {"d_model": 32, "max_length": 16, "vocab_size": 50, "decoder": {"n_layers": 2, "positions": positions}}
    )
    tokens_BT = torch.randint(50, (4, 17), generator=torch.Generator().manual_seed(0))
    tokens_BT[:, 0] = torch.arange(4)  # the first token tells the rows apart
    fit(model, endless(tokens_BT), 200, 1e-2)
    with torch.no_grad():
        assert float(mean_loss(model, tokens_BT)) < 0.01


class Markov:
    """A second-order source: the next token depends on the two before it, with probabilities that are known."""

    def __init__(self, states: int = 4) -> None:
        self.states = states
        self.generator = torch.Generator().manual_seed(0)
        scores = 2 * torch.randn(states, states, states, generator=self.generator, dtype=torch.float64)
        self.next = scores.softmax(-1)

    def rows(self, rows: int, length: int) -> Tensor:
        """Texts of the source."""
        text = torch.randint(self.states, (rows, 2), generator=self.generator)
        for _ in range(length - 2):
            chances = self.next[text[:, -2], text[:, -1]]
            text = torch.cat([text, torch.multinomial(chances, 1, generator=self.generator)], dim=1)
        return text

    def nats(self, text: Tensor) -> Tensor:
        """-log p of every token from the third on: its mean tends to the entropy."""
        return -self.next[text[:, :-2], text[:, 1:-1]].gather(-1, text[:, 2:, None]).log()[..., 0]

    @property
    def entropy(self) -> float:
        """Nats a token in the long run."""
        pairs = torch.full((self.states, self.states), 1 / self.states**2, dtype=torch.float64)
        for _ in range(500):  # (a, b) -> (b, c)
            pairs = torch.einsum("ab,abc->bc", pairs, self.next)
        return float(-(pairs[..., None] * self.next * self.next.log()).sum())


def test_a_markov_source_is_learned_to_its_entropy() -> None:
    """Within 0.02 nats of the entropy: what two tokens say of the next is found, and nothing that is not there."""
    source = Markov()
    model = build({
        "d_model": 32, "max_length": 32, "vocab_size": 4,
        "decoder": {"n_layers": 2, "positions": "rotary", "norm": "rms", "block": {"attention": {"n_heads": 2}}},
    })  # fmt: skip
    text = source.rows(64 * 250, 33)
    fit(model, iter(text.split(64)), 250, 1e-2)
    fresh = source.rows(2000, 33)
    with torch.no_grad():
        losses = model.heads["lm"].losses(model(fresh[:, :-1]).x_BTD, fresh[:, 1:])[:, 1:]  # the first two are free
    noise = float((losses - source.nats(fresh)).std() / math.sqrt(losses.numel()))
    assert noise < 0.002
    # against the same text's own nats, so that the luck of the sample cancels
    gap = float((losses - source.nats(fresh)).mean())
    assert -4 * noise < gap < 0.02
    assert float(source.nats(fresh).mean()) == pytest.approx(source.entropy, abs=0.01)
    assert source.entropy < math.log(4) - 0.3, "there is something to learn"

"""One more property, for which nobody needs to be taken at his word: what the papers' formulas say."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch

from weft.checking.compare import BOTH, asked, close, reads, run, tokens
from weft.checking.properties import holds_of
from weft.config import Part, sections_within
from weft.models.transformer import Transformer


@holds_of()
def as_the_formulas_say(model: Transformer) -> None:
    """Scores and the losses' gradients = those of the papers' formulas in plain loops."""
    declared = model.config.dump()
    for name, stack in model.config.stacks().items():
        declared[name]["layers"] = [layer.dump() for layer in stack.layers()]
    for _, section in sections_within(model.config):
        if isinstance(section, Part) and section.kind not in reference.REFERENCES.get(section.slot, {}):
            return  # a part from elsewhere
    row = tokens(model, 1, 5)[0]
    text, targets = row[:-1], row[1:]
    read = tokens(model, 1, 3, seed=1) if reads(model, *BOTH) else None
    arrays = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}

    def formula(at: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x_TD = reference.vectors(declared, at, text.tolist(), None if read is None else read[0].tolist())
        return {name: reference.answer(declared, at, name, x_TD) for name in model.heads}

    output = run(model, text[None], source=read)
    found = {name: asked(head, output)[0] for name, head in model.heads.items()}
    for name, expected in formula(arrays).items():
        close(found[name].detach().flatten(), torch.from_numpy(expected).flatten())
    generator = torch.Generator().manual_seed(1)
    weights = {name: torch.randn(x.numel(), generator=generator, dtype=x.dtype) for name, x in found.items()}

    def loss(at: dict[str, np.ndarray]) -> complex:
        said = formula(at)
        nats = reference.loss(said.pop("lm"), targets.tolist())
        return nats + sum(np.sum(x.flatten() * weights[name].numpy()) for name, x in said.items())

    model.zero_grad()
    others = sum((x.flatten() * weights[name]).sum() for name, x in found.items() if name != "lm")
    (model.heads["lm"].loss(output.x_BTD, targets[None]).total + others).backward()
    random = np.random.default_rng(0)
    direction = {name: random.standard_normal(array.shape) for name, array in arrays.items()}
    exact = reference.slope(loss, arrays, direction)
    used = [(name, p) for name, p in model.named_parameters() if p.grad is not None]
    slope = sum(float((p.grad.numpy() * direction[name]).sum()) for name, p in used)
    assert slope == pytest.approx(exact, rel=1e-9, abs=1e-9)

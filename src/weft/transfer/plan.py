"""A transfer worked out for one model: what is copied, what is frozen, and how to say and prove it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weft.hub.folder import write_tensors
from weft.models.transformer import Transformer
from weft.nn.module import Module
from weft.text.tokenizers import Tokenizer
from weft.transfer.copying import Copy, check_paths, copies_of
from weft.transfer.declaration import Transfer
from weft.transfer.donor import Donor
from weft.transfer.freezing import check_learning, fingerprint, frozen_by, resting_modules
from weft.transfer.table import Entry, table_of

START = "transfer.safetensors"
"""What a run keeps of its donor, so that it can begin again without it."""


@dataclass(frozen=True)
class Plan:
    """What happens to a model before training, and what training leaves alone."""

    frozen: frozenset[str]
    """names of the parameters that do not learn"""
    resting: frozenset[str]
    """paths of the modules that compute as in evaluation"""
    copies: tuple[Copy, ...] = ()
    donor: Donor | None = None
    notes: tuple[str, ...] = ()

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Copy and freeze, before anything is made that looks at what learns."""
        parameters = dict(model.named_parameters())
        for copy in self.copies:
            parameters[copy.ours].copy_(copy.tensor)
        for name in self.frozen:
            parameters[name].requires_grad_(False)
        for path, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, Module) and path in self.resting:
                module.frozen = True

    def differences(self, model: nn.Module) -> dict[str, float]:
        """The largest difference of each copied parameter from the donor's."""
        parameters = dict(model.named_parameters())
        pairs = {copy.ours: (parameters[copy.ours].detach().cpu(), copy.tensor) for copy in self.copies}
        return {name: float((mine - theirs).abs().max()) for name, (mine, theirs) in pairs.items()}

    def lines(self, model: nn.Module) -> list[str]:
        """For a person, before training: what is copied, with the proof; what learns, and what does not."""
        differences, theirs = self.differences(model), {copy.ours: copy.theirs for copy in self.copies}
        entries = [
            Entry(name, parameter.numel(), name not in self.frozen, theirs.get(name), differences.get(name))
            for name, parameter in model.named_parameters()
        ]
        sums = {learns: sum(entry.size for entry in entries if entry.learns is learns) for learns in (True, False)}
        copied = sum(entry.size for entry in entries if entry.source is not None)
        end = f"of {sum(sums.values()):,} parameters {sums[True]:,} learn, {sums[False]:,} are frozen"
        if self.donor is not None:
            end += f"; {copied:,} are copied from {self.donor.where}, sha256 {self.donor.content[:12]}"
        return [*table_of(entries), end, *(f"note: {note}" for note in self.notes)]

    def record(self, model: nn.Module) -> dict[str, Any]:
        """For the run's manifest; what is frozen by digest, so that the end can be compared."""
        named, differences = dict(model.named_parameters()), self.differences(model)
        frozen = sum(named[name].numel() for name in self.frozen)
        wrong = [name for name, difference in differences.items() if difference != 0]
        assert not wrong, f"{wrong[0]} was copied and is not what was copied"
        return {
            "from": None if self.donor is None else self.donor.name,
            "checkpoint": None if self.donor is None else self.donor.folder,
            "content": None if self.donor is None else self.donor.content,
            "copied": {
                copy.ours: {
                    "from": copy.theirs,
                    "largest_difference": differences[copy.ours],
                    "sha256": fingerprint(named[copy.ours]),
                }
                for copy in self.copies
            },
            "frozen": {name: fingerprint(named[name]) for name in named if name in self.frozen},
            "parameters": {"learning": sum(p.numel() for p in named.values()) - frozen, "frozen": frozen},
        }

    def keep(self, folder: Path) -> None:
        """Write what was copied into a run's folder."""
        if self.copies:
            write_tensors(folder / START, {copy.ours: copy.tensor for copy in self.copies})


def planned(
    transfer: Transfer,
    model: Transformer,
    heads: Collection[str],
    donor: Donor | None = None,
    tokenizer: Tokenizer | None = None,
) -> Plan:
    """The plan for a model, built or blank, whose objective reads `heads`.

    Without a donor nothing is copied (a run that goes on has its weights); without a tokenizer (before data are read)
    paths are checked and sizes are not. Raises WeftError for what cannot be done, or would train nothing.
    """
    copies: list[Copy] = []
    notes: list[str] = []
    if donor is not None and tokenizer is not None:
        copies, notes = copies_of(transfer, model, donor, tokenizer)
    elif donor is not None:
        check_paths(transfer, model, donor)
    frozen, shared = frozen_by(transfer.freeze, model)
    check_learning(frozen, model, heads)
    resting = resting_modules(frozen, transfer.freeze, model)
    return Plan(frozen, resting, tuple(copies), donor, (*notes, *shared))

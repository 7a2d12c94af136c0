"""`transfer:` in a recipe: what a run begins with of another model, and what its training leaves alone."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from pydantic import Field, create_model, model_validator

from weft.config import Section

_FROM = "a run or a model folder, whose weights are copied before training; nothing is copied unless given"
_COPY = (
    "paths of this model's modules or parameters, and those of the other model that they are copied from; `*` stands"
    " for the same on both sides; all that fits by path and shape unless given"
)

if TYPE_CHECKING:
    _Copying = Section
else:
    with warnings.catch_warnings():  # `from` is a word of Python's own; `copy` hides a method that pydantic gave up
        warnings.simplefilter("ignore")
        _Copying = create_model(
            "_Copying",
            __base__=Section,
            **{
                "from": (str | None, Field(None, description=_FROM)),
                "copy": (dict[str, str] | None, Field(None, description=_COPY)),
            },
        )


class Transfer(_Copying):
    """What is copied from another model, and what is frozen."""

    freeze: tuple[str, ...] = ()
    """paths of modules or parameters that do not learn, such as "embedding.*", with all that shares their tensors"""
    other_tokenizer: bool = False
    """copy tables of tokens from a model with another tokenizer too, although a row is another token there"""

    @property
    def donor(self) -> str | None:
        """`from`."""
        found: str | None = getattr(self, "from")
        return found

    @property
    def pairs(self) -> dict[str, str] | None:
        """`copy`: ours and theirs."""
        found: dict[str, str] | None = self.__dict__["copy"]
        return found

    @model_validator(mode="after")
    def _does_something(self) -> Transfer:
        if self.donor is None and self.pairs is not None:
            raise ValueError("copy: name the model to copy from, as `from: RUN`")
        if self.donor is None and self.other_tokenizer:
            raise ValueError("other_tokenizer: there is no `from`, whose tokenizer could be another")
        if self.donor is None and not self.freeze:
            raise ValueError("neither copies (`from`) nor freezes (`freeze`) anything; leave it out")
        if self.pairs == {}:
            raise ValueError("copy: names nothing; leave it out to copy all that fits, or leave `from` out")
        for ours, theirs in (self.pairs or {}).items():
            if ours.count("*") != theirs.count("*"):
                raise ValueError(f"copy: {ours!r} and {theirs!r} should have as many `*`, which stand for the same")
        return self

"""The model that weights are copied from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from weft.errors import WeftError
from weft.hub.folder import content_of, read_model
from weft.hub.names import trained_folder
from weft.nn.heads import Head
from weft.text.tokenizers import Tokenizer
from weft.transfer.paths import Parameters


@dataclass(frozen=True)
class Donor:
    """A trained model, by the name that was asked for, its folder and its content address."""

    name: str
    folder: str
    content: str
    parameters: Parameters
    heads: Mapping[str, Head]
    tokenizer: Tokenizer

    @property
    def where(self) -> str:
        """The name, and of a run the checkpoint."""
        return self.name if self.name.rstrip("/").endswith(self.folder) else f"{self.name} ({self.folder})"

    def tensor(self, path: str) -> Tensor:
        """A parameter's values.

        Raises WeftError where some are no finite numbers.
        """
        found = self.parameters.by_path[path].detach()
        if not bool(found.isfinite().all()):
            raise WeftError(f"transfer.from = {self.name}: {path} has values that are not finite; that run diverged")
        return found


def open_donor(name: str) -> Donor:
    """The model that MODEL names: a run (its best checkpoint) or a model folder.

    Raises WeftError when there is none, or it has no trained weights.
    """
    try:
        folder = trained_folder(name)
        model, tokenizer = read_model(folder)
    except WeftError as error:
        raise WeftError(f"transfer.from: {error}") from None
    return Donor(name, folder.name, content_of(folder), Parameters(model), model.config.heads, tokenizer)

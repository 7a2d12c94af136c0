"""Which parameters are copied from which: by declared paths, or all that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from weft.config.slot import did_you_mean
from weft.errors import WeftError
from weft.models.build import blank
from weft.models.transformer import Transformer
from weft.nn.heads import Labelled
from weft.text.tokenizers import Tokenizer
from weft.transfer.declaration import Transfer
from weft.transfer.donor import Donor
from weft.transfer.paths import Parameters


@dataclass(frozen=True)
class Copy:
    """A parameter of ours, the path that it is copied from, and the values there."""

    ours: str
    theirs: str
    tensor: Tensor


def check_paths(transfer: Transfer, model: Transformer, donor: Donor) -> None:
    """Refuse paths that lead nowhere, before data are read and sizes are known.

    Raises WeftError.
    """
    if transfer.pairs is not None:
        _paired(transfer.pairs, Parameters(model), donor)


def copies_of(
    transfer: Transfer, model: Transformer, donor: Donor, tokenizer: Tokenizer
) -> tuple[list[Copy], list[str]]:
    """What is copied, and what a person should hear about it; `tokenizer` is that of this model.

    Raises WeftError when shapes differ, tables of tokens are those of another tokenizer, or nothing fits.
    """
    ours = Parameters(model)
    foreign = set() if transfer.other_tokenizer else _foreign(model, tokenizer, donor)
    labelled = _other_labels(model, donor)
    if transfer.pairs is None:
        pairs, notes = _all_that_fit(ours, donor, foreign, labelled)
    else:
        pairs = _paired(transfer.pairs, ours, donor)
        for table in sorted(foreign & pairs.keys()):
            fits = ours.by_path[table].shape == donor.parameters.by_path[pairs[table]].shape
            raise WeftError(
                f"transfer.copy: {table} is a table of tokens, and {donor.name} has another tokenizer"
                f" ({_alike(tokenizer, donor)}): take its tokenizer"
                f' ("data.tokenizer={{kind: file, path: {donor.name}}}")'
                f"{', or say transfer.other_tokenizer=true' if fits else ''}"
            )
        _check_shapes(pairs, ours, donor)
        notes = _left_behind(transfer.pairs, pairs, donor)
    if classes := sorted(labelled & pairs.keys()):
        notes.append(f"{_some(classes)}: copied from a head with other labels")
    if transfer.other_tokenizer and (tables := _foreign(model, tokenizer, donor) & pairs.keys()):
        notes.append(f"{', '.join(sorted(tables))}: copied from another tokenizer's ({_alike(tokenizer, donor)})")
    return [Copy(name, theirs, donor.tensor(theirs)) for name, theirs in pairs.items()], notes


def _paired(asked: dict[str, str], ours: Parameters, donor: Donor) -> dict[str, str]:
    """Ours by name, and theirs, as declared.

    Raises WeftError where a path leads nowhere, or two lead to one.
    """
    found: dict[str, str] = {}
    for pattern, source in asked.items():
        fits = ours.fitting(pattern)
        if not fits:
            raise WeftError(f"transfer.copy: {pattern!r} {ours.missing(pattern)}")
        wanted = {path: fit.fill(source) for path, fit in fits.items()}
        missing = [path for path in wanted.values() if path not in donor.parameters.by_path]
        if len(missing) == len(wanted) and not donor.parameters.fitting(source):
            raise WeftError(f"transfer.copy: {source!r} of {donor.name} {donor.parameters.missing(source)}")
        if missing:
            path = next(path for path, theirs in wanted.items() if theirs == missing[0])
            more = f" (nor {len(missing) - 1} more)" if len(missing) > 1 else ""
            near = did_you_mean(missing[0], donor.parameters.by_path)
            raise WeftError(f"transfer.copy: {donor.name} has no {missing[0]}{more} to copy to {path}{near}")
        for path, theirs in wanted.items():
            name, there = ours.name_of[path], donor.parameters.name_of[theirs]
            if donor.parameters.name_of[found.setdefault(name, theirs)] != there:
                raise WeftError(
                    f"transfer.copy: {name} would be copied from {found[name]} and from {theirs}; choose one"
                )
    return found


def _all_that_fit(
    ours: Parameters, donor: Donor, foreign: set[str], labelled: set[str]
) -> tuple[dict[str, str], list[str]]:
    """What has the same path and shape; and what has not, by reason.

    Raises WeftError where nothing has.
    """
    theirs = donor.parameters.by_path
    paths = {name: name for name in ours.named()}
    for path, name in ours.name_of.items():  # a tensor in several places may stand in another of them there
        if paths[name] not in theirs and path in theirs:
            paths[name] = path
    absent = [name for name, path in paths.items() if path not in theirs]
    other = [name for name, path in paths.items() if path in theirs and theirs[path].shape != ours.by_path[name].shape]
    tables, classes = (sorted(found - {*absent, *other}) for found in (foreign, labelled))
    pairs = {name: path for name, path in paths.items() if name not in {*absent, *other, *tables, *classes}}
    reasons = {
        f"{donor.name} has no such parameter": absent,
        "of another shape there": other,
        "tables of another tokenizer's tokens; transfer.other_tokenizer=true copies them all the same": tables,
        "a head with other labels": classes,
    }
    if not pairs:
        said = "; ".join(f"{_some(names)}: {reason}" for reason, names in reasons.items() if names)
        raise WeftError(f"transfer.from = {donor.name}: nothing there fits this model ({said})")
    return pairs, [f"not copied: {_some(names)} ({reason})" for reason, names in reasons.items() if names]


def _check_shapes(pairs: dict[str, str], ours: Parameters, donor: Donor) -> None:
    """Raises WeftError for what does not fit."""
    wrong = []
    for name, path in pairs.items():
        mine, there = ours.by_path[name].shape, donor.parameters.by_path[path].shape
        if mine != there:
            wrong.append(f"{name} is {_size(mine)}, {path} of {donor.name} {_size(there)}")
    if wrong:
        more = f"; and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise WeftError(f"transfer.copy: shapes do not fit: {wrong[0]}{more}")


def _left_behind(asked: dict[str, str], pairs: dict[str, str], donor: Donor) -> list[str]:
    """What the modules that are copied from have beside what is copied: a shift that ours lack."""
    name_of = donor.parameters.name_of
    taken = {name_of[path] for path in pairs.values()}
    for ours, theirs in asked.items():
        left = [path for path in donor.parameters.fitting(theirs) if name_of[path] not in taken]
        if left and "*" not in ours:  # a pattern may well mean some of their layers only
            return [f"left behind, as this model has no place for it: {_some(left)} of {donor.name}"]
    return []


def _foreign(model: Transformer, tokenizer: Tokenizer, donor: Donor) -> set[str]:
    """Our tables of tokens, where the donor's tokenizer has another token for some row."""
    if _vocabulary(tokenizer) == _vocabulary(donor.tokenizer):
        return set()
    return token_tables(model)


def _other_labels(model: Transformer, donor: Donor) -> set[str]:
    """Our heads' parameters whose scores are for other labels there."""
    parameters, found = Parameters(model), set[str]()
    for name, head in model.config.heads.items():
        there = donor.heads.get(name)
        if isinstance(head, Labelled) and isinstance(there, Labelled) and head.labels != there.labels:
            found.update(parameters.name_of[path] for path in parameters.fitting(f"heads.{name}"))
    return found


def token_tables(model: Transformer) -> set[str]:
    """Names of the parameters whose rows are tokens: those that a larger vocabulary makes larger, and what an
    embedding says of itself."""
    parameters, config = Parameters(model), model.config
    assert config.vocab_size is not None, "a model that is built knows its vocabulary"
    larger = blank(config.model_copy(update={"vocab_size": config.vocab_size + 1}))
    shapes = {path: parameter.shape for path, parameter in larger.named_parameters()}
    grown = {path for path, parameter in parameters.named().items() if shapes[path] != parameter.shape}
    declared = [path for name in model.embedding.by_token for path in parameters.fitting(f"embedding.{name}")]
    return grown | {parameters.name_of[path] for path in declared}


def _vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    return tokenizer.inner.get_vocab(with_added_tokens=True)


def _alike(tokenizer: Tokenizer, donor: Donor) -> str:
    """How many of our tokens have the same row there."""
    mine, theirs = _vocabulary(tokenizer), _vocabulary(donor.tokenizer)
    same = sum(theirs.get(token) == id for token, id in mine.items())
    return f"{same:,} of {len(mine):,} rows stand for the same token"


def _size(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

"""Values to try for the options of parts, from their declarations, without a list that must be kept.

A *level* is one choice for a slot, as a file would hold it: {"kind": "rotary", "share": 0.5}.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ValidationError

from weft.config import Part, Section
from weft.config.slot import is_execution
from weft.errors import WeftError

CANDIDATES: dict[type, tuple[Any, ...]] = {bool: (True, False), int: (2, 1, 3, 4), float: (0.5, 0.25, 2.0)}
"""Values to try for an option of a type; those that the part refuses or has already are passed over."""

Count = Callable[[type[Section], str], int]
"""How many other values of an option are tried in combinations."""


def slot_of(annotation: Any) -> type[Part] | None:
    """The slot that a field's annotation holds, if any."""
    if get_origin(annotation) is Annotated:
        return slot_of(get_args(annotation)[0])
    if type(None) in get_args(annotation):
        return next(filter(None, map(slot_of, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Part) else None


def section_of(annotation: Any) -> type[Section] | None:
    """The section (no slot) that a field holds, if any."""
    classes = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next((one for one in classes if issubclass(one, Section) and not issubclass(one, Part)), None)


def options_of(section: type[Section], *, execution: bool = False) -> list[str]:
    """Names of the semantic (or the execution) options."""
    return [name for name in section.model_fields if is_execution(section, name) is execution]


def is_choice(section: type[Section], name: str) -> bool:
    """Whether it can be something else than the default; a section has options of its own, and some slots one kind."""
    annotation = section.model_fields[name].annotation
    base = slot_of(annotation)
    if base is not None:
        return len(base.kinds) > 1 or type(None) in get_args(annotation)
    return not (isinstance(annotation, type) and issubclass(annotation, Section))


def required_of(section: type[Section]) -> dict[str, Any]:
    """A value for each option that has no default."""
    return {name: values_of(section, name)[0] for name, field in section.model_fields.items() if field.is_required()}


def values_of(section: type[Section], name: str) -> list[Any]:
    """Values beside the default that `section` accepts for its option `name`, as a file would hold them.

    Raises WeftError where nothing says what to try.
    """
    field = section.model_fields[name]
    said = (vars(above).get("trials", {}).get(name) for above in section.__mro__)
    candidates = next(filter(None, said), None) or tuple(_candidates(field.annotation))
    if not candidates:
        raise WeftError(
            f"{section.__name__}.{name}: its type does not say which values to try; name some in the class:"
            f" trials = {{{name!r}: (first, second)}}"
        )
    required = {} if field.is_required() else required_of(section)
    return [value for value in candidates if _accepts(section, required, name, value)]


def _accepts(section: type[Section], required: Mapping[str, Any], name: str, value: Any) -> bool:
    try:
        made = section.model_validate({**required, name: value})
    except ValidationError as error:  # of one that is required, others may be missing
        return section.model_fields[name].is_required() and all(found["type"] == "missing" for found in error.errors())
    return name in section.model_fields and (
        section.model_fields[name].is_required()
        or getattr(made, name) != getattr(section.model_validate(required), name)
    )


def _candidates(annotation: Any) -> Iterator[Any]:
    base, arguments = slot_of(annotation), get_args(annotation)
    if base is not None:
        yield from levels_of(base, variants=False)
    elif get_origin(annotation) is Literal:
        yield from arguments
    elif get_origin(annotation) is Annotated:
        yield from _candidates(arguments[0])
    elif type(None) in arguments:
        yield from itertools.chain.from_iterable(map(_candidates, arguments))
    else:
        yield from CANDIDATES.get(annotation, ())


def levels_of(base: type[Part], *, variants: bool = True, count: Count | None = None) -> list[dict[str, Any]]:
    """Every kind of a slot; with `variants`, each also with one option changed, for every option that is no slot.

    As often as `count` says, if given; then also what several kinds have from one class in one of them only.
    """
    levels, seen = [], set[tuple[type, str]]()
    for kind, part in sorted(base.kinds.items(), key=lambda item: (len(item[1].__mro__), item[0])):
        plain = {"kind": kind, **required_of(part)}
        levels.append(plain)
        for name in options_of(part) if variants else []:
            declared = next(above for above in part.__mro__ if name in inspect.get_annotations(above)), name
            if slot_of(part.model_fields[name].annotation) is None and (count is None or declared not in seen):
                seen.add(declared)
                values = [value for value in values_of(part, name) if value != plain.get(name)]
                levels += [{**plain, name: value} for value in values[: 1 if count is None else count(part, name)]]
    return levels

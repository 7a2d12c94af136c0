"""Slots and parts: one slot holds one choice, and a choice is a small class that knows how to build itself.

`positions: rotary` and `positions: {kind: rotary, theta: 500000}` both name the part registered as "rotary" for
the slot "positions". A slot's base class keeps the registry; a part registers by being defined, in weft or in a
user's file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo, field_validator
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from weft.errors import WeftError

SLOTS: dict[str, type[Part]] = {}
"""Every slot's base class by the slot's name."""


class Execution:
    """Marks an option that changes how something is computed, not what: it is no part of a run's identity."""


EXECUTION = Execution()


class Section(BaseModel):
    """Options that belong together: immutable, hashable, and closed to unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    trials: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Values to try for its options in small models, where an option's type says too little: `weft check`."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """`d_model: true` is a slip, not a 1."""
        if isinstance(value, bool) and info.field_name in cls.model_fields:
            allowed = set(_plain_types(cls.model_fields[info.field_name].annotation))
            if bool not in allowed and {int, float, str} & allowed:
                raise ValueError("should be a number or a name, not true or false")
        return value

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """What a short form in this place stands for, as a mapping; anything else unchanged."""
        return raw

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """pydantic's, but defaults as a file would say them: parts with their kinds."""
        body = handler.resolve_ref_schema(handler(schema))
        for name, field in cls.model_fields.items():
            if not field.is_required():
                body["properties"][name]["default"] = _written(field.get_default(call_default_factory=True))
        return body


class Part(Section):
    """A declaration that stands in a slot: its options, and how to build what they describe."""

    kind: ClassVar[str] = ""
    slot: ClassVar[str] = ""
    default: ClassVar[str | None] = None
    kinds: ClassVar[dict[str, type[Part]]] = {}
    extra_options: ClassVar[dict[str, Any]] = {}
    """JSON Schema of names that `expand_short` understands beside a part's own options."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Keep `slot=`, `default=` and `kind=` away from object; pydantic hands them on once the class is complete."""

    @classmethod
    def __pydantic_init_subclass__(
        cls, *, slot: str | None = None, default: str | None = None, kind: str | None = None, **kwargs: Any
    ) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        if slot is not None:
            cls.slot, cls.default, cls.kinds = slot, default, {}
            SLOTS[slot] = cls
        if kind is not None:
            known = cls.kinds.get(kind)
            if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise WeftError(
                    f"{cls.slot}: the kind {kind!r} is already taken by {known.__module__}.{known.__name__}"
                )
            cls.kind = kind
            cls.kinds[kind] = cls

    @classmethod
    def expand_short(cls, raw: Any) -> Any:
        """`rotary` as `{kind: rotary}`; a mapping that names no kind gets the slot's default."""
        if isinstance(raw, str):
            return {"kind": raw}
        if isinstance(raw, Mapping) and "kind" not in raw and cls.default is not None:
            return {"kind": cls.default, **raw}
        return raw

    @classmethod
    def is_choice(cls, raw: Mapping[str, Any]) -> bool:
        """Whether a mapping chooses a part by itself, rather than changing options of the one that is there."""
        return "kind" in raw or not cls.extra_options.keys().isdisjoint(raw)

    @classmethod
    def short_schema(cls) -> dict[str, Any]:
        """JSON Schema of the short form."""
        return {"enum": sorted(cls.kinds)}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        body = super().__get_pydantic_json_schema__(schema, handler)
        properties = {"kind": {"const": cls.kind}, **cls.extra_options, **body.get("properties", {})}
        required = [*([] if cls.kind == cls.default else ["kind"]), *body.get("required", [])]
        return {**body, "title": f"{cls.slot}: {cls.kind}", "properties": properties, "required": required}

    @classmethod
    def choose(cls, raw: Any) -> Self:
        """The part that `raw` (a part, a kind's name, or a mapping) stands for, validated by its own class."""
        if isinstance(raw, cls):
            return raw
        options = cls.expand_short(raw)
        if not isinstance(options, Mapping):
            raise PydanticCustomError("slot", "should be a kind's name or a mapping with `kind`")
        options = dict(options)
        kind = options.pop("kind", None)
        if not isinstance(kind, str) or kind not in cls.kinds:
            raise PydanticCustomError("slot", "{text}", {"text": unknown_name(cls.slot, kind, cls.kinds)})
        chosen = cls.kinds[kind].model_validate(options)
        assert isinstance(chosen, cls), f"{kind} is registered under {cls.slot} but is no {cls.__name__}"
        return chosen

    def dump(self) -> dict[str, Any]:
        """Everything, by the part's actual type: `choose` makes the same part of it again."""
        return {"kind": self.kind, **self.model_dump(mode="json")}


class _SlotMarker:
    """Validates a slot by its part's own class, so that errors keep the path that a reader sees in the file."""

    def __get_pydantic_core_schema__(self, source: type[Part], handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            source.choose,
            serialization=core_schema.plain_serializer_function_ser_schema(lambda part: part.dump()),
            metadata={"slot": source},
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        while "slot" not in schema.get("metadata", {}):  # validators of the field lie around it
            schema = schema["schema"]
        base: type[Part] = schema["metadata"]["slot"]
        choices: list[dict[str, Any]] = [{**base.short_schema(), "description": f"{base.slot}, by kind"}]
        for _, part in sorted(base.kinds.items()):
            choices.append(part.__get_pydantic_json_schema__(part.__pydantic_core_schema__, handler))
        return {"anyOf": choices}


T = TypeVar("T")
Slot = Annotated[T, _SlotMarker()]


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The types that a field may be of, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for choice in get_args(annotation):
            yield from _plain_types(choice)
    else:
        yield annotation


def _written(value: Any) -> Any:
    """`value` as a file would say it: a part by its kind alone where its options are their defaults."""
    if isinstance(value, Part):
        fields = type(value).model_fields.items()
        changed = {name: getattr(value, name) for name, field in fields if getattr(value, name) != field.get_default()}
        return {"kind": value.kind, **_written(changed)} if changed else value.kind
    if isinstance(value, Section):
        return {name: _written(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(name): _written(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    return value


def unknown_name(what: str, name: object, known: Iterable[str]) -> str:
    """One line on a name that nothing bears: the nearest one, and all there are."""
    names = sorted(known)
    return f"no {what} called {name!r}{did_you_mean(str(name), names)} (known: {', '.join(names)})"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def slot_base(name: str) -> type[Part]:
    """The base class of the slot called `name`.

    Raises WeftError when no slot has that name.
    """
    if name not in SLOTS:
        raise WeftError(unknown_name("slot", name, SLOTS))
    return SLOTS[name]


def sections_within(value: Any) -> Iterator[tuple[tuple[str, ...], Section]]:
    """`value` and every section and part below it, each with its path."""
    if isinstance(value, Section):
        yield (), value
        children: Iterable[tuple[str, Any]] = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list | tuple):
        children = ((str(index), item) for index, item in enumerate(value))
    else:
        return
    for name, child in children:
        for path, section in sections_within(child):
            yield (name, *path), section


def is_execution(section: type[Section], name: str) -> bool:
    """Whether the option `name` of `section` changes how, not what, is computed."""
    return any(isinstance(mark, Execution) for mark in section.model_fields[name].metadata)


def semantic(value: Any) -> Any:
    """`value` as plain data without execution options: what a run's identity is made of."""
    if isinstance(value, Section):
        head = {"kind": value.kind} if isinstance(value, Part) else {}
        names = [name for name in type(value).model_fields if not is_execution(type(value), name)]
        return head | {name: semantic(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): semantic(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [semantic(item) for item in value]
    return value

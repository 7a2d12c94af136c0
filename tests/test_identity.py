"""What editors complete from (the JSON Schema), and what makes two declarations the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import schema
from pydantic import TypeAdapter
from test_declarations import load, problems

from weft.checking.cases import one_by_one, places
from weft.checking.values import is_choice, options_of, required_of, values_of
from weft.config import Section, Slot, sections_within, semantic
from weft.models.config import ModelConfig, StackConfig, TransformerConfig, preset, presets
from weft.runs.fingerprints import of_data

PLACES = places()


def schema_of_models() -> dict[str, Any]:
    return TypeAdapter(Slot[ModelConfig]).json_schema()


def test_the_schema_is_one_and_explains_every_option() -> None:
    whole = schema_of_models()
    for part in schema.parts_of(whole):
        if "$ref" in part:
            schema.resolve(part["$ref"], whole)
        for name, option in part.get("properties", {}).items():
            assert name in ("kind", "preset") or option.get("description"), f"{name} is not explained"
            if "default" in option:
                assert not list(schema.problems(option["default"], option, whole)), (
                    f"the default of {name} does not fit"
                )
    json.dumps(whole, allow_nan=False)


def test_what_weft_reads_fits_the_schema() -> None:
    whole = schema_of_models()
    documents = [
        "gpt2",
        {"preset": "gpt2", "decoder": {"n_layers": 2}},
        *map(preset, presets()),
        *one_by_one(PLACES),
    ]
    documents += [{"decoder": {"blocks": ["post", {"attention": {"n_heads": 2}}]}}, load("gpt2").dump()]
    for document in documents:
        load(document)
        assert not list(schema.problems(document, whole, whole)), document


@pytest.mark.parametrize(
    "document",
    [
        "gtp2",
        {"d_modle": 3},
        {"d_model": 0},
        {"dropout": 1.0},
        {"decoder": {"positions": "rotry"}},
        {"decoder": {"positions": {"kind": "learned", "theta": 3}}},
        {"decoder": {"block": {"attention": {"mask": {"kind": "window"}}}}},
        {"decoder": {"blocks": [{"kind": "post", "attention": {"n_haeds": 2}}]}},
        {"embedding": {"tied": 3}},
        {"preset": 3},
    ],
    ids=str,
)
def test_what_weft_refuses_does_not_fit_the_schema(document: Any) -> None:
    whole = schema_of_models()
    assert problems(document)
    assert list(schema.problems(document, whole, whole))


# --- identity ---


def identity(config: Any) -> str:
    return of_data(semantic(config))


def sections() -> Iterator[Any]:
    for place in PLACES.values():
        for part in place.base.kinds.values():
            yield from ((part, name) for name in part.model_fields if is_choice(part, name))
    yield from ((section, name) for section in (StackConfig, TransformerConfig) for name in section.model_fields
                if is_choice(section, name))  # fmt: skip


def test_every_semantic_option_and_no_execution_option_is_part_of_a_run_s_identity() -> None:
    checked = dict.fromkeys((True, False), 0)
    for section, name in dict.fromkeys(sections()):
        required = required_of(section)
        plain = identity(section.model_validate(required))
        execution = name in options_of(section, execution=True)
        for value in values_of(section, name):
            if value != required.get(name):
                other = identity(section.model_validate({**required, name: value}))
                assert (other == plain) is execution, f"{section.__name__}.{name} = {value}"
                checked[execution] += 1
    assert min(checked.values()) > 0


def test_identity_is_of_what_is_meant_not_of_how_it_is_written() -> None:
    written = {"decoder": {"positions": "rotary", "n_layers": 2}, "d_model": 64}
    other = {
        "d_model": 64,
        "kind": "transformer",
        "decoder": {"n_layers": 2, "positions": {"theta": 1e4, "kind": "rotary"}},
    }
    assert identity(load(written)) == identity(load(other)) == identity(load(load(written).dump()))
    for kernel in ("sdpa", "reference", "auto"):
        assert identity(load(written, f"decoder.block.attention.kernel={kernel}")) == identity(load(written))
    assert identity(load(written, "decoder.positions.theta=10001")) != identity(load(written))
    listed = [path for path, _ in sections_within(load(written))]
    assert ("decoder", "block", "attention", "score") in listed


def test_identity_is_the_same_in_every_process() -> None:
    code = (
        "from weft.config import semantic; from weft.models.config import ModelConfig;"
        "from weft.runs.fingerprints import of_data; print(of_data(semantic(ModelConfig.load('llama-tiny'))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == identity(load("llama-tiny"))


def test_sections_are_closed_and_immutable() -> None:
    config: Section = load("gpt2")
    with pytest.raises(ValueError, match="frozen"):
        config.d_model = 3  # type: ignore[attr-defined]
    assert hash(load("gpt2").decoder.block) == hash(load("gpt2").decoder.block)

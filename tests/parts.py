"""Small models from the registry: every registered part, alone and in combination, without a list that must be kept.

A *place* is where a choice stands below `model` ("decoder.block.attention.score"); a *level* is one choice for it, as
JSON text ('{"kind": "rotary", "share": 0.5}', or 'null' for what the surroundings give); a *case* has a level for each
place.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

import torch
from pydantic import ValidationError

from weft.config import SLOTS, Part, Section, sections_within
from weft.config.slot import is_execution
from weft.errors import WeftError
from weft.models.build import build
from weft.models.config import ModelConfig, TransformerConfig
from weft.models.transformer import Transformer
from weft.seeds import derive

SIZES: dict[str, Any] = {"d_model": 16, "max_length": 24, "vocab_size": 11, "decoder": {"n_layers": 2}}
"""Of every model that is made here."""

STACKS = ("decoder", "encoder", "both")
"""A model is one of these; what a case says of "decoder" is what all its stacks are made of."""

LABELS = ("a", "b", "c", "d")
"""Classes of a classifier that names none."""

CANDIDATES: dict[type, tuple[Any, ...]] = {bool: (True, False), int: (2, 1, 3, 4), float: (0.5, 0.25, 2.0)}
"""Values to try for an option of a type; those that the part refuses or has already are passed over."""

EXAMPLES: dict[tuple[str, str], tuple[Any, ...]] = {
    ("StackConfig", "pattern"): ([{"attention": "none"}, {}],),
    ("StackConfig", "blocks"): ([{"kind": "post"}, {"kind": "pre", "attention": "none"}],),
    ("TransformerConfig", "heads"): ({"lm": {"kind": "lm", "bias": True}},),
    ("TransformerConfig", "encoder"): ({"n_layers": 3},),
    ("TransformerConfig", "decoder"): ({"n_layers": 3},),
    ("StackConfig", "share"): ("all",),
    ("Labelled", "labels"): ([*"abcdefgh"],),
    ("_Wide", "width"): (23,),  # of few ReLUs all may be dead
    ("Factorized", "width"): (12,),  # of few channels a norm leaves the signs
    ("DotProduct", "head_width"): (8,),
    ("T5", "num_buckets"): (4, 8),
    ("T5", "max_distance"): (20,),  # beyond the buckets of one distance each
    ("Stretched", "factor"): (2.0, 4.0),
    ("DynamicScaling", "original_length"): (4,),
    ("Stretched", "original_length"): (1000, 100),  # so long that some pairs make turns within it, and some do not
    ("Softmax", "cap"): (4.0, 2.0),  # so low that it matters, so high that tanh still rises
    ("DotProduct", "bias"): (["query", "output"], True),
    ("Window", "size"): (3, 2),  # less than the texts that are tried are long, and more than one
    ("Dilated", "size"): (2, 3),
    ("Dilated", "dilation"): (3,),
    ("InBlocks", "size"): (3, 2),
    ("Strided", "stride"): (2, 3),
    ("AnyOf", "of"): (
        [{"kind": "window", "size": 2}, {"kind": "global", "tokens": 1}],
        [{"kind": "block", "size": 2}, {"kind": "strided", "stride": 3}],
    ),
    ("AllOf", "of"): (
        [{"kind": "window", "size": 4}, {"kind": "strided", "stride": 2}],
        [{"kind": "window", "size": 3}, {"any": [{"kind": "block", "size": 2}, "global"]}],
    ),
}
"""Values for options whose type says too little: (class that has it, option) -> values."""

CROSS = "cross_attention"
"""A slot that is never `none` here: every layer that reads a source would be without, which is refused. What stands
below it is tried where it comes from unless given: below `attention`."""

TRIED = {
    ("DotProduct", "n_kv_heads"): 2,
    ("Rotary", "theta"): 0,
    ("Rotary", "scaling"): 0,
    ("Sinusoidal", "theta"): 0,
    ("Learned", "offset"): 0,
    ("T5", "num_buckets"): 0,
    ("T5", "max_distance"): 0,
    **dict.fromkeys((("Window", "size"), ("Dilated", "size"), ("Dilated", "dilation"), ("InBlocks", "size")), 0),
    **dict.fromkeys((("Strided", "stride"), ("Global", "tokens"), ("AnyOf", "of"), ("AllOf", "of")), 0),
}
"""How many levels beside the default's an option has in pairs, if not one. None where it changes a figure in a
formula, and whatever goes with the default goes with it (of a slot, its kinds are tried): those are in test_reference,
and each is shown to be alive."""

ALONE = {"dropout", "epsilon", "stochastic_depth"}
"""So it is with options of these names, whoever has them: properties are those of evaluation."""

Case = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]
INHERIT = "null"


@dataclass(frozen=True)
class Place:
    """A slot of the declaration, and the levels that are tried there."""

    base: type[Part]
    levels: tuple[str, ...]


# --- options and their values ---


def slot_of(annotation: Any) -> type[Part] | None:
    """The slot that a field's annotation holds, if any."""
    if get_origin(annotation) is Annotated:
        return slot_of(get_args(annotation)[0])
    if type(None) in get_args(annotation):
        return next(filter(None, map(slot_of, get_args(annotation))), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Part) else None


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


def tried(section: type[Section], name: str) -> int:
    """TRIED of the section, or of what it has the option from."""
    if name in ALONE:
        return 0
    return next((TRIED[above.__name__, name] for above in section.__mro__ if (above.__name__, name) in TRIED), 1)


def required_of(section: type[Section]) -> dict[str, Any]:
    """A value for each option that has no default."""
    return {name: values_of(section, name)[0] for name, field in section.model_fields.items() if field.is_required()}


def values_of(section: type[Section], name: str) -> list[Any]:
    """Values beside the default that `section` accepts for its option `name`, as a file would hold them."""
    field = section.model_fields[name]
    examples = (EXAMPLES.get((above.__name__, name)) for above in section.__mro__)
    tried = next(filter(None, examples), None) or tuple(_candidates(field.annotation))
    assert tried, f"{section.__name__}.{name}: no value to test it with; add one to EXAMPLES in tests/parts.py"
    required = {} if field.is_required() else required_of(section)
    return [value for value in tried if _accepts(section, required, name, value)]


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


def levels_of(base: type[Part], *, variants: bool = True, thorough: bool = True) -> list[dict[str, Any]]:
    """Every kind of a slot; with `variants`, each also with one option changed, for every option that is no slot.

    Unless `thorough`, as often as TRIED says, and what several kinds have from one class in one of them only.
    """
    levels, seen = [], set[tuple[type, str]]()
    for kind, part in sorted(base.kinds.items(), key=lambda item: (len(item[1].__mro__), item[0])):
        plain = {"kind": kind, **required_of(part)}
        levels.append(plain)
        for name in options_of(part) if variants else []:
            declared = next(above for above in part.__mro__ if name in inspect.get_annotations(above)), name
            if slot_of(part.model_fields[name].annotation) is None and (thorough or declared not in seen):
                seen.add(declared)
                values = [value for value in values_of(part, name) if value != plain.get(name)]
                count = max(1, tried(part, name)) if thorough else tried(part, name)
                levels += [{**plain, name: value} for value in values[:count]]
    return levels


# --- places and cases ---


def places(*, variants: bool = True) -> dict[str, Place]:
    """Every slot below `model`, those of all kinds of parts included."""
    found: dict[str, Place] = {}

    def add(path: str, base: type[Part], optional: bool, count: int) -> None:
        # what overrides another is tried by kind, and what stands below it where it comes from
        levels = levels_of(base, variants=variants and not optional and count > 0, thorough=False)
        levels = [level for level in levels if level["kind"] != "none" or not path.endswith(CROSS)]
        found[path] = Place(base, (*([INHERIT] if optional else []), *map(json.dumps, levels)))
        for part in base.kinds.values() if not optional else ():
            visit(part, f"{path}.")

    def visit(section: type[Section], prefix: str) -> None:
        for name, field in section.model_fields.items():
            base = slot_of(field.annotation)
            if base is not None and f"{prefix}{name}" not in found:
                add(f"{prefix}{name}", base, type(None) in get_args(field.annotation), tried(section, name))
            elif (stack := _section_of(field.annotation)) is not None and name != "encoder":
                visit(stack, f"{prefix}{name}.")

    visit(TransformerConfig, "")
    for kind in SLOTS["head"].kinds:
        levels = levels_of(SLOTS["head"], variants=variants, thorough=False)
        levels = [level for level in levels if level["kind"] == kind]
        found[f"heads.{kind}"] = Place(SLOTS["head"], tuple(map(json.dumps, levels)))
    found["stacks"] = Place(ModelConfig, tuple(map(json.dumps, STACKS)))
    return found


def _section_of(annotation: Any) -> type[Section] | None:
    """The section (no slot) that a field holds, if any."""
    classes = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type)]
    return next((one for one in classes if issubclass(one, Section) and not issubclass(one, Part)), None)


def applies(path: str, case: Mapping[str, str], where: Mapping[str, Place]) -> bool:
    """Whether the part that the case chooses above `path` has such a slot."""
    above, _, name = path.rpartition(".")
    if name == CROSS and case.get("stacks") != '"both"':
        return False
    if above not in where:
        return True
    level = json.loads(case[above])
    if any(case.get(other, INHERIT) != INHERIT for other in _overriding(above, where)):
        return False
    return level is not None and name in where[above].base.kinds[level["kind"]].model_fields and applies(
        above, case, where
    )  # fmt: skip


def declaration(case: Mapping[str, str], where: Mapping[str, Place]) -> dict[str, Any]:
    """The model's declaration; levels whose slot does not exist in this case are left out."""
    tree = deepcopy(SIZES)
    for path in sorted(case, key=lambda path: path.count(".")):
        level = json.loads(case[path])
        if path != "stacks" and level is not None and applies(path, case, where):
            *above, name = path.split(".")
            functools.reduce(lambda node, key: node.setdefault(key, {}), above, tree)[name] = level
    stacks, block = json.loads(case.get("stacks", '"decoder"')), tree["decoder"].get("block", {})
    if stacks == "both" and block.get("attention", {}).get("kind") == "none":
        block.setdefault(CROSS, {"kind": "dot-product"})
    if stacks != "decoder":
        tree["encoder"] = deepcopy(tree["decoder"] if stacks == "both" else tree.pop("decoder"))
        tree["encoder"].get("block", {}).pop(CROSS, None)
    if stacks == "both":
        tree["encoder"]["n_layers"] = 1  # without norms and residuals three layers in a row are steep enough
    return tree


def plain_case(where: Mapping[str, Place]) -> Case:
    """Each place's default kind, or what the surroundings give."""
    case = {"stacks": '"decoder"'}
    for path, place in where.items():
        if path == "stacks":
            continue
        kinds = {"kind": place.base.default} if place.base.default else {}
        plain = next((level for level in place.levels if kinds and json.loads(level) == kinds), place.levels[0])
        case[path] = INHERIT if INHERIT in place.levels else plain
    return case


def one_by_one(where: Mapping[str, Place]) -> Iterator[dict[str, Any]]:
    """The declaration with each level of each place, in a model that is the default otherwise."""
    for path, place in where.items():
        for level in place.levels:
            yield declaration({**plain_case(where), path: level}, where)


def by_lot(where: Mapping[str, Place], count: int) -> Iterator[Case]:
    """`count` cases that are not refused, every level by lot: of the whole product, which nobody can compute."""
    lot = random.Random(1)
    while count:
        case = {path: lot.choice(place.levels) for path, place in where.items()}
        if refusal(case, where) is None:
            count -= 1
            yield case


def pairwise(where: Mapping[str, Place]) -> tuple[list[Case], dict[Pair, str]]:
    """Cases in which every two levels of different places meet; and the pairs that are refused, with the reason.

    A choice that overrides another meets what it overrides: what goes with that one goes with it.
    """
    order = random.Random(0)
    overriding = {path: _overridden(path, where) for path, place in where.items() if INHERIT in place.levels}
    missing = {
        pair
        for (a, first), (b, second) in itertools.combinations(sorted(where.items()), 2)
        if b in (overriding.get(a) or [b]) and a in (overriding.get(b) or [a])
        for pair in itertools.product(((a, level) for level in first.levels), ((b, level) for level in second.levels))
    }
    cases, refused, accepted, tries = [], dict[Pair, str](), set[tuple[str, str]](), Counter[tuple[str, str]]()
    while missing:
        pair = min(missing)  # not pop(): the same cases in every process
        hopeless = next((item for item in pair if tries[item] >= 40 and item not in accepted), None)
        if hopeless is not None:  # refused whatever stands beside it
            refused[pair] = next(reason for other, reason in refused.items() if hopeless in other)
            missing.discard(pair)
            continue
        for wanted in (missing, *[set[Pair]()] * 20):  # the fullest case; should it be refused, twenty random ones
            found = [_complete(dict(pair), where, wanted, order) for _ in range(8 if wanted else 1)]
            case = max(filter(None, found), key=lambda case: len(met(case, where) & missing), default=None)
            if case is None:  # the two exclude one another
                break
            reason = refusal(case, where)
            if reason is None:
                cases.append(case)
                accepted |= {item for pair in met(case, where) for item in pair}
                missing -= met(case, where)
                refused.pop(pair, None)
                break
            tries.update(pair)
            refused[pair] = reason
        missing.discard(pair)
    return cases, refused


def met(case: Mapping[str, str], where: Mapping[str, Place]) -> set[Pair]:
    """The pairs of levels that are at work together in this case."""
    alive = {path for path in case if applies(path, case, where)}
    # what is overridden below is at work together with what overrides it only
    overriding = {path for path in alive if INHERIT in where[path].levels and case[path] != INHERIT}
    hidden = {path: above for path in overriding for above in _overridden(path, where)}
    pairs = itertools.combinations(sorted((path, case[path]) for path in alive), 2)
    return {
        (a, b) for a, b in pairs
        if (a[0] not in hidden.values() or hidden.get(b[0]) == a[0])
        and (b[0] not in hidden.values() or hidden.get(a[0]) == b[0])
    }  # fmt: skip


def _overridden(path: str, where: Mapping[str, Place]) -> list[str]:
    """The places whose choice the one at `path` overrides: of the same slot, further out."""
    if path.endswith(CROSS):  # stands beside the attention whose options it has
        return []
    return [other for other, place in where.items() if place.base is where[path].base and INHERIT not in place.levels]


def _overriding(path: str, where: Mapping[str, Place]) -> list[str]:
    """The places whose choice overrides the one at `path`."""
    return [other for other, place in where.items() if INHERIT in place.levels and path in _overridden(other, where)]


def _complete(fixed: Case, where: Mapping[str, Place], wanted: set[Pair], order: random.Random) -> Case | None:
    """The fixed levels and, elsewhere, those that meet most wanted pairs; None where the fixed ones exclude another."""
    case = dict(fixed)
    rest = [path for path in where if path not in case]
    needed = {*fixed, *(path for path in where for below in fixed if below.startswith(f"{path}."))}
    order.shuffle(rest)
    for path in sorted(rest, key=lambda path: path.count(".")):
        levels = list(where[path].levels)
        if path == "stacks" and any(CROSS in other for other in fixed):
            levels = ['"both"']
        if INHERIT in levels and set(_overridden(path, where)) & needed:
            levels = [INHERIT]
        order.shuffle(levels)
        below = [other for other in fixed if other.startswith(f"{path}.")]
        levels = [level for level in levels if all(_hosts(where[path], level, other, path) for other in below)]
        if not levels:
            return None
        gains = {
            level: sum(tuple(sorted([(path, level), item])) in wanted for item in case.items()) for level in levels
        }
        case[path] = max(levels, key=gains.__getitem__)
    return case if all(applies(path, case, where) for path in fixed) else None


def _hosts(place: Place, level: str, other: str, path: str) -> bool:
    """Whether the part that `level` chooses at `path` has the slot in which `other` begins."""
    chosen, name = json.loads(level), other.removeprefix(f"{path}.").partition(".")[0]
    return chosen is not None and name in place.base.kinds[chosen["kind"]].model_fields


# --- models ---


@functools.lru_cache(maxsize=1024)
def _model(text: str) -> Transformer:
    model = build(ModelConfig.load(json.loads(text)).bind(SIZES["vocab_size"], LABELS)).double().eval()
    stir(model)
    zeros = torch.zeros(1, 4, dtype=torch.long)
    model(zeros, source=zeros if model.encoder and model.decoder else None)  # some are refused only here
    return model


def model_of(case: Mapping[str, str], where: Mapping[str, Place]) -> Transformer:
    """The case's model in float64, its weights large enough that every part matters; shared: leave it as it is.

    Raises WeftError when this combination is refused.
    """
    return _model(json.dumps(declaration(case, where)))


def forget() -> None:
    """Drop the models that are kept: a kind may come to mean another part."""
    _model.cache_clear()


def refusal(case: Mapping[str, str], where: Mapping[str, Place]) -> str | None:
    """Why this combination is refused, or None."""
    try:
        model_of(case, where)
    except WeftError as error:
        return str(error)
    return None


def small(decoder: Mapping[str, Any] | None = None, **options: Any) -> Transformer:
    """A model of two rotary layers unless said otherwise, in float64, stirred."""
    model = build({**SIZES, **options, "decoder": {"n_layers": 2, "positions": "rotary", **(decoder or {})}})
    stir(model.double().eval())
    return model


def stir(model: torch.nn.Module, strength: float = 0.3) -> None:
    """Add noise to every parameter, gains and shifts included, so that none is 0 or 1 and no weight is small."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(derive(0, "stir", name))
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += strength * noise.to(parameter)


def smallest(case: Case, where: Mapping[str, Place], fails: Callable[[Case], bool]) -> Case:
    """The failing case with all that does not matter taken back to the default."""
    plain = plain_case(where)
    for path in sorted(case, key=lambda path: -path.count(".")):
        simpler = {**case, path: plain[path]}
        if case[path] != plain[path] and refusal(simpler, where) is None and fails(simpler):
            case = simpler
    return case


def told(case: Case, where: Mapping[str, Place]) -> str:
    """What differs from the default, for a person."""
    plain = plain_case(where)
    changed = [path for path in case if case[path] != plain[path] and applies(path, case, where)]
    return ", ".join(f"{path}={case[path]}" for path in changed) or "the default model"


def changed(config: ModelConfig, section: type[Section], name: str, value: Any) -> dict[str, Any]:
    """The model's declaration with another value of one option, in all sections of that type."""
    tree = config.dump()
    for path, found in sections_within(config):
        if type(found) is section and (name != CROSS or path[0] == "decoder"):  # an encoder has no source
            functools.reduce(lambda node, key: node[int(key) if isinstance(node, list) else key], path, tree)[name] = (
                value
            )
    return tree

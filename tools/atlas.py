"""Make docs/atlas, a page for each part of a model, from its docstring and its code; or tell which pages are stale.

    python tools/atlas.py [--check]

Nothing in the pages is written by hand: what is missing belongs into the part's docstring or class.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from atlas_code import Code, below, computing, declaration
from atlas_drawing import Drawing
from atlas_figures import drawings
from atlas_parts import (
    Place,
    block_yaml,
    default_cost,
    default_model,
    dims,
    equations,
    example,
    head_width,
    kept_bytes,
    kinds,
    made,
    meaning,
    own_cost,
    places,
    selected,
    slots,
    whole_cost,
)  # fmt: skip

from weft.cli.list import default_of, meaning_of, options
from weft.errors import WeftError
from weft.models.equations import LEGEND
from weft.nn import Cost
from weft.nn.part import ModelPart
from weft.report.formats import count, size

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "atlas"
COMMAND = "make atlas"
LONG = 45
"""Lines of code from which they are folded."""
CONVENTION = "FLOPs are those of matrix products, masked keys included."
AUTHORS = r"(?:van den |Le )?[A-Z][\w-]+(?:, [A-Z][\w-]+)*(?: and [A-Z][\w-]+| et al\.| Team)?"
CITED = re.compile(rf"\b({AUTHORS}) ((?:19|20)\d\d)\b")
ARXIV = re.compile(r"\barXiv (\d{4}\.\d{4,5})")


def pages() -> dict[str, str]:
    """Every file of the atlas by its path below docs/atlas."""
    found: dict[str, str] = {}
    for slot, base in slots().items():
        for kind, part in kinds(base).items():
            drawn = drawings(part)
            found[f"{slot}/{kind}.md"] = page(part, drawn)
            found |= {f"{slot}/{picture_name(part, drawing)}": drawing.svg for drawing in drawn}
    found["README.md"] = index()
    return found


# --- one page ---


def page(part: type[ModelPart], drawn: list[Drawing]) -> str:
    """A part's page."""
    plain, title = example(part), f"{slot_name(part)}: {part.kind}"
    place, *others = standing(plain)
    sections = [
        f"<!-- made by tools/atlas.py from {source(part)}: change that, then `{COMMAND}` -->",
        f"# {title}",
        prose(inspect.cleandoc(part.__doc__ or "")),
        *(f"![{drawing.shows}]({picture_name(part, drawing)})" for drawing in drawn),
        "## Select it",
        *select(plain, place, others),
        *table_of_options(part),
        *formulas(plain),
        "## What it costs",
        *cost_table(plain, place),
        *code(part, plain),
        *see_also(part),
    ]
    return "\n\n".join(sections) + "\n"


def slot_name(part: type[ModelPart] | ModelPart) -> str:
    """The slot in words."""
    return part.slot.replace("_", " ")


def source(part: type[ModelPart]) -> str:
    """The file that declares the part, from the repository's root."""
    return f"src/{part.__module__.replace('.', '/')}.py"


def picture_name(part: type[ModelPart], drawing: Drawing) -> str:
    """What the drawing's file is called, beside the page."""
    return f"{part.kind}{'-' if drawing.name else ''}{drawing.name}.svg"


def prose(text: str) -> str:
    """A docstring as Markdown: papers with a number are links."""
    return ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def papers(part: type[ModelPart]) -> list[str]:
    """Authors and year of each paper that the docstring names."""
    return list(dict.fromkeys(f"{authors} {year}" for authors, year in CITED.findall(part.__doc__ or "")))


def standing(part: ModelPart) -> list[Place]:
    """The places in which the part can be built, its slot's own first."""
    found = []
    for place in places()[part.slot]:
        try:
            selected(part, place)
            found.append(place)
        except WeftError:
            continue
    return found


def select(part: ModelPart, place: Place, others: Iterable[Place]) -> Iterator[str]:
    """How to choose it: in a recipe, on the command line, and where else."""
    default = type(part).default == part.kind
    yield "It is what stands there unless another is chosen. In a recipe:" if default else "In a recipe:"
    yield f"```yaml\n{block_yaml({'model': place.declaration(part)})}\n```"
    paths = " ".join(f'"{path}"' if re.search(r"[\s{}\[\]]", path) else path for path in place.overrides(part))
    yield "or by its path, with `model.` before it where a recipe is changed (`weft train`):"
    yield f"```console\n$ weft describe transformer {paths}\n```"
    also = [f"`{other.of(part)}`" for other in others]
    if also:
        yield f"It can stand in {', '.join(also)}, too; in an encoder, below `encoder`."


def table_of_options(part: type[ModelPart]) -> Iterator[str]:
    """Name, type, default and meaning of each option."""
    about = options(part)
    if not about:
        return
    yield "## Options"
    rows = [
        [f"`{name}`", type_shown(item["type"]), f"`{default_of(item)}`" if default_of(item) else "", meaning_of(item)]
        for name, item in about.items()
    ]
    yield table(["option", "type", "default", "meaning"], rows)
    if any(item["execution"] for item in about.values()):
        yield "[execution]: changes how it is computed, not what."


def type_shown(told: str) -> str:
    """A type as `weft list parts` tells it; another slot's parts with a link."""
    found = re.fullmatch(r"(list of )?part: (\w+)", told)
    if found is None:
        return f"`{told}`"
    return f"{found[1] or ''}[part: {found[2]}](../README.md#{found[2].replace('_', '-')})"


def formulas(part: ModelPart) -> Iterator[str]:
    """Its equations, and what their letters are."""
    lines = equations(part)
    if not lines:
        return
    yield "## What it computes"
    body = " \\\\\n".join(upright(line) for line in lines)
    yield f"```math\n\\begin{{aligned}}\n{body}\n\\end{{aligned}}\n```"
    base = next(above for above in type(part).__mro__ if vars(above).get("slot") == part.slot)
    more = inspect.cleandoc(base.__doc__ or "").partition("\n\n")[2]
    yield " ".join(filter(None, [LEGEND[0], more]))


def upright(line: str) -> str:
    r"""GitHub allows no \operatorname."""
    return line.replace(r"\operatorname{", r"\mathrm{")


def cost_table(part: ModelPart, place: Place) -> Iterator[str]:
    """Parameters, FLOPs and cache of the part alone and of the default model with and without it."""
    own, whole, before = own_cost(part), whole_cost(selected(part, place)), default_cost()
    rows = [["the part itself", *(shown or "0" for shown in costs_shown(own))]]
    if whole != before:
        rows.append(["the default model with it", *costs_shown(whole)])
    has = "which has it" if type(part).default == part.kind else "with it or without"
    rows.append(["the default model" if whole != before else f"the default model, {has}", *costs_shown(before)])
    yield table(["", "parameters", "FLOPs a token", "cache a token"], rows, "lrrr")
    yield f"The default model: {sizes()}. {CONVENTION}"


def costs_shown(cost: Cost) -> list[str]:
    """A cost's figures; nothing where there are none."""
    flops, kept = count(cost.flops) if cost.flops else "", size(kept_bytes(cost)) if cost.cache else ""
    return [f"{cost.parameters:,}" if cost.parameters else "", flops, kept]


def sizes() -> str:
    """The default model in words."""
    config, known = default_model(), dims()
    return (
        f"{known.n_layers} layers of width {config.d_model}, {config.d_model // head_width()} heads of {head_width()},"
        f" texts of {config.max_length} tokens, a vocabulary of {config.vocab_size:,}; in float32"
    )


def code(part: type[ModelPart], plain: ModelPart) -> Iterator[str]:
    """Declaration and computation; what is long is folded."""
    yield "## The code"
    things = made(plain)
    for told, found, most in (
        ("What declares it", declaration(part), LONG),
        ("What computes it", computing(things, part), LONG),
        ("What that is built upon", below(things, part), LONG // 2),
    ):
        for item in found:
            yield from listed(item, told, most)


def listed(item: Code, told: str, most: int) -> Iterator[str]:
    """One file's lines below a link to it; folded where they are more than `most`."""
    block = f"```python\n{item.text}\n```"
    yield f"{told}, in [{item.file.removeprefix('weft/')}](../../../src/{item.file}):"
    if item.count > most:
        names = ", ".join(f"<code>{name}</code>" for name in item.names)
        block = f"<details>\n<summary>{names}: {item.count} lines</summary>\n\n{block}\n\n</details>"
    yield block


def see_also(part: type[ModelPart]) -> Iterator[str]:
    """The other parts of the slot."""
    others = [f"[{kind}]({kind}.md)" for kind in kinds(slots()[part.slot]) if kind != part.kind]
    yield "## See also"
    beside = f"{', '.join(others)}; " if others else ""
    yield f"{beside}[all parts](../README.md)."


# --- the index ---


def index() -> str:
    """All parts in tables, slot by slot."""
    sections = [
        f"<!-- made by tools/atlas.py: `{COMMAND}` -->",
        "# Atlas of parts",
        f"Every part that a model can be made of, {sum(len(kinds(base)) for base in slots().values())} in"
        f" {len(slots())} slots, a page each: what it computes, a drawing, how to select it, its options, its cost, its"
        " code. The pages are made from the parts' docstrings and code, each part built and computed"
        f" (`{COMMAND}`; a test sees that they are up to date). Costs are those of the part itself, once, in weft's"
        f" default model: {sizes()}. {CONVENTION}",
        "**Bold** is what stands there unless said. `weft list parts SLOT` tells the same options in a terminal, of"
        " parts of your own too.",
    ]
    for slot, base in slots().items():
        sections += [f"## {slot.replace('_', ' ')}", f"{meaning(base)} At `{places()[slot][0].path}`."]
        rows = []
        for kind, part in kinds(base).items():
            name = f"[{kind}]({slot}/{kind}.md)"
            own = costs_shown(own_cost(example(part)))
            rows.append([f"**{name}**" if kind == base.default else name, brief(part), "; ".join(papers(part)), *own])
        head = ["part", "what it is", "papers", "parameters", "FLOPs a token", "cache a token"]
        full = [i for i in range(len(head)) if i < 3 or any(row[i] for row in rows)]
        sections.append(table([head[i] for i in full], [[row[i] for i in full] for row in rows], "lllrrr"))
    return "\n\n".join(sections) + "\n"


def brief(part: type[ModelPart]) -> str:
    """One line of meaning, without its papers: they have a column."""
    return re.sub(r" \([^()]*\b(?:19|20)\d\d\b[^()]*\)", "", meaning(part))


def table(head: list[str], rows: list[list[str]], align: str = "") -> str:
    """A table in Markdown."""
    marks = [":---" if way == "l" else "---:" for way in align.ljust(len(head), "l")]
    lines = [head, marks[: len(head)], *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- files ---


def stale(found: dict[str, str], folder: Path = FOLDER) -> list[str]:
    """Files that are missing, other than they should be, or of no part any more."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    changed = [name for name, text in found.items() if name not in there or read(folder / name) != text]
    return sorted({*changed, *(there - found.keys())})


def read(path: Path) -> str:
    """The file's text."""
    return path.read_text(encoding="utf-8")


def write(found: dict[str, str], names: Iterable[str], folder: Path = FOLDER) -> None:
    """Make these files what they should be; those of no part are removed."""
    for name in names:
        path = folder / name
        if name in found:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(found[name], encoding="utf-8", newline="\n")
        else:
            path.unlink()


def main() -> int:
    """Write or compare; 1 where a page is stale and is only to be compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only tell which pages are stale")
    asked = parser.parse_args()
    found = pages()
    names = stale(found)
    if not asked.check:
        write(found, names)
    if names:
        print(f"{'stale' if asked.check else 'written'}: {', '.join(names)}")
    return 1 if names and asked.check else 0


if __name__ == "__main__":
    sys.exit(main())

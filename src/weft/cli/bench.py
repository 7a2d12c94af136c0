"""`weft bench`: how fast this machine does what weft does."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from weft.training.profiling import Profile

app = typer.Typer(no_args_is_help=True, help="Measure where time and memory go: weft bench profile demo")


@app.command()
def profile(
    recipe: Annotated[str, typer.Argument(help="a recipe: a file or a bundled name")],
    overrides: Annotated[list[str] | None, typer.Argument(help="path=value, such as train.micro_batch=4")] = None,
    steps: Annotated[int, typer.Option(min=1, help="steps that are measured")] = 5,
    modules: Annotated[bool, typer.Option("--modules", help="tell every module, not only the slots")] = False,
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Tell where a training step's time and memory go, by part: weft bench profile demo"""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own chatter
    from weft.config.plugins import load_plugins
    from weft.report.terminal import console
    from weft.training.profiling import profile
    from weft.training.recipe import load_recipe, read_recipe
    from weft.training.setup import make_training, prepare_run

    load_plugins(plugins or ())
    raw, base = read_recipe(recipe)
    prepared = prepare_run(load_recipe(raw, base, overrides or ())[0], console(stderr=True))
    found = profile(make_training(prepared), steps)
    if as_json:
        typer.echo(json.dumps({**found.data(), "environment": prepared.environment}))
    else:
        typer.echo("\n".join(_lines(found, modules)))


def _lines(found: Profile, modules: bool) -> list[str]:
    """The finding, then the table."""
    from weft.report.terminal import duration, percent, rate, size, table

    slots, whole = found.slots(), found.measured
    products = sum(part.matrices for part in slots)
    pace = duration(found.seconds) if found.seconds >= 1 else f"{1000 * found.seconds:.0f} ms"
    rows = [
        [
            part.path,
            f"{1000 * part.forward:.1f}",
            f"{1000 * part.backward:.1f}",
            percent(part.seconds / whole),
            percent(part.matrices / part.seconds) if part.matrices else "",
            size(part.kept) if part.kept else "",
        ]
        for part in (found.parts if modules else slots)
    ]
    return [
        f"{slots[0].path} takes {percent(slots[0].seconds / whole)} of a step, matrix products"
        f" {percent(products / whole)}; {pace} a step, {rate(found.tokens / found.seconds)}",
        "",
        table(["part", "forward ms", "backward ms", "share", "in products", "kept"], rows),
        "",
        "Shares are of the time under torch's profiler, which slows small operations; kept is what waits for backward.",
    ]

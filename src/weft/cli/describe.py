"""`weft describe`: what a model is and takes, before it is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from weft.errors import WeftError

if TYPE_CHECKING:
    from weft.models.config import ModelConfig
    from weft.models.cost import Precision
    from weft.models.describe import Description
    from weft.models.pretraining import Pretraining


def command(
    model: Annotated[str | None, typer.Argument(help="a preset, a YAML file, a run or a model folder")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="path=value, such as decoder.n_layers=2")] = None,
    batch: Annotated[int, typer.Option(min=1, help="texts at a time, for the memory")] = 8,
    length: Annotated[int | None, typer.Option(min=1, help="tokens a text; max_length unless given")] = None,
    vocab_size: Annotated[
        int, typer.Option(min=1, help="number of tokens, where the model leaves it to the data")
    ] = 4096,
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: what training would use here")] = "auto",
    plugins: Annotated[list[str] | None, typer.Option(help="a Python file with parts of your own, to be run")] = None,
    tokens: Annotated[
        float | None, typer.Option(help="tokens of a training, such as 300e9: its days and price")
    ] = None,
    on: Annotated[str, typer.Option(help="what it runs on: v100, a100, h100 ..., or FLOP/s as 312e12")] = "h100",
    devices: Annotated[int, typer.Option(min=1, help="how many of them")] = 1,
    utilization: Annotated[float, typer.Option(help="share of their peak that is used")] = 0.4,
    price: Annotated[float | None, typer.Option(min=0, help="of one of them for an hour")] = None,
    svg: Annotated[str | None, typer.Option(metavar="FILE", help="draw the model into this file instead")] = None,
    equations: Annotated[bool, typer.Option("--equations", help="print the model as LaTeX instead")] = False,
    machine: Annotated[bool, typer.Option("--machine", help="tell of this machine instead, and measure it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Tell a model's parts, shapes, counts, costs and memory: weft describe gpt2 decoder.n_layers=2"""
    if machine:
        _tell_machine(precision, as_json)
        return
    if model is None:
        raise WeftError("name a model (weft describe gpt2), or ask about the machine (weft describe --machine)")
    from weft.device import choose
    from weft.models.describe import describe
    from weft.models.pretraining import pretraining

    if precision not in ("auto", "fp32", "bf16"):
        raise WeftError(f"--precision {precision}: should be auto, fp32 or bf16")
    config, notes = _declared(model, overrides or (), plugins or ())
    if svg is not None or equations:
        if as_json:
            raise WeftError("--json tells numbers; leave it out with --svg and --equations")
        _tell_shape(config, model, vocab_size, notes, svg, equations)
        return
    chosen: Precision = "bf16" if choose("cpu", precision).precision == "bf16" else "fp32"
    found = describe(config, batch, length, name=model, vocab_size=vocab_size, precision=chosen)
    _say_notes(notes)
    training = None
    if tokens is not None:
        training = pretraining(3 * found.cost.flops, tokens, on, devices, utilization, price)
    _tell_numbers(found, training, as_json)


def _declared(model: str, overrides: Sequence[str], plugins: Sequence[str]) -> tuple[ModelConfig, list[str]]:
    """The model of this name with the overrides, and what there is to say of these."""
    from pathlib import Path

    from weft.config import load
    from weft.config.plugins import load_plugins
    from weft.hub import model_config
    from weft.models.config import ModelConfig

    load_plugins(plugins, Path())
    notes: list[str] = []
    # a path as in a recipe is as good
    paths = [override.removeprefix("model.") for override in overrides]
    return load(ModelConfig, model_config(model).dump(), paths, notes), notes


def _say_notes(notes: Sequence[str]) -> None:
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def _tell_numbers(found: Description, training: Pretraining | None, as_json: bool) -> None:
    """What a model is and takes, and what a training of it would."""
    if as_json:
        more = {} if training is None else {"pretraining": training.data()}
        typer.echo(json.dumps({**found.data(), **more}, ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join([*found.lines(), *(["", *training.lines()] if training else [])]))


def _tell_shape(
    config: ModelConfig, name: str, vocab_size: int, notes: Sequence[str], svg: str | None, equations: bool
) -> None:
    """The model as a picture in a file, as equations, or both."""
    from pathlib import Path

    from weft.models.describe import known
    from weft.models.drawing import draw
    from weft.models.equations import latex
    from weft.runs.atomic import write_text

    whole, said = known(config, vocab_size)
    _say_notes([*notes, *said])
    if svg is not None:
        write_text(Path(svg), draw(whole, name, said))
        typer.echo(f"{svg}: a drawing of {name}", err=equations)
    if equations:
        typer.echo(latex(whole, name), nl=False)


def _tell_machine(precision: str, as_json: bool) -> None:
    """What a run would compute on here, in what precision and why, and how fast that is at this moment."""
    from weft import device
    from weft.report.terminal import significant

    chosen = device.choose("auto", precision)
    threads, keeps = device.set_threads(None), device.keep_memory()
    found = {
        **device.about(),
        "threads": threads,
        "device": chosen.device,
        "precision": chosen.precision,
        "why": chosen.why,
        "keeps_freed_memory": keeps,
        "gflops": device.measure_peak(chosen.device, chosen.precision) / 1e9,
        "memory_gb_per_second": device.measure_bandwidth() / 1e9,
    }
    if as_json:
        typer.echo(json.dumps(found))
        return
    kept = "is kept for the next tensor (mallopt, set when a run starts)" if keeps else "goes back to the system"
    memory = f"{found['memory_gib']} GiB" if found["memory_gib"] else "unknown"
    lines = {
        "processor": f"{found['processor']} ({found['system']})",
        "cores": f"{found['cores']} that this process may use; a run takes {threads} threads",
        "memory": f"{memory}, read at {significant(found['memory_gb_per_second'])} GB/s by {threads} threads",
        "precision": chosen.why,
        "products": f"{significant(found['gflops'])} GFLOP/s in {chosen.precision}, of a large matrix product just now",
        "allocator": f"freed memory {kept}",
    }
    for name, text in lines.items():
        typer.echo(f"{name:10} {text}")

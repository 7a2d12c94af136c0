"""What a long training would take: published figures come out, and what cannot be is refused."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from weft.cli.main import app
from weft.errors import WeftError
from weft.models.build import blank
from weft.models.config import ModelConfig
from weft.models.cost import training_flops
from weft.models.pretraining import pretraining


def test_gpt3_takes_what_its_paper_says() -> None:
    """Brown et al. 2020, table D.1: 3.14e23 FLOPs for 300 billion tokens, which leaves out attention's own products."""
    flops = training_flops(blank(ModelConfig.load("gpt3")), 2048)
    found = pretraining(flops, 300e9, "v100", devices=10_000, utilization=0.3, price=2.0)
    assert found.flops == pytest.approx(3.14e23, rel=0.05)
    assert found.flops > 3.14e23
    assert found.device_hours == pytest.approx(found.flops / (125e12 * 0.3) / 3600)
    assert found.days == pytest.approx(found.device_hours / 240_000)
    assert found.cost == pytest.approx(2 * found.device_hours)


def test_any_peak_may_be_named() -> None:
    named, given = (pretraining(1e9, 1e12, device) for device in ("a100", "312e12"))
    assert (named.days, named.cost) == (given.days, None)
    assert "price" not in " ".join(given.lines())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "h10"}, "no device called 'h10'; did you mean 'h100'?"),
        ({"device": "-1"}, "--on = -1: should be more than 0"),
        ({"tokens": 0.0}, "--tokens = 0: should be more than 0"),
        ({"utilization": 1.5}, "--utilization 1.5: a share of the peak, so at most 1"),
        ({"tokens": float("nan")}, "--tokens = nan: should be more than 0"),
    ],
)
def test_what_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(WeftError) as error:
        pretraining(**{"flops_per_token": 1e9, "tokens": 1e9, "device": "h100", **options})  # type: ignore[arg-type]
    assert str(error.value).startswith(message)


def test_it_stands_below_a_description() -> None:
    small = ["describe", "ladder-3", "--batch", "1", "--length", "8", "--vocab-size", "50", "--tokens", "1e9"]
    plain = CliRunner().invoke(app, [*small, "--on", "1e12", "--price", "3"])
    assert plain.exit_code == 0
    assert "training on 1.0 B tokens takes " in plain.output
    assert "1 x 1e12 (1.0 T FLOP/s each, 40% used): " in plain.output
    told = json.loads(CliRunner().invoke(app, [*small, "--json"]).output)
    assert told["pretraining"]["flops"] == 1e9 * told["flops_per_token"]["training"]

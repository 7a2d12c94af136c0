"""Each rule finds what it names, and nothing in a healthy run or in noise."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from synthetic_runs import LAYERS, diverging, healthy, line, overfitting, validation

from weft.training.diagnosis import Finding, diagnose
from weft.training.record import Log


def findings(lines: list[dict[str, Any]]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in diagnose(Log.of_entries(lines))}


def flat(steps: int, noise: float, seed: int, slope: float = 0.0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [line(i, "train", {"loss": 2.0 + slope * i / steps + draw.gauss(0, noise)}) for i in range(1, steps + 1)]


def with_layers(values: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    lines = flat(40, 0.01, 0)
    for entry in lines:
        entry["values"]["layers"] = values
    return lines


def test_a_healthy_run_has_no_warning_and_still_falls() -> None:
    found = findings(healthy())
    assert {finding.level for finding in found.values()} == {"note", "good"}
    assert set(found) == {"falling", "no-overfitting", "steady-gradients", "usual-updates"}
    assert "the learning rate was being lowered" in found["falling"].message


def test_the_gravest_comes_first_and_every_finding_brings_its_rule() -> None:
    found = diagnose(Log.of_entries(overfitting()))
    ranks = [("warning", "note", "good").index(finding.level) for finding in found]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3
    assert all(len(finding.rule) > 40 and "\n" not in finding.rule for finding in found)


def test_overfitting_names_the_step_of_the_best_validation() -> None:
    found = findings(overfitting())["overfitting"]
    assert (found.level, found.step) == ("warning", 200)
    assert "best at step 200 (1.97 bits per byte) and is 27 % above" in found.message
    assert "training-falling" in findings(overfitting()), "that training still falls is not good news then"


def test_validation_that_rises_while_training_does_not_fall_is_not_called_overfitting() -> None:
    rising = [validation(step, 2.5 + step / 450) for step in range(50, 451, 50)]
    found = findings(flat(450, 0.01, 1, slope=0.05) + rising)
    assert "overfitting" not in found
    assert found["validation-rose"].step == 50


@pytest.mark.parametrize("measured", [2, 3])
def test_few_validation_measurements_do_not_show_overfitting(measured: int) -> None:
    lines = flat(60, 0.01, 1, slope=-1) + [validation(20 * i, 2 + i) for i in range(1, measured + 1)]
    found = findings(lines)
    assert not {"overfitting", "no-overfitting"} & set(found)
    assert f"{measured} validation measurements" in found["few-evaluations"].message


def test_parts_and_the_whole_of_validation_are_never_compared() -> None:
    parts = [validation(step, 2.5 - step / 1000) for step in range(50, 451, 50)]
    found = findings([*flat(450, 0.01, 1, slope=-0.5), *parts, validation(450, 9.0, whole=True)])
    assert "no-overfitting" in found


def test_a_loss_that_rises_is_diverging_and_one_that_is_nan_is_said_to_be() -> None:
    risen = findings(diverging(to_nan=False))
    assert risen["diverging"].level == "warning"
    assert 200 <= (risen["diverging"].step or 0) <= 250
    assert "exploding" in risen
    broken = findings(diverging())["not-finite"]
    assert (broken.step, broken.message) == (406, "The training loss became NaN at step 406.")


def test_a_single_lost_line_is_not_a_lost_run() -> None:
    lines = healthy()
    lines[30]["values"]["loss"] = math.inf
    found = findings(lines)
    assert "not-finite" not in found
    assert "1 of 450 lines" in found["not-finite-at-times"].message


def test_noise_around_a_level_is_called_falling_no_more_often_than_its_interval_allows() -> None:
    called = [set(findings(flat(120, 0.05, seed))) for seed in range(300)]
    assert sum("falling" in kinds for kinds in called) <= 0.05 * 300  # 2.5 % are expected
    assert sum("diverging" in kinds for kinds in called) == 0


@pytest.mark.parametrize(
    ("slope", "noise", "kind"), [(-0.4, 0.01, "falling"), (0.0, 0.01, "plateau"), (0, 0.5, "undecided")]
)
def test_the_trend_at_the_end(slope: float, noise: float, kind: str) -> None:
    assert set(findings(flat(200, noise, 3, slope))) & {"falling", "plateau", "undecided"} == {kind}


def test_underfitting_needs_a_level_loss_without_a_gap() -> None:
    near = [validation(step, 2.01) for step in range(50, 201, 50)]
    far = [validation(step, 2.3) for step in range(50, 201, 50)]
    fallen = [line(0, "train", {"loss": 6.2}), *flat(200, 0.005, 2)]
    assert "underfitting" in findings(fallen + near)
    assert "underfitting" not in findings(fallen + far)
    assert "hardly fallen" in findings(flat(40, 0.001, 0))["underfitting"].message


def test_a_short_run_claims_nothing_about_its_trend() -> None:
    found = findings(healthy()[:3])
    assert set(found) == {"short"}
    assert "3 training lines" in found["short"].message
    assert set(findings([])) == {"short"}


@pytest.mark.parametrize(("norms", "kind"), [((1e-6, 1e-3, 1.0), "vanishing"), ((9.0, 1e-2, 1e-3), "exploding-layers")])
def test_gradients_that_shrink_or_grow_through_the_stack(norms: tuple[float, ...], kind: str) -> None:
    layers = {f"decoder.blocks.{i}": {"gradient_norm": norm} for i, norm in enumerate(norms)}
    found = findings(with_layers({"embedding": {"gradient_norm": 5.0}, **layers}))[kind]
    assert "towards the input" in found.message
    assert "decoder.blocks.0" in found.message


def test_ten_fold_differences_between_blocks_are_usual_and_a_layer_without_gradient_is_not() -> None:
    usual = {f"decoder.blocks.{i}": {"gradient_norm": 0.1 * 10**i} for i in range(2)}
    assert not {"vanishing", "exploding-layers"} & set(findings(with_layers(usual)))
    assert "heads.lm" in findings(with_layers({**usual, "heads.lm": {"gradient_norm": 0.0}}))["no-gradient"].message


@pytest.mark.parametrize(
    ("ratio", "kind", "level"),
    [
        (1e-3, "usual-updates", "good"),
        (5e-5, "unusual-updates", "note"),
        (2e-6, "unusual-updates", "warning"),
        (0.3, "unusual-updates", "warning"),
    ],
)
def test_update_ratios(ratio: float, kind: str, level: str) -> None:
    layers = {name: {"update_ratio": 1e-3} for name in LAYERS} | {"heads.lm": {"update_ratio": ratio}}
    found = findings(with_layers(layers))[kind]
    assert found.level == level
    assert "heads.lm" in found.message or kind == "usual-updates"


def test_a_spike_is_noted_where_it_was() -> None:
    lines = healthy()
    spiked = [entry for entry in lines if entry["step"] == 300 and entry["split"] == "train"]
    spiked[0]["values"]["gradient_norm"] = 40.0
    assert findings(lines)["spikes"].step == 300


def test_foreign_and_broken_lines_are_passed_over() -> None:
    odd: list[Any] = [7, None, [], {}, {"step": "4", "values": {}}, {"step": 5}, {"step": True, "values": {}}]
    odd += [line(i, "train", {"loss": value}) for i, value in enumerate(["high", None, True, {}, 10**400, 1e300])]
    odd += [
        line(9, "train", {"loss": 2.0, "layers": {"a": 3, "b": {"gradient_norm": "x"}}}),
        line(9, "train", {"layers": 1}),
    ]
    log = Log.of_entries(odd)
    assert log.curve("train", "loss").values == [math.inf, math.inf, 2.0]
    assert log.layers("gradient_norm") == {}
    assert [finding.kind for finding in diagnose(log)] == ["not-finite-at-times", "short"]

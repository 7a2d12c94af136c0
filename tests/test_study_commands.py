"""`weft compare` on runs that exist, `weft study ablate`, and the schema of studies."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schema as checker
import tiny
from rich.console import Console

from weft.cli.schema import study_schema
from weft.config import yaml
from weft.errors import WeftError
from weft.studies.ablations import ablation
from weft.studies.arms import resolve
from weft.studies.cells import Cell
from weft.studies.existing import compare_runs
from weft.studies.outcome import scores_of
from weft.studies.reading import read_studies
from weft.studies.scores import ItemScores

POSITIONS = "model.decoder.positions"
SHORT = ("train.budget=4 steps", "train.evaluate_every=4", "train.checkpoint_every=4", "train.sample_tokens=0")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    recipe = tiny.recipe(tiny.text(folder))
    return {
        f"{kind}-{seed}": tiny.trained(
            folder / "runs", recipe, *SHORT, f"{POSITIONS}={kind}", f"train.seed={seed}", name=f"{kind}-{seed}"
        )
        for kind in ("learned", "rotary")
        for seed in (0, 1)
    }


def test_runs_of_one_recipe_are_seeds_of_an_arm(runs: dict[str, Path]) -> None:
    lines = compare_runs(list(runs.values()))
    assert lines[0] == "learned-0: the baseline"
    assert lines[1].startswith(f"rotary-0: {POSITIONS}: learned")
    values = [tiny.lines(path, "validation")[-1]["values"]["bits_per_byte"] for path in runs.values()]
    assert lines[2] == f"learned-0: validation/bits_per_byte {(values[0] + values[1]) / 2:.4f}, 2 seeds"
    assert lines[4].startswith("rotary-0 against learned-0: ")
    assert "Nobody declared the question" in lines[6]
    assert any(line.startswith("Not equal: parameters") for line in lines)


def test_what_checkpoints_alone_cannot_support_is_said(runs: dict[str, Path]) -> None:
    lines = compare_runs([runs["learned-0"], runs["rotary-1"]])
    assert any(line.startswith("untested: ") for line in lines)
    assert any("nothing can be said of recipes" in line for line in lines)
    lines = compare_runs([runs["learned-0"], runs["learned-1"], runs["rotary-1"]])
    assert any("different seeds" in line for line in lines)
    with pytest.raises(WeftError, match="of one recipe"):
        compare_runs([runs["learned-0"], runs["learned-1"]])
    with pytest.raises(WeftError, match="its log has no validation/bleu"):
        compare_runs(list(runs.values()), "validation/bleu")


def test_an_ablation_changes_one_node_an_arm(tmp_path: Path) -> None:
    source = tiny.recipe_file(tmp_path)
    study, refused = ablation(str(source))
    assert refused == []
    parts = ("positions", "norm", "block", "block.attention", "block.feedforward")
    assert list(study["arms"]) == ["whole", *(f"without decoder.{part}" for part in parts)]
    assert study["arms"]["without decoder.positions"] == {POSITIONS: "none"}
    assert study["arms"]["without decoder.block"] == {"model.decoder.block": "plain"}
    [declared] = read_studies(study)
    arms = resolve(declared.study, declared.base, declared.folder, Console(file=io.StringIO()))
    assert all(len(arm.differences) == 1 for arm in arms.arms if arm.name != "whole")
    assert not any(arm.undeclared for arm in arms.arms)


def test_two_recipes_are_taken_apart_one_difference_at_a_time(tmp_path: Path) -> None:
    source, other = tiny.recipe_file(tmp_path), tmp_path / "other.yaml"
    raw: dict[str, Any] = yaml.read(source)
    raw["model"]["decoder"]["positions"] = "learned"
    raw["model"]["decoder"]["norm"] = "layer"
    other.write_text(yaml.dump(raw), encoding="utf-8")
    back, _ = ablation(str(source), str(other))
    assert [sorted(paths) for paths in back["arms"].values()] == [[], [POSITIONS], ["model.decoder.norm"]]
    assert back["base"] == str(source)
    onto, _ = ablation(str(source), str(other), add=True)
    assert onto["base"] == str(other)
    assert onto["arms"]["with decoder.positions rotary"][POSITIONS]["kind"] == "rotary"


def test_the_schema_of_studies_says_what_a_study_may_be() -> None:
    schema = study_schema()
    study = {
        "name": "positions",
        "base": "demo",
        "arms": {"learned": {POSITIONS: "learned"}, "rotary": {POSITIONS: "rotary"}, "file": "arm.yaml"},
        "equal": "steps",
        "metric": {"name": "validation/loss", "better": "lower"},
    }
    assert list(checker.problems(study, schema, schema)) == []
    assert list(checker.problems({**study, "metrics": 1}, schema, schema)) != []
    assert json.dumps(schema)


def test_accuracy_is_compared_example_by_example(tmp_path: Path) -> None:
    right = {("a", 0): "1101", ("a", 1): "1001", ("a", 2): "1111", ("b", 0): "0001", ("b", 2): "0101"}
    cells = [Cell(arm, seed, f"{arm}{seed}", {}, "") for seed in range(3) for arm in ("a", "b")]
    for (arm, seed), digits in right.items():
        folder = tmp_path / f"{arm}{seed}"
        (folder / "predictions").mkdir(parents=True)
        (folder / "manifest.json").write_text('{"status": "finished"}', encoding="utf-8")
        (folder / "resolved.yaml").write_text("{}", encoding="utf-8")
        lines = [json.dumps({"id": str(i), "label": "1", "predicted": digit}) for i, digit in enumerate(5 * digits)]
        (folder / "predictions/validation.jsonl").write_text("\n".join(lines), encoding="utf-8")
    raw = {"name": "x", "base": "demo", "arms": {"a": {}, "b": {"model.d_model": 64}}, "seeds": 3}
    study = read_studies({**raw, "metric": {"name": "validation/accuracy", "better": "higher"}})[0].study
    scores = scores_of(study, cells, tmp_path)
    assert isinstance(scores, ItemScores)
    assert scores.values_ASI[0].tolist() == [5 * [1, 1, 0, 1], 5 * [1, 0, 0, 1], 5 * [1, 1, 1, 1]]
    assert scores.values_ASI[1, 2].tolist() == 5 * [0, 1, 0, 1]
    assert np.isnan(scores.values_ASI[1, 1]).all()

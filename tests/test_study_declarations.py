"""Studies before they run: refusals with every problem at once, arms as differences, equal sizes, the same start."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console

from weft.errors import WeftError
from weft.studies.arm import Arm
from weft.studies.arms import Arms, resolve
from weft.studies.declaration import Study
from weft.studies.differences import differences
from weft.studies.equality import search
from weft.studies.reading import read_studies
from weft.training.recipe import Recipe
from weft.training.setup import make_training, prepare_run

POSITIONS = "model.decoder.positions"
WIDTH = "model.decoder.block.feedforward.width"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return tiny.recipe(tiny.text(tmp_path_factory.mktemp("study")))


def declared(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    study = {
        "name": "positions",
        "base": base,
        "arms": {"learned": {POSITIONS: "learned"}, "rotary": {POSITIONS: "rotary"}},
        "seeds": 2,
        "equal": "steps",
        "metric": {"name": "validation/bits_per_byte", "better": "lower"},
    }
    return {key: value for key, value in {**study, **changes}.items() if value is not None}


def resolved(raw: dict[str, Any], quick: bool = False, folder: Path = Path()) -> tuple[Study, Arms]:
    [declared] = read_studies(raw)
    study = declared.study
    return study, resolve(study, declared.base, folder, Console(file=io.StringIO()), quick)


def refusal(raw: dict[str, Any]) -> str:
    with pytest.raises(WeftError) as caught:
        resolved(raw)
    return str(caught.value)


METRIC = {"name": "validation/bits_per_byte", "better": "lower"}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"baseline": "alibi"}, "baseline = 'alibi': is not among the arms learned, rotary"),
        ({"seeds": 1}, "seeds = 1: one seed says nothing about how much seeds differ"),
        ({"seeds": [3, 3]}, "seeds = [3, 3]: should be different numbers"),
        ({"arms": None}, "arms: needs arms, or a grid"),
        ({"arms": {"only": {}}}, "arms: only is the only one: what is it compared with?"),
        ({"metric": {**METRIC, "name": "loss"}}, "metric.name = 'loss': should be validation/NAME"),
        ({"metric": {**METRIC, "name": "cost/price"}}, "metric.name = 'cost/price': of costs there are: cost/seconds"),
        ({"metric": {**METRIC, "better": "more"}}, "metric.better = 'more':"),
        (
            {"metric": {**METRIC, "name": "validation/accuracy"}},
            "the objective causal does not log it; it logs validation/loss, validation/bits_per_byte",
        ),
        ({"arms": {"a": {}, "b": {"model.decodr.positions": "rotary"}}}, "did you mean 'decoder'?"),
        ({"arms": {"a": {}, "b": {POSITIONS: "rotery"}}}, f"arms.b: {POSITIONS}: no positions called 'rotery'"),
        ({"arms": {"a": {}, "b": {POSITIONS: "rotary"}}}, "arms.b: is the same recipe as arms.a"),
        ({"arms": {"a": {}, "b": {"train.budget": "9 steps"}}}, "arms.b.train.budget: is set for all arms alike, by"),
        ({"arms": {"a": {}, "b": {"train.seed": 3}}}, "arms.b.train.seed: is set for all arms alike, by its seeds"),
        ({"adjust": WIDTH}, f"adjust = {WIDTH!r}: needs equal: parameters"),
        ({"equal": "seconds"}, "equal = seconds: the budget is 24 steps; give train.budget in minutes"),
        ({"equal": ["parameters"]}, "equal = parameters: arms.rotary has 35,008, learned 36,032 (2.8 % less"),
        ({"arms": {"a": {}, "b": "missing.yaml"}}, "arms.b: missing.yaml: No such file"),
        ({"seed": 5}, "seed: no such option; did you mean 'seeds'?"),
    ],
)
def test_what_is_wrong_is_one_clear_line(base: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    assert said in refusal(declared(base, **changes))


def test_all_problems_are_said_at_once(base: dict[str, Any]) -> None:
    arms = {"a": {"model.d_modle": 3}, "b": {POSITIONS: "rotery", "train.seed": 1}}
    lines = refusal(declared(base, arms=arms)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["arms.a", "arms.b", "arms.b.train.seed"]
    wrong = {**base, "optimizer": {"learning_rat": 1}}
    assert refusal(declared(wrong)).splitlines() == [
        line for line in refusal(declared(wrong)).splitlines() if line.startswith("base: optimizer.learning_rat")
    ]


def test_arms_come_from_mappings_files_and_grids(base: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "wide.yaml").write_text("model: {d_model: 64}\noptimizer.learning_rate: 1e-3\n", encoding="utf-8")
    study, arms = resolved(declared(base, arms={"plain": None, "wide": "wide.yaml"}), folder=tmp_path)
    assert (study.compared_with, arms["plain"].recipe.model.d_model, arms["wide"].recipe.model.d_model) == (
        "plain",
        32,
        64,
    )  # type: ignore[attr-defined]
    assert [one.words() for one in arms["wide"].differences] == [
        "model.d_model: 32 -> 64",
        "optimizer.learning_rate: 0.005 -> 0.001",
    ]
    grid = {POSITIONS: ["learned", {"kind": "rotary", "theta": 5000}], "model.d_model": [32, 64]}
    study, arms = resolved(declared(base, arms=None, grid=grid, baseline="positions=learned d_model=64"))
    assert study.arm_names == (
        "positions=learned d_model=32", "positions=learned d_model=64",
        "positions=rotary,theta:5000 d_model=32", "positions=rotary,theta:5000 d_model=64",
    )  # fmt: skip
    assert arms[study.arm_names[0]].recipe.model.d_model == 32  # type: ignore[attr-defined]


def test_a_part_of_another_kind_is_one_difference_and_what_nobody_declared_is_told(base: dict[str, Any]) -> None:
    arms = {"learned": {POSITIONS: "learned", "model.d_model": 64}, "rotary": {POSITIONS: "rotary"}}
    _, found = resolved(declared(base, arms=arms))
    paths = [one.path for one in found["rotary"].differences]
    assert paths == ["model.d_model", POSITIONS]
    assert found["rotary"].differences[1].words().startswith(f"{POSITIONS}: learned")
    assert [one.path for one in found["rotary"].undeclared] == ["model.d_model"]
    assert differences(found["rotary"].recipe, found["rotary"].recipe) == ()


def test_widths_are_adjusted_to_one_percent_or_refused(base: dict[str, Any]) -> None:
    arms = {"swiglu": {}, "gelu": {"model.decoder.block.feedforward": "gelu"}}
    unequal = refusal(declared(base, arms=arms, equal=["steps", "parameters"]))
    assert "less; at most 1 % is equal): name a width to `adjust`" in unequal
    raw = declared(base, arms=arms, equal=["steps", "parameters"], adjust=WIDTH)
    _, found = resolved(raw)
    sizes = [arm.parameters for arm in found.arms]
    assert abs(sizes[1] / sizes[0] - 1) <= 0.01
    assert found["gelu"].adjusted is not None
    assert found["gelu"].adjusted.path == WIDTH
    assert found["gelu"].undeclared == ()
    flops = declared(base, arms=arms, equal=["steps", "flops"], adjust=WIDTH)
    amounts = [arm.amount("flops") for arm in resolved(flops)[1].arms]
    assert abs(amounts[1] / amounts[0] - 1) <= 0.01  # type: ignore[operator]
    coarse = declared(
        base, arms={"a": {}, "b": {"model.d_model": 64}}, equal="parameters", adjust="model.decoder.n_layers"
    )
    assert "adjust = 'model.decoder.n_layers': arms.b comes nearest to the" in refusal(coarse)


def test_the_search_finds_the_nearest_of_those_that_build() -> None:
    for step in (1, 7, 48):
        for target in (5, 480, 999, 123_456):
            tried = {}

            def size(value: int, step: int = step, tried: dict[int, int] = tried) -> int | None:
                return None if value % step else tried.setdefault(value, 3 * value + 11)

            search(size, target, 64)
            best = min(range(step, 100_000, step), key=lambda value: abs(3 * value + 11 - target))
            assert abs(min(tried.values(), key=lambda found: abs(found - target)) - target) == abs(
                3 * best + 11 - target
            )


def test_budgets_are_made_equal(base: dict[str, Any]) -> None:
    arms = {"short": {}, "long": {"train.batch_tokens": 256}}
    of = {}
    for equal in ("steps", "tokens", "flops"):
        of[equal] = [arm.amount(equal) for arm in resolved(declared(base, arms=arms, equal=equal))[1].arms]
        assert of[equal][0] == of[equal][1]
    assert [arm.steps for arm in resolved(declared(base, arms=arms, equal="tokens"))[1].arms] == [24, 12]
    assert [arm.steps for arm in resolved(declared(base, arms=arms, equal="tokens"), quick=True)[1].arms] == [2, 1]


def started(arm: Arm, seed: int) -> Any:
    train = arm.recipe.train.model_copy(update={"seed": seed})
    recipe: Recipe = arm.recipe.model_copy(update={"train": train})
    return make_training(prepare_run(recipe, Console(file=io.StringIO())))


def test_a_seed_gives_all_arms_the_same_data_in_order_and_shared_parameters_the_same_start(
    base: dict[str, Any],
) -> None:
    _, arms = resolved(declared(base))
    one, other, later = started(arms["learned"], 3), started(arms["rotary"], 3), started(arms["rotary"], 4)
    ours, theirs = dict(one.model.named_parameters()), dict(other.model.named_parameters())
    shared = set(ours) & set(theirs)
    assert len(shared) == len(theirs)
    assert all(torch.equal(ours[path], theirs[path]) for path in shared)
    rows = [[str(training.loader.next()) for _ in range(12)] for training in (one, other, later)]
    assert rows[0] == rows[1] != rows[2]

"""Studies in several settings, with models trained once to copy from, arms compared with the one before, and laws."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from rich.console import Console

from weft.errors import WeftError
from weft.runs.folder import RunFolder
from weft.studies import CorpusScores, Question, compare, session
from weft.studies.arms import resolve
from weft.studies.donors import stand_ins
from weft.studies.engine import study
from weft.studies.folder import Report
from weft.studies.laws import fitted
from weft.studies.reading import bundled, read_studies, renamed
from weft.studies.session import open_studies
from weft.training.recipe import load_recipe
from weft.training.setup import prepare_run

POSITIONS = "model.decoder.positions"
COPY = {"from": "donors.source", "copy": {"embedding.tokens": "embedding.tokens"}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = tiny.recipe(tiny.text(tmp_path_factory.mktemp("series")))
    recipe["train"] |= {"budget": "4 steps", "evaluate_every": 4, "sample_tokens": 0}
    recipe["model"]["decoder"]["n_layers"] = 1
    recipe["model"]["embedding"] = {"tied": False}
    return recipe


def declared(base: dict[str, Any], **changes: Any) -> dict[str, Any]:
    told = {
        "name": "where",
        "claim": "Taught: rotary is better.",
        "base": base,
        "arms": {"learned": {POSITIONS: "learned"}, "rotary": {POSITIONS: "rotary"}},
        "seeds": 2,
        "equal": "steps",
        "metric": {"name": "validation/bits_per_byte", "better": "lower"},
    }
    return {key: value for key, value in {**told, **changes}.items() if value is not None}


def run(what: dict[str, Any], folder: Path, **options: Any) -> tuple[Report, str]:
    said = io.StringIO()
    shown = Console(file=said, width=10_000)
    return study(what, studies=folder / "studies", isolated=False, console=shown, **options), said.getvalue()


def refusal(raw: dict[str, Any], folder: Path) -> str:
    with pytest.raises(WeftError) as caught:
        open_studies(read_studies(raw), folder, False, None, None, Console(quiet=True), stand_ins(folder))
    return str(caught.value)


def test_settings_are_the_study_with_what_they_name_in_its_place(base: dict[str, Any]) -> None:
    settings = {
        "small": None,
        "large": {"set": {"model.d_model": 64}, "seeds": 3, "metric": {"margin": 0.1}},
        "several": {"grid": {"model.d_model": [16, 32]}, "claim": "Another."},
    }
    raw = declared(base, settings=settings, set={"optimizer.learning_rate": 0.002}, quick={"settings": ["small"]})
    small, large, several = read_studies(raw)
    assert [one.study.name for one in (small, large, several)] == ["where-small", "where-large", "where-several"]
    assert [one.setting for one in (small, large, several)] == ["small", "large", "several"]
    assert small.study.set == {"optimizer.learning_rate": 0.002}
    assert large.study.set == {"optimizer.learning_rate": 0.002, "model.d_model": 64}
    assert (small.study.metric.margin, large.study.metric.margin) == (None, 0.1)
    assert (large.study.metric.name, len(large.study.seed_list)) == ("validation/bits_per_byte", 3)
    assert (small.study.claim, several.study.claim) == ("Taught: rotary is better.", "Another.")
    assert several.study.arm_names == ("d_model=16", "d_model=32")
    assert [one.setting for one in read_studies(raw, quick=True)] == ["small"]
    arms = resolve(large.study, large.base, large.folder, Console(quiet=True))
    assert {arm.recipe.optimizer.learning_rate for arm in arms.arms} == {0.002}
    assert {arm.recipe.model.d_model for arm in arms.arms} == {64}  # type: ignore[attr-defined]


def test_what_is_changed_as_a_study_is_run_holds_in_every_setting(base: dict[str, Any]) -> None:
    settings = {"small": None, "large": {"set": {"optimizer.learning_rate": 0.1}, "seeds": 4}}
    quick = {"set": {"train.budget": "2 steps", "model.d_model": 16}}
    raw = declared(base, settings=settings, quick=quick)
    changes = [
        "optimizer.learning_rate=0.003",
        "train.budget=7 steps",
        "transfer=null",
        "seeds=[5, 6]",
        "metric.margin=0.5",
    ]
    small, large = (one.study for one in read_studies(raw, changes=changes))
    changed = {"optimizer.learning_rate": 0.003, "train.budget": "7 steps", "transfer": None}
    for one in (small, large):
        assert one.set == changed
        assert one.quick.set == {"train.budget": "7 steps", "model.d_model": 16}
        assert (one.seed_list, one.metric.margin) == ((5, 6), 0.5)
    stem = small.name.removesuffix("-small")
    assert stem.startswith("where-")
    assert large.name == f"{stem}-large"
    assert read_studies(raw, changes=["train.budget=8 steps"])[0].study.name != small.name
    assert [one.study.name for one in read_studies(raw, changes=["seeds=9"])] == ["where-small", "where-large"]
    assert [one.study.name for one in read_studies(raw, changes=[*changes, "name=mine"])] == [
        "mine-small",
        "mine-large",
    ]
    [chosen] = read_studies(raw, changes=["settings.large.seeds=3"], settings=["large"])
    assert (chosen.setting, len(chosen.study.seed_list)) == ("large", 3)
    with pytest.raises(WeftError, match="no setting called 'huge'"):
        read_studies(raw, settings=["huge"])
    with pytest.raises(WeftError, match="path=value"):
        read_studies(raw, changes=["seeds"])


def test_a_name_that_was_made_up_is_said(base: dict[str, Any]) -> None:
    changes = ["data.source=notes.txt", "seeds=3"]
    [read] = read_studies(declared(base), changes=changes)
    assert (
        renamed(read, changes)
        == f"{read.study.name}: another study, with data.source = notes.txt (name=NAME calls it otherwise)"
    )
    assert not renamed(read, ["seeds=3"])
    assert not renamed(read, [*changes, "name=mine"])


def test_a_study_that_is_refused_leaves_nothing(base: dict[str, Any], tmp_path: Path) -> None:
    alike = {"one": {POSITIONS: "rotary"}, "two": {POSITIONS: "rotary"}}
    with pytest.raises(WeftError, match="is the same recipe"):
        study(declared(base, arms=alike), studies=tmp_path / "studies", console=Console(quiet=True))
    assert not (tmp_path / "studies").exists()


def test_what_is_wrong_with_every_arm_is_said_once(base: dict[str, Any], tmp_path: Path) -> None:
    arms = {"one": {"model.d_model": 32}, "two": {"model.d_model": 64, "train.sed": 3}}
    said = refusal(declared(base, arms=arms, set={"data.sorce": "notes.txt"}), tmp_path).splitlines()
    assert [line.partition(": no such option")[0] for line in said] == ["every arm: data.sorce", "arms.two: train.sed"]
    said = refusal(declared(base, set={"data.source": "missing.txt"}), tmp_path).splitlines()
    assert [line.partition(":")[0] for line in said] == ["every arm"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {"x": {"baseline": "alibi"}}}, "settings.x: baseline = 'alibi': is not among the arms"),
        ({"settings": {"x": {"sedes": 3}}}, "settings.x: sedes: no such option; did you mean 'seeds'?"),
        ({"settings": {"x": None}, "quick": {"settings": ["y"]}}, "quick.settings: 'y' is not among the settings x"),
        ({"set": {"train.seed": 3}}, "set.train.seed: is set by its seeds"),
        ({"set": {"model.d_modle": 3}}, "every arm: model.d_modle: no such option"),
        ({"set": {"transfer": COPY}}, "there is no donor called 'source'; the study declares none"),
        ({"donors": {"source": {"model.d_modle": 3}}}, "donors.source: model.d_modle: no such option"),
        ({"donors": {"other": {}}, "set": {"transfer": COPY}}, "no donor called 'source'; there are other"),
        ({"arms": {"previous": {}, "b": {POSITIONS: "none"}}}, "arms.previous: is what `baseline` calls the arm"),
        ({"sweep": {"values": [1, 2], "arms": {"x": [1, 2]}}}, "sweep.arms.x: is not among the arms learned, rotary"),
    ],
)
def test_what_is_wrong_is_one_clear_line(
    base: dict[str, Any], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    assert said in refusal(declared(base, **changes), tmp_path)


def test_each_setting_ends_in_a_verdict_and_a_page_holds_all(base: dict[str, Any], tmp_path: Path) -> None:
    settings = {"little": {"set": {"data.share": 0.5}}, "much": {}}
    report, said = run(declared(base, settings=settings), tmp_path)
    assert [one.results["setting"] for one in report.settings] == ["little", "much"]
    assert [row["setting"] for row in report.table] == ["little", "much"]
    text = {one.results["arms"]["rotary"]["text_bytes"] for one in report.settings}
    assert len(text) == 2
    page = (report.folder / "report.html").read_text(encoding="utf-8")
    assert report.folder.name == "where"
    assert "Taught: rotary is better." in page
    for one in report.settings:
        assert one.results["claim"] == "Taught: rotary is better."
        assert one.results["comparisons"][0]["verdict"]["kind"] in ("better", "worse", "undecided")
        assert (tmp_path / "studies" / one.results["study"] / "report.md").is_file()
        assert one.results["setting"] in page
    assert said.count("rotary against learned") == 2
    again, said = run(declared(base, settings=settings), tmp_path)
    assert said.count("4 cells: 4 there already, reused") == 2
    assert (again.folder / "report.html").read_text(encoding="utf-8") == page


def test_a_donor_is_trained_once_and_arms_copy_from_it(base: dict[str, Any], tmp_path: Path) -> None:
    raw = declared(
        {**base, "data": {**base["data"], "tokenizer": {"kind": "file", "path": "donors.source"}}},
        donors={"source": {"data.tokenizer": "bytes", "train.budget": "6 steps"}},
        arms={"alone": {"transfer": None}, "copied": {"transfer": COPY}},
    )
    report, said = run(raw, tmp_path)
    assert "models to copy from: source" in said
    assert "source, seed 2000000: " in said
    cells = [path.name for path in (tmp_path / "studies/cells").iterdir() if path.is_dir()]
    assert len(cells) == 5
    told = report.results["arms"]["copied"]["differences"]
    assert told == ["transfer: null -> from: donors.source copy: embedding.tokens: embedding.tokens freeze: []"
                    " other_tokenizer: false"]  # fmt: skip
    folder = next(cell["folder"] for cell in report.results["cells"] if cell["arm"] == "copied")
    manifest = json.loads((tmp_path / "studies" / folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["transfer"]["content"]
    _, said = run({**raw, "seeds": 3}, tmp_path)
    assert "1 cells: 1 there already, reused" in said
    assert "6 cells: 4 there already, reused, 2 new" in said


def test_a_plan_makes_do_with_a_donor_of_one_step(base: dict[str, Any], tmp_path: Path) -> None:
    raw = declared(base, donors={"source": {}}, arms={"alone": {"transfer": None}, "copied": {"transfer": COPY}})
    sessions = open_studies(
        read_studies(raw), tmp_path / "a", False, None, None, Console(quiet=True), stand_ins(tmp_path / "b")
    )
    assert sessions is not None
    [place] = (path for path in (tmp_path / "b").iterdir() if path.is_dir())
    assert json.loads((place / "manifest.json").read_text(encoding="utf-8"))["budget"]["steps"] == 1
    assert not (tmp_path / "a").exists()


def test_as_many_cells_at_a_time_as_the_memory_carries(
    base: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lanes() -> session.Lanes:
        found = open_studies(
            read_studies(declared(base)), tmp_path, False, 4, 1, Console(quiet=True), stand_ins(tmp_path)
        )
        assert found is not None
        return found[0].lanes

    assert lanes().jobs == 4
    monkeypatch.setattr(session, "LARGE", 0)
    monkeypatch.setattr(session, "about", lambda: {"memory_gib": 2.5 * session.PROCESS / 0.8 / 2**30})
    assert (lanes().jobs, "2 cells at a time, as memory for 4 is not there" in lanes().why) == (2, True)


def test_arms_on_a_ladder_are_compared_with_the_one_before(base: dict[str, Any]) -> None:
    values = np.array([[3.0, 3.1, 3.2], [2.0, 2.2, 2.1], [1.9, 2.0, 2.05]])
    scores = CorpusScores(("a", "b", "c"), (0, 1, 2), values)
    found = compare(scores, Question("x", "lower", "a", ladder=True))
    assert [(one.arm, one.baseline) for one in found] == [("b", "a"), ("c", "b")]
    assert found[1].effect == pytest.approx(values[2].mean() - values[1].mean(), rel=1e-12)
    assert compare(scores, Question("x", "lower", "a"))[1].baseline == "a"
    steps = {"small": {}, "wide": {"model.d_model": 64}, "deep": {"model.d_model": 64, "model.decoder.n_layers": 2}}
    [read] = read_studies(declared(base, arms=steps, baseline="previous"))
    differing = [
        [one.path for one in arm.differences]
        for arm in resolve(read.study, read.base, Path(), Console(quiet=True)).arms
    ]
    assert differing == [[], ["model.d_model"], ["model.decoder.n_layers"]]


def test_a_planted_law_is_found_with_its_interval() -> None:
    random = np.random.default_rng(0)
    sizes = [1e4, 3e4, 1e5, 3e5]
    inside, lacking, found = 0, 0, 0
    for _ in range(200):
        noise = random.normal(0, 0.01, (4, 4)) + random.normal(0, 0.05, 4)  # seeds differ as a whole, too
        law = fitted("parameters", sizes, 5 * np.array(sizes)[:, None] ** -0.12 * np.exp(noise))
        lacking += law.p_fit < 0.05
        bend = 0.03 * np.array([[1.0], [-1.0], [-1.0], [1.0]])
        found += fitted("parameters", sizes, np.exp(noise + bend)).p_fit < 0.05
        inside += law.low <= -0.12 <= law.high
        assert law.exponent == pytest.approx(-0.12, abs=0.02)
    assert 0.9 <= inside / 200 <= 0.99
    assert 0.01 <= lacking / 200 <= 0.1
    assert found / 200 >= 0.95
    exact = fitted("text", sizes, 5 * np.array([sizes, sizes]).T ** -0.12)
    assert (exact.exponent, exact.constant) == (pytest.approx(-0.12), pytest.approx(5))
    assert exact.off == pytest.approx(0, abs=1e-9)
    assert "text to the power -0.12" in exact.words
    bent = fitted("text", sizes, np.array([[2.0, 2.0], [1.9, 1.9], [1.2, 1.2], [1.19, 1.19]]))
    assert bent.off > 0.05
    assert (exact.p_fit, bent.p_fit) == (1, 0)
    assert "as far as these seeds tell" in exact.words
    assert "no such law (lack of fit: p = 0)" in bent.words


@pytest.mark.parametrize(
    ("sizes", "values", "said"),
    [
        ([1, 2], [[1, 1], [2, 2]], "2 sizes and 2 whole seeds"),
        ([1, 2, 3], [[1], [2], [3]], "3 sizes and 1 whole seeds"),
        ([0, 2, 3], [[1, 1], [2, 2], [3, 3]], "sizes and values above 0"),
    ],
)
def test_a_law_of_too_little_is_refused(sizes: list[float], values: list[list[float]], said: str) -> None:
    with pytest.raises(WeftError, match=said):
        fitted("parameters", sizes, np.array(values, dtype=float))


def test_an_arm_may_sweep_values_of_its_own(base: dict[str, Any], tmp_path: Path) -> None:
    arms = {"sgd": {"optimizer": "sgd"}, "adamw": {}}
    sweep = {"values": [1e-3, 1e-2], "arms": {"sgd": [0.1, 0.3, 1.0]}}
    report, said = run(declared(base, arms=arms, sweep=sweep), tmp_path)
    assert "sweep of optimizer.learning_rate: sgd 0.1, 0.3, 1.0; adamw 0.001, 0.01" in said
    assert "5 cells: 5 new" in said
    assert report.results["arms"]["sgd"]["swept"]["value"] in (0.1, 0.3, 1.0)
    assert report.results["arms"]["adamw"]["swept"]["value"] in (0.001, 0.01)


def test_the_loss_of_a_token_is_compared_document_by_document(tmp_path: Path) -> None:
    recipe = tiny.recipe(tiny.text(tmp_path, documents=300))
    recipe["train"] |= {"budget": "4 steps", "evaluate_every": 4, "sample_tokens": 0}
    what = declared(recipe, metric={"name": "validation/loss", "better": "lower"}, seeds=3)
    results = run(what, tmp_path)[0].results
    assert results["items"] > 20
    folder = tmp_path / "studies" / results["cells"][0]["folder"]
    nats = [json.loads(line)["nats"] for line in (folder / "predictions/validation.jsonl").open(encoding="utf-8")]
    assert len(nats) == results["items"]
    assert "crossed variance of 3 seeds and" in results["comparisons"][0]["method"]
    logged = RunFolder(folder).log.last("validation")
    assert logged is not None
    cell = results["cells"][0]
    assert results["arms"][cell["arm"]]["scores"][0] == pytest.approx(logged["values"]["loss"], rel=1e-12)


def test_a_preset_that_an_arm_names_replaces_the_model(base: dict[str, Any]) -> None:
    arms = {"one": {"model": {"preset": "ladder-1"}}, "two": {"model": {"preset": "ladder-3", "d_model": 64}}}
    [read] = read_studies(declared(base, arms=arms))
    one, two = (arm.recipe.model for arm in resolve(read.study, read.base, Path(), Console(quiet=True)).arms)
    assert (one.d_model, one.decoder.positions.kind) == (128, "none")  # type: ignore[attr-defined]
    assert (two.d_model, two.decoder.positions.kind) == (64, "learned")  # type: ignore[attr-defined]


def test_rows_may_be_shorter_than_what_is_validated(base: dict[str, Any]) -> None:
    quiet = Console(quiet=True)
    recipe = load_recipe(base, Path(), ["train.length=16"])[0]
    assert (recipe.row_length, recipe.model.max_length) == (16, 32)
    prepared = prepare_run(recipe, quiet)
    rows = recipe.objective.loader(prepared.data, recipe.data, recipe.row_length, recipe.train.batch_tokens, 0).next()
    assert rows.tokens_BT.shape == (8, 16)
    for text, said in (("train.length=64", "train.length = 64 is more than model.max_length = 32"),
                       ("train.batch_tokens=8", "train.batch_tokens = 8 is less than a row of")):  # fmt: skip
        with pytest.raises(WeftError, match=said):
            prepare_run(load_recipe(base, Path(), ["train.length=16", text])[0], quiet)


@pytest.mark.parametrize("name", bundled())
def test_bundled_studies_read(name: str) -> None:
    from weft.studies.reading import read_raw

    raw, _ = read_raw(name)
    assert raw["name"] == name
    if "times" in raw:
        return
    for one in read_studies(name):
        assert one.study.claim
        assert len(one.study.seed_list) >= 3
        assert one.study.metric.margin
        read = one.study.problems()
        assert not read


@pytest.mark.slow  # `heads` runs with every change, in docs/studies.md
@pytest.mark.parametrize("name", bundled())
def test_bundled_studies_run_quick(name: str, tmp_path: Path) -> None:
    said = io.StringIO()
    report = study(name, studies=tmp_path, quick=True, console=Console(file=said, width=200))
    assert report.finished
    assert name == "attention-kernels" or f"a quick look; the study: weft study run {name}\n" in said.getvalue()
    assert (report.folder / "report.html").stat().st_size < 1_000_000
    assert report.table
    assert all(row["verdict"]["words"] for row in report.table)

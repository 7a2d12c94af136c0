"""Copying by path: what is copied is exact, part of what a run is, and kept with it; what cannot be is said."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from schema import problems
from tiny import Lab, prepared
from transfers import TABLE, UNTIED, asks, begun, refused, saved, tokenizer, weights

import weft
from weft.errors import WeftError
from weft.hub.folder import content_of, read_tensors
from weft.models.config import ModelConfig
from weft.runs.folder import RunFolder
from weft.training.setup import make_training, manifest_of
from weft.transfer import START, Transfer, open_donor
from weft.transfer.copying import copies_of
from weft.transfer.paths import Parameters

pytestmark = pytest.mark.usefixtures("peak")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfer")


@pytest.fixture(scope="module")
def lab(folder: Path) -> Lab:
    return Lab(folder)


@pytest.fixture(scope="module")
def source(lab: Lab) -> Path:
    return lab.folder / "text.jsonl"


@pytest.fixture(scope="module")
def donor(source: Path, folder: Path) -> Path:
    """A model folder of the recipe's model, from another seed."""
    return saved(folder / "donor", source)


# --- copying ---

COPIES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "a module": ({"embedding.tokens": "embedding.tokens"}, {TABLE: TABLE}),
    "a parameter": ({TABLE: TABLE}, {TABLE: TABLE}),
    "the place that is tied": ({"heads.lm.projection": "heads.lm.projection"}, {TABLE: TABLE}),
    "another layer": (
        {"decoder.blocks.0.attention": "decoder.blocks.1.attention"},
        {f"decoder.blocks.0.attention.{n}.weight": f"decoder.blocks.1.attention.{n}.weight"
         for n in ("query", "key", "value", "output")},
    ),
    "all layers": (
        {"decoder.blocks.*.feed*": "decoder.blocks.*.feed*"},
        {f"decoder.blocks.{i}.feedforward{n}.weight": f"decoder.blocks.{i}.feedforward{n}.weight"
         for i in (0, 1) for n in (".up", ".gate", ".down", "_norm")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", COPIES)
def test_copies_are_exact_and_the_rest_starts_as_ever(source: Path, donor: Path, what: str) -> None:
    asked, expected = COPIES[what]
    theirs, plain = weights(weft.load(donor)[0]), weights(begun(source).model)
    with torch.no_grad():
        found = weights(begun(source, asks({"from": donor, "copy": asked})).model)
    assert {path for path in found if not torch.equal(found[path], plain[path])} <= expected.keys()
    for ours, there in expected.items():
        assert torch.equal(found[ours], theirs[there])
    assert any(not torch.equal(plain[ours], theirs[there]) for ours, there in expected.items())


def test_all_that_fits_unless_said(source: Path, folder: Path) -> None:
    """A donor with fewer layers, wider ones, and a head that is tied."""
    ours = ("model.decoder.n_layers=3", "model.decoder.block.feedforward.width=64", UNTIED)
    narrow = saved(folder / "narrow", source)
    theirs, plain = weft.load(narrow)[0], begun(source, *ours).model
    plan = prepared(source, *ours, asks({"from": narrow})).plan
    assert plan is not None
    found = begun(source, *ours, asks({"from": narrow})).model
    copied = {copy.ours: copy.theirs for copy in plan.copies}
    assert copied["heads.lm.projection.weight"] == "heads.lm.projection.weight", "which is their one, tied table"
    places = Parameters(theirs).by_path
    for path, parameter in found.named_parameters():
        there = places.get(path)
        fits = there is not None and there.shape == parameter.shape
        assert (path in copied) == fits, path
        assert torch.equal(parameter, there if fits and there is not None else plain.get_parameter(path)), path
    said = " ".join(plan.notes)
    assert "decoder.blocks.2.attention" in said
    assert "no such parameter" in said
    assert "of another shape there" in said


def test_a_run_gives_its_best_checkpoint(lab: Lab, source: Path) -> None:
    run = lab.train(*tiny.BRIEF, tiny.worsening(lab.folder), "train.evaluate_every=4")
    best = RunFolder(run).manifest()["best"]["checkpoint"]
    assert best != RunFolder(run).checkpoints()[-1].name
    training = begun(source, "model.decoder.n_layers=2", asks({"from": run, "copy": {TABLE: TABLE}}))
    expected = read_tensors(run / "checkpoints" / best / "model.safetensors")[TABLE]
    assert torch.equal(training.model.get_parameter(TABLE), expected)


# --- what is said ---


def test_the_table_before_training(source: Path, donor: Path, folder: Path) -> None:
    transfer = asks({"from": donor, "copy": {"decoder.blocks.*.attention": "decoder.blocks.*.attention",
                                             "embedding": "embedding"}, "freeze": ["embedding"]})  # fmt: skip
    run, said = tiny.run(tiny.recipe(source), folder, transfer, "train.budget=1 steps")
    content = content_of(donor)
    manifest = RunFolder(run.folder).manifest()
    assert manifest["parent"] == manifest["transfer"]["content"] == content
    expected = [
        "part                            parameters  copied from                    largest difference  training",
        "embedding                            8,224  embedding                                       0  frozen",
        "decoder.blocks.0-1.attention         8,192  decoder.blocks.0-1.attention                    0  learns",
        "decoder.blocks.0-1.feedforward",
    ]
    found = [line for line in said.splitlines() if line.split(" ")[0] in [text.split(" ")[0] for text in expected]]
    assert [line.split() for line in found[:3]] == [line.split() for line in expected[:3]]
    assert f"copied from {donor}, sha256 {content[:12]}" in said
    assert f"note: heads.lm.projection.weight is frozen too: it is one tensor with {TABLE}" in said
    assert "of them learn)" in said


# --- another tokenizer ---


def test_tables_of_another_tokenizers_tokens(source: Path, folder: Path) -> None:
    mine = tokenizer(1)
    mine.save(folder / "mine.json")
    same, other = saved(folder / "same", source, of=mine), saved(folder / "other", source, of=tokenizer(2))
    here = (f"data.tokenizer={folder / 'mine.json'}", UNTIED)
    explicit = {"copy": {"embedding.tokens": "embedding.tokens"}}
    assert len(prepared(source, *here, asks({"from": same, **explicit})).plan.copies) == 1  # type: ignore[union-attr]
    said = refused(source, *here, asks({"from": other, **explicit}))
    assert re.search(rf"{TABLE} is a table of tokens, and .*other has another tokenizer \(\d+ of 300 rows stand", said)
    assert "transfer.other_tokenizer=true" in said
    assert "other_tokenizer" not in refused(source, asks({"from": other, **explicit})), "257 rows are not 300"
    asked = prepared(source, *here, asks({"from": other, **explicit, "other_tokenizer": True})).plan
    assert asked is not None
    assert "copied from another tokenizer's" in asked.notes[0]
    rest = prepared(source, *here, asks({"from": other})).plan
    assert rest is not None
    names = {copy.ours for copy in rest.copies}
    assert {path for path, _ in begun(source, *here).model.named_parameters()} - names == {
        TABLE,
        "heads.lm.projection.weight",
    }
    assert "tables of another tokenizer's tokens" in " ".join(rest.notes)


def test_pairs_of_tokens_are_of_a_tokenizer_too(source: Path, folder: Path) -> None:
    other = saved(folder / "pairs", source, "embedding={kind: bigrams, rows: 50}", of=tokenizer(2))
    tokenizer(1).save(folder / "mine.json")
    changes = (f"data.tokenizer={folder / 'mine.json'}", "model.embedding={kind: bigrams, rows: 50}")
    said = refused(source, *changes, asks({"from": other, "copy": {"embedding.pairs": "embedding.pairs"}}))
    assert "embedding.pairs.weight is a table of tokens" in said


def test_heads_with_other_labels(folder: Path) -> None:
    def of(*labels: str) -> ModelConfig:
        heads = {"class": {"kind": "classifier", "labels": list(labels)}}
        return ModelConfig.load({"d_model": 16, "encoder": {"n_layers": 1}, "heads": heads, "vocab_size": 257})

    there = open_donor(str(weft.save(weft.build(of("good", "bad"), seed=9), tokenizer(), folder / "labels")))
    default, explicit = Transfer(**{"from": "x"}), Transfer(**{"from": "x", "copy": {"heads": "heads"}})
    for labels, copied in ((("good", "bad"), True), (("bad", "good"), False)):
        copies, notes = copies_of(default, weft.build(of(*labels)), there, tokenizer())
        assert any(copy.ours.startswith("heads.") for copy in copies) is copied
        assert ("a head with other labels" in " ".join(notes)) is not copied
    copies, notes = copies_of(explicit, weft.build(of("bad", "good")), there, tokenizer())
    assert {copy.ours for copy in copies} == {path for path in there.parameters.by_path if path.startswith("heads.")}
    assert "copied from a head with other labels" in notes[0]


# --- refusals ---

REFUSED: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "no such path": ((), {"copy": {"embeding.tokens": "embedding.tokens"}},
                     "transfer.copy: 'embeding.tokens' fits no parameter; did you mean 'embedding.tokens'?"),
    "no such path there": ((), {"copy": {"embedding.tokens": "embedding.token"}},
                           "'embedding.token' of DONOR fits no parameter; did you mean 'embedding.tokens'?"),
    "a layer that is not there": (("model.decoder.n_layers=3",), {"copy": {"decoder.blocks.*": "decoder.blocks.*"}},
                                  "DONOR has no decoder.blocks.2."),
    "another shape": (("model.d_model=64",), {"copy": {"embedding": "embedding"}},
                      f"shapes do not fit: {TABLE} is 257 x 64, {TABLE} of DONOR 257 x 32"),
    "two sources": ((), {"copy": {"decoder.blocks.0": "decoder.blocks.0", "decoder.*.0": "decoder.*.1"}},
                    "would be copied from decoder.blocks.0.attention"),
    "stars": ((), {"copy": {"decoder.blocks.*": "decoder.blocks.0"}}, "should have as many `*`"),
    "empty": ((), {"copy": {}}, "copy: names nothing"),
    "nothing fits": (("model.d_model=8", "model.decoder.block.attention.n_heads=1"), {},
                     "nothing there fits this model"),
    "no such frozen path": ((), {"freeze": ["embedding.token"]},
                            "transfer.freeze: 'embedding.token' fits no parameter; did you mean 'embedding.tokens'?"),
    "nothing near": ((), {"freeze": ["qqq"]}, "fits no parameter; paths begin with embedding, decoder"),
    "no parameters": ((), {"freeze": ["decoder.positions"]}, "'decoder.positions' has no parameters"),
    "nothing learns": ((), {"freeze": ["*"]}, "all parameters are frozen"),
    "nothing that is read learns": (("model.heads={lm: lm, idle: lm}", UNTIED), {"freeze": ["e*", "d*", "heads.lm"]},
                                    "the objective does not read what is left (heads.idle"),
    "a group of what is frozen": (('optimizer.groups=[{paths: ["embedding.*"], weight_decay: 0}]',),
                                  {"freeze": ["embedding"]}, "fits only what transfer.freeze freezes"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_in_one_line(source: Path, donor: Path, what: str) -> None:
    changes, options, expected = REFUSED[what]
    assert expected.replace("DONOR", str(donor)) in refused(source, *changes, asks({"from": donor, **options}))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "neither copies (`from`) nor freezes"),
        ({"copy": {"embedding": "embedding"}}, "name the model to copy from"),
        ({"freeze": ["embedding"], "other_tokenizer": True}, "there is no `from`"),
        ({"frm": "x"}, "transfer.frm: no such option; did you mean 'from'?"),
        ({"from": "gpt2"}, "transfer.from: gpt2: a preset has no trained weights"),
        ({"from": "runs/none"}, "transfer.from: runs/none: there is no such"),
    ],
)
def test_declarations_that_say_nothing(source: Path, options: dict[str, Any], expected: str) -> None:
    assert expected in refused(source, asks(options))


def test_a_donor_that_diverged(source: Path, donor: Path, folder: Path) -> None:
    model, of = weft.load(donor)
    with torch.no_grad():
        model.get_parameter(TABLE)[0, 0] = torch.nan
    weft.save(model, of, folder / "diverged")
    assert "not finite" in refused(source, asks({"from": folder / "diverged"}))
    rest = {"copy": {"decoder": "decoder"}}
    assert prepared(source, asks({"from": folder / "diverged", **rest})).plan is not None


def test_refused_before_the_data_are_read(donor: Path, folder: Path) -> None:
    for options in ({"freeze": ["embeding"]}, {"copy": {"embeding": "embedding"}}, {"freeze": ["*"]}):
        with pytest.raises(WeftError, match=r"transfer\."):
            prepared(folder / "nowhere.jsonl", asks({"from": donor, **options}))


# --- a run's identity ---


def identity(source: Path, *overrides: str) -> str:
    ready = prepared(source, *overrides)
    return manifest_of(ready, make_training(ready), {}, "")["identity"]


def test_the_donor_is_part_of_what_a_run_is(source: Path, donor: Path, folder: Path) -> None:
    ask = {"copy": {"decoder": "decoder"}}
    shutil.copytree(donor, folder / "moved")
    first = identity(source, asks({"from": donor, **ask}))
    assert identity(source, asks({"from": folder / "moved", **ask})) == first, "wherever it lies"
    model, of = weft.load(donor)
    with torch.no_grad():
        model.get_parameter(TABLE)[0, 0] += 1
    other = weft.save(model, of, folder / "other-content")
    assert identity(source, asks({"from": other, **ask})) != first
    assert identity(source, asks({"from": donor, **ask, "freeze": ["embedding"]})) != first
    assert open_donor(str(donor)).content == content_of(folder / "moved") != content_of(other)


def test_the_schema_knows_it() -> None:
    schema = Transfer.model_json_schema()
    assert not list(problems({"from": "runs/a", "copy": {"a.*": "b.*"}, "freeze": ["embedding.*"]}, schema, schema))
    assert list(problems({"freeze": "embedding.*"}, schema, schema))
    assert list(problems({"copies": {}}, schema, schema))


# --- resuming ---

GOES_ON = ("train.budget=12 steps", "model.dropout=0.2", UNTIED, "train.average={kind: exponential, decay: 0.9}")


def borrowed(lab: Lab, donor: Path, name: str) -> tuple[Path, tuple[str, ...]]:
    """A copy of the donor, which a test may take away, and overrides that copy from it."""
    copy = lab.folder / name
    if not copy.exists():
        shutil.copytree(donor, copy)
    ask = {"from": copy, "copy": {"embedding": "embedding", "*.1": "*.1"}, "freeze": ["embedding", "*.norm"]}
    return copy, (*GOES_ON, asks(ask))


def whole(path: Path) -> dict[str, Any]:
    return {**tiny.result(path), "transfer": RunFolder(path).manifest()["transfer"]}


@pytest.mark.parametrize("step", [2, 10])
def test_a_stopped_run_goes_on_without_its_donor(lab: Lab, donor: Path, step: int) -> None:
    copy, overrides = borrowed(lab, donor, "borrowed")
    expected, path = whole(lab.train(*overrides)), lab.stopped(step, *overrides)
    shutil.rmtree(copy)
    said = lab.resume(path)
    assert ("beginning at step 0" if step == 2 else "going on from step 8") in said
    assert whole(path) == expected
    assert expected["transfer"]["unchanged"] is True


def test_what_was_copied_and_is_lost(lab: Lab, donor: Path) -> None:
    _, overrides = borrowed(lab, donor, "lost")
    path = lab.stopped(2, *overrides)
    whole_file = (path / START).read_bytes()
    (path / START).write_bytes(whole_file[:-4] + b"\0\0\0\1")
    with pytest.raises(WeftError, match="not what was written"):
        lab.resume(path)
    (path / START).unlink()
    with pytest.raises(WeftError, match="there is no such file"):
        lab.resume(path)
    (path / START).write_bytes(whole_file)
    with pytest.raises(WeftError, match="would make it another run"):
        lab.resume(path, "transfer.freeze=[decoder.norm]")
    lab.resume(path)

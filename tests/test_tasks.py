"""Classification and sequence to sequence, whole: learned, resumed bit by bit, measured elsewhere, used in order."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny import Lab, Stop, stopping

import weft
import weft.evaluation
import weft.training.run as running
from weft.config import yaml
from weft.data.given import open_source
from weft.data.sources import Source
from weft.errors import WeftError
from weft.runs.folder import RunFolder

KINDS = {"animal": "cat dog cow hen fox", "tool": "saw axe bit nut jig", "color": "red tan sky jet ash"}
STACK = {"n_layers": 1, "positions": "rotary", "norm": "rms", "block": {"attention": {"n_heads": 2}}}
TRAIN = {"batch_tokens": 256, "evaluate_every": 80, "checkpoint_every": 8, "log_every": 3}
MACHINE = {"threads": 1, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module", autouse=True)
def peak() -> Iterator[None]:
    """The machine's measured peak is a matter of the clock alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("weft.device.peak_flops", "weft.training.run.peak_flops", "weft.training.run.measure_peak"):
            patch.setattr(name, lambda device, precision: 1e12)
        yield


def topics(path: Path, rows: int, seed: int) -> Path:
    """A table of words of one kind among others, and of which."""
    draw = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["number", "sentence", "topic"])
        for number in range(rows):
            name = draw.choice(list(KINDS))
            words = [draw.choice(["the", "a", "one"]) for _ in range(draw.randint(1, 6))] + [
                draw.choice(KINDS[name].split())
            ]
            draw.shuffle(words)
            table.writerow([number, " ".join(words), name])
    return path


def reversals(path: Path, rows: int, seed: int) -> Path:
    """Three letters, and the same in capitals."""
    draw = random.Random(seed)
    texts = ["".join(draw.choices("abcde", k=draw.randint(2, 4))) for _ in range(rows)]
    path.write_text("".join(json.dumps({"text": text, "target": text.upper()}) + "\n" for text in texts), "utf-8")
    return path


def classifier(folder: Path) -> dict[str, Any]:
    source = {"kind": "files", "path": str(topics(folder / "train.csv", 400, 0)), "text": "sentence", "label": "topic"}
    held_out = {"kind": "file", "path": str(topics(folder / "dev.csv", 60, 1))}
    return {
        "name": "topics",
        "model": {"d_model": 32, "max_length": 40, "encoder": STACK},
        "data": {"source": source, "validation": held_out, "tokenizer": "bytes"},
        "objective": "classification",
        "optimizer": {"learning_rate": 5e-3},
        "train": {**TRAIN, **MACHINE, "budget": "160 steps"},
    }


def translator(folder: Path) -> dict[str, Any]:
    return {
        "name": "capitals",
        "model": {"d_model": 32, "max_length": 16, "encoder": STACK, "decoder": STACK},
        "data": {"source": str(reversals(folder / "pairs.jsonl", 400, 0)), "tokenizer": "bytes"},
        "objective": {"kind": "seq2seq", "label_smoothing": 0},
        "optimizer": {"learning_rate": 5e-3},
        "train": {**TRAIN, **MACHINE, "budget": "400 steps"},
    }


MAKE = {"classification": classifier, "seq2seq": translator}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind that has learned its task."""
    found = {}
    for name, make in MAKE.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = tiny.trained(folder / "runs", make(folder))
    return found


def final(folder: Path) -> dict[str, Any]:
    return RunFolder(folder).log.last("validation")["values"]  # type: ignore[index]


def test_a_classifier_learns_what_tells_its_classes_apart(folders: dict[str, Path]) -> None:
    values = final(folders["classification"])
    assert values["accuracy"] > 0.95
    assert values["macro_f1"] > 0.95
    assert values["examples"] == 60
    assert values["final"]


class Told:
    """A result that says something else of itself."""

    def __init__(self, result: Any, **told: float) -> None:
        self.result, self.told = result, told

    def __getattr__(self, name: str) -> Any:
        return getattr(self.result, name)

    def values(self) -> dict[str, Any]:
        return self.result.values() | self.told


def test_the_best_classifier_is_the_one_that_is_right_most_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And among those the one of least loss: the loss of what is held out is least before the most are right."""
    told = iter([(2.0, 0.3), (0.5, 0.6), (0.9, 0.8), (0.7, 0.8), (0.8, 0.8)])  # at steps 0, 8, 16, 24, 32

    def evaluate(*arguments: Any) -> Any:
        result = weft.evaluation.evaluate(*arguments)
        if arguments[-1].thorough:
            return result
        loss, accuracy = next(told)
        return Told(result, loss=loss, accuracy=accuracy)

    monkeypatch.setattr(running, "evaluate", evaluate)
    folder = tiny.trained(tmp_path / "runs", classifier(tmp_path), "train.evaluate_every=8", "train.budget=32 steps")
    best = RunFolder(folder).manifest()["best"]
    assert (best["checkpoint"], best["loss"], best["accuracy"]) == ("step-00000024", 0.7, 0.8)


def test_a_translator_learns_to_write_capitals(folders: dict[str, Path]) -> None:
    values = final(folders["seq2seq"])
    assert values["loss"] < 0.5
    assert values["chrf"] > 80
    assert values["chrf_beam_4"] > 80
    assert "nrefs:1" in values["signature_bleu"]


def test_every_example_is_written_down_with_its_id(folders: dict[str, Path]) -> None:
    for name, keys in (
        ("classification", {"id", "text", "label", "predicted", "probabilities"}),
        ("seq2seq", {"id", "text", "target", "nats", "greedy", "beam 4"}),
    ):
        lines = (folders[name] / "predictions" / "validation.jsonl").read_text("utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        assert all(set(entry) == keys for entry in found)
        assert len({entry["id"] for entry in found}) == len(found) == final(folders[name])["examples"]
    entry = next(json.loads(line) for line in (folders["classification"] / "predictions" / "validation.jsonl").open())
    assert abs(sum(entry["probabilities"].values()) - 1) < 1e-5


@pytest.mark.parametrize(
    "name", [name if name == "classification" else pytest.param(name, marks=pytest.mark.slow) for name in MAKE]
)
def test_stopped_twice_and_equal_bit_by_bit(name: str, tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.recipe = tmp_path / f"{name}.yaml"
    lab.recipe.write_text(yaml.dump(MAKE[name](tmp_path)), encoding="utf-8")
    short = ("train.budget=24 steps", "model.dropout=0.1", "train.micro_batch=5")
    path = lab.stopped(10, *short)
    with pytest.raises(Stop):
        lab.resume(path, on_step=stopping(17))
    lab.resume(path)
    assert tiny.result(path) == lab.undisturbed(*short)


def test_the_loss_is_the_same_in_ragged_micro_batches(tmp_path: Path) -> None:
    for make in MAKE.values():
        recipe = make(tmp_path)
        losses = []
        for rows in ("null", "1", "3"):
            overrides = ("train.budget=1 steps", f"train.micro_batch={rows}")
            losses.append(tiny.lines(tiny.trained(tmp_path / "runs", recipe, *overrides))[0]["values"])
        for other in losses[1:]:
            assert abs(other["loss"] - losses[0]["loss"]) < 1e-5
            assert abs(other["gradient_norm"] - losses[0]["gradient_norm"]) < 1e-4 * losses[0]["gradient_norm"]


# --- used ---


def weft_command(*arguments: object, patch: Any, capture: Any) -> tuple[int, str, str]:
    return tiny.command(*arguments, patch=patch, capture=capture)


def test_evaluate_reads_other_data_as_the_training_data_were(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test = topics(tmp_path / "test.csv", 50, 7)
    code, out, err = weft_command("evaluate", folders["classification"], test, patch=monkeypatch, capture=capsys)
    assert code == 0, err
    best = RunFolder(folders["classification"]).manifest()["best"]["checkpoint"]
    assert out.startswith(f"checkpoint: {folders['classification'] / 'checkpoints' / best}, the run's best\n")
    assert "accuracy" in out
    place = Path(out.strip().splitlines()[-1].removeprefix("each example: "))
    lines = [json.loads(line) for line in place.read_text("utf-8").splitlines()]
    right = sum(line["label"] == line["predicted"] for line in lines)
    metrics = json.loads((place.parent / "metrics.json").read_text())
    assert metrics["values"]["accuracy"] == pytest.approx(right / 50)
    code, out, err = weft_command(
        "evaluate", folders["classification"], test, "--json", patch=monkeypatch, capture=capsys
    )
    assert json.loads(out)["accuracy"] == pytest.approx(right / 50)
    assert Path(json.loads(out)["folder"]) != place.parent  # nothing is written over


def test_labels_that_the_model_does_not_know_are_counted_as_wrong(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "odd.csv").write_text("sentence,topic\nthe cat,animal\nthe cat,plant\n", encoding="utf-8")
    arguments = ("evaluate", folders["classification"], tmp_path / "odd.csv")
    code, out, _ = weft_command(*arguments, patch=monkeypatch, capture=capsys)
    assert code == 0
    assert "accuracy 0.500" in out
    assert "1 examples have a label that the model does not know" in out


@pytest.mark.parametrize("name", MAKE)
def test_predictions_come_in_the_order_of_the_file(
    folders: dict[str, Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    texts = ["".join(random.Random(n).choices("abcde", k=n % 9 + 1)) for n in range(40)]
    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    arguments = ("predict", folders[name], tmp_path / "texts.txt")
    code, out, err = weft_command(*arguments, patch=monkeypatch, capture=capsys)
    assert code == 0, err
    said = [json.loads(line) for line in out.splitlines()]
    assert [entry["text"] for entry in said] == texts
    table = tmp_path / "answers.csv"
    code, _, err = weft_command(*arguments, "--out", table, patch=monkeypatch, capture=capsys)
    assert code == 0, err
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    key = "predicted" if name == "classification" else "answer"
    assert [row[key] for row in rows] == [entry[key] for entry in said]
    code, _, err = weft_command(*arguments, "--out", table, patch=monkeypatch, capture=capsys)
    assert code == 2
    assert "exists already" in err


def test_a_prediction_does_not_depend_on_its_neighbours(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for number, texts in enumerate((["the cat"], ["a", "the cat", "one red one the the the the the"])):
        file = tmp_path / f"{number}.txt"
        file.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
        _, out, _ = weft_command("predict", folders["classification"], file, patch=monkeypatch, capture=capsys)
        found.append(next(entry for entry in map(json.loads, out.splitlines()) if entry["text"] == "the cat"))
    for label, p in found[0]["probabilities"].items():
        assert found[1]["probabilities"][label] == pytest.approx(p, abs=2e-6)


def test_a_loaded_classifier_predicts_by_itself(folders: dict[str, Path]) -> None:
    model, tokenizer = weft.load(folders["classification"])
    end = tokenizer.end_of_document
    import torch

    tokens_BT = torch.tensor([[end, *tokenizer.encode("the cat"), end]])
    logits_BC = model.head("classifier")(model(tokens_BT).x_BTD)
    assert model.config.heads["classifier"].labels[int(logits_BC.argmax())] == "animal"  # type: ignore[attr-defined]


# --- refused, in a line, before any work ---


@pytest.mark.parametrize(
    ("name", "override", "line"),
    [
        ("classification", "data.source={kind: files, path: FOLDER/train.csv, text: sentence}", "label"),
        ("classification", "model.decoder={n_layers: 1}", "leave model.decoder out"),
        ("classification", "data.source=python-docs", "label"),
        ("seq2seq", "model.encoder=null", "no encoder"),
        ("seq2seq", "objective=causal", "model.encoder"),
        ("seq2seq", "objective=classification", "one stack"),
        ("seq2seq", "data.source.target=answer", "answer"),
    ],
)
def test_what_does_not_fit_together_is_refused(name: str, override: str, line: str, tmp_path: Path) -> None:
    recipe = MAKE[name](tmp_path)
    with pytest.raises(WeftError) as refused:
        tiny.trained(tmp_path / "runs", recipe, override.replace("FOLDER", str(tmp_path)))
    assert line in str(refused.value)
    assert not (tmp_path / "runs").exists()


def test_a_model_that_continues_texts_has_nothing_to_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tiny.trained(tmp_path / "runs", tiny.recipe(tiny.text(tmp_path)), "train.budget=1 steps")
    arguments = ("predict", folder, tmp_path / "text.jsonl")
    code, _, err = weft_command(*arguments, patch=monkeypatch, capture=capsys)
    assert code == 2
    assert "weft generate" in err
    code, out, err = weft_command("evaluate", folder, tmp_path / "text.jsonl", patch=monkeypatch, capture=capsys)
    assert code == 0, err
    assert "bits per byte" in out


def test_a_table_is_read_after_a_training_on_aligned_files(tmp_path: Path) -> None:
    """Its columns are called after what they are; a folder is read as the training's was."""
    (tmp_path / "new.csv").write_text("text,label\nfine,good\n", encoding="utf-8")
    like = Source.choose({"kind": "aligned", "path": "train", "text": "sents.txt", "label": "labels.txt"})
    table = open_source(str(tmp_path / "new.csv"), like)
    assert table.dump()["kind"] == "files"
    assert [(one.text, dict(one.fields)) for one in table.build().documents()] == [("fine", {"label": "good"})]
    assert open_source(str(tmp_path), like).dump() == {**like.dump(), "path": str(tmp_path)}

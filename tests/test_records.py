"""What a run measures and writes down: bits per byte by hand, the log, checkpoints that stay, identity, the surface."""

from __future__ import annotations

import io
import json
import math
import random
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from rich.console import Console
from tiny import lines, prepared, trained

import weft
from weft.evaluation.language import evaluate_language
from weft.models.transformer import Transformer
from weft.runs.folder import RunFolder
from weft.training import checkpoints
from weft.training.setup import Prepared, manifest_of, new_training

BRIEF = "train.budget=12 steps"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("records")


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return tiny.text(folder)


def final_weights(run: Path) -> bytes:
    return (RunFolder(run).checkpoints()[-1] / "model.safetensors").read_bytes()


# --- measures ---


@pytest.fixture(scope="module")
def measured(folder: Path) -> tuple[Transformer, Prepared]:
    """A model in float64 that is far from uniform, and a text whose bytes, characters and tokens differ in number."""
    draw = random.Random(0)
    words = "hồn nhiên là một thứ gì đó rất đẹp ở trong lòng người ta"
    texts = [" ".join(draw.choices(words.split(), k=draw.randrange(1, 16))) for _ in range(40)]
    source = folder / "viet.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    ready = prepared(source, "data.tokenizer={kind: bpe, vocab_size: 280}", "data.validation.share=0.2")
    model = new_training(ready, Console(file=io.StringIO())).model.double().eval()
    model.compute_dtype = torch.float64
    with torch.no_grad():
        model.heads["lm"].projection.weight.mul_(20)
    return model, ready


def by_hand(model: Transformer, stream: list[int], window: int, stride: int) -> list[float]:
    """Nats of each token: from the first window that ends behind it, windows ending at `window` + n x `stride`."""
    nats = []
    for place, target in enumerate(stream):
        end = next(end for end in range(window, 10**9, stride) if end > place)
        end = min(end, len(stream))
        start = max(end - window, 0)
        context = [stream[-1], *stream][start : place + 1]  # the stream counts as preceded by an end of document
        with torch.no_grad():
            logits_V = model(torch.tensor([context])).logits_BTV[0, -1]
        nats.append(float(torch.logsumexp(logits_V, 0) - logits_V[target]))
    return nats


@pytest.mark.parametrize(("window", "stride"), [(32, 32), (32, 16), (32, 5), (150, 75), (9999, 500)])
def test_bits_per_byte_by_hand(measured: tuple[Transformer, Prepared], window: int, stride: int) -> None:
    model, ready = measured
    split = ready.data.validation
    nats = by_hand(model, split.arrays["tokens"].tolist(), window, stride)
    texts = (json.loads(line)["text"] for line in Path(ready.recipe.data.source.path).read_text().splitlines())  # type: ignore[attr-defined]
    numbered = {f"viet.jsonl#{number}": text for number, text in enumerate(texts, start=1)}
    size = sum(len(numbered[name].encode()) for name in split.ids)
    found = evaluate_language(model, split, window, stride)
    assert (found.tokens, found.bytes, found.whole) == (split.tokens, size, True)
    assert found.nats == pytest.approx(sum(nats), rel=1e-10)
    assert found.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / size, rel=1e-10)
    assert found.loss == pytest.approx(sum(nats) / len(nats), rel=1e-10)
    offsets = split.arrays["offsets"].tolist()
    each = [sum(nats[start:end]) for start, end in pairwise(offsets)]
    assert found.nats_by_document.tolist() == pytest.approx(each, rel=1e-10)


def test_rows_at_a_time_do_not_matter(measured: tuple[Transformer, Prepared]) -> None:
    model, ready = measured
    found = [evaluate_language(model, ready.data.validation, 32, 8, rows=rows) for rows in (1, 3, 64)]
    assert [result.nats for result in found] == pytest.approx([found[0].nats] * 3, rel=1e-12)
    assert found[0].nats_by_document.tolist() == pytest.approx(found[2].nats_by_document.tolist(), rel=1e-12)


def test_a_part_of_the_text(measured: tuple[Transformer, Prepared]) -> None:
    """As many windows as the limit holds, from the beginning to the end."""
    model, ready = measured
    split, told = ready.data.validation, []
    found = evaluate_language(model, split, 32, 16, limit=100, rows=2, progress=lambda *at: told.append(at))
    assert (found.tokens, found.whole, found.window, found.stride) == (96, False, 32, 32)
    assert told == [(64, 100), (96, 100)]
    stream, nats = split.arrays["tokens"].tolist(), 0.0
    for start in (0, (len(stream) - 32) // 2, len(stream) - 32):
        context = [stream[-1], *stream][start : start + 32]
        with torch.no_grad():
            logits_TV = model(torch.tensor([context])).logits_BTV[0]
        targets = torch.tensor(stream[start : start + 32])
        nats += float(torch.nn.functional.cross_entropy(logits_TV, targets, reduction="sum"))
    assert found.nats == pytest.approx(nats, rel=1e-10)
    assert found.nats_by_document.sum() == pytest.approx(nats, rel=1e-10)
    assert found.bytes == pytest.approx(96 * split.bytes / split.tokens, rel=0.3)


def test_measuring_leaves_the_model_as_it_was(measured: tuple[Transformer, Prepared]) -> None:
    model, ready = measured
    model.train()
    evaluate_language(model, ready.data.validation, 32, 32, 50)
    assert model.training
    model.eval()


def test_the_last_measure_is_of_all_and_kept_by_document(source: Path, folder: Path) -> None:
    run, said = tiny.run(tiny.recipe(source), folder, BRIEF, "train.evaluate_tokens=64")
    *partial, final = lines(run.folder, "validation")
    assert [(line["values"]["whole"], line["values"]["tokens"]) for line in partial] == [(False, 64)] * 3
    values = final["values"]
    assert (values["whole"], values["window"], values["stride"], values["final"]) == (True, 32, 16, True)
    expected = f"{values['bits_per_byte']:.3f} bits per byte over {values['tokens']} validation tokens, window 32"
    assert f"{expected}, stride 16" in said
    rows = [json.loads(line) for line in (run.folder / "predictions/validation.jsonl").read_text().splitlines()]
    assert len(rows) == RunFolder(run.folder).manifest()["data"]["validation"]["documents"]
    assert sum(row["nats"] for row in rows) == pytest.approx(values["loss"] * values["tokens"])
    assert all(re.fullmatch(r"text\.jsonl#\d+", row["id"]) for row in rows)


def test_a_tokenizer_that_loses_text_gets_no_bits_per_byte(source: Path, folder: Path) -> None:
    """And the best checkpoint is found nevertheless."""
    (folder / "lossy.jsonl").write_text('{"text": "the cat sat on the ½ mat and the dog ran"}\n' * 4)
    validation = f"data.validation={{kind: file, path: '{folder / 'lossy.jsonl'}'}}"
    lossy = [validation, "data.tokenizer=characters", "train.evaluate_every=4"]
    run, said = tiny.run(tiny.recipe(source), folder, BRIEF, *lossy)
    assert "no bits per byte: the tokenizer loses some text" in said
    assert " nan " not in said
    losses = {line["step"]: line["values"]["loss"] for line in lines(run.folder, "validation")[1:-1]}
    best = min(losses, key=losses.__getitem__)
    assert RunFolder(run.folder).manifest()["best"]["checkpoint"] == f"step-{best:08d}"
    assert best != min(losses), "this text should be learned: the best is not the first"


# --- records ---


def test_on_step_sees_every_step(source: Path, folder: Path) -> None:
    seen = []
    run = tiny.run(tiny.recipe(source), folder, BRIEF, on_step=lambda step, values: seen.append((step, values)))[0]
    assert [step for step, _ in seen] == list(range(1, 13))
    assert seen[0][1]["loss"] == pytest.approx(math.log(257), abs=0.1)
    assert all(values["gradient_norm"] > 0 for _, values in seen)
    assert run.finished


def test_a_line_of_the_log_is_the_mean_since_the_last(source: Path, folder: Path) -> None:
    each = lines(trained(folder, tiny.recipe(source), "train.log_every=1"))
    some = lines(trained(folder, tiny.recipe(source), "train.log_every=5"))
    assert [line["step"] for line in some] == [5, 10, 15, 20, 24]
    tokens = np.diff([0, *(line["tokens"] for line in each)])
    assert len(set(tokens.tolist())) > 1, "steps of unequal counts should be among them"
    before = 0
    for line in some:
        part = slice(before, line["step"])
        losses, norms = ([each_line["values"][name] for each_line in each[part]] for name in ("loss", "gradient_norm"))
        assert line["tokens"] == each[line["step"] - 1]["tokens"]
        assert line["values"]["loss"] == pytest.approx(np.average(losses, weights=tokens[part]), rel=1e-9)
        assert line["values"]["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-9)
        before = line["step"]


def test_what_is_logged_of_layers(source: Path, folder: Path) -> None:
    sgd = ["optimizer={kind: sgd, learning_rate: 0.3, momentum: 0}", "train.clip=1e9", "train.log_every=1"]
    shown = [line for line in lines(trained(folder, tiny.recipe(source), BRIEF, *sgd)) if "layers" in line["values"]]
    assert [line["step"] for line in shown] == [4, 8, 12]
    for line in shown:
        layers, rate = line["values"]["layers"], line["values"]["learning_rate"]
        assert list(layers) == ["embedding", "decoder.blocks.0", "decoder.blocks.1", "decoder"]
        total = math.sqrt(sum(layer["gradient_norm"] ** 2 for layer in layers.values()))
        assert total == pytest.approx(line["values"]["gradient_norm"], rel=1e-4)
        for layer in layers.values():
            expected = rate * layer["gradient_norm"] / layer["weight_norm"]
            assert layer["update_ratio"] == pytest.approx(expected, rel=1e-3)


def test_the_progress_line(source: Path, folder: Path) -> None:
    said = tiny.run(tiny.recipe(source), folder)[1]
    found = [line for line in said.splitlines() if line.startswith("step ")]
    pattern = r"step +\d+/24  loss \d\.\d{3}  \d\.\d{3} bits/byte  [\d,]+ tokens/s  \d+% of matmul peak  .+ left"
    assert [bool(re.fullmatch(pattern, line)) for line in found] == [True] * 3, said
    assert re.search(r"\nmatmul peak: [\d,.]+ GFLOP/s, a large matrix product measured just now\n", said)
    assert "text.jsonl: 40 documents; 1.4 kB for training, 265 B for validation" in said
    assert "note: training text: 1.4 kB is too little to learn a language from" in said


def test_the_newest_and_the_best_checkpoints_stay(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in range(10, 100, 10):
        run.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints/notes").mkdir()
    for keep, best, expected in ((4, 20, [20, 60, 70, 80, 90]), (3, 80, [70, 80, 90]), (1, None, [90])):
        checkpoints.prune(run, keep, f"step-{best:08d}" if best else None)
        assert [path.name for path in run.checkpoints()] == [f"step-{step:08d}" for step in expected]
    assert (tmp_path / "checkpoints/notes").is_dir()


# --- identity ---


def test_a_run_repeats_bit_by_bit(source: Path, folder: Path) -> None:
    first = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1", name="first")
    again = trained(folder, first / "recipe.yaml", name="again")
    other = trained(folder, first / "recipe.yaml", "train.seed=1", name="other")
    assert tiny.result(first) == tiny.result(again)
    identities = [RunFolder(run).manifest()["identity"] for run in (first, again, other)]
    assert identities[0] == identities[1] != identities[2]
    assert final_weights(first) != final_weights(other)


EXECUTION = ("train.log_every=1", "train.sample_tokens=30", "train.keep_checkpoints=1", "train.checkpoint_every=5")


def test_how_a_run_is_watched_does_not_change_it(source: Path, folder: Path) -> None:
    plain = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1")
    for option in (*EXECUTION, "train.sample_tokens=0", "train.evaluate_every=1"):
        watched = trained(folder, tiny.recipe(source), BRIEF, "model.dropout=0.1", option)
        assert final_weights(watched) == final_weights(plain), option


@pytest.fixture(scope="module")
def identity(source: Path) -> Callable[..., str]:
    def of(*overrides: str, plugins: dict[str, str] | None = None, path: Path = source) -> str:
        ready = prepared(path, *overrides)
        training = new_training(ready, Console(file=io.StringIO()))
        return str(manifest_of(ready, training, plugins or {}, "weft train")["identity"])

    return of


def test_execution_options_do_not_change_the_identity(identity: Callable[..., str]) -> None:
    changes = (*EXECUTION, "train.micro_batch=2", "train.precision=bf16", "name=other", "train.device=auto")
    assert {identity(*changes[:index]) for index in range(len(changes) + 1)} == {identity()}


def test_semantic_options_data_and_plugins_change_the_identity(
    identity: Callable[..., str], tmp_path: Path, source: Path
) -> None:
    changes = ["train.seed=1", "train.budget=25 steps", "optimizer.learning_rate=4e-3", "model.d_model=48",
               "model.decoder.positions=none", "data.packing=documents", "schedule=cosine", "train.clip=2",
               "data.tokenizer=characters", "model.decoder.positions.theta=1000"]  # fmt: skip
    found = [identity(), *(identity(change) for change in changes)]
    found += [identity(plugins={"plugins/a.py": "1"}), identity(plugins={"plugins/a.py": "2"})]
    assert len(set(found)) == len(found)
    moved = tiny.text(tmp_path, seed=1).rename(source.with_name("moved.jsonl"))
    kept, text = source.read_text(), moved.read_text()
    moved.write_text(kept)
    before = identity(path=moved)
    moved.write_text(text)
    assert identity(path=moved) != before, "the same path, another text"


# --- from Python and from the command line ---


def test_a_mapping_trains_too(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = weft.train(tiny.recipe(source), "train.budget=2 steps", console=Console(file=io.StringIO()))
    assert isinstance(done, weft.Run)
    assert (done.folder, done.finished) == (Path("runs/tiny"), True)
    assert done.load()[0].config.vocab_size == 257
    with pytest.raises(weft.WeftError, match="exists already"):
        weft.train(tiny.recipe(source), name="tiny")


def test_the_heads_that_an_objective_needs_are_added_aloud(source: Path, folder: Path) -> None:
    raw = tiny.recipe(source)
    raw["model"]["heads"] = {}
    run, said = tiny.run(raw, folder, "train.budget=2 steps")
    assert "heads added for the objective causal: lm" in said
    assert list(run.load()[0].heads) == ["lm"]


def test_json_on_stdout_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny.recipe_file(tmp_path)
    arguments = ["train", path, "train.budget=2 steps", "--runs", tmp_path, "--json"]
    code, out, err = tiny.command(*arguments, patch=monkeypatch, capture=capsys)
    found = json.loads(out)
    assert code == 0
    assert (found["folder"], found["finished"]) == (str(tmp_path / "tiny"), True)
    assert found["validation"] == lines(tmp_path / "tiny", "validation")[-1]["values"]
    assert "bits per byte over" in err

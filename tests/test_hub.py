"""What MODEL names: a run is its best checkpoint, a folder gives back what was saved, and damage is one clear line."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import weft
from weft.errors import WeftError
from weft.hub import model_config
from weft.models.transformer import Transformer
from weft.runs.folder import RunFolder
from weft.text.tokenizers import Tokenizer, TokenizerConfig

BYTES: Tokenizer = TokenizerConfig.choose("bytes").train((), 0)
TOKENS = torch.arange(2 * 20).view(2, 20) * 5 % 257


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(TOKENS).logits_BTV


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first checkpoint is the best one."""
    folder = tmp_path_factory.mktemp("hub")
    overrides = (tiny.worsening(folder), "train.budget=16 steps", "train.evaluate_every=4")
    return tiny.run(tiny.recipe_file(folder), folder, *overrides)[0].folder


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    declaration = tiny.recipe(tmp_path)["model"]
    return weft.save(weft.build({**declaration, "vocab_size": 257}), BYTES, tmp_path / "model")


# --- in and out ---


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding.tied": True, "decoder.positions": "rotary"},
        {"embedding.tied": False, "decoder.positions": "learned", "decoder.norm": "layer", "heads.lm.bias": True},
        {"embedding": {"kind": "factorized", "width": 8}, "decoder.share": "all", "heads": {"lm": "lm", "mlm": "mlm"}},
    ],
)
def test_what_was_saved_is_what_is_loaded(tmp_path: Path, changes: dict[str, Any]) -> None:
    declaration = {**tiny.recipe(tmp_path)["model"], "vocab_size": 257}
    model = weft.build(declaration, *(f"{path}={json.dumps(value)}" for path, value in changes.items()), seed=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    before = logits(model)
    folder = weft.save(model, BYTES, tmp_path / "deep" / "model")
    loaded, tokenizer = weft.load(folder)
    assert torch.equal(logits(loaded), before)
    assert not loaded.training
    assert loaded.config == model.config
    assert tokenizer.fingerprint == BYTES.fingerprint
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    if os.name == "posix":
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}, "others may read all of it"


def test_a_shared_table_is_stored_once_and_shared_again(model_folder: Path) -> None:
    stored = load_file(model_folder / "model.safetensors")
    assert [name for name, tensor in stored.items() if tensor.shape == (257, 32)] == ["embedding.tokens.weight"]
    model, _ = weft.load(model_folder)
    assert model.heads["lm"].projection.weight is model.embedding.tokens.weight


def test_nothing_is_written_over(model_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in model_folder.iterdir()}
    with pytest.raises(WeftError, match="model: exists already; choose another name"):
        weft.save(*weft.load(model_folder), model_folder)
    assert before == {path.name: path.read_bytes() for path in model_folder.iterdir()}


# --- runs ---


def test_a_run_is_its_best_checkpoint(run: Path) -> None:
    measured = {
        line["step"]: {key: line["values"][key] for key in ("loss", "bits_per_byte")}
        for line in RunFolder(run).log
        if line["split"] == "validation" and line["step"] and not line["values"].get("final")
    }
    best = min(measured, key=lambda step: measured[step]["loss"])
    assert (best, list(measured)) == (4, [4, 8, 12, 16]), "this text should get worse"
    assert RunFolder(run).manifest()["best"] == {"checkpoint": "step-00000004", **measured[4]}
    of_run, of_best = weft.load(run)[0], weft.load(run / "checkpoints" / "step-00000004")[0]
    of_last = weft.load(run / "checkpoints" / "step-00000016")[0]
    assert torch.equal(logits(of_run), logits(of_best))
    assert not torch.equal(logits(of_run), logits(of_last))


def test_the_newest_and_the_best_checkpoint_are_kept(run: Path) -> None:
    kept = [path.name for path in RunFolder(run).checkpoints()]
    assert kept == ["step-00000004", "step-00000012", "step-00000016"]


def test_the_newest_where_none_was_measured(tmp_path: Path) -> None:
    def stop(step: int, values: dict[str, Any]) -> None:
        if step == 7:
            raise RuntimeError

    overrides = ("train.checkpoint_every=3", "train.evaluate_every=8")
    with pytest.raises(RuntimeError):
        tiny.run(tiny.recipe_file(tmp_path), tmp_path, *overrides, on_step=stop)
    model, _ = weft.load(tmp_path / "tiny")
    assert torch.equal(logits(model), logits(weft.load(tmp_path / "tiny/checkpoints/step-00000006")[0]))


def test_a_run_without_a_checkpoint(tmp_path: Path) -> None:
    def stop(step: int, values: dict[str, Any]) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        tiny.run(tiny.recipe_file(tmp_path), tmp_path, on_step=stop)
    with pytest.raises(WeftError, match=r"no checkpoint yet; go on with it \(weft train .*tiny\)"):
        weft.load(tmp_path / "tiny")
    assert model_config(tmp_path / "tiny").vocab_size == 257, "its declaration is there from the start"


def test_a_run_gives_its_model_and_log(run: Path) -> None:
    done = weft.Run(run, True)
    assert torch.equal(logits(done.load()[0]), logits(weft.load(run)[0]))
    assert [line["step"] for line in done.metrics if line["split"] == "train"] == [3, 6, 9, 12, 15, 16]


# --- what cannot be loaded ---


def test_names_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(WeftError, match=r"no such preset, run or model folder \(presets: .*gpt2, .*llama-tiny,"):
        weft.load(tmp_path / "nothing")
    with pytest.raises(WeftError, match="gpt2: a preset has no trained weights"):
        weft.load("gpt2")
    with pytest.raises(WeftError, match=r"neither a run \(manifest.json\) nor a model folder \(config.json\)"):
        weft.load(tmp_path)


def config_of(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


DAMAGE = {
    "weights-cut": (lambda f: cut(f / "model.safetensors", -1000), "model.safetensors: damaged"),
    "weights-cut-in-their-header": (lambda f: cut(f / "model.safetensors", 100), "model.safetensors: damaged"),
    "weights-empty": (lambda f: cut(f / "model.safetensors", 0), "model.safetensors: damaged"),
    "weights-missing": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: there is no such file"),
    "weights-are-text": (lambda f: (f / "model.safetensors").write_text("<html>" * 99), "model.safetensors: damaged"),
    "tokenizer-cut": (lambda f: cut(f / "tokenizer.json", 99), "tokenizer.json: not a tokenizer.json"),
    "tokenizer-missing": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: No such file"),
    "config-cut": (lambda f: cut(f / "config.json", 50), "config.json: not JSON"),
    "config-of-others": (lambda f: config_of(f, format=None), r"config.json is not weft's \(it has no `format`"),
    "config-newer": (lambda f: config_of(f, format=2), r"model format 2 is newer than this weft reads \(1\); upgrade"),
    "config-unknown": (lambda f: config_of(f, model={"d_modell": 3}), "d_modell: no such option; did you mean 'd_mo"),
    "other-width": (lambda f: config_of(f, model=_with(f, d_model=48)), r"another model: .* is \(32, 32\), the model"),
    "other-depth": (lambda f: rename(f, "blocks.1.", "blocks.2."), "another model: decoder.blocks.1.*is missing"),
    "unknown-weight": (lambda f: rename(f, "decoder.norm", "norm"), "another model: decoder.norm.weight is missing; n"),
}  # fmt: skip


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _with(folder: Path, **changes: Any) -> dict[str, Any]:
    return {**json.loads((folder / "config.json").read_text())["model"], **changes}


def rename(folder: Path, old: str, new: str) -> None:
    path = folder / "model.safetensors"
    save_file({name.replace(old, new): tensor for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(model_folder: Path, damage: str) -> None:
    do, expected = DAMAGE[damage]
    do(model_folder)
    with pytest.raises(WeftError, match=expected):
        weft.load(model_folder)


def test_a_truncated_checkpoint_in_generate(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shutil.copytree(run, tmp_path / "copy")
    cut(path / "checkpoints/step-00000004/model.safetensors", -1)
    code, out, err = tiny.command("generate", path, "--prompt", "the", patch=monkeypatch, capture=capsys)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {path / 'checkpoints/step-00000004/model.safetensors'}: damaged (")
    assert err.count("\n") == 1

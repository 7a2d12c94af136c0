"""Timing studies: nothing wrong is timed, nothing twice, made-up figures are read rightly, the page tells them."""

from __future__ import annotations

import io
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from pages import HOSTILE, Outline
from rich.console import Console

from weft.config import yaml
from weft.errors import ConfigError, WeftError
from weft.runs.folder import read_json, to_json
from weft.studies import attention_ways, timed_block, timing
from weft.studies.attention_ways import WAYS, Shape, Way, check_core, check_layer
from weft.studies.engine import Report
from weft.studies.folder import found_studies
from weft.studies.reading import read_studies
from weft.studies.timing import TimingStudy, blocks_of, read_timing, run_timing
from weft.studies.timing_outcome import UNTESTED, exponent, findings, times, verdict, write_results
from weft.studies.timing_page import html, markdown

SHAPE = Shape(batch=2, n_heads=2, width=4, tokens=9, window=4)
SMALL: dict[str, Any] = {
    "name": "small", "times": "attention", "batch": 1, "n_heads": 2, "width": 4, "tokens": 8, "window": 4,
    "ways": ["formula", "sdpa"], "repetitions": 6, "blocks": 3, "scaled": ["window"], "lengths": [4, 8, 16],
    "scaled_repetitions": 3, "threads": 1,
}  # fmt: skip
CLAIM = {"text": "Flash is faster", "way": "sdpa", "ratio": 1.5, "hardware": "a T4 GPU"}


def run(studies: Path, source: Any = SMALL, **options: Any) -> tuple[Report, str]:
    said = io.StringIO()
    screen = Console(file=said, width=10_000)
    report = run_timing(source, studies=studies, console=screen, **({"isolated": False} | options))
    return report, said.getvalue()


# what is computed


@pytest.mark.parametrize("name", WAYS)
def test_every_way_computes_the_formula_forward_and_backward(name: str) -> None:
    assert check_layer(name, WAYS[name], SHAPE) < attention_ways.LIMIT
    if WAYS[name].core is not None:
        assert check_core(name, WAYS[name], SHAPE) < attention_ways.LIMIT


def test_the_formula_is_attention() -> None:
    """Against loops in float64 over one row of one head."""
    assert WAYS["formula"].core is not None
    q, k, v = (
        torch.randn(1, 1, 5, 4, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in range(3)
    )
    found = WAYS["formula"].core(Shape(1, 1, 4, 5, 2))(q, k, v)[0, 0]
    for i in range(5):
        weights = [
            math.exp(sum(float(a * b) for a, b in zip(q[0, 0, i], k[0, 0, j], strict=True)) / 2) for j in range(i + 1)
        ]
        for c in range(4):
            mixed = sum(w * float(v[0, 0, j, c]) for j, w in enumerate(weights)) / sum(weights)
            assert float(found[i, c]) == pytest.approx(mixed, abs=1e-14)


def without_scale(shape: Shape) -> attention_ways.Core:
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.49)


def not_causal(shape: Shape) -> attention_ways.Core:
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v)


def no_gradient(shape: Shape) -> attention_ways.Core:
    core = attention_ways.sdpa(shape)
    return lambda q, k, v: core(q, k.detach(), v) + 0 * k


@pytest.mark.parametrize("core", [without_scale, not_causal, no_gradient])
def test_a_way_that_computes_something_else_is_refused_and_nothing_is_timed(
    core: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(WAYS, "wrong", Way("a wrong one", core))
    monkeypatch.setattr(timed_block, "_rounds", lambda *given: pytest.fail("something was timed"))
    with pytest.raises(WeftError, match=r"^ways: wrong computes something else than the formula: .* nothing is timed$"):
        run(tmp_path, SMALL | {"ways": ["formula", "wrong"]})
    assert not list(tmp_path.glob("cells/*/timings.json"))


def test_what_ran_and_what_was_held_is_recorded() -> None:
    x = torch.randn(1, 2, 64, 8)
    held, ran = timed_block._seen(lambda: (x @ x.mT).softmax(-1))
    assert held == 2 * 2 * 64 * 64 * 4  # the scores and the weights, float32
    assert {name for name, _ in ran} >= {"aten::bmm", "aten::_softmax"}


# blocks


def test_a_study_runs_and_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_block, "_seen", lambda step: (8, [("aten::mm", 0.5)]))
    report, said = run(tmp_path)
    assert report.finished
    assert "0 blocks there already" in said
    first = {name: (report.folder / name).read_bytes() for name in ("report.html", "report.md")}
    told = report.results
    assert {one["arm"] for one in told["comparisons"]} == {"sdpa"}
    assert [one["pass"] for one in told["comparisons"]] == ["forward", "forward + backward"]
    timings = read_json(tmp_path / told["cells"][0]["folder"] / "timings.json")
    assert {len(seconds) for ways in timings["layers"].values() for seconds in ways.values()} == {2}
    assert {len(seconds) for ways in timings["scaling"].values() for seconds in ways.values()} == {1}
    assert found_studies(tmp_path)[0]["finished"] == 3

    monkeypatch.setattr(timed_block, "run_block", lambda *given: pytest.fail("a block was measured again"))
    again, said = run(tmp_path)
    assert "3 blocks there already, reused" in said
    assert {name: (again.folder / name).read_bytes() for name in first} == first
    with pytest.raises(WeftError, match=r"^metric = .* is a new study"):
        run(tmp_path, SMALL | {"margin": 1.1})


def test_a_study_that_was_stopped_goes_on_with_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed_block, "_seen", lambda step: (8, [("aten::mm", 0.5)]))
    measure, done = timed_block.run_block, list[int]()

    def once(setting: timed_block.Setting, *given: Any) -> None:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(setting.block)
        measure(setting, *given)

    monkeypatch.setattr(timed_block, "run_block", once)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    monkeypatch.setattr(
        timed_block, "run_block", lambda setting, *given: (done.append(setting.block), measure(setting, *given))
    )
    assert run(tmp_path)[0].finished
    assert done == [0, 1, 2]


def test_a_block_runs_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are there already; the third is measured by a child, whose folder is like theirs."""
    study = TimingStudy.model_validate(SMALL)
    blocks = blocks_of(study, 1)
    monkeypatch.setattr(timed_block, "_seen", lambda step: (8, [("aten::mm", 0.5)]))
    for block in blocks[:2]:
        timed_block.run_block(block.setting, tmp_path / "cells" / block.name, block.surroundings, lambda done: None)
    report, said = run(tmp_path, isolated=True)
    assert report.finished
    assert "block 3: 2 rounds" in said
    names = [sorted(path.name for path in (tmp_path / "cells" / block.name).iterdir()) for block in blocks]
    assert names[2] == names[0] == ["manifest.json", "resolved.yaml", "timings.json"]
    ran = read_json(tmp_path / "cells" / blocks[2].name / "timings.json")["ran"]["forward"]["sdpa"]
    assert any("scaled_dot_product" in name or "mm" in name for name, _ in ran)


def test_a_block_is_known_by_all_that_its_figures_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(threads: int = 1, **changed: Any) -> list[str]:
        return [block.key for block in blocks_of(TimingStudy.model_validate(SMALL | changed), threads)]

    first = keys()
    assert len(set(first)) == 3
    assert keys(name="other", margin=1.1, claim=CLAIM) == first
    for changed in ({"tokens": 9}, {"backward": False}, {"repetitions": 9}, {"ways": ["sdpa", "formula"]}):
        assert not set(keys(**changed)) & set(first), changed
    assert not set(keys(threads=2)) & set(first)
    monkeypatch.setattr(timing.fingerprints, "of_modules", lambda *given, **options: "other code")
    assert not set(keys()) & set(first)


# declarations


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ways": ["formula", "sdqa"]}, "ways: no way called 'sdqa'; did you mean 'sdpa'?"),
        ({"ways": ["formula", "window"]}, "ways: window sees 4 keys only, which is another attention"),
        ({"ways": ["formula", "sdpa", "sdpa"]}, "ways: a way is named twice"),
        ({"ways": ["formula"]}, "ways = ['formula']: "),
        ({"scaled": ["mha"]}, "scaled: mha is a layer with its matrices inside"),
        ({"baseline": "mha"}, "baseline = 'mha': is not among the ways formula, sdpa"),
        ({"claim": CLAIM | {"way": "formula"}}, "claim.way = 'formula': is not among the ways beside the baseline"),
        ({"lengths": [4, 8]}, "lengths = [4, 8]: should be at least 3 rising lengths"),
        ({"lengths": [8, 4, 16]}, "lengths = [8, 4, 16]: should be"),
        ({"repetitions": 7}, "repetitions = 7: 3 blocks cannot share them evenly"),
        ({"blocks": 1}, "blocks = 1: "),
        ({"margin": 0.05}, "margin = 0.05: "),
        ({"times": "training"}, "times = 'training': should be 'attention'"),
        ({"repetition": 7}, "repetition: no such option; did you mean 'repetitions'?"),
    ],
)
def test_a_bad_declaration_gets_one_clear_line(changed: dict[str, Any], line: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run(tmp_path, SMALL | changed)
    assert len(refused.value.problems) == 1
    assert refused.value.problems[0].startswith(line)
    assert not list(tmp_path.iterdir())


def test_the_bundled_study_is_found_by_its_name_and_by_its_key(tmp_path: Path) -> None:
    study, _ = read_timing("attention-kernels")
    assert (study.name, study.repetitions, study.claim is not None) == ("attention-kernels", 1000, True)
    assert (study.quicker().name, study.quicker().blocks) == ("attention-kernels-quick", 3)
    (tmp_path / "mine.yaml").write_text(yaml.dump(SMALL), encoding="utf-8")
    with pytest.raises(WeftError, match="is a study of time and trains nothing"):
        read_studies("attention-kernels")
    assert read_timing(tmp_path / "mine.yaml")[0].name == "small"


# figures


def test_the_exponent_of_a_power_is_found_with_an_interval() -> None:
    lengths, noise = [512, 768, 1024, 1536, 2048, 3072, 4096], random.Random(0)
    exact = exponent(lengths, [3e-9 * n**1.5 for n in lengths])
    assert exact.value == pytest.approx(1.5)
    assert exact.high - exact.low < 1e-6
    inside = 0
    for _ in range(200):
        found = exponent(lengths, [n**2 * math.exp(noise.gauss(0, 0.05)) for n in lengths])
        inside += found.low < 2 < found.high
    assert 180 <= inside <= 199  # 95 %, 3.2 standard deviations
    with pytest.raises(WeftError, match="at least 3"):
        exponent([1, 2], [1, 2])


def made_up(
    folder: Path, ratios: dict[str, float], claim: dict[str, Any] | None = None, **changed: Any
) -> dict[str, Any]:
    """Results of blocks that were never measured: formula takes 10 ms, the others as their ratios say."""
    noise = random.Random(1)
    ways = {"formula": 1.0} | ratios
    raw = SMALL | {"ways": list(ways), "scaled": ["formula", "sdpa"], "margin": 1.05, "claim": claim} | changed
    study = TimingStudy.model_validate(raw)
    blocks = blocks_of(study, 1)
    for block in blocks:
        speed = math.exp(noise.gauss(0, 0.1))
        seconds = {
            way: [0.01 * speed / ratio * math.exp(noise.gauss(0, 0.003)) for _ in range(4)]
            for way, ratio in ways.items()
        }
        each = dict.fromkeys(block.setting.passes(), seconds)
        grown = {str(n): {"formula": [1e-8 * n**2], "sdpa": [1e-6 * n]} for n in study.lengths}
        bytes_held = {n: {way: int(1e9 * held[0]) for way, held in one.items()} for n, one in grown.items()}
        every = {turn: {way: [["aten::mm", 0.9]] for way in ways} for turn in each}
        found = {
            "layers": each, "scaling": grown, "ran": every,
            "memory": {"layers": {turn: dict.fromkeys(ways, 10**6) for turn in each}, "scaling": bytes_held},
            "off_by": dict.fromkeys(ways, 1e-6), "others": 0.02,
        }  # fmt: skip
        place = folder / block.name
        place.mkdir(parents=True)
        (place / "timings.json").write_text(to_json(found), encoding="utf-8")
        (place / "manifest.json").write_text(to_json(dict(block.surroundings)), encoding="utf-8")
    return findings(study, raw, blocks, folder, [[0, 1, 2]], False, "weft study run small")


def test_verdicts_are_ratios_in_words(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"sdpa": 1.7, "blocked": 0.8, "mha": 1.0}, blocks=3)
    kinds = {one["arm"]: one["verdict"]["kind"] for one in results["comparisons"]}
    assert kinds == {"sdpa": "better", "blocked": "worse", "mha": "equivalent"}
    words = {one["arm"]: one["verdict"]["words"] for one in results["comparisons"] if one["pass"] == "forward"}
    assert words["sdpa"].startswith("forward: 1.7")
    assert "times as fast (1." in words["sdpa"]
    assert words["blocked"].startswith("forward: 1.2")
    assert "times as slow (1.2" in words["blocked"]
    assert words["mha"].startswith("forward: as fast within 5 %: measured 1.0")
    for one in results["comparisons"]:
        true = {"sdpa": 1.7, "blocked": 0.8, "mha": 1.0}[one["arm"]]
        assert one["ratio_interval"]["low"] < true < one["ratio_interval"]["high"]
        assert one["method"].startswith("paired t over 3 seeds")
    assert times(1.732, 1.51, 1.93) == "1.7 times as fast (1.5 to 1.9)"
    assert times(0.5, 0.49, 0.51, "formula") == "2.00 times as slow as formula (1.96 to 2.04)"
    assert verdict(results).startswith("On this CPU sdpa is 1.7")


def test_noise_is_undecided_and_two_passes_count_twice(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"sdpa": 1.001}, margin=None)
    told = results["comparisons"]
    assert {one["verdict"]["kind"] for one in told} == {"undecided"}
    assert all("more block" in one["verdict"]["words"] for one in told)
    assert all(one["p_holm"] == min(1.0, 2 * one["p"]) for one in told)


@pytest.mark.parametrize(("ratio", "here"), [(1.7, "more"), (1.2, "less"), (1.5, "about that")])
def test_a_claim_about_hardware_that_was_not_there_is_not_tested(ratio: float, here: str, tmp_path: Path) -> None:
    said = verdict(made_up(tmp_path, {"sdpa": ratio}, CLAIM))
    assert said.endswith(f"Claimed, of a T4 GPU: about 1.5 times; here {here}; {UNTESTED}.")
    assert UNTESTED not in verdict(made_up(tmp_path / "own", {"sdpa": ratio}, CLAIM | {"hardware": None}))


def test_the_page_tells_the_figures_and_asks_for_nothing(tmp_path: Path) -> None:
    results = made_up(tmp_path / "cells", {"sdpa": 1.7, "blocked": 0.8}, CLAIM | {"text": HOSTILE})
    results["command"] = HOSTILE
    page, text = html(results), markdown(results)
    outline = Outline(page)
    assert "sdpa is 1.7" in outline.text("h1")
    assert f"here more; {UNTESTED}" in outline.text("p")
    assert "Time grows: formula as n^2.00, sdpa as n^1.00" in outline.text("h3")
    assert "sdpa n^1.00" in outline.text("tspan")
    assert "1.70" in outline.text("td")
    assert "2.00 (2.00 to 2.00)" in text
    assert "mm 90 %" in text
    assert "no GPU" in text
    for tag, attributes in outline.seen:
        for name in ("src", "href", "action"):
            target = attributes.get(name) or "data:"
            assert target.startswith("data:"), (tag, target)
    assert any((attributes.get("content") or "").startswith("default-src 'none'") for _, attributes in outline.seen)
    assert "<script>document" not in page
    assert html(json.loads(json.dumps(results))) == page
    said = write_results(tmp_path, results)
    assert max(map(len, said[3].splitlines())) <= 100
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page


def test_a_busy_machine_is_warned_of(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"sdpa": 1.7})
    assert "not to be trusted" not in html(results) + markdown(results)
    results["others"] = [0.02, 0.35, None]
    assert "up to 35 % of the cores" in Outline(html(results)).text("p")
    assert "not to be trusted" in markdown(results)


def test_blocks_without_noise_tell_nothing(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"sdpa": 1.0})
    results["problem"], results["comparisons"] = "untested: no noise", []
    assert "Nothing can be told: untested: no noise." in Outline(html(results)).text("h1")
    assert "Nothing can be told" in markdown(results)

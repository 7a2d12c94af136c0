"""Reports of classifiers and of models that write: the right number first, honest beside simple methods, escaped."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_tasks as tasks
from pages import HOSTILE, Outline, chromium, luminance, opened
from rich.cells import cell_len
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import binomtest
from synthetic_runs import healthy, line, manifest, write

from weft.report.grids import SHADES, Confusion, bars, confusion_grid
from weft.report.terminal import confusion
from weft.training.answers import Classified, Written, calibration_error, reliability
from weft.training.diagnosis import Finding, diagnose
from weft.training.measures import ACCURACY, BITS, BLEU, measure, task_of, wilson
from weft.training.record import Log, Run
from weft.training.report import write_report
from weft.training.task_diagnosis import diagnose_answers


def page_of(*runs: Path) -> tuple[str, Outline]:
    html = write_report(list(runs)).read_text(encoding="utf-8")
    return html, Outline(html)


def findings(folder: Path) -> dict[str, Finding]:
    run = Run.read(folder)
    answers = Classified.read(run) or Written.read(run)
    return {finding.kind: finding for finding in [*diagnose(run.log), *diagnose_answers(run, answers)]}


def visible(page: Outline) -> str:
    """All that a reader sees, without the raw material at the end."""
    texts = (" ".join(found) for tag, found in page.texts.items() if tag not in ("script", "style", "pre"))
    return " ".join(texts).replace("\xa0", " ")


# the first screen


def test_a_classifier_is_judged_by_accuracy_with_its_interval_beside_simple_methods(tmp_path: Path) -> None:
    _, page = page_of(tasks.classifier(tmp_path / "run"))
    verdict = "Accuracy 90.3 % after 200 steps: 4.3 points above TF-IDF (86.0 %); the training loss still falls."
    assert page.text("h1") == verdict
    shown = dict(zip(page.texts["dt"], page.texts["dd"], strict=False))
    assert shown["accuracy, validation"] == "90.3 %"
    assert shown["95 % interval"] == "87.7 to 92.4 %"
    assert (shown["against TF-IDF"], shown["against majority class"]) == ("+4.3 points", "+40.3 points")
    assert "Wilson's for a share, the 600 examples" in page.text("p")
    assert "Accuracy passed above TF-IDF by step 100" in page.text("h3")
    levels = page.text("tspan")
    assert "majority class" in levels
    assert "TF-IDF" in levels


def test_a_translator_is_judged_by_bleu_with_its_signatures(tmp_path: Path) -> None:
    _, page = page_of(tasks.translator(tmp_path / "run"))
    assert (
        page.text("h1") == "BLEU 29.4 after 200 steps: 26.3 points above copying (3.1); the training loss still falls."
    )
    assert "95 % interval" not in page.text("dt"), "none is known for BLEU"
    assert tasks.SIGNATURES["signature_bleu"] in page.text("span")
    assert tasks.SIGNATURES["signature_chrf"] in page.text("span")
    cells = page.texts["td"]
    place = page.texts["th"].index("this run, beam 4")
    assert page.texts["th"].index("this run, greedy") < place
    assert {"31.2", "52.6", "3.1", "17.2"} <= set(cells)
    assert "validation, 64 answers" in page.text("tspan"), "BLEU meanwhile is of a part, and says so"


@pytest.mark.parametrize("kind", ["classifier", "translator"])
def test_nothing_of_a_language_model_stands_in_a_task(tmp_path: Path, kind: str) -> None:
    folder = getattr(tasks, kind)(tmp_path / "run")
    seen = visible(page_of(folder)[1])
    unit = {"classifier": "nats per example", "translator": "nats per token"}[kind]
    other = {"classifier": "nats per token", "translator": "nats per example"}[kind]
    assert unit in seen
    for words in (other, "bits per byte", "xz", "validation text", "underfitting is possible"):
        assert words not in seen
    assert "What it wrote along the way" not in seen
    assert "distance between the two says nothing" in seen, "only training has label smoothing"


def test_a_baseline_within_the_interval_is_not_called_beaten(tmp_path: Path) -> None:
    lines = tasks.guesses(3)
    about = tasks.described(tasks.names(3))
    about["data"]["baselines"]["tfidf"]["accuracy"] = 0.89
    folder = tasks.task(tmp_path / "run", tasks.classified(lines), about, lines)
    assert "1.3 points above TF-IDF (89.0 %), within its uncertainty;" in page_of(folder)[1].text("h1")


@pytest.mark.parametrize(("right", "examples"), [(0, 5), (5, 5), (87, 100), (1, 1), (1300, 1583)])
def test_the_interval_is_wilsons(right: int, examples: int) -> None:
    low, high = binomtest(right, examples).proportion_ci(method="wilson")
    assert wilson(right / examples, examples) == pytest.approx((low, high), abs=1e-9)


def test_before_the_first_validation_the_task_is_that_of_the_recipe(tmp_path: Path) -> None:
    about = tasks.described(tasks.names(3), status="interrupted")
    log = [entry for entry in tasks.classified([]) if entry["split"] == "train"][:30]
    folder = tasks.task(tmp_path / "run", log, about, [])
    html, page = page_of(folder)
    assert page.text("h1").startswith("Interrupted at step 30 of 450")
    assert "nats per example in training after 30 steps" in page.text("h1")
    assert "nats per token" not in html


def test_a_measure_is_of_the_whole_only_where_all_answers_were_written() -> None:
    steps = tasks.scored(100, 20.0, 64, 300)
    whole = tasks.scored(100, 20.0, 300, 300)
    for entry, expected in ((steps, False), (whole, True)):
        found = measure(Run("x", {}, Log.of_entries([entry])))
        assert found is not None
        assert (found.metric, found.whole) == (BLEU, expected)


# classification


def test_the_matrix_and_the_classes_are_those_of_the_predictions(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    said = [("a", "a")] * 6 + [("a", "b")] * 2 + [("b", "b")] * 3 + [("c", "a")]
    lines = [{"id": f"{i}", "text": "t", "label": one, "predicted": two} for i, (one, two) in enumerate(said)]
    tasks.task(folder, tasks.classified(lines), tasks.described(["a", "b", "c", "d"]), lines)
    found = Classified.read(Run.read(folder))
    assert found is not None
    assert found.confusion().tolist() == [[6, 2, 0, 0], [0, 3, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    expected = [(6 / 7, 6 / 8, 0.8, 8), (3 / 5, 1.0, 0.75, 3), (0.0, 0.0, 0.0, 1), (0.0, 0.0, 0.0, 0)]
    assert found.by_class() == [pytest.approx(row) for row in expected]
    assert found.mistakes == [], "without probabilities nothing is confident"
    _, page = page_of(folder)
    assert "Most often “a” is called “b”: 2 of 8" in page.text("h3")
    titles = [attrs.get("title") for name, attrs in page.seen if name == "td" and attrs.get("title")]
    assert titles[0] == "a, called a: 6 of 8 (75 %)"
    assert page.texts["td"].count("–") == 4, "no precision without a prediction, no recall without an example"


@pytest.mark.parametrize("classes", [2, 3, 16, 30])
def test_two_to_thirty_classes_with_their_names_in_full(tmp_path: Path, classes: int) -> None:
    _, page = page_of(tasks.classifier(tmp_path / "run", classes))
    for name in tasks.names(classes):
        assert page.texts["th"].count(name) >= 3, "in the matrix, by class and in the balance"
        assert name in page.texts["span"], "over its column"
    grids = [attrs for name, attrs in page.seen if name == "table" and "class" in attrs]
    assert len(grids) == (1 if classes in (2, 3, 30) else 0)


def test_the_smallest_of_very_many_classes_are_put_together() -> None:
    counts = np.diag(np.arange(100, 0, -1))
    counts[99, 0] = 5
    cut = Confusion([f"c{i}" for i in range(100)], counts.tolist()).cut(10)
    assert cut.names == [*(f"c{i}" for i in range(9)), "91 others"]
    assert np.sum(cut.counts) == counts.sum()
    assert cut.counts[9][0] == 5
    assert len(re.findall("<tr>", confusion_grid(cut))) == 11


def test_the_surest_mistakes_come_first_and_equals_in_their_order(tmp_path: Path) -> None:
    lines = tasks.guesses(3, right=0.5)
    wrong = [entry for entry in lines if entry["label"] != entry["predicted"]]
    for entry in wrong[40:43]:
        entry["probabilities"][entry["predicted"]] = 1.0
    folder = tasks.task(tmp_path / "run", tasks.classified(lines), tasks.described(tasks.names(3)), lines)
    found = Classified.read(Run.read(folder))
    assert found is not None
    assert [one.text for one in found.mistakes[:3]] == [entry["text"] for entry in wrong[40:43]]
    sure = [one.probability for one in found.mistakes]
    assert len(sure) == 10
    assert sure == sorted([entry["probabilities"][entry["predicted"]] for entry in wrong], reverse=True)[:10]
    _, page = page_of(folder)
    assert f"The 10 most confident of {len(wrong)} mistakes among 600 examples" in page.text("p")


def test_calibration_is_zero_for_honest_and_large_for_boastful_probabilities(tmp_path: Path) -> None:
    lines = [
        {"label": "a", "predicted": "a" if i % 10 < 7 else "b", "probabilities": {"a": p, "b": p}, "text": ""}
        for p in (0.7, 0.99)
        for i in range(1000)
    ]
    boastful = tasks.task(tmp_path / "boastful", tasks.classified(lines), tasks.described(["a", "b"]), lines[1000:])
    honest = tasks.task(tmp_path / "honest", tasks.classified(lines), tasks.described(["a", "b"]), lines[:1000])
    errors = []
    for folder in (honest, boastful):
        found = Classified.read(Run.read(folder))
        assert found is not None
        bins = reliability(found)
        assert [one.examples for one in bins] == [1000]
        errors.append(calibration_error(bins))
    assert errors == pytest.approx([0.0, 0.29])
    assert "calibration" not in findings(honest)
    assert "it is too sure: 99 % for the predicted class" in findings(boastful)["calibration"].message
    assert "It is surer than it is right, by 29.0 points on average" in page_of(boastful)[1].text("h3")


# what the model wrote


def test_samples_are_spread_over_the_scores_and_not_chosen(tmp_path: Path) -> None:
    folder = tasks.translator(tmp_path / "run")
    found = Written.read(Run.read(folder))
    assert found is not None
    assert len(found.scores) == 300
    scores = [sample.score for sample in found.samples]
    assert all(one <= two for one, two in pairwise(scores))
    assert scores == [found.scores[round(share * 299)] for share in (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)]
    middle = found.samples[3]
    assert middle.score == CHRF().sentence_score(middle.answers["greedy"], [middle.target]).score
    _, page = page_of(folder)
    assert "greedy's answers put in the order of their chrF" in page.text("p")
    assert "at 5, 20, 35, 50, 65, 80, 95 % of the way" in page.text("p")
    for sample in found.samples:
        assert sample.text in page.texts["dd"]
        assert sample.target in page.texts["dd"]


def test_ways_of_decoding_are_counted_each_by_itself(tmp_path: Path) -> None:
    lines = [
        {"id": "1", "text": "s", "target": "abcd", "greedy": "abcd", "beam 4": "ab"},
        {"id": "2", "text": "s", "target": "efgh", "greedy": " ", "beam 4": "ef"},
        {"id": "3", "text": "s", "target": "ijkl", "nats": 3.0},
    ]
    found = Written.read(Run.read(tasks.task(tmp_path / "run", [], tasks.described([]), lines)))
    assert found is not None
    greedy, beam = found.ways["greedy"], found.ways["beam 4"]
    assert (greedy.answers, greedy.exact, greedy.empty, greedy.ratio) == (2, 1, 1, 5 / 8)
    assert (beam.answers, beam.exact, beam.empty, beam.ratio) == (2, 0, 0, 0.5)
    assert [sample.target for sample in found.samples] == ["efgh", "abcd"]


# findings


def test_a_classifier_that_only_knows_one_class_is_found_out(tmp_path: Path) -> None:
    lines = tasks.guesses(3)
    for entry in lines:
        entry["predicted"] = "negative"
    folder = tasks.task(tmp_path / "run", tasks.classified(lines), tasks.described(tasks.names(3)), lines)
    found = findings(folder)["one-class"]
    assert found.level == "warning"
    assert "each of the 600 examples is put into the class negative" in found.message
    assert len(found.rule) > 40
    assert "it puts every example into one class" in page_of(folder)[1].text("h1")
    assert "one-class" not in findings(tasks.classifier(tmp_path / "healthy"))


@pytest.mark.parametrize(("accuracy", "kind"), [(0.95, "below-baseline"), (0.9, "not-above-baseline"), (0.8, "")])
def test_accuracy_beside_the_majority_class(tmp_path: Path, accuracy: float, kind: str) -> None:
    lines = tasks.guesses(3)
    about = tasks.described(tasks.names(3))
    about["data"]["baselines"]["majority"]["accuracy"] = accuracy
    found = findings(tasks.task(tmp_path / "run", tasks.classified(lines), about, lines))
    assert {"below-baseline", "not-above-baseline"} & set(found) == ({kind} if kind else set())


def test_a_model_that_writes_one_answer_or_none_is_found_out(tmp_path: Path) -> None:
    lines = tasks.answers()
    for entry in lines:
        entry["greedy"] = "the the the"
    found = findings(tasks.task(tmp_path / "one", tasks.written(lines), tasks.described([]), lines))
    assert "greedy writes the same answer to each of 300" in found["one-answer"].message
    silent = findings(tasks.translator(tmp_path / "two"))
    assert "30 of 300 answers (10 %) are empty" in silent["empty-answers"].message
    assert "one-answer" not in silent


def test_overfitting_of_a_task_says_what_its_metric_did_meanwhile(tmp_path: Path) -> None:
    log = [entry for entry in tasks.classified(tasks.guesses(3)) if entry["split"] == "train"]
    for step in range(20, 201, 20):
        entry = tasks.judged(step, 0.5 + step / 1000, 300, whole=True)
        entry["values"]["loss"] = 0.6 + ((step - 80) / 200) ** 2
        log.append(entry)
    message = findings(tasks.task(tmp_path / "run", log, tasks.described(tasks.names(3)), []))["overfitting"].message
    assert "best at step 80 (0.6 nats per example)" in message
    assert message.endswith("; accuracy rose from 58.0 % to 70.0 % meanwhile.")


def test_a_level_classifier_whose_training_loss_is_smoothed_does_not_underfit(tmp_path: Path) -> None:
    flat = [line(step, "train", {"loss": 0.9 + step % 2 / 1000 + (step == 1)}) for step in range(1, 101)]
    folder = tasks.task(tmp_path / "run", [*flat, tasks.judged(100, 0.9, 600, whole=True)], tasks.described(["a"]), [])
    assert "plateau" in findings(folder)
    assert "underfitting" not in findings(folder)


# damage


@pytest.mark.parametrize("kind", ["classifier", "translator"])
def test_damaged_and_missing_files_still_make_a_page(tmp_path: Path, kind: str) -> None:
    folder = getattr(tasks, kind)(tmp_path / "run")
    whole = page_of(folder)[1].text("h1")
    path = folder / "predictions" / "validation.jsonl"
    good = path.read_text(encoding="utf-8").splitlines()
    odd: list[Any] = [
        "",
        "{",
        "[1]",
        "null",
        '{"label": 3, "predicted": "x"}',
        '{"text": "a", "target": null}',
        "[" * 9999,
    ]
    odd += ['{"label": "positive", "predicted": "positive", "probabilities": 7, "text": null}', "9" * 5000]
    odd += ['{"label": "positive", "predicted": "neutral", "probabilities": {"neutral": NaN}, "text": {}}']
    path.write_bytes("\n".join([*odd, *good]).encode() + b'\n{"label": "\xff\xfe", "predic')
    assert page_of(folder)[1].text("h1") == whole
    parts = {"train": {"labels": {"a": "x", "b": -1}, "characters": 3}, "validation": 2}
    simple = {"tfidf": 3, "majority": {"accuracy": "nan"}, "copy": {"bleu": None}}
    for broken in (
        {},
        {"labels": 3, "examples": [], "baselines": 4},
        {"labels": [None, 3], "examples": {"parts": [1]}},
        {"examples": {"parts": parts}, "baselines": simple},
        {"examples": {"overlaps": [3, {}, {"exact": 1}], "contradictory": "many", "parts": {}}},
    ):
        (folder / "manifest.json").write_text(json.dumps({"data": broken}), encoding="utf-8")
        assert page_of(folder)[1].text("h1").startswith(whole.split(" after")[0])
    path.write_text("", encoding="utf-8")
    assert "surest and wrong" not in page_of(folder)[0]
    path.unlink()
    (folder / "resolved.yaml").write_text(":\n -", encoding="utf-8")
    assert page_of(folder)[1].text("h1").startswith(whole.split(" after")[0])


def test_texts_and_names_cannot_become_markup(tmp_path: Path) -> None:
    labels = [HOSTILE, f"{HOSTILE}2"]
    said = {"id": HOSTILE, "text": HOSTILE, "predicted": labels[0], "probabilities": {labels[0]: 0.9}}
    lines = [{**said, "label": labels[i % 2]} for i in range(20)]
    about = tasks.described(labels)
    about["data"]["baselines"][HOSTILE] = {"accuracy": 0.3, "macro_f1": 0.1, "how": HOSTILE}
    about["data"]["examples"]["overlaps"][0] |= {"split": HOSTILE, "earlier": HOSTILE}
    classifier = tasks.task(tmp_path / "c", tasks.classified(lines), about, lines)
    writes = [{"id": "1", "text": HOSTILE, "target": HOSTILE, "greedy": HOSTILE, HOSTILE: HOSTILE} for _ in range(20)]
    log = tasks.written(writes)
    log[-1]["values"]["signature_bleu"] = HOSTILE
    translator = tasks.task(tmp_path / "s", log, tasks.described([]), writes)
    for runs in ([classifier], [translator], [classifier, translator]):
        html, page = page_of(*runs)
        assert not [attrs for name, attrs in page.seen if name == "img"]
        assert not [name for _, attrs in page.seen for name in attrs if name.startswith("on")]
        assert [attrs.get("type") for name, attrs in page.seen if name == "script"].count(None) == 1
        assert "\x00" not in html


def test_long_texts_are_cut_and_odd_ones_survive(tmp_path: Path) -> None:
    lines = tasks.guesses(2, examples=30, right=0.0)
    for entry in lines:
        entry["text"] = "long " * 100_000
    lines[0] |= {"text": "\ud83d half of a pair", "label": "negative", "predicted": "neutral"}
    lines[0]["probabilities"]["neutral"] = 1.0
    folder = tasks.task(tmp_path / "run", tasks.classified(lines), tasks.described(tasks.names(2)), [])
    path = folder / "predictions" / "validation.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines), encoding="utf-8")
    html, page = page_of(folder)
    assert "� half of a pair" in page.text("dd")
    assert len(html) < 300_000
    directions = [attrs.get("dir") for name, attrs in page.seen if name == "dd" and "dir" in attrs]
    assert set(directions) == {"auto"}


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    for kind in ("classifier", "translator"):
        folders = [getattr(tasks, kind)(tmp_path / where / kind) for where in ("a", "b")]
        first, second = (write_report([folder]).read_bytes() for folder in folders)
        assert first == second
        assert str(tmp_path).encode() not in first


# several runs, a terminal, a browser


def test_runs_of_one_task_are_ranked_by_it_and_those_of_different_ones_are_not(tmp_path: Path) -> None:
    first = tasks.classifier(tmp_path / "a", name="first")
    second = tasks.classifier(tmp_path / "b", name="second", right=0.9, seed=3)
    _, page = page_of(first, second)
    assert page.text("h1") == "second is ahead: accuracy 94.8 %, 4.5 points above first (90.3 %)."
    assert "second ends highest in accuracy on validation" in page.text("h3")
    assert "accuracy 90.3 % (87.7 to 92.4 %)" in page.text("td")
    close = tasks.classifier(tmp_path / "c", name="close", seed=5)
    assert "less than the uncertainty of either" in page_of(first, close)[1].text("h1")
    translator = tasks.translator(tmp_path / "s")
    language = write(tmp_path / "l", healthy(), manifest("language"))
    _, page = page_of(first, translator, language)
    verdict = "3 runs, without a ranking: their objectives differ (causal, classification, seq2seq)."
    assert page.text("h1") == verdict
    assert "ends lowest" not in page.text("h3")
    assert "ends highest" not in page.text("h3")
    assert "different objectives, so the lines do not compare" in page.text("h3")


def test_a_terminal_shows_the_matrix_where_it_fits() -> None:
    few = confusion(["bad", "good"], [[3, 1], [0, 4]])
    assert [" ".join(row.split()) for row in few] == ["is, called: bad good right", "bad 3 1 75 %", "good 4 100 %"]
    names = [f"a class of a long name, with number {i}" for i in range(12)]
    many = confusion(names, [[10] * 12] * 12)
    assert len(many) == 13
    assert max(map(cell_len, many)) <= 100
    assert many[0].split()[2:] == [*map(str, range(1, 13)), "right"]
    assert many[1].startswith("(1) a class of a long")
    assert confusion([str(i) for i in range(40)], [[10] * 40] * 40) == []
    assert cell_len(confusion(["数学" * 30, "x"], [[1, 0], [0, 1]])[1]) <= 100


def test_numbers_stand_out_from_their_cells_in_light_dark_and_print() -> None:
    css = (files("weft.report") / "style.css").read_text(encoding="utf-8")
    on_dark = re.findall(r"\.confusion :is\((.*?)\) \{ color: var\(--paper\)", css)[0].split(", ")
    for body in re.findall(r":root \{(.*?)\n\s*\}", css, re.DOTALL):
        theme = {"paper": "#ffffff", "ink": "#111111"} | dict(re.findall(r"--(\w+): (#\w{6})\b", body))
        for level in SHADES:
            ink = theme["paper" if f".q{level}" in on_dark else "ink"]
            light, dark = sorted((luminance(ink), luminance(theme[f"q{level}"])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, level


def test_bars_begin_at_zero_and_the_longest_is_the_largest_share() -> None:
    grid = bars(["a", "b"], [("train", "blue", [30, 10]), ("validation", "vermillion", [1, 1])])
    assert re.findall(r"width: ([\d.]+)%", grid) == ["100.00", "66.67", "33.33", "66.67"]


def test_tasks_are_known_by_what_they_validated(tmp_path: Path) -> None:
    for folder, objective, metric in (
        (tasks.classifier(tmp_path / "c"), "classification", ACCURACY),
        (tasks.translator(tmp_path / "s"), "seq2seq", BLEU),
        (write(tmp_path / "l", healthy()), "causal", BITS),
    ):
        task = task_of(Run.read(folder).log)
        assert (task.objective, task.metrics[0]) == (objective, metric)


def test_task_reports_live_in_a_browser(tmp_path: Path) -> None:
    browser = chromium()
    first = tasks.classifier(tmp_path / "c", 16)
    pages = (write_report([first]), write_report([tasks.translator(tmp_path / "s")]))
    for i, page in enumerate(pages):
        document, complaints = opened(browser, page, tmp_path / f"profile-{i}")
        assert 'data-ready="yes"' in document.split(">", 2)[1]
        assert not [text for text in complaints.splitlines() if "CONSOLE" in text]

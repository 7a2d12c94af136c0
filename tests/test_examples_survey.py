"""What is said of labelled data before training, and the baselines to beat: on data whose facts are known."""

from __future__ import annotations

import json
import random
import tracemalloc

import numpy as np
import pytest

from weft.data import task_baselines
from weft.data.examples_survey import Example, ExamplesSurvey, survey_examples
from weft.data.sketches import SIZE, Sketches, most_alike

WORDS = [f"word{number}" for number in range(500)]


def sentence(seed: int, words: int = 20) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def sketched(texts: list[str]) -> Sketches:
    sketches = Sketches()
    for text in texts:
        sketches.add(text)
    return sketches


# sketches


def test_likeness_is_exact_for_short_texts() -> None:
    base = sentence(0)
    changed = [*base[:-1], "new"]  # 1 of 20 words and 1 of 19 pairs
    others = [" ".join(words) for words in (sentence(1), changed, sentence(2))]
    likeness, nearest = most_alike(sketched([" ".join(base), "Quite other words here."]), sketched(others))
    shared = (len(set(base)) - 1) + 18
    assert likeness.tolist() == [shared / (shared + 4), 0.0]
    assert nearest.tolist() == [1, -1]


def test_case_punctuation_and_space_do_not_count() -> None:
    likeness, nearest = most_alike(sketched(["Trời  đẹp, quá!", "?!"]), sketched(["trời đẹp quá", "?!"]))
    assert likeness.tolist() == [1.0, 1.0]
    assert nearest.tolist() == [0, 1]


def test_likeness_of_long_texts_is_close() -> None:
    """Of 600 distinct words some at one end are others: the sketch holds 64 of about 1,200 hashes."""
    errors = []
    for changed in range(10, 170, 10):
        base = [f"term{number}" for number in range(600)]
        other = [*base[changed:], *(f"fresh{number}" for number in range(changed))]
        likeness, _ = most_alike(sketched([" ".join(base)]), sketched([" ".join(other)]))
        errors.append(likeness[0] - (600 - changed) / (600 + changed))
    assert len(sketched([" ".join(base)]).hashes(0)) == SIZE
    assert max(map(abs, errors)) < 0.19, "three standard errors of 64 hashes"
    assert abs(sum(errors) / len(errors)) < 0.06


def test_near_texts_are_found_among_many() -> None:
    texts = [sentence(seed, 25) for seed in range(2000)]
    changed = [[*words[:12], "new", *words[13:]] for words in texts[:200]]  # about 0.83 alike
    likeness, nearest = most_alike(
        sketched([" ".join(words) for words in changed]), sketched([" ".join(words) for words in texts])
    )
    assert (nearest == range(200)).mean() > 0.98
    assert 0.8 < likeness[nearest >= 0].min() < 0.9


# the survey


@pytest.fixture(scope="module")
def survey() -> ExamplesSurvey:
    twin = " ".join(sentence(3))
    near = " ".join([*sentence(4)[:-1], "new"])
    examples: list[Example] = [
        ("t1", "a b c", "yes", None, "train"),
        ("t2", " a b c\n", "no", None, "train"),
        ("t3", twin, "no", None, "train"),
        ("t4", " ".join(sentence(4)), "yes", None, "train"),
        ("t5", "x" * 30, "yes", None, "train"),
        ("v1", "a b c", "yes", None, "validation"),
        ("v2", twin, "yes", None, "validation"),
        ("v3", near, "yes", None, "validation"),
        ("v4", " \n", "maybe", None, "validation"),
    ]
    return survey_examples(examples)


def test_parts_are_counted(survey: ExamplesSurvey) -> None:
    train, validation = survey.parts["train"], survey.parts["validation"]
    assert (train.examples, train.empty, train.repeated) == (5, 0, 1)
    assert (validation.examples, validation.empty, validation.repeated) == (4, 1, 0)
    assert list(train.labels.items()) == [("yes", 3), ("no", 2)]
    assert (train.words.median, train.words.longest) == (3, 20)
    assert train.characters.median == 30
    assert train.target_words is None


def test_what_stands_in_both_parts(survey: ExamplesSurvey) -> None:
    (overlap,) = survey.overlaps
    assert (overlap.split, overlap.earlier, overlap.examples) == ("validation", "train", 4)
    assert (overlap.exact, overlap.near) == (2, 1)
    assert overlap.contradicted == 1, "a b c has the same label once, the twin never"
    assert overlap.shown == (("v1", "t1"), ("v2", "t3"), ("v3", "t4"))
    assert survey.contradictory == 2


def test_the_survey_as_lines_and_data(survey: ExamplesSurvey) -> None:
    lines = survey.lines()
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert " ".join(lines[1].split()) == "train 5 30 / 154 / 155 3 / 20 / 20"
    assert "yes 3 (60 %) 3 (75 %)" in text
    assert "maybe none 1 (25 %)" in text
    assert "of 4 texts 2 stand in train, too (1 with another label), and 1 nearly: 75 % (v1 = t1; v2 = t3" in text
    assert "validation: class maybe of which train has no example" in text
    assert "texts with more than one label, in all splits together: 2" in text
    assert "validation: 1 of 4 texts are empty" in text
    assert max(map(len, lines[:8])) <= 100
    data = json.loads(json.dumps(survey.as_dict()))
    assert data["overlaps"][0]["shown"][2] == ["v3", "t4"]
    assert data["parts"]["train"]["characters"]["longest"] == 155


def test_pairs_are_surveyed_by_their_sources() -> None:
    examples: list[Example] = [
        ("v1", "Go.", None, "Đi.", "validation"),
        ("v2", "Run!", None, " ", "validation"),
        ("t1", "Go.", None, "Đi đi.", "train"),
        ("t2", "Go.", None, "Hãy đi.", "train"),
    ]
    survey = survey_examples(examples)
    assert list(survey.parts) == ["train", "validation"], "train comes first whichever is read first"
    assert survey.parts["validation"].empty_targets == 1
    lengths = survey.parts["train"].target_words
    assert lengths is not None
    assert lengths.longest == 2
    (overlap,) = survey.overlaps
    assert (overlap.exact, overlap.contradicted) == (1, 1)
    assert survey.contradictory == 1
    assert any("with another target" in line for line in survey.lines())


def test_nothing_to_survey() -> None:
    survey = survey_examples([])
    assert survey.parts == {}
    assert survey.lines() == ["median / 90 % / longest  examples  characters  words"]


def test_clean_data_have_no_warnings_and_many_classes_few_lines() -> None:
    examples = [(str(n), " ".join(sentence(n)), f"class{n % 40}", None, ("train", "test")[n > 350]) for n in range(400)]
    lines = survey_examples(examples).lines()
    assert len(lines) == 3 + 1 + 1 + 20 + 1
    assert lines[-1].startswith("20 more")


def test_texts_are_not_kept() -> None:
    def examples(number: int) -> list[Example]:
        return [(str(n), " ".join(sentence(n, 400)), "x", None, "train") for n in range(number)]

    made = examples(150)  # half a megabyte of text
    tracemalloc.start()
    survey_examples(made)
    current, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert current < 100_000
    assert peak < 250_000


# baselines


def test_majority() -> None:
    found = task_baselines.majority(["a", "b", "a"], ["a", "b", "b", "b"])
    assert found["accuracy"] == 0.25
    assert found["macro_f1"] == pytest.approx((0.4 + 0.0) / 2)


def test_counted_words_tell_classes_apart() -> None:
    def examples(seed: int, number: int) -> tuple[list[str], list[str]]:
        draw = random.Random(seed)
        labels = [draw.choice("abc") for _ in range(number)]
        return [f"{' '.join(draw.choices(WORDS, k=8))} sign{label}" for label in labels], labels

    train, test = examples(0, 300), examples(1, 100)
    found = task_baselines.tf_idf(*train, *test)
    assert found["accuracy"] > 0.95
    assert found["macro_f1"] > 0.95
    assert found == task_baselines.tf_idf(*train, *test), "nothing is left to chance"
    shuffled = random.Random(2).sample(train[1], len(train[1]))
    assert task_baselines.tf_idf(train[0], shuffled, *test)["accuracy"] < 0.6


def test_rare_classes_get_weight_where_that_is_right_more_often() -> None:
    """Each class has its own words; without weights 12 examples of 300 are outvoted."""
    texts = [f"common{n % 7} {' '.join(sentence(n, 12))}" for n in range(288)]
    texts += [f"rare{n // 4} {' '.join(sentence(1000 + n, 12))}" for n in range(12)]
    labels = ["common"] * 288 + ["rare"] * 12
    new = [f"rare{n % 3} {' '.join(sentence(2000 + n, 12))}" for n in range(9)]
    assert task_baselines.tf_idf(texts, labels, new, ["rare"] * 9)["accuracy"] > 0.8


def test_baselines_where_there_is_nothing_to_learn() -> None:
    assert task_baselines.tf_idf(["a b", "c d"], ["x", "x"], ["a"], ["x"])["accuracy"] == 1.0
    assert task_baselines.tf_idf(["?", "!"], ["x", "y"], ["?"], ["x"])["accuracy"] == 1.0
    assert task_baselines.tf_idf(["a", "b"], ["x", "y"], ["a"], ["x"])["examples"] == 1


def test_baselines_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"sign{n % 2} " + "long " * 300_000 for n in range(20)]
    labels = [str(n // 3 % 2) for n in range(20)]
    monkeypatch.setattr(task_baselines, "TEXT", 10_000)
    found = task_baselines.tf_idf(texts, labels, texts, labels)
    assert found["examples"] == 10, "every other one: 20 times the first 1,000 characters are twice the bound"
    monkeypatch.setattr(task_baselines, "EXAMPLES", 5)
    assert task_baselines.tf_idf(texts, labels, texts, labels)["examples"] == 5


def test_the_source_copied() -> None:
    sources = ["the cat sat on the mat", "a dog ran over the hill today"]
    assert task_baselines.copied(sources, sources) == {"bleu": pytest.approx(100.0), "chrf": pytest.approx(100.0)}
    other = task_baselines.copied(sources, ["con mèo ngồi trên chiếu", "hôm nay con chó chạy qua đồi"])
    assert other["bleu"] < 5
    assert 0 < other["chrf"] < 25


def test_few_examples_are_fitted_through_their_products() -> None:
    """What is said is what the regression on the features themselves says."""
    lot = np.random.default_rng(0)
    y_N = lot.integers(3, size=90)
    x_NF = (lot.normal(size=(90, 400)) + 0.3 * np.eye(3, 400)[y_N]).astype(np.float32)
    x_NF[80:], y_N[80:] = x_NF[:10], y_N[:10]  # some twice
    x_MF = lot.normal(size=(50, 400)).astype(np.float32)
    for weight in (None, "balanced"):
        direct = task_baselines._fitted(x_NF, y_N, weight).predict(x_MF)
        assert (task_baselines._told(x_NF @ x_NF.T, y_N, weight, x_MF @ x_NF.T) == direct).mean() > 0.95
        assert len(set(direct)) == 3

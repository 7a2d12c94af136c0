"""What a timing study found, from its blocks' folders alone: ratios with intervals, growth with its exponents."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import numpy as np

from weft.errors import WeftError
from weft.runs.atomic import write_text
from weft.runs.folder import read_json, to_json
from weft.studies.comparing import Comparison, compare
from weft.studies.scores import CorpusScores
from weft.studies.verdicts import Interval, Question, Verdict, digits_of

if TYPE_CHECKING:
    from weft.studies.timing import Block, TimingStudy

FORMAT = 1
BUSY = 0.1
"""A share of the cores that others kept busy from which on the figures are not to be trusted."""
UNTESTED = "not tested on its hardware"


@dataclass(frozen=True)
class Exponent:
    """p of y = c n^p: the slope of a straight line through the logarithms, with its 95 % interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95

    def words(self) -> str:
        """`1.98 (1.95 to 2.01)`."""
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def exponent(lengths: Sequence[float], values: Sequence[float]) -> Exponent:
    """By least squares; the interval is Student's, from how far the points lie off the line.

    Raises WeftError for fewer than 3 lengths.
    """
    from scipy import stats

    if len(lengths) < 3:
        raise WeftError(f"lengths: {len(lengths)} say nothing about how well a straight line fits; at least 3")
    line = stats.linregress(np.log(lengths), np.log(values))
    half = float(stats.t.ppf(0.975, len(lengths) - 2) * line.stderr)
    return Exponent(float(line.slope), float(line.slope) - half, float(line.slope) + half)


def findings(
    study: TimingStudy,
    raw: Mapping[str, Any],
    blocks: Sequence[Block],
    store: Path,
    looks: Sequence[Sequence[int]],
    quick: bool,
    command: str,
) -> dict[str, Any]:
    """Everything that is known, as plain data; a pure function of the blocks' folders."""
    from weft.studies.attention_ways import WAYS

    timings = [read_json(store / block.name / "timings.json") for block in blocks]
    manifest = read_json(store / blocks[0].name / "manifest.json")
    passes = blocks[0].setting.passes()
    told, problem = list[dict[str, Any]](), None
    try:
        for turn in passes:
            scores = CorpusScores(study.ways, tuple(range(study.blocks)), _logarithms(study, timings, turn))
            asked = Question("log seconds", "lower", study.compared_with, _log(study.margin), study.alpha)
            told += [_told(one, asked, turn, len(passes)) for one in compare(scores, asked)]
    except WeftError as error:
        problem = f"untested: {error}"
    results = {
        "format": FORMAT,
        "kind": "timing",
        "study": study.name,
        "quick": quick,
        "question": study.question(),
        "setting": {name: getattr(study, name) for name in ("batch", "n_heads", "width", "tokens", "window", "backward",
                                                            "repetitions", "blocks", "scaled_repetitions")},
        "seeds": list(range(study.blocks)),
        "looks": [list(look) for look in looks],
        "passes": list(passes),
        "arms": {name: _arm(name, WAYS[name].words, passes, timings) for name in study.ways},
        "comparisons": told,
        "problem": problem,
        "scaling": _scaling(study, {name: WAYS[name].words for name in study.scaled}, passes[-1], timings),
        "cells": [{"seed": one.setting.block, "folder": f"cells/{one.name}", "state": "finished"} for one in blocks],
        "machine": manifest["machine"],
        "versions": manifest["versions"],
        "others": [one["others"] for one in timings],
        "off_by": {name: max(one["off_by"][name] for one in timings) for name in timings[0]["off_by"]},
        "declared": dict(raw),
        "command": command,
    }  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(results))
    return plain


def _log(ratio: float | None) -> float | None:
    return None if ratio is None else math.log(ratio)


def _logarithms(study: TimingStudy, timings: Sequence[Mapping[str, Any]], turn: str) -> Any:
    """The logarithm of each way's median time in each block, arms x seeds."""
    return np.log([[median(one["layers"][turn][way]) for one in timings] for way in study.ways])


def _told(one: Comparison, asked: Question, turn: str, families: int) -> dict[str, Any]:
    """A comparison as a ratio: how many times as fast as the baseline.

    Holm's correction is over the ways of one pass; with several passes each of its p-values counts as often.
    """
    p = min(1.0, families * one.p_holm)
    p_equivalence = None if one.p_equivalence is None else min(1.0, families * one.p_equivalence)
    ends = one.interval
    ratio = Interval(math.exp(-ends.high), math.exp(-ends.low), ends.confidence, "over blocks")
    fields = asdict(one) | {"p_holm": p, "p_equivalence": p_equivalence}
    verdict = one.verdict if one.verdict.kind == "untested" else _judged(one, asked, ratio, p, p_equivalence)
    verdict = Verdict(verdict.kind, f"{turn}: {verdict.words}", verdict.more_seeds)
    return {"pass": turn, "ratio": math.exp(-one.effect), "ratio_interval": asdict(ratio), **fields,
            "verdict": asdict(verdict)}  # fmt: skip


def _judged(one: Comparison, asked: Question, ratio: Interval, p: float, p_equivalence: float | None) -> Verdict:
    """The verdict in ratios."""
    said = times(math.exp(-one.effect), ratio.low, ratio.high)
    if p_equivalence is not None and p_equivalence <= asked.alpha:
        assert asked.margin is not None, "without a margin nothing is called equivalent"
        return Verdict("equivalent", f"as fast within {100 * math.expm1(asked.margin):.0f} %: measured {said}")
    if p <= asked.alpha:
        return Verdict("better" if one.effect < 0 else "worse", said)
    more = one.verdict.more_seeds
    outlook = f"about {more} more block{'s' * (more > 1)} would tell" if more else "more blocks would be needed"
    return Verdict("undecided", f"undecided: {outlook}; measured {said}", more)


def times(ratio: float, low: float, high: float, against: str = "") -> str:
    """`1.7 times as fast (1.6 to 1.8)`; what takes longer is so many times as slow."""
    amount, ends = _figures(ratio, low, high)
    return f"{amount} times as {_how(ratio)}{against and f' as {against}'} ({ends})"


def _how(ratio: float) -> str:
    return "fast" if ratio >= 1 else "slow"


def _figures(ratio: float, low: float, high: float) -> tuple[str, str]:
    """A ratio and its interval, with one or two decimals."""
    if ratio < 1:
        ratio, low, high = 1 / ratio, 1 / high, 1 / low
    digits = max(1, min(2, digits_of(Interval(low, high, 0.95, "")) - 1))
    return f"{ratio:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def _arm(name: str, words: str, passes: Sequence[str], timings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What is known of a way in each pass: seconds a block and in all, bytes, what ran."""
    found = {}
    for turn in passes:
        seconds = [one["layers"][turn][name] for one in timings]
        every = [value for block in seconds for value in block]
        tenths = quantiles(every, n=10, method="inclusive")
        found[turn] = {
            "scores": [median(block) for block in seconds],
            "median": median(median(block) for block in seconds),
            "tenth": tenths[0],
            "ninth": tenths[-1],
            "repetitions": len(every),
            "bytes": max(one["memory"]["layers"][turn][name] for one in timings),
            "ran": timings[0]["ran"][turn][name],
        }
    return {"words": words, "passes": found}


def _scaling(
    study: TimingStudy, words: Mapping[str, str], turn: str, timings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Each way's seconds and bytes at each length, and how they grow."""
    ways = {}
    for name in study.scaled:
        places = [str(length) for length in study.lengths]
        seconds = [median(median(one["scaling"][place][name]) for one in timings) for place in places]
        held = [max(one["memory"]["scaling"][place][name] for one in timings) for place in places]
        ways[name] = {
            "words": words[name],
            "seconds": seconds,
            "bytes": held,
            "time_exponent": asdict(exponent(study.lengths, seconds)),
            "memory_exponent": asdict(exponent(study.lengths, held)),
        }
    return {"pass": turn, "lengths": list(study.lengths), "ways": ways}


def verdict(results: Mapping[str, Any]) -> str:
    """The study in one sentence: the claimed way (else the fastest) against the baseline, here; what was said of it."""
    if results["problem"]:
        return f"Nothing can be told: {results['problem']}."
    return " ".join(sentence for sentence in (finding(results), claimed(results)) if sentence)


def finding(results: Mapping[str, Any]) -> str:
    """What was measured of the way that the study is about."""
    leading, parts = lead(results), []
    for one in leading:
        amount, ends = _figures(one["ratio"], one["ratio_interval"]["low"], one["ratio_interval"]["high"])
        against = f" as {one['baseline']}" if one is leading[0] else ""
        note = f", {one['verdict']['kind']}" if one["verdict"]["kind"] in ("undecided", "untested") else ""
        parts.append(f"{amount} times as {_how(one['ratio'])}{against} {one['pass']} ({ends}{note})")
    return f"On this CPU {leading[0]['arm']} is {' and '.join(parts)}."


def claimed(results: Mapping[str, Any]) -> str:
    """What was said of it elsewhere, and where the measurement lies beside that; empty where nothing was."""
    claim = results["question"]["claim"]
    if not claim:
        return ""
    where = f", of {claim['hardware']}" if claim["hardware"] else ""
    here = _beside(claim["ratio"], lead(results))
    untested = f"; {UNTESTED}" if claim["hardware"] else ""
    return f"Claimed{where}: about {claim['ratio']:g} times; here {here}{untested}."


def _beside(claimed: float, leading: Sequence[Mapping[str, Any]]) -> str:
    """Where the intervals lie beside what was claimed."""
    words = {}
    for one in leading:
        ends = one["ratio_interval"]
        words[one["pass"]] = "more" if ends["low"] > claimed else "less" if ends["high"] < claimed else "about that"
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{word} {turn}" for turn, word in words.items())


def lead(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The comparisons that the study is about: of the claimed way, or of the fastest."""
    claim, told = results["question"]["claim"], results["comparisons"]
    name = claim["way"] if claim else max(told, key=lambda one: one["ratio"])["arm"]
    return [one for one in told if one["arm"] == name]


def busy(results: Mapping[str, Any]) -> str:
    """A warning where other processes had much of the machine; empty where they had not."""
    shares = [share for share in results["others"] if share is not None]
    if not shares or max(shares) < BUSY:
        return ""
    return (
        f"Other processes kept up to {100 * max(shares):.0f} % of the cores busy while this was measured:"
        " its figures are not to be trusted; run it again on an idle machine."
    )


def write_results(folder: Path, results: dict[str, Any]) -> list[str]:
    """Write results.json, report.md and report.html, and return what a terminal should say."""
    from weft.report.terminal import table
    from weft.studies.timing_page import SPREAD, rows

    write_text(folder / "results.json", to_json(results))
    page = write_pages(folder, results)
    heads, lines = rows(results)
    shown = [[cell for i, cell in enumerate(line) if i != SPREAD] for line in (heads, *lines)]
    warning = [busy(results)] if busy(results) else []
    return ["", verdict(results), *warning, "", table(shown[0], shown[1:]), "", f"report: {page}"]


def write_pages(folder: Path, results: Mapping[str, Any]) -> Path:
    """Write report.md and report.html; the same results give the same bytes. Returns where the page is."""
    from weft.studies.timing_page import html, markdown

    write_text(folder / "report.md", markdown(results))
    write_text(folder / "report.html", html(results))
    return folder / "report.html"

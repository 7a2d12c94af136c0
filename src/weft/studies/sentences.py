"""What a study's results say, in words: for its page, its Markdown and its tables alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from weft.report.formats import significant
from weft.studies.verdicts import Interval, digits_of

Results = Mapping[str, Any]
"""What `findings` made, or results.json holds."""

NAMES = {
    "bits_per_byte": "bits per byte", "loss": "loss, nats", "macro_f1": "macro F1", "bleu": "BLEU", "chrf": "chrF",
    "seconds": "seconds a cell", "flops": "training FLOPs", "peak_memory": "peak memory, bytes",
}  # fmt: skip
SHARES = ("accuracy", "macro_f1")
"""Metrics from 0 to 1."""
UNDECLARED = "not declared"
DECIDED = ("better", "worse", "equivalent")
AMBIGUOUS = frozenset(
    ["none", "no", "all", "any", "both", "either", "neither", "off", "on", "with", "without", "better", "worse"]
)
FEW = 4
LONG = 48
"""So many arms, and their names in so many characters, are named in a sentence; more are counted."""


def metric_of(results: Results) -> str:
    """validation bits per byte."""
    return metric_words(str(results["question"]["metric"]["name"]))


def metric_words(path: str) -> str:
    """The same of SPLIT/NAME."""
    split, _, name = path.partition("/")
    return " ".join([split] * (split != "cost") + [NAMES.get(name, name.replace("_", " "))])


def called(arm: str) -> str:
    """An arm's name within a sentence, in quotes where it would be read as a part of it."""
    return f"“{arm}”" if arm.lower() in AMBIGUOUS or " " in arm else arm


def against(results: Results) -> str:
    """What arms are compared with, within a sentence."""
    if results["question"].get("ladder"):
        return "the arm before"
    return called(str(results["question"]["baseline"]))


def row_name(one: Mapping[str, Any], results: Results) -> str:
    """A comparison's name in a picture or list: the arm, and where it varies what it is compared with."""
    return f"{one['arm']} − {one['baseline']}" if results["question"].get("ladder") else str(one["arm"])


def unit_note(results: Results) -> str:
    """What a difference of this metric is counted in, where that is often taken for something else."""
    if str(results["question"]["metric"]["name"]).rpartition("/")[2] in SHARES:
        return "Shares of 1: a difference of 0.01 is one percentage point."
    return ""


def claimed(claim: str | None) -> str:
    """What is taught, or asked, as a sentence of its own; empty where nothing is."""
    text = " ".join((claim or "").split())
    return text if not text or text.startswith(("Taught", "Our")) else f"Claim: {text}"


def question(results: Results, code: str = "`") -> str:
    """What was asked, before a cell ran."""
    asked = results["question"]
    metric = asked["metric"]
    margin = f"; differences below {metric['margin']:g} do not matter" if metric["margin"] else ""
    base = "the one before it" if asked.get("ladder") else f"{code}{asked['baseline']}{code}"
    return (
        f"Which arm is better than {base} in {code}{metric['name']}{code}"
        f" ({metric['better']} is better{margin})? Seeds {', '.join(map(str, results['seeds']))};"
        f" held equal: {', '.join(asked['equal']) or 'nothing'}."
    )


def verdicts(results: Results) -> list[str]:
    """One sentence for each arm."""
    if results["problem"]:
        return [results["problem"]]
    metric = results["question"]["metric"]["name"]
    return [
        f"{one['arm']} against {one['baseline']}, {metric}: {one['verdict']['words']}" for one in results["comparisons"]
    ]


def summary(results: Results) -> str:
    """The study in one sentence."""
    if results["problem"]:
        return f"Nothing was tested: {str(results['problem']).removeprefix('untested: ')}."
    told, base, metric = results["comparisons"], against(results), metric_of(results)
    if len(told) == 1:
        return _of_one(told[0], called(told[0]["baseline"]), metric)
    by_kind = {kind: [one["arm"] for one in told if one["verdict"]["kind"] == kind] for kind in (*DECIDED, "undecided")}
    by_kind["untested"] = [one["arm"] for one in told if one["verdict"]["kind"] == "untested"]
    if len(by_kind["undecided"]) == len(told):
        return f"In {metric}, none of {len(told)} arms is shown to differ from {base}: all are undecided."
    words = {
        "better": f"better than {base}", "worse": f"worse than {base}", "equivalent": f"equivalent to {base}",
        "undecided": "undecided", "untested": "untested",
    }  # fmt: skip
    parts = [
        f"{_names(arms)} {'is' if len(arms) == 1 else 'are'} {words[kind]}" for kind, arms in by_kind.items() if arms
    ]
    return f"In {metric}, {listed(parts)}."


def _of_one(one: Mapping[str, Any], base: str, metric: str) -> str:
    arm, kind, words = called(one["arm"]), one["verdict"]["kind"], str(one["verdict"]["words"])
    if kind in ("better", "worse"):
        return f"{arm} is {kind} than {base} in {metric}: {words.partition(' ')[2]}."
    if kind == "equivalent":
        return f"{arm} is equivalent to {base} in {metric}, {words.removeprefix('equivalent ')}."
    if kind == "undecided":
        return f"Whether {arm} is better than {base} in {metric} is undecided: {words.removeprefix('undecided: ')}."
    return f"{arm} could not be tested against {base}: {words.removeprefix('untested: ')}."


def _names(arms: Sequence[str]) -> str:
    text = listed([called(arm) for arm in arms])
    return text if len(arms) <= FEW and len(text) <= LONG else f"{len(arms)} arm{'s' * (len(arms) > 1)}"


def listed(parts: Sequence[str], last: str = "and") -> str:
    """One, another and a third."""
    return f" {last} ".join([*([", ".join(parts[:-1])] if len(parts) > 1 else []), *parts[-1:]])


def leading(results: Results) -> Mapping[str, Any] | None:
    """The comparison that a page leads with: the largest gain that stands; else what is decided, else the largest."""
    sign = 1 if results["question"]["metric"]["better"] == "higher" else -1
    known = [one for one in results["comparisons"] if one["effect"] is not None and one["interval"]["low"] is not None]
    order = ("better", "worse", "equivalent", "undecided", "untested")

    def rank(one: Mapping[str, Any]) -> tuple[int, float]:
        kind = one["verdict"]["kind"]
        return order.index(kind), -sign * one["effect"] if kind == "better" else -abs(one["effect"])

    return min(known, key=rank, default=None)


def difference(one: Mapping[str, Any]) -> str:
    """An estimate as its interval's digits allow it, with its sign: −0.037."""
    return f"{one['effect']:+.{_digits(one)}f}".replace("-", "−")


def ends(one: Mapping[str, Any], interval: Mapping[str, Any] | None = None) -> str:
    """The ends of its interval, or of another one of it: −0.061 to −0.012."""
    between, digits = interval or one["interval"], _digits(one)
    return f"{between['low']:+.{digits}f} to {between['high']:+.{digits}f}".replace("-", "−")


def gain(one: Mapping[str, Any], results: Results) -> str:
    """better by 0.037, or worse; whatever the verdict."""
    better = (one["effect"] > 0) == (results["question"]["metric"]["better"] == "higher")
    return f"{'better' if better else 'worse'} by {abs(one['effect']):.{_digits(one)}f}"


def short_verdict(one: Mapping[str, Any], results: Results) -> str:
    """The verdict in two or three words."""
    kind = str(one["verdict"]["kind"])
    return gain(one, results) if kind in ("better", "worse") else kind


def _digits(one: Mapping[str, Any]) -> int:
    between = one["interval"]
    return digits_of(Interval(between["low"], between["high"], between["confidence"], ""))


def confidence(results: Results) -> str:
    """95 %."""
    return f"{100 * (1 - results['question']['metric']['alpha']):g} %"


def shown(value: float | None, digits: int = 4) -> str:
    """A number, or nothing."""
    return "" if value is None else significant(value, digits)


def statistics(one: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How a verdict came about: names and values."""
    parts = [("method", one["method"]), ("seeds", str(one["seeds"]))]
    parts += [("p", shown(one["p"], 2)), ("p after Holm", shown(one["p_holm"], 2))]
    if one["p_equivalence"] is not None:
        parts.append(("p of equivalence", shown(one["p_equivalence"], 2)))
    if one["seeds"] > 2 and one["correlation"] and one["correlation"]["value"] is not None:
        r, between = one["correlation"]["value"], one["correlation"]["interval"]
        known = between and None not in (between["low"], between["high"])
        more = f" ({between['low']:.2f} to {between['high']:.2f})" if known else ""
        parts.append(("correlation of the arms over seeds", f"{r:.2f}{more}"))
    if one["on_this_test_set"]:
        parts.append(("on this test set (seeds alone)", ends(one, one["on_this_test_set"])))
    if one["sign_flip"] is not None:
        parts.append(("p of the sign-flip test", shown(one["sign_flip"], 2)))
    if one["bootstrap"]:
        parts.append(("bootstrap over seeds", ends(one, one["bootstrap"])))
    if one["missing"]:
        parts.append(("without seeds", f"{', '.join(map(str, one['missing']))}, where a cell failed"))
    return [(name, value) for name, value in parts if value]


def choices(results: Results) -> list[str]:
    """Why these statistics, and what they do not say."""
    items, level = results["items"], confidence(results)
    count = len(results["comparisons"])
    holm = f"are of one comparison alone; verdicts stand after Holm over all {count} of them"
    random = f"the seeds and the {items} examples of the validation text" if items else "the seeds alone"
    said = [
        f"Random are {random}; data, split, and all that is held equal are fixed: what is found holds for them.",
        f"Intervals ({level}) {holm if count > 1 else 'and verdict are of the only comparison'}.",
        "Metric, direction, baseline and margin were declared before a cell ran; a later change is a new study.",
    ]
    if not items:
        said.insert(1, "Paired t over seeds where the arms' measured correlation is positive, else Welch's.")
    if results["question"]["metric"]["margin"] is None:
        said.append("No margin was declared, so no arm can be called equivalent.")
    warnings = (results.get("data") or {}).get("warnings") or "none"
    if warnings != "none":
        said.append(f"Of the data: {'; '.join(warnings) if isinstance(warnings, list) else warnings}.")
    if len(results["looks"]) > 1:
        seen = ", then ".join(str(len(look)) for look in results["looks"])
        said.append(
            f"Results were seen more than once ({seen} seeds): a second look errs more often than the level says."
        )
    return said


def notes_on(arm: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What else is known of an arm's recipe: what was adjusted, swept, not declared."""
    notes = []
    if arm["adjusted"]:
        notes.append(("adjusted, to be of equal size", str(arm["adjusted"])))
    if arm["undeclared"]:
        notes.append((UNDECLARED, "; ".join(arm["undeclared"])))
    if swept := arm["swept"]:
        end = ", at the end of what was tried: a wider sweep may find a better one" if swept["at_the_end"] else ""
        chosen = f"{swept['value']}, chosen on the validation text with seeds of its own"
        notes.append((f"its own {swept['path']}", f"{chosen}{end}"))
    return notes


def command(cell: Mapping[str, Any]) -> str:
    """What repeats a cell."""
    return f"weft train studies/{cell['folder']}/recipe.yaml"


def cell_rows(results: Results) -> list[tuple[Mapping[str, Any], float | None]]:
    """Each cell with its score."""
    return [
        (cell, results["arms"][cell["arm"]]["scores"][results["seeds"].index(cell["seed"])])
        for cell in results["cells"]
    ]


def reuse(results: Results) -> str:
    """How many cells were there before the study was."""
    cells = results["cells"]
    reused, failed = (sum(map(bool, found)) for found in (
        [cell.get("reused") for cell in cells], [cell["state"] == "failed" for cell in cells]
    ))  # fmt: skip
    words = [f"{reused} of {len(cells)} cells were there before this study and were reused"] * bool(reused)
    words += [f"{failed} of {len(cells)} cells failed"] * bool(failed)
    return f"{'; '.join(words) or f'All {len(cells)} cells were run for this study'}."


def law(results: Results) -> str:
    """The power law through the arms, or why there is none; empty where none was asked for."""
    found = results.get("law")
    if not found:
        return ""
    said = found.get("words") or f"could not be fitted: {str(found.get('problem')).removeprefix('law: ')}"
    return f"The law: {metric_of(results)} {said}."


def failed_cells(results: Results) -> list[tuple[str, str]]:
    """Cells that failed, by arm and reason: (wild, seeds 0 and 1; the loss is nan)."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell in results["cells"]:
        if cell["state"] == "failed":
            found.setdefault((cell["arm"], str(cell["reason"])), []).append(str(cell["seed"]))
    return [(f"{arm}, seed{'s' * (len(seeds) > 1)} {listed(seeds)}", reason) for (arm, reason), seeds in found.items()]


def across(parts: Sequence[tuple[str, Results]]) -> tuple[list[str], list[list[str]]]:
    """Verdicts of arms in several settings: the headers, and a row for each arm that several settings have."""
    told = [(setting, results, {one["arm"]: one for one in results["comparisons"]}) for setting, results in parts]
    names = list(dict.fromkeys(arm for _, _, found in told for arm in found))
    rows = [
        [arm, *(short_verdict(found[arm], results) if arm in found else "" for _, results, found in told)]
        for arm in names
        if sum(arm in found for _, _, found in told) > 1
    ]
    return ["arm", *(setting for setting, _ in parts)], rows


def failures(results: Results, arm: str) -> str:
    """How many cells of an arm failed, and why."""
    cells = [cell for cell in results["cells"] if cell["arm"] == arm]
    reasons = [str(cell["reason"]) for cell in cells if cell["state"] == "failed"]
    if not reasons:
        return ""
    return f"{len(reasons)} of its {len(cells)} cells failed: {'; '.join(dict.fromkeys(reasons))}"


def pareto(results: Results, cost: str = "flops", clock: bool = False) -> set[str]:
    """Arms than which no other is at least as good for at most as much, and better in one of the two."""
    sign = 1 if results["question"]["metric"]["better"] == "lower" else -1
    points = {name: (sign * mean, spent) for name, mean, spent in costs(results, cost, clock)}

    def beaten(one: tuple[float, float]) -> bool:
        return any(other[0] <= one[0] and other[1] <= one[1] and other != one for other in points.values())

    return {name for name, point in points.items() if not beaten(point)}


def costs(results: Results, cost: str, clock: bool = False) -> list[tuple[str, float, float]]:
    """Arms whose quality and cost are known, with both."""
    spent = results["clock"] if clock else results["arms"]
    known: Iterable[tuple[str, Any, Any]] = (
        (name, arm["mean"], spent[name].get(cost)) for name, arm in results["arms"].items()
    )
    return [(name, mean, amount) for name, mean, amount in known if mean is not None and amount is not None]

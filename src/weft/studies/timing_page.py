"""A timing study's page, as HTML and as Markdown: what is faster and by how much, how it grows, how we know."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weft.config import yaml
from weft.report.formats import significant, size
from weft.report.markup import Markup, join, tag
from weft.report.page import facts, figure, flatten, fold, page, prose, section, table
from weft.report.ratios import Ratio, Ratios, ratio_figure
from weft.report.svg import PALETTE, Chart, Series
from weft.studies.timing_outcome import UNTESTED, Exponent, busy, claimed, finding, lead, times, verdict

Results = Mapping[str, Any]
SPREAD = 3
"""The column that a terminal has no room for."""
SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def html(results: Results) -> str:
    """The page; the same results give the same bytes."""
    quick = ["quick look"] if results["quick"] else []
    body: list[Any] = [
        tag("p", " · ".join(["weft timing study", results["study"], *quick]), class_="kicker"),
        tag("h1", prose(verdict(results) if results["problem"] else finding(results))),
    ]
    if claimed(results) and not results["problem"]:
        text = results["question"]["claim"]["text"].removesuffix(".")
        body.append(tag("p", prose(f"“{text}.” {claimed(results)}"), class_="lead"))
    if busy(results):
        body.append(tag("p", tag("b", "Warning. "), prose(busy(results)), class_="lead"))
    if not results["problem"]:
        body += [_headline(results), ratio_figure(_ratios(results))]
    scaling = results["scaling"]["ways"]
    words = _list(f"{name}: {arm['words']}" for name, arm in results["arms"].items())
    body += [
        section("As the text grows", *(figure(chart) for chart in growth(results))) if scaling else "",
        section("Every way", *_passes(results), words),
        section("What ran", tag("p", prose(RAN), class_="lead"), facts(_operations(results))),
        section("How it was measured", _list(measured(results))),
        section("Again", tag("pre", results["command"]), *_raw(results)),
    ]  # fmt: skip
    footer = "Drawn from the study's results alone; the same results give the same page."
    return page(f"{results['study']} · weft timing study", [part for part in body if part], footer)


RAN = "Operations of torch by their share of the time that they took themselves in one profiled run; below 4 % unnamed."


def markdown(results: Results) -> str:
    """The same in Markdown, pictures as tables."""
    lines = [f"# {results['study']}", ""]
    if results["quick"]:
        lines += ["A quick look, not the study: fewer repetitions, shorter lengths.", ""]
    lines += [f"**{verdict(results)}**", ""]
    if busy(results):
        lines += [f"**Warning.** {busy(results)}", ""]
    lines += [*_table(*rows(results)), *(f"- `{name}`: {arm['words']}" for name, arm in results["arms"].items()), ""]
    if results["scaling"]["ways"]:
        lines += ["## As the text grows", "", f"The attention alone, {results['scaling']['pass']}.", ""]
        lines += [*_table(*_exponents(results)), *_table(*_lengths(results))]
    lines += ["## What ran", "", RAN, "", *_table(*ran(results)), "## How it was measured", ""]
    lines += [*(f"- {line}" for line in measured(results)), "", "## Again", "", "```", results["command"], "```", ""]
    named = flatten({"machine": results["machine"], "versions": results["versions"]})
    return "\n".join([*lines, "## Machine", "", *_table(["", ""], [list(pair) for pair in named])])


def rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Every way in every pass: time, spread, ratio, interval, memory."""
    told = {(one["pass"], one["arm"]): one for one in results["comparisons"]}
    confidence = 100 * (1 - results["question"]["metric"]["alpha"])
    heads = ["way", "pass", "median", "4 in 5 within", "times as fast", f"{confidence:g} %", "p (Holm)", "memory"]
    lines = []
    for turn in results["passes"]:
        for name, arm in results["arms"].items():
            found, one = arm["passes"][turn], told.get((turn, name))
            ends = one["ratio_interval"] if one else None
            known = one is not None and ends is not None and math.isfinite(one["p_holm"])
            lines.append([
                name, turn, time(found["median"]), f"{time(found['tenth'])} to {time(found['ninth'])}",
                f"{one['ratio']:.2f}" if one else "1",
                f"{ends['low']:.2f} to {ends['high']:.2f}" if ends else "baseline",
                significant(one["p_holm"], 2) if one and known else "", size(found["bytes"]),
            ])  # fmt: skip
    return heads, lines


def ran(results: Results) -> tuple[list[str], list[list[str]]]:
    """Which operations a way came down to."""
    lines = [
        [name, turn, ", ".join(f"{operation.removeprefix('aten::')} {100 * share:.0f} %" for operation, share in
                               arm["passes"][turn]["ran"])]
        for name, arm in results["arms"].items()
        for turn in results["passes"]
    ]  # fmt: skip
    return ["way", "pass", "operations"], lines


def _passes(results: Results) -> list[Markup]:
    """A table for each pass."""
    heads, lines = rows(results)
    found: list[Markup] = []
    for turn in results["passes"]:
        shown = [[line[0], *line[2:]] for line in lines if line[1] == turn]
        found.append(
            tag("div", tag("h3", turn), table([heads[0], *heads[2:]], shown), class_="lengths" if found else None)
        )
    return found


def _operations(results: Results) -> list[tuple[str, str]]:
    _, lines = ran(results)
    return [(f"{name}, {turn}", prose(operations)) for name, turn, operations in lines]


def time(seconds: float) -> str:
    """12.3 ms."""
    factor, unit = next((pair for pair in SECONDS if seconds >= pair[0]), SECONDS[-1])
    return f"{significant(seconds / factor)} {unit}"


def measured(results: Results) -> list[str]:
    """How the figures came about, a sentence each."""
    asked, claim = results["setting"], results["question"]["claim"]
    machine, versions = results["machine"], results["versions"]
    off = max(results["off_by"].values())
    shares = [share for share in results["others"] if share is not None]
    training = "; forward + backward: with the gradients of input and matrices, as in training" * asked["backward"]
    others = f"Other processes kept at most {100 * max(shares):.0f} % of the cores busy." if shares else ""
    said = [
        f"One layer of causal self-attention with the same four matrices for all ways: {asked['batch']} x"
        f" {asked['tokens']} tokens, {asked['n_heads']} heads of {asked['width']} channels, float32.",
        f"On {machine['processor'] or 'a CPU'}, {machine['threads']} threads, no GPU; torch {versions['torch']}, Python"
        f" {versions['python']}. {others}",
        "Before anything was timed, every way's output and gradients were compared with the formula in float64: off by"
        f" at most {off:.1g} of the largest value.",
        f"{asked['repetitions']:,} repetitions of each way in {asked['blocks']} processes, one at a time. In each round"
        " all ways take their turn once, in an order drawn anew; what is freed is kept for the next tensor, as a GPU's"
        " allocator does.",
        f"forward: without gradients, as in use{training}.",
        "A process's figure is the median of its repetitions; the interval is of the ratio over processes"
        f" ({_methods(results)}). p-values are Holm's over the ways{_doubled(results)}.",
        "memory: the most bytes that one run's tensors hold at once beside its input and matrices, by torch's account"
        " of what it allocates; what libraries hold for themselves is not in it.",
    ]  # fmt: skip
    if results["scaling"]["ways"]:
        said.append(
            f"Growth: the attention alone, from queries, keys and values on, {results['scaling']['pass']},"
            f" {asked['scaled_repetitions']} repetitions at each length. The exponent is the slope of a straight line"
            " through the logarithms, its 95 % interval from how far the points lie off that line."
        )
    if "window" in results["scaling"]["ways"]:
        said.append(f"window: each query sees {asked['window']} keys, which is less work and another function.")
    if claim and claim["hardware"]:
        said.append(f"The claim is of {claim['hardware']}, which was not there: {UNTESTED}.")
    if len(results["looks"]) > 1:
        seen = ", then ".join(str(len(look)) for look in results["looks"])
        said.append(
            f"Results were seen more than once ({seen} blocks): a second look errs more often than its level says."
        )
    return said


def _methods(results: Results) -> str:
    names = [one["method"].split(" over ")[0] for one in results["comparisons"]] or ["untested"]
    return " or ".join(dict.fromkeys(names)) + " of log seconds"


def _doubled(results: Results) -> str:
    count = len(results["passes"])
    return f", times {count} for the {count} passes" if count > 1 else ""


def _headline(results: Results) -> Markup:
    """The ratio that the study is about, its interval, what was claimed, what it took."""
    leading, claim, asked = lead(results), results["question"]["claim"], results["setting"]
    items = []
    for one in leading:
        first, ends = one is leading[0], one["ratio_interval"]
        shown = f"{one['ratio']:.2f}" + (" times" if first else f" ({ends['low']:.2f} to {ends['high']:.2f})")
        items.append((f"as fast as {one['baseline']}, {one['pass']}", shown, "first" if first else None))
        if first:
            level = f"{100 * ends['confidence']:g} % interval"
            items.append((level, f"{ends['low']:.2f} to {ends['high']:.2f}", None))
    if claim:
        where = f", on {claim['hardware']}" if claim["hardware"] else ""
        items.append((f"claimed{where}", f"about {claim['ratio']:g}", None))
    machine = results["machine"]
    items.append(("measured on", f"{machine['processor'] or 'a CPU'}, {machine['threads']} threads, no GPU", None))
    items.append(("repetitions", f"{asked['repetitions']:,} in {asked['blocks']} processes", None))
    drawn = [tag("div", tag("dt", name), tag("dd", prose(value)), class_=kind) for name, value, kind in items]
    return tag("dl", join(drawn), class_="headline")


def colors(results: Results) -> dict[str, str]:
    """One colour a way in every picture, the baseline grey."""
    others = [name for name in dict.fromkeys([*results["arms"], *results["scaling"]["ways"]])
              if name != results["question"]["baseline"]]  # fmt: skip
    return {results["question"]["baseline"]: "muted"} | {
        name: PALETTE[number % len(PALETTE)] for number, name in enumerate(others)
    }


def _ratios(results: Results) -> Ratios:
    """All comparisons as intervals."""
    claim, margin, shades = results["question"]["claim"], results["question"]["metric"]["margin"], colors(results)
    lines = [
        Ratio(one["pass"], one["arm"], one["ratio"], one["ratio_interval"]["low"], one["ratio_interval"]["high"],
              shades[one["arm"]])
        for one in sorted(results["comparisons"], key=lambda one: (results["passes"].index(one["pass"]), -one["ratio"]))
        if math.isfinite(one["ratio_interval"]["low"])
    ]  # fmt: skip
    best = max(lines, key=lambda line: line.value)
    baseline, asked = results["question"]["baseline"], results["setting"]
    title = f"No way is surely faster than {baseline}"
    if best.low > 1:
        title = f"{best.name} is fastest: {times(best.value, best.low, best.high, baseline)}, {best.group}"
    inside = f"; grey: within {100 * (margin - 1):.0f} %, which does not matter" if margin else ""
    subtitle = f"Times as fast as {baseline} at {asked['tokens']} tokens, with 95 % intervals over processes{inside}"
    marks = {f"claimed: {claim['ratio']:g}": float(claim["ratio"])} if claim else {}
    return Ratios(title, subtitle, f"times as fast as {baseline}", lines, margin, marks)


def growth(results: Results) -> list[Chart]:
    """Time and memory against the number of tokens, on log axes, the exponents at the lines' ends."""
    found, shades = results["scaling"], colors(results)
    lengths = found["lengths"]
    doubled = [n for n in lengths if math.log2(n / lengths[0]).is_integer()]
    ticks = doubled if len(doubled) > 2 else lengths
    kinds = (("seconds", "time", 1e3, "milliseconds", "ms"), ("bytes", "memory", 1e-6, "megabytes", "MB"))
    charts = []
    for key, name, factor, unit, short in kinds:
        powers = {way: Exponent(**one[f"{name}_exponent"]) for way, one in found["ways"].items()}
        series = [
            Series(
                f"{way} n^{powers[way].value:.2f}",
                [(float(n), factor * y) for n, y in zip(lengths, one[key], strict=True)],
                shades[way],
                "dots",
                f"{way} n^{powers[way].value:.1f}",
            )
            for way, one in found["ways"].items()
        ]
        grows = ", ".join(f"{way} as n^{power.value:.2f}" for way, power in powers.items())
        fitted = "; ".join(f"{way} {power.words()}" for way, power in powers.items())
        charts.append(
            Chart(
                f"{name.capitalize()} grows: {grows}", series, "tokens n", unit, y_log=True, x_log=True, x_ticks=ticks,
                subtitle=f"The attention alone, {found['pass']}, against the number of tokens n",
                caption=f"Fitted exponents with 95 % intervals: {fitted}.",
                show=lambda y, short=short: f"{significant(y)} {short}",  # type: ignore[misc]
            )
        )  # fmt: skip
    return charts


def _exponents(results: Results) -> tuple[list[str], list[list[str]]]:
    lines = [
        [way, Exponent(**one["time_exponent"]).words(), Exponent(**one["memory_exponent"]).words(), one["words"]]
        for way, one in results["scaling"]["ways"].items()
    ]
    return ["way", "time grows as n to the", "memory as n to the", ""], lines


def _lengths(results: Results) -> tuple[list[str], list[list[str]]]:
    ways = results["scaling"]["ways"]
    lines = [
        [f"{length:,}", *(f"{time(one['seconds'][i])}, {size(one['bytes'][i])}" for one in ways.values())]
        for i, length in enumerate(results["scaling"]["lengths"])
    ]
    return ["tokens", *ways], lines


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines)] + [""]


def _list(sentences: Any) -> Markup:
    return tag("ul", join(tag("li", prose(sentence)) for sentence in sentences), class_="plain")


def _raw(results: Results) -> list[Markup]:
    """Declaration, machine, blocks: folded."""
    cells = [(f"block {cell['seed'] + 1}", cell["folder"]) for cell in results["cells"]]
    return [
        fold("Declaration", tag("pre", yaml.dump(results["declared"])), raw=True),
        fold("Machine and versions", facts(flatten({**results["machine"], **results["versions"]})), raw=True),
        fold("How far each is from the formula in float64", facts(flatten(dict(results["off_by"]))), raw=True),
        fold("Blocks", facts(cells), raw=True),
    ]

"""A study's results for other programs: `results.csv`, a row a cell, and `results.tex`, a table for a paper."""

from __future__ import annotations

import csv
import io
import re

from weft.report.formats import count, significant
from weft.studies.sentences import Results, cell_rows, command, confidence, difference, ends, metric_of

COLUMNS = (
    "study", "setting", "arm", "seed", "metric", "score", "state", "reason", "reused", "baseline", "mean", "difference",
    "low", "high", "confidence", "p", "p_holm", "verdict", "parameters", "steps", "tokens", "flops", "repeat",
)  # fmt: skip
ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip


def csv_table(results: Results) -> str:
    """A row a cell, with what is known of its arm; numbers in full, nothing where nothing is known."""
    effects = {one["arm"]: one for one in results["comparisons"]}
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for cell, score in cell_rows(results):
        arm, one = results["arms"][cell["arm"]], effects.get(cell["arm"])
        row = {
            "study": results["study"], "setting": results.get("setting"), "arm": cell["arm"], "seed": cell["seed"],
            "metric": results["question"]["metric"]["name"], "score": score, "state": cell["state"],
            "reason": cell.get("reason"), "reused": "yes" if cell.get("reused") else "no",
            "baseline": results["question"]["baseline"],
            **{name: arm[name] for name in ("mean", "parameters", "steps", "tokens", "flops")},
            "repeat": command(cell) if cell.get("repeatable", True) else None,
        }  # fmt: skip
        if one:
            row |= {
                "difference": one["effect"], **{name: one["interval"][name] for name in ("low", "high", "confidence")},
                "p": one["p"], "p_holm": one["p_holm"], "verdict": one["verdict"]["words"],
            }  # fmt: skip
        writer.writerow(row)
    return out.getvalue()


def latex_table(results: Results) -> str:
    """A table of the arms, in the manner of booktabs."""
    effects = {one["arm"]: one for one in results["comparisons"]}
    metric, base = results["question"]["metric"], results["question"]["baseline"]
    lines = []
    for name, arm in results["arms"].items():
        one = effects.get(name)
        known = one is not None and one["effect"] is not None and one["interval"]["low"] is not None
        cells = [
            escaped(name),
            _number(significant(arm["mean"], 4)) if arm["mean"] is not None else "",
            _number(difference(one)) if known and one else "",
            f"[{_ends(ends(one))}]" if known and one else "",
            escaped(count(arm["parameters"])),
            _number(significant(arm["flops"], 3)) if arm["flops"] is not None else "",
            escaped(one["verdict"]["kind"]) if one else "baseline",
        ]
        lines.append(f"    {' & '.join(cells)} \\\\")
    seeds = len(results["seeds"])
    caption = (
        f"{metric_of(results)} ({metric['better']} is better), means over {seeds} seeds; differences from {base} with"
        f" {confidence(results)} intervals; verdicts after Holm."
    )
    heads = ["arm", "mean", "difference", f"{confidence(results)} interval", "parameters", "training FLOPs", "verdict"]
    label = re.sub(r"[^A-Za-z0-9:-]+", "-", str(results["study"]))
    return "\n".join([
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"  \centering",
        f"  \\caption{{{escaped(caption)}}}",
        f"  \\label{{tab:{label}}}",
        r"  \begin{tabular}{lrrrrrl}",
        r"    \toprule",
        f"    {' & '.join(map(escaped, heads))} \\\\",
        r"    \midrule",
        *lines,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
        "",
    ])  # fmt: skip


def escaped(text: str) -> str:
    """The text as LaTeX prints it."""
    plain = "".join(character if character.isprintable() else " " for character in " ".join(text.split()))
    return "".join(ESCAPES.get(character, character) for character in plain)


def _number(text: str) -> str:
    """A number with a minus that is one."""
    mantissa, _, power = text.replace(",", r"\,").replace("−", "-").partition("e")
    return f"${mantissa}\\times 10^{{{int(power)}}}$" if power else f"${mantissa}$"


def _ends(text: str) -> str:
    low, _, high = text.partition(" to ")
    return f"{_number(low)}, {_number(high)}"

"""All benchmarks, one after the other, into docs/performance.md and its picture.

    python benchmarks/all.py [--quick] [--text tinyshakespeare/input.txt] [--only train,data] [--write]

`--quick` ends within ten minutes, whatever happens: a benchmark that takes longer than its share, and than what those
before it left of theirs, is stopped, and what it had found until then is kept. Without `--write` the documents stay as
they are, results lie in benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from picture import Bar, Panel, draw

HERE = Path(__file__).resolve().parent
DOCUMENT, PICTURE = HERE.parent / "docs" / "performance.md", HERE.parent / "docs" / "performance.svg"
WHOLE = 590
"""Seconds of a quick run."""


@dataclass(frozen=True)
class Script:
    """One benchmark: seconds that it may take, quick and in full; whether it can be told so, and needs a text."""

    name: str
    quick: int
    full: int
    paced: bool = True
    needs_text: bool = False


SCRIPTS = (
    Script("train", 235, 3600),
    Script("attention", 105, 1200, paced=False),
    Script("data", 110, 1800),
    Script("time_to_quality", 140, 7200, paced=False, needs_text=True),
)

LEFT_OUT = "left out"
"""How the problem begins of a benchmark that lacks what it needs: nothing of it changes."""


def run(script: Script, quick: bool, seconds: float, text: Path | None, folder: Path) -> str | None:
    """Run one benchmark into `folder`; what is wrong with its result, or None."""
    target = folder / f"{script.name}.json"
    path = HERE / f"{script.name}.py"
    if not path.exists():
        return "there is no such benchmark yet"
    if script.needs_text and text is None:
        return f"{LEFT_OUT}: give its text with --text"
    target.unlink(missing_ok=True)
    command = [sys.executable, str(path), *([str(text)] if script.needs_text else []), "--json", str(target)]
    command += ["--quick"] * quick
    if script.paced:
        command += ["--seconds", str(int(0.9 * seconds))]
    began = time.monotonic()
    with subprocess.Popen(command, start_new_session=os.name == "posix") as process:  # a group, to be ended as a whole
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            end(process)
            return f"stopped after {seconds:.0f} s"
        except BaseException:
            end(process)
            raise
    print(f"[{script.name}: {time.monotonic() - began:.0f} s]\n", flush=True)
    return f"failed with exit code {code}" if code else None


def quick_seconds(script: Script, names: Sequence[str], passed: float) -> float:
    """How long a benchmark of a quick run may take: its share, and where it cannot be told a time all that is left."""
    later = SCRIPTS[SCRIPTS.index(script) + 1 :]
    left = WHOLE - passed - sum(other.quick for other in later if other.name in names)
    return max(1.0, min(script.quick, WHOLE - passed) if script.paced else left)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark and the processes that it started."""
    if os.name == "posix":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def section(found: dict[str, Any] | None, problem: str | None) -> str:
    """A benchmark's findings and tables in Markdown."""
    lines = [f"*{problem}.*"] if problem else []
    for part in parts_of(found or {}):
        if part.get("finding"):
            lines.append(f"**{part['finding']}**")
        if part.get("table"):
            head, *rows = part["table"]
            body = [" | ".join(map(str, row)) for row in (head, ["---"] + ["---:"] * (len(head) - 1), *rows)]
            lines.append("\n".join(f"| {line} |" for line in body))
    return "\n\n".join(lines) or "*not measured.*"


def parts_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each `finding` and `table` of a result; a result without them shows its rows as they are."""
    parts = [found, *found.get("workloads", {}).values()]
    shown = [part for part in parts if part.get("finding") or part.get("table")]
    if not shown and found.get("rows"):
        keys = list(found["rows"][0])
        shown = [{"table": [keys, *([plain(row.get(key)) for key in keys] for row in found["rows"])]}]
    return shown


def plain(value: object) -> str:
    """A cell of a row that was made for machines."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def describe(machine: dict[str, Any]) -> str:
    """Machine and versions in one line."""
    versions = ", ".join(f"{name} {found}" for name, found in machine["versions"].items() if found)
    return (
        f"{machine['processor']} ({machine['system']}), {machine['cores']} cores, {machine['threads']} threads,"
        f" {machine['memory_gib']} GiB; Python {machine['python']}, {versions}."
    )


def fill(text: str, name: str, content: str) -> str:
    """The text with what stands between its markers of that name replaced.

    Raises ValueError when it has no such markers.
    """
    begin, finish = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(finish)
    if not (found and ended):
        raise ValueError(f"{DOCUMENT.name} has no {begin} ... {finish}")
    return f"{before}{begin}\n{content}\n{finish}{after}"


def panels(results: dict[str, Any]) -> list[Panel]:
    """What the picture shows: the speeds of a training step, and of tokenising."""
    found = []
    for work in results.get("train", {}).get("workloads", {}).values():
        bars = [
            Bar(row["system"], row["tokens_per_second"], f"{row['tokens_per_second']:,.0f}", row["low"], row["high"])
            for row in work["rows"]
        ]
        found.append(Panel(work["finding"], "training, tokens a second (median, and range)", bars))
    if rows := results.get("data", {}).get("rows"):
        rates = [(row, row["megabytes_per_second"]) for row in rows]
        bars = [Bar(row["system"], rate, f"{rate:.1f}", row["low"], row["high"]) for row, rate in rates]
        title = results["data"]["finding"].partition(";")[0]
        found.append(Panel(title, "tokenising, MB a second (median, and range)", bars))
    return found


def stored(folder: Path) -> dict[str, Any]:
    """Results that lie in `folder`, by their benchmark."""
    paths = {script.name: folder / f"{script.name}.json" for script in SCRIPTS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def write(found: dict[str, Any], problems: dict[str, str | None], quick: bool) -> None:
    """Tables and picture into the documents, of what was found in this run and before.

    What was not measured now stays as it is on the page; the picture shows of it what is from this machine.
    """
    text = DOCUMENT.read_text(encoding="utf-8")
    asked = {name: problem for name, problem in problems.items() if not (problem or "").startswith(LEFT_OUT)}
    here = next((found[name]["machine"] for name in asked if "machine" in found.get(name, {})), None)
    if here:
        how = " Measured by `make bench-quick`: ranges are wide." if quick else " Measured by `make bench`."
        text = fill(text, "machine", time.strftime("%Y-%m-%d: ") + describe(here) + how)
    for name, problem in asked.items():
        text = fill(text, name, section(found.get(name), problem))
    DOCUMENT.write_text(text, encoding="utf-8")
    shown = panels({name: one for name, one in found.items() if one.get("machine") == here})
    if shown:
        PICTURE.write_text(draw(shown), encoding="utf-8")


def main() -> int:
    """Run what was asked for; exit code 1 when something failed."""
    options_of = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_of.add_argument("--quick", action="store_true", help="ten minutes in all")
    options_of.add_argument("--text", type=Path, help="tiny Shakespeare, for time_to_quality")
    options_of.add_argument("--only", help="some of them, between commas")
    options_of.add_argument("--write", action="store_true", help="write docs/performance.md and its picture")
    options_of.add_argument("--results", type=Path, default=HERE / "results", help="where results lie")
    options = options_of.parse_args()
    names = options.only.split(",") if options.only else [script.name for script in SCRIPTS]
    options.results.mkdir(parents=True, exist_ok=True)
    started, problems = time.monotonic(), {}
    for script in SCRIPTS:
        if script.name not in names:
            continue
        seconds = quick_seconds(script, names, time.monotonic() - started) if options.quick else float(script.full)
        problems[script.name] = run(script, options.quick, seconds, options.text, options.results)
    for name, problem in problems.items():
        if problem:
            print(f"{name}: {problem}")
    if options.write:
        write(stored(options.results), problems, options.quick)
    print(f"{time.monotonic() - started:.0f} s in all")
    return int(any(problem and not problem.startswith(LEFT_OUT) for problem in problems.values()))


if __name__ == "__main__":
    sys.exit(main())

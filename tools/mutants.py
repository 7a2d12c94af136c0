"""Plants faults into a copy of weft, one after the other: the tests must catch each (`make mutants`).

A test that never fails proves nothing. Each mutant (`faults.py` has the list) names the test that must fail on it, with
an assertion of that test: an error elsewhere would be noticed by anything. The checkout is never touched. `--write`
writes the list into docs/mutants.md, `--only NAME` runs one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from faults import MUTANTS, Mutant, StaleError

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutants.md"
LIMIT = 300
"""Seconds after which a test counts as hanging."""


# Running


class Outcome(NamedTuple):
    """What a test said of a mutant: what it asserted in vain, or why that does not count; and the seconds it took."""

    mutant: Mutant
    caught: bool
    said: str
    seconds: float


class Copy:
    """A copy of the source and the tests, in which faults are planted one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def python(self, *arguments: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        """A Python that imports weft from here. What it prints on either stream comes back as one."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        variables |= {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=variables, text=True, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit, check=False,
        )  # fmt: skip

    def pytest(self, *arguments: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        """pytest with these arguments, up to the first failure, which it tells in a line: `path:line: AssertionError`.

        Of the project's own arguments none: no processes beside this one.
        """
        quiet = ("-o", "addopts=", "-p", "no:cacheprovider", "--tb=line", "-x", "-q")
        return self.python("-m", "pytest", *quiet, *arguments, limit=limit)

    def check(self, tests: Sequence[str]) -> None:
        """Raises StaleError unless weft is imported from here, and every test is there and passes without a fault."""
        where = "import importlib.util; print(importlib.util.find_spec('weft').origin)"
        found = self.python("-c", where).stdout.strip()
        if self.folder.resolve() not in Path(found).resolve().parents:
            raise StaleError(f"not the copy's weft is imported: {found}")
        done = self.pytest(*(f"tests/{test}" for test in tests))
        if done.returncode:
            raise StaleError(f"without any fault these tests should pass:\n{done.stdout}")

    def test(self, mutant: Mutant) -> Outcome:
        """Plants the fault, runs its test, and takes the fault out again."""
        path, began = self.folder / "src" / "weft" / mutant.file, time.monotonic()
        sound, planted = path.read_text("utf-8"), mutant.planted(self.folder / "src")
        try:
            self._write(path, planted)
            done = self.pytest(f"tests/{mutant.test}", limit=LIMIT)
            caught, said = verdict(done.returncode, done.stdout)
        except subprocess.TimeoutExpired:
            caught, said = False, f"its test runs longer than {LIMIT} seconds"
        finally:
            self._write(path, sound)
        return Outcome(mutant, caught, said, time.monotonic() - began)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Write the file; what Python compiled of it before may look as new and as long as this."""
        path.write_text(text, "utf-8", newline="\n")
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def verdict(code: int, output: str) -> tuple[bool, str]:
    """Whether a test failed as it should, with an assertion of its own or of `weft.checking`; and what it said."""
    if code == 0:
        return False, "SURVIVED: its test passes"
    lines = re.findall(r"^(.+?\.py):\d+: (.+)$", output, re.MULTILINE)
    path, said = lines[0] if lines else ("", output.strip()[-300:])
    asserted = re.match(r"assert\b|AssertionError|Failed\b|[\w.]+\.PropertyError\b", said)
    own = "src/weft/" not in Path(path).as_posix() or "src/weft/checking/" in Path(path).as_posix()
    if code == 1 and asserted and own:
        return True, said
    return False, f"no assertion of the test, which ended with exit code {code}: {said}"


def hunt(mutants: Sequence[Mutant], folder: Path, jobs: int) -> list[Outcome]:
    """What the tests say of each mutant, `jobs` at a time, each in a copy of its own; a line of progress for each.

    Raises StaleError, before the first fault, where one has no place in the code or a test fails without any.
    """
    for mutant in mutants:
        mutant.planted(ROOT / "src")
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for number in range(jobs):
        copies.put(Copy(folder / str(number)))
    tests, began = list(dict.fromkeys(mutant.test for mutant in mutants)), time.monotonic()
    copy = copies.get()
    copy.check(tests)
    copies.put(copy)
    print(f"without a fault all of {len(tests)} tests pass ({time.monotonic() - began:.1f} s)", flush=True)

    def test(mutant: Mutant) -> Outcome:
        copy = copies.get()
        try:
            outcome = copy.test(mutant)
        finally:
            copies.put(copy)
        print(f"{mutant.name}: {outcome.said} ({outcome.seconds:.1f} s)", flush=True)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(test, mutants))


# Telling


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each mutant: caught or not, seconds, name, the test that should catch it."""
    longest = max(len(outcome.mutant.name) for outcome in outcomes)
    return "\n".join(
        f"{'caught' if caught else 'MISSED'}  {seconds:5.1f} s  {mutant.name:{longest}}  {mutant.test}"
        for mutant, caught, _, seconds in outcomes
    )


def page() -> str:
    """docs/mutants.md: every planted fault and the test that catches it."""
    rows = [(m.fault, f"`{m.file}`", code(m.old), code(m.new), f"`{m.test}`", f"`{m.name}`") for m in MUTANTS]
    lines = ["fault | in | instead of | stands | caught by | name", " | ".join(["---"] * 6)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return HEAD.format(count=len(MUTANTS)) + "".join(f"| {line} |\n" for line in lines)


def code(text: str) -> str:
    """Code in one line of Markdown."""
    return f"`{' '.join(text.split())}`"


HEAD = """# Planted faults

A test that cannot fail proves nothing. `make mutants` plants {count} faults into a copy of weft, one after the other:
the kind that leaves a model running and its loss falling. Each must be caught by the test that is named beside it, with
an assertion: not by an error that anything would notice. One that survives ends it with exit code 1, and so does one
whose place in the code is gone. `tools/mutants.py --write` makes this page, and a test sees that it is up to date.

```console
$ make mutants
$ make mutants ARGS="--only causal-shifted"
```

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the mutants that are asked for; 1 where one is missed or stale."""
    parser = argparse.ArgumentParser(description="plant faults into a copy of weft; the tests must catch each")
    parser.add_argument("--only", action="append", metavar="NAME", choices=[mutant.name for mutant in MUTANTS])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time")
    parser.add_argument("--write", action="store_true", help="write the list into docs/mutants.md, and run none")
    asked = parser.parse_args(argv)
    if asked.write:
        PAGE.write_text(page(), "utf-8", newline="\n")
        return 0
    chosen = [mutant for mutant in MUTANTS if asked.only is None or mutant.name in asked.only]
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="weft-mutants-") as folder:
            outcomes = hunt(chosen, Path(folder), min(asked.jobs, len(chosen)))
    except StaleError as error:
        print(error, file=sys.stderr)
        return 1
    missed = [outcome for outcome in outcomes if not outcome.caught]
    print(f"\n{table(outcomes)}\n{len(outcomes) - len(missed)} of {len(outcomes)} caught", end="")
    print(f" in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

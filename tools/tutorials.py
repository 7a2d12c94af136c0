"""Run the pages of docs/tutorials and compare what their code prints with what they say; --write makes them say it.

    python tools/tutorials.py [--write] [PAGE ...]

The code of a page runs from top to bottom in one process, block after block; a block of text right below one of code is
what that prints.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "tutorials"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<said>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
RUN = """
import contextlib, io, json, sys
space = {"__name__": "tutorial"}
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "<tutorial>", "exec"), space)
    printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def printed(page: Path) -> list[str]:
    """What each block of code prints."""
    codes = [found["code"] for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(codes), env=environment, capture_output=True, text=True,
        encoding="utf-8", timeout=300, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{page.name}: its code fails\n{done.stderr}")
    found: list[str] = json.loads(done.stdout)
    return found


def filled(page: Path, outputs: list[str]) -> str:
    """The page with these outputs below its blocks of code."""
    rest = iter(outputs)

    def block(found: re.Match[str]) -> str:
        output = next(rest)
        below = f"\n```text\n{output}```\n" if output else ""
        return f"```python\n{found['code']}```\n{below}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def main() -> int:
    """Compare or write; 1 where a page says something else than its code prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="all of docs/tutorials unless given")
    parser.add_argument("--write", action="store_true", help="make the pages say what their code prints")
    options = parser.parse_args()
    stale = []
    for page in options.pages or sorted(FOLDER.glob("*.md")):
        text = filled(page, printed(page))
        if text != page.read_text(encoding="utf-8"):
            stale.append(page.name)
            if options.write:
                page.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'written' if options.write else 'not what the code prints'}: {', '.join(stale)}")
    return 1 if stale and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())

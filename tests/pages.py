"""Pages as a test reads them, and as a real browser does."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest

HOSTILE = "</script><script>document.documentElement.dataset.owned = 1</script><img src=x onerror=alert(1)>\x00\x1b[31m"


class Outline(HTMLParser):
    """Checks that every element is closed where it should be, and collects what a test asks about."""

    void = frozenset({"meta", "link", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def text(self, tag: str) -> str:
        return " ".join(self.texts.get(tag, [])).replace("\xa0", " ")


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
    mac = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    found = next(filter(None, map(shutil.which, names)), None) or (mac if Path(mac).exists() else None)
    if not found:
        message = "NO CHROMIUM FOUND: the reports were not opened in a browser (looked for " + ", ".join(names) + ")"
        warnings.warn(message, stacklevel=2)
        pytest.skip(message)
    return found


def opened(browser: str, page: Path, profile: Path) -> tuple[str, str]:
    """The page's document after its script ran, and what the browser complained of."""
    quiet = ["background-networking", "component-update", "sync", "gpu", "quic"]
    command = [browser, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    command += [f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    return done.stdout.decode("utf-8"), done.stderr.decode("utf-8", errors="replace")

"""tools/setup.py in an empty project, and a machine that stands in for the commands which it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "setup.py"
Setup = ModuleType
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


class Machine:
    """Stands in for the commands that setup.py runs: venv and pip leave what the real ones leave, in small."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.calls: list[list[str]] = []
        self.variables: list[dict[str, str]] = []
        self.fails: dict[str, int] = {}

    def call(self, argv: list[str], variables: dict[str, str]) -> int:
        self.calls.append(argv)
        self.variables.append(variables)
        words = " ".join(argv)
        code = next((code for part, code in self.fails.items() if part in words), 0)
        if "-m venv" in words:
            write(Path(self.setup.program("python")), self.setup.running_version())
            if not code:
                self.package("pip")
        elif "-m pip install" in words and not code:
            self.package("torch")
        elif "report" in argv:
            write(self.setup.ROOT / argv[-1] / "report.html", "<html>")
        return code

    def package(self, name: str) -> None:
        site = self.setup.site_packages()
        write(site / name / "__init__.py", "x = 1\n")
        write(
            site / f"{name}-1.0.dist-info" / "RECORD", f"{name}/__init__.py,sha256=0,6\n{name}-1.0.dist-info/RECORD,,\n"
        )

    def did(self) -> list[str]:
        """What was run since the last look, each in a word or two."""
        names = {"-m venv": "venv", ".[dev]": "pip dev", "-e .": "pip", "--index-url": "pip torch"}
        done = [next((name for part, name in names.items() if part in " ".join(argv)), "?") for argv in self.calls]
        self.calls.clear()
        return done


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def version_in(python: str) -> str | None:
    """The stand-in for running a Python: its file holds its version."""
    return Path(python).read_text("utf-8") if Path(python).is_file() else None


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("weft_setup", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def project(folder: Path, monkeypatch: Patch) -> Setup:
    """setup.py for a project that lies in this folder."""
    module = load()
    monkeypatch.setattr(module, "ROOT", folder)
    monkeypatch.delenv("WEFT_TORCH_INDEX", raising=False)
    write(folder / "pyproject.toml", "[project]\n")
    write(folder / "constraints.txt", "torch==1\n")
    return module


def pretend(setup: Setup, monkeypatch: Patch) -> Machine:
    """A machine that stands in for what this setup.py would run."""
    fake = Machine(setup)
    monkeypatch.setattr(setup, "call", fake.call)
    monkeypatch.setattr(setup, "version_of", version_in)
    monkeypatch.setattr(setup, "lacks_nvidia", lambda: False)
    return fake

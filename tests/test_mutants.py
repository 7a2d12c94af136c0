"""tools/mutants.py: the planted faults have their places and their tests, and one that is missed is told."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    spec = importlib.util.spec_from_file_location("weft_mutants", ROOT / "tools" / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        spec.loader.exec_module(module)
    return module


def test_every_fault_has_its_place(mutants: ModuleType) -> None:
    assert len(mutants.MUTANTS) >= 25
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS)
    for mutant in mutants.MUTANTS:
        assert mutant.planted(ROOT / "src") != (ROOT / "src" / "weft" / mutant.file).read_text("utf-8")


def test_every_fault_has_its_test(mutants: ModuleType) -> None:
    for mutant in mutants.MUTANTS:
        file, _, name = mutant.test.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text("utf-8"))
        held = {item.name for item in tree.body if isinstance(item, ast.FunctionDef)}
        assert name.partition("[")[0] in held, mutant.test


def test_the_page_is_up_to_date(mutants: ModuleType) -> None:
    assert mutants.PAGE.read_text("utf-8") == mutants.page(), "make it anew: tools/mutants.py --write"


def test_a_fault_whose_place_is_gone_is_named(mutants: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = mutants.MUTANTS[0]
    for change, message in (
        ({"old": "there is no such line"}, "has 0 times, not once: there is no such line"),
        ({"old": "return"}, "times, not once: return"),
        ({"file": "nn/gone.py"}, r"src/weft/nn/gone\.py has 0 times"),
        ({"new": "("}, "no Python any more"),
    ):
        with pytest.raises(mutants.StaleError, match=f"{sound.name}: .*{message}"):
            sound._replace(**change).planted(ROOT / "src")
    monkeypatch.setattr(mutants, "MUTANTS", [sound._replace(old="there is no such line")])
    assert mutants.main([]) == 1


@pytest.mark.parametrize(
    ("code", "output", "caught"),
    [
        (0, "1 passed", False),
        (1, "/copy/tests/properties.py:7: AssertionError: off by 0.3 of the largest value", True),
        (1, "/copy/tests/test_nn.py:7: assert 1 == 2", True),
        (1, "/copy/tests/test_nn.py:7: Failed: DID NOT RAISE WeftError", True),
        (1, "/site-packages/torch/testing/_comparison.py:7: AssertionError: Tensor-likes are not close!", True),
        (1, "/copy/src/weft/nn/cache.py:7: AssertionError: nothing was written", False),
        (1, "/copy/tests/test_nn.py:7: RuntimeError: shapes do not match", False),
        (2, "/copy/src/weft/nn/cache.py:7: ImportError: no such name", False),
        (4, "ERROR: not found: tests/test_nn.py::test_gone", False),
    ],
)
def test_only_an_assertion_of_the_test_counts(mutants: ModuleType, code: int, output: str, caught: bool) -> None:
    found, said = mutants.verdict(code, f"FFF\n=== FAILURES ===\n{output}\n1 failed in 0.1s\n")
    assert found is caught
    if code:
        assert output.partition(": ")[2] in said


@pytest.mark.slow
def test_one_is_caught_for_real(mutants: ModuleType, capsys: Capture) -> None:
    """In a copy, with the sound test first."""
    name = "alibi-wrong-head"
    (mutant,) = [mutant for mutant in mutants.MUTANTS if mutant.name == name]
    path = ROOT / "src" / "weft" / mutant.file
    before = path.read_bytes()
    assert mutants.main(["--only", name]) == 0
    told = capsys.readouterr().out
    assert "without a fault all of 1 tests pass" in told
    assert f"{name}: assert" in told, "what the test said"
    assert f"  {name}  {mutant.test}\n1 of 1 caught" in told
    assert path.read_bytes() == before, "the checkout is not touched"


def test_one_that_survives_is_told(mutants: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    first, second = mutants.MUTANTS[:2]
    found = [mutants.Outcome(first, False, "SURVIVED", 1.0), mutants.Outcome(second, True, "AssertionError", 2.0)]
    monkeypatch.setattr(mutants, "hunt", lambda chosen, folder, jobs: found)
    assert mutants.main([]) == 1
    told = capsys.readouterr().out
    assert f"MISSED    1.0 s  {first.name}" in told
    assert f"caught    2.0 s  {second.name}" in told
    assert "1 of 2 caught" in told


def test_what_fails_without_a_fault_catches_none(mutants: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = object.__new__(mutants.Copy)  # without a folder of files
    copy.folder = ROOT
    done = {"-c": "/elsewhere/weft/__init__.py\n", "-m": "1 failed"}

    def answer(*given: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(given, int(given[0] == "-m"), done[given[0]])

    monkeypatch.setattr(copy, "python", answer)
    with pytest.raises(mutants.StaleError, match="not the copy's weft is imported: /elsewhere"):
        copy.check(["test_nn.py"])
    done["-c"] = f"{ROOT / 'src' / 'weft' / '__init__.py'}\n"
    with pytest.raises(mutants.StaleError, match="without any fault these tests should pass:\n1 failed"):
        copy.check(["test_nn.py"])

"""tools/setup.py: its commands, which Pythons it takes, and how it waits for the processes that it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from setups import SCRIPT, Capture, Machine, Patch, Setup, load, pretend, project, write

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and file locks of POSIX")


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: Patch) -> Setup:
    return project(tmp_path, monkeypatch)


@pytest.fixture
def machine(setup: Setup, monkeypatch: Patch) -> Machine:
    return pretend(setup, monkeypatch)


# The commands


def test_a_demo_takes_the_first_free_name(setup: Setup) -> None:
    runs = setup.ROOT / "runs"
    assert setup.free_name(runs) == "demo"
    (runs / "demo").mkdir(parents=True)
    (runs / "demo-3").mkdir()
    assert setup.free_name(runs) == "demo-2"
    (runs / "demo-2").mkdir()
    assert setup.free_name(runs) == "demo-4"


def test_the_demo_trains_generates_and_says_where_the_report_is(
    setup: Setup, machine: Machine, capsys: Capture
) -> None:
    (setup.ROOT / "runs" / "demo").mkdir(parents=True)
    assert setup.main(["demo"]) == 0
    run = str(Path("runs", "demo-2"))
    weft = setup.program("weft")
    assert machine.calls[2:] == [
        [weft, "train", "demo", "--name", "demo-2"],
        [weft, "generate", run, "--prompt", setup.PROMPT],
        [weft, "report", run],
    ]
    assert (setup.ROOT / run / "report.html").as_uri() in capsys.readouterr().out.splitlines()[-1]


def test_the_demo_stops_where_training_stops(setup: Setup, machine: Machine) -> None:
    machine.fails["train demo"] = 3
    with pytest.raises(SystemExit) as ended:
        setup.main(["demo"])
    assert ended.value.code == 3
    assert machine.calls[-1][1] == "train"


def test_the_checks_run_in_order_and_pytest_gets_the_arguments(setup: Setup, machine: Machine) -> None:
    assert setup.main(["test", "-k", "rotary", "--all"]) == 0
    python = setup.program("python")
    assert machine.calls[2:] == [
        [python, "-m", "ruff", "check"],
        [python, "-m", "ruff", "format", "--check"],
        [python, "-m", "mypy"],
        [setup.program("lint-imports"), "--no-logo"],
        [python, "-m", "pytest", "-k", "rotary"],
    ]
    assert machine.variables[-1]["WEFT_TEST_ALL"] == "1"


def test_the_quick_tests_are_told_apart_and_a_thread_count_is_kept(
    setup: Setup, machine: Machine, monkeypatch: Patch
) -> None:
    monkeypatch.delenv("WEFT_TEST_ALL", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    setup.main(["test"])
    assert machine.variables[-1]["OMP_NUM_THREADS"] in ("1", "2")
    assert "WEFT_TEST_ALL" not in machine.variables[-1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    setup.main(["test"])
    assert machine.variables[-1]["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize("failing", ["ruff check", "ruff format", "-m mypy", "lint-imports", "-m pytest"])
def test_the_first_failing_check_ends_it_with_its_code(setup: Setup, machine: Machine, failing: str) -> None:
    machine.fails[failing] = 4
    with pytest.raises(SystemExit) as ended:
        setup.main(["test"])
    assert ended.value.code == 4
    assert failing in " ".join(machine.calls[-1])


def test_planted_faults_get_the_arguments(setup: Setup, machine: Machine) -> None:
    assert setup.main(["mutants", "--only", "causal-shifted"]) == 0
    assert machine.calls[-1] == [setup.program("python"), "tools/mutants.py", "--only", "causal-shifted"]


def test_the_atlas_is_made_by_its_script(setup: Setup, machine: Machine) -> None:
    assert setup.main(["atlas"]) == 0
    assert machine.calls[-1] == [setup.program("python"), "tools/atlas.py"]


def test_clean_leaves_the_runs(setup: Setup, machine: Machine) -> None:
    setup.ensure(dev=True)
    for path in ("runs/demo/recipe.yaml", "src/weft/__pycache__/a.pyc", ".mypy_cache/x", "src/weft/a.py"):
        write(setup.ROOT / path, "")
    assert setup.main(["clean"]) == 0
    left = {str(path.relative_to(setup.ROOT).as_posix()) for path in setup.ROOT.rglob("*") if path.is_file()}
    assert left == {"pyproject.toml", "constraints.txt", "runs/demo/recipe.yaml", "src/weft/a.py"}


@pytest.mark.parametrize("argv", [["intsall"], ["demo", "--fast"]])
def test_an_unknown_command_is_refused(setup: Setup, capsys: Capture, argv: list[str]) -> None:
    assert setup.main(argv) == 2
    assert " ".join(argv) in capsys.readouterr().err


def test_a_program_that_is_not_there_is_one_line(
    setup: Setup, machine: Machine, monkeypatch: Patch, capsys: Capture
) -> None:
    setup.ensure(dev=True)
    monkeypatch.setattr(setup, "call", load().call)  # the real one, and there is nothing that it could run
    assert setup.main(["lint"]) == 1
    assert re.fullmatch(r"setup.py: .*python.*\n", capsys.readouterr().err)


# Pythons and processes


def test_other_pythons_are_refused_with_a_way_out(setup: Setup, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(setup, "version_of", {"python3.12": "3.12"}.get)
    monkeypatch.setattr(sys, "version_info", (3, 10, 4, "final", 0))
    assert setup.main(["test"]) == 2
    message = capsys.readouterr().err
    assert "3.11 to 3.13" in message
    assert "is 3.10" in message
    assert "make PYTHON=python3.12" in message
    assert setup.refusal((3, 14)) is not None
    assert [setup.refusal((3, minor)) for minor in (11, 12, 13)] == [None, None, None]


def test_a_python_is_asked_for_its_version(setup: Setup, tmp_path: Path) -> None:
    assert setup.version_of(sys.executable) == setup.running_version()
    assert setup.version_of(str(tmp_path / "no-python")) is None


def test_site_packages_is_where_this_python_puts_them(setup: Setup, monkeypatch: Patch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(setup.venv())], check=True)
    assert setup.site_packages().is_dir()
    assert setup.version_of(setup.program("python")) == setup.running_version()
    assert setup.trouble() == "pip is missing"


def test_exit_codes_come_through(setup: Setup) -> None:
    assert setup.call([sys.executable, "-c", "raise SystemExit(9)"], os.environ) == 9
    assert setup.call([sys.executable, "-c", "pass"], os.environ) == 0


@POSIX
def test_a_killed_command_counts_as_failed(setup: Setup) -> None:
    assert setup.call([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], os.environ) == 137


def test_the_environment_shows_no_packages_elsewhere(setup: Setup, monkeypatch: Patch) -> None:
    hidden = {"PYTHONPATH", "PYTHONHOME", "PIP_USER", "PYTHONDONTWRITEBYTECODE"}
    for name in (*hidden, "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "/elsewhere")
    variables = setup.environment()
    assert not hidden & set(variables)
    assert variables["PIP_FIND_LINKS"] == "/elsewhere"  # how a person configured pip stays


def harness(setup: Setup, body: str) -> subprocess.Popen[str]:
    """A Python in a session of its own that runs `body` after importing setup.py for the project under test."""
    start = f"import sys; sys.path.insert(0, {str(SCRIPT.parent)!r}); import setup\n"
    root = f"setup.ROOT = setup.Path({str(setup.ROOT)!r})\n"
    command = [sys.executable, "-c", start + root + body]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)


@POSIX
def test_ctrl_c_waits_for_a_command_that_has_something_to_save(setup: Setup) -> None:
    child = (
        "import pathlib, time\n"
        "try:\n    pathlib.Path('started').touch(); time.sleep(30)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.7); pathlib.Path('saved').touch()"
    )
    process = harness(setup, f"sys.exit(setup.call([sys.executable, '-c', {child!r}], setup.environment()))")
    wait_for(setup.ROOT / "started")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130
    assert (setup.ROOT / "saved").exists()


@POSIX
def test_a_pip_that_outlives_its_setup_keeps_the_next_one_waiting(setup: Setup) -> None:
    import fcntl

    child = "import pathlib; pathlib.Path('started').touch(); input(); pathlib.Path('ended').touch()"
    body = f"with setup.sole_use():\n    setup.call([sys.executable, '-c', {child!r}], setup.environment())"
    process = harness(setup, body)
    wait_for(setup.ROOT / "started")
    process.kill()
    process.wait(20)
    with (setup.ROOT / "pyproject.toml").open("rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        process.communicate("\n")
        fcntl.flock(file, fcntl.LOCK_SH)
    assert (setup.ROOT / "ended").exists()

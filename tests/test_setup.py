"""tools/setup.py: when it installs, when it does not, how it mends an environment, what it runs. Needs no network."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "setup.py"
Setup = ModuleType
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and file locks of POSIX")


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


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: Patch) -> ModuleType:
    module = load()
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("WEFT_TORCH_INDEX", raising=False)
    write(tmp_path / "pyproject.toml", "[project]\n")
    write(tmp_path / "constraints.txt", "torch==1\n")
    return module


@pytest.fixture
def machine(setup: Setup, monkeypatch: Patch) -> Machine:
    fake = Machine(setup)
    monkeypatch.setattr(setup, "call", fake.call)
    monkeypatch.setattr(setup, "version_of", version_in)
    monkeypatch.setattr(setup, "lacks_nvidia", lambda: False)
    return fake


# Installing, and not installing


def test_the_first_call_installs_and_the_second_does_nothing(setup: Setup, machine: Machine) -> None:
    setup.ensure(dev=True)
    assert machine.calls[1][4:8] == ["--no-compile", "--disable-pip-version-check", "-c", "constraints.txt"]
    assert machine.did() == ["venv", "pip dev"]
    setup.ensure(dev=True)
    assert machine.did() == []


def test_development_tools_are_added_when_asked_for_and_then_stay(setup: Setup, machine: Machine) -> None:
    setup.ensure(dev=False)
    assert machine.did() == ["venv", "pip"]
    setup.ensure(dev=True)
    assert machine.did() == ["pip dev"]
    setup.ensure(dev=False)
    assert machine.did() == []
    write(setup.ROOT / "constraints.txt", "torch==2\n")
    setup.ensure(dev=False)
    assert machine.did() == ["pip dev"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_declaration_installs_again_into_the_same_environment(
    setup: Setup, machine: Machine, name: str
) -> None:
    setup.ensure(dev=True)
    machine.did()
    write(setup.ROOT / name, "changed\n")
    setup.ensure(dev=True)
    assert machine.did() == ["pip dev"]


def test_a_failed_install_leaves_no_stamp_not_even_the_old_one(setup: Setup, machine: Machine) -> None:
    setup.ensure(dev=True)
    write(setup.ROOT / "pyproject.toml", "changed\n")
    machine.fails["pip install"] = 7
    with pytest.raises(SystemExit) as ended:
        setup.ensure(dev=True)
    assert ended.value.code == 7
    write(setup.ROOT / "pyproject.toml", "[project]\n")  # back to what the old stamp said
    machine.fails.clear()
    machine.did()
    setup.ensure(dev=True)
    assert machine.did() == ["pip dev"]


def test_what_is_edited_during_an_install_counts_as_not_installed(
    setup: Setup, machine: Machine, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(setup, "install_packages", lambda dev: write(setup.ROOT / "pyproject.toml", "edited\n"))
    setup.ensure(dev=True)
    assert not setup.is_current(dev=True)


# Mending


def module(setup: Setup) -> Path:
    return Path(setup.site_packages() / "torch" / "__init__.py")


def record(setup: Setup) -> Path:
    return Path(setup.site_packages() / "torch-1.0.dist-info" / "RECORD")


def python_gone(setup: Setup) -> None:
    Path(setup.program("python")).unlink()


def python_changed(setup: Setup) -> None:
    write(Path(setup.program("python")), "3.9")


def folder_moved(setup: Setup) -> None:
    write(setup.stamp(), json.dumps({**setup.read_stamp(), "root": "/elsewhere"}))


BREAKS: dict[str, tuple[Callable[[Setup], object], str]] = {
    "python gone": (python_gone, "does not run"),
    "python changed": (python_changed, "holds Python 3.9"),
    "folder moved": (folder_moved, "elsewhere"),
    "record missing": (lambda setup: record(setup).unlink(), "torch-1.0 is incomplete"),
    "record empty": (lambda setup: record(setup).write_text(""), "torch-1.0 is incomplete"),
    "record zeroed": (lambda setup: record(setup).write_bytes(bytes(200_000)), "torch-1.0 is incomplete"),
    "file missing": (lambda setup: module(setup).unlink(), "torch-1.0 is incomplete"),
    "file truncated": (lambda setup: module(setup).write_text("x"), "torch-1.0 is incomplete"),
}


@pytest.mark.parametrize(("harm", "reason"), BREAKS.values(), ids=BREAKS)
def test_a_broken_environment_is_made_anew(
    setup: Setup, machine: Machine, capsys: Capture, harm: Callable[[Setup], object], reason: str
) -> None:
    setup.ensure(dev=True)
    machine.did()
    write(setup.venv() / "left-over", "")
    write(setup.ROOT / "pyproject.toml", "changed\n")  # the packages are looked over before an install
    harm(setup)
    setup.ensure(dev=True)
    assert machine.did() == ["venv", "pip dev"]
    assert not (setup.venv() / "left-over").exists()
    assert reason in capsys.readouterr().out
    setup.ensure(dev=True)
    assert machine.did() == []


@pytest.mark.parametrize("harm", [python_gone, python_changed, folder_moved])
def test_an_environment_that_cannot_serve_is_noticed_despite_its_stamp(
    setup: Setup, machine: Machine, harm: Callable[[Setup], object]
) -> None:
    setup.ensure(dev=True)
    harm(setup)
    assert not setup.is_current(dev=True)


def test_a_half_made_environment_is_made_anew(setup: Setup, machine: Machine) -> None:
    machine.fails["-m venv"] = 1  # leaves a Python without pip
    with pytest.raises(SystemExit):
        setup.ensure(dev=True)
    machine.fails.clear()
    machine.did()
    setup.ensure(dev=True)
    assert machine.did() == ["venv", "pip dev"]


def test_the_environment_whose_python_runs_setup_is_not_removed(
    setup: Setup, machine: Machine, monkeypatch: Patch
) -> None:
    setup.ensure(dev=True)
    monkeypatch.setattr(sys, "prefix", str(setup.venv()))
    with pytest.raises(SystemExit) as ended:
        setup.remove_venv()
    assert ended.value.code == 2
    assert setup.stamp().exists()


# Where torch comes from


def test_torch_alone_comes_from_the_index_that_is_set(setup: Setup, machine: Machine, monkeypatch: Patch) -> None:
    monkeypatch.setenv("WEFT_TORCH_INDEX", "https://wheels.test/cpu")
    setup.ensure(dev=False)
    torch, rest = machine.calls[1:]
    assert torch[-4:] == ["--no-deps", "--index-url", "https://wheels.test/cpu", "torch"]
    assert "constraints.txt" in torch
    assert "--index-url" not in rest


@pytest.mark.parametrize("lacking", [True, False])
def test_without_a_gpu_the_way_to_the_cpu_build_is_told(
    setup: Setup, machine: Machine, monkeypatch: Patch, capsys: Capture, lacking: bool
) -> None:
    monkeypatch.setattr(setup, "lacks_nvidia", lambda: lacking)
    setup.ensure(dev=False)
    assert (f"WEFT_TORCH_INDEX={setup.CPU_INDEX}" in capsys.readouterr().out) is lacking
    assert not any("--index-url" in argv for argv in machine.calls)
    write(setup.ROOT / "pyproject.toml", "changed\n")
    setup.ensure(dev=False)  # torch is there already: nothing to tell
    assert "WEFT_TORCH_INDEX" not in capsys.readouterr().out


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
    for name in ("PYTHONPATH", "PYTHONHOME", "PIP_USER", "PIP_FIND_LINKS"):
        monkeypatch.setenv(name, "/elsewhere")
    variables = setup.environment()
    assert not {"PYTHONPATH", "PYTHONHOME", "PIP_USER"} & set(variables)
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

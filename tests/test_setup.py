"""tools/setup.py: when it installs, when it does not, how it mends an environment. Needs no network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from setups import Capture, Machine, Patch, Setup, pretend, project, write


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: Patch) -> Setup:
    return project(tmp_path, monkeypatch)


@pytest.fixture
def machine(setup: Setup, monkeypatch: Patch) -> Machine:
    return pretend(setup, monkeypatch)


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

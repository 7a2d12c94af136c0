"""The files around the package agree with each other: metadata, pins, Makefile, tools/setup.py."""

from __future__ import annotations

import ast
import re
import runpy
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
SETUP = runpy.run_path(str(REPOSITORY / "tools" / "setup.py"), run_name="setup")


def test_the_script_can_be_read_by_an_old_python() -> None:
    ast.parse((REPOSITORY / "tools" / "setup.py").read_text("utf-8"), feature_version=(3, 7))


def test_the_versions_agree_with_the_metadata() -> None:
    assert PROJECT["requires-python"] == f">=3.{SETUP['OLDEST'][1]},<3.{SETUP['NEWEST'][1] + 1}"


def test_each_target_of_the_makefile_is_a_command() -> None:
    called = re.findall(r"\$\(SETUP\) (\S+)", (REPOSITORY / "Makefile").read_text("utf-8"))
    assert set(called) == set(SETUP["COMMANDS"])


def test_everything_that_is_installed_for_weft_is_pinned() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all([clause.operator for clause in pin.specifier] == ["=="] for pin in pins)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins), "a local version, or a wildcard"
    left = [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
    needed: set[str] = set()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in needed or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        if name.startswith(("nvidia-", "cuda-", "triton")):
            continue  # torch pins its own CUDA libraries
        needed.add(name)
        left += [Requirement(line) for line in metadata.requires(name) or []]
    assert needed <= {canonicalize_name(pin.name) for pin in pins}

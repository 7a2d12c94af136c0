"""Makes .venv with the tested pins and runs the demo or the checks: what `make` calls, and what replaces it on Windows.

Standard library only. A stamp, written last, makes a second call return at once; what an interrupted or damaged install
left behind is made anew.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

# Syntax stays within what Python 3.7 can read, so that an old Python gets to print the message about its age.
OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROMPT = "Return the number of"
CACHES = (".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".import_linter_cache")
PRODUCTS = ("build", "dist", "src/weft.egg-info")


# The machine


def say(text: str) -> None:
    """Prints a line of progress at once, so that it stands in order with what the commands print."""
    print(f"[weft] {text}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as a person reads them: `4.2 s`, `3 min 5 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def version_of(python: str) -> str | None:
    """The version of the Python that this command starts, such as `3.12`; None when it does not run."""
    try:
        command = [python, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    except OSError:
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def refusal(version: tuple[int, int]) -> str | None:
    """Why weft cannot use a Python of this version, and what to do; None when it can."""
    if OLDEST <= version <= NEWEST:
        return None
    supported = [f"3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    found = [f"python{name}" for name in supported if version_of(f"python{name}") == name]
    way_out = f"`make PYTHON={found[0]} ...`, or `{found[0]} tools/setup.py ...`" if found else "install one of these"
    needs = f"weft needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}"
    return f"{needs}; {sys.executable} is {version[0]}.{version[1]}. A way out: {way_out}"


def lacks_nvidia() -> bool:
    """Whether this is Linux without an NVIDIA driver, where PyPI's torch brings CUDA libraries that nothing can use."""
    return sys.platform == "linux" and not shutil.which("nvidia-smi") and not Path("/proc/driver/nvidia").exists()


def environment() -> dict[str, str]:
    """The surrounding variables without those that would lead .venv's Python or pip to packages elsewhere.

    Nor may one keep Python from keeping what it compiles: pip does not compile here, and each start would, for 4 s.
    """
    hidden = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in hidden}


def call(argv: list[str], variables: Mapping[str, str]) -> int:
    """Runs a command in the project's folder and returns its exit code.

    Ctrl-C reaches the command too: it may have a checkpoint to save, so it is waited for. `close_fds=False` lets it
    inherit the lock of `sole_use`: a pip that outlives a killed setup.py keeps the next one waiting.
    """
    interrupted = False
    with subprocess.Popen(argv, cwd=ROOT, env=dict(variables), close_fds=False) as process:
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:
                interrupted = True
    if code < 0:
        return 128 - code
    return code or (130 if interrupted else 0)


def step(title: str, argv: list[str], variables: Mapping[str, str] | None = None) -> None:
    """Announces and runs one command, says how long it took, and exits with its code where that is not 0."""
    say(title)
    began = time.monotonic()
    code = call(argv, environment() if variables is None else variables)
    took = duration(time.monotonic() - began)
    if code:
        say(f"{title}: FAILED with exit code {code} after {took}")
        raise SystemExit(code)
    say(f"{title}: done in {took}")


# The environment


def venv() -> Path:
    """The project's virtual environment."""
    return ROOT / ".venv"


def program(name: str) -> str:
    """Where a program installed in .venv stands."""
    return str(venv() / ("Scripts" if os.name == "nt" else "bin") / (f"{name}.exe" if os.name == "nt" else name))


def site_packages() -> Path:
    """The folder of packages in .venv, of the running Python's version."""
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(venv()), "platbase": str(venv())}))


def running_version() -> str:
    """The running Python's version, such as `3.12`."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def damage(site: Path) -> str | None:
    """What is amiss in `site`, in words; None when each file that pip recorded is there in its recorded size."""
    if not any(site.glob("pip-*.dist-info")):
        return "pip is missing"
    for info in sorted(site.glob("*.dist-info")):
        try:
            with (info / "RECORD").open(encoding="utf-8", newline="") as record:
                rows = list(csv.reader(record))
            sound = bool(rows) and all((site / name).stat().st_size == int(size) for name, _, size in rows if size)
        except (OSError, ValueError, csv.Error):
            sound = False
        if not sound:
            return f"{info.name[: -len('.dist-info')]} is incomplete"
    return None


def trouble() -> str | None:
    """Why .venv must be made anew, in words; None when it can be built upon."""
    version = version_of(program("python"))
    if version is None:
        return "its Python does not run"
    if version != running_version():
        return f"it holds Python {version}, and this is Python {running_version()}"
    if read_stamp().get("root", str(ROOT)) != str(ROOT):
        return "it was made for a folder elsewhere"
    return damage(site_packages())


def remove_venv() -> None:
    """Removes .venv, its stamp first, so that a removal cut short never passes for an install."""
    if Path(sys.prefix).resolve() == venv().resolve():
        say("this is .venv's own Python, which is about to be removed: use the one that .venv was made with")
        raise SystemExit(2)
    if venv().is_symlink() or venv().is_file():
        venv().unlink()
    elif venv().exists():
        with contextlib.suppress(FileNotFoundError):
            stamp().unlink()
        shutil.rmtree(venv())


# The install


def stamp() -> Path:
    """The file that says what .venv was installed from."""
    return venv() / "weft-install.json"


def read_stamp() -> dict[str, object]:
    """The stamp's content; empty when there is none, or none that can be read."""
    try:
        content = json.loads(stamp().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def wanted(dev: bool) -> dict[str, object]:
    """What the stamp of an install of the project as it is now says."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes() + b"\0")
    return {"root": str(ROOT), "python": running_version(), "files": digest.hexdigest(), "dev": dev}


def is_current(dev: bool) -> bool:
    """Whether .venv holds what is wanted; one with the development tools serves without them as well."""
    accepted = [wanted(dev=True)] if dev else [wanted(dev=True), wanted(dev=False)]
    return read_stamp() in accepted and version_of(program("python")) == running_version()


@contextlib.contextmanager
def sole_use() -> Iterator[None]:
    """One install at a time: a second one waits, also for a pip whose setup.py was killed (not on Windows)."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with (ROOT / "pyproject.toml").open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another install of this folder to end")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            say("this file system has no locks: see that no other install of this folder runs")
        yield


def ensure(dev: bool) -> None:
    """Sees to it that .venv holds weft as the project declares it now; exits with pip's code where that fails."""
    if is_current(dev):
        return
    with sole_use():
        if is_current(dev):
            return
        began = time.monotonic()
        dev = dev or read_stamp().get("dev") is True
        content = (
            json.dumps(wanted(dev), indent=2) + "\n"
        )  # as of now: what is edited meanwhile counts as not installed
        if venv().exists() or venv().is_symlink():
            reason = trouble()
            if reason:
                say(f".venv is made anew: {reason}")
                remove_venv()
        if not venv().exists():
            step(f"make .venv with Python {running_version()}", [sys.executable, "-m", "venv", str(venv())])
        with contextlib.suppress(FileNotFoundError):
            stamp().unlink()
        install_packages(dev)
        unfinished = stamp().with_suffix(".tmp")
        unfinished.write_text(content, "utf-8")
        unfinished.replace(stamp())
        say(f"installed in {duration(time.monotonic() - began)}")


def install_packages(dev: bool) -> None:
    """Has pip install weft and what it needs; torch comes from WEFT_TORCH_INDEX where that is set."""
    # what is never imported need not be compiled: that takes longer than all the rest, and Python does it as it imports
    pip = [program("python"), "-m", "pip", "install", "--no-compile", "--disable-pip-version-check"]
    pip += ["-c", "constraints.txt"]
    index = os.environ.get("WEFT_TORCH_INDEX")
    if index:  # without dependencies, so that nothing but torch can come from there
        step(f"install torch from {index}", [*pip, "--no-deps", "--index-url", index, "torch"])
    elif lacks_nvidia() and not (site_packages() / "torch").exists():
        say("no NVIDIA GPU found: should pip now download CUDA libraries (gigabytes), stop it with Ctrl-C,")
        say(f"set WEFT_TORCH_INDEX={CPU_INDEX} and start again: that is the CPU-only build")
    step("install weft and what it needs" + (" for development" if dev else ""), [*pip, "-e", ".[dev]" if dev else "."])


# The commands


def install(arguments: list[str]) -> None:
    """Make .venv and install weft with its development tools."""
    ensure(dev=True)
    say(f"ready: {program('weft')} (or activate .venv, and write weft)")


def free_name(runs: Path) -> str:
    """The first of demo, demo-2, demo-3, ... that no run has yet."""
    name, number = "demo", 1
    while (runs / name).exists():
        number += 1
        name = f"demo-{number}"
    return name


def demo(arguments: list[str]) -> None:
    """Install, train the default recipe, generate from it, draw its report."""
    began = time.monotonic()
    ensure(dev=False)
    name = free_name(ROOT / "runs")
    run = str(Path("runs", name))
    step(f"train the demo into {run}", [program("weft"), "train", "demo", "--name", name])
    step(f'generate after "{PROMPT}"', [program("weft"), "generate", run, "--prompt", PROMPT])
    step("draw the report", [program("weft"), "report", run])
    report = ROOT / run / "report.html"
    if not report.is_file():
        say(f"weft ended well, yet there is no {report}")
        raise SystemExit(1)
    say(f"all done in {duration(time.monotonic() - began)}. The report: {report.as_uri()}")


def checks() -> list[tuple[str, list[str]]]:
    """The checks before the tests: a title and a command each."""
    python = program("python")
    return [
        ("lint: ruff check", [python, "-m", "ruff", "check"]),
        ("format: ruff format --check", [python, "-m", "ruff", "format", "--check"]),
        ("types: mypy", [python, "-m", "mypy"]),
        ("layers: lint-imports", [program("lint-imports"), "--no-logo"]),
    ]


def lint(arguments: list[str]) -> None:
    """Install, then check style, format, types and layers."""
    ensure(dev=True)
    for title, command in checks():
        step(title, command)


def test(arguments: list[str]) -> None:
    """Install, lint, run the tests; --all: the long ones too; other arguments go to pytest."""
    began = time.monotonic()
    lint([])
    # The same two threads on every machine: sums come out alike, and the tests' small tensors gain nothing from more.
    variables = environment()
    variables.setdefault("OMP_NUM_THREADS", str(min(2, os.cpu_count() or 1)))
    if "--all" in arguments:
        variables["WEFT_TEST_ALL"] = "1"
    extra = [argument for argument in arguments if argument != "--all"]
    step("tests: pytest", [program("python"), "-m", "pytest", *extra], variables)
    say(f"all checks passed in {duration(time.monotonic() - began)}")


def bench(arguments: list[str]) -> None:
    """Install, run all benchmarks, write docs/performance.md; --quick: ten minutes; others go to benchmarks/all.py."""
    ensure(dev=True)
    step("benchmarks", [program("python"), "benchmarks/all.py", "--write", *arguments])


def mutants(arguments: list[str]) -> None:
    """Install, plant faults into a copy, each of which a test must catch; arguments go to tools/mutants.py."""
    ensure(dev=True)
    step("planted faults", [program("python"), "tools/mutants.py", *arguments])


def atlas(arguments: list[str]) -> None:
    """Install, then make docs/atlas anew: a page for each part of a model."""
    ensure(dev=True)
    step("docs/atlas", [program("python"), "tools/atlas.py"])


def reformat(arguments: list[str]) -> None:
    """Install, then put the source into its format and mend what ruff can."""
    ensure(dev=True)
    step("ruff check --fix", [program("python"), "-m", "ruff", "check", "--fix"])
    step("ruff format", [program("python"), "-m", "ruff", "format"])


def clean(arguments: list[str]) -> None:
    """Remove .venv, caches and build products; runs stay."""
    with sole_use():
        say("removing .venv, caches and build products")
        remove_venv()
        for name in (*CACHES, *PRODUCTS):
            shutil.rmtree(ROOT / name, ignore_errors=True)
        for folder in ("src", "tests", "tools", "benchmarks"):
            for cache in list((ROOT / folder).rglob("__pycache__")):
                shutil.rmtree(cache, ignore_errors=True)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "install": install,
    "demo": demo,
    "test": test,
    "lint": lint,
    "bench": bench,
    "mutants": mutants,
    "atlas": atlas,
    "format": reformat,
    "clean": clean,
}


def usage() -> str:
    """The commands, a line each."""
    lines = [f"  {name:8} {command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: python tools/setup.py COMMAND [arguments]", "", *lines])


def main(argv: list[str]) -> int:
    """Runs the command that `argv` names and returns the exit code."""
    if not argv or argv[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    name, arguments = argv[0], argv[1:]
    if name not in COMMANDS or (arguments and name not in ("test", "bench", "mutants")):
        print(f"setup.py: no such command: {' '.join(argv)}\n\n{usage()}", file=sys.stderr)
        return 2
    problem = refusal((sys.version_info[0], sys.version_info[1]))
    if problem:
        print(f"setup.py: {problem}", file=sys.stderr)
        return 2
    try:
        COMMANDS[name](arguments)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"setup.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

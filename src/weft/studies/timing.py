"""Timing studies: one computation in several ways, side by side; its cells are blocks of repetitions, each a process.

A declaration with `times: attention` is one. Time is compared as the logarithm of seconds, so that a difference is a
ratio; a block's score is the median of its repetitions, and blocks are what the statistics call seeds.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, field_validator
from rich.console import Console
from rich.live import Live

from weft.config import Section, apply, load, semantic, unknown_name
from weft.device import available_cores
from weft.errors import ConfigError, WeftError
from weft.report.formats import duration, rate
from weft.report.terminal import console as make_console
from weft.runs import fingerprints
from weft.studies.cells import State, state_of
from weft.studies.folder import Report, StudyFolder, only_one
from weft.studies.processes import nameless_main
from weft.studies.reading import command, read_raw
from weft.training.interrupts import Interrupts
from weft.training.progress import say
from weft.training.recipe import FolderName

if TYPE_CHECKING:
    from weft.studies.timed_block import Setting

CODE = "weft.studies.timed_block"
"""Whose code, with all that it uses, a block depends on."""
FEWEST_LENGTHS = 3
"""Lengths below which a straight line leaves nothing over to tell how well it fits."""


class Claim(Section):
    """What is said elsewhere, and is looked at here."""

    text: str
    """in words"""
    way: str
    """which way is said to be faster than the baseline"""
    ratio: float = Field(gt=1)
    """how many times as fast"""
    hardware: str | None = None
    """what it was said of: no verdict of this study holds there"""


class TimingQuick(Section):
    """A quick look: the same ways, fewer repetitions."""

    repetitions: PositiveInt = 45
    """of each way"""
    blocks: int = Field(3, ge=2)
    """processes"""
    lengths: tuple[PositiveInt, ...] = (256, 512, 768, 1024)
    """for the scaling"""
    scaled_repetitions: PositiveInt = 9
    """at each of these lengths"""


class TimingStudy(Section):
    """Everything that one timing study is."""

    name: FolderName
    """what its folder is called"""
    times: Literal["attention"]
    """what is timed: it tells a timing study from one that trains"""
    claim: Claim | None = None
    """what is looked into"""
    batch: PositiveInt = 1
    """sequences at a time"""
    n_heads: PositiveInt = 4
    """heads"""
    width: PositiveInt = 64
    """channels of a head"""
    tokens: PositiveInt = 512
    """length of the sequences that ways are compared on"""
    window: PositiveInt = 128
    """keys that the way `window` sees"""
    ways: tuple[str, ...] = Field(("formula", "mha", "mha-no-weights", "sdpa", "blocked"), min_length=2)
    """what is compared: names from studies/attention_ways.py"""
    baseline: str | None = None
    """the way that others are compared with; the first unless given"""
    backward: bool = True
    """time forward with backward, too"""
    margin: float | None = Field(None, gt=1)
    """ratios nearer to 1 than this do not matter: 1.05 for 5 %"""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """how often a difference may be claimed where there is none"""
    repetitions: PositiveInt = 1000
    """of each way, over all blocks"""
    blocks: int = Field(5, ge=2)
    """processes of their own, each with its share of the repetitions"""
    scaled: tuple[str, ...] = ("formula", "sdpa", "window")
    """whose time and memory are followed over `lengths`, the attention alone, without the matrices around it"""
    lengths: tuple[PositiveInt, ...] = (512, 768, 1024, 1536, 2048, 3072, 4096)
    """numbers of tokens"""
    scaled_repetitions: PositiveInt = 40
    """at each length, over all blocks"""
    threads: PositiveInt | None = None
    """all cores unless given"""
    quick: TimingQuick = TimingQuick()
    """what --quick changes"""

    @field_validator("lengths")
    @classmethod
    def _rising(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(lengths)) < FEWEST_LENGTHS or list(lengths) != sorted(set(lengths)):
            raise ValueError(f"should be at least {FEWEST_LENGTHS} rising lengths, for an exponent with its interval")
        return lengths

    def problems(self) -> list[str]:
        """What is wrong with it as a whole, a line each."""
        from weft.studies.attention_ways import WAYS

        both = {"ways": self.ways, "scaled": self.scaled}
        found = [f"{key}: {unknown_name('way', name, WAYS)}" for key, names in both.items() for name in names
                 if name not in WAYS]  # fmt: skip
        found += [f"{key}: a way is named twice: {', '.join(names)}" for key, names in both.items()
                  if len(set(names)) < len(names)]  # fmt: skip
        found += [
            f"ways: {name} sees {self.window} keys only, which is another attention; it can be `scaled`"
            for name in self.ways
            if name in WAYS and WAYS[name].windowed
        ]
        found += [
            f"scaled: {name} is a layer with its matrices inside, and scaling is of the attention alone"
            for name in self.scaled
            if name in WAYS and WAYS[name].core is None
        ]
        if self.baseline is not None and self.baseline not in self.ways:
            found.append(f"baseline = {self.baseline!r}: is not among the ways {', '.join(self.ways)}")
        if self.claim and self.claim.way not in {*self.ways} - {self.compared_with}:
            found.append(f"claim.way = {self.claim.way!r}: is not among the ways beside the baseline")
        for name in ("repetitions", "scaled_repetitions"):
            for one, where in ((self, ""), (self.quick, "quick.")):
                count = getattr(one, name)
                if count % one.blocks:
                    found.append(f"{where}{name} = {count}: {one.blocks} blocks cannot share them evenly")
        return found

    @property
    def compared_with(self) -> str:
        """The baseline's name."""
        return self.baseline or self.ways[0]

    def quicker(self) -> TimingStudy:
        """The quick look at it, a study of its own."""
        changed = {name: getattr(self.quick, name) for name in TimingQuick.model_fields}
        return self.model_copy(update={"name": f"{self.name}-quick", **changed})

    def setting(self, block: int, threads: int) -> Setting:
        """What a block measures."""
        from weft.studies.attention_ways import Shape
        from weft.studies.timed_block import Setting

        shape = Shape(self.batch, self.n_heads, self.width, self.tokens, self.window)
        counts = self.repetitions // self.blocks, self.scaled_repetitions // self.blocks
        return Setting(block, shape, self.ways, counts[0], self.backward, self.scaled, self.lengths, counts[1], threads)

    def question(self) -> dict[str, Any]:
        """What may not change once blocks have run, as plain data."""
        metric = {"name": "seconds", "better": "lower", "margin": self.margin, "alpha": self.alpha}
        claim = None if self.claim is None else semantic(self.claim)
        return {"metric": metric, "baseline": self.compared_with, "equal": ["outputs", "gradients"], "claim": claim}


@dataclass(frozen=True)
class Block:
    """A block of repetitions, known by all that its figures depend on."""

    setting: Setting
    key: str
    surroundings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.key[:16]


def read_timing(source: str | Path | dict[str, Any], changes: Sequence[str] = ()) -> tuple[TimingStudy, dict[str, Any]]:
    """The checked study and its declaration, with the changes in it: a mapping, a file, or a bundled one's name.

    Raises ConfigError with every problem, a line each.
    """
    raw, problems = apply(TimingStudy, source if isinstance(source, dict) else read_raw(source)[0], changes)
    if problems:
        raise ConfigError(problems)
    study = load(TimingStudy, raw)
    if problems := study.problems():
        raise ConfigError(problems)
    return study, raw


def run_timing(
    source: str | Path | dict[str, Any],
    *changes: str,
    studies: str | Path = "studies",
    quick: bool = False,
    threads: int | None = None,
    isolated: bool = True,
    console: Console | None = None,
) -> Report:
    """Run a timing study, or go on with it; blocks that are there already are not repeated.

    `isolated=False` runs the blocks in this process. Raises WeftError, with nothing timed, when something is wrong
    with what was asked, or when a way computes something else than the others.
    """
    from weft.studies.timing_outcome import findings, write_results

    console = console or make_console()
    declared, raw = read_timing(source, changes)
    study = declared.quicker() if quick else declared
    folder = StudyFolder(Path(studies), study.name)
    blocks = blocks_of(study, threads or study.threads or available_cores())
    again = command(source, changes, (), quick)
    with only_one(folder.store):
        folder.refuse_another(study.question())
        folder.write_question(study.question(), raw, blocks[0].setting.threads, [block.name for block in blocks])
        finished = _carry_out(study, blocks, folder.store, isolated, console)
    if not finished:
        say(console, "stopped; go on with:")
        say(console, f"  {again}")
        return Report(folder.path, False, {})
    looks = folder.looked(range(study.blocks))
    results = findings(study, raw, blocks, folder.store, looks, quick, again)
    for line in write_results(folder.path, results):
        say(console, line)
    return Report(folder.path, True, results)


def blocks_of(study: TimingStudy, threads: int) -> list[Block]:
    """The study's blocks, each with its content address: setting, versions, processor, code."""
    from weft.studies.timed_block import environment

    surroundings = environment(threads)
    code = fingerprints.of_modules([CODE], without=("weft.runs", "weft.report"))
    found = []
    for number in range(study.blocks):
        setting = study.setting(number, threads)
        machine = {name: surroundings["machine"][name] for name in ("processor", "device", "precision")}
        identity = {
            "setting": setting.data(),
            "versions": surroundings["versions"],
            "code": code,
            "machine": machine,
        }
        found.append(Block(setting, fingerprints.of_data(identity), surroundings))
    return found


def _carry_out(study: TimingStudy, blocks: Sequence[Block], store: Path, isolated: bool, console: Console) -> bool:
    """Measure the blocks that are not there, one at a time; False when somebody asked to stop before all were."""
    waiting = [block for block in blocks if state_of(store / block.name) is not State.finished]
    threads = blocks[0].setting.threads
    say(
        console,
        f"{study.name}: {len(study.ways)} ways, {study.repetitions:,} repetitions in {len(blocks)} blocks, one at a"
        f" time, {threads} thread{'s' * (threads > 1)}; {len(blocks) - len(waiting)} blocks there already, reused",
    )
    with Interrupts() as interrupts, _Progress(console, blocks[0].setting.repetitions, len(waiting)) as progress:
        for block in waiting:
            if isolated:
                if not _in_process(block, store, interrupts, progress.tell):
                    return False
            else:
                _measure(block, store, progress.tell)
            progress.ended(block)
            if interrupts.requested and block is not waiting[-1]:
                return False
    return True


def _measure(block: Block, store: Path, tell: Callable[[int], None]) -> None:
    from weft.studies.timed_block import run_block

    run_block(block.setting, store / block.name, block.surroundings, tell)


def _in_process(block: Block, store: Path, interrupts: Interrupts, tell: Callable[[int], None]) -> bool:
    """Measure a block in a new process; False when somebody asked to stop. What was not finished leaves no trace.

    Raises WeftError where the process could not do its work.
    """
    from weft.studies.timed_block import work

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(block.setting, store / block.name, block.surroundings, theirs))
    with nameless_main():
        process.start()
    theirs.close()
    try:
        while not interrupts.requested:
            if ours.poll(0.5):
                said = ours.recv()
                if isinstance(said, str):
                    raise WeftError(said)
                tell(said)
    except EOFError:
        process.join()
        if state_of(store / block.name) is State.finished:
            return True
        code = process.exitcode or 0
        hint = " (out of memory? fewer or shorter lengths need less)" if code == -9 else ""
        raise WeftError(f"block {block.setting.block + 1}: its process ended with code {code}{hint}") from None
    finally:
        process.kill()
        process.join()
    return False


class _Progress:
    """How many rounds are done, how many a second, how long the rest takes: a line that moves, or one a block."""

    def __init__(self, console: Console, rounds: int, blocks: int) -> None:
        self.console, self.rounds, self.blocks = console, rounds, blocks
        self.done, self.began = 0, time.monotonic()
        self.live = Live("", console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> _Progress:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def tell(self, done: int) -> None:
        """The block that runs has done so many rounds."""
        if self.live:
            self.live.update(f"block {self.done + 1} of {self.blocks}: round {self._words(done)}", refresh=True)

    def ended(self, block: Block) -> None:
        """A block is finished."""
        self.done += 1
        said = f"block {block.setting.block + 1}: {self._words(0)} ({self.done} of {self.blocks})"
        say(self.console, said)

    def _words(self, done: int) -> str:
        total, passed = self.done * self.rounds + done, time.monotonic() - self.began
        left = passed / max(1, total) * (self.blocks * self.rounds - total)
        count = f"{done:,} of {self.rounds:,}" if done else f"{self.rounds:,} rounds"
        return f"{count}, {rate(total / passed, 'rounds')}" + (f", about {duration(left)} left" if left else "")

"""One block of a timing study: in a process of its own all ways take turns, and every repetition is timed.

A round is one repetition of every way, in an order that is drawn anew, so that what the machine does beside it, and
what one way leaves in the caches, meets all of them alike. Rounds of the scaling, all its lengths, lie in between.
"""

from __future__ import annotations

import gc
import os
import platform
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from weft import device
from weft.config import yaml
from weft.errors import WeftError
from weft.runs.atomic import new_folder, write_text
from weft.runs.folder import FORMAT, to_json
from weft.studies.attention_ways import WAYS, Shape, Trial, at_length, check_core, check_layer, core_trial, layer_trial
from weft.studies.processes import end_with_parent

WARM_UP = 3
"""Runs of each way before the clock starts."""
LEAST_SHARE = 0.04
"""An operation that took less of a way's time is not named."""
SILENCE = 0.5
"""Seconds between two words on how far it is."""
FORWARD, BOTH = "forward", "forward + backward"


@dataclass(frozen=True)
class Setting:
    """What one block measures."""

    block: int
    shape: Shape
    ways: tuple[str, ...]
    repetitions: int
    """of every way, in this block"""
    backward: bool
    scaled: tuple[str, ...]
    lengths: tuple[int, ...]
    scaled_repetitions: int
    threads: int

    def passes(self) -> tuple[str, ...]:
        """What is timed of each way."""
        return (FORWARD, BOTH) if self.backward else (FORWARD,)

    def data(self) -> dict[str, Any]:
        """As plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass
class Job:
    """One thing that is timed again and again."""

    place: tuple[str, str]
    """pass or length, and way"""
    step: Callable[[], object]
    seconds: list[float] = field(default_factory=list)

    def time(self) -> None:
        """One repetition by the clock."""
        started = time.perf_counter()
        self.step()
        self.seconds.append(time.perf_counter() - started)


def run_block(setting: Setting, folder: Path, surroundings: Mapping[str, Any], tell: Callable[[int], None]) -> None:
    """Measure a block and write its folder, whole or not at all; `tell` hears after each round how many are done.

    Raises WeftError, with nothing timed, where a way computes something else than the others.
    """
    errors = {name: check_layer(name, WAYS[name], setting.shape) for name in setting.ways}
    shortest = at_length(setting.shape, min(setting.lengths))
    errors |= {f"{name}, alone": check_core(name, WAYS[name], shortest) for name in setting.scaled}
    layers, cores = _layers(setting), _cores(setting)
    with _undisturbed(), Others() as others:
        _rounds(setting, layers, cores, tell)
    seen = {job.place: _seen(job.step) for job in (*layers, *cores)}
    found = {
        "layers": _tree(layers, lambda job: job.seconds),
        "scaling": _tree(cores, lambda job: job.seconds),
        "memory": {
            "layers": _tree(layers, lambda job: seen[job.place][0]),
            "scaling": _tree(cores, lambda job: seen[job.place][0]),
        },
        "ran": _tree(layers, lambda job: seen[job.place][1]),
        "off_by": errors,
        "others": others.share,
    }
    with new_folder(folder) as place:
        write_text(place / "timings.json", to_json(found))
        write_text(place / "resolved.yaml", yaml.dump(setting.data()))
        manifest = {"format": FORMAT, "kind": "timing", "status": "finished", **surroundings}
        write_text(place / "manifest.json", to_json(manifest))


def work(setting: Setting, folder: Path, surroundings: Mapping[str, Any], pipe: Any) -> None:
    """What a block's process does; into the pipe goes how many rounds are done, or in words why it cannot go on."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the study, which ends this process
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # torch's profiler talks
    device.keep_memory()
    device.set_threads(setting.threads)
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > SILENCE:
            last = time.monotonic()
            pipe.send(done)

    try:
        run_block(setting, folder, surroundings, tell)
    except WeftError as error:
        pipe.send(str(error))
    except Exception as error:
        pipe.send(f"block {setting.block + 1}: {type(error).__name__}: {error}")


def _layers(setting: Setting) -> list[Job]:
    trials = {name: layer_trial(WAYS[name], setting.shape) for name in setting.ways}
    return [Job((turn, name), _step(trial, turn)) for turn in setting.passes() for name, trial in trials.items()]


def _cores(setting: Setting) -> list[Job]:
    jobs, turn = [], setting.passes()[-1]
    for length in setting.lengths:
        for name in setting.scaled:
            core = WAYS[name].core
            assert core is not None, "the declaration refuses to scale what has no core"
            trial = core_trial(core, at_length(setting.shape, length))
            jobs.append(Job((str(length), name), _step(trial, turn)))
    return jobs


def _step(trial: Trial, turn: str) -> Callable[[], object]:
    return trial.both if turn == BOTH else trial.forward


def _rounds(setting: Setting, layers: Sequence[Job], cores: Sequence[Job], tell: Callable[[int], None]) -> None:
    """All repetitions; those of the scaling lie evenly among the others."""
    order = random.Random(setting.block)
    for job in layers:
        for _ in range(WARM_UP):
            job.step()
    for job in cores:
        job.step()
    count = setting.repetitions
    breaks = [(2 * turn + 1) * count // (2 * setting.scaled_repetitions) for turn in range(setting.scaled_repetitions)]
    for done in range(count):
        turns = [*layers] + [*cores] * breaks.count(done)
        for job in order.sample(turns, len(turns)):
            job.time()
        tell(done + 1)


def _seen(step: Callable[[], object]) -> tuple[int, list[tuple[str, float]]]:
    """The most bytes that one step's tensors hold at once, and the operations that took its time, by torch's account.

    Inputs and matrices are there before and do not count; what libraries hold for themselves is not torch's to tell.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    changes = [event.nbytes() for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    times = {event.key: event.self_cpu_time_total for event in seen.key_averages() if event.key.startswith("aten::")}
    total = sum(times.values()) or 1.0
    ran = [(name, round(spent / total, 3)) for name, spent in sorted(times.items(), key=lambda item: -item[1])]
    return max(accumulate(changes), default=0), [one for one in ran if one[1] >= LEAST_SHARE]


def _tree(jobs: Sequence[Job], value: Callable[[Job], Any]) -> dict[str, dict[str, Any]]:
    """Values by pass or length, then by way."""
    found: dict[str, dict[str, Any]] = {}
    for job in jobs:
        found.setdefault(job.place[0], {})[job.place[1]] = value(job)
    return found


@contextmanager
def _undisturbed() -> Any:
    """No garbage is collected while the clock runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Others:
    """While entered, watches what share of the machine's cores other processes keep busy; None where it cannot tell."""

    share: float | None = None

    def __enter__(self) -> Others:
        self._began = _busy(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        busy, own, started = self._began
        now = _busy()
        if busy is None or now is None:
            return
        cores = os.cpu_count() or 1
        ours, elapsed = time.process_time() - own, time.perf_counter() - started
        self.share = round(min(1.0, max(0.0, (now - busy - ours) / (elapsed * cores))), 3)


def _busy() -> float | None:
    """Seconds that all cores have worked, by /proc/stat: user, nice, system, interrupts, stolen."""
    try:
        with open("/proc/stat", encoding="utf-8") as file:
            user, nice, system, _, _, *rest = (int(text) for text in file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    return float(user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def environment(threads: int) -> dict[str, Any]:
    """Versions and machine: what else a timing depends on."""
    return {
        "versions": {"torch": str(torch.__version__), "python": platform.python_version()},
        "machine": {**device.about(), "device": "cpu", "precision": "fp32", "threads": threads},
    }

"""A run from its first step to its report: `train` makes a new one or goes on with one that exists."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from weft.config import apply, load
from weft.config.plugins import copies_of, load_plugins, require
from weft.device import measure_peak, peak_flops
from weft.errors import WeftError
from weft.evaluation import Plan, Result, evaluate
from weft.evaluation.records import write_predictions
from weft.generation.generate import generate
from weft.hub.names import load as load_model
from weft.models.transformer import Transformer
from weft.report.formats import significant
from weft.report.terminal import console as make_console
from weft.runs.atomic import DiskError
from weft.runs.folder import RunFolder, free_name
from weft.text.tokenizers import Tokenizer
from weft.training.budget import Budget
from weft.training.checkpoints import newest, prune, restore_start, restore_tensors, save_checkpoint
from weft.training.interrupts import Interrupts
from weft.training.loop import OnStep, Training
from weft.training.progress import Progress, say
from weft.training.recipe import PLAIN, Recipe, is_plain, load_recipe, read_recipe, recipes
from weft.training.report import write_report
from weft.training.setup import Prepared, changed, make_training, manifest_of, new_training, prepare_run
from weft.transfer import moved

_BEST = ("loss", "bits_per_byte", "accuracy", "macro_f1", "bleu", "chrf")
"""What is kept of the validation of the best checkpoint."""


@dataclass(frozen=True)
class Run:
    """A run that was trained."""

    folder: Path
    finished: bool

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of its log."""
        return list(RunFolder.open(self.folder).log)

    def load(self) -> tuple[Transformer, Tokenizer]:
        """The trained model and its tokenizer."""
        return load_model(self.folder)


def train(
    recipe: str | Path | dict[str, Any],
    *overrides: str,
    name: str | None = None,
    runs: str | Path = "runs",
    plugins: Iterable[str] = (),
    on_step: OnStep | None = None,
    console: Console | None = None,
) -> Run:
    """Train a recipe (a file, a bundled one's name, or a mapping) in a new run folder, or go on with a run's folder.

    `on_step(step, values)` is called after each step. Raises WeftError, with nothing written, when something is wrong
    with what was asked.
    """
    console = console or make_console()
    given = load_plugins(plugins)
    if isinstance(recipe, str | Path) and _is_folder(recipe):
        return _go_on(RunFolder.open(Path(recipe)), list(overrides), on_step, console)
    raw, base = (recipe, Path()) if isinstance(recipe, dict) else read_recipe(recipe)
    notes: list[str] = []
    checked, loaded = load_recipe(raw, base, overrides, notes)
    copies = copies_of({**loaded, **given})
    if name is not None and not is_plain(name):
        raise WeftError(f"--name {name}: {PLAIN}")
    path = Path(runs) / name if name else free_name(Path(runs), checked.name)
    if path.exists():
        raise WeftError(f"{path}: exists already; go on with it (weft train {path}) or choose another --name")
    for note in notes:
        say(console, note)
    prepared = prepare_run(checked, console)
    training = new_training(prepared, console)
    command = shlex.join(["weft", "train", str(recipe) if not isinstance(recipe, dict) else "{...}", *overrides])
    asked, _ = apply(Recipe, raw, overrides)
    if copies:
        asked["plugins"] = list(copies)
        bound = prepared.recipe.model_copy(update={"plugins": tuple(copies)})
        prepared = replace(prepared, recipe=bound)
    hashes = {name: (loaded | given)[plugin] for name, plugin in copies.items()}
    manifest = {**manifest_of(prepared, training, hashes, command), "name": path.name}
    resolved = prepared.recipe.model_dump(mode="json")
    plan = prepared.plan
    for line in [] if plan is None else plan.lines(training.model):
        say(console, line)
    run = RunFolder.create(path, asked, resolved, manifest, copies, None if plan is None else plan.keep)
    prepared = replace(prepared, plan=None)  # the donor's weights need not be held any longer
    with run.held():
        return Runner(run, prepared, training, on_step, console).run()


def _is_folder(recipe: str | Path) -> bool:
    """Whether this names a run's folder, and not a bundled recipe that a folder happens to be called like."""
    path = Path(recipe)
    return path.is_dir() and (RunFolder.is_run(path) or str(recipe) not in recipes())


def _go_on(run: RunFolder, overrides: list[str], on_step: OnStep | None, console: Console) -> Run:
    """Continue a run from its newest good checkpoint; a finished one is left as it is."""
    manifest = run.manifest()
    finished = manifest.get("status") == "finished"
    if overrides or not finished:
        require(manifest.get("plugins", {}), run.path)
    resolved = run.resolved()
    semantic_ones = changed(resolved, overrides)
    if semantic_ones:
        raise WeftError(
            f"{', '.join(semantic_ones)}: would make it another run; {run.path} goes on as it began"
            f" (for a new run: {shlex.join(['weft', 'train', str(run.path / 'recipe.yaml'), *semantic_ones])})"
        )
    if finished:
        steps = manifest["budget"].get("stopped", manifest["budget"]["steps"])
        say(console, f"{run.path} is finished after {steps} steps; nothing to do")
        if not (run.path / "report.html").is_file():  # a kill came in between
            run.clean()
            write_report([run.path])
        return Run(run.path, True)
    with run.held():
        return _resume(run, load(Recipe, resolved, overrides), on_step, console)


def _resume(run: RunFolder, recipe: Recipe, on_step: OnStep | None, console: Console) -> Run:
    """Take a run that stopped to its end."""
    run.clean()
    manifest = run.manifest()
    prepared = prepare_run(recipe, console, manifest["data"]["fingerprint"])
    differing = [key for key, value in prepared.environment.items() if manifest["environment"].get(key) != value]
    if differing:
        say(console, f"resumed under other {', '.join(differing)}: not promised to be equal bit by bit")
    training = make_training(prepared)
    training.total = manifest["budget"]["steps"]
    state = _restore(run, training, console)
    resumes = [*manifest.get("resumes", []), {"step": training.step, "differing": differing}]
    run.update_manifest(status="running", resumes=resumes, best=state["best"] if state else None)
    return Runner(run, prepared, training, on_step, console, state).run()


def _restore(run: RunFolder, training: Training, console: Console) -> dict[str, Any] | None:
    """Bring training and log back to the newest good checkpoint and return its state; or to step 0, for None."""
    left = "yet"
    for path, state, problem in newest(run):
        if state is None:
            say(console, f"{path.name} is damaged ({problem}); going back to the one before")
            left = "left"
            continue
        restore_tensors(path, training)
        training.restore(state)
        run.log.cut(training.step)
        say(console, f"{run.path}: going on from step {training.step} of {training.total}")
        return state
    restore_start(run, training)
    run.log.cut(-1)
    say(console, f"{run.path}: no checkpoint {left}, beginning at step 0")
    return None


class Runner:
    """Takes a training to its end: steps, and at their times log lines, validations, samples, checkpoints."""

    def __init__(
        self,
        run: RunFolder,
        prepared: Prepared,
        training: Training,
        on_step: OnStep | None,
        console: Console,
        state: dict[str, Any] | None = None,
    ) -> None:
        """`state` is that of the checkpoint from which the training goes on, None where it begins."""
        self.folder, self.prepared, self.training = run, prepared, training
        self.on_step, self.console = on_step, console
        self.best: dict[str, Any] | None = state["best"] if state else None
        self.saved: int | None = state["step"] if state else None
        options, total = prepared.recipe.train, training.total
        self.evaluate_every = options.evaluate_every or max(1, total // 10)
        self.log_every = options.log_every or max(1, total // 100)
        self.checkpoint_every = options.checkpoint_every or self.evaluate_every
        self.peak = 0.0  # until it runs: to measure it takes a moment
        self.measured_again = False
        self.began = time.monotonic() - (state["seconds"] if state else 0.0)
        budget = Budget.read(options.budget)
        self.deadline = self.began + budget.amount * 60 if budget.unit == "minutes" else None
        self.stepping, self.stepped = 0.0, 0  # seconds and tokens of training steps since the last line of the log

    def run(self) -> Run:
        """Train to the end, or until somebody asks to stop; a folder that can go on is left in either case.

        Raises WeftError when the loss is no longer a number or the disk is full, and KeyboardInterrupt, which says what
        is saved, when somebody asks twice.
        """
        training, again = self.training, shlex.join(["weft", "train", str(self.folder.path)])
        machine = self.prepared.machine
        try:
            self.peak = peak_flops(machine.device, machine.precision)
            finished = self._train() and self._finish()
            if not finished:
                self.folder.update_manifest(status="interrupted")
        except DiskError as error:
            raise WeftError(f"{error}, then go on with: {again}") from None
        except Exception:
            with suppress(DiskError):
                self.folder.update_manifest(status="failed")
            raise
        except KeyboardInterrupt:
            saved = f"step {self.saved} of {training.total} is saved" if self.saved else "nothing is saved yet"
            raise KeyboardInterrupt(f"stopped at once: {saved}; go on with: {again}") from None
        if not finished:
            say(self.console, f"stopped at step {training.step} of {training.total}; go on with:")
            say(self.console, f"  {again}")
        return Run(self.folder.path, finished)

    def _train(self) -> bool:
        """All steps that are left; False when somebody asked to stop, which leaves a checkpoint."""
        training = self.training
        with Interrupts() as interrupts, Progress(self.console, training.total, training.step) as progress:
            if training.step == 0:
                self._say_start(progress)
                if self.folder.log.last("validation") is None:
                    self._validate(progress)
            while training.step < training.total and not interrupts.requested and not self._out_of_time():
                self._step(progress)
            if interrupts.requested:
                self._save(regular=False)
            elif training.step < training.total:
                progress.say(f"out of time at step {training.step} of {training.total}")
                self.folder.update_manifest(budget={**self.folder.manifest()["budget"], "stopped": training.step})
                if not self._measured():
                    self._validate(progress)
                self._save()
            return not interrupts.requested

    def _say_start(self, progress: Progress) -> None:
        training = self.training
        manifest = self.folder.manifest()
        parameters, learning = manifest["model"]["parameters"], ""
        if "transfer" in manifest:
            learning = f" ({manifest['transfer']['parameters']['learning']:,} of them learn)"
        progress.say(
            f"{self.folder.path}: {parameters:,} parameters{learning}, {training.total} steps of"
            f" {training.tokens_per_step:,} tokens, {self.prepared.machine.why}"
        )
        progress.say(f"matmul peak: {significant(self.peak / 1e9)} GFLOP/s, a large matrix product measured just now")

    def _out_of_time(self) -> bool:
        return self.deadline is not None and time.monotonic() > self.deadline

    def _step(self, progress: Progress) -> None:
        training, step = self.training, self.training.step + 1
        logging = step % self.log_every == 0 or step == training.total
        started = time.perf_counter()
        values = training.advance(layers=logging and (step // self.log_every) % 4 == 0)
        self.stepping += time.perf_counter() - started
        self.stepped += training.tokens_per_step
        rate = self.stepped / max(self.stepping, 1e-9)
        reached = rate * training.flops_per_token
        if reached > self.peak and not self.measured_again:  # it was measured while the machine had other work
            self.measured_again = True
            self.peak = max(self.peak, measure_peak(self.prepared.machine.device, self.prepared.machine.precision))
        self.peak = max(self.peak, reached)
        share = reached / self.peak
        progress.step(step, values["loss"], rate, share)
        if logging:
            shown = {"layers": values["layers"]} if "layers" in values else {}
            self._log("train", {**training.drain(), **shown}, tokens_per_second=rate, peak_share=share)
            self.stepping, self.stepped = 0.0, 0
        if step % self.evaluate_every == 0 or step == training.total:
            self._validate(progress)
            self._sample()
        if step % self.checkpoint_every == 0 or step == training.total:
            self._save()
        if self.on_step is not None:
            self.on_step(step, values)

    def _log(self, split: str, values: dict[str, Any], **clock: float) -> None:
        seconds = time.monotonic() - self.began
        self.folder.log.append(self.training.step, self.training.tokens, seconds, split, values, **clock)

    def _validate(self, progress: Progress) -> None:
        """A fixed part of the validation text."""
        result = self._evaluate(limit=self.prepared.recipe.train.evaluate_tokens)
        self._log("validation", result.values())
        progress.validated(result.short())

    def _evaluate(self, limit: int | None = None, thorough: bool = False) -> Result:
        training, data = self.training, self.prepared.data
        plan = Plan(training.model.config.max_length, limit, thorough)
        with training.shown():
            return evaluate(self.prepared.recipe.objective, training.model, data.tokenizer, data.validation, plan)

    def _sample(self) -> None:
        options, training = self.prepared.recipe.train, self.training
        if options.sample_tokens and self.prepared.recipe.objective.continues:
            prompt = 1 + len(self.prepared.data.tokenizer.encode(options.sample_prompt))
            with training.shown():
                text = generate(
                    training.model,
                    self.prepared.data.tokenizer,
                    options.sample_prompt,
                    max_tokens=max(1, min(options.sample_tokens, training.model.config.max_length - prompt)),
                    temperature=0.8,
                    seed=options.seed,
                )
            self._log("sample", {"prompt": options.sample_prompt, "text": text, "temperature": 0.8})

    def _measured(self) -> dict[str, Any] | None:
        """What the validation of this step gave, if there was one."""
        last = self.folder.log.last("validation")
        return last["values"] if last and last["step"] == self.training.step and "final" not in last["values"] else None

    def _save(self, regular: bool = True) -> None:
        """A checkpoint, the log synced before it; older ones go, but for the best.

        One that is not `regular`, because somebody asked to stop, cannot be the best: without the stop it would not be.
        """
        training = self.training
        if training.step == self.saved:  # the same is there already, and no kill shall find it half replaced
            return
        self.folder.log.sync()
        path, measured = self.folder.checkpoint(training.step), self._measured()
        if regular and measured and self._better(measured):
            numbers = {key: value for key, value in measured.items() if key in _BEST}
            self.best = {"checkpoint": path.name, **numbers}
        state = {**training.state(), "seconds": time.monotonic() - self.began, "best": self.best}
        about = {"objective": self.prepared.recipe.objective.dump(), "plugins": self.folder.manifest()["plugins"]}
        save_checkpoint(self.folder, training, self.prepared.data.tokenizer, state, about)
        self.saved = training.step
        self.folder.update_manifest(best=self.best)
        self._prune()

    def _better(self, measured: Mapping[str, Any]) -> bool:
        finite = math.isfinite(float(measured["loss"]))  # the log writes as a string what is not
        merit = self.prepared.recipe.objective.merit
        return finite and (self.best is None or merit(measured) > merit(self.best))

    def _prune(self) -> None:
        prune(self.folder, self.prepared.recipe.train.keep_checkpoints, self.best["checkpoint"] if self.best else None)

    def _finish(self) -> bool:
        """What comes after the last step; False when somebody asked to stop meanwhile."""
        try:
            with Interrupts(at_once=True):
                self._conclude()
        except KeyboardInterrupt:
            return False
        return True

    def _conclude(self) -> None:
        """The whole validation text, thoroughly; what the model says of each document or example; the report."""
        self._prune()  # a kill may have come before it
        transferred = self._frozen_as_before()
        with self.console.status("measuring the whole validation text"):
            result = self._evaluate(thorough=True)
        measured = self.folder.log.last("validation")
        if measured is None or not measured["values"].get("final"):  # a kill may have come after it was written
            self._log("validation", {**result.values(), "final": True})
        self.folder.log.sync()
        write_predictions(self.folder.path / "predictions", result, self.prepared.data.validation)
        seconds = round(time.monotonic() - self.began, 3)
        self.folder.update_manifest(status="finished", seconds=seconds, **transferred)
        write_report([self.folder.path])
        self._say_end(result)

    def _frozen_as_before(self) -> dict[str, Any]:
        """The manifest's entry on transfer, and that what is frozen is bit by bit what it was.

        Raises WeftError where it is not.
        """
        transfer = self.folder.manifest().get("transfer")
        if transfer is None:
            return {}
        others = moved(transfer["frozen"], self.training.model)
        if others:
            self.folder.update_manifest(transfer={**transfer, "unchanged": False})
            raise WeftError(f"{self.folder.path}: {others[0]} is frozen and has changed; which part of yours moves it?")
        return {"transfer": {**transfer, "unchanged": True}}

    def _say_end(self, result: Result) -> None:
        for line in result.lines(self.prepared.data.report.get("baselines", {})):
            say(self.console, line)
        say(self.console, f"report: {self.folder.path / 'report.html'}")

"""Plants faults into a copy of weft, one after the other: the tests must catch each (`make mutants`).

A test that never fails proves nothing. Each mutant is one change of one place, and names the test that must fail on it,
because of an assertion of that test: an error elsewhere would be caught by anything. The checkout is never touched.
`--write` writes the list into docs/mutants.md, `--only NAME` runs one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "mutants.md"
LIMIT = 300
"""Seconds after which a test counts as hanging."""


class Mutant(NamedTuple):
    """One fault: in `file` of src/weft, `old`, which stands there once, becomes `new`; `test`, of tests/, notices."""

    name: str
    fault: str
    file: str
    old: str
    new: str
    test: str

    def planted(self, source: Path) -> str:
        """The file's text with the fault, of the tree below `source`.

        Raises StaleError where the place is not found once, or what would stand there is no Python.
        """
        path = source / "weft" / self.file
        text = path.read_text("utf-8") if path.is_file() else ""
        if text.count(self.old) != 1:
            raise StaleError(
                f"{self.name}: src/weft/{self.file} has {text.count(self.old)} times, not once: {self.old}"
            )
        planted = text.replace(self.old, self.new)
        try:
            compile(planted, self.file, "exec")
        except SyntaxError as error:
            raise StaleError(f"{self.name}: no Python any more: {error}") from None
        return planted


class StaleError(Exception):
    """A mutant that does not fit the code, or a test that does not pass without one."""


# fmt: off
MUTANTS = [
    Mutant("scores-unscaled", "scores are not divided by the root of a head's width", "nn/scores.py",
           "self.scale or 1 / math.sqrt(width)", "self.scale or 1.0",
           "test_reference.py::test_score"),
    Mutant("cap-without-factor", "the soft cap bends scores and does not stretch them again", "nn/scores.py",
           "self.cap * (scores_BHTS / self.cap).tanh()", "(scores_BHTS / self.cap).tanh()",
           "test_reference.py::test_score"),
    Mutant("sinks-hand-on", "a sink's weight goes to the last key instead of nowhere", "nn/scores.py",
           ".softmax(-1)[..., :-1]", ".softmax(-1)[..., 1:]",
           "test_reference.py::test_score"),
    Mutant("causal-shifted", "the causal mask shows one key of the future", "nn/masks.py",
           "return k.index <= q.index", "return k.index <= q.index + 1",
           "test_reference.py::test_mask"),
    Mutant("window-too-wide", "a window shows one key more on each side", "nn/masks.py",
           "(q.index - k.index).abs() < self.size", "(q.index - k.index).abs() <= self.size",
           "test_reference.py::test_mask"),
    Mutant("prefix-sees-all", "a prefix sees what follows it, too", "nn/masks.py",
           "return q.prefix & k.prefix", "return q.prefix",
           "test_reference.py::test_mask"),
    Mutant("blocks-in-rows", "blocks are counted from the beginning of the row, not of the document", "nn/masks.py",
           "return q.place // self.size == k.place // self.size", "return q.index // self.size == k.index // self.size",
           "test_masks.py::test_first_tokens_and_blocks_are_counted_in_each_document"),
    Mutant("coverage-hides", "a block of keys whose first one is the last that is seen passes for empty", "nn/masks.py",
           "Coverage(k.low <= q.high, k.high <= q.low)", "Coverage(k.low < q.high, k.high <= q.low)",
           "test_masks.py::test_coverage_hides_no_pair"),
    Mutant("documents-together", "documents packed into a row see each other", "models/transformer.py",
           "apart = apart & SameDocument()", "pass",
           "test_properties.py::test_layers_that_differ[documents_apart-patterned]"),
    Mutant("padding-seen", "padding is seen", "models/transformer.py",
           "apart = apart & Valid()", "pass",
           "test_properties.py::test_layers_that_differ[padded-patterned]"),
    Mutant("source-padding-seen", "cross-attention sees the source's padding", "models/transformer.py",
           "mask: Mask = Everything() if valid_BS is None else Valid()", "mask: Mask = Everything()",
           "test_stacks.py::test_an_encoder_and_a_decoder_of_their_own_kinds[source_padded-post reads pre]"),
    Mutant("padding-counted", "padding before a text moves its positions", "nn/cache.py",
           "return (valid_BT.long().cumsum(1) - 1).clamp(min=0)",
           "return torch.arange(valid_BT.shape[1], device=valid_BT.device).expand(valid_BT.shape)",
           "test_properties.py::test_layers_that_differ[padded-patterned]"),
    Mutant("heads-interleaved", "a head's channels are taken from all over the projection", "nn/attention.py",
           "x_BTN.unflatten(-1, (heads, self.width))", "x_BTN.unflatten(-1, (self.width, heads)).transpose(-1, -2)",
           "test_reference.py::test_attention"),
    Mutant("heads-merged-wrongly", "heads are put together channel by channel", "nn/attention.py",
           "mixed_BHTK.transpose(1, 2).flatten(2)", "mixed_BHTK.permute(0, 2, 3, 1).flatten(2)",
           "test_reference.py::test_attention"),
    Mutant("keys-normed-as-queries", "keys are normed with the queries' gain", "nn/attention.py",
           "self._split(self.key(x_BTD), self.n_kv_heads, self.key_norm)",
           "self._split(self.key(x_BTD), self.n_kv_heads, self.query_norm)",
           "test_reference.py::test_attention_with[qk_norm]"),
    Mutant("gate-without-sigmoid", "a gate multiplies by any number, not by a share", "nn/gates.py",
           "self.projection(x_BTD).sigmoid()", "self.projection(x_BTD)",
           "test_reference.py::test_attention_with[gate]"),
    Mutant("groups-assigned-wrongly", "grouped heads read the keys of another group", "nn/kernels.py",
           "x.repeat_interleave(groups, dim=1)", "x.repeat(1, groups, 1, 1)",
           "test_reference.py::test_kernel"),
    Mutant("sdpa-own-scale", "the fused kernel takes its own scale", "nn/kernels.py",
           "scale=call.weighting.scale", "scale=None",
           "test_reference.py::test_kernel"),
    Mutant("softmax-not-shrunk", "block by block, what came before a larger score keeps its weight", "nn/blocked.py",
           "o_BGNL.mul_(shrink_BGN).add_(", "o_BGNL.add_(",
           "test_blocked.py::test_biases_and_shared_keys"),
    Mutant("softmax-slope", "the softmax's derivative lacks its second term", "nn/blocked.py",
           "(dout_BGNL @ v_BGJL.mT).to(kept).sub_(d_BGN)", "(dout_BGNL @ v_BGJL.mT).to(kept)",
           "test_reference.py::test_kernel"),
    Mutant("cache-off-by-one", "new keys overwrite the last one in the cache", "nn/cache.py",
           "start = self.lengths[0] if alike else None", "start = max(self.lengths[0] - 1, 0) if alike else None",
           "test_properties.py::test_layers_that_differ[cached-patterned]"),
    Mutant("cache-grows-astray", "a cache that grows puts what it held at the end", "nn/cache.py",
           "grown[:, :, : buffer.shape[2]] = buffer", "grown[:, :, -buffer.shape[2] :] = buffer",
           "test_cache.py::test_the_cache_grows"),
    Mutant("cache-row-lengths", "rows that are chosen keep the lengths of those that stood there", "nn/cache.py",
           "[self.lengths[row] for row in chosen]", "[self.lengths[row] for row, _ in enumerate(chosen)]",
           "test_cache.py::test_rows_are_chosen_and_branch"),
    Mutant("ring-too-small", "a window's cache loses a key that is still seen", "nn/ring.py",
           "return self.size + self.slack", "return self.size + self.slack - 1",
           "test_cache.py::test_a_window_goes_on_beyond_its_ring"),
    Mutant("sine-is-cosine", "sine and cosine change places", "nn/positions.py",
           "[angles_BTP.sin(), angles_BTP.cos()]", "[angles_BTP.cos(), angles_BTP.sin()]",
           "test_reference.py::test_positions"),
    Mutant("alibi-wrong-head", "each head has the slope of the one before it", "nn/positions.py",
           "for head in range(1, power + 1)]", "for head in range(power)]",
           "test_positions.py::test_slopes_are_the_paper_s"),
    Mutant("t5-direction", "T5's buckets take what comes before for what comes after", "nn/positions.py",
           "len(self.starts) * (distance < 0)", "len(self.starts) * (distance > 0)",
           "test_positions.py::test_buckets_are_transformers"),
    Mutant("offset-ignored", "learned positions read the table from its first row", "nn/positions.py",
           "self.table(positions_BT + self.offset)", "self.table(positions_BT)",
           "test_reference.py::test_positions"),
    Mutant("rotary-layout", "rotary pairs channels in the other layout", "nn/rotary.py",
           'self.options.layout == "interleaved"', 'self.options.layout != "interleaved"',
           "test_reference.py::test_positions"),
    Mutant("keys-not-turned", "rotary turns queries only", "nn/rotary.py",
           "return turn(q_BHTK, prepared), turn(k_BGTK, prepared)", "return turn(q_BHTK, prepared), k_BGTK",
           "test_reference.py::test_positions"),
    Mutant("yarn-magnitude", "YaRN's longer queries and keys are forgotten", "nn/rotary.py",
           "angles_BTP.cos() * scaling.magnitude, angles_BTP.sin() * scaling.magnitude",
           "angles_BTP.cos(), angles_BTP.sin()",
           "test_reference.py::test_positions"),
    Mutant("ntk-power", "NTK-aware scaling stretches the base by the factor itself", "nn/scaling.py",
           "return width / (width - 2)", "return 1.0",
           "test_reference.py::test_positions"),
    Mutant("positions-ignored", "positions that are given are counted anew", "models/transformer.py",
           "positions_BT = index_BT if inputs.positions_BT is None else inputs.positions_BT",
           "positions_BT = index_BT",
           "test_forward.py::test_given_positions_are_the_ones_that_are_used"),
    Mutant("norm-wrong-axis", "RMSNorm takes its mean over positions, not over channels", "nn/fused.py",
           "torch.linalg.vector_norm(x, dim=-1,", "torch.linalg.vector_norm(x, dim=-2,",
           "test_reference.py::test_norm"),
    Mutant("gain-without-one", "a zero-centred gain lacks its 1", "nn/norms.py",
           "gain = 1 + self.weight if self.zero_centered else self.weight", "gain = self.weight",
           "test_reference.py::test_norm"),
    Mutant("no-residual", "the pre-norm block leaves its residual out", "nn/block.py",
           "return x_BTD + self.drop(f(norm(x_BTD)))", "return self.drop(f(norm(x_BTD)))",
           "test_properties.py::test_layers_that_differ[as_the_formulas_say-patterned]"),
    Mutant("post-norm-inside", "the post-norm block norms the branch, not the sum", "nn/block.py",
           "norm(x_BTD + self.drop(f(x_BTD)))", "x_BTD + norm(self.drop(f(x_BTD)))",
           "test_properties.py::test_layers_that_differ[as_the_formulas_say-listed]"),
    Mutant("sandwich-swapped", "the norms at both ends of a branch change places", "nn/block.py",
           "before, after = norm.children()", "after, before = norm.children()",
           "test_properties.py::test_layers_that_differ[as_the_formulas_say-shared]"),
    Mutant("dropout-always", "dropout acts outside of training", "nn/block.py",
           "F.dropout(x_BTD, self.dropout, self.training)", "F.dropout(x_BTD, self.dropout, True)",
           "test_forward.py::test_dropout_acts_in_training_only"),
    Mutant("depth-not-rescaled", "branches that stochastic depth keeps are not made up for the others",
           "nn/stochastic_depth.py",
           "return x_BTD * kept.to(x_BTD.dtype) / (1 - share)", "return x_BTD * kept.to(x_BTD.dtype)",
           "test_depth.py::test_rows_are_skipped_by_lot_and_their_mean_stays"),
    Mutant("one-entry-for-all", "layers that share weights share a cache entry", "nn/attention.py",
           "entry = context.cache.entries[context.depth]", "entry = context.cache.entries[0]",
           "test_properties.py::test_layers_that_differ[cached-shared]"),
    Mutant("last-block-forgotten", "the last block is not computed", "models/transformer.py",
           "for depth, block in enumerate(self.blocks):", "for depth, block in enumerate(self.blocks[:-1]):",
           "test_properties.py::test_layers_that_differ[as_the_formulas_say-listed]"),
    Mutant("last-norm-forgotten", "a stack does not end with its norm", "models/transformer.py",
           "return self.norm(x_BTD), terms", "return x_BTD, terms",
           "test_properties.py::test_layers_that_differ[as_the_formulas_say-patterned]"),
    Mutant("gate-bent-wrongly", "a gated layer bends what it should only multiply", "nn/feedforward.py",
           "self.bend(self.gate(x_BTD)) * self.up(x_BTD)", "self.gate(x_BTD) * self.bend(self.up(x_BTD))",
           "test_reference.py::test_feedforward"),
    Mutant("square-without-relu", "the squared ReLU squares what is below 0, too", "nn/feedforward.py",
           "return F.relu(z).square()", "return z.square()",
           "test_reference.py::test_feedforward"),
    Mutant("embedding-not-scaled", "the table is not multiplied by the root of its width", "nn/embeddings.py",
           "math.sqrt(width) if options.scaled else 1.0", "1.0",
           "test_embeddings.py::test_token_and_segment_and_position"),
    Mutant("segments-ignored", "all tokens are of segment 0", "nn/embeddings.py",
           "x_BTE = x_BTE + self.segments(segments_BT)", "x_BTE = x_BTE + self.segments(0 * segments_BT)",
           "test_embeddings.py::test_token_and_segment_and_position"),
    Mutant("bigram-wrong-token", "a pair is a token and itself", "nn/embeddings.py",
           "before_BT = known_BS.gather(1, place_BT)", "before_BT = known_BS.gather(1, place_BT + 1)",
           "test_embeddings.py::test_a_pair_is_a_token_and_the_one_before_it"),
    Mutant("bigram-across-documents", "a document's first token is paired with the last of the one before",
           "nn/embeddings.py",
           "if inputs.documents_BT is not None:\n        documents_BS", "if False:\n        documents_BS",
           "test_embeddings.py::test_a_pair_is_a_token_and_the_one_before_it"),
    Mutant("tied-table-copied", "a tied head has a copy of the table", "nn/linear.py",
           "self.weight = table.weight", "self.weight = torch.nn.Parameter(table.weight.detach().clone())",
           "test_nn.py::test_tied_is_one_parameter"),
    Mutant("smoothing-ignored", "label smoothing spreads no share", "nn/heads.py",
           "label_smoothing=smoothing)", "label_smoothing=0.0)",
           "test_heads.py::test_classes_of_tokens"),
    Mutant("last-chunk-dropped", "the loss in chunks leaves out the last one", "nn/heads.py",
           "zip(x_ND.split(chunk), targets_N.split(chunk), strict=True)",
           "zip(x_ND.split(chunk)[:-1], targets_N.split(chunk)[:-1], strict=True)",
           "test_reference.py::test_head_and_its_loss"),
    Mutant("mean-over-padding", "a text's mean counts padding", "nn/text_heads.py",
           "valid_BT.sum(1, keepdim=True).clamp(min=1)", "valid_BT.shape[1]",
           "test_classifier.py::test_padding_is_not_looked_at"),
    Mutant("cost-halved", "attention's declared FLOPs leave out the mixture of the values", "nn/attention.py",
           "flops = 2 * 2 * self.n_heads", "flops = 2 * self.n_heads",
           "test_properties.py::test_layers_that_differ[costs_as_declared-patterned]"),
]
# fmt: on


# Running


class Outcome(NamedTuple):
    """What a test said of a mutant: what it asserted in vain, or why that does not count; and the seconds it took."""

    mutant: Mutant
    caught: bool
    said: str
    seconds: float


class Copy:
    """A copy of the source and the tests, in which faults are planted one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def python(self, *arguments: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        """A Python that imports weft from here. What it prints on either stream comes back as one."""
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        variables |= {"PYTHONPATH": str(self.folder / "src"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, *arguments], cwd=self.folder, env=variables, text=True, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=limit, check=False,
        )  # fmt: skip

    def pytest(self, *arguments: str, limit: float | None = None) -> subprocess.CompletedProcess[str]:
        """pytest with these arguments, up to the first failure, which it tells in a line: `path:line: AssertionError`.

        Of the project's own arguments none: no processes beside this one.
        """
        quiet = ("-o", "addopts=", "-p", "no:cacheprovider", "--tb=line", "-x", "-q")
        return self.python("-m", "pytest", *quiet, *arguments, limit=limit)

    def check(self, tests: Sequence[str]) -> None:
        """Raises StaleError unless weft is imported from here, and every test is there and passes without a fault."""
        found = self.python("-c", "import weft; print(weft.__file__)").stdout.strip()
        if self.folder.resolve() not in Path(found).resolve().parents:
            raise StaleError(f"not the copy's weft is imported: {found}")
        done = self.pytest(*(f"tests/{test}" for test in tests))
        if done.returncode:
            raise StaleError(f"without any fault these tests should pass:\n{done.stdout}")

    def test(self, mutant: Mutant) -> Outcome:
        """Plants the fault, runs its test, and takes the fault out again."""
        path, began = self.folder / "src" / "weft" / mutant.file, time.monotonic()
        sound, planted = path.read_text("utf-8"), mutant.planted(self.folder / "src")
        try:
            self._write(path, planted)
            done = self.pytest(f"tests/{mutant.test}", limit=LIMIT)
            caught, said = verdict(done.returncode, done.stdout)
        except subprocess.TimeoutExpired:
            caught, said = False, f"its test runs longer than {LIMIT} seconds"
        finally:
            self._write(path, sound)
        return Outcome(mutant, caught, said, time.monotonic() - began)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Write the file; what Python compiled of it before may look as new and as long as this."""
        path.write_text(text, "utf-8", newline="\n")
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def verdict(code: int, output: str) -> tuple[bool, str]:
    """Whether a test failed as it should, with an assertion of its own (not of weft's); and what it said."""
    if code == 0:
        return False, "SURVIVED: its test passes"
    lines = re.findall(r"^(.+?\.py):\d+: (.+)$", output, re.MULTILINE)
    path, said = lines[0] if lines else ("", output.strip()[-300:])
    asserted = re.match(r"assert\b|AssertionError|Failed\b", said)
    if code == 1 and asserted and "src/weft/" not in Path(path).as_posix():
        return True, said
    return False, f"no assertion of the test, which ended with exit code {code}: {said}"


def hunt(mutants: Sequence[Mutant], folder: Path, jobs: int) -> list[Outcome]:
    """What the tests say of each mutant, `jobs` at a time, each in a copy of its own; a line of progress for each.

    Raises StaleError, before the first fault, where one has no place in the code or a test fails without any.
    """
    for mutant in mutants:
        mutant.planted(ROOT / "src")
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
    for number in range(jobs):
        copies.put(Copy(folder / str(number)))
    tests, began = list(dict.fromkeys(mutant.test for mutant in mutants)), time.monotonic()
    copy = copies.get()
    copy.check(tests)
    copies.put(copy)
    print(f"without a fault all of {len(tests)} tests pass ({time.monotonic() - began:.1f} s)", flush=True)

    def test(mutant: Mutant) -> Outcome:
        copy = copies.get()
        try:
            outcome = copy.test(mutant)
        finally:
            copies.put(copy)
        print(f"{mutant.name}: {outcome.said} ({outcome.seconds:.1f} s)", flush=True)
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(test, mutants))


# Telling


def table(outcomes: Sequence[Outcome]) -> str:
    """A line for each mutant: caught or not, seconds, name, the test that should catch it."""
    longest = max(len(outcome.mutant.name) for outcome in outcomes)
    return "\n".join(
        f"{'caught' if caught else 'MISSED'}  {seconds:5.1f} s  {mutant.name:{longest}}  {mutant.test}"
        for mutant, caught, _, seconds in outcomes
    )


def page() -> str:
    """docs/mutants.md: every planted fault and the test that catches it."""
    rows = [(m.fault, f"`{m.file}`", code(m.old), code(m.new), f"`{m.test}`", f"`{m.name}`") for m in MUTANTS]
    lines = ["fault | in | instead of | stands | caught by | name", " | ".join(["---"] * 6)]
    lines += [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    return HEAD.format(count=len(MUTANTS)) + "".join(f"| {line} |\n" for line in lines)


def code(text: str) -> str:
    """Code in one line of Markdown."""
    return f"`{' '.join(text.split())}`"


HEAD = """# Planted faults

A test that cannot fail proves nothing. `make mutants` plants {count} faults into a copy of weft, one after the other:
the kind that leaves a model running and its loss falling. Each must be caught by the test that is named beside it, with
an assertion: not by an error that anything would notice. One that survives ends it with exit code 1, and so does one
whose place in the code is gone. `tools/mutants.py --write` makes this page, and a test sees that it is up to date.

```console
$ make mutants
$ make mutants ARGS="--only causal-shifted"
```

"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the mutants that are asked for; 1 where one is missed or stale."""
    parser = argparse.ArgumentParser(description="plant faults into a copy of weft; the tests must catch each")
    parser.add_argument("--only", action="append", metavar="NAME", choices=[mutant.name for mutant in MUTANTS])
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="how many at a time")
    parser.add_argument("--write", action="store_true", help="write the list into docs/mutants.md, and run none")
    asked = parser.parse_args(argv)
    if asked.write:
        PAGE.write_text(page(), "utf-8", newline="\n")
        return 0
    chosen = [mutant for mutant in MUTANTS if asked.only is None or mutant.name in asked.only]
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="weft-mutants-") as folder:
            outcomes = hunt(chosen, Path(folder), min(asked.jobs, len(chosen)))
    except StaleError as error:
        print(error, file=sys.stderr)
        return 1
    missed = [outcome for outcome in outcomes if not outcome.caught]
    print(f"\n{table(outcomes)}\n{len(outcomes) - len(missed)} of {len(outcomes)} caught", end="")
    print(f" in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())

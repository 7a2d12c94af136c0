"""Data preparation: reading, tokenising and writing shards, on one core and on all; and a gigabyte in constant memory.

    python benchmarks/data.py [--quick] [--json FILE]

The same process reads, tokenises and writes the same text on one core and on all of them, in turn. The text is Python's
own documentation, repeated with numbers in its lines so that no two documents are alike. In full mode a text ten times
as long must not take more memory to prepare; in quick mode half as long again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, machine, parser, table

_PREPARE = """
import json, resource, sys, time
from weft.config import load
from weft.data.config import DataConfig, prepare
source, folder = sys.argv[1:]
tokenizer = {"kind": "bpe", "vocab_size": 4096, "sample_bytes": 2_000_000}
config = load(DataConfig, {"source": source, "cache": folder, "tokenizer": tokenizer})
started = time.perf_counter()
data = prepare(config, 256)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, data.fingerprint, data.report["train"]["bytes"] + data.report["validation"]["bytes"]]))
"""
"""All of it: reading twice, splitting, training a tokenizer, tokenising, writing."""
_TOKENISE = """
import json, resource, sys, time
from pathlib import Path
from weft.config import load
from weft.data.config import DataConfig
from weft.data.shards import write_split
from weft.runs.fingerprints import of_file
from weft.text.tokenizers import Tokenizer
source, folder = sys.argv[1:]
corpus = load(DataConfig, {"source": source}).source.build()
tokenizer = Tokenizer.load(Path(source).with_name("tokenizer.json"))
started = time.perf_counter()
written = write_split(Path(folder) / "split", corpus.documents(), tokenizer, False)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak, of_file(Path(folder) / "split" / "tokens.npy"), written.bytes]))
"""
"""Reading, tokenising and writing alone, with a tokenizer that is there."""


def write_text(path: Path, megabytes: int) -> None:
    """A .jsonl of so many megabytes; all documents differ."""
    from pydoc_data.topics import topics

    texts, written, number = list(topics.values()), 0, 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            lines = texts[number % len(texts)].splitlines()
            text = "\n".join(f"{line} {number * 7919 % 99991}" if line else line for line in lines)
            written += file.write(json.dumps({"text": text}) + "\n")
            number += 1


def train_tokenizer(path: Path) -> None:
    """The tokenizer of all measurements, beside the text, from its first documents."""
    from weft.config import load
    from weft.data.config import DataConfig

    config = load(DataConfig, {"source": str(path), "tokenizer": {"kind": "bpe", "vocab_size": 4096}})
    texts = (document.text for document in itertools.islice(config.source.build().documents(), 400))
    config.tokenizer.train(texts, 1).save(path.with_name("tokenizer.json"))


def prepare(work: str, path: Path, cores: set[int]) -> tuple[float, float, str, int]:
    """Seconds, peak MiB, fingerprint and bytes of `work` on a text, by a process on these cores."""
    with tempfile.TemporaryDirectory() as cache:
        variables = {**os.environ, "OMP_NUM_THREADS": str(len(cores)), "RAYON_NUM_THREADS": str(len(cores))}
        command = [sys.executable, "-c", work, str(path), cache]

        def pin() -> None:
            os.sched_setaffinity(0, cores)

        where = pin if hasattr(os, "sched_setaffinity") else None
        done = subprocess.run(command, env=variables, capture_output=True, text=True, preexec_fn=where, check=False)
    if done.returncode:
        raise SystemExit(f"preparing {path.name} failed:\n{done.stderr[-2000:]}")
    return tuple(json.loads(done.stdout.splitlines()[-1]))


def speed(path: Path, cores: int, rounds: int, deadline: float) -> list[dict[str, Any]]:
    """The same text on one core and on all, in turn."""
    sets = {"1 core": {0}, f"{cores} cores": set(range(cores))}
    if hasattr(os, "sched_getaffinity"):
        there = sorted(os.sched_getaffinity(0))
        sets = {"1 core": {there[0]}, f"{cores} cores": set(there[:cores])}
    found: dict[str, list[tuple[float, float, str, int]]] = {name: [] for name in sets}
    for done in range(rounds):
        started = time.monotonic()
        for name, where in sets.items():
            found[name].append(prepare(_TOKENISE, path, where))
        if 2 * time.monotonic() - started > deadline and done:
            break
    assert len({one[2] for many in found.values() for one in many}) == 1, "one core and more gave other data"
    rows = []
    for name, many in found.items():
        rates = sorted(one[3] / one[0] / 1e6 for one in many)
        row = {"system": name, "megabytes_per_second": statistics.median(rates), "low": rates[0], "high": rates[-1]}
        rows.append({**row, "samples": len(rates), "peak_mib": round(max(one[1] for one in many))})
    for row in rows:
        row["ratio"] = row["megabytes_per_second"] / rows[0]["megabytes_per_second"]
    return rows


def memory(folder: Path, small: int, large: int, cores: int) -> dict[str, Any]:
    """Peak memory of preparing a text, and one that is many times as long."""
    there = set(range(cores)) if not hasattr(os, "sched_getaffinity") else set(sorted(os.sched_getaffinity(0))[:cores])
    peaks = {}
    for megabytes in (small, large):
        path = folder / f"{megabytes}.jsonl"
        write_text(path, megabytes)
        seconds, peak, _, _ = prepare(_PREPARE, path, there)
        peaks[megabytes] = {"peak_mib": round(peak), "seconds": round(seconds, 1)}
        path.unlink()
    grown = peaks[large]["peak_mib"] - peaks[small]["peak_mib"]
    return {"megabytes": [small, large], "peaks": peaks, "grown_mib": grown}


def main() -> None:
    """Run both and print the findings."""
    options: argparse.Namespace = parser(__doc__).parse_args()
    from weft.device import available_cores

    cores = options.threads or available_cores()
    started, seconds = time.monotonic(), options.seconds or (75 if options.quick else 900)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "text.jsonl"
        write_text(path, 6 if options.quick else 60)
        train_tokenizer(path)
        rows = speed(path, cores, 3 if options.quick else 5, started + seconds * 0.6)
        # with less than 32 MB for training, nine tenths of it all, there would be a compressor beside it
        sizes = (38, 57) if options.quick else (100, 1000)
        held = memory(folder, *sizes, cores)
    finding = f"{cores} cores tokenise {rows[-1]['ratio']:.2f} times as fast as one"
    headers = ["", "MB/s", "range", "ratio", "peak MiB"]
    lines = [
        [row["system"], f"{row['megabytes_per_second']:.2f}", f"{row['low']:.2f}-{row['high']:.2f}",
         f"{row['ratio']:.2f}x", row["peak_mib"]] for row in rows
    ]  # fmt: skip
    small, large = sizes
    note = (
        f"peak memory: {held['peaks'][small]['peak_mib']} MiB for {small} MB of text,"
        f" {held['peaks'][large]['peak_mib']} MiB for {large} MB ({held['peaks'][large]['seconds']} s)"
    )
    print(f"{finding}\n{table(headers, lines)}\n{note}")
    shown = {"finding": f"{finding}; {note}", "table": [headers, *lines]}
    finish(options, {"benchmark": "data", "machine": machine(cores), "rows": rows, "memory": held, **shown})


if __name__ == "__main__":
    main()

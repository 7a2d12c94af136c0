"""Named random streams: what one part of a run draws never moves what another draws."""

from __future__ import annotations

import hashlib


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream that `names` name, such as `derive(0, "init", "decoder.norm.weight")`.

    A cryptographic hash, so that neighbouring seeds and names give unrelated streams; the same on every machine.
    """
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1

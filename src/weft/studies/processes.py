"""What processes of a study have in common: they do not start it again, and they end with it, however it ends."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nameless_main() -> Iterator[None]:
    """Processes do not import the program that started the study: a script without a guard would start it again."""
    main = sys.modules["__main__"]
    names = ["__file__", "__spec__"]
    kept = {name: main.__dict__.pop(name) for name in names if name in main.__dict__}
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(kept)


def end_with_parent() -> None:
    """Nobody goes on with a cell whose study was killed: the next one may do so at any time."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

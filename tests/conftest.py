"""For every test: one thread, a cache of prepared data that is nobody's own, and long tests only when asked for."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread is fastest for what tests compute, and torch reads these when it is first imported, here or in a child.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

from weft.checking.small import forget
from weft.config import SLOTS, plugins

# Tests make objects by the million and few cycles; what is imported stays. About a tenth of the time went into looking.
gc.freeze()
gc.set_threshold(100_000, 50, 100)

LONGEST = (
    "test_properties",
    "test_docs",
    "test_resume",
    "test_study_series",
    "test_checking",
    "test_study_cells",
    "test_tasks",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked slow, unless WEFT_TEST_ALL=1 (`make test-all`) asks for it; the longest files first.

    Files are given to processes whole, in this order, so that none is left alone with the longest at the end.
    """
    from pairs import everything

    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    if not everything():
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="long: make test-all, or WEFT_TEST_ALL=1"))


@pytest.fixture
def own_parts() -> Iterator[None]:
    """What is registered meanwhile, by a class or by a plugin, is registered for one test."""
    kinds, loaded = {name: dict(base.kinds) for name, base in SLOTS.items()}, set(plugins._loaded)
    yield
    for name, before in kinds.items():
        SLOTS[name].kinds.clear()
        SLOTS[name].kinds.update(before)
    plugins._loaded.clear()
    plugins._loaded.update(loaded)
    forget()


@pytest.fixture(scope="module")
def peak() -> Iterator[None]:
    """The machine's measured peak takes seconds where bf16 is emulated, and is a matter of the clock alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("weft.device.peak_flops", "weft.training.run.peak_flops", "weft.training.run.measure_peak"):
            patch.setattr(name, lambda device, precision: 1e12)
        yield


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where data are prepared during this session, once for all its processes; children inherit it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(folder))
        yield folder

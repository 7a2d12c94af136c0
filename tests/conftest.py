"""For every test: one thread, a cache of prepared data that is nobody's own, and long tests only when asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# One thread is fastest for what tests compute, and torch reads these when it is first imported, here or in a child.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is marked slow, unless WEFT_TEST_ALL=1 (`make test-all`) asks for it; the longest files first.

    Files are given to processes whole, in this order, so that none is left alone with the longest at the end.
    """
    items.sort(key=lambda item: item.path.name not in ("test_properties.py", "test_docs.py"))
    if os.environ.get("WEFT_TEST_ALL", "0") in ("", "0"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="long: make test-all, or WEFT_TEST_ALL=1"))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where data are prepared during this session; children inherit it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WEFT_CACHE", str(folder))
        yield folder

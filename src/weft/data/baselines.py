"""What a general-purpose compressor makes of the validation text when it knows the training text."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from weft.data.progress import Progress
from weft.data.splits import Split
from weft.report.formats import size

try:
    import lzma
except ImportError:  # a Python that was built without it
    lzma = None  # type: ignore[assignment]

LARGEST = 32_000_000
"""Bytes of text beyond which it would take minutes, and the dictionary of `xz -9` (64 MiB) would not hold it."""
HOW = "xz -9e with the training text as its dictionary"
_CHUNK = 1 << 18


class Xz:
    """Size of xz(train + validation) less size of xz(train), measured beside other work.

    Documents are joined by one newline, which stands for the end of a document. Of more than `LARGEST` bytes of text
    nothing is measured; `notes` say so.
    """

    def __init__(self, split: Split, total_bytes: int) -> None:
        self.notes: list[str] = []
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(2)
        self._sizes: list[Future[int]] = []
        if total_bytes > LARGEST:
            self.notes = [f"baseline: xz is left out, {size(total_bytes)} of text is more than {size(LARGEST)}"]
        elif lzma is None:
            self.notes = ["baseline: xz is left out, this Python was built without lzma"]
        else:
            self._start(split)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()  # without effect once all is measured
        self._pool.shutdown(wait=False)

    def bits_per_byte(self, progress: Progress) -> float | None:
        """Bits for each byte of the validation text; waits until it is measured."""
        if not self._sizes:
            return None
        while wait(self._sizes, timeout=0.1).not_done:
            progress.update("compressing with xz", self._done, self._total)
        train, both = (found.result() for found in self._sizes)
        return (both - train) * 8 / self._validation_bytes

    def _start(self, split: Split) -> None:
        train, validation = (
            [document.text.encode() for document in part()] for part in (split.train, split.validation)
        )
        self._validation_bytes = sum(map(len, validation))
        texts = [b"\n".join(train), b"\n".join(train + validation)]
        self._total, self._done = sum(map(len, texts)), 0
        self._sizes = [self._pool.submit(self._size, text) for text in texts]

    def _size(self, data: bytes) -> int:
        compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, preset=9 | lzma.PRESET_EXTREME)
        compressed = 0
        for start in range(0, len(data), _CHUNK):
            if self._stop.is_set():
                return 0
            compressed += len(compressor.compress(data[start : start + _CHUNK]))
            self._done += min(_CHUNK, len(data) - start)
        return compressed + len(compressor.flush())

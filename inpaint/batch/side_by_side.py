"""Fills of several threads at once on a CPU, as many as fit into memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from inpaint.inpainter import Inpainter
from inpaint.memory import BYTES_PER_PIXEL
from inpaint.window import find_windows
from inpaint.work import LARGEST_BATCH, Filled, Job


class SideBySide:
    """Lets every thread fill by itself. What does not fit beside the others waits.

    Args:
        inpainter: that all threads share.
        memory: bytes for all of them; one window alone may take all of it.
        jobs: threads, as far as is known.
    """

    def __init__(self, inpainter: Inpainter, memory: float, jobs: int) -> None:
        self._inpainter = inpainter
        self._memory = self._free = int(memory)
        self._share = memory / jobs
        self._changed = threading.Condition()
        self._first = threading.Lock()

    def fill(self, job: Job) -> Filled:
        with self._reserved(min(self._need(job), self._memory)):
            return self._inpainter.fill(job)

    def _need(self, job: Job) -> int:
        """Bytes that the job takes, or more where there is room for everyone."""
        pixels = job.hole.size
        if pixels * BYTES_PER_PIXEL > self._share:
            windows = find_windows(
                job.hole,
                scales=job.scales,
                largest_part=self._memory / BYTES_PER_PIXEL,
                barred=job.barred,
                variant=job.variant,
            )
            sizes = [level.part.size for window in windows for level in window.levels]
            pixels = max([LARGEST_BATCH, *(height * width for height, width in sizes)])
        return pixels * BYTES_PER_PIXEL

    @contextmanager
    def _reserved(self, need: int) -> Iterator[None]:
        with self._first, self._changed:  # one after the other, or large ones would wait until all small ones are done
            self._changed.wait_for(lambda: self._free >= need)
            self._free -= need
        try:
            yield
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()

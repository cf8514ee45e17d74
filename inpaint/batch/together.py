"""Fills of several threads in one call on a GPU, where windows of equal size run as one batch."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from inpaint.work import Filled, Job


class FillsAll(Protocol):
    """An ``Inpainter``, or what stands for one."""

    def fill_all(self, jobs: list[Job]) -> list[Filled]: ...


@dataclass(eq=False)
class _Waiting:
    job: Job
    filled: Filled | None = None
    error: Exception | None = None

    @property
    def is_done(self) -> bool:
        return self.filled is not None or self.error is not None


class Together:
    """One thread at a time fills, for itself and for all that wait: the jobs that came while it waited for its turn.

    Args:
        inpainter: that all threads share.
        most: jobs in one call.
    """

    def __init__(self, inpainter: FillsAll, most: int) -> None:
        self._inpainter = inpainter
        self._most = most
        self._waiting: deque[_Waiting] = deque()
        self._turn = threading.Lock()

    def fill(self, job: Job) -> Filled:
        mine = _Waiting(job)
        self._waiting.append(mine)
        with self._turn:
            while not mine.is_done:
                self._fill([self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))])
        if mine.filled is None:
            assert mine.error is not None
            raise mine.error
        return mine.filled

    def _fill(self, group: list[_Waiting]) -> None:
        """Where a call fails, each of its jobs is tried alone, so that one failing job takes no other with it."""
        try:
            for each, filled in zip(group, self._inpainter.fill_all([each.job for each in group]), strict=True):
                each.filled = filled
        except Exception as error:
            if len(group) == 1:
                group[0].error = error
                return
            for each in group:
                self._fill([each])

"""Stages: how long each step of the pipeline takes, without making a GPU wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class StageTime:
    """A step that has ended: infer, vgg, match, translate, blend or enlarge; (height, width) in pixels of what it
    worked on; seconds."""

    name: str
    size: tuple[int, int]
    seconds: float


class Stages:
    """Measures steps. On a GPU their ends are marked as events, which are read when the work is done."""

    def __init__(self, device: torch.device, on_stage: Callable[[StageTime], None] | None = None) -> None:
        self.times: list[StageTime] = []
        self._device = device
        self._on_stage = on_stage
        self._marks: list[tuple[str, tuple[int, int], torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str, size: tuple[int, int]) -> Iterator[None]:
        """Measures what is done in its block."""
        if self._device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            yield
            end.record()
            self._marks.append((name, size, start, end))
        else:
            begin = time.perf_counter()
            yield
            self._ended(StageTime(name, size, time.perf_counter() - begin))

    def read(self) -> None:
        """Adds the times of steps on a GPU, which must have ended."""
        for name, size, start, end in self._marks:
            self._ended(StageTime(name, size, start.elapsed_time(end) / 1e3))
        self._marks.clear()

    def _ended(self, stage: StageTime) -> None:
        self.times.append(stage)
        if self._on_stage:
            self._on_stage(stage)

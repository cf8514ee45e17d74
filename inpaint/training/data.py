"""Photographs for training: cropped, flipped and holed from seeds alone."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inpaint.errors import InpaintError
from inpaint.mask import training_mask
from inpaint.training.config import TrainingConfig
from inpaint.training.sources import Photograph, find_photographs, open_photograph


class Batch(NamedTuple):
    """Pictures (B, 3, S, S) float32 RGB in [0, 1], holes (B, S, S) bool, True = hole, and the step they are for.

    ``unreadable``: names of the files that could not be decoded on the way to these pictures.
    """

    image: Tensor
    hole: Tensor
    step: int
    unreadable: Sequence[str] = ()

    def to(self, device: torch.device) -> Batch:
        return self._replace(
            image=self.image.to(device, non_blocking=True), hole=self.hole.to(device, non_blocking=True)
        )

    def split(self, parts: int) -> list[Batch]:
        """``parts`` batches of equal size."""
        pairs = zip(self.image.chunk(parts), self.hole.chunk(parts), strict=True)
        return [Batch(image, hole, self.step) for image, hole in pairs]


_HELD_OUT = 50  # every 50th photograph is kept for validation


class Photographs(Dataset[Batch]):
    """Crops of the photographs of ``data`` (as ``find_photographs`` takes it), one batch an item.

    Item ``step`` depends on ``config.seed`` and ``step`` alone, never on the worker or on what ran before: a resumed
    run sees the same pictures, crops and holes as one that was never stopped. Each epoch visits every photograph once,
    in an order of its own. A file that cannot be decoded is replaced by the next one. Every 50th photograph is held
    out: it is seen only with ``validation=True``.

    Of ``share`` = (rank, world) processes each makes its own part of every batch.
    """

    def __init__(
        self,
        data: Path | str | Sequence[Photograph],
        config: TrainingConfig,
        *,
        validation: bool = False,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        files = find_photographs(data) if isinstance(data, Path | str) else data
        held_out = validation or len(files) == 1
        self.files = [file for number, file in enumerate(files) if (number % _HELD_OUT == 0) == held_out]
        self.config = config
        self.share = share

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        rank, world = self.share
        size = self.config.batch // world
        first = step * self.config.batch + rank * size
        unreadable: list[str] = []
        samples = [self._sample(first + item, unreadable) for item in range(size)]
        images, holes = zip(*samples, strict=True)
        return Batch(torch.stack(images), torch.stack(holes), step, unreadable)

    def _sample(self, number: int, unreadable: list[str]) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(number, len(self.files))
        order = _order(self.config.seed, epoch, len(self.files))
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        for attempt in range(len(self.files)):
            photograph = self.files[order[(position + attempt) % len(self.files)]]
            try:
                with open_photograph(photograph) as stream, Image.open(stream) as file:
                    image = _crop(file, self.config, generator)
            except Exception:  # decoders of damaged files fail in ways of their own, each of which means: leave it out
                unreadable.append(str(photograph))
                continue
            return image, training_mask(image.shape[1], image.shape[2], generator)
        raise InpaintError(f"expected photographs, none of the {len(self.files)} files could be decoded; check --data")


@lru_cache(maxsize=2)  # a batch may reach from one epoch into the next
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def _crop(file: Image.Image, config: TrainingConfig, generator: torch.Generator) -> Tensor:
    """A square of ``config.image_size`` out of the photograph, zoomed and flipped at random: (3, S, S) in [0, 1]."""
    draws = torch.rand(4, generator=generator).tolist()
    low, high = config.zoom
    side = config.image_size
    short = round(side * (low + (high - low) * draws[0]))
    file.draft("RGB", (short, short))  # lets the JPEG decoder skip detail that would be thrown away
    photograph = file.convert("RGB")
    scale = short / min(photograph.size)
    width, height = (max(side, round(length * scale)) for length in photograph.size)
    left, top = draws[1] * (width - side), draws[2] * (height - side)
    right, bottom = min((left + side) / scale, photograph.width), min((top + side) / scale, photograph.height)
    box = (left / scale, top / scale, right, bottom)
    crop = photograph.resize((side, side), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    if draws[3] < 0.5:
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return torch.from_numpy(np.array(crop)).permute(2, 0, 1).float().div(255)


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A signal to end comes to all processes of a group: workers that it ended would keep the trainer from saving."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def batches(photographs: Photographs, first_step: int = 0, *, pin_memory: bool = False) -> Iterator[Batch]:
    """Batches ``first_step`` .. ``config.steps`` - 1 in order, decoded ahead by ``config.workers`` processes."""
    workers = photographs.config.workers
    loader = DataLoader(
        photographs,
        batch_size=None,
        sampler=range(first_step, photographs.config.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_signals_to_the_trainer if workers else None,
        pin_memory=pin_memory,
    )
    return iter(loader)

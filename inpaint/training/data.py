"""Photographs for training: any folder tree of images, cropped, flipped and holed from seeds alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from inpaint.errors import InpaintError
from inpaint.mask import training_mask
from inpaint.training.config import TrainingConfig

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


class Batch(NamedTuple):
    """Pictures (B, 3, S, S) float32 RGB in [0, 1], holes (B, S, S) bool, True = hole, and the step they are for."""

    image: Tensor
    hole: Tensor
    step: int


_HELD_OUT = 50  # every 50th photograph is kept for validation


class Photographs(Dataset[Batch]):
    """Crops of the photographs under ``folder``, one batch an item.

    Item ``step`` depends on ``config.seed`` and ``step`` alone, never on the worker or on what ran before: a resumed
    run sees the same pictures, crops and holes as one that was never stopped. Each epoch visits every photograph once,
    in an order of its own. A file that cannot be decoded is replaced by the next one. Every 50th photograph is held
    out: it is seen only with ``validation=True``.
    """

    def __init__(self, folder: Path, config: TrainingConfig, *, validation: bool = False) -> None:
        files = find_photographs(folder)
        held_out = files[::_HELD_OUT]
        self.files = held_out if validation or len(files) == 1 else sorted(set(files) - set(held_out))
        self.config = config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        samples = [self._sample(step * self.config.batch + item) for item in range(self.config.batch)]
        images, holes = zip(*samples, strict=True)
        return Batch(torch.stack(images), torch.stack(holes), step)

    def _sample(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(number, len(self.files))
        order = np.random.default_rng((self.config.seed, epoch)).permutation(len(self.files))
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        for attempt in range(len(self.files)):
            try:
                with Image.open(self.files[order[(position + attempt) % len(self.files)]]) as file:
                    image = _crop(file, self.config, generator)
            except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
                continue
            return image, training_mask(image.shape[1], image.shape[2], generator)
        raise InpaintError(f"expected photographs, none of the {len(self.files)} files could be decoded; check --data")


def find_photographs(folder: Path) -> list[Path]:
    """All image files below ``folder``, sorted by path. InpaintError if there are none."""
    if not folder.is_dir():
        raise InpaintError(f"{folder}: expected a folder of photographs, found none; check --data")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not files:
        raise InpaintError(f"{folder}: expected photographs ({', '.join(sorted(_SUFFIXES))}), found none; check --data")
    return files


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


def batches(folder: Path, config: TrainingConfig, first_step: int = 0) -> Iterator[Batch]:
    """Batches ``first_step`` .. ``config.steps`` - 1 in order, decoded ahead by ``config.workers`` processes."""
    loader = DataLoader(
        Photographs(folder, config),
        batch_size=None,
        sampler=range(first_step, config.steps),
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )
    return iter(loader)

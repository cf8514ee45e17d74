"""A folder of photographs and one of masks, as small as they come."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint.photo import Patch
from inpaint.window import find_windows
from inpaint.work import Filled


@dataclass
class Folder:
    """Photographs of 32x24 pixels in ``photos``, masks in ``masks``, and where results go."""

    path: Path
    holes: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def photos(self) -> Path:
        return self.path / "photos"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def out(self) -> Path:
        return self.path / "out"

    @property
    def manifest(self) -> Path:
        return self.out / "manifest.jsonl"

    def add(self, name: str, seed: int) -> None:
        """A photograph of that name, and its mask as PNG."""
        random = np.random.default_rng(seed)
        photo = self.photos / name
        mask = (self.masks / name).with_suffix(".png")
        for path in (photo, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(photo)
        hole = np.zeros((24, 32), bool)
        hole[8:16, 8 + seed % 4 : 20] = True
        Image.fromarray(hole).save(mask)
        self.holes[name] = hole

    def results(self) -> dict[str, bytes]:
        """All files of the folder of results but the manifest."""
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and path != self.manifest
        }


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    for number, name in enumerate(["a.png", "b.jpg", "c.tif", "sub/a.webp", "sub/deep/d.png"]):
        folder.add(name, number)
    return folder


class Red:
    """Fills holes with red and remembers the sizes of the calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def fill(self, job, **options) -> Filled:
        return self.fill_all([job])[0]

    def fill_all(self, jobs, **options) -> list[Filled]:
        self.calls.append(len(jobs))
        return [self._filled(job) for job in jobs]

    def _filled(self, job) -> Filled:
        red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, *job.hole.shape)
        picture = job.picture.filled([Patch(slice(None), slice(None), red, job.hole)])
        return Filled(picture, job.notes, find_windows(job.hole))


@pytest.fixture
def red() -> Red:
    return Red()

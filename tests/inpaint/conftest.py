from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import inpaint
from inpaint import weights
from inpaint.inpainter import Inpainter
from inpaint.mask import strokes
from inpaint.networks import Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.vgg import load_vgg19
from inpaint.photo import Patch
from inpaint.stages import StageTime
from inpaint.window import find_windows
from inpaint.work import Filled, KeptScale, KeptWindow

MakeHole = Callable[[str, int, int, int], np.ndarray]


@pytest.fixture(scope="session")
def networks() -> weights.Networks:
    """Real VGG-19, small untrained networks: what is tested with them holds for any weights."""
    torch.manual_seed(0)
    painter = Image2Feature(Image2FeatureConfig(widths=(8, 8, 8), dilations=(1, 2)))
    torch.nn.init.normal_(painter.to_rgb.weight, std=0.1)  # which is zero before training
    decoder = Feature2Image(Feature2ImageConfig(widths=(8, 8), upper=(8, 8)))
    return weights.Networks(
        painter.eval().requires_grad_(False),
        decoder.eval().requires_grad_(False),
        load_vgg19(weights.FOLDER / weights.VGG_FILE),
        "",
    )


@pytest.fixture(scope="session")
def inpainter(networks: weights.Networks) -> Inpainter:
    """With as much memory as it takes, so that results do not depend on what else runs on the machine."""
    return Inpainter(networks, precision="float32", max_memory=2**33)


class FakeInpainter:
    """Fills the hole with red, at one scale, and remembers how it was called."""

    loads = 0

    def __init__(self) -> None:
        self.jobs = []

    def fill(self, job, *, keep=False, on_stage=None):
        self.job = job
        self.jobs.append(job)
        times = [StageTime(name, job.picture.size, 0.25) for name in ("infer", "vgg", "match", "translate", "blend")]
        for stage in times if on_stage else ():
            on_stage(stage)
        windows = find_windows(job.hole)
        red = torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, *job.hole.shape)
        filled = job.picture.filled([Patch(slice(None), slice(None), red, job.hole)])
        kept = [self.kept(window, red, filled.colours()) for window in windows] if keep else []
        return Filled(filled, job.notes, windows, times, kept)

    def kept(self, window, red, filled):
        level = window.levels[-1]
        part = (..., level.part.rows, level.part.columns)
        scale = KeptScale(level, filled[part], red[part], filled[part], torch.full(level.queries.shape, -1))
        return KeptWindow(window, filled[part][:, ::2, ::2], [scale])


@pytest.fixture
def fake(monkeypatch) -> FakeInpainter:
    inpainter = FakeInpainter()

    def load(name_or_path="default", device="auto", *, precision="auto", max_memory=None):
        inpainter.loads += 1
        inpainter.loaded = (name_or_path, device, precision, max_memory)
        return inpainter

    monkeypatch.setattr(inpaint, "load", load, raising=False)
    return inpainter


@pytest.fixture(scope="session")
def make_hole() -> MakeHole:
    """Of a kind, height, width and seed: a hole (H, W) bool with at least one pixel, and not all of them."""
    return _make_hole


def _make_hole(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    hole = np.zeros((height, width), bool)
    if kind in ("thin", "medium", "thick"):
        hole = strokes(height, width, torch.Generator().manual_seed(seed), kind=kind).numpy().copy()  # type: ignore[arg-type]
    elif kind == "specks":
        for row, column in random.integers(0, (height, width), (random.integers(1, 40), 2)):
            hole[row : row + random.integers(1, 4), column : column + random.integers(1, 4)] = True
    elif kind == "frame":
        thickness = random.integers(1, max(2, min(height, width) // 3))
        hole[:] = True
        hole[thickness:-thickness, thickness:-thickness] = False
    elif kind == "one known pixel":
        hole[:] = True
    elif kind == "scratch":
        steps = np.linspace(0, 1, 2 * max(height, width))
        hole[(steps * (height - 1)).astype(int), (steps * (width - 1)).astype(int)] = True
    else:  # rectangles
        for _ in range(random.integers(1, 4)):
            top, left = random.integers(0, (height, width))
            hole[top : top + random.integers(1, height + 1), left : left + random.integers(1, width + 1)] = True
    if not hole.any():
        hole[random.integers(height), random.integers(width)] = True
    if hole.all() and hole.size > 1:
        hole[random.integers(height), random.integers(width)] = False
    return hole

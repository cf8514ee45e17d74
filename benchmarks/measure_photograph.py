"""Measures jobs that bench_photograph.py sends: filling one hole of a large photograph, in a process of its own.

A job: {"hole", "photograph", "device", "seconds"}: hole is one of HOLES, photograph a file, or null for the one that
``make_photograph`` makes. A whole fill is everything from the decoded photograph and its mask to the filled
photograph, networks loaded: ``prepare`` and ``Inpainter.fill``.

Where all of the work is in one window that is smaller than the photograph, the part that this window sees is cut out
beforehand and filled as a picture of its own, in turn with the photograph.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
import torch.nn.functional as F
from cases import PHOTOGRAPH_FOLDER, PHOTOGRAPHS
from measure import MOST_ROUNDS, answer_jobs, peak_memory, reset_peak
from measure_pipeline import FEWEST_RUNS, machine_seconds, wanted

import inpaint
from inpaint import photo
from inpaint.inpainter import Inpainter
from inpaint.photo import LUMINANCE, Photo
from inpaint.window import Window, halved
from inpaint.work import Filled, prepare

SIZE = (2560, 3840)  # of the photograph that is made: height and width in pixels
SMALLEST = 256  # short side in pixels of a photograph that the holes fit into
SINGLE_RUN = 10.0  # seconds from which on one run has to do

Size = tuple[int, int]


def rectangle(size: Size, extent: Size) -> np.ndarray:
    """(H, W) bool: a rectangle of (height, width) in the middle."""
    hole = np.zeros(size, bool)
    top, left = ((whole - part) // 2 for whole, part in zip(size, extent, strict=True))
    hole[top : top + extent[0], left : left + extent[1]] = True
    return hole


def corners(size: Size) -> np.ndarray:
    """Squares of 20x20 pixels in the first and the last corner."""
    hole = np.zeros(size, bool)
    hole[:20, :20] = hole[-20:, -20:] = True
    return hole


def discs(size: Size) -> np.ndarray:
    """300 discs of radius 2 to 5 pixels anywhere, the same every time."""
    hole, random = np.zeros(size, bool), np.random.default_rng(0)
    for radius in random.integers(2, 6, 300).tolist():
        row, column = (int(random.integers(radius, length - radius)) for length in size)
        disc = np.hypot(*np.mgrid[-radius : radius + 1, -radius : radius + 1]) <= radius
        hole[row - radius : row + radius + 1, column - radius : column + radius + 1] |= disc
    return hole


HOLES: dict[str, Callable[[Size], np.ndarray]] = {
    "200x200": lambda size: rectangle(size, (200, 200)),
    "two corners": corners,
    "300 discs": discs,
    "middle quarter": lambda size: rectangle(size, (size[0] // 2, size[1] // 2)),
}


def make_photograph(size: Size = SIZE) -> Photo:
    """The photographs of examples/photos at their own scale, each in the middle of a tile, three tiles by three.

    A tile is filled by mirroring its photograph at all sides. So what a hole covers is there once more, mirrored: what
    is painted into it says less of the pictures than of the work.
    """
    tile = [-(-length // 3) for length in size]
    tiles = []
    for name in sorted(PHOTOGRAPHS):
        samples = photo.read(PHOTOGRAPH_FOLDER / name).samples
        rows, columns = (_mirrored(*lengths) for lengths in zip(samples.shape, tile, strict=False))
        tiles.append(samples[rows][:, columns])
    whole = np.block([[[tiles[(3 * row + column) % len(tiles)]] for column in range(3)] for row in range(3)])
    return Photo(np.ascontiguousarray(whole[: size[0], : size[1]]))


def _mirrored(length: int, wanted: int) -> np.ndarray:
    """Positions 0 to length - 1, mirrored again and again at both ends: ``wanted`` of them around the middle."""
    positions = (np.arange(wanted) + (length - wanted) // 2) % (2 * length)
    return np.minimum(positions, 2 * length - 1 - positions)


def read_photograph(file: str | None) -> Photo:
    """ValueError for a photograph that the holes do not fit into."""
    picture = make_photograph() if file is None else photo.read(file)
    if min(picture.size) < SMALLEST:
        height, width = picture.size
        raise ValueError(f"photograph: expected at least {SMALLEST} pixels a side, got {width}x{height}")
    return picture


def cut_out(picture: Photo, hole: np.ndarray, windows: Sequence[Window]) -> tuple[Photo, np.ndarray] | None:
    """What the only window sees, and the hole in it, where that is less than the photograph."""
    if len(windows) != 1 or windows[0].crop.size == picture.size:
        return None
    rows, columns = windows[0].crop.rows, windows[0].crop.columns
    return Photo(picture.samples[rows, columns].copy()), hole[rows, columns].copy()


def detail(picture: Photo, hole: np.ndarray) -> float:
    """Standard deviation over the hole of a pixel's luminance less the mean of its four neighbours'."""
    grey = torch.einsum("c,chw->hw", torch.tensor(LUMINANCE), picture.colours())
    around = F.pad(grey[None], (1, 1, 1, 1), mode="replicate")[0]
    mean = (around[:-2, 1:-1] + around[2:, 1:-1] + around[1:-1, :-2] + around[1:-1, 2:]) / 4
    return float((grey - mean)[torch.from_numpy(hole)].std(correction=0))


def fill(inpainter: Inpainter, picture: Photo, hole: np.ndarray) -> Filled:
    return inpainter.fill(prepare(picture, hole))


def warm_up(inpainter: Inpainter, picture: Photo) -> None:
    """Fills a corner of the photograph: code is loaded before time and memory are counted."""
    fill(inpainter, Photo(picture.samples[:128, :128]), rectangle((128, 128), (64, 64)))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    picture = read_photograph(job["photograph"])
    hole = HOLES[job["hole"]](picture.size)
    inpainter = inpaint.load(device=job["device"])
    warm_up(inpainter, picture)
    before, start = reset_peak(job["device"]), machine_seconds()
    times: list[float] = []
    cut_times: list[float] = []
    stages: list[dict[str, float]] = []
    while not times or (times[0] < SINGLE_RUN and len(times) < MOST_ROUNDS and wanted(times, job["seconds"])):
        seconds, filled = _timed(inpainter, picture, hole)
        times.append(seconds)
        stages.append(dict.fromkeys((step.name for step in filled.times), 0.0))
        for step in filled.times:
            stages[-1][step.name] += step.seconds
        if len(times) == 1:
            memory = peak_memory(job["device"]) - before
            check(filled.picture, picture, hole)
            cut = cut_out(picture, hole, filled.windows)
        if cut:
            cut_times.append(_timed(inpainter, *cut)[0])
    wall, others = (after - begin for after, begin in zip(machine_seconds(), start, strict=True))
    if len(times) > FEWEST_RUNS:  # the first run of a size asks the system for memory
        del times[0], stages[0], cut_times[:1]
    truth = detail(picture, hole)
    finest = max(window.levels[-1].halvings for window in filled.windows)
    return {
        "hole_pixels": int(hole.sum()),
        "windows": len(filled.windows),
        "finest": halved(min(picture.size), finest),
        "times": times,
        "cut_times": cut_times,
        "stages": {name: statistics.median(each[name] for each in stages) for name in stages[0]},
        "peak_memory": memory,
        "detail": detail(filled.picture, hole) / truth if truth else None,
        "others": others / wall / (os.cpu_count() or 1),
    }


def check(filled: Photo, picture: Photo, hole: np.ndarray) -> None:
    if not np.array_equal(filled.samples[~hole], picture.samples[~hole]):
        raise ValueError("expected known pixels as they were, got others")


def _timed(inpainter: Inpainter, picture: Photo, hole: np.ndarray) -> tuple[float, Filled]:
    """Seconds of a whole fill, and what came of it."""
    start = time.perf_counter()
    filled = fill(inpainter, picture, hole)
    return time.perf_counter() - start, filled


if __name__ == "__main__":
    answer_jobs(measure)

"""Windows: which parts of a photograph are worked on, at which scales, and what is hole, query and key there.

All of it follows from the hole alone and is found on the CPU, before any device is used. A scale has half the size of
the one below it: a pixel of scale k is a square of 2**k x 2**k pixels of the photograph. A cell is 4x4 pixels of its
scale (inpaint.cells).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from inpaint.cells import CELL, PATCH, pooled, rounded_up, touched
from inpaint.clusters import Cluster, find_clusters, window_side
from inpaint.depth import DEEPEST
from inpaint.errors import InpaintError
from inpaint.variants import bar_some

COARSEST = 96  # pixels that the photograph's short side has at the coarsest scale, at least
LARGEST_SEARCH = 1e10  # queries times keys that are compared at one scale, at most
_SMALLEST = 16  # short side in pixels of the smallest scale that may be asked for


class Box(NamedTuple):
    """A rectangle on a grid of pixels or cells; rows from ``top`` to ``bottom``, columns from ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def scaled(self, factor: int) -> Box:
        """The same rectangle on a grid that is ``factor`` times as fine."""
        return Box(*(factor * side for side in self))

    def moved(self, down: int, right: int) -> Box:
        return Box(self.top + down, self.left + right, self.bottom + down, self.right + right)

    def within(self, size: tuple[int, ...]) -> Box:
        """The part of it that lies on a grid of that size."""
        return Box(max(0, self.top), max(0, self.left), min(size[0], self.bottom), min(size[1], self.right))


@dataclass(frozen=True)
class Level:
    """One scale of a window.

    halvings: k, where a pixel is 2**k pixels of the photograph wide. size: (height, width) of the whole photograph at
    this scale. part: what is worked on, in pixels of the photograph at this scale; it begins at whole cells.
    unknown, own: (h, w) bool over the part: pixels of any hole, and of the holes that this window fills. barred: known
    pixels that are not copied, (h, w) bool, or None where all may be.
    """

    halvings: int
    size: tuple[int, int]
    part: Box
    unknown: np.ndarray
    own: np.ndarray
    barred: np.ndarray | None = None

    @cached_property
    def unknown_cells(self) -> np.ndarray:
        """(h', w') bool: cells with an unknown pixel."""
        return pooled(self.unknown)

    @cached_property
    def own_cells(self) -> np.ndarray:
        """(h', w') bool: cells with a pixel that this window fills."""
        return pooled(self.own)

    @cached_property
    def keys(self) -> np.ndarray:
        """(h'-2, w'-2) bool: patches of known cells alone that may be copied."""
        return ~touched(self.unknown_cells if self.barred is None else pooled(self.unknown | self.barred))

    @cached_property
    def queries(self) -> np.ndarray:
        """(h'-2, w'-2) bool: patches with a cell that is to be filled; none where there is no key."""
        return touched(self.own_cells) & self.keys.any()

    @cached_property
    def near(self) -> Box:
        """The cells to be filled and those that share a patch with one, in cells of the part."""
        rows, columns = (np.flatnonzero(self.own_cells.any(axis)).tolist() for axis in (1, 0))
        reach = PATCH - 1
        box = Box(rows[0] - reach, columns[0] - reach, rows[-1] + 1 + reach, columns[-1] + 1 + reach)
        return box.within(self.own_cells.shape)


@dataclass(frozen=True)
class Window:
    """A part of the photograph in which some of its holes are filled, independently of all other windows.

    crop: the pixels of the photograph that it sees. unknown, own: (h, w) bool over the crop: pixels of any hole, and of
    the holes that it fills. levels: coarse to fine. depth: of its holes (inpaint.depth), in
    pixels.
    """

    crop: Box
    unknown: np.ndarray
    own: np.ndarray
    levels: tuple[Level, ...]
    depth: int

    @property
    def shape(self) -> tuple[object, ...]:
        """What windows have in common that are filled as one batch.

        That is the size of all that is stacked: crops, parts, and the pixels of the photograph that the last part has;
        and where in a pixel of the coarser scale a part begins.
        """
        levels = tuple((level.halvings, level.part.size, bool(level.queries.any())) for level in self.levels)
        last = self.levels[-1]
        pixels = last.part.scaled(1 << last.halvings).within((self.crop.bottom, self.crop.right))
        begins = tuple(
            (finer.part.top % step, finer.part.left % step)
            for coarser, finer in zip(self.levels, self.levels[1:], strict=False)
            for step in [1 << (coarser.halvings - finer.halvings)]
        )
        return self.crop.size, levels, pixels.size, begins


class _Task(NamedTuple):
    """What all windows of a photograph have in common: its hole, the halvings of its scales where they are given, how
    large a part may be, what is not copied, the box around what may be, and the number of the variant."""

    hole: np.ndarray
    halvings: list[int] | None
    largest_part: float
    barred: np.ndarray | None
    sources: Box | None
    variant: int


def find_windows(
    hole: np.ndarray,
    *,
    scales: Sequence[int] | None = None,
    largest_part: float = float("inf"),
    barred: np.ndarray | None = None,
    variant: int = 0,
) -> list[Window]:
    """The windows in which the holes of a photograph are filled, one for each cluster of holes.

    At every scale a window is the cluster's bounding box with room for keys around it (``clusters.window_side``), so
    that coarse scales see more of the photograph. By default there are as many scales as it takes until the middle of
    the hole lies within DEEPEST pixels of known ones: what is wide is filled at a scale where it is narrow, what is
    narrow is not coarsened at all. Fine scales are left out whose part is larger than ``largest_part``, or whose search
    compares more than LARGEST_SEARCH pairs of patches.

    Args:
        hole: (H, W) bool, True = hole.
        scales: short sides of the photograph in pixels, growing, instead of the automatic choice. Each is the
            photograph's own short side, halved some times.
        largest_part: pixels.
        barred: (H, W) bool, pixels that are not copied. A window with fewer keys than queries then reaches as far as
            there are pixels that may be copied.
        variant: 0, or the number of another choice of keys (``inpaint.variants``).

    Raises:
        InpaintError: unfit scales.
    """
    halvings = None if scales is None else halvings_of(scales, hole.shape)
    sources = None if barred is None else _box_around(~(barred | hole))
    task = _Task(hole, halvings, largest_part, barred, sources, variant)
    return [_window(task, cluster) for cluster in find_clusters(hole)]


def halvings_of(scales: Sequence[int], size: tuple[int, ...]) -> list[int]:
    """How many times the photograph is halved for each of these short sides, coarse to fine.

    Raises:
        InpaintError: sides that do not grow, or that are not the photograph's, halved some times.
    """
    short = min(size)
    sides = {halved(short, times): times for times in reversed(range(short.bit_length()))}
    possible = [side for side in sorted(sides) if side >= min(_SMALLEST, short)]
    if not scales or list(scales) != sorted(set(scales)) or not set(scales) <= set(possible):
        raise InpaintError(
            f"scales: expected growing short sides out of {', '.join(map(str, possible))} (this picture's, halved), "
            f"got {', '.join(map(str, scales)) or 'none'}; leave them out for the automatic choice"
        )
    return [sides[side] for side in scales]


def halved(length: int, times: int) -> int:
    """A length in pixels, halved so many times and rounded up."""
    return -(-length >> times)


def _window(task: _Task, cluster: Cluster) -> Window:
    window = _window_that_fits(task, cluster, None)
    if task.sources is None or _has_enough_keys(window.levels[-1]):
        return window
    return _window_that_fits(task, cluster, task.sources)


def _has_enough_keys(level: Level) -> bool:
    return int(np.count_nonzero(level.keys)) >= int(np.count_nonzero(touched(level.own_cells)))


def _box_around(pixels: np.ndarray) -> Box | None:
    """The smallest box with all True pixels; None where there is none."""
    rows, columns = (np.flatnonzero(pixels.any(axis)).tolist() for axis in (1, 0))
    return Box(rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows else None


def _window_that_fits(task: _Task, cluster: Cluster, sources: Box | None) -> Window:
    """The window, which holds ``sources`` as well, at scales of which the coarsest is not too large."""
    most = max(0, (min(task.hole.shape) // COARSEST).bit_length() - 1)
    coarsest = next((times for times in range(most) if cluster.depth <= DEEPEST << times), most)
    for times in range(coarsest, most + 1):
        window = _window_of(task, cluster, task.halvings or list(range(times, -1, -1)), sources)
        if task.halvings or not _is_too_large(window.levels[0], task.largest_part):
            break
    return window


def _window_of(task: _Task, cluster: Cluster, halvings: list[int], sources: Box | None) -> Window:
    """The window with levels of these scales, less the fine ones that are too large."""
    size = task.hole.shape
    parts: list[Box] = []
    for finer, times in zip([None, *halvings[:0:-1]], reversed(halvings), strict=True):
        parts.append(_part(cluster, size, times, None if finer is None else (parts[-1], times - finer), sources))
    crop = parts[-1].scaled(1 << halvings[0]).within(size)
    unknown = task.hole[crop.rows, crop.columns]
    own = cluster.own(unknown, crop.top, crop.left)
    barred = None if task.barred is None else task.barred[crop.rows, crop.columns]
    if task.variant:
        barred = bar_some(unknown, barred, (task.variant, crop.top, crop.left))
    masks = (unknown, own) if barred is None else (unknown, own, barred)
    levels: list[Level] = []
    for times, part in zip(halvings, reversed(parts), strict=True):
        inside = part.moved(-(crop.top >> times), -(crop.left >> times)).scaled(1 << times)
        level = Level(
            times,
            (halved(size[0], times), halved(size[1], times)),
            part,
            *(pooled(mask[inside.rows, inside.columns], 1 << times) for mask in masks),
        )
        if levels and _is_too_large(level, task.largest_part):
            break
        levels.append(level)
    return Window(crop, unknown, own, tuple(levels), cluster.depth)


def _is_too_large(level: Level, largest_part: float) -> bool:
    height, width = level.part.size
    pairs = int(np.count_nonzero(level.queries)) * int(np.count_nonzero(level.keys))
    return height * width > largest_part or pairs > LARGEST_SEARCH


def _part(
    cluster: Cluster, size: tuple[int, ...], halvings: int, finer: tuple[Box, int] | None, sources: Box | None
) -> Box:
    """What is worked on at a scale: around the cluster, around the part of the finer scale so many steps below, and
    around ``sources``, a box of the photograph."""
    box = [side >> halvings for side in cluster.box[:2]] + [halved(side, halvings) for side in cluster.box[2:]]
    longest = max(box[2] - box[0], box[3] - box[1])
    contained = [each for each in (finer, sources and (sources, halvings)) if each]
    spans = []
    for axis in (0, 1):
        length = halved(size[axis], halvings)
        side = int(window_side(box[axis + 2] - box[axis], longest, cluster.is_wide))
        start, stop = _span(box[axis], box[axis + 2], side, length)
        for inner, times in contained:
            start = min(start, (inner[axis] >> times) // CELL * CELL)
            stop = max(stop, min(length, rounded_up(halved(inner[axis + 2], times), CELL)))
        spans.append((start, stop))
    (top, bottom), (left, right) = spans
    return Box(top, left, bottom, right)


def _span(first: int, last: int, side: int, length: int) -> tuple[int, int]:
    """Where a window of that side around the pixels from ``first`` to ``last`` lies on a line: from a whole cell on."""
    if side >= length:
        return 0, length
    start = min(max(0, (first + last - side) // 2) // CELL * CELL, rounded_up(length - side, CELL))
    return start, min(start + side, length)

"""Clusters: which holes of a photograph are filled together, in one window.

Holes are cut into blocks. Blocks that touch each other form a cluster. Then clusters whose common window costs less
than two windows are joined, and narrow ones that cost less in two halves (a long scratch) are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from inpaint.cells import CELL, pooled, rounded_up, touched
from inpaint.depth import DEEPEST, hole_depth

_BLOCK = 32  # pixels a side of the blocks that a hole is cut into, or a power of two more ...
_MOST = 1024  # ... so that there are at most so many clusters before any are joined
_GRAIN = 16  # sides of windows are multiples of this, so that many are of equal size

# What a window costs, in pixels that pass through the networks: its area, one for so many compared pairs of patches,
# and as much again as starting the work on a small one takes.
_PAIRS_PER_PIXEL = 1000
_START = 10_000

Integers = int | npt.NDArray[np.integer]
Bools = bool | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Cluster:
    """Holes that are filled together.

    box: (top, left, bottom, right) around their pixels, ends not included. blocks: (h', w') bool, the squares of
    ``side`` pixels of the photograph that hold them; no other cluster has pixels there. is_wide: too deep to be filled
    at the photograph's own scale alone.
    """

    box: tuple[int, int, int, int]
    blocks: np.ndarray
    side: int
    depth: int

    @property
    def is_wide(self) -> bool:
        return self.depth > DEEPEST

    def own(self, hole: np.ndarray, top: int, left: int) -> np.ndarray:
        """Which pixels of a part of the hole, (h, w) bool from row ``top`` and column ``left``, belong to it."""
        height, width = hole.shape
        rows, columns = np.arange(top, top + height) // self.side, np.arange(left, left + width) // self.side
        return hole & self.blocks[rows][:, columns]


def find_clusters(hole: np.ndarray) -> list[Cluster]:
    """The clusters of a hole (H, W) bool, in reading order of their first block."""
    if not hole.any():
        return []
    side = _BLOCK
    while (labels := _connected(pooled(hole, side))).max() > _MOST:
        side *= 2
    blocks = _Blocks(hole, side, labels > 0)
    of_label = np.argsort(labels[labels > 0], kind="stable")
    ends = np.cumsum(np.bincount(labels[labels > 0]))[1:-1]
    groups = [blocks.group(members) for members in np.split(of_label, ends)]
    groups = _joined(blocks, [part for group in groups for part in _cut(blocks, group)])
    return [blocks.cluster(group) for group in sorted(groups, key=lambda group: int(group.members[0]))]


def window_side(extent: Integers, longest: Integers, is_wide: Bools) -> np.ndarray:
    """Side in pixels of the window around a hole, away from the photograph's borders.

    On both sides lies as much as the hole is long, where it is wide, and at least four times its longest side or, if
    that is less, 128 pixels: room for keys.

    Args:
        extent: of the hole's bounding box along this side.
        longest: the box's longer side.
        is_wide: whether the hole is.
    """
    context = np.clip(4 * np.asarray(longest), 32, 128)
    return rounded_up(np.asarray(extent + 2 * np.maximum(np.where(is_wide, extent, 0), context)), _GRAIN)


class _Group(NamedTuple):
    """Blocks, by number, in growing order; the box around their pixels; their queries, and their depth in pixels."""

    members: np.ndarray
    box: np.ndarray
    queries: int
    depth: int


class _Blocks:
    """The blocks that hold hole pixels, in reading order."""

    def __init__(self, hole: np.ndarray, side: int, occupied: np.ndarray) -> None:
        self.hole, self.side, self.occupied = hole, side, occupied
        self.place = np.argwhere(occupied)
        if any(length % side for length in hole.shape):
            hole = np.pad(hole, [(0, -length % side) for length in hole.shape])
        rows, columns = occupied.shape
        tiles = hole.reshape(rows, side, columns, side).swapaxes(1, 2)[occupied]
        spans = []
        for axis in (2, 1):
            pixels = tiles.any(axis)
            spans.append((pixels.argmax(1), side - pixels[:, ::-1].argmax(1)))
        (top, bottom), (left, right) = spans
        down, across = (side * self.place).T
        self.box = np.stack([down + top, across + left, down + bottom, across + right], axis=1)
        cells = pooled(hole)
        queries = np.argwhere(touched(np.pad(cells, 1))) * CELL // side  # a patch counts where its middle cell lies
        count = np.bincount(queries @ [columns, 1], minlength=occupied.size).reshape(occupied.shape)
        self.queries = np.maximum(1, count[occupied])

    def group(self, members: np.ndarray) -> _Group:
        boxes = self.box[members]
        box = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])
        depth = hole_depth(self.hole, tuple(box.tolist()))
        return _Group(members, box, int(self.queries[members].sum()), depth)

    def cost(self, box: np.ndarray, queries: Integers, is_wide: Bools) -> np.ndarray:
        """Of windows around boxes (..., 4) that hold so many queries (...)."""
        extents = box[..., 2:] - box[..., :2]
        longest = extents.max(-1)
        height, width = (
            np.minimum(window_side(extents[..., axis], longest, is_wide), self.hole.shape[axis]) for axis in (0, 1)
        )
        return _START + height * width * (1 + queries / (CELL**2 * _PAIRS_PER_PIXEL))

    def cluster(self, group: _Group) -> Cluster:
        blocks = np.zeros(self.occupied.shape, bool)
        blocks[tuple(self.place[group.members].T)] = True
        top, left, bottom, right = group.box.tolist()
        return Cluster((top, left, bottom, right), blocks, self.side, group.depth)


def _connected(occupied: np.ndarray) -> np.ndarray:
    """Labels 1, 2, ... of the parts that hang together, diagonals included; 0 where ``occupied`` is False."""
    labels = np.zeros(np.add(occupied.shape, 2), np.int64)  # with a border, which no part reaches
    labels[1:-1, 1:-1][occupied] = -1
    count = 0
    for start in np.argwhere(labels).tolist():
        if labels[start[0], start[1]] > 0:
            continue
        count += 1
        labels[start[0], start[1]] = count
        waiting = [start]
        while waiting:
            row, column = waiting.pop()
            near = np.argwhere(labels[row - 1 : row + 2, column - 1 : column + 2] < 0) + (row - 1, column - 1)
            labels[near[:, 0], near[:, 1]] = count
            waiting.extend(near.tolist())
    return labels[1:-1, 1:-1]


def _cut(blocks: _Blocks, group: _Group) -> Iterator[_Group]:
    """The group itself, or, where it is narrow and that costs less, its halves, cut further in the same way."""
    axis = int(np.argmax(group.box[2:] - group.box[:2]))
    place = blocks.place[group.members, axis]
    is_first = place < (place.min() + place.max() + 1) // 2
    if group.depth <= DEEPEST and is_first.any():
        halves = [blocks.group(group.members[is_first]), blocks.group(group.members[~is_first])]
        if sum(blocks.cost(half.box, half.queries, False) for half in halves) < blocks.cost(
            group.box, group.queries, False
        ):
            for half in halves:
                yield from _cut(blocks, half)
            return
    yield group


def _joined(blocks: _Blocks, groups: list[_Group]) -> list[_Group]:
    """Groups, two of which are joined as long as that makes the sum of all costs less; the best two first."""
    boxes = np.array([group.box for group in groups])
    queries = np.array([group.queries for group in groups])
    depths = np.array([group.depth for group in groups])
    members = [group.members for group in groups]
    costs = blocks.cost(boxes, queries, depths > DEEPEST)

    def union(one: int) -> np.ndarray:
        return np.hstack([np.minimum(boxes[:, :2], boxes[one, :2]), np.maximum(boxes[:, 2:], boxes[one, 2:])])

    def gains(one: int) -> np.ndarray:
        is_wide = np.maximum(depths, depths[one]) > DEEPEST
        gained = costs + costs[one] - blocks.cost(union(one), queries + queries[one], is_wide)
        gained[one] = -np.inf
        return gained

    table = np.array([gains(one) for one in range(len(groups))])
    while table.max(initial=0) > 0:
        one, other = sorted(map(int, np.unravel_index(table.argmax(), table.shape)))
        members[one] = np.sort(np.concatenate([members[one], members[other]]))
        boxes[one] = union(one)[other]
        queries[one] += queries[other]
        depths[one] = max(depths[one], depths[other])
        costs[one] = blocks.cost(boxes[one], queries[one], depths[one] > DEEPEST)
        members[other], table[other], table[:, other] = members[other][:0], -np.inf, -np.inf
        gained = np.where(np.isneginf(table[one]), -np.inf, gains(one))
        table[one], table[:, one] = gained, gained
    remaining = zip(members, boxes, queries.tolist(), depths.tolist(), strict=True)
    return [_Group(*group) for group in remaining if len(group[0])]

"""Scenes: one scale of a batch of windows, as tensors on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inpaint.cells import CELL
from inpaint.window import Box, Level, Window


@dataclass(frozen=True)
class Scene:
    """One scale of windows of equal shape.

    halvings: as in ``Level``. size: (height, width) of the parts in pixels. corners: (top, left) of each part, in
    pixels of its window's crop at this scale. near: cells of the parts that hold all cells to be filled, and what
    shares a patch with them. is_matched: whether there are queries and keys.

    unknown, own: (B, 1, h, w) bool, pixels of any hole and of those to be filled. unknown_cells, own_cells:
    (B, 1, h', w') bool, cells that hold such pixels. queries, keys: (B, h'-2, w'-2) bool, patches.
    """

    halvings: int
    size: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    near: Box
    is_matched: bool
    unknown: Tensor
    own: Tensor
    unknown_cells: Tensor
    own_cells: Tensor
    queries: Tensor
    keys: Tensor

    @property
    def near_patches(self) -> tuple[slice, slice]:
        """Rows and columns of the patches inside ``near``."""
        top, left, bottom, right = self.near
        return slice(top, max(top, bottom - 2)), slice(left, max(left, right - 2))

    @property
    def near_pixels(self) -> Box:
        """``near`` in pixels; it may reach beyond the part's last row or column, which need not fill its cell."""
        return self.near.scaled(CELL)

    def cut(self, picture: Tensor, factor: int = 1) -> Tensor:
        """The parts of crops (B, C, H, W) that have ``factor`` times this scale's pixels."""
        return cut(picture, [(factor * top, factor * left) for top, left in self.corners], factor, self.size)


def cut(picture: Tensor, corners: Sequence[tuple[int, int]], factor: int, size: tuple[int, int]) -> Tensor:
    """Parts of pictures (B, C, H, W), each from its own corner on; less where a picture ends."""
    height, width = factor * size[0], factor * size[1]
    if len(set(corners)) == 1:
        top, left = corners[0]
        return picture[..., top : top + height, left : left + width]
    parts = [one[:, top : top + height, left : left + width] for one, (top, left) in zip(picture, corners, strict=True)]
    return torch.stack(parts)


def make_scenes(windows: Sequence[Window], device: torch.device) -> list[Scene]:
    """The scenes of windows of equal shape, coarse to fine."""
    return [
        _scene([window.levels[number] for window in windows], windows, device)
        for number in range(len(windows[0].levels))
    ]


def _scene(levels: Sequence[Level], windows: Sequence[Window], device: torch.device) -> Scene:
    def upload(of: Callable[[Level], np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack([of(level) for level in levels])).to(device, non_blocking=True)

    first = levels[0]
    nears = np.array([level.near for level in levels])
    return Scene(
        halvings=first.halvings,
        size=first.part.size,
        corners=tuple(
            (level.part.top - (crop.top >> level.halvings), level.part.left - (crop.left >> level.halvings))
            for level, crop in zip(levels, [window.crop for window in windows], strict=True)
        ),
        near=Box(*nears[:, :2].min(0).tolist(), *nears[:, 2:].max(0).tolist()),
        is_matched=bool(first.queries.any()),
        unknown=upload(lambda level: level.unknown).unsqueeze(1),
        own=upload(lambda level: level.own).unsqueeze(1),
        unknown_cells=upload(lambda level: level.unknown_cells).unsqueeze(1),
        own_cells=upload(lambda level: level.own_cells).unsqueeze(1),
        queries=upload(lambda level: level.queries),
        keys=upload(lambda level: level.keys),
    )

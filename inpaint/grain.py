"""Grain: the photograph's finest detail in a hole that was filled at a coarser scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

import patchswap
from inpaint.cells import CELL
from inpaint.pyramid import enlarge
from inpaint.scene import Scene
from inpaint.window import Box


def enlarge_with_grain(result: Tensor, index: Tensor, scene: Scene, fine: Tensor) -> Tensor:
    """The cells near the hole at the photograph's own scale: (B, 3, H', W').

    The result of the scale is enlarged. What the photograph has beyond its own picture at that scale, enlarged as well,
    is carried into the hole by the scale's match. Every cell takes it from one place, the cell that the patch around
    it was copied from: a mean over overlapping patches would be smooth.

    Args:
        result: (B, 3, h, w), the filled parts at this scale; the photograph where it is known.
        index: (B, h'-2, w'-2) int64, the key patch of every query, -1 elsewhere.
        scene: the scale.
        fine: (B, 3, H, W), the same parts of the photograph at its own scale, 2**scene.halvings times as fine.
    """
    factor = 1 << scene.halvings
    size = (fine.shape[2], fine.shape[3])
    enlarged = _enlarged_near(result, scene, factor, size)
    if not scene.is_matched:
        return enlarged
    missing = fine - enlarge(result, factor=factor)[..., : size[0], : size[1]]
    side = factor * CELL
    missing = F.pad(missing, (0, -size[1] % side, 0, -size[0] % side))
    rows, columns = missing.shape[2] // side, missing.shape[3] // side
    source = _cells_copied(index, rows, columns)[:, scene.near.rows, scene.near.columns]
    grain = patchswap.fold(source, missing, key_size=(rows, columns), patch_size=1)
    return (enlarged + grain[..., : enlarged.shape[2], : enlarged.shape[3]]).clamp(0, 1)


def _enlarged_near(result: Tensor, scene: Scene, factor: int, size: tuple[int, int]) -> Tensor:
    """What is near the hole, enlarged with one cell around it, which the interpolation sees."""
    near = scene.near
    seen = Box(near.top - 1, near.left - 1, near.bottom + 1, near.right + 1).within(scene.unknown_cells.shape[2:])
    pixels = seen.scaled(CELL)
    enlarged = enlarge(result[..., pixels.rows, pixels.columns], factor=factor)
    place = near.moved(-seen.top, -seen.left).scaled(CELL * factor)
    limit = near.scaled(CELL * factor).within(size).size
    return enlarged[..., place.rows, place.columns][..., : limit[0], : limit[1]]


def _cells_copied(index: Tensor, rows: int, columns: int) -> Tensor:
    """(B, rows, columns) int64: the cell that every cell is copied from by the patch around it, -1 where there is none.

    At the border, where no patch has a cell as its middle, the nearest patch takes its place.
    """
    patch_columns = index.shape[2]
    row, column = torch.arange(rows, device=index.device), torch.arange(columns, device=index.device)
    patch_row, patch_column = (row - 1).clamp(0, rows - 3), (column - 1).clamp(0, columns - 3)
    patch = index[:, patch_row[:, None], patch_column]
    source_row = patch // patch_columns + (row - patch_row)[:, None]
    source_column = patch % patch_columns + (column - patch_column)
    return torch.where(patch < 0, -1, source_row * columns + source_column)

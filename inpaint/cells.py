"""Cells and patches: the grid of relu3_1, on which patches are matched, and masks on it."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

CELL = 4  # pixels a side of a cell of relu3_1
PATCH = 3  # cells a side of a patch

Lengths = TypeVar("Lengths", int, np.ndarray)


def pooled(mask: np.ndarray, side: int = CELL) -> np.ndarray:
    """(H, W) bool -> (ceil(H / side), ceil(W / side)) bool: squares in which any pixel is True."""
    if any(length % side for length in mask.shape):
        mask = np.pad(mask, [(0, -length % side) for length in mask.shape])
    while side % 2 == 0:
        mask = mask[0::2] | mask[1::2]
        mask = mask[:, 0::2] | mask[:, 1::2]
        side //= 2
    if side > 1:
        height, width = (length // side for length in mask.shape)
        mask = np.any(mask.reshape(height, side, width, side), axis=(1, 3))
    return mask


def touched(cells: np.ndarray) -> np.ndarray:
    """Patches with a True cell: (h, w) bool -> (h-2, w-2) bool, or (0, 0) where the map is too small for a patch."""
    height, width = (length - PATCH + 1 for length in cells.shape) if min(cells.shape) >= PATCH else (0, 0)
    result = np.zeros((height, width), bool)
    for row in range(PATCH):
        for column in range(PATCH):
            result |= cells[row : row + height, column : column + width]
    return result


def rounded_up(length: Lengths, multiple: int) -> Lengths:
    """The smallest multiple that is not less than ``length``."""
    return -(-length // multiple) * multiple

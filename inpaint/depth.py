"""How deep a hole is, and how deep one may be that is filled at one scale."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from inpaint.cells import pooled

DEEPEST = 24  # pixels from the middle of the hole to the nearest known one, at the coarsest scale


def hole_depth(hole: np.ndarray, box: tuple[int, int, int, int]) -> int:
    """Steps of one pixel, diagonal ones included, that known pixels need to grow over the hole pixels in a box.

    Large holes are measured on a grid of squares (a square is hole if any of its pixels is), so the answer is a
    multiple of their side. Without a known pixel in the box, or next to it, it is the box's longer side.

    Args:
        hole: (H, W) bool.
        box: (top, left, bottom, right), ends not included.
    """
    top, left, bottom, right = box
    square = max(1, min(bottom - top, right - left) // 256)
    hole = hole[max(0, top - square) : bottom + square, max(0, left - square) : right + square]  # a square all around
    known = ~pooled(hole, square)
    if not known.any():
        return max(bottom - top, right - left)
    rows, columns = known.shape
    above_left = np.zeros((rows + 1, columns + 1), np.int64)  # known squares above and left of each corner
    above_left[1:, 1:] = known.cumsum(0).cumsum(1)

    def is_reached(steps: int) -> bool:
        """Whether every square has a known one within so many steps."""
        top, bottom = (np.clip(np.arange(rows) + shift, 0, rows) for shift in (-steps, steps + 1))
        left, right = (np.clip(np.arange(columns) + shift, 0, columns) for shift in (-steps, steps + 1))
        strips = above_left[bottom] - above_left[top]
        return bool((strips[:, right] > strips[:, left]).all())

    return square * bisect_left(range(max(rows, columns)), True, key=is_reached)

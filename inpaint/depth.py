"""How deep a hole is, and how deep one may be that is filled at one scale."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from inpaint.cells import pooled

DEEPEST = 24  # pixels from the middle of the hole to the nearest known one, at the coarsest scale
SPECK = 5  # the same of holes that are too small for patches of 12 pixels
_LARGEST_SQUARE = 8  # pixels a side; with larger ones thin holes would be taken for deep


def hole_depth(hole: np.ndarray, box: tuple[int, int, int, int]) -> int:
    """Steps of one pixel, diagonal ones included, that known pixels need to grow over the hole pixels in a box.

    Large holes are measured on a grid of squares (a square is hole if all of its pixels are): the answer is then up to
    two squares too large, never too small. Without a known pixel in the box, or next to it, it is the longer side.

    Args:
        hole: (H, W) bool.
        box: (top, left, bottom, right), ends not included.
    """
    top, left, bottom, right = box
    hole = hole[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
    square = min(max(1, min(hole.shape) // 256), _LARGEST_SQUARE)
    known = pooled(~hole, square)
    if not known.any():
        return max(hole.shape)
    rows, columns = known.shape
    above_left = np.zeros((rows + 1, columns + 1), np.int64)  # known squares above and left of each corner
    above_left[1:, 1:] = known.cumsum(0).cumsum(1)

    def is_reached(steps: int) -> bool:
        """Whether every square has a known one within so many steps."""
        top, bottom = (np.clip(np.arange(rows) + shift, 0, rows) for shift in (-steps, steps + 1))
        left, right = (np.clip(np.arange(columns) + shift, 0, columns) for shift in (-steps, steps + 1))
        strips = above_left[bottom] - above_left[top]
        return bool((strips[:, right] > strips[:, left]).all())

    steps = bisect_left(range(max(rows, columns)), True, key=is_reached)
    return square * (steps + 1) - 1  # to the farthest pixel of a square so many steps away

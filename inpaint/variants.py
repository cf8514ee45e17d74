"""Variants: other fills of a hole, made from other parts of the surroundings.

A variant bars half of the squares of a grid over a window, chosen by its number. What the first fill copied from there
has to come from elsewhere.
"""

from __future__ import annotations

import numpy as np

from inpaint.cells import pooled, touched

_SQUARES = 4  # along the short side of a window
_SMALLEST = 24  # pixels a side of a square: two patches


def bar_some(unknown: np.ndarray, barred: np.ndarray | None, seed: tuple[int, ...]) -> np.ndarray | None:
    """Pixels of a window that a variant does not copy.

    Args:
        unknown: (h, w) bool, the holes.
        barred: (h, w) bool, what is barred in all variants, or None.
        seed: integers that choose the squares.

    Returns:
        (h, w) bool, with ``barred``; ``barred`` itself where nothing else would remain to copy.
    """
    random = np.random.default_rng(seed)
    side = max(_SMALLEST, min(unknown.shape) // _SQUARES)
    shift = random.integers(0, side, 2)
    rows, columns = (
        (np.arange(length) + start) // side for length, start in zip(unknown.shape, shift.tolist(), strict=True)
    )
    grid = np.zeros((rows[-1] + 1, columns[-1] + 1), bool)
    grid.flat[random.permutation(grid.size)[: grid.size // 2]] = True
    squares = grid[rows][:, columns]
    both = squares if barred is None else squares | barred
    return barred if touched(pooled(both | unknown)).all() else both

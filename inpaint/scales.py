"""The sizes a photograph is worked on at, and the steps between them that never look into the hole."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from inpaint.errors import InpaintError

DEEPEST = 24  # pixels from the middle of the hole to the nearest known one that the coarsest scale has at most ...
COARSEST = 96  # ... unless its short side would be less than this many pixels
_SMALLEST = 16  # short side in pixels of the smallest scale that may be asked for


def scale_sizes(
    hole: Tensor, scales: Sequence[int] | None = None, *, context: int = 0, largest_window: float = float("inf")
) -> list[tuple[int, int]]:
    """Sizes (height, width) in pixels, coarse to fine.

    By default the last is the photograph's own and each one before it half the next, down to the one at which the
    middle of the hole lies within 24 pixels of known ones: what is wide is filled at a scale where it is narrow, what
    is narrow is not coarsened at all (docs/training.md has the measurement). Coarser scales are added while the window
    around the hole is too large at the coarsest.

    Args:
        hole: (H, W) bool, not empty.
        scales: short sides in pixels, growing, instead of that.
        context: pixels, as for ``window_around``.
        largest_window: pixels.

    Raises:
        InpaintError: scales that do not grow, or lie outside 16 .. the photograph's short side.
    """
    height, width = hole.shape
    short = min(height, width)
    if scales is None:
        depth = hole_depth(hole)
        rows, columns = window_around(hole, context)
        window = (rows.stop - rows.start) * (columns.stop - columns.start)
        halvings = 0
        while (depth > DEEPEST * 2**halvings or window > largest_window * 4**halvings) and (
            short >= COARSEST * 2 ** (halvings + 1)
        ):
            halvings += 1
        return [(_shrunk(height, 2**halving), _shrunk(width, 2**halving)) for halving in range(halvings, -1, -1)]
    lengths = list(scales)
    lowest = min(_SMALLEST, short)
    if not lengths or lengths != sorted(set(lengths)) or lengths[0] < lowest or lengths[-1] > short:
        raise InpaintError(
            f"scales: expected growing short sides from {lowest} to {short} (this picture's), got {lengths}; "
            "leave them out for the automatic choice"
        )
    return [(_shrunk(height, short / length), _shrunk(width, short / length)) for length in lengths]


def hole_depth(hole: Tensor) -> int:
    """Steps of one pixel, diagonal ones included, that known pixels need to grow over all of the hole.

    Large pictures are measured on a grid of cells (a cell is hole if any of its pixels is), so the answer is a multiple
    of the cell.

    Args:
        hole: (H, W) bool with at least one known pixel.
    """
    cell = max(1, min(hole.shape) // 256)
    known = F.max_pool2d(hole[None, None].float(), cell, ceil_mode=True)[0, 0] == 0
    if not known.any():
        return cell
    rows, columns = known.shape
    above_left = F.pad(known.int().cumsum(0).cumsum(1), (1, 0, 1, 0))  # known cells above and left of each corner

    def is_reached(steps: int) -> bool:
        """Whether every cell has a known one within so many steps: a square around it that is not empty."""
        top, bottom = ((torch.arange(rows) + shift).clamp(0, rows) for shift in (-steps, steps + 1))
        left, right = ((torch.arange(columns) + shift).clamp(0, columns) for shift in (-steps, steps + 1))
        strips = above_left[bottom] - above_left[top]
        return bool((strips[:, right] > strips[:, left]).all())

    return cell * bisect_left(range(max(rows, columns)), True, key=is_reached)


def shrink(image: Tensor, hole: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The photograph and its hole at a smaller size.

    A pixel is hole if any part of it is. Known pixels are means over known pixels alone, so that nothing of what the
    hole held leaks out.

    Args:
        image: (B, 3, H, W) in [0, 1].
        hole: (B, H, W) bool.
        size: (height, width), at most (H, W).
    """
    if image.shape[-2:] == size:
        return image, hole
    known = (~hole).unsqueeze(1).to(image.dtype)
    share = resize(known, size)
    shrunk = (resize(image * known, size) / share.clamp(min=1e-3)).clamp(0, 1)
    smaller_hole = F.adaptive_max_pool2d(hole.unsqueeze(1).float(), size)[:, 0] > 0
    return shrunk, smaller_hole


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing when shrinking: weights are never negative, so values stay in range."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bilinear", antialias=True, align_corners=False)


def enlarge(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, clipped to [0, 1]."""
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bicubic", align_corners=False).clamp(0, 1)


def window_around(hole: Tensor, context: int, multiple: int = 4) -> tuple[slice, slice]:
    """Rows and columns of the part of the picture that matters to the hole.

    The hole's bounding box, grown on each side by its own length there or by ``context`` pixels, whichever is more, and
    aligned to ``multiple`` pixels so that feature cells stay where they are.

    Args:
        hole: (H, W) bool, not empty.
    """
    spans = []
    for axis in (1, 0):
        occupied = hole.any(dim=axis).nonzero()
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        margin = max(context, last - first)
        start = max(0, first - margin) // multiple * multiple
        spans.append(slice(start, min(hole.shape[1 - axis], -(-(last + margin) // multiple) * multiple)))
    return spans[0], spans[1]


def low_frequencies(image: Tensor, factor: int) -> Tensor:
    """What is left of (B, C, H, W) after shrinking by ``factor`` and enlarging again."""
    height, width = image.shape[-2:]
    small = resize(image, (max(1, round(height / factor)), max(1, round(width / factor))))
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)


def _shrunk(length: int, factor: float) -> int:
    return max(1, round(length / factor))


__all__ = [
    "COARSEST",
    "DEEPEST",
    "enlarge",
    "hole_depth",
    "low_frequencies",
    "resize",
    "scale_sizes",
    "shrink",
    "window_around",
]

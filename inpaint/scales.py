"""The sizes a photograph is worked on at, and the steps between them that never look into the hole."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from inpaint.errors import InpaintError

COARSEST = 256  # short side in pixels that Image2Feature is trained at (Song et al. 2017, section 3)
_SMALLEST = 16


def scale_sizes(height: int, width: int, scales: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Sizes (height, width) in pixels, coarse to fine.

    Args:
        scales: short sides in pixels, growing. By default the last is the photograph's own and each one before it half
            the next, down to the one nearest to 256.

    Raises:
        InpaintError: scales that do not grow, or lie outside 16 .. the photograph's short side.
    """
    short = min(height, width)
    if scales is None:
        halvings = 0
        while short / 2**halvings > COARSEST * 2**0.5:
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


__all__ = ["COARSEST", "enlarge", "low_frequencies", "resize", "scale_sizes", "shrink", "window_around"]

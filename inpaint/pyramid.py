"""Pictures at several scales, and the steps between them, none of which looks into a hole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def halve(picture: Tensor, unknown: Tensor) -> tuple[Tensor, Tensor]:
    """The next coarser scale: half the size, rounded up.

    A pixel is unknown where any of its 2x2 pixels is. Values are means over known pixels alone, so that nothing comes
    from a hole. Half of the weight lies on the 2x2 pixels; half on 4x4, with weights of 1, 3, 3, 1 along rows and
    columns: the box alone lets fine texture through as coarse texture, the other alone is soft.

    Args:
        picture: (B, 3, H, W) in [0, 1].
        unknown: (B, 1, H, W) bool.
    """
    height, width = picture.shape[-2:]
    known = (~unknown).to(picture.dtype)
    weighted = F.pad(torch.cat((picture * known, known), dim=1), (0, width % 2, 0, height % 2))
    mean = (F.avg_pool2d(weighted, 2) + resize(weighted, ((height + 1) // 2, (width + 1) // 2))) / 2
    coarser = (mean[:, :3] / mean[:, 3:].clamp(min=1e-3)).clamp(0, 1)
    return coarser, F.max_pool2d(unknown.to(picture.dtype), 2, ceil_mode=True) > 0


def enlarge(picture: Tensor, size: tuple[int, int] | None = None, *, factor: int | None = None) -> Tensor:
    """(B, C, H, W) in [0, 1], larger: of that size, or ``factor`` times as large. Bicubic, clipped to [0, 1]."""
    if factor == 1 or picture.shape[-2:] == size:
        return picture
    larger = F.interpolate(picture, size=size, scale_factor=factor, mode="bicubic", align_corners=False)
    return larger.clamp(0, 1)


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing where it shrinks: weights are never negative, so values stay in their range.

    Where it enlarges, ``antialias`` has torch add in an order that does not depend on the number of threads.
    """
    if picture.shape[-2:] == size:
        return picture
    return F.interpolate(picture, size=size, mode="bilinear", antialias=True, align_corners=False)


def low_frequencies(picture: Tensor, factor: int) -> Tensor:
    """What is left of (B, C, H, W) after shrinking by ``factor`` and enlarging again."""
    height, width = picture.shape[-2:]
    small = resize(picture, (max(1, round(height / factor)), max(1, round(width / factor))))
    return resize(small, (height, width))

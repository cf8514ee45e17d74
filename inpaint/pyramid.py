"""Pictures at several scales, and the steps between them, none of which looks into a hole."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def halve(picture: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)): means of 2x2 pixels, or of what there is of them at the border.

    A pixel is known where all of them are, so no value of a known pixel comes from a hole.
    """
    return F.avg_pool2d(picture, 2, ceil_mode=True, count_include_pad=False)


def enlarge(picture: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, factor * H, factor * W): bicubic, clipped to [0, 1]."""
    if factor == 1:
        return picture
    return F.interpolate(picture, scale_factor=factor, mode="bicubic", align_corners=False).clamp(0, 1)


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, with antialiasing where it shrinks: weights are never negative, so values stay in their range."""
    if picture.shape[-2:] == size:
        return picture
    return F.interpolate(picture, size=size, mode="bilinear", antialias=True, align_corners=False)


def low_frequencies(picture: Tensor, factor: int) -> Tensor:
    """What is left of (B, C, H, W) after shrinking by ``factor`` and enlarging again."""
    height, width = picture.shape[-2:]
    small = resize(picture, (max(1, round(height / factor)), max(1, round(width / factor))))
    return F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)

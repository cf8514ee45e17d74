"""Photographs with a hole, made smaller to any size: what rivals that work at sizes of their own begin from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from inpaint.pyramid import resize


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

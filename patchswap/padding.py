"""Padding of feature maps and masks: cells added on all four sides."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def padded(maps: Tensor, padding: int, padding_mode: str) -> Tensor:
    """(..., H, W) of any dtype -> (..., H + 2 padding, W + 2 padding). The gradient is deterministic on every device.

    padding_mode: "zeros" (False for masks); "reflect", the cells on the other side of the border, without the outermost
    one; or "replicate", the outermost one.
    """
    if padding == 0:
        return maps
    if padding_mode == "zeros":
        return F.pad(maps, (padding, padding, padding, padding))
    for dimension in (-2, -1):
        size = maps.shape[dimension]
        if padding_mode == "reflect":
            before = maps.narrow(dimension, 1, padding).flip(dimension)
            after = maps.narrow(dimension, size - 1 - padding, padding).flip(dimension)
        else:
            before = torch.cat([maps.narrow(dimension, 0, 1)] * padding, dimension)
            after = torch.cat([maps.narrow(dimension, size - 1, 1)] * padding, dimension)
        maps = torch.cat((before, maps, after), dimension)
    return maps

"""Image2Feature averaged over the eight ways to turn and mirror a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes


def complete_symmetrically(network: Callable[[Tensor, Tensor], Tensor], image: Tensor, hole: Tensor) -> Tensor:
    """The mean of the network's completions of pictures, their mirror images and all of these turned by 90 degrees.

    What a network paints has a pattern of its own (bumps, stripes), which stays where it is when the picture is turned,
    and which matching would take for texture. The mean weakens it; docs/quality.md has the measurement. Square pictures
    pass through the network in one batch, others in two.

    Args:
        network: (B, 3, H, W) in [0, 1] and bool (B, H, W), True = hole -> completed (B, 3, H, W).
        image: (B, 3, H, W).
        hole: (B, H, W).

    Returns:
        (B, 3, H, W) like ``image``, its known pixels bit for bit.
    """
    pictures, holes = (torch.cat([part.flip(axes) for axes in _MIRRORINGS]) for part in (image, hole))
    if image.shape[2] == image.shape[3]:
        upright, turned = network(torch.cat((pictures, pictures.mT)), torch.cat((holes, holes.mT))).chunk(2)
    else:
        upright, turned = network(pictures, holes), network(pictures.mT, holes.mT)
    total = torch.zeros_like(image)
    for completed in (upright, turned.mT):
        for one, axes in zip(completed.chunk(len(_MIRRORINGS)), _MIRRORINGS, strict=True):
            total += one.flip(axes)
    return torch.where(hole.unsqueeze(1), total / (2 * len(_MIRRORINGS)), image)

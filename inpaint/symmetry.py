"""Image2Feature averaged over the eight ways to turn and mirror a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes


def complete_symmetrically(network: Callable[[Tensor, Tensor], Tensor], image: Tensor, hole: Tensor) -> Tensor:
    """The mean of the network's completions of a picture, its mirror images and all of these turned by 90 degrees.

    What a network paints has a pattern of its own (bumps, stripes), which stays where it is when the picture is turned,
    and which matching would take for texture. The mean weakens it; docs/quality.md has the measurement.

    Args:
        network: (B, 3, H, W) in [0, 1] and bool (B, H, W), True = hole -> completed (B, 3, H, W).
        image: (1, 3, H, W).
        hole: (1, H, W).

    Returns:
        (1, 3, H, W) like ``image``, its known pixels bit for bit.
    """
    total = torch.zeros_like(image)
    for is_turned in (False, True):
        picture, missing = (image.mT, hole.mT) if is_turned else (image, hole)
        completed = network(
            torch.cat([picture.flip(axes) for axes in _MIRRORINGS]),
            torch.cat([missing.flip(axes) for axes in _MIRRORINGS]),
        )
        for one, axes in zip(completed.split(1), _MIRRORINGS, strict=True):
            upright = one.flip(axes)
            total += upright.mT if is_turned else upright
    return torch.where(hole.unsqueeze(1), total / (2 * len(_MIRRORINGS)), image)

"""Image2Feature averaged over the eight ways to turn and mirror a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes
_LARGEST_BATCH = 1 << 20  # pixels that pass through the network at once, if more than one picture does


Completer = Callable[[Tensor, Tensor], Tensor]


def complete_symmetrically(network: Completer, image: Tensor, hole: Tensor) -> Tensor:
    """The mean of the network's completions of pictures, their mirror images and all of these turned by 90 degrees.

    What a network paints has a pattern of its own (bumps, stripes), which stays where it is when the picture is turned,
    and which matching would take for texture. The mean weakens it; docs/quality.md has the measurement. Small square
    pictures pass through the network in one batch, other small ones in two.

    Args:
        network: (B, 3, H, W) in [0, 1] and bool (B, H, W), True = hole -> completed (B, 3, H, W).
        image: (B, 3, H, W).
        hole: (B, H, W).

    Returns:
        (B, 3, H, W) like ``image``, its known pixels bit for bit.
    """
    views = [part.flip(axes) for axes in _MIRRORINGS for part in (image, hole)]
    pictures, holes = views[0::2], views[1::2]
    turned = [picture.mT for picture in pictures], [missing.mT for missing in holes]
    if image.shape[2] == image.shape[3]:
        completed = _completed(network, pictures + turned[0], holes + turned[1])
    else:
        completed = _completed(network, pictures, holes) + _completed(network, *turned)
    total = torch.zeros_like(image)
    for number, one in enumerate(completed):
        axes = _MIRRORINGS[number % len(_MIRRORINGS)]
        total += (one if number < len(_MIRRORINGS) else one.mT).flip(axes)
    return torch.where(hole.unsqueeze(1), total / (2 * len(_MIRRORINGS)), image)


def _completed(network: Completer, pictures: list[Tensor], holes: list[Tensor]) -> list[Tensor]:
    """The network's completion of each, in batches that are not too large."""
    count = max(1, _LARGEST_BATCH // (pictures[0].shape[0] * pictures[0][0, 0].numel()))
    completed: list[Tensor] = []
    for start in range(0, len(pictures), count):
        some = slice(start, start + count)
        batch = network(torch.cat(pictures[some]), torch.cat(holes[some]))
        completed.extend(batch.chunk(len(pictures[some])))
    return completed

"""Image2Feature averaged over ways to turn and mirror a picture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_MIRRORINGS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))  # axes
_LARGEST_BATCH = 1 << 20  # pixels that pass through the network at once, if more than one picture does

Completer = Callable[[Tensor, Tensor], Tensor]


def complete_symmetrically(network: Completer, image: Tensor, hole: Tensor, views: int = 8) -> Tensor:
    """The mean of the network's completions of so many views of pictures.

    The first view is the picture itself, the second its mirror image, the next two these upside down, and the last four
    all of these turned by 90 degrees. What a network paints has a pattern of its own (bumps, stripes), which stays
    where it is when the picture is turned, and which matching would take for texture. The mean weakens it, and softens
    the picture (docs/evaluation.md). Small pictures of one shape pass through the network in one batch.

    Args:
        network: (B, 3, H, W) in [0, 1] and bool (B, H, W), True = hole -> completed (B, 3, H, W).
        image: (B, 3, H, W).
        hole: (B, H, W).
        views: 1, 2, 4 or 8.

    Returns:
        (B, 3, H, W) like ``image``, its known pixels bit for bit.
    """
    axes = _MIRRORINGS[: min(views, 4)]
    pictures, holes = ([part.flip(each) for each in axes] for part in (image, hole))
    turned = [picture.mT for picture in pictures if views > 4], [missing.mT for missing in holes if views > 4]
    if image.shape[2] == image.shape[3]:
        completed = _completed(network, pictures + turned[0], holes + turned[1])
    else:
        completed = _completed(network, pictures, holes) + _completed(network, *turned)
    total = torch.zeros_like(image)
    for number, one in enumerate(completed):
        total += (one if number < len(axes) else one.mT).flip(axes[number % len(axes)])
    return torch.where(hole.unsqueeze(1), total / len(completed), image)


def _completed(network: Completer, pictures: list[Tensor], holes: list[Tensor]) -> list[Tensor]:
    """The network's completion of each, in batches that are not too large."""
    completed: list[Tensor] = []
    while len(completed) < len(pictures):
        count = max(1, _LARGEST_BATCH // pictures[0][:, 0].numel())
        some = slice(len(completed), len(completed) + count)
        batch = network(torch.cat(pictures[some]), torch.cat(holes[some]))
        completed.extend(batch.chunk(len(pictures[some])))
    return completed

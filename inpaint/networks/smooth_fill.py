"""A smooth interpolation of the known pixels into the hole, which Image2Feature starts from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_SMOOTHINGS = 2  # passes of a 3x3 mean in the hole at each level


def fill_smoothly(image: Tensor, hole: Tensor) -> Tensor:
    """Fills the hole from its rim by pull-push (Gortler et al. 1996, section 3.4.2); known pixels stay bit for bit.

    Pull: known pixels are averaged level by level, each level half the last, until nothing is missing. Push: what a
    level lacks comes from the level above, smoothed a little. What ``image`` holds inside the hole does not matter.

    Args:
        image: (B, 3, H, W).
        hole: (B, H, W) bool, True = hole. A picture without a known pixel becomes 0.

    Returns:
        (B, 3, H, W) in the range of the known pixels.
    """
    missing = hole.unsqueeze(1)
    weight = (~missing).to(image.dtype)
    levels = [(image.masked_fill(missing, 0), weight)]
    while max(weight.shape[-2:]) > 1:
        total, weight = (F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1])
        known = (2 * weight).clamp(max=1)  # half of a cell's pixels are as good as all of them
        levels.append((total * known / weight.clamp(min=1e-8), known))
    total, weight = levels[-1]
    filled = total / weight.clamp(min=1e-8)
    for total, weight in levels[-2::-1]:
        lacking = 1 - weight
        above = F.interpolate(filled, size=total.shape[-2:], mode="bilinear", align_corners=False)
        filled = total + lacking * above
        for _ in range(_SMOOTHINGS):
            around = F.avg_pool2d(F.pad(filled, (1, 1, 1, 1), mode="replicate"), 3, 1)
            filled = total + lacking * around
    return filled

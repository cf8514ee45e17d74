"""Style-swap's optimisation form: Chen & Schmidt, "Fast Patch-based Style Transfer of Arbitrary Style" (arXiv
1612.04337, 2016), section 3.2.

The picture whose relu3_1 features are the swapped ones is found by descent on its pixels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from inpaint.networks import VGG19


class Step(NamedTuple):
    """Seconds since the start, the objective of the picture at which this step looked, and that picture."""

    seconds: float
    objective: float
    picture: Tensor


def optimise(
    start: Tensor,
    target: Tensor,
    vgg: VGG19,
    *,
    steps: int,
    smoothness: float = 0.01,
    method: Literal["lbfgs", "adam"] = "lbfgs",
    dtype: torch.dtype = torch.float32,
) -> Iterator[Step]:
    """Minimises the mean squared distance of relu3_1 to the target, plus total variation, over the pixels.

    At its best: one forward and one backward pass of VGG-19 a step, channels last, no gradient of the weights; L-BFGS
    without line search, as one takes further passes.

    Args:
        start: (1, 3, H, W) in [0, 1], the content picture.
        target: (1, 256, ceil(H/4), ceil(W/4)) swapped features.
        smoothness: weight of the total variation.
        dtype: what VGG-19 multiplies in.
    """
    picture = start.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimiser: torch.optim.Optimizer
    if method == "lbfgs":
        optimiser = torch.optim.LBFGS(
            [picture], lr=1.0, max_iter=1, history_size=10, tolerance_grad=0, tolerance_change=0
        )
    else:
        optimiser = torch.optim.Adam([picture], lr=0.02)
    value = torch.zeros(())

    def closure() -> Tensor:
        nonlocal value
        optimiser.zero_grad()
        with torch.autocast(picture.device.type, dtype, enabled=dtype != torch.float32):
            value = objective(picture, target, vgg, smoothness)
        value.backward()
        return value

    begin = time.perf_counter()
    for _ in range(steps):
        before = picture.detach().clone()
        optimiser.step(closure)
        yield Step(time.perf_counter() - begin, value.item(), before.clamp(0, 1))


def objective(picture: Tensor, target: Tensor, vgg: VGG19, smoothness: float = 0.01) -> Tensor:
    """What ``optimise`` minimises: a scalar."""
    distance = (vgg(picture.contiguous(memory_format=torch.channels_last))["relu3_1"] - target).square().mean()
    down = (picture[..., 1:, :] - picture[..., :-1, :]).square().mean()
    right = (picture[..., 1:] - picture[..., :-1]).square().mean()
    return distance + smoothness * (down + right)

"""The feather: how what the photograph holds in the hole passes into the filling, from the rim inwards."""

from __future__ import annotations

import numpy as np
import torch

from inpaint.holes import dilate_hole
from inpaint.photo import Patch
from inpaint.window import Box
from inpaint.work import Job


def feathered(patch: Patch, job: Job) -> Patch:
    """A patch whose colours near the rim are mixed with the photograph's; all others stay.

    The share of the filling grows in equal steps, pixel by pixel, from the rim to ``job.feather`` pixels inside, where
    it is 1. Colours of the photograph that are no numbers in [0, 1] are not mixed in.
    """
    if not job.feather:
        return patch
    rows, columns, colours, own = patch
    around = Box(rows.start, columns.start, rows.stop, columns.stop)
    reach = Box(*(side + step * job.feather for side, step in zip(around, (-1, -1, 1, 1), strict=True)))
    reach = reach.within(job.hole.shape)
    inside = around.moved(-reach.top, -reach.left)
    share = depth_in(job.hole[reach.rows, reach.columns], job.feather)[inside.rows, inside.columns]
    weight = torch.from_numpy(share).to(colours) / (job.feather + 1)
    photograph = job.picture.colours(rows, columns).to(colours)
    usable = ((photograph >= 0) & (photograph <= 1)).all(0)
    mixed = torch.lerp(torch.where(usable, photograph, colours), colours, weight)
    return Patch(rows, columns, mixed, own)


def depth_in(hole: np.ndarray, most: int) -> np.ndarray:
    """(H, W) integers: steps of one pixel, diagonal ones included, to the nearest known pixel; at most ``most`` + 1."""
    depth = np.where(hole, most + 1, 0)
    for steps in range(most, 0, -1):
        depth[dilate_hole(~hole, steps) & hole] = steps
    return depth

"""A picture of what would be filled: the photograph with the hole marked."""

from __future__ import annotations

import torch
from torch import Tensor

from inpaint.work import Job

MAGENTA = (1.0, 0.0, 1.0)  # rare in photographs
DARK = 0.4  # of the brightness of what is not copied


def draw_overlay(job: Job) -> Tensor:
    """(3, H, W) float32 in [0, 1]: the photograph, half magenta in the hole, dark where nothing may be copied."""
    picture = job.picture.colours(slice(None), slice(None)).cpu().nan_to_num(0).clamp(0, 1)
    if job.barred is not None:
        picture = torch.where(torch.from_numpy(job.barred & ~job.hole), DARK * picture, picture)
    mixed = (picture + torch.tensor(MAGENTA)[:, None, None]) / 2
    return torch.where(torch.from_numpy(job.hole), mixed, picture)

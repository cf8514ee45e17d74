"""A picture of where a filling came from: over the photograph, what was copied and where to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inpaint.cells import CELL, PATCH
from inpaint.match_field import DIM, draw_match_field
from inpaint.window import Box
from inpaint.work import Filled, Job


def explain(job: Job, filled: Filled) -> Tensor:
    """(3, H, W) float32 in [0, 1]: the photograph, dimmed and grey, but in its colours where it was copied; and in the
    hole the match field of each window's finest scale (``inpaint.match_field``).

    Args:
        job: what was filled.
        filled: what ``Inpainter.fill`` made of it with ``keep``.
    """
    height, width = job.hole.shape
    photograph = job.picture.colours(slice(None), slice(None)).cpu()
    picture = (DIM * photograph.mean(0, keepdim=True)).expand(3, -1, -1).contiguous()
    copied, fields = torch.zeros(height, width, dtype=torch.bool), []
    for kept in filled.kept:
        scale = kept.scales[-1]
        factor = 1 << scale.level.halvings
        place = scale.level.part.scaled(factor).within((height, width))
        taken = _copied_pixels(scale.match_index, scale.level.part)
        copied[place.rows, place.columns] |= _enlarged(taken, factor, place)
        field = draw_match_field(scale.match_index, scale.result)
        fields.append((place, _enlarged(field, factor, place), _own(kept.window.own, kept.window.crop, place)))
    picture = torch.where(copied, photograph, picture)
    for place, field, own in fields:
        view = picture[:, place.rows, place.columns]
        view.copy_(torch.where(own, field, view))
    return picture.clamp(0, 1)


def _copied_pixels(match_index: Tensor, part: Box) -> Tensor:
    """(h, w) bool: pixels of the patches that were copied."""
    columns = match_index.shape[1]
    cells = torch.zeros([-(-side // CELL) for side in part.size], dtype=torch.bool)
    used = match_index[match_index >= 0].unique()
    row, column = used // max(1, columns), used % max(1, columns)
    for down in range(PATCH):
        for right in range(PATCH):
            cells[row + down, column + right] = True
    return cells.repeat_interleave(CELL, 0).repeat_interleave(CELL, 1)[: part.size[0], : part.size[1]]


def _own(own: np.ndarray, crop: Box, place: Box) -> Tensor:
    """What a window fills, (h, w) bool, of the pixels of ``place``, which lies in its crop."""
    inside = place.moved(-crop.top, -crop.left)
    return torch.from_numpy(own[inside.rows, inside.columns])


def _enlarged(layer: Tensor, factor: int, place: Box) -> Tensor:
    height, width = place.size
    return layer.repeat_interleave(factor, -2).repeat_interleave(factor, -1)[..., :height, :width]

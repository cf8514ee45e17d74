"""Finishing steps: what is done to the decoder's picture of swapped features before it goes into the hole.

A step takes the painted parts, (B, 3, h, w), and an ``Unfinished``, and returns parts of the same shape. Only what it
paints into the hole matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inpaint.cells import CELL, PATCH
from inpaint.matching import Copies
from inpaint.pyramid import low_frequencies
from patchswap.ops import fill_smoothly


@dataclass(frozen=True)
class Unfinished:
    """What finishing steps work with.

    part: (B, 3, h, w), the photograph, and in the hole the result of the coarser scale. copies: what every query took.
    """

    part: Tensor
    copies: Copies


Step = Callable[[Tensor, Unfinished], Tensor]


def restore_detail(painted: Tensor, work: Unfinished) -> Tensor:
    """Adds what the decoder lost of each key patch, where the patch was copied to.

    Photograph minus decoded picture is the decoder's error, known outside the hole. The match that copied the features
    copies the 12x12 pixels of error that belong to a patch.
    """
    scene = work.copies.scene
    if not scene.is_matched:
        return painted
    copied = work.copies.fold(whole_cells(work.part - painted))
    restored = painted.clone(memory_format=torch.contiguous_format)
    place = restored[..., scene.near_pixels.rows, scene.near_pixels.columns]
    place += copied[..., : place.shape[2], : place.shape[3]]
    return restored


def level_at_rim(painted: Tensor, work: Unfinished) -> Tensor:
    """Adds what the picture is off by along the rim, spread smoothly into the hole (a membrane).

    Patches that straddle the rim were copied onto known cells too. There the residual, photograph minus picture, says
    how well the copies fit their new place; the hole behind is taken to be off by the same.
    """
    scene = work.copies.scene
    if not scene.is_matched:
        return painted
    reach = PATCH - 1
    queries = F.pad(scene.queries.unsqueeze(1).float(), (reach, reach, reach, reach))
    covered = F.interpolate(F.max_pool2d(queries, PATCH, stride=1), scale_factor=CELL)
    known = (covered[..., : scene.size[0], : scene.size[1]] > 0) & ~scene.unknown
    return painted + fill_smoothly(work.part - painted, ~known[:, 0])


@dataclass(frozen=True)
class KeepColours:
    """Takes frequencies below 1/``factor`` from the coarser scale, which keeps colours consistent across the rim."""

    factor: int

    def __call__(self, painted: Tensor, work: Unfinished) -> Tensor:
        return painted + low_frequencies(work.part - painted, self.factor)


def whole_cells(picture: Tensor) -> Tensor:
    """(B, C, h, w), with zeros added below and to the right until its sides are multiples of a cell."""
    height, width = picture.shape[-2:]
    return F.pad(picture, (0, -width % CELL, 0, -height % CELL)) if height % CELL or width % CELL else picture

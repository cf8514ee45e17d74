"""Draws where every patch of the hole was copied from."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from inpaint.cells import CELL

DIM = 0.35  # brightness of the picture under the field


def draw_match_field(match_index: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """The match field as colours over the dimmed grey picture, as optical flow is drawn.

    The hue is the direction from a patch to its match, the saturation the distance: white is a match close by, a full
    colour the longest distance in the field. An area of one colour was copied from one place in one piece.

    Args:
        match_index: (h', w') int64 on the patch grid; row-major index of the matched key patch in a grid of the same
            shape, -1 where nothing was matched.
        picture: (3, h, w) float in [0, 1], the picture at this scale. A 3x3 patch is drawn on its centre cell.

    Returns:
        (3, h, w) float32 in [0, 1].
    """
    height, width = picture.shape[1:]
    ground = DIM * picture.cpu().float().mean(dim=0, keepdim=True).expand(3, -1, -1)
    index = match_index.cpu()
    if not index.numel():  # too small a picture for a patch
        return ground.contiguous()
    rows, columns = index.shape
    matched = index >= 0
    down = torch.where(matched, index // columns - torch.arange(rows)[:, None], 0)
    right = torch.where(matched, index % columns - torch.arange(columns)[None], 0)
    distance = torch.hypot(down.float(), right.float())
    hue = 6 * (torch.atan2(down.float(), right.float()) / (2 * torch.pi) % 1)  # sixths of the colour wheel
    full = torch.stack([((hue + shift) % 6 - 3).abs() - 1 for shift in (0, 4, 2)]).clamp(0, 1)  # HSV to RGB
    colours = 1 - distance / distance.max().clamp(min=1) * (1 - full)
    # A patch is one cell smaller than the feature map on every side, and a cell is four pixels wide.
    colours, cells = (_to_pixels(layer, height, width) for layer in (colours, matched[None].float()))
    return torch.where(cells > 0, colours, ground)


def _to_pixels(layer: torch.Tensor, height: int, width: int) -> torch.Tensor:
    cells = F.pad(layer, (1, 1, 1, 1))
    return cells.repeat_interleave(CELL, dim=1).repeat_interleave(CELL, dim=2)[:, :height, :width]

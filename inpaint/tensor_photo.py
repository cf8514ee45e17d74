"""Pictures that are tensors: the same two ways in and out as ``inpaint.photo.Photo``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.photo import Patch, refuse_beyond_white, row_strips


@dataclass(frozen=True, eq=False)
class TensorPhoto:
    """A picture (3, H, W), RGB in [0, 1], of any floating dtype on any device."""

    tensor: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.tensor.shape[1], self.tensor.shape[2]

    def colours(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """RGB of a part as float32 (3, h, w)."""
        return self.tensor[:, rows, columns].detach().float()

    def filled(self, patches: Iterable[Patch]) -> TensorPhoto:
        """A copy with the hole pixels of each patch replaced; all others bit for bit. It has no autograd history."""
        result = self.tensor.detach().clone()
        for rows, columns, colours, hole in patches:
            place = result[:, rows, columns]
            place.copy_(torch.where(torch.from_numpy(hole).to(result.device), colours.to(result), place))
        return TensorPhoto(result)

    def check_known(self, hole: np.ndarray) -> None:
        """Raises InpaintError unless all colours outside ``hole``, (H, W) bool, lie in [0, 1]."""
        if not hole.size:
            return
        known = ~torch.from_numpy(hole).to(self.tensor.device)
        middle = self.tensor.new_full((), 0.5)
        strips = (torch.where(known[rows], self.tensor[:, rows].detach(), middle) for rows in row_strips(self.size))
        ends = torch.stack([end for strip in strips for end in torch.aminmax(strip)])
        refuse_beyond_white(float(ends.min()), float(ends.max()))


def pictures_of(images: Tensor) -> list[TensorPhoto]:
    """The pictures of a tensor (3, H, W) or (B, 3, H, W).

    Raises:
        InpaintError: another shape, integers, or no pixel.
    """
    batch = images.unsqueeze(0) if images.dim() == 3 else images
    if batch.dim() != 4 or batch.shape[1] != 3 or not images.is_floating_point():
        raise InpaintError(
            f"image: expected a float tensor (3, H, W) or (B, 3, H, W) with values in [0, 1], got {images.dtype} "
            f"{tuple(images.shape)}; convert it first"
        )
    if 0 in batch.shape[2:]:
        raise InpaintError("image: expected at least one pixel, got none; check how it was read")
    return [TensorPhoto(picture) for picture in batch]

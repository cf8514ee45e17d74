"""Holes in feature maps: which patches are to be replaced, and which may replace them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from patchswap import contract
from patchswap.padding import padded


def masks_from_hole(
    hole: Tensor, patch_size: int = 3, key_margin: int = 0, *, padding: int = 0, padding_mode: str = "zeros"
) -> tuple[Tensor, Tensor]:
    """The query mask and the key mask of a hole, as `match` takes them.

    A query has at least one hole cell. A key has none and, where the sample has any such key, at least `key_margin`
    cells between itself and the hole. Padding of zeros is no hole; a cell repeated as padding is one where it is.

    Args:
        hole: (H, W), (B, H, W) or (B, 1, H, W) bool, True = hole.
        patch_size: side of a patch in cells, from 1 to 7.
        key_margin: cells, 0 or more.
        padding, padding_mode: as for `match`.

    Returns:
        (query_mask, key_mask), both (B, h, w) bool on the patch grid; B is 1 for a hole (H, W).

    Raises:
        ValueError, TypeError: shapes, dtypes or ranges outside the above.
    """
    operator = "masks_from_hole"
    contract.check_patch_size(operator, patch_size)
    cells = cells_of_hole(operator, hole)
    check_key_margin(operator, key_margin)
    contract.check_padding(operator, padding, padding_mode, patch_size, {"hole": cells[:, None]})
    cells = padded(cells, padding, padding_mode)
    query_mask = _windows_touching(cells, patch_size)
    key_mask = ~query_mask
    if key_margin > 0 and key_mask.numel() > 0:
        grown = F.max_pool2d(cells[:, None].float(), 2 * key_margin + 1, stride=1, padding=key_margin)[:, 0] > 0
        distant = ~_windows_touching(grown, patch_size)
        key_mask = torch.where(distant.any(2, keepdim=True).any(1, keepdim=True), distant, key_mask)
    return query_mask, key_mask


def cells_of_hole(operator: str, hole: Tensor) -> Tensor:
    """A hole of any of the three shapes as (B, H, W) or (1, H, W)."""
    if hole.dtype != torch.bool:
        raise TypeError(
            f"patchswap.{operator}: hole must be bool with True = hole; got {hole.dtype}; compare it first, as in "
            "mask > 0.5"
        )
    if hole.dim() == 4 and hole.shape[1] == 1:
        return hole[:, 0]
    if hole.dim() not in (2, 3):
        raise ValueError(
            f"patchswap.{operator}: hole must have shape (H, W), (B, H, W) or (B, 1, H, W); got {tuple(hole.shape)}"
        )
    return hole if hole.dim() == 3 else hole[None]


def check_key_margin(operator: str, key_margin: int) -> None:
    contract.check_whole(operator, "key_margin", key_margin)
    if key_margin < 0:
        raise ValueError(f"patchswap.{operator}: key_margin must not be negative; got {key_margin}")


def _windows_touching(cells: Tensor, patch_size: int) -> Tensor:
    """Which patches have at least one True cell: (B, H, W) bool -> (B, H-p+1, W-p+1) bool."""
    rows, columns = contract.patch_grid(cells.shape[1], cells.shape[2], patch_size)
    if rows == 0:
        return cells.new_zeros(cells.shape[0], 0, 0)
    return cells.unfold(1, patch_size, 1).unfold(2, patch_size, 1).flatten(3).any(3)

"""The soft-max form: the attention layer of Yu et al., "Generative Image Inpainting with Contextual Attention"
(CVPR 2018, arXiv 1801.07892), section 4.1.

Patches of the known region are the filters of a convolution, as in style-swap. Instead of choosing one, each place
takes the mean of all of them, weighted by the soft-max of ten times the cosine similarity; a transposed convolution
pastes it. Differentiable everywhere, and all queries x keys scores are stored.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import PATCH_SIZE
from torch import Tensor

from rivals.rival import inverse_norms, patch_view

SCALE = 10.0  # of the soft-max: the authors' program


def swap(features: Tensor, hole: Tensor, scale: float = SCALE) -> Tensor:
    """Attention in the place of patch-swap: (1, C, H, W) float32, (1, H, W) bool, True = hole -> (1, C, H, W).

    Queries, keys and the mean over overlapping patches are those of patch-swap, so that the forms can be compared: a
    query is a patch with at least one hole cell, a key one with none, and known cells keep their features. The
    published layer takes every place of a map halved once more for a query, fills patches beyond the border with
    zeros, divides by four whatever the overlap, and averages the scores along diagonals, which is left out here.

    Args:
        scale: of the cosine similarities before the soft-max; the larger, the closer to patch-swap.

    Raises:
        ValueError: no query or no key.
    """
    touches = F.max_pool2d(hole[:, None].float(), PATCH_SIZE, stride=1)[0, 0] > 0
    if touches.all() or not touches.any():
        raise ValueError("contextual attention: expected patches with and without hole cells; change the hole")
    rows, columns = (touches.any(axis).nonzero() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    window = (..., slice(top, bottom + PATCH_SIZE - 1), slice(left, right + PATCH_SIZE - 1))
    wanted = touches[top:bottom, left:right]
    inverse = inverse_norms(features)

    keys = patch_view(features)[~touches].unflatten(2, (PATCH_SIZE, -1)).permute(0, 3, 1, 2).contiguous()
    similarity = F.conv2d(features[window], keys * inverse[~touches][:, None, None, None])
    similarity = similarity * inverse[top:bottom, left:right]
    attention = torch.softmax(scale * similarity, dim=1) * wanted
    total = F.conv_transpose2d(attention, keys)
    count = F.conv_transpose2d(wanted[None, None].to(features), features.new_ones(1, 1, PATCH_SIZE, PATCH_SIZE))
    result = features.clone()
    result[window] = torch.where(hole[:, None][window], total / count.clamp(min=1), features[window])
    return result

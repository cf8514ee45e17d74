"""The convolution form: Chen & Schmidt, "Fast Patch-based Style Transfer of Arbitrary Style" (arXiv 1612.04337), 2016.

Normalised key patches are the filters of a convolution, whose output holds all scores; the arg-max over its channels is
the choice; a transposed convolution of the one-hot choice with the key patches pastes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import PATCH_SIZE, Case
from torch import Tensor

from rivals.rival import Rival, inverse_norms, patch_view


class StyleSwap(Rival):
    """The scores and the arg-max. At its best: convolved only where queries are, filters in one or several blocks."""

    def __init__(self, dtype: torch.dtype) -> None:
        short = {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]
        self.dtype = dtype
        self.exact = dtype == torch.float32
        self.name = f"style-swap-{short}"
        self.label = f"convolution form (style-swap), {short}"

    def settings(self, device: str) -> list[dict[str, Any]]:
        blocks = (4096, 1024) if device == "cpu" else (16384, 4096)
        return [{"filters": filters, "channels_last": last} for filters in blocks for last in (True, False)]

    def memory(self, case: Case, **settings: Any) -> float:
        filters = min(case.keys, settings["filters"])
        scores = 2 * filters * case.query_mask[0][queries_window(case)[0]].numel()
        unfolded = case.query_mask[0][queries_window(case)[0]].numel() * case.depth  # where the library takes that path
        return self.dtype.itemsize * (case.features.numel() + 3 * filters * case.depth + scores + unfolded)

    def operations(self, case: Case) -> float:
        places = case.query_mask[0][queries_window(case)[0]].numel()
        return 2.0 * places * case.keys * case.depth

    def traffic(self, case: Case) -> float:
        return 2.0 * self.dtype.itemsize * self.operations(case) / (2 * case.depth)

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = False
        layout = torch.channels_last if settings["channels_last"] else torch.contiguous_format
        usable = case.key_mask[0].nonzero()
        patches, (rows_of_cells, columns_of_cells) = queries_window(case)
        window = case.features[:, :, rows_of_cells, columns_of_cells]
        wanted = case.query_mask[0][patches].flatten()

        def run() -> Tensor:
            view = patch_view(case.features, self.dtype)
            scale = inverse_norms(case.features)
            queries = window.to(self.dtype, memory_format=layout)
            best = queries.new_full((wanted.numel(),), -torch.inf)
            chosen = torch.zeros(wanted.numel(), dtype=torch.int64, device=queries.device)
            for start in range(0, case.keys, settings["filters"]):
                rows, columns = usable[start : start + settings["filters"]].T
                keys = view[rows, columns] * scale[rows, columns, None, None].to(self.dtype)
                keys = keys.view(-1, PATCH_SIZE, PATCH_SIZE, case.channels).permute(0, 3, 1, 2)
                scores = F.conv2d(queries, keys.contiguous(memory_format=layout))[0]
                score, index = scores.max(0)
                better = score.flatten() > best
                best = torch.where(better, score.flatten(), best)
                chosen = torch.where(better, index.flatten() + start, chosen)
            chosen = chosen[wanted]
            return usable[chosen, 0] * case.key_mask.shape[2] + usable[chosen, 1]

        return run


def queries_window(case: Case) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The smallest rectangle of patches that holds all queries, and the cells that these patches cover."""
    rows, columns = (case.query_mask[0].any(axis).nonzero() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    rim = PATCH_SIZE - 1
    return (slice(top, bottom), slice(left, right)), (slice(top, bottom + rim), slice(left, right + rim))


def swap(features: Tensor, hole: Tensor) -> Tensor:
    """patch-swap as published, all at once: (1, C, H, W), (1, H, W) bool -> (1, C, H, W).

    Convolved only where the hole is, which style-swap, whose queries are the whole picture, has no use for.
    """
    queries = F.unfold(hole[:, None].float(), PATCH_SIZE)[0].amax(0) > 0
    grid = (features.shape[2] - PATCH_SIZE + 1, features.shape[3] - PATCH_SIZE + 1)
    patches = F.unfold(features, PATCH_SIZE)[0].T.reshape(-1, features.shape[1], PATCH_SIZE, PATCH_SIZE)
    keys = patches[~queries]
    rows, columns = (queries.view(grid).any(axis).nonzero() for axis in (1, 0))
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    window = (slice(None), slice(None), slice(top, bottom + PATCH_SIZE - 1), slice(left, right + PATCH_SIZE - 1))
    wanted = queries.view(grid)[top:bottom, left:right]

    norms = keys.flatten(1).norm(dim=1).clamp(min=1e-8)
    best = F.conv2d(features[window], keys / norms[:, None, None, None])[0].argmax(0)
    chosen = torch.zeros(1, len(keys), *best.shape, device=features.device)
    chosen.scatter_(1, best[None, None], wanted[None, None].float())
    total = F.conv_transpose2d(chosen, keys)
    count = F.conv_transpose2d(wanted[None, None].float(), torch.ones(1, 1, PATCH_SIZE, PATCH_SIZE).to(features))
    result = features.clone()
    result[window] = torch.where(hole[:, None][window], total / count.clamp(min=1), features[window])
    return result

"""unfold, matrix product, arg-max: whole and in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cases import PATCH_SIZE, Case
from torch import Tensor

from rivals.rival import Rival, inverse_norms, patch_view


class WholeMatrixProduct(Rival):
    """As it is usually written: both maps unfolded, all scores at once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.exact = dtype == torch.float32
        self.name = f"product-whole-{_short(dtype)}"
        self.label = f"unfold + matrix product, {_short(dtype)}"

    def memory(self, case: Case, **settings: Any) -> float:
        size = self.dtype.itemsize
        patches = case.query_mask.numel() + case.queries + 2 * case.keys
        return size * (case.queries * case.keys + case.depth * patches)

    def traffic(self, case: Case) -> float:
        return 2.0 * self.dtype.itemsize * (case.queries * case.keys + case.depth * (case.queries + case.keys))

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        touches = case.query_mask.flatten()
        usable = case.key_mask.flatten()

        def run() -> Tensor:
            patches = F.unfold(case.features.to(self.dtype), PATCH_SIZE)[0]
            keys = patches[:, usable]
            chosen = (patches[:, touches].T @ F.normalize(keys, dim=0)).argmax(1)
            return usable.nonzero()[chosen, 0]

        return run


class BlockedMatrixProduct(Rival):
    """The same without the two large matrices: patches are gathered and scored block by block."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.exact = dtype == torch.float32
        self.name = f"product-blocks-{_short(dtype)}"
        self.label = f"unfold + matrix product in blocks, {_short(dtype)}"

    def settings(self, device: str) -> list[dict[str, Any]]:
        blocks = ((4096, 4096), (4096, 1024), (1024, 4096))
        if device == "cuda":
            blocks = ((32768, 16384), (32768, 65536), (32768, 4096))
        return [{"query_block": queries, "key_block": keys} for queries, keys in blocks]

    def memory(self, case: Case, **settings: Any) -> float:
        queries = min(case.queries, settings["query_block"])
        keys = min(case.keys, settings["key_block"])
        size = self.dtype.itemsize
        return size * (case.features.numel() + (case.queries + 2 * keys) * case.depth + 2 * queries * keys)

    def traffic(self, case: Case) -> float:
        return 2.0 * self.dtype.itemsize * (case.queries * case.keys + case.depth * (case.queries + case.keys))

    def prepare(self, case: Case, **settings: Any) -> Callable[[], Tensor]:
        usable = case.key_mask[0].nonzero()

        def run() -> Tensor:
            patches = patch_view(case.features, self.dtype)
            scale = inverse_norms(case.features)
            queries = patches[case.query_mask[0]].flatten(1)
            best = queries.new_full((case.queries,), -torch.inf)
            chosen = torch.zeros(case.queries, dtype=torch.int64, device=queries.device)
            for start in range(0, case.keys, settings["key_block"]):
                rows, columns = usable[start : start + settings["key_block"]].T
                keys = patches[rows, columns].flatten(1)
                keys *= scale[rows, columns, None].to(self.dtype)
                for first in range(0, case.queries, settings["query_block"]):
                    block = slice(first, first + settings["query_block"])
                    add_block(queries[block], keys, best[block], chosen[block], start)
            return usable[chosen, 0] * case.key_mask.shape[2] + usable[chosen, 1]

        return run


def add_block(queries: Tensor, keys: Tensor, best: Tensor, chosen: Tensor, start: int) -> None:
    """Bring best (n,) and chosen (n,) up to date, in place, for keys whose first has the number `start`."""
    score, index = (queries @ keys.T).max(1)
    better = score > best
    best.copy_(torch.where(better, score, best))
    chosen.copy_(torch.where(better, index + start, chosen))


def swap(features: Tensor, hole: Tensor) -> Tensor:
    """patch-swap with one matrix product of all queries with all keys: (1, C, H, W), (1, H, W) bool -> (1, C, H, W)."""
    patches = F.unfold(features, PATCH_SIZE)[0]
    touches = F.unfold(hole[:, None].float(), PATCH_SIZE)[0].amax(0) > 0
    keys = patches[:, ~touches]
    best = (patches[:, touches].T @ F.normalize(keys, dim=0)).argmax(1)
    filled = torch.zeros_like(patches)
    filled[:, touches] = keys[:, best]
    size = (features.shape[2], features.shape[3])
    total = F.fold(filled[None], size, PATCH_SIZE)
    count = F.fold(touches.expand_as(filled)[None].float(), size, PATCH_SIZE)
    return torch.where(hole[:, None], total / count.clamp(min=1), features)


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16"}[dtype]

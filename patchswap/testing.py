"""Assertions for code that builds on patchswap: an arg-max may flip between keys that score the same up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from patchswap import contract, reference
from patchswap.matching import Match, prepare, weight_of_keys


def assert_match_close(
    match: Match,
    query: Tensor,
    key: Tensor,
    *,
    patch_size: int = 3,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    tolerance: float | None = None,
) -> None:
    """Raise AssertionError unless `match` is a correct top-1 or top-k match up to rounding.

    Everything is scored again in float64. Required: indices are -1 exactly where nothing can be matched; every chosen
    key may be chosen, and only once for each query; the score of the key on each rank is within `tolerance` of the best
    score that this rank can have; and the reported score is within `tolerance` of the true one.

    Args:
        match, query, key, patch_size, query_mask, key_mask, metric, key_weight: the result and the arguments of
            `patchswap.match`; the padding is the match's own.
        tolerance: absolute, in units of the score. By default 8 * eps * sqrt(C * p * p) of the dtype in which scores
            were summed (float32, or float64 for float64 features), times the largest weight, and for "l2" and "dot"
            times the largest |q|^2 + |k|^2.
    """
    index, score = match
    padding, padding_mode = (0, "zeros") if match.grid is None else match.grid[2:]
    query, key, query_mask, key_mask = prepare(
        "match", query, key, query_mask, key_mask, patch_size, padding, padding_mode
    )
    if index.dim() == 3:
        index, score = index[:, None], score[:, None]
    topk = index.shape[1]
    key_weight = weight_of_keys(key_weight, key)
    if tolerance is None:
        terms = query.shape[1] * patch_size**2
        tolerance = 8 * torch.finfo(contract.accumulation_dtype(query.dtype)).eps * max(terms, 1) ** 0.5
        if metric != "ncc":
            tolerance *= sum(_largest(_patches(each.double(), patch_size).square().sum(1)) for each in (query, key))
        tolerance *= 1 if key_weight is None else _largest(key_weight)
    query, key = query.double(), key.double()
    key_weight = None if key_weight is None else key_weight.double()
    best_index, best_score, _ = reference.match(
        query, key, query_mask, key_mask, patch_size, topk, metric=metric, key_weight=key_weight
    )
    missing = best_index < 0
    assert torch.equal(index < 0, missing), "index is -1 in other places than where nothing can be matched"
    assert bool(torch.isneginf(score[missing]).all()), "score is not -inf where index is -1"

    key_rows, key_columns = contract.patch_grid(key.shape[2], key.shape[3], patch_size)
    assert bool(((index >= -1) & (index < key_rows * key_columns)).all()), "index is neither -1 nor a key patch"
    for rank in range(1, topk):
        repeated = (index[:, :rank] == index[:, rank : rank + 1]) & ~missing[:, rank : rank + 1]
        assert not bool(repeated.any()), "a key appears twice for one query"
    if key_mask is not None and index.numel() and key_mask.numel():
        chosen = key_mask.flatten(1).gather(1, index.flatten(1).clamp(min=0)).view_as(index)
        assert bool((chosen | missing).all()), "a masked key was chosen"

    true_score = _scores_of(index, query, key, patch_size, metric, key_weight)
    for name, values in (("the chosen key's true score", true_score), ("the reported score", score.double())):
        gap = (values - best_score).abs()[~missing]
        assert not gap.numel() or float(gap.max()) <= tolerance, (
            f"{name} is {float(gap.max()):.3g} away from the best score; allowed {tolerance:.3g}"
        )


def _scores_of(
    index: Tensor, query: Tensor, key: Tensor, patch_size: int, metric: str, key_weight: Tensor | None
) -> Tensor:
    """The score of every query patch with the keys of `index`; 0 where index is -1."""
    batch, topk, rows, columns = index.shape
    if index.numel() == 0 or not bool((index >= 0).any()):
        return torch.zeros(index.shape, dtype=query.dtype, device=query.device)
    query_patches, key_patches = (_patches(each, patch_size) for each in (query, key))
    if metric == "ncc":
        tiny = torch.finfo(query.dtype).tiny
        query_patches, key_patches = (F.normalize(each, dim=1, eps=tiny) for each in (query_patches, key_patches))
    result = []
    for rank in range(topk):
        position = index[:, rank].flatten(1).clamp(min=0)
        chosen = key_patches.gather(2, position[:, None].expand(-1, key_patches.shape[1], -1))
        compared = -(query_patches - chosen).square() if metric == "l2" else query_patches * chosen
        weight = 1 if key_weight is None else key_weight.flatten(1).gather(1, position)
        result.append((compared.sum(1) * weight).view(batch, rows, columns))
    return torch.stack(result, 1)


def _patches(features: Tensor, patch_size: int) -> Tensor:
    """All patches, (B, C * p * p, patches)."""
    if 0 in contract.patch_grid(features.shape[2], features.shape[3], patch_size):
        return features.new_zeros(features.shape[0], features.shape[1] * patch_size**2, 0)
    windows = features.unfold(2, patch_size, 1).unfold(3, patch_size, 1).permute(0, 1, 4, 5, 2, 3)
    return windows.flatten(4).flatten(1, 3)


def _largest(tensor: Tensor) -> float:
    return float(tensor.max()) if tensor.numel() else 0.0

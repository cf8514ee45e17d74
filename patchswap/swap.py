"""`swap`: patch-swap (Song et al., arXiv 1711.08590, section 3.2), that is match, cohere and fold in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from patchswap import contract
from patchswap.folding import fold, ratio_of
from patchswap.holes import cells_of_hole, check_key_margin, masks_from_hole
from patchswap.matching import Match, as_autocast_gives, cohere, match, repeated


@overload
def swap(
    query: Tensor,
    key: Tensor | None = None,
    *,
    values: Tensor | None = None,
    hole: Tensor | None = None,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    key_margin: int = 0,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    coherence: float = 0.0,
    sweeps: int = 6,
    divisor: float | Literal["covered"] = "covered",
    return_match: Literal[False] = False,
) -> Tensor: ...


@overload
def swap(
    query: Tensor,
    key: Tensor | None = None,
    *,
    values: Tensor | None = None,
    hole: Tensor | None = None,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    key_margin: int = 0,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    coherence: float = 0.0,
    sweeps: int = 6,
    divisor: float | Literal["covered"] = "covered",
    return_match: Literal[True],
) -> tuple[Tensor, Match]: ...


@overload
def swap(
    query: Tensor,
    key: Tensor | None = None,
    *,
    values: Sequence[Tensor],
    hole: Tensor | None = None,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    key_margin: int = 0,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    coherence: float = 0.0,
    sweeps: int = 6,
    divisor: float | Literal["covered"] = "covered",
    return_match: Literal[False] = False,
) -> tuple[Tensor, ...]: ...


@overload
def swap(
    query: Tensor,
    key: Tensor | None = None,
    *,
    values: Sequence[Tensor],
    hole: Tensor | None = None,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    key_margin: int = 0,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    coherence: float = 0.0,
    sweeps: int = 6,
    divisor: float | Literal["covered"] = "covered",
    return_match: Literal[True],
) -> tuple[tuple[Tensor, ...], Match]: ...


def swap(
    query: Tensor,
    key: Tensor | None = None,
    *,
    values: Tensor | Sequence[Tensor] | None = None,
    hole: Tensor | None = None,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    key_margin: int = 0,
    metric: str = "ncc",
    key_weight: Tensor | None = None,
    coherence: float = 0.0,
    sweeps: int = 6,
    divisor: float | Literal["covered"] = "covered",
    return_match: bool = False,
) -> Tensor | tuple[Tensor, ...] | tuple[Tensor | tuple[Tensor, ...], Match]:
    """Replace neural patches by their most similar ones: `swap(features, hole=mask)` or `swap(content, style)`.

    With a hole (Song et al., arXiv 1711.08590): every patch that touches the hole is replaced by the most similar patch
    wholly outside it. Cells outside the hole come back bit for bit; so do hole cells for which there is no key, and
    everything where the hole is empty. It equals this plain torch code, shown for one sample (which stores all
    queries x keys scores, where this function stores none)::

        patches = F.unfold(features, 3)[0]                                    # (C * 9, N)
        touches = F.unfold(hole[:, None].float(), 3)[0].amax(0) > 0           # (N,) True = query, False = key
        keys = patches[:, ~touches]
        best = (patches[:, touches].T @ F.normalize(keys, dim=0)).argmax(1)   # normalised cross-correlation
        filled = torch.zeros_like(patches)
        filled[:, touches] = keys[:, best]
        total = F.fold(filled[None], hole.shape[1:], 3)
        count = F.fold(touches.expand_as(filled)[None].float(), hole.shape[1:], 3)
        result = torch.where(hole[:, None], total / count, features)

    With a key (Chen and Schmidt, arXiv 1612.04337): every patch of the query is replaced by its most similar patch of
    the key, whose height and width may differ. With both, patches of the query that touch the hole are replaced by
    patches of the key wholly outside it; then the two are maps of one size.

    With values the patches are chosen by query and key, and what is copied comes from the values: features of any
    number of channels on the key's grid, or on a finer one, as of an earlier layer.

    With a metric other than "ncc" the most similar patch is the one with the highest score of `match` by that metric.

    With a coherence above 0 the keys of `match` are chosen anew by `cohere`, with this weight, before they are copied::

        value of offset o for query i = score(i, i + o) + coherence * (neighbours whose offset is o) / 8

    The gradient flows to the features that are copied (patches of key or values, and cells that are kept), not through
    the choice of patches. Under autocast query and key may have two dtypes; the result has the wider one.

    Args:
        query: (B, C, H, W): float32, float64, bfloat16 or float16.
        key: (B, C, H', W') or (1, C, H', W'), same dtype and device; query where it is left out. At least one of key
            and hole must be given.
        values: one map or a sequence of maps: (B, C_i, r_i H', r_i W') or of batch 1, with a whole number r_i for each;
            of any of the four dtypes. The key where they are left out.
        hole: (B, H, W), (B, 1, H, W), or (H, W) for all samples; bool, True = hole.
        patch_size: side of a patch in cells, from 1 to 7.
        padding, padding_mode: as for `match`.
        key_margin: with a hole, keys have at least this many cells between themselves and the hole (features of deep
            layers see that far into it). A sample for which this would leave no key is matched without margin.
        metric, key_weight: as for `match`; a key_weight not with a coherence.
        coherence: weight of agreement between neighbouring patches, in units of the score: 0 or more. 0 is the plain
            arg-max.
        sweeps: of `cohere`; at coherence 0 there are none.
        divisor: as for `fold`.
        return_match: also return the Match that was used, on the patch grid of the query.

    Returns:
        (B, C, H, W), or with values (B, C_i, r_i H, r_i W) for each, a tensor or a tuple as they were given. Cells for
        which nothing is copied are the query's; with values they are those of the values themselves where there is a
        hole, else 0. With return_match a pair of this and the Match.

    Raises:
        ValueError, TypeError, RuntimeError: as `match` and `fold`, and where neither key nor hole is given.
    """
    contract.check_features("swap", "query", query)
    if key is None and hole is None:
        raise ValueError("patchswap.swap: give key or hole, as in swap(content, style) or swap(features, hole=mask)")
    contract.check_patch_size("swap", patch_size)
    contract.check_coherence("swap", "coherence", coherence, sweeps)
    contract.check_metric("swap", metric)
    if coherence > 0 and key_weight is not None:
        raise ValueError("patchswap.swap: coherence goes without key_weight; leave coherence at 0, or key_weight out")
    check_key_margin("swap", key_margin)
    source = query if key is None else _checked_key(key, query)
    contract.check_padding("swap", padding, padding_mode, patch_size, {"query": query, "key": source})
    levels = () if values is None else (values,) if isinstance(values, Tensor) else tuple(values)
    ratios = [_ratio_of_values(level, number, values, source, query) for number, level in enumerate(levels)]

    query_mask = key_mask = None
    if hole is not None:
        hole = _checked_hole(hole, query, source)
        query_mask, key_mask = masks_from_hole(hole, patch_size, key_margin, padding=padding, padding_mode=padding_mode)
    elif key_margin != 0:
        raise ValueError("patchswap.swap: key_margin goes with hole; leave it at 0")
    found = match(
        query,
        source,
        patch_size=patch_size,
        padding=padding,
        padding_mode=padding_mode,
        query_mask=query_mask,
        key_mask=key_mask,
        metric=metric,
        key_weight=key_weight,
    )
    if coherence > 0:
        found = cohere(
            found,
            query,
            source,
            weight=coherence,
            sweeps=sweeps,
            query_mask=query_mask,
            key_mask=key_mask,
            metric=metric,
        )

    if values is None:
        wider = torch.promote_types(query.dtype, source.dtype)  # they differ under autocast only
        result: Tensor | tuple[Tensor, ...] = _copied(found, source.to(wider), query.to(wider), hole, 1, query, divisor)
    else:
        batch = query.shape[0]
        results = []
        for level, ratio in zip(levels, ratios, strict=True):
            base = None if hole is None else repeated(level, batch)
            results.append(_copied(found, level, base, hole, ratio, query, divisor))
        result = results[0] if isinstance(values, Tensor) else tuple(results)
    return (result, found) if return_match else result


def _copied(
    found: Match,
    values: Tensor,
    base: Tensor | None,
    hole: Tensor | None,
    ratio: int,
    query: Tensor,
    divisor: float | Literal["covered"],
) -> Tensor:
    """Values folded on a base, of which cells outside the hole stay as they are."""
    size = (ratio * query.shape[2], ratio * query.shape[3])
    folded = fold(found, values, output_size=size, base=base, divisor=divisor)
    if hole is None or base is None:
        return folded
    if ratio > 1:
        hole = hole.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2)
    return torch.where(hole[:, None], folded, base)


def _checked_key(key: Tensor, query: Tensor) -> Tensor:
    """The key, which must fit the query; one that looks like a mask most likely was meant to be a hole."""
    if key.dim() != 4 or key.dtype == torch.bool:
        raise ValueError(
            f"patchswap.swap: key must have shape (B, C, H, W) and hold features; got {tuple(key.shape)} of "
            f"{str(key.dtype).removeprefix('torch.')}; a mask goes with hole=, as in swap(features, hole=mask)"
        )
    contract.check_features("swap", "key", key)
    cast_query, cast_key = as_autocast_gives(query, key)
    contract.check_like("swap", "query", cast_query, "key", cast_key)
    contract.check_same_batch_and_channels("swap", query, repeated(key, query.shape[0]), ("query", "key"))
    return key


def _ratio_of_values(
    level: Tensor, number: int, values: Tensor | Sequence[Tensor] | None, key: Tensor, query: Tensor
) -> int:
    """How many times as fine as the key a map of values is; raises where it does not fit."""
    name = "values" if isinstance(values, Tensor) else f"values[{number}]"
    if not isinstance(level, Tensor):
        raise TypeError(f"patchswap.swap: {name} must be a tensor; got {type(level).__name__}")
    contract.check_features("swap", name, level)
    contract.check_device("swap", name, level, "query", query)
    if level.shape[0] != query.shape[0] and level.shape[0] != 1:
        raise ValueError(
            f"patchswap.swap: {name} must have the batch of query, {query.shape[0]}, or 1; got {tuple(level.shape)}"
        )
    return ratio_of("swap", name, level, (key.shape[2], key.shape[3]))


def _checked_hole(hole: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """The hole as (B, H, W), or (1, H, W) for all samples."""
    cells = cells_of_hole("swap", hole)
    batch, _, height, width = query.shape
    fits_batch = cells.shape[0] == batch or cells.shape[0] == 1
    if not fits_batch or cells.shape[1] != height or cells.shape[2] != width:
        raise ValueError(
            f"patchswap.swap: hole must have shape ({batch}, {height}, {width}), ({batch}, 1, {height}, {width}) or "
            f"({height}, {width}), one value for each cell of query; got {tuple(hole.shape)}; a mask of pixels is "
            "brought to cells with max-pooling"
        )
    contract.check_device("swap", "hole", cells, "query", query)
    if key.shape[2] != height or key.shape[3] != width:
        raise ValueError(
            f"patchswap.swap: with a hole, key must have the height and width of query, ({height}, {width}); "
            f"got {tuple(key.shape)}"
        )
    return cells

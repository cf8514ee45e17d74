"""The public functions: patch-swap (Song et al., arXiv 1711.08590, section 3.2) and its parts: match, cohere, fold."""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor
from torch.nn import functional as F

from patchswap import contract, ops


class _Pair(NamedTuple):
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which has no use here
    score: Tensor


class Match(_Pair):
    """The best keys of every query patch.

    index: int64, row-major position in the key's patch grid; -1 where nothing was matched.
    score: normalised cross-correlation in [-1, 1], up to rounding; -inf where nothing was matched.

    Both are (B, H-p+1, W-p+1), or (B, k, H-p+1, W-p+1) for topk=k > 1. It unpacks into these two.

    key_size: (H', W') of the key that was matched, by which `fold` knows a map on another grid; None where not known.
    """

    key_size: tuple[int, int] | None = None


def match(
    query: Tensor,
    key: Tensor,
    *,
    patch_size: int = 3,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    topk: int = 1,
    precision: str = "exact",
    method: str = "auto",
) -> Match:
    """Find, for every patch of `query`, the patches of `key` with the highest normalised cross-correlation.

    The score of patches p and q is <p, q> / (|p| |q|). Only patches that lie wholly inside their map count. Of keys
    with equal scores the lowest index wins. A patch of norm 0 has score 0. A query that takes no part, and a rank for
    which no key is left, has index -1 and score -inf. No memory of size queries x keys is used.

    Not differentiable: index and score are constants to autograd. Under autocast it runs in float32, and query and key
    may have two dtypes.

    Args:
        query: (B, C, H, W) features: float32, bfloat16, float16 (accumulated in float32) or float64.
        key: (B, C, H', W') features, same dtype and device; H' and W' may differ from H and W.
        patch_size: side of a patch in cells: 1, 3 or 5.
        query_mask: (B, H-p+1, W-p+1) bool on the patch grid, True = take part. All take part by default.
        key_mask: (B, H'-p+1, W'-p+1) bool on the patch grid, True = may be chosen. All may by default.
        topk: how many keys to return for each query, from 1 to 8, best first.
        precision: "exact", or "fast": on a GPU with tensor cores keys are ranked in half precision only, so a key whose
            score is within rounding of the best may be chosen. Elsewhere, and for topk > 1 or a patch_size other than
            3, "fast" is the same as "exact".
        method: "auto", or the kernel to use, for tests and benchmarks: "dense" or "pruned" on the CPU; "direct", "mma"
            or "wgmma" on a GPU. All give the same match, up to rounding of the score. `explain` tells which one "auto"
            takes, and the environment variable PATCHSWAP_LOG=1 has each call say it on stderr.

    Returns:
        Match(index, score) on the query's patch grid; with topk = k > 1 a dimension of k follows the batch.

    Raises:
        ValueError, TypeError: shapes, dtypes or ranges outside the above. Non-finite features raise a RuntimeError on
            the CPU and ValueError in the reference; the CUDA kernel, which never waits for the device, gives such a
            query index -1 and score NaN and never chooses such a key.
    """
    query, key = as_autocast_gives(query, key)
    contract.check_match(query, key, query_mask, key_mask, patch_size, topk, precision, method)
    index, score, _ = ops.match(query, key, query_mask, key_mask, patch_size, topk, precision, method)
    return _match_with(key, *((index[:, 0], score[:, 0]) if topk == 1 else (index, score)))


def cohere(
    match_or_index: Match | Tensor,
    query: Tensor,
    key: Tensor,
    *,
    weight: float,
    sweeps: int = 6,
    patch_size: int = 3,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
) -> Match:
    """Choose the keys of a match anew, so that neighbouring queries take neighbouring keys where these fit as well.

    The offset of query i with key k is k - i, a difference of rows and of columns on the patch grids. Its neighbours
    are the up to eight queries around it that have a key. In each sweep every query takes, of its own offset and its
    neighbours', the offset o with the highest

        NCC(i, i + o) + weight * (number of neighbours whose offset is o) / 8,

    where NCC is the normalised cross-correlation that `match` maximises. An offset is left out where i + o is no key:
    outside the key's grid, or masked. All queries choose at once, by the offsets of the sweep before. So copied regions
    grow together, unless the similarity says otherwise by more than the weight. It need not settle: two neighbours may
    go on exchanging their offsets.

    Ties: its own offset goes first, then its neighbours' in row-major order. A query without a key stays without, and
    is no neighbour. The result does not depend on the number of threads or the batch.

    With the k best keys of each query (`match` with topk=k) the first sweep knows more: a query may take the offset of
    any of its own k keys, which come after its first on ties; and a neighbour counts if any of its k offsets is o.
    Later sweeps go by the chosen keys alone.

    Not differentiable: index and score are constants to autograd. Under autocast it runs in float32, and query and key
    may have two dtypes.

    Args:
        match_or_index: what `match` returned, or an index from elsewhere: (B, H-p+1, W-p+1) or (B, k, H-p+1, W-p+1)
            int64 positions in the key's patch grid, k from 1 to 8; -1 = no key. A query has none either where it is
            masked, or its first key is.
        query: (B, C, H, W) features: float32, bfloat16, float16 (accumulated in float32) or float64.
        key: (B, C, H', W') features, same dtype and device; H' and W' may differ from H and W.
        weight: what the agreement of all eight neighbours counts for, in units of NCC: 0 or more. 0.1 to 0.4 are
            useful; at 0 every query keeps its key.
        sweeps: how many at most; 0 or more. It may end sooner, where a sweep would change nothing.
        patch_size: side of a patch in cells: 1, 3 or 5.
        query_mask: (B, H-p+1, W-p+1) bool on the patch grid, True = take part. All take part by default.
        key_mask: (B, H'-p+1, W'-p+1) bool on the patch grid, True = may be chosen. All may by default.

    Returns:
        Match(index, score), both (B, H-p+1, W-p+1): the keys chosen and their NCC; -1 and -inf where there is none.

    Raises:
        ValueError, TypeError: shapes, dtypes or ranges outside the above. An index beyond the last key patch raises on
            the CPU; the CUDA kernel, which never waits for the device, takes it as -1. Features are not checked: a
            patch with NaN or Inf has NCC NaN, is never taken, and as a query keeps its key with score NaN.
    """
    index = match_or_index.index if isinstance(match_or_index, Match) else match_or_index
    query, key = as_autocast_gives(query, key)
    contract.check_cohere(index, query, key, query_mask, key_mask, weight, sweeps, patch_size)
    return _match_with(key, *ops.cohere(index, query, key, query_mask, key_mask, weight, sweeps, patch_size))


def _match_with(key: Tensor, index: Tensor, score: Tensor) -> Match:
    found = Match(index, score)
    if not torch.compiler.is_compiling():  # which traces tuples without further attributes
        found.key_size = (key.shape[2], key.shape[3])
    return found


def fold(
    index: Tensor | Match,
    key: Tensor,
    *,
    output_size: tuple[int, int] | None = None,
    patch_size: int = 3,
    query_mask: Tensor | None = None,
    base: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Put the chosen key patches at their queries' places; where patches overlap, take their mean.

    Each output cell is the mean over the 1 to p*p matched patches that cover it; with weights w it is their weighted
    mean, sum(w * copy) / sum(w). Cells that no matched patch of positive weight covers take `base`. A common factor of
    all weights changes nothing, up to rounding. Deterministic, gradients included.

    Differentiable with respect to key, base and weights. Gradients of higher order are there for key and base; asked of
    the gradient with respect to weights they raise a RuntimeError. Where all weights over a cell are 0, fold has a step
    to base, which the gradient leaves out.

    Args:
        index: (B, H-p+1, W-p+1) int64 positions in the key's patch grid, -1 = no patch here (as `match` returns it); or
            the Match itself, whose key's size is then compared with that of `key`.
        key: (B, C, H', W') features: float32, float64, bfloat16 or float16 (accumulated in float32). H' and W' must be
            those of the key that was matched, as index counts the patches of that grid row by row: values of another
            width would be garbled. Values of a level that is r times finer fit by pixel_unshuffle::

                F.pixel_shuffle(fold(match, F.pixel_unshuffle(values, r)), r)

        output_size: (H, W); by default the size of base, or without it that of index plus p - 1.
        patch_size: side of a patch in cells: 1, 3 or 5.
        query_mask: (B, H-p+1, W-p+1) bool; patches where it is False are left out, as if their index were -1.
        base: (B, C, H, W), same dtype as key; zeros by default.
        weights: (B, H-p+1, W-p+1), how much the copy of each query counts: from 0 to 1e37, so that the sum over a cell
            is finite. float32, or float64 where key is float64; under autocast half precision is brought to float32. A
            weight of 0 leaves the patch out, as query_mask does. By default all count the same.

    Returns:
        (B, C, H, W) in the dtype of key.

    Raises:
        ValueError, TypeError, RuntimeError: shapes, dtypes or ranges outside the above. An index beyond the last key
            patch raises on the CPU, and so does a weight that is negative, NaN or above 1e37; the CUDA kernel, which
            never waits for the device, takes such an index as -1 and such a weight as 0.
    """
    if isinstance(index, Match):
        _check_key_size(index, key)
        index = index.index
    contract.check_patch_size("fold", patch_size)
    if output_size is not None:
        height, width = output_size
    elif base is not None and base.dim() == 4:
        height, width = base.shape[2:]
    else:
        height, width = (size + patch_size - 1 for size in index.shape[-2:])
    if weights is not None and _is_autocast(key):
        weights = _float_under_autocast(weights)
    contract.check_fold(index, key, base, height, width, patch_size, weights)
    if query_mask is not None:
        if query_mask.dtype != torch.bool:
            raise TypeError(f"patchswap.fold: query_mask must be bool; got {query_mask.dtype}")
        if query_mask.shape != index.shape:
            raise ValueError(
                f"patchswap.fold: query_mask must have the shape of index {tuple(index.shape)}; "
                f"got {tuple(query_mask.shape)}"
            )
        contract.check_device("fold", "query_mask", query_mask, "index", index)
        index = index.masked_fill(~query_mask, -1)
    return ops.fold(index, key, base, height, width, patch_size, weights)


@overload
def swap(
    features: Tensor,
    style: Tensor | None = None,
    *,
    hole: Tensor | None = None,
    patch_size: int = 3,
    key_margin: int = 0,
    coherence: float = 0.0,
    sweeps: int = 6,
    return_match: Literal[False] = False,
) -> Tensor: ...


@overload
def swap(
    features: Tensor,
    style: Tensor | None = None,
    *,
    hole: Tensor | None = None,
    patch_size: int = 3,
    key_margin: int = 0,
    coherence: float = 0.0,
    sweeps: int = 6,
    return_match: Literal[True],
) -> tuple[Tensor, Match]: ...


def swap(
    features: Tensor,
    style: Tensor | None = None,
    *,
    hole: Tensor | None = None,
    patch_size: int = 3,
    key_margin: int = 0,
    coherence: float = 0.0,
    sweeps: int = 6,
    return_match: bool = False,
) -> Tensor | tuple[Tensor, Match]:
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

    With a style (Chen and Schmidt, arXiv 1612.04337): every patch of the content is replaced by its most similar patch
    of the style features, whose height and width may differ.

    With a coherence above 0 the keys of `match` are chosen anew by `cohere`, with this weight, before they are copied::

        value of offset o for query i = NCC(i, i + o) + coherence * (neighbours whose offset is o) / 8

    The gradient flows to the features that are copied (the key patches, and features where they are kept), not through
    the choice of patches. Under autocast features and style may have two dtypes; the result has the wider one.

    Args:
        features: (B, C, H, W): float32, float64, bfloat16 or float16.
        style: (B, C, H', W'), same dtype and device. Exactly one of style and hole must be given.
        hole: (B, H, W) bool, True = hole; one hole per sample.
        patch_size: side of a patch in cells: 1, 3 or 5.
        key_margin: with a hole, keys have at least this many cells between themselves and the hole (features of deep
            layers see that far into it). A sample for which this would leave no key is matched without margin.
        coherence: weight of agreement between neighbouring patches, in units of NCC: 0 or more. 0 is the plain arg-max.
        sweeps: of `cohere`; at coherence 0 there are none.
        return_match: also return the Match(index, score) that was used, on the patch grid of features.

    Returns:
        (B, C, H, W), or ((B, C, H, W), Match) with return_match.

    Raises:
        ValueError, TypeError: as `match`, and where not exactly one of style and hole is given.
    """
    if (style is None) == (hole is None):
        raise ValueError("patchswap.swap: give exactly one of style and hole, as in swap(features, hole=mask)")
    contract.check_features("swap", "features", features)
    contract.check_patch_size("swap", patch_size)
    contract.check_coherence("swap", "coherence", coherence, sweeps)
    size = (features.shape[2], features.shape[3])
    if hole is None:
        assert style is not None
        if key_margin != 0:
            raise ValueError("patchswap.swap: key_margin goes with hole, not with style; leave it at 0")
        _check_style(style, features)
        found = match(features, style, patch_size=patch_size)
        if coherence > 0:
            found = cohere(found, features, style, weight=coherence, sweeps=sweeps, patch_size=patch_size)
        wider = torch.promote_types(features.dtype, style.dtype)  # they differ under autocast only
        base = features.to(wider)
        result = fold(found, style.to(wider), output_size=size, patch_size=patch_size, base=base)
    else:
        _check_hole(hole, features, key_margin)
        query_mask, key_mask = masks_from_hole(hole, patch_size, key_margin)
        found = match(features, features, patch_size=patch_size, query_mask=query_mask, key_mask=key_mask)
        if coherence > 0:
            found = cohere(
                found,
                features,
                features,
                weight=coherence,
                sweeps=sweeps,
                patch_size=patch_size,
                query_mask=query_mask,
                key_mask=key_mask,
            )
        filled = fold(found, features, output_size=size, patch_size=patch_size, base=features)
        result = torch.where(hole[:, None], filled, features)
    return (result, found) if return_match else result


def masks_from_hole(hole: Tensor, patch_size: int, key_margin: int) -> tuple[Tensor, Tensor]:
    """The query mask and the key mask of a (B, H, W) hole, both (B, H-p+1, W-p+1) bool.

    A query has at least one hole cell. A key has none and, where the sample has any such key, at least `key_margin`
    cells between itself and the hole.
    """
    query_mask = _windows_touching(hole, patch_size)
    key_mask = ~query_mask
    if key_margin > 0:
        grown = F.max_pool2d(hole[:, None].float(), 2 * key_margin + 1, stride=1, padding=key_margin)[:, 0] > 0
        distant = ~_windows_touching(grown, patch_size)
        key_mask = torch.where(distant.any(2, keepdim=True).any(1, keepdim=True), distant, key_mask)
    return query_mask, key_mask


def as_autocast_gives(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps as the operators get them where autocast is on: in float32, but float64 stays. One map stays one."""
    if not _is_autocast(query):
        return query, key
    cast = _float_under_autocast(query)
    return cast, cast if key is query else _float_under_autocast(key)


def _is_autocast(features: Tensor) -> bool:
    device = features.device.type
    return device in ops.AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def _float_under_autocast(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features


def _windows_touching(cells: Tensor, patch_size: int) -> Tensor:
    """Which patches have at least one True cell: (B, H, W) bool -> (B, H-p+1, W-p+1) bool."""
    rows, columns = contract.patch_grid(cells.shape[1], cells.shape[2], patch_size)
    if rows == 0:
        return cells.new_zeros(cells.shape[0], 0, 0)
    return cells.unfold(1, patch_size, 1).unfold(2, patch_size, 1).flatten(3).any(3)


def _check_key_size(match: Match, key: Tensor) -> None:
    if match.key_size is not None and key.dim() == 4 and match.key_size != tuple(key.shape[2:]):
        raise ValueError(
            f"patchswap.fold: key must have the height and width of the key that was matched, {match.key_size}, whose "
            f"patches index counts; got {tuple(key.shape[2:])}; values of a finer level fit by pixel_unshuffle, as in "
            "F.pixel_shuffle(fold(match, F.pixel_unshuffle(values, r)), r)"
        )


def _check_style(style: Tensor, features: Tensor) -> None:
    if style.dim() != 4 or style.dtype == torch.bool:
        raise ValueError(
            f"patchswap.swap: style must have shape (B, C, H, W) and hold features; got {tuple(style.shape)} of "
            f"{str(style.dtype).removeprefix('torch.')}; a mask goes with hole=, as in swap(features, hole=mask)"
        )
    contract.check_features("swap", "style", style)
    cast_features, cast_style = as_autocast_gives(features, style)
    contract.check_like("swap", "features", cast_features, "style", cast_style)
    count = features.shape[0]
    hint = f"; to use one style for all samples: style.expand({count}, -1, -1, -1)" if style.shape[0] == 1 else ""
    contract.check_same_batch_and_channels("swap", features, style, ("features", "style"), hint)


def _check_hole(hole: Tensor, features: Tensor, key_margin: int) -> None:
    if hole.dtype != torch.bool:
        raise TypeError(
            f"patchswap.swap: hole must be bool with True = hole; got {hole.dtype}; compare it first, as in mask > 0.5"
        )
    batch, _, height, width = features.shape
    if tuple(hole.shape) != (batch, height, width):
        remedy = "a mask of pixels is brought to cells with max-pooling"
        if hole.dim() == 4 and hole.shape[1] == 1:
            remedy = "drop its channel, as in hole.squeeze(1)"
        elif tuple(hole.shape) == (1, height, width):
            remedy = f"to use one hole for all samples: hole.expand({batch}, -1, -1)"
        raise ValueError(
            f"patchswap.swap: hole must have shape ({batch}, {height}, {width}), "
            f"one value for each cell of features; got {tuple(hole.shape)}; {remedy}"
        )
    contract.check_device("swap", "hole", hole, "features", features)
    contract.check_whole("swap", "key_margin", key_margin)
    if key_margin < 0:
        raise ValueError(f"patchswap.swap: key_margin must not be negative; got {key_margin}")

"""The operators in plain torch: the specification, and the kernel of every device that has no compiled one.

The functions have the signatures of the registered operators. They accumulate in float64 for float64 features and in
float32 otherwise. Of scores that are equal as computed the lowest key index wins; but the matrix product here may round
the scores of two equal patches differently, which the compiled kernels never do. Written to be read; memory is bounded
by the unfolded keys plus `SCORES_PER_CHUNK` scores.
"""

from __future__ import annotations

import sys
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from patchswap import contract, library
from patchswap.padding import padded

SCORES_PER_CHUNK = 1 << 22
SMOOTHINGS = 2  # of each level of fill_smoothly
SMALLEST_WEIGHT = 1e-8  # by which it divides
REASON = "plain torch code, as no compiled kernel is loaded for this device; build_info() tells more"


def match(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Best keys of every query patch; see csrc/ops.h for the contract.

    There is one way here, an exact one, whatever precision and method say.

    Returns index int64 and score, both (B, topk, H-p+1, W-p+1), and tally, two zeros.
    """
    index, score, _ = match_part(
        query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight, key.shape[2]
    )
    return index, score, torch.zeros(2, dtype=torch.int64, device=query.device)


def match_part(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str,
    method: str,
    metric: str,
    key_weight: Tensor | None,
    whole_height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Best keys of every query patch among those of a part of the key map; see csrc/ops.h for the contract.

    Returns index int64, score and ranking, all (B, topk, H-p+1, W-p+1).
    """
    contract.check_match(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight)
    contract.check_whole_height(key, whole_height)
    if library.is_set(library.LOG):
        print(f"patchswap.match: reference on {query.device}: {REASON}", file=sys.stderr)
    accumulate = contract.accumulation_dtype(query.dtype)
    query, key = query.to(accumulate), key.to(accumulate)
    _require_finite("query", query, patch_size)
    _require_finite("key", key, patch_size)
    if key_weight is not None:
        _require_key_weight(key_weight)

    batch = query.shape[0]
    query_grid = contract.patch_grid(query.shape[2], query.shape[3], patch_size)
    key_grid = contract.patch_grid(key.shape[2], key.shape[3], patch_size)
    queries = query_grid[0] * query_grid[1]
    index = torch.full((batch, topk, queries), -1, dtype=torch.int64, device=query.device)
    score = torch.full((batch, topk, queries), -torch.inf, dtype=accumulate, device=query.device)
    rankings = score.clone()
    for sample in range(batch):
        query_positions = _positions(query_mask, sample, query_grid, query.device)
        key_positions = _positions(key_mask, sample, key_grid, query.device)
        if len(query_positions) == 0 or len(key_positions) == 0:
            continue
        keys = _patches(key[sample], key_positions, key_grid, patch_size)
        weights = 1 if key_weight is None else key_weight[sample].flatten()[key_positions]
        key_squares = keys.square().sum(dim=1)
        inverse_key_norm = _inverse_norm(keys)
        for chunk in query_positions.split(max(1, SCORES_PER_CHUNK // len(key_positions))):
            patches = _patches(query[sample], chunk, query_grid, patch_size)
            products, scale = patches @ keys.T, patches.new_ones(len(patches))
            if metric == "l2":
                half_squares = patches.square().sum(dim=1, keepdim=True) / 2
                ranking = (products - half_squares) * (2 * weights) - weights * key_squares
            elif metric == "dot":
                ranking = products * weights
            else:  # the query's norm is the same for all of its keys, so ranking leaves it out
                ranking, scale = products * (weights * inverse_key_norm), _inverse_norm(patches)
            ranking = torch.where(ranking.isnan(), -torch.inf, ranking)  # a score beyond the range of its dtype
            for rank in range(min(topk, len(key_positions))):
                best = ranking.argmax(dim=1, keepdim=True)  # the first of equal maxima, which is the lowest key index
                value = ranking.gather(1, best)[:, 0]
                is_key = value > -torch.inf
                rankings[sample, rank, chunk] = value
                value = torch.where(is_key, value * scale, value)
                index[sample, rank, chunk] = torch.where(is_key, key_positions[best[:, 0]], -1)
                score[sample, rank, chunk] = value.clamp(max=0) if metric == "l2" else value
                ranking.scatter_(1, best, -torch.inf)
    shape = (batch, topk, *query_grid)
    return index.view(shape), score.view(shape), rankings.view(shape)


def explain(
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    topk: int,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> str:
    """What `match` runs, and why: see csrc/ops.h."""
    contract.check_match(query, key, query_mask, key_mask, patch_size, topk, precision, method, metric, key_weight)
    return f"reference\t{REASON}\n"


def cohere(
    index: Tensor,
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    weight: float,
    sweeps: int,
    patch_size: int,
    metric: str = "ncc",
) -> tuple[Tensor, Tensor]:
    """The keys of a match, chosen anew so that neighbouring queries agree; see csrc/ops.h for the contract.

    Returns index int64 and score, both (B, H-p+1, W-p+1).
    """
    contract.check_cohere(index, query, key, query_mask, key_mask, weight, sweeps, patch_size, metric)
    rows, columns = key_grid = contract.patch_grid(key.shape[2], key.shape[3], patch_size)
    _require_keys("cohere", index, rows * columns)
    accumulate = contract.accumulation_dtype(query.dtype)
    ranks = index if index.dim() == 4 else index[:, None]
    chosen = ranks.new_full((ranks.shape[0], *ranks.shape[2:]), -1)
    score = torch.full(chosen.shape, -torch.inf, dtype=accumulate, device=query.device)
    for sample in range(len(ranks)):
        may_be_chosen = _positions(key_mask, sample, key_grid, key.device)
        keys = torch.where(torch.isin(ranks[sample], may_be_chosen), ranks[sample], -1)
        has_key = keys[0] >= 0 if query_mask is None else (keys[0] >= 0) & query_mask[sample]
        keys = torch.where(has_key, keys, -1)
        at = has_key.nonzero()
        if len(at) == 0:
            continue
        maps = query[sample].to(accumulate), key[sample].to(accumulate)

        def score_with(positions: Tensor, at: Tensor = at, maps: tuple[Tensor, Tensor] = maps) -> Tensor:
            places = torch.stack((positions // columns, positions % columns), 1)
            return _score(maps[0], at, maps[1], places, patch_size, metric)

        current = keys[0][has_key]
        for sweep in range(sweeps if weight > 0 else 0):
            own = keys if sweep == 0 else keys[:1]  # (ranks, query rows, query columns)
            proposed = torch.stack([_proposals(rank, key_grid, may_be_chosen)[:, has_key] for rank in own])
            candidates = torch.cat((own[:, has_key], proposed[0]))
            values = []
            for candidate in candidates:
                agreeing = (proposed == candidate).any(0).sum(0)  # a neighbour counts once, by any of its ranks
                support = (weight * agreeing.double() / 8).to(accumulate)
                values.append(score_with(candidate.clamp(min=0)) + support)
            current, best = candidates[0], values[0]
            for number in range(1, len(candidates)):
                is_new = (candidates[number] >= 0) & (candidates[:number] != candidates[number]).all(0)
                better = is_new & (values[number] > best)
                current = torch.where(better, candidates[number], current)
                best = torch.where(better, values[number], best)
            keys[0][has_key] = current
        chosen[sample][has_key] = current
        score[sample][has_key] = score_with(current)
    return chosen, score


def fold(
    index: Tensor,
    key: Tensor,
    base: Tensor | None,
    height: int,
    width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Paint the matched key patches; every cell is the mean of those that cover it; see csrc/ops.h for the contract.

    Returns (B, C, height, width) in the dtype of key.
    """
    contract.check_fold(index, key, base, height, width, patch_size, weights)
    accumulate = contract.accumulation_dtype(key.dtype)
    batch, channels, key_height, key_width = key.shape
    rows, columns = contract.patch_grid(height, width, patch_size)
    if weights is not None:
        _require_weights("fold", weights, index, patch_size)
        index = counted(index, weights, patch_size)
        cover = _cover_weight(index, weights, height, width, patch_size)
    total = torch.zeros(batch, channels, height, width, dtype=accumulate, device=key.device)
    cells = key.to(accumulate).flatten(2)
    for copy in _copies("fold", index, weights, key_height, key_width, patch_size):
        for y, x in copy.offsets:
            taken = (copy.source + y * key_width + x).flatten(1)[:, None].expand(-1, channels, -1)
            values = cells.gather(2, taken).view(batch, channels, rows, columns)
            if copy.weights is not None:
                values = (copy.weights / cover[:, y : y + rows, x : x + columns])[:, None] * values
            total[:, :, y : y + rows, x : x + columns] += torch.where(copy.matched[:, None], values, 0)
    count = cover_count(index, height, width, patch_size)[:, None]
    filling = torch.zeros_like(total) if base is None else base.to(accumulate)
    mean = total / count.clamp(min=1) if weights is None else total
    return torch.where(count > 0, mean, filling).to(key.dtype)


def fold_backward(
    grad_output: Tensor,
    index: Tensor,
    key_height: int,
    key_width: int,
    patch_size: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Gradient of `fold` with respect to key.

    Returns (B, C, key_height, key_width) in the dtype of grad_output.
    """
    contract.check_fold_backward(grad_output, index, key_height, key_width, patch_size, weights)
    accumulate = contract.accumulation_dtype(grad_output.dtype)
    batch, channels, height, width = grad_output.shape
    rows, columns = contract.patch_grid(height, width, patch_size)
    if weights is None:
        share = grad_output.to(accumulate) / cover_count(index, height, width, patch_size)[:, None].clamp(min=1)
    else:
        _require_weights("fold_backward", weights, index, patch_size)
        index = counted(index, weights, patch_size)
        cover = _cover_weight(index, weights, height, width, patch_size)
        share = grad_output.to(accumulate)
    grad_key = torch.zeros(batch, channels, key_height * key_width, dtype=accumulate, device=grad_output.device)
    for copy in _copies("fold_backward", index, weights, key_height, key_width, patch_size):
        for y, x in copy.offsets:
            taken = (copy.source + y * key_width + x).flatten(1)[:, None].expand(-1, channels, -1)
            values = share[:, :, y : y + rows, x : x + columns]
            if copy.weights is not None:
                values = (copy.weights / cover[:, y : y + rows, x : x + columns])[:, None] * values
            grad_key.scatter_add_(2, taken, torch.where(copy.matched[:, None], values, 0).flatten(2))
    return grad_key.view(batch, channels, key_height, key_width).to(grad_output.dtype)


def fold_weights_backward(
    grad_output: Tensor, index: Tensor, key: Tensor, output: Tensor, weights: Tensor, patch_size: int
) -> Tensor:
    """Gradient of `fold` with respect to weights; see csrc/ops.h for the contract.

    Returns the shape and dtype of weights.
    """
    contract.check_fold_weights_backward(grad_output, index, key, output, weights, patch_size)
    batch, channels, height, width = grad_output.shape
    rows, columns = contract.patch_grid(height, width, patch_size)
    _require_weights("fold_weights_backward", weights, index, patch_size)
    cover = _cover_weight(counted(index, weights, patch_size), weights, height, width, patch_size)
    grad_output, key, output = (features.to(weights.dtype) for features in (grad_output, key, output))
    cells = key.flatten(2)
    gradients = []
    for copy in _copies("fold_weights_backward", index, weights, key.shape[2], key.shape[3], patch_size):
        gradients.append(weights.new_zeros(batch, rows, columns))
        for y, x in copy.offsets:
            place = (..., slice(y, y + rows), slice(x, x + columns))
            taken = (copy.source + y * key.shape[3] + x).flatten(1)[:, None].expand(-1, channels, -1)
            copies = cells.gather(2, taken).view(batch, channels, rows, columns)
            products = (grad_output[place] * (copies - output[place])).sum(1)
            gradients[-1] += torch.where(copy.matched & (cover[place] > 0), products / cover[place], 0)
    return torch.stack(gradients, 1).view(weights.shape)


def similarity(query: Tensor, key: Tensor, index: Tensor, patch_size: int, padding: int = 0) -> Tensor:
    """Normalised cross-correlation of every query patch with its keys; see csrc/ops.h for the contract.

    Returns the shape of index, in the dtype of sums.
    """
    contract.check_similarity("similarity", query, key, index, patch_size, padding)
    query, key = padded(query, padding, "zeros"), padded(key, padding, "zeros")
    pairs = _pairs("similarity", query, key, index, patch_size)
    products = (pairs.query[:, None] * pairs.key).sum(2)
    score = products * _inverse_root(pairs.key.square().sum(2)) * _inverse_root(pairs.query.square().sum(1))[:, None]
    return torch.where(pairs.matched, score, -torch.inf).view(index.shape)


def similarity_query_backward(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    """Gradient of `similarity` with respect to query, like query; see csrc/ops.h for the contract."""
    operator = "similarity_query_backward"
    contract.check_similarity_backward(operator, grad_score, query, key, index, score, patch_size, padding)
    query, key = padded(query, padding, "zeros"), padded(key, padding, "zeros")
    pairs = _pairs(operator, query, key, index, patch_size)
    grad, score = _of_pairs(grad_score), _of_pairs(score)
    inverse = _inverse_root(pairs.query.square().sum(1))[:, None, None]
    direction = pairs.key * _inverse_root(pairs.key.square().sum(2))[:, :, None]
    own = pairs.query[:, None] * inverse
    terms = torch.where(pairs.matched[:, :, None], grad * inverse * (direction - score * own), 0)
    return padded(_added_up(terms.sum(1), query, patch_size), -padding, "zeros")


def similarity_key_backward(
    grad_score: Tensor, query: Tensor, key: Tensor, index: Tensor, score: Tensor, patch_size: int, padding: int = 0
) -> Tensor:
    """Gradient of `similarity` with respect to key, like key; see csrc/ops.h for the contract."""
    operator = "similarity_key_backward"
    contract.check_similarity_backward(operator, grad_score, query, key, index, score, patch_size, padding)
    query, key = padded(query, padding, "zeros"), padded(key, padding, "zeros")
    pairs = _pairs(operator, query, key, index, patch_size)
    grad, score = _of_pairs(grad_score), _of_pairs(score)
    inverse = _inverse_root(pairs.key.square().sum(2))[:, :, None]
    direction = (pairs.query * _inverse_root(pairs.query.square().sum(1))[:, None])[:, None]
    own = pairs.key * inverse
    terms = torch.where(pairs.matched[:, :, None], grad * inverse * (direction - score * own), 0)
    batch, ranks, numbers, _ = terms.shape
    rows, columns = contract.patch_grid(key.shape[2], key.shape[3], patch_size)
    patches = terms.new_zeros(batch, numbers, rows * columns)
    for rank in range(ranks if patches.numel() else 0):
        patches.scatter_add_(2, pairs.chosen[:, rank, None].expand(-1, numbers, -1), terms[:, rank])
    return padded(_added_up(patches, key, patch_size), -padding, "zeros")


def convolve(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    dilation: int,
    doubled: bool,
    replicate: bool,
    slope: float,
) -> Tensor:
    """A 3x3 convolution and its leaky ReLU; see csrc/ops.h for the contract."""
    contract.check_convolve(features, weight, bias, skip, dilation, doubled)
    return convolution(features, weight, bias, skip, dilation, doubled, replicate, slope)


def convolution(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    skip: Tensor | None,
    dilation: int,
    doubled: bool,
    replicate: bool,
    slope: float,
) -> Tensor:
    """What `convolve` computes, in any dtype."""
    height, width = (length * 2 if doubled else length for length in features.shape[2:])
    x = features
    if doubled and x.numel():
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    elif doubled:
        x = x.new_zeros(*x.shape[:2], height, width)
    x = x if skip is None else torch.cat((x, skip), dim=1)
    if x.numel():
        x = F.pad(x, [dilation] * 4, mode="replicate" if replicate else "constant")
        sums = F.conv2d(x, weight, bias, dilation=dilation)
    else:  # PyTorch convolves no empty map
        sums = x.new_zeros(x.shape[0], weight.shape[0], height, width)
        sums = sums if bias is None else sums + bias[:, None, None]
    return F.leaky_relu(sums, slope).contiguous(memory_format=torch.channels_last)


def fill_smoothly(image: Tensor, hole: Tensor) -> Tensor:
    """Pull-push interpolation into the hole; see csrc/ops.h for the contract."""
    contract.check_fill_smoothly(image, hole)
    contract.check_float("fill_smoothly", "image", image)
    return smooth_fill(image, hole)


def smooth_fill(image: Tensor, hole: Tensor) -> Tensor:
    """What `fill_smoothly` computes, in any floating dtype, with gradients."""
    contract.check_fill_smoothly(image, hole)
    if image.numel() == 0:
        return image.clone()
    missing = hole[:, None]
    known_image = image.to(contract.accumulation_dtype(image.dtype)).masked_fill(missing, 0)
    levels = [(known_image, (~missing).to(known_image.dtype))]
    while max(levels[-1][1].shape[2:]) > 1:
        total, weight = (F.avg_pool2d(part, 2, ceil_mode=True) for part in levels[-1])
        known = (2 * weight).clamp(max=1)  # half of a cell's pixels are as good as all of them
        levels.append((total * known / weight.clamp(min=SMALLEST_WEIGHT), known))
    total, weight = levels[-1]
    filled = total / weight.clamp(min=SMALLEST_WEIGHT)
    for total, weight in levels[-2::-1]:
        above = F.interpolate(filled, size=total.shape[2:], mode="bilinear", align_corners=False)
        filled = total + (1 - weight) * above
        for _ in range(SMOOTHINGS):
            around = F.avg_pool2d(F.pad(filled, (1, 1, 1, 1), mode="replicate"), 3, 1)
            filled = total + (1 - weight) * around
    return torch.empty_like(image).copy_(torch.where(missing, filled.to(image.dtype), image))


def cover_count(index: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """How many matched patches of all ranks cover each cell: (B, height, width) int64."""
    matched = _with_ranks(index >= 0).sum(1)
    if matched.shape[1] == 0:
        return index.new_zeros(index.shape[0], height, width)
    matched = F.pad(matched, [patch_size - 1] * 4)
    return matched.unfold(1, patch_size, 1).unfold(2, patch_size, 1).sum(dim=(3, 4))


def counted(index: Tensor, weights: Tensor, patch_size: int) -> Tensor:
    """The index with -1 where a patch does not count: weights of 0, and those that a CUDA kernel takes as 0."""
    return index.masked_fill(~((weights > 0) & (weights <= contract.max_weight(index, patch_size))), -1)


class _Pairs(NamedTuple):
    """Query patches and the keys they have, unfolded; n is C * p * p."""

    query: Tensor  # (B, n, queries)
    key: Tensor  # (B, k, n, queries); of no key the first one, or zeros
    chosen: Tensor  # (B, k, queries) int64, 0 for no key
    matched: Tensor  # (B, k, queries)


def _pairs(operator: str, query: Tensor, key: Tensor, index: Tensor, patch_size: int) -> _Pairs:
    accumulate = contract.accumulation_dtype(query.dtype)
    queries, keys = (_unfold(features.to(accumulate), patch_size) for features in (query, key))
    _require_keys(operator, index, keys.shape[2])
    index = _with_ranks(index).flatten(2)
    chosen = index.clamp(min=0)
    if keys.shape[2] == 0:
        found = keys.new_zeros(*index.shape[:2], keys.shape[1], index.shape[2])
    else:
        found = torch.stack([keys.gather(2, one[:, None].expand(-1, keys.shape[1], -1)) for one in chosen.unbind(1)], 1)
    return _Pairs(queries, found, chosen, index >= 0)


def _unfold(features: Tensor, patch_size: int) -> Tensor:
    """All patches, as torch.nn.functional.unfold gives them: (B, C * p * p, patches)."""
    batch, channels, height, width = features.shape
    rows, columns = contract.patch_grid(height, width, patch_size)
    if rows == 0:
        return features.new_zeros(batch, channels * patch_size**2, 0)
    windows = features.unfold(2, patch_size, 1).unfold(3, patch_size, 1)  # (B, C, rows, columns, p, p)
    return windows.permute(0, 1, 4, 5, 2, 3).reshape(batch, channels * patch_size**2, rows * columns)


def _of_pairs(tensor: Tensor) -> Tensor:
    """(B, k, 1, queries), as the keys of _Pairs lie."""
    return _with_ranks(tensor).flatten(2)[:, :, None]


def _added_up(patches: Tensor, like: Tensor, patch_size: int) -> Tensor:
    """The transpose of _unfold, in the shape and dtype of like: a cell is the sum over the patches with that cell."""
    rows, columns = contract.patch_grid(like.shape[2], like.shape[3], patch_size)
    result = patches.new_zeros(like.shape)
    patches = patches.view(*like.shape[:2], patch_size, patch_size, rows, columns)
    for y, x in product(range(patch_size), range(patch_size)):
        result[:, :, y : y + rows, x : x + columns] += patches[:, :, y, x]
    return result.to(like.dtype)


class _Copy(NamedTuple):
    """One rank: what each query copies, all (B, rows, columns)."""

    matched: Tensor
    source: Tensor  # row-major cell of key where the patch begins, 0 where there is none
    weights: Tensor | None
    offsets: list[tuple[int, int]]  # the (y, x) cells of a patch; none without a match, as there may be no key cell


def _copies(
    operator: str, index: Tensor, weights: Tensor | None, key_height: int, key_width: int, patch_size: int
) -> list[_Copy]:
    key_rows, key_columns = contract.patch_grid(key_height, key_width, patch_size)
    _require_keys(operator, index, key_rows * key_columns)
    copies = []
    for rank, chosen in enumerate(_with_ranks(index).unbind(1)):
        row = torch.div(chosen, max(key_columns, 1), rounding_mode="floor")
        source = torch.where(chosen >= 0, row * key_width + (chosen - row * key_columns), 0)
        weight = None if weights is None else _with_ranks(weights)[:, rank]
        copies.append(_Copy(chosen >= 0, source, weight, _offsets(chosen >= 0, patch_size)))
    return copies


def _with_ranks(tensor: Tensor) -> Tensor:
    """(B, k, rows, columns), k = 1 where it had no ranks."""
    return tensor if tensor.dim() == 4 else tensor[:, None]


def _cover_weight(index: Tensor, weights: Tensor, height: int, width: int, patch_size: int) -> Tensor:
    """What the weights of the patches over each cell add up to: (B, height, width) in the dtype of weights."""
    rows, columns = weights.shape[-2:]
    cover = weights.new_zeros(weights.shape[0], height, width)
    for matched, weight in zip(_with_ranks(index >= 0).unbind(1), _with_ranks(weights).unbind(1), strict=True):
        for y, x in _offsets(matched, patch_size):
            cover[:, y : y + rows, x : x + columns] += torch.where(matched, weight, 0)
    return cover


def _offsets(matched: Tensor, patch_size: int) -> list[tuple[int, int]]:
    return list(product(range(patch_size), range(patch_size))) if matched.any() else []


def _require_finite(name: str, features: Tensor, patch_size: int) -> None:
    squares = features.square().sum(dim=1)
    finite = torch.isfinite(squares).all()
    if 0 not in contract.patch_grid(features.shape[2], features.shape[3], patch_size):
        finite &= torch.isfinite(squares.unfold(1, patch_size, 1).unfold(2, patch_size, 1).sum(dim=(3, 4))).all()
    if not finite:
        raise ValueError(
            f"patchswap.match: {name} must be finite; "
            "it holds NaN or Inf (or values whose squared patch norm overflows)"
        )


def _positions(mask: Tensor | None, sample: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Ascending row-major patch positions that take part."""
    if mask is None:
        return torch.arange(grid[0] * grid[1], device=device)
    return mask[sample].flatten().nonzero()[:, 0]


def _patches(features: Tensor, positions: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The patches of (C, H, W) features at the given positions, flattened: (len(positions), C * p * p)."""
    windows = features.unfold(1, patch_size, 1).unfold(2, patch_size, 1)
    rows = torch.div(positions, grid[1], rounding_mode="floor")
    return windows[:, rows, positions - rows * grid[1]].transpose(0, 1).flatten(1)


def _inverse_norm(patches: Tensor) -> Tensor:
    """One over the Euclidean norm of every row; 0 where the squared norm is below the smallest normal number."""
    return _inverse_root(patches.square().sum(dim=1))


def _require_keys(operator: str, index: Tensor, keys: int) -> None:
    if index.numel() and (index.amin() < -1 or index.amax() >= keys):
        raise ValueError(
            f"patchswap.{operator}: index must be from -1 to {keys - 1}, the last key patch; "
            f"got {int(index.amin())} to {int(index.amax())}"
        )


def _require_weights(operator: str, weights: Tensor, index: Tensor, patch_size: int) -> None:
    most = contract.max_weight(index, patch_size)
    wrong = ~((weights >= 0) & (weights <= most))
    if wrong.any():
        raise ValueError(
            f"patchswap.{operator}: weights must be numbers from 0 to {most:g}; got {float(weights[wrong][0]):g}"
        )


def _require_key_weight(key_weight: Tensor) -> None:
    wrong = ~((key_weight >= 0) & (key_weight < torch.inf))
    if wrong.any():
        raise ValueError(
            f"patchswap.match: key_weight must be finite and 0 or more; got {float(key_weight[wrong][0]):g}"
        )


def _proposals(keys: Tensor, key_grid: tuple[int, int], may_be_chosen: Tensor) -> Tensor:
    """What the eight neighbours of each query would have it take: the key that lies from it as theirs from them.

    keys: (rows, columns) positions of keys, -1 = none. Returns (8, rows, columns), neighbours in row-major order;
    -1 where there is no neighbour, its key is none, or what it proposes is not in may_be_chosen.
    """
    rows, columns = keys.shape
    around = F.pad(keys, (1, 1, 1, 1), value=-1)
    proposals = []
    for y, x in product((-1, 0, 1), (-1, 0, 1)):
        if (y, x) == (0, 0):
            continue
        neighbour = around[1 + y : 1 + y + rows, 1 + x : 1 + x + columns]
        row, column = neighbour // key_grid[1] - y, neighbour % key_grid[1] - x
        inside = (neighbour >= 0) & (row >= 0) & (row < key_grid[0]) & (column >= 0) & (column < key_grid[1])
        position = row * key_grid[1] + column
        proposals.append(torch.where(inside & torch.isin(position, may_be_chosen), position, -1))
    return torch.stack(proposals)


def _score(query: Tensor, at: Tensor, key: Tensor, places: Tensor, patch_size: int, metric: str) -> Tensor:
    """Scores by metric of (C, H, W) query patches with key patches; both (n, 2), rows and columns."""
    products, query_squares, key_squares = query.new_zeros(3, len(at))
    for y, x in product(range(patch_size), range(patch_size)):
        left, right = query[:, at[:, 0] + y, at[:, 1] + x], key[:, places[:, 0] + y, places[:, 1] + x]
        products += (left * right).sum(0)
        query_squares += left.square().sum(0)
        key_squares += right.square().sum(0)
    correlation = products * _inverse_root(key_squares) * _inverse_root(query_squares)
    if metric == "ncc":
        return correlation
    score = products if metric == "dot" else (2 * products - key_squares - query_squares).clamp(max=0)
    return torch.where(correlation.isnan(), torch.nan, score)


def _inverse_root(squares: Tensor) -> Tensor:
    """One over the square root; 0 below the smallest normal number, NaN where not finite."""
    roots = torch.where(squares < torch.finfo(squares.dtype).tiny, 0, squares.rsqrt())
    return torch.where(squares.isfinite(), roots, torch.nan)

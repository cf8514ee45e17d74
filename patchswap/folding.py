"""`fold`: the chosen patches at their queries' places."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from patchswap import contract, ops, reference
from patchswap.matching import Grid, Match, float_under_autocast, grid_of, index_of, is_autocast, repeated, settings_of
from patchswap.padding import padded


def fold(
    index: Tensor | Match,
    key: Tensor,
    *,
    output_size: tuple[int, int] | None = None,
    patch_size: int | None = None,
    padding: int | None = None,
    padding_mode: str | None = None,
    key_size: tuple[int, int] | None = None,
    query_mask: Tensor | None = None,
    base: Tensor | None = None,
    weights: Tensor | None = None,
    divisor: float | Literal["covered"] = "covered",
) -> Tensor:
    """Put the chosen key patches at their queries' places; where patches overlap, take their mean.

    Each output cell is the mean over the matched patches that cover it, 1 to p*p of them; with weights w it is their
    weighted mean, sum(w * copy) / sum(w). Cells that no matched patch of positive weight covers take `base`. A common
    factor of all weights changes nothing, up to rounding. Deterministic, gradients included.

    With the k best keys of each query (`match` with topk=k) all k copies count, up to k*p*p over a cell. Weights that
    are a softmax of the scores make it a soft attention over k keys, and the copy of the best one in the limit.

    A Match carries the grid that its index counts in. `fold(match, values)` takes values on that grid, or on one that
    is r times as fine in both directions, such as features of an earlier layer: a patch is then r p cells wide, and
    r cells lie between neighbouring patches. Values of any other size are refused. A plain index tensor says nothing of
    its grid: without key_size, values of another width are garbled.

    Differentiable with respect to key, base and weights. Gradients of higher order are there for key and base; asked of
    the gradient with respect to weights they raise a RuntimeError. Where all weights over a cell are 0, fold has a step
    to base, which the gradient leaves out.

    Args:
        index: the Match, or (B, h, w) or (B, k, h, w) int64 positions in the key's patch grid, k from 1 to 8; -1 = no
            patch here.
        key: (B, C, r H', r W') features to copy, those that were matched or others of any C: float32, float64, bfloat16
            or float16 (accumulated in float32). (H', W') is the size of the key that was matched, and r = 1 where that
            is not known. A key of batch 1 serves all queries.
        output_size: (r H, r W); by default the size of base, or without it what index covers.
        patch_size, padding, padding_mode: as for `match`; by default those of the Match,
            or 3, 0 and "zeros". What is copied is padded in the same way, by r * padding cells, and the result has no
            padding.
        key_size: (H', W') of the key that was matched, for a plain index.
        query_mask: bool in the shape of index; patches where it is False are left out, as if their index were -1.
        base: (B, C, r H, r W), same dtype as key; zeros by default.
        weights: in the shape of index, how much each copy counts: from 0 to 1e37, or to 1e35 where k*p*p is above 25,
            so that the sum over a cell is finite. float32, or float64 where key is float64; under autocast half
            precision is brought to float32. A weight of 0 leaves the patch out, as query_mask does. By default all
            count the same.
        divisor: "covered", the mean as above; or a positive number by which the sum of copies, or of w * copy, is
            divided instead: p * p is what projects do that divide by the full count, borders included.

    Returns:
        (B, C, r H, r W) in the dtype of key.

    Raises:
        ValueError, TypeError, RuntimeError: shapes, dtypes or ranges outside the above, or the Match has been made with
            others. An index beyond the last key patch raises on the CPU, and so does a weight that is negative, NaN or
            too large; the CUDA kernel, which never waits for the device, takes such an index as -1 and such a weight as
            0.
    """
    patch_size, padding, padding_mode = settings_of("fold", index, patch_size, padding, padding_mode)
    grid, index = grid_of(index), index_of(index)
    contract.check_features("fold", "key", key)
    if index.dim() not in (3, 4):
        raise ValueError(f"patchswap.fold: index must have shape (B, h, w) or (B, k, h, w); got {tuple(index.shape)}")
    contract.check_patch_size("fold", patch_size)
    _check_divisor(divisor)
    ratio = ratio_of("fold", "key", key, _known_size(grid, key_size))
    matched = key[:, :, ::ratio, ::ratio]  # in the size of what was matched, to which padding refers
    contract.check_padding("fold", padding, padding_mode, patch_size, {"key": matched})
    if output_size is not None:
        height, width = output_size
    elif base is not None and base.dim() == 4:
        height, width = base.shape[2:]
    else:
        height, width = (ratio * (size + patch_size - 1 - 2 * padding) for size in index.shape[-2:])
    if height % ratio or width % ratio:
        raise ValueError(
            f"patchswap.fold: output_size must be a multiple of {ratio}, as key is so many times as fine as what was "
            f"matched; got ({height}, {width})"
        )
    key = repeated(key, index.shape[0])
    if base is not None:
        contract.check_base("fold", base, key, height, width)
        base = _coarsened(padded(base, ratio * padding, "zeros"), ratio)
    key = _coarsened(padded(key, ratio * padding, padding_mode), ratio)
    rows, columns = height // ratio + 2 * padding, width // ratio + 2 * padding
    _check_size_of_index(index, rows, columns, patch_size, padding, (height, width))
    if weights is not None and is_autocast(key):
        weights = float_under_autocast(weights)
    contract.check_fold(index, key, base, rows, columns, patch_size, weights)
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
    if divisor == "covered":
        result = ops.fold(index, key, base, rows, columns, patch_size, weights)
    else:
        result = _divided(index, key, base, rows, columns, patch_size, weights, divisor)
    if padding > 0:
        result = result[..., padding : rows - padding, padding : columns - padding]
    return _refined(result, ratio).contiguous()


def ratio_of(operator: str, name: str, values: Tensor, key_size: tuple[int, int] | None) -> int:
    """How many times as fine as what was matched these (B, C, r H', r W') values are; 1 where that is not known."""
    if key_size is None or (values.shape[2] == key_size[0] and values.shape[3] == key_size[1]):
        return 1
    (height, width), (key_height, key_width) = values.shape[2:], key_size
    if key_height > 0 and key_width > 0 and height > 0 and height % key_height == 0:
        ratio = height // key_height
        if width == ratio * key_width:
            return int(ratio)
    raise ValueError(
        f"patchswap.{operator}: {name} must have the height and width of the key that was matched, {key_size}, whose "
        f"patches index counts, or the same multiple of both, as values of a finer level have; got {(height, width)}"
    )


def _known_size(grid: Grid | None, key_size: tuple[int, int] | None) -> tuple[int, int] | None:
    if grid is None:
        return key_size
    if key_size is not None and (key_size[0] != grid.size[0] or key_size[1] != grid.size[1]):
        raise ValueError(f"patchswap.fold: key_size must be that of the match, {grid.size}; got {key_size}")
    return grid.size


def _coarsened(features: Tensor, ratio: int) -> Tensor:
    """(B, C, r H, r W) -> (B, C r r, H, W), as F.pixel_unshuffle does more slowly, and not for empty maps."""
    if ratio == 1:
        return features
    height, width = features.shape[2] // ratio, features.shape[3] // ratio
    cells = features.unflatten(3, (width, ratio)).unflatten(2, (height, ratio))
    return cells.permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def _refined(features: Tensor, ratio: int) -> Tensor:
    """The inverse of _coarsened."""
    if ratio == 1:
        return features
    batch, channels, height, width = features.shape
    cells = features.unflatten(1, (channels // ratio**2, ratio, ratio)).permute(0, 1, 4, 2, 5, 3)
    # All dimensions at once: where only some are joined, torch.export of PyTorch 2.10 and 2.11 bounds open sizes.
    return cells.flatten().view(batch, channels // ratio**2, ratio * height, ratio * width)


def _divided(
    index: Tensor,
    key: Tensor,
    base: Tensor | None,
    rows: int,
    columns: int,
    patch_size: int,
    weights: Tensor | None,
    divisor: float,
) -> Tensor:
    """The sum of the copies over each cell, divided by a number: their mean times what they add up to."""
    mean = ops.fold(index, key, None, rows, columns, patch_size, weights)
    cover = _cover(index, weights, contract.accumulation_dtype(key.dtype), rows, columns, patch_size)
    share = cover / divisor  # of weights the gradient needs the mean as it is
    result = mean.mul_(share) if weights is None else (mean * share).to(key.dtype)
    return result if base is None else torch.where(cover > 0, result, base)


def _cover(
    index: Tensor, weights: Tensor | None, dtype: torch.dtype, rows: int, columns: int, patch_size: int
) -> Tensor:
    """What the copies over each cell add up to, each 1 or its weight: (B, 1, rows, columns)."""
    if index.shape[-2] == 0:
        return torch.zeros(index.shape[0], 1, rows, columns, dtype=dtype, device=index.device)
    if weights is None:
        counts = (index >= 0).to(dtype)
    else:
        counts = torch.where(reference.counted(index, weights, patch_size) >= 0, weights, 0)
    counts = counts[:, None] if counts.dim() == 3 else counts.sum(1, keepdim=True)
    around = F.pad(counts, [patch_size - 1] * 4)
    return F.avg_pool2d(around, patch_size, stride=1, divisor_override=1)


def _check_size_of_index(
    index: Tensor, rows: int, columns: int, patch_size: int, padding: int, output_size: tuple[int, int]
) -> None:
    """Raise where a padded index does not fit the size of the output, in words that name the size without padding."""
    grid = contract.patch_grid(rows, columns, patch_size)
    if padding > 0 and (index.shape[-2] != grid[0] or index.shape[-1] != grid[1]):
        raise ValueError(
            f"patchswap.fold: index must have {grid[0]} rows and {grid[1]} columns, the patch grid of a {output_size} "
            f"output at patch_size {patch_size} and padding {padding}; got {tuple(index.shape)}"
        )


def _check_divisor(divisor: float | str) -> None:
    is_number = isinstance(divisor, (int, float)) and 0 < divisor < torch.inf
    if divisor != "covered" and not is_number:
        raise ValueError(f'patchswap.fold: divisor must be "covered" or a positive number; got {divisor!r}')

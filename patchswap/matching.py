"""The best keys of every query patch: `match`, `cohere`, and the `Match` that both return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from patchswap import contract, ops
from patchswap.padding import padded


class Grid(NamedTuple):
    """The patches of a key, which an index counts row by row.

    size: (H', W') of the key, without its padding. patch_size, padding, padding_mode: as they were given to `match`.
    """

    size: tuple[int, int]
    patch_size: int = 3
    padding: int = 0
    padding_mode: str = "zeros"

    def columns(self) -> int:
        """Patches in a row. A method, as torch.compile of PyTorch 2.10 does not know properties of a tuple."""
        return self.size[1] + 2 * self.padding - self.patch_size + 1


@dataclass(frozen=True, eq=False)
class Match:
    """The best keys of every query patch.

    index: int64, row-major position in the key's patch grid; -1 where nothing was matched.

    score: normalised cross-correlation in [-1, 1], up to rounding, or what the metric gives; -inf where nothing was
    matched.

    Both are (B, h, w), or (B, k, h, w) for topk=k > 1, on the query's patch grid: h = H-p+1, w = W-p+1, and with
    padding h = H + 2 padding - p + 1 and so on. A Match unpacks into these two: `index, score = match(query, key)`.

    grid: the key patches that index counts, by which `fold` and `cohere` know whether a map fits; None where it is not
    known, as in a Match of one's own without it, or one that a program exported with open sizes returns.

    For torch.vmap, torch.compile and torch.export it is a pytree of index and score.
    """

    index: Tensor
    score: Tensor
    grid: Grid | None = None

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.index, self.score))

    def offsets(self) -> tuple[Tensor, Tensor]:
        """How many rows below and columns right of its query each key lies: (dy, dx), int64 in the shape of index.

        0 where nothing was matched. With the same padding of query and key it is the flow from query to key in cells.

        Raises:
            ValueError: the grid is not known.
        """
        if self.grid is None:
            raise ValueError(
                "patchswap.Match: offsets needs the key's grid; give it, as in Match(index, score, Grid((H, W)))"
            )
        rows, columns = self.index.shape[-2:]
        down = self.index // self.grid.columns() - torch.arange(rows, device=self.index.device)[:, None]
        right = self.index % self.grid.columns() - torch.arange(columns, device=self.index.device)
        missing = self.index < 0
        return down.masked_fill(missing, 0), right.masked_fill(missing, 0)


def _flatten(match: Match) -> tuple[list[Tensor], Grid | None]:
    grid = match.grid
    is_fixed = grid is not None and all(isinstance(side, int) for side in grid.size)  # not under an export's open sizes
    return [match.index, match.score], grid if is_fixed else None


def _unflatten(tensors: Any, grid: Grid | None) -> Match:
    index, score = tensors
    return Match(index, score, grid)


pytree.register_pytree_node(
    Match,
    _flatten,
    _unflatten,
    serialized_type_name="patchswap.Match",
    to_dumpable_context=lambda grid: grid and list(grid),
    from_dumpable_context=lambda saved: saved and Grid(tuple(saved[0]), *saved[1:]),
)


def match(
    query: Tensor,
    key: Tensor,
    *,
    patch_size: int = 3,
    padding: int = 0,
    padding_mode: str = "zeros",
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    topk: int = 1,
    precision: str = "exact",
    method: str = "auto",
    metric: str = "ncc",
    key_weight: Tensor | None = None,
) -> Match:
    """Find, for every patch of `query`, the patches of `key` with the highest score, normalised cross-correlation.

    The score of patches q and k is <q, k> / (|q| |k|), or another by `metric`. Only patches that lie wholly inside
    their (padded) map count. Of keys with equal scores the lowest index wins. A patch of norm 0 has correlation 0. A
    query that takes no part, and a rank for which no key is left, has index -1 and score -inf. No memory of size
    queries x keys is used.

    Not differentiable: index and score are constants to autograd. Under autocast it runs in float32, and query and key
    may have two dtypes.

    Patch grids are h = H + 2 padding - p + 1 and w = W + 2 padding - p + 1 in size, h' and w' likewise. With padding =
    p // 2 they are those of the cells, and the patch of a cell has it in its middle.

    Args:
        query: (B, C, H, W) features: float32, bfloat16, float16 (accumulated in float32) or float64.
        key: (B, C, H', W') features, same dtype and device; H' and W' may differ from H and W. A key of batch 1 serves
            all queries and is not copied.
        patch_size: side of a patch in cells, from 1 to 7.
        padding: cells added on each side of query and key, fewer than patch_size.
        padding_mode: "zeros", "reflect" (without the outermost cell) or "replicate" (the outermost cell).
        query_mask: (B, h, w) or (1, h, w) bool on the patch grid, True = take part. All take part by default.
        key_mask: (B, h', w') or (1, h', w') bool on the patch grid, True = may be chosen. All may by default.
        topk: how many keys to return for each query, from 1 to 8, best first.
        precision: "exact", or "fast": on a GPU with tensor cores keys are ranked in half precision only, so a key whose
            score is within rounding of the best may be chosen. Elsewhere, and for topk > 1 or a patch_size other than
            3, "fast" is the same as "exact".
        method: "auto", or the kernel to use, for tests and benchmarks: "dense" or "pruned" on the CPU; "direct", "mma"
            or "wgmma" on a GPU. All give the same match, up to rounding of the score. `explain` tells which one "auto"
            takes, and the environment variable PATCHSWAP_LOG=1 has each call say it on stderr.
        metric: "ncc", the score above; "l2", the score ``-|q - k|^2``, which is highest for the nearest key; or "dot",
            the score <q, k>. l2 is summed as ``2 <q, k> - |k|^2 - |q|^2``, so it is exact up to rounding relative to
            ``|q|^2 + |k|^2``: subtract one mean from both maps where these are large against the distances. "l2" and
            "dot" are searched by "dense" and "direct" alone.
        key_weight: (B, h', w') or (1, h', w') on the patch grid, finite and 0 or more: each score is multiplied by the
            weight of its key, 1 by default. float32, or float64 where key is float64. Searched by "dense" and "direct"
            alone. With "l2" and 1 / (alpha + d), d the squared distance of the key to its nearest query, it is the
            completeness of GPNN (Granot et al., arXiv 2103.15545).

    Returns:
        Match(index, score) on the query's patch grid; with topk = k > 1 a dimension of k follows the batch.

    Raises:
        ValueError, TypeError, RuntimeError: shapes, dtypes or ranges outside the above. Non-finite features raise a
            RuntimeError on the CPU and a ValueError in the reference; the CUDA kernel, which never waits for the
            device, gives such a query index -1 and score NaN and never chooses such a key, nor one whose weight is not
            finite or negative.
    """
    contract.check_features("match", "key", key)
    grid = Grid((key.shape[2], key.shape[3]), patch_size, padding, padding_mode)
    query, key, query_mask, key_mask = prepare(
        "match", query, key, query_mask, key_mask, patch_size, padding, padding_mode
    )
    arguments = (patch_size, topk, precision, method, metric, weight_of_keys(key_weight, key))
    contract.check_match(query, key, query_mask, key_mask, *arguments)
    index, score, _ = ops.match(query, key, query_mask, key_mask, *arguments)
    return Match(index[:, 0], score[:, 0], grid) if topk == 1 else Match(index, score, grid)


def cohere(
    match_or_index: Match | Tensor,
    query: Tensor,
    key: Tensor,
    *,
    weight: float,
    sweeps: int = 6,
    patch_size: int | None = None,
    padding: int | None = None,
    padding_mode: str | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    metric: str = "ncc",
) -> Match:
    """Choose the keys of a match anew, so that neighbouring queries take neighbouring keys where these fit as well.

    The offset of query i with key k is k - i, a difference of rows and of columns on the patch grids. Its neighbours
    are the up to eight queries around it that have a key. In each sweep every query takes, of its own offset and its
    neighbours', the offset o with the highest

        score(i, i + o) + weight * (number of neighbours whose offset is o) / 8,

    where the score is that of `match` by the metric. An offset is left out where i + o is no key: outside the key's
    grid, or masked. All queries choose at once, by the offsets of the sweep before.
    So copied regions grow together, unless the similarity says otherwise by more than the weight. It need not settle:
    two neighbours may go on exchanging their offsets.

    Ties: its own offset goes first, then its neighbours' in row-major order. A query without a key stays without, and
    is no neighbour. The result does not depend on the number of threads or the batch.

    With the k best keys of each query (`match` with topk=k) the first sweep knows more: a query may take the offset of
    any of its own k keys, which come after its first on ties; and a neighbour counts if any of its k offsets is o.
    Later sweeps go by the chosen keys alone.

    Not differentiable: index and score are constants to autograd. Under autocast it runs in float32, and query and key
    may have two dtypes.

    Args:
        match_or_index: what `match` returned, or an index from elsewhere: (B, h, w) or (B, k, h, w) int64 positions in
            the key's patch grid, k from 1 to 8; -1 = no key. A query has none either where it is masked, or its first
            key is.
        query, key, query_mask, key_mask: as for `match`.
        weight: what the agreement of all eight neighbours counts for, in units of the score: 0 or more. By "ncc" 0.1
            to 0.4 are useful. By "l2" and "dot" it grows with the square of the features. At 0 every query keeps its
            key.
        sweeps: how many at most; 0 or more. It may end sooner, where a sweep would change nothing.
        patch_size, padding, padding_mode: as for `match`; by default those of the Match, or 3, 0 and "zeros".
        metric: "ncc", "l2" or "dot", as for `match`: that by which the keys were matched, or another. It knows no
            weights of keys.

    Returns:
        Match(index, score), both (B, h, w): the keys chosen and their scores; -1 and -inf where there is none.

    Raises:
        ValueError, TypeError: shapes, dtypes or ranges outside the above, or the Match has been made with others. An
            index beyond the last key patch raises on the CPU; the CUDA kernel, which never waits for the device, takes
            it as -1. Features are not checked: a patch with NaN or Inf has score NaN, is never taken, and as a query
            keeps its key with score NaN.
    """
    settings = settings_of("cohere", match_or_index, patch_size, padding, padding_mode)
    check_size("cohere", match_or_index, key)
    index, grid = index_of(match_or_index), Grid((key.shape[2], key.shape[3]), *settings)
    query, key, query_mask, key_mask = prepare("cohere", query, key, query_mask, key_mask, *settings)
    arguments = (index, query, key, query_mask, key_mask, weight, sweeps, grid.patch_size, metric)
    contract.check_cohere(*arguments)
    return Match(*ops.cohere(*arguments), grid)


def settings_of(
    operator: str,
    match_or_index: Match | Tensor,
    patch_size: int | None,
    padding: int | None,
    padding_mode: str | None,
) -> tuple[int, int, str]:
    """patch_size, padding and padding_mode: what the caller says, else what the match was made with, else the defaults.

    Raises where the caller says something else than the match.
    """
    grid = grid_of(match_or_index)
    usual = Grid((0, 0)) if grid is None else grid
    given = {"patch_size": patch_size, "padding": padding, "padding_mode": padding_mode}
    for (name, value), of_match in zip(given.items(), usual[1:], strict=True):
        if grid is not None and value is not None and value != of_match:
            raise ValueError(f"patchswap.{operator}: {name} must be that of the match, {of_match}; got {value}")
    return (
        usual.patch_size if patch_size is None else patch_size,
        usual.padding if padding is None else padding,
        usual.padding_mode if padding_mode is None else padding_mode,
    )


def check_size(operator: str, match_or_index: Match | Tensor, key: Tensor) -> None:
    """Raise unless key can be the one that was matched, where that is known."""
    contract.check_features(operator, "key", key)
    grid = grid_of(match_or_index)
    if grid is not None and (key.shape[2] != grid.size[0] or key.shape[3] != grid.size[1]):
        raise ValueError(
            f"patchswap.{operator}: key must have the height and width of the key that was matched, {grid.size}, whose "
            f"patches index counts; got {tuple(key.shape[2:])}"
        )


def grid_of(match_or_index: Match | Tensor) -> Grid | None:
    return match_or_index.grid if isinstance(match_or_index, Match) else None


def index_of(match_or_index: Match | Tensor) -> Tensor:
    return match_or_index.index if isinstance(match_or_index, Match) else match_or_index


def prepare(
    operator: str,
    query: Tensor,
    key: Tensor,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    patch_size: int,
    padding: int,
    padding_mode: str,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Maps and masks as the operators get them: of the dtype that autocast gives, of one batch, padded.

    A query that is the key as well stays one tensor, which kernels pack once.
    """
    for name, features in (("query", query), ("key", key)):
        contract.check_features(operator, name, features)
    is_one_map = key is query
    query, key = as_autocast_gives(query, key)
    contract.check_like(operator, "query", query, "key", key)
    contract.check_same_batch_and_channels(operator, query, repeated(key, query.shape[0]), ("query", "key"))
    contract.check_patch_size(operator, patch_size)
    contract.check_padding(operator, padding, padding_mode, patch_size, {"query": query, "key": key})
    query_mask, key_mask = (
        mask if mask is None or mask.dim() != 3 else repeated(mask, query.shape[0]) for mask in (query_mask, key_mask)
    )
    query = padded(query, padding, padding_mode)
    key = query if is_one_map else repeated(padded(key, padding, padding_mode), query.shape[0])
    return query, key, query_mask, key_mask


def weight_of_keys(key_weight: Tensor | None, key: Tensor) -> Tensor | None:
    """The weights as the operators get them: of the batch of the key, and under autocast of no half precision."""
    if key_weight is None or key_weight.dim() != 3:
        return key_weight
    weight = repeated(key_weight, key.shape[0])
    return float_under_autocast(weight) if is_autocast(key) else weight


def repeated(tensor: Tensor, batch: int) -> Tensor:
    """A tensor of batch 1 for all samples, without a copy; any other as it is."""
    if tensor.shape[0] == batch or tensor.shape[0] != 1:
        return tensor
    return tensor.expand(batch, *[-1] * (tensor.dim() - 1))


def as_autocast_gives(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps as the operators get them where autocast is on: in float32, but float64 stays. One map stays one."""
    if not is_autocast(query):
        return query, key
    cast = float_under_autocast(query)
    return cast, cast if key is query else float_under_autocast(key)


def is_autocast(features: Tensor) -> bool:
    device = features.device.type
    return device in ops.AUTOCAST_DEVICES and torch.is_autocast_enabled(device)


def float_under_autocast(features: Tensor) -> Tensor:
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features

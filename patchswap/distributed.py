"""`match` with the keys of one map shared out among the ranks of a torch.distributed process group.

Each rank searches rows of the key's patch grid. Results are merged by what keys are ordered by, the ranking of
csrc/metric.h, as several rankings may round to one score. The score of a pair does not depend on the rows around it, so
the merged result is that of one process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from patchswap import contract, ops
from patchswap.matching import Grid, Match, prepare, weight_of_keys

NAME = "distributed.match"
LOW_BITS = 0xFFFFFFFF  # of a packed candidate: its index, complemented so that the lowest is the largest
NO_KEY = torch.iinfo(torch.int64).min


def match(
    query: Tensor,
    key: Tensor,
    *,
    first_row: int | None = None,
    group: dist.ProcessGroup | None = None,
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
    """`patchswap.match` by all ranks of a process group together: each searches a part of the keys, all get the result.

    All ranks call it, with the same query, query_mask and settings. The keys are shared out in one of two ways:

    - first_row=None: every rank gives the whole key, and searches its share of the rows. This saves time.
    - first_row=n: every rank gives a slab, some rows of the key, which begins with row n of the whole. This saves
      memory too: no rank holds the whole key. Every patch of the key must lie in a slab, so slabs of neighbours overlap
      by patch_size - 1 rows. The order of ranks does not matter. A rank without a key gives one of 0 rows.

    Index and score equal those of `patchswap.match` with the whole key, bit for bit, where all ranks run the same
    compiled kernel on equal hardware; of equal rankings the lowest index wins. On CUDA "auto" takes "direct" where the
    maps exceed 2^30 packed words of 16 bytes. Slabs may be below that where the whole is not: `method` settles it. With
    precision="fast" on a GPU, and in plain torch code, results are equal up to rounding.

    What ranks say of their tensors is compared before the search, and a rank that fails says so before the merge. So
    all ranks raise where one does. With topk 1, but for float64, ranks exchange 16 bytes for each query, in one
    reduction. Else each gathers 24 bytes for each of the topk candidates of each rank. It waits for the device. Not
    differentiable.

    Args:
        query: (B, C, H, W), the same on all ranks.
        key: (B, C, H', W') or (1, C, H', W'): the whole key, or this rank's slab. On the CPU with a group of gloo, on a
            GPU with nccl or gloo.
        first_row: the row of the whole key that is row 0 of this slab; None where key is the whole.
        group: the process group; None for the default one.
        padding, padding_mode: as for `patchswap.match`. Rows are added above the first slab and below the last one.
            "reflect" needs slabs of more than `padding` rows.
        key_mask, key_weight: on the patch grid of the whole key, or of the slab: the patches that lie in it, at the
            ends of the key with its padding. key_weight is given by all ranks or by none.
        patch_size, query_mask, topk, precision, method, metric: as for `patchswap.match`.

    Returns:
        The same Match on every rank. Its index counts the patches of the whole key.

    Raises:
        ValueError, TypeError: as `patchswap.match`; ranks disagree; a patch of the key is in no slab.
        RuntimeError: there is no such process group, or another rank failed: the message tells which one, and why.
    """
    ranks = _Ranks(group)
    settings = _Settings(patch_size, topk, precision, method, metric, padding, padding_mode)
    failure: Exception | None = None
    try:
        ranks.check_device(query)
        part = _checked(query, key, first_row, query_mask, key_mask, key_weight, settings)
        told = _Told(_facts(part, settings), first_row or 0, part.rows)
    except Exception as error:  # of any kind: the other ranks must not wait for this one
        failure, told = error, _Told(failure=str(error))
    all_told = ranks.tell(told)
    _raise_failures(failure, [one.failure for one in all_told])
    _check_agreement([one.facts for one in all_told])
    height = max(one.end for one in all_told)
    share = _shares(all_told, part, height, settings)[ranks.rank]

    try:
        found = _search(part, share, height, settings)
    except Exception as error:
        failure, found = error, _nothing(part.query, settings)
    keys = (height + 2 * padding) * part.key.shape[3]  # at least as many as there are
    can_pack = topk == 1 and found.score.dtype == torch.float32 and keys <= LOW_BITS
    merged = (_reduce if can_pack else _gather)(found, failure is not None, ranks)
    if merged.some_failed:
        _raise_failures(failure, ranks.tell(None if failure is None else str(failure)))
    index, score = (merged.index[:, 0], merged.score[:, 0]) if topk == 1 else (merged.index, merged.score)
    return Match(index, score, Grid((height, key.shape[3]), patch_size, padding, padding_mode))


# ---- the process group


class _Ranks:
    """A process group and this process's rank in it."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise RuntimeError(
                f"patchswap.{NAME}: needs a process group; call torch.distributed.init_process_group first, in a "
                "program that torchrun starts"
            )
        self.group = group
        self.rank = dist.get_rank(group)
        if self.rank < 0:
            raise RuntimeError(f"patchswap.{NAME}: this process is not in the group; only its ranks may call")
        self.count = dist.get_world_size(group)
        self.backend = dist.get_backend(group)

    def check_device(self, query: Tensor) -> None:
        if self.backend == "nccl" and not query.is_cuda:
            raise ValueError(
                f'patchswap.{NAME}: query must be on a GPU, as the backend of the group is "nccl"; got {query.device}; '
                'on the CPU use "gloo"'
            )

    def tell(self, what: Any) -> list[Any]:
        """What every rank tells, by rank."""
        told: list[Any] = [None] * self.count
        dist.all_gather_object(told, what, group=self.group)
        return told

    def highest(self, numbers: Tensor) -> Tensor:
        """Of each number the highest of all ranks."""
        sent = self._sent(numbers)
        dist.all_reduce(sent, dist.ReduceOp.MAX, group=self.group)
        return sent.to(numbers.device)

    def gathered(self, numbers: Tensor) -> Tensor:
        """The numbers of all ranks, along a new first dimension."""
        sent = self._sent(numbers)
        received = [torch.empty_like(sent) for _ in range(self.count)]
        dist.all_gather(received, sent, group=self.group)
        return torch.stack(received).to(numbers.device)

    def _sent(self, numbers: Tensor) -> Tensor:
        return numbers.cpu() if self.backend == "gloo" else numbers


# ---- before the search


class _Settings(NamedTuple):
    patch_size: int
    topk: int
    precision: str
    method: str
    metric: str
    padding: int
    padding_mode: str


class _Part(NamedTuple):
    """What a rank has been given, of one batch, and padded on all sides."""

    query: Tensor
    key: Tensor
    query_mask: Tensor | None
    key_mask: Tensor | None
    key_weight: Tensor | None
    first_row: int | None
    rows: int  # of key, without padding


@dataclass(frozen=True)
class _Told:
    """What a rank says of its part."""

    facts: dict[str, Any] = field(default_factory=dict)  # in which all must agree
    first_row: int = 0
    rows: int = 0
    failure: str | None = None

    @property
    def end(self) -> int:
        return self.first_row + self.rows if self.rows > 0 else 0


class _Share(NamedTuple):
    """The rows [begin, end) of the whole key's patch grid, and the row of the padded whole where the part begins."""

    begin: int
    end: int
    first_cell: int


def _checked(
    query: Tensor,
    key: Tensor,
    first_row: int | None,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    key_weight: Tensor | None,
    settings: _Settings,
) -> _Part:
    contract.check_features(NAME, "key", key)
    rows = key.shape[2]
    if first_row is not None:
        contract.check_whole(NAME, "first_row", first_row)
        if first_row < 0:
            raise ValueError(f"patchswap.{NAME}: first_row must not be negative; got {first_row}")
        if rows == 0:  # a stand-in, of which nothing is searched: no row can be padded by reflection
            key = key.new_zeros(key.shape[0], key.shape[1], settings.padding + 1, key.shape[3])
    query, key, query_mask, key_mask = prepare(
        NAME, query, key, query_mask, key_mask, settings.patch_size, settings.padding, settings.padding_mode
    )
    part = _Part(query, key, query_mask, key_mask, weight_of_keys(key_weight, key), first_row, rows)
    if first_row is None:
        contract.check_match(query, key, query_mask, key_mask, *settings[:5], part.key_weight)
    else:  # what belongs to the grid of a slab is checked where the height of the whole is known
        contract.check_match(query, key, query_mask, None, *settings[:5], None)
    return part


def _facts(part: _Part, settings: _Settings) -> dict[str, Any]:
    is_whole = part.first_row is None
    return {
        "whether first_row is given": not is_whole,
        **settings._asdict(),
        "the padded shape of query": tuple(part.query.shape),
        "the dtype of query": str(part.query.dtype),
        "the kind of device": part.query.device.type,
        "the padded rows of key": part.key.shape[2] if is_whole else None,
        "the padded columns of key": part.key.shape[3],
        "whether query_mask is given": part.query_mask is not None,
        "whether key_mask is given": part.key_mask is not None if is_whole else None,
        "whether key_weight is given": part.key_weight is not None,
    }


def _check_agreement(facts: list[dict[str, Any]]) -> None:
    for name, value in facts[0].items():
        for rank, others in enumerate(facts):
            if others[name] != value:
                raise ValueError(
                    f"patchswap.{NAME}: ranks must agree in {name}; got {value} on rank 0 and {others[name]} on rank "
                    f"{rank}"
                )


def _raise_failures(own: Exception | None, failures: list[str | None]) -> None:
    """Raise on all ranks where one has failed: on that one its own error."""
    if own is not None:
        raise own
    for rank, failure in enumerate(failures):
        if failure is not None:
            raise RuntimeError(f"patchswap.{NAME}: rank {rank} failed: {failure}")


def _shares(told: list[_Told], part: _Part, height: int, settings: _Settings) -> list[_Share]:
    """The patch rows that each rank searches, each row by one rank."""
    padding, patch_size = settings.padding, settings.patch_size
    rows, _ = contract.patch_grid(height + 2 * padding, part.key.shape[3], patch_size)
    if part.first_row is None:
        count = len(told)
        return [_Share(rows * rank // count, rows * (rank + 1) // count, 0) for rank in range(count)]
    shares = [_Share(0, 0, 0)] * len(told)
    searched = 0  # rows before this one are in some share
    for rank in sorted(range(len(told)), key=lambda rank: told[rank].first_row):
        slab = told[rank]
        if slab.rows == 0:
            continue
        first_cell = 0 if slab.first_row == 0 else slab.first_row + padding
        end_cell = slab.end + padding if slab.end < height else height + 2 * padding
        end = min(end_cell - patch_size + 1, rows)
        if first_cell > searched:
            break
        shares[rank] = _Share(searched, max(searched, end), first_cell)
        searched = max(searched, end)
    if searched < rows:
        raise ValueError(
            f"patchswap.{NAME}: every patch of the key must lie in the slab of a rank; got none for row {searched} of "
            f"the {rows} in its patch grid; slabs of neighbours overlap by patch_size - 1 rows, {patch_size - 1}"
        )
    return shares


# ---- the search


@dataclass(frozen=True, eq=False)
class _Found:
    """As match_part returns it, (B, topk, h, w) each, but index counts the patches of the whole key."""

    index: Tensor
    score: Tensor
    ranking: Tensor


def _search(part: _Part, share: _Share, height: int, settings: _Settings) -> _Found:
    """The best keys among the rows of this rank."""
    patch_size, padding = settings.patch_size, settings.padding
    key, key_mask, key_weight = part.key, part.key_mask, part.key_weight
    if part.first_row is not None:
        above = padding if part.first_row > 0 else 0  # rows that only the whole key has there
        below = padding if part.first_row + part.rows < height else 0
        key = key[:, :, above : key.shape[2] - below]
    if part.first_row is not None and part.rows > 0 and key.shape[2] >= patch_size:
        contract.check_match(part.query, key, part.query_mask, key_mask, *settings[:5], key_weight)
    method = settings.method
    if share.begin == share.end:
        key, key_mask, key_weight, method = key[:, :, :0], None, None, "auto"
    else:
        begin, end = share.begin - share.first_cell, share.end - share.first_cell
        key = key[:, :, begin : end + patch_size - 1]
        key_mask = None if key_mask is None else key_mask[:, begin:end]
        key_weight = None if key_weight is None else key_weight[:, begin:end]
    arguments = (patch_size, settings.topk, settings.precision, method, settings.metric, key_weight)
    index, score, ranking = ops.match_part(part.query, key, part.query_mask, key_mask, *arguments, height + 2 * padding)
    columns = part.key.shape[3] - patch_size + 1
    return _Found(torch.where(index >= 0, index + share.begin * columns, -1), score, ranking)


def _nothing(query: Tensor, settings: _Settings) -> _Found:
    grid = contract.patch_grid(query.shape[2], query.shape[3], settings.patch_size)
    index = torch.full((query.shape[0], settings.topk, *grid), -1, device=query.device)
    score = torch.full_like(index, -torch.inf, dtype=contract.accumulation_dtype(query.dtype))
    return _Found(index, score, score)


# ---- the merge


@dataclass(frozen=True, eq=False)
class _Merged:
    index: Tensor
    score: Tensor
    some_failed: bool  # on some rank the search did not end


def _reduce(found: _Found, has_failed: bool, ranks: _Ranks) -> _Merged:
    """One float32 key for each query, by one reduction. The highest ranking of a query has its highest score, too."""
    packed = (_ordered(found.ranking) << 32) | (LOW_BITS - found.index)
    packed = torch.where(found.index >= 0, packed, NO_KEY)
    parts = (packed.flatten(), _ordered(found.score).flatten(), packed.new_tensor([has_failed]))
    highest = ranks.highest(torch.cat(parts))
    packed, score = (part.view(found.index.shape) for part in highest[:-1].chunk(2))
    index = torch.where(packed == NO_KEY, -1, LOW_BITS - (packed & LOW_BITS))
    return _Merged(index, _from_ordered(score), bool(highest[-1]))


def _gather(found: _Found, has_failed: bool, ranks: _Ranks) -> _Merged:
    """Any number of keys for each query, chosen anew from the candidates of all ranks."""
    dtype = found.score.dtype
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    numbers = torch.stack((found.index, found.score.view(bits).long(), found.ranking.view(bits).long()))
    received = ranks.gathered(torch.cat((numbers.flatten(), numbers.new_tensor([has_failed]))))
    candidates = received[:, :-1].view(ranks.count, *numbers.shape).movedim(0, 2).flatten(2, 3)
    index = candidates[0]
    score, ranking = (values.to(bits).view(dtype) for values in candidates[1:])
    order = index.argsort(dim=1, stable=True)  # without a key the ranking is -inf, and comes last
    order = order.gather(1, ranking.gather(1, order).argsort(dim=1, descending=True, stable=True))
    order = order[:, : found.index.shape[1]]
    return _Merged(index.gather(1, order), score.gather(1, order), bool(received[:, -1].any()))


def _ordered(values: Tensor) -> Tensor:
    """float32 as integers of the same order, in int64: both zeros are one, NaN is the highest."""
    bits = torch.where(values.isnan(), torch.nan, values + 0.0).view(torch.int32).long()
    return torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF)


def _from_ordered(integers: Tensor) -> Tensor:
    return torch.where(integers >= 0, integers, integers ^ 0x7FFFFFFF).to(torch.int32).view(torch.float32)

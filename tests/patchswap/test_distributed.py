"""patchswap.distributed.match: real processes that share the keys out, against one process that has them all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import patchswap
from patchswap import distributed, ops, reference
from patchswap.contract import patch_grid

RANKS = 3
EXACT = ["ties by distance", "ties of several ranks by distance"]  # cases whose scores are whole numbers
compiled = pytest.mark.skipif(ops.extension is None, reason="plain torch code may round otherwise in a part")

SIZE, KEY_SIZE = (9, 11), (17, 8)


def random_case(seed: int, *, batch: int = 2, channels: int = 5, dtype: torch.dtype = torch.float32, **settings: Any):
    """Arguments of match for maps of normal numbers, with masks."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    query, key = normal(batch, channels, *SIZE), normal(batch, channels, *KEY_SIZE)
    patch_size, padding = settings.get("patch_size", 3), settings.get("padding", 0)
    grids = [patch_grid(h + 2 * padding, w + 2 * padding, patch_size) for h, w in (SIZE, KEY_SIZE)]
    masks = [torch.rand(batch, *grid, generator=generator) < 0.6 for grid in grids]
    return {"query": query, "key": key, "query_mask": masks[0], "key_mask": masks[1], **settings}


def tied_case(**settings: Any) -> dict[str, Any]:
    """Few small integers: most queries have many keys of the same score, in the parts of several ranks."""
    generator = torch.Generator().manual_seed(7)
    query, key = (torch.randint(0, 2, (1, 1, *size), generator=generator).float() for size in (SIZE, KEY_SIZE))
    return {"query": query, "key": key, "patch_size": 2, **settings}


def close_case(metric: str) -> dict[str, Any]:
    """Keys that differ in the last bits alone: many rankings that differ round to one score."""
    generator = torch.Generator().manual_seed(3)
    patch = torch.randn(1, 40, 1, 1, generator=generator)
    key = patch * (1 + torch.randint(-2, 3, (1, 40, 60, 9), generator=generator) * 2.0**-23)
    if metric == "l2":
        return {"query": key[:, :, ::3, ::2], "key": key, "patch_size": 1, "metric": metric}
    direction = patch / patch.norm()
    others = torch.randn(1, 40, 20, 30, generator=generator)
    others -= (others * direction).sum(1, keepdim=True) * direction
    # At a score of 0.52 float32 is twice as coarse, relative to the number, as at a ranking of 0.52 * 3.6.
    query = 3.6 * (0.52 * direction + 0.854 * others / others.norm(dim=1, keepdim=True))
    return {"query": query, "key": key, "patch_size": 1, "metric": metric}


def turned_case() -> dict[str, Any]:
    """A key that is searched by columns, unlike its parts by themselves; in 48 channels the order of sums shows."""
    generator = torch.Generator().manual_seed(5)
    return {
        "query": torch.randn(1, 48, 12, 13, generator=generator),
        "key": torch.randn(1, 48, 48, 5, generator=generator),
        "topk": 2,
    }


def cases() -> dict[str, dict[str, Any]]:
    weight = torch.rand(2, KEY_SIZE[0] - 2, KEY_SIZE[1] - 2, generator=torch.Generator().manual_seed(1))
    missing = random_case(9)
    missing["key_mask"][:] = False
    missing["key_mask"][:, -1, 2:4] = True
    zero = random_case(10)
    zero["query"][0], zero["key"][1] = 0, 0
    one_key = random_case(11, topk=3)
    one_key["key"], one_key["key_mask"] = one_key["key"][:1], one_key["key_mask"][:1]
    return {
        "plain": random_case(0),
        "without masks": {**random_case(0), "query_mask": None, "key_mask": None},
        "topk": random_case(1, topk=8),
        "few keys": {**missing, "topk": 4},
        "one rank has all keys": missing,
        "zero patches": zero,
        "key of batch 1": one_key,
        "patches of one cell": random_case(2, patch_size=1),
        "patches of seven": random_case(3, patch_size=7),
        "padding": random_case(4, padding=1),
        "reflect": random_case(5, padding=1, padding_mode="reflect", topk=2),
        "replicate": random_case(6, padding=2, padding_mode="replicate", metric="l2"),
        "weighted": {**random_case(7, metric="l2"), "key_weight": weight},
        "product": {**random_case(8, metric="dot"), "key_weight": weight[:1]},
        "float64": random_case(12, dtype=torch.float64),
        "bfloat16": random_case(13, dtype=torch.bfloat16, topk=2),
        "pruned": {**random_case(14, channels=64), "method": "pruned"},
        "ties": tied_case(),
        "ties of several ranks": tied_case(topk=8),
        "ties by distance": tied_case(metric="l2"),
        "ties of several ranks by distance": tied_case(metric="l2", topk=8),
        "rankings that round to one score": close_case("ncc"),
        "distances that round to zero": close_case("l2"),
        "searched by columns": turned_case(),
        "no query": {**random_case(15), "query": torch.zeros(2, 5, 2, 4), "query_mask": None},
        "no key": {**random_case(16), "key": torch.zeros(2, 5, 2, 8), "key_mask": None},
    }


def slab_of(case: dict[str, Any], rank: int, count: int) -> dict[str, Any]:
    """The arguments of one rank that holds some rows of the key, with its part of what lies on the key's grid.

    Ranks hold them from the bottom up; the slabs overlap by more than they need. The last rank of four holds none.
    """
    height, patch_size, padding = case["key"].shape[2], case.get("patch_size", 3), case.get("padding", 0)
    holders = max(count - 1, 1) if count == 4 else count
    place = holders - 1 - rank
    first, end = height * place // holders, min(height * (place + 1) // holders + patch_size, height)
    if place < 0:
        first = end = 0
    rows = slice(first + (padding if first > 0 else 0), end + padding + (padding if end == height else 0))
    rows = slice(rows.start, max(rows.stop - patch_size + 1, rows.start))
    given = {**case, "key": case["key"][:, :, first:end], "first_row": first}
    for name in ("key_mask", "key_weight"):
        if case.get(name) is not None:
            given[name] = case[name][:, rows] if end > first else case[name][:, :0]
    return given


# ---- in each process


def compare(name: str, case: dict[str, Any], group: Any, rank: int, count: int) -> None:
    expected = patchswap.match(**case)
    for form, given in (("whole key", case), ("slab", slab_of(case, rank, count))):
        found = distributed.match(**given, group=group)
        label = f"{name}, {form}, rank {rank} of {count}"
        if ops.extension is None:  # plain torch code may round the products of a part otherwise
            torch.testing.assert_close(found.score, expected.score)
            continue
        assert torch.equal(found.index, expected.index) and torch.equal(found.score, expected.score), label
        assert found.score.dtype == expected.score.dtype and found.grid == expected.grid, label
        if case["key"].dtype in (torch.float32, torch.float64):
            in_float64 = {key: value.double() if is_float(value) else value for key, value in case.items()}
            truth = reference_match(**{**in_float64, "method": "auto"})
            torch.testing.assert_close(found.score.double(), truth.score, rtol=1e-5, atol=2e-5)
            if name in EXACT:
                assert torch.equal(found.index, truth.index), label


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def reference_match(**given: Any) -> patchswap.Match:
    """patchswap.match in plain torch code."""
    operator, ops.match = ops.match, reference.match
    try:
        return patchswap.match(**given)
    finally:
        ops.match = operator


def raised_by(**given: Any) -> Exception:
    with pytest.raises((ValueError, TypeError, RuntimeError, AttributeError)) as raised:
        distributed.match(**given)
    return raised.value


def disagree(rank: int, group: Any) -> None:
    """What one rank gives otherwise is told to all, and the group can go on."""
    case = {**random_case(0), "group": group}
    query, key, key_mask = (case[name] for name in ("query", "key", "key_mask"))
    of_rank_1 = {
        "topk; got 1 on rank 0 and 2 on": {"topk": 2},
        "the padded shape of query; got (2, 5, 9, 11) on rank 0 and (2, 5, 8, 11) on": {
            "query": query[:, :, 1:],
            "query_mask": None,
        },
        "whether first_row is given; got False on rank 0 and True on": {"first_row": 2},
        "whether key_mask is given; got True on rank 0 and False on": {"key_mask": None},
        "the padded rows of key; got 17 on rank 0 and 16 on": {"key": key[:, :, 1:], "key_mask": key_mask[:, 1:]},
        "the dtype of query; got torch.float32 on rank 0 and torch.float64 on": {
            "query": query.double(),
            "key": key.double(),
        },
    }
    for words, wrong in of_rank_1.items():
        given = {**case, **wrong} if rank == 1 else case
        assert f"patchswap.distributed.match: ranks must agree in {words} rank 1" in str(raised_by(**given)), words


def fail(rank: int, group: Any) -> None:
    """What is wrong on one rank, before or in the search, is an error on all."""
    whole = {**random_case(0), "group": group}
    slab = {**slab_of(whole, rank, RANKS), "key_mask": None}
    of_rank_1 = [
        ("patch_size must be from 1 to 7; got 9", whole, {"patch_size": 9}),
        ("key_mask must have the shape of key's patch grid (2, 15, 6)", whole, {"key_mask": whole["key_mask"][:, 1:]}),
        ("key must have shape (B, C, H, W); got (5, 17, 8)", whole, {"key": whole["key"][0]}),
        ("'NoneType' object has no attribute", whole, {"query": None}),
        ("first_row must not be negative; got -1", slab, {"first_row": -1}),
        ("first_row must be a whole number; got 0.5", slab, {"first_row": 0.5}),
        ("key must be finite", slab, {"key": slab["key"] / 0}),
        ("key_mask must have the shape of key's patch grid (2, 7, 6)", slab, {"key_mask": whole["key_mask"]}),
    ]
    for words, given, wrong in of_rank_1:
        error = raised_by(**{**given, **(wrong if rank == 1 else {})})
        assert words in str(error)
        if rank != 1:
            assert str(error).startswith("patchswap.distributed.match: rank 1 failed: "), words
    if rank == 1:
        slab["key"] = slab["key"][:, :, :-3]
    words = "every patch of the key must lie in the slab of a rank; got none for row 9 of the 15 in its patch grid"
    assert words in str(raised_by(**slab))


def work() -> None:
    """In each of four processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=100))
    rank = torch.distributed.get_rank()
    groups = {count: torch.distributed.new_group(list(range(count))) for count in (1, 2, RANKS)}
    everything = cases()
    for count, group in {**groups, 4: None}.items():
        names = list(everything) if count == RANKS else ["plain", "padding", "few keys", "topk", *EXACT]
        for name in names if rank < count else ():
            compare(name, everything[name], group, rank, count)
    if rank < RANKS:
        disagree(rank, groups[RANKS])
        fail(rank, groups[RANKS])
    else:
        assert "this process is not in the group" in str(raised_by(**random_case(0), group=groups[RANKS]))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


# ---- in this process


def test_ranks_find_together_what_one_process_finds() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4", f"--master-port={port}", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(patchswap.__file__).parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[:3000] + done.stderr[-3000:]


def test_without_a_process_group() -> None:
    with pytest.raises(RuntimeError, match="needs a process group; call torch.distributed.init_process_group first"):
        distributed.match(**random_case(0))


def parts_of(case: dict[str, Any], whole_height: int | None, first_rows: tuple[int, ...]) -> list[torch.Tensor]:
    """index, score and ranking of all parts, (parts, B, topk, h, w), the index counting the patches of the whole."""
    key, patch_size = case["key"], case.get("patch_size", 3)
    columns, found = key.shape[3] - patch_size + 1, []
    for first, end in zip(first_rows, (*first_rows[1:], key.shape[2] - patch_size + 1), strict=True):
        part = key[:, :, first : end + patch_size - 1]
        settings = (patch_size, case.get("topk", 1), "exact", "auto", case.get("metric", "ncc"), None)
        height = part.shape[2] if whole_height is None else whole_height
        index, score, ranking = ops.match_part(case["query"], part, None, None, *settings, height)
        found.append((index + first * columns, score, ranking))
    return [torch.stack(tensors) for tensors in zip(*found, strict=True)]


@compiled
@pytest.mark.parametrize("metric", ["ncc", "l2"])
def test_the_best_ranking_is_the_match_where_scores_do_not_tell(metric: str) -> None:
    case = close_case(metric)
    index, score, ranking = parts_of(case, 60, (0, 20, 40))
    expected = patchswap.match(**case)
    by_ranking = index.gather(0, ranking.argmax(0, keepdim=True))[0, :, 0]  # the first of equals, as parts are in order
    by_score = index.gather(0, score.argmax(0, keepdim=True))[0, :, 0]
    assert torch.equal(score.amax(0)[:, 0], expected.score)
    assert torch.equal(by_ranking, expected.index)
    assert not torch.equal(by_score, expected.index)


@compiled
def test_parts_are_searched_in_the_layout_of_the_whole() -> None:
    case = turned_case()
    expected = patchswap.match(**case)
    _, score, _ = parts_of(case, 48, (0, 3, 6, 30))
    assert torch.equal(score.amax(0)[:, 0], expected.score[:, 0])
    _, by_themselves, _ = parts_of(case, None, (0, 3, 6, 30))
    assert not torch.equal(by_themselves.amax(0)[:, 0], expected.score[:, 0])


def test_opcheck_of_a_part() -> None:
    query, key = torch.randn(2, 3, 7, 8, requires_grad=True), torch.randn(2, 3, 6, 9, requires_grad=True)
    mask, weight = torch.rand(2, 5, 6) < 0.5, torch.rand(2, 4, 7)
    arguments = (query, key, mask, None, 3, 2, "exact", "auto", "l2", weight, 20)
    torch.library.opcheck(torch.ops.patchswap.match_part.default, arguments)


if __name__ == "__main__":
    work()
    os._exit(0)  # at the interpreter's own end threads of torch's process group abort now and then

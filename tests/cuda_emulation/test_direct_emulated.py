"""The direct match as the GPU runs it, its tiles and its kernels, on the emulated device, against the reference."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from patchswap import contract, reference
from patchswap.matching import Match
from patchswap.testing import assert_match_close

TORCH_HEADERS = Path(torch.__file__).parent / "include"
INCLUDE = ["-isystem", str(TORCH_HEADERS)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
MIB = 1 << 20
MOST_CELLS = 4480  # of a tile, as in csrc/cuda/tile_pair.cuh


class Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("query", "key", "query_mask", "key_mask", "index", "score")],
        *[(name, ctypes.c_void_p) for name in ("key_weight", "ranking")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels")],
        *[(name, ctypes.c_int64) for name in ("query_height", "query_width", "key_height", "key_width")],
        *[(name, ctypes.c_int32) for name in ("patch_size", "topk", "dtype", "guard_begin")],
        *[(name, ctypes.c_int32) for name in ("query_is_shared", "key_is_shared")],
        ("metric", ctypes.c_int64),
        *[(name, ctypes.c_int64) for name in ("most_cells", "most_samples", "workspace", "launches")],
    ]


class DirectMatch:
    """What csrc/cuda/match.cu runs for method "direct", on guarded copies of the arguments; raises EmulationError.

    most_cells: of a tile.
    """

    def __init__(self, emulation, library: ctypes.CDLL, most_cells: int = MOST_CELLS) -> None:
        self.most_cells = most_cells
        self.emulation = emulation
        self.library = library
        library.run_direct.restype = ctypes.c_char_p
        library.direct_workspace.restype = ctypes.c_int64
        assert library.call_size() == ctypes.sizeof(Call)

    def match(
        self,
        query,
        key,
        query_mask=None,
        key_mask=None,
        *,
        patch_size=3,
        topk=1,
        metric="ncc",
        key_weight=None,
        schedule=None,
        most_samples=1 << 30,
        wants_ranking=False,
    ) -> Match:
        emulation = self.emulation
        schedule = schedule or emulation.SCHEDULES[0]
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE)
        try:
            is_shared = [emulation.is_one_sample(features) for features in (query, key)]
            batch = query.shape[0]
            query, key = (each[:1] if shared else each for each, shared in zip((query, key), is_shared, strict=True))
            given = {"query": query, "key": key, "query_mask": query_mask, "key_mask": key_mask}
            tensors = [None if value is None else memory.read_only(name, value) for name, value in given.items()]
            weight = None if key_weight is None else memory.read_only("key_weight", key_weight)
            shape = (batch, topk, *contract.patch_grid(*query.shape[2:], patch_size))
            index = memory.empty("index", shape, torch.int64)
            score = memory.empty("score", shape, contract.accumulation_dtype(query.dtype))
            ranking = memory.empty("ranking", shape, score.dtype) if wants_ranking else None
            self.call = Call(
                *map(emulation.pointer, [*tensors, index, score, weight, ranking]),
                *(batch, *query.shape[1:]),
                *key.shape[2:],
                *(patch_size, topk, DTYPES.index(query.dtype), schedule.order == emulation.REVERSE),
                *is_shared,
                contract.METRICS.index(metric),
                *(self.most_cells, most_samples),
            )
            message = self.library.run_direct(ctypes.byref(schedule), ctypes.byref(self.call))
            emulation.expect_success("match_direct", message)
            self.ranking = None if ranking is None else ranking.clone()
            return Match(index.clone(), score.clone())
        finally:
            memory.release()

    def workspace(self, shape, key_size, patch_size, topk, dtype) -> int:
        call = Call(*[None] * 8, *shape, *key_size, patch_size, topk, DTYPES.index(dtype))
        return self.library.direct_workspace(ctypes.byref(call))


@pytest.fixture(scope="module")
def direct(builder, emulation):
    if not TORCH_HEADERS.is_dir():
        pytest.skip("needs torch's headers")
    return DirectMatch(emulation, builder.build("direct_kernels.cpp", flags=["-O1", *emulation.TRAPS, *INCLUDE]))


@pytest.fixture(scope="module")
def direct_in_small_tiles(direct, emulation):
    """The same with tiles of up to 60 cells: maps are then cut many times."""
    return DirectMatch(emulation, direct.library, most_cells=60)


def maps(query_size, key_size, patch_size, batch=2, channels=3, dtype=torch.float32, share=0.5):
    query = torch.randn(batch, channels, *query_size).to(dtype)
    key = torch.randn(batch, channels, *key_size).to(dtype)
    query_mask = torch.rand(batch, *contract.patch_grid(*query_size, patch_size)) < 0.7
    key_mask = torch.rand(batch, *contract.patch_grid(*key_size, patch_size)) < share
    return query, key, query_mask, key_mask


SIZES = [((9, 11), (8, 13)), ((7, 7), (7, 30)), ((8, 17), (7, 8)), ((13, 7), (16, 19))]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(("topk", "share"), [(1, 1.0), (2, 0.3), (5, 0.5), (8, 0.02)])
def test_match(direct, emulation, dtype, patch_size, topk, share):
    for number, (query_size, key_size) in enumerate(SIZES):
        query, key, *masks = maps(query_size, key_size, patch_size, dtype=dtype, share=share)
        schedule = emulation.SCHEDULES[number % len(emulation.SCHEDULES)]
        match = direct.match(query, key, *masks, patch_size=patch_size, topk=topk, schedule=schedule)
        selected = dict(zip(("query_mask", "key_mask"), masks, strict=True))
        assert_match_close(match, query, key, patch_size=patch_size, **selected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch_size", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("metric", "is_weighted"), [("l2", False), ("dot", False), ("ncc", True), ("l2", True), ("dot", True)]
)
def test_metrics(direct, direct_in_small_tiles, emulation, dtype, patch_size, metric, is_weighted):
    query, key, *masks = maps((9, 11), (10, 13), patch_size, dtype=dtype)
    weight = torch.rand(masks[1].shape, dtype=contract.accumulation_dtype(dtype)) + 0.1 if is_weighted else None
    arguments = {"patch_size": patch_size, "metric": metric, "key_weight": weight}
    whole = direct.match(query, key, *masks, **arguments, topk=3)
    selected = dict(zip(("query_mask", "key_mask"), masks, strict=True))
    assert_match_close(whole, query, key, **arguments, **selected)
    cut = direct_in_small_tiles.match(query, key, *masks, **arguments, topk=3, schedule=emulation.SCHEDULES[1])
    assert torch.equal(whole.index, cut.index) and torch.equal(whole.score, cut.score)


@pytest.mark.parametrize("metric", ["ncc", "l2", "dot"])
def test_parts_of_the_key_together_are_the_whole(direct, direct_in_small_tiles, metric):
    """The highest ranking of two parts, the first of equals, with its score: bit for bit those of one search."""
    query, key, query_mask, key_mask = maps((9, 11), (12, 13), 3)
    key[:, :, 6:] = key[:, :, :6]  # equal keys in both parts
    weight = torch.rand(2, 10, 11) + 0.1
    options = {"metric": metric, "wants_ranking": True}
    whole, whole_ranking = direct.match(query, key, query_mask, key_mask, key_weight=weight, **options), direct.ranking
    parts = []
    for first, end in ((0, 6), (6, 10)):
        given = (query, key[:, :, first : end + 2].contiguous(), query_mask, key_mask[:, first:end].contiguous())
        part = direct_in_small_tiles.match(*given, key_weight=weight[:, first:end].contiguous(), **options)
        ranking = direct_in_small_tiles.ranking
        parts.append((torch.where(part.index >= 0, part.index + first * 11, -1), part.score, ranking))
    index, score, ranking = (torch.stack(tensors) for tensors in zip(*parts, strict=True))
    best = ranking.argmax(0, keepdim=True)
    for tensor, expected in ((index, whole.index), (score, whole.score), (ranking, whole_ranking)):
        assert torch.equal(tensor.gather(0, best)[0], expected)
    if metric == "ncc":
        norm = query.square().sum(1).unfold(1, 3, 1).unfold(2, 3, 1).sum((3, 4)).sqrt()
        torch.testing.assert_close(whole_ranking[:, 0], whole.score[:, 0] * norm)


@pytest.mark.parametrize("is_key", [False, True])
@pytest.mark.parametrize("metric", ["ncc", "l2"])
def test_one_map_for_all_samples_is_read_in_place(direct_in_small_tiles, emulation, is_key, metric):
    given = [*maps((9, 11), (10, 13), 3, batch=3)]
    copied = direct_in_small_tiles.match(*given[:2], *given[2:], topk=2, metric=metric)
    given[is_key] = given[is_key][:1].expand(3, -1, -1, -1)
    shared = direct_in_small_tiles.match(*given, topk=2, metric=metric)
    assert torch.equal(shared.index[0], copied.index[0]) and not torch.equal(shared.index, copied.index)
    given[is_key] = given[is_key].contiguous()
    copied = direct_in_small_tiles.match(*given, topk=2, metric=metric, schedule=emulation.SCHEDULES[1])
    assert torch.equal(shared.index, copied.index) and torch.equal(shared.score, copied.score)


@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_ties_of_metrics_go_to_the_lowest_index(direct_in_small_tiles, metric):
    """Small integers and weights of 1 and 2: scores are exact, and index must be the reference's."""
    query, key = torch.randint(-2, 3, (1, 2, 9, 14)).double(), torch.randint(-2, 3, (1, 2, 15, 13)).double()
    for weight in (None, torch.randint(1, 3, (1, 13, 11)).double()):
        expected, *_ = reference.match(query, key, None, None, 3, 4, metric=metric, key_weight=weight)
        weight = None if weight is None else weight.float()
        match = direct_in_small_tiles.match(query.float(), key.float(), topk=4, metric=metric, key_weight=weight)
        assert torch.equal(match.index, expected)


def test_scores_and_weights_out_of_range(direct):
    """A score below the smallest number is none, a weight that is not finite or negative takes its key out."""
    query, key = torch.full((1, 1, 1, 1), 1.5e19), torch.full((1, 1, 1, 2), -1.5e19)
    key[..., 1] = 1e19
    index, _ = direct.match(query, key, patch_size=1, metric="l2", topk=2)
    assert index.flatten().tolist() == [1, -1]
    weight = torch.tensor([torch.nan, -1, torch.inf, 1]).view(1, 1, 4)
    for metric in contract.METRICS:
        query, key = torch.rand(1, 3, 2, 2), torch.rand(1, 3, 1, 4)
        index, score = direct.match(query, key, patch_size=1, metric=metric, topk=2, key_weight=weight)
        assert bool((index[:, 0] == 3).all() and (index[:, 1] == -1).all() and score[:, 0].isfinite().all())
    self_match = direct.match(key, key, patch_size=1, metric="l2")
    assert self_match.index.flatten().tolist() == [0, 1, 2, 3] and bool((self_match.score <= 0).all())


@pytest.mark.parametrize("topk", range(1, 9))
def test_every_topk(direct, topk):
    query, key, *_ = maps((7, 6), (6, 8), 3, channels=9)
    assert_match_close(direct.match(query, key, topk=topk), query, key)


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 33])
def test_channels_at_and_beside_the_depth_of_a_stage(direct, channels):
    query, key, *_ = maps((6, 7), (8, 6), 3, channels=channels)
    assert_match_close(direct.match(query, key), query, key)


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("topk", [1, 4, 8])
def test_tiles_do_not_change_a_bit(direct, direct_in_small_tiles, emulation, patch_size, topk):
    """Odd sizes cut into many tiles, and batches cut as well; one result is close to the truth, the other its equal."""
    sizes = ((19, 23), (37, 11)) if patch_size < 7 else ((11, 17), (23, 9))  # large patches take long to emulate
    query, key, *masks = maps(*sizes, patch_size, batch=3, channels=5)
    arguments = {"patch_size": patch_size, "topk": topk}
    whole = direct.match(query, key, *masks, **arguments)
    launches = direct.call.launches
    selected = dict(zip(("query_mask", "key_mask"), masks, strict=True))
    assert_match_close(whole, query, key, patch_size=patch_size, **selected)
    for most_samples, schedule in zip((1, 2, 3), emulation.SCHEDULES, strict=True):
        cut = direct_in_small_tiles.match(query, key, *masks, **arguments, schedule=schedule, most_samples=most_samples)
        assert direct_in_small_tiles.call.launches > launches
        assert torch.equal(whole.index, cut.index) and torch.equal(whole.score, cut.score)


@pytest.mark.parametrize(("query_size", "key_size"), [((1, 300), (1, 270)), ((290, 1), (260, 2))])
def test_narrow_maps(direct, direct_in_small_tiles, query_size, key_size):
    query, key, *_ = maps(query_size, key_size, 1, batch=1)
    match = direct_in_small_tiles.match(query, key, patch_size=1, topk=3)
    assert_match_close(match, query, key, patch_size=1)
    assert torch.equal(match.index, direct.match(query, key, patch_size=1, topk=3).index)


def test_large_blocks_of_products(direct):
    """More than 256 blocks of 128 x 128 products: the batch takes care of that."""
    query, key, *_ = maps((9, 9), (9, 9), 3, batch=260, channels=2)
    match = direct.match(query, key, topk=2)
    assert_match_close(match, query, key)
    small = direct.match(query[:3], key[:3], topk=2)
    assert torch.equal(match.index[:3], small.index) and torch.equal(match.score[:3], small.score)


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_patches_tie_bit_for_bit(direct_in_small_tiles, dtype, patch_size):
    """A texture repeated over many tiles: every rank holds a copy of the best, the copies in ascending order."""
    period, topk = 5, 6
    key = torch.randn(1, 19, period, period, dtype=dtype).repeat(1, 1, 4, 5)
    query = torch.randn(1, 19, 7, 7, dtype=dtype)
    index, score = direct_in_small_tiles.match(query, key, patch_size=patch_size, topk=topk)
    columns = key.shape[3] - patch_size + 1
    row, column = index // columns, index % columns
    assert bool((row[:, 0] < period).all()) and bool((column[:, 0] < period).all())
    assert bool((row % period == row[:, :1]).all()) and bool((column % period == column[:, :1]).all())
    assert bool((index.diff(dim=1) > 0).all()) and bool((score == score[:, :1]).all())


@pytest.mark.parametrize("topk", [1, 3, 8])
def test_ties_go_to_the_lowest_index(direct_in_small_tiles, topk):
    """Small integers and keys of one norm: scores are exact, and index must be the reference's."""
    query = torch.randint(-2, 3, (1, 4, 9, 14)).float()
    key = torch.zeros(1, 4, 15, 13)
    key.scatter_(1, torch.randint(0, 4, (1, 1, 15, 13)), 1.0)
    expected, *_ = reference.match(query.double(), key.double(), None, None, 3, topk)
    assert torch.equal(direct_in_small_tiles.match(query, key, topk=topk).index, expected)


def test_non_finite_patches_take_no_part(direct, direct_in_small_tiles):
    query, key = torch.randn(1, 3, 6, 16), torch.randn(1, 3, 16, 16)
    query[0, 0, 0, 0], key[0, 0, 5, 5], key[0, 1, 9, 9], key[0, 2, 0, 0] = torch.nan, torch.inf, -torch.inf, 1e20
    hit = torch.zeros(1, 1, 16, 16)
    hit[..., 5, 5] = hit[..., 9, 9] = hit[..., 0, 0] = 1
    is_bad = torch.nn.functional.max_pool2d(hit, 3, 1).flatten() > 0
    for kernels in (direct, direct_in_small_tiles):
        index, score = kernels.match(query, key, topk=2)
        assert index[0, :, 0, 0].tolist() == [-1, -1] and bool(score[0, :, 0, 0].isnan().all())
        others = index.flatten(2)[0, :, 1:]
        assert bool((others >= 0).all()) and not bool(is_bad[others].any())
        assert bool(score.flatten(2)[0, :, 1:].isfinite().all())


def test_zero_norms(direct):
    """A zero query takes the lowest valid keys, a zero key has score 0, and so has a norm too small for float32."""
    query, key = torch.ones(1, 3, 5, 9), -torch.ones(1, 3, 5, 5)
    query[:, :, :, :3] = 1e-25
    key_mask = torch.ones(1, 3, 3, dtype=torch.bool)
    key_mask[0, 0, 0] = False
    index, score = direct.match(query, key, None, key_mask, topk=2)
    assert index[0, :, 0, 0].tolist() == [1, 2] and score[0, :, 0, 0].tolist() == [0, 0]
    key[:, :, 2:, 2:] = 0
    index, score = direct.match(torch.ones_like(query), key)
    assert bool((index == 8).all()) and bool((score == 0).all())


def test_nothing_to_choose_from(direct):
    query, key = torch.randn(2, 3, 5, 6), torch.randn(2, 3, 2, 9)
    for given, key_mask in ((key, None), (query, torch.zeros(2, 3, 4, dtype=torch.bool))):
        index, score = direct.match(query, given, None, key_mask, topk=3)
        assert bool((index == -1).all()) and bool(score.isneginf().all())
    query[0, 0, 0, 0] = torch.nan
    index, score = direct.match(query, key)
    assert bool((index == -1).all()) and int(score.isnan().sum()) == 1


def test_no_channels(direct):
    index, score = direct.match(torch.empty(1, 0, 4, 5), torch.empty(1, 0, 6, 4), topk=2)
    assert bool((index[:, 0] == 0).all()) and bool((index[:, 1] == 1).all()) and bool((score == 0).all())


def test_accuracy(direct):
    """Sums of 9 x 300 terms that mostly cancel stay close to float64."""
    query, key = torch.randn(1, 300, 6, 6), torch.randn(1, 300, 7, 7)
    _, expected, _ = reference.match(query.double(), key.double(), None, None, 3, 1)
    assert float((direct.match(query, key).score - expected).abs().max()) < 2e-7
    match = direct.match(query.double(), key.double())
    assert float((match.score - expected).abs().max()) < 1e-15


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize("topk", [1, 8])
@pytest.mark.parametrize(("dtype", "products", "of_cell"), [(torch.float32, 77, 17.5), (torch.float64, 154, 26)])
def test_workspace(direct, patch_size, topk, dtype, products, of_cell):
    """Products, candidates of the queries of one tile, and what each cell of a map has."""
    candidates = (1 << 17) * topk * (8 + dtype.itemsize)
    for batch, *sizes in (
        (1, 64, 64, 64, 64),
        (1, 128, 128, 128, 128),
        (64, 64, 64, 40, 50),
        (3000, 9, 9, 9, 9),
        (1, 1000, 700, 900, 1000),
        (1, 7, 200_000, 100_000, 7),
        (1, 4096, 4096, 64, 64),
    ):
        cells = batch * (max(sizes[0] * sizes[1], 128) + max(sizes[2] * sizes[3], 128))
        workspace = direct.workspace((batch, 256, *sizes[:2]), sizes[2:], patch_size, topk, dtype)
        assert workspace <= products * MIB + candidates + 1.15 * of_cell * cells, (batch, sizes)


# file, text that must occur once, replacement
MUTANTS = {
    "cells counted without barrier": ("match_direct.cuh", "block_barrier();  // the counts are there", "//"),
    "counts overwritten while they are read": ("match_direct.cuh", "block_barrier();  // the counts are read", "//"),
    "first stage read without barrier": ("cell_product.cuh", "block_barrier();  // the first stage is there", "//"),
    "next stage read without barrier": ("cell_product.cuh", "block_barrier();  // the next stage is there", "//"),
    "stage overwritten while it is read": ("cell_product.cuh", "    stage ^= 1;\n", "    if (!has_next) stage ^= 1;\n"),
    "last channels left out": ("cell_product.cuh", "channel + kDepth < p.query.channels;", "false;"),
    "channels beyond the last": ("cell_product.cuh", "is_there && key != nullptr", "key != nullptr"),
    "cells beyond the last": ("cell_product.cuh", "if (place >= map.count[tile_number]) return nullptr;", ""),
    "rim of a tile not needed": ("match_direct.cuh", "i < P * P && !is_needed", "i < P && !is_needed"),
    "place of a key kept from the row above": ("match_direct.cuh", "key == first || column == 0", "key == first"),
    "place of a key kept from the slice before": ("match_direct.cuh", "key == first || column == 0", "column == 0"),
    "key mask dropped": ("match_direct.cuh", "map.mask != nullptr && !map.mask[thread]", "false"),
    "map of all samples taken for one of the batch": (
        "match_direct.cuh",
        "map.sample_stride = is_shared ? 0 : channels",
        "map.sample_stride = channels",
    ),
    "norms of another sample": ("match_direct.cuh", "thread / plane * map.sample_stride", "0"),
    "ranking is the score": (
        "match_direct.cuh",
        "p.ranking[place] = best.score[rank]",
        "p.ranking[place] = query_scale",
    ),
    "norm of the key forgotten": ("match_direct.cuh", "nullptr ? sum * scale :", "nullptr ? sum :"),
    "norm of a query forgotten": ("match_direct.cuh", "(sum + query_bias) * scale", "sum * scale"),
    "norm of a key left out of a distance": ("match_direct.cuh", " + p.key.bias[patch_of_batch]", ""),
    "weight left out of a distance": ("match_direct.cuh", ": -weight * square;", ": -square;"),
    "weight left out of a product": ("match_direct.cuh", "? 2 * weight : weight;", "? 2 * weight : Sum(1);"),
    "weight left out of a correlation": ("match_direct.cuh", ": weight / square_root", ": 1 / square_root"),
    "weight of another sample": ("match_direct.cuh", "map.weight[thread]", "map.weight[thread % patches]"),
    "distance below zero": ("match_direct.cuh", "Metric::kL2 && !(score <= 0)", "Metric::kL2 && false"),
    "candidates of the tile before lost": ("match_direct.cuh", "if (p.is_first || rank", "if (true || rank"),
    "highest index on ties": ("match_direct.cuh", "index < other_index)", "index > other_index)"),
    "last slice left out": ("match_direct.cuh", "slice < p.slices; slice++", "slice < p.slices - 1; slice++"),
}


def run_cases(emulation, library) -> None:
    generator = torch.Generator().manual_seed(0)
    for number, most_cells in enumerate((MOST_CELLS, 60)):
        direct = DirectMatch(emulation, library, most_cells)
        query, key = torch.randn(2, 11, 9, 30, generator=generator), torch.randn(2, 11, 19, 29, generator=generator)
        key *= torch.rand(2, 1, 19, 29, generator=generator)
        query_mask, key_mask = (torch.rand(2, *size, generator=generator) < 0.6 for size in ((7, 28), (17, 27)))
        schedule = emulation.SCHEDULES[number]
        match = direct.match(query, key, query_mask, key_mask, topk=2, schedule=schedule)
        assert_match_close(match, query, key, query_mask=query_mask, key_mask=key_mask)
        weight = torch.rand(2, 17, 27, generator=generator) + 0.2
        for metric in contract.METRICS:
            arguments = {"metric": metric, "key_weight": weight}
            match = direct.match(query, key, query_mask, key_mask, topk=2, schedule=schedule, **arguments)
            assert_match_close(match, query, key, query_mask=query_mask, key_mask=key_mask, **arguments)
        match = direct.match(query, key[:1].expand(2, -1, -1, -1), query_mask, key_mask, schedule=schedule)
        assert_match_close(match, query, key[:1].repeat(2, 1, 1, 1), query_mask=query_mask, key_mask=key_mask)
        match = direct.match(query, key, query_mask, key_mask, metric="dot", schedule=schedule, wants_ranking=True)
        assert torch.equal(match.score, direct.ranking), "the ranking of a product is its score"
        near = key + 1e-5 * torch.randn(key.shape, generator=generator)  # distances below the rounding of the norms
        match = direct.match(near, key, metric="l2", schedule=schedule)
        assert bool((match.score <= 0).all()), "a distance below zero"
        key = key[:, :, :4, :5].repeat(1, 1, 3, 4)
        index, _ = direct.match(query, key, topk=2, schedule=schedule)
        assert bool((index[:, 0] // 18 < 4).all() and (index[:, 0] % 18 < 5).all()), "not the lowest"


@pytest.fixture(scope="module")
def mutants(builder) -> Iterator[dict[str, Future]]:
    """Every mutant, and under "none" the kernels as they are; compiled two at a time while tests run."""
    if not TORCH_HEADERS.is_dir():
        pytest.skip("needs torch's headers")
    unchanged = ("match_direct.cuh", "constexpr int kMostRanks = 8;", "constexpr int kMostRanks = 8;")
    with ThreadPoolExecutor(max_workers=2) as executor:
        yield {
            name: executor.submit(builder.build_mutant, "direct_kernels.cpp", *mutant, flags=["-Og"])
            for name, mutant in {"none": unchanged, **MUTANTS}.items()
        }
        executor.shutdown(cancel_futures=True)


def test_unchanged_kernels_pass(mutants, emulation):
    run_cases(emulation, mutants["none"].result())


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(mutants, emulation, name):
    library = mutants[name].result()  # a mutant that does not compile is an error of this test
    with pytest.raises(AssertionError) as raised:
        run_cases(emulation, library)
    print(f"{name}: {raised.value}")

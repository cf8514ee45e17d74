"""cohere, kernel by kernel as on the GPU, on the emulated device, against the reference."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from patchswap import contract, reference

TORCH_HEADERS = Path(torch.__file__).parent / "include"
INCLUDE = ["-isystem", str(TORCH_HEADERS)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


class Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("query", "key")],
        *[(name, ctypes.c_int64 * 4) for name in ("query_strides", "key_strides")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels", "height", "width", "key_height", "key_width")],
        *[(name, ctypes.c_int32) for name in ("patch_size", "ranks", "sweeps", "dtype")],
        ("weight", ctypes.c_double),
        ("metric", ctypes.c_int64),
        *[(name, ctypes.c_void_p) for name in ("given", "query_mask", "key_mask", "query_cells", "key_cells")],
        *[(name, ctypes.c_void_p) for name in ("places", "known_places", "known", "index", "score")],
    ]


class CohereKernels:
    """What csrc/cuda/cohere.cu launches, on guarded copies of the arguments; raises EmulationError."""

    def __init__(self, emulation, library: ctypes.CDLL) -> None:
        self.emulation = emulation
        self.library = library
        library.run_cohere.restype = ctypes.c_char_p
        assert library.call_size() == ctypes.sizeof(Call)

    def cohere(self, index, query, key, query_mask, key_mask, weight, sweeps, patch_size, schedule, metric="ncc"):
        """A map's layout is kept: channels first or last."""
        emulation = self.emulation
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE)
        try:
            batch, channels = query.shape[:2]
            sum_dtype = contract.accumulation_dtype(query.dtype)
            number = 16 // sum_dtype.itemsize
            pitch = -(-channels // number) * number
            grid = contract.patch_grid(*query.shape[2:], patch_size)
            patches = batch * grid[0] * grid[1]
            slots = self.library.most_slots()

            def cells(name, features):
                return memory.empty(name, (batch, *features.shape[2:], pitch), sum_dtype)

            maps = self._stored(memory, "query", query), self._stored(memory, "key", key)
            query_cells = cells("query cells", query)
            tensors = {
                "given": memory.read_only("given", index),
                "query_mask": None if query_mask is None else memory.read_only("query_mask", query_mask),
                "key_mask": None if key_mask is None else memory.read_only("key_mask", key_mask),
                "query_cells": query_cells,
                "key_cells": query_cells if key is query else cells("key cells", key),
                "places": memory.empty("places", (2, patches, 2), torch.int32),
                "known_places": memory.empty("known_places", (patches, slots, 2), torch.int32),
                "known": memory.empty("known", (patches, slots), sum_dtype),
                "index": memory.empty("index", (batch, *grid), torch.int64),
                "score": memory.empty("score", (batch, *grid), sum_dtype),
            }
            call = Call(
                *map(emulation.pointer, maps),
                *((ctypes.c_int64 * 4)(*features.stride()) for features in maps),
                *(batch, channels, *query.shape[2:], *key.shape[2:]),
                *(patch_size, index.shape[1], sweeps if weight > 0 else 0, DTYPES.index(query.dtype)),
                weight,
                contract.METRICS.index(metric),
                **{name: emulation.pointer(tensor) for name, tensor in tensors.items()},
            )
            message = self.library.run_cohere(ctypes.byref(schedule), ctypes.byref(call))
            emulation.expect_success("cohere", message)
            return tensors["index"].clone(), tensors["score"].clone()
        finally:
            memory.release()

    @staticmethod
    def _stored(memory, name, features):
        if features.is_contiguous():
            return memory.read_only(name, features)
        return memory.read_only(name, features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def kernels(builder, emulation):
    if not TORCH_HEADERS.is_dir():
        pytest.skip("needs torch's headers")
    return CohereKernels(emulation, builder.build("cohere_kernels.cpp", flags=["-O1", *emulation.TRAPS, *INCLUDE]))


def one_hot(*shape):
    """Cells with a single 1: products of patches are whole numbers and all norms are equal, so ties are exact."""
    batch, channels, height, width = shape
    return torch.zeros(shape).scatter_(1, torch.randint(0, channels, (batch, 1, height, width)), 1.0)


def make_index(query, key, patch_size, ranks, share=0.8):
    """Keys near the place of their query, so that offsets meet; -1 for some."""
    rows, columns = contract.patch_grid(*query.shape[2:], patch_size)
    key_rows, key_columns = contract.patch_grid(*key.shape[2:], patch_size)
    shape = (query.shape[0], ranks, rows, columns)
    if key_rows == 0:
        return torch.full(shape, -1)
    row = torch.arange(rows)[:, None] + torch.randint(-1, 2, shape)
    column = torch.arange(columns) + torch.randint(-1, 2, shape)
    index = row.remainder(key_rows) * key_columns + column.remainder(key_columns)
    return torch.where(torch.rand(shape) < share, index, -1)


def make_case(kind, batch, channels, size, key_size, patch_size, ranks, dtype=torch.float32):
    """index, query, key, query_mask, key_mask."""
    query, key = kind(batch, channels, *size).to(dtype), kind(batch, channels, *key_size).to(dtype)
    masks = (
        torch.rand(batch, *contract.patch_grid(*features.shape[2:], patch_size)) < share
        for features, share in ((query, 0.9), (key, 0.8))
    )
    return make_index(query, key, patch_size, ranks), query, key, *masks


def assert_is_reference(result, index, query, key, query_mask, key_mask, *options):
    expected, score = reference.cohere(index, query.double(), key.double(), query_mask, key_mask, *options)
    assert torch.equal(result[0], expected)
    rtol, atol = (1e-5, 1e-4) if options[-1] in ("l2", "dot") else (0, 2e-6)  # these are sums of any size
    torch.testing.assert_close(result[1].double(), score, rtol=rtol, atol=atol)


SHAPES = [  # batch, channels, size, key size
    (1, 1, (5, 5), (6, 5)),
    (2, 3, (9, 12), (7, 11)),
    (1, 34, (6, 7), (9, 6)),
    (1, 150, (7, 6), (6, 8)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch_size", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(kernels, emulation, shape, patch_size, dtype):
    kind = torch.randn if shape[1] > 1 else one_hot  # one channel of patches of one cell: all correlations are 1 or -1
    for ranks, sweeps, weight in ((1, 3, 0.05), (3, 2, 0.04)):
        case = make_case(kind, *shape, patch_size, ranks, dtype)
        options = (weight, sweeps, patch_size)
        results = [kernels.cohere(*case, *options, schedule) for schedule in emulation.SCHEDULES]
        assert_is_reference(results[0], *case, *options)
        for result in results[1:]:
            assert torch.equal(result[0], results[0][0]) and torch.equal(result[1], results[0][1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("metric", ["l2", "dot"])
def test_metrics(kernels, emulation, metric, dtype):
    for kind, weight in ((torch.randn, 9.0), (one_hot, 4.0)):
        case = make_case(kind, *SHAPES[2], 3, 2, dtype)
        for schedule in emulation.SCHEDULES[:2]:
            result = kernels.cohere(*case, weight, 2, 3, schedule, metric)
            assert_is_reference(result, *case, weight, 2, 3, metric)


@pytest.mark.parametrize("ranks", [1, 8])
def test_ties(kernels, emulation, ranks):
    case = make_case(one_hot, 2, 3, (9, 11), (8, 12), 3, ranks)
    for sweeps in range(5):
        result = kernels.cohere(*case, 0.1, sweeps, 3, emulation.SCHEDULES[sweeps % 3])
        assert_is_reference(result, *case, 0.1, sweeps, 3)


def test_one_map_and_no_masks_and_channels_last(kernels, emulation):
    features = torch.randn(2, 5, 9, 8).contiguous(memory_format=torch.channels_last)
    index = make_index(features, features, 3, 1)
    for schedule in emulation.SCHEDULES:
        result = kernels.cohere(index, features, features, None, None, 0.3, 3, 3, schedule)
        assert_is_reference(result, index, features, features, None, None, 0.3, 3, 3)


def test_what_is_out_of_range_counts_as_none(kernels, emulation):
    index, query, key, *masks = make_case(torch.randn, 1, 3, (9, 9), (8, 7), 3, 2)
    beyond = index.clone()
    beyond[0, 0, 2, 1:5] = torch.tensor([30, 1 << 40, -5, -(1 << 62)])
    beyond[0, 1, 4, 1:3] = torch.tensor([30, -9])
    index[0, 0, 2, 1:5] = index[0, 1, 4, 1:3] = -1
    result = kernels.cohere(beyond, query, key, *masks, 0.3, 2, 3, emulation.SCHEDULES[1])
    assert_is_reference(result, index, query, key, *masks, 0.3, 2, 3)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_not_finite(kernels, emulation, value):
    case = make_case(torch.randn, 1, 3, (10, 10), (10, 10), 3, 1)
    case[1][0, 0, 0, 0] = case[2][0, 1, 6, 6] = value
    index, score = kernels.cohere(*case, 0.3, 3, 3, emulation.SCHEDULES[2])
    expected, expected_score = reference.cohere(*case, 0.3, 3, 3)
    assert torch.equal(index, expected)
    torch.testing.assert_close(score, expected_score, rtol=0, atol=2e-6, equal_nan=True)
    for metric in ("l2", "dot"):
        index, score = kernels.cohere(*case, 3.0, 2, 3, emulation.SCHEDULES[2], metric)
        expected, expected_score = reference.cohere(*case, 3.0, 2, 3, metric)
        assert torch.equal(index, expected)
        torch.testing.assert_close(score, expected_score, rtol=1e-5, atol=2e-6, equal_nan=True)


@pytest.mark.parametrize("key_size", [(2, 9), (0, 0)], ids=str)
def test_no_keys_and_zero_norms(kernels, emulation, key_size):
    case = make_case(torch.randn, 1, 2, (5, 6), key_size, 3, 1)
    index, score = kernels.cohere(*case, 0.3, 1, 3, emulation.SCHEDULES[0])
    assert bool((index == -1).all()) and bool((score == -torch.inf).all())
    case = make_case(torch.zeros, 1, 2, (5, 6), (6, 6), 3, 1)
    result = kernels.cohere(*case, 0.3, 1, 3, emulation.SCHEDULES[0])
    assert_is_reference(result, *case, 0.3, 1, 3)


# ---- faults that these tests must find


class Mutant(NamedTuple):
    text: str  # must occur once in cohere.cuh
    replacement: str


MUTANTS = {
    "tile read without barrier": Mutant("block_barrier();  // the tile is there", ""),
    "cells of another sample": Mutant("copy[(sample * map.cells() + first_cell + i)", "copy[(first_cell + i)"),
    "map of another sample": Mutant("map.features + sample * map.strides[0] +", "map.features +"),
    "rows and columns swapped": Mutant("cell / map.width * map.strides[2]", "cell / map.width * map.strides[3]"),
    "padding not written": Mutant("first_cell + i < map.cells() && channel < pitch", "channel < map.channels"),
    "channels beyond the last": Mutant("channel < map.channels ?", "true ?"),
    "cells beyond the last": Mutant("if (cell < map.cells()) {", "if (true) {"),
    "tiles of one channel": Mutant("first_channel + lane;\n  for", "lane;\n  for"),
    "key mask dropped": Mutant("return key_mask == nullptr ||", "return true ||"),
    "key mask of another sample": Mutant("key_mask[sample * keys + key.row", "key_mask[key.row"),
    "query mask dropped": Mutant("query_mask != nullptr && !query_mask[at]", "false"),
    "keys beyond the last row": Mutant("key.row >= key_rows ||", ""),
    "keys beyond the last column": Mutant("|| key.column >= key_columns) return false", ") return false"),
    "keys before the first column": Mutant("key.column < 0 ||", ""),
    "indices beyond the last key": Mutant("|| key >= static_cast<int64_t>(key_rows) * key_columns) return", ") return"),
    "rank of another sample": Mutant("given[(sample * ranks + rank)", "given[rank"),
    "ranks where the first is masked": Mutant("rank == 0 || first.is_none() ? first :", "rank == 0 ? first :"),
    "sweeps read what they write": Mutant("places[(sweep - 1) % 2][at]", "places[sweep % 2][at]"),
    "neighbours without bounds": Mutant("|| x < 0 || x >= columns) return no_place()", ") return no_place()"),
    "neighbour taken for itself": Mutant("neighbour < 4 ? neighbour : neighbour + 1", "neighbour"),
    "proposals not moved": Mutant("{key.row - down, key.column - right}", "{key.row, key.column}"),
    "moved the wrong way": Mutant("{key.row - down, key.column - right}", "{key.row + down, key.column + right}"),
    "proposals not checked": Mutant("!key.is_none() && may_be_chosen(sample, moved)", "!key.is_none()"),
    "own offset agrees with itself": Mutant("if (slot >= ranks && is_same) agreeing", "if (is_same) agreeing"),
    "further ranks do not count": Mutant("if (mine.is(shuffle(further, ranks + n)))", "if (false)"),
    "further ranks of the wrong lane": Mutant("shuffle(further, ranks + n)", "shuffle(further, 1 + n)"),
    "further ranks no candidates": Mutant("if (lane > 0 && lane < ranks) mine", "if (false) mine"),
    "further ranks come last": Mutant("other > best_value) {", "other >= best_value) {"),
    "not compared with what none is": Mutant("lane < slots && !mine.is_none() && !is_repeated", "lane < slots"),
    "what is known is not looked at": Mutant("if (mine.is(place)) {", "if (slot == lane) {"),
    "known of another query": Mutant("known_at = at * kMostSlots + lane", "known_at = at * kNeighbours + lane"),
    "wrong slot scored": Mutant(
        "shuffle(mine, slot));\n    if (lane == slot) found", "shuffle(mine, 0));\n    if (lane == slot) found"
    ),
    "score with the support": Mutant("work.score[at] = found;", "work.score[at] = value;"),
    "weight not shared by eight": Mutant("count_bits(agreeing) / kNeighbours)", "count_bits(agreeing))"),
    "row of a patch too short": Mutant("work.patch_size * work.pitch / kCount", "work.pitch / kCount"),
    "rows of a patch all the same": Mutant("right_row += static_cast<int64_t>(work.key_width()) * work.pitch;", ""),
    "norm of the key forgotten": Mutant("whole * inverse_norm(right) *", "whole *"),
    "norm of the query forgotten": Mutant("* inverse_norm(left) + Sum(0)", "+ Sum(0)"),
    "norm of the key left out of a distance": Mutant("2 * whole - right - left", "2 * whole - left"),
    "norm of the query left out of a distance": Mutant("2 * whole - right - left", "2 * whole - right"),
    "product once in a distance": Mutant("2 * whole - right", "whole - right"),
    "distance below zero": Mutant("return score < 0 ? score : Sum(0);", "return score;"),
    "distance taken for a product": Mutant("work.metric == Metric::kDot", "work.metric == Metric::kL2"),
    "product that is not finite": Mutant("|| !(correlation == correlation)) return", ") return"),
    "cell of another sample's key": Mutant("key_cell = sample * key_height", "key_cell = 0 * key_height"),
    "tiles of one row": Mutant("tile / work.tiles_along() * kSweepRows", "tile / work.tiles_along()"),
    "queries beyond the last": Mutant("if (row >= work.rows || column >= work.columns) return;", ""),
    "no key, no result": Mutant("work.index[at] = -1;", ""),
}


def run_cases(kernels, emulation) -> None:
    torch.manual_seed(0)
    for kind, shape, ranks, weight in (
        (torch.randn, (2, 34, (7, 9), (8, 10)), 1, 0.1),
        (torch.randn, (2, 3, (9, 8), (8, 9)), 4, 1.5),
        (one_hot, (1, 2, (9, 9), (9, 7)), 2, 0.1),
    ):
        case = make_case(kind, *shape, 3, ranks)
        for number, sweeps in enumerate((1, 3)):
            result = kernels.cohere(*case, weight, sweeps, 3, emulation.SCHEDULES[1 + number])
            assert_is_reference(result, *case, weight, sweeps, 3)
    case = make_case(torch.randn, 1, 3, (7, 9), (8, 7), 3, 2)
    case[2][0, 1, 4, 4] = torch.inf
    for metric in ("l2", "dot"):
        index, score = kernels.cohere(*case, 5.0, 2, 3, emulation.SCHEDULES[1], metric)
        expected, expected_score = reference.cohere(*case, 5.0, 2, 3, metric)
        assert torch.equal(index, expected)
        torch.testing.assert_close(score, expected_score, rtol=1e-5, atol=2e-6, equal_nan=True)
    features = 100 + torch.randn(1, 33, 7, 8)
    near = features + 1e-4 * torch.randn(features.shape)  # distances below the rounding of the norms
    itself = torch.arange(30).view(1, 1, 5, 6)
    _, score = kernels.cohere(itself, features, near, None, None, 0.0, 0, 3, emulation.SCHEDULES[0], "l2")
    assert bool((score <= 0).all()), "a distance below zero"
    index, *rest = make_case(torch.randn, 1, 3, (6, 6), (6, 6), 3, 2)
    beyond = index.clone()
    beyond[0, 0, 1, 1], beyond[0, 1, 2, 2] = 16, (1 << 33) + 5
    rest[1] = rest[0]  # of the last row of queries, each is its own best key, were its index cut to 32 bits
    beyond[0, 0, 3] = torch.arange(12, 16) + (1 << 33)
    index = beyond.where(beyond < 16, -1)
    result = kernels.cohere(beyond, *rest, 0.3, 1, 3, emulation.SCHEDULES[0])
    assert_is_reference(result, index, *rest, 0.3, 1, 3)


def test_unchanged_kernels_pass(kernels, emulation):
    run_cases(kernels, emulation)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(builder, emulation, name):
    flags = ["-O0", *emulation.TRAPS]
    library = builder.build_mutant("cohere_kernels.cpp", "cohere.cuh", *MUTANTS[name], flags)
    with pytest.raises(AssertionError) as raised:
        run_cases(CohereKernels(emulation, library), emulation)
    print(f"{name}: {raised.value}")

"""similarity and its gradients, kernel by kernel as on the GPU, on the emulated device, against the reference."""

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
MOST_BLOCKS = 2**31 - 1  # all of a launch


class Call(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("query", "key")],
        *[(name, ctypes.c_int64 * 4) for name in ("query_strides", "key_strides")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels", "height", "width", "key_height", "key_width")],
        *[(name, ctypes.c_void_p) for name in ("index", "squares", "query_norm", "key_norm", "score")],
        *[(name, ctypes.c_void_p) for name in ("grad", "result")],
        *[(name, ctypes.c_int32) for name in ("patch_size", "ranks", "dtype", "most_blocks")],
    ]


class Runs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("used", "begin", "length", "arrival", "arrived", "ordered")]


class SimilarityKernels:
    """What csrc/cuda/similarity.cu launches, on guarded copies of the arguments; raises EmulationError.

    A map's layout is kept: channels first or last.
    """

    def __init__(self, emulation, library: ctypes.CDLL) -> None:
        self.emulation = emulation
        self.library = library
        library.run_similarity.restype = ctypes.c_char_p
        assert library.call_size() == ctypes.sizeof(Call)
        assert library.runs_size() == ctypes.sizeof(Runs)

    def similarity(self, query, key, index, patch_size, schedule):
        return self._run(query, key, index, patch_size, schedule)

    def query_backward(self, grad, query, key, index, score, patch_size, schedule):
        return self._run(query, key, index, patch_size, schedule, grad, score, query)

    def key_backward(self, grad, query, key, index, score, patch_size, schedule):
        return self._run(query, key, index, patch_size, schedule, grad, score, key)

    def _run(self, query, key, index, patch_size, schedule, grad=None, score=None, like=None):
        emulation = self.emulation
        if (index if like is None else like).numel() == 0:
            return torch.empty(index.shape if like is None else like.shape, dtype=query.dtype)  # as the host does
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE)
        try:
            batch, channels = query.shape[:2]
            sum_dtype = contract.accumulation_dtype(query.dtype)
            patches = [torch.Size(contract.patch_grid(*map_.shape[2:], patch_size)).numel() for map_ in (query, key)]
            cells = max(map_.shape[2:].numel() for map_ in (query, key))
            maps = self._stored(memory, "query", query), self._stored(memory, "key", key)
            tensors = {
                "index": memory.read_only("index", index),
                "squares": memory.empty("squares", (batch, cells), sum_dtype),
                "query_norm": memory.empty("query_norm", (batch, patches[0]), sum_dtype),
                "key_norm": memory.empty("key_norm", (batch, patches[1]), sum_dtype),
                "score": memory.empty("score", index.shape, sum_dtype)
                if score is None
                else memory.read_only("score", score),
                "grad": None if grad is None else memory.read_only("grad", grad),
                "result": None if like is None else memory.empty("result", like.shape, like.dtype),
            }
            call = Call(
                *map(emulation.pointer, maps),
                *((ctypes.c_int64 * 4)(*features.stride()) for features in maps),
                *(batch, channels, *query.shape[2:], *key.shape[2:]),
                **{name: emulation.pointer(tensor) for name, tensor in tensors.items()},
                patch_size=patch_size,
                ranks=contract.rank_count(index),
                dtype=DTYPES.index(query.dtype),
                most_blocks=MOST_BLOCKS,
            )
            runs = self._runs(memory, index, patches[1]) if like is key else None
            message = self.library.run_similarity(
                ctypes.byref(schedule), ctypes.byref(call), None if runs is None else ctypes.byref(runs)
            )
            emulation.expect_success("similarity", message)
            return tensors["score" if like is None else "result"].clone()
        finally:
            memory.release()

    @staticmethod
    def _stored(memory, name, features):
        if features.is_contiguous():
            return memory.read_only(name, features)
        return memory.read_only(name, features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _runs(self, memory, index, keys):
        runs = keys * index.shape[0] * contract.rank_count(index)
        lists = [memory.empty(name, (index.numel(),), torch.int32) for name in ("arrival", "arrived", "ordered")]
        tensors = [
            memory.filled("used", (1,), torch.int64, 0),
            memory.empty("begin", (runs,), torch.int64),
            memory.filled("length", (runs,), torch.int32, 0),
            *lists,
        ]
        self.alive = tensors  # as only their addresses are kept below
        return Runs(*map(self.emulation.pointer, tensors))


@pytest.fixture(scope="module")
def kernels(builder, emulation):
    if not TORCH_HEADERS.is_dir():
        pytest.skip("needs torch's headers")
    library = builder.build("similarity_kernels.cpp", flags=["-O1", *emulation.TRAPS, *INCLUDE])
    return SimilarityKernels(emulation, library)


def choose(kind, batch, ranks, size, key_size, patch_size):
    """An index with `ranks`, unless None: where it is -1, and what it holds elsewhere."""
    grid = contract.patch_grid(*size, patch_size)
    keys = torch.Size(contract.patch_grid(*key_size, patch_size)).numel()
    index = torch.randint(-1, max(keys, 1), (batch, *(() if ranks is None else (ranks,)), *grid))
    if keys == 0 or kind == "none":
        return torch.full_like(index, -1)
    if kind == "sparse":
        return torch.where(torch.rand(index.shape) < 0.2, index, -1)
    if kind == "one key":
        return torch.full_like(index, keys - 1)
    if kind == "beyond":
        beyond = torch.tensor([keys, -2, 1 << 40, -(1 << 62), keys + 5])
        return torch.where(torch.rand(index.shape) < 0.3, beyond[torch.randint(0, 5, index.shape)], index)
    return index


def as_taken(index, key, patch_size):
    keys = torch.Size(contract.patch_grid(*key.shape[2:], patch_size)).numel()
    return torch.where(index < keys, index.clamp(min=-1), -1)


def check(kernels, emulation, query, key, index, patch_size, steepness=1.0):
    """The score and both gradients in all schedules: equal bit for bit, and as the reference has them in float64."""
    taken, maps = as_taken(index, key, patch_size), (query.double(), key.double())
    scores = [kernels.similarity(query, key, index, patch_size, schedule) for schedule in emulation.SCHEDULES]
    assert all(torch.equal(score, scores[0]) for score in scores), "depends on the schedule"
    expected = reference.similarity(*maps, taken, patch_size)
    info, sum_eps = torch.finfo(query.dtype), torch.finfo(contract.accumulation_dtype(query.dtype)).eps
    assert_close(scores[0].double(), expected, 32 * sum_eps * (1 + expected.abs()))
    grad = torch.where(taken >= 0, steepness * torch.randn(index.shape, dtype=scores[0].dtype), torch.nan)
    for name in ("query", "key"):
        run = getattr(kernels, f"{name}_backward")
        results = [run(grad, query, key, index, scores[0], patch_size, schedule) for schedule in emulation.SCHEDULES]
        assert all(torch.equal(result, results[0]) for result in results), "depends on the order of atomics"
        backward = getattr(reference, f"similarity_{name}_backward")
        arguments = *maps, taken, expected, patch_size
        # Terms of either sign cancel, so rounding is measured by what is added up; a score is off by as much as 1 is.
        magnitude = backward(
            grad.double().abs(), maps[0].abs(), maps[1].abs(), taken, -torch.ones_like(expected), patch_size
        )
        gradient = backward(grad.double(), *arguments)
        rounding = (gradient.abs() + info.smallest_normal) * info.eps
        assert_close(results[0].double(), gradient, rounding + 64 * sum_eps * magnitude)


def assert_close(found, expected, allowed):
    assert bool(((found == expected) | ((found - expected).abs() <= allowed)).all())


SHAPES = [  # batch, channels, size, key size
    (1, 1, (1, 1), (1, 1)),
    (2, 3, (8, 7), (7, 9)),
    (1, 19, (7, 34), (8, 20)),
    (3, 33, (7, 8), (9, 7)),
    (1, 2, (27, 41), (33, 35)),  # several tiles
]
KINDS = ["all", "sparse", "one key", "none", "beyond"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("patch_size", "ranks"), [(1, None), (2, 3), (3, None), (3, 2), (4, 1), (5, None), (7, 8)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_score_and_gradients(kernels, emulation, shape, patch_size, ranks, dtype):
    batch, channels, size, key_size = shape
    query, key = (torch.randn(batch, channels, *one).to(dtype) for one in (size, key_size))
    kind = KINDS[(patch_size + channels) % len(KINDS)]
    for one in ("all", kind):
        index = choose(one, batch, ranks, size, key_size, patch_size)
        check(kernels, emulation, query, key, index, patch_size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_channels_last_is_the_same_bit_for_bit(kernels, emulation, dtype):
    query, key = torch.randn(2, 21, 9, 8).to(dtype), torch.randn(2, 21, 6, 10).to(dtype)
    index, schedule = choose("all", 2, 2, (9, 8), (6, 10), 3), emulation.SCHEDULES[2]
    expected = kernels.similarity(query, key, index, 3, schedule)
    grad = torch.randn_like(expected)
    cells = query.to(memory_format=torch.channels_last), key.to(memory_format=torch.channels_last)
    for maps in ((cells[0], key), (query, cells[1]), cells):
        assert torch.equal(kernels.similarity(*maps, index, 3, schedule), expected)
        for name in ("query_backward", "key_backward"):
            run = getattr(kernels, name)
            gradient = run(grad, query, key, index, expected, 3, schedule)
            assert torch.equal(run(grad, *maps, index, expected, 3, schedule), gradient)


@pytest.mark.parametrize(
    ("batch", "channels", "size", "key_size"),
    [
        (1, 2, (2, 5), (6, 6)),  # no query patch
        (1, 2, (6, 6), (2, 5)),  # no key patch
        (2, 2, (6, 6), (0, 4)),  # no key cell
        (2, 2, (0, 4), (6, 6)),
        (2, 0, (6, 6), (6, 6)),
        (0, 2, (6, 6), (6, 6)),
    ],
)
def test_empty(kernels, emulation, batch, channels, size, key_size):
    query, key = torch.randn(batch, channels, *size), torch.randn(batch, channels, *key_size)
    check(kernels, emulation, query, key, choose("all", batch, None, size, key_size, 3), 3)


@pytest.mark.parametrize("scales", [(1e-17, 1.0), (1e-17, 1e-17), (1e16, 1e-17), (1e16, 1e16)])
def test_gradients_near_the_ends_of_float32(kernels, emulation, scales):
    query, key = torch.randn(1, 3, 6, 7) * scales[0], torch.randn(1, 3, 7, 6) * scales[1]
    check(kernels, emulation, query, key, choose("all", 1, None, (6, 7), (7, 6), 3), 3, steepness=1e8)


def test_cells_of_no_pair_have_no_gradient(kernels, emulation):
    """Whatever they hold."""
    query, key = torch.randn(1, 3, 8, 7), torch.randn(1, 3, 8, 9)
    query[..., 6:, :], key[..., 6:, :] = torch.nan, torch.inf
    index = torch.full((1, 6, 5), -1)
    index[:, :3] = torch.randint(0, 4 * 7, (1, 3, 5))
    check(kernels, emulation, query, key, index, 3)


def unwritten(*shape, dtype):
    """Takes memory only where it is written to, however large."""
    return torch.empty(shape, dtype=dtype)


@pytest.mark.parametrize("name", ["query", "key"])
def test_gradient_of_a_map_of_more_than_2_31_numbers(kernels, emulation, name):
    """The last channel of a slab begins behind 2^31 numbers; only the first block of each launch runs."""
    channels, cells, small = 16, 2**31 // 15 + 1, 32
    query, key = (torch.randn(1, channels, 1, 256).half() for _ in range(2))
    query[..., small:], key[..., small:] = 0, 0
    few = query[..., :small], key[..., :small]
    index = torch.randint(0, small, (1, 1, small))
    score = reference.similarity(*(map_.double() for map_ in few), index, 1)
    grad = torch.randn_like(score)
    backward = getattr(reference, f"similarity_{name}_backward")
    expected = backward(grad, *(map_.double() for map_ in few), index, score, 1)

    widths = {"query": small, "key": small} | {name: cells}
    result = unwritten(1, channels, 1, cells, dtype=torch.float16)
    pairs = [unwritten(widths["query"], dtype=dtype) for dtype in (torch.int64, torch.float32, torch.float32)]
    for given, values in zip(pairs, (index, score, grad), strict=True):
        given[:256] = -1
        given[:small] = values.flatten()
    norms = [unwritten(widths[side], dtype=torch.float32) for side in ("query", "key")]
    squares = unwritten(cells, dtype=torch.float32)
    squares[:256] = 0
    runs = [unwritten(1, dtype=torch.int64), unwritten(widths["key"], dtype=torch.int64)]
    runs += [unwritten(widths[side], dtype=torch.int32) for side in ("key", "query", "query", "query")]
    for counted in (runs[0], runs[2]):
        counted[:256] = 0
    call = Call(
        *map(emulation.pointer, (query, key)),
        *((ctypes.c_int64 * 4)(*map_.stride()) for map_ in (query, key)),
        *(1, channels, 1, widths["query"], 1, widths["key"]),
        *map(emulation.pointer, (pairs[0], squares, *norms, *pairs[1:], result)),
        *(1, 1, DTYPES.index(torch.float16), 1),
    )
    queries_of_keys = ctypes.byref(Runs(*map(emulation.pointer, runs))) if name == "key" else None
    schedule = ctypes.byref(emulation.SCHEDULES[0])
    emulation.expect_success(name, kernels.library.run_similarity(schedule, ctypes.byref(call), queries_of_keys))
    torch.testing.assert_close(result[..., :small].double(), expected, rtol=1e-3, atol=1e-4)


def check_special_norms(kernels, emulation):
    """Zero norms have score and gradient 0, norms beyond float32 have score NaN."""
    query, key, schedule = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 6, 6), emulation.SCHEDULES[0]
    query[..., :3, :3], key[..., 3:, 3:], key[0, 0, 0, 0] = 0, 1e-30, 1e30
    index = torch.randint(2, 15, (1, 4, 4)).where(torch.rand(1, 4, 4) < 0.7, 15)
    index[index == 4] = 5
    score = kernels.similarity(query, key, index, 3, schedule)
    special = (index == 15) | (torch.arange(16).view(1, 4, 4) == 0)
    assert not bool(score[special].any()) and bool((score[~special] != 0).all())
    grad = torch.where(special, 1e30, 0.0)
    for run in (kernels.query_backward, kernels.key_backward):
        assert not bool(run(grad, query, key, index, score, 3, schedule).any())
    assert bool(kernels.similarity(query, key, torch.zeros_like(index), 3, schedule).isnan().all())


def test_special_norms(kernels, emulation):
    check_special_norms(kernels, emulation)


# ---- faults that these tests must find


class Mutant(NamedTuple):
    text: str  # must occur once in the file
    replacement: str
    file: str = "similarity.cuh"


MUTANTS = {
    "sums read without barrier": Mutant("  block_barrier();\n", ""),
    "last warp left out": Mutant("warp < kPairWarps; warp++", "warp < kPairWarps - 1; warp++"),
    "squares without their square": Mutant("sum += number * number;", "sum += number;"),
    "squares of the first sample": Mutant("map.at(cell / map.cells(), 0,", "map.at(0, 0,"),
    "squares beyond the last cell": Mutant("if (warp == 0 && exists) squares", "if (warp == 0) squares"),
    "norms of the first sample": Mutant("squares + sample * height * width +", "squares +"),
    "norms of one row": Mutant("dy < patch_size; dy++", "dy < 1; dy++"),
    "scores beyond the last pair": Mutant("if (warp != 0 || !exists) return;", "if (warp != 0) return;"),
    "queries of the first sample": Mutant("work.query.at(sample, 0,", "work.query.at(0, 0,"),
    "keys of another rank's sample": Mutant("work.key.at(sample, 0,", "work.key.at(layer % p.batch, 0,"),
    "no score without a key": Mutant("key < 0 ? -infinity", "false ? -infinity"),
    "norm of the key left out": Mutant("total * work.key_norm[sample * p.keys() + key] *", "total *"),
    "norm of another query": Mutant("work.query_norm[sample * p.queries() + place]", "work.query_norm[place]"),
    "zero norms": Mutant("square < Limits<Sum>::kSmallestNormal ? Sum(0) : ", "", "inverse_norm.cuh"),
    "norms beyond float32": Mutant("if (!(square <= Limits<Sum>::kLargest))", "if (false)", "inverse_norm.cuh"),
    "sign of what is taken off": Mutant("total < 0 ? -root : root;", "root;"),
    "gradient of queries without a key": Mutant("if (key < 0) continue;", ""),
    "what is taken off without a key": Mutant("if (pair_of(step, &pair) < 0) continue;", "pair_of(step, &pair);"),
    "gradient of the first rank only": Mutant(
        "for (int step = 0; step < p.ranks * size * size; step++) {\n      int64_t pair;\n      const int key",
        "for (int step = 0; step < size * size; step++) {\n      int64_t pair;\n      const int key",
    ),
    "norm of the key in the gradient": Mutant(
        "const Sum norm = work.key_norm[share.sample * p.keys() + key];", "const Sum norm = work.key_norm[key];"
    ),
    "the other corner of the key": Mutant("p.key_cell(key, tap / size, tap % size)", "p.key_cell(key, 0, tap % size)"),
    "gradient of the first channels": Mutant(
        "work.key.at(share.sample, first_channel + done, p", "work.key.at(share.sample, first_channel, p"
    ),
    "channels beyond the last": Mutant(
        "if (done + i < share.channels) sum[i] += scale * (norm *", "sum[i] += scale * (norm *"
    ),
    "runs of the first rank only": Mutant(
        "share.sample * p.ranks + step / (size * size), run", "share.sample * p.ranks, run"
    ),
    "queries on the grid of cells": Mutant("member[i] / p.width * p.columns + member[i] % p.width", "member[i]"),
    "pairs of the first rank": Mutant(
        "visit(query, layer * p.queries() + query, norm",
        "visit(query, share.sample * p.ranks * p.queries() + query, norm",
    ),
    "the query's cell of the key": Mutant("member[i] + tap / size * p.width + tap % size", "member[i] + tap % size"),
    "norm of the key in its own gradient": Mutant(
        "work.key_norm[share.sample * p.keys() + row * p.key_columns + column]",
        "work.key_norm[row * p.key_columns + column]",
    ),
    "norm of the query of another sample": Mutant(
        "const Sum query_norm = work.query_norm[share.sample * p.queries() + query];",
        "const Sum query_norm = work.query_norm[query];",
    ),
    "factors multiplied first": Mutant("sum[i] += scale * (query_norm *", "sum[i] += (scale * query_norm) * ("),
    "order of arrival kept": Mutant(
        "runs.ordered[begin + place]", "runs.ordered[begin + runs.arrival[member.copy]]", "chosen.cuh"
    ),
}


def run_cases(kernels, emulation) -> None:
    torch.manual_seed(0)
    for channels, size, key_size, patch_size, ranks, kind in (
        (23, (8, 9), (9, 7), 3, None, "all"),
        (5, (9, 7), (8, 11), 3, 2, "beyond"),
        (9, (7, 6), (5, 8), 2, 3, "sparse"),
        (3, (5, 6), (4, 4), 3, None, "one key"),
    ):
        query, key = torch.randn(2, channels, *size), torch.randn(2, channels, *key_size)
        check(kernels, emulation, query, key, choose(kind, 2, ranks, size, key_size, patch_size), patch_size)
    query, key = torch.randn(1, 2, 5, 6) * 1e-17, torch.randn(1, 2, 6, 5) * 1e-17
    check(kernels, emulation, query, key, choose("all", 1, None, (5, 6), (6, 5), 3), 3, steepness=1e8)
    check_special_norms(kernels, emulation)


def test_unchanged_kernels_pass(kernels, emulation):
    run_cases(kernels, emulation)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(builder, emulation, name):
    text, replacement, file = MUTANTS[name]
    flags = ["-O0", *emulation.TRAPS, *INCLUDE]
    library = builder.build_mutant("similarity_kernels.cpp", file, text, replacement, flags)
    with pytest.raises(AssertionError) as raised:
        run_cases(SimilarityKernels(emulation, library), emulation)
    print(f"{name}: {raised.value}")

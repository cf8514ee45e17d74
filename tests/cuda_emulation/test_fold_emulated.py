"""fold and its gradients, kernel by kernel as on the GPU, on the emulated device, against the reference."""

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
        *[(name, ctypes.c_void_p) for name in ("index", "source", "base", "result")],
        *[(name, ctypes.c_void_p) for name in ("weights", "covers", "key", "output")],
        *[(name, ctypes.c_int64) for name in ("batch", "channels", "height", "width", "key_height", "key_width")],
        *[(name, ctypes.c_int32) for name in ("patch_size", "ranks", "dtype")],
        *[(name, ctypes.c_int32) for name in ("is_channels_last", "is_laid", "is_gradient_of_weights")],
        ("most_weight", ctypes.c_double),
    ]


class Runs(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("used", "begin", "length", "arrival", "arrived", "ordered")]


class FoldKernels:
    """What csrc/cuda/fold.cu launches, on guarded copies of the arguments; raises EmulationError.

    offset: by how many numbers base and result are moved, so that they do not begin at a multiple of 16 bytes.
    """

    def __init__(self, emulation, library: ctypes.CDLL) -> None:
        self.emulation = emulation
        self.library = library
        library.run_fold.restype = ctypes.c_char_p
        assert library.call_size() == ctypes.sizeof(Call)
        assert library.runs_size() == ctypes.sizeof(Runs)

    def fold(self, index, key, base, size, patch_size, schedule, offset=0, is_laid=False, weights=None):
        """is_laid: the result holds `base` before the launch, which gets none."""
        sizes = (size, key.shape[2:])
        return self._run(index, key, base, *sizes, patch_size, schedule, offset, False, is_laid, weights)

    def fold_backward(self, grad, index, key_size, patch_size, schedule, offset=0, weights=None):
        sizes = (grad.shape[2:], key_size)
        return self._run(index, grad, None, *sizes, patch_size, schedule, offset, True, False, weights)

    def fold_weights_backward(self, grad, index, key, output, weights, patch_size, schedule):
        emulation = self.emulation
        if weights.numel() == 0:
            return torch.empty_like(weights)  # as the host does
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE)
        try:
            result = memory.empty("result", weights.shape, weights.dtype)
            given = {"index": index, "grad": grad, "weights": weights, "key": key, "output": output}
            tensors = {name: memory.read_only(name, tensor) for name, tensor in given.items()}
            call = Call(
                *map(emulation.pointer, (tensors["index"], tensors["grad"], None, result)),
                *map(emulation.pointer, (tensors["weights"], None, tensors["key"], tensors["output"])),
                *(*grad.shape, *key.shape[2:], patch_size, contract.rank_count(index), DTYPES.index(grad.dtype)),
                *(False, False, True, contract.max_weight(index, patch_size)),
            )
            message = self.library.run_fold(ctypes.byref(schedule), ctypes.byref(call), None)
            emulation.expect_success("fold_weights_backward", message)
            return result.clone()
        finally:
            memory.release()

    def _run(self, index, source, base, size, key_size, patch_size, schedule, offset, is_gradient, is_laid, weights):
        emulation = self.emulation
        memory = emulation.Memory(self.library, guard_begin=schedule.order == emulation.REVERSE and offset == 0)
        try:
            batch, channels = source.shape[:2]
            shape = (batch, channels, *(key_size if is_gradient else size))
            result = self._moved(memory, "result", shape, source.dtype, offset)
            if is_laid:
                result.copy_(base)
                base = None
            if base is not None:
                base = self._moved(memory, "base", base.shape, base.dtype, offset).copy_(base)
            is_channels_last = not source.is_contiguous()
            if is_channels_last:
                source = source.permute(0, 2, 3, 1)
            tensors = [memory.read_only("index", index), memory.read_only("source", source), base, result]
            tensors.append(None if weights is None else memory.read_only("weights", weights))
            cover_dtype = torch.int32 if weights is None else weights.dtype
            tensors.append(memory.empty("covers", (batch, *size), cover_dtype) if is_gradient else None)
            tensors += [None, None]
            call = Call(
                *map(emulation.pointer, tensors),
                *(batch, channels, *size, *key_size, patch_size, contract.rank_count(index)),
                *(DTYPES.index(source.dtype), is_channels_last, is_laid, False),
                contract.max_weight(index, patch_size),
            )
            runs = self._runs(memory, index, key_size, patch_size) if is_gradient else None
            message = self.library.run_fold(
                ctypes.byref(schedule), ctypes.byref(call), None if runs is None else ctypes.byref(runs)
            )
            emulation.expect_success("fold_backward" if is_gradient else "fold", message)
            return result.clone()
        finally:
            memory.release()

    @staticmethod
    def _moved(memory, name, shape, dtype, offset):
        count = torch.Size(shape).numel()
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        return memory.empty(name, (count + offset,), dtype)[offset:].view(shape)

    def _runs(self, memory, index, key_size, patch_size):
        queries = index.numel()
        keys = (
            torch.Size(contract.patch_grid(*key_size, patch_size)).numel() * index.shape[0] * contract.rank_count(index)
        )
        lists = [memory.empty(name, (queries,), torch.int32) for name in ("arrival", "arrived", "ordered")]
        tensors = [
            memory.filled("used", (1,), torch.int64, 0),
            memory.empty("begin", (keys,), torch.int64),
            memory.filled("length", (keys,), torch.int32, 0),
            *lists,
        ]
        self.alive = tensors  # as only their addresses are kept below
        return Runs(*map(self.emulation.pointer, tensors))


@pytest.fixture(scope="module")
def kernels(builder, emulation):
    if not TORCH_HEADERS.is_dir():
        pytest.skip("needs torch's headers")
    return FoldKernels(emulation, builder.build("fold_kernels.cpp", flags=["-O1", *emulation.TRAPS, *INCLUDE]))


def as_taken(index, weights, key_size, patch_size):
    """The index without what lies beyond the keys, and the weights without what is none."""
    keys = torch.Size(contract.patch_grid(*key_size, patch_size)).numel()
    if weights is not None:
        weights = torch.where((weights >= 0) & (weights <= contract.max_weight(index, patch_size)), weights, 0)
    return torch.where(index < keys, index.clamp(min=-1), -1), weights


def expected_fold(index, key, base, size, patch_size, weights=None):
    """Sums have the same order and precision in the reference, so results are equal bit for bit."""
    index, weights = as_taken(index, weights, key.shape[2:], patch_size)
    return reference.fold(index, key, base, *size, patch_size, weights)


def assert_is_gradient(result, grad, index, patch_size, weights=None):
    """Compares in float64, as the reference adds in another order; cancelled terms leave their rounding errors."""
    key_size = result.shape[2:]
    index, weights = as_taken(index, weights, key_size, patch_size)
    weights = None if weights is None else weights.double()
    expected = reference.fold_backward(grad.double(), index, *key_size, patch_size, weights)
    magnitude = reference.fold_backward(grad.double().abs(), index, *key_size, patch_size, weights)
    sum_eps = torch.finfo(contract.accumulation_dtype(grad.dtype)).eps
    info = torch.finfo(grad.dtype)
    allowed = (expected.abs() + info.smallest_normal) * info.eps + magnitude * 32 * sum_eps
    assert bool(((result.double() - expected).abs() <= allowed).all())


def assert_is_weights_gradient(result, grad, index, key, output, weights, patch_size):
    index, taken = as_taken(index, weights, key.shape[2:], patch_size)
    maps = [features.double() for features in (grad, key, output)]
    expected = reference.fold_weights_backward(maps[0], index, *maps[1:], taken.double(), patch_size)
    maps = [maps[0].abs(), maps[1].abs(), -maps[2].abs()]
    magnitude = reference.fold_weights_backward(maps[0], index, *maps[1:], taken.double(), patch_size)
    allowed = magnitude * 32 * torch.finfo(weights.dtype).eps
    assert bool(((result.double() - expected).abs() <= allowed).all())


def weigh(index, dtype):
    """Weights of every kind: ordinary ones, zeros, and what is no weight."""
    others = torch.tensor([0.0, 0.0, 1e-30, 9e34, -1.0, torch.nan, torch.inf, 1e38])
    choice = torch.randint(0, 3 * len(others), index.shape)
    weights = torch.where(choice < len(others), others[choice.clamp(max=len(others) - 1)], torch.rand(index.shape))
    return weights.to(contract.accumulation_dtype(dtype))


def choose(kind, batch, size, key_size, patch_size, ranks=None):
    """An index of `batch` samples, with `ranks` if given: where it is -1, and what it holds elsewhere."""
    rows, columns = contract.patch_grid(*size, patch_size)
    key_rows, key_columns = contract.patch_grid(*key_size, patch_size)
    keys = key_rows * key_columns
    shape = (batch, rows, columns) if ranks is None else (batch, ranks, rows, columns)
    index = torch.randint(-1, max(keys, 1), shape)
    if keys == 0 or kind == "none":
        return torch.full_like(index, -1)
    if kind == "sparse":
        return torch.where(torch.rand(index.shape) < 0.2, index, -1)
    if kind == "hole":
        inside = torch.zeros(index.shape, dtype=torch.bool)
        inside[..., rows // 3 : rows // 3 * 2 + 1, columns // 3 : columns // 3 * 2 + 1] = True
        return torch.where(inside, index, -1)
    if kind == "one key":
        return torch.full_like(index, keys - 1)
    if kind == "beyond":
        beyond = torch.tensor([keys, -2, 1 << 40, -(1 << 62), keys + 5])
        return torch.where(torch.rand(index.shape) < 0.3, beyond[torch.randint(0, 5, index.shape)], index)
    return index


SHAPES = [  # batch, channels, size, key size
    (1, 1, (1, 1), (1, 1)),
    (2, 3, (5, 4), (3, 7)),
    (1, 16, (8, 12), (6, 6)),  # whole pieces of 16 bytes for every dtype
    (2, 5, (9, 7), (11, 5)),
    (1, 19, (6, 34), (8, 20)),
    (3, 33, (5, 8), (9, 4)),
    (1, 2, (27, 41), (33, 35)),  # three tiles
]
KINDS = ["all", "sparse", "hole", "one key", "none", "beyond"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fold(kernels, emulation, shape, patch_size, dtype):
    batch, channels, size, key_size = shape
    key, base = (torch.randn(batch, channels, *s).to(dtype) for s in (key_size, size))
    for i, kind in enumerate(KINDS):
        index = choose(kind, batch, size, key_size, patch_size)
        given = base if i % 2 == 0 or kind == "hole" else None
        schedule = emulation.SCHEDULES[i % len(emulation.SCHEDULES)]
        result = kernels.fold(index, key, given, size, patch_size, schedule)
        assert torch.equal(result, expected_fold(index, key, given, size, patch_size)), kind


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fold_of_keys_in_channels_last_onto_a_base_that_lies_there(kernels, emulation, shape, patch_size, dtype):
    batch, channels, size, key_size = shape
    key, base = (torch.randn(batch, channels, *s).to(dtype) for s in (key_size, size))
    for i, kind in enumerate(KINDS):
        index = choose(kind, batch, size, key_size, patch_size)
        given, schedule = key.to(memory_format=torch.channels_last), emulation.SCHEDULES[i % len(emulation.SCHEDULES)]
        result = kernels.fold(index, given, base, size, patch_size, schedule, is_laid=i % 2 == 0)
        assert torch.equal(result, expected_fold(index, key, base, size, patch_size)), kind


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_fold_backward(kernels, emulation, shape, patch_size, dtype):
    batch, channels, size, key_size = shape
    grad = torch.randn(batch, channels, *size).to(dtype)
    for kind in KINDS:
        index = choose(kind, batch, size, key_size, patch_size)
        results = [
            kernels.fold_backward(grad, index, key_size, patch_size, schedule) for schedule in emulation.SCHEDULES
        ]
        assert_is_gradient(results[0], grad, index, patch_size)
        assert all(torch.equal(result, results[0]) for result in results[1:]), "depends on the order of atomics"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_weights(kernels, emulation, shape, patch_size, dtype):
    """fold from keys of both layouts, and its gradients with respect to key and weights."""
    batch, channels, size, key_size = shape
    key = torch.randn(batch, channels, *key_size).to(dtype)
    base, grad = (torch.randn(batch, channels, *size).to(dtype) for _ in range(2))
    for i, kind in enumerate(KINDS):
        index = choose(kind, batch, size, key_size, patch_size)
        weights, schedule = weigh(index, dtype), emulation.SCHEDULES[i % len(emulation.SCHEDULES)]
        result = kernels.fold(index, key, base, size, patch_size, schedule, weights=weights)
        assert torch.equal(result, expected_fold(index, key, base, size, patch_size, weights)), kind
        given = key.to(memory_format=torch.channels_last)
        again = kernels.fold(index, given, base, size, patch_size, schedule, is_laid=i % 2 == 0, weights=weights)
        assert torch.equal(again, result), kind
        gradients = [
            kernels.fold_backward(grad, index, key_size, patch_size, one, weights=weights)
            for one in (schedule, emulation.SCHEDULES[(i + 1) % len(emulation.SCHEDULES)])
        ]
        assert_is_gradient(gradients[0], grad, index, patch_size, weights)
        assert torch.equal(*gradients), "depends on the order of atomics"
        gradient = kernels.fold_weights_backward(grad, index, key, result, weights, patch_size, schedule)
        assert_is_weights_gradient(gradient, grad, index, key, result, weights, patch_size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("patch_size", "ranks"), [(2, None), (4, 2), (6, 8), (7, 3), (3, 2), (1, 8), (5, 3)])
def test_ranks_and_patches_of_any_size(kernels, emulation, patch_size, ranks, dtype):
    check_everything(kernels, emulation, (2, 19), (11, 13), (9, 12), patch_size, ranks, dtype)


def check_everything(kernels, emulation, batch_and_channels, size, key_size, patch_size, ranks, dtype):
    """fold from keys of both layouts and its gradients, with and without weights, in all schedules."""
    key, base = (torch.randn(*batch_and_channels, *one).to(dtype) for one in (key_size, size))
    grad = torch.randn_like(base)
    for i, kind in enumerate(KINDS):
        index = choose(kind, batch_and_channels[0], size, key_size, patch_size, ranks)
        for weights in (None, weigh(index, dtype)):
            schedule = emulation.SCHEDULES[i % len(emulation.SCHEDULES)]
            result = kernels.fold(index, key, base, size, patch_size, schedule, weights=weights)
            assert torch.equal(result, expected_fold(index, key, base, size, patch_size, weights)), kind
            cells = key.to(memory_format=torch.channels_last)
            again = kernels.fold(index, cells, base, size, patch_size, schedule, is_laid=True, weights=weights)
            assert torch.equal(again, result), kind
            gradients = [
                kernels.fold_backward(grad, index, key_size, patch_size, one, weights=weights)
                for one in emulation.SCHEDULES
            ]
            assert_is_gradient(gradients[0], grad, index, patch_size, weights)
            assert all(torch.equal(one, gradients[0]) for one in gradients), "depends on the order of atomics"
        gradient = kernels.fold_weights_backward(grad, index, key, result, weights, patch_size, schedule)
        assert_is_weights_gradient(gradient, grad, index, key, result, weights, patch_size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 1, 3])
@pytest.mark.parametrize("with_base", [True, False])
def test_maps_that_begin_anywhere(kernels, emulation, dtype, offset, with_base):
    key, base = torch.randn(2, 9, 6, 7).to(dtype), torch.randn(2, 9, 8, 16).to(dtype)
    index = choose("hole", 2, (8, 16), (6, 7), 3)
    given = base if with_base else None
    for schedule in emulation.SCHEDULES:
        result = kernels.fold(index, key, given, (8, 16), 3, schedule, offset)
        assert torch.equal(result, expected_fold(index, key, given, (8, 16), 3))
    grad = torch.randn(2, 9, 6, 7).to(dtype)
    index = choose("sparse", 2, (6, 7), (8, 16), 3)
    result = kernels.fold_backward(grad, index, (8, 16), 3, emulation.SCHEDULES[2], offset)
    assert_is_gradient(result, grad, index, 3)


@pytest.mark.parametrize(
    ("batch", "channels", "size", "key_size"),
    [
        (1, 2, (2, 5), (6, 6)),  # no query patch
        (1, 2, (6, 6), (2, 5)),  # no key patch
        (2, 2, (6, 6), (0, 4)),  # no key cell
        (2, 2, (0, 4), (6, 6)),  # nothing to write
        (2, 0, (6, 6), (6, 6)),
        (0, 2, (6, 6), (6, 6)),
    ],
)
def test_empty(kernels, emulation, batch, channels, size, key_size):
    schedule = emulation.SCHEDULES[0]
    index = choose("all", batch, size, key_size, 3)
    key, base = torch.randn(batch, channels, *key_size), torch.randn(batch, channels, *size)
    if base.numel() > 0:
        assert torch.equal(kernels.fold(index, key, base, size, 3, schedule), expected_fold(index, key, base, size, 3))
        weights = weigh(index, torch.float32)
        result = kernels.fold(index, key, base, size, 3, schedule, weights=weights)
        assert torch.equal(result, expected_fold(index, key, base, size, 3, weights))
    gradient = kernels.fold_weights_backward(base, index, key, base, weigh(index, torch.float32), 3, schedule)
    assert torch.equal(gradient, torch.zeros(index.shape))
    if key.numel() > 0:
        result = kernels.fold_backward(base, index, key_size, 3, schedule)
        assert_is_gradient(result, base, index, 3)


def test_values_that_are_not_finite_stay_where_they_are(kernels, emulation):
    key, base = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8)
    key[0, 0, 0, 0], base[0, 1, 7, 7], base[0, 2, 3, 3] = torch.nan, torch.inf, torch.nan
    index = torch.full((1, 6, 6), -1)
    index[0, 2, 2] = 0
    result = kernels.fold(index, key, base, (8, 8), 3, emulation.SCHEDULES[0])
    assert result[0, 0, 2, 2].isnan() and result[0, 1, 7, 7].isinf()
    assert int(result.isfinite().logical_not().sum()) == 2  # the NaN of base is painted over


def test_values_of_a_patch_of_weight_0_do_not_matter(kernels, emulation):
    key, grad, schedule = torch.randn(1, 3, 8, 8), torch.randn(1, 3, 8, 8), emulation.SCHEDULES[0]
    key[..., :3] = grad[..., :3] = torch.nan
    index = torch.arange(36).view(1, 6, 6)
    weights = (index % 6 > 2).float()
    index = torch.where(weights > 0, index, 0)
    result = kernels.fold(index, key, None, (8, 8), 3, schedule, weights=weights)
    torch.testing.assert_close(result[..., 3:], key[..., 3:])
    gradient = kernels.fold_backward(grad, index, (8, 8), 3, schedule, weights=weights)
    assert bool(gradient.isfinite().all())


# ---- faults that these tests must find


class Mutant(NamedTuple):
    text: str  # must occur once in the file
    replacement: str
    file: str = "fold.cuh"


CHOSEN = "chosen.cuh"
MUTANTS = {
    "index of the layer before": Mutant(
        "index[layer * queries()", "index[(layer > 0 ? layer - 1 : 0) * queries()", CHOSEN
    ),
    "indices beyond the last key": Mutant("key >= 0 && key < keys()", "key >= 0", CHOSEN),
    "wrap-around at the right edge": Mutant("row < rows && column >= 0 && column < columns;", "row < rows;", CHOSEN),
    "wrap-around at the right edge of the key": Mutant("&& column >= 0 && column < key_columns;", ";", CHOSEN),
    "last channels left out": Mutant(
        "static_cast<int>(left) : kSlab", "static_cast<int>(left) - 1 : kSlab", "cell_tiles.cuh"
    ),
    "pieces where some cells are covered": Mutant("(empty & piece) == piece", "(empty & piece) != 0"),
    "pieces without alignment": Mutant("alignment % 16 == 0 &&", ""),
    "tail of the pieces left out": Mutant("(channels - place + kPiece - 1) / kPiece", "(channels - place) / kPiece"),
    "cells behind the last one": Mutant("share.cell < work.tiles.cells && cover == 0", "cover == 0"),
    "key row of the wrong width": Mutant("* key_width + key %", "* width + key %", CHOSEN),
    "cells of channels last maps not apart": Mutant("work.is_channels_last ? channels : 1;", "1;"),
    "channels of a slab as in planes": Mutant("first_channel * channel_pitch", "first_channel * key_plane"),
    "base wiped out": Mutant("if (!work.is_laid) {", "{"),
    "sum instead of mean": Mutant("sum[i] / static_cast<Sum>(cover)", "sum[i]"),
    "first rank only": Mutant(
        "const int64_t layer = share.sample * p.ranks + rank;", "const int64_t layer = share.sample * p.ranks;"
    ),
    "cover of the first rank": Mutant(
        "const int64_t layer = sample * p.ranks + rank;", "const int64_t layer = sample * p.ranks;"
    ),
    "gradient of the first rank only": Mutant("step < p.ranks * size * size", "step < size * size"),
    "gradient of a rank in all": Mutant("share.sample * p.ranks + step / (size * size)", "share.sample * p.ranks"),
    "samples counted as layers": Mutant("sample = layer / p.ranks, first", "sample = layer % p.batch, first"),
    "order of arrival kept": Mutant(
        "runs.ordered[begin + place]", "runs.ordered[begin + runs.arrival[member.copy]]", CHOSEN
    ),
    "runs overlap": Mutant("before += i < lane ? length : 0;", "before += i < lane - 1 ? length : 0;", CHOSEN),
    "runs of warps overlap": Mutant("atomic_add(runs.used, all)", "atomic_add(runs.used, all - 1)", CHOSEN),
    "lengths read without barrier": Mutant(
        ": 0);\n  warp_barrier();\n  int64_t before", ": 0);\n  int64_t before", CHOSEN
    ),
    "begins read without barrier": Mutant(
        "  warp_barrier();\n  if (exists) runs.begin", "  if (exists) runs.begin", CHOSEN
    ),
    "cover count of another sample": Mutant("covers += share.sample * plane;", ""),
    "last tap left out": Mutant("is_chosen |=", "if (tap < size * size - 1) is_chosen |="),
    "weights of the layer before": Mutant("weights[layer * p.queries()", "weights[(layer / 2) * p.queries()"),
    "weights on the grid of cells": Mutant("p.queries() + row * p.columns", "p.queries() + row * p.width"),
    "negative weights": Mutant("return weight > 0 && weight <= most", "return weight <= most"),
    "infinite weights": Mutant("weight > 0 && weight <= most", "weight > 0"),
    "weights where nothing is matched": Mutant("if (p.key_of(layer, row, column) < 0) return 0;\n", ""),
    "weighted sum instead of mean": Mutant("x - tap % size) / cover;", "x - tap % size);"),
    "copies of weight 0": Mutant("part > 0 && i < left", "key >= 0 && i < left"),
    "weight of the cell, not of the query": Mutant("member[i] / p.width, member[i] % p.width", "y, x"),
    "gradient of weight 0": Mutant("if (weight == 0) continue;", ""),
    "gradient in cells without weight": Mutant("if (cover == 0) continue;", ""),
    "output of another cell": Mutant("work.output + cell;", "work.output + cell - tap % size;"),
    "copy of another sample": Mutant("work.key + first_plane * key_plane +", "work.key +"),
    "gradient of queries without match": Mutant("tap = 0; key >= 0 && tap", "tap = 0; tap"),
    "mean not taken off": Mutant("- static_cast<Sum>(output[channel * plane])", ""),
}


def run_cases(kernels, emulation) -> None:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(shape, generator=generator)

    torch.manual_seed(0)
    for size, key_size, kind in (
        ((8, 16), (9, 12), "hole"),
        ((9, 7), (8, 11), "beyond"),
        ((7, 20), (8, 10), "sparse"),
        ((12, 12), (6, 8), "all"),
        ((5, 5), (4, 4), "one key"),
    ):
        index = choose(kind, 2, size, key_size, 3)
        key, base, grad = randn(2, 23, *key_size), randn(2, 23, *size), randn(2, 23, *size)
        for schedule in emulation.SCHEDULES:
            offset = schedule.order % 2
            result = kernels.fold(index, key, base, size, 3, schedule, offset)
            assert torch.equal(result, expected_fold(index, key, base, size, 3))
            cells = key.to(memory_format=torch.channels_last)
            assert torch.equal(kernels.fold(index, cells, base, size, 3, schedule, offset, is_laid=True), result)
        results = [kernels.fold_backward(grad, index, key_size, 3, schedule) for schedule in emulation.SCHEDULES]
        assert_is_gradient(results[0], grad, index, 3)
        assert all(torch.equal(result, results[0]) for result in results[1:])
        weights, schedule = weigh(index, torch.float32), emulation.SCHEDULES[0]
        result = kernels.fold(index, key, base, size, 3, schedule, weights=weights)
        assert torch.equal(result, expected_fold(index, key, base, size, 3, weights))
        gradient = kernels.fold_backward(grad, index, key_size, 3, schedule, weights=weights)
        assert_is_gradient(gradient, grad, index, 3, weights)
        gradient = kernels.fold_weights_backward(grad, index, key, result, weights, 3, schedule)
        assert_is_weights_gradient(gradient, grad, index, key, result, weights, 3)
    check_everything(kernels, emulation, (2, 5), (8, 9), (7, 6), 3, 3, torch.float32)
    test_values_of_a_patch_of_weight_0_do_not_matter(kernels, emulation)


def test_unchanged_kernels_pass(kernels, emulation):
    run_cases(kernels, emulation)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_fails(builder, emulation, name):
    flags = ["-O0", *emulation.TRAPS, *INCLUDE]
    text, replacement, file = MUTANTS[name]
    library = builder.build_mutant("fold_kernels.cpp", file, text, replacement, flags)
    with pytest.raises(AssertionError) as raised:
        run_cases(FoldKernels(emulation, library), emulation)
    print(f"{name}: {raised.value}")

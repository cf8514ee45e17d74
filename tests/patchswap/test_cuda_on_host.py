"""The direct CUDA match, its per-thread code compiled for the host and compared with the reference."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from patchswap import contract
from patchswap.swap import Match
from patchswap.testing import assert_match_close

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX", "g++").split()


class MapView(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_void_p) for name in ("features", "mask")],
        *[(name, ctypes.c_int64) for name in ("channels", "height", "width", "rows", "columns")],
    ]


class MatchParameters(ctypes.Structure):
    _fields_ = [
        *[(name, MapView) for name in ("query", "key")],
        *[(name, ctypes.c_void_p) for name in ("query_inverse_norm", "key_inverse_norm")],
        *[(name, ctypes.c_int64) for name in ("batch", "topk", "slices")],
        *[(name, ctypes.c_void_p) for name in ("slice_score", "slice_index", "score", "index")],
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    if not shutil.which(COMPILER[0]) or not SOURCES.is_dir():
        pytest.skip("needs a C++ compiler and the source tree")
    path = tmp_path_factory.mktemp("cuda_on_host") / "cuda_on_host.so"
    flags = ["-std=c++20", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-fsanitize=undefined"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{SOURCES}"]
    subprocess.run([*COMPILER, *flags, str(HERE / "cuda_on_host.cpp"), "-o", str(path)], check=True)
    loaded = ctypes.CDLL(str(path))
    assert loaded.match_parameters_size() == ctypes.sizeof(MatchParameters)
    return loaded


def pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def match_on_host(library, query, key, query_mask, key_mask, patch_size, topk, slices):
    grids = [contract.patch_grid(*features.shape[2:], patch_size) for features in (query, key)]
    views = [
        MapView(pointer(features), pointer(mask), *features.shape[1:], *grid)
        for features, mask, grid in zip((query, key), (query_mask, key_mask), grids, strict=True)
    ]
    batch, queries = query.shape[0], grids[0][0] * grids[0][1]
    norms = [torch.empty(batch, grid[0] * grid[1], dtype=query.dtype) for grid in grids]
    score = torch.full((batch, topk, *grids[0]), torch.nan, dtype=query.dtype)
    slice_score = torch.full((batch, slices, topk, queries), torch.nan, dtype=query.dtype)
    index, slice_index = torch.full(score.shape, -7), torch.full(slice_score.shape, -7)
    tensors = [slice_score, slice_index, score, index]
    parameters = MatchParameters(*views, *map(pointer, norms), batch, topk, slices, *map(pointer, tensors))
    function = library.match_double if query.dtype == torch.float64 else library.match_float
    function(patch_size, ctypes.byref(parameters), *[ctypes.c_void_p(pointer(norm)) for norm in norms])
    return Match(index, score)


SIZES = [((9, 11), (8, 13)), ((5, 5), (5, 30)), ((6, 17), (2, 4)), ((7, 5), (16, 9))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize(("query_size", "key_size"), SIZES)
@pytest.mark.parametrize(("topk", "slices", "share"), [(1, 1, 1.0), (1, 5, 0.3), (3, 4, 0.5), (8, 64, 0.02)])
def test_match(library, dtype, patch_size, query_size, key_size, topk, slices, share):
    query, key = torch.randn(2, 3, *query_size, dtype=dtype), torch.randn(2, 3, *key_size, dtype=dtype)
    query[0, :, :5, :5] = 0
    query_mask = torch.rand(2, *contract.patch_grid(*query_size, patch_size)) < 0.7
    key_mask = torch.rand(2, *contract.patch_grid(*key_size, patch_size)) < share
    match = match_on_host(library, query, key, query_mask, key_mask, patch_size, topk, slices)
    masks = {"query_mask": query_mask, "key_mask": key_mask}
    assert_match_close(match, query, key, patch_size=patch_size, **masks)
    one_slice = match_on_host(library, query, key, query_mask, key_mask, patch_size, topk, 1)
    assert torch.equal(match.index, one_slice.index) and torch.equal(match.score, one_slice.score)


@pytest.mark.parametrize("slices", [1, 3, 7])
def test_ties_go_to_the_lowest_index(library, slices):
    key = torch.randn(1, 5, 4, 4).repeat(1, 1, 4, 9)
    query = torch.randn(1, 5, 6, 6)
    index = match_on_host(library, query, key, None, None, 3, 1, slices).index
    assert bool((index // 34 < 4).all()) and bool((index % 34 < 4).all())


def test_non_finite_patches_take_no_part(library):
    query, key = torch.randn(1, 3, 6, 6), torch.randn(1, 3, 6, 6)
    query[0, 0, 0, 0], key[0, 0, 5, 5] = torch.nan, torch.inf
    index, score = match_on_host(library, query, key, None, None, 3, 1, 2)
    assert int(index[0, 0, 0, 0]) == -1 and bool(score[0, 0, 0, 0].isnan())
    assert bool((index.flatten()[1:] >= 0).all()) and not bool((index == 15).any())

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchswap
from patchswap import contract, ops, reference


def tolerance(dtype):
    # One rounding to the result's dtype, and a few of the sum.
    return {"rtol": 4 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_the_reference(device, dtype, patch_size, with_base, layout):
    key = torch.randn(2, 3, 9, 8, device=device).to(dtype).to(memory_format=layout)
    base = torch.randn(2, 3, 11, 7, device=device).to(dtype) if with_base else None
    shape = (2, *contract.patch_grid(11, 7, patch_size))
    keys = (10 - patch_size) * (9 - patch_size)
    index = torch.where(torch.rand(shape) < 0.4, torch.randint(0, keys, shape), -1).to(device)
    result = patchswap.fold(index, key, output_size=(11, 7), patch_size=patch_size, base=base)
    expected = reference.fold(index, key.double(), None if base is None else base.double(), 11, 7, patch_size)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, **tolerance(dtype))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(0, 12)] * 4),
    batch=st.integers(0, 3),
    patch_size=st.integers(1, 7),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape_forward_and_backward(sizes, batch, patch_size, seed):
    torch.manual_seed(seed)
    height, width = sizes[:2]
    key, grad = torch.randn(batch, 2, *sizes[2:]), torch.randn(batch, 2, height, width)
    key_rows, key_columns = contract.patch_grid(*sizes[2:], patch_size)
    index = torch.randint(-1, key_rows * key_columns, (batch, *contract.patch_grid(height, width, patch_size)))
    result = ops.fold(index, key, None, height, width, patch_size)
    torch.testing.assert_close(result, reference.fold(index, key, None, height, width, patch_size))
    result = ops.fold_backward(grad, index, *sizes[2:], patch_size)
    torch.testing.assert_close(result, reference.fold_backward(grad, index, *sizes[2:], patch_size))


def test_a_match_in_place_of_its_index(device):
    """Of a key whose size differs from the query's; with the size of the output left to fold."""
    query, key = torch.randn(2, 4, 6, 7, device=device), torch.randn(2, 4, 9, 5, device=device)
    match = patchswap.match(query, key)
    index, score = match  # it is still a pair
    assert match.grid == patchswap.Grid((9, 5)) and torch.equal(index, match.index) and torch.equal(score, match.score)
    expected = patchswap.fold(index, key, output_size=(6, 7))
    for chosen in (match, index, pickle.loads(pickle.dumps(match))):
        assert torch.equal(patchswap.fold(chosen, key), expected)
    base = torch.randn(2, 4, 6, 7, device=device)
    assert torch.equal(patchswap.fold(match, key, base=base), patchswap.fold(index, key, output_size=(6, 7), base=base))
    assert patchswap.fold(index[:, :0, :0], key).shape == (2, 4, 2, 2)
    nothing = patchswap.fold(index[:, :0, :0], key[..., :2], base=base[..., :1])
    assert torch.equal(nothing, base[..., :1])


def test_own_patches_give_the_map_back(device):
    features = torch.randn(2, 4, 6, 7, device=device)
    index = patchswap.match(features, features).index
    assert torch.equal(index, torch.arange(20, device=device).view(1, 4, 5).expand(2, -1, -1))
    result = patchswap.fold(index, features, output_size=(6, 7))
    torch.testing.assert_close(result, features)


def test_uncovered_cells_are_the_base_bit_for_bit(device):
    base = torch.randn(1, 3, 8, 8, device=device)
    index = torch.full((1, 6, 6), -1, device=device)
    index[0, 2, 2] = 0
    result = patchswap.fold(index, torch.randn(1, 3, 4, 4, device=device), output_size=(8, 8), base=base)
    changed = (result != base).any(1)[0]
    assert bool(changed[2:5, 2:5].all()) and int(changed.sum()) == 9


def test_query_mask_leaves_patches_out(device):
    key = torch.randn(1, 2, 6, 6, device=device)
    index = torch.randint(0, 16, (1, 4, 4), device=device)
    mask = torch.rand(1, 4, 4, device=device) < 0.5
    result = patchswap.fold(index, key, output_size=(6, 6), query_mask=mask)
    assert torch.equal(result, patchswap.fold(torch.where(mask, index, -1), key, output_size=(6, 6)))


def test_channels_last_is_the_same_bit_for_bit(device):
    """More channels than one thread takes, more covered cells than fit into one band."""
    key = torch.randn(2, 70, 40, 90, device=device)
    index = torch.where(torch.rand(2, 98, 118) < 0.9, torch.randint(0, 38 * 88, (2, 98, 118)), -1).to(device)
    base = torch.randn(2, 70, 100, 120, device=device)
    layouts = (torch.contiguous_format, torch.channels_last)
    planes, *others = (
        patchswap.fold(index, key.to(memory_format=one), output_size=(100, 120), base=base.to(memory_format=other))
        for one, other in itertools.product(layouts, layouts)
    )
    assert planes.is_contiguous()
    assert all(torch.equal(planes, other) and other.is_contiguous() for other in others)
    expected = reference.fold(index, key.double(), base.double(), 100, 120, 3)
    torch.testing.assert_close(planes.double(), expected, rtol=1e-5, atol=1e-5)


def test_non_contiguous(device):
    key = torch.randn(2, 3, 8, 9, device=device).to(memory_format=torch.channels_last)
    base = torch.randn(2, 3, 7, 6, device=device).mT
    index = torch.randint(-1, 42, (2, 5, 4), device=device).mT
    result = patchswap.fold(index, key, output_size=(6, 7), base=base)
    expected = patchswap.fold(index.contiguous(), key.contiguous(), output_size=(6, 7), base=base.contiguous())
    assert torch.equal(result, expected)

"""Values apart from the key, on its grid and on finer ones; a key with a hole; one map for all samples."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

import patchswap
from patchswap.testing import assert_match_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def paste(match, values, ratio, patch_size, padding, size):
    """The definition, patch after patch in float64: a patch of ratio * p cells for each query, ratio cells apart."""
    side, margin = ratio * patch_size, ratio * padding
    index, values = match.index.cpu(), F.pad(values.cpu().double(), [margin] * 4)
    height, width = (ratio * (each + 2 * padding) for each in size)
    total = torch.zeros(*values.shape[:2], height, width, dtype=torch.float64)
    count = torch.zeros(values.shape[0], 1, height, width, dtype=torch.float64)
    columns = values.shape[3] // ratio - patch_size + 1
    for b, y, x in itertools.product(*map(range, index.shape)):
        if index[b, y, x] >= 0:
            row, column = divmod(int(index[b, y, x]), columns)
            place = (..., slice(ratio * y, ratio * y + side), slice(ratio * x, ratio * x + side))
            source = (..., slice(ratio * row, ratio * row + side), slice(ratio * column, ratio * column + side))
            total[b][place] += values[b][source]
            count[b][place] += 1
    inside = (..., slice(margin, height - margin), slice(margin, width - margin))
    return (total / count.clamp(min=1))[inside], count[inside]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("ratio", "patch_size", "padding"), [(1, 3, 0), (2, 3, 1), (3, 1, 0), (4, 3, 0), (2, 5, 2)])
def test_values_of_any_level(device, dtype, ratio, patch_size, padding):
    query, key = torch.randn(2, 4, 6, 7, device=device), torch.randn(2, 4, 5, 8, device=device)
    values = torch.randn(2, 2, 5 * ratio, 8 * ratio, device=device).to(dtype)
    result, match = patchswap.swap(query, key, values=values, patch_size=patch_size, padding=padding, return_match=True)
    expected, _ = paste(
        patchswap.Match(*(each.cpu() for each in match)), values.cpu(), ratio, patch_size, padding, (6, 7)
    )
    assert result.dtype == dtype and result.shape == (2, 2, 6 * ratio, 7 * ratio)
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.double().cpu(), expected, rtol=tolerance, atol=2 * tolerance)
    assert torch.equal(result, patchswap.fold(match, values))
    by_index = patchswap.fold(match.index, values, key_size=(5, 8), patch_size=patch_size, padding=padding)
    assert torch.equal(result, by_index)


def test_several_levels_in_one_call(device):
    query, key = torch.randn(2, 8, 6, 7, device=device), torch.randn(2, 8, 5, 9, device=device)
    levels = (key, torch.randn(2, 4, 10, 18, device=device).bfloat16(), torch.randn(2, 3, 20, 36, device=device))
    results, match = patchswap.swap(query, key, values=levels, padding=1, return_match=True)
    assert isinstance(results, tuple)
    for result, level in zip(results, levels, strict=True):
        assert result.dtype == level.dtype and torch.equal(result, patchswap.fold(match, level))
    assert torch.equal(results[0], patchswap.swap(query, key, padding=1))
    assert all(map(torch.equal, patchswap.swap(query, key, values=list(levels), padding=1), results))
    assert patchswap.swap(query, key, values=()) == ()


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(
    ("query_shape", "key_shape"),
    [
        ((0, 4, 6, 7), (0, 4, 5, 8)),
        ((0, 4, 6, 7), (1, 4, 5, 8)),
        ((2, 0, 6, 7), (2, 0, 5, 8)),
        ((2, 4, 2, 9), (2, 4, 5, 8)),  # smaller than a patch
        ((2, 4, 6, 7), (2, 4, 1, 8)),
        ((2, 4, 1, 1), (2, 4, 1, 1)),
    ],
)
def test_tiny_and_empty(device, query_shape, key_shape, padding):
    query, key = torch.randn(query_shape, device=device), torch.randn(key_shape, device=device)
    fine = torch.randn(key_shape[0], 3, 2 * key_shape[2], 2 * key_shape[3], device=device)
    coarse, finer = patchswap.swap(query, key, values=(key, fine), padding=padding)
    assert coarse.shape == query.shape
    assert finer.shape == (query_shape[0], 3, 2 * query_shape[2], 2 * query_shape[3])
    assert bool(coarse.isfinite().all()) and bool(finer.isfinite().all())


def test_base_and_weights_of_a_finer_level(device):
    query, key = torch.randn(2, 4, 6, 7, device=device), torch.randn(2, 4, 5, 8, device=device)
    values, base = torch.randn(2, 2, 10, 16, device=device), torch.randn(2, 2, 12, 14, device=device)
    query_mask = torch.rand(2, 6, 7, device=device) < 0.2
    match = patchswap.match(query, key, padding=1, query_mask=query_mask)
    found = patchswap.fold(match, values, base=base)
    expected, count = paste(match, values, 2, 3, 1, (6, 7))
    torch.testing.assert_close(found.cpu().double(), torch.where(count > 0, expected, base.cpu().double()))
    assert torch.equal(found, patchswap.fold(match, values, base=base, output_size=(12, 14)))
    ones = torch.ones(2, 6, 7, device=device)
    torch.testing.assert_close(patchswap.fold(match, values, base=base, weights=ones), found)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_values_in_a_hole(device, patch_size):
    """Cells outside the hole are the values' own, bit for bit, at every level; inside they are copies."""
    features = torch.randn(2, 4, 9, 10, device=device)
    fine = torch.randn(2, 3, 18, 20, device=device)
    hole = torch.zeros(2, 9, 10, dtype=torch.bool, device=device)
    hole[0, 2:5, 3:7] = hole[1, 6:, :4] = True
    (same, finer), match = patchswap.swap(
        features, values=(features, fine), hole=hole, patch_size=patch_size, return_match=True
    )
    assert torch.equal(same, patchswap.swap(features, hole=hole, patch_size=patch_size))
    in_hole = hole.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None].expand_as(fine)
    assert torch.equal(finer[~in_hole], fine[~in_hole])
    folded = patchswap.fold(match, fine)
    assert torch.equal(finer[in_hole], folded[in_hole])


def test_a_key_with_a_hole(device):
    """Shift-Net (Yan et al., arXiv 1801.09392): cells of a decoder's map take those of an encoder's from outside."""
    query, key = torch.randn(2, 4, 9, 10, device=device), torch.randn(2, 4, 9, 10, device=device)
    hole = torch.zeros(2, 9, 10, dtype=torch.bool, device=device)
    hole[0, 2:5, 3:7] = hole[1, 6:, :4] = True
    result, match = patchswap.swap(query, key, hole=hole, patch_size=1, return_match=True)
    for sample in range(2):
        cells, known = query[sample][:, hole[sample]], key[sample][:, ~hole[sample]]
        best = (F.normalize(cells, dim=0).T @ F.normalize(known, dim=0)).argmax(1)
        torch.testing.assert_close(result[sample][:, hole[sample]], known[:, best])
        assert torch.equal(result[sample][:, ~hole[sample]], query[sample][:, ~hole[sample]])
    assert_match_close(match, query, key, patch_size=1, query_mask=hole, key_mask=~hole)
    kept = patchswap.swap(query, key, values=key, hole=hole, patch_size=1)
    assert torch.equal(kept, torch.where(hole[:, None], result, key))


def test_one_key_for_all_samples(device):
    """Equal to a key repeated beforehand, gradient included."""
    query = torch.randn(3, 4, 9, 10, device=device)
    key = torch.randn(1, 4, 7, 8, device=device, requires_grad=True)
    values = torch.randn(1, 2, 14, 16, device=device, requires_grad=True)
    key_mask = torch.rand(1, 7, 8, device=device) < 0.5
    repeated = key.expand(3, -1, -1, -1)
    match = patchswap.match(query, key, padding=1, key_mask=key_mask)
    expected = patchswap.match(query, repeated, padding=1, key_mask=key_mask.expand(3, -1, -1))
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)
    coherent = patchswap.cohere(match, query, key, weight=0.2, key_mask=key_mask)
    expected = patchswap.cohere(match, query, repeated, weight=0.2, key_mask=key_mask.expand(3, -1, -1))
    assert torch.equal(coherent.index, expected.index)
    found = patchswap.swap(query, key, values=(key, values))
    expected = patchswap.swap(query, repeated, values=(repeated, values.expand(3, -1, -1, -1)))
    assert all(map(torch.equal, found, expected))
    gradients = (
        torch.autograd.grad(sum(each.square().sum() for each in given), (key, values)) for given in (found, expected)
    )
    assert all(map(torch.equal, *gradients))
    assert torch.equal(patchswap.swap(query, key, coherence=0.1), patchswap.swap(query, repeated, coherence=0.1))


def test_holes_of_all_shapes(device):
    features = torch.randn(3, 4, 9, 10, device=device)
    hole = torch.zeros(9, 10, dtype=torch.bool, device=device)
    hole[2:5, 3:7] = True
    expected = patchswap.swap(features, hole=hole.expand(3, -1, -1))
    for given in (hole, hole[None], hole[None, None], hole.expand(3, 1, -1, -1)):
        assert torch.equal(patchswap.swap(features, hole=given), expected)
        query_mask, key_mask = patchswap.masks_from_hole(given, key_margin=1)
        assert query_mask.shape == key_mask.shape == (3 if given.dim() == 4 and given.shape[0] == 3 else 1, 7, 8)
    masks = dict(zip(("query_mask", "key_mask"), patchswap.masks_from_hole(hole), strict=True))
    assert_match_close(patchswap.match(features, features, **masks), features, features, **masks)


@pytest.mark.parametrize("hole_shape", [(2, 9, 10), (2, 1, 9, 10), (9, 10)])
def test_gradients(device, hole_shape):
    query = torch.randn(2, 2, 9, 10, dtype=torch.float64, device=device, requires_grad=True)
    values = torch.randn(2, 1, 18, 20, dtype=torch.float64, device=device, requires_grad=True)
    hole = torch.zeros(hole_shape, dtype=torch.bool, device=device)
    hole[..., 2:5, 3:7] = True

    def fill(values):
        return patchswap.swap(query, values=values, hole=hole, padding=1, padding_mode="reflect")

    assert torch.autograd.gradcheck(fill, (values,), fast_mode=True)
    assert fill(values).grad_fn is not None
    assert torch.autograd.grad(fill(values).sum(), query, allow_unused=True) == (None,)

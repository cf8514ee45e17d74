from __future__ import annotations

import inspect
import textwrap

import pytest
import torch
from torch.nn import functional as F

import patchswap
from patchswap import masks_from_hole


def hole_of(batch, height, width, *boxes):
    hole = torch.zeros(batch, height, width, dtype=torch.bool)
    for sample, top, left, bottom, right in boxes:
        hole[sample, top:bottom, left:right] = True
    return hole


def test_equals_the_snippet_of_the_docstring():
    features, hole = torch.randn(1, 12, 14, 17), hole_of(1, 14, 17, (0, 4, 5, 9, 11))
    lines = inspect.getdoc(patchswap.swap).split("::\n", 1)[1].split("\n\nWith a key")[0]
    scope = {"torch": torch, "F": F, "features": features, "hole": hole}
    exec(textwrap.dedent(lines), scope)
    torch.testing.assert_close(patchswap.swap(features, hole=hole), scope["result"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("patch_size", range(1, 6))
def test_known_cells_are_bit_exact(device, dtype, patch_size):
    features = torch.randn(2, 5, 13, 11, device=device).to(dtype)
    hole = hole_of(2, 13, 11, (0, 0, 0, 5, 4), (1, 6, 6, 13, 11), (1, 1, 1, 2, 2)).to(device)
    result = patchswap.swap(features, hole=hole, patch_size=patch_size)
    known = (~hole)[:, None].expand_as(features)
    assert torch.equal(result[known], features[known])
    assert result.dtype == dtype
    changed = (result != features).any(1)
    assert torch.equal(changed, hole)


def test_hole_is_filled_from_known_cells_only(device):
    features = torch.rand(1, 3, 16, 16, device=device)
    hole = hole_of(1, 16, 16, (0, 5, 5, 11, 11)).to(device)
    features[:, :, 5:11, 5:11] += 100
    result = patchswap.swap(features, hole=hole)
    assert float(result.max()) <= 1


def test_samples_of_a_batch_do_not_mix(device):
    features = torch.randn(3, 4, 12, 12, device=device)
    hole = hole_of(3, 12, 12, (0, 2, 2, 6, 6), (2, 7, 0, 12, 5)).to(device)
    result = patchswap.swap(features, hole=hole)
    for sample in range(3):
        alone = patchswap.swap(features[sample : sample + 1], hole=hole[sample : sample + 1])
        assert torch.equal(result[sample : sample + 1], alone)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (3, 3), (5, 4)])
@pytest.mark.parametrize("patch_size", range(1, 7))
@pytest.mark.parametrize("key_margin", [0, 2, 50])
def test_degenerate_holes(device, size, patch_size, key_margin):
    features = torch.randn(1, 3, *size, device=device)
    for hole in (torch.zeros(1, *size, dtype=torch.bool), torch.ones(1, *size, dtype=torch.bool)):
        result = patchswap.swap(features, hole=hole.to(device), patch_size=patch_size, key_margin=key_margin)
        assert torch.equal(result, features)


@pytest.mark.parametrize("size", [(0, 8), (8, 0), (0, 0)])
@pytest.mark.parametrize("key_margin", [0, 2])
def test_hole_of_an_empty_map(device, size, key_margin):
    hole = torch.ones(2, *size, dtype=torch.bool, device=device)
    masks = patchswap.masks_from_hole(hole, 1, key_margin)
    assert all(mask.shape == (2, 0, 0) and mask.dtype == torch.bool for mask in masks)


def test_empty_batch(device):
    features, hole = torch.zeros(0, 3, 8, 8, device=device), torch.zeros(0, 8, 8, dtype=torch.bool, device=device)
    assert patchswap.swap(features, hole=hole).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("patch_size", range(1, 7))
@pytest.mark.parametrize("margin", [0, 1, 3])
def test_key_margin(patch_size, margin):
    hole = hole_of(1, 20, 22, (0, 8, 9, 11, 13))
    query_mask, key_mask = masks_from_hole(hole, patch_size, margin)
    for y in range(20 - patch_size + 1):
        for x in range(22 - patch_size + 1):
            assert bool(query_mask[0, y, x]) == bool(hole[0, y : y + patch_size, x : x + patch_size].any())
            top, left = max(0, y - margin), max(0, x - margin)
            near = hole[0, top : y + patch_size + margin, left : x + patch_size + margin].any()
            assert bool(key_mask[0, y, x]) == (not bool(near))


def test_key_margin_falls_back_where_it_leaves_no_key():
    hole = hole_of(2, 12, 12, (0, 4, 4, 8, 8), (1, 0, 0, 2, 2))
    _, key_mask = masks_from_hole(hole, 3, 4)
    _, without = masks_from_hole(hole, 3, 0)
    assert torch.equal(key_mask[0], without[0])
    assert bool(key_mask[1].any()) and int(key_mask[1].sum()) < int(without[1].sum())


def test_style(device):
    content, style = torch.randn(2, 4, 9, 10, device=device), torch.randn(2, 4, 12, 7, device=device)
    result, match = patchswap.swap(content, style, return_match=True)
    assert result.shape == content.shape and match.index.shape == (2, 7, 8)
    torch.testing.assert_close(result, patchswap.fold(match.index, style, output_size=(9, 10)))
    torch.testing.assert_close(patchswap.swap(content, content), content)


def test_return_match(device):
    features, hole = torch.randn(1, 4, 9, 10, device=device), hole_of(1, 9, 10, (0, 3, 3, 5, 6)).to(device)
    result, match = patchswap.swap(features, hole=hole, return_match=True)
    assert torch.equal(result, patchswap.swap(features, hole=hole))
    assert torch.equal(match.index >= 0, masks_from_hole(hole, 3, 0)[0])

"""padding in match, cohere, fold and swap, against maps that are padded beforehand and plain torch code."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

import patchswap
from patchswap.padding import padded
from patchswap.testing import assert_match_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TORCH_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate"}
MODES = list(TORCH_MODES)


def maps(device="cpu", dtype=torch.float32):
    query, key = torch.randn(2, 4, 6, 9, device=device), torch.randn(2, 4, 8, 5, device=device)
    return query.to(dtype), key.to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", [0, 1, 2])
def test_cells_are_those_of_torch(device, mode, padding):
    features = torch.randn(2, 3, 5, 4, device=device)
    expected = F.pad(features, [padding] * 4, mode=TORCH_MODES[mode])
    assert torch.equal(padded(features, padding, mode), expected)
    assert torch.equal(padded(features > 0, padding, mode), expected > 0)  # masks, too
    last = features.to(memory_format=torch.channels_last)
    assert torch.equal(padded(last, padding, mode), expected)
    assert padded(features[:0], padding, mode).shape == expected[:0].shape
    assert padded(features[:, :0], padding, mode).shape == expected[:, :0].shape


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("patch_size", "padding"), [(1, 0), (3, 1), (3, 2), (5, 2), (5, 4)])
def test_match_is_that_of_padded_maps(device, mode, patch_size, padding):
    query, key = maps(device)
    settings = {"patch_size": patch_size, "padding": padding, "padding_mode": mode}
    match = patchswap.match(query, key, **settings)
    by_hand = [padded(each, padding, mode) for each in (query, key)]
    expected = patchswap.match(*by_hand, patch_size=patch_size)
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)
    if padding == patch_size // 2:
        assert match.index.shape == (2, 6, 9)
    assert_match_close(match, query, key, patch_size=patch_size)
    coherent = patchswap.cohere(match, query, key, weight=0.2)
    expected = patchswap.cohere(expected, *by_hand, weight=0.2)
    assert torch.equal(coherent.index, expected.index) and torch.equal(coherent.score, expected.score)
    assert coherent.grid == match.grid == patchswap.Grid((8, 5), *settings.values())


def test_masks_are_on_the_padded_grid(device):
    query, key = maps(device)
    query_mask, key_mask = torch.rand(2, 6, 9, device=device) < 0.7, torch.rand(2, 8, 5, device=device) < 0.5
    masks = {"query_mask": query_mask, "key_mask": key_mask}
    match = patchswap.match(query, key, padding=1, topk=3, **masks)
    assert_match_close(match, query, key, **masks)
    assert torch.equal(match.index[:, 0] >= 0, query_mask)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("divisor", ["covered", 9])
def test_fold_equals_unfold_gather_fold(device, dtype, mode, divisor):
    query, key = maps(device, dtype)
    match = patchswap.match(query, key, padding=1, padding_mode=mode)
    result = patchswap.fold(match, key, divisor=divisor)
    assert result.dtype == dtype and result.shape == query.shape and result.is_contiguous()
    assert torch.equal(result, patchswap.swap(query, key, padding=1, padding_mode=mode, divisor=divisor))
    around = F.pad(key.double(), [1] * 4, mode=TORCH_MODES[mode])
    patches = F.unfold(around, 3).gather(2, match.index.flatten(1)[:, None].expand(-1, 4 * 9, -1))
    total = F.fold(patches, (6, 9), 3, padding=1)
    count = F.fold(torch.ones_like(patches), (6, 9), 3, padding=1) if divisor == "covered" else 9
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(result.double(), total / count, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("with_base", [False, True])
def test_fold_with_gaps(device, weighted, with_base):
    """Queries left out, a base, weights and a constant divisor, against the definition cell by cell."""
    query, key = maps(device)
    query_mask = torch.rand(2, 6, 9, device=device) < 0.2
    match = patchswap.match(query, key, padding=1, query_mask=query_mask)
    base = query * 10 if with_base else None
    weights = torch.rand(2, 6, 9, device=device) * (torch.rand(2, 6, 9, device=device) < 0.8) if weighted else None
    counts = query_mask.float() if weights is None else weights * query_mask
    around = F.pad(key, [1] * 4)
    patches = F.unfold(around, 3).gather(2, match.index.clamp(min=0).flatten(1)[:, None].expand(-1, 36, -1))
    total = F.fold(patches * counts.flatten(1)[:, None], (6, 9), 3, padding=1)
    cover = F.fold(counts.flatten(1)[:, None].expand(-1, 9, -1), (6, 9), 3, padding=1)
    for divisor in ("covered", 4.5):
        found = patchswap.fold(match, key, base=base, weights=weights, divisor=divisor)
        by = cover if divisor == "covered" else divisor
        expected = torch.where(cover > 0, total / by, torch.zeros_like(query) if base is None else base)
        torch.testing.assert_close(found, expected)
        assert torch.equal(found.where(cover == 0, 0), expected.where(cover == 0, 0))


@pytest.mark.parametrize("divisor", ["covered", 9])
def test_fold_of_several_keys(device, divisor):
    """Soft attention over the k best keys, whose weights add up to 1 for each query."""
    query, key = maps(device)
    match = patchswap.match(query, key, padding=1, topk=4)
    weights = torch.softmax(match.score * 10, 1)
    found = patchswap.fold(match, key, weights=weights, divisor=divisor)
    ranks = [patchswap.Match(match.index[:, rank], match.score[:, rank], match.grid) for rank in range(4)]
    sums = [patchswap.fold(one, key, weights=weights[:, rank], divisor=1) for rank, one in enumerate(ranks)]
    cover = F.fold(torch.ones(1, 9, 54, device=device), (6, 9), 3, padding=1)
    torch.testing.assert_close(found, sum(sums) / (cover if divisor == "covered" else divisor))


@pytest.mark.parametrize("mode", MODES)
def test_similarity_of_a_match(device, mode):
    query, key = maps(device)
    match = patchswap.match(query, key[:1], patch_size=5, padding=2, padding_mode=mode)
    for found in (
        patchswap.similarity(query, key[:1], match),
        patchswap.similarity(query, key[:1], match.index, 5, padding=2, padding_mode=mode),
    ):
        torch.testing.assert_close(found, match.score)
    query.requires_grad_(), key.requires_grad_()
    found = torch.autograd.grad(patchswap.similarity(query, key[:1], match).sum(), (query, key))
    by_hand = (padded(query, 2, mode), padded(key[:1].expand(2, -1, -1, -1), 2, mode))
    expected = torch.autograd.grad(patchswap.similarity(*by_hand, match.index, 5).sum(), (query, key))
    torch.testing.assert_close(found, expected)


def test_no_padding_with_a_constant_divisor(device):
    query, key = maps(device)
    match = patchswap.match(query, key)
    mean, divided = patchswap.fold(match, key), patchswap.fold(match, key, divisor=9)
    assert torch.equal(divided[..., 2:-2, 2:-2], mean[..., 2:-2, 2:-2])  # cells that nine patches cover
    torch.testing.assert_close(divided[..., 0, 0], mean[..., 0, 0] / 9)
    assert patchswap.fold(match.index[:, :0, :0], key, divisor=2).shape == (2, 4, 2, 2)


@pytest.mark.parametrize("mode", MODES)
def test_gradients(device, mode):
    query, key = (each[:, :1].double() for each in maps(device))
    match = patchswap.match(query, key, padding=1, padding_mode=mode)
    weights = (torch.rand(2, 6, 9, dtype=torch.float64, device=device) + 0.1).requires_grad_()
    key.requires_grad_(), query.requires_grad_()
    missing = torch.rand(2, 6, 9, device=device) < 0.6
    masked = patchswap.Match(match.index.masked_fill(missing, -1), match.score, match.grid)
    for divisor in ("covered", 9):

        def fold(key, base, weights, divisor=divisor):
            return patchswap.fold(masked, key, base=base, weights=weights, divisor=divisor)

        assert torch.autograd.gradcheck(fold, (key, query, weights))


@pytest.mark.parametrize("mode", MODES)
def test_a_hole_is_filled_up_to_the_border(device, mode):
    features = torch.randn(2, 4, 9, 10, device=device)
    hole = torch.zeros(2, 9, 10, dtype=torch.bool, device=device)
    hole[0, :4, :5] = hole[1, 3:6, 7:] = True
    result, match = patchswap.swap(features, hole=hole, padding=1, padding_mode=mode, return_match=True)
    kept = ~hole[:, None].expand_as(features)
    assert torch.equal(result[kept], features[kept])
    assert match.index.shape == (2, 9, 10)
    around, hole_around = padded(features, 1, mode), padded(hole, 1, mode)
    expected = patchswap.swap(around, hole=hole_around)[..., 1:-1, 1:-1]
    torch.testing.assert_close(result, expected)
    query_mask, key_mask = patchswap.masks_from_hole(hole, padding=1, padding_mode=mode)
    assert torch.equal(match.index >= 0, query_mask)
    assert not bool((query_mask & key_mask).any())


def test_explain_takes_padding():
    query, key = maps()
    assert patchswap.explain(query, key, padding=1).kernel == patchswap.explain(query, key).kernel

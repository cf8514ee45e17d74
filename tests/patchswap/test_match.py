from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchswap
from patchswap import contract, ops, reference
from patchswap.testing import assert_match_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def random_mask(batch, size, patch_size, share):
    return torch.rand(batch, *contract.patch_grid(*size, patch_size)) < share


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize(
    ("query_size", "key_size", "channels"),
    [((7, 9), (8, 5), 4), ((5, 5), (5, 5), 1), ((1, 13), (6, 6), 3), ((70, 8), (6, 71), 2), ((6, 130), (5, 300), 3)],
)
def test_matches_the_float64_reference(device, dtype, patch_size, query_size, key_size, channels):
    query = torch.randn(2, channels, *query_size, device=device).to(dtype)
    key = torch.randn(2, channels, *key_size, device=device).to(dtype)
    match = patchswap.match(query, key, patch_size=patch_size)
    assert match.index.dtype == torch.int64
    assert match.score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert match.index.shape == match.score.shape == (2, *contract.patch_grid(*query_size, patch_size))
    assert_match_close(match, query, key, patch_size=patch_size)


@pytest.mark.parametrize("topk", [1, 2, 3, 8])
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_masks_and_topk(device, topk, patch_size, share):
    query, key = torch.randn(3, 5, 11, 70), torch.randn(3, 5, 13, 9)
    query_mask = random_mask(3, (11, 70), patch_size, 0.3).to(device)
    key_mask = random_mask(3, (13, 9), patch_size, share).to(device)
    query, key = query.to(device), key.to(device)
    match = patchswap.match(query, key, patch_size=patch_size, query_mask=query_mask, key_mask=key_mask, topk=topk)
    if topk > 1:
        assert match.index.shape == (3, topk, *query_mask.shape[1:])
        assert bool((match.score.diff(dim=1).nan_to_num(0, 0, 0) <= 0).all())
    assert_match_close(match, query, key, patch_size=patch_size, query_mask=query_mask, key_mask=key_mask)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 24)] * 4),
    channels=st.integers(1, 5),
    batch=st.integers(0, 3),
    patch_size=st.integers(1, 7),
    topk=st.integers(1, 8),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape(sizes, channels, batch, patch_size, topk, share, seed):
    torch.manual_seed(seed)
    query, key = torch.randn(batch, channels, *sizes[:2]), torch.randn(batch, channels, *sizes[2:])
    query_mask = random_mask(batch, sizes[:2], patch_size, share)
    key_mask = random_mask(batch, sizes[2:], patch_size, share)
    match = patchswap.match(query, key, patch_size=patch_size, query_mask=query_mask, key_mask=key_mask, topk=topk)
    assert_match_close(match, query, key, patch_size=patch_size, query_mask=query_mask, key_mask=key_mask)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(st.integers(3, 12), st.integers(3, 12), st.integers(3, 12), st.integers(3, 70)),
    patch_size=st.integers(1, 3),
    topk=st.integers(1, 4),
    seed=st.integers(0, 1 << 30),
)
def test_ties_go_to_the_lowest_index(sizes, patch_size, topk, seed):
    """Key norms of 1 and 2 and integer values: scores are exact, ties abound, and index must equal the reference's."""
    torch.manual_seed(seed)
    query = torch.randint(-2, 3, (1, 2, *sizes[:2])).float()
    key = torch.zeros(1, 4, *sizes[2:])
    key.scatter_(1, torch.randint(0, 2, (1, 1, *sizes[2:])), 1.0)  # one-hot cells: every key patch has the same norm
    query = torch.cat([query, torch.zeros_like(query)], 1)
    index, *_ = reference.match(query.double(), key.double(), None, None, patch_size, topk)
    match = patchswap.match(query, key, patch_size=patch_size, topk=topk)
    assert torch.equal(match.index.view_as(index), index)


@pytest.mark.skipif(ops.extension is None, reason="the reference's matrix product may round equal columns differently")
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_patches_tie_bit_for_bit(device, dtype):
    """The key map repeats one texture at all alignments with tiles and vectors: the first copy must win."""
    period = 7
    texture = torch.randn(1, 19, period, period, device=device)
    key = texture.repeat(1, 1, 6, 45)[..., :301].to(dtype)
    query = torch.randn(1, 19, 9, 9, device=device).to(dtype)
    index = patchswap.match(query, key).index
    row, column = index // (key.shape[3] - 2), index % (key.shape[3] - 2)
    assert bool((row < period).all()) and bool((column < period).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("patch_size", range(1, 8))
def test_planted_patches_are_found(device, dtype, patch_size):
    key = torch.randn(2, 16, 12, 17, device=device).to(dtype)
    query = key.flip(0)[:, :, 3:10, 2:14]
    index = patchswap.match(query, key.flip(0), patch_size=patch_size).index
    rows = torch.arange(3, 3 + index.shape[1], device=device)[:, None]
    columns = torch.arange(2, 2 + index.shape[2], device=device)
    assert torch.equal(index, (rows * (17 - patch_size + 1) + columns).expand_as(index))


def test_score_is_the_full_correlation(device):
    features = torch.randn(1, 6, 8, 8, device=device) * 37
    match = patchswap.match(features, features)
    torch.testing.assert_close(match.score, torch.ones_like(match.score))
    match = patchswap.match(features, -features[:, :, :3, :3])
    assert float(match.score[0, 0, 0]) == pytest.approx(-1)


def test_zero_norm_patches(device):
    query, key = torch.randn(1, 3, 5, 5, device=device), -torch.ones(1, 3, 5, 5, device=device)
    query[:, :, :3, :3] = 0
    match = patchswap.match(query, key)
    assert int(match.index[0, 0, 0]) == 0 and float(match.score[0, 0, 0]) == 0
    key[:, :, 2:, 2:] = 0  # against queries of ones, the zero key beats the negative ones
    match = patchswap.match(torch.ones_like(query), key)
    assert bool((match.index == 8).all()) and bool((match.score == 0).all())


def test_negative_scores_beat_masked_keys(device):
    query, key = torch.ones(1, 2, 3, 3, device=device), -torch.rand(1, 2, 6, 6, device=device) - 0.1
    key_mask = torch.zeros(1, 4, 4, dtype=torch.bool, device=device)
    key_mask[0, 2, 3] = True
    match = patchswap.match(query, key, key_mask=key_mask)
    assert match.index.flatten().tolist() == [2 * 4 + 3] and float(match.score) < 0


def test_masks_are_per_sample(device):
    features = torch.randn(1, 4, 9, 9, device=device).expand(3, -1, -1, -1)
    key_mask = torch.zeros(3, 7, 7, dtype=torch.bool, device=device)
    for sample, position in enumerate((0, 30)):
        key_mask.view(3, -1)[sample, position] = True
    match = patchswap.match(features, features, key_mask=key_mask)
    assert [match.index[sample].unique().tolist() for sample in range(3)] == [[0], [30], [-1]]
    assert bool(torch.isneginf(match.score[2]).all())


@pytest.mark.parametrize(
    "layout",
    [lambda x: x.to(memory_format=torch.channels_last), lambda x: x.mT.contiguous().mT, lambda x: x[:, :, ::2]],
)
def test_non_contiguous(device, layout):
    query, key = layout(torch.randn(2, 5, 12, 10, device=device)), layout(torch.randn(2, 5, 14, 9, device=device))
    key_mask = (torch.rand(2, *reversed(contract.patch_grid(*key.shape[2:], 3)), device=device) < 0.5).mT
    match = patchswap.match(query, key, key_mask=key_mask)
    expected = patchswap.match(query.contiguous(), key.contiguous(), key_mask=key_mask.contiguous())
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 0, 8, 8), (2, 3, 2, 8), (2, 3, 8, 0)])
def test_empty(device, shape):
    features = torch.randn(shape, device=device)
    grid = contract.patch_grid(*shape[2:], 3)
    match = patchswap.match(features, features)
    assert match.index.shape == (shape[0], *grid)
    if shape[1] == 0:  # no channels: every patch has norm 0, and the first key wins
        assert bool((match.index == 0).all()) and bool((match.score == 0).all())
    match = patchswap.match(torch.randn(*shape[:2], 5, 5, device=device), features)
    if shape[1]:
        assert bool((match.index == -1).all()) and bool(torch.isneginf(match.score).all())


@pytest.mark.parametrize("scale", [1e-15, 1e-3, 1e3, 1e15])
def test_scale_does_not_change_the_choice(device, scale):
    query, key = torch.randn(1, 8, 9, 9, device=device), torch.randn(1, 8, 9, 9, device=device)
    match = patchswap.match(query * scale, key * scale)
    assert_match_close(match, query * scale, key * scale)


def test_the_check_of_a_match_refuses_what_is_no_key():
    features, query_mask = torch.randn(1, 3, 6, 6), torch.ones(1, 4, 4, dtype=torch.bool)
    query_mask[0, 0, 0] = False
    match = patchswap.match(features, features, query_mask=query_mask)
    assert_match_close(match, features, features, query_mask=query_mask)
    match.index[0, 0, 0] = -2
    with pytest.raises(AssertionError, match="index is neither -1 nor a key patch"):
        assert_match_close(match, features, features, query_mask=query_mask)

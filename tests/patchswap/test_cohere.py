from __future__ import annotations

import inspect
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import patchswap
from patchswap import contract, masks_from_hole, ops, reference

NEIGHBOURS = [(y, x) for y, x in product((-1, 0, 1), (-1, 0, 1)) if (y, x) != (0, 0)]
SIZES = [  # of query and key
    ((9, 11), (9, 11)),
    ((5, 5), (12, 6)),
    ((13, 5), (6, 17)),
    ((5, 20), (5, 5)),
]


def grid_of(features, patch_size):
    return contract.patch_grid(features.shape[2], features.shape[3], patch_size)


def make_index(query, key, patch_size, ranks=1, share=1.0):
    """Keys at random, -1 for some queries; equal offsets are as frequent as the shift of whole rows makes them."""
    rows, columns = grid_of(query, patch_size)
    key_rows, key_columns = grid_of(key, patch_size)
    shape = (query.shape[0], ranks, rows, columns)
    if key_rows == 0:
        return torch.full(shape, -1, device=query.device)
    row = torch.arange(rows)[:, None] + torch.randint(-2, 3, shape)
    column = torch.arange(columns) + torch.randint(-2, 3, shape)
    index = row.remainder(key_rows) * key_columns + column.remainder(key_columns)
    return torch.where(torch.rand(shape) < share, index, -1).to(query.device)


def make_mask(features, patch_size, share):
    return (torch.rand(features.shape[0], *grid_of(features, patch_size)) < share).to(features.device)


def one_hot(*shape):
    """Cells with a single 1: products of patches are whole numbers and all norms are equal, so ties are exact."""
    batch, channels, height, width = shape
    return torch.zeros(shape).scatter_(1, torch.randint(0, channels, (batch, 1, height, width)), 1.0)


def by_definition(index, query, key, query_mask, key_mask, weight, sweeps, patch_size, metric="ncc"):
    """The definition in the docstring, one query at a time; (index, score) of one sample in float64."""
    (ranks, rows, columns), (key_rows, key_columns) = index.shape, grid_of(key[None], patch_size)

    def is_key(place):
        inside = 0 <= place[0] < key_rows and 0 <= place[1] < key_columns
        return inside and (key_mask is None or bool(key_mask[place]))

    def score_of(at, to):
        left, right = (
            features[:, y : y + patch_size, x : x + patch_size].double().flatten()
            for features, (y, x) in ((query, at), (key, to))
        )
        if metric == "l2":
            return -float((left - right).square().sum())
        norms = left.norm() * right.norm() if metric == "ncc" else 1
        return float(left @ right / norms) if norms > 0 else 0.0

    offsets = {}
    for at in product(range(rows), range(columns)):
        own = []
        for rank in range(ranks):
            k = int(index[rank][at])
            place = divmod(k, key_columns) if k >= 0 else None
            own.append((place[0] - at[0], place[1] - at[1]) if place and is_key(place) else None)
        if own[0] is not None and (query_mask is None or query_mask[at]):
            offsets[at] = own
    for _ in range(sweeps if weight > 0 else 0):
        chosen = {}
        for at, own in offsets.items():
            around = [offsets[at[0] + y, at[1] + x] for y, x in NEIGHBOURS if (at[0] + y, at[1] + x) in offsets]
            best, best_value = None, 0.0
            for candidate in [*own, *(other[0] for other in around)]:
                if candidate is None or not is_key(to := (at[0] + candidate[0], at[1] + candidate[1])):
                    continue
                value = score_of(at, to) + weight * sum(candidate in other for other in around) / 8
                if best is None or value > best_value + 1e-12:
                    best, best_value = candidate, value
            chosen[at] = [best]
        offsets = chosen
    result = torch.full((rows, columns), -1)
    score = torch.full((rows, columns), -torch.inf, dtype=torch.float64)
    for at, own in offsets.items():
        to = (at[0] + own[0][0], at[1] + own[0][1])
        result[at], score[at] = to[0] * key_columns + to[1], score_of(at, to)
    return result, score


def assert_equal_to_reference(match, index, query, key, query_mask, key_mask, weight, sweeps, patch_size, metric="ncc"):
    arguments = (query_mask, key_mask, weight, sweeps, patch_size, metric)
    expected, score = reference.cohere(index, query.double(), key.double(), *arguments)
    assert torch.equal(match.index, expected)
    assert match.score.dtype == contract.accumulation_dtype(query.dtype)
    rtol, atol = (0, 2e-6) if metric == "ncc" else (1e-5, 1e-4)  # others are sums of any size
    torch.testing.assert_close(match.score.double(), score, rtol=rtol, atol=atol)


@pytest.mark.parametrize("features", [torch.randn, one_hot], ids=["random", "one hot"])
@pytest.mark.parametrize(("ranks", "patch_size"), [(1, 3), (3, 3), (2, 1), (1, 5)])
def test_reference_by_definition(features, ranks, patch_size):
    query, key = features(1, 3, 8, 9).double(), features(1, 3, 9, 7).double()
    index = make_index(query, key, patch_size, ranks, 0.8)
    masks = make_mask(query, patch_size, 0.9), make_mask(key, patch_size, 0.8)
    for sweeps in range(4):
        found, score = reference.cohere(index, query, key, *masks, 0.1, sweeps, patch_size)
        expected, expected_score = by_definition(
            index[0], query[0], key[0], masks[0][0], masks[1][0], 0.1, sweeps, patch_size
        )
        assert torch.equal(found[0], expected)
        torch.testing.assert_close(score[0], expected_score)


@pytest.mark.parametrize("metric", contract.METRICS)
@pytest.mark.parametrize("features", [torch.randn, one_hot], ids=["random", "one hot"])
@pytest.mark.parametrize(("ranks", "patch_size"), [(1, 3), (3, 2)])
def test_metrics_by_definition(device, features, ranks, patch_size, metric):
    query, key = features(1, 3, 8, 9), features(1, 3, 9, 7)
    index = make_index(query, key, patch_size, ranks, 0.8)
    masks = make_mask(query, patch_size, 0.9), make_mask(key, patch_size, 0.8)
    changed = 0
    for sweeps, weight in ((1, 0.1), (3, 4.0)):
        options = {"weight": weight, "sweeps": sweeps, "patch_size": patch_size, "metric": metric}
        expected, expected_score = by_definition(
            index[0], query[0], key[0], masks[0][0], masks[1][0], weight, sweeps, patch_size, metric
        )
        given = [each.to(device) for each in (index, query, key)]
        mine = dict(zip(("query_mask", "key_mask"), (mask.to(device) for mask in masks), strict=True))
        match = patchswap.cohere(*given, **mine, **options)
        assert torch.equal(match.index[0].cpu(), expected)
        torch.testing.assert_close(match.score[0].double().cpu(), expected_score, rtol=1e-5, atol=1e-5)
        changed += int((expected != index[0, 0]).sum())
    assert changed > 0


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_metrics_equal_the_reference(device, dtype, metric):
    query, key = (torch.randn(2, 37, *size, device=device).to(dtype) for size in SIZES[2])
    for ranks, sweeps, weight in ((1, 4, 30.0), (8, 1, 9.0)):
        index = make_index(query, key, 3, ranks, 0.9)
        arguments = (make_mask(query, 3, 0.9), make_mask(key, 3, 0.8), weight, sweeps, 3, metric)
        match = patchswap.Match(*ops.cohere(index, query, key, *arguments))
        assert_equal_to_reference(match, index, query, key, *arguments)


@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_metrics_of_what_is_not_finite(device, value, metric):
    query, key = torch.randn(1, 3, 10, 10, device=device), torch.randn(1, 3, 10, 10, device=device)
    index = make_index(query, key, 3)
    query[0, 0, 0, 0] = key[0, 1, 6, 6] = value
    found = ops.cohere(index, query, key, None, None, 3.0, 2, 3, metric)
    expected = reference.cohere(index, query, key, None, None, 3.0, 2, 3, metric)
    assert torch.equal(found[0], expected[0]) and bool(found[1].isnan().any())
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_copy_has_no_distance(device):
    features = torch.randn(1, 70, 9, 9, device=device)
    match = patchswap.cohere(
        patchswap.match(features, features, metric="l2"), features, features, weight=1, metric="l2"
    )
    assert torch.equal(match.index.flatten(), torch.arange(49, device=device))
    assert bool((match.score <= 0).all()) and float(match.score.min()) > -1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("patch_size", range(1, 8))
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equals_the_reference(device, size, patch_size, dtype):
    query, key = (torch.randn(2, 7, *each, device=device).to(dtype) for each in size)
    for ranks, share, sweeps, weight in ((1, 1.0, 6, 0.1), (1, 0.6, 3, 0.4), (3, 0.9, 2, 0.2), (8, 1.0, 1, 0.7)):
        index = make_index(query, key, patch_size, ranks, share)
        masks = (make_mask(query, patch_size, share), make_mask(key, patch_size, share)) if share < 1 else (None, None)
        match = patchswap.Match(*ops.cohere(index, query, key, *masks, weight, sweeps, patch_size))
        assert_equal_to_reference(match, index, query, key, *masks, weight, sweeps, patch_size)


@pytest.mark.parametrize("channels", [1, 2, 31, 33, 64, 100, 513, 2000])
def test_any_number_of_channels(device, channels):
    query, key = torch.randn(1, channels, 8, 9, device=device), torch.randn(1, channels, 7, 10, device=device)
    index = make_index(query, key, 3)
    match = patchswap.cohere(index, query, key, weight=0.1)
    assert_equal_to_reference(match, index, query, key, None, None, 0.1, 6, 3)


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.integers(1, 14)] * 4),
    st.integers(1, 7),
    st.integers(1, 4),
    st.sampled_from([0.05, 0.3, 0.8, 1.0]),
    st.integers(0, 7),
    st.integers(0, 9999),
)
def test_any_size_with_ties(size, patch_size, ranks, share, sweeps, seed):
    """Weights below one cell's product: a value tells how many cells fit, and how many neighbours agree."""
    torch.manual_seed(seed)
    query, key = one_hot(2, 3, *size[:2]), one_hot(2, 3, *size[2:])
    index = make_index(query, key, patch_size, ranks, share)
    masks = make_mask(query, patch_size, share), make_mask(key, patch_size, share)
    weight = 0.9 / patch_size**2
    match = patchswap.Match(*ops.cohere(index, query, key, *masks, weight, sweeps, patch_size))
    assert_equal_to_reference(match, index, query, key, *masks, weight, sweeps, patch_size)


def test_ties_go_to_its_own_offset_then_to_the_first_neighbour(device):
    features = torch.ones(1, 1, 1, 9, device=device)  # all correlations are 1
    index = torch.full((1, 1, 9), -1, device=device)
    index[0, 0, 2:5] = torch.tensor([3, 5, 6], device=device)  # offsets 1, 2, 2
    match = patchswap.cohere(index, features, features, weight=0.1, patch_size=1, sweeps=1)
    assert match.index[0, 0, 2:5].tolist() == [4, 5, 6]  # the left one follows its only neighbour
    index[0, 0, 2:5] = torch.tensor([3, 6, 6], device=device)  # offsets 1, 3, 2: in the middle a tie of two neighbours
    match = patchswap.cohere(index, features, features, weight=0.1, patch_size=1, sweeps=1)
    assert match.index[0, 0, 2:5].tolist() == [5, 4, 7]  # all prefer a neighbour's, the middle one the first of two
    index[0, 0, 2:5] = torch.tensor([3, 3, 6], device=device)  # offsets 1, 0, 2
    match = patchswap.cohere(index, features, features, weight=1e-9, patch_size=1, sweeps=1)
    assert match.index[0, 0, 2:5].tolist() == [3, 3, 6]  # 1 + 1e-9 / 8 is 1 in float32: a tie with their own


def test_second_choices_that_agree(device):
    """Every query has offset 1 as its second key; first keys have unrelated offsets."""
    features = torch.ones(1, 1, 1, 20, device=device)
    first = torch.tensor([5, 9, 3, 16, 8], device=device)
    ranks = torch.full((1, 2, 1, 20), -1, device=device)
    ranks[0, 0, 0, 2:7], ranks[0, 1, 0, 2:7] = first, torch.arange(3, 8, device=device)
    match = patchswap.cohere(ranks, features, features, weight=0.1, patch_size=1, sweeps=1)
    # At the ends the neighbour's first offset has as much support, one, as the own second: the own goes first.
    assert match.index[0, 0, 2:7].tolist() == [3, 4, 5, 6, 7]
    alone = patchswap.cohere(ranks[:, 0], features, features, weight=0.1, patch_size=1, sweeps=1)
    assert alone.index[0, 0, 2:7].tolist() != [3, 4, 5, 6, 7]


def test_planted_copy_becomes_one_region(device):
    """The query is a part of the key, noisy enough that the arg-max is scattered."""
    key = torch.randn(1, 8, 30, 34, device=device)
    query = key[:, :, 7:21, 11:29] + 0.7 * torch.randn(1, 8, 14, 18, device=device)
    match = patchswap.match(query, key, patch_size=1)
    true = (torch.arange(14)[:, None] + 7) * 34 + torch.arange(18) + 11
    right = (match.index.cpu() == true).float().mean()
    coherent = patchswap.cohere(match, query, key, weight=0.8, patch_size=1, sweeps=20)
    assert right < 0.8 and (coherent.index.cpu() == true).float().mean() > 0.98


@pytest.mark.parametrize("kind", [torch.randn, one_hot], ids=["random", "one hot"])
def test_without_weight_or_sweeps_the_match_stays(device, kind):
    query, key = kind(2, 5, 12, 9).to(device), kind(2, 5, 8, 14).to(device)
    masks = {"query_mask": make_mask(query, 3, 0.6), "key_mask": make_mask(key, 3, 0.5)}
    match = patchswap.match(query, key, **masks)
    for options in ({"weight": 0.0}, {"weight": 0.3, "sweeps": 0}):
        coherent = patchswap.cohere(match, query, key, **options, **masks)
        assert torch.equal(coherent.index, match.index)
        torch.testing.assert_close(coherent.score, match.score, rtol=0, atol=1e-6)
    scattered = make_index(query, key, 3)[:, 0]
    assert torch.equal(patchswap.cohere(scattered, query, key, weight=0.0).index, scattered)


def test_sweeps_follow_each_other(device):
    """What is kept from sweep to sweep makes no difference."""
    query, key = torch.randn(1, 3, 30, 25, device=device), torch.randn(1, 3, 28, 31, device=device)
    index = make_index(query, key, 3)[:, 0]
    stepwise = index
    for sweeps in range(1, 9):
        stepwise = patchswap.cohere(stepwise, query, key, weight=0.3, sweeps=1).index
        together = patchswap.cohere(index, query, key, weight=0.3, sweeps=sweeps)
        assert torch.equal(together.index, stepwise)


def test_where_all_agree_nothing_changes(device):
    query, key = torch.randn(1, 3, 12, 10, device=device), torch.randn(1, 3, 14, 13, device=device)
    index = ((torch.arange(10)[:, None] + 2) * 11 + torch.arange(8) + 1)[None].to(device)
    assert torch.equal(patchswap.cohere(index, query, key, weight=2.0, sweeps=1000).index, index)


def test_neighbours_may_exchange_their_offsets_for_ever(device):
    features = torch.ones(1, 1, 1, 9, device=device)
    index = torch.full((1, 1, 9), -1, device=device)
    index[0, 0, 3:5] = torch.tensor([4, 6], device=device)  # offsets 1 and 2, each with more support at the other
    for sweeps, expected in ((1, [5, 5]), (2, [4, 6]), (51, [5, 5])):
        match = patchswap.cohere(index, features, features, weight=0.1, patch_size=1, sweeps=sweeps)
        assert match.index[0, 0, 3:5].tolist() == expected


def test_match_and_index_and_ranks(device):
    query, key = torch.randn(2, 3, 9, 9, device=device), torch.randn(2, 3, 9, 9, device=device)
    match = patchswap.match(query, key)
    expected = patchswap.cohere(match, query, key, weight=0.2)
    for same in (match.index, match.index[:, None]):
        assert torch.equal(patchswap.cohere(same, query, key, weight=0.2).index, expected.index)
    assert expected.index.shape == expected.score.shape == (2, 7, 7)
    ranks = patchswap.match(query, key, topk=4)
    coherent = patchswap.cohere(ranks, query, key, weight=0.2)
    assert_equal_to_reference(coherent, ranks.index, query, key, None, None, 0.2, 6, 3)


def test_masks(device):
    query, key = torch.randn(1, 3, 10, 12, device=device), torch.randn(1, 3, 11, 9, device=device)
    index = make_index(query, key, 3, share=0.8)[:, 0]
    query_mask, key_mask = make_mask(query, 3, 0.7), make_mask(key, 3, 0.7)
    match = patchswap.cohere(index, query, key, weight=0.3, query_mask=query_mask, key_mask=key_mask)
    has_key = query_mask & (index >= 0) & key_mask.flatten()[index.clamp(min=0)]
    assert torch.equal(match.index >= 0, has_key)
    assert bool(key_mask.flatten()[match.index[has_key]].all())
    assert bool((match.score[~has_key] == -torch.inf).all())
    blank = index.masked_fill(~has_key, -1)
    assert torch.equal(patchswap.cohere(blank, query, key, weight=0.3, key_mask=key_mask).index, match.index)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 2, 8), (2, 3, 0, 0)], ids=str)
def test_no_queries(device, shape):
    query, key = torch.randn(shape, device=device), torch.randn(shape[0], 3, 8, 9, device=device)
    index = torch.full((shape[0], *grid_of(query, 3)), -1, device=device)
    match = patchswap.cohere(index, query, key, weight=0.1)
    assert match.index.shape == match.score.shape == index.shape


@pytest.mark.parametrize("size", [(2, 9), (0, 0)], ids=str)
def test_no_keys(device, size):
    query, key = torch.randn(1, 3, 6, 7, device=device), torch.randn(1, 3, *size, device=device)
    index = torch.full((1, 4, 5), -1, device=device)
    match = patchswap.cohere(index, query, key, weight=0.1)
    assert bool((match.index == -1).all()) and bool((match.score == -torch.inf).all())


def test_no_channels(device):
    features = torch.randn(1, 0, 6, 7, device=device)
    index = make_index(features, features, 3)[:, 0]
    match = patchswap.cohere(index, features, features, weight=0.1)
    expected = reference.cohere(index, features, features, None, None, 0.1, 6, 3)
    assert torch.equal(match.index, expected[0]) and bool((match.score == 0).all())


def test_zero_patches_correlate_with_nothing(device):
    query, key = torch.randn(1, 3, 9, 9, device=device), torch.randn(1, 3, 9, 9, device=device)
    query[..., :4], key[..., 5:, :] = 0, 0
    index = make_index(query, key, 3)[:, 0]
    match = patchswap.cohere(index, query, key, weight=0.1)
    assert_equal_to_reference(match, index, query, key, None, None, 0.1, 6, 3)
    assert bool((match.score[..., :2] == 0).all())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_not_finite(device, value):
    """Keys that are not finite are not taken; whoever has one keeps it, as do queries that are not finite."""
    query, key = torch.randn(1, 3, 12, 12, device=device), torch.randn(1, 3, 12, 12, device=device)
    index = make_index(query, key, 3)[:, 0]
    query[0, 0, 0, 0] = key[0, 1, 6, 6] = value
    match = patchswap.cohere(index, query, key, weight=0.3)
    expected, score = reference.cohere(index, query, key, None, None, 0.3, 6, 3)
    assert torch.equal(match.index, expected)
    torch.testing.assert_close(match.score, score, rtol=0, atol=2e-6, equal_nan=True)
    broken = torch.zeros(10, 10, dtype=torch.bool, device=device)
    broken[4:7, 4:7] = True
    taken = broken.flatten()[match.index]
    taken[0, 0, 0] = True
    assert torch.equal(taken, match.score.isnan())
    assert torch.equal(match.index[taken], index[taken])


def test_strides_make_no_difference(device):
    query, key = torch.randn(2, 6, 11, 13, device=device), torch.randn(2, 6, 12, 9, device=device)
    index = make_index(query, key, 3)[:, 0]
    key_mask = make_mask(key, 3, 0.8)
    expected = patchswap.cohere(index, query, key, weight=0.3, key_mask=key_mask)
    wide = torch.zeros(2, 9, 30, 40, device=device)
    for layout in (torch.contiguous_format, torch.channels_last):
        part = wide.contiguous(memory_format=layout)[:, 1:7, 2:24:2, 5:31:2]
        part.copy_(query)
        last = key.contiguous(memory_format=layout)
        match = patchswap.cohere(index.mT.contiguous().mT, part, last, weight=0.3, key_mask=key_mask.mT.clone().mT)
        assert all(torch.equal(a, b) for a, b in zip(match, expected, strict=True))
        tall = torch.zeros(2, 6, 20, 13, device=device).contiguous(memory_format=layout)
        tall[:, :, 4:15] = query
        match = patchswap.cohere(index, tall[:, :, 4:15], last, weight=0.3, key_mask=key_mask)
        assert all(torch.equal(a, b) for a, b in zip(match, expected, strict=True))
    same = query[:1, :1].expand(2, 6, -1, -1)
    match = patchswap.cohere(index, same, key, weight=0.3)
    expected = patchswap.cohere(index, same.contiguous(), key, weight=0.3)
    assert all(torch.equal(a, b) for a, b in zip(match, expected, strict=True))


def test_one_map_for_both(device):
    features = torch.randn(2, 6, 11, 13, device=device)
    hole = torch.zeros(2, 11, 13, dtype=torch.bool, device=device)
    hole[:, 3:8, 4:10] = True
    query_mask, key_mask = masks_from_hole(hole, 3, 0)
    masks = {"query_mask": query_mask, "key_mask": key_mask}
    for layout in (torch.contiguous_format, torch.channels_last):
        features = features.contiguous(memory_format=layout)
        match = patchswap.match(features, features, **masks)
        once = patchswap.cohere(match, features, features, weight=0.3, **masks)
        twice = patchswap.cohere(match, features, features.clone(), weight=0.3, **masks)
        assert all(torch.equal(a, b) for a, b in zip(once, twice, strict=True))
    flipped = patchswap.cohere(match, features, features.flip(3), weight=0.3, **masks)
    assert_equal_to_reference(flipped, match.index, features, features.flip(3), query_mask, key_mask, 0.3, 6, 3)


def test_a_batch_is_its_samples(device):
    query, key = torch.randn(3, 40, 12, 11, device=device), torch.randn(3, 40, 9, 13, device=device)
    index = make_index(query, key, 3, 2, 0.8)
    key_mask = make_mask(key, 3, 0.6)
    together = patchswap.cohere(index, query, key, weight=0.2, key_mask=key_mask)
    for sample in range(3):
        parts = (tensor[sample : sample + 1] for tensor in (index, query, key))
        alone = patchswap.cohere(*parts, weight=0.2, key_mask=key_mask[sample : sample + 1])
        assert torch.equal(alone.index[0], together.index[sample])
        assert torch.equal(alone.score[0], together.score[sample])


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
def test_the_number_of_threads_makes_no_difference():
    query, key = one_hot(2, 64, 40, 50), one_hot(2, 64, 30, 60)
    index = make_index(query, key, 3)
    before = torch.get_num_threads()
    expected = patchswap.cohere(index, query, key, weight=0.1)
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            match = patchswap.cohere(index, query, key, weight=0.1)
            assert all(torch.equal(a, b) for a, b in zip(match, expected, strict=True))
    finally:
        torch.set_num_threads(before)


def test_leaves_its_arguments_alone(device):
    query, key = torch.randn(1, 3, 9, 9, device=device), torch.randn(1, 3, 9, 9, device=device)
    index = make_index(query, key, 3)[:, 0]
    before = [tensor.clone() for tensor in (index, query, key)]
    patchswap.cohere(index, query, key, weight=0.3)
    assert all(torch.equal(a, b) for a, b in zip(before, (index, query, key), strict=True))


def test_constants_to_autograd(device):
    query = torch.randn(1, 3, 9, 9, device=device, requires_grad=True)
    match = patchswap.cohere(make_index(query, query, 3)[:, 0], query, query, weight=0.3)
    assert not match.index.requires_grad and not match.score.requires_grad


@pytest.mark.parametrize("key_margin", [0, 1])
def test_swap_with_coherence(device, key_margin):
    features = torch.randn(2, 5, 14, 13, device=device, requires_grad=True)
    hole = torch.zeros(2, 14, 13, dtype=torch.bool, device=device)
    hole[0, 3:9, 4:10] = hole[1, 8:, 7:] = True
    options = {"hole": hole, "key_margin": key_margin, "return_match": True}
    plain, match = patchswap.swap(features, **options)
    result, coherent = patchswap.swap(features, coherence=0.3, sweeps=4, **options)
    query_mask, key_mask = masks_from_hole(hole, 3, key_margin)
    masks = {"query_mask": query_mask, "key_mask": key_mask}
    expected = patchswap.cohere(match, features, features, weight=0.3, sweeps=4, **masks)
    assert torch.equal(coherent.index, expected.index) and not torch.equal(coherent.index, match.index)
    filled = patchswap.fold(expected.index, features, output_size=(14, 13), base=features)
    assert torch.equal(result, torch.where(hole[:, None], filled, features))
    (gradient,) = torch.autograd.grad(result.square().sum(), features)
    assert bool(gradient.isfinite().all())
    zero = patchswap.swap(features, coherence=0.0, **options)
    assert torch.equal(zero[0], plain) and torch.equal(zero[1].score, match.score)


def test_swap_with_a_style_and_coherence(device):
    content, style = torch.randn(2, 4, 9, 10, device=device), torch.randn(2, 4, 12, 7, device=device)
    result, match = patchswap.swap(content, style, coherence=0.4, return_match=True)
    expected = patchswap.cohere(patchswap.match(content, style), content, style, weight=0.4)
    assert torch.equal(match.index, expected.index)
    torch.testing.assert_close(result, patchswap.fold(match.index, style, output_size=(9, 10)))


def test_sweeps_have_one_default():
    defaults = {
        inspect.signature(function).parameters["sweeps"].default for function in (patchswap.cohere, patchswap.swap)
    }
    assert defaults == {6}


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_compiles(device, dynamic):
    def choose(index, query, key):
        return patchswap.cohere(index, query * 2, key, weight=0.3)

    compiled = torch.compile(choose, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for size in ((9, 10), (12, 7)):
        query, key = torch.randn(2, 3, *size, device=device), torch.randn(2, 3, 8, 8, device=device)
        index = make_index(query, key, 3)
        assert all(
            torch.equal(a, b) for a, b in zip(compiled(index, query, key), choose(index, query, key), strict=True)
        )


@pytest.mark.gpu
def test_beyond_the_last_key_counts_as_none():
    query, key = torch.randn(1, 3, 9, 9).cuda(), torch.randn(1, 3, 8, 7).cuda()
    index = make_index(query, key, 3)[:, 0]
    beyond = index.clone()
    beyond[:, 2, 1:4] = torch.tensor([30, 1 << 40, -5], device="cuda")
    index[:, 2, 1:4] = -1
    found, expected = (patchswap.cohere(each, query, key, weight=0.3) for each in (beyond, index))
    assert torch.equal(found.index, expected.index) and torch.equal(found.score, expected.score)


@pytest.mark.gpu
def test_in_a_cuda_graph():
    query, key = torch.randn(2, 20, 30, 31).cuda(), torch.randn(2, 20, 28, 40).cuda()
    index = make_index(query, key, 3, 2)
    patchswap.cohere(index, query, key, weight=0.3)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        match = patchswap.cohere(index, query, key, weight=0.3)
    for _ in range(3):
        query.copy_(torch.randn_like(query))
        index.copy_(index.roll(1, dims=3))
        graph.replay()
        expected = patchswap.cohere(index, query, key, weight=0.3)
        assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)


@pytest.mark.gpu
def test_runs_on_the_current_stream():
    """The features are written on a side stream after a long wait: a kernel on another stream would read zeros."""
    features = torch.randn(1, 64, 60, 60).cuda()
    index = make_index(features, features, 3)
    expected = patchswap.cohere(index, features, features, weight=0.3)
    late, stream = torch.zeros_like(features), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(features)
        match = patchswap.cohere(index, late, late, weight=0.3)
    stream.synchronize()
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)

"""The pruned search finds what the dense search finds, bit for bit, whatever the features are like."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchswap import contract, ops

pytestmark = pytest.mark.skipif(ops.extension is None, reason="the extension is not built")


def search(method, query, key, query_mask=None, key_mask=None, patch_size=3, topk=1):
    return ops.match(query, key, query_mask, key_mask, patch_size, topk, method=method)


def assert_same(query, key, query_mask=None, key_mask=None, patch_size=3, topk=1):
    """Returns tally: pairs scored in full, queries left to the dense search."""
    index, score, _ = search("dense", query, key, query_mask, key_mask, patch_size, topk)
    pruned_index, pruned_score, tally = search("pruned", query, key, query_mask, key_mask, patch_size, topk)
    assert torch.equal(pruned_index, index)
    assert torch.equal(pruned_score, score)
    return tally.tolist()


def natural(batch, channels, height, width, rank=8, noise=0.05):
    """Features whose energy lies along few axes, smooth over the map, like those of a photograph."""
    rank = min(rank, channels)
    coarse = torch.randn(batch, rank, height // 3 + 2, width // 3 + 2)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    mixed = torch.einsum("cr,brhw->bchw", torch.randn(channels, rank), smooth)
    return (mixed + noise * torch.randn(batch, channels, height, width)).relu()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 24)] * 4),
    channels=st.integers(1, 40),
    batch=st.integers(1, 2),
    patch_size=st.integers(1, 7),
    topk=st.integers(1, 8),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    scale=st.sampled_from([1.0, 1e-4, 1e4]),
    noise=st.sampled_from([0.0, 0.05, 1.0]),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape(sizes, channels, batch, patch_size, topk, share, scale, noise, seed):
    torch.manual_seed(seed)
    query = natural(batch, channels, *sizes[:2], noise=noise) * scale
    key = natural(batch, channels, *sizes[2:], noise=noise)
    query_mask = torch.rand(batch, *contract.patch_grid(*sizes[:2], patch_size)) < share
    key_mask = torch.rand(batch, *contract.patch_grid(*sizes[2:], patch_size)) < share
    assert_same(query, key, query_mask, key_mask, patch_size, topk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_most_pairs_are_pruned(dtype, layout):
    features = natural(2, 64, 40, 150).to(dtype).to(memory_format=layout)
    hole = torch.zeros(2, 38, 148, dtype=torch.bool)
    hole[0, 10:20, 50:70] = hole[1, 5:30, 100:110] = True
    pairs = int(sum(mask.sum() * (~mask).sum() for mask in hole))
    rescored, left = assert_same(features, features, hole, ~hole)
    assert 0 < rescored < pairs // 10 and left == 0


def test_seeds_of_all_keys_come_before_the_search():
    """Keys that are packed in several chunks: the good ones, in the last chunk, rule out the others from the start."""
    torch.manual_seed(0)
    key = natural(1, 192, 200, 200, rank=64, noise=0.2)
    query = key[:, :, 170:190, 170:190] + 0.05 * torch.randn(1, 192, 20, 20)
    scored, left = assert_same(query, key)
    assert scored < 20 * 18 * 18 and left == 0


def test_near_ties_and_duplicates():
    """One texture over and over, with differences in the last bits: only the full ranking can tell them apart."""
    texture = natural(1, 32, 7, 7).repeat(1, 1, 5, 12)
    nudged = texture * (1 + 2e-7 * torch.randn_like(texture))
    for key in (texture, nudged):
        assert_same(natural(1, 32, 9, 9), key)
        assert_same(key[..., :9, :9], key, topk=5)


def test_constant_maps():
    for key in (torch.ones(1, 16, 12, 40), torch.zeros(1, 16, 12, 40)):
        assert_same(torch.rand(1, 16, 8, 8), key)
        assert_same(key, torch.rand(1, 16, 8, 8), topk=3)
        assert_same(key, key)


def test_one_dominant_channel():
    query, key = natural(1, 32, 12, 12), natural(1, 32, 14, 40)
    for factor in (1e3, 1e6):
        query[:, 5] *= factor
        key[:, 5] *= factor
        assert_same(query, key)


@pytest.mark.parametrize("query_scale", [1e-21, 1e-18, 1e-9, 1e9, 1e16])
@pytest.mark.parametrize("key_scale", [1e-40, 1e-18, 1.0, 1e16])
def test_huge_and_tiny_magnitudes(query_scale, key_scale):
    """Down to denormals, and to patches whose squared norm counts as zero."""
    assert_same(natural(1, 16, 9, 9) * query_scale, natural(1, 16, 9, 30) * key_scale)


def test_outliers_and_zeros():
    query, key = natural(1, 32, 12, 12), natural(1, 32, 14, 40)
    key[:, :, 3, 7] *= 1e8
    key[:, :, 8:12, 10:30] = 0
    query[:, :, 2, 2] *= 1e12
    query[:, :, 5:9, 5:9] = 0
    query[:, :, 10, 10] *= 1e-10
    assert_same(query, key)
    assert_same(query, key, topk=4)
    assert_same(-query, key)


def test_one_outlier_among_zeros():
    key = torch.zeros(1, 8, 10, 30)
    key[:, :, 4, 20] = torch.randn(8)
    assert_same(torch.randn(1, 8, 9, 9), key)
    assert_same(key, torch.randn(1, 8, 9, 9))


def test_first_channels_are_zero():
    """Fewer directions than axes, in the last channels: the axes that are missing lie along the first ones."""
    query, key = torch.zeros(2, 1, 128, 24, 24)
    for features in (query, key):
        features[:, 48:].uniform_()
    assert_same(query, key)


@pytest.mark.parametrize("smallest", [1e-38, 1e-34])
def test_every_sampled_query_is_tiny(smallest):
    """Of the 1,600 queries every fourth is sampled: the step is far below the others' norms."""
    query, key = torch.full((1, 64, 40, 40), smallest), torch.randn(1, 64, 40, 40)
    query[..., 1::4] = torch.randn(1, 64, 40, 10)
    assert_same(query, key, patch_size=1)


def test_noise_is_left_to_the_dense_search():
    """White noise has no leading axes: the bound rules out nothing."""
    query, key = torch.randn(1, 64, 12, 12), torch.randn(1, 64, 40, 60)
    _, left = assert_same(query, key)
    assert left > 0


def test_pruning_that_does_not_pay_is_abandoned():
    """Large enough for the automatic choice to try it, on machines where it does try."""
    features = torch.randn(1, 64, 85, 85)
    index, score, _ = search("dense", features, features.flip(3))
    auto_index, auto_score, tally = search("auto", features, features.flip(3))
    assert torch.equal(auto_index, index) and torch.equal(auto_score, score)
    assert int(tally[1]) in (0, 83 * 83)


def test_automatic_choice_expects_what_clipping_loses():
    """Few cells reach far beyond the rest along all axes, so that their integers are clipped and rule out little."""
    directions, number = torch.randn(8, 128), 96 * 96

    def cells():
        near = torch.rand(number, 8) @ directions + 0.2 * torch.randn(number, 128)
        far = (torch.rand(number, 1) < 0.15) * 4 * torch.randn(number, 128)
        return (near + far).T.reshape(1, 128, 96, 96).contiguous()

    query, key = cells(), cells()
    _, _, pruned = search("pruned", query, key, patch_size=1)
    assert int(pruned[0]) > 0.02 * number * number  # more full scores than pay
    _, _, automatic = search("auto", query, key, patch_size=1)
    assert int(automatic[0]) == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(threads):
    query, key = natural(1, 32, 20, 70), natural(1, 32, 25, 150)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert_same(query, key, topk=2)
    finally:
        torch.set_num_threads(before)


def test_float64_is_refused():
    features = torch.rand(1, 4, 8, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"):
        search("pruned", features, features)


def test_more_terms_than_the_bound_allows():
    query, key = torch.randn(2, 1, 160_000, 3, 4)
    assert assert_same(query, key, patch_size=1) == [0, 12]

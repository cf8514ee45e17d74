"""match by other metrics than normalised cross-correlation, and with a weight for each key."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional as F

import patchswap
from patchswap import contract, ops
from patchswap.testing import assert_match_close

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
OTHERS = [("l2", False), ("dot", False), ("ncc", True), ("l2", True), ("dot", True)]


def random_mask(batch, size, patch_size, share):
    return torch.rand(batch, *contract.patch_grid(*size, patch_size)) < share


def random_weight(batch, size, patch_size, dtype=torch.float32):
    return torch.rand(batch, *contract.patch_grid(*size, patch_size), dtype=contract.accumulation_dtype(dtype)) + 0.1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("metric", "is_weighted"), OTHERS)
@pytest.mark.parametrize("patch_size", [1, 2, 3, 7])
@pytest.mark.parametrize(("query_size", "key_size", "channels"), [((9, 12), (8, 15), 4), ((70, 8), (7, 71), 2)])
def test_matches_the_float64_reference(device, dtype, metric, is_weighted, patch_size, query_size, key_size, channels):
    query = (3 * torch.randn(2, channels, *query_size, device=device)).to(dtype)
    key = (torch.randn(2, channels, *key_size, device=device) + 1).to(dtype)
    weight = random_weight(2, key_size, patch_size, dtype).to(device) if is_weighted else None
    arguments = {"patch_size": patch_size, "metric": metric, "key_weight": weight}
    match = patchswap.match(query, key, **arguments, topk=3)
    assert match.score.dtype == contract.accumulation_dtype(dtype)
    assert_match_close(match, query, key, **arguments)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 24)] * 4),
    channels=st.integers(0, 5),
    batch=st.integers(0, 3),
    patch_size=st.integers(1, 7),
    topk=st.integers(1, 8),
    share=st.sampled_from([0.05, 0.5, 1.0]),
    case=st.sampled_from(OTHERS),
    seed=st.integers(0, 1 << 30),
)
def test_any_shape(sizes, channels, batch, patch_size, topk, share, case, seed):
    torch.manual_seed(seed)
    query, key = torch.randn(batch, channels, *sizes[:2]), torch.randn(batch, channels, *sizes[2:])
    arguments = {
        "patch_size": patch_size,
        "query_mask": random_mask(batch, sizes[:2], patch_size, share),
        "key_mask": random_mask(batch, sizes[2:], patch_size, share),
        "metric": case[0],
        "key_weight": random_weight(batch, sizes[2:], patch_size) if case[1] else None,
    }
    assert_match_close(patchswap.match(query, key, **arguments, topk=topk), query, key, **arguments)


@pytest.mark.parametrize(("metric", "is_weighted"), OTHERS)
@pytest.mark.parametrize("patch_size", [1, 2, 3, 4])
def test_ties_go_to_the_lowest_index(device, metric, is_weighted, patch_size):
    """Small integers and weights of 1 and 2: products and squares are exact, and index must equal that of a sort."""
    query, key = (torch.randint(-2, 3, (1, 2, *size)).double() for size in ((9, 11), (12, 8)))
    if metric == "ncc":
        key = key.sign() + (key == 0)  # all of one norm
    weight = torch.randint(1, 3, (1, *contract.patch_grid(12, 8, patch_size))).float() if is_weighted else None
    queries, keys = (F.unfold(each, patch_size)[0].T for each in (query, key))
    scores = queries @ keys.T
    if metric == "l2":
        scores = 2 * scores - queries.square().sum(1, keepdim=True) - keys.square().sum(1)
    scores = scores if weight is None else scores * weight.flatten()
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :4].T
    weight = None if weight is None else weight.to(device)
    arguments = {"patch_size": patch_size, "metric": metric, "key_weight": weight, "topk": 4}
    index = patchswap.match(query.float().to(device), key.float().to(device), **arguments).index
    assert torch.equal(index.flatten(2)[0].cpu(), expected)


@pytest.mark.skipif(ops.extension is None, reason="the reference's matrix product may round equal columns differently")
@pytest.mark.parametrize("metric", ["l2", "dot"])
@pytest.mark.parametrize("patch_size", [1, 3, 4])
def test_equal_patches_tie_bit_for_bit(device, metric, patch_size):
    period = 7
    key = torch.randn(1, 19, period, period, device=device).repeat(1, 1, 6, 20)[..., :131]
    query = torch.randn(1, 19, 9, 9, device=device)
    index = patchswap.match(query, key, metric=metric, patch_size=patch_size).index
    columns = 131 - patch_size + 1
    assert bool((index // columns < period).all()) and bool((index % columns < period).all())


@pytest.mark.parametrize("patch_size", [1, 3, 7])
def test_the_nearest_patch(device, patch_size):
    """A key's own patches are found at a distance of 0, which the score never exceeds."""
    key = torch.rand(1, 3, 20, 23, device=device)
    match = patchswap.match(key[:, :, 4:16, 5:20], key, patch_size=patch_size, metric="l2")
    rows, columns = (torch.arange(match.index.shape[i], device=device) for i in (1, 2))
    assert torch.equal(match.index[0], (rows[:, None] + 4) * (23 - patch_size + 1) + columns + 5)
    assert bool((match.score <= 0).all()) and float(match.score.min()) > -1e-6 * 3 * patch_size**2


@pytest.mark.parametrize(("metric", "score"), [("l2", -27.0), ("dot", 0.0)])
def test_zero_patches(device, metric, score):
    """No norm is divided by: a patch of zeros has the distance and the product that it has."""
    query, key = torch.zeros(1, 3, 4, 5, device=device), torch.ones(1, 3, 5, 4, device=device)
    match = patchswap.match(query, key, metric=metric)
    assert bool((match.index == 0).all()) and bool((match.score == score).all())


def test_a_weight_of_one_changes_no_bit(device):
    query, key = torch.randn(2, 8, 20, 21, device=device), torch.randn(2, 8, 17, 40, device=device)
    for metric in contract.METRICS:
        plain = patchswap.match(query, key, metric=metric, topk=2)
        weighted = patchswap.match(query, key, metric=metric, topk=2, key_weight=torch.ones(1, 15, 38, device=device))
        assert torch.equal(plain.index, weighted.index) and torch.equal(plain.score, weighted.score)


def test_completeness(device):
    """GPNN: a key that is far from all queries is taken in place of a nearer one of which others make use."""
    query = torch.tensor([0.0, 1.0, 2.0], device=device).view(1, 1, 1, 3)
    key = torch.tensor([0.9, 4.0], device=device).view(1, 1, 1, 2)
    nearest = patchswap.match(key, query, patch_size=1, metric="l2")
    weight = 1 / (0.01 - nearest.score)
    index = [
        patchswap.match(query, key, patch_size=1, metric="l2", key_weight=given).index.flatten().tolist()
        for given in (None, weight)
    ]
    assert index == [[0, 0, 0], [1, 0, 1]]


def test_scores_out_of_range(device):
    """A score beyond the smallest number is none: the key that is left is taken, or no key."""
    query, key = torch.full((1, 1, 1, 1), 1.5e19, device=device), torch.full((1, 1, 1, 2), -1.5e19, device=device)
    key[..., 1] = 1e19
    match = patchswap.match(query, key, patch_size=1, metric="l2", topk=2)
    assert match.index.flatten().tolist() == [1, -1]
    assert match.score.flatten().tolist() == [pytest.approx(-0.25e38, rel=1e-5), -torch.inf]


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
def test_the_search_by_bounds_declines():
    features = torch.rand(1, 128, 100, 100)
    weight = torch.ones(1, 98, 98)
    for arguments, words in (
        ({"metric": "l2"}, 'metric is "l2"'),
        ({"metric": "dot"}, 'metric is "dot"'),
        ({"key_weight": weight}, "key_weight is given"),
    ):
        explanation = patchswap.explain(features, features, **arguments)
        assert explanation.kernel == "dense" and explanation.reason.endswith(words)
        for function in (patchswap.match, patchswap.explain):
            with pytest.raises(RuntimeError, match=f'"pruned" takes metric "ncc" without key_weight; {words}'):
                function(features, features, method="pruned", **arguments)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weights_out_of_range(device, weight):
    """An error on the CPU; on CUDA such a key is never chosen."""
    query, given = torch.rand(1, 2, 5, 6, device=device), torch.ones(1, 3, 4, device=device)
    given[0, 1, 2] = weight
    if device == "cpu":
        with pytest.raises((RuntimeError, ValueError), match="key_weight must be finite and 0 or more; got"):
            patchswap.match(query, query, key_weight=given)
    else:
        index = patchswap.match(query, query, key_weight=given).index
        assert bool((index != 6).all()) and bool((index >= 0).all())


def test_swap(device):
    content, style = torch.rand(2, 3, 14, 15, device=device), torch.rand(1, 3, 12, 13, device=device)
    weight = torch.rand(1, 6, 7, device=device) + 0.1
    arguments = {"patch_size": 7, "metric": "l2", "key_weight": weight}
    result, match = patchswap.swap(content, style, **arguments, return_match=True)
    assert torch.equal(result, patchswap.fold(match, style.expand(2, -1, -1, -1)))
    assert_match_close(match, content, style, **arguments)
    module = patchswap.nn.PatchSwap(7, metric="l2")
    assert torch.equal(module(content, style, key_weight=weight), result)
    with pytest.raises(ValueError, match="coherence goes without key_weight"):
        patchswap.swap(content, style, coherence=0.1, key_weight=torch.ones(1, 10, 11, device=device))


@pytest.mark.parametrize("metric", contract.METRICS)
def test_swap_with_coherence(device, metric):
    content, style = torch.rand(2, 3, 14, 15, device=device), torch.rand(1, 3, 12, 13, device=device)
    result, match = patchswap.swap(content, style, metric=metric, coherence=0.4, return_match=True)
    chosen = patchswap.match(content, style, metric=metric)
    expected = patchswap.cohere(chosen, content, style, weight=0.4, metric=metric)
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)
    assert not torch.equal(match.index, chosen.index)
    assert torch.equal(result, patchswap.fold(match, style))


@pytest.mark.parametrize(("dtype", "requires_grad"), [(torch.float32, True), (torch.bfloat16, False)])
@pytest.mark.parametrize("metric", contract.METRICS)
def test_opcheck(device, dtype, requires_grad, metric):
    query = torch.randn(2, 3, 7, 8, device=device).to(dtype).requires_grad_(requires_grad)
    key = torch.randn(2, 3, 6, 9, device=device).to(dtype).requires_grad_(requires_grad)
    weight = torch.rand(2, 3, 6, device=device).requires_grad_(requires_grad)
    arguments = (query, key, None, None, 4, 2, "exact", "auto", metric)
    torch.library.opcheck(torch.ops.patchswap.match.default, arguments)
    torch.library.opcheck(torch.ops.patchswap.match.default, (*arguments, weight))


def test_compile_with_dynamic_shapes(device):
    """One compilation serves every size."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def choose(content, style, weight):
        return patchswap.match(content, style, patch_size=4, metric="l2", key_weight=weight)

    compiled = torch.compile(choose, fullgraph=True, backend=counter, dynamic=True)
    for size, style_size in (((9, 10), (8, 14)), ((12, 7), (8, 9)), ((30, 11), (13, 6)), ((5, 64), (21, 40))):
        content, style = torch.randn(2, 3, *size, device=device), torch.randn(2, 3, *style_size, device=device)
        weight = torch.rand(2, style_size[0] - 3, style_size[1] - 3, device=device)
        for found, expected in zip(compiled(content, style, weight), choose(content, style, weight), strict=True):
            assert torch.equal(found, expected)
    assert counter.frame_count == 1


class Paint(torch.nn.Module):
    def forward(self, content, style, weight):
        return patchswap.swap(content, style, patch_size=2, metric="l2", key_weight=weight)


def test_export():
    content, style, weight = torch.randn(1, 3, 9, 8), torch.randn(1, 3, 7, 12), torch.rand(1, 6, 11)
    program = torch.export.export(Paint(), (content, style, weight)).module()
    assert torch.equal(program(content, style, weight), Paint()(content, style, weight))


def test_vmap(device):
    query, key = torch.randn(3, 2, 4, 6, 7, device=device), torch.randn(3, 2, 4, 8, 5, device=device)
    weight = torch.rand(3, 2, 7, 4, device=device)

    def choose(query, key, weight):
        return patchswap.match(query, key, patch_size=2, metric="l2", key_weight=weight)

    for in_dims in ((0, 0, 0), (0, 0, None), (None, 0, 0)):
        given = [each if at == 0 else each[0] for each, at in zip((query, key, weight), in_dims, strict=True)]
        match = torch.func.vmap(choose, in_dims)(*given)
        for i in range(3):
            expected = choose(*[each[i] if at == 0 else each for each, at in zip(given, in_dims, strict=True)])
            assert torch.equal(match.index[i], expected.index) and torch.equal(match.score[i], expected.score)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(device, dtype):
    """In float32, weights of half precision included, as those of fold."""
    query, key = torch.randn(2, 3, 8, 9, device=device), torch.randn(2, 3, 7, 9, device=device).to(dtype)
    weight = torch.rand(2, 5, 7, device=device).to(dtype)
    expected = patchswap.match(query, key.float(), metric="l2", key_weight=weight.float())
    with torch.autocast(device, dtype=dtype):
        for function in (patchswap.match, torch.compile(patchswap.match, fullgraph=True, backend="aot_eager")):
            match = function(query, key, metric="l2", key_weight=weight)
            assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)

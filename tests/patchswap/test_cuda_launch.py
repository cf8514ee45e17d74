"""What only a GPU can show: streams, CUDA graphs, devices, every kernel as it is launched, sizes that fill the chip.

What each thread computes is tested without a GPU (tests/cuda_emulation).
"""

from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import contract, masks_from_hole, reference
from patchswap.testing import assert_match_close

pytestmark = pytest.mark.gpu

KERNELS = ["auto", "direct", "mma", "wgmma"]


@pytest.fixture(params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    tiny = torch.randn(1, 1, 4, 4, device="cuda")
    try:
        patchswap.match(tiny, tiny, method=request.param)
    except (RuntimeError, ValueError) as error:
        if "is not there" in str(error):  # this GPU or this build has no such kernel
            pytest.skip(str(error).splitlines()[0])
        raise
    return request.param


def maps(height, width, channels=64, batch=1, device="cuda", dtype=torch.float32):
    query = torch.randn(batch, channels, height, width, device=device).to(dtype)
    key = torch.randn(batch, channels, height + 3, width - 2, device=device).to(dtype)
    return query, key


def masks(query, key, share=0.5, patch_size=3):
    return {
        "query_mask": _mask(query, share, patch_size),
        "key_mask": _mask(key, share, patch_size),
    }


def _mask(features, share, patch_size):
    grid = contract.patch_grid(features.shape[2], features.shape[3], patch_size)
    return torch.rand(features.shape[0], *grid, device=features.device) < share


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("batch", "height", "width", "channels"),
    [(1, 5, 7, 1), (2, 9, 33, 16), (1, 17, 130, 40), (3, 40, 21, 64), (1, 66, 67, 256), (2, 8, 300, 31)],
)
@pytest.mark.parametrize("share", [0.03, 0.5, 1.0])
def test_every_kernel_against_the_float64_reference(kernel, dtype, batch, height, width, channels, share):
    query, key = maps(height, width, channels, batch, dtype=dtype)
    selected = masks(query, key, share)
    match = patchswap.match(query, key, **selected, method=kernel)
    assert_match_close(match, query, key, **selected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("patch_size", range(1, contract.MAX_PATCH_SIZE + 1))
@pytest.mark.parametrize("topk", [1, 2, 8])
@pytest.mark.parametrize(("batch", "side", "channels"), [(1, 150, 64), (40, 20, 17)])
def test_direct_in_several_tiles_and_in_batches(dtype, patch_size, topk, batch, side, channels):
    query, key = maps(side, side + 7, channels, batch, dtype=dtype)
    selected = masks(query, key, 0.4, patch_size)
    match = patchswap.match(query, key, patch_size=patch_size, topk=topk, method="direct", **selected)
    assert_match_close(match, query, key, patch_size=patch_size, **selected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_direct_is_exact_where_tf32_is_allowed(dtype, monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    query, key = maps(40, 50, 256, dtype=dtype)
    match = patchswap.match(query, key, topk=2)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    assert_match_close(match, query, key)


@pytest.mark.parametrize("arguments", [{"topk": 3}, {"patch_size": 1}, {"patch_size": 5, "topk": 8}])
def test_direct_in_a_cuda_graph(arguments):
    query, key = maps(70, 80, 16)
    patchswap.match(query, key, **arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        match = patchswap.match(query, key, **arguments)
    for _ in range(2):
        query.copy_(torch.randn_like(query))
        graph.replay()
        expected = patchswap.match(query, key, **arguments)
        assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)


def test_every_kernel_takes_the_lowest_index_of_equal_keys(kernel):
    """Small integers, every key of the same norm: scores tie exactly, and index must be the reference's."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randint(-2, 3, (1, 16, 20, 40), generator=generator).float().cuda()
    key = torch.zeros(1, 16, 20, 40)
    key.scatter_(1, torch.randint(0, 16, (1, 1, 20, 40), generator=generator), 1.0)  # every patch has norm 3
    key = key.cuda()
    expected = reference.match(query.double(), key.double(), None, None, 3, 1, "exact", "auto")[0][:, 0]
    match = patchswap.match(query, key, method=kernel)
    assert torch.equal(match.index, expected)


@pytest.mark.parametrize("precision", contract.PRECISIONS)
def test_same_bits_every_time(kernel, precision):
    query, key = maps(70, 90, 256)
    selected = masks(query, key)
    first = patchswap.match(query, key, **selected, method=kernel, precision=precision)
    for _ in range(5):
        again = patchswap.match(query, key, **selected, method=kernel, precision=precision)
        assert torch.equal(first.index, again.index) and torch.equal(first.score, again.score)


def test_fast_is_nearly_the_best(kernel):
    query, key = maps(50, 60, 256)
    exact = patchswap.match(query, key)
    fast = patchswap.match(query, key, method=kernel, precision="fast")
    assert bool((fast.score <= exact.score + 1e-5).all())
    assert float((exact.score - fast.score).max()) < 2**-7  # two roundings to bfloat16 of a cosine


def test_runs_on_the_current_stream(kernel):
    """The inputs are written on a side stream after a long wait: a kernel on another stream would read zeros."""
    query, key = maps(40, 50, 128)
    expected = patchswap.match(query, key, method=kernel)
    late_query, late_key = torch.zeros_like(query), torch.zeros_like(key)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late_query.copy_(query)
        late_key.copy_(key)
        match = patchswap.match(late_query, late_key, method=kernel)
    stream.synchronize()
    assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)


def test_two_streams_at_once(kernel):
    """Workspaces of calls that overlap must not be shared."""
    inputs = [maps(40, 50, 128) for _ in range(2)]
    expected = [patchswap.match(query, key, method=kernel).index for query, key in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    for _ in range(10):
        found = []
        for stream, (query, key) in zip(streams, inputs, strict=True):
            with torch.cuda.stream(stream):
                found.append(patchswap.match(query, key, method=kernel).index)
        torch.cuda.synchronize()
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("precision", contract.PRECISIONS)
def test_match_in_a_cuda_graph(kernel, precision):
    query, key = maps(30, 40, 64)
    selected = masks(query, key)
    arguments = {**selected, "method": kernel, "precision": precision}
    patchswap.match(query, key, **arguments)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        match = patchswap.match(query, key, **arguments)
    for _ in range(3):
        query.copy_(torch.randn_like(query))
        key.copy_(torch.randn_like(key))
        graph.replay()
        expected = patchswap.match(query, key, **arguments)
        assert torch.equal(match.index, expected.index) and torch.equal(match.score, expected.score)


def test_swap_in_a_cuda_graph():
    features = torch.randn(2, 64, 40, 44, device="cuda")
    hole = torch.zeros(2, 40, 44, dtype=torch.bool, device="cuda")
    hole[0, 10:20, 12:30] = hole[1, 30:, :9] = True
    patchswap.swap(features, hole=hole)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = patchswap.swap(features, hole=hole)
    for _ in range(3):
        features.copy_(torch.randn_like(features))
        graph.replay()
        assert torch.equal(result, patchswap.swap(features, hole=hole))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_second_device(kernel):
    """Launched where the tensors are, whichever device is current, which stays so."""
    query, key = maps(40, 50, 128)
    expected = patchswap.match(query, key, method=kernel)
    with torch.cuda.device(0):
        match = patchswap.match(query.to("cuda:1"), key.to("cuda:1"), method=kernel)
        assert torch.cuda.current_device() == 0
    assert match.index.device == torch.device("cuda:1")
    assert torch.equal(match.index.cpu(), expected.index.cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_refuses_two_devices():
    query, key = maps(10, 12)
    with pytest.raises(ValueError, match="same device"):
        patchswap.match(query, key.to("cuda:1"))


def test_keeps_the_current_device():
    before = torch.cuda.current_device()
    query, key = maps(10, 12)
    patchswap.match(query, key)
    assert torch.cuda.current_device() == before


@pytest.mark.parametrize("method", ["dense", "pruned"])
def test_refuses_the_cpu_kernels(method):
    query, key = maps(10, 12)
    with pytest.raises((ValueError, RuntimeError), match=method):
        patchswap.match(query, key, method=method)


@pytest.mark.parametrize("side", [256, 512])
def test_large_maps(kernel, side):
    """All queries of a 1024 or 2048 picture against all keys outside a hole; a sample of them scored in full."""
    features = torch.randn(1, 64, side, side, device="cuda").relu()
    hole = torch.zeros(1, side, side, dtype=torch.bool, device="cuda")
    hole[:, side // 4 : side // 2, side // 4 : side // 2] = True
    query_mask, key_mask = masks_from_hole(hole, 3, 0)
    match = patchswap.match(features, features, query_mask=query_mask, key_mask=key_mask, method=kernel)
    assert torch.equal(match.index >= 0, query_mask)
    assert bool(key_mask.flatten()[match.index[query_mask]].all())

    windows = features[0].double().unfold(1, 3, 1).unfold(2, 3, 1)
    chosen = query_mask[0].nonzero()
    chosen = chosen[torch.randperm(len(chosen), device="cuda")[:256]]
    queries = windows[:, chosen[:, 0], chosen[:, 1]].transpose(0, 1).flatten(1)
    queries = torch.nn.functional.normalize(queries, dim=1)
    best = torch.full((len(chosen),), -torch.inf, dtype=torch.float64, device="cuda")
    for rows in torch.arange(side - 2, device="cuda").split(16):
        keys = windows[:, rows].permute(1, 2, 0, 3, 4).flatten(2)
        keys = torch.nn.functional.normalize(keys.flatten(0, 1), dim=1)
        scores = (queries @ keys.T).masked_fill(~key_mask[0, rows].flatten(), -torch.inf)
        best = torch.maximum(best, scores.amax(1))
    found = match.score[0, chosen[:, 0], chosen[:, 1]].double()
    assert float((found - best).abs().max()) < 1e-5

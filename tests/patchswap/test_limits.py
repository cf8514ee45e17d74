"""Where an operator meets what surrounds it: vmap, threads, fork, denormals, more numbers than 32 bits count."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.func import vmap

import patchswap
from patchswap import contract, ops, reference

built = pytest.mark.skipif(ops.extension is None, reason="the extension is not built")


def maps(*leading, size=(8, 9), device="cpu"):
    return torch.randn(*leading, 5, *size, device=device)


def every(index, function, *arguments):
    """What vmap does, one call after the other: arguments are taken apart along the dimension in `index`, or given."""
    taken = zip(arguments, index, strict=True)
    count = next(argument.shape[at] for argument, at in taken if at is not None)
    results = []
    for i in range(count):
        pairs = zip(arguments, index, strict=True)
        results.append(function(*[argument if at is None else argument.select(at, i) for argument, at in pairs]))
    if isinstance(results[0], tuple):
        return tuple(torch.stack(values) for values in zip(*results, strict=True))
    return torch.stack(results)


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("error::UserWarning")  # torch warns where it has no rule and calls once for each
@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, None), (None, 2, 0), (1, 0, None)])
class TestVmap:
    def arguments(self, in_dims, device):
        query, key, mask = maps(2, device=device), maps(2, size=(7, 10), device=device), torch.rand(2, 6, 7) < 0.7
        stacks = [
            torch.stack([value + i for i in range(3)]) if value.is_floating_point() else value.expand(3, -1, -1, -1)
            for value in (query, key, mask.to(device))
        ]
        return [s[0] if at is None else s.movedim(0, at) for s, at in zip(stacks, in_dims, strict=True)]

    def test_match_and_cohere(self, device, in_dims):
        def choose(query, key, mask):
            match = patchswap.match(query, key, query_mask=mask, topk=2)
            return *match, *patchswap.cohere(match, query, key, weight=0.2)

        arguments = self.arguments(in_dims, device)
        assert_same(vmap(choose, in_dims)(*arguments), every(in_dims, choose, *arguments))

    def test_fold_and_its_gradient(self, device, in_dims):
        query, key, mask = self.arguments(in_dims, device)
        index = torch.where(mask, torch.randint(0, 40, mask.shape, device=device), -1)
        in_dims = (in_dims[2], in_dims[1], in_dims[0])

        def paint(index, key, base):
            gradient = ops.fold_backward(base, index, 7, 10, 3)
            return patchswap.fold(index, key, output_size=(8, 9), base=base), gradient

        assert_same(vmap(paint, in_dims)(index, key, query), every(in_dims, paint, index, key, query))


@pytest.mark.filterwarnings("error::UserWarning")
def test_vmap_of_swap_and_of_the_operators_for_networks(device):
    features, hole = maps(3, 2, device=device), torch.rand(3, 2, 8, 9, device=device) < 0.1

    def fill(features, hole):
        return patchswap.swap(features, hole=hole, key_margin=1), ops.fill_smoothly(features, hole)

    assert_same(vmap(fill)(features, hole), every((0, 0), fill, features, hole))
    weight, bias = torch.randn(4, 5, 3, 3, device=device), torch.randn(4, device=device)

    for in_dims in ((0, None, None), (0, 0, None), (None, None, 0)):

        def convolve(features, weight, bias):
            return ops.convolve(features, weight, bias, replicate=True, slope=0.2), bias

        given = [
            value.expand(3, *value.shape) if at == 0 and value is not features else value
            for value, at in zip((features, weight, bias), in_dims, strict=True)
        ]
        given[0] = features if in_dims[0] == 0 else features[0]
        assert_same(vmap(convolve, in_dims)(*given), every(in_dims, convolve, *given))


def test_gradient_of_a_mapped_swap(device):
    content, style = maps(3, 2, device=device), maps(3, 2, device=device).requires_grad_()
    (found,) = torch.autograd.grad(vmap(patchswap.swap)(content, style).square().sum(), style)
    (expected,) = torch.autograd.grad(every((0, 0), patchswap.swap, content, style).square().sum(), style)
    torch.testing.assert_close(found, expected)


@built
@pytest.mark.parametrize("method", ["dense", "pruned"])
def test_two_threads_at_once(method):
    """Calls share nothing: the same bits as one after the other."""

    def work(maps):
        match = patchswap.match(*maps, method=method)
        return *match, patchswap.fold(match.index, maps[1], output_size=maps[0].shape[2:])

    given = [(maps(1, size=(24, 24 + i)), maps(1, size=(20 + i, 30))) for i in range(4)]
    expected = [work(maps) for maps in given]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for found, wanted in zip(pool.map(work, given), expected, strict=True):
                assert all(map(torch.equal, found, wanted))


FORK = """
import os, sys, torch, patchswap
torch.set_num_threads(1)
features = torch.randn(1, 64, 20, 20)
expected = patchswap.swap(features, features.flip(3))
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(patchswap.swap(features, features.flip(3)), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_after_a_call_on_one_thread():
    """What the module docstring of ops allows; with more threads OpenMP hangs, as in torch's own operators."""
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=120)


@pytest.mark.skipif(not torch.set_flush_denormal(False), reason="this machine cannot flush denormals")
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
@pytest.mark.parametrize("method", ["dense", "pruned"] if ops.extension else ["auto"])
def test_flushed_denormals_do_not_matter(method, scale):
    """Set for the calling thread alone. Patches of a norm from 1e-15 on have no denormals that count."""
    query, key = torch.randn(1, 16, 20, 70) * scale, torch.randn(1, 16, 25, 40) * scale
    key[:, ::3] *= 1e-20
    expected = patchswap.match(query, key, method=method)
    try:
        torch.set_flush_denormal(True)
        found = patchswap.match(query, key, method=method)
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found.index, expected.index)
    torch.testing.assert_close(found.score, expected.score, rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def numbers():
    try:
        return torch.zeros((1 << 32) + (1 << 20), dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"no room for the addresses: {error}")


@built
class TestBeyond32Bits:
    """Maps whose numbers lie further apart than 32 bits count; nothing but the touched pages takes memory."""

    @pytest.mark.parametrize("method", ["dense", "pruned"])
    def test_match_and_cohere(self, numbers, method):
        wide = numbers.as_strided((1, 3, 20, 24), (0, (1 << 31) - 5, 1000, 3))
        key = torch.randn(1, 3, 20, 24).bfloat16()
        wide.copy_(key)
        query = torch.randn(1, 3, 9, 11).bfloat16()
        found, expected = (patchswap.match(query, one, method=method) for one in (wide, key))
        assert torch.equal(found.index, expected.index) and torch.equal(found.score, expected.score)
        found, expected = (patchswap.cohere(expected, query, one, weight=0.2) for one in (wide, key))
        assert torch.equal(found.index, expected.index) and torch.equal(found.score, expected.score)
        wide.zero_()

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_fold(self, numbers, channels_last):
        """A key of 2^32 numbers, of which the last patches are used."""
        height, width, channels = 1 << 14, 1 << 17, 2
        shape = (1, height, width, channels) if channels_last else (1, channels, height, width)
        key = numbers[: 1 << 32].view(shape)
        key = key.permute(0, 3, 1, 2) if channels_last else key
        key[:, :, -7:, -7:] = torch.randn(1, channels, 7, 7).bfloat16()
        rows, columns = contract.patch_grid(height, width, 3)
        index = torch.tensor([[[(rows - 1 - i) * columns + columns - 1 - j for i in range(5)] for j in range(5)]])
        result = patchswap.fold(index, key, output_size=(7, 7))
        local = (index // columns - (rows - 5)) * 5 + index % columns - (columns - 5)
        assert torch.equal(result, reference.fold(local, key[:, :, -7:, -7:], None, 7, 7, 3))
        key[:, :, -7:, -7:] = 0

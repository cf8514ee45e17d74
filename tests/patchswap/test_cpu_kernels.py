"""Every instruction set that this machine has, each in a process of its own: the choice is made once per process.

The process says which kernel ran; /proc/cpuinfo says which ones must have.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from patchswap import ops

PROGRAM = """
import sys, torch, patchswap, patchswap.ops, patchswap.reference
from patchswap.testing import assert_match_close

assert patchswap.build_info()["cpu_kernel"] == sys.argv[1]
for seed, dtype in enumerate([torch.float32, torch.float64, torch.float16]):
    torch.manual_seed(seed)
    for patch_size in (1, 3, 5):
        for size, key_size in (((9, 70), (11, 13)), ((6, 7), (8, 300))):
            query, key = torch.randn(2, 7, *size).to(dtype), torch.randn(2, 7, *key_size).to(dtype)
            match = patchswap.match(query, key, patch_size=patch_size, topk=2)
            assert_match_close(match, query, key, patch_size=patch_size)
            if dtype != torch.float64:
                dense, pruned = (
                    patchswap.ops.match(query, key, None, None, 3, 2, method=method) for method in ("dense", "pruned")
                )
                assert torch.equal(dense[0], pruned[0]) and torch.equal(dense[1], pruned[1])
    key = torch.randn(1, 19, 5, 5).repeat(1, 1, 3, 60).to(dtype)
    index = patchswap.match(torch.randn(1, 19, 9, 9).to(dtype), key).index
    assert bool((index // 298 < 5).all()) and bool((index % 298 < 5).all()), "equal patches did not tie"
for channels, outputs in ((3, 5), (16, 33), (37, 16)):
    features, weight, bias = torch.randn(2, channels, 9, 70), torch.randn(outputs, channels, 3, 3), torch.randn(outputs)
    found = patchswap.ops.convolve(features, weight, bias, replicate=True, slope=0.2)
    exact = (features.double(), weight.double(), bias.double(), None, 1, False, True, 0.2)
    torch.testing.assert_close(found.double(), patchswap.reference.convolution(*exact), rtol=1e-4, atol=1e-4)
for dtype in (torch.float32, torch.float64, torch.float16):
    for patch_size, channels in ((1, 5), (3, 37), (5, 64)):
        query, key = torch.randn(2, channels, 12, 9).to(dtype), torch.randn(2, channels, 8, 14).to(dtype)
        index = patchswap.match(query, key, patch_size=patch_size, topk=3).index
        match = patchswap.cohere(index, query, key, weight=0.2, patch_size=patch_size)
        exact = patchswap.reference.cohere(index, query.double(), key.double(), None, None, 0.2, 6, patch_size)
        assert torch.equal(match.index, exact[0]) and (match.score - exact[1]).abs().max() < 2e-6
        query.requires_grad_(), key.requires_grad_()
        score = patchswap.similarity(query, key, index, patch_size)
        found = torch.autograd.grad(score.sum(), (query, key))
        maps = query.detach().double(), key.detach().double(), index
        exact = patchswap.reference.similarity(*maps, patch_size)
        torch.testing.assert_close(score.double(), exact, rtol=1e-5, atol=1e-5)
        for name, gradient in zip(("query", "key"), found):
            backward = getattr(patchswap.reference, f"similarity_{name}_backward")
            expected = backward(torch.ones_like(exact), *maps, exact, patch_size).to(dtype)
            torch.testing.assert_close(gradient, expected, rtol=4e-3 if dtype == torch.float16 else 1e-5, atol=1e-4)
"""


FLAGS = {  # that /proc/cpuinfo names
    "generic": [],
    "avx2": ["avx2", "fma"],
    "avx512": ["avx512f", "avx512vl", "avx512dq", "avx512bw"],
    "avx512vnni": ["avx512f", "avx512vl", "avx512dq", "avx512bw", "avx512_vnni"],
}
PRUNED = """
import sys, torch, patchswap
from patchswap import ops

assert patchswap.build_info()["cpu_kernel"] == sys.argv[1]
torch.manual_seed(0)
axes, noise = torch.randn(128, 8), 0.02 * torch.randn(1, 128, 96, 96)
features = torch.einsum("cr,brhw->bchw", axes, torch.randn(1, 8, 96, 96)) + noise
methods = ("auto", "dense", "pruned")
results = {method: ops.match(features, features.flip(3), None, None, 3, 1, method=method) for method in methods}
pairs, left = results["auto"][2].tolist()
assert 0 < pairs < 94**4 // 100 and left == 0, "the automatic choice did not prune"
assert results["dense"][2].tolist() == [0, 0]
for method in ("auto", "pruned"):
    assert torch.equal(results[method][0], results["dense"][0]) and torch.equal(results[method][1], results["dense"][1])
features = torch.randn(1, 128, 96, 96)
assert ops.match(features, features.flip(3), None, None, 3, 1)[2].tolist()[0] == 0, "noise was pruned"
"""


def has(name):
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return set(FLAGS[name]) <= set(flags)


def run(program, name):
    if not has(name):
        pytest.skip(f"this machine has no {name}")
    environment = {**os.environ, "PATCHSWAP_CPU_KERNEL": name}
    result = subprocess.run([sys.executable, "-c", program, name], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


pytestmark = pytest.mark.skipif(ops.extension is None, reason="the extension is not built")


@pytest.mark.parametrize("name", FLAGS)
def test_kernel(name):
    run(PROGRAM, name)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere the automatic choice never prunes")
@pytest.mark.parametrize("name", FLAGS)
def test_automatic_choice_prunes_where_it_pays(name):
    run(PRUNED, name)

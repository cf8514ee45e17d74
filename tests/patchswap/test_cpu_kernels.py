"""Every instruction set that this machine has, each in a process of its own: the choice is made once per process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from patchswap import ops

PROGRAM = """
import sys, torch, patchswap, patchswap.ops, patchswap.reference
from patchswap.testing import assert_match_close

name = patchswap.build_info()["cpu_kernel"]
if name != sys.argv[1]:
    print("this machine has", name)
    sys.exit(77)
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
"""


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_kernel(name):
    environment = {**os.environ, "PATCHSWAP_CPU_KERNEL": name}
    result = subprocess.run([sys.executable, "-c", PROGRAM, name], env=environment, capture_output=True, text=True)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stderr

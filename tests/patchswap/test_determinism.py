from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import ops


def run(features, hole):
    features = features.clone().requires_grad_()
    result, match = patchswap.swap(features, hole=hole, return_match=True)
    (gradient,) = torch.autograd.grad(result.square().sum(), features)
    return result.detach(), match.index, match.score, gradient


def test_same_bits_every_time(device):
    features = torch.randn(2, 24, 40, 37, device=device)
    hole = torch.rand(2, 40, 37, device=device) < 0.02
    first = run(features, hole)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, run(features, hole), strict=True))


@pytest.mark.skipif(ops.extension is None, reason="the extension is not built")
def test_same_bits_for_any_number_of_threads():
    features = torch.randn(2, 24, 40, 137)
    hole = torch.zeros(2, 40, 137, dtype=torch.bool)
    hole[0, 10:25, 20:100] = hole[1, 0:3, 0:3] = True
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run(features, hole)
        for count in (2, 3, 5):
            torch.set_num_threads(count)
            assert all(torch.equal(a, b) for a, b in zip(expected, run(features, hole), strict=True))
    finally:
        torch.set_num_threads(threads)

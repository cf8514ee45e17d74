from __future__ import annotations

import pytest
import torch

import patchswap
from patchswap import ops


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_fold(device, patch_size):
    key = torch.randn(2, 1, 6, 5, dtype=torch.float64, device=device, requires_grad=True)
    base = torch.randn(2, 1, 5, 7, dtype=torch.float64, device=device, requires_grad=True)
    shape = (2, 6 - patch_size, 8 - patch_size)
    index = torch.randint(0, (7 - patch_size) * (6 - patch_size), shape)
    index = torch.where(torch.rand(shape) < 0.4, index, -1).to(device)

    def fold(key, base):
        return patchswap.fold(index, key, output_size=(5, 7), patch_size=patch_size, base=base)

    assert torch.autograd.gradcheck(fold, (key, base))
    assert torch.autograd.gradgradcheck(fold, (key, base), fast_mode=True)


def test_swap(device):
    features = torch.randn(1, 2, 6, 6, dtype=torch.float64, device=device, requires_grad=True)
    hole = torch.zeros(1, 6, 6, dtype=torch.bool, device=device)
    hole[:, 2:4, 2:5] = True
    assert torch.autograd.gradcheck(lambda x: patchswap.swap(x, hole=hole), (features,))
    style = torch.randn(1, 2, 5, 5, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(patchswap.swap, (features.detach(), style))


def test_only_what_is_copied_gets_gradient(device):
    content = torch.randn(1, 3, 6, 6, device=device, requires_grad=True)
    style = torch.randn(1, 3, 6, 6, device=device, requires_grad=True)
    patchswap.swap(content, style).sum().backward()
    assert not bool(content.grad.any())
    assert float(style.grad.sum()) == pytest.approx(3 * 6 * 6)


def test_match_is_not_differentiable(device):
    features = torch.randn(1, 3, 6, 6, device=device, requires_grad=True)
    match = patchswap.match(features, features)
    assert not match.score.requires_grad and not match.index.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_gradient_is_summed_in_float32(device, dtype):
    """One key patch used by 400 queries: a sum in half precision would stop growing at 256 or 2048."""
    index = torch.zeros(1, 20, 20, dtype=torch.int64, device=device)
    grad = torch.ones(1, 1, 20, 20, device=device).to(dtype)
    assert float(ops.fold_backward(grad, index, 3, 3, 1)[0, 0, 0, 0]) == 400

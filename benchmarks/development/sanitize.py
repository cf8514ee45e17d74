"""A few small calls of every CUDA kernel, to be run under compute-sanitizer.

    compute-sanitizer --tool racecheck python benchmarks/development/sanitize.py

Small and odd shapes, masks, batches, each dtype; results are compared with the reference, so that a run without the
tool is a test as well. It fails where an operator is not called.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import patchswap
from patchswap import ops, reference
from patchswap.testing import assert_match_close

SHAPES = ((1, 24, 9, 13), (2, 40, 20, 37))


class Called(TorchDispatchMode):
    """Notes which operators of patchswap are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "patchswap":
            self.names.add(function._schema.name.partition("::")[2])
        return function(*args, **(kwargs or {}))


def call_all(device: str) -> None:
    """Calls every operator on a device."""
    torch.manual_seed(0)
    with Called() as called:
        for method in ("auto", "direct", "mma", "wgmma"):
            try:
                search(method, device)
            except (RuntimeError, ValueError) as error:
                if "is not there" not in str(error):
                    raise
                print(str(error).splitlines()[0])
        match_in_tiles(device)
        fold_with_gradients(device)
        similarity_with_gradients(device)
        convolve(device)
        fill_smoothly(device)
    missing = ops.SCHEMAS.keys() - called.names
    if missing:
        raise RuntimeError(f"not called: {', '.join(sorted(missing))}")


def search(method: str, device: str) -> None:
    for batch, channels, height, width in SHAPES:
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            query = torch.randn(batch, channels, height, width, device=device).to(dtype)
            key = torch.randn(batch, channels, height + 4, width - 3, device=device).to(dtype)
            masks = {"key_mask": torch.rand(batch, height + 2, width - 5, device=device) < 0.7}
            patchswap.explain(query, key, **masks, method=method)
            for precision in ("exact", "fast"):
                match = patchswap.match(query, key, **masks, method=method, precision=precision)
            exact = patchswap.match(query, key, **masks, method=method)
            assert_match_close(exact, query, key, **masks)
            arguments = (match.index, query, key)
            part = ops.match_part(query, key, None, masks["key_mask"], 3, 1, "exact", method, "ncc", None, height + 4)
            assert torch.equal(part[0][:, 0], exact.index) and torch.equal(part[1][:, 0], exact.score)
            coherent = patchswap.cohere(*arguments, weight=0.2, sweeps=2, **masks)
            index, _ = reference.cohere(*arguments, None, masks["key_mask"], 0.2, 2, 3)
            assert (coherent.index != index).float().mean() < 0.01  # near-ties may be decided by rounding
            weights = torch.rand(match.index.shape, device=device)
            for given, exact_given in ((None, None), (weights, weights.double())):
                folded = patchswap.fold(match.index, key, output_size=(height, width), weights=given)
                expected = reference.fold(match.index, key.double(), None, height, width, 3, exact_given)
                torch.testing.assert_close(folded.double(), expected, rtol=0.02, atol=0.02)


def match_in_tiles(device: str) -> None:
    for dtype in (torch.float32, torch.float64):
        for patch_size, topk in ((1, 1), (3, 2), (5, 8)):
            query, key = (torch.randn(2, 24, *size, device=device, dtype=dtype) for size in ((20, 37), (67, 70)))
            match = patchswap.match(query, key, patch_size=patch_size, topk=topk)
            assert_match_close(match, query, key, patch_size=patch_size)


def fold_with_gradients(device: str) -> None:
    """With and without weights and base, each with its gradients."""
    hole = torch.zeros(2, 20, 21, dtype=torch.bool, device=device)
    hole[:, 5:11, 4:12] = True
    features = torch.randn(2, 24, 20, 21, device=device, requires_grad=True)
    patchswap.swap(features, hole=hole).square().sum().backward()

    query, key = (torch.randn(2, 24, 20, width, device=device) for width in (21, 17))
    index = patchswap.match(query, key).index
    weights = torch.rand(index.shape, device=device)
    for given in ((key, None, None), (key, query, None), (key, None, weights), (key, query, weights)):
        results = []
        for operator, dtype in ((ops.fold, torch.float32), (reference.fold, torch.float64)):
            tensors = [None if one is None else one.detach().to(dtype, copy=True).requires_grad_() for one in given]
            folded = operator(index, *tensors[:2], 20, 21, 3, tensors[2])
            folded.square().sum().backward()
            results.append([folded, *(one.grad for one in tensors if one is not None)])
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def similarity_with_gradients(device: str) -> None:
    """Of one key a query and of two, some of them absent."""
    for batch, channels, height, width in SHAPES:
        query = torch.randn(batch, channels, height, width, device=device, requires_grad=True)
        key = torch.randn(batch, channels, height + 4, width - 3, device=device, requires_grad=True)
        for shape in ((batch,), (batch, 2)):
            index = torch.randint(-1, height * width // 2, (*shape, height - 2, width - 2), device=device)
            score = patchswap.similarity(query, key, index)
            torch.testing.assert_close(score, reference.similarity(query, key, index, 3))
            grad = torch.rand_like(score)
            found = torch.autograd.grad(score, (query, key), grad)
            for name, gradient in zip(("query", "key"), found, strict=True):
                backward = getattr(reference, f"similarity_{name}_backward")
                torch.testing.assert_close(gradient, backward(grad, query, key, index, score, 3), rtol=1e-4, atol=1e-4)


def convolve(device: str) -> None:
    features, weight = torch.randn(2, 8, 20, 21, device=device), torch.randn(12, 8, 3, 3, device=device)
    expected = torch.nn.functional.conv2d(features.double(), weight.double(), padding=1)
    torch.testing.assert_close(ops.convolve(features, weight).double(), expected, rtol=0.01, atol=0.01)


def fill_smoothly(device: str) -> None:
    for size in ((40, 33), (150, 201)):
        image: Tensor = torch.randn(2, 3, *size, device=device)
        hole = torch.rand(2, *size, device=device) < 0.7
        expected = reference.smooth_fill(image.double(), hole)
        torch.testing.assert_close(ops.fill_smoothly(image, hole).double(), expected, rtol=0, atol=1e-5)


def main() -> int:
    call_all("cuda")
    torch.cuda.synchronize()
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())

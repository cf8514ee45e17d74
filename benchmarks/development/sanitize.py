"""A few small calls of every CUDA kernel, to be run under compute-sanitizer.

    compute-sanitizer --tool racecheck python benchmarks/development/sanitize.py

Small and odd shapes, masks, batches, each dtype; results are compared with the reference, so that a run without the
tool is a test as well.
"""

from __future__ import annotations

import sys

import torch

import patchswap
from patchswap import ops, reference
from patchswap.testing import assert_match_close

SHAPES = ((1, 24, 9, 13), (2, 40, 20, 37))


def main() -> int:
    torch.manual_seed(0)
    for method in ("auto", "direct", "mma", "wgmma"):
        try:
            for batch, channels, height, width in SHAPES:
                for dtype in (torch.float32, torch.bfloat16, torch.float16):
                    query = torch.randn(batch, channels, height, width, device="cuda").to(dtype)
                    key = torch.randn(batch, channels, height + 4, width - 3, device="cuda").to(dtype)
                    masks = {"key_mask": torch.rand(batch, height + 2, width - 5, device="cuda") < 0.7}
                    for precision in ("exact", "fast"):
                        match = patchswap.match(query, key, **masks, method=method, precision=precision)
                    exact = patchswap.match(query, key, **masks, method=method)
                    assert_match_close(exact, query, key, **masks)
                    arguments = (match.index, query, key)
                    coherent = patchswap.cohere(*arguments, weight=0.2, sweeps=2, **masks)
                    index, _ = reference.cohere(*arguments, None, masks["key_mask"], 0.2, 2, 3)
                    assert (coherent.index != index).float().mean() < 0.01  # near-ties may be decided by rounding
                    patchswap.fold(match.index, key, output_size=(height, width))
        except (RuntimeError, ValueError) as error:
            if "is not there" not in str(error):
                raise
            print(str(error).splitlines()[0])
    for dtype in (torch.float32, torch.float64):
        for patch_size, topk in ((1, 1), (3, 2), (5, 8)):
            query, key = (torch.randn(2, 24, *size, device="cuda", dtype=dtype) for size in ((20, 37), (67, 70)))
            match = patchswap.match(query, key, patch_size=patch_size, topk=topk)
            assert_match_close(match, query, key, patch_size=patch_size)
    features = torch.randn(2, 24, 20, 21, device="cuda", requires_grad=True)
    hole = torch.zeros(2, 20, 21, dtype=torch.bool, device="cuda")
    hole[:, 5:11, 4:12] = True
    patchswap.swap(features, hole=hole).square().sum().backward()
    for size in ((40, 33), (150, 201)):
        image = torch.randn(2, 3, *size, device="cuda")
        hole = torch.rand(2, *size, device="cuda") < 0.7
        expected = reference.smooth_fill(image.double(), hole)
        torch.testing.assert_close(ops.fill_smoothly(image, hole).double(), expected, rtol=0, atol=1e-5)
    torch.cuda.synchronize()
    print("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())

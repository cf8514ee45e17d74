"""Ways to match patches, each at its best, one file per idea."""

from __future__ import annotations

import torch

from rivals.flat_index import FlatIndex
from rivals.gemm import Gemm
from rivals.matrix_product import BlockedMatrixProduct, WholeMatrixProduct
from rivals.patchswap_match import PatchswapMatch, PatchswapSwap
from rivals.rival import Rival
from rivals.style_swap import StyleSwap

_BOTH = (torch.float32, torch.bfloat16)
_OURS: list[Rival] = [
    PatchswapMatch("auto", "exact", ("cpu", "cuda")),
    PatchswapMatch("auto", "fast", ("cuda",)),
    PatchswapMatch("dense", "exact", ("cpu",)),
    PatchswapMatch("pruned", "exact", ("cpu",)),
    PatchswapMatch("direct", "exact", ("cuda",)),
    *(PatchswapMatch(method, precision, ("cuda",)) for method in ("mma", "wgmma") for precision in ("exact", "fast")),
    PatchswapSwap(graph=False),
    PatchswapSwap(graph=True),
]
_OTHERS: list[Rival] = [
    *(StyleSwap(dtype) for dtype in _BOTH),
    *(WholeMatrixProduct(dtype) for dtype in _BOTH),
    *(BlockedMatrixProduct(dtype) for dtype in _BOTH),
    FlatIndex(),
    *(Gemm(shape, dtype) for shape in ("direct", "cells") for dtype in _BOTH),
]
RIVALS: dict[str, Rival] = {rival.name: rival for rival in [*_OURS, *_OTHERS]}

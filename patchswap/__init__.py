"""Patch-swap for PyTorch: exact nearest-patch matching of feature maps without the queries x keys matrix."""

from __future__ import annotations

from patchswap.build import build_info
from patchswap.swap import Match, fold, match, swap

__all__ = ["Match", "build_info", "fold", "match", "swap"]

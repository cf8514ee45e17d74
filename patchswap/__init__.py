"""Patch-swap for PyTorch: exact nearest-patch matching of feature maps without the queries x keys matrix."""

from __future__ import annotations

import warnings

from patchswap import distributed, nn, ops
from patchswap.build import build_info
from patchswap.explanation import Explanation, explain
from patchswap.folding import fold
from patchswap.holes import masks_from_hole
from patchswap.matching import Grid, Match, cohere, match
from patchswap.similarity import similarity
from patchswap.swap import swap
from patchswap.version import __version__

__all__ = [
    "Explanation",
    "Grid",
    "Match",
    "__version__",
    "build_info",
    "cohere",
    "distributed",
    "explain",
    "fold",
    "masks_from_hole",
    "match",
    "nn",
    "similarity",
    "swap",
]

if ops.extension_error is not None and ops.extension_error.cause != "not wanted":
    warnings.warn(
        f"{ops.extension_error}. Until then plain torch code serves, many times slower", RuntimeWarning, stacklevel=2
    )

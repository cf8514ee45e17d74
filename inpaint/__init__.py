"""Image inpainting by patch-swap on neural features (Song et al., arXiv 1711.08590).

>>> import inpaint
>>> inpainter = inpaint.load("default")
>>> filled = inpainter(image, mask)  # PIL images, numpy arrays or tensors; white or True = hole
>>> painted = inpaint.stylize(image, painting, inpainter=inpainter)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from inpaint import weights
    from inpaint.inpainter import Inpainter, load
    from inpaint.style_transfer import stylize
    from patchswap.version import __version__

__all__ = ["InpaintError", "Inpainter", "__version__", "load", "stylize", "weights"]


def __getattr__(name: str) -> Any:
    """Loads the pipeline, and torch with it, when it is first asked for: `inpaint --help` should not wait for it."""
    if name in ("Inpainter", "load"):
        return getattr(importlib.import_module("inpaint.inpainter"), name)
    if name == "stylize":
        from inpaint import style_transfer

        return style_transfer.stylize
    if name == "__version__":
        from patchswap.version import __version__

        return __version__
    if name == "weights":
        return importlib.import_module("inpaint.weights")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Recipes: the choices that the pipeline leaves open, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from inpaint.depth import DEEPEST, SPECK
from inpaint.finish import KeepColours, Step, level_at_rim, restore_detail


@dataclass(frozen=True)
class Recipe:
    """How a window is filled.

    views: how many mirrored and turned pictures Image2Feature is averaged over, 1, 2, 4 or 8 (inpaint.symmetry). swap:
    match, translate and finish what Image2Feature has painted; otherwise that is the result. finish: what is done to
    the decoder's picture, in this order. coherence: the weight of neighbours that copy from beside a patch's key, in
    units of the score (``patchswap.cohere``). rematches: how many times swapped features are matched again, at scales
    coarser than the photograph. compared: makes what patches are compared by out of features (B, 256, h', w') and
    unknown cells (B, 1, h', w') bool; what is copied are the features themselves in any case.
    """

    views: int = 1
    swap: bool = True
    finish: tuple[Step, ...] = ()
    coherence: float = 0.0
    rematches: int = 0
    compared: Callable[[Tensor, Tensor], Tensor] | None = None


TINY = Recipe(swap=False)
NARROW = Recipe(finish=(restore_detail, level_at_rim, KeepColours(4)), coherence=0.1)
WIDE = Recipe(views=2, finish=(restore_detail, level_at_rim, KeepColours(8)), coherence=0.1, rematches=1)

RecipeRule = Callable[[int], Recipe]  # depth of a window's holes in pixels -> how it is filled


def default_recipe(depth: int) -> Recipe:
    """TINY for holes that are smaller than a patch, WIDE for those that need more than one scale, NARROW between them.

    docs/method.md has the reasons, docs/quality.md what single choices change.
    """
    if depth <= SPECK:
        return TINY
    return WIDE if depth > DEEPEST else NARROW

"""Recipes: the choices that the pipeline leaves open, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from inpaint.finish import KeepColours, Step, level_at_rim, restore_detail


@dataclass(frozen=True)
class Recipe:
    """How a window is filled.

    symmetric: average Image2Feature over mirrored and turned pictures (inpaint.symmetry). finish: what is done to the
    decoder's picture, in this order. compared: makes what patches are compared by out of features (B, 256, h', w') and
    unknown cells (B, 1, h', w') bool; what is copied are the features themselves in any case.
    """

    symmetric: bool
    finish: tuple[Step, ...]
    compared: Callable[[Tensor, Tensor], Tensor] | None = None


NARROW = Recipe(symmetric=False, finish=(restore_detail, level_at_rim, KeepColours(4)))
WIDE = Recipe(symmetric=True, finish=(restore_detail, level_at_rim, KeepColours(8)))

RecipeRule = Callable[[bool], Recipe]  # whether the window's holes are wide -> how it is filled


def default_recipe(is_wide: bool) -> Recipe:
    """WIDE for holes that need more than one scale, else NARROW; docs/quality.md has the measurements."""
    return WIDE if is_wide else NARROW

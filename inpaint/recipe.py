"""Recipes: the choices that the pipeline leaves open, as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from inpaint.depth import DEEPEST, SPECK
from inpaint.finish import KeepColours, Step, level_at_rim, restore_detail
from inpaint.matching import MatchCoherently, Matcher, Vote, WeighByScore, mean_of_copies


@dataclass(frozen=True)
class Recipe:
    """How a window is filled.

    views: how many mirrored and turned pictures Image2Feature is averaged over, 1, 2, 4 or 8 (inpaint.symmetry). swap:
    match, translate and finish what Image2Feature has painted; otherwise that is the result. match: chooses a key for
    every query. rematches: how many times swapped features are matched again, at scales coarser than the photograph.
    vote: makes cells out of the copies that overlap in them. finish: what is done to the decoder's picture, in this
    order.
    """

    views: int = 1
    swap: bool = True
    match: Matcher = MatchCoherently(0)
    rematches: int = 0
    vote: Vote = mean_of_copies
    finish: tuple[Step, ...] = ()


_COHERENT, _BY_SCORE = MatchCoherently(0.05), WeighByScore(0.2)
TINY = Recipe(swap=False)
NARROW = Recipe(match=_COHERENT, vote=_BY_SCORE, finish=(restore_detail, level_at_rim, KeepColours(4)))
WIDE = Recipe(
    views=2,
    match=_COHERENT,
    rematches=1,
    vote=_BY_SCORE,
    finish=(restore_detail, level_at_rim, KeepColours(8)),
)

RecipeRule = Callable[[int], Recipe]  # depth of a window's holes in pixels -> how it is filled


def default_recipe(depth: int) -> Recipe:
    """TINY for holes that are smaller than a patch, WIDE for those that need more than one scale, NARROW between them.

    docs/method.md has the reasons, docs/evaluation.md what single choices change.
    """
    if depth <= SPECK:
        return TINY
    return WIDE if depth > DEEPEST else NARROW

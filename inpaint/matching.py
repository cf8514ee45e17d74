"""Matching and copying at one scale: which key patch every query patch takes, and what cells become of the copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import patchswap
from inpaint.scene import Scene
from patchswap import Grid, Match


@dataclass(frozen=True)
class Copies:
    """What every query patch of a scale copies.

    scene: the scale. match: index and score, (B, h'-2, w'-2) each; -1 and -inf where nothing is copied. vote: makes
    cells out of the copies that overlap in them.
    """

    scene: Scene
    match: Match
    vote: Vote

    def fold(self, values: Tensor, base: Tensor | None = None) -> Tensor:
        """Puts the copies of patches of ``values`` in their places.

        Args:
            values: (B, C, r h', r w'), features or what is r times as fine, such as pixels.
            base: (B, C, r near height, r near width), for cells that no copy covers; zeros by default.

        Returns:
            (B, C, r near height, r near width): the scene's ``near`` cells.
        """
        rows, columns = self.scene.near_patches
        index, score = (each[:, rows, columns] for each in self.match)
        height, width = self.scene.own_cells.shape[2:]
        return self.vote(Match(index, score, Grid((height, width))), values, base)


# Features of the queries and of the keys, (B, C, h', w') each, the scene, and what the coarser scale has copied (None
# at the coarsest) -> what every query takes, on the patch grid.
Matcher = Callable[[Tensor, Tensor, Scene, Copies | None], Match]

# A match (B, h'-2, w'-2) that knows its grid, H' x W' cells; what is copied, (B, C, r H', r W'); and what uncovered
# cells become (zeros if None) -> (B, C, r h', r w').
Vote = Callable[[Match, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class MatchCoherently:
    """The most similar key, then neighbours that take neighbouring keys where these fit as well.

    weight: of the agreement of neighbours, in units of the score (``patchswap.cohere``); 0: the most similar key.
    """

    weight: float

    def __call__(self, query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
        match = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys)
        if not self.weight:
            return match
        return patchswap.cohere(match, query, key, weight=self.weight, query_mask=scene.queries, key_mask=scene.keys)


def mean_of_copies(match: Match, values: Tensor, base: Tensor | None) -> Tensor:
    """Every cell is the mean of the copies that cover it (Song et al. 2017, section 3.2)."""
    return patchswap.fold(match, values, base=base)


@dataclass(frozen=True)
class WeighByScore:
    """Every cell is a mean of the copies that cover it, in which each counts exp(score / ``temperature``).

    Where the patches around a cell were copied from places that do not belong together, the ones that fit best decide.
    """

    temperature: float

    def __call__(self, match: Match, values: Tensor, base: Tensor | None) -> Tensor:
        weights = torch.exp((match.score - 1) / self.temperature)  # at most 1, up to rounding
        return patchswap.fold(match, values, base=base, weights=weights)

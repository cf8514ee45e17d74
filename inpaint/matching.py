"""Matching and copying at one scale: which key patch every query patch takes, and what cells become of the copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import patchswap
from inpaint.cells import CELL
from inpaint.scene import Scene
from patchswap import Match


@dataclass(frozen=True)
class Copies:
    """What every query patch of a scale copies.

    scene: the scale. match: index and score, (B, h'-2, w'-2) each; -1 and -inf where nothing is copied. vote: makes
    cells out of the copies that overlap in them.
    """

    scene: Scene
    match: Match
    vote: Vote

    def fold(self, key: Tensor, base: Tensor | None = None) -> Tensor:
        """Puts the copies of ``key``'s patches in their places.

        Args:
            key: (B, C, h', w'), whose patches are copied.
            base: (B, C, near height, near width), for cells that no copy covers; zeros by default.

        Returns:
            (B, C, near height, near width): the scene's ``near`` cells.
        """
        rows, columns = self.scene.near_patches
        index, score = (each[:, rows, columns] for each in self.match)
        return self.vote(Match(index, score), key, self.scene.near.size, base)


# Features of the queries and of the keys, (B, C, h', w') each, the scene, and what the coarser scale has copied (None
# at the coarsest) -> what every query takes, on the patch grid.
Matcher = Callable[[Tensor, Tensor, Scene, Copies | None], Match]

# A match (B, h'-2, w'-2), keys (B, C, H', W'), the size (h', w') of the result, and what uncovered cells become
# (zeros if None) -> (B, C, h', w').
Vote = Callable[[Match, Tensor, tuple[int, int], Tensor | None], Tensor]


@dataclass(frozen=True)
class MatchCoherently:
    """The most similar key, then neighbours that take neighbouring keys where these fit as well.

    A query begins with two keys to choose from: the most similar one, and the one at the offset that the coarser scale
    copies from there. It may then take the offset of any neighbour.

    weight: of the agreement of neighbours, in units of the score (``patchswap.cohere``); 0: the most similar key.
    """

    weight: float

    def __call__(self, query: Tensor, key: Tensor, scene: Scene, coarser: Copies | None) -> Match:
        match = patchswap.match(query, key, query_mask=scene.queries, key_mask=scene.keys)
        if not self.weight:
            return match
        candidates = match.index
        if coarser is not None and coarser.scene.is_matched:
            coarse = keys_of_coarser_scale(coarser, scene)
            candidates = torch.stack((candidates, torch.where(coarse < 0, candidates, coarse)), dim=1)
        return patchswap.cohere(
            candidates, query, key, weight=self.weight, query_mask=scene.queries, key_mask=scene.keys
        )


def keys_of_coarser_scale(coarser: Copies, scene: Scene) -> Tensor:
    """The keys at the coarser scale's offsets, enlarged to this scale.

    Returns:
        (B, h'-2, w'-2) int64: index of a key, -1 where the coarser scale copies nothing, or from what is no key here.
    """
    steps = coarser.scene.halvings - scene.halvings
    index, keys = coarser.match.index, scene.keys
    rows, columns = _grid(scene.queries)
    coarse_rows, coarse_columns = _grid(index)
    down, right = index // index.shape[2] - coarse_rows, index % index.shape[2] - coarse_columns
    result = []
    for sample, corners in enumerate(zip(scene.corners, coarser.scene.corners, strict=True)):
        (top, left), (coarse_top, coarse_left) = corners
        above = (((rows * CELL + top) >> steps) - coarse_top) // CELL
        beside = (((columns * CELL + left) >> steps) - coarse_left) // CELL
        above, beside = above.clamp(0, index.shape[1] - 1), beside.clamp(0, index.shape[2] - 1)
        row, column = rows + (down[sample, above, beside] << steps), columns + (right[sample, above, beside] << steps)
        inside = (row >= 0) & (row < keys.shape[1]) & (column >= 0) & (column < keys.shape[2])
        place = torch.where(inside, row * keys.shape[2] + column, 0)
        is_key = inside & (index[sample, above, beside] >= 0) & keys[sample].flatten()[place]
        result.append(torch.where(is_key & scene.queries[sample], place, -1))
    return torch.stack(result)


def _grid(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of every patch of (B, h, w), as (h, 1) and (1, w)."""
    rows, columns = (torch.arange(length, device=patches.device) for length in patches.shape[1:])
    return rows[:, None], columns[None]


def mean_of_copies(match: Match, key: Tensor, size: tuple[int, int], base: Tensor | None) -> Tensor:
    """Every cell is the mean of the copies that cover it (Song et al. 2017, section 3.2)."""
    return patchswap.fold(match.index, key, output_size=size, base=base)


@dataclass(frozen=True)
class WeighByScore:
    """Every cell is a mean of the copies that cover it, in which each counts exp(score / ``temperature``).

    Where the patches around a cell were copied from places that do not belong together, the ones that fit best decide.
    """

    temperature: float

    def __call__(self, match: Match, key: Tensor, size: tuple[int, int], base: Tensor | None) -> Tensor:
        weights = torch.exp((match.score - 1) / self.temperature)  # at most 1, up to rounding
        return patchswap.fold(match.index, key, output_size=size, base=base, weights=weights)

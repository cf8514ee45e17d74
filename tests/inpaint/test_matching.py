"""Matching and copying at one scale, against the plain operators."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import patchswap
from inpaint.cells import CELL
from inpaint.mask import center, strokes
from inpaint.matching import Copies, MatchCoherently, WeighByScore, keys_of_coarser_scale, mean_of_copies
from inpaint.scene import Scene, make_scenes
from inpaint.window import find_windows


@pytest.fixture(scope="module")
def scene() -> Scene:
    (window,) = find_windows(center(96, 96, 40).numpy(), scales=[96])
    (scene,) = make_scenes([window], torch.device("cpu"))
    return scene


@pytest.fixture(scope="module")
def features(scene: Scene) -> Tensor:
    return torch.rand(1, 16, *scene.own_cells.shape[2:], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("weight", [0, 0.3])
def test_matches_are_those_of_the_operator(scene: Scene, features: Tensor, weight: float) -> None:
    masks = {"query_mask": scene.queries, "key_mask": scene.keys}
    expected = patchswap.match(features, features, **masks)
    if weight:
        expected = patchswap.cohere(expected, features, features, weight=weight, **masks)
    for result, wanted in zip(MatchCoherently(weight)(features, features, scene, None), expected, strict=True):
        assert torch.equal(result, wanted)


def test_folds_near_the_hole_what_lies_there_in_the_whole(scene: Scene, features: Tensor) -> None:
    match = MatchCoherently(0)(features, features, scene, None)
    whole = mean_of_copies(match, features, (features.shape[2], features.shape[3]), features)
    place = (..., scene.near.rows, scene.near.columns)
    assert torch.equal(Copies(scene, match, mean_of_copies).fold(features, features[place]), whole[place])


def weighed_sum(match: patchswap.Match, key: Tensor, size: tuple[int, int], temperature: float) -> Tensor:
    """The definition, patch after patch, in float64."""
    height, width = size
    total, weights = torch.zeros(key.shape[1], height, width, dtype=torch.float64), torch.zeros(height, width).double()
    for row in range(height - 2):
        for column in range(width - 2):
            index = int(match.index[0, row, column])
            if index < 0:
                continue
            top, left = divmod(index, key.shape[3] - 2)
            weight = torch.exp(match.score[0, row, column].double() / temperature)
            total[:, row : row + 3, column : column + 3] += weight * key[0, :, top : top + 3, left : left + 3].double()
            weights[row : row + 3, column : column + 3] += weight
    return torch.where(weights > 0, total / weights, 0.0)[None]


@pytest.mark.parametrize("temperature", [0.02, 0.2, 5.0])
def test_copies_count_by_their_scores(scene: Scene, features: Tensor, temperature: float) -> None:
    match = MatchCoherently(0)(features, features, scene, None)
    size = (features.shape[2], features.shape[3])
    result = WeighByScore(temperature)(match, features, size, None)
    torch.testing.assert_close(result.double(), weighed_sum(match, features, size, temperature), rtol=1e-5, atol=1e-6)


def test_equal_scores_give_the_mean(scene: Scene, features: Tensor) -> None:
    match = MatchCoherently(0)(features, features, scene, None)
    alike = patchswap.Match(match.index, torch.where(match.index < 0, -torch.inf, 0.4))
    size = (features.shape[2], features.shape[3])
    torch.testing.assert_close(
        WeighByScore(0.2)(alike, features, size, features), mean_of_copies(alike, features, size, features)
    )


def two_scales(seed: int) -> tuple[Scene, Copies]:
    """A window, twice, at its finer scale, and what was copied at its coarser one: not the same in both."""
    generator = torch.Generator().manual_seed(seed)
    (window, *_) = find_windows(strokes(150, 201, generator, kind="thick").numpy(), scales=[75, 150])
    coarser, scene = make_scenes([window, window], torch.device("cpu"))
    features = torch.rand(2, 8, *coarser.own_cells.shape[2:], generator=generator)
    return scene, Copies(coarser, MatchCoherently(0)(features, features, coarser, None), mean_of_copies)


@pytest.mark.parametrize("seed", range(5))
def test_coarser_offsets_grow_with_the_scale(seed: int) -> None:
    scene, copies = two_scales(seed)
    keys = keys_of_coarser_scale(copies, scene)
    assert keys.shape == scene.queries.shape
    width, coarse_width = keys.shape[2], copies.match.index.shape[2]
    (top, left), (coarse_top, coarse_left) = scene.corners[0], copies.scene.corners[0]
    found = 0
    for sample, row, column in scene.queries.nonzero().tolist():
        coarse_row = ((CELL * row + top) // 2 - coarse_top) // CELL
        coarse_column = ((CELL * column + left) // 2 - coarse_left) // CELL
        coarse_row = min(max(coarse_row, 0), copies.match.index.shape[1] - 1)
        coarse_column = min(max(coarse_column, 0), coarse_width - 1)
        index = int(copies.match.index[sample, coarse_row, coarse_column])
        expected = -1
        if index >= 0:
            key_row = row + 2 * (index // coarse_width - coarse_row)
            key_column = column + 2 * (index % coarse_width - coarse_column)
            if 0 <= key_row < keys.shape[1] and 0 <= key_column < width and scene.keys[sample, key_row, key_column]:
                expected = key_row * width + key_column
        assert keys[sample, row, column] == expected
        found += expected >= 0
    assert found > 0
    assert (keys[~scene.queries] == -1).all()


def test_a_coarser_offset_that_fits_as_well_is_taken() -> None:
    """All keys are alike, so the arg-max is the first one; the coarser scale's offsets agree with each other."""
    scene, copies = two_scales(0)
    features = torch.ones(2, 8, *scene.own_cells.shape[2:])
    alone = MatchCoherently(0.1)(features, features, scene, None).index
    candidates = keys_of_coarser_scale(copies, scene)
    together = MatchCoherently(0.1)(features, features, scene, copies).index
    assert (together[scene.queries] >= 0).all()
    taken = (together == candidates) & (candidates >= 0)
    assert taken.sum() > ((alone == candidates) & (candidates >= 0)).sum()


def test_a_scale_that_copies_nothing_gives_no_candidates(scene: Scene, features: Tensor) -> None:
    nothing = patchswap.Match(torch.full_like(scene.queries, -1, dtype=torch.int64), torch.zeros(scene.queries.shape))
    copies = Copies(scene, nothing, mean_of_copies)
    assert (keys_of_coarser_scale(copies, scene) == -1).all()
    for result, wanted in zip(
        MatchCoherently(0.3)(features, features, scene, copies),
        MatchCoherently(0.3)(features, features, scene, None),
        strict=True,
    ):
        assert torch.equal(result, wanted)

"""Matching and copying at one scale, against the plain operators."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import patchswap
from inpaint.mask import center
from inpaint.matching import Copies, MatchCoherently, WeighByScore, mean_of_copies
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
    whole = mean_of_copies(match, features, features)
    place = (..., scene.near.rows, scene.near.columns)
    assert torch.equal(Copies(scene, match, mean_of_copies).fold(features, features[place]), whole[place])


def test_a_match_need_not_know_its_grid(scene: Scene, features: Tensor) -> None:
    """As one of a matcher of one's own; pixels are copied by it as cells are."""
    match = MatchCoherently(0)(features, features, scene, None)
    pixels = F.interpolate(features, scale_factor=4)
    expected = Copies(scene, match, mean_of_copies).fold(features)
    copied = Copies(scene, patchswap.Match(*match), mean_of_copies).fold(pixels)
    assert torch.equal(copied, F.interpolate(expected, scale_factor=4))


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
    result = WeighByScore(temperature)(match, features, None)
    torch.testing.assert_close(result.double(), weighed_sum(match, features, size, temperature), rtol=1e-5, atol=1e-6)


def test_equal_scores_give_the_mean(scene: Scene, features: Tensor) -> None:
    match = MatchCoherently(0)(features, features, scene, None)
    alike = patchswap.Match(match.index, torch.where(match.index < 0, -torch.inf, 0.4), match.grid)
    torch.testing.assert_close(WeighByScore(0.2)(alike, features, features), mean_of_copies(alike, features, features))

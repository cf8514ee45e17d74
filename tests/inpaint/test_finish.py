"""Finishing steps one by one, on scenes of real windows and matches that the tests make up."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import patchswap
from inpaint.finish import KeepColours, Unfinished, level_at_rim, restore_detail, whole_cells
from inpaint.mask import center
from inpaint.matching import Copies, mean_of_copies
from inpaint.pyramid import low_frequencies
from inpaint.scene import Scene, make_scenes
from inpaint.window import find_windows


def unfinished(scene: Scene, part: Tensor, index: Tensor) -> Unfinished:
    """What steps see of a scale whose queries took the keys of ``index``."""
    match = patchswap.Match(index, torch.zeros(index.shape).masked_fill(index < 0, -torch.inf))
    return Unfinished(part, Copies(scene, match, mean_of_copies))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scene_of(hole: Tensor) -> Scene:
    """Of a picture so small that all of it is one window."""
    windows = find_windows(hole.numpy(), scales=[min(hole.shape)])
    assert windows[0].crop == (0, 0, *hole.shape) and len(windows) == 1
    return make_scenes(windows, torch.device("cpu"))[0]


def whole_picture(height: int, width: int, side: int) -> tuple[Tensor, Scene]:
    hole = center(height, width, side)
    return hole, scene_of(hole)


@pytest.mark.parametrize("size", [(58, 62), (64, 64), (61, 47)])
def test_lost_detail_is_the_error_of_the_matched_patches(size: tuple[int, int]) -> None:
    """Against one pass over all patches: every pixel is the mean of what the patches that lie on it say."""
    hole, scene = whole_picture(*size, 21)
    part, painted = noise(1, 3, *size), noise(1, 3, *size, seed=1)
    keys = scene.keys[0].flatten().nonzero()[:, 0]
    chosen = keys[torch.randint(len(keys), scene.queries.shape, generator=torch.Generator().manual_seed(2))]
    index = torch.where(scene.queries, chosen, -1)
    restored = restore_detail(painted, unfinished(scene, part, index))

    error = F.pad(part - painted, (0, -size[1] % 4, 0, -size[0] % 4))[0]
    total, count = torch.zeros_like(error), torch.zeros_like(error)
    for row, column in scene.queries[0].nonzero().tolist():
        top, left = divmod(int(index[0, row, column]), index.shape[2])
        place = (slice(None), slice(4 * row, 4 * row + 12), slice(4 * column, 4 * column + 12))
        total[place] += error[:, 4 * top : 4 * top + 12, 4 * left : 4 * left + 12]
        count[place] += 1
    expected = painted[0] + (total / count.clamp(min=1))[:, : size[0], : size[1]]
    assert restored.shape == painted.shape
    assert torch.allclose(restored[0][:, hole], expected[:, hole], atol=1e-5)


def test_what_the_decoder_loses_everywhere_is_restored() -> None:
    """A picture that is the same in all cells, of which the decoder keeps the mean alone."""
    hole, scene = whole_picture(56, 64, 20)
    tile = noise(3, 4, 4)
    truth = tile.repeat(1, 14, 16)[None]
    painted = tile.mean((1, 2))[None, :, None, None].expand_as(truth).contiguous()
    features = F.pixel_unshuffle(truth, 4)
    index = patchswap.match(features, features, query_mask=scene.queries, key_mask=scene.keys).index
    part = truth.masked_fill(hole, 0)
    restored = restore_detail(painted, unfinished(scene, part, index))
    assert torch.allclose(restored[..., hole], truth[..., hole], atol=1e-5)


def test_what_is_off_at_the_rim_is_spread_over_the_hole() -> None:
    """Seen on the known pixels that matched patches cover, and nowhere else."""
    hole, scene = whole_picture(58, 62, 22)
    part = noise(1, 3, 58, 62)
    covered = F.max_pool2d(F.pad(scene.queries[:, None].float(), (2, 2, 2, 2)), 3, stride=1) > 0
    seen = (F.interpolate(covered.float(), scale_factor=4)[..., :58, :62] > 0) & ~scene.unknown
    painted = part - torch.where(seen, 0.25, 7.0)
    index = torch.where(scene.queries, 0, -1)
    levelled = level_at_rim(painted, unfinished(scene, part, index))
    assert torch.allclose((levelled - painted)[..., hole], torch.tensor(0.25), atol=1e-5)


def test_holes_of_other_windows_say_nothing_about_the_rim() -> None:
    """Unknown pixels are no rim, even where the window does not fill them."""
    holes = center(64, 64, 20).numpy()
    (window,) = find_windows(holes, scales=[64])
    unknown = window.unknown.copy()
    unknown[22:42, 44:50] = True  # right of the hole, where its patches lie
    level = replace(window.levels[0], unknown=unknown)
    (scene,) = make_scenes([replace(window, unknown=unknown, levels=(level,))], torch.device("cpu"))
    part = noise(1, 3, 64, 64)
    painted = part - torch.where(scene.unknown, 7.0, 0.25)
    levelled = level_at_rim(painted, unfinished(scene, part, torch.where(scene.queries, 0, -1)))
    own = torch.from_numpy(window.own)
    assert torch.allclose((levelled - painted)[..., own], torch.tensor(0.25), atol=1e-5)


def test_colours_are_those_of_the_coarser_scale() -> None:
    """Only frequencies of the part that are low, and only those of the picture that are not."""
    _, scene = whole_picture(64, 64, 20)
    part, painted = torch.full((1, 3, 64, 64), 0.2), noise(1, 3, 64, 64)
    kept = KeepColours(4)(painted, unfinished(scene, part, torch.where(scene.queries, 0, -1)))
    assert torch.allclose(kept, painted - low_frequencies(painted, 4) + 0.2, atol=1e-5)
    assert abs(float(kept.mean()) - 0.2) < 1e-2 < abs(float(painted.mean()) - 0.2)


@pytest.mark.parametrize("step", [restore_detail, level_at_rim])
def test_without_a_match_nothing_is_added(step) -> None:
    hole = torch.zeros(9, 30, dtype=torch.bool)
    hole[3:6, ::5] = True
    scene = scene_of(hole)
    assert not scene.is_matched
    painted = noise(1, 3, 9, 30)
    work = unfinished(scene, noise(1, 3, 9, 30, seed=1), torch.full(scene.queries.shape, -1))
    assert torch.equal(step(painted, work), painted)


@pytest.mark.parametrize("step", [restore_detail, level_at_rim, KeepColours(4), KeepColours(8)])
@pytest.mark.parametrize("size", [(13, 40), (57, 58)])
def test_steps_leave_their_arguments_alone(step, size: tuple[int, int]) -> None:
    _, scene = whole_picture(*size, 5)
    painted, part = noise(1, 3, *size), noise(1, 3, *size, seed=1)
    before = painted.clone(), part.clone()
    result = step(painted, unfinished(scene, part, torch.where(scene.queries, 0, -1)))
    assert result.shape == painted.shape and torch.isfinite(result).all()
    assert torch.equal(painted, before[0]) and torch.equal(part, before[1])


def test_steps_take_batches() -> None:
    holes = [center(64, 64, 20).numpy(), np.roll(center(64, 64, 20).numpy(), 8, axis=1)]
    windows = [find_windows(hole, scales=[64])[0] for hole in holes]
    assert windows[0].shape == windows[1].shape
    (scene,) = make_scenes(windows, torch.device("cpu"))
    painted, part = noise(2, 3, 64, 64), noise(2, 3, 64, 64, seed=1)
    index = torch.where(scene.queries, 0, -1)
    result = restore_detail(painted, unfinished(scene, part, index))
    for number, window in enumerate(windows):
        only = slice(number, number + 1)
        (alone,) = make_scenes([window], torch.device("cpu"))
        expected = restore_detail(painted[only], unfinished(alone, part[only], index[only]))
        own = alone.own.expand_as(expected)
        assert torch.allclose(result[only][own], expected[own], atol=1e-6)


def test_whole_cells() -> None:
    picture = noise(1, 3, 9, 12)
    assert whole_cells(picture).shape == (1, 3, 12, 12)
    assert torch.equal(whole_cells(picture)[..., :9, :], picture) and not whole_cells(picture)[..., 9:, :].any()
    assert whole_cells(picture[..., :8, :]).shape == (1, 3, 8, 12)

"""The finest detail of a hole that was filled at a coarser scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inpaint.grain import enlarge_with_grain
from inpaint.pyramid import enlarge
from inpaint.scene import Scene, make_scenes
from inpaint.window import Window, find_windows, halved


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def window_of(hole: np.ndarray, times: int) -> tuple[Window, Scene]:
    (window,) = find_windows(hole, scales=[halved(min(hole.shape), times)])
    (scene,) = make_scenes([window], torch.device("cpu"))
    return window, scene


def hole_in(height: int, width: int, top: int, left: int, side: int) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[top : top + side, left : left + side] = True
    return hole


def shifted(scene: Scene, cells: int) -> Tensor:
    """The match of every query with the patch so many cells to the right."""
    rows, columns = scene.queries.shape[1:]
    here = torch.arange(rows * columns).view(1, rows, columns)
    return torch.where(scene.queries, here + cells, -1)


def own_pixels(window: Window, scene: Scene, size: tuple[int, int]) -> Tensor:
    """Of the colours near the hole: pixels that the window fills."""
    factor = 1 << scene.halvings
    (top, left), (down, right) = scene.corners[0], scene.near_pixels[:2]
    rows, columns = factor * (top + down), factor * (left + right)
    return torch.from_numpy(window.own)[rows : rows + size[0], columns : columns + size[1]]


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(256, 320), (203, 301)])
@pytest.mark.parametrize("place", ["inside", "upper left", "lower right"])
def test_a_match_carries_the_true_grain_of_a_periodic_picture(times: int, height: int, width: int, place: str) -> None:
    """With the period of the shift, what is carried equals what the hole held, in the outermost cells too."""
    factor = 1 << times
    corners = {"inside": (80, 120), "upper left": (0, 0), "lower right": (height - 20, width - 20)}
    window, scene = window_of(hole_in(height, width, *corners[place], 20), times)
    shift = -5 if place == "lower right" else 5  # cells
    period = 20 * factor
    picture = noise(1, 3, height, period).repeat(1, 1, 1, width // period + 1)[..., :width]
    crop = picture[..., window.crop.rows, window.crop.columns]
    coarse = F.avg_pool2d(crop, factor, ceil_mode=True, count_include_pad=False)
    fine, part = scene.cut(crop, factor), scene.cut(coarse)
    coloured = enlarge_with_grain(part, shifted(scene, shift), scene, fine)
    near = scene.near_pixels.scaled(factor)
    truth = fine[..., near.rows, near.columns]
    assert coloured.shape == truth.shape
    own = own_pixels(window, scene, coloured.shape[2:])
    assert own.sum() == window.own.sum()
    if place != "inside":  # within two coarse pixels of the border, enlarging sees repeated pixels
        edge = slice(2 * factor, None) if place == "upper left" else slice(None, -2 * factor)
        own, coloured, truth = own[edge, edge], coloured[..., edge, edge], truth[..., edge, edge]
    assert torch.allclose(coloured[..., own], truth[..., own], atol=1e-5)


def test_a_batch_of_windows_is_a_batch_of_single_ones() -> None:
    holes = [hole_in(256, 256, 100, 100, 16), hole_in(256, 256, 100, 100, 16)]
    holes[1][100:104, 100:104] = False
    windows = [window_of(hole, 1)[0] for hole in holes]
    (scene,) = make_scenes(windows, torch.device("cpu"))
    fine = scene.cut(noise(2, 3, *windows[0].crop.size), 2)
    part = F.avg_pool2d(fine, 2, ceil_mode=True)
    together = enlarge_with_grain(part, shifted(scene, 3), scene, fine)
    for number, window in enumerate(windows):
        (alone,) = make_scenes([window], torch.device("cpu"))
        only = slice(number, number + 1)
        single = enlarge_with_grain(part[only], shifted(alone, 3), alone, fine[only])
        assert torch.allclose(single, together[only], atol=1e-6)


def test_without_keys_the_result_is_only_enlarged() -> None:
    hole = hole_in(32, 90, 8, 20, 12)
    hole[16, ::4] = True
    window, scene = window_of(hole, 1)
    assert not scene.is_matched
    result, fine = noise(1, 3, *scene.size), scene.cut(noise(1, 3, *window.crop.size), 2)
    coloured = enlarge_with_grain(result, torch.full(scene.queries.shape, -1), scene, fine)
    place = scene.near_pixels.scaled(2)
    assert torch.allclose(coloured, enlarge(result, factor=2)[..., place.rows, place.columns][..., : fine.shape[2], :])


@pytest.mark.parametrize(("top", "left"), [(0, 0), (0, 100), (187, 285), (90, 285)])
def test_holes_at_borders_are_covered(top: int, left: int) -> None:
    """Grain comes from keys even where no patch has the cell as its middle."""
    window, scene = window_of(hole_in(203, 301, top, left, 16), 1)
    fine = scene.cut(noise(1, 3, *window.crop.size), 2)
    part = torch.full((1, 3, *scene.size), 0.5)
    index = torch.where(scene.queries, scene.keys[0].flatten().nonzero()[0, 0], -1)
    coloured = enlarge_with_grain(part, index, scene, fine)
    own = own_pixels(window, scene, coloured.shape[2:])
    assert own.sum() == window.own.sum()
    assert (coloured[..., own] != 0.5).float().mean() > 0.99 and coloured.min() >= 0 and coloured.max() <= 1

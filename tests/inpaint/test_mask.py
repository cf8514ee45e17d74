from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint import mask

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_center_is_a_square_in_the_middle() -> None:
    hole = mask.center(10, 13, 4)
    assert hole.shape == (10, 13) and hole.dtype == torch.bool
    assert hole.sum() == 16
    assert hole[3:7, 4:8].all()


@pytest.mark.parametrize("side", [0, -1, 11])
def test_center_refuses_what_does_not_fit(side: int) -> None:
    with pytest.raises(ValueError, match=f"got {side}; choose a smaller hole"):
        mask.center(10, 13, side)


@pytest.mark.parametrize("make", [mask.center, mask.rectangle, mask.strokes])
def test_a_mask_of_no_pixels_is_refused(make) -> None:
    with pytest.raises(ValueError, match="at least 1x1"):
        make(0, 5, 1) if make is mask.center else make(0, 5, seeded(0))


def test_strokes_refuses_an_unknown_kind() -> None:
    with pytest.raises(ValueError, match="thin, medium, thick, got 'huge'"):
        mask.strokes(32, 32, seeded(0), kind="huge")  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**31))
def test_a_random_rectangle_is_a_rectangle_and_leaves_known_pixels(size: tuple[int, int], seed: int) -> None:
    hole = mask.rectangle(*size, seeded(seed), smallest=3, largest=40)
    assert hole.any()
    rows, columns = hole.any(1).sum(), hole.any(0).sum()
    assert hole.sum() == rows * columns
    assert rows <= max(1, 3 * size[0] // 4) and columns <= max(1, 3 * size[1] // 4)


@settings(max_examples=40, deadline=None)
@given(size=SIZES, seed=st.integers(0, 2**31), kind=st.sampled_from(["thin", "medium", "thick"]))
def test_strokes_never_cover_everything_and_follow_the_seed(size: tuple[int, int], seed: int, kind) -> None:
    hole = mask.strokes(*size, seeded(seed), kind=kind)
    assert hole.shape == size and not hole.all()
    assert torch.equal(hole, mask.strokes(*size, seeded(seed), kind=kind))


def test_thicker_kinds_cover_more_in_wider_strokes() -> None:
    def widest_run(kind) -> float:
        runs = [mask.strokes(256, 256, seeded(seed), kind=kind) for seed in range(40)]
        # Erode by 9 pixels: only strokes wider than that survive.
        eroded = [-torch.nn.functional.max_pool2d(-hole[None].float(), 9, 1) for hole in runs]
        return sum(float(each.sum()) for each in eroded)

    assert widest_run("thin") < widest_run("medium") < widest_run("thick")


def test_training_masks_mix_all_kinds_and_are_never_degenerate() -> None:
    generator = seeded(3)
    masks = [mask.training_mask(64, 64, generator) for _ in range(200)]
    square = mask.center(64, 64, 28)
    centres = sum(torch.equal(each, square) for each in masks)
    assert 30 < centres < 90
    assert all(each.any() and not each.all() for each in masks)


@settings(max_examples=60, deadline=None)
@given(size=SIZES, stride=st.sampled_from([1, 2, 4, 8]), seed=st.integers(0, 2**31))
def test_a_cell_is_hole_if_any_of_its_pixels_is(size: tuple[int, int], stride: int, seed: int) -> None:
    hole = torch.rand(2, *size, generator=seeded(seed)) < 0.05
    cells = mask.feature_hole(hole, stride)
    assert cells.shape == (2, -(-size[0] // stride), -(-size[1] // stride))
    for row in range(cells.shape[1]):
        for column in range(cells.shape[2]):
            pixels = hole[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
            assert torch.equal(cells[:, row, column], pixels.flatten(1).any(1))

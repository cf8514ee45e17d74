"""The depth of a hole: how often known pixels grow until it is gone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.depth import hole_depth
from inpaint.mask import center, strokes


def box_of(hole: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) around the hole."""
    rows, columns = (np.flatnonzero(hole.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def depth(hole: np.ndarray) -> int:
    return hole_depth(hole, box_of(hole))


@pytest.mark.parametrize(("side", "expected"), [(1, 1), (2, 1), (7, 4), (40, 20)])
def test_depth_is_the_way_to_the_middle(side: int, expected: int) -> None:
    assert depth(center(60, 70, side).numpy()) == expected


def test_nothing_is_known_beyond_the_border() -> None:
    hole = np.zeros((50, 60), bool)
    hole[:, :12] = True
    assert depth(hole) == 12


def test_holes_outside_the_box_do_not_count() -> None:
    hole = np.zeros((90, 90), bool)
    hole[4:9, 4:9] = True
    hole[30:80, 30:80] = True
    assert hole_depth(hole, (4, 4, 9, 9)) == 3
    assert hole_depth(hole, (30, 30, 80, 80)) == 25
    assert hole_depth(hole, (10, 10, 20, 20)) == 0


def test_without_a_known_pixel_it_is_the_longer_side() -> None:
    assert hole_depth(np.ones((30, 40), bool), (0, 0, 30, 40)) == 40


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_depth_is_how_often_known_pixels_grow_until_the_hole_is_gone(
    height: int, width: int, seed: int, inverted: bool
) -> None:
    hole = strokes(height, width, torch.Generator().manual_seed(seed), kind="medium").numpy() ^ inverted
    if not hole.any() or hole.all():
        return
    missing, steps = torch.from_numpy(hole)[None].float(), 0
    while missing.any():
        missing = -torch.nn.functional.max_pool2d(-missing, 3, stride=1, padding=1)
        steps += 1
    assert depth(hole) == steps


def test_a_large_hole_is_measured_in_squares() -> None:
    assert depth(center(1024, 1024, 400).numpy()) == 200
    for side in (600, 1201):
        assert depth(center(1500, 1600, side).numpy()) == pytest.approx(side / 2, abs=side / 128)

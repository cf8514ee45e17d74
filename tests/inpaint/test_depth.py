from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from inpaint.depth import DEEPEST, hole_depth
from inpaint.mask import center

KINDS = ["thin", "medium", "thick", "specks", "frame", "rectangles"]


def whole(hole: np.ndarray) -> tuple[int, int, int, int]:
    return 0, 0, *hole.shape


def steps_until_filled(hole: np.ndarray) -> int:
    """How often known pixels grow by one pixel, diagonals included, until no hole pixel is left."""
    steps = 0
    while hole.any():
        padded = np.pad(hole, 1, constant_values=True)
        height, width = hole.shape
        hole = np.logical_and.reduce([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)])
        steps += 1
    return steps


@pytest.mark.parametrize(("side", "depth"), [(1, 1), (2, 1), (7, 4), (40, 20)])
def test_depth_is_the_way_to_the_middle(side: int, depth: int) -> None:
    hole = center(60, 70, side).numpy()
    assert hole_depth(hole, whole(hole)) == depth
    top, left = ((length - side) // 2 for length in hole.shape)
    assert hole_depth(hole, (top, left, top + side, left + side)) == depth  # known pixels next to the box count


def test_nothing_is_known_beyond_the_border() -> None:
    hole = np.zeros((50, 60), bool)
    assert hole_depth(hole, whole(hole)) == 0
    hole[:, :12] = True
    assert hole_depth(hole, whole(hole)) == hole_depth(hole, (0, 0, 50, 12)) == 12
    hole[:] = True
    assert hole_depth(hole, whole(hole)) == 60


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.sampled_from(KINDS), st.booleans())
def test_depth_is_how_often_known_pixels_grow(make_hole, height: int, width: int, seed: int, kind, inverted) -> None:
    hole = make_hole(kind, height, width, seed) ^ inverted
    assume(not hole.all())
    assert hole_depth(hole, whole(hole)) == steps_until_filled(hole)


@settings(max_examples=10, deadline=None)
@given(st.integers(514, 700), st.integers(514, 700), st.integers(0, 2**31))
def test_large_holes_are_measured_on_squares(make_hole, height: int, width: int, seed: int) -> None:
    """Of two pixels here; up to two squares more than the truth, and never less."""
    hole = make_hole("rectangles", height, width, seed)
    truth = steps_until_filled(hole)
    assert truth <= hole_depth(hole, whole(hole)) <= truth + 4


def test_dust_and_scratches_are_not_deep_however_large_the_picture() -> None:
    hole = np.zeros((1024, 1024), bool)
    hole[::4, ::4] = True
    assert hole_depth(hole, whole(hole)) <= 4
    hole = np.zeros((7000, 7000), bool)
    places = np.arange(7000)
    hole[places, places] = True
    assert hole_depth(hole, whole(hole)) <= DEEPEST

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.cells import CELL, PATCH, pooled, rounded_up, touched
from patchswap.contract import patch_grid


def random_mask(height: int, width: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.random((height, width)) < random.choice([0, 0.02, 0.3, 1])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31), st.sampled_from([1, 2, 3, 4, 6, 8, 12, 32]))
def test_a_square_is_true_where_any_pixel_of_it_is(height: int, width: int, seed: int, side: int) -> None:
    mask = random_mask(height, width, seed)
    before = mask.copy()
    expected = [
        [mask[top : top + side, left : left + side].any() for left in range(0, width, side)]
        for top in range(0, height, side)
    ]
    result = pooled(mask, side)
    assert result.dtype == bool and np.array_equal(result, expected) and np.array_equal(mask, before)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**31))
def test_a_patch_is_touched_where_any_cell_of_it_is_true(height: int, width: int, seed: int) -> None:
    cells = random_mask(height, width, seed)
    result = touched(cells)
    assert result.shape == patch_grid(height, width, PATCH)
    for row, column in np.ndindex(result.shape):
        assert result[row, column] == cells[row : row + PATCH, column : column + PATCH].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 25), (25, 1), (2, 30), (3, 2), (2, 2)])
def test_a_map_too_small_for_a_patch_has_none(size: tuple[int, int]) -> None:
    """In the operator's form, (0, 0), however long the other side is."""
    assert touched(np.ones(size, bool)).shape == patch_grid(*size, PATCH) == (0, 0)


def test_rounding_up() -> None:
    assert [rounded_up(length, CELL) for length in (0, 1, 4, 5)] == [0, 4, 4, 8]
    assert np.array_equal(rounded_up(np.array([1, 16, 17]), 16), [16, 16, 32])

"""Where windows lie, and what is hole, query and key in them, against slow definitions from the whole hole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inpaint.cells import CELL, PATCH
from inpaint.clusters import find_clusters
from inpaint.depth import DEEPEST
from inpaint.errors import InpaintError
from inpaint.window import COARSEST, Box, Level, Window, find_windows, halved, halvings_of

KINDS = ["thin", "medium", "thick", "specks", "frame", "scratch", "rectangles", "one known pixel"]
holes = (st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**31), st.sampled_from(KINDS))


def squares(mask: np.ndarray, side: int) -> np.ndarray:
    """Squares of so many pixels in which any pixel is True."""
    rows, columns = (range(0, length, side) for length in mask.shape)
    by_rows = np.array([mask[row : row + side].any(0) for row in rows])
    return np.array([by_rows[:, column : column + side].any(1) for column in columns]).T


def patches(cells: np.ndarray) -> np.ndarray:
    """Patches with a True cell."""
    height, width = cells.shape
    if min(height, width) < PATCH:
        return np.zeros((0, 0), bool)
    reach = [(row, column) for row in range(PATCH) for column in range(PATCH)]
    size = (height - PATCH + 1, width - PATCH + 1)
    return np.any([cells[row : row + size[0], column : column + size[1]] for row, column in reach], axis=0)


def check_level(level: Level, window: Window, hole: np.ndarray, own: np.ndarray) -> None:
    factor = 1 << level.halvings
    height, width = level.size
    assert (height, width) == (-(-hole.shape[0] // factor), -(-hole.shape[1] // factor))
    part = level.part
    assert part.top % CELL == part.left % CELL == 0 and part.within(level.size) == part
    assert (part.bottom % CELL == 0 or part.bottom == height) and (part.right % CELL == 0 or part.right == width)
    crop, in_photograph = window.crop, part.scaled(factor).within(hole.shape)
    assert in_photograph.within((crop.bottom, crop.right)) == in_photograph
    assert in_photograph.top >= crop.top and in_photograph.left >= crop.left

    unknown = squares(hole, factor)[part.rows, part.columns]
    expected_own = squares(own, factor)
    assert expected_own.sum() == expected_own[part.rows, part.columns].sum() > 0  # no pixel lies beyond the part
    expected_own = expected_own[part.rows, part.columns]
    assert np.array_equal(level.unknown, unknown) and np.array_equal(level.own, expected_own)
    unknown_cells, own_cells = squares(unknown, CELL), squares(expected_own, CELL)
    assert np.array_equal(level.unknown_cells, unknown_cells) and np.array_equal(level.own_cells, own_cells)

    keys, queries = ~patches(unknown_cells), patches(own_cells)
    assert np.array_equal(level.keys, keys)
    assert np.array_equal(level.queries, queries if keys.any() else np.zeros_like(queries))
    near = np.zeros_like(own_cells)
    near[level.near.rows, level.near.columns] = True
    assert near[own_cells].all() and level.near.within(own_cells.shape) == level.near
    for row, column in np.argwhere(queries):
        assert near[row : row + PATCH, column : column + PATCH].all()


@settings(max_examples=60, deadline=None)
@given(*holes)
def test_windows_follow_from_the_hole(make_hole, height: int, width: int, seed: int, kind: str) -> None:
    hole = make_hole(kind, height, width, seed)
    check_windows(hole, find_windows(hole))


@settings(max_examples=40, deadline=None)
@given(*holes, st.data())
def test_so_do_windows_of_other_scales(make_hole, height: int, width: int, seed: int, kind: str, data) -> None:
    """Asked for, or because no more fits into the memory."""
    hole = make_hole(kind, height, width, seed)
    if data.draw(st.booleans()):
        largest = data.draw(st.sampled_from([0, 400, 4000, 40000]))
        windows = find_windows(hole, largest_part=largest)
        for window in windows:
            for level in window.levels[1:]:
                assert level.part.size[0] * level.part.size[1] <= largest
    else:
        times = data.draw(st.sets(st.integers(0, 5), min_size=1))
        sides = sorted({halved(min(hole.shape), number) for number in times})
        scales = [side for side in sides if side >= min(16, min(hole.shape))]
        windows = find_windows(hole, scales=scales or [min(hole.shape)])
        for window in windows:
            assert [min(level.size) for level in window.levels] == (scales or [min(hole.shape)])
    check_windows(hole, windows)


def check_windows(hole: np.ndarray, windows: list[Window]) -> None:
    owners = np.zeros(hole.shape, int)
    for window in windows:
        crop = window.crop
        assert crop.within(hole.shape) == crop
        assert np.array_equal(window.unknown, hole[crop.rows, crop.columns])
        own = np.zeros(hole.shape, bool)
        own[crop.rows, crop.columns] = window.own
        owners += own
        assert window.levels
        for level in window.levels:
            check_level(level, window, hole, own)
        for coarse, fine in zip(window.levels, window.levels[1:], strict=False):
            steps = coarse.halvings - fine.halvings
            assert steps > 0
            outer = coarse.part.scaled(1 << steps).within(fine.size)
            assert fine.part.within((outer.bottom, outer.right)) == fine.part
            assert fine.part.top >= outer.top and fine.part.left >= outer.left
    assert np.array_equal(owners, hole.astype(int))


@settings(max_examples=40, deadline=None)
@given(*holes)
def test_wide_holes_start_where_they_are_narrow(make_hole, height: int, width: int, seed: int, kind: str) -> None:
    hole = make_hole(kind, height, width, seed)
    for cluster, window in zip(find_clusters(hole), find_windows(hole), strict=True):
        times = [level.halvings for level in window.levels]
        assert times == list(range(times[0], -1, -1))
        assert min(window.levels[0].size) >= min(height, width, COARSEST)
        assert window.depth == cluster.depth
        if times[0] > 0:
            assert cluster.depth > DEEPEST << (times[0] - 1)
        if cluster.depth > DEEPEST << times[0]:
            assert min(height, width) < COARSEST << (times[0] + 1)


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((512, 512), 224, [(128, 128), (256, 256), (512, 512)]),
        ((512, 512), 60, [(256, 256), (512, 512)]),
        ((512, 512), 40, [(512, 512)]),
        ((427, 640), 300, [(107, 160), (214, 320), (427, 640)]),
        ((190, 190), 180, [(190, 190)]),
        ((40, 9), 8, [(40, 9)]),
    ],
)
def test_scales_of_centre_holes(size: tuple[int, int], side: int, expected: list[tuple[int, int]]) -> None:
    hole = np.zeros(size, bool)
    top, left = ((length - side) // 2 for length in size)
    hole[top : top + side, left : left + side] = True
    (window,) = find_windows(hole)
    assert [level.size for level in window.levels] == expected


def test_no_hole_has_no_window() -> None:
    assert find_windows(np.zeros((40, 50), bool)) == []


def test_a_single_hole_pixel_without_a_known_one() -> None:
    (window,) = find_windows(np.ones((1, 1), bool))
    assert window.crop == (0, 0, 1, 1) and window.own.all() and not window.levels[0].queries.any()


def test_what_is_far_away_does_not_matter() -> None:
    one, other = np.zeros((900, 1000), bool), np.zeros((900, 1000), bool)
    one[40:60, 31:50] = True
    other[800:870, 850:910] = True

    def places(hole: np.ndarray) -> list[object]:
        return [(window.crop, [level.part for level in window.levels]) for window in find_windows(hole)]

    assert places(one | other) == places(one) + places(other)


@pytest.mark.parametrize("seed", range(150))
def test_windows_of_equal_shape_can_be_stacked(seed: int) -> None:
    """All that a batch is made of: crops, masks, parts of crops at each scale, and at the photograph's own."""
    random = np.random.default_rng(seed)
    height, width = random.integers(200, 900, 2)
    hole, side = np.zeros((height, width), bool), random.integers(1, 12)
    for row, column in random.integers(0, (height, width), (random.integers(2, 30), 2)):
        hole[row : row + side, column : column + side] = True
    for column in random.integers(0, width, random.integers(0, 4)):
        hole[-side:, column] = True
    possible = [halved(min(height, width), times) for times in range(4)]
    scales = sorted(set(random.choice(possible, random.integers(1, 5)).tolist()))
    groups: dict[object, list[Window]] = {}
    for window in find_windows(hole, scales=scales):
        groups.setdefault(window.shape, []).append(window)
    for windows in groups.values():
        assert len({window.crop.size for window in windows}) == 1
        assert len({window.own.shape for window in windows}) == 1
        for levels in zip(*(window.levels for window in windows), strict=True):
            assert len({(level.halvings, level.part.size) for level in levels}) == 1
            assert len({level.queries.any() for level in levels}) == 1
            for name in ("unknown", "own", "unknown_cells", "own_cells", "queries", "keys"):
                assert len({getattr(level, name).shape for level in levels}) == 1
        for coarse, fine in zip(windows[0].levels, windows[0].levels[1:], strict=False):
            step = 1 << (coarse.halvings - fine.halvings)  # parts begin at the same place in a coarse pixel
            fine_levels = [level for window in windows for level in window.levels if level.halvings == fine.halvings]
            assert len({(level.part.top % step, level.part.left % step) for level in fine_levels}) == 1
        last = [window.levels[-1] for window in windows]
        assert len({level.part.scaled(1 << level.halvings).within(hole.shape).size for level in last}) == 1


@pytest.mark.parametrize("scales", [[], [300, 150], [150, 150], [8, 64], [601], [-5], [150, 200]])
def test_unfit_scales_are_refused(scales: list[int]) -> None:
    hole = np.zeros((600, 800), bool)
    hole[3, 4] = True
    got = ", ".join(map(str, scales)) or "none"
    message = rf"growing short sides out of 19, 38, 75, 150, 300, 600 \(this picture's, halved\), got {got};"
    with pytest.raises(InpaintError, match=message):
        find_windows(hole, scales=scales)


def test_sides_are_halvings() -> None:
    assert halvings_of([150, 600], (600, 800)) == [2, 0]
    assert halvings_of([17, 33], (131, 33)) == [1, 0]
    assert halvings_of([5], (5, 70)) == [0]
    assert halvings_of([1], (1, 1)) == [0]
    with pytest.raises(InpaintError, match="out of 5 "):
        halvings_of([3], (5, 70))


def test_a_small_limit_leaves_fine_scales_out_and_starts_at_coarser_ones() -> None:
    hole = np.zeros((1200, 1000), bool)
    hole[[5, 1190]] = True
    assert [level.halvings for level in find_windows(hole)[0].levels] == [0]
    (window,) = find_windows(hole[:600], largest_part=40_000)
    assert window.levels[0].halvings > 0 and window.levels[-1].halvings > 0 and window.depth <= DEEPEST
    assert max(level.part.size[0] * level.part.size[1] for level in window.levels) <= 40_000
    hole[:] = True
    hole[0, 0] = False
    assert [level.halvings for level in find_windows(hole, largest_part=0)[0].levels] == [3]


def test_boxes() -> None:
    box = Box(1, 2, 4, 8)
    assert box.size == (3, 6) and box.scaled(4) == (4, 8, 16, 32) and box.moved(-2, 1) == (-1, 3, 2, 9)
    assert box.moved(-2, 1).within((1, 5)) == (0, 3, 1, 5)
    assert np.zeros((9, 9))[box.rows, box.columns].shape == box.size


def discs(height: int, width: int, count: int) -> np.ndarray:
    """Discs of radius 2 to 5 in random places."""
    random = np.random.default_rng(0)
    hole = np.zeros((height, width), bool)
    for _ in range(count):
        radius = int(random.integers(2, 6))
        row, column = (int(random.integers(radius, length - radius)) for length in (height, width))
        rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
        place = hole[row - radius : row + radius + 1, column - radius : column + radius + 1]
        place |= rows**2 + columns**2 <= radius**2
    return hole


def square_holes(height: int, width: int, side: int, *corners: tuple[int, int]) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    for top, left in corners:
        hole[top : top + side, left : left + side] = True
    return hole


@pytest.mark.parametrize(
    ("hole", "windows", "most_pixels"),
    [
        pytest.param(square_holes(2560, 3840, 20, (40, 40), (2500, 3780)), 2, 0.1e6, id="case 23: two corners"),
        pytest.param(discs(2560, 3840, 300), None, 5e6, id="case 24: dust"),
        pytest.param(square_holes(2560, 3840, 200, (1180, 1820)), 1, 1e6, id="case 25: one hole"),
        pytest.param(square_holes(64, 12000, 20, (20, 20), (20, 11960)), 2, 0.1e6, id="case 27: the ends of a strip"),
    ],
)
def test_small_holes_of_a_large_photograph_cost_what_they_cost_alone(
    hole: np.ndarray, windows: int | None, most_pixels: float
) -> None:
    """Pixels that are worked on, over all scales; the photograph's own scale is never left out."""
    found = find_windows(hole)
    assert windows is None or len(found) == windows
    assert all(window.levels[-1].halvings == 0 for window in found)
    sizes = [level.part.size for window in found for level in window.levels]
    assert sum(height * width for height, width in sizes) <= most_pixels


def test_case_26_a_quarter_of_a_large_photograph_is_searched_at_a_coarser_scale() -> None:
    hole = np.zeros((2560, 3840), bool)
    hole[640:1920, 960:2880] = True
    (window,) = find_windows(hole)
    assert window.levels[-1].halvings == 1 and window.levels[0].halvings > 1

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from inpaint.scales import COARSEST, enlarge, hole_depth, low_frequencies, scale_sizes, shrink, window_around

from inpaint.errors import InpaintError
from inpaint.mask import center, strokes


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
def test_wide_holes_start_at_a_scale_where_they_are_narrow(size, side: int, expected) -> None:
    assert scale_sizes(center(*size, side)) == expected


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 2**31))
def test_the_last_size_is_the_photograph_and_the_first_is_not_tiny(height: int, width: int, seed: int) -> None:
    hole = strokes(height, width, torch.Generator().manual_seed(seed), kind="thick")
    assume(hole.any())
    sizes = scale_sizes(hole)
    assert sizes[-1] == (height, width)
    assert min(sizes[0]) >= min(height, width, COARSEST)


def test_a_window_that_is_too_large_is_met_by_coarser_scales() -> None:
    scratches = torch.zeros(1000, 800, dtype=torch.bool)
    scratches[[5, 990]] = True
    assert scale_sizes(scratches) == [(1000, 800)]
    assert scale_sizes(scratches, largest_window=3e5) == [(500, 400), (1000, 800)]


def test_asked_for_scales_are_short_sides() -> None:
    assert scale_sizes(center(600, 800, 9), [150, 300]) == [(150, 200), (300, 400)]


@pytest.mark.parametrize(("side", "depth"), [(1, 1), (2, 1), (7, 4), (40, 20)])
def test_depth_is_the_way_to_the_middle(side: int, depth: int) -> None:
    assert hole_depth(center(60, 70, side)) == depth


def test_nothing_is_known_beyond_the_border() -> None:
    hole = torch.zeros(50, 60, dtype=torch.bool)
    hole[:, :12] = True
    assert hole_depth(hole) == 12
    assert hole_depth(torch.zeros(5, 5, dtype=torch.bool)) == 0
    assert hole_depth(center(1024, 1024, 400)) == 200


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_depth_is_how_often_known_pixels_grow_until_the_hole_is_gone(
    height: int, width: int, seed: int, inverted: bool
) -> None:
    hole = strokes(height, width, torch.Generator().manual_seed(seed), kind="medium") ^ inverted
    assume(not hole.all())
    missing, steps = hole[None].float(), 0
    while missing.any():
        missing = -torch.nn.functional.max_pool2d(-missing, 3, stride=1, padding=1)
        steps += 1
    assert hole_depth(hole) == steps


def test_a_hole_in_every_cell_of_a_large_picture_is_one_cell_deep() -> None:
    hole = torch.zeros(1024, 1024, dtype=torch.bool)
    hole[::4, ::4] = True
    assert hole_depth(hole) == 4


@pytest.mark.parametrize("scales", [[], [300, 150], [150, 150], [8, 64], [601], [-5]])
def test_unfit_scales_are_refused(scales: list[int]) -> None:
    with pytest.raises(InpaintError, match="growing short sides from 16 to 600"):
        scale_sizes(center(600, 800, 9), scales)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(8, 60), st.integers(8, 60), st.floats(0.2, 1.0), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1)
)
def test_shrinking_never_looks_into_the_hole(
    height: int, width: int, factor: float, seed: int, one: float, other: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, height, width, generator=generator)
    hole = torch.rand(1, height, width, generator=generator) < 0.2
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    results = [shrink(torch.where(hole[:, None], held, image), hole, size) for held in (one, other)]
    assert torch.equal(results[0][1], results[1][1])
    known = ~results[0][1].unsqueeze(1).expand(-1, 3, -1, -1)
    assert torch.equal(results[0][0][known], results[1][0][known])
    assert results[0][0].min() >= 0 and results[0][0].max() <= 1


def test_a_flat_picture_stays_flat_beside_the_hole() -> None:
    image, hole = torch.full((1, 3, 40, 40), 0.7), center(40, 40, 14)[None]
    image[hole.unsqueeze(1).expand_as(image)] = 0
    shrunk, smaller = shrink(image, hole, (20, 20))
    assert torch.allclose(shrunk[~smaller.unsqueeze(1).expand_as(shrunk)], torch.tensor(0.7))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 2**31), st.integers(0, 30))
def test_the_window_holds_the_hole_its_context_and_whole_cells(
    height: int, width: int, seed: int, context: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    hole = torch.zeros(height, width, dtype=torch.bool)
    top, left = (int(torch.randint(length, (), generator=generator)) for length in (height, width))
    hole[top : top + 7, left : left + 5] = True
    for span, axis, length in zip(window_around(hole, context), (1, 0), (height, width), strict=True):
        occupied = hole.any(dim=axis).nonzero()
        first, last = int(occupied[0]), int(occupied[-1]) + 1
        assert span.start % 4 == 0 and (span.stop % 4 == 0 or span.stop == length)
        assert span.start <= max(0, first - context) and span.stop >= min(length, last + context)
        assert 0 <= span.start < span.stop <= length


def test_low_frequencies_keep_the_mean_and_drop_fine_stripes() -> None:
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1
    assert torch.allclose(low_frequencies(stripes, 16), torch.tensor(0.5), atol=0.05)
    assert low_frequencies(torch.full((1, 3, 5, 3), 0.25), 16).sub(0.25).abs().max() < 1e-6


def test_enlarging_stays_in_range() -> None:
    checks = (torch.arange(36).view(1, 1, 6, 6) % 2).float().expand(-1, 3, -1, -1)
    enlarged = enlarge(checks, (23, 31))
    assert enlarged.shape == (1, 3, 23, 31) and enlarged.min() >= 0 and enlarged.max() <= 1

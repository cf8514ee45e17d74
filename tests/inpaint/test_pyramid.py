"""The steps between scales: nothing comes out of a hole, values stay in their range."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from inpaint.mask import center
from inpaint.pyramid import enlarge, halve, low_frequencies, resize


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**31), st.floats(0, 1), st.floats(0, 1))
def test_halving_never_looks_into_the_hole(height: int, width: int, seed: int, one: float, other: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(2, 3, height, width, generator=generator)
    unknown = torch.rand(2, 1, height, width, generator=generator) < 0.2
    results = [halve(torch.where(unknown, held, picture), unknown) for held in (one, other)]
    assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][0], results[1][0])
    assert results[0][0].shape == (2, 3, (height + 1) // 2, (width + 1) // 2)
    assert results[0][0].min() >= 0 and results[0][0].max() <= 1


def means_of_known(picture: Tensor, unknown: Tensor) -> Tensor:
    """What halving gives, (3, H, W) and (H, W) -> (3, H', W') in float64, pixel by pixel; 0 where nothing is known."""
    height, width = unknown.shape
    result = torch.zeros(3, (height + 1) // 2, (width + 1) // 2, dtype=torch.float64)
    for row in range(result.shape[1]):
        for column in range(result.shape[2]):
            total, weights = torch.zeros(3, dtype=torch.float64), 0.0
            for taps in ((0, 1, 1, 0), (1, 3, 3, 1)):
                for down, by_row in along(taps, row, height).items():
                    for right, by_column in along(taps, column, width).items():
                        if down < height and right < width and not unknown[down, right]:
                            total += by_row * by_column * picture[:, down, right].double()
                            weights += by_row * by_column
            result[:, row, column] = total / weights if weights else 0
    return result


def along(taps: tuple[int, ...], place: int, length: int) -> dict[int, float]:
    """Weights, of sum 1, of the pixels that one of half as many sees on a line; a pixel makes an odd length even."""
    seen = {2 * place - 1 + number: tap for number, tap in enumerate(taps)}
    inside = {pixel: tap for pixel, tap in seen.items() if 0 <= pixel < length + length % 2}
    return {pixel: tap / sum(inside.values()) for pixel, tap in inside.items()}


@pytest.mark.parametrize(("height", "width"), [(12, 16), (11, 7), (1, 9), (1, 1)])
def test_halving_is_the_weighted_mean_of_known_pixels(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.rand(1, 3, height, width, generator=generator)
    unknown = torch.rand(1, 1, height, width, generator=generator) < 0.3
    coarser, _ = halve(picture, unknown)
    assert (coarser[0] - means_of_known(picture[0], unknown[0, 0])).abs().max() < 1e-5


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 7), (1, 2)])
def test_a_pixel_is_unknown_where_any_of_its_four_is(height: int, width: int) -> None:
    unknown = torch.rand(1, 1, height, width, generator=torch.Generator().manual_seed(1)) < 0.3
    _, coarser = halve(torch.zeros(1, 3, height, width), unknown)
    whole = F.pad(unknown, (0, width % 2, 0, height % 2))
    expected = whole[..., ::2, ::2] | whole[..., 1::2, ::2] | whole[..., ::2, 1::2] | whole[..., 1::2, 1::2]
    assert torch.equal(coarser, expected)


def test_a_flat_picture_stays_flat_beside_the_hole() -> None:
    picture, unknown = torch.full((1, 3, 40, 40), 0.7), center(40, 40, 14)[None, None]
    coarser, smaller = halve(picture.masked_fill(unknown, 0), unknown)
    assert torch.allclose(coarser.masked_select(~smaller), torch.tensor(0.7))


def test_low_frequencies_keep_the_mean_and_drop_fine_stripes() -> None:
    stripes = torch.zeros(1, 1, 32, 32)
    stripes[..., ::2] = 1
    assert torch.allclose(low_frequencies(stripes, 16), torch.tensor(0.5), atol=0.05)
    assert low_frequencies(torch.full((1, 3, 5, 3), 0.25), 16).sub(0.25).abs().max() < 1e-6


def test_enlarging_stays_in_range() -> None:
    checks = (torch.arange(36).view(1, 1, 6, 6) % 2).float().expand(-1, 3, -1, -1)
    enlarged = enlarge(checks, (23, 31))
    assert enlarged.shape == (1, 3, 23, 31) and enlarged.min() >= 0 and enlarged.max() <= 1
    assert torch.equal(enlarge(checks, factor=4), enlarge(checks, (24, 24)))
    assert enlarge(checks, factor=1) is checks and enlarge(checks, (6, 6)) is checks


def test_resizing_stays_in_range() -> None:
    picture = torch.rand(1, 3, 23, 31, generator=torch.Generator().manual_seed(0)).round()
    for size in ((7, 9), (23, 31), (40, 33)):
        resized = resize(picture, size)
        assert resized.shape[2:] == size and resized.min() >= 0 and resized.max() <= 1


def test_resizing_does_not_depend_on_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    picture = torch.rand(1, 3, 128, 136, generator=torch.Generator().manual_seed(0))
    small = picture[..., :17, :16].contiguous()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append((low_frequencies(picture, 8), resize(small, (136, 128)), enlarge(small, factor=4)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(*pair) for pair in zip(result, results[0], strict=True))

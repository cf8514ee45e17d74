"""Image2Feature averaged over mirrored and turned pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inpaint.mask import center
from inpaint.symmetry import complete_symmetrically


def uneven(image: Tensor, hole: Tensor) -> Tensor:
    """A network whose painting depends on where things are."""
    ramp = torch.linspace(0, 1, image.shape[3]) + 2 * torch.linspace(0, 1, image.shape[2])[:, None]
    return torch.where(hole[:, None], 0.2 * image.cumsum(3) / image.shape[3] + 0.1 * ramp, image)


def batch(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two pictures with different holes."""
    holes = torch.stack([center(height, width, side) for side in (9, 5)])
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)), holes


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30)])
def test_the_mean_turns_with_the_picture(height: int, width: int) -> None:
    image, hole = batch(height, width)
    completed = complete_symmetrically(uneven, image, hole)
    for mirror in ((), (-1,), (-2,)):
        assert torch.allclose(
            complete_symmetrically(uneven, image.flip(mirror), hole.flip(mirror)).flip(mirror), completed
        )
    assert torch.allclose(complete_symmetrically(uneven, image.mT, hole.mT).mT, completed)
    assert not torch.allclose(uneven(image, hole), completed, atol=1e-2)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30)])
def test_each_picture_is_completed_as_if_it_were_alone(height: int, width: int) -> None:
    image, hole = batch(height, width)
    completed = complete_symmetrically(uneven, image, hole)
    for number in range(2):
        alone = complete_symmetrically(uneven, image[number : number + 1], hole[number : number + 1])
        assert torch.allclose(completed[number], alone[0])


@pytest.mark.parametrize(("height", "width", "batches"), [(24, 24, [16]), (17, 30, [8, 8])])
def test_square_pictures_pass_in_one_batch_of_eight_each(height: int, width: int, batches: list[int]) -> None:
    seen = []

    def watched(image: Tensor, hole: Tensor) -> Tensor:
        seen.append(len(image))
        return uneven(image, hole)

    complete_symmetrically(watched, *batch(height, width))
    assert seen == batches


@pytest.mark.parametrize("views", [1, 2, 4])
def test_fewer_views_are_the_first_of_them(views: int) -> None:
    image, hole = batch(17, 30)
    flips = [(), (-1,), (-2,), (-2, -1)][:views]
    seen = [uneven(image.flip(axes), hole.flip(axes)).flip(axes) for axes in flips]
    expected = torch.where(hole[:, None], torch.stack(seen).mean(0), image)
    assert torch.allclose(complete_symmetrically(uneven, image, hole, views), expected)


def test_known_pixels_are_kept() -> None:
    image, hole = batch(20, 26)
    completed = complete_symmetrically(uneven, image, hole)
    known = ~hole[:, None].expand_as(image)
    assert torch.equal(completed[known], image[known])


def test_a_network_that_turns_with_the_picture_is_left_alone() -> None:
    image, hole = batch(16, 16)
    grey = lambda picture, missing: torch.where(missing[:, None], 0.5, picture)  # noqa: E731
    assert torch.allclose(complete_symmetrically(grey, image, hole), grey(image, hole))

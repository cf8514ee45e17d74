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


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30)])
def test_the_mean_turns_with_the_picture(height: int, width: int) -> None:
    image, hole = torch.rand(1, 3, height, width), center(height, width, 9)[None]
    completed = complete_symmetrically(uneven, image, hole)
    for mirror in ((), (-1,), (-2,)):
        assert torch.allclose(
            complete_symmetrically(uneven, image.flip(mirror), hole.flip(mirror)).flip(mirror), completed
        )
    assert torch.allclose(complete_symmetrically(uneven, image.mT, hole.mT).mT, completed)
    assert not torch.allclose(uneven(image, hole), completed, atol=1e-2)


def test_known_pixels_are_kept() -> None:
    image, hole = torch.rand(1, 3, 20, 26), center(20, 26, 7)[None]
    completed = complete_symmetrically(uneven, image, hole)
    assert torch.equal(completed[:, :, ~hole[0]], image[:, :, ~hole[0]])


def test_a_network_that_turns_with_the_picture_is_left_alone() -> None:
    image, hole = torch.rand(1, 3, 16, 16), center(16, 16, 6)[None]
    grey = lambda picture, missing: torch.where(missing[:, None], 0.5, picture)  # noqa: E731
    assert torch.allclose(complete_symmetrically(grey, image, hole), grey(image, hole))

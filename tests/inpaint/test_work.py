"""From what a person gives to jobs, and from windows to batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inpaint.errors import InpaintError
from inpaint.photo import Photo
from inpaint.recipe import default_recipe
from inpaint.tensor_photo import TensorPhoto, pictures_of
from inpaint.window import find_windows
from inpaint.work import LARGEST_BATCH, batches, prepare


def photograph(height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).random((height, width, 3)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 500), st.integers(1, 500), st.integers(0, 2**31), st.sampled_from([0, 1, 1e3, 3e4, float("inf")]))
def test_every_window_is_in_one_batch(make_hole, height: int, width: int, seed: int, largest: float) -> None:
    of_jobs = [find_windows(make_hole("specks", height, width, seed + number)) for number in range(3)]
    seen = []
    for batch in batches(of_jobs, largest, default_recipe):
        assert {default_recipe(window.depth) for window in batch.windows} == {batch.recipe}
        assert len({window.shape for window in batch.windows}) == 1 and len(batch.windows) == len(batch.jobs)
        pixels = max(level.part.size[0] * level.part.size[1] for level in batch.windows[0].levels)
        assert len(batch.windows) == 1 or len(batch.windows) * pixels <= min(largest, LARGEST_BATCH)
        seen += [(job, id(window)) for window, job in zip(batch.windows, batch.jobs, strict=True)]
    expected = [(number, id(window)) for number, windows in enumerate(of_jobs) for window in windows]
    assert sorted(seen) == sorted(expected)


def test_no_window_is_no_batch() -> None:
    assert list(batches([], 1e6, default_recipe)) == list(batches([[], []], 1e6, default_recipe)) == []


def test_a_job_holds_the_picture_the_hole_and_what_was_asked_for() -> None:
    mask = np.zeros((8, 8), bool)
    mask[2, 3] = True
    job = prepare(photograph(), mask, scales=[8])
    assert isinstance(job.picture, Photo) and np.array_equal(job.hole, mask) and job.scales == (8,)
    assert job.hole is not mask and job.notes == ()
    assert prepare(TensorPhoto(torch.rand(3, 8, 8)), torch.from_numpy(mask)).hole.sum() == 1
    assert prepare(job.picture, ~mask, invert=True).hole.sum() == 1
    assert prepare(job.picture, mask, dilate=1).hole.sum() == 9


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (photograph(), np.ones((8, 8), bool), r"marks the whole image as hole \(100 %\)"),
        (photograph(), np.zeros((8, 9), bool), r"the mask is 9x8, the photograph is 8x8"),
        (photograph(), np.zeros((8, 8), bool), "marks no hole"),
        (photograph() * 200, np.eye(8, dtype=bool), r"known pixels in \[0, 1\].*divide 8-bit values by 255"),
        (photograph() * np.nan, np.eye(8, dtype=bool), "numbers outside the hole, got NaN; let the hole cover"),
        (photograph().astype(np.int32), np.eye(8, dtype=bool), "array of uint8, uint16, float16, float32, float64"),
        (np.zeros((0, 8, 3), np.uint8), np.zeros((0, 8), bool), "at least one pixel"),
        (Image.new("CMYK", (8, 8)), np.eye(8, dtype=bool), "its mode is CMYK; convert it"),
        (TensorPhoto(torch.rand(3, 0, 8)), np.zeros((0, 8), bool), "at least one pixel"),
        (TensorPhoto(torch.full((3, 8, 8), 200.0)), np.eye(8, dtype=bool), "divide 8-bit values by 255"),
        (TensorPhoto(torch.full((3, 8, 8), torch.nan)), np.eye(8, dtype=bool), "outside the hole, got NaN"),
    ],
)
def test_unfit_input_is_named(image, mask: np.ndarray, message: str) -> None:
    with pytest.raises(InpaintError, match=message):
        prepare(image, mask)


def test_unfit_scales_are_named() -> None:
    with pytest.raises(InpaintError, match=r"scales: expected growing short sides out of 20, 40"):
        prepare(photograph(40, 60), np.eye(40, 60, dtype=bool), scales=[30])


def test_whatever_the_hole_holds_is_accepted() -> None:
    mask = np.eye(8, dtype=bool)
    for value in (np.nan, np.inf, -np.inf, -3, 1e30):
        image = photograph()
        image[mask] = value
        prepare(image, mask)
        prepare(TensorPhoto(torch.from_numpy(image).permute(2, 0, 1)), mask)


@pytest.mark.parametrize(
    "images",
    [torch.rand(4, 8, 8), torch.rand(1, 1, 8, 8), torch.rand(8, 8), torch.ones(3, 8, 8, dtype=torch.uint8)],
)
def test_other_tensors_are_refused(images: torch.Tensor) -> None:
    with pytest.raises(InpaintError, match=r"expected a float tensor \(3, H, W\) or \(B, 3, H, W\)"):
        pictures_of(images)


def test_no_pixel_is_refused() -> None:
    with pytest.raises(InpaintError, match="at least one pixel"):
        pictures_of(torch.rand(2, 3, 0, 8))

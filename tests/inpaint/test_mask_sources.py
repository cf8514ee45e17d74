"""Holes by place, colour, label, transparency and missing values, and their way into a job."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from inpaint.errors import InpaintError
from inpaint.marking import Marking
from inpaint.mask_sources import Coloured, Labelled, NotANumber, Rectangle, Transparent
from inpaint.photo import read
from inpaint.tensor_photo import TensorPhoto
from inpaint.work import prepare

SIZE = (24, 32)


def photograph(channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(40, 200, (*SIZE, channels), np.uint8)


def box(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    hole = np.zeros(SIZE, bool)
    hole[top:bottom, left:right] = True
    return hole


@settings(max_examples=80, deadline=None)
@given(st.integers(-40, 40), st.integers(-40, 40), st.integers(1, 40), st.integers(1, 40))
def test_a_rectangle_is_cut_to_the_photograph(x, y, width, height) -> None:
    expected = np.zeros(SIZE, bool)
    for row, column in np.ndindex(SIZE):
        expected[row, column] = y <= row < y + height and x <= column < x + width
    if expected.any():
        assert np.array_equal(Rectangle(x, y, width, height).marked(read(photograph())), expected)
    else:
        with pytest.raises(InpaintError, match="lies outside the photograph of 32x24"):
            Rectangle(x, y, width, height).marked(read(photograph()))


def test_several_masks_are_joined_and_grown_together() -> None:
    image = photograph()
    job = prepare(image, [Rectangle(2, 3, 4, 5), box(10, 10, 12, 12), Rectangle(20, 10, 1, 1)], dilate=1)
    assert np.array_equal(job.hole, box(2, 1, 9, 7) | box(9, 9, 13, 13) | box(9, 19, 12, 22))
    assert np.array_equal(prepare(TensorPhoto(torch.rand(3, *SIZE)), Rectangle(2, 3, 4, 5)).hole, box(3, 2, 8, 6))


@pytest.mark.parametrize("colour", ["red", "#f00", "#ff0000", "rgb(255,0,0)"])
def test_a_colour_marks_the_hole_in_the_photograph_or_in_a_copy(colour: str) -> None:
    image = photograph()
    painted = image.copy()
    painted[5:9, 6:12] = (255, 0, 0)
    painted[5, 6] = (240, 16, 0)  # within 16 of red
    painted[5, 7] = (238, 0, 0)
    expected = box(5, 6, 9, 12)
    expected[5, 7] = False
    assert np.array_equal(Coloured(colour).marked(read(painted)), expected)
    assert np.array_equal(Coloured(colour, painted).marked(read(image)), expected)
    tensor = TensorPhoto(torch.from_numpy(painted).permute(2, 0, 1) / 255)
    assert np.array_equal(Coloured(colour).marked(tensor), expected)
    erased = np.dstack([painted, np.full(SIZE, 255, np.uint8)])
    erased[5, 8, 3] = 0
    expected[5, 8] = False
    assert np.array_equal(Coloured(colour).marked(read(erased)), expected)


def test_the_soft_rim_of_a_brush_is_hole() -> None:
    image = photograph()
    large = Image.new("L", (32 * 8, 24 * 8))
    ImageDraw.Draw(large).ellipse((80, 60, 170, 130), fill=255)
    covered = np.asarray(large.reduce(8)) / 255  # anti-aliased
    painted = np.round(image + covered[..., None] * ((255, 0, 255) - image.astype(float))).astype(np.uint8)
    assert prepare(painted, Coloured("magenta")).hole[covered > 0].all()
    assert not prepare(painted, Coloured("magenta"), dilate=0).hole[(covered > 0.1) & (covered < 0.8)].any()


def test_colours_that_are_none_or_absent_are_refused() -> None:
    with pytest.raises(InpaintError, match="expected a colour such as red or #ff0000, got 'reddish'"):
        Coloured("reddish")
    with pytest.raises(InpaintError, match="the photograph has no pixel of the colour red"):
        Coloured("red").marked(read(photograph()))
    with pytest.raises(InpaintError, match="the mask is 30x24, the photograph is 32x24"):
        Coloured("red", photograph()[:, :30]).marked(read(photograph()))


def test_a_stretched_colour_takes_the_nearest_pixel() -> None:
    painted = np.zeros((12, 16, 3), np.uint8)
    painted[2:4, 3:7] = (0, 255, 0)
    assert np.array_equal(Coloured("lime", painted).marked(read(photograph()), resize=True), box(4, 6, 8, 14))


def forms(labels: np.ndarray, tmp_path) -> list:
    image = Image.fromarray(labels).convert("P")
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768, np.uint8).tolist())
    image.putdata(labels.ravel().tolist())
    image.save(tmp_path / "palette.png")
    Image.fromarray(labels).save(tmp_path / "grey.png")
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return [labels, labels.astype(np.int64), image, tmp_path / "palette.png", tmp_path / "grey.png", stream.getvalue()]


def test_labels_choose_the_hole(tmp_path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.uint8)
    for mask in forms(labels, tmp_path):
        assert np.array_equal(Labelled(mask, [3]).marked(read(photograph())), labels == 3)
        assert np.array_equal(Labelled(mask, [0, 4]).marked(read(photograph())), np.isin(labels, (0, 4)))
        with pytest.raises(InpaintError, match="no pixel of label 9: its labels are 0, 1, 2, 3, 4; choose"):
            Labelled(mask, [9]).marked(read(photograph()))
    small = labels[::2, ::2]
    assert np.array_equal(
        Labelled(small, [3]).marked(read(photograph()), resize=True), np.kron(small == 3, np.ones((2, 2), bool))
    )
    with pytest.raises(InpaintError, match="expected a label image, one integer or palette index a pixel"):
        Labelled(photograph(), [3]).marked(read(photograph()))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_is_transparent_is_filled_and_becomes_opaque(dtype) -> None:
    image = photograph(4).astype(dtype) if dtype == np.uint8 else (photograph(4) / 255).astype(dtype)
    white = 255 if dtype == np.uint8 else 1
    image[..., 3] = white
    image[5:9, 6:12, 3] = 0
    image[4, 6:12, 3] = white / 2  # the soft rim of an eraser
    before = image.copy()
    job = prepare(image, Transparent())
    assert np.array_equal(job.hole, box(4, 6, 9, 12)) and job.notes == ()
    assert (job.picture.samples[..., 3] == white).all()
    assert np.array_equal(job.picture.samples[~job.hole], before[~job.hole])
    assert np.array_equal(image, before)
    with pytest.raises(InpaintError, match="feather blends"):
        prepare(image, Transparent(), feather=2)
    image[..., 3] = white
    with pytest.raises(InpaintError, match="opaque everywhere"):
        prepare(image, Transparent())
    with pytest.raises(InpaintError, match="has no transparency"):
        prepare(photograph(), Transparent())


def test_what_is_not_a_number_is_filled() -> None:
    image = photograph().astype(np.float32) / 255
    image[5:9, 6:12, 1] = np.nan
    assert np.array_equal(prepare(image, NotANumber()).hole, box(5, 6, 9, 12))
    tensor = TensorPhoto(torch.from_numpy(image).permute(2, 0, 1))
    assert np.array_equal(prepare(tensor, NotANumber()).hole, box(5, 6, 9, 12))
    with pytest.raises(InpaintError, match="has no NaN"):
        prepare(photograph(), NotANumber())


def test_the_photograph_itself_is_refused_as_its_mask(tmp_path) -> None:
    small = Image.fromarray(photograph()[:6, :8]).resize((32, 24), Image.Resampling.BICUBIC)
    small.save(tmp_path / "photo.png")
    with pytest.raises(InpaintError, match="photo.png is the photograph itself"):
        prepare(tmp_path / "photo.png", str(tmp_path / "photo.png"))
    with pytest.raises(InpaintError, match="is a copy of the photograph"):
        prepare(small, small)


@pytest.mark.parametrize("as_stream", [True, False])
def test_labels_of_a_palette_are_read_as_any_mask_is(tmp_path, monkeypatch, as_stream) -> None:
    """From a stream that is read once, and up to the limit that the user gives, not Pillow's own."""
    labels = np.random.default_rng(0).integers(0, 5, SIZE).astype(np.uint8)
    path = forms(labels, tmp_path)[3]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with open(path, "rb") as stream:
        hole = Labelled(stream if as_stream else path, [3]).marked(read(photograph()))
    assert np.array_equal(hole, labels == 3)


def test_labels_of_a_palette_are_turned_upright(tmp_path) -> None:
    labels = np.random.default_rng(0).integers(0, 5, SIZE[::-1]).astype(np.uint8)
    image = forms(labels, tmp_path)[2]
    exif = Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "turned.png", exif=exif, transparency=2)
    for mask in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert np.array_equal(Labelled(mask, [3]).marked(read(photograph())), np.rot90(labels, -1) == 3)


@pytest.mark.parametrize("chosen", [{"labels": (1,)}, {"colours": ("red",)}])
@pytest.mark.parametrize("ignored", [{"invert": True}, {"threshold": 0.25}])
def test_options_that_a_choice_by_label_or_colour_would_ignore_are_refused(chosen, ignored) -> None:
    with pytest.raises(InpaintError, match="--invert-mask and --threshold read a mask by its brightness"):
        Marking(**chosen, **ignored)

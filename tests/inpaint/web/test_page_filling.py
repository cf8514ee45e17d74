"""What the page does without a browser: previews, paint, and the filling of a wish."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageColor

pytest.importorskip("gradio", reason="the extra web is not installed")

from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter, load
from inpaint.photo import read
from inpaint.web import preview
from inpaint.web.filler import Turn
from inpaint.web.filling import Wish, fill, show
from inpaint.web.marks import BOX, COPY_FROM, OPACITY, REMOVE, Marks, Tool
from inpaint.web.upload import Upload

MEGAPIXELS = 50.0


@pytest.fixture(scope="module")
def turn() -> Turn:
    return Turn(cast(Inpainter, load(device="cpu")), lambda: None)


def paint(size: tuple[int, int], *dabs: tuple[Tool, slice, slice]) -> Image.Image:
    """A layer as the editor sends it: clear but for the dabs."""
    layer = np.zeros((*size, 4), np.uint8)
    for tool, rows, columns in dabs:
        layer[rows, columns] = (*ImageColor.getrgb(tool.colour), round(255 * OPACITY))
    return Image.fromarray(layer)


def saved(image: Image.Image, path: Path) -> str:
    image.save(path)
    return str(path)


def texture(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(height).uniform(size=(height, width, 3))
    return (noise * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("size", [(1, 1), (2048, 7), (2049, 7), (2160, 3840), (5, 6001)])
def test_a_preview_shows_whole_squares(size: tuple[int, int]) -> None:
    shown = preview.size_of(size)
    assert max(shown) <= preview.LONGEST
    assert preview.draw(read(np.zeros((*size, 3), np.uint8))).size == shown[::-1]
    marked = np.random.default_rng(0).random(shown) < 0.5
    rows, columns = (np.arange(length) // preview.square_of(size) for length in size)
    assert np.array_equal(preview.enlarged(marked, size), marked[rows][:, columns])


def test_a_preview_has_the_means_of_its_squares() -> None:
    samples = texture(10, 4100)  # shown at a third; the last squares are cut
    shown = np.asarray(preview.draw(read(samples)))
    assert shown.shape == (4, 1367, 3)
    assert np.abs(shown[0, 0] - samples[:3, :3].mean((0, 1))).max() <= 1
    assert np.abs(shown[-1, -1] - samples[9:, 4098:].mean((0, 1))).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
def test_what_browsers_cannot_show_is_shown_in_8_bits(dtype: type) -> None:
    white = 65535 if dtype is np.uint16 else 1
    ramp = (np.linspace(0, 1, 50)[None, :, None] * np.full((4, 1, 3), white)).astype(dtype)
    if dtype is np.float32:
        ramp[0, 0] = np.nan
    shown = np.asarray(preview.draw(read(ramp))).astype(int)
    assert np.abs(shown[1, :, 0] - np.linspace(0, 255, 50)).max() <= 1


def test_a_preview_is_in_srgb() -> None:
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"  # primaries in exchange
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, "PNG", icc_profile=bytes(profile))
    shown = preview.draw(read(stream.getvalue()))
    assert np.abs(np.asarray(shown)[0, 0].astype(int) - (50, 100, 200)).max() <= 2
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 50)).save(stream, "PNG", icc_profile=b"damaged")
    assert preview.draw(read(stream.getvalue())).getpixel((0, 0)) == (200, 100, 50)


def test_paint_is_read_by_its_opacity_and_told_apart_by_its_colour(tmp_path: Path) -> None:
    layer = paint(
        (40, 50),
        (REMOVE, slice(5, 10), slice(5, 15)),
        (COPY_FROM, slice(30, 40), slice(0, 50)),
        (BOX, slice(12, 14), slice(20, 22)),
        (BOX, slice(20, 22), slice(30, 33)),
    )
    marks = Marks.of(saved(layer, tmp_path / "layer.png"), (40, 50))
    hole = np.zeros((40, 50), bool)
    hole[5:10, 5:15] = hole[12:22, 20:33] = True
    assert np.array_equal(marks.hole, hole)
    assert marks.source is not None
    assert np.array_equal(np.flatnonzero(marks.source.any(1)), np.arange(30, 40))


def test_nothing_painted_marks_nothing(tmp_path: Path) -> None:
    for layer in (None, saved(paint((9, 9)), tmp_path / "layer.png")):
        marks = Marks.of(layer, (9, 9))
        assert not marks.hole.any() and marks.source is None


def test_unfit_paint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "layer.png"
    for layer, words in [
        (paint((9, 8)), "expected 9x9"),
        (Image.new("RGB", (9, 9)), "no transparency"),
        (Image.new("LA", (9, 9)), "no colour"),
        (paint((9, 9), (REMOVE, slice(None), slice(None))), "all of the photograph"),
        (Image.new("RGBA", (3000, 3000)), "megapixels"),
    ]:
        with pytest.raises(InpaintError, match=words):
            Marks.of(saved(layer, path), (9, 9))
    path.write_bytes(b"no picture")
    with pytest.raises(InpaintError, match="layer.png"):
        Marks.of(str(path), (9, 9))


def test_16_bit_tiff_is_shown_and_filled_as_it_is(turn: Turn, tmp_path: Path) -> None:
    samples = texture(90, 120, np.uint16)
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, photometric="rgb", compression="zlib")
    upload = Upload("scan.tif", stream.getvalue())
    picture, line = show(upload, MEGAPIXELS)
    assert picture.size == (120, 90) and line == "scan.tif: 120 x 90 pixels, 16 bits."
    layer = saved(paint((90, 120), (REMOVE, slice(40, 60), slice(50, 80))), tmp_path / "layer.png")
    shown = fill(Wish(upload, layer), turn, MEGAPIXELS)
    assert shown.result.name == "scan_filled.tif"
    result = tifffile.imread(io.BytesIO(shown.result.content))
    changed = (result != samples).any(-1)
    mask = np.asarray(Image.open(io.BytesIO(shown.mask.content)))
    assert result.dtype == np.uint16 and changed.any() and not changed[~mask].any()
    assert mask[40:60, 50:80].all() and mask.sum() == 600


def test_a_turned_photograph_is_painted_upright(turn: Turn, tmp_path: Path) -> None:
    image = Image.fromarray(texture(64, 96))
    exif = Image.Exif()
    exif[274] = 6  # the camera was held upright
    exif[271] = "a camera"
    stream = io.BytesIO()
    image.save(stream, "PNG", exif=exif)
    upload = Upload("turned.png", stream.getvalue())
    picture, _ = show(upload, MEGAPIXELS)
    assert picture.size == (64, 96)
    layer = saved(paint((96, 64), (REMOVE, slice(0, 16), slice(48, 64))), tmp_path / "layer.png")
    shown = fill(Wish(upload, layer), turn, MEGAPIXELS)
    before, after = read(stream.getvalue()), read(shown.result.content)
    changed = (before.samples != after.samples).any(-1)
    assert changed[:16, 48:].any() and not changed[16:].any() and not changed[:, :48].any()
    assert Image.open(io.BytesIO(shown.result.content)).getexif()[271] == "a camera"


def test_a_box_in_numbers_and_the_steps(turn: Turn) -> None:
    upload = Upload("noise", _png(texture(70, 70)))
    shown = fill(Wish(upload, None, box=(20, 30, 25, 10), dilate=2, with_steps=True), turn, MEGAPIXELS)
    mask = np.asarray(Image.open(io.BytesIO(shown.mask.content)))
    assert mask[28:42, 18:47].all() and mask.sum() == 14 * 29
    names = [name for _, name in shown.steps]
    assert "copied" in names[0] and "coarse" in names and any("match field" in name for name in names)
    assert shown.result.name == "noise_filled.png" and shown.mask.name == "noise_mask.png"


def test_copies_come_from_where_the_second_brush_was(turn: Turn, tmp_path: Path) -> None:
    layer = saved(paint((120, 161), (COPY_FROM, slice(8, 112), slice(95, 150))), tmp_path / "layer.png")
    wish = Wish(Upload("noise.png", _png(texture(120, 161))), layer, box=(10, 30, 60, 60), with_steps=True)
    picture = np.asarray(fill(wish, turn, MEGAPIXELS).steps[0][0])
    copied = np.ptp(picture, axis=2) > 0  # all else is grey
    copied[30:90, 10:70] = False
    assert copied[8:112, 95:150].any() and not copied[:, :92].any() and not copied[:, 153:].any()


def test_variants_differ(turn: Turn) -> None:
    upload = Upload("noise.png", _png(texture(120, 120)))
    results = {
        fill(Wish(upload, None, (30, 30, 60, 60), variant=each), turn, MEGAPIXELS).result.content for each in (1, 2)
    }
    assert len(results) == 2


def test_nothing_marked_is_said_in_the_words_of_the_page(turn: Turn) -> None:
    with pytest.raises(InpaintError, match="nothing is marked.*press Fill"):
        fill(Wish(Upload("noise.png", _png(texture(9, 9))), None), turn, MEGAPIXELS)


def _png(samples: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(samples).save(stream, "PNG")
    return stream.getvalue()

from __future__ import annotations

import io
import os
import stat
import struct
import tracemalloc
import zlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from inpaint.errors import InpaintError
from inpaint.holes import read_hole
from inpaint.photo import (
    Patch,
    Photo,
    as_given,
    check_folder,
    check_output,
    read,
    save,
    save_picture,
    to_pil,
)

LOSSLESS = [".png", ".webp", ".tif", ".tiff"]
CHANNELS = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (height, width), dtype=np.uint16))
    return Image.fromarray(generator.integers(0, 256, (height, width, *CHANNELS[mode]), dtype=np.uint8))


def some_hole(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.3


def filled(photo: Photo, result: torch.Tensor, hole: np.ndarray) -> Photo:
    return photo.filled([Patch(slice(None), slice(None), result, hole)])


def as_pil(photo: Photo) -> Image.Image:
    return as_given(photo, like="a file")


def saved_as(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_16_bit(channels: int, height: int = 5, width: int = 7) -> bytes:
    """A 16-bit PNG with this many channels, made by hand because Pillow writes only grey ones."""
    rows = np.random.default_rng(0).integers(0, 65536, (height, width * channels), dtype=np.uint16)
    scanlines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(scanlines)) + chunk(b"IEND", b"")
    )


def png_header_only(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)))
    )


def exif_of_a_camera(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>a title</x:xmpmeta>"


# Tensors and PIL images


def test_every_8_bit_value_survives_the_way_to_a_tensor_and_back():
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([values, values[::-1], values.T.reshape(8, 32)], axis=-1))
    assert np.array_equal(np.asarray(to_pil(read(image).colours())), np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (5, 8)])
def test_tensor_has_the_documented_form(size):
    image = noise(*size)
    tensor = read(image).colours()
    assert tensor.shape == (3, *size) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    expected = np.asarray(image).transpose(2, 0, 1).astype(np.float64) / 255
    assert np.allclose(tensor.numpy(), expected, atol=1e-7)
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(image))


def test_grey_is_repeated_and_alpha_left_out():
    grey = noise(4, 5, "LA")
    tensor = read(grey).colours()
    assert torch.equal(tensor[0], tensor[1]) and torch.equal(tensor[0], tensor[2])
    assert np.array_equal((tensor[0] * 255).round().numpy(), np.asarray(grey)[..., 0])
    deep = read(noise(4, 5, "I;16")).colours()
    assert np.array_equal((deep[1] * 65535).round().numpy(), np.asarray(noise(4, 5, "I;16")))


def test_to_pil_clips_and_refuses_what_is_not_a_picture():
    tensor = torch.tensor([-0.5, 0.5, 1.5]).reshape(3, 1, 1)
    assert to_pil(tensor).getpixel((0, 0)) == (0, 128, 255)
    assert to_pil(noncontiguous := torch.rand(4, 6, 3).permute(2, 0, 1)).size == (6, 4) and noncontiguous.shape[0] == 3
    with pytest.raises(ValueError, match=r"\(3, H, W\)"):
        to_pil(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="finite"):
        to_pil(torch.full((3, 2, 2), float("nan")))


# What is kept


@pytest.mark.parametrize("extension", LOSSLESS)
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_known_pixels_and_alpha_are_bit_exact_in_lossless_files(tmp_path, mode, extension):
    original = noise(13, 17, mode)
    photo = read(saved_as(tmp_path / "in.png", original))
    assert as_pil(photo).mode == mode and photo.size == (13, 17)
    hole = some_hole(13, 17)
    save(tmp_path / f"out{extension}", filled(photo, torch.rand(3, 13, 17), hole))
    with Image.open(tmp_path / f"out{extension}") as saved:
        pixels = np.asarray(saved.convert(mode)).reshape(13, 17, -1)
    before = np.asarray(original).reshape(13, 17, -1)
    known = ~hole
    assert np.array_equal(pixels[known], before[known])
    assert not np.array_equal(pixels[~known], before[~known])
    if photo.has_alpha:
        assert np.array_equal(pixels[..., -1], before[..., -1])


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("source", [".png", ".tif"])
def test_16_bit_grey_keeps_its_known_pixels_and_fills_with_16_bits(tmp_path, source, extension):
    original = noise(9, 6, "I;16")
    photo = read(saved_as(tmp_path / f"in{source}", original))
    hole, result = some_hole(9, 6), torch.rand(3, 9, 6)
    save(tmp_path / f"out{extension}", filled(photo, result, hole))
    with Image.open(tmp_path / f"out{extension}") as saved:
        assert saved.mode == "I;16"
        pixels = np.asarray(saved)
    luminance = 0.299 * result[0].double() + 0.587 * result[1].double() + 0.114 * result[2].double()
    expected = np.where(hole, (luminance * 65535).round().numpy(), np.asarray(original))
    assert np.array_equal(pixels, expected)


def test_the_hole_takes_the_result_in_each_mode():
    result = torch.tensor([0.2, 0.4, 0.8]).reshape(3, 1, 1).expand(3, 2, 2)
    hole = np.array([[True, False], [False, False]])
    grey = round(255 * (0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8))
    expected = {"RGB": (51, 102, 204), "RGBA": (51, 102, 204, 7), "L": grey, "LA": (grey, 7)}
    for mode, pixel in expected.items():
        before = Image.new(mode, (2, 2), {"RGB": (1, 2, 3), "RGBA": (1, 2, 3, 7), "L": 1, "LA": (1, 7)}[mode])
        after = as_pil(filled(read(before), result, hole))
        assert after.getpixel((0, 0)) == pixel
        assert after.getpixel((1, 1)) == before.getpixel((1, 1))


def test_a_result_of_another_size_or_with_nan_in_the_hole_is_refused(tmp_path):
    photo = read(noise(4, 4))
    hole = some_hole(4, 4)
    for result, mask in [(torch.rand(3, 4, 5), hole), (torch.rand(3, 4, 4), some_hole(5, 4))]:
        with pytest.raises(ValueError, match="shape"):
            save(tmp_path / "out.png", filled(photo, result, mask))
    broken = torch.where(torch.from_numpy(hole), float("nan"), torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match="finite"):
        save(tmp_path / "out.png", filled(photo, broken, hole))
    assert list(tmp_path.iterdir()) == []
    known_nan = torch.where(torch.from_numpy(hole), torch.rand(3, 4, 4), float("nan"))
    save(tmp_path / "out.png", filled(photo, known_nan, hole))


def test_jpeg_is_written_close_to_the_pixels_without_chroma_subsampling(tmp_path):
    gradient = np.linspace(0, 255, 48 * 40 * 3).reshape(48, 40, 3).astype(np.uint8)
    photo = read(Image.fromarray(gradient))
    hole = some_hole(48, 40)
    save(tmp_path / "out.jpg", filled(photo, photo.colours(), hole))
    with Image.open(tmp_path / "out.jpg") as saved:
        assert saved.format == "JPEG"
        assert [component[1:3] for component in saved.layer] == [(1, 1)] * 3
        assert np.abs(np.asarray(saved).astype(int) - gradient).max() <= 6


@pytest.mark.parametrize("mode", ["1", "P"])
def test_1_bit_and_palette_images_come_back_in_a_mode_that_can_hold_the_filling(tmp_path, mode):
    original = noise(11, 12, "L" if mode == "1" else "RGB").convert(mode)
    photo = read(saved_as(tmp_path / "in.png", original))
    assert as_pil(photo).mode == {"1": "L", "P": "RGB"}[mode]
    assert np.array_equal(np.asarray(as_pil(photo)), np.asarray(original.convert(as_pil(photo).mode)))


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"), [("P", 3, "RGBA"), ("L", 9, "LA"), ("RGB", (9, 8, 7), "RGBA")]
)
def test_a_transparent_colour_becomes_an_alpha_channel(tmp_path, mode, transparent, expected):
    if mode == "P":
        original = noise(6, 6).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    else:
        original = Image.new(mode, (6, 6), 200 if mode == "L" else (200, 100, 50))
        original.putpixel((2, 3), transparent)
    photo = read(saved_as(tmp_path / "in.png", original, transparency=transparent))
    assert as_pil(photo).mode == expected
    colour_key = np.asarray(original).reshape(36, -1) == np.array(transparent)
    assert np.array_equal(np.asarray(as_pil(photo).getchannel("A")).ravel() == 0, colour_key.all(axis=1))


# What a picture may come in


class Pipe(io.RawIOBase):
    """A binary stream that can be read or written once, front to back, like standard input and output."""

    def __init__(self, content: bytes = b"") -> None:
        self.content = content

    def read(self, size: int = -1) -> bytes:
        content, self.content = self.content, b""
        return content

    def write(self, block) -> int:
        self.content += bytes(block)
        return len(block)

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_files_bytes_streams_and_pil_images_are_read_alike(tmp_path, mode):
    original = noise(7, 9, "I;16") if mode == "I;16" else noise(7, 9, "RGBA").convert(mode)
    path = saved_as(tmp_path / "in.png", original, exif=exif_of_a_camera(6), icc_profile=PROFILE, dpi=(300, 300))
    content = path.read_bytes()
    expected = read(path)
    assert expected.size == (9, 7)
    with open(path, "rb") as stream, Image.open(path) as opened:
        for source in (str(path), content, memoryview(content), io.BytesIO(content), Pipe(content), stream, opened):
            photo = read(source)
            assert np.array_equal(photo.samples, expected.samples) and photo.samples.dtype == expected.samples.dtype
            for name in ("icc_profile", "xmp", "dpi", "notes"):
                assert getattr(photo, name) == getattr(expected, name)
            assert as_pil(photo).getexif().tobytes() == as_pil(expected).getexif().tobytes()


def test_a_stream_is_read_from_where_it_stands(tmp_path):
    content = saved_as(tmp_path / "in.png", noise(3, 4)).read_bytes()
    stream = io.BytesIO(b"header" + content)
    stream.seek(6)
    assert read(stream).size == (3, 4) and not stream.closed


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_pil_images_come_back_upright_and_the_callers_own_is_left_alone(tmp_path, extension):
    path = saved_as(tmp_path / f"in{extension}", noise(6, 8), exif=exif_of_a_camera(6), icc_profile=PROFILE)
    with Image.open(path) as opened:
        opened.load()
        pixels, tags = np.asarray(opened), dict(opened.getexif())
        photo = read(opened)
        result = as_given(filled(photo, torch.rand(3, 8, 6), some_hole(8, 6)), opened)
        assert np.array_equal(np.asarray(opened), pixels) and dict(opened.getexif()) == tags
        # Pillow turns a TIFF upright itself as it loads.
        assert opened.getexif().get(ExifTags.Base.Orientation) == (None if extension == ".tif" else 6)
    assert result.size == (6, 8) and result.mode == "RGB"
    known = ~some_hole(8, 6)
    assert np.array_equal(np.asarray(result)[known], (pixels if extension == ".tif" else np.rot90(pixels, -1))[known])
    assert result.info["icc_profile"] == PROFILE
    assert result.getexif()[ExifTags.Base.Make] == "A camera" and ExifTags.Base.Orientation not in result.getexif()


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "I", "F", "RGBX", "La", "RGBa"])
def test_other_modes_of_pil_images_are_refused(mode):
    with pytest.raises(InpaintError, match=f"cannot read the picture: .* its mode is {mode}; convert it to RGB first"):
        read(Image.new(mode, (4, 4)))


def test_what_pil_has_no_image_for_is_refused(tmp_path):
    (tmp_path / "deep.png").write_bytes(png_16_bit(3))
    photo = read(tmp_path / "deep.png")
    with pytest.raises(InpaintError, match="deep.png: PIL has no images of 3 channels of uint16"):
        as_given(photo, tmp_path / "deep.png")
    assert as_given(photo, np.zeros((5, 7, 3), np.uint16)).shape == (5, 7, 3)


def test_other_sources_are_named():
    for source, kind in ((None, "NoneType"), ([[1]], "list"), (torch.rand(3, 4, 4), "Tensor"), (io.StringIO(), "St")):
        with pytest.raises(InpaintError, match=f"expected a path, bytes, .* got {kind}"):
            read(source)
    for content in (b"", b"hello"):
        with pytest.raises(InpaintError, match="cannot read the picture: expected a PNG"):
            read(content)
    with pytest.raises(InpaintError, match="cannot read the picture: it has 0.0 megapixels, the limit is 1e-09"):
        read(encoded(noise(3, 3)), max_megapixels=1e-9)


def encoded(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# Arrays

TYPES = ["uint8", "uint16", ">u2", "float16", "float32", "float64", ">f4"]
SHAPES = [(), (1,), (2,), (3,), (4,)]


@st.composite
def arrays(draw, types=TYPES) -> np.ndarray:
    """An array of a picture in any type, shape and layout in memory, with noise in it."""
    size = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    dtype = np.dtype(draw(st.sampled_from(types)))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    array = generator.random((*size, *draw(st.sampled_from(SHAPES))))
    array = array.astype(dtype) if dtype.kind == "f" else (array * np.iinfo(dtype).max).astype(dtype)
    layout = draw(st.sampled_from(["C", "F", "flipped"]))
    return array[::-1, ::-1] if layout == "flipped" else np.asarray(array, order=layout)


@settings(max_examples=100, deadline=None)
@given(array=arrays(), data=st.data())
def test_filling_changes_the_hole_and_nothing_else(array, data):
    """Whatever the type, in any number of patches, and alpha not even in the hole."""
    before = array.copy()
    photo = read(array)
    assert np.shares_memory(photo.samples, array) and photo.size == array.shape[:2]
    hole, patches = np.zeros(photo.size, bool), []
    for number in range(data.draw(st.integers(0, 3))):
        rows, columns = (slice(*sorted(data.draw(st.tuples(*2 * [st.integers(0, n)])))) for n in photo.size)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        patches.append(Patch(rows, columns, 3 * torch.rand(3, height, width) - 1, some_hole(height, width, number)))
        hole[rows, columns] |= patches[-1].hole
    result = as_given(photo.filled(patches), like=array)
    assert result.shape == array.shape and result.dtype == array.dtype
    assert not np.shares_memory(result, array) and np.array_equal(array, before)
    assert np.array_equal(result[~hole], array[~hole])
    if photo.has_alpha:
        assert np.array_equal(result[..., -1], array[..., -1])


@settings(max_examples=60, deadline=None)
@given(array=arrays(), data=st.data())
def test_the_colours_of_a_part_are_that_part_of_all_colours(array, data):
    photo = read(array)
    colours = photo.colours()
    assert colours.dtype == torch.float32 and colours.shape == (3, *photo.size) and colours.is_contiguous()
    white = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    rgb = (
        array.reshape(*photo.size, -1)[..., :3]
        if photo.samples.shape[2] > 2
        else array.reshape(*photo.size, -1)[..., :1]
    )
    expected = np.broadcast_to(rgb.astype(float) / white, (*photo.size, 3))
    assert np.allclose(colours.permute(1, 2, 0).numpy(), expected, atol=1e-6)
    rows, columns = (slice(*sorted(data.draw(st.tuples(*2 * [st.integers(0, n)])))) for n in photo.size)
    assert torch.equal(photo.colours(rows, columns), colours[:, rows, columns])
    colours.zero_()
    assert array.max() > 0 or white > 1  # the caller's array is no part of the tensor


@pytest.mark.parametrize("dtype", TYPES)
def test_an_array_comes_back_exactly_after_being_filled_with_its_own_colours(dtype):
    dtype = np.dtype(dtype)
    white = 1 if dtype.kind == "f" else np.iinfo(dtype).max
    array = (np.random.default_rng(0).random((16, 16, 3), np.float32) * white).astype(dtype)
    photo = read(array)
    result = as_given(filled(photo, photo.colours(), np.ones((16, 16), bool)), array)
    assert np.array_equal(result, array) if dtype.itemsize < 8 else np.allclose(result, array, atol=1e-7)


def test_the_hole_of_a_float_array_may_hold_any_number():
    array = np.full((4, 4, 3), 0.5)
    hole = np.eye(4, dtype=bool)
    array[hole] = [np.nan, 1e300, -np.inf]
    photo = read(array)
    photo.check_known(hole)
    result = as_given(filled(photo, torch.ones(3, 4, 4), hole), array)
    assert (result[hole] == 1).all() and (result[~hole] == 0.5).all()
    assert photo.colours().shape == (3, 4, 4)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (200, r"known pixels in \[0, 1\], got values from 0.5 to 200; divide"),
        (-0.1, r"known pixels in \[0, 1\], got values from -0.1 to 0.5; divide"),
        (np.inf, r"known pixels in \[0, 1\], got values from 0.5 to inf; divide"),
        (np.nan, "expected numbers outside the hole, got NaN; let the hole cover"),
    ],
)
def test_known_pixels_of_float_arrays_are_checked_and_alpha_is_not(value, said):
    array = np.full((2000, 700, 4), 0.5, np.float32)  # more than one strip
    array[..., 3] = 7
    array[1990, 3, 1] = value
    hole = np.zeros((2000, 700), bool)
    with pytest.raises(InpaintError, match=said):
        read(array).check_known(hole)
    hole[1990] = True
    read(array).check_known(hole)
    read((200 * np.ones((4, 4, 3))).astype(np.uint8)).check_known(np.zeros((4, 4), bool))


def test_checking_makes_no_copy_of_the_picture():
    array = np.zeros((8192, 1024, 1), np.float32)
    hole = np.zeros((8192, 1024), bool)
    tracemalloc.start()
    try:
        read(array).check_known(hole)
        assert tracemalloc.get_traced_memory()[1] < array.nbytes / 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["bool", "int8", "int32", "int64", "uint32", "complex64", "object", "U4"])
def test_other_types_of_arrays_are_refused(dtype):
    with pytest.raises(InpaintError, match="expected an array of uint8, uint16, .*got .*; convert it"):
        read(np.zeros((4, 4, 3)).astype(dtype))


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((3, 40, 50), r"got \(3, 40, 50\); move the channels to the end: np.moveaxis\(array, 0, 2\)"),
        ((1, 40, 50), "move the channels to the end"),
        ((40, 50, 5), "give one picture"),
        ((2, 40, 50, 3), "give one picture"),
        ((40,), "give one picture"),
        ((0, 50, 3), "at least one pixel"),
    ],
)
def test_arrays_of_other_shapes_are_refused(shape, remedy):
    with pytest.raises(InpaintError, match=remedy):
        read(np.zeros(shape, np.uint8))


# Metadata


@pytest.mark.parametrize("target", [".jpg", ".avif", *LOSSLESS])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_profile_exif_xmp_and_resolution_travel(tmp_path, source, target):
    options = {"exif": exif_of_a_camera(6).tobytes(), "icc_profile": PROFILE, "dpi": (300, 300)}
    has_xmp = source in (".jpg", ".webp")
    if has_xmp:
        options["xmp"] = XMP
    photo = read(saved_as(tmp_path / f"in{source}", noise(8, 12), **options))
    assert photo.size == (12, 8)
    save(tmp_path / f"out{target}", filled(photo, torch.rand(3, 12, 8), some_hole(12, 8)))
    with Image.open(tmp_path / f"out{target}") as saved:
        saved.load()
        exif = saved.getexif()
        assert saved.info["icc_profile"] == PROFILE
        assert exif[ExifTags.Base.Make] == "A camera"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        # A JPEG from a JPEG, and a TIFF from a TIFF, keep their pixels as they were stored.
        is_same = source[:4] == target[:4] and source in (".jpg", ".tif")
        assert exif.get(ExifTags.Base.Orientation, 1) == (6 if is_same and source == ".jpg" else 1)
        assert saved.size == ((12, 8) if is_same and source == ".jpg" else (8, 12))
        if has_xmp:
            assert saved.info["xmp"] == XMP
        if source != ".webp" and target not in (".webp", ".avif"):
            assert saved.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied_once(tmp_path, orientation, mode):
    stored = noise(4, 6, mode)
    photo = read(saved_as(tmp_path / "in.png", stored, exif=exif_of_a_camera(orientation)))
    pixels = np.asarray(stored)
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]
    assert np.array_equal(np.asarray(as_pil(photo)), upright)
    hole = np.zeros(photo.size, dtype=bool)
    save(tmp_path / "out.png", filled(photo, torch.zeros(3, *photo.size), hole))
    assert np.array_equal(np.asarray(as_pil(read(tmp_path / "out.png"))), upright)


def test_the_thumbnail_of_the_unfilled_picture_is_not_carried(tmp_path):
    thumbnail = io.BytesIO()
    noise(6, 8).save(thumbnail, "JPEG")
    exif = exif_of_a_camera(1).tobytes()
    # IFD0 ends with the offset of the next directory: point it to one that holds a thumbnail.
    tiff = bytearray(exif[6:])
    order = "<" if tiff[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", tiff, 4)
    (count,) = struct.unpack_from(order + "H", tiff, first)
    struct.pack_into(order + "I", tiff, first + 2 + 12 * count, len(tiff))
    start = len(tiff) + 2 + 2 * 12 + 4
    tiff += struct.pack(order + "H", 2)
    tiff += struct.pack(order + "HHII", 513, 4, 1, start)
    tiff += struct.pack(order + "HHII", 514, 4, 1, len(thumbnail.getvalue())) + bytes(4) + thumbnail.getvalue()
    path = saved_as(tmp_path / "in.jpg", noise(32, 32), exif=b"Exif\0\0" + bytes(tiff))
    with Image.open(path) as opened:
        assert opened.getexif().get_ifd(ExifTags.IFD.IFD1)[513] == start
    photo = read(path)
    assert photo.exif is not None and thumbnail.getvalue() not in photo.exif
    save(tmp_path / "out.jpg", filled(photo, torch.rand(3, 32, 32), some_hole(32, 32)))
    assert thumbnail.getvalue() not in (tmp_path / "out.jpg").read_bytes()


def test_a_picture_without_metadata_gets_none(tmp_path):
    photo = read(saved_as(tmp_path / "in.png", noise(5, 5)))
    assert (photo.icc_profile, photo.exif, photo.xmp, photo.dpi, photo.notes) == (None, None, None, None, ())
    save(tmp_path / "out.png", filled(photo, torch.rand(3, 5, 5), some_hole(5, 5)))
    with Image.open(tmp_path / "out.png") as saved:
        saved.load()
        assert saved.info == {}


# What is refused, and how


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_cmyk_is_refused(tmp_path, extension):
    path = saved_as(tmp_path / f"in{extension}", Image.new("CMYK", (4, 4)))
    with pytest.raises(InpaintError, match="mode is CMYK; convert it to RGB"):
        read(path)


def test_missing_empty_foreign_and_unreadable_files(tmp_path):
    with pytest.raises(InpaintError, match="no such file"):
        read(tmp_path / "absent.png")
    with pytest.raises(InpaintError, match="is a directory"):
        read(tmp_path)
    for content in (b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(InpaintError, match="expected a PNG, JPEG"):
            read(tmp_path / "text.png")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
def test_truncated_files_are_refused(tmp_path, extension):
    path = saved_as(tmp_path / f"in{extension}", noise(64, 64))
    content = path.read_bytes()
    read(path)
    for share in (0.02, 0.3, 0.7):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InpaintError):
            read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_give_a_photo_or_one_line(tmp_path, data):
    extension = data.draw(st.sampled_from([".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"]))
    options = {} if extension in (".bmp", ".gif") else {"exif": exif_of_a_camera(6)}
    path = saved_as(tmp_path / f"in{extension}", noise(8, 9), **options)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    for reader in (read, partial(read_hole, size=None)):
        try:
            reader(path, max_megapixels=1)
        except InpaintError as error:
            assert "\n" not in str(error)


def test_the_size_limit_is_checked_before_decoding_and_can_be_raised(tmp_path):
    limit_of_pillow = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header_only(40_000, 30_000))
    with pytest.raises(InpaintError, match=r"1200.0 megapixels, the limit is 100; .*--max-megapixels 1200"):
        read(path)
    saved_as(path, noise(100, 150))
    with pytest.raises(InpaintError, match="limit is 0.01"):
        read(path, max_megapixels=0.01)
    with pytest.raises(InpaintError, match="limit is 0.01"):
        read_hole(path, size=None, max_megapixels=0.01)
    assert read(path, max_megapixels=0.015).size == (100, 150)
    assert limit_of_pillow == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("extension", [".gif", ".png", ".webp"])
def test_of_several_frames_the_first_is_read_with_a_note(tmp_path, extension):
    options = {"lossless": True} if extension == ".webp" else {}
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = saved_as(tmp_path / f"in{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    photo = read(path)
    assert as_pil(photo).convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert len(photo.notes) == 1 and "3 frames; only the first" in photo.notes[0]


# Where the result goes


def test_outputs_are_checked_before_any_work(tmp_path):
    for name, reason in [
        ("out", "expected a name ending in .png.*got no extension"),
        ("out.psd", "expected a name ending in .*got .psd"),
        ("absent/out.png", "no such folder; make it first"),
    ]:
        with pytest.raises(InpaintError, match=reason):
            check_output(tmp_path / name)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InpaintError, match="it is a folder"):
        check_output(tmp_path / "folder.png")
    check_output(tmp_path / "out.PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_a_folder_or_file_without_write_permission_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "closed"
    folder.mkdir()
    kept = saved_as(folder / "kept.png", noise(3, 3))
    if os.geteuid() == 0:  # root may write everywhere: let the system calls refuse as they would for others

        def refuse(self, *arguments, **options):
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "touch", refuse)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        kept.chmod(stat.S_IRUSR)
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        with pytest.raises(InpaintError, match=r"closed: permission denied; choose another folder"):
            check_output(folder / "out.png")
        with pytest.raises(InpaintError, match="closed: permission denied"):
            check_folder(folder)
        with pytest.raises(InpaintError, match="kept.png: the file is write-protected"):
            check_output(kept)
    finally:
        folder.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ("mode", "extension", "reason"),
    [
        ("RGBA", ".jpg", "no alpha channel"),
        ("LA", ".jpeg", "no alpha channel"),
        ("RGBA", ".bmp", "no alpha channel"),
        ("I;16", ".jpg", "JPEG has no samples of uint16"),
        ("I;16", ".webp", "WEBP has no samples of uint16"),
        ("RGB", ".gif", "GIF holds 256 colours"),
    ],
)
def test_formats_that_cannot_hold_the_photograph_are_refused(tmp_path, mode, extension, reason):
    with pytest.raises(InpaintError, match=f"{reason}.*use .png"):
        check_output(tmp_path / f"out{extension}", read(noise(20, 20, mode)))


def test_formats_with_limits_on_size_and_metadata(tmp_path):
    wide = read(Image.new("L", (16384, 1)))
    with pytest.raises(InpaintError, match="WEBP allows 16383 pixels a side"):
        check_output(tmp_path / "out.webp", wide)
    check_output(tmp_path / "out.jpg", wide)
    for name in ("exif", "xmp"):
        with pytest.raises(
            InpaintError, match=f"cannot hold the photograph's metadata .*{name.upper()} data is too long"
        ):
            check_output(tmp_path / "out.jpg", replace(read(noise(2, 2)), **{name: bytes(70_000)}))


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    target.write_bytes(b"what was there before")
    photo, hole = read(noise(8, 8)), some_hole(8, 8)

    class FullDisk(io.FileIO):
        def write(self, content):
            super().write(content[:4])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("inpaint.photo.open", FullDisk, raising=False)
        with pytest.raises(InpaintError, match="no space left on device; nothing was written"):
            save(target, filled(photo, torch.rand(3, 8, 8), hole))
    assert target.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    save(target, filled(photo, torch.rand(3, 8, 8), hole))
    assert read(target).size == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "png", None])
def test_streams_receive_the_file_too(tmp_path, file_format):
    photo, stream = read(noise(6, 7)), Pipe()
    check_output(stream, photo, file_format=file_format)
    save(stream, photo, file_format=file_format)
    with Image.open(io.BytesIO(stream.content)) as saved:
        assert saved.format == (file_format or "PNG").upper()
        assert file_format == "JPEG" or np.array_equal(np.asarray(saved), photo.samples)
    save(tmp_path / "out.tmp", photo, file_format=file_format or "TIFF")
    with Image.open(tmp_path / "out.tmp") as saved:
        assert saved.format == (file_format or "TIFF").upper()


def test_streams_are_checked_as_files_are():
    stream = Pipe()
    for photo, file_format, reason in [
        (read(noise(4, 4, "RGBA")), "JPEG", "cannot write the picture: JPEG has no alpha"),
        (None, "PSD", "file format: expected AVIF, BMP, GIF, HEIF, JPEG, JPEG2000, PNG, TIFF, WEBP, got PSD"),
        (read(np.zeros((4, 4, 3), np.uint16)), "WEBP", "WEBP has no samples of uint16, .*; use .png or .tif"),
        (read(np.zeros((4, 4), np.float32)), "PNG", "PNG has no samples of float32, .*; use .tif"),
    ]:
        with pytest.raises(InpaintError, match=reason):
            check_output(stream, photo, file_format=file_format)
        with pytest.raises(InpaintError, match=reason):
            save(stream, photo or read(noise(4, 4)), file_format=file_format)
    assert stream.content == b""


def test_arrays_are_saved_as_the_picture_they_are(tmp_path):
    for array in (
        np.asarray(noise(5, 6)),
        np.asarray(noise(5, 6, "I;16")).astype(">u2"),
        np.asarray(noise(5, 6, "LA")),
    ):
        save(tmp_path / "out.png", read(np.asfortranarray(array)))
        assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), array)


def test_the_file_has_ordinary_permissions_and_links_stay_links(tmp_path):
    (tmp_path / "ordinary").touch()
    target, link = tmp_path / "real.png", tmp_path / "link.png"
    save_picture(target, noise(3, 3))
    assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    link.symlink_to(target)
    save_picture(link, noise(5, 4))
    assert link.is_symlink() and read(target).size == (5, 4)

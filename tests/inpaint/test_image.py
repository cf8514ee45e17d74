from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from inpaint.errors import InpaintError
from inpaint.image import (
    Photo,
    check_folder,
    check_output,
    dilate_hole,
    read_image,
    read_mask,
    replace_hole,
    save_image,
    save_picture,
    to_pil,
    to_tensor,
)

LOSSLESS = [".png", ".webp", ".tif", ".tiff"]
CHANNELS = {"L": (), "LA": (2,), "RGB": (3,), "RGBA": (4,)}


def noise(height: int, width: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(generator.integers(0, 65536, (height, width), dtype=np.uint16))
    return Image.fromarray(generator.integers(0, 256, (height, width, *CHANNELS[mode]), dtype=np.uint8))


def some_hole(height: int, width: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((height, width)) < 0.3)


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


# Tensors and PIL images


def test_every_8_bit_value_survives_the_way_to_a_tensor_and_back():
    values = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([values, values[::-1], values.T.reshape(8, 32)], axis=-1))
    assert np.array_equal(np.asarray(to_pil(to_tensor(image))), np.asarray(image))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (5, 8)])
def test_tensor_has_the_documented_form(size):
    image = noise(*size)
    tensor = to_tensor(image)
    assert tensor.shape == (3, *size) and tensor.dtype == torch.float32 and tensor.is_contiguous()
    expected = np.asarray(image).transpose(2, 0, 1).astype(np.float64) / 255
    assert np.allclose(tensor.numpy(), expected, atol=1e-7)
    assert np.array_equal(np.asarray(to_pil(tensor)), np.asarray(image))


def test_grey_is_repeated_and_alpha_left_out():
    grey = noise(4, 5, "LA")
    tensor = to_tensor(grey)
    assert torch.equal(tensor[0], tensor[1]) and torch.equal(tensor[0], tensor[2])
    assert np.array_equal((tensor[0] * 255).round().numpy(), np.asarray(grey)[..., 0])
    deep = to_tensor(noise(4, 5, "I;16"))
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
    photo = read_image(saved_as(tmp_path / "in.png", original))
    assert photo.image.mode == mode and photo.size == (13, 17)
    hole = some_hole(13, 17)
    save_image(tmp_path / f"out{extension}", photo, torch.rand(3, 13, 17), hole)
    with Image.open(tmp_path / f"out{extension}") as saved:
        pixels = np.asarray(saved.convert(mode)).reshape(13, 17, -1)
    before = np.asarray(original).reshape(13, 17, -1)
    known = ~hole.numpy()
    assert np.array_equal(pixels[known], before[known])
    assert not np.array_equal(pixels[~known], before[~known])
    if photo.has_alpha:
        assert np.array_equal(pixels[..., -1], before[..., -1])


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("source", [".png", ".tif"])
def test_16_bit_grey_keeps_its_known_pixels_and_fills_with_16_bits(tmp_path, source, extension):
    original = noise(9, 6, "I;16")
    photo = read_image(saved_as(tmp_path / f"in{source}", original))
    hole, result = some_hole(9, 6), torch.rand(3, 9, 6)
    save_image(tmp_path / f"out{extension}", photo, result, hole)
    with Image.open(tmp_path / f"out{extension}") as saved:
        assert saved.mode == "I;16"
        pixels = np.asarray(saved)
    luminance = 0.299 * result[0].double() + 0.587 * result[1].double() + 0.114 * result[2].double()
    expected = np.where(hole.numpy(), (luminance * 65535).round().numpy(), np.asarray(original))
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_16_bit_colour_is_refused_because_pillow_would_halve_it(tmp_path, channels):
    path = tmp_path / "deep.png"
    path.write_bytes(png_16_bit(channels))
    with pytest.raises(InpaintError, match="16 bits per channel.*convert it to 8 bits"):
        read_image(path)
    path.write_bytes(png_16_bit(1))
    assert read_image(path).image.mode == "I;16"


def test_the_hole_takes_the_result_in_each_mode():
    result = torch.tensor([0.2, 0.4, 0.8]).reshape(3, 1, 1).expand(3, 2, 2)
    hole = torch.tensor([[True, False], [False, False]])
    grey = round(255 * (0.299 * 0.2 + 0.587 * 0.4 + 0.114 * 0.8))
    expected = {"RGB": (51, 102, 204), "RGBA": (51, 102, 204, 7), "L": grey, "LA": (grey, 7)}
    for mode, pixel in expected.items():
        image = Image.new(mode, (2, 2), {"RGB": (1, 2, 3), "RGBA": (1, 2, 3, 7), "L": 1, "LA": (1, 7)}[mode])
        filled = replace_hole(Photo(image), result, hole)
        assert filled.getpixel((0, 0)) == pixel
        assert filled.getpixel((1, 1)) == image.getpixel((1, 1))


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["L", "LA", "RGB", "RGBA", "I;16"]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_replacing_a_hole_never_touches_known_pixels(mode, height, width, seed):
    photo = Photo(noise(height, width, mode, seed))
    hole = some_hole(height, width, seed)
    filled = replace_hole(photo, torch.rand(3, height, width) * 3 - 1, hole)
    assert filled.mode == mode
    assert np.array_equal(np.asarray(filled)[~hole.numpy()], np.asarray(photo.image)[~hole.numpy()])


def test_a_result_of_another_size_or_with_nan_in_the_hole_is_refused(tmp_path):
    photo = Photo(noise(4, 4))
    hole = some_hole(4, 4)
    for result, mask in [(torch.rand(3, 4, 5), hole), (torch.rand(3, 4, 4), some_hole(5, 4))]:
        with pytest.raises(ValueError, match="shape"):
            save_image(tmp_path / "out.png", photo, result, mask)
    broken = torch.where(hole, float("nan"), torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match="finite"):
        save_image(tmp_path / "out.png", photo, broken, hole)
    assert list(tmp_path.iterdir()) == []
    save_image(tmp_path / "out.png", photo, torch.where(hole, torch.rand(3, 4, 4), float("nan")), hole)


def test_other_modes_are_refused():
    for mode in ("P", "CMYK", "F"):
        with pytest.raises(InpaintError, match=f"got {mode}; convert it"):
            replace_hole(Photo(Image.new(mode, (2, 2))), torch.rand(3, 2, 2), some_hole(2, 2))


def test_jpeg_is_written_close_to_the_pixels_without_chroma_subsampling(tmp_path):
    gradient = np.linspace(0, 255, 48 * 40 * 3).reshape(48, 40, 3).astype(np.uint8)
    photo = Photo(Image.fromarray(gradient))
    hole = some_hole(48, 40)
    save_image(tmp_path / "out.jpg", photo, to_tensor(photo.image), hole)
    with Image.open(tmp_path / "out.jpg") as saved:
        assert saved.format == "JPEG"
        assert [component[1:3] for component in saved.layer] == [(1, 1)] * 3
        assert np.abs(np.asarray(saved).astype(int) - gradient).max() <= 6


@pytest.mark.parametrize("mode", ["1", "P"])
def test_1_bit_and_palette_images_come_back_in_a_mode_that_can_hold_the_filling(tmp_path, mode):
    original = noise(11, 12, "L" if mode == "1" else "RGB").convert(mode)
    photo = read_image(saved_as(tmp_path / "in.png", original))
    assert photo.image.mode == {"1": "L", "P": "RGB"}[mode]
    assert np.array_equal(np.asarray(photo.image), np.asarray(original.convert(photo.image.mode)))


@pytest.mark.parametrize(
    ("mode", "transparent", "expected"), [("P", 3, "RGBA"), ("L", 9, "LA"), ("RGB", (9, 8, 7), "RGBA")]
)
def test_a_transparent_colour_becomes_an_alpha_channel(tmp_path, mode, transparent, expected):
    if mode == "P":
        original = noise(6, 6).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    else:
        original = Image.new(mode, (6, 6), 200 if mode == "L" else (200, 100, 50))
        original.putpixel((2, 3), transparent)
    photo = read_image(saved_as(tmp_path / "in.png", original, transparency=transparent))
    assert photo.image.mode == expected
    colour_key = np.asarray(original).reshape(36, -1) == np.array(transparent)
    assert np.array_equal(np.asarray(photo.image.getchannel("A")).ravel() == 0, colour_key.all(axis=1))


# Metadata


def exif_of_a_camera(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = orientation
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    return exif


PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>a title</x:xmpmeta>"


@pytest.mark.parametrize("target", [".jpg", *LOSSLESS])
@pytest.mark.parametrize("source", [".jpg", ".png", ".webp", ".tif"])
def test_profile_exif_xmp_and_resolution_travel(tmp_path, source, target):
    options = {"exif": exif_of_a_camera(6).tobytes(), "icc_profile": PROFILE, "dpi": (300, 300)}
    has_xmp = source in (".jpg", ".webp")
    if has_xmp:
        options["xmp"] = XMP
    photo = read_image(saved_as(tmp_path / f"in{source}", noise(8, 12), **options))
    assert photo.size == (12, 8)
    save_image(tmp_path / f"out{target}", photo, torch.rand(3, 12, 8), some_hole(12, 8))
    with Image.open(tmp_path / f"out{target}") as saved:
        saved.load()
        exif = saved.getexif()
        assert saved.info["icc_profile"] == PROFILE
        assert exif[ExifTags.Base.Make] == "A camera"
        assert exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
        assert exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
        assert exif.get(ExifTags.Base.Orientation, 1) == 1
        assert saved.size == (8, 12)
        if has_xmp:
            assert saved.info["xmp"] == XMP
        if source != ".webp" and target != ".webp":
            assert saved.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied_once(tmp_path, orientation, mode):
    stored = noise(4, 6, mode)
    photo = read_image(saved_as(tmp_path / "in.png", stored, exif=exif_of_a_camera(orientation)))
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
    assert np.array_equal(np.asarray(photo.image), upright)
    hole = torch.zeros(photo.size, dtype=torch.bool)
    save_image(tmp_path / "out.png", photo, torch.zeros(3, *photo.size), hole)
    assert np.array_equal(np.asarray(read_image(tmp_path / "out.png").image), upright)


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
    photo = read_image(path)
    assert photo.exif is not None and thumbnail.getvalue() not in photo.exif
    save_image(tmp_path / "out.jpg", photo, torch.rand(3, 32, 32), some_hole(32, 32))
    assert thumbnail.getvalue() not in (tmp_path / "out.jpg").read_bytes()


def test_a_picture_without_metadata_gets_none(tmp_path):
    photo = read_image(saved_as(tmp_path / "in.png", noise(5, 5)))
    assert (photo.icc_profile, photo.exif, photo.xmp, photo.dpi, photo.notes) == (None, None, None, None, ())
    save_image(tmp_path / "out.png", photo, torch.rand(3, 5, 5), some_hole(5, 5))
    with Image.open(tmp_path / "out.png") as saved:
        saved.load()
        assert saved.info == {}


# What is refused, and how


@pytest.mark.parametrize("extension", [".jpg", ".tif"])
def test_cmyk_is_refused(tmp_path, extension):
    path = saved_as(tmp_path / f"in{extension}", Image.new("CMYK", (4, 4)))
    with pytest.raises(InpaintError, match="mode is CMYK; convert it to RGB"):
        read_image(path)


def test_float_images_are_refused(tmp_path):
    path = saved_as(tmp_path / "in.tif", Image.new("F", (4, 4)))
    with pytest.raises(InpaintError, match="mode is F"):
        read_image(path)


def test_missing_empty_foreign_and_unreadable_files(tmp_path):
    with pytest.raises(InpaintError, match="no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(InpaintError, match="is a directory"):
        read_image(tmp_path)
    for content in (b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(InpaintError, match="expected a PNG, JPEG"):
            read_image(tmp_path / "text.png")


@pytest.mark.parametrize("extension", [".jpg", ".png", ".webp", ".tif", ".bmp", ".gif"])
def test_truncated_files_are_refused(tmp_path, extension):
    path = saved_as(tmp_path / f"in{extension}", noise(64, 64))
    content = path.read_bytes()
    read_image(path)
    for share in (0.02, 0.3, 0.7):
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(InpaintError):
            read_image(path)


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
    for read in (read_image, read_mask):
        try:
            read(path, max_megapixels=1)
        except InpaintError as error:
            assert "\n" not in str(error)


def test_the_size_limit_is_checked_before_decoding_and_can_be_raised(tmp_path):
    limit_of_pillow = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header_only(40_000, 30_000))
    with pytest.raises(InpaintError, match=r"1200.0 megapixels, the limit is 100; .*--max-megapixels 1200"):
        read_image(path)
    saved_as(path, noise(100, 150))
    with pytest.raises(InpaintError, match="limit is 0.01"):
        read_image(path, max_megapixels=0.01)
    with pytest.raises(InpaintError, match="limit is 0.01"):
        read_mask(path, max_megapixels=0.01)
    assert read_image(path, max_megapixels=0.015).size == (100, 150)
    assert limit_of_pillow == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("extension", [".gif", ".png", ".webp", ".tif"])
def test_of_several_frames_the_first_is_read_with_a_note(tmp_path, extension):
    options = {"lossless": True} if extension == ".webp" else {}
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = saved_as(tmp_path / f"in{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    photo = read_image(path)
    assert photo.image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)
    assert len(photo.notes) == 1 and "3 frames; only the first" in photo.notes[0]


# Where the result goes


def test_outputs_are_checked_before_any_work(tmp_path):
    for name, reason in [
        ("out", "expected a name ending in .png.*got no extension"),
        ("out.gif", "expected a name ending in .*got .gif"),
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
        ("I;16", ".jpg", "no 16-bit grey"),
        ("I;16", ".webp", "no 16-bit grey"),
    ],
)
def test_formats_that_cannot_hold_the_photograph_are_refused(tmp_path, mode, extension, reason):
    with pytest.raises(InpaintError, match=f"{reason}.*use .png"):
        check_output(tmp_path / f"out{extension}", Photo(noise(4, 4, mode)))


def test_formats_with_limits_on_size_and_metadata(tmp_path):
    wide = Photo(Image.new("L", (16384, 1)))
    with pytest.raises(InpaintError, match="WEBP allows 16383 pixels a side"):
        check_output(tmp_path / "out.webp", wide)
    check_output(tmp_path / "out.jpg", wide)
    for name in ("exif", "xmp"):
        with pytest.raises(
            InpaintError, match=f"cannot hold the photograph's metadata .*{name.upper()} data is too long"
        ):
            check_output(tmp_path / "out.jpg", Photo(noise(2, 2), **{name: bytes(70_000)}))


def test_the_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "out.png"
    target.write_bytes(b"what was there before")
    photo, hole = Photo(noise(8, 8)), some_hole(8, 8)

    save = Image.Image.save

    def disk_full(self, stream, *arguments, **options):
        if isinstance(stream, io.BytesIO):  # the trial in memory
            return save(self, stream, *arguments, **options)
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", disk_full)
        with pytest.raises(InpaintError, match="no space left on device; nothing was written"):
            save_image(target, photo, torch.rand(3, 8, 8), hole)
    assert target.read_bytes() == b"what was there before"
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]
    save_image(target, photo, torch.rand(3, 8, 8), hole)
    assert read_image(target).size == (8, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_the_file_has_ordinary_permissions_and_links_stay_links(tmp_path):
    (tmp_path / "ordinary").touch()
    target, link = tmp_path / "real.png", tmp_path / "link.png"
    save_picture(target, noise(3, 3))
    assert target.stat().st_mode == (tmp_path / "ordinary").stat().st_mode
    link.symlink_to(target)
    save_picture(link, noise(5, 4))
    assert link.is_symlink() and read_image(target).size == (5, 4)


# Masks


def mask_file(tmp_path: Path, pixels: np.ndarray, name: str = "mask.png") -> Path:
    return saved_as(tmp_path / name, Image.fromarray(pixels))


def test_white_is_hole_and_the_threshold_is_exclusive(tmp_path):
    path = mask_file(tmp_path, np.array([[0, 127, 128, 255]], dtype=np.uint8))
    assert read_mask(path).dtype == torch.bool
    assert read_mask(path).tolist() == [[False, False, True, True]]
    assert read_mask(path, threshold=0).tolist() == [[False, True, True, True]]
    assert read_mask(path, threshold=0.51).tolist() == [[False, False, False, True]]
    assert read_mask(path, invert=True).tolist() == [[True, True, False, False]]
    for threshold in (-0.1, 1.0):
        with pytest.raises(ValueError, match="threshold"):
            read_mask(path, threshold=threshold)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_mask_reads_the_same_in_every_mode(tmp_path, mode):
    expected = some_hole(9, 14)
    white = expected.numpy().astype(np.uint8) * 255
    deep = Image.fromarray(white.astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.fromarray(white).convert(mode)
    assert torch.equal(read_mask(saved_as(tmp_path / "mask.png", image)), expected)


def test_16_bit_colour_is_no_obstacle_for_a_mask(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(png_16_bit(3))
    assert read_mask(path).shape == (5, 7)


def test_colour_counts_by_luminance(tmp_path):
    image = Image.new("RGB", (3, 1))
    for column, colour in enumerate(["red", "lime", "blue"]):
        image.putpixel((column, 0), {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255)}[colour])
    assert read_mask(saved_as(tmp_path / "mask.png", image)).tolist() == [[False, True, False]]


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
def test_bright_strokes_on_a_transparent_ground_are_the_hole(tmp_path, ground):
    hole = some_hole(6, 7)
    pixels = np.zeros((6, 7, 4), dtype=np.uint8)
    pixels[..., :3] = ground
    pixels[hole.numpy()] = 255
    assert torch.equal(read_mask(mask_file(tmp_path, pixels)), hole)
    pixels[hole.numpy(), 3] = 100  # less than half opaque
    assert not read_mask(mask_file(tmp_path, pixels)).any()
    assert torch.equal(read_mask(mask_file(tmp_path, pixels), threshold=0.3), hole)


def test_transparency_that_contradicts_the_colours_is_refused(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 4), dtype=np.uint8)
    with pytest.raises(InpaintError, match="transparent pixels.*flatten"):
        read_mask(mask_file(tmp_path, pixels))  # a photograph with its hole erased
    pixels[..., :3] = 0
    with pytest.raises(InpaintError, match="transparent pixels.*flatten"):
        read_mask(mask_file(tmp_path, pixels))  # black strokes: painted hole, or painted known part?


def test_a_mask_of_another_size_names_both_sizes(tmp_path):
    path = mask_file(tmp_path, np.zeros((6, 8), dtype=np.uint8))
    assert read_mask(path, expected_size=(6, 8)).shape == (6, 8)
    with pytest.raises(InpaintError, match=r"mask.png is 8x6, the photograph is 9x6"):
        read_mask(path, expected_size=(6, 9))
    with pytest.raises(InpaintError, match=r"8x6 \(turned by 90 degrees\?\), the photograph is 6x8"):
        read_mask(path, expected_size=(8, 6))


def test_a_mask_is_turned_upright_like_a_photograph(tmp_path):
    pixels = np.zeros((4, 6), dtype=np.uint8)
    pixels[0, 0] = 255
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = saved_as(tmp_path / "mask.png", Image.fromarray(pixels), exif=exif)
    hole = read_mask(path, expected_size=(6, 4))
    assert hole.nonzero().tolist() == [[0, 3]]


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 12), width=st.integers(1, 12), pixels=st.integers(0, 15), seed=st.integers(0, 1000))
def test_dilation_is_a_square_around_every_hole_pixel(height, width, pixels, seed):
    hole = torch.from_numpy(np.random.default_rng(seed).random((height, width)) < 0.05)
    expected = torch.zeros_like(hole)
    for row, column in hole.nonzero().tolist():
        expected[max(row - pixels, 0) : row + pixels + 1, max(column - pixels, 0) : column + pixels + 1] = True
    assert torch.equal(dilate_hole(hole, pixels), expected)


def test_inversion_comes_before_dilation(tmp_path):
    pixels = np.full((5, 5), 255, dtype=np.uint8)
    pixels[2, 2] = 0
    hole = read_mask(mask_file(tmp_path, pixels), invert=True, dilate=1)
    assert hole.sum() == 9 and hole[1:4, 1:4].all()
    with pytest.raises(ValueError, match="dilate"):
        read_mask(tmp_path / "mask.png", dilate=-1)

"""Files as people bring them, filled and written; independent readers judge."""

from __future__ import annotations

import importlib.util
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from inpaint import jpeg, png
from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.photo import Patch, Photo, check_output, read, save

cv2 = pytest.importorskip("cv2")
try:
    import imagecodecs
except ImportError:
    imagecodecs = None
NEEDS_IMAGECODECS = pytest.mark.skipif(imagecodecs is None, reason="imagecodecs is not installed")
NEEDS_JPEGLIB = pytest.mark.skipif(importlib.util.find_spec("jpeglib") is None, reason="jpeglib is not installed")

HEIGHT, WIDTH = 64, 96
ROWS, COLUMNS = slice(20, 40), slice(30, 60)
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[ROWS, COLUMNS] = True
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(*shape: int, kind: str = "uint16", seed: int = 0) -> np.ndarray:
    """A picture with more than 256 levels, or floats in [0, 1]."""
    generator = np.random.default_rng(seed)
    coarse = torch.from_numpy(generator.random((1, int(np.prod(shape[2:])), 6, 8)))
    fine = torch.nn.functional.interpolate(coarse, shape[:2], mode="bicubic").clamp(0, 1)[0]
    values = fine.permute(1, 2, 0).reshape(shape).numpy()
    dtype = np.dtype(kind)
    return values.astype(dtype) if dtype.kind == "f" else (values * np.iinfo(dtype).max).astype(dtype)


def filled(photo: Photo, hole: np.ndarray = HOLE, seed: int = 3) -> Photo:
    """The photograph with smooth colours in its hole."""
    colours = torch.from_numpy(smooth(*hole.shape, 3, kind="float32", seed=seed)).permute(2, 0, 1)
    return photo.filled([Patch(slice(None), slice(None), colours, hole)])


def tiff_of(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def saved(photo: Photo, file_format: str) -> bytes:
    stream = io.BytesIO()
    save(stream, photo, file_format=file_format)
    return stream.getvalue()


def pil(image: Image.Image, file_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


# 16 bits in PNG


def png_of(samples: np.ndarray, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """A 16-bit PNG of unfiltered rows."""
    height, width, channels = samples.shape
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for row, column, down, right in passes:
        part = samples[row::down, column::right]
        rows += b"".join(b"\0" + line.astype(">u2").tobytes() for line in part) if part.size else b""
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, int(interlaced))
    return png.joined(
        [
            png.Chunk(b"IHDR", header),
            *(png.Chunk(*chunk) for chunk in chunks),
            png.Chunk(b"IDAT", zlib.compress(rows)),
            png.Chunk(b"IEND", b""),
        ]
    )


def read_by_opencv(content: bytes) -> np.ndarray:
    array = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    array = array[:, :, None] if array.ndim == 2 else array
    return array[..., [2, 1, 0, 3][: array.shape[2]]] if array.shape[2] > 2 else array


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("target", ["PNG", "TIFF"])
def test_16_bit_png_is_filled_with_16_bits(channels, target):
    original = smooth(HEIGHT, WIDTH, channels)
    photo = read(png_of(original))
    assert np.array_equal(photo.samples, original)
    content = saved(filled(photo), target)
    result = tifffile.imread(io.BytesIO(content)) if target == "TIFF" else read_by_opencv(content)
    if channels == 2 and target == "PNG":
        result = png.decode_deep(content)  # OpenCV makes four channels of two
    result = result.reshape(original.shape)
    assert result.dtype == np.uint16 and np.array_equal(result[~HOLE], original[~HOLE])
    assert len(np.unique(result[HOLE][:, 0])) > 256
    if channels in (2, 4):
        assert np.array_equal(result[..., -1], original[..., -1])


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.sampled_from([1, 2, 3, 4]),
    step=st.sampled_from([3, 300, 65536]),
    interlaced=st.booleans(),
    seed=st.integers(0, 999),
)
def test_16_bit_png_of_every_kind_is_read_and_written(size, channels, step, interlaced, seed):
    samples = np.random.default_rng(seed).integers(0, step, (*size, channels)).cumsum(axis=seed % 2).astype(np.uint16)
    assert np.array_equal(read(png_of(samples, interlaced=interlaced)).samples, samples)
    written = png.joined(png.encode_deep(samples))
    assert np.array_equal(png.decode_deep(written), samples)
    if channels != 2:
        assert np.array_equal(read_by_opencv(written), samples)
        rows = [cv2.IMWRITE_PNG_FILTER, 8 << seed % 5]
        encoded = cv2.imencode(".png", samples[..., [2, 1, 0, 3][:channels] if channels > 1 else [0]], rows)[1]
        assert np.array_equal(png.decode_deep(encoded.tobytes()), samples)


def test_a_transparent_colour_of_16_bits_becomes_alpha():
    samples = smooth(8, 9, 3)
    photo = read(png_of(samples, (b"tRNS", samples[2, 3].astype(">u2").tobytes())))
    assert np.array_equal(photo.samples[..., :3], samples)
    assert np.array_equal(photo.samples[..., 3] == 0, (samples == samples[2, 3]).all(axis=2))


# TIFF

KINDS = ["uint8", "uint16", "uint32", "int16", "float16", "float32", "float64"]


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    bands=st.sampled_from([1, 2, 3, 4, 5]),
    layout=st.sampled_from(["strips", "tiles", "one strip"]),
    planar=st.booleans(),
    compression=st.sampled_from([None, "zlib", "lzw", "packbits", "zstd", "lzma"]),
    predictor=st.booleans(),
    options=st.fixed_dictionaries(
        {"bigtiff": st.booleans(), "byteorder": st.sampled_from("<>"), "extrasample": st.sampled_from([0, 1, 2])}
    ),
    white_is_zero=st.booleans(),
    orientation=st.sampled_from([1, 1, 3, 6, 7, 8]),
)
@NEEDS_IMAGECODECS
def test_tiff_of_every_kind_keeps_all_but_the_hole(
    kind, bands, layout, planar, compression, predictor, options, white_is_zero, orientation
):
    original = smooth(HEIGHT, WIDTH, bands, kind=kind)
    colours = 3 if bands > 2 else 1
    extra = [options["extrasample"]] + [0] * 4
    white_is_zero = white_is_zero and colours == 1
    planar = planar and bands > 1
    content = tiff_of(
        np.moveaxis(original, 2, 0) if planar else original if bands > 1 else original[..., 0],
        photometric="rgb" if colours == 3 else "miniswhite" if white_is_zero else "minisblack",
        planarconfig=("separate" if planar else "contig") if bands > 1 else None,
        extrasamples=extra[: bands - colours] or None,
        tile=(32, 48) if layout == "tiles" else None,
        rowsperstrip=7 if layout == "strips" else None,
        compression=compression,
        predictor=(predictor and compression in ("zlib", "lzw", "zstd")) or None,
        bigtiff=options["bigtiff"],
        byteorder=options["byteorder"],
        extratags=[(274, 3, 1, orientation, True), (42112, 2, 0, "<GDALMetadata/>", True)],
        metadata=None,
    )
    photo = read(content)
    hole = HOLE if orientation < 5 else HOLE.T
    result = saved(filled(photo, hole), "TIFF")
    with tifffile.TiffFile(io.BytesIO(result)) as file:
        page = file.pages[0]
        values = page.asarray()
        assert page.compression == tifffile.TiffFile(io.BytesIO(content)).pages[0].compression
        assert page.tags[42112].value == "<GDALMetadata/>" and page.tags[274].value == orientation
        assert file.is_bigtiff == options["bigtiff"]
    values = np.moveaxis(values, 0, 2) if planar else values.reshape(original.shape)
    stored_hole = {1: HOLE, 3: HOLE[::-1, ::-1], 6: HOLE[::-1], 7: HOLE[::-1, ::-1], 8: HOLE[:, ::-1]}[orientation]
    assert values.dtype == original.dtype and np.array_equal(values[~stored_hole], original[~stored_hole])
    assert (values[stored_hole][:, :colours] != original[stored_hole][:, :colours]).mean() > 0.5
    assert np.array_equal(values[..., colours:], original[..., colours:])
    if kind not in ("uint8", "float16"):
        assert len(np.unique(values[stored_hole][:, 0])) > 256


def test_where_0_is_white_the_filling_is_inverted_too():
    original = smooth(HEIGHT, WIDTH)
    photo = read(tiff_of(original, photometric="miniswhite"))
    assert np.array_equal(photo.samples[..., 0], 65535 - original)
    white = photo.filled([Patch(slice(None), slice(None), torch.ones(3, HEIGHT, WIDTH), HOLE)])
    result = tifffile.imread(io.BytesIO(saved(white, "TIFF")))
    assert (result[HOLE] == 0).all() and np.array_equal(result[~HOLE], original[~HOLE])


def test_floats_beyond_1_and_nan_are_kept():
    original = 5000 * smooth(HEIGHT, WIDTH, kind="float32") - 100
    original[ROWS, COLUMNS] = np.nan
    photo = read(tiff_of(original, photometric="minisblack"))
    assert "values from" in " ".join(photo.notes)
    photo.check_known(HOLE)
    result = tifffile.imread(io.BytesIO(saved(filled(photo), "TIFF")))
    assert np.array_equal(result[~HOLE], original[~HOLE]) and np.isfinite(result).all()
    assert result[HOLE].max() > 1000
    with pytest.raises(InpaintError, match="expected numbers outside the hole, got NaN"):
        photo.check_known(np.roll(HOLE, 5))


def test_one_page_is_filled_and_the_others_stay():
    pages = [smooth(HEIGHT, WIDTH, 3, seed=seed) for seed in range(3)]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for page in pages:
            writer.write(page, photometric="rgb", compression="zlib", metadata=None)
    content = stream.getvalue()
    photo = read(content, page=2)
    assert np.array_equal(photo.samples, pages[1]) and "3 pages; page 2" in photo.notes[0]
    result = saved(filled(photo), "TIFF")
    with tifffile.TiffFile(io.BytesIO(result)) as file:
        written = [page.asarray() for page in file.pages]
    assert np.array_equal(written[0], pages[0]) and np.array_equal(written[2], pages[2])
    assert np.array_equal(written[1][~HOLE], pages[1][~HOLE]) and (written[1][HOLE] != pages[1][HOLE]).any()
    for number in (0, 4):
        with pytest.raises(InpaintError, match="expected "):
            read(content, page=number)


@pytest.mark.parametrize("compression", ["zlib", None])
def test_nothing_of_the_old_pixels_stays_in_a_tiff_and_it_hardly_grows(compression):
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    content = tiff_of(noise, photometric="rgb", compression=compression, rowsperstrip=8, metadata=None)
    result = saved(filled(read(content)), "TIFF")
    assert len(result) < 1.1 * len(content)
    old = noise[25, 35:45].tobytes()
    assert compression or old in content
    assert old not in result
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = file.pages[0]
        strip = content[page.dataoffsets[3] : page.dataoffsets[3] + page.databytecounts[3]]
    assert strip not in result


def test_a_smooth_picture_with_tags_stays_small_as_tiff():
    image = Image.fromarray(smooth(200, 300, 3, kind="uint8"))
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] = 400
    photo = read(pil(image, "PNG", exif=exif))
    content = saved(photo, "TIFF")
    assert len(content) < 0.5 * 200 * 300 * 3
    with Image.open(io.BytesIO(content)) as written:
        assert written.getexif()[ExifTags.Base.Make] == "A camera"
        assert written.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ISOSpeedRatings] == 400
        assert np.array_equal(np.asarray(written), photo.samples)


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_bigtiff_gives_the_same_picture(tmp_path, extension):
    original = smooth(HEIGHT, WIDTH, 3, kind="uint8")
    save(tmp_path / f"out{extension}", filled(read(tiff_of(original, photometric="rgb", bigtiff=True))))
    assert np.array_equal(read(tmp_path / f"out{extension}").samples[~HOLE], original[~HOLE])


def test_the_command_fills_a_page_of_16_bits(tmp_path):
    pages = [smooth(HEIGHT, WIDTH, 3, seed=seed) for seed in range(2)]
    tifffile.imwrite(tmp_path / "in.tif", np.stack(pages), photometric="rgb", compression="zlib")
    Image.fromarray(HOLE).save(tmp_path / "mask.png")
    files = [str(tmp_path / name) for name in ("in.tif", "mask.png", "out.tif")]
    result = CliRunner().invoke(main, ["fill", *files[:2], "-o", files[2], "--page", "2", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "has 2 pages; page 2 is used" in result.output
    written = tifffile.imread(files[2])
    assert np.array_equal(written[0], pages[0]) and np.array_equal(written[1][~HOLE], pages[1][~HOLE])
    assert len(np.unique(written[1][HOLE][:, 0])) > 256


# JPEG


def photograph(mode: str = "RGB", height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    shape = (height, width, 3)
    noise = np.random.default_rng(1).integers(-20, 20, shape)
    return Image.fromarray((smooth(*shape, kind="uint8") + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def chroma_reach(hole: np.ndarray, side: int) -> np.ndarray:
    """The pixels of blocks that a hole touches, and one more, because decoders interpolate colours between samples."""
    reach = np.zeros_like(hole)
    for row in range(0, hole.shape[0], side):
        for column in range(0, hole.shape[1], side):
            if hole[row : row + side, column : column + side].any():
                reach[max(0, row - 1) : row + side + 1, max(0, column - 1) : column + side + 1] = True
    return reach


@NEEDS_IMAGECODECS
@NEEDS_JPEGLIB
@settings(max_examples=50, deadline=None)
@given(
    mode=st.sampled_from(["RGB", "RGB", "L"]),
    subsampling=st.sampled_from([0, 1, 2]),
    quality=st.integers(20, 98),
    options=st.sampled_from([{}, {"progressive": True}, {"restart_marker_rows": 1}, {"optimize": True}]),
    size=st.sampled_from([(64, 96), (61, 91), (33, 47)]),
    orientation=st.sampled_from([1, 3, 5, 6, 8]),
)
def test_blocks_of_a_jpeg_that_no_hole_touches_stay(mode, subsampling, quality, options, size, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    content = pil(photograph(mode, *size), "JPEG", quality=quality, subsampling=subsampling, exif=exif, **options)
    hole = np.zeros(size, bool)
    hole[12:30, 20:38] = True
    photo = read(content)
    displayed = {1: hole, 3: hole[::-1, ::-1], 5: hole.T, 6: np.rot90(hole, -1), 8: np.rot90(hole)}[orientation]
    result = saved(filled(photo, np.ascontiguousarray(displayed)), "JPEG")
    before, after = (imagecodecs.jpeg8_decode(each).astype(int) for each in (content, result))
    far = ~chroma_reach(hole, 8 if subsampling == 0 or mode == "L" else 16)
    assert np.array_equal(after[far], before[far])
    assert np.abs(after - before)[hole].mean() > 5
    with Image.open(io.BytesIO(content)) as old, Image.open(io.BytesIO(result)) as new:
        assert old.quantization == new.quantization
        assert [each[1:3] for each in old.layer] == [each[1:3] for each in new.layer]
        assert new.getexif()[ExifTags.Base.Orientation] == orientation


@NEEDS_JPEGLIB
def test_an_arithmetic_jpeg_stays_one(tmp_path):
    import jpeglib

    path = tmp_path / "in.jpg"
    path.write_bytes(pil(photograph(), "JPEG", quality=60, subsampling=0))
    with jpeglib.version("turbo210"):
        jpeglib.read_dct(str(path)).write_dct(str(path), flags=["+ARITH_CODE"])
    photo = read(path)
    assert check_output(io.BytesIO(), photo, file_format="JPEG") == ()
    result = saved(filled(photo), "JPEG")
    assert 0xC9 in [segment.marker for segment in jpeg.parts_of(result).segments]
    with Image.open(path) as before, Image.open(io.BytesIO(result)) as after:
        far = ~chroma_reach(HOLE, 8)
        assert np.array_equal(np.asarray(after)[far], np.asarray(before)[far])


@NEEDS_JPEGLIB
def test_the_filling_is_in_the_jpeg():
    photo = read(pil(photograph(), "JPEG", quality=90, subsampling=0))
    expected = filled(photo)
    with Image.open(io.BytesIO(saved(expected, "JPEG"))) as written:
        assert np.abs(np.asarray(written).astype(int) - expected.samples)[HOLE].mean() < 4


def test_without_jpeglib_tables_and_sampling_stay_and_a_note_says_so(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    content = pil(photograph(), "JPEG", quality=60, subsampling=2)
    photo = read(content)
    assert "jpeglib" in " ".join(check_output(io.BytesIO(), photo, file_format="JPEG"))
    result = saved(filled(photo), "JPEG")
    assert len(result) < 1.2 * len(content)
    with Image.open(io.BytesIO(content)) as old, Image.open(io.BytesIO(result)) as new:
        assert old.quantization == new.quantization
        assert [each[1:3] for each in old.layer] == [each[1:3] for each in new.layer]
        assert np.abs(np.asarray(old).astype(int) - np.asarray(new))[~HOLE].mean() < 3


def jpeg_with(*segments: jpeg.Segment, rest: bytes = b"", **options: object) -> bytes:
    parts = jpeg.parts_of(pil(photograph(), "JPEG", **options))
    return parts._replace(segments=[parts.segments[0], *segments, *parts.segments[1:]]).joined() + rest


def markers(content: bytes) -> list[jpeg.Segment]:
    return [segment for segment in jpeg.parts_of(content).segments if segment.is_application_data]


def test_iptc_comment_and_unknown_segments_of_a_jpeg_stay():
    caption = b"\x1c\x02\x78\x00\x07caption"
    added = [
        jpeg.photoshop_segment({1028: caption, 1005: b"x" * 15}),
        jpeg.Segment(0xEB, b"unknown"),
        jpeg.Segment(jpeg.COMMENT, b"a comment"),
    ]
    content = jpeg_with(*added)
    photo = read(content)
    assert photo.iptc == caption and photo.comment == b"a comment"
    result = saved(filled(photo), "JPEG")
    assert [segment for segment in markers(result) if segment in added] == added
    with tifffile.TiffFile(io.BytesIO(saved(photo, "TIFF"))) as file:
        assert file.pages[0].tags[33723].value == caption
    again = read(saved(read(saved(photo, "TIFF")), "JPEG"))
    assert again.iptc == caption
    assert read(saved(photo, "PNG")).comment is None or b"a comment" in saved(photo, "PNG")
    assert "IPTC" in " ".join(check_output(io.BytesIO(), photo, file_format="PNG"))


def test_thumbnails_are_left_out_and_other_resources_stay():
    content = jpeg_with(jpeg.photoshop_segment({1036: b"thumbnail of the unfilled picture", 1028: b"caption"}))
    result = saved(filled(read(content)), "JPEG")
    assert b"thumbnail" not in result and b"caption" in result


def test_a_damaged_exif_tag_costs_no_picture():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera with a name"
    exif[ExifTags.Base.Orientation] = 6
    content = bytearray(pil(photograph(), "JPEG", exif=exif))
    place = content.index(struct.pack(">H" if b"MM\0*" in content else "<H", 271), content.index(b"Exif"))
    content[place + 2 : place + 4] = struct.pack(">H" if b"MM\0*" in content else "<H", 5)  # RATIONAL instead of ASCII
    photo = read(bytes(content))
    assert photo.size == (WIDTH, HEIGHT)
    for file_format in ("JPEG", "PNG", "WEBP"):
        assert read(saved(photo, file_format)).size == (WIDTH, HEIGHT)


def test_exif_that_is_no_exif_costs_a_note():
    photo = read(jpeg_with(jpeg.Segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")))
    assert photo.exif is None and "EXIF is damaged" in " ".join(photo.notes)


def test_makers_notes_stay_where_they_are():
    """Their offsets count from the beginning of the block."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"a maker's note with offsets"
    content = pil(photograph(), "JPEG", exif=exif)
    block = next(segment.payload for segment in markers(content) if segment.payload.startswith(b"Exif"))
    for kept in (
        read(content).exif,
        next(s.payload for s in markers(saved(read(content), "JPEG")) if s.marker == 0xE1),
    ):
        assert len(kept) == len(block) and kept.index(b"a maker's note") == block.index(b"a maker's note")


GAIN_MAP_XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF '
    b'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description dc:title="kept" hdrgm:Version="1.0">'
    b"<Container:Directory><rdf:Seq><rdf:li/></rdf:Seq></Container:Directory></rdf:Description></rdf:RDF></x:xmpmeta>"
)


def test_a_gain_map_is_left_out_with_its_announcement():
    gain_map = pil(photograph("L"), "JPEG")
    content = jpeg_with(jpeg.Segment(0xE1, GAIN_MAP_XMP), jpeg.Segment(0xE2, b"MPF\0MM\0*"), rest=gain_map, quality=80)
    photo = read(content)
    assert "gain map" in " ".join(photo.notes) and b"hdrgm" not in photo.xmp
    result = saved(filled(photo), "JPEG")
    assert result.count(b"\xff\xd8\xff") == 1
    assert b"hdrgm:Version" not in result and b"Directory" not in result and b"MPF\0" not in result
    assert b'dc:title="kept"' in result


@NEEDS_IMAGECODECS
def test_an_ultra_hdr_photograph_becomes_an_ordinary_one():
    if not imagecodecs.ULTRAHDR.available:
        pytest.skip("imagecodecs has no libultrahdr")
    linear = np.concatenate([smooth(HEIGHT, WIDTH, 3, kind="float16"), np.ones((HEIGHT, WIDTH, 1), np.float16)], axis=2)
    content = imagecodecs.ultrahdr_encode(linear)
    assert imagecodecs.ultrahdr_check(content)
    photo = read(content)
    assert "gain map" in " ".join(photo.notes)
    result = saved(filled(photo), "JPEG")
    assert not imagecodecs.ultrahdr_check(result) and result.count(b"\xff\xd8\xff") == 1


# Other formats


@pytest.mark.parametrize("file_format", ["WEBP", "JPEG2000", "BMP", "PNG"])
def test_other_formats_keep_known_pixels(file_format):
    image = photograph()
    content = pil(image, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
    result = saved(filled(read(content)), file_format)
    decoded = read_by_opencv(result) if file_format != "BMP" else np.asarray(Image.open(io.BytesIO(result)))
    assert np.array_equal(decoded[~HOLE], np.asarray(image)[~HOLE])


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("colours", [20, 255])
def test_gif_keeps_the_known_colours(colours, transparent):
    image = photograph().quantize(colours)
    content = pil(image, "GIF", **({"transparency": 3} if transparent else {}))
    before = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    result = saved(filled(read(content)), "GIF")
    after = np.asarray(Image.open(io.BytesIO(result)).convert("RGBA"))
    visible = before[..., 3] > 0
    assert np.array_equal(after[..., 3], before[..., 3])
    assert np.array_equal(after[visible & ~HOLE], before[visible & ~HOLE])
    assert (after[visible & HOLE] != before[visible & HOLE]).any()


def test_profile_exif_and_xmp_go_through_jpeg_2000():
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    photo = read(pil(photograph(), "JPEG", exif=exif, icc_profile=PROFILE, xmp=b"<x:xmpmeta/>", quality=95))
    content = saved(photo, "JPEG2000")
    assert np.array_equal(read_by_opencv(content), photo.samples)
    assert PROFILE in content and b"JpgTiffExif->JP2" + photo.exif[6:] in content
    again = read(content)
    assert (again.icc_profile, again.exif, again.xmp) == (photo.icc_profile, photo.exif, photo.xmp)


def test_avif_is_read_and_written_with_a_note():
    photo = read(pil(photograph(), "AVIF", quality=90, icc_profile=PROFILE))
    assert photo.icc_profile == PROFILE
    assert "AVIF encodes the whole picture" in " ".join(check_output(io.BytesIO(), photo, file_format="AVIF"))
    with Image.open(io.BytesIO(saved(photo, "AVIF"))) as written:
        assert written.info["icc_profile"] == PROFILE
        assert np.abs(np.asarray(written).astype(int) - photo.samples).mean() < 4


@NEEDS_IMAGECODECS
def test_depth_that_pillow_reduces_is_named():
    deep = smooth(HEIGHT, WIDTH, 3)
    files = [
        (imagecodecs.jpeg2k_encode(deep, level=0), 16),
        (imagecodecs.avif_encode(deep >> 6, level=90, bitspersample=10), 10),
    ]
    for content, bits in files:
        assert f"has {bits} bits per sample; 8 of them are used" in " ".join(read(content).notes)
    for content in (imagecodecs.jpeg2k_encode(deep[..., 0], level=0), imagecodecs.avif_encode(deep.astype(np.uint8))):
        assert read(content).notes == ()


def test_heic_is_read_and_written_or_its_extra_named(monkeypatch, tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    pillow_heif.from_pillow(photograph()).save(stream, quality=90)
    photo = read(stream.getvalue())
    assert photo.size == (HEIGHT, WIDTH)
    save(tmp_path / "out.heic", photo)
    assert np.abs(read(tmp_path / "out.heic").samples.astype(int) - photo.samples).mean() < 4
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for attempt in (lambda: read(stream.getvalue()), lambda: check_output(tmp_path / "out.heic", photo)):
        with pytest.raises(InpaintError, match=r"HEIC needs pillow-heif, .* pip install '.\[formats\]'"):
            attempt()


def test_an_opaque_screenshot_becomes_a_jpeg():
    image = photograph("RGBA")
    assert len(saved(read(pil(image, "PNG")), "JPEG")) > 100
    image.putpixel((0, 0), (0, 0, 0, 0))
    with pytest.raises(InpaintError, match="no alpha channel"):
        saved(read(pil(image, "PNG")), "JPEG")


# PNG chunks

COLOUR_CHUNKS = [
    png.Chunk(b"gAMA", struct.pack(">I", 100000)),
    png.Chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    png.Chunk(b"cICP", bytes([9, 16, 0, 1])),
    png.Chunk(b"mDCV", bytes(24)),
    png.Chunk(b"cLLI", bytes(8)),
]


@pytest.mark.parametrize("depth", [8, 16])
def test_colour_and_text_chunks_of_a_png_stay(depth):
    added = [
        *COLOUR_CHUNKS,
        png.Chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
        png.Chunk(b"tEXt", b"Author\0Someone"),
        png.Chunk(b"zTXt", b"Title\0\0" + zlib.compress(b"a title")),
        png.Chunk(b"iTXt", "Description\0\0\0\0\0Grüße".encode()),
        png.Chunk(b"teSt", b"private, safe to copy"),
    ]
    unsafe = png.Chunk(b"teST", b"private, not safe to copy")
    original = smooth(HEIGHT, WIDTH, 3, kind=f"uint{depth}")
    chunks = png.chunks_of(png_of(original) if depth == 16 else pil(Image.fromarray(original), "PNG"))
    photo = read(png.joined([chunks[0], *added, unsafe, *chunks[1:]]))
    result = png.chunks_of(saved(filled(photo), "PNG"))
    assert all(result.count(chunk) == 1 for chunk in added) and unsafe not in result
    names = [chunk.name for chunk in result]
    assert max(map(names.index, (b"gAMA", b"cICP", b"pHYs"))) < names.index(b"IDAT")
    note = " ".join(check_output(io.BytesIO(), photo, file_format="TIFF"))
    assert "cHRM, cICP, cLLI, gAMA, mDCV, text" in note


def test_a_damaged_profile_of_a_png_costs_a_note():
    chunks = png.chunks_of(pil(photograph(), "PNG"))
    photo = read(png.joined([chunks[0], png.Chunk(b"iCCP", b"name\0\0damaged"), *chunks[1:]]))
    assert np.array_equal(photo.samples, np.asarray(photograph()))


# The file itself


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_mode_of_a_file_stays(tmp_path):
    target = tmp_path / "out.png"
    target.touch(mode=0o600)
    target.chmod(0o600)
    save(target, read(photograph()))
    assert target.stat().st_mode & 0o777 == 0o600 and target.stat().st_size > 100


def test_an_upright_picture_says_that_it_was_turned():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    assert "turned upright (EXIF 3)" in " ".join(read(pil(photograph(), "JPEG", exif=exif)).notes)


def test_without_the_extra_the_core_reads_and_writes(tmp_path):
    """In an interpreter where imagecodecs, jpeglib and pillow-heif are not there."""
    script = """
import sys
for name in ("imagecodecs", "jpeglib", "pillow_heif"):
    sys.modules[name] = None
import numpy as np
from inpaint.photo import read, save
for extension, kind, channels in [
    ("png", "uint8", 3), ("png", "uint16", 3), ("png", "uint16", 4), ("tif", "uint8", 3), ("tif", "uint16", 1),
    ("tif", "uint16", 3), ("tif", "float32", 3), ("jpg", "uint8", 3), ("webp", "uint8", 4), ("jp2", "uint8", 3),
]:
    array = (np.random.default_rng(0).random((20, 30, channels)) * (1 if kind == "float32" else 200)).astype(kind)
    path = f"in.{extension}"
    save(path, read(array))
    photo = read(path)
    save(f"out.{extension}", photo)
    again = read(f"out.{extension}")
    assert extension == "jpg" or np.array_equal(again.samples, array), (extension, kind, channels)
    assert extension == "jpg" or np.array_equal(again.samples, photo.samples)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    assert done.returncode == 0, done.stderr


# Damage


def examples() -> dict[str, bytes]:
    deep = smooth(9, 8, 3)
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "A camera"
    exif[ExifTags.Base.Orientation] = 6
    small = photograph(height=9, width=8)
    return {
        "deep png": png_of(deep, *COLOUR_CHUNKS),
        "tiff": tiff_of(deep, photometric="rgb", compression="zlib"),
        "bigtiff": tiff_of(deep, photometric="rgb", bigtiff=True),
        "tiled": tiff_of(smooth(32, 32, 2), photometric="minisblack", planarconfig="separate", tile=(16, 16)),
        "jpeg": pil(small, "JPEG", exif=exif, icc_profile=PROFILE[:200]),
        "avif": pil(small, "AVIF"),
        "jp2": pil(small, "JPEG2000"),
        "gif": pil(small, "GIF"),
    }


EXAMPLES = examples()


def test_a_file_that_asks_for_too_much_memory_is_refused(monkeypatch):
    def refuse(*arguments):
        raise MemoryError

    monkeypatch.setattr("inpaint.codec.png.decode_deep", refuse)
    with pytest.raises(InpaintError, match="asks for more memory than there is"):
        read(EXAMPLES["deep png"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_damaged_files_are_read_and_written_or_refused_in_one_line(data):
    name = data.draw(st.sampled_from(sorted(EXAMPLES)))
    content = bytearray(EXAMPLES[name])
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.sampled_from([len(content), data.draw(st.integers(0, len(content)))])) :]
    try:
        photo = read(bytes(content), max_megapixels=0.01)
        changed = replace(photo, samples=np.where(np.eye(*photo.size, dtype=bool)[..., None], 0, photo.samples))
        formats = ["TIFF"] if photo.samples.dtype.kind == "f" else ["PNG", "TIFF"]
        for file_format in formats:
            again = read(saved(changed, file_format), page=1)
            assert again.samples.size == photo.samples.size
    except InpaintError as error:
        assert "\n" not in str(error)


def test_gif_with_many_new_colours_takes_little_memory():
    photo = read(pil(Image.new("RGB", (200, 150)), "GIF"))
    colours = np.arange(150 * 200, dtype="<u4").view(np.uint8).reshape(150, 200, 4)[..., :3]
    tracemalloc.start()
    try:
        saved(replace(photo, samples=colours.copy()), "GIF")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**27

"""TIFF files of any depth: read, changed in place, and written, by tifffile.

A filled page is written into a copy of its file: its strips or tiles are replaced, and all else stays byte for byte:
other pages, tags of any kind, bands that are no colour (TIFF 6.0; BigTIFF).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin, TiffTags

from inpaint.errors import InpaintError
from inpaint.jpeg import THUMBNAILS, photoshop_resources

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # it reports damage there, and goes on or raises

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DEFLATE = 8
_SAMPLE_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float16", "float32", "float64")
_MOST_BANDS = 32
_LOSSLESS = (1, 5, DEFLATE, 32946, 32773, 34925, 50000)  # none, LZW, deflate, PackBits, LZMA, Zstandard
_GREY_INVERTED, _GREY, _RGB = 0, 1, 2  # photometric interpretations
_OFFSETS, _BYTE_COUNTS, _TILE_OFFSETS, _TILE_BYTE_COUNTS = 273, 279, 324, 325
_SUB_IFDS, _LAYERS, _RESOURCES = 330, 37724, 34377
_ORIENTATION, _XMP, _IPTC, _PROFILE, _EXIF, _GPS = 274, 700, 33723, 34675, 34665, 34853


@dataclass(frozen=True, eq=False)
class Page:
    """One page of a TIFF file: grey or RGB, of whole bytes per sample.

    raw: (H, W, bands) as stored. colours: how many bands are colour. alpha: the band that is, if there is one.
    inverted: 0 is white. low, high: the values of black and white of types that have no white of their own. facts:
    fields of a ``Photo``. shows_unfilled: the page has layers or previews.
    """

    raw: np.ndarray
    colours: int
    alpha: int | None
    inverted: bool
    orientation: int
    pages: int
    low: float
    high: float
    facts: dict[str, Any]
    shows_unfilled: bool

    @property
    def bands(self) -> list[int]:
        """The bands that are colour or alpha."""
        return [*range(self.colours), *([] if self.alpha is None else [self.alpha])]

    @property
    def others(self) -> int:
        """How many bands are neither."""
        return self.raw.shape[2] - len(self.bands)

    @cached_property
    def samples(self) -> np.ndarray:
        """(H, W, C): colour and alpha with white at 255, 65535 or 1.0."""
        samples = self.raw[..., self.bands]
        if self.is_scaled:
            kind = np.float32 if samples.dtype.itemsize < 4 or samples.dtype == np.float32 else np.float64
            with np.errstate(all="ignore"):  # what lies in the hole may be any number
                samples = ((samples.astype(np.float64) - self.low) / (self.high - self.low)).astype(kind)
        if self.inverted:
            samples[..., : self.colours] = self._white(samples) - samples[..., : self.colours]
        return samples

    def with_samples(self, samples: np.ndarray) -> np.ndarray:
        """``raw`` with the pixels replaced that differ from ``samples``."""
        equal = (samples == self.samples) | ((samples != samples) & (self.samples != self.samples))
        changed = ~equal.all(axis=2)
        new = samples[changed].copy()
        if self.inverted:
            new[..., : self.colours] = self._white(samples) - new[..., : self.colours]
        raw = self.raw.copy()
        if self.is_scaled:
            new = new.astype(np.float64) * (self.high - self.low) + self.low
            if raw.dtype.kind in "iu":
                limits = np.iinfo(raw.dtype)
                new = np.rint(new).clip(limits.min, limits.max)
        rows, columns = np.nonzero(changed)
        raw[rows[:, None], columns[:, None], self.bands] = new.astype(raw.dtype)
        return raw

    @property
    def is_scaled(self) -> bool:
        own = self.raw.dtype.name in ("uint8", "uint16") or self.raw.dtype.kind == "f"
        return not own or (self.low, self.high) != (0, 1) and self.raw.dtype.kind == "f"

    @staticmethod
    def _white(samples: np.ndarray) -> Any:
        return np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else samples.dtype.type(1)


def megapixels(content: bytes, number: int, name: str) -> float:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _page(file, number, name)
        return page.imagewidth * page.imagelength / 1e6


def described(content: bytes, number: int = 0) -> str:
    """The kind of a page's pixels, for a message."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _page(file, number)
        photometric, compression = (getattr(each, "name", each) for each in (page.photometric, page.compression))
        return (
            f"{photometric} of {page.samplesperpixel} samples of {page.bitspersample} bits, compression {compression}"
        )


def read(content: bytes, number: int, name: str) -> Page | None:
    """A page, counted from 0; None where it is of another kind than ``Page`` describes.

    Raises:
        InpaintError: there is no such page, or a codec is missing that the package imagecodecs brings.
        Exception: tifffile raises errors of many types on damaged files.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _page(file, number, name)
        colours = _colours(page)
        if colours is None:
            return None
        _check_segments(page, len(content))
        try:
            raw = page.asarray()
        except (ValueError, KeyError, NotImplementedError) as error:
            if "imagecodecs" not in str(error):
                raise
            is_plain_deep = page.dtype == np.uint16 and page.samplesperpixel == 1 and page.photometric == _GREY
            if is_plain_deep or (page.dtype == np.uint8 and page.samplesperpixel <= 4):
                return None  # Pillow reads it
            raise InpaintError(
                f"cannot read {name}: its compression {page.compression.name} needs imagecodecs, which is not "
                "installed; in a checkout: pip install '.[formats]'"
            ) from error
        raw = np.moveaxis(raw, 0, 2) if page.axes == "SYX" else raw[:, :, None] if page.axes == "YX" else raw
        extra = [int(each) for each in page.extrasamples]
        extra += [0] * (raw.shape[2] - colours - len(extra))
        alpha = next((colours + place for place, meaning in enumerate(extra) if meaning in (1, 2)), None)
        orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
        low, high = _range(raw[..., :colours])
        inverted = int(page.photometric) == _GREY_INVERTED
        return Page(
            np.ascontiguousarray(raw).astype(raw.dtype.newbyteorder("="), copy=False),
            colours,
            alpha,
            inverted,
            orientation if orientation in range(1, 9) else 1,
            len(file.pages),
            low,
            high,
            _facts(page),
            any(code in page.tags for code in (_SUB_IFDS, _LAYERS)),
        )


def obstacle(content: bytes, number: int) -> str | None:
    """Why a page cannot be changed in its file; None where it can."""
    try:
        return _obstacle(content, number)
    except Exception:  # tifffile raises errors of many types on damaged files
        return "its structure is damaged"


def _obstacle(content: bytes, number: int) -> str | None:
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _page(file, number)
        if _colours(page) is None:
            return f"{described(content, number)} cannot be written"
        if int(page.compression) not in (1, DEFLATE, 32946) and importlib.util.find_spec("imagecodecs") is None:
            return f"{page.compression.name} needs imagecodecs (in a checkout: pip install '.[formats]')"
        if None in _segment_tags(page):
            return "its strips are not as expected"
        others = _extents_of_others(file, page)
        if any(start < end and other < stop for start, stop in _own_extents(page) for other, end in others):
            return "its pages share strips"
        if not file.is_bigtiff and len(content) + page.nbytes >= 2**32:
            return "it could grow beyond 4 GiB"
    return None


def rewritten(content: bytes, number: int, raw: np.ndarray) -> bytes:
    """A copy of a TIFF file with other pixels, (H, W, bands), in one page without :func:`obstacle`.

    The old pixels are overwritten, also those in Photoshop's thumbnails.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page = _page(file, number)
        segments = _encoded(file, page, raw)
        free = _own_extents(page)
        data = bytearray(content)
        for start, stop in free:
            data[start:stop] = bytes(min(stop, len(data)) - start)
        if free and free[-1][1] >= len(data):  # nothing follows the last one
            del data[free[-1][0] :]
            free.pop()
        _blank_thumbnails(data, page)
        offsets = [_placed(data, segment, free) for segment in segments]
        for tag, values in zip(_segment_tags(page), (offsets, [len(segment) for segment in segments]), strict=True):
            _set(data, tag, values, file.is_bigtiff, file.byteorder)
        return bytes(data)


def encode(
    samples: np.ndarray,
    *,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    iptc: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """A new TIFF file of (H, W, C) samples: C = 1 or 3, and one more for alpha; deflated."""
    channels = samples.shape[2]
    tags: list[tuple[Any, ...]] = [
        (code, kind, len(data), data) for code, kind, data in ((_XMP, 1, xmp), (_IPTC, 7, iptc)) if data
    ]
    camera = Image.Exif()
    camera.load(exif or b"")
    nested = [(code, ifd) for code in (_EXIF, _GPS) if (ifd := _directory(camera, code))]
    tags += _plain_tags(camera)
    tags += [(code - 1, 4, 1, 0) for code, _ in nested]  # tifffile writes no pointer: these become pointers below
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        samples if channels in (2, 3, 4) else samples[..., 0],
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
        compression="adobe_deflate",
        predictor=samples.dtype.kind == "u" or None,
        iccprofile=icc_profile,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        extratags=[(*tag, True) for tag in tags],
        metadata=None,
        software=False,
    )
    data = bytearray(stream.getvalue())
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        for code, ifd in nested:
            data += bytes(len(data) % 2)
            tag = file.pages[0].tags[code - 1]
            struct.pack_into(file.byteorder + "H", data, tag.offset, code)
            _set(data, tag, [len(data)], False, file.byteorder)
            data += ifd.tobytes(len(data))
    return bytes(data)


def _page(file: tifffile.TiffFile, number: int, name: str = "the picture") -> Any:
    count = len(file.pages)
    if number >= count:
        raise InpaintError(f"cannot read {name}: expected a page from 1 to {count}, got {number + 1}; choose one")
    return file.pages[number]


def _colours(page: Any) -> int | None:
    """How many bands of a page are colour; None where it is of another kind than ``Page`` describes."""
    colours = {_GREY_INVERTED: 1, _GREY: 1, _RGB: 3}.get(int(page.photometric))
    if (
        colours is None
        or page.dtype is None
        or page.dtype.name not in _SAMPLE_TYPES
        or page.bitspersample != 8 * page.dtype.itemsize
        or page.fillorder != 1
        or page.axes not in ("YX", "YXS", "SYX")
        or int(page.compression) not in _LOSSLESS
        or not colours <= page.samplesperpixel <= _MOST_BANDS
    ):
        return None
    return colours


def _segment_tags(page: Any) -> list[Any]:
    """The tags that say where the strips or tiles lie, and how long they are; None for those that are missing."""
    codes = (_TILE_OFFSETS, _TILE_BYTE_COUNTS) if page.is_tiled else (_OFFSETS, _BYTE_COUNTS)
    return [page.tags.get(code) for code in codes]


def _own_extents(page: Any) -> list[list[int]]:
    return _merged(zip(page.dataoffsets, page.databytecounts, strict=True))


def _facts(page: Any) -> dict[str, Any]:
    """Fields of a ``Photo``."""

    def block(code: int) -> bytes | None:
        value = page.tags[code].value if code in page.tags else None
        return bytes(value) if isinstance(value, bytes | tuple) and value else None

    facts: dict[str, Any] = {"icc_profile": None, "xmp": None, "iptc": None, "dpi": None}
    with contextlib.suppress(Exception):  # tifffile raises errors of many types on damaged tags
        facts |= {"icc_profile": block(_PROFILE), "xmp": block(_XMP), "iptc": block(_IPTC)}
        facts["dpi"] = page.get_resolution("INCH") if {282, 283} <= set(page.tags.keys()) else None
    return facts


def _check_segments(page: Any, size: int) -> None:
    """ValueError where strips are missing: tifffile fills them with zeros."""
    if not page.dataoffsets or any(
        offset == 0 or count == 0 or offset + count > size
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
    ):
        raise ValueError("strips are missing")


def _range(colours: np.ndarray) -> tuple[float, float]:
    """The values of black and white: 0 and 1 of floats that lie there, else the picture's least and largest."""
    if colours.dtype.name in ("uint8", "uint16"):
        return 0, 1
    if colours.dtype.kind == "u":
        return 0, float(np.iinfo(colours.dtype).max)
    finite = colours[np.isfinite(colours)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if colours.dtype.kind == "f" and low >= 0 and high <= 1:
        return 0, 1
    return low, high if high > low else low + 1


def _encoded(file: tifffile.TiffFile, page: Any, raw: np.ndarray) -> list[bytes]:
    """The page's strips or tiles with these pixels, compressed as they were."""
    planar = page.axes == "SYX"
    stream = io.BytesIO()
    tifffile.imwrite(
        stream,
        np.moveaxis(raw, 2, 0) if planar else raw[..., 0] if page.axes == "YX" else raw,
        byteorder=file.byteorder,
        photometric=page.photometric,
        planarconfig=page.planarconfig if raw.shape[2] > 1 else None,
        extrasamples=page.extrasamples or None,
        compression=None if page.compression == 1 else page.compression,
        predictor=None if page.predictor == 1 else page.predictor,
        tile=page.tile if page.is_tiled else None,
        rowsperstrip=None if page.is_tiled else min(page.rowsperstrip, page.imagelength),
        metadata=None,
    )
    content = stream.getvalue()
    with tifffile.TiffFile(io.BytesIO(content)) as written:
        new = written.pages[0]
        segments = [content[o : o + n] for o, n in zip(new.dataoffsets, new.databytecounts, strict=True)]
    if page.compression == 1 and len(segments) == 1 and len(page.dataoffsets) > 1:  # tifffile writes one piece
        sizes = page.databytecounts
        if sum(sizes) != len(segments[0]):
            raise ValueError("its strips are not as expected")
        ends = np.cumsum(sizes).tolist()
        segments = [segments[0][end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return segments


def _blank_thumbnails(data: bytearray, page: Any) -> None:
    """Overwrites the thumbnails among Photoshop's image resources, which show the unfilled picture."""
    tag = page.tags.get(_RESOURCES)
    if tag is None or not isinstance(tag.value, bytes):
        return
    for number, block in photoshop_resources(tag.value).items():
        if number in THUMBNAILS and len(block) > 4:
            place = data.find(block, tag.valueoffset)
            data[place : place + len(block)] = bytes(len(block))


def _extents_of_others(file: tifffile.TiffFile, page: Any) -> list[tuple[int, int]]:
    others = (each for number in range(len(file.pages)) if (each := file.pages[number]).offset != page.offset)
    return [
        (offset, offset + count)
        for each in others
        for offset, count in zip(each.dataoffsets, each.databytecounts, strict=False)
    ]


def _merged(segments: Any) -> list[list[int]]:
    """Extents that touch each other as one: [start, stop], in order."""
    merged: list[list[int]] = []
    for start, count in sorted(segments):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], start + count)
        else:
            merged.append([start, start + count])
    return merged


def _placed(data: bytearray, segment: bytes, free: list[list[int]]) -> int:
    """Writes a segment where there is room, else at the end. Returns its offset."""
    for extent in free:
        if extent[1] - extent[0] >= len(segment):
            start, extent[0] = extent[0], extent[0] + len(segment)
            data[start : extent[0]] = segment
            return start
    data += bytes(len(data) % 2)
    data += segment
    return len(data) - len(segment)


def _set(data: bytearray, tag: Any, values: Sequence[int], big: bool, order: str) -> None:
    """Gives a tag other values, of 4 bytes, or of 8 in a BigTIFF."""
    form, kind, counted = ("Q", 16, "Q") if big else ("I", 4, "I")
    packed = struct.pack(f"{order}{len(values)}{form}", *values)
    place = tag.offset + (12 if big else 8)
    struct.pack_into(f"{order}H{counted}", data, tag.offset + 2, kind, len(values))
    if len(values) == 1:
        data[place : place + len(packed)] = packed
    elif tag.dtype == kind and tag.count == len(values):
        data[tag.valueoffset : tag.valueoffset + len(packed)] = packed
    else:
        data += bytes(len(data) % 2)
        struct.pack_into(order + form, data, place, len(data))
        data += packed


def _directory(camera: Image.Exif, code: int) -> TiffImagePlugin.ImageFileDirectory_v2 | None:
    entries = dict(camera.get_ifd(code))
    if not entries:
        return None
    ifd = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    ifd.group = code
    for tag, value in entries.items():
        ifd[tag] = value
    return ifd


def _plain_tags(camera: Image.Exif) -> list[tuple[Any, ...]]:
    """Text and whole numbers of the first directory that tell about the picture, as tifffile takes them."""
    tags: list[tuple[Any, ...]] = []
    for code, value in camera.items():
        info = TiffTags.lookup(code)
        if code in (282, 283, 296, _ORIENTATION, _EXIF, _GPS, 40965):
            continue
        if isinstance(value, str):
            tags.append((code, 2, 0, value.encode()))
        elif isinstance(value, bytes):
            tags.append((code, 7, len(value), value))
        elif isinstance(value, int) and 0 <= value < 2**32:
            tags.append((code, info.type if info.type in (1, 3, 4) else 4, 1, value))
    return tags

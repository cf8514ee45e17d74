"""From samples to files of every format, with what their pictures' metadata allows."""

from __future__ import annotations

import contextlib
import io
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from inpaint import exif, jpeg, jpeg2000, png, tiff
from inpaint.codec import as_image, decode, register_heif
from inpaint.errors import InpaintError
from inpaint.metadata import IPTC_RESOURCE
from inpaint.origin import Origin, stored

if TYPE_CHECKING:
    from inpaint.photo import Photo

QUALITY = 95  # of lossy files that do not come from a file of their own format
GIF_COLOURS = 256
_COLOURS_AT_ONCE = 4096  # that are compared with a palette
_WITHOUT_ALPHA = ("JPEG", "BMP")


def encode(photo: Photo, file_format: str) -> bytes:
    """A file of a picture. Where the picture was read from a file of that format, all else in that file is kept.

    Raises:
        InpaintError: the format cannot hold the picture.
        Exception: Pillow's writers raise errors of many types on metadata that does not fit the format.
    """
    origin = photo.origin if photo.origin is not None and photo.origin.file_format == file_format else None
    samples = photo.samples.astype(photo.samples.dtype.newbyteorder("="), copy=False)
    if photo.has_alpha and file_format in _WITHOUT_ALPHA:
        samples = samples[..., :-1]
    if file_format == "TIFF":
        return _tiff(photo, samples, origin)
    if file_format == "PNG":
        return _png(photo, samples, origin)
    if file_format == "JPEG":
        return _jpeg(photo, samples, origin)
    if file_format == "GIF":
        return _gif(photo, samples, photo.origin)
    options: dict[str, Any] = {"exif": photo.exif, "icc_profile": photo.icc_profile, "xmp": photo.xmp}
    if file_format == "WEBP":
        options |= {"lossless": True, "exact": True}
    elif file_format == "AVIF":
        options |= {"quality": QUALITY, "subsampling": "4:4:4"}
    elif file_format == "HEIF":
        register_heif("the picture")
        options |= {"quality": QUALITY, "chroma": 444}
    elif file_format == "BMP":
        options = {"dpi": photo.dpi}
    else:
        content = _saved(as_image(samples), file_format, comment=photo.comment)
        return jpeg2000.with_facts(content, photo.icc_profile, photo.exif, photo.xmp)
    return _saved(as_image(samples), file_format, **options)


def _saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **{name: value for name, value in options.items() if value is not None})
    return stream.getvalue()


def _tiff(photo: Photo, samples: np.ndarray, origin: Origin | None) -> bytes:
    content = None
    if origin is not None and tiff.obstacle(origin.content, origin.page) is None:
        content = _changed_tiff(stored(samples, origin.orientation), origin)
    return content or tiff.encode(
        samples, icc_profile=photo.icc_profile, exif=photo.exif, xmp=photo.xmp, iptc=photo.iptc, dpi=photo.dpi
    )


def _changed_tiff(samples: np.ndarray, origin: Origin) -> bytes | None:
    """A copy of the file with other pixels; None where that fails, as it may in a damaged file."""
    try:
        page = tiff.read(origin.content, origin.page, "the picture")
        if page is None or page.samples.shape != samples.shape:
            return None
        raw = page.with_samples(samples)
        content = tiff.rewritten(origin.content, origin.page, raw)
        again = tiff.read(content, origin.page, "the picture")
    except MemoryError:
        raise
    except Exception:  # tifffile raises errors of many types
        return None
    is_right = again is not None and again.raw.shape == raw.shape and again.raw.tobytes() == raw.tobytes()
    return content if is_right else None


def _png(photo: Photo, samples: np.ndarray, origin: Origin | None) -> bytes:
    deep = samples.dtype == np.uint16
    pixels = png.encode_deep(samples) if deep else png.chunks_of(_saved(as_image(samples), "PNG"))
    if origin is not None:
        added = png.kept_chunks(png.chunks_of(origin.content), turned=origin.orientation > 4)
    else:
        added = []
        if photo.dpi:
            metres = b"".join(round(value / 0.0254).to_bytes(4, "big") for value in photo.dpi)
            added.append(png.Chunk(b"pHYs", metres + b"\1"))
        if photo.comment:
            added.append(png.Chunk(b"tEXt", b"Comment\0" + photo.comment.replace(b"\0", b" ")))
    if photo.icc_profile:
        added.insert(0, png.Chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(photo.icc_profile)))
    if photo.exif:
        added.append(png.Chunk(b"eXIf", photo.exif.removeprefix(exif.PREFIX)))
    if photo.xmp:
        added.append(png.Chunk(b"iTXt", png.XMP_KEYWORD + bytes(5) + photo.xmp))
    return png.joined([pixels[0], *added, *pixels[1:]])


def _jpeg(photo: Photo, samples: np.ndarray, origin: Origin | None) -> bytes:
    if origin is not None:
        return _jpeg_like(samples, origin, has_profile=photo.icc_profile is not None)
    options: dict[str, Any] = {"quality": QUALITY, "subsampling": 0, "dpi": photo.dpi, "comment": photo.comment}
    options |= {"exif": photo.exif, "icc_profile": photo.icc_profile, "xmp": photo.xmp}
    content = _saved(as_image(samples), "JPEG", **options)
    if photo.iptc is None:
        return content
    parts = jpeg.parts_of(content)
    segment = jpeg.photoshop_segment({IPTC_RESOURCE: photo.iptc})
    return parts._replace(segments=[*parts.segments[:1], segment, *parts.segments[1:]]).joined()


def _jpeg_like(samples: np.ndarray, origin: Origin, *, has_profile: bool) -> bytes:
    """A JPEG file with the tables, the sampling, the orientation and the metadata of the one it came from."""
    samples = stored(samples, origin.orientation)
    bare = jpeg.bare(origin.content)
    before = decode(bare, "the picture", np.inf)[0]
    coded = None
    if before.shape == samples.shape and jpeg.obstacle(bare) is None:
        with contextlib.suppress(ValueError, InpaintError):  # damaged files that Pillow decodes and jpeglib does not
            coded = jpeg.with_difference(bare, before, samples)
            after = decode(coded, "the picture", np.inf)[0]
            coded = coded if jpeg.is_kept(before, after, samples) else None
    if coded is None:
        opened: Any = Image.open(io.BytesIO(bare))
        with opened as image:
            tables, sampling, dpi = image.quantization, get_sampling(image), image.info.get("dpi")
        if samples.shape[2] == 1:
            tables = {0: tables[0]}
        coded = _saved(as_image(samples), "JPEG", qtables=tables, subsampling=max(sampling, 0), dpi=dpi)
    return jpeg.with_segments_of(coded, origin.content, has_profile=has_profile)


def _gif(photo: Photo, samples: np.ndarray, origin: Origin | None) -> bytes:
    """A GIF of the colours of the known pixels; others, in the hole, take the nearest of these or of some free ones."""
    colours = samples.reshape(-1, samples.shape[2])
    transparent = colours[:, -1] < 128 if photo.has_alpha else np.zeros(len(colours), bool)
    rgb = np.broadcast_to(colours[:, : 1 if photo.is_grey else 3], (len(colours), 3))
    known = np.ones(len(colours), bool)
    if origin is not None:
        before = decode(origin.content, "the picture", np.inf, page=origin.page + 1)[0]
        if before.shape == samples.shape:
            known = (before == samples).all(axis=2).ravel()
    palette = np.unique(rgb[known & ~transparent], axis=0)
    room = GIF_COLOURS - int(transparent.any()) - len(palette)
    if room < 0:
        raise InpaintError(f"GIF holds {GIF_COLOURS} colours, and the known pixels have {len(palette)}; use .png")
    new = rgb[~known & ~transparent]
    if len(new) and room:
        few = Image.fromarray(np.ascontiguousarray(new[None])).quantize(room).convert("RGB")
        palette = np.concatenate([palette, np.unique(np.asarray(few)[0], axis=0)])
    distinct, which = np.unique(rgb, axis=0, return_inverse=True)
    indices = _nearest(distinct, palette)[which.ravel()] if len(palette) else np.zeros(len(rgb), np.uint8)
    indices = np.where(transparent, len(palette), indices).astype(np.uint8).reshape(samples.shape[:2])
    image = Image.fromarray(indices)
    image.putpalette(
        np.concatenate([palette, np.zeros((1, 3), palette.dtype)])[:GIF_COLOURS].astype(np.uint8).tobytes()
    )
    options = {"transparency": len(palette)} if transparent.any() else {}
    return _saved(image, "GIF", comment=photo.comment, optimize=False, **options)


def _nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Of each of (N, 3) colours the number of the palette's nearest one, (N,); (K, 3) uint8, K > 0."""
    found = []
    for start in range(0, len(colours), _COLOURS_AT_ONCE):  # all differences at once could take gigabytes
        some = colours[start : start + _COLOURS_AT_ONCE].astype(int)
        found.append(((some[:, None] - palette[None]) ** 2).sum(axis=2).argmin(axis=1))
    return np.concatenate(found)

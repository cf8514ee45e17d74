"""From the formats of picture files to samples, and what the files say about their pictures.

Samples are arrays (H, W, C): C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. What a file says about its picture comes as a
dict with fields of an ``inpaint.photo.Photo``. Pillow decodes all but TIFF (``inpaint.tiff``) and PNG of 16 bits
(``inpaint.png``).
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from inpaint import exif, jpeg, jpeg2000, png, tiff
from inpaint.errors import InpaintError
from inpaint.metadata import DAMAGED, exif_block, exif_of_tags, facts_of, turned_note
from inpaint.origin import Origin, upright

Purpose = Literal["photograph", "mask", "labels"]

# The modes of Pillow that a picture may have, each with the mode whose samples are taken. Labels are palette indices.
_PHOTO_MODES = {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
_PHOTO_MODES |= {"1": "L", "P": "RGB", "PA": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}
_MASK_MODES = _PHOTO_MODES | {"I": "I", "F": "F"}
_MODES = {"photograph": _PHOTO_MODES, "mask": _MASK_MODES, "labels": _MASK_MODES | {"P": "P"}}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc", b"hevx")

_pillow_limit_lock = threading.Lock()


def decode(
    source: Any, name: str, max_megapixels: float, *, purpose: Purpose = "photograph", page: int = 1
) -> tuple[np.ndarray, dict[str, Any]]:
    """The samples of a path, bytes, a binary stream or a PIL image, turned upright, and what is said about them.

    ``max_megapixels`` limits all but PIL images, before any pixel is decoded; ``name`` stands in messages; ``page`` of
    a TIFF counts from 1. Samples of a mask may be of any numeric type, as they are in the file; those of labels are the
    indices of a palette, where the picture has one.
    """
    if isinstance(source, Image.Image):
        return _read_image(source, name, purpose)
    content = _content(source, name)
    try:
        file_format = _format_of(content) or ""
        _check_page(content, file_format, page, name)
        if (
            file_format == "TIFF"
            and (found := _read_tiff(content, page - 1, name, max_megapixels, purpose)) is not None
        ):
            return found
        if png.is_deep(content):
            return _read_deep_png(content, name, max_megapixels)
        return _read_by_pillow(content, file_format, name, max_megapixels, purpose)
    except InpaintError:
        raise
    except MemoryError as error:
        raise InpaintError(
            f"cannot read {name}: it asks for more memory than there is; get a whole copy of it, or a smaller one"
        ) from error
    except Exception as error:  # decoders raise errors of many types on damaged files
        raise _damaged(name, error) from error


def as_image(samples: np.ndarray) -> Image.Image:
    """A PIL image of mode L, LA, RGB, RGBA or I;16 with these samples of uint8, or of uint16 for grey."""
    native = samples.astype(samples.dtype.newbyteorder("="), copy=False)
    return Image.fromarray(native[..., 0] if native.shape[2] == 1 else native)


def with_channels(array: np.ndarray, name: str) -> np.ndarray:
    """An array (H, W) or (H, W, C) as (H, W, C), not copied. Raises InpaintError for any other shape."""
    samples = array[:, :, None] if array.ndim == 2 else array
    if samples.ndim != 3 or not 1 <= samples.shape[2] <= 4:
        channels_first = samples.ndim == 3 and samples.shape[0] <= 4
        remedy = "move the channels to the end: np.moveaxis(array, 0, 2)" if channels_first else "give one picture"
        raise InpaintError(
            f"{name}: expected an array (H, W) or (H, W, C) with 1 to 4 channels, got {array.shape}; {remedy}"
        )
    if samples.size == 0:
        raise InpaintError(f"{name}: expected at least one pixel, got {array.shape}; check how it was read")
    return samples


def name_of(source: Any, otherwise: str) -> str:
    """What messages call a source or target: its file's name, or ``otherwise`` where it has none."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) else otherwise


def _pixels(image: Image.Image, mode: str) -> np.ndarray:
    if mode == "I;16":
        return np.asarray(image).astype(np.uint16)
    if mode not in ("I", "F", "P") and image.has_transparency_data:
        mode = "LA" if mode in ("L", "LA") else "RGBA"
    if mode == "LA" and image.mode != "LA":
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == mode else image.convert(mode))


def _content(source: Any, name: str) -> bytes:
    """All bytes of a file. A stream is read from where it stands, and to its end, so that it need not be seekable."""
    head = b""
    try:
        if isinstance(source, str | os.PathLike):
            with open(source, "rb") as stream:
                head = stream.read(32)
                content = head + stream.read() if _format_of(head) else head
        else:
            content = source.read() if hasattr(source, "read") else source
    except OSError as error:
        raise InpaintError(f"cannot read {name}: {reason(error)}; check the name and the permissions") from error
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InpaintError(
            f"cannot read {name}: expected a path, bytes, a binary stream, a PIL image or a numpy array, got "
            f"{type(source).__name__}; convert it first"
        )
    content = bytes(content)
    if _format_of(content) is None:
        raise InpaintError(
            f"cannot read {name}: expected a PNG, JPEG, WebP, TIFF, AVIF, HEIC, JPEG 2000, BMP or GIF file, and it is "
            "none of them; convert it first"
        )
    return content


def _format_of(head: bytes) -> str | None:
    """Pillow's name of a file's format, by its first bytes."""
    for file_format, signatures in {
        "PNG": (png.SIGNATURE,),
        "JPEG": (b"\xff\xd8\xff",),
        "TIFF": tiff.SIGNATURES,
        "GIF": (b"GIF87a", b"GIF89a"),
        "BMP": (b"BM",),
        "JPEG2000": (jpeg2000.SIGNATURE, b"\xff\x4f\xff\x51"),
    }.items():
        if head.startswith(signatures):
            return file_format
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"avis": "AVIF"}.get(head[8:12]) or ("HEIF" if head[8:12] in _HEIF_BRANDS else None)
    return None


def _check_page(content: bytes, file_format: str, page: int, name: str) -> None:
    if page < 1 or (page > 1 and file_format != "TIFF"):
        raise InpaintError(f"cannot read {name}: expected page 1, got {page}; only a TIFF has further pages")


def _read_tiff(
    content: bytes, number: int, name: str, max_megapixels: float, purpose: Purpose
) -> tuple[np.ndarray, dict[str, Any]] | None:
    _check_megapixels(tiff.megapixels(content, number, name), name, max_megapixels)
    page = tiff.read(content, number, name)
    if page is None:
        if number:
            raise InpaintError(
                f"cannot read {name}: page {number + 1} is not grey or RGB of whole bytes without loss; save it as a "
                "file of its own"
            )
        return None
    notes = turned_note(page.orientation)
    if page.pages > 1:
        notes.append(f"{name} has {page.pages} pages; page {number + 1} is used, the others stay in a TIFF only")
    if page.others:
        notes.append(f"{name} has {page.others} bands that are no colour; they stay as they are, in a TIFF only")
    if page.shows_unfilled:
        notes.append(f"{name} has layers or previews that show the unfilled picture; they stay as they are in a TIFF")
    if page.is_scaled:
        notes.append(f"{name} has values from {page.low:g} (black) to {page.high:g} (white)")
    facts = {**page.facts, "notes": tuple(notes), "origin": Origin("TIFF", content, page.orientation, number)}
    try:
        with _opened(content, "TIFF", name, math.inf) as image:
            image.seek(number)
            facts["exif"] = exif_of_tags(image)
    except Exception:  # Pillow does not open TIFF of every kind, and damaged tags are no reason to refuse the pixels
        facts["exif"] = None
    samples = page.raw[..., page.bands] if purpose != "photograph" and page.is_scaled else page.samples
    return upright(samples, page.orientation), facts


def _read_deep_png(content: bytes, name: str, max_megapixels: float) -> tuple[np.ndarray, dict[str, Any]]:
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    _check_megapixels(width * height / 1e6, name, max_megapixels)
    samples = png.decode_deep(content)
    try:
        with _opened(content, "PNG", name, math.inf) as image:
            facts = facts_of(image, content)
    except Exception:
        facts = {"notes": (DAMAGED,), "origin": Origin("PNG", png.bare(content))}
    return upright(samples, facts["origin"].orientation), facts


def _read_by_pillow(
    content: bytes, file_format: str, name: str, max_megapixels: float, purpose: Purpose
) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        return _decoded(content, file_format, name, max_megapixels, purpose)
    except (InpaintError, MemoryError):
        raise
    except Exception:
        if file_format not in ("PNG", "JPEG"):
            raise
        bare = (jpeg if file_format == "JPEG" else png).bare(content)
    samples, facts = _decoded(bare, file_format, name, max_megapixels, purpose)
    orientation = exif.orientation_of(exif_block(content, file_format))
    if orientation != 1:
        facts["origin"] = None  # its pixels lie otherwise, and nothing in it says so
    notes = (*facts["notes"], DAMAGED, *turned_note(orientation))
    return upright(samples, orientation), facts | {"notes": notes}


def _decoded(
    content: bytes, file_format: str, name: str, max_megapixels: float, purpose: Purpose
) -> tuple[np.ndarray, dict[str, Any]]:
    modes = _MODES[purpose]
    with _opened(content, file_format, name, max_megapixels) as image:
        _check_mode(image, modes, name)
        notes: tuple[str, ...] = ()
        if getattr(image, "is_animated", False) and image.format != "MPO":
            notes = (f"{name} has {getattr(image, 'n_frames', 'several')} frames; only the first one is used",)
        image.load()
        if image.mode != "I;16" and (bits := _bits_of(image, content)) > 8:
            notes += (f"{name} has {bits} bits per sample; 8 of them are used",)
        facts = facts_of(image, content)
        facts["notes"] = notes + facts["notes"]
        pixels = with_channels(_pixels(image, modes[image.mode]), name)
    return upright(pixels, facts["origin"].orientation), facts


def _read_image(image: Image.Image, name: str, purpose: Purpose) -> tuple[np.ndarray, dict[str, Any]]:
    """A PIL image that the caller has opened or made."""
    modes = _MODES[purpose]
    _check_mode(image, modes, name)
    try:
        image.load()
        pixels = with_channels(_pixels(image, modes[image.mode]), name)
        facts = facts_of(image)
    except (InpaintError, MemoryError):
        raise
    except Exception as error:
        raise _damaged(name, error) from error
    orientation = facts.pop("origin").orientation
    return upright(pixels, orientation), facts


@contextmanager
def _opened(content: bytes, file_format: str, name: str, max_megapixels: float) -> Iterator[Image.Image]:
    """The image of a file, not decoded yet."""
    if file_format == "HEIF":
        register_heif(name)
    formats = {"JPEG": ("JPEG", "MPO")}.get(file_format, (file_format,))
    try:
        with _pillow_without_size_limit():
            opened = Image.open(io.BytesIO(content), formats=formats)
    except UnidentifiedImageError as error:
        if file_format != "TIFF":
            raise
        raise InpaintError(
            f"cannot read {name}: expected grey or RGB pixels, got {tiff.described(content)}; convert it to RGB first"
        ) from error
    with opened:
        _check_megapixels(opened.width * opened.height / 1e6, name, max_megapixels)
        yield opened


def _bits_of(image: Image.Image, content: bytes) -> int:
    """The bits per sample of a file of those formats that Pillow reduces to 8 without a word."""
    if image.format == "HEIF":
        return image.info.get("bit_depth", 8)
    start, field = {"AVIF": (b"av1C", 6), "JPEG2000": (b"\xff\x4f\xff\x51", 42)}.get(image.format or "", (b"", 0))
    place = content.find(start) + field
    if not start or not field <= place < len(content):
        return 8
    if image.format == "JPEG2000":  # its size segment
        return (content[place] & 127) + 1
    return 10 if content[place] & 64 else 8  # AV1's configuration: a high depth, of 10 or 12 bits


def register_heif(name: str) -> None:
    try:
        import pillow_heif
    except ImportError as error:
        raise InpaintError(
            f"cannot read or write {name}: HEIC needs pillow-heif, which is not installed; in a checkout: "
            "pip install '.[formats]'"
        ) from error
    pillow_heif.register_heif_opener()


def _check_megapixels(megapixels: float, name: str, limit: float) -> None:
    if megapixels > limit:
        raise InpaintError(
            f"cannot read {name}: it has {megapixels:.1f} megapixels, the limit is {limit:g}; if you trust the file, "
            f"raise the limit with --max-megapixels {math.ceil(megapixels)}"
        )


def _check_mode(image: Image.Image, modes: dict[str, str], name: str) -> None:
    if image.mode not in modes:
        raise InpaintError(
            f"cannot read {name}: expected grey or RGB pixels, its mode is {image.mode}; convert it to RGB first"
        )


def _damaged(name: str, error: Exception) -> InpaintError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return InpaintError(f"cannot read {name}: the image is truncated or damaged ({detail}); get a whole copy of it")


@contextmanager
def _pillow_without_size_limit() -> Iterator[None]:
    """Our own limit is checked instead, right after the header is read and before any pixel is decoded."""
    with _pillow_limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def reason(error: OSError) -> str:
    """Why the system refused, for a message."""
    return (error.strerror or str(error) or type(error).__name__).lower()

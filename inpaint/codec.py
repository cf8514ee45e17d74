"""From the formats of picture files to samples and back, by Pillow.

Samples are arrays (H, W, C): C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA. What a file says about its picture comes as a
dict with the fields ``icc_profile``, ``exif``, ``xmp``, ``dpi`` and ``notes`` of an ``inpaint.photo.Photo``.
"""

from __future__ import annotations

import io
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from inpaint.errors import InpaintError

READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes MPO, several JPEGs in one file

# The modes of Pillow that a photograph and a mask may have, each with the mode whose samples are taken.
_PHOTO_MODES = {mode: mode for mode in ("L", "LA", "RGB", "RGBA", "I;16")}
_PHOTO_MODES |= {"1": "L", "P": "RGB", "PA": "RGBA", "I;16B": "I;16", "I;16L": "I;16"}
_MASK_MODES = _PHOTO_MODES | {"I": "I", "F": "F"}
_XMP_TAG = 700
# Tags that describe how the source file stored its pixels; they are wrong for any other file.
_STORAGE_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | {512, 513, 514, 529, 530, 531, 532, _XMP_TAG, 33723, 34377, 34675}
)

_pillow_limit_lock = threading.Lock()


def decode(
    source: Any, name: str, max_megapixels: float, *, as_mask: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """The samples of a path, bytes, a binary stream or a PIL image, turned upright, and what is said about them.

    ``max_megapixels`` limits all but PIL images, before any pixel is decoded; ``name`` stands in messages.

    A mask may also be 16-bit colour, which Pillow reduces to 8 bits, and grey of int32 or float32.
    """
    modes = _MASK_MODES if as_mask else _PHOTO_MODES
    with _opened(source, name, max_megapixels) as image:
        if image.mode not in modes:
            raise InpaintError(
                f"cannot read {name}: expected grey or RGB pixels, its mode is {image.mode}; convert it to RGB first"
            )
        is_file = image is not source
        if is_file and not as_mask:
            _refuse_reduced_depth(image, name)
        # Pillow's decoders raise errors of many types on damaged files (SyntaxError, struct.error, ValueError, ...).
        try:
            notes: tuple[str, ...] = ()
            if is_file and getattr(image, "is_animated", False) and image.format != "MPO":
                notes = (f"{name} has {getattr(image, 'n_frames', 'several')} frames; only the first one is used",)
            image.load()
            upright = ImageOps.exif_transpose(image)
            facts = {
                "icc_profile": upright.info.get("icc_profile") or None,
                "exif": _exif_bytes(image),
                "xmp": _as_bytes(upright.info.get("xmp")),
                "dpi": _resolution(upright.info.get("dpi")),
                "notes": notes,
            }
            pixels = _pixels(upright, modes[upright.mode])
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(name, error) from error
    return with_channels(pixels, name), facts


def encode(
    samples: np.ndarray,
    file_format: str,
    stream: BinaryIO,
    *,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> None:
    """Write samples to a stream as PNG, WEBP, TIFF (all without loss) or JPEG."""
    options: dict[str, Any] = {"exif": exif, "icc_profile": icc_profile, "dpi": dpi}
    if file_format == "JPEG":
        options |= {"quality": 95, "subsampling": 0, "xmp": xmp}
    elif file_format == "WEBP":
        options |= {"lossless": True, "exact": True, "xmp": xmp}
    elif file_format == "TIFF":
        tags = Image.Exif()
        tags.load(exif or b"")
        if xmp is not None:
            tags[_XMP_TAG] = xmp
        # libtiff, which compresses, cannot write EXIF's nested directories; Pillow's own writer can.
        options |= {"exif": tags} if tags else {"compression": "tiff_adobe_deflate"}
    elif xmp is not None:
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    options = {name: value for name, value in options.items() if value is not None}
    as_image(samples).save(stream, file_format, **options)


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
    if mode not in ("I", "F") and image.has_transparency_data:
        mode = "LA" if mode in ("L", "LA") else "RGBA"
    if mode == "LA" and image.mode != "LA":
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == mode else image.convert(mode))


@contextmanager
def _opened(source: Any, name: str, max_megapixels: float) -> Iterator[Image.Image]:
    """The image of a source, not decoded yet; a PIL image is its own."""
    if isinstance(source, Image.Image):
        yield source
        return
    try:
        with _pillow_without_size_limit():
            opened = Image.open(_file(source, name), formats=READABLE_FORMATS)
    except InpaintError:
        raise
    except UnidentifiedImageError as error:
        raise InpaintError(
            f"cannot read {name}: expected a PNG, JPEG, WebP, TIFF, BMP or GIF file, and it is none of them"
        ) from error
    except OSError as error:
        raise InpaintError(f"cannot read {name}: {reason(error)}; check the name and the permissions") from error
    except Exception as error:
        raise _damaged(name, error) from error
    with opened:
        megapixels = opened.width * opened.height / 1e6
        if megapixels > max_megapixels:
            raise InpaintError(
                f"cannot read {name}: it has {megapixels:.1f} megapixels, the limit is {max_megapixels:g}; if you "
                f"trust the file, raise the limit with --max-megapixels {math.ceil(megapixels)}"
            )
        yield opened


def _file(source: Any, name: str) -> str | os.PathLike[str] | BinaryIO:
    """What Pillow can open. A stream is read from where it stands, and to its end, so that it need not be seekable."""
    if isinstance(source, str | os.PathLike):
        return source
    content = source.read() if hasattr(source, "read") else source
    if not isinstance(content, bytes | bytearray | memoryview):
        raise InpaintError(
            f"cannot read {name}: expected a path, bytes, a binary stream, a PIL image or a numpy array, got "
            f"{type(source).__name__}; convert it first"
        )
    return io.BytesIO(content)


def _refuse_reduced_depth(image: Image.Image, name: str) -> None:
    # Pillow opens 16-bit colour as 8-bit without a word; only the raw mode of the tiles shows it.
    is_deep_grey = image.mode.startswith("I;16")
    reduced = not is_deep_grey and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if reduced or (is_deep_grey and "transparency" in image.info):
        raise InpaintError(
            f"cannot read {name}: 16 bits per channel are kept only for grey without transparency, and this is colour "
            "or transparent; convert it to 8 bits per channel first"
        )


def _damaged(name: str, error: Exception) -> InpaintError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return InpaintError(f"cannot read {name}: the image is truncated or damaged ({detail}); get a whole copy of it")


def _exif_bytes(image: Image.Image) -> bytes | None:
    """EXIF without orientation, thumbnail and tags about the storage of the old pixels."""
    exif = image.getexif()
    storage = {tag: exif.pop(tag) for tag in _STORAGE_TAGS & set(exif)}
    try:
        resolution = {ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit}
        return exif.tobytes() if set(exif) - resolution else None
    finally:
        exif.update(storage)  # the image may be the caller's


def _as_bytes(block: bytes | str | None) -> bytes | None:
    return (block.encode() if isinstance(block, str) else block) or None


def _resolution(dpi: Any) -> tuple[float, float] | None:
    try:
        horizontal, vertical = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return (horizontal, vertical) if 0 < horizontal < 1e6 and 0 < vertical < 1e6 else None


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

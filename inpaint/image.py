"""Reading and writing photographs and masks with nothing lost.

Outside the hole the saved file holds the very pixel values that were read: 8-bit or 16-bit grey, RGB, with or without
alpha. PNG, WebP and TIFF are written without loss; JPEG re-encodes the whole picture (quality 95, no chroma
subsampling). The ICC profile, EXIF, XMP and resolution travel along, except what would contradict the new pixels: the
EXIF orientation (the pixels are turned upright on reading) and the EXIF thumbnail (it shows the unfilled picture).
"""

from __future__ import annotations

import io
import math
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from inpaint.errors import InpaintError

MAX_MEGAPIXELS = 100.0

READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")  # JPEG includes MPO, several JPEGs in one file
FORMAT_OF_EXTENSION = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}

# The modes a Photo can have, and which of Pillow's modes each is made from.
MODE_OF_SOURCE = {
    "1": "L",
    "L": "L",
    "LA": "LA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "P": "RGB",
    "PA": "RGBA",
    "I;16": "I;16",
    "I;16B": "I;16",
    "I;16L": "I;16",
}
XMP_TAG = 700
# Tags that describe how the source file stored its pixels; they are wrong for any other file.
STORAGE_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | {512, 513, 514, 529, 530, 531, 532, XMP_TAG, 33723, 34377, 34675}
)
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow converts to "L"

_pillow_limit_lock = threading.Lock()


@dataclass(frozen=True)
class Photo:
    """A photograph in memory, upright, with what its file said about it.

    ``image`` has mode L, LA, RGB or RGBA (8 bits per channel) or I;16 (16-bit grey). ``notes`` are remarks for the
    user about how the file was read.
    """

    image: Image.Image
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as displayed."""
        return self.image.height, self.image.width

    @property
    def has_alpha(self) -> bool:
        return self.image.mode in ("LA", "RGBA")


def read_image(path: str | Path, *, max_megapixels: float = MAX_MEGAPIXELS) -> Photo:
    """Read a photograph and turn it upright.

    Grey, RGB, palette and 1-bit images are accepted, with or without transparency, and 16-bit grey. Palette images
    become RGB or RGBA, because the colours painted into the hole need not be in the palette; 1-bit images become grey.
    Of an animated file the first frame is read and ``Photo.notes`` says so.

    Raises:
        InpaintError: the file is missing, not an image, damaged, larger than ``max_megapixels``, or in a form whose
            known pixels could not be kept exactly (CMYK, 16-bit colour, 32-bit grey).
    """
    path = Path(path)
    image, metadata = _decode(path, max_megapixels, keep_depth=True)
    return Photo(image=image, **metadata)


def read_mask(
    path: str | Path,
    *,
    threshold: float = 0.5,
    invert: bool = False,
    dilate: int = 0,
    expected_size: tuple[int, int] | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> torch.Tensor:
    """Read a hole mask: a bool tensor (H, W), True = hole.

    A pixel is hole where its luminance, as a share of white, is above ``threshold`` (0 <= threshold < 1). ``invert``
    makes the dark pixels the hole. A mask drawn in one bright colour on a transparent ground is read by its opacity
    instead of its luminance. ``dilate`` then grows the hole by that many pixels, diagonals included: every pixel of
    the (2 * dilate + 1)-sided square around a hole pixel becomes hole.

    Args:
        expected_size: (height, width) of the photograph as displayed.

    Raises:
        InpaintError: as for :func:`read_image`; the size differs from ``expected_size``; transparency and colour
            disagree about where the hole is.
        ValueError: ``threshold`` or ``dilate`` is out of range.
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
    if dilate < 0:
        raise ValueError(f"dilate must be 0 or more pixels, got {dilate}")
    path = Path(path)
    image, _ = _decode(path, max_megapixels, keep_depth=False)
    size = (image.height, image.width)
    if expected_size is not None and size != tuple(expected_size):
        turned = " (turned by 90 degrees?)" if size == tuple(expected_size)[::-1] else ""
        raise InpaintError(
            f"the mask must have the photograph's size: {path} is {size[1]}x{size[0]}{turned}, the photograph is "
            f"{expected_size[1]}x{expected_size[0]} (width x height, as displayed); draw the mask at that size"
        )
    hole = torch.from_numpy(_whiteness(image, path, threshold) > threshold)
    return dilate_hole(~hole if invert else hole, dilate)


def dilate_hole(hole: torch.Tensor, pixels: int) -> torch.Tensor:
    """Grow a hole (H, W) bool by ``pixels`` in every direction, diagonals included."""
    if pixels == 0 or not hole.any():
        return hole
    height, width = (min(pixels, side) for side in hole.shape)  # reaching past the far edge adds nothing
    grown = hole.float()[None]
    # A square is separable: columns first, then rows.
    grown = F.max_pool2d(grown, (2 * height + 1, 1), stride=1, padding=(height, 0))
    grown = F.max_pool2d(grown, (1, 2 * width + 1), stride=1, padding=(0, width))
    return grown[0] > 0


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The colours of a PIL image as a float32 tensor (3, H, W) in [0, 1]; grey is repeated, alpha is left out.

    Exactly undone by :func:`to_pil` for 8-bit images.
    """
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.float32) / 65535
        return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32, memory_format=torch.contiguous_format) / 255


def to_pil(tensor: torch.Tensor) -> Image.Image:
    """A float tensor (3, H, W) in [0, 1] as an 8-bit RGB image; values outside the range are clipped.

    Raises:
        ValueError: the shape is not (3, H, W) or a value is not a number.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"expected a tensor of shape (3, H, W), got {tuple(tensor.shape)}")
    return Image.fromarray(_quantise(tensor.detach().cpu().permute(1, 2, 0), 255, np.uint8))


def check_output(path: str | Path, photo: Photo | None = None) -> None:
    """Find out, before any work, whether :func:`save_image` can write ``photo`` (or any RGB picture) to ``path``.

    Raises:
        InpaintError: the extension is not one that can be written or its format cannot hold this photograph; the
            folder is missing or does not let files be written; ``path`` is a folder or write-protected.
    """
    path = Path(path)
    file_format = _format_of(path)
    if path.is_dir():
        raise InpaintError(f"cannot write {path}: it is a folder; give the name of a file in it")
    if path.exists() and not os.access(path, os.W_OK):
        raise InpaintError(f"cannot write {path}: the file is write-protected; choose another name")
    check_folder(path.resolve().parent)
    if photo is None:
        return
    if file_format == "JPEG" and photo.has_alpha:
        raise InpaintError(f"cannot write {path}: JPEG has no alpha channel and the photograph has; use .png")
    if photo.image.mode == "I;16" and file_format not in ("PNG", "TIFF"):
        raise InpaintError(f"cannot write {path}: {file_format} has no 16-bit grey; use .png or .tif")
    longest = max(photo.size)
    if longest > LONGEST_SIDE.get(file_format, longest):
        raise InpaintError(
            f"cannot write {path}: {file_format} allows {LONGEST_SIDE[file_format]} pixels a side, the photograph has "
            f"{longest}; use .png"
        )
    try:
        _encode(Image.new(photo.image.mode, (1, 1)), file_format, photo, io.BytesIO())
    except Exception as error:  # Pillow's writers raise errors of many types on metadata that does not fit the format
        raise InpaintError(
            f"cannot write {path}: {file_format} cannot hold the photograph's metadata ({error}); use .png"
        ) from error


def check_folder(folder: str | Path) -> None:
    """Raise InpaintError unless ``folder`` exists and a file can be made in it (tried, not guessed)."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InpaintError(f"cannot write to {folder}: there is no such folder; make it first or choose another")
    trial = _temporary_name(folder)
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise InpaintError(f"cannot write to {folder}: {_reason(error)}; choose another folder") from error


def save_image(path: str | Path, photo: Photo, result: torch.Tensor, hole: torch.Tensor) -> None:
    """Write ``photo`` with the pixels of its hole taken from ``result``.

    Every pixel outside the hole, and all of the alpha channel, keeps the value it had; in PNG, WebP and TIFF also in
    the file. The format follows the extension of ``path``. The file appears whole or not at all.

    Args:
        result: (3, H, W) float, RGB in [0, 1]; grey photographs take its luminance.
        hole: (H, W) bool, True = hole.

    Raises:
        InpaintError: as for :func:`check_output`, or the disk is full.
        ValueError: the shapes disagree, or the result has values that are not numbers inside the hole.
    """
    check_output(path, photo)
    _write(Path(path), replace_hole(photo, result, hole), photo)


def save_picture(path: str | Path, picture: Image.Image) -> None:
    """Write a picture that has no metadata, whole or not at all; the format follows the extension of ``path``."""
    photo = Photo(picture)
    check_output(path, photo)
    _write(Path(path), picture, photo)


def replace_hole(photo: Photo, result: torch.Tensor, hole: torch.Tensor) -> Image.Image:
    """The photograph, in its own mode, with the pixels of the hole taken from ``result`` (see :func:`save_image`).

    Raises:
        InpaintError: the image's mode is none of a Photo's.
        ValueError: the shapes disagree, or the result has values that are not numbers inside the hole.
    """
    if photo.image.mode not in MODE_OF_SOURCE.values():
        raise InpaintError(
            f"expected an image of mode RGB, RGBA, L, LA or I;16, got {photo.image.mode}; convert it first"
        )
    if tuple(result.shape) != (3, *photo.size) or tuple(hole.shape) != photo.size:
        raise ValueError(
            f"expected a result of shape {(3, *photo.size)} and a hole of shape {photo.size}, "
            f"got {tuple(result.shape)} and {tuple(hole.shape)}"
        )
    hole = hole.cpu().bool()
    colours = result.detach().cpu()[:, hole].T
    pixels = np.array(photo.image)
    where = hole.numpy()
    if photo.image.mode in ("RGB", "RGBA"):
        pixels[where, :3] = _quantise(colours, 255, np.uint8)
        return Image.fromarray(pixels)
    grey = colours.double() @ torch.tensor(LUMINANCE, dtype=torch.float64)
    if photo.image.mode == "LA":
        pixels[where, 0] = _quantise(grey, 255, np.uint8)
    elif photo.image.mode == "L":
        pixels[where] = _quantise(grey, 255, np.uint8)
    else:
        pixels[where] = _quantise(grey, 65535, np.uint16)
    return Image.fromarray(pixels)


def _quantise(values: torch.Tensor, white: int, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    if not torch.isfinite(values).all():
        raise ValueError("expected finite colours, got values that are not numbers")
    return (values.double().clamp(0, 1) * white).round().numpy().astype(dtype)


def _whiteness(image: Image.Image, path: Path, threshold: float) -> np.ndarray:
    """How much each pixel of a mask says "hole", in [0, 1]."""
    if image.mode == "I;16":
        return np.asarray(image).astype(np.float64) / 65535
    luminance = np.asarray(image.convert("L")).astype(np.float64) / 255
    if image.mode not in ("LA", "RGBA"):
        return luminance
    opacity = np.asarray(image.getchannel("A")).astype(np.float64) / 255
    if opacity.min() == 1:
        return luminance
    # Barely visible pixels have rounding errors for colours.
    visible = np.asarray(image)[opacity > 0.5][:, :-1].astype(int)
    if not len(visible) or (np.ptp(visible, axis=0).max() <= 8 and luminance[opacity > 0.5].min() > threshold):
        return opacity
    raise InpaintError(
        f"{path} has transparent pixels, and its colours do not tell whether those are the hole: expected white on "
        "black, or one bright colour on a transparent ground; flatten it to black and white without transparency"
    )


def _decode(path: Path, max_megapixels: float, *, keep_depth: bool) -> tuple[Image.Image, dict[str, Any]]:
    """The upright image in one of a Photo's modes, and the other fields of the Photo."""
    try:
        with _pillow_without_size_limit():
            opened = Image.open(path, formats=READABLE_FORMATS)
    except UnidentifiedImageError as error:
        raise InpaintError(
            f"cannot read {path}: expected a PNG, JPEG, WebP, TIFF, BMP or GIF file, and it is none of them"
        ) from error
    except OSError as error:
        raise InpaintError(f"cannot read {path}: {_reason(error)}; check the name and the permissions") from error
    except Exception as error:
        raise _damaged(path, error) from error
    with opened:
        megapixels = opened.width * opened.height / 1e6
        if megapixels > max_megapixels:
            raise InpaintError(
                f"cannot read {path}: it has {megapixels:.1f} megapixels, the limit is {max_megapixels:g}; if you "
                f"trust the file, raise the limit with --max-megapixels {math.ceil(megapixels)}"
            )
        _refuse_other_modes(opened, path, keep_depth)
        # Pillow's decoders raise errors of many types on damaged files (SyntaxError, struct.error, ValueError, ...).
        try:
            notes: tuple[str, ...] = ()
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                notes = (f"{path} has {getattr(opened, 'n_frames', 'several')} frames; only the first one is used",)
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            exif = _exif_bytes(opened)
            mode = MODE_OF_SOURCE[upright.mode]
            if mode != "I;16" and upright.has_transparency_data:
                mode = "LA" if mode in ("L", "LA") else "RGBA"
            if mode == "I;16":
                image = Image.fromarray(np.asarray(upright).astype(np.uint16))
            elif mode == "LA" and upright.mode != "LA":
                image = upright.convert("RGBA").convert("LA")
            else:
                image = upright.convert(mode)
            image.info = {}
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(path, error) from error
        metadata = {
            "icc_profile": upright.info.get("icc_profile") or None,
            "exif": exif,
            "xmp": _as_bytes(upright.info.get("xmp")),
            "dpi": _resolution(upright.info.get("dpi")),
            "notes": notes,
        }
        return image, metadata


def _refuse_other_modes(opened: ImageFile.ImageFile, path: Path, keep_depth: bool) -> None:
    if opened.mode not in MODE_OF_SOURCE:
        raise InpaintError(
            f"cannot read {path}: expected grey or RGB pixels, its mode is {opened.mode}; convert it to RGB first"
        )
    # Pillow opens 16-bit colour as 8-bit without a word; only the raw mode of the tiles shows it.
    reduced = not opened.mode.startswith("I;16") and any(";16" in str(tile[3]) for tile in opened.tile)
    transparent_grey = opened.mode.startswith("I;16") and "transparency" in opened.info
    if keep_depth and (reduced or transparent_grey):
        raise InpaintError(
            f"cannot read {path}: 16 bits per channel are kept only for grey without transparency, and this is colour "
            "or transparent; convert it to 8 bits per channel first"
        )


def _damaged(path: Path, error: Exception) -> InpaintError:
    detail = " ".join(str(error).split()) or type(error).__name__
    return InpaintError(f"cannot read {path}: the image is truncated or damaged ({detail}); get a whole copy of it")


def _exif_bytes(opened: ImageFile.ImageFile) -> bytes | None:
    """EXIF without orientation, thumbnail and tags about the storage of the old pixels."""
    exif = opened.getexif()
    for tag in STORAGE_TAGS & set(exif):
        del exif[tag]
    resolution = {ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit}
    return exif.tobytes() if set(exif) - resolution else None


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


def _format_of(path: Path) -> str:
    file_format = FORMAT_OF_EXTENSION.get(path.suffix.lower())
    if file_format is None:
        raise InpaintError(
            f"cannot write {path}: expected a name ending in {', '.join(FORMAT_OF_EXTENSION)}, got "
            f"{path.suffix or 'no extension'}"
        )
    return file_format


def _write(path: Path, image: Image.Image, metadata: Photo) -> None:
    target = path.resolve()  # a link keeps pointing to the file it points to
    temporary = _temporary_name(target.parent)
    try:
        try:
            with open(temporary, "xb") as stream:
                _encode(image, _format_of(path), metadata, stream)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InpaintError(f"cannot write {path}: {_reason(error)}; nothing was written") from error


def _encode(image: Image.Image, file_format: str, metadata: Photo, stream: BinaryIO) -> None:
    options: dict[str, Any] = {"exif": metadata.exif, "icc_profile": metadata.icc_profile, "dpi": metadata.dpi}
    if file_format == "JPEG":
        options |= {"quality": 95, "subsampling": 0, "xmp": metadata.xmp}
    elif file_format == "WEBP":
        options |= {"lossless": True, "exact": True, "xmp": metadata.xmp}
    elif file_format == "TIFF":
        tags = Image.Exif()
        tags.load(metadata.exif or b"")
        if metadata.xmp is not None:
            tags[XMP_TAG] = metadata.xmp
        # libtiff, which compresses, cannot write EXIF's nested directories; Pillow's own writer can.
        options |= {"exif": tags} if tags else {"compression": "tiff_adobe_deflate"}
    elif metadata.xmp is not None:
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = text
    image.save(stream, file_format, **{name: value for name, value in options.items() if value is not None})


def _temporary_name(folder: Path) -> Path:
    return folder / f".inpaint-{secrets.token_hex(8)}.tmp"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()

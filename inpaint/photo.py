"""Pictures in and out of memory with nothing lost.

Outside the hole the saved file holds the very samples that were read: grey or RGB, with or without alpha, of 8, 16 or
more bits or floating. PNG, WebP, TIFF, JPEG 2000, BMP and GIF are written without loss. A JPEG that comes from a JPEG
keeps the DCT coefficients of all blocks that no hole touches. Metadata travels along (``inpaint.writing``), except
what would contradict the new pixels: the EXIF orientation, where the file's pixels are turned upright, and thumbnails
and gain maps, which show the unfilled picture.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from inpaint.codec import as_image, decode, name_of, reason, with_channels
from inpaint.errors import InpaintError
from inpaint.losses import losses
from inpaint.origin import Origin
from inpaint.writing import GIF_COLOURS, encode

MAX_MEGAPIXELS = 100.0
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601

FORMAT_OF_EXTENSION = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
    ".jp2": "JPEG2000",
    ".heic": "HEIF",
    ".bmp": "BMP",
    ".gif": "GIF",
}
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "GIF": 65535, "AVIF": 65535, "HEIF": 16384}

SAMPLE_TYPES = ("uint8", "uint16", "float16", "float32", "float64")
_FORMATS_OF_TYPE = {"uint8": tuple(FORMAT_OF_EXTENSION.values()), "uint16": ("PNG", "TIFF")}  # floats: TIFF alone


class Patch(NamedTuple):
    """New colours for a part of a picture: (3, h, w) float in [0, 1], for its hole: (h, w) bool, True = replace."""

    rows: slice
    columns: slice
    colours: Tensor
    hole: np.ndarray


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture in memory, upright: its samples as they came, and what its file said about it.

    ``samples`` is (H, W, C): C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; uint8, uint16, or a floating type in [0, 1].
    ``iptc`` are IPTC's records, ``comment`` is the file's. ``origin`` is the file, where it was one. ``notes`` are
    remarks for the user about how it was read.
    """

    samples: np.ndarray
    icc_profile: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    iptc: bytes | None = None
    comment: bytes | None = None
    origin: Origin | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, as displayed."""
        return self.samples.shape[0], self.samples.shape[1]

    @property
    def has_alpha(self) -> bool:
        return self.samples.shape[2] in (2, 4)

    @property
    def is_grey(self) -> bool:
        return self.samples.shape[2] < 3

    @property
    def white(self) -> float:
        """The sample of white, and of opaque alpha: 255, 65535 or 1.0."""
        return 1.0 if self.samples.dtype.kind == "f" else np.iinfo(self.samples.dtype).max

    def colours(self, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """RGB of a part as float32 (3, h, w) in [0, 1]; grey is repeated, alpha left out. Costs what the part costs."""
        part = np.moveaxis(self.samples[rows, columns, : self._colour_channels], 2, 0)
        with np.errstate(over="ignore"):  # what lies in the hole may be any number
            colours = torch.from_numpy(np.array(part, np.float32, order="C")).div_(self.white)
        return colours.expand(3, -1, -1).contiguous()

    def filled(self, patches: Iterable[Patch]) -> Photo:
        """A copy with the hole pixels of each patch replaced; grey takes the luminance of the new colours.

        All other samples, and all of the alpha channel, are copied bit for bit.

        Raises:
            ValueError: the shapes of a patch disagree, or it has colours in its hole that are not numbers.
        """
        samples = np.copy(self.samples)
        for rows, columns, colours, hole in patches:
            part = samples[rows, columns, : self._colour_channels]
            if part.shape[:2] != hole.shape or tuple(colours.shape) != (3, *hole.shape):
                raise ValueError(
                    f"expected colours of shape {(3, *part.shape[:2])} and a hole of shape {part.shape[:2]}, "
                    f"got {tuple(colours.shape)} and {hole.shape}"
                )
            new = colours.detach().cpu()[:, torch.from_numpy(hole)].T
            if self.is_grey:
                new = new.double() @ new.new_tensor(LUMINANCE, dtype=torch.float64)[:, None]
            part[hole] = _quantise(new, samples.dtype)
        return replace(self, samples=samples)

    def check_known(self, hole: np.ndarray) -> None:
        """Raise InpaintError unless all colours outside ``hole``, (H, W) bool, lie in [0, 1]."""
        if self.samples.dtype.kind != "f":
            return
        colours = self.samples[..., : self._colour_channels]
        known = (colours[rows][~hole[rows]] for rows in row_strips(self.size))  # one strip in memory at a time
        ends = np.array([(part.min(), part.max()) for part in known if part.size])
        if len(ends):
            refuse_beyond_white(float(ends.min()), float(ends.max()))

    @property
    def _colour_channels(self) -> int:
        return 1 if self.is_grey else 3


def read(source: Any, *, max_megapixels: float = MAX_MEGAPIXELS, page: int = 1) -> Photo:
    """Read a picture and turn it upright.

    Args:
        source: path, bytes, binary stream or PIL image: grey, RGB, palette or 1-bit, with or without transparency; PNG
            of 16 bits; TIFF of integers up to 32 bits or floats. Palette images become RGB or RGBA, because the colours
            painted into the hole need not be in the palette; 1-bit images become grey. TIFF of types other than uint8
            and uint16 becomes floating in [0, 1]. Of an animated file the first frame is read. ``Photo.notes`` says
            what is not kept. Or a numpy array (H, W) or (H, W, C), whose samples are not copied: uint8, uint16, or
            floating in [0, 1].
        max_megapixels: the limit for files, bytes and streams, checked before any pixel is decoded.
        page: of a TIFF, counted from 1.

    Raises:
        InpaintError: the file is missing, not an image, damaged, or larger than ``max_megapixels``; it has no such
            page; or the pixels have a form in which the known ones could not be kept exactly (CMYK).
    """
    name = name_of(source, "the picture")
    if not isinstance(source, np.ndarray):
        samples, facts = decode(source, name, max_megapixels, page=page)
        return Photo(samples, **facts)
    if source.dtype.name not in SAMPLE_TYPES:
        raise InpaintError(
            f"{name}: expected an array of {', '.join(SAMPLE_TYPES)}, got {source.dtype}; convert it, for instance "
            "with array.astype(np.uint8)"
        )
    return Photo(with_channels(source, name))


@overload
def as_given(photo: Photo, like: np.ndarray) -> np.ndarray: ...
@overload
def as_given(photo: Photo, like: Any) -> Image.Image: ...
def as_given(photo: Photo, like: Any) -> np.ndarray | Image.Image:
    """A picture in the form of ``like``, which it was read from: a numpy array of the same shape, else a PIL image.

    The PIL image is upright, without an orientation tag; its ``info`` holds profile, EXIF, XMP and resolution.
    """
    check_form(photo, like)
    if isinstance(like, np.ndarray):
        return photo.samples.reshape(like.shape)
    image = as_image(photo.samples)
    facts = {"icc_profile": photo.icc_profile, "exif": photo.exif, "xmp": photo.xmp, "dpi": photo.dpi}
    image.info = {name: value for name, value in facts.items() if value is not None}
    return image


def check_form(photo: Photo, like: Any) -> None:
    """Raise InpaintError, before any work, where :func:`as_given` can give no picture in the form of ``like``."""
    depth, channels = photo.samples.dtype.name, photo.samples.shape[2]
    if not isinstance(like, np.ndarray) and depth != "uint8" and (depth, channels) != ("uint16", 1):
        raise InpaintError(
            f"{name_of(like, 'the picture')}: PIL has no images of {channels} channels of {depth}; use "
            "inpaint.work.prepare, Inpainter.fill and inpaint.photo.save instead"
        )


def to_pil(tensor: Tensor) -> Image.Image:
    """A float tensor (3, H, W) in [0, 1] as an 8-bit RGB image; values outside the range are clipped.

    Raises:
        ValueError: the shape is not (3, H, W) or a value is not a number.
    """
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"expected a tensor of shape (3, H, W), got {tuple(tensor.shape)}")
    return Image.fromarray(_quantise(tensor.detach().cpu().permute(1, 2, 0), np.dtype(np.uint8)))


def refuse_beyond_white(least: float, most: float) -> None:
    """Raise InpaintError unless the least and the largest of the known colours lie in [0, 1]."""
    if np.isnan(least) or np.isnan(most):
        raise InpaintError("image: expected numbers outside the hole, got NaN; let the hole cover these pixels")
    if least < 0 or most > 1:
        raise InpaintError(
            f"image: expected known pixels in [0, 1], got values from {least:.3g} to {most:.3g}; "
            "divide 8-bit values by 255"
        )


def row_strips(size: tuple[int, int]) -> Iterator[slice]:
    """Slices of rows that cover a picture of (height, width), of about 2**18 pixels each."""
    height = max(1, 2**18 // size[1])
    return (slice(top, top + height) for top in range(0, size[0], height))


def check_output(
    target: str | Path | BinaryIO, photo: Photo | None = None, *, file_format: str | None = None
) -> tuple[str, ...]:
    """Find out, before any work, whether :func:`save` can write ``photo`` (or any RGB picture) to ``target``.

    Returns:
        Notes for the user on what the format changes or leaves out.

    Raises:
        InpaintError: the extension or format is not one that can be written or cannot hold this photograph; the folder
            is missing or does not let files be written; ``target`` is a folder or write-protected.
    """
    file_format = _format_of(target, file_format)
    _check_target(target)
    if photo is None:
        return ()
    _check_format(photo, file_format, target)
    if file_format == "GIF" and _has_many_colours(photo):
        raise InpaintError(
            f"cannot write {name_of(target, 'the picture')}: GIF holds {GIF_COLOURS} colours and the photograph has "
            "more; use .png"
        )
    return losses(photo, file_format)


def _check_target(target: str | Path | BinaryIO) -> None:
    if isinstance(target, str | Path):
        path = Path(target)
        if path.is_dir():
            raise InpaintError(f"cannot write {path}: it is a folder; give the name of a file in it")
        if path.exists() and not os.access(path, os.W_OK):
            raise InpaintError(f"cannot write {path}: the file is write-protected; choose another name")
        check_folder(path.resolve().parent)


def _check_format(photo: Photo, file_format: str, target: str | Path | BinaryIO) -> None:
    cannot = f"cannot write {name_of(target, 'the picture')}"
    depth = photo.samples.dtype.name
    formats = _FORMATS_OF_TYPE.get(depth, ("TIFF",))
    if file_format not in formats:
        remedy = "use .tif" if formats == ("TIFF",) else "use .png or .tif"
        raise InpaintError(f"{cannot}: {file_format} has no samples of {depth}, as the photograph has; {remedy}")
    if file_format in ("JPEG", "BMP") and photo.has_alpha and (photo.samples[..., -1] != photo.white).any():
        raise InpaintError(f"{cannot}: {file_format} has no alpha channel and the photograph has; use .png")
    longest = max(photo.size)
    if longest > LONGEST_SIDE.get(file_format, longest):
        raise InpaintError(
            f"{cannot}: {file_format} allows {LONGEST_SIDE[file_format]} pixels a side, the photograph has "
            f"{longest}; use .png"
        )
    try:
        encode(replace(photo, samples=photo.samples[:1, :1], origin=None), file_format)
    except InpaintError:
        raise
    except Exception as error:  # Pillow's writers raise errors of many types on metadata that does not fit the format
        raise InpaintError(
            f"{cannot}: {file_format} cannot hold the photograph's metadata ({error}); use .png"
        ) from error


def _has_many_colours(photo: Photo) -> bool:
    colours = photo.samples[..., : photo._colour_channels].reshape(-1, photo._colour_channels)
    return len(np.unique(colours, axis=0)) > GIF_COLOURS


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
        raise InpaintError(f"cannot write to {folder}: {reason(error)}; choose another folder") from error


def save(target: str | Path | BinaryIO, photo: Photo, *, file_format: str | None = None) -> None:
    """Write a picture; a file appears whole or not at all.

    Args:
        target: path, or binary stream, which need not be seekable.
        file_format: a value of FORMAT_OF_EXTENSION. By default what the extension says, and PNG for a stream.

    Raises:
        InpaintError: as for :func:`check_output`, or the disk is full.
    """
    file_format = _format_of(target, file_format)
    _check_target(target)
    _check_format(photo, file_format, target)
    content = encode(photo, file_format)
    left = "nothing was written" if isinstance(target, str | Path) else "it does not hold the whole picture"
    try:
        if isinstance(target, str | Path):
            write_file(target, content)
        else:
            target.write(content)
            target.flush()  # what is in a buffer is not written yet
    except BrokenPipeError:
        raise  # nobody reads it
    except OSError as error:
        raise InpaintError(f"cannot write {name_of(target, 'the picture')}: {reason(error)}; {left}") from error


def write_file(path: str | Path, content: bytes, *, temporary: str = "") -> None:
    """Write a file, which appears whole or not at all. A file that it replaces gives it its mode and owner.

    temporary: part of the name that the file has until it is complete, ``.inpaint-...tmp`` in the same folder.

    Raises:
        OSError: it cannot be written, or the disk is full; nothing is left of it then.
    """
    final = Path(path).resolve()  # a link keeps pointing to the file it points to
    unfinished = _temporary_name(final.parent, temporary)
    try:
        with open(unfinished, "xb") as stream:
            stream.write(content)
        _keep_owner_and_mode(final, unfinished)
        os.replace(unfinished, final)
    finally:
        unfinished.unlink(missing_ok=True)


def save_picture(path: str | Path, picture: Image.Image) -> None:
    """Write the pixels of a PIL image without metadata; the format follows the extension of ``path``."""
    save(path, Photo(read(picture).samples))


def _quantise(values: Tensor, dtype: np.dtype) -> np.ndarray:
    """Values in [0, 1] as samples; values outside the range are clipped."""
    if not torch.isfinite(values).all():
        raise ValueError("expected finite colours, got values that are not numbers")
    values = values.double().clamp(0, 1)
    return (values if dtype.kind == "f" else (values * np.iinfo(dtype).max).round()).numpy().astype(dtype)


def _format_of(target: str | Path | BinaryIO, file_format: str | None) -> str:
    formats = sorted(set(FORMAT_OF_EXTENSION.values()))
    if file_format is not None:
        if file_format.upper() not in formats:
            raise InpaintError(f"file format: expected {', '.join(formats)}, got {file_format}; choose one of these")
        return file_format.upper()
    if not isinstance(target, str | Path):
        return "PNG"
    extension = Path(target).suffix
    if extension.lower() not in FORMAT_OF_EXTENSION:
        raise InpaintError(
            f"cannot write {target}: expected a name ending in {', '.join(FORMAT_OF_EXTENSION)}, got "
            f"{extension or 'no extension'}"
        )
    return FORMAT_OF_EXTENSION[extension.lower()]


def _temporary_name(folder: Path, part: str = "") -> Path:
    return folder / f".inpaint-{part}{secrets.token_hex(8)}.tmp"


def _keep_owner_and_mode(existing: Path, new: Path) -> None:
    if existing.exists():
        state = existing.stat()
        with suppress(AttributeError, OSError):  # Windows has no such owners; only some may give files away
            os.chown(new, state.st_uid, state.st_gid)
        os.chmod(new, stat.S_IMODE(state.st_mode))

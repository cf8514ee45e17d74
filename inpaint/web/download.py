"""The file that a visitor gets: the filled photograph in a format, with a name."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING

from inpaint.photo import FORMAT_OF_EXTENSION, check_output
from inpaint.writing import encode

if TYPE_CHECKING:
    from inpaint.photo import Photo

MEDIA_TYPES = {  # of each format that can be written, as IANA lists them
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "AVIF": "image/avif",
    "JPEG2000": "image/jp2",
    "HEIF": "image/heic",
    "BMP": "image/bmp",
    "GIF": "image/gif",
}
_EXTENSIONS = {file_format: extension for extension, file_format in reversed(FORMAT_OF_EXTENSION.items())}


@dataclass(frozen=True)
class Download:
    """A whole file. notes: remarks for the visitor, about the photograph, its hole and the format."""

    name: str
    media_type: str
    content: bytes = field(repr=False)
    notes: tuple[str, ...] = ()


def own_format(photo: Photo, name: str) -> str:
    """The format of the photograph's file; where that cannot be told, what the file's name says, else PNG."""
    if photo.origin is not None and photo.origin.file_format in MEDIA_TYPES:
        return photo.origin.file_format
    return FORMAT_OF_EXTENSION.get(PurePath(name).suffix.lower(), "PNG")


def check_format(photo: Photo, file_format: str) -> tuple[str, ...]:
    """Notes on what the format changes. InpaintError, before any work, where it cannot hold the photograph."""
    return check_output(io.BytesIO(), photo, file_format=file_format)


def written(photo: Photo, name: str, file_format: str, notes: tuple[str, ...] = ()) -> Download:
    """The file of a filled photograph whose own file has that name; the format is checked by ``check_format``."""
    path = PurePath(name)
    is_kept = FORMAT_OF_EXTENSION.get(path.suffix.lower()) == file_format
    extension = path.suffix if is_kept else _EXTENSIONS[file_format]
    return Download(f"{path.stem}_filled{extension}", MEDIA_TYPES[file_format], encode(photo, file_format), notes)

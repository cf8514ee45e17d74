"""What a format does not keep of a picture: notes for the user, before any work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inpaint import jpeg, png, tiff

if TYPE_CHECKING:
    from inpaint.photo import Photo

_WITH_METADATA = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000")
# Each field of a photograph: what it is called, and the formats that hold it.
_HOLDERS = {
    "icc_profile": ("colour profile", _WITH_METADATA),
    "exif": ("EXIF", _WITH_METADATA),
    "xmp": ("XMP", _WITH_METADATA),
    "iptc": ("IPTC", ("JPEG", "TIFF")),
    "comment": ("comment", ("PNG", "JPEG", "GIF", "JPEG2000")),
}


def losses(photo: Photo, file_format: str) -> tuple[str, ...]:
    """Notes on what a file of this format changes of a picture, or leaves out."""
    notes = [*_of_pixels(photo, file_format)]
    lost = [
        name
        for field, (name, formats) in _HOLDERS.items()
        if getattr(photo, field) is not None and file_format not in formats
    ]
    if photo.origin is not None and photo.origin.file_format == "PNG" and file_format != "PNG":
        chunks = png.chunks_of(photo.origin.content)
        lost += sorted({chunk.name.decode() for chunk in png.colour_chunks(chunks)} - {"iCCP", "sRGB"})
        lost += ["text"] if png.text_chunks(chunks) else []
    if lost:
        notes.append(f"{file_format} does not take over: {', '.join(lost)}")
    return tuple(notes)


def _of_pixels(photo: Photo, file_format: str) -> list[str]:
    origin = photo.origin
    if origin is None or origin.file_format != file_format:
        if file_format in ("JPEG", "AVIF", "HEIF"):
            return [f"{file_format} encodes the whole picture, so that known pixels change slightly; .png keeps them"]
        return []
    if file_format in ("AVIF", "HEIF"):
        return [f"{file_format} encodes the whole picture again, so that known pixels change slightly; .png keeps them"]
    if file_format == "JPEG" and (obstacle := jpeg.obstacle(origin.content)):
        return [
            f"{obstacle}, so the whole JPEG is encoded again with its own tables, and known pixels change slightly; "
            ".png keeps them"
        ]
    if file_format == "JPEG" and jpeg.is_progressive(origin.content):
        return ["the progressive JPEG becomes a sequential one, with the same pixels"]
    if file_format == "TIFF" and (obstacle := tiff.obstacle(origin.content, origin.page)):
        return [f"{obstacle}, so the TIFF is written anew: other pages, bands and private tags are left out"]
    return []

"""What a picture's file says about it, apart from its pixels. Damage costs a note, never the picture."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from PIL import ExifTags, Image

from inpaint import exif, jpeg, jpeg2000, png
from inpaint.origin import Origin

IPTC_RESOURCE = 1028  # the number of IPTC's records among Photoshop's image resources
DAMAGED = "its metadata is damaged and was left out"
# Tags that describe how a TIFF file stored its pixels, and metadata that is read by itself; wrong in any other file.
_STORAGE_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325, 338, 339, 347}
    | {512, 513, 514, 529, 530, 531, 532, 700, 33723, 34377, 34675}
)
_RESOLUTION_TAGS = {ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit}


def facts_of(image: Image.Image, content: bytes = b"") -> dict[str, Any]:
    """Fields of a ``Photo`` for a loaded image and the file that it comes from, if that is known.

    They describe the picture turned upright, which ``origin.orientation`` does.
    """
    notes = []
    info = image.info | (jpeg2000.facts_of(content) if content.startswith(jpeg2000.SIGNATURE) else {})
    xmp = _as_bytes(info.get("xmp"))
    block = info.get("exif") if content else None
    orientation = _orientation_of(image, block)
    try:
        camera = exif.cleaned(block) if block else exif_of_tags(image)
    except Exception:  # Pillow raises errors of many types on tags whose values do not fit
        camera = None
        notes.append("its EXIF is damaged and was left out")
    notes += turned_note(orientation)
    facts: dict[str, Any] = {
        "icc_profile": info.get("icc_profile") or None,
        "exif": camera,
        "xmp": xmp and re.sub(rb"(tiff:Orientation\s*(?:=\s*[\"']|>))[2-8]", rb"\g<1>1", xmp),
        "dpi": resolution_of(info.get("dpi"), turned=orientation > 4),
        "comment": _as_bytes(info.get("comment")),
        "origin": Origin(_format_of(image), content, orientation),
    }
    if content.startswith(b"\xff\xd8"):
        notes += _add_of_jpeg(facts, content)
    return facts | {"notes": tuple(notes)}


def turned_note(orientation: int) -> list[str]:
    """What is said about a picture that was stored otherwise than it is displayed."""
    if orientation == 1:
        return []
    return [f"turned upright (EXIF {orientation}); a mask has to be upright as well"]


def exif_block(content: bytes, file_format: str) -> bytes:
    """The EXIF of a JPEG or PNG file as it is; empty where there is none."""
    if file_format == "JPEG":
        blocks = [each.payload for each in jpeg.parts_of(content).segments if each.payload.startswith(exif.PREFIX)]
    else:
        blocks = [chunk.data for chunk in png.chunks_of(content) if chunk.name == b"eXIf"]
    return blocks[0] if blocks else b""


def exif_of_tags(image: Image.Image) -> bytes | None:
    """EXIF without orientation and tags about the storage of the old pixels; None where only resolution is left."""
    tags = image.getexif()
    storage = {tag: tags.pop(tag) for tag in _STORAGE_TAGS & set(tags)}
    is_big, tags.bigtiff = tags.bigtiff, False  # EXIF has the form of a TIFF, never of a BigTIFF
    try:
        return tags.tobytes() if set(tags) - _RESOLUTION_TAGS else None
    finally:
        tags.bigtiff = is_big
        tags.update(storage)  # the image may be the caller's


def resolution_of(dpi: Any, *, turned: bool = False) -> tuple[float, float] | None:
    """Pixels per inch, horizontally and vertically."""
    try:
        horizontal, vertical = (float(value) for value in dpi)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    if not (0 < horizontal < 1e6 and 0 < vertical < 1e6):
        return None
    return (vertical, horizontal) if turned else (horizontal, vertical)


def _add_of_jpeg(facts: dict[str, Any], content: bytes) -> list[str]:
    """Adds what Pillow does not read of a JPEG file, and removes what describes thumbnails and further pictures."""
    parts = jpeg.parts_of(content)
    facts["comment"] = jpeg.comment_of(parts.segments)
    facts["iptc"] = jpeg.photoshop_resources(jpeg.photoshop_blocks(parts.segments)).get(IPTC_RESOURCE)
    xmp = facts["xmp"] or b""
    facts["xmp"] = jpeg.without_gain_map(xmp) or None
    notes = []
    if b"hdrgm:" in xmp or any(segment.payload.startswith(b"urn:iso:std:iso:ts:21496") for segment in parts.segments):
        notes.append("its gain map (Ultra HDR) shows the unfilled picture and was left out")
    elif any(map(jpeg.is_for_other_pictures, parts.segments)):
        notes.append("further pictures in the file were left out")
    if any(map(jpeg.is_long_xmp, parts.segments)):
        notes.append("XMP beyond 64 KiB, which holds further pictures, was left out")
    return notes


def _orientation_of(image: Image.Image, block: bytes | None) -> int:
    orientation = exif.orientation_of(block or b"")
    if orientation == 1:
        with contextlib.suppress(Exception):  # as above
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)  # also that of XMP
    return orientation if orientation in range(1, 9) else 1


def _format_of(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format or ""


def _as_bytes(block: bytes | str | None) -> bytes | None:
    return (block.encode() if isinstance(block, str) else block) or None

"""JP2 files as sequences of boxes, with the metadata that Pillow neither reads nor writes (ITU-T T.800, annex I)."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from inpaint import exif

SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
_EXIF = b"JpgTiffExif->JP2"
_XMP = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_BY_PROFILE = b"\2\0\0"  # of a colour specification: method, precedence, approximation


class Box(NamedTuple):
    kind: bytes
    data: bytes


def boxes_of(content: bytes) -> list[Box]:
    """The boxes of a file, or in a box; a damaged one ends the list."""
    boxes, place = [], 0
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        head = 8
        if length == 1 and place + 16 <= len(content):
            (length,), head = struct.unpack_from(">Q", content, place + 8), 16
        length = length or len(content) - place
        if length < head:
            break
        boxes.append(Box(kind, content[place + head : place + length]))
        place += length
    return boxes


def joined(boxes: list[Box]) -> bytes:
    return b"".join(struct.pack(">I4s", 8 + len(data), kind) + data for kind, data in boxes)


def facts_of(content: bytes) -> dict[str, Any]:
    """Fields of a ``Photo``: profile, EXIF (not cleaned) and XMP."""
    facts: dict[str, Any] = {}
    for kind, data in boxes_of(content):
        if kind == b"jp2h":
            colours = [each.data for each in boxes_of(data) if each.kind == b"colr" and each.data[:1] == b"\2"]
            facts |= {"icc_profile": colours[0][3:]} if colours else {}
        elif kind == b"uuid" and data.startswith(_EXIF):
            facts["exif"] = exif.PREFIX + data[16:].removeprefix(exif.PREFIX)
        elif kind == b"uuid" and data.startswith(_XMP):
            facts["xmp"] = data[16:]
    return facts


def with_facts(content: bytes, icc_profile: bytes | None, camera: bytes | None, xmp: bytes | None) -> bytes:
    """A JP2 file with a colour profile, EXIF and XMP."""
    boxes = []
    for box in boxes_of(content):
        if box.kind == b"jp2h" and icc_profile:
            inner = [each for each in boxes_of(box.data) if each.kind != b"colr"]
            box = Box(b"jp2h", joined([*inner, Box(b"colr", _BY_PROFILE + icc_profile)]))
        boxes.append(box)
    if camera:
        boxes.append(Box(b"uuid", _EXIF + camera.removeprefix(exif.PREFIX)))
    if xmp:
        boxes.append(Box(b"uuid", _XMP + xmp))
    return joined(boxes)

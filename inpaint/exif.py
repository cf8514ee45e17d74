"""EXIF blocks, changed in place: makers' notes hold offsets that a rewritten block would break."""

from __future__ import annotations

import struct

PREFIX = b"Exif\0\0"
_ORIENTATION, _THUMBNAIL, _THUMBNAIL_LENGTH = 274, 513, 514
_RESOLUTION = {282, 283, 296, 531}  # what every JPEG of a camera has, without saying anything about the picture


def cleaned(block: bytes, *, keep_orientation: bool = False) -> bytes | None:
    """An EXIF block without the thumbnail, which shows the unfilled picture, and without the orientation.

    None where nothing but resolution is left, unless the orientation is kept.

    Raises:
        ValueError: the block is damaged.
    """
    block = block.removeprefix(PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        raise ValueError("it does not begin as a TIFF header")
    try:
        data = bytearray(block)
        (first,) = struct.unpack_from(order + "I", data, 4)
        entries, after = _entries(data, first, order)
        (second,) = struct.unpack_from(order + "I", data, after)
        if 0 < second < len(data):
            _remove_thumbnail(data, second, order)
        tags = [entry for entry in entries if keep_orientation or _tag(entry, order) != _ORIENTATION]
        removed = len(entries) - len(tags)
        struct.pack_into(order + "H", data, first, len(tags))
        data[first + 2 : after + 4] = b"".join(tags) + bytes(4 + 12 * removed)
    except struct.error as error:
        raise ValueError("it ends too early") from error
    says_something = keep_orientation or {_tag(entry, order) for entry in tags} - _RESOLUTION
    return PREFIX + bytes(data) if says_something else None


def orientation_of(block: bytes) -> int:
    """The orientation in an EXIF block, 1 where there is none or the block is damaged."""
    block = block.removeprefix(PREFIX)
    order = "<" if block[:2] == b"II" else ">"
    try:
        entries, _ = _entries(block, struct.unpack_from(order + "I", block, 4)[0], order)
        for entry in entries:
            tag, kind, count, value = struct.unpack(order + "HHIH2x", entry)
            if (tag, kind, count) == (_ORIENTATION, 3, 1) and 1 <= value <= 8:
                return value
    except struct.error:
        pass
    return 1


def _entries(data: bytes | bytearray, start: int, order: str) -> tuple[list[bytes], int]:
    """The entries of a directory, 12 bytes each, and where they end."""
    (count,) = struct.unpack_from(order + "H", data, start)
    after = start + 2 + 12 * count
    if after + 4 > len(data):
        raise struct.error("directory beyond the end")
    return [bytes(data[place : place + 12]) for place in range(start + 2, after, 12)], after


def _tag(entry: bytes, order: str) -> int:
    return struct.unpack_from(order + "H", entry)[0]


def _remove_thumbnail(data: bytearray, directory: int, order: str) -> None:
    entries, after = _entries(data, directory, order)
    values = {_tag(entry, order): struct.unpack(order + "I", entry[8:])[0] for entry in entries}
    start, length = values.get(_THUMBNAIL, 0), values.get(_THUMBNAIL_LENGTH, 0)
    stop = min(start + length, len(data))
    data[directory:after] = bytes(after - directory)
    if 0 < start < stop:
        if stop == len(data):
            del data[start:]
        else:
            data[start:stop] = bytes(stop - start)

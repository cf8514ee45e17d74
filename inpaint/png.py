"""PNG files as sequences of chunks, and pixels of 16 bits in them (PNG specification, third edition)."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What a filled picture takes over from its file: colour, text, time, and other chunks that any editor may copy.
_COLOUR = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"mDCv", b"cLLI", b"cLLi")
_TEXT = (b"tEXt", b"zTXt", b"iTXt")
_FRAMES = (b"acTL", b"fcTL", b"fdAT")
XMP_KEYWORD = b"XML:com.adobe.xmp"
_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # of each colour type
_COLOUR_TYPE = {channels: colour_type for colour_type, channels in _CHANNELS.items()}
# First row and column, and steps, of the seven pictures of an interlaced one.
_ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
_ROWS_AT_ONCE = 64


class Chunk(NamedTuple):
    name: bytes
    data: bytes


def chunks_of(content: bytes) -> list[Chunk]:
    """The chunks of a PNG file; what is damaged or follows the end is left out.

    Raises:
        ValueError: it is none, or its header is damaged.
    """
    if content[:8] != SIGNATURE:
        raise ValueError("it does not begin as a PNG file")
    chunks = []
    place = 8
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        name, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        checksum = content[place + 8 + length : place + 12 + length]
        place += 12 + length
        if struct.pack(">I", zlib.crc32(name + data)) == checksum:
            chunks.append(Chunk(name, data))
        if name == b"IEND":
            break
    if not chunks or chunks[0].name != b"IHDR" or len(chunks[0].data) != 13:
        raise ValueError("its header is damaged")
    return chunks


def joined(chunks: list[Chunk]) -> bytes:
    return SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def bare(content: bytes) -> bytes:
    """The file with nothing but what its pixels need."""
    return joined([chunk for chunk in chunks_of(content) if chunk.name[:1].isupper() or chunk.name == b"tRNS"])


def colour_chunks(chunks: list[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk.name in _COLOUR]


def text_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """Text, without XMP and without the EXIF that some programs write as text."""
    return [
        chunk
        for chunk in chunks
        if chunk.name in _TEXT and not chunk.data.startswith((XMP_KEYWORD, b"Raw profile type"))
    ]


def kept_chunks(chunks: list[Chunk], *, turned: bool) -> list[Chunk]:
    """What a picture with other pixels takes over: all that may be copied, but profile, EXIF, XMP and transparency.

    ``turned``: the pixels were turned by 90 degrees, and with them the two resolutions.
    """
    kept = []
    for chunk in chunks:
        name, data = chunk
        if name == b"pHYs" and turned and len(data) == 9:
            data = data[4:8] + data[:4] + data[8:]
        is_safe = name[3:4].islower() and name not in (*_TEXT, *_FRAMES, b"eXIf")
        is_colour = name in _COLOUR and name != b"iCCP"
        if name[:1].islower() and (is_safe or is_colour or name == b"tIME"):
            kept.append(Chunk(name, data))
    return kept + text_chunks(chunks)


def is_deep(content: bytes) -> bool:
    """Whether a PNG file has 16 bits per sample."""
    return content[:8] == SIGNATURE and content[12:16] == b"IHDR" and content[24:25] == b"\x10"


def decode_deep(content: bytes) -> np.ndarray:
    """The samples of a 16-bit PNG file: (H, W, C) uint16, with an alpha channel where a colour is transparent.

    Raises:
        ValueError, zlib.error: it is damaged.
    """
    chunks = chunks_of(content)
    width, height, depth, colour_type, compression, filtering, interlaced = struct.unpack(">IIBBBBB", chunks[0].data)
    if depth != 16 or colour_type not in _CHANNELS or compression or filtering or interlaced > 1 or not width * height:
        raise ValueError("its header is damaged")
    channels = _CHANNELS[colour_type]
    passes = [(row, column, *steps) for row, column, *steps in _ADAM7] if interlaced else [(0, 0, 1, 1)]
    sizes = [(len(range(row, height, down)), len(range(column, width, right))) for row, column, down, right in passes]
    lengths = [rows * (1 + 2 * channels * columns) if columns else 0 for rows, columns in sizes]
    inflated = zlib.decompressobj()
    data = inflated.decompress(b"".join(chunk.data for chunk in chunks if chunk.name == b"IDAT"), sum(lengths))
    if len(data) < sum(lengths):
        raise ValueError("its pixels end too early")
    samples = np.empty((height, width, channels), np.uint16)
    place = 0
    for (row, column, down, right), (rows, columns), length in zip(passes, sizes, lengths, strict=True):
        if length:
            lines = np.frombuffer(data, np.uint8, length, place).reshape(rows, -1)
            pixels = _unfiltered(lines[:, 0], lines[:, 1:].reshape(rows, columns, 2 * channels))
            samples[row::down, column::right] = pixels.view(">u2")
            place += length
    key = next((chunk.data for chunk in chunks if chunk.name == b"tRNS"), None)
    if key is None or channels not in (1, 3) or len(key) != 2 * channels:
        return samples
    opaque = (samples != np.frombuffer(key, ">u2")).any(axis=2, keepdims=True)
    return np.concatenate([samples, np.where(opaque, 65535, 0).astype(np.uint16)], axis=2)


def encode_deep(samples: np.ndarray) -> list[Chunk]:
    """(H, W, C) uint16 as chunks of a PNG file: header, pixels, end."""
    height, width, channels = samples.shape
    deflated = zlib.compressobj()
    data = []
    above = np.zeros((1, width, 2 * channels), np.uint8)
    for start in range(0, height, _ROWS_AT_ONCE):
        rows = np.ascontiguousarray(samples[start : start + _ROWS_AT_ONCE], ">u2").view(np.uint8)
        rows = rows.reshape(len(rows), width, 2 * channels)
        data.append(deflated.compress(_filtered(rows, np.concatenate([above, rows[:-1]])).tobytes()))
        above = rows[-1:]
    header = struct.pack(">IIBBBBB", width, height, 16, _COLOUR_TYPE[channels], 0, 0, 0)
    return [Chunk(b"IHDR", header), Chunk(b"IDAT", b"".join(data) + deflated.flush()), Chunk(b"IEND", b"")]


def _filtered(rows: np.ndarray, above: np.ndarray) -> np.ndarray:
    """(N, 1 + bytes): each row after its filter, the one with the smallest differences (section 12.7)."""
    left = np.pad(rows[:, :-1], ((0, 0), (1, 0), (0, 0)))
    corner = np.pad(above[:, :-1], ((0, 0), (1, 0), (0, 0)))
    wide = [each.astype(np.int16) for each in (left, above, corner)]
    predictions = [0, left, above, (wide[0] + wide[1]) >> 1, _paeth(*wide)]
    candidates = np.stack([rows - np.asarray(each).astype(np.uint8) for each in predictions])
    cost = np.abs(candidates.view(np.int8).astype(np.int16)).sum(axis=(2, 3), dtype=np.int64)
    best = cost.argmin(axis=0)
    lines = candidates[best, np.arange(len(rows))].reshape(len(rows), -1)
    return np.concatenate([best[:, None].astype(np.uint8), lines], axis=1)


def _unfiltered(filters: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """The inverse of the filters (section 9.2) of (H, W, bytes of a pixel) uint8.

    A pixel needs its neighbours to the left and above. All pixels of a diagonal, from the lower left to the upper
    right, are independent of each other, and are computed at once.
    """
    if filters.size and filters.max() > 4:
        raise ValueError("a row has an unknown filter")
    height, width, size = pixels.shape
    padded = np.zeros((height + 1, width + 1, size), np.uint8)
    padded[1:, 1:] = pixels
    flat = padded.reshape(-1, size)
    for diagonal in range(height + width - 1) if filters.any() else ():
        first, last = max(0, diagonal - width + 1), min(height - 1, diagonal)  # its rows
        start, count = (first + 1) * (width + 1) + diagonal - first + 1, last - first + 1
        place, kind = slice(start, start + (count - 1) * width + 1, width), filters[first : last + 1, None]
        left, above, corner = (
            flat[start - back : start - back + (count - 1) * width + 1 : width].astype(np.int16)
            for back in (1, width + 1, width + 2)
        )
        predictions = np.select(
            [kind == 0, kind == 1, kind == 2, kind == 3],
            [0, left, above, (left + above) >> 1],
            _paeth(left, above, corner),
        )
        flat[place] += predictions.astype(np.uint8)
    return np.ascontiguousarray(padded[1:, 1:])


def _paeth(left: np.ndarray, above: np.ndarray, corner: np.ndarray) -> np.ndarray:
    to_left, to_above = np.abs(above - corner), np.abs(left - corner)
    to_corner = np.abs(left + above - 2 * corner)
    other = np.where(to_above <= to_corner, above, corner)
    return np.where((to_left <= to_above) & (to_left <= to_corner), left, other)

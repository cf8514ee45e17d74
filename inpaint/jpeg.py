"""JPEG files as sequences of segments, and their blocks of DCT coefficients.

A filled picture is written by changing the coefficients of the file it came from: each block takes the transformed
difference of its pixels, which is zero, exactly, where no hole touches the block (ITU-T T.81).
"""

from __future__ import annotations

import importlib.util
import re
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inpaint import exif

START, END, SCAN = 0xD8, 0xD9, 0xDA
COMMENT, JFIF, EXIF_OR_XMP, PROFILE_OR_MPF, PHOTOSHOP, ADOBE = 0xFE, 0xE0, 0xE1, 0xE2, 0xED, 0xEE
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
_HUFFMAN_FRAMES, _ARITHMETIC_FRAMES = (0xC0, 0xC1, 0xC2), (0xC9, 0xCA)
_LIBRARY = "turbo210"  # of those in jpeglib: libjpeg-turbo 2.1, which knows arithmetic coding
_jpeglib_lock = threading.Lock()
_XMP, _LONG_XMP = b"http://ns.adobe.com/xap/1.0/\0", b"http://ns.adobe.com/xmp/extension/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_FOR_OTHER_PICTURES = (b"MPF\0", b"urn:iso:std:iso:ts:21496:-1\0")
THUMBNAILS = (1033, 1036)  # numbers of Photoshop's image resources
_BLOCKS_AT_ONCE = 4096


class Segment(NamedTuple):
    marker: int
    payload: bytes

    @property
    def is_application_data(self) -> bool:
        return 0xE0 <= self.marker <= 0xEF or self.marker == COMMENT


class Parts(NamedTuple):
    """A JPEG file: its segments up to the first scan, its scans to the end of the image, and what follows that."""

    segments: list[Segment]
    scans: bytes
    rest: bytes

    def joined(self) -> bytes:
        head = b"".join(
            struct.pack(">BBH", 0xFF, segment.marker, len(segment.payload) + 2) + segment.payload
            for segment in self.segments
        )
        return b"\xff\xd8" + head + self.scans


def parts_of(content: bytes) -> Parts:
    """Cuts a JPEG file.

    Raises:
        ValueError: it is none.
    """
    if content[:2] != b"\xff\xd8":
        raise ValueError("it does not begin as a JPEG file")
    segments, place = [], 2
    while True:
        marker, start, stop = _segment(content, place)
        if marker == SCAN:
            break
        segments.append(Segment(marker, content[start:stop]))
        place = stop
    end = _end_of_scans(content, place)
    return Parts(segments, content[place:end], content[end:])


def bare(content: bytes) -> bytes:
    """The file with nothing but what its pixels need, and the resolution."""
    parts = parts_of(content)
    segments = []
    for marker, payload in parts.segments:
        if marker == JFIF and payload.startswith(b"JFIF\0"):
            segments.append(Segment(marker, payload[:12] + bytes(2)))  # without its thumbnail
        elif marker == ADOBE or not Segment(marker, payload).is_application_data:
            segments.append(Segment(marker, payload))
    return parts._replace(segments=segments).joined()


def comment_of(segments: list[Segment]) -> bytes | None:
    return next((segment.payload for segment in segments if segment.marker == COMMENT), None)


def photoshop_blocks(segments: list[Segment]) -> bytes:
    """Photoshop's image resources in APP13."""
    return b"".join(
        segment.payload.removeprefix(_PHOTOSHOP)
        for segment in segments
        if segment.marker == PHOTOSHOP and segment.payload.startswith(_PHOTOSHOP)
    )


def photoshop_resources(blocks: bytes) -> dict[int, bytes]:
    """Photoshop's image resources by number; damaged ones are left out."""
    resources: dict[int, bytes] = {}
    place = 0
    while blocks[place : place + 4] == b"8BIM" and place + 12 <= len(blocks):
        number, name = struct.unpack_from(">HB", blocks, place + 4)
        place += 6 + (name + 2) // 2 * 2
        if place + 4 > len(blocks):
            break
        (length,) = struct.unpack_from(">I", blocks, place)
        resources[number] = blocks[place + 4 : place + 4 + length]
        place += 4 + (length + 1) // 2 * 2
    return resources


def photoshop_segment(resources: dict[int, bytes]) -> Segment:
    blocks = b"".join(
        struct.pack(">4sHxxI", b"8BIM", number, len(data)) + data + bytes(len(data) % 2)
        for number, data in resources.items()
    )
    return Segment(PHOTOSHOP, _PHOTOSHOP + blocks)


def is_for_other_pictures(segment: Segment) -> bool:
    """Whether it announces a picture that follows in the file: a gain map, a depth map, a second view."""
    return segment.marker == PROFILE_OR_MPF and segment.payload.startswith(_FOR_OTHER_PICTURES)


def is_long_xmp(segment: Segment) -> bool:
    """Whether it is a part of XMP beyond 64 KiB, which holds whole pictures: the unfilled one, or its depth map."""
    return segment.marker == EXIF_OR_XMP and segment.payload.startswith(_LONG_XMP)


def with_segments_of(coded: bytes, origin: bytes, *, has_profile: bool) -> bytes:
    """A JPEG file with the pixels of ``coded`` and all other data of ``origin``, its colour profile if that fits.

    Thumbnails, pictures that follow in the file, and their announcements are left out; so is damaged EXIF.
    """
    new = parts_of(coded)
    kept: list[Segment] = []
    for segment in parts_of(origin).segments:
        marker, payload = segment
        if not segment.is_application_data or marker in (JFIF, ADOBE):
            continue
        if is_for_other_pictures(segment) or is_long_xmp(segment):
            continue
        if marker == PROFILE_OR_MPF and payload.startswith(b"ICC_PROFILE\0") and not has_profile:
            continue
        if marker == EXIF_OR_XMP and payload.startswith(exif.PREFIX):
            payload = _cleaned_exif(payload)
        elif marker == EXIF_OR_XMP and payload.startswith(_XMP):
            payload = without_gain_map(payload)
        elif _has_thumbnail(segment):
            resources = photoshop_resources(photoshop_blocks([segment]))
            kept_resources = {key: each for key, each in resources.items() if key not in THUMBNAILS}
            payload = photoshop_segment(kept_resources).payload
        if payload:
            kept.append(Segment(marker, payload))
    first = [segment for segment in new.segments if segment.marker in (JFIF, ADOBE)]
    pixels = [segment for segment in new.segments if not segment.is_application_data]
    return new._replace(segments=[*first, *kept, *pixels]).joined()


def _cleaned_exif(payload: bytes) -> bytes:
    try:
        return exif.cleaned(payload, keep_orientation=True) or b""
    except ValueError:
        return b""


def _has_thumbnail(segment: Segment) -> bool:
    return any(number in photoshop_resources(photoshop_blocks([segment])) for number in THUMBNAILS)


def without_gain_map(xmp: bytes) -> bytes:
    """XMP without the announcement of a gain map, of pictures that follow, and of long XMP."""
    xmp = re.sub(rb"<(Container|GContainer):Directory\b.*?</\1:Directory>", b"", xmp, flags=re.DOTALL)
    return re.sub(rb"\s(hdrgm:\w+|xmpNote:HasExtendedXMP)\s*=\s*(\"[^\"]*\"|'[^']*')", b"", xmp)


def with_difference(content: bytes, before: np.ndarray, after: np.ndarray) -> bytes:
    """A JPEG file whose pixels change from ``before`` to ``after``, both (H, W, 1 or 3) uint8 as stored.

    Blocks without a difference keep their coefficients. The result is sequential and has no metadata.

    Raises:
        ValueError: jpeglib cannot read or write the file.
    """
    import jpeglib

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        path.write_bytes(bare(content))
        coding = "+ARITH_CODE" if _frame_of(content).marker in _ARITHMETIC_FRAMES else "+OPTIMIZE_CODING"
        try:
            with _jpeglib_lock, jpeglib.version(_LIBRARY):  # the choice of a library is global
                image = jpeglib.read_dct(str(path))
                image.load()
                _add_difference(image, before, after)
                image.write_dct(str(path), flags=[coding])
        except (OSError, AssertionError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(str(error)) from error
        return path.read_bytes()


def obstacle(content: bytes) -> str | None:
    """Why the blocks of a JPEG file that no hole touches cannot be kept; None where they can."""
    if importlib.util.find_spec("jpeglib") is None:
        return "jpeglib is not installed (in a checkout: pip install '.[formats]')"
    frame = _frame_of(content)
    if len(frame.payload) < 6 or len(frame.payload) < 6 + 3 * frame.payload[5]:
        return "its header is damaged"
    if frame.marker not in _HUFFMAN_FRAMES + _ARITHMETIC_FRAMES:
        return "its coding is lossless or hierarchical"
    count = frame.payload[5]
    factors = np.array([divmod(frame.payload[7 + 3 * number], 16) for number in range(count)])
    if count not in (1, 3) or not factors.all() or (factors.max(axis=0) % factors).any():
        return "its sampling is unusual"
    return None


def is_kept(before: np.ndarray, after: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether pixels changed near wanted changes alone: in the same unit of coding, or next to it."""
    height, width = before.shape[:2]
    near = np.zeros((height + 2, width + 2), bool)
    for row, column in _touched(
        (before != wanted).any(axis=2), (-(-height // 32), -(-width // 32)), np.array([32, 32])
    ):
        near[32 * row : 32 * row + 34, 32 * column : 32 * column + 34] = True
    return after.shape == before.shape and not (after != before).any(axis=2)[~near[1:-1, 1:-1]].any()


def is_progressive(content: bytes) -> bool:
    return _frame_of(content).marker in (0xC2, 0xCA)


def _frame_of(content: bytes) -> Segment:
    """The segment that says how the picture is coded; an empty one where it is missing."""
    return next((each for each in parts_of(content).segments if each.marker in _FRAMES), Segment(0, b""))


def _add_difference(image: Any, before: np.ndarray, after: np.ndarray) -> None:
    space = str(image.jpeg_color_space).rpartition("_")[2]
    matrix = {"GRAYSCALE": np.eye(1), "YCbCr": _TO_YCBCR, "RGB": np.eye(3)}.get(space)
    if matrix is None or len(matrix) != before.shape[2]:
        raise ValueError(f"its colour space is {space}")
    factors = np.asarray(image.samp_factor).reshape(-1, 2)
    changed = (before != after).any(axis=2)
    for number, name in enumerate(("Y", "Cb", "Cr")[: before.shape[2]]):
        if (factors.max(axis=0) % factors[number]).any():
            raise ValueError("its sampling factors do not divide each other")
        step = factors.max(axis=0) // factors[number]  # pixels for each sample of the component
        coefficients = getattr(image, name)
        table = image.qt[image.quant_tbl_no[number]].astype(float)
        places = _touched(changed, coefficients.shape[:2], 8 * step)
        for start in range(0, len(places), _BLOCKS_AT_ONCE):
            some = places[start : start + _BLOCKS_AT_ONCE]
            rows, columns = (
                np.minimum(some[:, axis, None] * 8 * step[axis] + np.arange(8 * step[axis]), changed.shape[axis] - 1)
                for axis in (0, 1)
            )
            where = rows[:, :, None], columns[:, None, :]
            difference = (after[where].astype(float) - before[where]) @ matrix[number]
            blocks = difference.reshape(len(some), 8, step[0], 8, step[1]).mean(axis=(2, 4))
            added = np.rint(_DCT @ blocks @ _DCT.T / table)
            block_rows, block_columns = some.T
            new = coefficients[block_rows, block_columns] + added
            coefficients[block_rows, block_columns] = new.clip(-1023, 1023).astype(np.int16)
        setattr(image, name, coefficients)


def _touched(changed: np.ndarray, count: tuple[int, int], side: np.ndarray) -> np.ndarray:
    """(N, 2): rows and columns of the blocks with a changed pixel."""
    padded = np.zeros((count[0] * side[0], count[1] * side[1]), bool)
    padded[: changed.shape[0], : changed.shape[1]] = changed[: padded.shape[0], : padded.shape[1]]
    return np.argwhere(padded.reshape(count[0], side[0], count[1], side[1]).any(axis=(1, 3)))


_FREQUENCY, _PLACE = np.mgrid[:8, :8]
_DCT = np.cos(np.pi * _FREQUENCY * (2 * _PLACE + 1) / 16) / 2  # orthonormal
_DCT[0] /= np.sqrt(2)
_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])  # JFIF 1.02


def _segment(content: bytes, place: int) -> tuple[int, int, int]:
    """The marker at a place, and where its payload begins and ends."""
    while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] == b"\xff":
        place += 1  # fill bytes
    if len(content) < place + 4 or content[place] != 0xFF:
        raise ValueError("a segment does not begin with a marker")
    marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
    if length < 2 or marker in (0, START, END):
        raise ValueError("a segment is damaged")
    return marker, place + 4, place + 2 + length


def _end_of_scans(content: bytes, place: int) -> int:
    """Where the image ends whose first scan begins at a place: several scans with tables between them may follow."""
    try:
        while content[place : place + 2] != b"\xff\xd9":
            marker, _, place = _segment(content, place)
            if marker == SCAN:
                following = _MARKER_AFTER_SCAN.search(content, place)
                place = following.start() if following else len(content)
        return place + 2
    except ValueError:
        return len(content)


_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)  # neither data nor a restart
